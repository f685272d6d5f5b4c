//! librdkafka's errors as [`LogError`]s: what may be retried, what fences, what is unknown.

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

use crate::log::LogError;

/// Classifies an error of any call but a transactional one.
pub(super) fn classify(error: &KafkaError) -> LogError {
    let code = match error {
        // rdkafka gives no code of these.
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    };
    match code {
        Some(code) => classify_code(code, &error.to_string()),
        None => LogError::Fatal(error.to_string()),
    }
}

pub(super) fn classify_code(code: Code, text: &str) -> LogError {
    match code {
        Code::UnknownMemberId
        | Code::IllegalGeneration
        | Code::FencedInstanceId
        | Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::RebalanceInProgress
        | Code::AssignmentLost => LogError::Fenced(text.to_owned()),
        Code::QueueFull => LogError::Full { retry_after: std::time::Duration::from_millis(50) },
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::UnsupportedVersion
        | Code::InvalidConfig
        | Code::InvalidArgument
        | Code::Fatal => LogError::Fatal(text.to_owned()),
        _ => LogError::Unavailable(text.to_owned()),
    }
}

/// Classifies an error inside a transaction, before its commit was asked for.
pub(super) fn classify_transaction(error: &KafkaError) -> TransactionFault {
    let KafkaError::Transaction(inner) = error else {
        return TransactionFault::Abort(classify(error));
    };
    if inner.is_fatal() {
        return TransactionFault::Over(match inner.code() {
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
                LogError::Fenced(inner.to_string())
            }
            _ => LogError::Ambiguous(inner.to_string()),
        });
    }
    if inner.txn_requires_abort() {
        return TransactionFault::Abort(match classify_code(inner.code(), &inner.to_string()) {
            LogError::Fenced(text) => LogError::Fenced(text),
            other => LogError::Unavailable(other.to_string()),
        });
    }
    if inner.is_retriable() {
        return TransactionFault::Retry(LogError::Unavailable(inner.to_string()));
    }
    TransactionFault::Over(LogError::Ambiguous(inner.to_string()))
}

/// What to do after a fault in a transaction.
#[derive(Debug)]
pub(super) enum TransactionFault {
    /// Call again.
    Retry(LogError),
    /// Abort; nothing becomes visible.
    Abort(LogError),
    /// The producer is of no use any more.
    Over(LogError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a call of the admin client that no broker answered in time, and one that was refused.
    /// Guarantee: the former may be tried again, the latter not.
    #[test]
    fn an_admin_call_without_an_answer_may_be_tried_again() {
        assert!(classify(&KafkaError::AdminOp(Code::OperationTimedOut)).is_retriable());
        assert!(!classify(&KafkaError::AdminOp(Code::ClusterAuthorizationFailed)).is_retriable());
    }
}
