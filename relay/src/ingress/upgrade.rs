//! Connections that stop being HTTP: WebSockets.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::http::gate::Gate;
use crate::ingress::Calls;
use crate::ingress::doors::Tls;
use crate::ingress::http::Progress;
use crate::pump::{End, Passed, pump};
use crate::stream::{Carrying, Stream};

/// How long a farewell may take that nobody may be waiting for.
const CLOSING: Duration = Duration::from_secs(2);

/// A connection that both sides agreed to use otherwise.
pub(super) struct Upgrade {
    client: OnUpgrade,
    app: OnUpgrade,
    progress: Box<Progress>,
}

impl Upgrade {
    pub(super) fn new(client: OnUpgrade, app: OnUpgrade, progress: Box<Progress>) -> Self {
        Upgrade {
            client,
            app,
            progress,
        }
    }

    /// Carries bytes both ways until the end.
    pub(super) async fn carry(mut self, idle: Duration, calls: &mut Calls) {
        let mut passed = Passed::default();
        let end = tokio::select! {
            biased;
            _ = calls.cut() => None,
            end = carry(self.client, self.app, idle, &mut passed) => end,
        };
        self.progress.carried(passed, end == Some(End::Finished));
    }
}

async fn carry(
    client: OnUpgrade,
    app: OnUpgrade,
    idle: Duration,
    passed: &mut Passed,
) -> Option<End> {
    let (client, app) = (client.await.ok()?, app.await.ok()?);
    let client = client.downcast::<TokioIo<Gate<Tls>>>().ok()?;
    let app = app.downcast::<TokioIo<Stream>>().ok()?;
    let (mut stream, ahead) = client.io.into_inner().into_parts();
    let mut carrying = Carrying::new(app.io.into_inner());
    // What came right behind the heads.
    let behind = async {
        carrying.stream.write_all(&client.read_buf).await?;
        carrying.stream.write_all(&ahead).await?;
        stream.write_all(&app.read_buf).await?;
        stream.flush().await
    };
    timeout(idle, behind).await.ok()?.ok()?;
    passed.inward += (client.read_buf.len() + ahead.len()) as u64;
    passed.outward += app.read_buf.len() as u64;
    let end = pump(&mut stream, &mut carrying.stream, idle, passed).await;
    carrying.finished = end == End::Finished;
    Some(end)
}

/// Closes a connection that was offered for an upgrade which did not come about,
/// as hyper would have closed it.
pub(super) async fn close(offered: OnUpgrade) {
    let closing = async {
        if let Ok(client) = offered.await
            && let Ok(client) = client.downcast::<TokioIo<Gate<Tls>>>()
        {
            let _ = client.io.into_inner().shutdown().await;
        }
    };
    let _ = timeout(CLOSING, closing).await;
}
