//! What an on-call engineer reads: what happened, since when, how much, and what to do now.
//!
//! One sentence a cause, with measured numbers, what it should bring, and how sure it is. A number that was not
//! measured is left out of its sentence, never made up.

mod action;
mod words;

pub(crate) use self::{
    action::{About, recommendation, unexplained_burn},
    words::{clock_time, title},
};
