//! Text for people, laid out the same by every command. Nothing here is printed.

use std::path::Path;

use time::{OffsetDateTime, UtcOffset};

/// The text with control characters, and those that change its direction, made
/// visible: whoever named a host, a user or a file must not write control sequences
/// to somebody's terminal.
///
/// ```
/// assert_eq!(ca_core::text::printable("n1\u{1b}[2J"), r"n1\u{1b}[2J");
/// ```
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let hidden = c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
            let escaped = hidden.then(|| c.escape_debug());
            escaped.into_iter().flatten().chain((!hidden).then_some(c))
        })
        .collect()
}

/// A path as a word of a shell's command, for hints that somebody pastes.
///
/// ```
/// use ca_core::text::quoted;
/// assert_eq!(quoted("/home/alice/.ood/pki"), "/home/alice/.ood/pki");
/// assert_eq!(quoted("/home/alice/it's; reboot"), r"'/home/alice/it'\''s; reboot'");
/// assert_eq!(quoted("-rf"), "./-rf");
/// ```
#[must_use]
pub fn quoted(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if text.starts_with('-') {
        // In quotes it would still be an option.
        return quoted(Path::new(".").join(path));
    }
    if text.chars().all(plain) && text.starts_with(|c: char| c != '=') {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The time to the minute, UTC: `2026-11-22 10:00 UTC`.
#[must_use]
pub fn minute(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02} UTC",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute()
    )
}

/// A line for each row of cells, each column as wide as its widest cell.
///
/// ```
/// let rows = [["n1".to_owned(), "8888".to_owned()], ["node".to_owned(), "1".to_owned()]];
/// assert_eq!(ca_core::text::table(&rows), ["n1    8888", "node  1"]);
/// ```
pub fn table<R: AsRef<[String]>>(rows: &[R]) -> Vec<String> {
    let rows: Vec<&[String]> = rows.iter().map(AsRef::as_ref).collect();
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &&[String]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
