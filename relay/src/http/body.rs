//! Bodies that pass piece by piece, and what is noted about them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::HeaderMap;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client that asked for permission to send its body waits for the
/// app to give it. Most apps never do (RFC 9110 §10.1.1).
const PERMISSION: Duration = Duration::from_secs(1);

/// What a client sends, on its way to the app.
pub(crate) struct Upload {
    inner: Option<Incoming>,
    permission: Option<Permission>,
    passed: Arc<AtomicU64>,
    cleanse: Arc<dyn Fn(&mut HeaderMap) + Send + Sync>,
}

/// Whether a body may be sent that the client holds back until then.
#[derive(Clone, Default)]
pub(crate) struct Permit(Arc<Mutex<Permitted>>);

#[derive(Default)]
struct Permitted {
    given: bool,
    waiting: Option<Waker>,
}

struct Permission {
    permit: Permit,
    patience: Pin<Box<Sleep>>,
}

impl Permit {
    /// Lets the body pass.
    pub(crate) fn give(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.given = true;
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn is_given(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.given {
            state.waiting = Some(cx.waker().clone());
        }
        state.given
    }
}

impl Upload {
    /// Counts into `passed`; `cleanse` makes the trailers fit for the app.
    pub(crate) fn new(
        inner: Incoming,
        passed: Arc<AtomicU64>,
        cleanse: Arc<dyn Fn(&mut HeaderMap) + Send + Sync>,
    ) -> Self {
        Upload {
            inner: Some(inner),
            permission: None,
            passed,
            cleanse,
        }
    }

    /// No body at all.
    pub(crate) fn empty(cleanse: Arc<dyn Fn(&mut HeaderMap) + Send + Sync>) -> Self {
        Upload {
            inner: None,
            permission: None,
            passed: Arc::default(),
            cleanse,
        }
    }

    /// Nothing is read from the client, which means that it is not asked to
    /// send, until the permit is given or a second is over.
    pub(crate) fn hold_until(mut self, permit: Permit) -> Self {
        self.permission = Some(Permission {
            permit,
            patience: Box::pin(sleep_until(Instant::now() + PERMISSION)),
        });
        self
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(permission) = &mut this.permission {
            let given =
                permission.permit.is_given(cx) || permission.patience.as_mut().poll(cx).is_ready();
            if !given {
                return Poll::Pending;
            }
            this.permission = None;
        }
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        Pin::new(inner).poll_frame(cx).map_ok(|frame| {
            if let Some(data) = frame.data_ref() {
                this.passed.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            match frame.into_trailers() {
                Ok(mut trailers) => {
                    (this.cleanse)(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(data) => data,
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// An answer on its way to the client. `N` is told how it went when it is
/// dropped.
pub(crate) struct Answer<N: Note> {
    content: Content,
    passed: u64,
    ended: bool,
    note: Option<N>,
}

/// Who is told how an answer went.
pub(crate) trait Note: Unpin {
    /// So many bytes passed, and that was or was not all of it.
    fn answered(self, bytes: u64, complete: bool);
}

enum Content {
    App(Incoming),
    Own(Bytes),
}

impl<N: Note> Answer<N> {
    /// The app's.
    pub(crate) fn of_app(body: Incoming, note: N) -> Self {
        Self::new(Content::App(body), Some(note))
    }

    /// One of our own.
    pub(crate) fn own(text: String, note: N) -> Self {
        Self::new(Content::Own(text.into()), Some(note))
    }

    /// Nothing, of which nobody is told.
    pub(crate) fn silent() -> Self {
        Self::new(Content::Own(Bytes::new()), None)
    }

    fn new(content: Content, note: Option<N>) -> Self {
        Answer {
            content,
            passed: 0,
            ended: false,
            note,
        }
    }
}

impl<N: Note> Body for Answer<N> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::App(body) => Pin::new(body).poll_frame(cx),
            Content::Own(text) if text.is_empty() => Poll::Ready(None),
            Content::Own(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
        };
        match &frame {
            Poll::Ready(None) => this.ended = true,
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => this.passed += data.len() as u64,
                None => this.ended |= frame.is_trailers(),
            },
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::App(body) => body.is_end_stream(),
            Content::Own(text) => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::App(body) => body.size_hint(),
            Content::Own(text) => SizeHint::with_exact(text.len() as u64),
        }
    }
}

impl<N: Note> Drop for Answer<N> {
    fn drop(&mut self) {
        // Whoever knows the length does not ask for what comes after it.
        let complete = self.ended || self.is_end_stream();
        if let Some(note) = self.note.take() {
            note.answered(self.passed, complete);
        }
    }
}
