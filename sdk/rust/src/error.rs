//! What can go wrong between a client and a gateway, and whether trying again may help.

use std::time::Duration;

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// Everything well.
    pub const OK: Self = Self(0);
    /// The call was cancelled.
    pub const CANCELLED: Self = Self(1);
    /// No better code.
    pub const UNKNOWN: Self = Self(2);
    /// The request is wrong and stays wrong.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// Out of time; the spans may or may not be durable.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// Over a limit: of the tenant, or of the gateway's byte budget.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Given up on the other side.
    pub const ABORTED: Self = Self(10);
    /// No such method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// A fault in the server.
    pub const INTERNAL: Self = Self(13);
    /// Not reachable, or not ready.
    pub const UNAVAILABLE: Self = Self(14);
}

/// A call's unhappy end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {}: {message}", code.0)]
pub struct Status {
    /// Code.
    pub code: Code,
    /// The server's words, or this side's.
    pub message: String,
    /// How long the server asks to wait (`google.rpc.RetryInfo`).
    pub retry_delay: Option<Duration>,
}

impl Status {
    /// A status of this side's making.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_delay: None }
    }

    /// Whether the same request may succeed later; OTLP's rules.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self.code {
            Code::CANCELLED | Code::DEADLINE_EXCEEDED | Code::ABORTED | Code::UNAVAILABLE => true,
            Code::RESOURCE_EXHAUSTED => self.retry_delay.is_some(),
            _ => false,
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The endpoint is not `http://HOST:PORT`.
    #[error("bad endpoint {endpoint:?}: {reason}")]
    BadEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Settings that do not go together.
    #[error("bad configuration: {0}")]
    BadConfig(&'static str),
    /// The gateway cannot be reached.
    #[error("cannot reach the gateway: {0}")]
    Unreachable(#[source] Status),
}

/// Why a batch was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExportError {
    /// The gateway refused, and the same request would be refused again.
    #[error("refused: {0}")]
    Refused(#[source] Status),
    /// Retried until the deadline; `last` is the last answer.
    #[error("not accepted after {attempts} attempts: {last}")]
    DeadlineExceeded {
        /// Attempts made.
        attempts: u32,
        /// The last answer.
        #[source]
        last: Status,
    },
    /// Too many bytes are already waiting to be retried.
    #[error("the retry budget of {budget_bytes} bytes is used up: {last}")]
    RetryBudgetExhausted {
        /// The budget.
        budget_bytes: usize,
        /// The last answer.
        #[source]
        last: Status,
    },
    /// The partition map changed again and again.
    #[error("the partition map changed {0} times during one export")]
    UnstablePartitionMap(u32),
    /// The gateway's answer is not protobuf.
    #[error("unreadable answer: {0}")]
    BadAnswer(String),
    /// Compression failed.
    #[error("cannot compress: {0}")]
    Compression(String),
}
