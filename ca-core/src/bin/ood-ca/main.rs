//! `ood-ca`: a user's certificate authority on the command line.
//!
//! Parses arguments, calls the library, prints. Nothing else happens here.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod json;

use std::process::ExitCode;

use ca_core::cli;
use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    protect_keys();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(usage_exit_code(&error));
        }
    };
    let failed = match args.command {
        Command::NeedsRenewal(_) => NEEDS_RENEWAL_FAILED,
        _ => 1,
    };
    // A panic must not end with an exit code that means something else.
    let code = match std::panic::catch_unwind(|| commands::run(&args)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            cli::failure(&error, args.json);
            failed
        }
        Err(_) => failed,
    };
    // What could not be written was not said.
    ExitCode::from(if cli::everything_written() {
        code
    } else {
        failed
    })
}

/// For systemd's ExecCondition= only 255 is a failure; 1 to 254 mean "skip".
const NEEDS_RENEWAL_FAILED: u8 = 255;

fn usage_exit_code(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return 0;
    }
    let mut words = std::env::args_os().skip(1);
    if words.any(|word| word == "needs-renewal") {
        NEEDS_RENEWAL_FAILED
    } else {
        2
    }
}

/// The process holds private keys: no core dump, no debugger of the same user.
/// And what it creates is its user's alone, whatever umask it was started with.
fn protect_keys() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Where a container forbids it, the command still works.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
