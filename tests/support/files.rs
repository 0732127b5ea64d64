//! What is in a directory, to compare before and after.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// One file, directory or other thing in a directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// A file's bytes, a link's target.
    pub content: Vec<u8>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Test keys are worthless, but a test log is no place for the habit.
        let mark = self.content.iter().fold(0_u32, |sum, b| {
            sum.wrapping_mul(31).wrapping_add((*b).into())
        });
        write!(
            f,
            "{:o} uid {} {} bytes #{mark:08x}",
            self.mode,
            self.uid,
            self.content.len()
        )
    }
}

/// Everything below a directory, by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Reads a directory. A missing one is empty.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let mut all = BTreeMap::new();
        add(dir, Path::new(""), &mut all);
        Snapshot(all)
    }

    /// The paths that differ between two snapshots.
    #[must_use]
    pub fn changes(&self, later: &Snapshot) -> Vec<PathBuf> {
        let both = self.0.keys().chain(later.0.keys());
        let mut changed: Vec<_> = both
            .filter(|p| self.0.get(*p) != later.0.get(*p))
            .cloned()
            .collect();
        changed.sort();
        changed.dedup();
        changed
    }

    /// Nothing below `dir` may differ from this snapshot.
    #[track_caller]
    pub fn assert_unchanged(&self, dir: &Path) {
        let now = Snapshot::of(dir);
        let changed = self.changes(&now);
        let lines: Vec<_> = changed
            .iter()
            .map(|p| format!("{}: {:?} -> {:?}", p.display(), self.0.get(p), now.0.get(p)))
            .collect();
        assert!(
            changed.is_empty(),
            "{} changed:\n{}",
            dir.display(),
            lines.join("\n")
        );
    }

    /// The regular files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&PathBuf, &Entry)> {
        self.0
            .iter()
            .filter(|(_, e)| e.mode & 0o170_000 == 0o100_000)
    }
}

fn add(top: &Path, below: &Path, all: &mut BTreeMap<PathBuf, Entry>) {
    let path = top.join(below);
    let Ok(meta) = fs::symlink_metadata(&path) else {
        return;
    };
    let content = if meta.is_file() {
        fs::read(&path).unwrap_or_default()
    } else if meta.is_symlink() {
        fs::read_link(&path)
            .unwrap_or_default()
            .into_os_string()
            .into_encoded_bytes()
    } else {
        Vec::new()
    };
    let entry = Entry {
        mode: meta.mode(),
        uid: meta.uid(),
        content,
    };
    all.insert(below.to_owned(), entry);
    if meta.is_dir() {
        let Ok(entries) = fs::read_dir(&path) else {
            return;
        };
        for entry in entries.flatten() {
            add(top, &below.join(entry.file_name()), all);
        }
    }
}

/// Copies a directory with owners and modes.
///
/// # Panics
/// If it cannot be read or written.
pub fn copy_tree(from: &Path, to: &Path) {
    let meta = fs::symlink_metadata(from).unwrap();
    if meta.is_symlink() {
        symlink(fs::read_link(from).unwrap(), to).unwrap();
        return;
    }
    if meta.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy_tree(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777)).unwrap();
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).unwrap();
}
