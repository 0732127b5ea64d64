//! The hook: gets everything ready for a user's PUN, which is about to start.
//!
//! Here it is decided what the PUN gets; what is done for it with root's power
//! is in [`crate::root`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ca_core::{SiteConfig, TrustBundle, UserName, now};

use crate::conf::check_snippet;
use crate::error::Error;
use crate::facts::{HostFacts, SNIPPET, UserPaths, unavailable, web_host};
use crate::names::NginxVersion;
use crate::nginx;
use crate::render::{Snippet, Unavailable};
use crate::report::{HookReport, Outcome, Problem};
use crate::root::{self, Account, Desk, Refusal, UserPart};
use crate::user::Task;

/// What the hook is asked to do.
#[derive(Clone, Debug)]
pub struct HookRequest {
    /// Whose PUN is about to start.
    pub user: UserName,
    /// The site's configuration, if it is not in the usual place.
    pub config: Option<PathBuf>,
}

/// Gets everything ready for a user's PUN, which is about to start.
#[must_use]
pub fn hook(request: &HookRequest) -> HookReport {
    let started = Instant::now();
    let mut report = HookReport::new(&request.user);
    if !root::enter() {
        let hint = "run it as root; what it would print for you: pun-helper render";
        report.problem(Problem::new("not-root", "the hook needs root", Some(hint)));
        return report;
    }
    match SiteConfig::load(request.config.as_deref()) {
        Ok(site) => {
            // First, as it may be what creates the home directory.
            if let Some(previous) = &site.also_run {
                let limit = site.hook_timeout.as_duration();
                report
                    .notices
                    .extend(root::run_previous_hook(previous, &request.user, limit));
            }
            root::no_new_privileges();
            if let Err(problem) = prepare(request, &site, &mut report) {
                report.problem(problem);
            }
        }
        // Without it not even the directories are known. What is there stays:
        // nginx, too, goes on with its old configuration when the new is wrong.
        Err(error) => report.problem(error),
    }
    report.took = started.elapsed();
    report
}

fn prepare(
    request: &HookRequest,
    site: &SiteConfig,
    report: &mut HookReport,
) -> Result<(), Problem> {
    let account = Account::find(&request.user)?;
    let host = Host::look(site, &account)?;
    let part = host.start_user_part(&account, request, report);
    // The lock is taken only now, so that a home directory which hangs holds up
    // nobody else's hook, and the trust bundle is asked for only under it, so
    // that no older one can overwrite a newer one.
    let mut desk = Desk::open(site, &account)?;
    let asked = part.and_then(|mut part| {
        let bundle = part.trust()?;
        Ok((part, bundle))
    });
    let (part, basis, outcome) = match asked {
        Ok((part, bundle)) => (Some(part), Ok(bundle), Outcome::Ready),
        Err(refusal) => (None, last_good(&desk, refusal, report), Outcome::Kept),
    };
    let before = desk.trust.clone();
    report.outcome = match basis.and_then(|bundle| host.full(&mut desk, &bundle, report)) {
        Ok(()) => outcome,
        Err(why) => host.fall_back(&mut desk, why, report),
    };
    if matches!(report.outcome, Outcome::Ready | Outcome::Kept) {
        report.authorities = desk.trust.as_ref().map_or(0, |t| t.authorities().len());
        if let Some(mut part) = part {
            record(&desk, &mut part, before.as_ref(), report);
        }
    }
    desk.close();
    Ok(())
}

/// Why the full snippet cannot be had, and what the 503 page says instead.
struct Instead {
    problem: Problem,
    reason: Unavailable,
}

impl Instead {
    fn broken(problem: impl Into<Problem>) -> Self {
        Instead {
            problem: problem.into(),
            reason: Unavailable::Broken,
        }
    }
}

/// This web host, and the nginx that will read the snippet.
pub(crate) struct Host<'a> {
    site: &'a SiteConfig,
    pub(crate) facts: Result<HostFacts, Problem>,
    pub(crate) paths: Result<UserPaths, Problem>,
    pub(crate) binary: Result<(PathBuf, String), Problem>,
    user: UserName,
}

impl<'a> Host<'a> {
    pub(crate) fn look(site: &'a SiteConfig, account: &Account) -> Result<Self, Problem> {
        let missing = || {
            let hint = "install Open OnDemand's nginx, or name yours with nginx: in ood_ca.yml";
            Problem::new("no-nginx", "no nginx was found", Some(hint))
        };
        let binary = nginx::find(site).ok_or_else(missing).and_then(|path| {
            let identity = nginx::identity(&path).map_err(|e| Error::io("inspect", &path, e))?;
            Ok((path, identity))
        });
        Ok(Host {
            site,
            facts: HostFacts::gather(site.clone(), None).map_err(Problem::from),
            paths: UserPaths::new(site, &account.name, &account.home).map_err(Problem::from),
            binary,
            user: account.name.clone(),
        })
    }

    pub(crate) fn start_user_part(
        &self,
        account: &Account,
        request: &HookRequest,
        report: &mut HookReport,
    ) -> Result<UserPart, Refusal> {
        let paths = self.paths.as_ref().map_err(|problem| Refusal {
            problem: problem.clone(),
            passing: false,
        })?;
        let task = Task {
            pki_dir: paths.pki_dir(),
            web_host: web_host(self.site),
            config: request.config.clone(),
        };
        let (part, notices) = UserPart::start(account, &task, self.limit())?;
        report.notices.extend(notices);
        Ok(part)
    }

    /// Puts the snippet in place that makes the user's jobs reachable.
    fn full(
        &self,
        desk: &mut Desk,
        bundle: &TrustBundle,
        report: &mut HookReport,
    ) -> Result<(), Instead> {
        let facts = self
            .facts
            .as_ref()
            .map_err(|p| Instead::broken(p.clone()))?;
        let paths = self
            .paths
            .as_ref()
            .map_err(|p| Instead::broken(p.clone()))?;
        if facts
            .rules()
            .map_err(Instead::broken)?
            .host_regex()
            .is_none()
        {
            let hint = "set host_regex in ood_ca.yml to what your compute nodes are called";
            return Err(Instead {
                problem: Problem::new("no-hosts", "no host_regex is set", Some(hint)),
                reason: Unavailable::NoHostsConfigured,
            });
        }
        let version = self.version(desk).map_err(Instead::broken)?;
        let snippet = facts.render(paths, version).map_err(|error| Instead {
            reason: match error {
                Error::Resolver { .. } => Unavailable::NoResolver,
                _ => Unavailable::Broken,
            },
            problem: error.into(),
        })?;
        self.put(desk, &snippet, Some(bundle), report)
            .map_err(Instead::broken)
    }

    /// What the PUN gets when the full snippet cannot be had.
    fn fall_back(&self, desk: &mut Desk, why: Instead, report: &mut HookReport) -> Outcome {
        report.problem(why.problem);
        if why.reason == Unavailable::Broken && self.old_one_is_right(desk) {
            return Outcome::Kept;
        }
        let put = unavailable(self.site, &self.user, why.reason)
            .map_err(Problem::from)
            .and_then(|snippet| self.put(desk, &snippet, None, report));
        let Err(problem) = put else {
            return Outcome::Unavailable;
        };
        report.problem(problem);
        // A PUN without our locations is better than no PUN.
        match desk.snippets.remove(SNIPPET) {
            Ok(true) => report.written = true,
            Ok(false) => {}
            Err(error) => report.problem(error),
        }
        Outcome::Absent
    }

    /// Whether what lies there would still let the PUN start, and belongs to
    /// this user.
    fn old_one_is_right(&self, desk: &Desk) -> bool {
        let (Some(text), Some(trust)) = (&desk.snippet, &desk.trust) else {
            return false;
        };
        let accepted = || match &self.binary {
            Ok((binary, _)) => self.accepts(binary, text, Some(trust)).is_ok(),
            Err(_) => true,
        };
        desk.is_this_users() && check_snippet(text).is_ok() && accepted()
    }

    /// The version of nginx: from memory, as long as the binary is the same.
    fn version(&self, desk: &Desk) -> Result<NginxVersion, Problem> {
        let (binary, identity) = self.binary.as_ref().map_err(Clone::clone)?;
        if let Some((known, version)) = &desk.memory.accepted_by
            && known == identity
        {
            return Ok(*version);
        }
        root::version_of(binary, self.limit())
    }

    pub(crate) fn limit(&self) -> Duration {
        self.site.hook_timeout.as_duration()
    }

    /// Checks a snippet and puts it, and the bundle it names, in place. nginx
    /// is asked only if something has changed since it last said yes.
    fn put(
        &self,
        desk: &mut Desk,
        snippet: &Snippet,
        bundle: Option<&TrustBundle>,
        report: &mut HookReport,
    ) -> Result<(), Problem> {
        let text = snippet.as_str();
        check_snippet(text)?;
        let new_text = desk.snippet.as_deref() != Some(text);
        // Also if it is not known whose it is: a crash may have cost that file.
        let new_trust =
            bundle.is_some() && (desk.trust.as_ref() != bundle || !desk.is_this_users());
        match &self.binary {
            Ok((binary, identity)) => {
                let known = desk.memory.accepted_by.as_ref();
                let same_nginx = known.is_some_and(|(known, _)| known == identity);
                if new_text || new_trust || !same_nginx {
                    let version = self.version(desk)?;
                    self.accepts(binary, text, bundle)?;
                    desk.memory.accepted_by = Some((identity.clone(), version));
                }
            }
            Err(problem) if bundle.is_some() => return Err(problem.clone()),
            // Without nginx there is no PUN that the 503 could break.
            Err(_) => {}
        }
        // The bundle first: a snippet must never name a file that is not there.
        if let Some(bundle) = bundle.filter(|_| new_trust) {
            desk.write_trust(bundle)?;
            report.written = true;
        }
        if new_text {
            desk.write_snippet(text)?;
            report.written = true;
        }
        Ok(())
    }

    /// Asks nginx whether it accepts a snippet.
    pub(crate) fn accepts(
        &self,
        binary: &Path,
        text: &str,
        bundle: Option<&TrustBundle>,
    ) -> Result<(), Problem> {
        let paths = self.paths.as_ref().ok();
        let trust = paths.map(|p| &p.trust_file).zip(bundle);
        root::nginx_accepts(binary, text, trust, self.limit())
    }
}

/// The bundle of the last time, if what went wrong will pass and the bundle
/// is this user's and not all over.
fn last_good(
    desk: &Desk,
    refusal: Refusal,
    report: &mut HookReport,
) -> Result<TrustBundle, Instead> {
    let lives = |t: &&TrustBundle| t.authorities().iter().any(|a| !a.is_expired(now()));
    let kept = desk.trust.as_ref().filter(lives);
    match kept.filter(|_| refusal.passing && desk.is_this_users()) {
        Some(bundle) => {
            report.problem(refusal.problem);
            Ok(bundle.clone())
        }
        None => Err(Instead {
            problem: refusal.problem,
            reason: Unavailable::NoAuthority,
        }),
    }
}

/// Has the user's part record what the PUN will load. A PUN that runs
/// already has loaded what it has loaded: nothing is recorded then.
fn record(desk: &Desk, part: &mut UserPart, before: Option<&TrustBundle>, report: &mut HookReport) {
    if desk.pun_runs {
        report
            .notices
            .push("the PUN runs: it takes this up when it is restarted".into());
        return;
    }
    let before = before.filter(|_| desk.crowded);
    let sure = desk
        .trust
        .as_ref()
        .and_then(|trust| surely_loaded(trust, before));
    let Some(sure) = sure else { return };
    if let Err(refusal) = part.record(&sure) {
        report.problem(refusal.problem);
    }
}

/// What may be recorded as loaded by a PUN that starts about now.
///
/// Another hook may have run a moment ago with the bundle `before`, and it may
/// be its nginx that wins: then only what stands in both is sure to be loaded.
/// To record less than was loaded only makes a rotation wait for one more start.
pub(crate) fn surely_loaded(
    now: &TrustBundle,
    before: Option<&TrustBundle>,
) -> Option<TrustBundle> {
    let Some(before) = before else {
        return Some(now.clone());
    };
    let both = now.authorities().iter().filter(|a| before.contains(a));
    let pem: String = both.map(ca_core::Certificate::to_pem).collect();
    TrustBundle::from_pem(pem.as_bytes()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ca_core::{Authority, PkiLocation, SiteConfig, now};

    fn bundle() -> TrustBundle {
        let home = tempfile::tempdir().unwrap();
        let location = PkiLocation::at(home.path().join("pki")).unwrap();
        let authority = Authority::ensure(&location, &SiteConfig::default(), now()).unwrap();
        authority.trust().clone()
    }

    #[test]
    fn of_two_hooks_at_once_what_both_wrote_is_recorded() {
        let (old, new) = (bundle(), bundle());
        let both = TrustBundle::from_pem((old.to_pem() + &new.to_pem()).as_bytes()).unwrap();
        assert_eq!(surely_loaded(&both, None).unwrap(), both);
        assert_eq!(surely_loaded(&both, Some(&old)).unwrap(), old);
        assert_eq!(surely_loaded(&old, Some(&both)).unwrap(), old);
        assert_eq!(surely_loaded(&new, Some(&old)), None);
    }
}
