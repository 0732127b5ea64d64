//! Text for people. Everything passes through [`printable`], so that a hostile
//! certificate cannot write control sequences to a terminal.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ca_core::Error;
use time::OffsetDateTime;

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

/// The text with control characters made visible.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let hidden = c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
            let escaped = hidden.then(|| c.escape_debug());
            escaped.into_iter().flatten().chain((!hidden).then_some(c))
        })
        .collect()
}

/// `2026-11-22 10:00 UTC`
pub(crate) fn time(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02} UTC",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute()
    )
}

/// Rows of cells, each column as wide as its widest cell.
pub(crate) fn table(rows: &[Vec<String>], indent: &str) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        line(&format!("{indent}{}", text.trim_end()));
    }
}
