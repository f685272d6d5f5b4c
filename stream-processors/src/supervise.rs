//! Sessions one after another: what holds a group membership and a transactional id is thrown away when its
//! outcome in the log became unknown or another member took over, and the next starts from committed positions.

use std::time::Duration;

use infertrace_runtime::log::{Log, LogError, TopicPartition};
use tokio_util::sync::CancellationToken;

/// Longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const SELF_TEST_PAUSE: Duration = Duration::from_secs(1);

/// From joining a group to leaving it or to an unknown outcome.
pub(crate) trait Session {
    /// Works until `shutdown`, then commits what is ready.
    fn run(&mut self, shutdown: &CancellationToken) -> impl Future<Output = Result<(), LogError>> + Send;
    /// Whether anything was committed.
    fn made_progress(&self) -> bool;
}

/// Tries once, before the first session, whether the log's transactions can be relied on; waits for one that is away.
///
/// # Errors
/// When they cannot, with what to do.
pub(crate) async fn self_test(
    log: &dyn Log,
    transactional_id: &str,
    state_topic: &'static str,
    shutdown: &CancellationToken,
) -> Result<(), LogError> {
    let id = format!("{transactional_id}-self-test");
    let scratch = TopicPartition::new(state_topic, 0);
    let test = async {
        loop {
            match log.self_test(&id, &scratch).await {
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, "the log's transactions cannot be tested yet; trying again");
                    tokio::time::sleep(SELF_TEST_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    };
    tokio::select! {
        outcome = test => outcome,
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Runs sessions until `shutdown`; `restarted` is told why each but the first began.
///
/// # Errors
/// When the log refuses for good; everything passing is retried.
pub(crate) async fn supervise<S: Session, F: Future<Output = Result<S, LogError>>>(
    name: &str,
    first_pause: Duration,
    shutdown: &CancellationToken,
    mut start: impl FnMut() -> F,
    mut restarted: impl FnMut(&'static str),
) -> Result<(), LogError> {
    let mut pause = first_pause;
    while !shutdown.is_cancelled() {
        let outcome = match start().await {
            Ok(mut session) => {
                let outcome = session.run(shutdown).await;
                if session.made_progress() {
                    pause = first_pause;
                }
                outcome
            }
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return Ok(()) };
        let reason = match &error {
            LogError::Fenced(_) => "fenced",
            LogError::Ambiguous(_) => "ambiguous",
            error if error.is_retriable() => "unavailable",
            _ => return Err(error),
        };
        restarted(reason);
        tracing::warn!(%error, name, reason, ?pause, "restarting from committed positions");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}
