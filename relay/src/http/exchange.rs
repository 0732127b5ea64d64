//! What the two sides of one connection know of each other: the gate before
//! hyper, and the answers behind it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::http::head::Refused;

/// One request at a time: the next is let in when the answer to the one before
/// has left.
pub(crate) struct Exchange {
    state: Mutex<State>,
    /// A body is still to come, whatever has been answered.
    receiving: AtomicBool,
    began: Instant,
    /// When a byte passed last, in milliseconds since `began`.
    touched: AtomicU64,
}

#[derive(Default)]
struct State {
    busy: bool,
    /// The whole answer has been written, but not all of it has left.
    leaving: Option<Box<dyn Leaving>>,
    refused: Option<Refused>,
    waiting: Option<Waker>,
}

/// An answer that is on its way. When it is dropped it has been told, and the
/// next request may come ([`Exchange::finish`]).
pub(crate) trait Leaving: Send {
    /// All of it has left.
    fn has_left(self: Box<Self>);
}

impl Exchange {
    pub(crate) fn new() -> Self {
        Exchange {
            state: Mutex::default(),
            receiving: AtomicBool::new(false),
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

    /// It has been answered, and the answer waits for the client to read it.
    pub(crate) fn answered(&self, answer: Box<dyn Leaving>) {
        self.state().leaving = Some(answer);
    }

    /// All that was written has left.
    pub(crate) fn flushed(&self) {
        // Not while the state is locked: it ends with `finish`.
        let left = self.state().leaving.take();
        if let Some(answer) = left {
            answer.has_left();
        }
    }

    /// The connection has ended: what has not left never will.
    pub(crate) fn abandon(&self) {
        let lost = self.state().leaving.take();
        drop(lost);
    }

    /// Whether a body is still to come.
    pub(crate) fn receive(&self, more: bool) {
        self.receiving.store(more, Ordering::Relaxed);
    }

    /// It is over with.
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

    /// Returns when nothing has passed for too long: `busy` from a request's head
    /// until the answer has left and the request's body has come, `free` between two.
    pub(crate) async fn silence(&self, busy: Duration, free: Duration) {
        loop {
            let at_work = self.state().busy || self.receiving.load(Ordering::Relaxed);
            let limit = if at_work { busy } else { free };
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

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Exchange")
            .field("busy", &state.busy)
            .field("refused", &state.refused)
            .finish_non_exhaustive()
    }
}
