//! A web host of the test's own: its users, its directories, its hook.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::{
    Account, Home, Outcome, Run, private_mounts, pun_helper, require_root, require_tool,
};
use serde_json::Value;
use tempfile::TempDir;

/// A web host with Open OnDemand's directories, as far as the hook sees them.
pub(crate) struct WebHost {
    dir: TempDir,
    extra: RefCell<String>,
}

impl WebHost {
    /// One whose compute nodes are configured.
    pub(crate) fn new() -> Self {
        Self::with("host_regex: 'n[0-9]+'\nresolver: [127.0.0.1]\n")
    }

    /// One with these lines in its configuration.
    pub(crate) fn with(extra: &str) -> Self {
        require_root();
        require_tool("nginx");
        private_mounts();
        let dir = tempfile::Builder::new()
            .prefix("ood-ca-web-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["config", "run", "errors"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let host = WebHost {
            dir,
            extra: RefCell::default(),
        };
        host.configure(extra);
        host
    }

    /// Replaces the site's own lines of the configuration.
    pub(crate) fn configure(&self, extra: &str) {
        let at = |name: &str| self.join(name).display().to_string();
        // Ample where nothing hangs, on a busy machine.
        let patience = match extra.contains("hook_timeout:") {
            true => "",
            false => "hook_timeout: 25s\n",
        };
        let text = format!(
            "snippet_dir: {}\ntrust_dir: {}\npun_run_dir: {}\nerrors_dir: {}\nportal_config: {}\nweb_host: web1.example\n{patience}{extra}",
            at("config/mtls"),
            at("config/mtls-trust"),
            at("run"),
            at("errors"),
            at("ood_portal.yml"),
        );
        fs::write(self.config(), text).unwrap();
        *self.extra.borrow_mut() = extra.to_owned();
    }

    pub(crate) fn also_configure(&self, more: &str) {
        let extra = format!("{}{more}", self.extra.borrow());
        self.configure(&extra);
    }

    pub(crate) fn join(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.join("ood_ca.yml")
    }

    /// What root may write into, and nothing else.
    pub(crate) fn roots_own(&self) -> PathBuf {
        self.join("config")
    }

    /// The error pages as we ship them.
    pub(crate) fn install_pages(&self) {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/errors");
        for page in fs::read_dir(ours).unwrap() {
            let page = page.unwrap();
            fs::copy(page.path(), self.join("errors").join(page.file_name())).unwrap();
        }
    }

    /// A script, root's.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        write_program(&path, &format!("#!/bin/sh\n{text}\n"));
        path
    }
}

/// Writes a program by a process of its own: a file that this process writes is
/// open, for a moment, in the children that other tests start just then, and a
/// file that is open for writing cannot be run.
pub(crate) fn write_program(path: &Path, text: &str) {
    let line = "cat > \"$0\" && chmod 0755 \"$0\"";
    let run = Run::new("/bin/sh").args(["-c", line]).args([path]);
    run.input(text.as_bytes()).output().assert_ok();
}

/// Copies a program, likewise.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let run = Run::new("/bin/sh").args(["-c", "cp \"$0\" \"$1\" && chmod 0755 \"$1\""]);
    run.args([from, to]).output().assert_ok();
}

/// A user of that web host.
pub(crate) struct User<'a> {
    pub(crate) host: &'a WebHost,
    pub(crate) name: String,
    pub(crate) home: Home,
    _account: Account,
}

impl<'a> User<'a> {
    pub(crate) fn new(host: &'a WebHost) -> Self {
        Self::at(host, Home::of_somebody())
    }

    /// A user with this home directory, known to this thread and its children.
    pub(crate) fn at(host: &'a WebHost, home: Home) -> Self {
        let account = Account::of(&home, host.dir.path());
        User {
            host,
            name: account.name.clone(),
            home,
            _account: account,
        }
    }

    /// Runs the hook as nginx_stage does: by its other name, with `--user NAME`
    /// alone, nothing on stdin, at `/`.
    pub(crate) fn hook(&self) -> Outcome {
        self.hook_run().output()
    }

    pub(crate) fn hook_run(&self) -> Run {
        let link = self.host.join("ood-ca-hook");
        if !link.exists() {
            symlink(pun_helper(), &link).unwrap();
        }
        Run::new(link)
            .within(Path::new("/"))
            .args(["--user", &self.name, "--json", "--config"])
            .args([self.host.config()])
    }

    /// The hook's own words on how it went.
    pub(crate) fn hooked(&self) -> Value {
        self.hook().json()
    }

    /// Runs the hook, which must end like this.
    #[track_caller]
    pub(crate) fn expect(&self, outcome: &str) -> Value {
        let ran = self.hook();
        let report = ran.json();
        assert_eq!(report["outcome"], outcome, "{ran}");
        assert_eq!(ran.code(), Some(i32::from(outcome != "ready")), "{ran}");
        report
    }

    pub(crate) fn snippet_path(&self) -> PathBuf {
        self.host
            .join(format!("config/mtls/{}/ood-ca.conf", self.name))
    }

    pub(crate) fn snippet(&self) -> String {
        fs::read_to_string(self.snippet_path()).unwrap()
    }

    pub(crate) fn trust_path(&self) -> PathBuf {
        self.host
            .join(format!("config/mtls-trust/{}/trust.crt", self.name))
    }

    /// Every certificate in the root-owned copy, as text.
    pub(crate) fn trust(&self) -> String {
        fs::read_to_string(self.trust_path()).unwrap_or_default()
    }

    /// Whether the snippet reaches jobs, and does not just answer 503.
    pub(crate) fn is_served(&self) -> bool {
        self.snippet().contains("proxy_pass")
    }

    /// The PUN starts: nginx, as root, takes the snippet in the place where
    /// Open OnDemand's `pun.conf` includes it.
    #[track_caller]
    pub(crate) fn assert_pun_starts(&self) {
        let work = tempfile::tempdir().unwrap();
        let conf = pun_conf(self, work.path());
        let ran = Run::new(require_tool("nginx"))
            .args(["-t", "-c"])
            .args([&conf])
            .output();
        assert!(ran.status.success(), "the PUN does not start: {ran}");
    }
}

/// A configuration shaped like Open OnDemand's `pun.conf`, without Passenger.
pub(crate) fn pun_conf(user: &User<'_>, work: &Path) -> PathBuf {
    fs::set_permissions(work, fs::Permissions::from_mode(0o755)).unwrap();
    let tmp = work.join("tmp");
    fs::create_dir_all(&tmp).unwrap();
    let at = |name: &str| work.join(name).display().to_string();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = kinds
        .iter()
        .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", tmp.display()))
        .collect();
    let text = format!(
        "user {} nogroup;\nerror_log {};\npid {};\nworker_processes 1;\nevents {{ worker_connections 1024; }}\n\
         http {{\n{temporary}  access_log {};\n  client_max_body_size 10737420000;\n  server {{\n    listen unix:{};\n    \
         server_name localhost;\n    include {}/*.conf;\n  }}\n}}\n",
        user.name,
        at("error.log"),
        at("pid"),
        at("access.log"),
        at("sock"),
        user.snippet_path().parent().unwrap().display(),
    );
    let conf = work.join("pun.conf");
    fs::write(&conf, text).unwrap();
    conf
}

/// A file of the user's.
pub(crate) fn write_as(user: &User<'_>, path: &Path, content: &[u8], mode: u32) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(content).unwrap();
    std::os::unix::fs::chown(path, Some(user.home.uid()), Some(user.home.uid())).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything in root's directories is root's, and open to nobody else's hand.
#[track_caller]
pub(crate) fn assert_roots_own(dir: &Path) {
    for (path, entry) in &ood_ca_tests::Snapshot::of(dir).0 {
        assert_eq!(entry.uid, 0, "{}", path.display());
        assert_eq!(
            entry.mode & 0o022,
            0,
            "{}: {:o}",
            path.display(),
            entry.mode
        );
        assert_ne!(
            entry.mode & 0o170_000,
            0o120_000,
            "{} is a link",
            path.display()
        );
    }
}

/// Inode and time of change: what tells that a file was written.
pub(crate) fn mark(path: &Path) -> (u64, i64, i64) {
    let m = fs::metadata(path).unwrap();
    (m.ino(), m.mtime(), m.mtime_nsec())
}

/// How long a test waits for what should take a moment, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
