//! How a run of the hook went: what the PUN will find, and what an administrator
//! should know.

use std::fmt::Write;
use std::time::Duration;

use ca_core::UserName;

use crate::error::Error;
use crate::log::Severity;
use crate::wire::{Failure, one_line};

/// What the PUN will find when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The user's jobs are reachable, by the user's trust bundle of now.
    Ready,
    /// The user's authority could not be asked; what was good the last time
    /// serves on.
    Kept,
    /// Locations that answer 503 and say why.
    Unavailable,
    /// None of our locations: Open OnDemand works as if we were not there.
    Absent,
    /// What was there, if anything: the directories could not be reached.
    Untouched,
}

impl Outcome {
    /// A stable word for scripts and the log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Ready => "ready",
            Outcome::Kept => "kept",
            Outcome::Unavailable => "unavailable",
            Outcome::Absent => "absent",
            Outcome::Untouched => "untouched",
        }
    }
}

/// Something that went wrong, in a form fit for one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable word.
    pub code: String,
    /// What went wrong.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: &str, message: impl AsRef<str>, hint: Option<&str>) -> Self {
        Problem {
            code: code.into(),
            message: one_line(message.as_ref()),
            hint: hint.map(one_line),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::new(error.code(), error.to_string(), error.hint().as_deref())
    }
}

impl From<ca_core::Error> for Problem {
    fn from(error: ca_core::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let hint = Some(failure.hint).filter(|hint| !hint.is_empty());
        Problem::new(&failure.code, failure.message, hint.as_deref())
    }
}

/// How a run of the hook went.
#[derive(Clone, Debug)]
pub struct HookReport {
    /// Whose PUN it was about.
    pub user: UserName,
    /// What the PUN will find.
    pub outcome: Outcome,
    /// Whether the snippet or the trust bundle was written.
    pub written: bool,
    /// How many authorities the PUN will trust.
    pub authorities: usize,
    /// What went wrong.
    pub problems: Vec<Problem>,
    /// What is worth a word though nothing is wrong.
    pub notices: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl HookReport {
    pub(crate) fn new(user: &UserName) -> Self {
        HookReport {
            user: user.clone(),
            outcome: Outcome::Untouched,
            written: false,
            authorities: 0,
            problems: Vec::new(),
            notices: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(crate) fn problem(&mut self, problem: impl Into<Problem>) {
        self.problems.push(problem.into());
    }

    /// Whether all is as it should be. nginx_stage starts the PUN in any case;
    /// it repeats what stands on stderr in its own log if this is not so.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.outcome == Outcome::Ready && self.problems.is_empty()
    }

    /// How urgent the line is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self.outcome {
            _ if self.is_good() => Severity::Info,
            Outcome::Ready | Outcome::Kept => Severity::Warning,
            Outcome::Unavailable | Outcome::Absent | Outcome::Untouched => Severity::Error,
        }
    }

    /// The line for the log.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!(
            "hook {}: {}, {}, {} trusted, {} ms",
            self.user,
            self.outcome.word(),
            if self.written { "written" } else { "unchanged" },
            self.authorities,
            self.took.as_millis(),
        );
        for problem in &self.problems {
            let _ = write!(line, "; {}: {}", problem.code, problem.message);
            if let Some(hint) = &problem.hint {
                let _ = write!(line, " ({hint})");
            }
        }
        for notice in &self.notices {
            let _ = write!(line, "; {}", one_line(notice));
        }
        line
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_one_line_whatever_went_wrong() {
        let mut report = HookReport::new(&UserName::parse("alice").unwrap());
        report.outcome = Outcome::Kept;
        report.authorities = 1;
        report.took = Duration::from_millis(5003);
        report.problem(Problem::new(
            "timeout",
            "the home directory\ndoes not answer",
            Some("look"),
        ));
        report.notices.push("one\nmore".into());
        assert_eq!(
            report.line(),
            "hook alice: kept, unchanged, 1 trusted, 5003 ms; timeout: the home directory does not answer (look); one more"
        );
        assert_eq!(report.severity(), Severity::Warning);
        assert!(!report.is_good());
    }
}
