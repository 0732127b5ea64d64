//! The few calls that Rust cannot check: `fork`, signals and what belongs to them.
//! Nothing else in this crate is unsafe.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::ForkResult;
use rustix::io::FdFlags;
use rustix::process::Pid;

/// Which of the two this process is.
pub(super) enum Fork {
    /// The one that called.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a copy of this process, which must have one thread only: the copy
/// would have no other, and a lock held by another would stay locked in it.
pub(super) fn fork() -> io::Result<Fork> {
    if !has_one_thread()? {
        return Err(io::Error::other("this process has several threads"));
    }
    // SAFETY: with one thread, the child is a whole program: no lock is held by
    // a thread that does not exist there, so it may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Fork::Child),
        ForkResult::Parent { child } => Pid::from_raw(child.as_raw())
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::other("a process without a number")),
    }
}

fn has_one_thread() -> io::Result<bool> {
    Ok(fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Ends this process without running what its parent has registered for the
/// end of its own: buffers are the parent's to flush.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Lets this process be told of its children's ends, also if it was started by
/// a program that did not want to know of its own.
pub(super) fn want_child_ends() {
    set_ignored(Signal::SIGCHLD, false);
}

/// Has a signal ignored, or do what it does by default.
pub(super) fn set_ignored(which: Signal, ignored: bool) {
    let action = if ignored {
        SigHandler::SigIgn
    } else {
        SigHandler::SigDfl
    };
    // SAFETY: neither is a handler, so no code of ours runs in one. It can fail for
    // invalid numbers only.
    let _ = unsafe { signal(which, action) };
}

/// Sends any signal, the realtime ones too, for which the libraries have no type.
pub(super) fn send_signal(to: Pid, number: i32) -> io::Result<()> {
    // SAFETY: takes any two numbers; what it cannot do it refuses.
    let sent = unsafe { libc::kill(to.as_raw_nonzero().get(), number) };
    if sent == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

static PIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Whether SIGPIPE was ignored when this program was started.
pub(super) fn pipe_was_ignored() -> bool {
    PIPE_WAS_IGNORED.load(Ordering::Relaxed)
}

/// Runs before Rust's own start, which ignores SIGPIPE and does not tell what was
/// before.
#[used]
// SAFETY: the loader calls each function that this section lists once, before
// `main` and with one thread. This one needs nothing that is set up later.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_PIPE: extern "C" fn() = look_at_pipe;

extern "C" fn look_at_pipe() {
    // SAFETY: zeros are a valid value of this plain structure, and no new action is
    // given, so that the call only writes there what is.
    let (asked, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let asked = libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action);
        (asked, action)
    };
    let ignored = asked == 0 && action.sa_sigaction == libc::SIG_IGN;
    PIPE_WAS_IGNORED.store(ignored, Ordering::Relaxed);
}

/// Closes what the parent would not hand to a program it executes, but for
/// `keep`. What was left open on purpose by who started us stays open.
///
/// For the child of [`fork`] that never returns to code which owns those files.
pub(super) fn close_parents_files(keep: &[RawFd]) -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        // SAFETY: borrowed for one call; that of a closed number (the listing's
        // own) fails with EBADF. -1 is not in the listing.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        if rustix::io::fcntl_getfd(borrowed).is_ok_and(|f| f.contains(FdFlags::CLOEXEC)) {
            // Owners exist in the parent's part of the program only, which this
            // process never comes back to.
            let _ = nix::unistd::close(fd);
        }
    }
    Ok(())
}
