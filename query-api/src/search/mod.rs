//! Search: traces in which one span satisfies every filter, newest first.
//!
//! [`filters`] is what is asked, [`cursor`] where a page begins, [`engine`] finds the ids by the scans of `candidates`, [`attribute`] is the
//! function by which attributes are compared, [`language`] the query language over a trace's spans. A trace's place is the earliest start of its matching spans:
//! a late span can only move it down the list, so a reader who pages on never misses one.

pub mod attribute;
mod candidates;
pub mod cursor;
pub mod engine;
pub mod filters;
pub mod language;

pub use cursor::{Cursor, CursorError};
pub use engine::{Page, PageRequest};
pub use filters::SpanFilters;
pub use language::{Found, Metrics, TraceQuery, TraceQueryError};
