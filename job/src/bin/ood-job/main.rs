//! `ood-job`: an app of a job, behind mutual TLS, on the command line.
//!
//! Parses arguments, calls the library, prints. Nothing else happens here.
#![forbid(unsafe_code)]

mod access_log;
mod args;
mod commands;
mod json;
mod panics;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use args::{Args, Command};
use ca_core::cli;

fn main() -> ExitCode {
    protect_keys();
    let args = match Args::of_process() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            let words: Vec<_> = std::env::args_os().collect();
            if let Some(hint) = args::usage_hint(&error, &words) {
                cli::remark(&format!("hint: {hint}"));
            }
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    panics::as_errors();
    // What panics has said so. It must not be taken for the app's own end.
    let outcome = std::panic::catch_unwind(|| commands::run(&args));
    let is_run = matches!(args.command, Command::Run(_));
    let failed = |run| if is_run { run } else { 1 };
    let code = match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            let code = failed(error.run_exit_code());
            within(LAST_WORDS, move || cli::failure(&error, args.json));
            code
        }
        Err(_) => failed(PANICKED),
    };
    // Half a configuration must not be taken for a whole one. `run` itself writes nothing
    // there: its code is the app's.
    ExitCode::from(if is_run || cli::everything_written() {
        code
    } else {
        1
    })
}

/// For whoever reads the last error. Nobody may: a paused terminal, a pipe that is
/// full; and signals are not what they were before the app ran.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Does something, and goes on when it takes longer.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let work = Arc::new(Mutex::new(Some(work)));
    let theirs = Arc::clone(&work);
    let (done, finished) = mpsc::sync_channel(1);
    let take = |work: &Mutex<Option<_>>| work.lock().ok().and_then(|mut work| work.take());
    let started = std::thread::Builder::new().spawn(move || {
        if let Some(work) = take(&theirs) {
            work();
        }
        let _ = done.send(());
    });
    match started {
        Ok(_) => drop(finished.recv_timeout(limit)),
        // At the process limit.
        Err(_) => {
            if let Some(work) = take(&work) {
                work();
            }
        }
    }
}

/// The exit code of `ood-job run` where it fails by itself.
pub(crate) const PANICKED: u8 = 125;

/// The process holds private keys: no core dump, and no debugger of the same
/// user, such as the app. Limits and the umask stay as they are, for the app
/// inherits them; what is written here has its mode from birth.
fn protect_keys() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // Where a container forbids it, the command still works.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
