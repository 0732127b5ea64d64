//! `ood-job`: an app of a job, behind mutual TLS, on the command line.
//!
//! Parses arguments, calls the library, prints. Nothing else happens here.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod json;
mod print;

use std::process::ExitCode;

use args::{Args, Command};

fn main() -> ExitCode {
    protect_keys();
    let args = match Args::of_process() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            let words: Vec<_> = std::env::args_os().collect();
            if let Some(hint) = args::usage_hint(&error, &words) {
                print::remark(&format!("hint: {hint}"));
            }
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    print::panics_as_errors();
    // What panics has said so. It must not be taken for the app's own end.
    let outcome = std::panic::catch_unwind(|| commands::run(&args));
    let failed = |run| match args.command {
        Command::Run(_) => run,
        _ => 1,
    };
    ExitCode::from(match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            print::failure(&error, args.json);
            failed(error.run_exit_code())
        }
        Err(_) => failed(PANICKED),
    })
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
