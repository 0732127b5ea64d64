//! The terminal, and whose turn it is.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Signal, getpgrp, kill_current_process_group};

use crate::processes;

/// The terminal that controls this process, also from its background: `fg` may
/// bring us to the front later.
pub(crate) fn controlling() -> Option<OwnedFd> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    terminal.ok().map(OwnedFd::from)
}

/// Whose turn it is at the terminal: the shell's, ours or the app's.
pub(crate) struct Turn {
    terminal: Option<OwnedFd>,
    /// The app has the foreground, as far as we know.
    given: bool,
    /// The app has stopped.
    stopped: bool,
}

impl Turn {
    pub(crate) fn new(terminal: Option<OwnedFd>) -> Self {
        Turn {
            terminal,
            given: false,
            stopped: false,
        }
    }

    /// Whether the app gets the foreground as it starts: it gets ours.
    pub(crate) fn start(&mut self) -> bool {
        self.given = self.is_ours();
        self.given
    }

    /// Takes the foreground back from the app that has stopped or ended.
    pub(crate) fn take_back(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|_| self.given)
            && !is_somebody_elses(terminal)
        {
            take_foreground(terminal);
        }
        self.given = false;
    }

    /// The app was stopped: from the terminal, so that the shell must see us stop
    /// and takes over; or by somebody who will let it go on. Whether it should go
    /// on at once, in the foreground.
    pub(crate) fn stopped(&mut self) -> bool {
        self.stopped = true;
        if self.terminal.is_none() {
            return false;
        }
        if !self.given && self.is_ours() {
            // `fg` has brought us to the front without a word, and the app did not
            // know that it may read.
            return self.go_on().is_some();
        }
        self.take_back();
        // The whole group, as the key does: a pipe's other programs too. It
        // returns when the shell lets us go on; or at once, as a shell without
        // job control has nobody who could, and then the kernel does not stop.
        let _ = kill_current_process_group(Signal::TSTP);
        // Else it was for the background, and SIGCONT says so.
        self.is_ours() && self.go_on().is_some()
    }

    /// SIGCONT has come. Whether it matters to the app, and if so whether it gets
    /// the foreground.
    pub(crate) fn go_on(&mut self) -> Option<bool> {
        let foreground = !self.given && self.is_ours();
        let matters = self.stopped || foreground;
        self.stopped = false;
        self.given |= foreground;
        matters.then_some(foreground)
    }

    /// Whether this process's group is in the foreground.
    fn is_ours(&self) -> bool {
        // In this order: in a process namespace that is not our group's, the group
        // has no number, and the foreground has none that could be told.
        let foreground = |terminal: &OwnedFd| rustix::termios::tcgetpgrp(terminal).ok();
        let foreground = self.terminal.as_ref().and_then(foreground);
        foreground.is_some_and(|group| group == getpgrp())
    }
}

/// Whether the shell, or another of its jobs, has taken the foreground from the app
/// meanwhile: somebody lives in its group who is none of ours.
fn is_somebody_elses(terminal: impl AsFd) -> bool {
    let Ok(group) = rustix::termios::tcgetpgrp(terminal) else {
        return false;
    };
    let group = group.as_raw_nonzero().get();
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let everything = processes::all();
    let ours = processes::descendants(me, &everything);
    let is_ours = |pid| pid == me || ours.iter().any(|p| p.pid == pid);
    let mut members = everything
        .iter()
        .filter(|p| p.group == group && !p.is_zombie);
    members.any(|p| !is_ours(p.pid))
}

fn take_foreground(terminal: impl AsFd) {
    // Who is in the background and changes that gets SIGTTOU, which stops.
    let mut stop = SigSet::empty();
    stop.add(NixSignal::SIGTTOU);
    let _ = stop.thread_block();
    let _ = rustix::termios::tcsetpgrp(terminal, getpgrp());
    let _ = stop.thread_unblock();
}

/// Signals that whoever started this process wants ignored, as nohup does with
/// SIGHUP: bit `n - 1` stands for signal `n`.
pub(crate) fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
