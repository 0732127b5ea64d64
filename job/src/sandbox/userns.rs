//! User namespaces in which everybody is who they were.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::wire::Failure;
use crate::error::OTHER_WAYS;

/// The one user and group that a namespace made without privilege can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    uid: u32,
    gid: u32,
}

impl Ids {
    /// Those of this process, to be taken before it enters a namespace: there
    /// it is nobody until the maps are written.
    pub(super) fn current() -> Self {
        Ids {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

/// Enters new namespaces, one of users among them, and maps this process's user
/// and group to themselves. Other groups stay in force, unnamed.
pub(super) fn enter(new: CloneFlags, own: Ids, what: &str) -> Result<(), Failure> {
    let fail = |error: io::Error| refused(what, &error, Settings::read);
    unshare(new).map_err(|e| fail(e.into()))?;
    let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    // Demanded before a group map may be written without privilege (user_namespaces(7)).
    write("setgroups", "deny".into()).map_err(fail)?;
    write("uid_map", format!("{0} {0} 1", own.uid)).map_err(fail)?;
    write("gid_map", format!("{0} {0} 1", own.gid)).map_err(fail)
}

/// What decides whether a user may make a namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// `user.max_user_namespaces`: how many there may be; 0 means none.
    pub(crate) most: Option<u64>,
    /// `kernel.unprivileged_userns_clone` of Debian's older kernels: 0 means none.
    pub(crate) clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` of Ubuntu: 1 means that
    /// they come without power.
    pub(crate) apparmor: Option<u64>,
}

impl Settings {
    /// Reads them; what this kernel does not have is `None`.
    pub(crate) fn read() -> Self {
        let number = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            text.trim().parse().ok()
        };
        Settings {
            most: number("user/max_user_namespaces"),
            clone: number("kernel/unprivileged_userns_clone"),
            apparmor: number("kernel/apparmor_restrict_unprivileged_userns"),
        }
    }

    /// The setting that forbids it, and how an administrator would change it.
    pub(crate) fn obstacle(&self) -> Option<(&'static str, &'static str)> {
        if self.most == Some(0) {
            return Some((
                "user.max_user_namespaces is 0", "sysctl user.max_user_namespaces=15000",
            ));
        }
        if self.clone == Some(0) {
            return Some((
                "kernel.unprivileged_userns_clone is 0",
                "sysctl kernel.unprivileged_userns_clone=1",
            ));
        }
        if self.apparmor == Some(1) {
            return Some((
                "kernel.apparmor_restrict_unprivileged_userns is 1",
                "an AppArmor profile for ood-job that has `userns,` (or sysctl kernel.apparmor_restrict_unprivileged_userns=0)",
            ));
        }
        None
    }
}

fn refused(what: &str, error: &io::Error, settings: impl Fn() -> Settings) -> Failure {
    let (why, hint) = match settings().obstacle() {
        Some((why, fix)) => (
            format!("{error} ({why})"),
            format!("an administrator can allow it: {fix}; {OTHER_WAYS}"),
        ),
        // It is not about a disk (unshare(2)).
        None if error.raw_os_error() == Some(Errno::ENOSPC as i32) => (
            "there are as many namespaces as there may be".into(),
            format!(
                "end other apps of yours on this node; an administrator can raise user.max_user_namespaces and its like; {OTHER_WAYS}"
            ),
        ),
        None => (
            error.to_string(),
            format!("a container around the job may forbid it; {OTHER_WAYS}"),
        ),
    };
    Failure {
        what: what.into(),
        why,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_namespaces_are_no_full_disk() {
        let error = io::Error::from_raw_os_error(Errno::ENOSPC as i32);
        let some = || Settings {
            most: Some(9),
            ..Settings::default()
        };
        let failure = refused("create a namespace", &error, some);
        assert!(failure.why.contains("as many namespaces"), "{failure:?}");
        assert!(failure.hint.contains("--to unix:PATH"), "{failure:?}");
    }

    #[test]
    fn a_refusal_names_the_setting_that_forbids_it() {
        let error = io::Error::from_raw_os_error(1);
        for (settings, said) in [
            (
                Settings {
                    most: Some(0),
                    ..Settings::default()
                },
                "max_user_namespaces",
            ),
            (
                Settings {
                    clone: Some(0),
                    ..Settings::default()
                },
                "unprivileged_userns_clone",
            ),
            (
                Settings {
                    apparmor: Some(1),
                    ..Settings::default()
                },
                "AppArmor",
            ),
            (
                Settings {
                    most: Some(9),
                    clone: Some(1),
                    apparmor: Some(0),
                },
                "container",
            ),
        ] {
            let failure = refused("create a namespace", &error, || settings.clone());
            assert!(failure.hint.contains(said), "{failure:?}");
            assert!(failure.hint.contains("--to unix:PATH"), "{failure:?}");
        }
    }
}
