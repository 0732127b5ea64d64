//! Text for people. Everything passes through [`printable`], so that no name of a
//! host, a user, a file or a process can write control sequences to a terminal.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::Failure;
use crate::text::{self, printable};

static WRITE_FAILED: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard output.
pub fn line(text: &str) {
    raw(format!("{}\n", printable(text)).as_bytes());
}

/// Writes what is already laid out, such as a script. Where it cannot be written
/// whole, standard error says so, once.
pub fn raw(bytes: &[u8]) {
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

/// Writes one object to standard output, on one line.
pub fn json(value: &Value) {
    raw(format!("{value}\n").as_bytes());
}

/// Writes rows of cells to standard output, in columns, each row after `indent`.
pub fn table<R: AsRef<[String]>>(rows: &[R], indent: &str) {
    for row in text::table(rows) {
        line(&format!("{indent}{row}"));
    }
}

/// Whether all output has reached where it was sent: what could not be written was
/// not said, and the command has failed.
#[must_use]
pub fn everything_written() -> bool {
    !WRITE_FAILED.load(Ordering::Relaxed)
}

/// Writes a line to standard error.
pub fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

/// Writes a warning to standard error.
pub fn warning(text: &str) {
    remark(&format!("warning: {text}"));
}

/// Writes an error and what to do about it to standard error.
pub fn problem(message: &str, hint: Option<&str>) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", printable(message));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {}", printable(hint));
    }
}

/// Writes why a command failed; for scripts, the JSON object too.
pub fn failure(error: &impl Failure, as_json: bool) {
    problem(&error.to_string(), error.hint().as_deref());
    if as_json {
        json(&super::error_json(error));
    }
}
