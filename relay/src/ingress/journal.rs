//! What is told of what happens, and how often.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::log::{Event, Log, Refusal};

/// Refusals that are told one by one before the rest are summed up, and how many
/// more may be for each interval that passes: who is refused must not fill a disk
/// with it.
const ONE_BY_ONE: u64 = 100;
const FOR_EACH_INTERVAL: u64 = 5;

#[derive(Debug)]
pub(super) struct Journal {
    log: Arc<dyn Log>,
    interval: Duration,
    budget: Mutex<Budget>,
    /// Not told yet.
    more: AtomicU64,
    /// Since the start.
    refused: AtomicU64,
    excess_told: AtomicBool,
    failure_told: AtomicBool,
    something: Notify,
}

/// How many refusals may still be told.
#[derive(Debug)]
struct Budget {
    left: u64,
    counted: Instant,
}

impl Budget {
    fn take(&mut self, interval: Duration) -> bool {
        let passed = self.counted.elapsed().as_nanos() / interval.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            let more = u64::from(passed).saturating_mul(FOR_EACH_INTERVAL);
            self.left = self.left.saturating_add(more).min(ONE_BY_ONE);
            self.counted = Instant::now();
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

impl Journal {
    pub(super) fn new(log: Arc<dyn Log>, interval: Duration) -> Self {
        Journal {
            log,
            interval,
            budget: Mutex::new(Budget {
                left: ONE_BY_ONE,
                counted: Instant::now(),
            }),
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
        let may = {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.take(self.interval)
        };
        if !may {
            self.more.fetch_add(1, Ordering::Relaxed);
        }
        self.something.notify_one();
        may
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
        self.excess_told.store(false, Ordering::Relaxed);
        self.failure_told.store(false, Ordering::Relaxed);
        let count = self.more.swap(0, Ordering::Relaxed);
        if count > 0 {
            self.tell(&Event::MoreRefused { count });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_told_in_ever_fewer_lines() {
        let interval = Duration::from_secs(10);
        let mut budget = Budget {
            left: ONE_BY_ONE,
            counted: Instant::now(),
        };
        let mut told = |attempts: u64| (0..attempts).filter(|_| budget.take(interval)).count();
        assert_eq!(told(1000), 100);
        for _ in 0..3 {
            sleep(interval).await;
            assert_eq!(told(1000), 5);
        }
        sleep(interval * 1000).await;
        assert_eq!(told(1000), 100);
    }
}
