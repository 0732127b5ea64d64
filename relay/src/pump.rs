//! Bytes both ways between two streams, until both directions have ended.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::buffer::Buffer;
use crate::stream::{LOOK, Wire};

/// How a pump came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides said that they were done.
    Finished,
    /// A side broke off, or cannot be written to any more.
    Broken,
    /// No byte passed for too long.
    Idle,
}

impl End {
    /// The word for it in the log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::Broken => "broken",
            End::Idle => "idle",
        }
    }
}

/// Bytes that passed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) inward: u64,
    pub(crate) outward: u64,
}

/// Moves bytes between a client and an app until both directions have ended,
/// one has failed, or nothing has passed for `idle`. The end of one direction
/// is passed on and leaves the other open. That the client has vanished is noticed
/// also while the app takes nothing more, so that nothing is read.
///
/// `passed` counts along, so that the numbers are there when this is dropped.
pub(crate) async fn pump<C, A>(
    client: &mut C,
    app: &mut A,
    idle: Duration,
    passed: &mut Passed,
) -> End
where
    C: Wire,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let (mut inward, mut outward) = (Direction::default(), Direction::default());
    let mut last = Instant::now();
    let mut alarm = pin!(sleep_until(last + idle.min(LOOK)));
    poll_fn(|cx| {
        let before = passed.inward + passed.outward;
        let one = inward.poll(cx, client, app, &mut passed.inward);
        let two = outward.poll(cx, app, client, &mut passed.outward);
        match (one, two) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {
                return Poll::Ready(End::Broken);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Finished),
            _ => {}
        }
        if passed.inward + passed.outward != before {
            last = Instant::now();
        }
        // The alarm is set anew only when it rings: most never do.
        while alarm.as_mut().poll(cx).is_ready() {
            if last.elapsed() >= idle {
                return Poll::Ready(End::Idle);
            }
            if client.is_broken() {
                return Poll::Ready(End::Broken);
            }
            alarm
                .as_mut()
                .reset((last + idle).min(Instant::now() + LOOK));
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    held: Option<Buffer>,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

impl Direction {
    fn poll<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        count: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = self.held.take().unwrap_or_else(Buffer::take);
            while !buffer.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, buffer.filled()) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => {
                        buffer.consume(n);
                        *count += n as u64;
                        self.unflushed = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.held = Some(buffer);
                        return Poll::Pending;
                    }
                }
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.shut = true;
                continue;
            }
            match buffer.poll_fill(cx, from) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => self.held = Some(buffer),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_end_of_one_direction_leaves_the_other_open() {
        let ((mut client, mut near), (mut far, mut app)) = (duplex(64), duplex(2048));
        let pumping = tokio::spawn(async move {
            let mut passed = Passed::default();
            let end = pump(&mut near, &mut far, LONG, &mut passed).await;
            (end, passed)
        });
        client.write_all(&[1; 1000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        app.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [1; 1000]);
        app.write_all(b"still here").await.unwrap();
        drop(app);
        got.clear();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"still here");
        let (end, passed) = pumping.await.unwrap();
        assert_eq!(end, End::Finished);
        assert_eq!((passed.inward, passed.outward), (1000, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn only_silence_in_both_directions_is_idleness() {
        let ((mut client, mut near), (mut far, mut app)) = (duplex(64), duplex(64));
        let pumping = tokio::spawn(async move {
            let mut passed = Passed::default();
            pump(&mut near, &mut far, LONG, &mut passed).await
        });
        let mut byte = [0];
        for _ in 0..3 {
            tokio::time::sleep(LONG * 2 / 3).await;
            app.write_all(b"x").await.unwrap();
            client.read_exact(&mut byte).await.unwrap();
        }
        let silent_since = Instant::now();
        assert_eq!(pumping.await.unwrap(), End::Idle);
        assert!(silent_since.elapsed() >= LONG && silent_since.elapsed() < LONG * 2);
    }

    #[tokio::test]
    async fn who_does_not_read_holds_the_other_back() {
        let ((mut client, mut near), (mut far, _app)) = (duplex(1024), duplex(1024));
        let pumping = tokio::spawn(async move {
            let mut passed = Passed::default();
            pump(&mut near, &mut far, LONG, &mut passed).await
        });
        let flood = vec![7; 1024 * 1024];
        let sent = tokio::time::timeout(Duration::from_millis(50), client.write_all(&flood)).await;
        assert!(sent.is_err(), "a megabyte went nowhere");
        pumping.abort();
    }
}
