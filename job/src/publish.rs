//! Telling the portal where the app is: `connection.yml` or JSON.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ca_core::store::{Access, Dir, Durability, TEMPORARY_PREFIX};

use crate::error::{Error, Result};
use crate::owned;

/// Largest file that is looked into, in bytes. Ours have about 100.
const MAX_FILE: u64 = 4096;

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

    /// Whether it could be written: before an app is started for nothing. Tried
    /// with another file, as one that is there may be of a session that runs: that
    /// session is what comes back.
    ///
    /// # Errors
    /// [`Error::Core`] if its directory is not there or takes no file;
    /// [`Error::BadArgument`] if a file is there that tells of no session, and that
    /// somebody may still want.
    pub fn check(&self) -> Result<Option<String>> {
        let dir = Dir::open(&self.dir)?;
        let before = self.told_before(&dir)?;
        let unique = u64::from_ne_bytes(crate::random::<8>()?);
        let trial = format!("{TEMPORARY_PREFIX}{unique:016x}.check");
        dir.replace(&trial, b"", Access::Private, Durability::Relaxed)?;
        dir.remove(&trial)?;
        Ok(before)
    }

    fn told_before(&self, dir: &Dir) -> Result<Option<String>> {
        let path = dir.path().join(&self.name);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let content = owned::look(dir, &self.name, MAX_FILE).and_then(|file| file.content);
        match content.as_deref().map(String::from_utf8_lossy) {
            Some(text) if text.is_empty() => Ok(None),
            Some(text) if self.session_in(&text).is_some() => Ok(self.session_in(&text)),
            _ => Err(Error::argument(
                "file to publish in",
                &path.to_string_lossy(),
                "it is there and tells of no session: it would be replaced, and removed at the end",
                "name another file, or move that one away",
            )),
        }
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

    /// Writes it in one step, for its owner alone.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn write(&self, connection: &Connection) -> Result<()> {
        let text = if self.json {
            json(connection)
        } else {
            yaml(connection)
        };
        let dir = Dir::open(&self.dir)?;
        dir.replace(
            &self.name,
            text.as_bytes(),
            Access::Private,
            Durability::Relaxed,
        )?;
        Ok(())
    }

    /// Takes it away, whatever its mode is by now, unless another session has
    /// written it since.
    ///
    /// # Errors
    /// [`Error::Core`].
    pub fn remove(&self, session: &str) -> Result<()> {
        let dir = Dir::open(&self.dir)?;
        let content = owned::look(&dir, &self.name, MAX_FILE).and_then(|file| file.content);
        let told = content.and_then(|text| self.session_in(&String::from_utf8_lossy(&text)));
        if told.as_deref() == Some(session) {
            dir.remove(&self.name)?;
        }
        Ok(())
    }
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

    #[test]
    fn the_ending_decides_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            PublishFile::parse(&path)
                .unwrap()
                .write(&connection("ab12"))
                .unwrap();
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
        file.write(&connection("second")).unwrap();
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
            assert_eq!(file.check().unwrap(), None);
            file.write(&connection("ab12")).unwrap();
            assert_eq!(file.check().unwrap().as_deref(), Some("ab12"));
            std::fs::write(&path, "").unwrap();
            assert_eq!(file.check().unwrap(), None);
            for other in ["a: 1\n", "{\"a\": 1}", "{\"session\": 7}"] {
                std::fs::write(&path, other).unwrap();
                assert_eq!(file.check().unwrap_err().code(), "bad-argument", "{other}");
                assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
            }
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/etc/hosts", &path).unwrap();
            assert_eq!(file.check().unwrap_err().code(), "bad-argument");
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            assert_eq!(file.check().unwrap_err().code(), "bad-argument");
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
                file.write(&connection("ab12")).unwrap();
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
}
