//! Writing a leaf where a program wants it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::authority::{CA_KEY, Issued, TRUST};
use crate::certificate::{Certificate, MAX_CERTIFICATE_FILE};
use crate::error::{Error, Result};
use crate::issued::ISSUED;
use crate::key::{PrivateKey, SubjectKey, wiped};
use crate::store::{Access, Dir, Durability, retry_stale};
use crate::text::quoted;

/// In which form key and certificate are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// `BASE.key` (0600) and `BASE.crt`.
    #[default]
    Pem,
    /// `BASE.pem` (0600) with key and certificate, for HAProxy and the like.
    /// One file: replacing it is one step.
    Bundle,
}

/// Which set of files is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The leaf and `trust.crt`.
    #[default]
    Plain,
    /// What BYU's oodproxy gives a job: `ca.crt`, `server.crt`, `server.key`,
    /// `client.crt` and `ca+client.crt`, for stunnel with `verifyChain` and
    /// `verifyPeer`. Holds the one client leaf that may connect.
    Oodproxy {
        /// The PUN's client leaf.
        client: Box<Certificate>,
    },
}

/// Files to be written for a leaf.
///
/// ```
/// use ca_core::{Authority, Layout, LeafFiles, LeafRequest, OutputFormat, PkiLocation, SiteConfig, now};
/// # let home = tempfile::tempdir().unwrap();
/// # let dir = home.path().join(".ood/pki");
/// let authority = Authority::ensure(&PkiLocation::at(dir)?, &SiteConfig::default(), now())?;
/// let issued = authority.issue(&LeafRequest::any_host(), now())?;
/// let out = home.path().join("job");
/// let files = LeafFiles::new(&out, "server", OutputFormat::Pem, Layout::Plain)?.write(&issued)?;
/// assert_eq!(files, [out.join("server.crt"), out.join("server.key"), out.join("trust.crt")]);
/// # Ok::<(), ca_core::Error>(())
/// ```
#[derive(Debug)]
pub struct LeafFiles<'a> {
    dir: &'a Path,
    base: &'a str,
    format: OutputFormat,
    layout: Layout,
}

impl<'a> LeafFiles<'a> {
    /// Files in `dir`, which is created (0700) if only its last part is missing.
    ///
    /// # Errors
    /// [`Error::BadName`] if `base` is not a plain file name.
    pub fn new(dir: &'a Path, base: &'a str, format: OutputFormat, layout: Layout) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
        if base.is_empty()
            || base.len() > 100
            || base.starts_with(['.', '-'])
            || !base.chars().all(plain)
        {
            return Err(Error::bad_name(
                "file name",
                base,
                "it is not a plain file name",
                "give --name letters, digits and . _ @ + - and the directory with --out",
            ));
        }
        if base == "trust" {
            return Err(Error::bad_name(
                "file name",
                base,
                "trust.crt is the trust bundle beside the leaf",
                "choose another --name",
            ));
        }
        Ok(LeafFiles {
            dir,
            base,
            format,
            layout,
        })
    }

    /// Looks whether the files may be written there for a leaf of this key
    /// (`None`: a new one), before a leaf is issued. Creates the directory.
    ///
    /// # Errors
    /// As for [`LeafFiles::write`].
    pub fn check(&self, key: Option<&SubjectKey>) -> Result<()> {
        let dir = open_output_dir(self.dir)?;
        let (key_file, leaf_file) = match (&self.layout, self.format) {
            (Layout::Oodproxy { .. }, _) => ("server.key".to_owned(), "server.crt".to_owned()),
            (_, OutputFormat::Pem) => (format!("{}.key", self.base), format!("{}.crt", self.base)),
            (_, OutputFormat::Bundle) => {
                let file = format!("{}.pem", self.base);
                (file.clone(), file)
            }
        };
        let path = self.dir.join(&key_file);
        let Some(present) = dir.read(&key_file, Access::Private, MAX_CERTIFICATE_FILE)? else {
            return Ok(());
        };
        let present = wiped(present);
        match key {
            // The leaf will stand beside a key that must be its own.
            Some(key) => match PrivateKey::from_pem(&present) {
                Ok(present) if SubjectKey::from(&present) == *key => Ok(()),
                _ => Err(Error::UnsafePath {
                    path,
                    problem: "it is there already and is not the key of the signing request".into(),
                    fix: "choose another --name or --out".into(),
                }),
            },
            // Only a key that was written with a leaf of ours is ours to replace.
            None => {
                let leaf = dir.read(&leaf_file, Access::Public, MAX_CERTIFICATE_FILE)?;
                let ours = leaf.is_some_and(|pem| {
                    first_certificate(&pem).is_some_and(|leaf| leaf.is_from_an_authority_of_ours())
                });
                if ours {
                    return Ok(());
                }
                Err(Error::UnsafePath {
                    path,
                    problem: "it is there already and was not written by ood-ca".into(),
                    fix: format!(
                        "move it away, or choose another --name: mv {0} {0}.old",
                        quoted(self.dir.join(&key_file))
                    ),
                })
            }
        }
    }

    /// Writes the files and returns their paths. All are complete before the
    /// first one appears under its name; existing ones are replaced.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if other users could exchange files in the
    /// directory, or if it is a PKI directory; [`Error::Io`].
    pub fn write(&self, issued: &Issued) -> Result<Vec<PathBuf>> {
        let certificate = issued.certificate.to_pem();
        let trust = issued.trust.to_pem();
        let key = issued.key.as_ref().map(crate::PrivateKey::to_pem);
        let mut files: Vec<(String, Zeroizing<String>, Access)> = Vec::new();
        let public = |name: &str, text: &str| {
            (
                name.to_owned(),
                Zeroizing::new(text.to_owned()),
                Access::Public,
            )
        };
        match &self.layout {
            Layout::Plain => {
                let base = self.base;
                match (self.format, key) {
                    (OutputFormat::Bundle, Some(key)) => {
                        // Sized first: a string that grows leaves copies behind.
                        let mut text =
                            Zeroizing::new(String::with_capacity(key.len() + certificate.len()));
                        text.push_str(&key);
                        text.push_str(&certificate);
                        files.push((format!("{base}.pem"), text, Access::Private));
                    }
                    (_, key) => {
                        // The key last: a key without its leaf would not be
                        // known as ours the next time.
                        files.push(public(&format!("{base}.crt"), &certificate));
                        files.extend(key.map(|k| (format!("{base}.key"), k, Access::Private)));
                    }
                }
                files.push(public("trust.crt", &trust));
            }
            Layout::Oodproxy { client } => {
                let client = client.to_pem();
                files.push(public("server.crt", &certificate));
                files.extend(key.map(|k| ("server.key".to_owned(), k, Access::Private)));
                files.push(public("ca.crt", &trust));
                files.push(public("client.crt", &client));
                files.push(public("ca+client.crt", &format!("{trust}{client}")));
            }
        }
        let borrowed: Vec<(&str, &[u8], Access)> = files
            .iter()
            .map(|(name, text, access)| (name.as_str(), text.as_bytes(), *access))
            .collect();
        retry_stale(|| open_output_dir(self.dir)?.replace_all(&borrowed, Durability::Relaxed))?;
        Ok(files.iter().map(|(name, ..)| self.dir.join(name)).collect())
    }
}

/// The certificate in a file that may hold a key before it.
fn first_certificate(pem: &[u8]) -> Option<Certificate> {
    let blocks = pem::parse_many(pem).ok()?;
    let block = blocks.iter().find(|block| block.tag() == "CERTIFICATE")?;
    Certificate::from_der(block.contents()).ok()
}

/// Opens a directory for output, creating its last part if it is missing, and
/// refuses one in which other users could put files of their own in our place.
pub(crate) fn open_output_dir(path: &Path) -> Result<Dir> {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    // In a shared directory such as /tmp another user may have put a link where
    // ours was to be. Not every system follows protected_symlinks (proc(5)).
    if let Ok(link) = path.symlink_metadata()
        && link.is_symlink()
        && link.uid() != me
        && link.uid() != 0
    {
        return Err(Error::UnsafePath {
            path: path.to_owned(),
            problem: "it is a symbolic link of another user".into(),
            fix: "name a directory of your own with --out".into(),
        });
    }
    let dir = match Dir::open(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            Dir::open(parent)?.create_own(
                path.file_name().unwrap_or(OsStr::new(".")),
                Durability::Relaxed,
            )?
        }
        result => result?,
    };
    let stat = dir.stat()?;
    let sticky = stat.st_mode & 0o1000 != 0;
    // A group of one's own may write, as it may where umask is 002.
    let group = stat.st_gid != rustix::process::getegid().as_raw() || me == 0;
    let problem = if dir.is_open_to_all()? {
        "every user may write to it and exchange what is in it"
    } else if stat.st_uid != me && stat.st_uid != 0 {
        "it belongs to another user, who could exchange what is in it"
    } else if stat.st_mode & 0o020 != 0 && group && !sticky {
        "a group may write to it and exchange what is in it"
    } else if is_pki_dir(&dir)? {
        "it is where the authority is kept"
    } else {
        return Ok(dir);
    };
    Err(Error::UnsafePath {
        path: path.to_owned(),
        problem: problem.into(),
        fix: "name a directory of your own with --out".into(),
    })
}

/// Whether this is a PKI directory or one in it. A `ca.key` alone does not make
/// one: that may be some other program's.
fn is_pki_dir(dir: &Dir) -> Result<bool> {
    for place in ["", "../"] {
        let mut marks = 0;
        for name in [CA_KEY, TRUST, ISSUED] {
            let name = format!("{place}{name}");
            marks += usize::from(dir.stat_entry(OsStr::new(&name))?.is_some());
        }
        if marks == 3 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A leaf in a file of its own, to be renewed where it lies.
#[derive(Debug)]
pub struct LeafFile {
    dir: Dir,
    name: String,
    certificate: Certificate,
}

impl LeafFile {
    /// Reads a file that holds one certificate and nothing else.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if it is not a regular file of the caller's own in
    /// a directory where only the caller may exchange files;
    /// [`Error::BadCertificate`] if it holds something else, or more: a key or a
    /// chain would be lost; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let missing = || Error::io("read", path, rustix::io::Errno::NOENT);
        let name = path
            .file_name()
            .and_then(OsStr::to_str)
            .ok_or_else(missing)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !path.exists() {
            return Err(missing());
        }
        let (dir, pem) = retry_stale(|| {
            let dir = open_output_dir(parent)?;
            let pem = dir.read(name, Access::Public, MAX_CERTIFICATE_FILE)?;
            Ok((dir, wiped(pem.ok_or_else(missing)?)))
        })?;
        let certificate = Certificate::from_pem(&pem)?;
        let text = certificate.to_pem();
        let same = |a: &[u8], b: &[u8]| {
            let visible = |bytes: &[u8]| -> Vec<u8> {
                bytes
                    .iter()
                    .copied()
                    .filter(|b| !b.is_ascii_whitespace())
                    .collect()
            };
            visible(a) == visible(b)
        };
        if !same(&pem, text.as_bytes()) {
            return Err(Error::BadCertificate {
                what: "the certificate".into(),
                why: "its file holds more than that, which would be lost".into(),
            });
        }
        Ok(LeafFile {
            dir,
            name: name.to_owned(),
            certificate,
        })
    }

    /// The certificate as it was when the file was read.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Puts another certificate in its place, in one step.
    ///
    /// # Errors
    /// [`Error::Io`]; the old one is then still there.
    pub fn replace(&self, certificate: &Certificate) -> Result<()> {
        let pem = certificate.to_pem();
        let (access, durability) = (Access::Public, Durability::Synced);
        retry_stale(|| {
            self.dir
                .replace(&self.name, pem.as_bytes(), access, durability)
        })
    }
}
