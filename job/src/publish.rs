//! Telling the portal where the app is: `connection.yml` or JSON.
//!
//! The file is one app's for as long as that runs. It has the file itself locked
//! (`flock`), so that no other file is needed to say so, and the lock ends with its
//! process. Whoever replaces or removes a file locks it before, and looks whether it
//! is still the one in place; a new one comes by a hard link, which of many at once
//! one can make.

use std::fmt::Write;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use ca_core::store::{Access, Dir, Durability, TEMPORARY_PREFIX, retry_stale};

use crate::error::{Error, Result};
use crate::owned;

/// Largest file that is looked into, in bytes. Ours have about 100.
const MAX_FILE: u64 = 4096;

/// Who looks at a file, replaces or removes it has it locked meanwhile: how often it
/// is tried, and the pause in between. Who holds it for longer runs.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Where an app can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The node's full name.
    pub host: String,
    /// The port of the TLS end.
    pub port: u16,
    /// The session's random identifier.
    pub session: String,
}

/// The file that says so.
#[derive(Clone, Debug)]
pub struct PublishFile {
    dir: PathBuf,
    name: String,
    json: bool,
}

impl PublishFile {
    /// A path whose ending says what is written: `.json`, or `.yml` and `.yaml`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for another ending.
    pub fn parse(path: &Path) -> Result<Self> {
        let refuse = |why| {
            Error::argument(
                "file to publish in",
                &path.to_string_lossy(),
                why,
                "name a file such as connection.yml or connection.json",
            )
        };
        let absolute = std::path::absolute(path).map_err(|_| refuse("it names no file"))?;
        let name = absolute.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(dir)) = (name, absolute.parent()) else {
            return Err(refuse("it names no file"));
        };
        let json = match absolute.extension().and_then(|e| e.to_str()) {
            Some("json") => true,
            Some("yml" | "yaml") => false,
            _ => return Err(refuse("its ending says neither YAML nor JSON")),
        };
        Ok(PublishFile {
            dir: dir.to_owned(),
            name: name.to_owned(),
            json,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// An error that names the file, and not one by which it comes to be.
    fn about(&self, error: ca_core::Error) -> Error {
        Error::Core(match error {
            ca_core::Error::Io { action, source, .. } => ca_core::Error::Io {
                action,
                path: self.path(),
                source,
            },
            other => other,
        })
    }

    fn open_dir(&self) -> Result<Dir> {
        Ok(retry_stale(|| Dir::open(&self.dir))?)
    }

    /// Whether it could be written, and is free for it: before an app is started for
    /// nothing. `runs` says of a session whether it is known to run.
    ///
    /// # Errors
    /// [`Error::Core`] if its directory is not there or takes no file;
    /// [`Error::BadArgument`] if a file is there that tells of no session, and that
    /// somebody may still want, or of one that runs.
    pub fn check(&self, runs: impl Fn(&str) -> bool) -> Result<()> {
        let dir = self.open_dir()?;
        self.wait_for(&dir, File::try_lock_shared, &runs)?;
        let trial = temporary_name()?;
        let tried = retry_stale(|| {
            dir.replace(&trial, b"", Access::Private, Durability::Relaxed)?;
            dir.remove(&trial)
        });
        tried.map(drop).map_err(|e| self.about(e))
    }

    /// Writes it in one step, for its owner alone, and holds it from then on: of
    /// all that do so at once, on this node and, where the file system has locks
    /// for all its nodes, on others, one gets it.
    ///
    /// # Errors
    /// As [`PublishFile::check`].
    pub fn claim(&self, connection: &Connection, runs: impl Fn(&str) -> bool) -> Result<Claim> {
        let text = if self.json {
            json(connection)
        } else {
            yaml(connection)
        };
        let dir = self.open_dir()?;
        let trial = temporary_name()?;
        let text = text.as_bytes();
        retry_stale(|| dir.replace(&trial, text, Access::Private, Durability::Relaxed))
            .map_err(|e| self.about(e))?;
        let claimed = self.put_in_place(&dir, &trial, &connection.session, &runs);
        let _ = dir.remove(&trial);
        claimed
    }

    fn put_in_place(
        &self,
        dir: &Dir,
        new: &str,
        session: &str,
        runs: &impl Fn(&str) -> bool,
    ) -> Result<Claim> {
        for _ in 0..LOOKS {
            let before = self.wait_for(dir, File::try_lock, runs)?;
            if !self.replace(dir, new, before.as_ref())? {
                // Another one was faster: a file of its own is there by now.
                continue;
            }
            // Not opened under its other name: a client of NFS would keep that.
            let _ = dir.remove(new);
            return match self.hold(dir, session) {
                Some(claim) => Ok(claim),
                // Taken over before it was locked.
                None => Err(self.taken()),
            };
        }
        Err(self.taken())
    }

    /// `before` is what was there, locked, so that nobody else replaces it. `false`
    /// if something is there now and was not.
    fn replace(&self, dir: &Dir, new: &str, before: Option<&File>) -> Result<bool> {
        let (from, to) = (dir.path().join(new), self.path());
        if before.is_none() {
            match std::fs::hard_link(&from, &to) {
                Ok(()) => return Ok(true),
                // A file server may have done it and been asked once more.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    let new = owned::open(dir, new);
                    return Ok(new.is_some_and(|new| owned::is_in_place(&new, dir, &self.name)));
                }
                Err(e) if e.kind() == ErrorKind::StaleNetworkFileHandle => return Ok(false),
                // Not every file system has links.
                Err(_) => {}
            }
        }
        dir.rename(new, &self.name)?;
        Ok(true)
    }

    /// Locks what was put in place. Who looks at it has it locked for a moment.
    fn hold(&self, dir: &Dir, session: &str) -> Option<Claim> {
        for _ in 0..LOOKS {
            let file = owned::open_to_lock(dir, &self.name)?;
            if self.told_in(&file).as_deref() != Some(session) {
                return None;
            }
            match locked(File::try_lock(&file)) {
                Some(true) if owned::is_in_place(&file, dir, &self.name) => {
                    return Some(Claim { _file: Some(file) });
                }
                Some(_) => sleep(PAUSE),
                None => return Some(Claim { _file: None }),
            }
        }
        None
    }

    /// What is there and may be replaced, locked; `None` if nothing is.
    fn wait_for(
        &self,
        dir: &Dir,
        lock: fn(&File) -> Result<(), TryLockError>,
        runs: &impl Fn(&str) -> bool,
    ) -> Result<Option<File>> {
        for _ in 0..LOOKS {
            let Some(file) = owned::open_to_lock(dir, &self.name) else {
                if std::fs::symlink_metadata(self.path()).is_err() {
                    return Ok(None);
                }
                // It may have come this moment.
                if owned::open(dir, &self.name).is_some() {
                    continue;
                }
                return Err(self.foreign());
            };
            let session = match owned::content(&file, MAX_FILE) {
                Some(text) if text.is_empty() => None,
                Some(text) => {
                    let told = self.session_in(&String::from_utf8_lossy(&text));
                    Some(told.ok_or_else(|| self.foreign())?)
                }
                None => return Err(self.foreign()),
            };
            if session.is_some_and(|session| runs(&session)) {
                return Err(self.taken());
            }
            match locked(lock(&file)) {
                Some(true) if owned::is_in_place(&file, dir, &self.name) => return Ok(Some(file)),
                // Its app runs, where it cannot be seen, or somebody looks at it or
                // replaces it, which takes a moment.
                Some(_) => sleep(PAUSE),
                // No locks here: what can be seen must do.
                None => return Ok(Some(file)),
            }
        }
        Err(self.taken())
    }

    fn refused(&self, why: &'static str, hint: &'static str) -> Error {
        let path = self.path();
        Error::argument("file to publish in", &path.to_string_lossy(), why, hint)
    }

    fn foreign(&self) -> Error {
        self.refused(
            "it is there and tells of no session: it would be replaced, and removed at the end",
            "name another file, or move that one away",
        )
    }

    fn taken(&self) -> Error {
        self.refused(
            "it tells of another app, which runs",
            "name another file for this one; see: ood-job sessions. If its node has crashed, remove the file",
        )
    }

    fn told_in(&self, file: &File) -> Option<String> {
        let text = owned::content(file, MAX_FILE)?;
        self.session_in(&String::from_utf8_lossy(&text))
    }

    /// The session that a file tells of.
    fn session_in(&self, text: &str) -> Option<String> {
        if self.json {
            let value: serde_json::Value = serde_json::from_str(text).ok()?;
            return Some(value["session"].as_str()?.to_owned());
        }
        let quoted = |line: &str| {
            let inner = line.strip_prefix("session: \"")?;
            Some(inner.strip_suffix('"')?.to_owned())
        };
        text.lines().find_map(quoted)
    }

    /// Takes it away, whatever its mode is by now, unless another session has
    /// written it since. Whoever holds it must have let it go.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn remove(&self, session: &str) -> Result<()> {
        let dir = self.open_dir()?;
        for _ in 0..LOOKS {
            let file = owned::open_to_lock(&dir, &self.name);
            let ours = |file: &File| self.told_in(file).as_deref() == Some(session);
            let Some(file) = file.filter(ours) else {
                break;
            };
            // Locked, so that nobody puts another one in its place meanwhile.
            match locked(file.try_lock()) {
                Some(true) if !owned::is_in_place(&file, &dir, &self.name) => {}
                Some(true) | None => {
                    retry_stale(|| dir.remove(&self.name))?;
                    break;
                }
                Some(false) => sleep(PAUSE),
            }
        }
        Ok(())
    }
}

/// A file that tells of a session, for as long as that runs: nobody replaces it
/// until this is dropped. It ends with this process, too, however that ends.
#[derive(Debug)]
pub struct Claim {
    /// `None` where the file system has no locks.
    _file: Option<File>,
}

/// Whether a lock was had; `None` if there are none to be had here.
fn locked(outcome: Result<(), TryLockError>) -> Option<bool> {
    match outcome {
        Ok(()) => Some(true),
        Err(TryLockError::WouldBlock) => Some(false),
        // Removed by another host.
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::StaleNetworkFileHandle => Some(false),
        Err(TryLockError::Error(_)) => None,
    }
}

fn temporary_name() -> Result<String> {
    let unique = u64::from_ne_bytes(crate::random::<8>()?);
    Ok(format!("{TEMPORARY_PREFIX}{unique:016x}"))
}

fn json(connection: &Connection) -> String {
    let Connection {
        host,
        port,
        session,
    } = connection;
    let value = serde_json::json!({ "host": host, "port": port, "session": session });
    format!("{value}\n")
}

/// What [`Connection`] holds has letters, digits, dots, hyphens and colons: it
/// needs no more than quotes.
fn yaml(connection: &Connection) -> String {
    let mut text = String::from("---\n");
    let _ = writeln!(text, "host: \"{}\"", connection.host);
    let _ = writeln!(text, "port: {}", connection.port);
    let _ = writeln!(text, "session: \"{}\"", connection.session);
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn connection(session: &str) -> Connection {
        Connection {
            host: "n1.cluster.example".into(),
            port: 4000,
            session: session.into(),
        }
    }

    /// Claims it for a session that ends at once.
    fn claim(file: &PublishFile, session: &str) {
        drop(file.claim(&connection(session), |_| false).unwrap());
    }

    #[test]
    fn the_ending_decides_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            claim(&PublishFile::parse(&path).unwrap(), "ab12");
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(
            write("connection.yml"),
            "---\nhost: \"n1.cluster.example\"\nport: 4000\nsession: \"ab12\"\n"
        );
        assert_eq!(
            write("c.json"),
            "{\"host\":\"n1.cluster.example\",\"port\":4000,\"session\":\"ab12\"}\n"
        );
        for bad in ["connection", "connection.txt", "/"] {
            assert!(PublishFile::parse(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_another_session_has_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("connection.yml");
        let file = PublishFile::parse(&path).unwrap();
        claim(&file, "second");
        file.remove("first").unwrap();
        assert!(path.exists());
        file.remove("second").unwrap();
        assert!(!path.exists());
        file.remove("second").unwrap();
    }

    #[test]
    fn a_file_that_tells_of_something_else_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["c.yml", "c.json"] {
            let path = dir.path().join(name);
            let file = PublishFile::parse(&path).unwrap();
            file.check(|_| true).unwrap();
            claim(&file, "ab12");
            let runs = |session: &str| session == "ab12";
            assert_eq!(file.check(runs).unwrap_err().code(), "bad-argument");
            file.check(|session| session != "ab12").unwrap();
            std::fs::write(&path, "").unwrap();
            file.check(|_| true).unwrap();
            for other in ["a: 1\n", "{\"a\": 1}", "{\"session\": 7}"] {
                std::fs::write(&path, other).unwrap();
                assert_eq!(
                    file.check(|_| false).unwrap_err().code(),
                    "bad-argument",
                    "{other}"
                );
                assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
            }
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/etc/hosts", &path).unwrap();
            assert_eq!(file.check(|_| false).unwrap_err().code(), "bad-argument");
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            assert_eq!(file.check(|_| false).unwrap_err().code(), "bad-argument");
        }
    }

    #[test]
    fn what_a_chmod_has_opened_is_removed_all_the_same() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for name in ["c.yml", "c.json"] {
            let path = dir.path().join(name);
            let file = PublishFile::parse(&path).unwrap();
            for mode in [0o644, 0o666] {
                claim(&file, "ab12");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
                file.remove("ab1").unwrap();
                assert!(path.exists());
                file.remove("ab12").unwrap();
                assert!(!path.exists(), "{name} {mode:o}");
            }
            // What it leads to is not ours to remove.
            std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
            file.remove("ab12").unwrap();
            assert!(path.is_symlink());
        }
    }

    #[test]
    fn what_is_held_is_nobody_elses_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yml");
        let file = PublishFile::parse(&path).unwrap();
        let held = file.claim(&connection("a"), |_| false).unwrap();
        // Though nothing is known of its session.
        for refused in [
            file.check(|_| false),
            file.claim(&connection("b"), |_| false).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(error.to_string().contains("another app, which runs"));
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"a\""));
        drop(held);
        let held = file.claim(&connection("b"), |_| false).unwrap();
        file.remove("a").unwrap();
        assert!(path.exists());
        drop(held);
        file.remove("b").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_many_at_once_one_gets_it_and_takes_it_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yml");
        let file = &PublishFile::parse(&path).unwrap();
        for round in 0..6 {
            // Also where one that was killed has left its own.
            if round % 2 == 1 {
                claim(file, "killed");
            }
            let start = std::sync::Barrier::new(6);
            let claim = |session: String| {
                start.wait();
                let claim = file.claim(&connection(&session), |_| false);
                claim.ok().map(|claim| (session, claim))
            };
            let claim = &claim;
            let mut claims: Vec<_> = std::thread::scope(|scope| {
                let each = |n| scope.spawn(move || claim(format!("s{n}")));
                let all: Vec<_> = (0..6).map(each).collect();
                all.into_iter()
                    .filter_map(|one| one.join().unwrap())
                    .collect()
            });
            assert_eq!(claims.len(), 1, "round {round}");
            let (session, claim) = claims.remove(0);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(file.session_in(&text), Some(session.clone()));
            drop(claim);
            file.remove(&session).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
