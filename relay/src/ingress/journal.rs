//! What is told of what happens, and how often.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::log::{Event, Log, Refusal};

/// Refusals that are told one by one before the rest of an interval's are summed
/// up: who is refused must not fill a disk with it.
const ONE_BY_ONE: u64 = 100;

#[derive(Debug)]
pub(super) struct Journal {
    log: Arc<dyn Log>,
    interval: Duration,
    /// Told in this interval.
    told: AtomicU64,
    /// Not told yet.
    more: AtomicU64,
    /// Since the start.
    refused: AtomicU64,
    excess_told: AtomicBool,
    failure_told: AtomicBool,
    something: Notify,
}

impl Journal {
    pub(super) fn new(log: Arc<dyn Log>, interval: Duration) -> Self {
        Journal {
            log,
            interval,
            told: AtomicU64::new(0),
            more: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            excess_told: AtomicBool::new(false),
            failure_told: AtomicBool::new(false),
            something: Notify::new(),
        }
    }

    pub(super) fn tell(&self, event: &Event) {
        self.log.log(event);
    }

    /// Somebody was not let in.
    pub(super) fn refuse(
        &self,
        peer: SocketAddr,
        user: Option<&str>,
        reason: &'static str,
        detail: impl ToString,
    ) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if self.may_tell_one_more() {
            self.tell(&Event::Refused(Refusal {
                peer,
                user: user.map(str::to_owned),
                reason,
                detail: detail.to_string(),
            }));
        }
    }

    /// More connections than there may be: told once in an interval.
    pub(super) fn refuse_excess(&self, peer: SocketAddr, most: usize) {
        if self.excess_told.swap(true, Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.more.fetch_add(1, Ordering::Relaxed);
        } else {
            let detail = format!("{most} connections are open");
            self.refuse(peer, None, "too-many-connections", detail);
        }
    }

    /// The system gives no connections: told once in an interval.
    pub(super) fn cannot_accept(&self, error: &io::Error) {
        if !self.failure_told.swap(true, Ordering::Relaxed) {
            let why = error.to_string();
            self.tell(&Event::CannotAccept { why });
            self.something.notify_one();
        }
    }

    fn may_tell_one_more(&self) -> bool {
        let told = self.told.fetch_add(1, Ordering::Relaxed);
        if told >= ONE_BY_ONE {
            self.more.fetch_add(1, Ordering::Relaxed);
        }
        self.something.notify_one();
        told < ONE_BY_ONE
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Sums up what was not told, once each interval, as long as it is polled.
    pub(super) async fn sum_up_in_time(&self) {
        loop {
            self.something.notified().await;
            sleep(self.interval).await;
            self.sum_up();
        }
    }

    /// Sums up what was not told.
    pub(super) fn sum_up(&self) {
        self.told.store(0, Ordering::Relaxed);
        self.excess_told.store(false, Ordering::Relaxed);
        self.failure_told.store(false, Ordering::Relaxed);
        let count = self.more.swap(0, Ordering::Relaxed);
        if count > 0 {
            self.tell(&Event::MoreRefused { count });
        }
    }
}
