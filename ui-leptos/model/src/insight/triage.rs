//! What people decided about an insight, and what they can: acknowledge, mute, resolve, take back.
//!
//! A decision replaces the one before it, so a button that changes one part sends the other along.

use serde_json::{Value, json};

use super::page::Frame;
use super::{Insight, integer, string};
use crate::node::{Node, el, icon, text};

const HOUR_MS: i64 = 3_600_000;
/// Names of buttons and hours of their mutes.
const MUTES: [(&str, &str, i64); 3] = [("mute-1", "1 h", 1), ("mute-8", "8 h", 8), ("mute-24", "24 h", 24)];

/// Where an insight stands with people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It waits for somebody.
    #[default]
    Open,
    /// Somebody is on it.
    Acknowledged,
    /// Nobody is told of it for a while.
    Muted,
    /// It is over as far as people are concerned.
    Resolved,
}

impl Standing {
    fn of(name: &str) -> Self {
        match name {
            "ACKNOWLEDGED" => Self::Acknowledged,
            "MUTED" => Self::Muted,
            "RESOLVED" => Self::Resolved,
            _ => Self::Open,
        }
    }
}

/// A decision. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Triage {
    /// `OPEN`, `ACKNOWLEDGED` or `RESOLVED`.
    status: String,
    /// Where that left it when the server answered.
    standing: Standing,
    muted_until: Option<i64>,
    decided: i64,
    author: String,
    note: String,
}

impl Triage {
    /// From an insight's member; none from null.
    pub(super) fn of(value: &Value) -> Option<Self> {
        value.is_object().then(|| Self {
            status: string(value, "status"),
            standing: Standing::of(value["standing"].as_str().unwrap_or_default()),
            muted_until: integer(&value["muted_until_unix_nano"]),
            decided: integer(&value["decided_unix_nano"]).unwrap_or_default(),
            author: string(value, "author"),
            note: string(value, "note"),
        })
    }

    /// The mute that holds, by the page's clock.
    fn mute_end(&self, now_ms: i64) -> Option<i64> {
        self.muted_until.filter(|until| now_ms < until.div_euclid(1_000_000))
    }

    fn standing(&self, now_ms: i64) -> Standing {
        match self.standing {
            Standing::Muted if self.mute_end(now_ms).is_none() => Standing::of(&self.status),
            standing => standing,
        }
    }
}

impl Insight {
    /// Where it stands with people.
    pub fn standing(&self, now_ms: i64) -> Standing {
        self.triage.as_ref().map_or(Standing::Open, |triage| triage.standing(now_ms))
    }

    /// Whether it is over, by its detector or by people. Only a mute depends on the time.
    pub fn is_settled(&self) -> bool {
        self.resolved || self.triage.as_ref().is_some_and(|triage| triage.standing == Standing::Resolved)
    }
}

/// Where it stands, as a badge; none for what waits.
pub(super) fn badge(insight: &Insight, now_ms: i64) -> Option<Node> {
    let (symbol, words) = match insight.standing(now_ms) {
        Standing::Open => return None,
        Standing::Acknowledged => ("check", "Acknowledged"),
        Standing::Muted => ("pause", "Muted"),
        Standing::Resolved => ("check", "Resolved by a person"),
    };
    Some(el("span", "badge").add(icon(symbol)).text(words))
}

fn button(name: &str, words: &str) -> Node {
    let id = format!("triage-{name}");
    text("button", "button", words).with("type", "button").with("name", name).with("id", &id)
}

/// What was decided in words, and buttons for what can be; a button's name is what [`request`] takes.
pub(super) fn bar(insight: &Insight, frame: &Frame) -> Node {
    let bar =
        el("section", "triage").with("aria-label", "Triage").with("id", "triage").with("tabindex", "-1");
    let words = insight.triage.as_ref().map(|triage| text("p", "muted", &sentence(triage, frame)));
    let standing = insight.standing(frame.now_ms);
    let mut buttons = el("div", "triage-buttons");
    if !insight.is_settled() {
        if insight.triage.as_ref().is_none_or(|triage| triage.status != "ACKNOWLEDGED") {
            buttons = buttons.add(button("acknowledge", "Acknowledge"));
        }
        if standing != Standing::Muted {
            let mutes = MUTES
                .iter()
                .map(|(name, words, _)| button(name, words).with("aria-label", &format!("Mute for {words}")));
            let label = text("span", "muted", "Mute for").with("aria-hidden", "true");
            buttons = buttons.add(el("span", "triage-mutes").add(label).all(mutes));
        }
        buttons = buttons.add(button("resolve", "Resolve"));
    }
    if insight.triage.is_some() {
        buttons = buttons.add(button("withdraw", "Undo"));
    }
    bar.all(words).add(buttons)
}

/// `Muted until 14:00 by ada: "a replica comes up"`.
fn sentence(triage: &Triage, frame: &Frame) -> String {
    let what = match triage.standing(frame.now_ms) {
        Standing::Open => "Decided before it got worse, came back, or its mute ended".to_owned(),
        Standing::Acknowledged => "Acknowledged".to_owned(),
        Standing::Resolved => {
            "Resolved by a person; targets are told nothing more unless it gets worse or comes back"
                .to_owned()
        }
        Standing::Muted => {
            let until = triage.muted_until.map_or_else(String::new, |until| frame.time(until));
            format!("Muted until {until}; targets are told nothing unless it gets worse")
        }
    };
    let by = if triage.author.is_empty() { String::new() } else { format!(", by {}", triage.author) };
    let note = if triage.note.is_empty() { String::new() } else { format!(": “{}”", triage.note) };
    format!("{what} (decided {}{by}){note}", frame.time(triage.decided))
}

/// Method and body of what the button `name` asks of an insight's `triage`; none for an unknown name.
pub fn request(insight: &Insight, name: &str, now_ms: i64) -> Option<(&'static str, Option<String>)> {
    let before = insight.triage.as_ref();
    let mute = before.and_then(|triage| triage.mute_end(now_ms));
    let (status, mute) = match name {
        "withdraw" => return Some(("DELETE", None)),
        "acknowledge" => ("ACKNOWLEDGED", mute),
        "resolve" => ("RESOLVED", None),
        _ => {
            let (.., hours) = MUTES.iter().find(|(known, ..)| *known == name)?;
            let is_seen = before.is_some_and(|triage| triage.status == "ACKNOWLEDGED");
            (if is_seen { "ACKNOWLEDGED" } else { "OPEN" }, Some((now_ms + hours * HOUR_MS) * 1_000_000))
        }
    };
    let body = json!({"status": status, "muted_until_unix_nano": mute.map(|until| until.to_string())});
    Some(("PUT", Some(body.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn insight(triage: Value) -> Insight {
        Insight::of(&json!({"id": "a", "state": "OPEN", "title": "slow", "triage": triage}))
    }

    fn frame() -> Frame {
        Frame { now_ms: NOW_MS, offset_minutes: 0, list_url: String::new() }
    }

    fn names(insight: &Insight) -> Vec<String> {
        bar(insight, &frame())
            .find("button")
            .iter()
            .filter_map(|one| one.get("name").map(str::to_owned))
            .collect()
    }

    fn muted(until_ms: i64, status: &str) -> Insight {
        insight(
            json!({"status": status, "standing": "MUTED", "muted_until_unix_nano": (until_ms * 1_000_000).to_string(),
            "decided_unix_nano": "5000000000", "author": "ada", "note": "<b>"}),
        )
    }

    /// Scenario: an insight that nobody looked at, one acknowledged, muted, resolved by a person, over by its detector.
    /// Guarantee: the buttons are those that change something, and a decision is said in words, with who and until when.
    #[test]
    fn buttons_follow_the_standing() {
        let plain = insight(Value::Null);
        assert_eq!(names(&plain), ["acknowledge", "mute-1", "mute-8", "mute-24", "resolve"]);
        assert_eq!((badge(&plain, NOW_MS), plain.is_settled()), (None, false));
        let seen = insight(json!({"status": "ACKNOWLEDGED", "standing": "ACKNOWLEDGED"}));
        assert_eq!(names(&seen), ["mute-1", "mute-8", "mute-24", "resolve", "withdraw"]);
        let muted = muted(NOW_MS + 1, "OPEN");
        assert_eq!(names(&muted), ["acknowledge", "resolve", "withdraw"]);
        let words = bar(&muted, &frame()).words();
        assert!(words.starts_with("Muted until 1970-01-01 00:16:40;"), "{words}");
        assert!(words.contains("decided 1970-01-01 00:00:05, by ada): “<b>”"), "{words}");
        let resolved = insight(json!({"status": "RESOLVED", "standing": "RESOLVED"}));
        assert_eq!((names(&resolved), resolved.is_settled()), (vec!["withdraw".to_owned()], true));
        let over = Insight { resolved: true, ..insight(Value::Null) };
        assert_eq!(names(&over), Vec::<String>::new());
    }

    /// Scenario: a mute whose end has passed since the server answered. Guarantee: it stands as it would without the mute.
    #[test]
    fn a_mute_ends_by_the_clock() {
        assert_eq!(muted(NOW_MS + 1, "OPEN").standing(NOW_MS), Standing::Muted);
        assert_eq!(muted(NOW_MS, "OPEN").standing(NOW_MS), Standing::Open);
        assert_eq!(muted(NOW_MS, "ACKNOWLEDGED").standing(NOW_MS), Standing::Acknowledged);
    }

    /// Scenario: each button, on an insight that was decided about before. Guarantee: the whole decision is sent, the mute that
    /// holds and the acknowledgement kept; an unknown name asks nothing.
    #[test]
    fn a_decision_is_sent_whole() {
        let body = |insight: &Insight, name: &str| {
            let (method, body) = request(insight, name, NOW_MS).expect("known");
            assert_eq!(method, "PUT");
            serde_json::from_str::<Value>(&body.expect("a body")).expect("JSON")
        };
        let until = |ms: i64| json!((ms * 1_000_000).to_string());
        let seen = muted(NOW_MS + 7, "ACKNOWLEDGED");
        let plain = insight(Value::Null);
        assert_eq!(
            body(&plain, "mute-1"),
            json!({"status": "OPEN", "muted_until_unix_nano": until(NOW_MS + 3_600_000)})
        );
        assert_eq!(body(&seen, "mute-8")["status"], "ACKNOWLEDGED");
        assert_eq!(
            body(&seen, "acknowledge"),
            json!({"status": "ACKNOWLEDGED", "muted_until_unix_nano": until(NOW_MS + 7)})
        );
        assert_eq!(body(&seen, "resolve"), json!({"status": "RESOLVED", "muted_until_unix_nano": null}));
        assert_eq!(request(&seen, "withdraw", NOW_MS), Some(("DELETE", None)));
        assert_eq!(request(&seen, "mute-9", NOW_MS), None);
    }
}
