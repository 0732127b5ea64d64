//! What the two sides of one connection know of each other: the gate before
//! hyper, and the answers behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::http::head::Refused;

/// One request at a time: the next is let in when the one before has been
/// answered.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: Mutex<State>,
    began: Instant,
    /// When a byte passed last, in milliseconds since `began`.
    touched: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    busy: bool,
    refused: Option<Refused>,
    waiting: Option<Waker>,
}

impl Exchange {
    pub(crate) fn new() -> Self {
        Exchange {
            state: Mutex::default(),
            began: Instant::now(),
            touched: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has been let in.
    pub(crate) fn begin(&self) {
        self.state().busy = true;
    }

    /// It has been answered.
    pub(crate) fn finish(&self) {
        let waiting = {
            let mut state = self.state();
            state.busy = false;
            state.waiting.take()
        };
        self.touch();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Ready when no request is being answered.
    pub(crate) fn poll_free(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.busy {
            return Poll::Ready(());
        }
        match &mut state.waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// What came breaks the rules.
    pub(crate) fn refuse(&self, refused: Refused) {
        self.state().refused.get_or_insert(refused);
    }

    /// Whether and why what came was refused.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.state().refused
    }

    /// A byte has passed.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.touched.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing has passed for too long: `busy` while a request is
    /// being answered, `free` between two.
    pub(crate) async fn silence(&self, busy: Duration, free: Duration) {
        loop {
            let limit = if self.state().busy { busy } else { free };
            let last = self.began + Duration::from_millis(self.touched.load(Ordering::Relaxed));
            let now = Instant::now();
            if now >= last + limit {
                return;
            }
            // What is busy now may be free soon, and then less patience is due.
            sleep_until((last + limit).min(now + free)).await;
        }
    }
}
