//! The gateway over real sockets, with a log in memory.

#![allow(clippy::type_complexity, reason = "tables of cases are tuples")]
#![allow(unreachable_pub, reason = "the modules of a test binary share what they hold")]

mod accept;
mod bad_input;
mod client;
mod differential;
mod drain;
mod fake_log;
mod harness;
mod json_text;
mod overload;
mod random_otlp;
mod stream;
mod transport;
