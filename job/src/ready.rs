//! Waiting until the app answers.

use std::io;
use std::time::Duration;

use ood_relay::Connect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

/// What counts as an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// A status line of HTTP, whatever the status.
    #[default]
    Http,
    /// A connection.
    Tcp,
}

/// Between two attempts: what the user waits beyond the app's own listening.
const PAUSE: Duration = Duration::from_millis(10);
/// For one attempt. An app that takes connections before it can answer is asked
/// again.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Waits until the app answers; `false` when the time is over. `host` is what
/// stands in the request's `Host`.
pub(crate) async fn wait(app: &impl Connect, check: Check, host: &str, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answered = timeout(left.min(ATTEMPT), ask(app, check, host)).await;
        if matches!(answered, Ok(Ok(()))) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
}

async fn ask(app: &impl Connect, check: Check, host: &str) -> io::Result<()> {
    let mut stream = app.connect().await?;
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
        // Read on, so that the app need not log a broken pipe.
        let mut rest = [0; 4096];
        while matches!(
            timeout(Duration::from_millis(20), stream.read(&mut rest)).await,
            Ok(Ok(1..))
        ) {}
        return Ok(());
    }
    Err(io::ErrorKind::InvalidData.into())
}
