//! The terminal, and whose turn it is.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Signal, getpgrp, getpid, kill_process};

/// The controlling terminal, if this process's group is in its foreground:
/// then that place is the app's while it runs.
pub(crate) fn in_foreground() -> Option<OwnedFd> {
    let terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()?;
    let foreground = rustix::termios::tcgetpgrp(&terminal).ok()?;
    (foreground == getpgrp()).then(|| terminal.into())
}

/// Takes the foreground back, as the app has stopped or ended.
pub(crate) fn take_back(terminal: impl AsFd) {
    // Who is in the background and changes that gets SIGTTOU, which stops.
    let mut stop = SigSet::empty();
    stop.add(NixSignal::SIGTTOU);
    let _ = stop.thread_block();
    let _ = rustix::termios::tcsetpgrp(terminal, getpgrp());
    let _ = stop.thread_unblock();
}

/// Stops this process as the app was stopped, so that the shell takes over. It
/// goes on with SIGCONT.
pub(crate) fn stop() {
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Whether this process's group is in the foreground.
pub(crate) fn is_ours(terminal: impl AsFd) -> bool {
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// Signals that whoever started this process wants ignored, as nohup does with
/// SIGHUP: bit `n - 1` stands for signal `n`.
pub(crate) fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
