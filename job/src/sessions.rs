//! `~/.ood/sessions`: the destinations that the portal may reach where a site
//! sets `require_registration`. One small file each, named as the PUN looks it
//! up: `<host>:<port>`.
//!
//! Jobs are killed, nodes crash: a record may outlive what it names. Each holds
//! what it takes to see that, and whoever lists records prunes what is stale. What
//! the portal asks is only whether the file is there, so one that nobody can read
//! any more goes too, in time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ca_core::HostName;
use ca_core::store::{Access, Dir, Durability, TEMPORARY_PREFIX};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::error::{Error, Result};
use crate::owned::{self, Owned};
use crate::processes::{Seen, Stat};
use crate::scheduler::{Job, Scheduler};

/// Largest record that is read, in bytes. Ours have about 400.
const MAX_RECORD: u16 = 16 * 1024;

/// What an interrupted writer has left, or is no record and is named like one, is
/// removed after this time.
const LEFTOVER: Duration = Duration::hours(1);

/// The process that holds a session, named so that no other is taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node's own name, `uname -n`.
    pub node: String,
    /// Changes with each start of the node.
    pub boot_id: String,
    /// Which processes can see its number: the inode of its process namespace.
    pub pid_namespace: String,
    /// Its number there.
    pub pid: i32,
    /// When it started, in clock ticks since the node did.
    pub start_time: u64,
    /// The addresses of the node's network cards: another node may have its name.
    #[serde(default)]
    pub cards: Vec<String>,
}

impl Holder {
    /// This process, or another one that it can see.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if there is no such process, or nothing can be known
    /// of it.
    pub fn of(pid: i32) -> Result<Self> {
        let unusable = |why| {
            Error::argument(
                "process",
                &pid.to_string(),
                why,
                "give the number of the process that serves the port",
            )
        };
        let stat: Stat = match Seen::of(pid) {
            Seen::There(stat) => stat,
            Seen::Hidden => return Err(unusable("this node hides it from you")),
            Seen::Gone => return Err(unusable("there is none with this number here")),
        };
        let here = Here::look();
        Ok(Holder {
            node: here.node,
            boot_id: here.boot_id,
            pid_namespace: here.pid_namespace,
            pid,
            start_time: stat.start_time,
            cards: here.cards,
        })
    }

    /// This process.
    ///
    /// # Errors
    /// As [`Holder::of`].
    pub fn this() -> Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }
}

/// From where records are judged.
#[derive(Clone, Debug)]
struct Here {
    node: String,
    boot_id: String,
    pid_namespace: String,
    cards: Vec<String>,
}

impl Here {
    fn look() -> Self {
        let node = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let pids = std::fs::read_link("/proc/self/ns/pid");
        Here {
            node,
            boot_id: boot.unwrap_or_default().trim().to_owned(),
            pid_namespace: pids.unwrap_or_default().to_string_lossy().into_owned(),
            cards: cards(Path::new("/sys/class/net")),
        }
    }
}

/// The addresses that the makers of this node's network cards gave them. No other
/// node has them, which cannot be said of names (`localhost`) nor of the machine-id,
/// which a cluster's image may bring; and they stay when the node is restarted.
fn cards(class: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(class).into_iter().flatten();
    let address = |entry: std::io::Result<std::fs::DirEntry>| {
        let interface = entry.ok()?.path();
        let read = |name| std::fs::read_to_string(interface.join(name)).ok();
        // Ethernet, of a device: what software makes has none.
        if read("type")?.trim() != "1" || !interface.join("device").exists() {
            return None;
        }
        let address = read("address")?.trim().to_owned();
        let first = u8::from_str_radix(address.get(..2)?, 16).ok()?;
        // The second bit: chosen by whoever set it up, and perhaps everywhere the same.
        (first & 2 == 0 && address != "00:00:00:00:00:00").then_some(address)
    };
    let all: BTreeSet<String> = entries.filter_map(address).collect();
    all.into_iter().collect()
}

/// The job that a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobId {
    /// Which batch system.
    pub scheduler: Scheduler,
    /// Its number there.
    pub id: String,
}

impl From<&Job> for JobId {
    fn from(job: &Job) -> Self {
        JobId {
            scheduler: job.scheduler,
            id: job.id.clone(),
        }
    }
}

/// What one file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// A random identifier, the same under all names of the session.
    pub session: String,
    /// The name under which it is published.
    pub host: String,
    /// The port of the TLS end.
    pub port: u16,
    /// The process that holds it, where one is known.
    pub holder: Option<Holder>,
    /// The job that it belongs to.
    pub job: Option<JobId>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
    /// The program, without its arguments: those may hold secrets.
    pub command: Option<String>,
}

/// Whether what a record names is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may well be: nothing is known against it.
    Live,
    /// Its time is over.
    Expired,
    /// Its process has ended.
    ProcessGone,
    /// Its node was restarted.
    Restarted,
    /// The batch system knows its job no longer.
    JobGone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Live => "live",
            State::Expired => "expired",
            State::ProcessGone => "process-gone",
            State::Restarted => "node-restarted",
            State::JobGone => "job-gone",
        })
    }
}

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

/// A random identifier: 32 hexadecimal digits.
///
/// # Errors
/// [`Error::System`] if the system has no randomness to give.
pub fn new_id() -> Result<String> {
    let bytes = crate::random::<16>()?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
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
        self.open().map(drop)
    }

    fn create(&self) -> Result<Dir> {
        let home = Dir::open(&self.home)?;
        let dot_ood = home.create_own(OsStr::new(".ood"), Durability::Synced)?;
        Ok(dot_ood.create_own(OsStr::new("sessions"), Durability::Relaxed)?)
    }

    fn open(&self) -> Result<Option<Dir>> {
        let home = Dir::open(&self.home)?;
        let Some(dot_ood) = home.open_own(OsStr::new(".ood"))? else {
            return Ok(None);
        };
        Ok(dot_ood.open_own(OsStr::new("sessions"))?)
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
        let dir = self.create()?;
        for name in names {
            // A session that is lost with its node needs no record either.
            dir.replace(&name, &text, Access::Private, Durability::Relaxed)?;
        }
        Ok(())
    }

    /// Takes a session away under these names, whatever mode its files have by
    /// now, unless another one has taken its place there. How many files that were.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn remove(&self, session: &str, hosts: &[String], port: u16) -> Result<usize> {
        let Some(dir) = self.open()? else {
            return Ok(0);
        };
        let mut removed = 0;
        for host in hosts {
            let name = file_name(host, port)?;
            if read_whatever_mode(&dir, &name).is_some_and(|record| record.session == session)
                && dir.remove(&name)?
            {
                removed += 1;
            }
        }
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
            self.drop_names(&session)?;
            return Ok(Unregistered {
                names: session.names.clone(),
                session: Some(session),
            });
        }
        let dir = self.open()?;
        let there = dir.filter(|dir| owned::look(dir, &wanted, 0).is_some());
        match there.map(|dir| dir.remove(&wanted)).transpose()? {
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

    /// Looks again at each file first: since it was listed, a new job may have
    /// got the port, and the name with it.
    fn drop_names(&self, session: &Session) -> Result<()> {
        let Some(dir) = self.open()? else {
            return Ok(());
        };
        for name in &session.names {
            let record = read_whatever_mode(&dir, name);
            if record.is_some_and(|r| r.session == session.record.session) {
                dir.remove(name)?;
            }
        }
        Ok(())
    }

    /// All sessions, oldest first, stale ones too. What is no record of ours is
    /// passed over.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn list(&self, now: OffsetDateTime) -> Result<Vec<Session>> {
        let Some(dir) = self.open()? else {
            return Ok(Vec::new());
        };
        let here = Here::look();
        let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
        for name in dir.names()? {
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
            self.drop_names(session)?;
        }
        Ok(Pruned {
            sessions: stale,
            unreadable: self.remove_leftovers(now)?,
        })
    }

    /// What is no regular file is somebody's work and not ours to remove.
    fn remove_leftovers(&self, now: OffsetDateTime) -> Result<Vec<String>> {
        let Some(dir) = self.open()? else {
            return Ok(Vec::new());
        };
        let here = Here::look();
        let mut unreadable = Vec::new();
        for name in dir.names()? {
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

/// The name of the file, which the PUN puts together from the URL: a host name
/// or an IPv4 address, and a port.
fn file_name(host: &str, port: u16) -> Result<String> {
    let address = host.parse::<Ipv4Addr>().map(|a| a.to_string());
    let name = match address {
        Ok(address) => address,
        Err(_) => HostName::parse(host)?.to_string(),
    };
    if port == 0 {
        return Err(Error::argument(
            "port", "0", "no program listens there", "give a port from 1 to 65535",
        ));
    }
    Ok(format!("{name}:{port}"))
}

fn is_file_name(name: &str) -> bool {
    let parts = name.rsplit_once(':');
    let parsed = parts.and_then(|(host, port)| file_name(host, port.parse().ok()?).ok());
    parsed.is_some_and(|parsed| parsed == name)
}

/// `None` if there is none or it is no record. Others may read it, after a restore
/// say, but not write it.
fn read(dir: &Dir, name: &str) -> Result<Option<Record>> {
    let text = dir.read(name, Access::Public, MAX_RECORD.into())?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// For what is removed by what it says: `None` if there is none or it is no record.
fn read_whatever_mode(dir: &Dir, name: &str) -> Option<Record> {
    owned::look(dir, name, MAX_RECORD.into()).and_then(|file| parse(&file))
}

fn parse(file: &Owned) -> Option<Record> {
    serde_json::from_slice(file.content.as_ref()?).ok()
}

/// Whether the record's process is seen to run, on this node: what nothing is known
/// against may have ended all the same.
pub(crate) fn runs_here(record: &Record) -> bool {
    let here = Here::look();
    record.holder.as_ref().is_some_and(|holder| {
        let comparable = holder.node == here.node
            && holder.boot_id == here.boot_id
            && holder.pid_namespace == here.pid_namespace;
        let same = |stat: &Stat| stat.start_time == holder.start_time && !stat.is_zombie;
        comparable && matches!(Seen::of(holder.pid), Seen::There(stat) if same(&stat))
    })
}

fn judge(record: &Record, here: &Here, now: OffsetDateTime) -> State {
    if let Some(holder) = record.holder.as_ref().filter(|h| h.node == here.node) {
        if holder.boot_id != here.boot_id {
            // Restarted, or another node of this name, where it may be at work.
            if !here.cards.is_empty() && holder.cards == here.cards {
                return State::Restarted;
            }
        } else if holder.pid_namespace == here.pid_namespace {
            // A process of another namespace, such as a container, has a number
            // that means nothing here.
            let same = |stat: &Stat| stat.start_time == holder.start_time && !stat.is_zombie;
            match Seen::of(holder.pid) {
                Seen::There(stat) if same(&stat) => return State::Live,
                Seen::There(_) | Seen::Gone => return State::ProcessGone,
                // It holds a key, so nobody can look into it, and this node shows
                // nobody what they cannot look into.
                Seen::Hidden => {}
            }
        }
    }
    if record.expires <= now {
        State::Expired
    } else {
        State::Live
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-25 12:00 UTC);

    fn record(session: &str) -> Record {
        Record {
            session: session.into(),
            host: "n1.cluster.example".into(),
            port: 4000,
            holder: Some(Holder::this().unwrap()),
            job: None,
            created: NOW,
            expires: NOW + Duration::hours(1),
            command: Some("jupyter".into()),
        }
    }

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
        registry.drop_names(&listed[0]).unwrap();
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
    fn a_node_of_the_same_name_is_not_taken_for_this_one_restarted() {
        let here = Here {
            cards: vec!["00:25:90:00:00:01".into(), "00:25:90:00:00:02".into()],
            ..Here::look()
        };
        let judged = |boot: &str, cards: &[&str], at| {
            let mut record = record("a");
            let holder = record.holder.as_mut().unwrap();
            holder.boot_id = boot.into();
            holder.cards = cards.iter().map(ToString::to_string).collect();
            judge(&record, &here, at)
        };
        let ours: Vec<&str> = here.cards.iter().map(String::as_str).collect();
        assert_eq!(judged("before", &ours, NOW), State::Restarted);
        let others: [&[&str]; 3] = [&[], &ours[..1], &["00:25:90:00:00:09"]];
        for cards in others {
            assert_eq!(judged("another", cards, NOW), State::Live, "{cards:?}");
            let later = NOW + Duration::hours(2);
            assert_eq!(judged("another", cards, later), State::Expired);
        }
        // Where nothing tells this node from others, nothing says that it is the one.
        let nameless = Here {
            cards: Vec::new(),
            ..here.clone()
        };
        let mut before = record("a");
        let holder = before.holder.as_mut().unwrap();
        (holder.boot_id, holder.cards) = ("before".into(), Vec::new());
        assert_eq!(judge(&before, &nameless, NOW), State::Live);
        // A record from before there were any.
        let mut value = serde_json::to_value(&before).unwrap();
        value["holder"].as_object_mut().unwrap().remove("cards");
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), before);
    }

    #[test]
    fn only_what_is_seen_to_run_is_said_to() {
        let running = record("a");
        assert!(runs_here(&running));
        for change in [
            |holder: &mut Holder| holder.node = "n2".into(),
            |holder: &mut Holder| holder.boot_id = "before".into(),
            |holder: &mut Holder| holder.pid_namespace = "another".into(),
            |holder: &mut Holder| holder.start_time += 1,
        ] {
            let mut other = running.clone();
            change(other.holder.as_mut().unwrap());
            assert!(!runs_here(&other), "{other:?}");
        }
    }

    #[test]
    fn only_addresses_that_a_maker_gave_name_the_node() {
        let class = tempfile::tempdir().unwrap();
        for (name, kind, address, device) in [
            ("eth1", "1", "ac:1f:6b:00:00:02", true),
            ("eth0", "1", "ac:1f:6b:00:00:01", true),
            ("lo", "772", "00:00:00:00:00:00", false),
            ("ib0", "32", "80:00:02:08", true),
            ("docker0", "1", "02:42:ac:11:00:02", false),
            ("bond0", "1", "ac:1f:6b:00:00:01", false),
            ("usb0", "1", "be:3a:f2:b6:05:9f", true),
            ("down", "1", "00:00:00:00:00:00", true),
        ] {
            let interface = class.path().join(name);
            std::fs::create_dir(&interface).unwrap();
            std::fs::write(interface.join("type"), format!("{kind}\n")).unwrap();
            std::fs::write(interface.join("address"), format!("{address}\n")).unwrap();
            if device {
                std::fs::create_dir(interface.join("device")).unwrap();
            }
        }
        assert_eq!(
            cards(class.path()),
            ["ac:1f:6b:00:00:01", "ac:1f:6b:00:00:02"]
        );
        assert_eq!(cards(&class.path().join("none")), [""; 0]);
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
