//! Search inside a trace: every word has to occur in the span's names, ids, status or attributes.

use crate::trace::{SpanIndex, TraceModel};

/// Spans that match, in the tree's order; none for an empty search.
pub fn matches(model: &TraceModel, search: &str) -> Vec<SpanIndex> {
    let words: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        return Vec::new();
    }
    model
        .order
        .iter()
        .copied()
        .filter(|index| words.iter().all(|word| span_has(model, *index, word)))
        .collect()
}

fn span_has(model: &TraceModel, index: SpanIndex, word: &str) -> bool {
    let span = model.span(index);
    let named =
        [&span.operation, &span.service, &span.kind, &span.span_id, &span.status.code, &span.status.message];
    named.iter().any(|text| contains(text, word))
        || span.stage.as_deref().is_some_and(|stage| contains(stage, word))
        || span.attributes.as_ref().is_some_and(|raw| contains(raw.get(), word))
        || span.events.iter().any(|event| contains(&event.name, word))
}

/// Case-insensitive, `word` in lower case already. Text without upper case or beyond ASCII takes the slow way.
fn contains(text: &str, word: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(word);
    }
    let word = word.as_bytes();
    text.len() >= word.len()
        && text.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// The match after (or before) the selected span in the tree's order, going round at the ends.
pub fn step(
    model: &TraceModel,
    matches: &[SpanIndex],
    selected: Option<SpanIndex>,
    forward: bool,
) -> Option<SpanIndex> {
    let position_of = |index: SpanIndex| model.node(index).position;
    let Some(selected) = selected else {
        return if forward { matches.first() } else { matches.last() }.copied();
    };
    let here = position_of(selected);
    if forward {
        matches.iter().copied().find(|index| position_of(*index) > here).or(matches.first().copied())
    } else {
        matches.iter().rev().copied().find(|index| position_of(*index) < here).or(matches.last().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{span, trace};
    use serde_json::value::RawValue;

    /// Scenario: words in the name, the attributes and the status, in another case. Guarantee: found; stepping goes
    /// round.
    #[test]
    fn finds_and_steps() {
        let mut second = span(2, 1, 10, 10);
        second.attributes = Some(
            RawValue::from_string(r#"{"gen_ai.request.id":"Chat-42","ort":"Köln"}"#.into()).expect("json"),
        );
        let model = trace(vec![span(1, 0, 0, 100), second, span(11, 1, 20, 10)]);
        assert_eq!(matches(&model, "chat-42"), [1]);
        assert_eq!(matches(&model, "KÖLN service-2"), [1]);
        assert_eq!(matches(&model, "error"), [2]);
        assert!(matches(&model, "  ").is_empty() && matches(&model, "nothing").is_empty());
        let all = matches(&model, "service");
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(step(&model, &all, Some(2), true), Some(0));
        assert_eq!(step(&model, &all, Some(0), false), Some(2));
        assert_eq!(step(&model, &all, None, true), Some(0));
    }
}
