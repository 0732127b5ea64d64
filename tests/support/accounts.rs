//! Users that only the test's own processes know by name.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::home::Home;
use super::mounts::{detach, private_mounts};

const USERS: &str = "/etc/passwd";

/// The user database with one more line, for this thread and its children.
/// Dropping it takes the line away.
#[derive(Debug)]
pub struct Account {
    /// The login name.
    pub name: String,
}

impl Account {
    /// Gives the owner of this home a login name. `dir` is where the database
    /// may lie, for everybody to read; it must outlive this.
    ///
    /// # Panics
    /// If the test may not mount.
    #[must_use]
    pub fn of(home: &Home, dir: &Path) -> Self {
        private_mounts();
        let name = format!("u{}", home.uid());
        let line = format!(
            "{name}:x:{0}:{0}::{1}:/bin/sh\n",
            home.uid(),
            home.path().display()
        );
        let known = fs::read_to_string(USERS).unwrap();
        let path = dir.join(format!("passwd-{name}"));
        fs::write(&path, known + &line).unwrap();
        mount(
            Some(&path),
            USERS,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap_or_else(|error| panic!("{USERS} cannot be covered: {error}"));
        Account { name }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Before the file below it goes: nothing can be mounted over a file
        // that is gone.
        detach(Path::new(USERS));
    }
}
