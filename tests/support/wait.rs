//! Waiting for events, bounded, instead of sleeping for a guessed time.

use std::time::{Duration, Instant};

/// How long to leave the processor to others between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// Looks again and again until `look` finds something, and fails the test if
/// that takes longer than `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// Does something again and again until `over` says that it is enough, at
/// least once. Returns how often.
pub fn repeatedly(over: impl Fn() -> bool, mut act: impl FnMut(usize)) -> usize {
    let mut times = 0;
    loop {
        act(times);
        times += 1;
        if over() {
            return times;
        }
    }
}
