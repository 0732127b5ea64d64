//! Headers that the app may trust: from the command line, a file or the
//! environment. Values from the latter two never stand in a process list.

use std::collections::BTreeSet;
use std::path::Path;

use ca_core::store::{Access, Dir, retry_stale};
use ood_relay::Headers;

use crate::error::{Error, Result};

/// Largest file of headers, in bytes.
const MAX_FILE: usize = 64 * 1024;

/// Where a header comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `Name: value`.
    Line(String),
    /// A file with a header a line.
    File(std::path::PathBuf),
    /// `Name=VARIABLE`.
    Env(String),
}

/// Puts the headers together.
///
/// # Errors
/// [`Error::BadArgument`], [`Error::Relay`] for a name or value that cannot be
/// sent; [`Error::Core`] for a file that is not the caller's alone.
pub fn gather(
    sources: &[Source],
    var: impl Fn(&str) -> Option<String>,
    client_facts: bool,
) -> Result<Headers> {
    let mut all = Gathered::default();
    for source in sources {
        match source {
            Source::Line(line) => all.add_line(line)?,
            Source::File(path) => {
                let text = read(path)?;
                let lines = text.lines().map(str::trim_end);
                let mut lines = lines.filter(|l| !l.is_empty() && !l.starts_with('#'));
                lines.try_for_each(|line| all.add_line(line))?;
            }
            Source::Env(pair) => all.add_env(pair, &var)?,
        }
    }
    Ok(if client_facts {
        all.headers.with_client_facts()
    } else {
        all.headers
    })
}

const VALUE_HINT: &str = "a header's value is of visible ASCII characters and spaces; encode it (base64) if it must hold more";

#[derive(Default)]
struct Gathered {
    headers: Headers,
    /// As programs read them that take - for _ and capitals for small letters.
    names: BTreeSet<String>,
}

impl Gathered {
    fn add_line(&mut self, line: &str) -> Result<()> {
        let Some((name, value)) = line.split_once(':') else {
            // Not quoted: without a colon all of it may be the secret.
            return Err(Error::argument(
                "header", "(not shown)", "there is no colon in it", "write it as 'Name: value'",
            ));
        };
        self.add(name, value, || format!("the header {name} has no value"))
    }

    fn add_env(&mut self, pair: &str, var: impl Fn(&str) -> Option<String>) -> Result<()> {
        const HINT: &str = "write it as Name=VARIABLE, and export VARIABLE";
        let refuse = |why| Error::argument("header from the environment", pair, why, HINT);
        let (name, variable) = pair
            .split_once('=')
            .ok_or_else(|| refuse("there is no = in it"))?;
        let value = var(variable).ok_or_else(|| refuse("that variable is not set"))?;
        self.add(name, &value, || format!("the variable {variable} is empty"))
    }

    fn add(&mut self, name: &str, value: &str, empty: impl Fn() -> String) -> Result<()> {
        let value = value.trim();
        let refuse = |why, hint| Err(Error::Core(ca_core::Error::BadRequest { why, hint }));
        // Bad names, and those that HTTP is made of, are the relay's to refuse.
        let headers = std::mem::take(&mut self.headers).with(name, value);
        let Ok(parsed) = ca_core::HeaderName::parse(name) else {
            return headers.map(|_| ()).map_err(Error::from);
        };
        if parsed.folded() == "host" {
            return refuse(
                format!("the header {name} cannot be set: it says by which name the client came"),
                "an app that insists on its own name is the site's to help: host_header in ood_ca.yml",
            );
        }
        // An app would take it for a password that everybody knows, or for none.
        if value.is_empty() {
            return refuse(empty(), "give a value, or leave the header out");
        }
        if let Some(character) = value.chars().find(|c| !is_fit(*c)) {
            let shown = if character.is_control() {
                String::new()
            } else {
                format!(" ({character})")
            };
            let number = u32::from(character);
            return refuse(
                format!(
                    "the value of the header {name} has the character U+{number:04X}{shown} in it"
                ),
                VALUE_HINT,
            );
        }
        if !self.names.insert(parsed.folded()) {
            return refuse(
                format!("the header {name} is given twice"),
                "give each header once; - and _ are one to many apps, as are capitals and small letters",
            );
        }
        self.headers = headers?;
        Ok(())
    }
}

fn is_fit(character: char) -> bool {
    character == '\t' || (' '..='~').contains(&character)
}

/// A file that holds secrets must be closed to others.
fn read(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("read", path, e))?;
    // Not a thing to be moved away, as the authority's own files would be.
    let refuse = |why, hint| {
        let input = path.display().to_string();
        Err(Error::argument("file of headers", &input, why, hint))
    };
    match std::fs::symlink_metadata(&absolute) {
        Ok(meta) if meta.is_dir() => {
            return refuse(
                "it is a directory",
                "name a file in it, with a line 'Name: value' for each header",
            );
        }
        Ok(meta) if !meta.is_file() => {
            return refuse(
                "it is a link or something special, and no regular file",
                "name a file of yours, or take the value from the environment with --header-env",
            );
        }
        _ => {}
    }
    let (Some(dir), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::io("read", path, std::io::ErrorKind::NotFound));
    };
    let name = name.to_string_lossy();
    let content = retry_stale(|| Dir::open(dir)?.read(&name, Access::Private, MAX_FILE))?;
    let content = content.ok_or_else(|| Error::io("read", path, std::io::ErrorKind::NotFound))?;
    String::from_utf8(content).map_err(|_| Error::io("read", path, std::io::ErrorKind::InvalidData))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn gathered(source: Source) -> Result<Headers> {
        let var = |name: &str| (name == "TOKEN").then(|| "hunter2\n".to_owned());
        gather(&[source], var, false)
    }

    #[test]
    fn headers_come_from_lines_files_and_the_environment() {
        gathered(Source::Line("X-A: b".into())).unwrap();
        gathered(Source::Env("X-Token=TOKEN".into())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "# a comment\nX-A: b\n\nX-B: c\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        gathered(Source::File(file.clone())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = gathered(Source::File(file)).unwrap_err();
        assert_eq!(open.code(), "unsafe-path");
    }

    #[test]
    fn what_is_refused_shows_no_value() {
        for source in [
            Source::Line("hunter2".into()),
            Source::Line("X A: hunter2".into()),
            Source::Line("X-A: hunter2\u{7f}".into()),
            Source::Env("X-A".into()),
            Source::Env("X-A=NONE".into()),
            Source::Env("X A=TOKEN".into()),
            Source::Line("X-A: hunter2\u{e9}".into()),
            Source::Line("Host: hunter2".into()),
            Source::Env("hOsT=TOKEN".into()),
        ] {
            let error = gathered(source).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(error.hint().is_some());
        }
    }

    fn refusal(sources: &[Source]) -> String {
        let var = |name: &str| (name == "EMPTY").then(|| " \n".to_owned());
        gather(sources, var, false).unwrap_err().to_string()
    }

    #[test]
    fn a_header_without_a_value_is_refused() {
        let said = refusal(&[Source::Env("X-A=EMPTY".into())]);
        assert_eq!(said, "the variable EMPTY is empty");
        let said = refusal(&[Source::Line("X-A: ".into())]);
        assert_eq!(said, "the header X-A has no value");
    }

    #[test]
    fn a_header_that_is_given_twice_is_refused_in_any_spelling() {
        for second in ["X-Token: b", "x_token: b", "X-Token: a"] {
            let said = refusal(&[
                Source::Line("X-Token: a".into()),
                Source::Line(second.into()),
            ]);
            assert!(said.ends_with("is given twice"), "{said}");
        }
    }

    #[test]
    fn the_character_that_may_not_be_there_is_named() {
        let said = refusal(&[Source::Line("X-A: caf\u{e9}".into())]);
        assert!(said.contains("U+00E9 (\u{e9})"), "{said}");
        let said = refusal(&[Source::Line("X-A: a\u{1b}[1mb".into())]);
        assert!(said.contains("U+001B in it"), "{said}");
    }

    #[test]
    fn a_directory_is_no_file_of_headers() {
        let dir = tempfile::tempdir().unwrap();
        let said = gathered(Source::File(dir.path().to_owned())).unwrap_err();
        assert!(said.to_string().contains("it is a directory"), "{said}");
        assert!(!said.hint().unwrap().contains("mv "), "{said}");
    }

    #[test]
    fn what_is_no_file_at_all_is_not_to_be_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for special in [Path::new("/dev/null"), &link] {
            let said = gathered(Source::File(special.to_owned())).unwrap_err();
            assert!(said.to_string().contains("no regular file"), "{said}");
            assert!(!said.hint().unwrap().contains("mv "), "{said}");
        }
    }
}
