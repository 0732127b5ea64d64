//! What stands between TLS and hyper: lets one judged request in at a time.
//!
//! A head passes only whole and judged. Then exactly its body passes, and
//! nothing more until the answer is complete, so that no byte is ever read as
//! part of a request that it does not belong to: not after an early answer, and
//! not after an upgrade that the app declined. What is refused never reaches
//! hyper, which sees the end of the connection instead; the answer to the
//! client is written here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::buffer::Buffer;
use crate::http::chunks::Chunks;
use crate::http::exchange::Exchange;
use crate::http::head::{self, Bounds, Framing, Refused};
use crate::stream::{LOOK, Wire};

/// How much is read of what comes before its time, to notice when the client
/// leaves.
const AHEAD: usize = 16 * 1024;

/// A closed socket with unread bytes in it resets the connection, and the
/// refusal with it. So what still comes is read, for this long and this much.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// A vector larger than this is not kept for the next head.
const KEPT: usize = 4096;

#[derive(Debug)]
pub(crate) struct Gate<S> {
    inner: Take<S>,
    /// What was read and has not passed yet begins at `at`.
    held: Vec<u8>,
    at: usize,
    state: State,
    exchange: Arc<Exchange>,
    rules: Rules,
    alarm: Option<Pin<Box<Sleep>>>,
    /// When to look whether the client is still there.
    look: Option<Pin<Box<Sleep>>>,
    farewell: Option<Farewell>,
}

/// What a gate goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) bounds: Bounds,
    /// From the first byte of a head to its end.
    pub(crate) head_time: Duration,
}

#[derive(Debug)]
enum State {
    /// Gathers a head; so many bytes have been looked at.
    Head { seen: usize },
    /// Lets a head pass.
    Pass { left: usize, then: Framing },
    /// Lets a body of a known length pass.
    Length(u64),
    /// Lets chunks pass.
    Chunked(Box<Chunks>),
    /// Until the answer is complete.
    Waiting,
    /// For good.
    Shut,
}

impl State {
    fn is_body(&self) -> bool {
        matches!(self, State::Length(_) | State::Chunked(_))
    }
}

/// The answer to what was refused, and what is left to do about it.
#[derive(Debug)]
struct Farewell {
    text: Vec<u8>,
    written: usize,
    closed: bool,
    lingered: usize,
}

impl<S: Wire> Gate<S> {
    pub(crate) fn new(inner: S, exchange: Arc<Exchange>, rules: Rules) -> Self {
        Gate {
            inner: inner.take(u64::MAX),
            held: Vec::new(),
            at: 0,
            state: State::Head { seen: 0 },
            exchange,
            rules,
            alarm: None,
            look: None,
            farewell: None,
        }
    }

    /// The stream, and what was read of it before its time.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        let Gate {
            inner,
            mut held,
            at,
            ..
        } = self;
        held.drain(..at);
        (inner.into_inner(), held)
    }

    fn ahead(&self) -> &[u8] {
        &self.held[self.at..]
    }

    /// Lets so many of the held bytes go.
    fn advance(&mut self, amount: usize) {
        self.at += amount;
        if self.at == self.held.len() {
            self.at = 0;
            self.held.clear();
            if self.held.capacity() > KEPT {
                self.held = Vec::new();
            }
        }
    }

    /// Reads more to be held.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inner.set_limit(u64::MAX);
        let mut buffer = Buffer::take();
        let amount = ready!(buffer.poll_fill(cx, &mut self.inner))?;
        if self.at > 0 {
            self.held.drain(..self.at);
            self.at = 0;
        }
        self.held.extend_from_slice(buffer.filled());
        if amount > 0 {
            self.exchange.touch();
        }
        Poll::Ready(Ok(amount))
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>, after: Duration) -> Poll<()> {
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + after)));
        alarm.as_mut().poll(cx)
    }

    /// Whether the client has vanished, which nobody notices who does not read:
    /// and while the app does not, nobody does. Looks now and then, for as long as
    /// it is polled.
    fn poll_vanished(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            if self.inner.get_ref().is_broken() {
                return Poll::Ready(());
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// The connection ends here. hyper is told that it ended; the client is
    /// told why when hyper closes it.
    fn refuse(&mut self, refused: Refused) {
        self.exchange.refuse(refused);
        self.farewell = Some(Farewell {
            text: refusal(refused),
            written: 0,
            closed: false,
            lingered: 0,
        });
        self.state = State::Shut;
        self.held = Vec::new();
        self.at = 0;
        self.alarm = None;
    }

    /// Gathers a head and judges it. Ready once there is something to pass, or
    /// never will be.
    fn poll_head(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<io::Result<()>> {
        let mut seen = seen;
        loop {
            let bytes = self.ahead();
            if let Some(end) = head::end(bytes, seen) {
                let judged = head::parse(&bytes[..end], self.rules.bounds);
                self.alarm = None;
                match judged {
                    Ok(head) => {
                        self.exchange.begin();
                        self.state = State::Pass {
                            left: head.length,
                            then: head.framing,
                        };
                    }
                    Err(refused) => self.refuse(refused),
                }
                return Poll::Ready(Ok(()));
            }
            let beginning = match head::check_beginning(bytes, seen) {
                Ok(()) if bytes.len() > self.rules.bounds.bytes => Err(head::TOO_LARGE),
                result => result,
            };
            if let Err(refused) = beginning {
                self.refuse(refused);
                return Poll::Ready(Ok(()));
            }
            seen = bytes.len();
            self.state = State::Head { seen };
            match self.poll_more(cx) {
                Poll::Ready(Ok(0)) => {
                    self.state = State::Shut;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if seen > 0 && self.poll_alarm(cx, self.rules.head_time).is_ready() {
                        self.refuse(head::TOO_SLOW);
                        return Poll::Ready(Ok(()));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn after_head(&self, framing: Framing) -> State {
        let Bounds { bytes, lines } = self.rules.bounds;
        match framing {
            Framing::Empty => State::Waiting,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Box::new(Chunks::new(bytes, lines))),
        }
    }

    /// Lets bytes of a body pass: `limit` at most, as far as `judge` says.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: u64,
        judge: impl FnOnce(&[u8]) -> Result<usize, Refused>,
    ) -> Poll<io::Result<usize>> {
        let refuse = |exchange: &Exchange, refused| {
            exchange.refuse(refused);
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused.why)))
        };
        if !self.ahead().is_empty() {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let most = self.ahead().len().min(buf.remaining()).min(limit);
            return match judge(&self.ahead()[..most]) {
                Ok(fits) => {
                    buf.put_slice(&self.ahead()[..fits]);
                    self.advance(fits);
                    Poll::Ready(Ok(fits))
                }
                Err(refused) => refuse(&self.exchange, refused),
            };
        }
        self.inner.set_limit(limit);
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.exchange.touch();
        match judge(new) {
            Ok(fits) => {
                self.held.extend_from_slice(&new[fits..]);
                buf.set_filled(before + fits);
                Poll::Ready(Ok(fits))
            }
            Err(refused) => {
                buf.set_filled(before);
                refuse(&self.exchange, refused)
            }
        }
    }

    /// Says why, closes, and waits for the other side to have read it.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mut farewell) = self.farewell.take() else {
            return Pin::new(self.inner.get_mut()).poll_shutdown(cx);
        };
        let result = self.poll_farewell_steps(cx, &mut farewell);
        if result.is_pending() {
            if self.poll_alarm(cx, LINGER).is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.farewell = Some(farewell);
        }
        result
    }

    fn poll_farewell_steps(
        &mut self,
        cx: &mut Context<'_>,
        farewell: &mut Farewell,
    ) -> Poll<io::Result<()>> {
        while farewell.written < farewell.text.len() {
            let rest = &farewell.text[farewell.written..];
            match ready!(Pin::new(self.inner.get_mut()).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => farewell.written += n,
            }
        }
        if !farewell.closed {
            ready!(Pin::new(self.inner.get_mut()).poll_shutdown(cx))?;
            farewell.closed = true;
        }
        self.inner.set_limit(u64::MAX);
        let mut buffer = Buffer::take();
        while farewell.lingered < LINGER_BYTES {
            match ready!(buffer.poll_fill(cx, &mut self.inner)) {
                Ok(0) | Err(_) => break,
                Ok(n) => farewell.lingered += n,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Wire> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Shut) {
                State::Head { seen } => ready!(this.poll_head(cx, seen))?,
                State::Pass { left, then } => {
                    let amount = left.min(buf.remaining());
                    buf.put_slice(&this.ahead()[..amount]);
                    this.advance(amount);
                    this.state = match left - amount {
                        0 => this.after_head(then),
                        left => State::Pass { left, then },
                    };
                    this.exchange.receive(this.state.is_body());
                    return Poll::Ready(Ok(()));
                }
                State::Length(left) => {
                    let passed = this.poll_body(cx, buf, left, |bytes| Ok(bytes.len()));
                    this.state = match &passed {
                        Poll::Pending => State::Length(left),
                        Poll::Ready(Ok(n)) if *n as u64 == left => State::Waiting,
                        Poll::Ready(Ok(n)) if *n > 0 => State::Length(left - *n as u64),
                        _ => State::Shut,
                    };
                    this.exchange.receive(this.state.is_body());
                    return passed.map_ok(|_| ());
                }
                State::Chunked(mut chunks) => {
                    let passed = this.poll_body(cx, buf, u64::MAX, |b| chunks.follow(b));
                    this.state = match &passed {
                        Poll::Ready(Ok(0) | Err(_)) => State::Shut,
                        Poll::Ready(_) if chunks.is_done() => State::Waiting,
                        _ => State::Chunked(chunks),
                    };
                    this.exchange.receive(this.state.is_body());
                    return passed.map_ok(|_| ());
                }
                State::Waiting => {
                    if this.exchange.poll_free(cx).is_ready() {
                        this.state = State::Head { seen: 0 };
                        continue;
                    }
                    this.state = State::Waiting;
                    if this.ahead().len() >= AHEAD {
                        return Poll::Pending;
                    }
                    if ready!(this.poll_more(cx))? == 0 {
                        this.state = State::Shut;
                    }
                }
                State::Shut => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: Wire> AsyncWrite for Gate<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(this.inner.get_mut()).poll_write(cx, buf))?;
        this.exchange.touch();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(this.inner.get_mut()).poll_write_vectored(cx, bufs))?;
        this.exchange.touch();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper comes by here each time that it is woken, whatever it waits for.
        if this.poll_vanished(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        ready!(Pin::new(this.inner.get_mut()).poll_flush(cx))?;
        this.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_farewell(cx)
    }
}

/// A whole answer, in plain words and for one line.
fn refusal(refused: Refused) -> Vec<u8> {
    let phrase = match refused.status {
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        _ => "Bad Request",
    };
    format!(
        "HTTP/1.1 {} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{}\n",
        refused.status,
        refused.why.len() + 1,
        refused.why
    )
    .into_bytes()
}
