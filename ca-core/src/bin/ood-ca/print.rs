//! Text for people. Everything passes through [`printable`], so that a hostile
//! certificate cannot write control sequences to a terminal.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ca_core::Error;
use ca_core::text::{self, printable};

use crate::json;

static WRITE_FAILED: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    raw(format!("{}\n", printable(text)).as_bytes());
}

/// Writes what is already laid out, such as a script.
pub(crate) fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        // The reader has seen enough.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        Err(e) => {
            if !WRITE_FAILED.swap(true, Ordering::Relaxed) {
                let _ = writeln!(
                    std::io::stderr().lock(),
                    "error: cannot write the output: {e}"
                );
            }
        }
    }
}

/// Whether all output has reached where it was sent.
pub(crate) fn everything_written() -> bool {
    !WRITE_FAILED.load(Ordering::Relaxed)
}

pub(crate) fn warning(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {}", printable(text));
}

pub(crate) fn failure(error: &Error, json: bool) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {}", printable(&hint));
    }
    drop(stderr);
    if json {
        json::print(&json::error(error));
    }
}

/// Rows of cells, in columns.
pub(crate) fn table(rows: &[Vec<String>], indent: &str) {
    for row in text::table(rows) {
        line(&format!("{indent}{row}"));
    }
}
