//! The span schema from outside: records in, columns and JSON out, compared with plain decoders.

mod captures;
mod differential;
mod evolution;
mod generate;
mod mapping;
mod partition;
mod rollback;
mod support;
mod tokens;
