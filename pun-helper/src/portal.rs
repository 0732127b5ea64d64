//! The few settings of the portal itself that count here, read from
//! `ood_portal.yml`.

use std::path::Path;

use ca_core::{HostName, HostRegex};
use serde_yaml::Value;

use crate::error::{Error, Result};
use crate::read::text_file;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What `ood_portal.yml` says about hosts and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortalFacts {
    /// `host_regex`, where set.
    pub host_regex: Option<HostRegex>,
    /// `servername` and `server_aliases`, where set: names of the portal itself.
    pub names: Vec<HostName>,
}

impl PortalFacts {
    /// Reads the file's text; `file` is for messages. Other keys are ignored,
    /// and so are names of the portal that are no host names.
    ///
    /// # Errors
    /// [`Error::Core`] if it is not YAML, or `host_regex` cannot be used.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let fail = |line, key: Option<&str>, message: String| {
            Error::Core(ca_core::Error::Config {
                file: file.to_owned(),
                line,
                key: key.map(str::to_owned),
                message,
                nearest: None,
            })
        };
        let all: Value = serde_yaml::from_str(text)
            .map_err(|e| fail(e.location().map(|l| l.line()), None, e.to_string()))?;
        let host_regex = match all.get("host_regex") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let line = text.lines().position(|l| l.starts_with("host_regex"));
                let refuse = |why: &str| {
                    let message =
                        format!("host_regex: {why}; set host_regex in ood_ca.yml instead");
                    fail(line.map(|l| l + 1), Some("host_regex"), message)
                };
                let text = value.as_str().ok_or_else(|| refuse("it is not a string"))?;
                Some(HostRegex::parse(text).map_err(refuse)?)
            }
        };
        let aliases = all.get("server_aliases").and_then(Value::as_sequence);
        let names = all
            .get("servername")
            .into_iter()
            .chain(aliases.into_iter().flatten())
            .filter_map(|name| HostName::parse(name.as_str()?).ok())
            .collect();
        Ok(PortalFacts { host_regex, names })
    }

    /// Reads the file; one that is missing says nothing.
    ///
    /// # Errors
    /// As [`PortalFacts::parse`], and [`Error::Io`].
    pub fn load(file: &Path) -> Result<Self> {
        match text_file(file, MAX_FILE) {
            Ok(text) => Self::parse(&text, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io("read", file, e)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PortalFacts> {
        PortalFacts::parse(text, Path::new("ood_portal.yml"))
    }

    #[test]
    fn only_what_counts_is_read() {
        let facts = parse(
            "servername: ondemand.example\nserver_aliases: ['a.example', '*.b']\nhost_regex: 'n\\d+\\.example'\nauth: [x: 1]\n",
        )
        .unwrap();
        assert_eq!(facts.host_regex.unwrap().as_str(), r"n\d+\.example");
        let names: Vec<_> = facts.names.iter().map(HostName::as_str).collect();
        assert_eq!(names, ["ondemand.example", "a.example"]);
        for empty in ["", "---\n", "# nothing\n", "host_regex:\n", "[]"] {
            assert_eq!(parse(empty).unwrap(), PortalFacts::default(), "{empty:?}");
        }
    }

    #[test]
    fn a_host_regex_that_cannot_be_used_is_named_with_its_line() {
        let error = parse("a: b\nhost_regex: '(?i)x'\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("ood_portal.yml: line 2: host_regex: "),
            "{text}"
        );
        assert!(parse("a: [").is_err());
        assert!(parse("host_regex: [x]").is_err());
    }
}
