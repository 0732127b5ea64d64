//! A compute node for each test: a network and mounts of its own, with name
//! servers and users that exist nowhere else.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use ood_ca_tests::{Home, Outcome, Run, eventually, private_mounts, require_tool, runnable_by};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Ample for what takes milliseconds, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// For what should take a moment, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// What every user may run: the test's own may name places in root's home.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The node's own address, and one of another host that it reaches.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// The part of the system that the test is in: nothing of it is seen by other
/// tests, and all of it is gone when the test is.
pub(crate) struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    /// A node with a network, whose `/dev/net/tun` users may open.
    pub(crate) fn new() -> Self {
        Self::with_tun(Some(0o666))
    }

    /// A node with this mode of `/dev/net/tun`, or with none.
    pub(crate) fn with_tun(mode: Option<u32>) -> Self {
        private_mounts();
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of the test's own");
        network();
        let dir = tempfile::Builder::new()
            .prefix("ood-job-node-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all("/dev/net").unwrap();
        let options = Some("mode=755");
        mount(
            Some("tmpfs"),
            "/dev/net",
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .expect("a tmpfs can be mounted");
        if let Some(mode) = mode {
            let tun = Path::new("/dev/net/tun");
            let device = nix::sys::stat::makedev(10, 200);
            let kind = nix::sys::stat::SFlag::S_IFCHR;
            nix::sys::stat::mknod(tun, kind, nix::sys::stat::Mode::empty(), device)
                .expect("a device can be made: run the tests with CAP_MKNOD");
            fs::set_permissions(tun, fs::Permissions::from_mode(mode)).unwrap();
        }
        let node = Node { dir };
        node.resolv_conf("nameserver 127.0.0.53\n");
        let file = node.dir.path().join("resolv.conf");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let bind = MsFlags::MS_BIND;
        mount(Some(&file), RESOLV_CONF, None::<&str>, bind, None::<&str>)
            .expect("resolv.conf can be covered");
        node
    }

    /// What the node's `/etc/resolv.conf` says from now on.
    pub(crate) fn resolv_conf(&self, text: &str) {
        fs::write(self.dir.path().join("resolv.conf"), text).unwrap();
    }

    /// A place that is gone with the node.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A user of this node.
    pub(crate) fn user(&self) -> User<'_> {
        self.user_at(Home::of_somebody())
    }

    /// A user of this node whose home is this one.
    pub(crate) fn user_at(&self, home: Home) -> User<'_> {
        User {
            home,
            env: RefCell::default(),
            node: self,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test may have one node after the other.
        for covered in [RESOLV_CONF, "/dev/net"] {
            let _ = umount2(covered, MntFlags::MNT_DETACH);
        }
        // Else what a test shows here would be removed with the directory.
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(self.dir.path())) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// A `/proc` that shows a user nothing of what they cannot look into, as some sites
/// mount it. It is as before when this is dropped.
pub(crate) struct HidingProc(());

impl HidingProc {
    pub(crate) fn new() -> Self {
        private_mounts();
        let (kind, options) = (Some("proc"), Some("hidepid=2"));
        mount(kind, "/proc", kind, MsFlags::empty(), options)
            .expect("a /proc with hidepid can be mounted");
        HidingProc(())
    }
}

impl Drop for HidingProc {
    fn drop(&mut self) {
        let _ = umount2("/proc", MntFlags::MNT_DETACH);
    }
}

fn network() {
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name peer0",
        "addr add 10.77.0.1/24 dev eth0",
        "addr add 10.77.0.9/32 dev eth0",
        "link set eth0 up",
        "link set peer0 up",
        "route add default via 10.77.0.254",
    ] {
        ip(line);
    }
}

fn ip(line: &str) {
    Run::new(require_tool("ip"))
        .args(line.split(' '))
        .output()
        .assert_ok();
}

/// Answers every DNS question for an IPv4 address with [`ELSEWHERE`], on the
/// node's loopback, as systemd-resolved does. What was asked for.
pub(crate) fn name_server() -> Arc<Mutex<Vec<String>>> {
    let socket = UdpSocket::bind("127.0.0.53:53").unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    // Ends with the test process; it holds nothing but this test's network.
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let question = &packet[12..length];
            let end = question.iter().position(|b| *b == 0).unwrap_or(0);
            let name: String = question[1..end.max(1)]
                .iter()
                .map(|b| if *b < 32 { '.' } else { char::from(*b) })
                .collect();
            log.lock().unwrap().push(name);
            let wants_v4 = question.get(end + 1..end + 3) == Some(&[0, 1]);
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
            answer.extend(&question[..end + 5]);
            if wants_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(ELSEWHERE.octets());
            }
            drop(socket.send_to(&answer, from));
        }
    });
    asked
}

/// A web server of the node, or of a host that it reaches. How many connections it
/// has met.
pub(crate) fn web_server(address: SocketAddr, says: &'static str) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).unwrap();
    let met = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&met);
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            answer(connection, says);
        }
    });
    met
}

/// The same at a socket.
pub(crate) fn web_server_at(socket: &Path, says: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            answer(connection, says);
        }
    });
}

fn answer(mut connection: impl Read + Write, says: &str) {
    if connection.read(&mut [0; 4096]).is_ok() {
        let length = says.len();
        drop(write!(
            connection,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{says}"
        ));
    }
}

/// Somebody with a home and an authority of their own.
pub(crate) struct User<'a> {
    pub(crate) home: Home,
    env: RefCell<Vec<(String, String)>>,
    node: &'a Node,
}

impl User<'_> {
    pub(crate) fn uid(&self) -> u32 {
        self.home.uid()
    }

    /// Adds to the environment of what this user runs.
    pub(crate) fn set(&self, name: &str, value: impl Into<String>) {
        self.env.borrow_mut().push((name.into(), value.into()));
    }

    /// Any program as this user.
    pub(crate) fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        let run = self.home.run(program).limit(PATIENCE).env("PATH", PATH);
        let env = self.env.borrow();
        env.iter()
            .fold(run, |run, (name, value)| run.env(name, value))
    }

    /// `ood-job` with these words.
    pub(crate) fn ood_job<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Run {
        self.run(self.program()).args(words)
    }

    pub(crate) fn program(&self) -> PathBuf {
        runnable_by(ood_ca_tests::ood_job(), self.uid())
    }

    /// The process of this name, as the node numbers it, once it is there.
    pub(crate) fn process(&self, name: &str) -> i32 {
        eventually(&format!("a process {name} of the user"), PATIENCE, || {
            let all = processes_of(self.uid());
            all.iter().find(|(_, n)| n == name).map(|(pid, _)| *pid)
        })
    }

    /// `ood-job run` with these words and Python as the app.
    pub(crate) fn job(&self, flags: &str, script: &str) -> Job<'_> {
        let words = flags.split_whitespace();
        let app = ["--", "python3", "-c", script];
        self.start(&words.chain(app).collect::<Vec<_>>())
    }

    /// `ood-job run` with these words, in the background.
    pub(crate) fn start(&self, words: &[&str]) -> Job<'_> {
        self.start_through(&[], words)
    }

    /// The same by a program that becomes what the words after its own name.
    pub(crate) fn start_through(&self, first: &[&str], words: &[&str]) -> Job<'_> {
        let publish = self.home.join(format!("connection-{}.json", unique()));
        let mut command = Command::new(require_tool("setpriv"));
        let uid = self.uid();
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={uid}"))
            .args(["--clear-groups", "--"])
            .args(first)
            .arg(self.program())
            .args(["run", "--publish"])
            .arg(&publish)
            .args(words)
            .current_dir(self.home.path())
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .envs(self.env.borrow().iter().cloned())
            .stdin(Stdio::null())
            .stdout(self.output(&publish, "out"))
            .stderr(self.output(&publish, "err"));
        let child = command.spawn().unwrap();
        Job {
            child,
            publish,
            user: self,
        }
    }

    fn output(&self, publish: &Path, end: &str) -> fs::File {
        fs::File::create(self.node.dir.path().join(log_name(publish, end))).unwrap()
    }
}

fn log_name(publish: &Path, end: &str) -> String {
    format!("{}.{end}", publish.file_name().unwrap().to_string_lossy())
}

fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A web app that answers with what `answer(path, headers)` gives; it starts
/// with `OOD_JOB_APP_PORT` or on a socket.
pub(crate) const APP: &str = r#"
import http.server, json, os, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": dict(self.headers), "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class Unix(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    def server_bind(self): self.socket.bind(self.server_address)
    def get_request(self): return self.socket.accept()[0], ("unix", 0)
where = os.environ.get("OOD_JOB_APP_SOCKET")
if where:
    server = Unix(where, Handler)
else:
    server = http.server.ThreadingHTTPServer((os.environ["OOD_JOB_APP_HOST"], int(os.environ["OOD_JOB_APP_PORT"])), Handler)
server.serve_forever()
"#;

/// `ood-job run` at work. Dropping it kills it and waits until all is gone.
pub(crate) struct Job<'a> {
    child: Child,
    publish: PathBuf,
    user: &'a User<'a>,
}

impl Job<'_> {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// What `ood-job` and the app have said, standard output first.
    pub(crate) fn said(&self) -> String {
        let dir = self.user.node.dir.path();
        let read = |end| fs::read_to_string(dir.join(log_name(&self.publish, end)));
        read("out").unwrap_or_default() + &read("err").unwrap_or_default()
    }

    pub(crate) fn expect_said(&self, part: &str) {
        eventually(
            &format!("it says {part:?}: {}", self.said()),
            PATIENCE,
            || self.said().contains(part).then_some(()),
        );
    }

    /// Waits until the app answers; where.
    pub(crate) fn ready(&mut self) -> Published {
        eventually("the app is published", PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ood-job ended with {status}: {}", self.said());
            }
            let text = fs::read_to_string(&self.publish).ok()?;
            let value: Value = serde_json::from_str(&text).unwrap();
            Some(Published {
                host: value["host"].as_str().unwrap().to_owned(),
                port: value["port"].as_u64().unwrap().try_into().unwrap(),
                session: value["session"].as_str().unwrap().to_owned(),
            })
        })
    }

    /// The process that keeps the app's surroundings: the other one called ood-job.
    pub(crate) fn keeper(&self) -> Pid {
        let all = processes_of(self.user.uid());
        let mut others = all
            .iter()
            .filter(|(pid, name)| name == "ood-job" && *pid != self.pid());
        Pid::from_raw(others.next().unwrap().0).unwrap()
    }

    pub(crate) fn publish_file(&self) -> &Path {
        &self.publish
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; the exit code.
    pub(crate) fn code(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < deadline,
                "it does not end: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL for `ood-job` and for nothing else.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ood-job said:\n{}", self.said());
        }
        drop(self.child.kill());
        drop(self.child.wait());
        // Nobody may still tidy up in a home that is about to be removed.
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline && !processes_of(self.user.uid()).is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Where an app was published.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) session: String,
}

/// Sends a request over mutual TLS with this user's client leaf; the answer as
/// it came, empty if there was none.
pub(crate) fn ask(port: u16, as_user: Option<&Home>, trust: &Home, request: &str) -> String {
    let pki = trust.pki();
    let mut run = Run::new(require_tool("openssl")).args([
        "s_client",
        "-quiet",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-CAfile",
    ]);
    run = run.args([pki.join("trust.crt")]);
    if let Some(home) = as_user {
        run = run.args([
            "-cert".into(),
            home.pki().join("client.crt"),
            "-key".into(),
            home.pki().join("client.key"),
        ]);
    }
    let outcome: Outcome = run.input(request.as_bytes()).limit(PATIENCE).output();
    outcome.stdout
}

/// A GET of the owner's, and what the app answers; `None` if it does not.
pub(crate) fn get(port: u16, home: &Home, path: &str, headers: &str) -> Option<Value> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: n1\r\n{headers}Connection: close\r\n\r\n");
    let answer = ask(port, Some(home), home, &request);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1);
    assert_eq!(status, Some("200"), "{answer}");
    serde_json::from_str(body).ok()
}

/// The processes of a user: number and name. Zombies are none.
pub(crate) fn processes_of(uid: u32) -> Vec<(i32, String)> {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        // By status: /proc/<pid> itself is root's where a process may not be dumped.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            line.map(|l| l.trim().to_owned())
        };
        let owner = field("Uid:")?
            .split_whitespace()
            .next()?
            .parse::<u32>()
            .ok()?;
        let _ = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        (owner == uid && !field("State:")?.starts_with('Z'))
            .then(|| field("Name:").map(|name| (pid, name)))?
    })
    .collect()
}

/// Kills all of the user's processes at once, as a batch system does with a control
/// group: none is left to tidy up.
pub(crate) fn kill_all_at_once(user: &User<'_>) {
    let field = |pid: i32, name: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let pids = || -> Vec<i32> {
        let all = processes_of(user.uid()).into_iter();
        all.map(|(pid, _)| pid).collect()
    };
    let signal = |pid: &i32, signal| {
        let _ = kill_process(Pid::from_raw(*pid).unwrap(), signal);
    };
    // Who sees another one die tidies up, so nobody may see it.
    eventually("all are stopped", PATIENCE, || {
        let all = pids();
        all.iter().for_each(|pid| signal(pid, Signal::STOP));
        all.iter()
            .all(|pid| field(*pid, "State:").starts_with('T'))
            .then_some(())
    });
    eventually("all are dead", PATIENCE, || {
        let all = pids();
        // Those that were not started by one of them last: the kernel lets stopped
        // ones go on whose parent ends.
        let child = |pid: &&i32| {
            let parent = field(**pid, "PPid:").parse();
            parent.is_ok_and(|parent| all.contains(&parent))
        };
        let (below, top): (Vec<_>, Vec<_>) = all.iter().partition(child);
        for pid in below.into_iter().chain(top) {
            signal(pid, Signal::KILL);
        }
        all.is_empty().then_some(())
    });
}

/// Nothing of the user runs any more, within this time.
#[track_caller]
pub(crate) fn assert_all_gone(user: &User<'_>, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let left = processes_of(user.uid());
        let mounts = mounts_of(user);
        let sessions = session_files(&user.home);
        if left.is_empty() && mounts.is_empty() && sessions.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left after {limit:?}: {left:?} {mounts:?} {sessions:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Mounts of the node that name the user.
fn mounts_of(user: &User<'_>) -> Vec<String> {
    let uid = format!("uid={}", user.uid());
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts
        .lines()
        .filter(|l| l.contains(&uid))
        .map(String::from)
        .collect()
}

/// The names below `~/.ood/sessions`.
pub(crate) fn session_files(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.join(".ood/sessions"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
