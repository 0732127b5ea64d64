//! Where a PKI directory is, and how it is reached without being led astray.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::config::SiteConfig;
use crate::error::{Error, Result};
use crate::store::{Dir, Durability, retry_stale};
use crate::text::quoted;

/// The place of a PKI directory, whether or not it exists yet.
///
/// The last part of the path (and `.ood` before it) must be a directory of the
/// caller's own, reached without following a link. What comes before, such as
/// the home directory, may be a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiLocation {
    anchor: PathBuf,
    own: Vec<OsString>,
}

impl PkiLocation {
    /// A directory named by the caller. The directory above it must exist,
    /// except for `.ood`, which is created along with it.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] if the path ends in `..` or names no directory.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let absolute =
            std::path::absolute(path).map_err(|e| Error::io("find the directory", path, e))?;
        let unusable = || Error::UnsafePath {
            path: absolute.clone(),
            problem: "it does not name a directory that could hold keys".into(),
            fix: "give a path such as /home/you/.ood/pki".into(),
        };
        let name = absolute.file_name().ok_or_else(unusable)?;
        let parent = absolute.parent().ok_or_else(unusable)?;
        let (anchor, own) = match (parent.file_name(), parent.parent()) {
            (Some(dot_ood), Some(home)) if dot_ood == ".ood" => {
                (home, vec![dot_ood.to_owned(), name.to_owned()])
            }
            _ => (parent, vec![name.to_owned()]),
        };
        Ok(PkiLocation {
            anchor: anchor.to_owned(),
            own,
        })
    }

    /// The current user's directory: the site's `pki_dir`, or `~/.ood/pki`.
    ///
    /// # Errors
    /// [`Error::NoHome`] if it lies in a home directory that is not known.
    pub fn for_user(site: &SiteConfig) -> Result<Self> {
        let Some(pattern) = &site.pki_dir else {
            return Self::at(home()?.join(".ood/pki"));
        };
        let user = crate::user::current_user_name();
        let path = pattern.replace("%{user}", user.as_str());
        match path.strip_prefix("~/") {
            Some(rest) => Self::at(home()?.join(rest)),
            None => Self::at(path),
        }
    }

    /// The whole path, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.own
            .iter()
            .fold(self.anchor.clone(), |path, name| path.join(name))
    }

    /// The directory above the PKI directory, created if it is `.ood`.
    pub(crate) fn create_parent(&self) -> Result<Dir> {
        let mut dir = self.open_anchor()?;
        for name in &self.own[..self.own.len() - 1] {
            dir = dir.create_own(name, Durability::Synced)?;
        }
        Ok(dir)
    }

    /// The directory above the PKI directory, if it exists.
    pub(crate) fn open_parent(&self) -> Result<Option<Dir>> {
        let mut dir = self.open_anchor()?;
        for name in &self.own[..self.own.len() - 1] {
            match dir.open_own(name)? {
                Some(child) => dir = child,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    pub(crate) fn name(&self) -> &OsStr {
        self.own.last().map_or(OsStr::new("pki"), |name| name)
    }

    fn open_anchor(&self) -> Result<Dir> {
        let anchor = Dir::open(&self.anchor)?;
        if anchor.is_open_to_all()? {
            return Err(Error::UnsafePath {
                path: self.anchor.clone(),
                problem: "every user may write to it and rename what is in it".into(),
                fix: format!(
                    "chmod o-w {} ; or choose another place",
                    quoted(&self.anchor)
                ),
            });
        }
        Ok(anchor)
    }

    /// The PKI directory, if it exists.
    pub(crate) fn open(&self) -> Result<Option<Dir>> {
        match self.open_parent()? {
            Some(parent) => parent.open_own(self.name()),
            None => Ok(None),
        }
    }

    /// Runs `action` on the PKI directory; again, on a fresh handle and after a
    /// short wait, if the file server says that the handle is stale. `action`
    /// must bear being run again.
    ///
    /// # Errors
    /// [`Error::NoAuthority`] if there is no directory; `action`'s own.
    pub(crate) fn with<T>(&self, mut action: impl FnMut(&Dir) -> Result<T>) -> Result<T> {
        retry_stale(|| match self.open()? {
            Some(dir) => action(&dir),
            None => Err(Error::NoAuthority { path: self.path() }),
        })
    }
}

fn home() -> Result<PathBuf> {
    directories::BaseDirs::new()
        .map(|dirs| dirs.home_dir().to_owned())
        .ok_or(Error::NoHome)
}
