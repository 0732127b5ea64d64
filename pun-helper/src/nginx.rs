//! The nginx that reads what is rendered: where it is, which version, and how
//! it is asked whether it accepts a snippet.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ca_core::SiteConfig;

use crate::names::NginxVersion;

/// Where nginx is if the site does not say: Open OnDemand's own, then the
/// system's.
pub const USUAL_PLACES: [&str; 2] = ["/opt/ood/ondemand/root/usr/sbin/nginx", "/usr/sbin/nginx"];

/// The nginx of this web host, if one is installed.
#[must_use]
pub fn find(site: &SiteConfig) -> Option<PathBuf> {
    let usual = || USUAL_PLACES.iter().map(PathBuf::from).find(|p| p.is_file());
    match &site.nginx {
        Some(named) => Some(PathBuf::from(named.as_str())).filter(|p| p.is_file()),
        None => usual(),
    }
}

/// What tells one installed nginx from another without running it.
pub(crate) fn identity(binary: &Path) -> std::io::Result<String> {
    let m = std::fs::metadata(binary)?;
    Ok(format!(
        "{:x}.{:x}.{:x}.{}.{}.{}.{}",
        m.dev(),
        m.ino(),
        m.size(),
        m.mtime(),
        m.mtime_nsec(),
        m.ctime(),
        m.ctime_nsec()
    ))
}

/// The smallest configuration in which a snippet can stand. nginx, asked by
/// `-t`, creates its temporary directories, the file for its process id, its
/// logs and its sockets: they are all named so that it needs, and has, no place
/// to write to. `/proc` is a directory that exists, so `mkdir` has nothing to
/// do; nobody uses the address, and `-t` forgives a port that is taken.
pub(crate) fn wrapper(snippet: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path /proc;\n"))
        .collect();
    format!(
        "error_log stderr;\npid /dev/null;\nevents {{\n    worker_connections 64;\n}}\nhttp {{\n    \
         access_log off;\n{temporary}    server {{\n        listen 127.255.255.254:65535;\n        \
         server_name localhost;\n        include {snippet};\n    }}\n}}\n"
    )
}

/// What the hook remembers about a user between two runs, root's eyes only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Whose trust bundle lies beside it. A login name may pass to somebody
    /// else; a bundle must not.
    pub(crate) uid: Option<u32>,
    /// The nginx that last accepted the snippet, and its version.
    pub(crate) accepted_by: Option<(String, NginxVersion)>,
}

impl Memory {
    pub(crate) fn parse(text: &str) -> Self {
        let mut memory = Memory::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["uid", uid] => memory.uid = uid.parse().ok(),
                ["accepted-by", identity, version] => {
                    let version = NginxVersion::parse(version).ok();
                    memory.accepted_by = version.map(|v| (identity.to_owned(), v));
                }
                _ => {}
            }
        }
        memory
    }

    pub(crate) fn to_text(&self) -> String {
        let uid = self.uid.map(|uid| format!("uid {uid}\n"));
        let nginx = self.accepted_by.as_ref();
        let nginx = nginx.map(|(identity, version)| format!("accepted-by {identity} {version}\n"));
        uid.unwrap_or_default() + &nginx.unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_back_as_written_and_nonsense_is_nothing() {
        let memory = Memory {
            uid: Some(1001),
            accepted_by: Some(("fe.1.2".into(), NginxVersion::parse("1.22.1").unwrap())),
        };
        assert_eq!(Memory::parse(&memory.to_text()), memory);
        assert_eq!(
            Memory::parse("uid -1\nuid x\naccepted-by a b c d\n\0"),
            Memory::default()
        );
        assert_eq!(
            Memory::parse(&Memory::default().to_text()),
            Memory::default()
        );
    }

    #[test]
    fn another_binary_in_the_same_place_is_another_nginx() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nginx");
        std::fs::write(&path, "one").unwrap();
        let first = identity(&path).unwrap();
        assert_eq!(identity(&path).unwrap(), first);
        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, "two").unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert_ne!(identity(&path).unwrap(), first);
    }
}
