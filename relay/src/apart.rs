//! Work that a file system may hold up for ever.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Does something on a thread of its own, so that nobody else waits for it: a file
/// server may hang at any moment, and whoever drops the future leaves it behind. At
/// the process limit, where Tokio's own threads for this would panic or wait for ever,
/// it is done here. `None` if it panicked.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let text = ood_relay::apart(|| std::fs::read_to_string("/proc/self/comm")).await;
/// assert!(text.is_some_and(|read| read.is_ok()));
/// # });
/// ```
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| {
        let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
        work.take()
    };
    let theirs = Arc::clone(&work);
    let thread = std::thread::Builder::new()
        .name("files".into())
        .spawn(move || {
            if let Some(work) = take(&theirs) {
                // Nobody may wait for it any more.
                let _ = sender.send(work());
            }
        });
    if thread.is_err()
        && let Some(work) = take(&work)
    {
        return Some(work());
    }
    receiver.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_is_told_and_ends_nobody_else() {
        assert_eq!(apart(|| 6 * 7).await, Some(42));
        let panics = || -> u8 { std::panic::resume_unwind(Box::new("no")) };
        assert_eq!(apart(panics).await, None);
    }
}
