//! Bytes both ways.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::ingress::doors::Tls;
use crate::ingress::{Calls, Shared};
use crate::log::{ConnectionRecord, Event};
use crate::pump::{End, Passed, pump};
use crate::stream::Carrying;
use crate::tls::Client;

/// Serves a connection to its end.
pub(super) async fn serve(
    shared: &Shared,
    mut stream: Tls,
    peer: SocketAddr,
    client: &Client,
    mut calls: Calls,
) {
    let began = Instant::now();
    let mut passed = Passed::default();
    let end = tokio::select! {
        // First: who is no longer trusted gets no byte through.
        biased;
        why = calls.cut() => why,
        end = carry(shared, &mut stream, &mut passed, peer, client) => end,
    };
    shared.journal.tell(&Event::Connection(ConnectionRecord {
        peer,
        user: client.leaf.subject().to_owned(),
        bytes_in: passed.inward,
        bytes_out: passed.outward,
        duration: began.elapsed(),
        end,
    }));
}

async fn carry(
    shared: &Shared,
    stream: &mut Tls,
    passed: &mut Passed,
    peer: SocketAddr,
    client: &Client,
) -> &'static str {
    let app = match shared.pool.stream().await {
        Ok(app) => app,
        Err(error) => {
            let user = Some(client.leaf.subject());
            shared.journal.refuse(peer, user, "app-unreachable", error);
            return "app-unreachable";
        }
    };
    let mut app = Carrying::new(app);
    let end = pump(
        stream, &mut app.stream, shared.options.timeouts.idle, passed,
    )
    .await;
    app.finished = end == End::Finished;
    end.word()
}
