//! `pun-helper`: the web host's side on the command line.
//!
//! Parses arguments, calls the library, prints. Nothing else happens here.
#![forbid(unsafe_code)]

mod args;
mod commands;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use ca_core::cli;
use clap::Parser;

use args::Args;

/// The name by which nginx_stage calls the hook.
const HOOK_NAME: &str = "ood-ca-hook";

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if words
        .get(1)
        .is_some_and(|word| word == pun_helper::root::AS_USER)
    {
        return ExitCode::from(pun_helper::root::as_user(&words[2..]));
    }
    let called = words.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(|name| name == HOOK_NAME) {
        words[0] = "pun-helper".into();
        words.insert(1, "hook".into());
    }
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match commands::run(&args) {
        // What could not be written was not said.
        Ok(_) if !cli::everything_written() => ExitCode::from(1),
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            cli::failure(&error, args.json);
            ExitCode::from(1)
        }
    }
}
