//! Where a page of insights begins: after an insight's place in the list.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use xxhash_rust::xxh3::xxh3_64;

use super::store::{InsightFilter, ListPlace};
use crate::search::CursorError;

const VERSION: u8 = 1;

/// A number that differs for other filters. The time range is left out, as for traces: the next page of "the last
/// hour" is asked for a little later than the first.
fn fingerprint(filter: &InsightFilter) -> u64 {
    let timeless = InsightFilter { start_ns: None, end_ns: None, ..filter.clone() };
    xxh3_64(format!("{timeless:?}").as_bytes())
}

/// A place as text, bound to its filter.
#[must_use]
pub fn encode(place: &ListPlace, filter: &InsightFilter) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&fingerprint(filter).to_be_bytes());
    bytes.extend_from_slice(&place.0.to_be_bytes());
    bytes.extend_from_slice(place.1.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`CursorError`].
pub fn decode(text: &str, filter: &InsightFilter) -> Result<ListPlace, CursorError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
    let (&version, rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
    let (search, rest) = rest.split_first_chunk::<8>().ok_or(CursorError::Malformed)?;
    let (opened, id) = rest.split_first_chunk::<8>().ok_or(CursorError::Malformed)?;
    let id = std::str::from_utf8(id).map_err(|_| CursorError::Malformed)?;
    if version != VERSION || id.is_empty() {
        return Err(CursorError::Malformed);
    }
    if u64::from_be_bytes(*search) != fingerprint(filter) {
        return Err(CursorError::OtherSearch);
    }
    Ok((i64::from_be_bytes(*opened), id.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: any place. Guarantee: the text brings it back, also when the range moved on, but not for another
        /// search; any other text is refused, not a panic.
        #[test]
        fn round_trip(opened: i64, id in "\\PC{1,40}", noise in "\\PC{0,60}") {
            let filter = InsightFilter { model: Some("m".into()), start_ns: Some(5), ..InsightFilter::default() };
            let later = InsightFilter { start_ns: Some(9), ..filter.clone() };
            let place: ListPlace = (opened, id.as_str().into());
            let text = encode(&place, &filter);
            prop_assert_eq!(decode(&text, &later), Ok(place));
            prop_assert_eq!(decode(&text, &InsightFilter::default()), Err(CursorError::OtherSearch));
            prop_assert!(decode(&noise, &filter).is_err());
        }
    }
}
