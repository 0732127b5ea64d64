//! A job on a node of its own: a network and a `/dev/net/tun` that only this test
//! has, a user who exists nowhere else, and what the template makes of an app.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use ood_ca_tests::{
    Home, Outcome, Run, Running, eventually, private_mounts, require_root, require_tool,
};
use serde_json::Value;

use crate::suite::{gem, ruby};

/// The name under which the job is published, and which its leaf carries.
pub(crate) const HOST: &str = "n001.cluster.example";
/// Nobody else is in this network.
pub(crate) const PORT: u16 = 18_443;
/// The node's address, beside its loopback.
pub(crate) const NODE: &str = "10.99.0.1";

const SOON: Duration = Duration::from_secs(60);

/// The shell functions of the compute nodes.
pub(crate) fn functions() -> PathBuf {
    gem().join("../../job/share/mtls.bash")
}

/// Gives this thread and what it starts a network of their own: loopback, and an
/// address of the node. Nothing leads out of it.
pub(crate) fn own_network() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if DONE.replace(true) {
        return;
    }
    require_root();
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
        panic!("a network namespace is refused ({error}): run the tests with CAP_SYS_ADMIN")
    });
    for words in ["link set lo up", "address add 10.99.0.1/32 dev lo"] {
        let ip = require_tool("ip");
        Run::new(ip).args(words.split(' ')).output().assert_ok();
    }
}

/// `/dev/net/tun` as udev makes it (0666), or as it is on some nodes, in a view of
/// the mounts that only this thread and what it starts have.
pub(crate) fn tun(mode: u32) {
    private_mounts();
    let place = Path::new("/dev/net");
    assert!(
        place.join("tun").exists(),
        "this kernel has no /dev/net/tun, which slirp4netns needs: load the module `tun`"
    );
    let options = Some("mode=755");
    mount(
        Some("tmpfs"),
        place,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .unwrap_or_else(|error| panic!("/dev/net cannot be replaced for this test: {error}"));
    let node = place.join("tun");
    // 10, 200: see the kernel's Documentation/admin-guide/devices.txt
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(10, 200))
        .unwrap_or_else(|error| panic!("a device node cannot be made here: {error}"));
    fs::set_permissions(&node, fs::Permissions::from_mode(mode)).unwrap();
}

/// What must work for an unprivileged user before any of this can.
fn require_namespaces(user: &Home) {
    let said = user
        .run(require_tool("unshare"))
        .args(["--map-current-user", "--net", "--mount", "--pid", "--fork"])
        .args(["true"])
        .output();
    assert!(
        said.status.success(),
        "unprivileged user namespaces do not work on this machine: see the sysctls \
         user.max_user_namespaces, kernel.unprivileged_userns_clone and \
         kernel.apparmor_restrict_unprivileged_userns{said}"
    );
}

/// A user who has jobs.
pub(crate) struct User {
    pub(crate) home: Home,
    pub(crate) work: PathBuf,
}

/// A script that runs.
pub(crate) struct Job {
    pub(crate) running: Running,
    pub(crate) port: u16,
}

impl User {
    pub(crate) fn new() -> Self {
        own_network();
        tun(0o666);
        for tool in ["caddy", "slirp4netns", "curl", "python3"] {
            require_tool(tool);
        }
        let home = Home::of_somebody();
        require_namespaces(&home);
        let work = home.dir("work");
        let user = User { home, work };
        let app = include_str!("app.py");
        user.file("app.py", 0o644, app);
        user.file(
            "script.sh",
            0o755,
            "#!/bin/bash\nexec python3 app.py \"$port\"\n",
        );
        user.file("before.sh", 0o644, &format!("port={PORT}\n"));
        user
    }

    /// A file of the app.
    pub(crate) fn file(&self, name: &str, mode: u32, text: &str) {
        let path = self.work.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(self.home.uid()), Some(self.home.uid())).unwrap();
    }

    /// The script that the template `mtls_basic` makes; `options` in Ruby.
    pub(crate) fn script(&self, options: &str) -> String {
        let build = format!(
            "require 'ood_core'; require 'json'; \
             puts OodCore::BatchConnect::Factory.build({{template: 'mtls_basic', \
             work_dir: {work:?}, set_host: 'host={HOST}', \
             mtls_ood_job: '/none', mtls_ood_ca: {ood_ca:?}}}.merge({{{options}}})).to_s",
            work = self.work.display().to_string(),
            ood_ca = self.home.program().display().to_string(),
        );
        let stand_in = gem().join("test/stand_in");
        let run = ruby().args(["-I"]).args([stand_in]).args(["-e", &build]);
        run.output().assert_ok().stdout
    }

    /// Starts the script as the user.
    pub(crate) fn start(&self, options: &str) -> Job {
        self.file("job.sh", 0o644, &self.script(options));
        let run = self
            .home
            .run(require_tool("bash"))
            .args([self.work.join("job.sh")]);
        Job {
            running: run.limit(SOON).start(),
            port: PORT,
        }
    }

    /// Runs shell with the functions of `mtls.bash`, as the user, in the app's directory.
    pub(crate) fn shell(&self, code: &str) -> Run {
        let text = fs::read_to_string(functions()).unwrap();
        self.file("functions.bash", 0o644, &text);
        let code = format!(
            "export MTLS_OOD_JOB=/none MTLS_OOD_CA={} MTLS_HOSTS={HOST}\ncd {}\n. ./functions.bash\n{code}",
            self.home.program().display(),
            self.work.display()
        );
        let run = self.home.run(require_tool("bash")).args(["-c", &code]);
        run.limit(SOON)
    }

    /// A request with the leaf of `client`, if any.
    pub(crate) fn request(&self, client: Option<(&Path, &Path)>, more: &[&str]) -> Outcome {
        let mut run = Run::new(require_tool("curl"))
            .args(["--silent", "--show-error", "--max-time", "20"])
            .args(["--resolve", &format!("{HOST}:{PORT}:127.0.0.1")])
            .args(["--cacert"])
            .args([self.home.pki().join("trust.crt")]);
        if let Some((certificate, key)) = client {
            run = run
                .args(["--cert"])
                .args([certificate])
                .args(["--key"])
                .args([key]);
        }
        run.args(more).output()
    }

    /// A request of the user's own web server, and what the app says.
    pub(crate) fn ask(&self, path: &str, more: &[&str]) -> Value {
        let (certificate, key) = (
            self.home.pki().join("client.crt"),
            self.home.pki().join("client.key"),
        );
        let url = format!("https://{HOST}:{PORT}{path}");
        let mut args = vec![url.as_str()];
        args.extend(more);
        self.request(Some((&certificate, &key)), &args)
            .assert_ok()
            .json()
    }

    /// Processes of the user that are not dead.
    pub(crate) fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let own = entries.filter(|e| e.metadata().is_ok_and(|m| m.uid() == self.home.uid()));
        own.filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            // A zombie has none.
            (!line.is_empty()).then(|| {
                let words = String::from_utf8_lossy(&line).replace('\0', " ");
                format!("{}: {words}", entry.file_name().to_string_lossy())
            })
        })
        .collect()
    }

    /// The process whose command line has this in it; the oldest.
    pub(crate) fn process(&self, part: &str) -> Option<i32> {
        let all = self.processes().into_iter();
        let fitting = all.filter(|line| line.contains(part));
        fitting
            .filter_map(|line| line.split(':').next()?.parse().ok())
            .min()
    }

    /// Files of the user where private directories are made.
    pub(crate) fn temporary_files(&self) -> Vec<PathBuf> {
        let dirs = ["/dev/shm", "/tmp"].map(PathBuf::from);
        let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok());
        entries
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let own = fs::symlink_metadata(path).is_ok_and(|m| m.uid() == self.home.uid());
                // Where a test was killed, the home of somebody else of this number
                // may be left.
                own && !path.to_string_lossy().contains("/ood-ca-home-")
            })
            .collect()
    }

    /// Within `limit`, nothing of the job may be left.
    pub(crate) fn assert_nothing_left(&self, limit: Duration) {
        let what = || (self.processes(), self.temporary_files());
        let mut left = what();
        let deadline = std::time::Instant::now() + limit;
        while left != (vec![], vec![]) {
            assert!(
                std::time::Instant::now() < deadline,
                "left after {limit:?}: {left:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
            left = what();
        }
        let listeners = std::net::TcpListener::bind(("0.0.0.0", PORT));
        assert!(listeners.is_ok(), "port {PORT} is still open");
        let mut files = fs::read_dir(&self.work).unwrap().flatten();
        let key = files.find(|f| f.file_name().to_string_lossy().ends_with(".key"));
        assert!(key.is_none(), "a key is left: {key:?}");
    }

    /// The connection file, once it is there.
    pub(crate) fn connection(&self) -> String {
        eventually("the session is published", SOON, || {
            fs::read_to_string(self.work.join("connection.yml")).ok()
        })
    }
}

impl Job {
    /// A job that can be reached.
    pub(crate) fn ready(user: &User, options: &str) -> Self {
        let mut job = user.start(options);
        let published = eventually("the session is published", SOON, || {
            let there = fs::read_to_string(user.work.join("connection.yml")).ok();
            let there = there.filter(|text| text.contains("\npassword: "));
            (there.is_some() || job.running.has_ended()).then_some(there)
        });
        let Some(published) = published else {
            panic!("the job has ended: {}", job.running.wait());
        };
        assert!(
            published.contains(&format!("host: {HOST}\n")),
            "{published}"
        );
        let port = published.lines().find_map(|l| l.strip_prefix("port: "));
        job.port = port.unwrap().parse().unwrap();
        job
    }
}
