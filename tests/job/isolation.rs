//! Another user on the node tries everything they have against an app of
//! alice's. Each attempt is made by alice too, and works then: a check that
//! cannot fail proves nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use ood_ca_tests::{eventually, require_tool};
use serde_json::Value;

use crate::setup::{APP, Job, NODE, Node, PATIENCE, User, ask, get, processes_of};

/// What a user of the node can try against a process and a port. One JSON
/// object: for each attempt what it gained, or null.
const ATTEMPTS: &str = r#"
import ctypes, json, os, socket, sys
app, supervisor, port, node = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
def http(host):
    s = socket.create_connection((host, port), 3)
    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return s.recv(100).decode()[:12]
def abstract():
    s = socket.socket(socket.AF_UNIX); s.connect("\0ood-job-test"); return "connected"
def read(path):
    with open(path, "rb") as f: return str(len(f.read(64)))
def memory(pid):
    with open(f"/proc/{pid}/maps") as f: start = int(f.readline().split("-")[0], 16)
    with open(f"/proc/{pid}/mem", "rb") as f:
        f.seek(start); return str(len(f.read(16)))
def ptrace(pid):
    PTRACE_SEIZE = 0x4206
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) != 0: raise OSError(ctypes.get_errno(), "ptrace")
    return "seized"
def setns(pid):
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    return "opened"
def signal(pid):
    os.kill(pid, 0); return "signalled"
attempts = {
    "loopback": lambda: http("127.0.0.1"),
    "node-address": lambda: http(node),
    "abstract-socket": abstract,
    "environment": lambda: read(f"/proc/{app}/environ"),
    "files": lambda: ",".join(os.listdir(f"/proc/{app}/fd"))[:20],
    "root": lambda: str(len(os.listdir(f"/proc/{app}/root/"))),
    "memory": lambda: memory(app),
    "ptrace": lambda: ptrace(app),
    "namespace": lambda: setns(app),
    "signal": lambda: signal(app),
    "supervisor-memory": lambda: memory(supervisor),
    "supervisor-ptrace": lambda: ptrace(supervisor),
}
gained = {}
for name, attempt in attempts.items():
    try: gained[name] = attempt()
    except OSError: gained[name] = None
print(json.dumps(gained))
"#;

/// The app also opens an abstract socket.
fn app() -> String {
    APP.replace(
        "server.serve_forever()",
        "hidden = socket.socket(socket.AF_UNIX); hidden.bind('\\0ood-job-test'); hidden.listen(8)\nserver.serve_forever()",
    )
}

fn attempts(user: &User<'_>, job: &Job<'_>, app: i32) -> Value {
    user.run("python3")
        .args(["-c", ATTEMPTS])
        .args([app, job.pid(), 8080].map(|n| n.to_string()))
        .args([NODE.to_string()])
        .output()
        .assert_ok()
        .json()
}

/// The same from inside the app's network, which its owner may enter.
fn attempts_inside(user: &User<'_>, job: &Job<'_>, app: i32) -> Value {
    let words = [app, job.pid(), 8080].map(|n| n.to_string());
    user.run("nsenter")
        .args([
            "--user",
            "--net",
            "--preserve-credentials",
            "--target",
            &app.to_string(),
        ])
        .args(["python3", "-c", ATTEMPTS])
        .args(words)
        .args([NODE.to_string()])
        .output()
        .assert_ok()
        .json()
}

fn gained(of: &Value) -> Vec<&str> {
    let all = of.as_object().unwrap().iter();
    all.filter(|(_, v)| !v.is_null())
        .map(|(k, _)| k.as_str())
        .collect()
}

#[test]
fn another_user_of_the_node_gets_nothing_and_the_owner_everything_but_the_keys() {
    let node = Node::new();
    let (alice, mallory) = (node.user(), node.user());
    let mut job = alice.job("", &app());
    job.ready();
    let app = alice.process("python3");

    let stranger = attempts(&mallory, &job, app);
    assert_eq!(gained(&stranger), [] as [&str; 0], "{stranger}");

    // From the node's network even the owner reaches neither app nor socket.
    let outside = attempts(&alice, &job, app);
    assert_eq!(
        gained(&outside),
        [
            "environment", "files", "memory", "namespace", "ptrace", "root", "signal"
        ],
        "{outside}"
    );
    let inside = attempts_inside(&alice, &job, app);
    for name in ["loopback", "abstract-socket", "environment", "memory"] {
        assert!(gained(&inside).contains(&name), "{name}: {inside}");
    }
}

#[test]
fn the_port_is_taken_by_ipv4_and_ipv6_at_once() {
    let node = Node::new();
    let (alice, bob) = (node.user(), node.user());
    let log = alice.home.join("access.log");
    // Somebody before it found room for a part of a line.
    std::fs::write(&log, "torn").unwrap();
    std::os::unix::fs::chown(&log, Some(alice.uid()), None).unwrap();
    let flags = format!("--outbound none --access-log {}", log.display());
    let mut job = alice.job(&flags, APP);
    let port = job.ready().port;
    let script = format!(
        r#"
import socket
for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET6, "::1"), (socket.AF_INET, "0.0.0.0")):
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try: s.bind((address, {port})); s.listen(); print("got", address)
    except OSError as error: print(error.strerror)
"#
    );
    let run = |user: &User<'_>| user.run("python3").args(["-c", &script]).output();
    let said = run(&bob).assert_ok().stdout;
    assert_eq!(said, "Address already in use\n".repeat(3));
    // Who comes by IPv4 is shown as such.
    assert!(get(port, &alice.home, "/", "").is_some());
    let logged = eventually("the request is logged", PATIENCE, || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("peer=").then_some(text)
    });
    assert!(logged.contains("peer=127.0.0.1:"), "{logged}");
    assert!(logged.starts_with("torn\n"), "{logged}");
    drop(job);
    let said = run(&bob).assert_ok().stdout;
    assert!(said.contains("got ::\n"), "{said}");
}

#[test]
fn an_access_log_is_no_file_that_somebody_else_has_put_there() {
    let node = Node::new();
    let (alice, bob) = (node.user(), node.user());
    let shared = node.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    // As /tmp, but that what others made there may be opened at all.
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    let own = alice.home.join("notes");
    std::fs::write(&own, "alice's own\n").unwrap();
    std::os::unix::fs::chown(&own, Some(alice.uid()), Some(alice.uid())).unwrap();
    let script = format!(
        "cd {} && umask 0 && touch file && ln -s {} link && mkfifo fifo && mkfifo read && mkdir dir",
        shared.display(),
        own.display()
    );
    bob.run("sh").args(["-c", &script]).output().assert_ok();
    let read = bob.run("cat").args([shared.join("read")]).start();
    let take = |name: &str| {
        let flags = format!(
            "--outbound none --access-log {}",
            shared.join(name).display()
        );
        let mut job = alice.job(&flags, "print('started')");
        let code = job.code();
        (code, job.said())
    };
    for name in ["file", "link", "fifo", "read", "dir"] {
        let (code, said) = take(name);
        assert_eq!(code, 125, "{name}: {said}");
        assert!(!said.contains("started"), "{name}: {said}");
    }
    drop(read);
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "alice's own\n");
    assert_eq!(std::fs::read(shared.join("file")).unwrap(), b"");
    // Her own there, and what is a stream and not a file.
    for name in ["new.log", "new.log", "/dev/null"] {
        let (code, said) = take(name);
        assert_eq!(code, 0, "{name}: {said}");
    }
    let elsewhere = ["sh", "-c", "exec \"$@\" 2>> said", "sh"];
    let words = [
        "--outbound", "none", "--access-log", "/dev/stderr", "--", "true",
    ];
    assert_eq!(alice.start_through(&elsewhere, &words).code(), 0);
    let mode = std::fs::metadata(shared.join("new.log"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn an_access_log_may_be_behind_a_link_that_nobody_else_can_have_made() {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
    let node = Node::new();
    let (alice, bob) = (node.user(), node.user());
    let scratch = node.path().join("scratch");
    let shared = node.path().join("shared");
    for (dir, owner, mode) in [(&scratch, &alice, 0o755), (&shared, &bob, 0o777)] {
        std::fs::create_dir(dir).unwrap();
        chown(dir, Some(owner.uid()), None).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let logs = alice.home.dir("logs");
    let link = |place: &std::path::Path, to: &std::path::Path, owner: u32| {
        symlink(to, place).unwrap();
        lchown(place, Some(owner), None).unwrap();
    };
    let take = |path: &std::path::Path| {
        let flags = format!("--outbound none --access-log {}", path.display());
        let mut job = alice.job(&flags, "print('started')");
        (job.code(), job.said())
    };
    let me = alice.uid();
    // Her own, one after the other; the last leads to nothing yet.
    link(&logs.join("a"), "b".as_ref(), me);
    link(&logs.join("b"), &scratch.join("c"), me);
    link(&scratch.join("c"), &scratch.join("access.log"), me);
    let flags = format!("--outbound none --access-log {}", logs.join("a").display());
    let mut job = alice.job(&flags, APP);
    let port = job.ready().port;
    assert!(get(port, &alice.home, "/", "").is_some());
    let file = scratch.join("access.log");
    eventually("the request is logged", PATIENCE, || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("peer=").then_some(())
    });
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(job);
    // Made by another; made in a directory of others; by way of one; in a circle.
    let own = alice.home.join("notes");
    std::fs::write(&own, "alice's own\n").unwrap();
    chown(&own, Some(me), Some(me)).unwrap();
    link(&logs.join("bobs"), &own, bob.uid());
    link(&shared.join("hers"), &own, me);
    link(&shared.join("bobs"), &own, bob.uid());
    link(&logs.join("over"), &shared.join("bobs"), me);
    link(&logs.join("around"), "around".as_ref(), me);
    for refused in [
        logs.join("bobs"),
        shared.join("hers"),
        logs.join("over"),
        logs.join("around"),
    ] {
        let (code, said) = take(&refused);
        assert_eq!(code, 125, "{}: {said}", refused.display());
        assert!(said.contains("error: access log "), "{said}");
        assert!(said.contains("hint: "), "{said}");
        assert!(!said.contains("started"), "{said}");
    }
    // In a directory that others may write, though it is hers.
    std::fs::set_permissions(&logs, std::fs::Permissions::from_mode(0o770)).unwrap();
    assert_eq!(take(&logs.join("a")).0, 125);
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "alice's own\n");
}

#[test]
fn the_published_port_lets_in_its_owner_alone() {
    let node = Node::new();
    let (alice, mallory) = (node.user(), node.user());
    mallory.home.ood_ca("init").assert_ok();
    let mut job = alice.job("--outbound none", APP);
    let port = job.ready().port;
    let request = "GET / HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n";
    assert!(get(port, &alice.home, "/", "").is_some());
    for (who, client) in [("nobody", None), ("mallory", Some(&mallory.home))] {
        let answer = ask(port, client, &alice.home, request);
        assert!(!answer.contains("HTTP/1.1 200"), "{who}: {answer}");
        assert!(!answer.contains("\"pid\""), "{who}: {answer}");
    }
    // Nor with what the job itself holds: a server leaf of the same authority.
    alice.home.ood_ca("issue --host n1 --out leaf").assert_ok();
    let as_server = ood_ca_tests::Run::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .args([
            "-cert".into(),
            alice.home.join("leaf/server.crt"),
            "-key".into(),
            alice.home.join("leaf/server.key"),
        ])
        .input(request.as_bytes())
        .output();
    assert!(!as_server.stdout.contains("\"pid\""), "{as_server}");
}

#[test]
fn an_app_that_listens_on_every_address_is_reached_by_none_of_the_nodes() {
    let node = Node::new();
    let (alice, mallory) = (node.user(), node.user());
    let everywhere = APP.replace("os.environ[\"OOD_JOB_APP_HOST\"]", "\"0.0.0.0\"");
    let mut job = alice.job("", &everywhere);
    job.ready();
    let seen = attempts(&mallory, &job, alice.process("python3"));
    assert_eq!(gained(&seen), [] as [&str; 0], "{seen}");
}

#[test]
fn without_a_network_of_its_own_the_app_is_open_and_the_attempts_show_it() {
    let node = Node::new();
    let (alice, mallory) = (node.user(), node.user());
    let flags = "--network host --allow-unisolated --to 127.0.0.1:8080";
    let mut job = alice.job(flags, &app());
    job.ready();
    job.expect_said("warning: the app shares the node's network");
    let seen = attempts(&mallory, &job, alice.process("python3"));
    assert_eq!(gained(&seen), ["abstract-socket", "loopback"], "{seen}");
}

#[test]
fn a_socket_in_a_closed_directory_is_reached_by_its_owner_alone() {
    let node = Node::new();
    let (alice, mallory) = (node.user(), node.user());
    let socket = alice.home.dir("app").join("socket");
    let mut job = alice.job(&format!("--to unix:{}", socket.display()), APP);
    let port = job.ready().port;
    job.expect_said("warning: the app shares the node's network");
    assert!(get(port, &alice.home, "/", "").is_some());
    let connect = |user: &User<'_>| {
        let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        let run = user.run("python3").args(["-c", script]).args([&socket]);
        run.output().status.success()
    };
    assert!(connect(&alice));
    assert!(!connect(&mallory));
}

#[test]
fn a_socket_that_another_user_has_put_in_the_place_of_the_apps_is_not_spoken_to() {
    let node = Node::new();
    let alice = node.user();
    let dir = alice.home.dir("app");
    let socket = dir.join("socket");
    // Without keep-alive, so that each request makes a connection of its own.
    let app = APP.replace("HTTP/1.1", "HTTP/1.0");
    let mut job = alice.job(&format!("--to unix:{}", socket.display()), &app);
    let port = job.ready().port;
    assert!(get(port, &alice.home, "/", "").is_some());
    // As somebody could who may rename a directory above: root here.
    std::fs::rename(&dir, alice.home.join("away")).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let impostor = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::thread::spawn(move || {
        for mut stream in impostor.incoming().map_while(Result::ok) {
            let mut request = [0; 1024];
            if matches!(stream.read(&mut request), Ok(1..)) {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"));
            }
        }
    });
    let request = "GET / HTTP/1.1\r\nHost: n1\r\nCookie: secret\r\nConnection: close\r\n\r\n";
    let answer = ask(port, Some(&alice.home), &alice.home, request);
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(!answer.contains("stolen"), "{answer}");
}

/// Waits at a port of the node, and says what it is sent. With `deaf` it does not
/// even take the connections.
const IMPOSTOR: &str = r#"
import socket, sys
server = socket.create_server((sys.argv[1], 8080))
print("listens", flush=True)
if sys.argv[2] == "deaf": __import__("time").sleep(600)
while True:
    stream = server.accept()[0]
    try:
        print("got", stream.recv(4096), flush=True)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
    except OSError: print("got nothing", flush=True)
"#;

#[test]
fn another_user_who_takes_the_apps_port_on_the_nodes_network_gets_nothing() {
    let node = Node::new();
    let (alice, mallory) = (node.user(), node.user());
    // Without keep-alive; and it leaves its port to others for a while.
    let app = APP.replace("HTTP/1.1", "HTTP/1.0").replace(
        "server.serve_forever()",
        r#"
import signal, threading, time
# Not events: a signal that comes while one is waited for would wait for itself.
leave, again = [], []
signal.signal(signal.SIGUSR1, lambda *_: leave.append(1))
signal.signal(signal.SIGUSR2, lambda *_: again.append(1))
address = server.server_address
while True:
    threading.Thread(target=server.serve_forever).start()
    while not leave: time.sleep(0.01)
    server.shutdown(); server.server_close(); leave.clear(); print("left", flush=True)
    while not again: time.sleep(0.01)
    again.clear(); server = http.server.ThreadingHTTPServer(address, Handler); print("back", flush=True)
"#,
    );
    alice.set("TOKEN", "secret-of-the-app");
    let flags = "--network host --allow-unisolated --to 127.0.0.1:8080 --header-env X-Token=TOKEN";
    let mut job = alice.job(flags, &app);
    let port = job.ready().port;
    let request = "GET / HTTP/1.1\r\nHost: n1\r\nCookie: secret\r\nConnection: close\r\n\r\n";
    let asked = || ask(port, Some(&alice.home), &alice.home, request);
    let answer = asked();
    assert!(answer.contains(" 200 OK"), "{answer}");
    for (turn, (address, how)) in [
        ("127.0.0.1", "open"),
        ("0.0.0.0", "open"),
        ("127.0.0.1", "deaf"),
        ("0.0.0.0", "deaf"),
    ]
    .into_iter()
    .enumerate()
    {
        job.signal(rustix::process::Signal::USR1);
        eventually("the app has left", PATIENCE, || {
            (job.said().matches("left").count() == turn + 1).then_some(())
        });
        let python = mallory.run("python3").args(["-u", "-c", IMPOSTOR]);
        let impostor = python.args([address, how]).start();
        eventually("somebody else listens", PATIENCE, || {
            TcpStream::connect("127.0.0.1:8080").ok()
        });
        let answer = asked();
        assert!(answer.starts_with("HTTP/1.1 502"), "{how}: {answer}");
        assert!(!answer.contains("stolen"), "{how}: {answer}");
        let said = impostor.terminate().stdout;
        assert!(!said.contains("secret"), "{how}: {said}");
        assert!(!said.contains("GET"), "{how}: {said}");
        assert_eq!(said.contains("got"), how == "open", "{how}: {said}");
        // And the app is found again.
        job.signal(rustix::process::Signal::USR2);
        eventually("the app is back", PATIENCE, || {
            (job.said().matches("back").count() == turn + 1).then_some(())
        });
        assert!(asked().contains(" 200 OK"), "{how}");
    }
}

#[test]
fn an_app_at_another_address_of_the_node_is_known_as_well() {
    let node = Node::new();
    let alice = node.user();
    let flags = format!("--network host --allow-unisolated --to {NODE}:8080");
    let mut job = alice.job(&flags, APP);
    let port = job.ready().port;
    assert!(get(port, &alice.home, "/", "").is_some());
    drop(job);
    crate::setup::web_server((NODE, 8080).into(), "not the app");
    let mut job = alice.job(&flags, "import time; time.sleep(600)");
    assert_eq!(job.code(), 125, "{}", job.said());
    let said = job.said();
    assert!(said.contains("belongs to another user (uid 0)"), "{said}");
}

/// Every connection to that port then comes from it.
const ONE_PORT: &str = "echo 8080 8080 > /proc/sys/net/ipv4/ip_local_port_range";

#[test]
fn a_connection_that_meets_itself_is_not_taken_for_the_app() {
    let node = Node::new();
    let alice = node.user();
    let sleeps = "print('up', flush=True)\nimport time; time.sleep(600)";
    let mut job = alice.job("--outbound none --tcp --ready-timeout 3s", sleeps);
    job.expect_said("up");
    let app = alice.process("python3").to_string();
    let enter = ood_ca_tests::Run::new(require_tool("nsenter"));
    let enter = enter.args(["--net", "--target", &app, "sh", "-c", ONE_PORT]);
    enter.output().assert_ok();
    assert_eq!(job.code(), 125, "{}", job.said());

    let shell = ood_ca_tests::Run::new("sh").args(["-c", ONE_PORT]);
    shell.output().assert_ok();
    let flags = "--network host --allow-unisolated --to 127.0.0.1:8080 --tcp --ready-timeout 1s";
    let mut job = alice.job(flags, sleeps);
    assert_eq!(job.code(), 125, "{}", job.said());
}

#[test]
fn the_app_itself_cannot_look_into_the_process_that_holds_the_key() {
    let node = Node::new();
    let alice = node.user();
    // As the same user, and seeing all of the node's processes.
    let spy = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for pid in (os.getppid(), SUPERVISOR):
    for path in ("mem", "environ", "maps", "fd"):
        try:
            file = f"/proc/{pid}/{path}"
            os.listdir(file) if path == "fd" else open(file, "rb").read(1)
            print("READ", pid, path)
        except OSError as error:
            print("refused", error.strerror)
    print("SEIZED" if libc.ptrace(0x4206, pid, None, None) == 0 else "refused", flush=True)
print("own", open("/proc/self/environ", "rb").read(4))
"#;
    let find = "int(open(f'/proc/{os.getppid()}/status').read().split('PPid:')[1].split()[0])";
    let script = spy.replace("SUPERVISOR", find);
    let mut job = alice.job("--outbound none --no-pidns", &script);
    assert_eq!(job.code(), 0, "{}", job.said());
    let said = job.said();
    assert!(!said.contains("READ") && !said.contains("SEIZED"), "{said}");
    assert_eq!(said.matches("refused").count(), 10, "{said}");
    assert!(said.contains("own"), "{said}");
}

#[test]
fn the_app_sees_its_own_processes_only() {
    let node = Node::new();
    let alice = node.user();
    let script = "import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))";
    let mut job = alice.job("--outbound none", script);
    assert_eq!(job.code(), 0);
    assert!(job.said().starts_with("[1, 2]"), "{}", job.said());
    let mut job = alice.job("--outbound none --no-pidns", script);
    assert_eq!(job.code(), 0);
    assert!(job.said().len() > 40, "{}", job.said());
    assert!(processes_of(alice.uid()).is_empty());
}
