//! What the commands of this house share: how they print, what `--json` says of
//! an error, completions and manual pages. Only with the feature `cli`.
//!
//! Standard output is for what was asked for, standard error for what went wrong
//! or should be known; a command asks [`everything_written`] before it ends.

mod checks;
mod json;
mod manual;
mod print;

pub use checks::{worst, write_checks};
pub use json::{checks as checks_json, error as error_json, timestamp};
pub use manual::{completions, man, subcommand_name};
pub use print::{everything_written, failure, json, line, problem, raw, remark, table, warning};

/// An error as a user meets it: one line, a word for scripts, and what to do.
pub trait Failure: std::fmt::Display {
    /// A word that stays the same, for scripts.
    fn code(&self) -> &'static str;
    /// What to do about it.
    fn hint(&self) -> Option<String>;
}

impl Failure for crate::Error {
    fn code(&self) -> &'static str {
        crate::Error::code(self)
    }

    fn hint(&self) -> Option<String> {
        crate::Error::hint(self)
    }
}
