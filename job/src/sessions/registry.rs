//! The directory of the records: entered, listed, taken away, and tidied up.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use ca_core::store::{Access, Dir, Durability, TEMPORARY_PREFIX, retry_stale};
use time::{Duration, OffsetDateTime};

use super::record::{
    JobId, MAX_RECORD, Record, file_name, is_file_name, parse, read, read_whatever_mode,
};
use super::state::{Here, State, judge};
use crate::error::{Error, Result};
use crate::owned;

/// What an interrupted writer has left, or is no record and is named like one, is
/// removed after this time.
const LEFTOVER: Duration = Duration::hours(1);

/// A session and the names it is registered under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What its files say.
    pub record: Record,
    /// `host:port`, each the name of a file.
    pub names: Vec<String>,
    /// Whether it is still there.
    pub state: State,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Sessions that are over.
    pub sessions: Vec<Session>,
    /// `host:port`, of files that are no records and not new any more.
    pub unreadable: Vec<String>,
}

/// What was taken away on request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unregistered {
    /// `host:port`, each the name of a file.
    pub names: Vec<String>,
    /// `None` if what was there is no record.
    pub session: Option<Session>,
}

/// The directory of a user's sessions.
#[derive(Clone, Debug)]
pub struct Registry {
    home: PathBuf,
}

impl Registry {
    /// `~/.ood/sessions` of the user who runs this.
    ///
    /// # Errors
    /// [`Error::Core`] if the home directory is not known.
    pub fn for_user() -> Result<Self> {
        let dirs = directories::BaseDirs::new().ok_or(ca_core::Error::NoHome)?;
        Ok(Self::in_home(dirs.home_dir().to_owned()))
    }

    /// `.ood/sessions` below this directory.
    #[must_use]
    pub fn in_home(home: PathBuf) -> Self {
        Registry { home }
    }

    /// Whether it is there and safe, or not there yet: before an app is started
    /// for nothing.
    ///
    /// # Errors
    /// [`Error::Core`] if others may write to it, or it is no directory of ours.
    pub fn check(&self) -> Result<()> {
        Ok(retry_stale(|| self.open()).map(drop)?)
    }

    fn create(&self) -> ca_core::Result<Dir> {
        let home = Dir::open(&self.home)?;
        let dot_ood = home.create_own(OsStr::new(".ood"), Durability::Synced)?;
        dot_ood.create_own(OsStr::new("sessions"), Durability::Relaxed)
    }

    fn open(&self) -> ca_core::Result<Option<Dir>> {
        let home = Dir::open(&self.home)?;
        let Some(dot_ood) = home.open_own(OsStr::new(".ood"))? else {
            return Ok(None);
        };
        dot_ood.open_own(OsStr::new("sessions"))
    }

    /// The directory and the names in it, if it is there.
    fn names(&self) -> Result<Option<(Dir, Vec<OsString>)>> {
        let listed = retry_stale(|| {
            let Some(dir) = self.open()? else {
                return Ok(None);
            };
            let names = dir.names()?;
            Ok(Some((dir, names)))
        });
        Ok(listed?)
    }

    /// Enters a session under these names of its host.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a name that no URL may hold; [`Error::Core`].
    pub fn register(&self, record: &Record, hosts: &[String]) -> Result<()> {
        let names: Vec<String> = hosts
            .iter()
            .map(|host| file_name(host, record.port))
            .collect::<Result<_>>()?;
        let text = serde_json::to_vec(record).map_err(|e| Error::system("write a record", e))?;
        // A session that is lost with its node needs no record either.
        let (access, durability) = (Access::Private, Durability::Relaxed);
        let entered = retry_stale(|| {
            let dir = self.create()?;
            let mut names = names.iter();
            names.try_for_each(|name| dir.replace(name, &text, access, durability))
        });
        Ok(entered?)
    }

    /// Takes a session away under these names, whatever mode its files have by
    /// now, unless another one has taken its place there. How many files that were.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn remove(&self, session: &str, hosts: &[String], port: u16) -> Result<usize> {
        let names = hosts.iter().map(|host| file_name(host, port));
        self.remove_names(session, &names.collect::<Result<Vec<_>>>()?)
    }

    /// Looks at each file right before it is removed: a new app may have got the
    /// port, and the name with it.
    fn remove_names(&self, session: &str, names: &[String]) -> Result<usize> {
        let mut removed = 0;
        retry_stale(|| {
            let Some(dir) = self.open()? else {
                return Ok(());
            };
            for name in names {
                let record = read_whatever_mode(&dir, name);
                if record.is_some_and(|record| record.session == session) && dir.remove(name)? {
                    removed += 1;
                }
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Takes the session away that is registered at this place, under all its
    /// names; or what is there without being a record, as the portal would take it
    /// for one.
    ///
    /// # Errors
    /// [`Error::NotRegistered`]; [`Error::BadArgument`]; [`Error::Core`].
    pub fn unregister(&self, host: &str, port: u16) -> Result<Unregistered> {
        let wanted = file_name(host, port)?;
        let all = self.list(OffsetDateTime::now_utc())?;
        if let Some(session) = all.into_iter().find(|s| s.names.contains(&wanted)) {
            self.remove_names(&session.record.session, &session.names)?;
            return Ok(Unregistered {
                names: session.names.clone(),
                session: Some(session),
            });
        }
        let removed = retry_stale(|| {
            let dir = self.open()?;
            let there = dir.filter(|dir| owned::look(dir, &wanted, 0).is_some());
            there.map(|dir| dir.remove(&wanted)).transpose()
        });
        match removed? {
            Some(true) => Ok(Unregistered {
                names: vec![wanted],
                session: None,
            }),
            _ => Err(Error::NotRegistered {
                host: host.to_owned(),
                port,
            }),
        }
    }

    /// All sessions, oldest first, stale ones too. What is no record of ours is
    /// passed over.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn list(&self, now: OffsetDateTime) -> Result<Vec<Session>> {
        let Some((dir, names)) = self.names()? else {
            return Ok(Vec::new());
        };
        let here = Here::look();
        let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
        for name in names {
            let Some(name) = name.to_str().filter(|n| is_file_name(n)) else {
                continue;
            };
            let Ok(Some(record)) = read(&dir, name) else {
                continue;
            };
            let state = judge(&record, &here, now);
            let fresh = || Session {
                record: record.clone(),
                names: Vec::new(),
                state,
            };
            let session = sessions.entry(record.session.clone()).or_insert_with(fresh);
            session.names.push(name.to_owned());
        }
        let mut all: Vec<Session> = sessions.into_values().collect();
        all.sort_by_key(|s| (s.record.created, s.record.session.clone()));
        for session in &mut all {
            session.names.sort();
        }
        Ok(all)
    }

    /// Removes what is stale, what interrupted writers have left, and what is named
    /// like a record and has not been one for an hour.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn prune(&self, now: OffsetDateTime) -> Result<Pruned> {
        self.prune_asking(now, |_| false)
    }

    /// As [`Registry::prune`], and also what belongs to a job that has ended by
    /// what `has_ended` says, such as [`crate::scheduler::has_ended`].
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn prune_asking(
        &self,
        now: OffsetDateTime,
        has_ended: impl Fn(&JobId) -> bool,
    ) -> Result<Pruned> {
        let mut stale = self.list(now)?;
        for session in &mut stale {
            let job = session.record.job.as_ref();
            if session.state == State::Live && job.is_some_and(&has_ended) {
                session.state = State::JobGone;
            }
        }
        stale.retain(|session| session.state != State::Live);
        for session in &stale {
            self.remove_names(&session.record.session, &session.names)?;
        }
        Ok(Pruned {
            sessions: stale,
            unreadable: self.remove_leftovers(now)?,
        })
    }

    /// What is no regular file is somebody's work and not ours to remove.
    fn remove_leftovers(&self, now: OffsetDateTime) -> Result<Vec<String>> {
        let Some((dir, names)) = self.names()? else {
            return Ok(Vec::new());
        };
        let here = Here::look();
        let mut unreadable = Vec::new();
        for name in names {
            let Some(name) = name.to_str() else {
                continue;
            };
            let temporary = name.starts_with(TEMPORARY_PREFIX);
            if !temporary && (!is_file_name(name) || matches!(read(&dir, name), Ok(Some(_)))) {
                continue;
            }
            let file = owned::look(&dir, name, MAX_RECORD.into());
            let Some(file) = file.filter(|f| now - f.modified > LEFTOVER) else {
                continue;
            };
            // A record that others may write is not believed, but its app may run.
            let live = parse(&file).is_some_and(|r| judge(&r, &here, now) == State::Live);
            if temporary || !live {
                dir.remove(name)?;
            }
            if !temporary && !live {
                unreadable.push(name.to_owned());
            }
        }
        unreadable.sort();
        Ok(unreadable)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::sessions::samples::{NOW, record};

    fn registry() -> (tempfile::TempDir, Registry) {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::in_home(home.path().to_owned());
        (home, registry)
    }

    fn hosts() -> Vec<String> {
        ["n1.cluster.example", "n1", "10.0.0.5"]
            .map(String::from)
            .into()
    }

    #[test]
    fn a_session_has_a_file_for_each_name_that_the_portal_may_look_up() {
        let (home, registry) = registry();
        assert_eq!(registry.list(NOW).unwrap(), []);
        registry.register(&record("a"), &hosts()).unwrap();
        for name in ["n1.cluster.example:4000", "n1:4000", "10.0.0.5:4000"] {
            use std::os::unix::fs::PermissionsExt;
            let meta = home
                .path()
                .join(".ood/sessions")
                .join(name)
                .metadata()
                .unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        }
        let all = registry.list(NOW).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].record, record("a"));
        assert_eq!(all[0].names.len(), 3);
        let taken = registry.unregister("n1", 4000).unwrap();
        assert_eq!((taken.names.len(), taken.session.is_some()), (3, true));
        assert_eq!(registry.list(NOW).unwrap(), []);
        let error = registry.unregister("n1", 4000).unwrap_err();
        assert_eq!(error.code(), "not-registered");
    }

    #[test]
    fn a_session_that_has_taken_the_place_of_another_stays() {
        let (_home, registry) = registry();
        registry.register(&record("a"), &hosts()).unwrap();
        registry.register(&record("b"), &["n1".into()]).unwrap();
        assert_eq!(registry.remove("a", &hosts(), 4000).unwrap(), 2);
        let left = registry.list(NOW).unwrap();
        assert_eq!(left[0].names, ["n1:4000"]);
    }

    #[test]
    fn what_was_stale_when_it_was_listed_is_looked_at_again_before_it_goes() {
        let (_home, registry) = registry();
        registry.register(&record("a"), &hosts()).unwrap();
        let listed = registry.list(NOW).unwrap();
        registry.register(&record("b"), &["n1".into()]).unwrap();
        let stale = &listed[0];
        registry
            .remove_names(&stale.record.session, &stale.names)
            .unwrap();
        let left = registry.list(NOW).unwrap();
        assert_eq!((left.len(), &*left[0].record.session), (1, "b"));
    }

    #[test]
    fn names_that_are_no_hosts_make_no_files() {
        let (_home, registry) = registry();
        for bad in [
            "../pki", "a/b", "", "a_b", "server.ood.internal", "::1", "1.2",
        ] {
            let error = registry.register(&record("a"), &[bad.into()]).unwrap_err();
            assert_eq!(error.code(), "bad-name", "{bad}");
        }
        assert_eq!(registry.list(NOW).unwrap(), []);
    }

    #[test]
    fn what_is_stale_is_seen_and_pruned() {
        let (_home, registry) = registry();
        let mut gone = record("gone");
        gone.holder.as_mut().unwrap().start_time += 1;
        let mut elsewhere = record("elsewhere");
        elsewhere.holder.as_mut().unwrap().node = "n2".into();
        let mut container = record("container");
        container.holder.as_mut().unwrap().pid_namespace = "pid:[1]".into();
        let expired = Record {
            holder: None,
            expires: NOW,
            ..record("expired")
        };
        // Its process is here and at work, so the job was extended.
        let extended = Record {
            expires: NOW,
            ..record("extended")
        };
        let all = [gone, elsewhere, container, expired, extended];
        for (port, one) in (5000..).zip(all) {
            let one = Record { port, ..one };
            registry.register(&one, &["n1".into()]).unwrap();
        }
        let pruned = registry.prune(NOW).unwrap();
        assert_eq!(pruned.unreadable, [""; 0]);
        let mut pruned: Vec<_> = pruned
            .sessions
            .iter()
            .map(|s| (&*s.record.session, s.state))
            .collect();
        pruned.sort_by_key(|(name, _)| *name);
        assert_eq!(
            pruned,
            [("expired", State::Expired), ("gone", State::ProcessGone)]
        );
        assert_eq!(registry.list(NOW).unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_record_is_passed_over_and_removed_in_time() {
        let (home, registry) = registry();
        registry.register(&record("a"), &hosts()).unwrap();
        let dir = home.path().join(".ood/sessions");
        for (name, text) in [
            ("n2:1", "{}"),
            ("n3:1", "garbage"),
            ("n6:1", ""),
            ("README", "x"),
            ("n4:x", ""),
            (".tmp-n1:4000-1", ""),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.join("n5:1")).unwrap();
        for name in ["n7:1", ".tmp-x"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        assert_eq!(registry.list(NOW).unwrap().len(), 1);
        let before: BTreeSet<_> = names_in(&dir);
        let now = OffsetDateTime::now_utc();
        assert_eq!(registry.prune(now).unwrap(), Pruned::default());
        assert_eq!(names_in(&dir), before);
        let pruned = registry.prune(now + Duration::hours(2)).unwrap();
        assert_eq!(pruned.sessions, []);
        assert_eq!(pruned.unreadable, ["n2:1", "n3:1", "n6:1"]);
        let left = names_in(&dir);
        let gone: Vec<_> = before.difference(&left).map(String::as_str).collect();
        assert_eq!(gone, [".tmp-n1:4000-1", "n2:1", "n3:1", "n6:1"]);
    }

    fn names_in(dir: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name();
        entries.map(|e| name(e).into_string().unwrap()).collect()
    }

    #[test]
    fn what_is_no_record_is_taken_away_on_request() {
        let (home, registry) = registry();
        registry.register(&record("a"), &hosts()).unwrap();
        let dir = home.path().join(".ood/sessions");
        std::fs::write(dir.join("n2:1"), "").unwrap();
        let taken = registry.unregister("n2", 1).unwrap();
        assert_eq!((&*taken.names, taken.session), (&["n2:1".into()][..], None));
        assert!(!dir.join("n2:1").exists());
        std::fs::create_dir(dir.join("n2:1")).unwrap();
        let error = registry.unregister("n2", 1).unwrap_err();
        assert_eq!(error.code(), "not-registered");
    }

    #[test]
    fn a_mode_that_somebody_has_changed_keeps_no_record_for_ever() {
        use std::os::unix::fs::PermissionsExt;
        let (home, registry) = registry();
        let dir = home.path().join(".ood/sessions");
        let (mut gone, live) = (record("gone"), record("live"));
        gone.holder.as_mut().unwrap().start_time += 1;
        gone.port = 5000;
        let chmod = |name: &str, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.join(name), mode).unwrap();
        };
        let later = OffsetDateTime::now_utc() + Duration::hours(2);
        for mode in [0o644, 0o666] {
            for one in [&gone, &live] {
                registry.register(one, &["n1".into()]).unwrap();
                chmod(&format!("n1:{}", one.port), mode);
            }
            registry.prune(later).unwrap();
            // Its app runs, so the portal must find it.
            assert_eq!(names_in(&dir), ["n1:4000".to_owned()].into(), "{mode:o}");
            assert_eq!(registry.remove("live", &["n1".into()], 4000).unwrap(), 1);
        }
        // Others may read it: no reason not to list it.
        registry.register(&live, &["n1".into()]).unwrap();
        chmod("n1:4000", 0o644);
        assert_eq!(registry.list(NOW).unwrap().len(), 1);
    }
}
