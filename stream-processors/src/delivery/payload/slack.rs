//! Slack's incoming webhooks: `text` for notifications, `blocks` for the message.
//!
//! Limits are Slack's (docs.slack.dev, Block Kit): 150 characters a header, 3,000 a section, 2,000 a field, 10 fields.

use infertrace_schemas::avro::{Insight, InsightState, Severity};
use serde_json::{Value, json};

use super::text;

const HEADER: usize = 150;
const SECTION: usize = 3_000;
const FIELD: usize = 2_000;
/// Evidence and causes shown; the insight has them all.
const LINES: usize = 5;

/// The message.
pub(crate) fn message(insight: &Insight) -> Value {
    let title = format!("{} {}", label(insight), insight.title);
    let mut blocks =
        vec![json!({"type": "header", "text": {"type": "plain_text", "text": cut(&title, HEADER)}})];
    let fields: Vec<Value> = text::subject(insight)
        .into_iter()
        .map(|(name, value)| mrkdwn(&format!("*{}*\n{}", name.replace('_', " "), escape(value)), FIELD))
        .collect();
    if !fields.is_empty() {
        blocks.push(json!({"type": "section", "fields": fields}));
    }
    let evidence: Vec<String> = insight.evidence.iter().take(LINES).map(text::evidence).collect();
    blocks.extend(section("Seen", &evidence));
    let causes: Vec<String> = insight.causes.iter().take(LINES).map(text::cause).collect();
    blocks.extend(section("Why", &causes));
    let advice: Vec<String> = insight.recommendation.iter().map(text::recommendation).collect();
    blocks.extend(section("What to do", &advice));
    blocks.push(json!({"type": "context", "elements": [mrkdwn(&context(insight), SECTION)]}));
    json!({"text": cut(&escape(&title), SECTION), "blocks": blocks})
}

fn label(insight: &Insight) -> &'static str {
    match (insight.state, insight.severity) {
        (InsightState::Resolved, _) => "[resolved]",
        (_, Severity::Page) => "[page]",
        (_, Severity::Warning) => "[warning]",
        (_, Severity::Info) => "[info]",
    }
}

fn section(name: &str, lines: &[String]) -> Option<Value> {
    if lines.is_empty() {
        return None;
    }
    let lines: Vec<String> = lines.iter().map(|line| format!("• {}", escape(line))).collect();
    Some(json!({"type": "section", "text": mrkdwn(&format!("*{name}*\n{}", lines.join("\n")), SECTION)}))
}

/// Where to look further: when, which insight, which traces.
fn context(insight: &Insight) -> String {
    let date = |nanos: i64| {
        format!(
            "<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>",
            nanos.div_euclid(1_000_000_000),
            text::time(nanos)
        )
    };
    let mut parts = vec![format!("since {}", date(insight.opened_unix_nanos))];
    parts.extend(insight.resolved_unix_nanos.map(|end| format!("until {}", date(end))));
    parts.push(format!("insight {} revision {}", escape(&insight.id), insight.revision));
    if let Some(trace) = insight.example_traces.first() {
        parts.push(format!("trace {}", escape(trace)));
    }
    parts.join(" · ")
}

fn mrkdwn(text: &str, longest: usize) -> Value {
    json!({"type": "mrkdwn", "text": cut(text, longest)})
}

/// The three characters that mean something to Slack.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest - 1) {
        // The last allowed character stays only when nothing follows it.
        Some((index, last)) if index + last.len_utf8() < text.len() => format!("{}…", &text[..index]),
        _ => text.to_owned(),
    }
}
