//! Response bodies.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::stream::StreamBody;

/// The body of any response of the gateway.
pub(crate) enum Body {
    /// Nothing, or nothing left.
    Empty,
    /// Plain bytes.
    Full(Bytes),
    /// A gRPC answer: one message, then the trailers of success.
    Unary(Bytes),
    /// What follows [`Body::Unary`].
    UnaryTrailers,
    /// The answers of an `ExportStream`.
    Stream(Box<StreamBody>),
    /// From the health and reflection services.
    Axum(axum::body::Body),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self {
            Self::Axum(body) => return Pin::new(body).poll_frame(context),
            Self::Stream(body) => {
                return body.poll_frame(context).map(|frame| frame.map(Ok));
            }
            _ => {}
        }
        let (next, frame) = match std::mem::replace(&mut *self, Self::Empty) {
            Self::Full(bytes) => (Self::Empty, Some(Frame::data(bytes))),
            Self::Unary(bytes) => (Self::UnaryTrailers, Some(Frame::data(bytes))),
            Self::UnaryTrailers => (Self::Empty, Some(Frame::trailers(super::grpc::ok_trailers()))),
            _ => (Self::Empty, None),
        };
        *self = next;
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Axum(body) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Axum(body) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
