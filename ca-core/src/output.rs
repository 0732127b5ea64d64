//! Writing a leaf where a program wants it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::authority::Issued;
use crate::certificate::Certificate;
use crate::error::{Error, Result};
use crate::store::{Access, Dir, Durability};

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
/// assert_eq!(files, [out.join("server.key"), out.join("server.crt"), out.join("trust.crt")]);
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
        Ok(LeafFiles {
            dir,
            base,
            format,
            layout,
        })
    }

    /// Writes the files and returns their paths. All are complete before the
    /// first one appears under its name; existing ones are replaced.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if other users could exchange files in the
    /// directory; [`Error::Io`].
    pub fn write(&self, issued: &Issued) -> Result<Vec<PathBuf>> {
        let dir = self.open_dir()?;
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
                        files.extend(key.map(|k| (format!("{base}.key"), k, Access::Private)));
                        files.push(public(&format!("{base}.crt"), &certificate));
                    }
                }
                files.push(public("trust.crt", &trust));
            }
            Layout::Oodproxy { client } => {
                let client = client.to_pem();
                files.extend(key.map(|k| ("server.key".to_owned(), k, Access::Private)));
                files.push(public("server.crt", &certificate));
                files.push(public("ca.crt", &trust));
                files.push(public("client.crt", &client));
                files.push(public("ca+client.crt", &format!("{trust}{client}")));
            }
        }
        let borrowed: Vec<(&str, &[u8], Access)> = files
            .iter()
            .map(|(name, text, access)| (name.as_str(), text.as_bytes(), *access))
            .collect();
        dir.replace_all(&borrowed, Durability::Relaxed)?;
        Ok(files.iter().map(|(name, ..)| self.dir.join(name)).collect())
    }

    fn open_dir(&self) -> Result<Dir> {
        open_output_dir(self.dir)
    }
}

/// Opens a directory for output, creating its last part if it is missing, and
/// refuses one in which other users could put files of their own in our place.
pub(crate) fn open_output_dir(path: &Path) -> Result<Dir> {
    let dir = match Dir::open(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            Dir::open(parent)?.create_own(path.file_name().unwrap_or(OsStr::new(".")))?
        }
        result => result?,
    };
    let stat = dir.stat()?;
    let me = rustix::process::geteuid().as_raw();
    let problem = if dir.is_open_to_all()? {
        "every user may write to it and exchange what is in it"
    } else if stat.st_uid != me && stat.st_uid != 0 {
        "it belongs to another user, who could exchange what is in it"
    } else {
        return Ok(dir);
    };
    Err(Error::UnsafePath {
        path: path.to_owned(),
        problem: problem.into(),
        fix: "name a directory of your own with --out".into(),
    })
}

/// Replaces one public file by path, in its own directory.
///
/// # Errors
/// As for [`LeafFiles::write`].
pub fn replace_certificate(path: &Path, certificate: &Certificate) -> Result<()> {
    let name = path
        .file_name()
        .and_then(OsStr::to_str)
        .ok_or_else(|| Error::UnsafePath {
            path: path.to_owned(),
            problem: "it does not name a file".into(),
            fix: "name a certificate file".into(),
        })?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    open_output_dir(parent)?.replace(
        name,
        certificate.to_pem().as_bytes(),
        Access::Public,
        Durability::Synced,
    )
}
