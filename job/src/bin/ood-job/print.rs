//! Text for people. Everything passes through [`printable`], so that no name of
//! a process or a host can write control sequences to a terminal.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ca_core::text::{self, printable};
use ood_job::Error;

use crate::json;

static WRITE_FAILED: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    raw(format!("{}\n", printable(text)).as_bytes());
}

/// Writes what is already laid out.
pub(crate) fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        // The reader has seen enough.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        Err(e) => {
            if !WRITE_FAILED.swap(true, Ordering::Relaxed) {
                remark(&format!("error: cannot write the output: {e}"));
                remark("hint: is there room where it goes to?");
            }
        }
    }
}

/// Whether all output has reached where it was sent.
pub(crate) fn everything_written() -> bool {
    !WRITE_FAILED.load(Ordering::Relaxed)
}

/// Writes a line to standard error: the app's own output is not mixed with it.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

pub(crate) fn warning(text: &str) {
    remark(&format!("warning: {text}"));
}

pub(crate) fn failure(error: &Error, as_json: bool) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {}", printable(&hint));
    }
    drop(stderr);
    if as_json {
        json::print(&json::error(error));
    }
}

/// Has a panic say what happened in one line, as any other failure. Where threads or
/// files are short while the runtime is made, the process ends with that: it would
/// wait for ever for the threads that it has got.
pub(crate) fn panics_as_errors() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message = message.or(payload.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("for no known reason");
        let message = message.lines().next().unwrap_or_default();
        let place = info.location().map(ToString::to_string);
        let place = place.unwrap_or_default();
        if ood_job::run::is_building_runtime() {
            remark(&format!(
                "error: you have too few processes or open files left: {message}"
            ));
            std::process::exit(i32::from(crate::PANICKED));
        }
        if std::thread::current().name() == Some("main") {
            remark(&format!("error: cannot go on: {message} ({place})"));
        } else {
            warning(&format!("a part of ood-job failed: {message} ({place})"));
        }
    }));
}

/// Rows of cells, in columns.
pub(crate) fn table(rows: &[Vec<String>]) {
    text::table(rows).iter().for_each(|row| line(row));
}
