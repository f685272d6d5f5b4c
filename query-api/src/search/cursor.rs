//! Where a page begins: after a trace's place in the list.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::hot::TraceId;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 8 + 8 + 16;

/// A place in a search's list; what follows it lies strictly below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Earliest start of the trace's matching spans.
    pub start_ns: i64,
    /// Its id, which orders traces with the same start.
    pub trace_id: TraceId,
}

/// Why a cursor was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not one of ours.
    #[error("this is not a cursor that the API gave out")]
    Malformed,
    /// Of a search with other filters.
    #[error("the cursor belongs to a search with other filters; begin without one")]
    OtherSearch,
}

impl Cursor {
    /// Whether a trace with this place comes after the cursor.
    #[must_use]
    pub fn precedes(&self, start_ns: i64, trace_id: &TraceId) -> bool {
        (start_ns, trace_id) < (self.start_ns, &self.trace_id)
    }

    /// As text, bound to a search.
    #[must_use]
    pub fn encode(&self, fingerprint: u64) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&fingerprint.to_be_bytes());
        bytes.extend_from_slice(&self.start_ns.to_be_bytes());
        bytes.extend_from_slice(&self.trace_id);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`CursorError`].
    pub fn decode(text: &str, fingerprint: u64) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let bytes: [u8; BYTES] = bytes.try_into().map_err(|_| CursorError::Malformed)?;
        let (version, rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
        let (search, rest) = rest.split_first_chunk::<8>().ok_or(CursorError::Malformed)?;
        let (start, rest) = rest.split_first_chunk::<8>().ok_or(CursorError::Malformed)?;
        let trace_id: TraceId = rest.try_into().map_err(|_| CursorError::Malformed)?;
        if *version != VERSION {
            return Err(CursorError::Malformed);
        }
        if u64::from_be_bytes(*search) != fingerprint {
            return Err(CursorError::OtherSearch);
        }
        Ok(Self { start_ns: i64::from_be_bytes(*start), trace_id })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: any place. Guarantee: the text brings it back, only for its own search.
        #[test]
        fn round_trip(start_ns: i64, trace_id: [u8; 16], search: u64, other: u64) {
            let cursor = Cursor { start_ns, trace_id };
            let text = cursor.encode(search);
            prop_assert_eq!(Cursor::decode(&text, search), Ok(cursor));
            if other != search {
                prop_assert_eq!(Cursor::decode(&text, other), Err(CursorError::OtherSearch));
            }
        }

        /// Scenario: any text. Guarantee: it is refused, not a panic.
        #[test]
        fn foreign_text_is_refused(text in "\\PC{0,80}") {
            prop_assert!(Cursor::decode(&text, 0).is_err());
        }
    }
}
