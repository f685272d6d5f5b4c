//! Payloads against fixed JSON.

use infertrace_schemas::avro::{
    AvroRecord, Cause, Evidence, Insight, InsightState, Recommendation, Severity,
};
use serde_json::{Value, json};

use super::{alertmanager, idempotency_key, slack, webhook};

const T: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;
const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const SIGNED_WITH_PLAIN_KEY: &str = "v1,dkKO8yKktbK3/NsBVZDP2vD/4/yePEE+Zek/vsRRJ/E=";

fn insight() -> Insight {
    Insight {
        id: "latency-3f9c".into(),
        revision: 2,
        state: InsightState::Updated,
        kind: "latency".into(),
        severity: Severity::Page,
        tenant: "acme".into(),
        model: "llama-70b".into(),
        model_version: "1.4".into(),
        window_start_unix_nanos: T,
        window_end_unix_nanos: T + 10 * SECOND,
        opened_unix_nanos: T - 60 * SECOND,
        title: "p99 of llama-70b is 4x its normal <840 ms>".into(),
        detector: "latency_p99".into(),
        detector_version: "1".into(),
        evidence: vec![Evidence {
            metric: "latency_p99".into(),
            unit: "ms".into(),
            observed: 840.25,
            baseline: Some(210.0),
            samples: 1_203,
        }],
        causes: vec![Cause {
            cause: "queue".into(),
            share: 0.62,
            explanation: "waiting grew from 12 ms to 410 ms".into(),
        }],
        recommendation: Some(Recommendation {
            text: "Raise the batch timeout from 2 ms to 10 ms.".into(),
            expected_gain: "queue wait down by 300 ms".into(),
            confidence: 0.8,
        }),
        example_traces: vec!["5b8efff798038103d269b633813fc60c".into()],
        ..Insight::default()
    }
}

fn resolved() -> Insight {
    Insight {
        state: InsightState::Resolved,
        revision: 3,
        resolved_unix_nanos: Some(T + 20 * SECOND),
        ..insight()
    }
}

/// Scenario: an insight as a webhook's body. Guarantee: exactly the fields of the Avro schema, in its order, with its
/// symbols; a number that JSON lacks is null.
#[test]
fn the_webhook_has_the_names_of_the_schema() {
    let body = webhook::body(&insight()).expect("JSON");
    let text = String::from_utf8(body).expect("UTF-8");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let schema: Value = serde_json::from_str(Insight::schema().text).expect("JSON");
    let fields = schema["fields"].as_array().expect("fields");
    assert_eq!(value.as_object().map(serde_json::Map::len), Some(fields.len()));
    let places: Vec<_> = fields
        .iter()
        .map(|field| {
            text.find(&format!("{}:", field["name"])).unwrap_or_else(|| panic!("no {}", field["name"]))
        })
        .collect();
    assert!(places.first() < places.last());
    assert_eq!(value["state"], "UPDATED");
    assert_eq!(value["severity"], "PAGE");
    assert_eq!(value["opened_unix_nanos"], 1_699_999_940_000_000_000_i64);
    assert_eq!(value["evidence"][0]["observed"], 840.25);
    assert_eq!(value["recommendation"]["text"], "Raise the batch timeout from 2 ms to 10 ms.");
    let mut odd = insight();
    odd.evidence[0].observed = f64::NAN;
    let value: Value = serde_json::from_slice(&webhook::body(&odd).expect("JSON")).expect("JSON");
    assert_eq!(value["evidence"][0]["observed"], Value::Null);
}

/// Scenario: the message of the Standard Webhooks documentation, signed with its secret; the same key as plain text.
/// Guarantee: the signature that `openssl dgst -sha256 -hmac` gives; a broken secret is refused without showing it.
#[test]
fn signatures_are_those_of_standard_webhooks() {
    let (id, time, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    let signer = webhook::Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
    assert_eq!(signer.sign(id, time, body), SIGNED);
    let plain = webhook::Signer::new("key").expect("a secret");
    assert_eq!(plain.sign(id, time, body), SIGNED_WITH_PLAIN_KEY);
    let error = webhook::Signer::new("whsec_***").expect_err("no base64");
    assert!(!error.contains("***"), "{error}");
}

/// Scenario: ids with a space, a line end, a percent sign and umlauts. Guarantee: a key that a header can hold,
/// different for different ids and revisions.
#[test]
fn keys_fit_into_a_header() {
    assert_eq!(idempotency_key(&insight()), "latency-3f9c-2");
    let key = |id: &str| idempotency_key(&Insight { id: id.into(), revision: 1, ..Insight::default() });
    assert_eq!(key("a b\r\n%ü"), "a%20b%0D%0A%25%C3%BC-1");
}

/// Scenario: an insight that is open, one that is resolved, and one whose times lie ahead of the sender's clock.
/// Guarantee: the JSON of API v2; an open alert has no end; no time lies after now, no end before its start.
#[test]
fn alerts_have_the_form_of_api_v2() {
    let now = T + 30 * SECOND;
    let open = serde_json::to_value([alertmanager::alert(&insight(), now)]).expect("JSON");
    let expected = json!([{
        "labels": {
            "alertname": "InferTraceLatency", "severity": "page", "kind": "latency",
            "insight_id": "latency-3f9c", "model": "llama-70b", "model_version": "1.4", "tenant": "acme"
        },
        "annotations": {
            "summary": "p99 of llama-70b is 4x its normal <840 ms>",
            "description": "latency_p99: 840 ms, normally 210 ms (4x), 1203 samples\n\
                            queue, 62 % of the change: waiting grew from 12 ms to 410 ms",
            "recommendation": "Raise the batch timeout from 2 ms to 10 ms. Expected: queue wait down by 300 ms. \
                               Confidence: 80 %.",
            "example_traces": "5b8efff798038103d269b633813fc60c"
        },
        "startsAt": "2023-11-14T22:12:20.000Z"
    }]);
    assert_eq!(open, expected);
    let over = alertmanager::alert(&resolved(), now);
    assert_eq!(over.ends_at.as_deref(), Some("2023-11-14T22:13:40.000Z"));
    assert_eq!(over.labels, alertmanager::alert(&insight(), now).labels);
    let early = alertmanager::alert(&resolved(), T - 120 * SECOND);
    assert_eq!(early.starts_at, "2023-11-14T22:11:20.000Z");
    assert_eq!(early.ends_at.as_deref(), Some("2023-11-14T22:11:20.000Z"));
    assert_eq!(alertmanager::ended(&insight(), now).ends_at.as_deref(), Some("2023-11-14T22:13:50.000Z"));
    let name = |kind: &str| {
        alertmanager::alert(&Insight { kind: kind.into(), ..Insight::default() }, now).labels["alertname"]
            .clone()
    };
    assert_eq!(name("gpu_idle"), "InferTraceGpuIdle");
}

/// Scenario: an insight as a Slack message; one with a title far too long; one that is resolved and knows little.
/// Guarantee: `text` and `blocks` as fixed here, `<`, `>` and `&` escaped in mrkdwn, nothing past Slack's limits.
#[test]
fn slack_messages_have_text_and_blocks() {
    let message = slack::message(&insight());
    let expected = json!({
        "text": "[page] p99 of llama-70b is 4x its normal &lt;840 ms&gt;",
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": "[page] p99 of llama-70b is 4x its normal <840 ms>"}},
            {"type": "section", "fields": [
                {"type": "mrkdwn", "text": "*model*\nllama-70b"},
                {"type": "mrkdwn", "text": "*model version*\n1.4"},
                {"type": "mrkdwn", "text": "*tenant*\nacme"}
            ]},
            {"type": "section", "text": {"type": "mrkdwn",
                "text": "*Seen*\n• latency_p99: 840 ms, normally 210 ms (4x), 1203 samples"}},
            {"type": "section", "text": {"type": "mrkdwn",
                "text": "*Why*\n• queue, 62 % of the change: waiting grew from 12 ms to 410 ms"}},
            {"type": "section", "text": {"type": "mrkdwn",
                "text": "*What to do*\n• Raise the batch timeout from 2 ms to 10 ms. Expected: queue wait down by \
                         300 ms. Confidence: 80 %."}},
            {"type": "context", "elements": [{"type": "mrkdwn",
                "text": "since <!date^1699999940^{date_short_pretty} {time_secs}|2023-11-14T22:12:20.000Z> · insight \
                         latency-3f9c revision 2 · trace 5b8efff798038103d269b633813fc60c"}]}
        ]
    });
    assert_eq!(message, expected);
    let long = slack::message(&Insight { title: "ü".repeat(5_000), ..insight() });
    let header = long["blocks"][0]["text"]["text"].as_str().expect("text");
    assert_eq!(header.chars().count(), 150);
    assert!(header.ends_with('…'));
    let little = Insight { state: InsightState::Resolved, title: "over".into(), ..Insight::default() };
    let message = slack::message(&little);
    assert_eq!(message["text"], "[resolved] over");
    assert_eq!(message["blocks"].as_array().map(Vec::len), Some(2), "{message:#}");
}
