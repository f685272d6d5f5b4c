//! Sockets, HTTP and gRPC framing. Nothing here looks inside a message.
//!
//! `listener` owns connections, `router` picks a handler by path, `grpc`, `stream` and `http` speak the
//! protocols, `message` reads length-prefixed messages within the byte budget, `compression` unpacks them.

mod body;
mod compression;
mod grpc;
mod http;
pub(crate) mod listener;
mod message;
mod router;
mod stream;

pub(crate) use router::Router;
