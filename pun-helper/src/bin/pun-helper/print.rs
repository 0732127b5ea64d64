//! Text for people. Everything passes through [`printable`], so that nothing
//! that a user named can write control sequences to an administrator's terminal.

use std::io::Write;

use ca_core::text::{self, printable};
use pun_helper::Error;
use serde_json::{Value, json};

/// Writes a line to standard output. A closed pipe is the reader's choice.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", printable(text));
}

/// Writes what is already laid out.
pub(crate) fn raw(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes one object, on one line.
pub(crate) fn json(value: &Value) {
    raw(&format!("{value}\n"));
}

pub(crate) fn warning(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {}", printable(text));
}

pub(crate) fn error(message: &str, hint: Option<&str>) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", printable(message));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {}", printable(hint));
    }
}

pub(crate) fn failure(failed: &Error, as_json: bool) {
    error(&failed.to_string(), failed.hint().as_deref());
    if as_json {
        json(&json!({
            "error": {
                "code": failed.code(),
                "message": failed.to_string(),
                "hint": failed.hint(),
            }
        }));
    }
}

/// Rows of cells, in columns.
pub(crate) fn table(rows: &[Vec<String>]) {
    text::table(rows).iter().for_each(|row| line(row));
}
