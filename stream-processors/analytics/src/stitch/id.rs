//! How request ids of callers and engines are compared.

use super::Role;

/// Ids that an engine extends by the number of a prompt or output: its prefix, and what stands before the number.
///
/// vLLM answers `/v1/completions` with `cmpl-X` and calls the request of its first prompt `cmpl-X-0`; it answers
/// `/v1/responses` with `resp_X` and calls the request `resp_X_0`. For chat both are the same.
const NUMBERED: &[(&str, char)] = &[("cmpl-", '-'), ("resp_", '_')];

/// The id that a request goes by, from what a span of `role` calls it. Callers' ids stay as they are: theirs may end in
/// a number of its own.
#[must_use]
pub fn normalized(id: &str, role: Role) -> &str {
    let id = id.trim();
    if role != Role::Engine {
        return id;
    }
    for (prefix, mark) in NUMBERED {
        let Some((start, number)) = id.rsplit_once(*mark) else { continue };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        // The id itself must remain: `cmpl-0` is one, not the first part of one.
        if is_number && start.len() > prefix.len() && start.starts_with(prefix) {
            return start;
        }
    }
    id
}

/// The id of a response from its JSON, where it is the first member, as in every answer of OpenAI's API and of
/// those that follow it.
#[must_use]
pub fn response_id_of(json: &str) -> Option<&str> {
    let rest = json.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"id\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let id = &rest[..rest.find(['"', '\\'])?];
    let is_closed = rest.as_bytes().get(id.len()) == Some(&b'"');
    (is_closed && !id.is_empty() && id.len() <= 256).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: ids as vLLM's spans and its clients have them, and ids of others. Guarantee: both sides of one request
    /// compare equal, a number of the client's own stays.
    #[test]
    fn both_sides_compare_equal() {
        let pairs = [
            ("chatcmpl-9000d29c30ffac06", "chatcmpl-9000d29c30ffac06"),
            ("cmpl-affde215618fadb3-0", "cmpl-affde215618fadb3"),
            ("cmpl-cli-1-0000-0", "cmpl-cli-1-0000"),
            ("cmpl-cli-1-0000-12", "cmpl-cli-1-0000"),
            ("chatcmpl-cli-1-0042", "chatcmpl-cli-1-0042"),
            ("resp_a7855909f5873982_0", "resp_a7855909f5873982"),
            ("929cfa25-ed9d-42f5-8bce-0c25b722df5c", "929cfa25-ed9d-42f5-8bce-0c25b722df5c"),
            ("cmpl-0", "cmpl-0"),
            ("", ""),
        ];
        for (engine, client) in pairs {
            assert_eq!(normalized(engine, Role::Engine), client);
            assert_eq!(normalized(client, Role::Client), client);
        }
    }

    /// Scenario: bodies of answers, and other texts. Guarantee: an id that stands first is found, nothing else is.
    #[test]
    fn ids_of_answers_are_found() {
        assert_eq!(response_id_of(r#"{"id":"chatcmpl-1","choices":[]}"#), Some("chatcmpl-1"));
        assert_eq!(response_id_of("{ \"id\" : \"resp_2\" }"), Some("resp_2"));
        for none in [
            "",
            "{",
            r#"{"id":7}"#,
            r#"{"id":"#,
            r#"{"id":"a"#,
            r#"{"id":"a\"b"}"#,
            r#"{"choices":[{"id":"x"}]}"#,
            r#"{"id":""}"#,
        ] {
            assert_eq!(response_id_of(none), None, "{none}");
        }
    }
}
