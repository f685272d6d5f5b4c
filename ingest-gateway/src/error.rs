//! What can go wrong, and how each protocol says it.
//!
//! A [`Refusal`] is about one request: it maps to a gRPC code and an HTTP status, and says whether and when
//! the sender should try again. `BuildError` and `Error` are about the service.

use std::{net::SocketAddr, time::Duration};

use infertrace_runtime::log::LogError;

use crate::parse::ParseError;

/// Why the gateway could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A port is taken or not ours.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// Address asked for.
        addr: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Keys of the configuration contradict each other.
    #[error("gateway configuration: {0}")]
    Config(String),
    /// The descriptors for gRPC reflection are damaged; a broken build.
    #[error("gRPC reflection: {0}")]
    Reflection(String),
}

/// Why the gateway stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Requests were still in flight when the time to drain was over; their senders got no answer and will
    /// send again.
    #[error("{connections} connections were cut when the time to drain was over")]
    DrainTimeout {
        /// Connections cut.
        connections: usize,
    },
}

/// Why the gateway takes no spans now.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The log takes no writes.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The log did not say whether it takes writes.
    #[error("the log did not answer within {} ms", .0.as_millis())]
    LogSilent(Duration),
    /// The number of partitions is not known yet.
    #[error("the partitions of {0} are not known yet")]
    NoTopology(&'static str),
    /// The byte budget is used up.
    #[error("the byte budget is used up")]
    OverBudget,
    /// The gateway is shutting down.
    #[error("shutting down")]
    Draining,
}

/// Why one request got no acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Invalid(String),
    #[error("the request is larger than {limit} bytes (limits.max_body_bytes)")]
    TooLarge { limit: usize },
    #[error("over the byte budget: the gateway holds as much as it may")]
    OverBudget { retry_after: Duration },
    #[error("{message}")]
    LogFull { message: String, retry_after: Duration },
    #[error("{message}")]
    Unavailable { message: String, retry_after: Duration },
    #[error("the deadline passed before the spans were durable; send them again")]
    DeadlineExceeded,
    #[error("the body did not arrive within {} ms", .0.as_millis())]
    SlowBody(Duration),
    #[error("the body broke off: {0}")]
    BrokenBody(String),
    #[error("{0}")]
    Unimplemented(String),
    #[error("{0}")]
    UnsupportedMedia(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{method} is not allowed here, only POST")]
    MethodNotAllowed { method: String },
}

/// `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub(crate) enum Code {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
}

impl Code {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unimplemented => "unimplemented",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Refusal {
    /// The gRPC code. A sender repeats `Unavailable`, and `ResourceExhausted` when it carries a delay.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::TooLarge { .. } | Self::UnsupportedMedia(_) => Code::InvalidArgument,
            Self::OverBudget { .. } | Self::LogFull { .. } => Code::ResourceExhausted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::DeadlineExceeded | Self::SlowBody(_) => Code::DeadlineExceeded,
            Self::BrokenBody(_) => Code::Cancelled,
            Self::Unimplemented(_) | Self::NotFound(_) | Self::MethodNotAllowed { .. } => Code::Unimplemented,
        }
    }

    /// The HTTP status. Senders of OTLP repeat 429, 502, 503 and 504.
    pub(crate) const fn http_status(&self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Self::Invalid(_) | Self::BrokenBody(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::OverBudget { .. } | Self::LogFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::SlowBody(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Unimplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::UnsupportedMedia(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// When to try again, if that can help.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OverBudget { retry_after }
            | Self::LogFull { retry_after, .. }
            | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// What the log's refusal means for a sender.
    pub(crate) fn from_log(error: &LogError, default_delay: Duration) -> Self {
        let message = error.to_string();
        match error {
            LogError::Full { retry_after } => {
                Self::LogFull { message, retry_after: (*retry_after).max(default_delay) }
            }
            // An operator has to act first: many senders at a short delay would only heat the machine.
            LogError::DiskFull { .. } => Self::LogFull { message, retry_after: default_delay * 20 },
            LogError::TooLarge { .. } => Self::Invalid(format!("{message}: lower max_record_bytes")),
            _ => Self::Unavailable { message, retry_after: default_delay },
        }
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::Invalid(error.to_string())
    }
}
