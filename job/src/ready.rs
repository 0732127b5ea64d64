//! Waiting until the app answers.

use std::io;
use std::time::Duration;

use ood_relay::{Connect, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::supervise::Stranger;

/// What counts as an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// A status line of HTTP, whatever the status.
    #[default]
    Http,
    /// A connection.
    Tcp,
}

/// What came of the waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The app answers.
    Yes,
    /// Not in time; whether something there said anything, which was no HTTP.
    No { spoke: bool },
    /// Somebody else is there.
    From(Stranger),
}

/// Between two attempts: what the user waits beyond the app's own listening.
const PAUSE: Duration = Duration::from_millis(10);
/// For a connection: one that finds the app's queue full is not tried again soon
/// enough by the kernel.
const CONNECT: Duration = Duration::from_secs(5);
/// For what comes behind the status line, which is read only so that the app need
/// not log a broken pipe: for all of it, from one part to the next, and bytes.
const REST: Duration = Duration::from_millis(100);
const REST_PAUSE: Duration = Duration::from_millis(20);
const REST_BYTES: usize = 64 * 1024;

/// Waits until the app answers. `host` is what stands in the request's `Host`. An app
/// that takes a connection before it can answer is asked once and not again: what it
/// has been asked it will answer when it can.
pub(crate) async fn wait(app: &impl Connect, check: Check, host: &str, limit: Duration) -> Answer {
    let deadline = Instant::now() + limit;
    let mut spoke = false;
    loop {
        match timeout_at(deadline, ask(app, check, host)).await {
            Ok(Ok(())) => return Answer::Yes,
            Ok(Err(error)) => {
                let inner = error.get_ref().and_then(|e| e.downcast_ref());
                if let Some(stranger) = inner {
                    return Answer::From(*stranger);
                }
                spoke |= error.kind() == io::ErrorKind::InvalidData;
            }
            Err(_) => return Answer::No { spoke },
        }
        if Instant::now() >= deadline {
            return Answer::No { spoke };
        }
        sleep(PAUSE).await;
    }
}

async fn ask(app: &impl Connect, check: Check, host: &str) -> io::Result<()> {
    let mut stream = timeout(CONNECT, app.connect()).await??;
    if check == Check::Tcp {
        return Ok(());
    }
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ood-job\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 7];
    stream.read_exact(&mut start).await?;
    if start.starts_with(b"HTTP/1.") {
        let _ = timeout(REST, read_on(&mut stream)).await;
        return Ok(());
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn read_on(stream: &mut Stream) {
    let mut part = [0; 4096];
    let mut left = REST_BYTES;
    while let Ok(Ok(length @ 1..)) = timeout(REST_PAUSE, stream.read(&mut part)).await {
        left = left.saturating_sub(length);
        if left == 0 {
            return;
        }
    }
}
