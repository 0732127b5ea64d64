//! Connections to the app: made when needed, kept for a moment, used again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::http::body::Upload;
use crate::stream::{Connect, Stream};

/// A connection that has been idle for longer may have been closed by the app
/// just now; a request that must not be sent twice does not take that risk.
const FRESH: Duration = Duration::from_secs(1);

/// The way to send a request to the app.
pub(crate) type Sender = SendRequest<Upload>;

/// What a pool goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) connect: Duration,
    pub(crate) idle: Duration,
    pub(crate) most_idle: usize,
    pub(crate) head_bytes: usize,
    pub(crate) headers: usize,
}

pub(crate) struct Pool {
    connect: Arc<dyn Connect>,
    rules: Rules,
    /// The one that was used last is at the end.
    idle: Mutex<Vec<(Sender, Instant)>>,
    added: Notify,
}

impl Pool {
    pub(crate) fn new(connect: Arc<dyn Connect>, rules: Rules) -> Self {
        Pool {
            connect,
            rules,
            idle: Mutex::default(),
            added: Notify::new(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Sender, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was used before, if there is one fit for the purpose.
    pub(crate) fn reuse(&self, repeatable: bool) -> Option<Sender> {
        let most = if repeatable {
            self.rules.idle
        } else {
            self.rules.idle.min(FRESH)
        };
        let mut idle = self.idle();
        idle.retain(|(sender, _)| !sender.is_closed());
        let fit = |(sender, since): &(Sender, Instant)| sender.is_ready() && since.elapsed() < most;
        let at = idle.iter().rposition(fit)?;
        Some(idle.remove(at).0)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, sender: Sender) {
        if sender.is_closed() || self.rules.most_idle == 0 {
            return;
        }
        let mut idle = self.idle();
        if idle.len() >= self.rules.most_idle {
            idle.remove(0);
        }
        idle.push((sender, Instant::now()));
        drop(idle);
        self.added.notify_one();
    }

    /// Makes a stream to the app.
    pub(crate) async fn stream(&self) -> io::Result<Stream> {
        let limit = self.rules.connect;
        match timeout(limit, self.connect.connect()).await {
            Ok(stream) => Ok(stream?.without_delay()),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {limit:?}"),
            )),
        }
    }

    /// Makes a connection.
    pub(crate) async fn fresh(&self) -> io::Result<Sender> {
        let stream = self.stream().await?;
        let mut builder = http1::Builder::new();
        builder
            .preserve_header_case(true)
            .title_case_headers(true)
            .max_buf_size(buffer_size(self.rules.head_bytes))
            .max_header_size(self.rules.head_bytes);
        // Its default has room on the stack.
        if self.rules.headers != 100 {
            builder.max_headers(self.rules.headers);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends when its sender is dropped and the answer read, or the app ends
        // it; what fails is told to who waits for the answer.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    /// Closes what has been idle for too long, for as long as it is polled.
    pub(crate) async fn sweep(&self) {
        loop {
            let oldest = self.idle().first().map(|(_, since)| *since);
            match oldest {
                Some(since) => sleep_until(since + self.rules.idle).await,
                None => self.added.notified().await,
            }
            let most = self.rules.idle;
            self.idle()
                .retain(|(sender, since)| !sender.is_closed() && since.elapsed() < most);
        }
    }
}

/// How much hyper may read at once: a whole head, or a large piece of a body.
pub(crate) fn buffer_size(head_bytes: usize) -> usize {
    (head_bytes + 4096).max(64 * 1024)
}
