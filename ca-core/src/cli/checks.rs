//! What a command has checked, for people.

use super::table;
use crate::doctor::{Check, Verdict};

/// The worst verdict of them all.
#[must_use]
pub fn worst(checks: &[Check]) -> Verdict {
    let verdicts = checks.iter().map(|check| check.verdict);
    verdicts.max().unwrap_or(Verdict::Ok)
}

/// Writes a line for each check, and below it what to do where something is wrong.
pub fn write_checks(checks: &[Check]) {
    let mut rows = Vec::new();
    for check in checks {
        let (verdict, name) = (check.verdict.to_string(), check.name.to_owned());
        rows.push(vec![verdict, name, check.detail.clone()]);
        if let Some(fix) = &check.fix {
            rows.push(vec![String::new(), String::new(), format!("fix: {fix}")]);
        }
    }
    table(&rows, "");
}
