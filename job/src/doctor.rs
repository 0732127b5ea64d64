//! What this node allows, each with a verdict and a way out, and which way of
//! running an app follows from it. Nothing is taken for granted: it is tried.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ca_core::PkiLocation;

pub use ca_core::doctor::{Check, Verdict};

use crate::sandbox::outbound::{self, Tool};
use crate::sandbox::userns::Settings;
use crate::sandbox::wire::Failure;
use crate::sandbox::{self, Network, Outbound};

/// For one attempt.
const PATIENCE: Duration = Duration::from_secs(15);

/// How apps should be run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `ood-job run`, as it is.
    Private,
    /// With `--no-pidns`.
    PrivateSharedPids,
    /// With `--outbound none`.
    PrivateNoOutbound,
    /// With both.
    PrivateSharedPidsNoOutbound,
    /// With `--to unix:PATH`.
    UnixSocket,
}

impl Mode {
    /// What to add to `ood-job run`.
    #[must_use]
    pub fn flags(self) -> &'static str {
        match self {
            Mode::Private => "",
            Mode::PrivateSharedPids => "--no-pidns",
            Mode::PrivateNoOutbound => "--outbound none",
            Mode::PrivateSharedPidsNoOutbound => "--no-pidns --outbound none",
            Mode::UnixSocket => "--to unix:PATH",
        }
    }

    fn network(self) -> Option<Network> {
        let (pid_namespace, outbound) = match self {
            Mode::Private => (true, Outbound::Auto),
            Mode::PrivateSharedPids => (false, Outbound::Auto),
            Mode::PrivateNoOutbound => (true, Outbound::None),
            Mode::PrivateSharedPidsNoOutbound => (false, Outbound::None),
            Mode::UnixSocket => return None,
        };
        Some(Network::Private {
            pid_namespace,
            outbound,
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Private => "private",
            Mode::PrivateSharedPids => "private-shared-pids",
            Mode::PrivateNoOutbound => "private-no-outbound",
            Mode::PrivateSharedPidsNoOutbound => "private-shared-pids-no-outbound",
            Mode::UnixSocket => "unix-socket",
        })
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// One by one.
    pub checks: Vec<Check>,
    /// What follows.
    pub mode: Mode,
}

/// Looks at this node, and really makes and leaves the namespaces. The calling
/// process must have one thread.
#[must_use]
pub fn examine() -> Report {
    let mut checks = vec![user_namespaces(&Settings::read()), tun()];
    checks.extend(Tool::ALL.map(tool));
    if Tool::ALL.iter().all(|tool| tool.find().is_none()) {
        // Either is enough; without any the app has no way out.
        for check in &mut checks[2..] {
            check.verdict = Verdict::Failed;
        }
    }
    let mode = try_modes(&mut checks);
    Report { checks, mode }
}

/// The user's own authority, without which nothing runs: the worst of what
/// `ood-ca doctor` finds. None yet is fine, the first app makes one.
#[must_use]
pub fn authority(location: &ca_core::Result<PkiLocation>) -> Check {
    const NAME: &str = "authority";
    let location = match location {
        Ok(location) => location,
        Err(error) => return check(NAME, Verdict::Failed, error.to_string(), error.hint()),
    };
    let place = location.path();
    if !place.exists() {
        let home = place.ancestors().nth(2);
        if home.is_some_and(Path::exists) {
            let detail = "none yet; the first app makes one";
            return check(NAME, Verdict::Ok, detail, None);
        }
    }
    let found = ca_core::doctor::examine(location, ca_core::now());
    match found.into_iter().max_by_key(|check| check.verdict) {
        Some(worst) if worst.verdict != Verdict::Ok => check(
            NAME,
            worst.verdict,
            format!("{}: {}", worst.name, worst.detail),
            Some("see: ood-ca doctor".into()),
        ),
        _ => check(NAME, Verdict::Ok, place.display().to_string(), None),
    }
}

fn check(
    name: &'static str,
    verdict: Verdict,
    detail: impl Into<String>,
    fix: Option<String>,
) -> Check {
    Check {
        name,
        verdict,
        detail: detail.into(),
        fix,
    }
}

fn user_namespaces(settings: &Settings) -> Check {
    const NAME: &str = "user namespaces";
    if let Some((why, fix)) = settings.obstacle() {
        return check(
            NAME,
            Verdict::Failed,
            why,
            Some(format!("an administrator can allow them: {fix}")),
        );
    }
    match settings.most {
        Some(most) => check(NAME, Verdict::Ok, format!("allowed, {most} at most"), None),
        None => check(
            NAME,
            Verdict::Failed,
            "this kernel has none",
            Some("it needs CONFIG_USER_NS; run apps with --to unix:PATH".into()),
        ),
    }
}

fn tun() -> Check {
    const NAME: &str = "tun device";
    match outbound::tun() {
        Ok(()) => check(NAME, Verdict::Ok, "may be used", None),
        Err(Failure { why, hint, .. }) => {
            let fix = hint.split(';').next().unwrap_or_default().to_owned();
            check(NAME, Verdict::Failed, why, Some(fix))
        }
    }
}

fn tool(tool: Tool) -> Check {
    match tool.find() {
        Some(path) => check(tool.name(), Verdict::Ok, path.display().to_string(), None),
        None => check(
            tool.name(),
            Verdict::Warning,
            "not installed",
            Some(format!("have the package {} installed", tool.package())),
        ),
    }
}

/// From the best mode down, until one works.
fn try_modes(checks: &mut Vec<Check>) -> Mode {
    const NAME: &str = "private network";
    let mut first: Option<Failure> = None;
    for mode in [
        Mode::Private,
        Mode::PrivateSharedPids,
        Mode::PrivateNoOutbound,
        Mode::PrivateSharedPidsNoOutbound,
    ] {
        let Some(network) = mode.network() else {
            continue;
        };
        match (sandbox::try_out(network, PATIENCE), &first) {
            (Ok(()), None) => {
                checks.push(check(NAME, Verdict::Ok, "tried, and it works", None));
                return mode;
            }
            (Ok(()), Some(Failure { what, why, .. })) => {
                checks.push(check(
                    NAME,
                    Verdict::Warning,
                    format!(
                        "it works with {}; without, this node does not let you {what}: {why}",
                        mode.flags()
                    ),
                    Some(format!("run apps with: ood-job run {}", mode.flags())),
                ));
                return mode;
            }
            (Err(failure), None) => first = Some(failure),
            (Err(_), Some(_)) => {}
        }
    }
    let (what, why) = first.map_or_else(Default::default, |f| (f.what, f.why));
    checks.push(check(
        NAME,
        Verdict::Failed,
        format!("this node does not let you {what}: {why}"),
        Some("run apps with: ood-job run --to unix:PATH".into()),
    ));
    Mode::UnixSocket
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_forbids_user_namespaces_is_a_failure_with_a_fix() {
        let settings = |most| Settings {
            most,
            ..Settings::default()
        };
        assert_eq!(user_namespaces(&settings(Some(9))).verdict, Verdict::Ok);
        for none in [Some(0), None] {
            let found = user_namespaces(&settings(none));
            assert_eq!(found.verdict, Verdict::Failed);
            assert!(found.fix.is_some());
        }
    }
}
