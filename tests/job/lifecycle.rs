//! A good parent: what the app's start, end and signals look like from outside.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use ood_ca_tests::tls::Server;
use ood_ca_tests::{eventually, require_tool};
use rustix::process::{Pid, Signal, kill_process};

use crate::setup::{
    APP, Node, PATH, PATIENCE, SOON, assert_all_gone, get, processes_of, session_files,
};

#[test]
fn the_apps_exit_code_is_passed_on() {
    let node = Node::new();
    let alice = node.user();
    for (script, code) in [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(os.getpid(), 15)", 143),
        // A child that it leaves behind goes with it.
        (
            "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True); raise SystemExit(3)",
            3,
        ),
    ] {
        for flags in [
            "--outbound none", "--outbound none --no-pidns", "--network host --allow-unisolated",
        ] {
            let mut job = alice.job(flags, script);
            assert_eq!(job.code(), code, "{flags} {script}: {}", job.said());
            assert_all_gone(&alice, SOON);
        }
    }
}

/// Sends itself descriptors and takes them from nobody, until it is killed.
const IN_FLIGHT: &str = r#"
import os, resource, socket, signal
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(4)]
for sender, _ in pairs:
    socket.send_fds(sender, [b"x"], [0] * 50)
open("in-flight", "w").close()
signal.pause()
"#;

#[test]
fn descriptors_that_another_program_of_the_user_has_under_way_cut_no_app_off() {
    let node = Node::new();
    let alice = node.user();
    // What a user may have under way is as many as the program may have open that
    // sends one more.
    let few = ["prlimit", "--nofile=64:"];
    // A connection for each request.
    let app = APP.replace("HTTP/1.1", "HTTP/1.0");
    let words = ["--outbound", "none", "--", "python3", "-c", &app];
    let mut job = alice.start_through(&few, &words);
    let port = job.ready().port;
    assert!(get(port, &alice.home, "/", "").is_some());
    let mut other = alice.run("python3").args(["-c", IN_FLIGHT]).start();
    eventually("they are under way", PATIENCE, || {
        alice.home.join("in-flight").exists().then_some(())
    });
    // Some sockets lie ready.
    for _ in 0..3 {
        assert!(get(port, &alice.home, "/", "").is_some());
    }
    other.kill();
    drop(other);
    for _ in 0..4 {
        assert!(get(port, &alice.home, "/", "").is_some());
    }
}

#[test]
fn signals_reach_the_app_and_it_decides() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import os, signal, sys, time
# Not print(), which a signal must not interrupt with another one.
say = lambda *words: os.write(1, (" ".join(words) + "\n").encode())
for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGWINCH"):
    signal.signal(getattr(signal, name), lambda number, _: say("got", signal.Signals(number).name))
signal.signal(signal.SIGTERM, lambda *_: (say("bye"), sys.exit(5)))
say("up")
# Not pause(), which would not return for a signal just before it.
while True: time.sleep(0.05)
"#;
    let mut job = alice.job("--outbound none", script);
    job.expect_said("up");
    for (signal, name) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::WINCH, "SIGWINCH"),
    ] {
        job.signal(signal);
        job.expect_said(&format!("got {name}\n"));
    }
    assert!(!job.has_ended());
    job.signal(Signal::TERM);
    assert_eq!(job.code(), 5);
    assert!(job.said().contains("bye"));
}

#[test]
fn what_the_app_kills_is_its_own() {
    let node = Node::new();
    let alice = node.user();
    // The reference's clean-up was `kill 0`, which ended the batch script.
    let script =
        "import os, signal; signal.signal(15, lambda *_: None); os.kill(0, 15); print('alone')";
    for flags in ["--outbound none", "--outbound none --no-pidns"] {
        let mut job = alice.job(flags, script);
        assert_eq!(job.code(), 0, "{}", job.said());
        assert!(job.said().starts_with("alone"));
    }
    // And as process 1 of the namespace, the keeper cannot be killed by it.
    let script = "import os\nfor s in (9, 15, 19): os.kill(1, s)\nprint('still here')";
    let mut job = alice.job("--outbound none", script);
    assert_eq!(job.code(), 0, "{}", job.said());
    assert!(job.said().starts_with("still here"));
}

#[test]
fn an_app_that_never_answers_is_ended_when_its_time_is_over() {
    let node = Node::new();
    let alice = node.user();
    let started = Instant::now();
    let mut job = alice.job(
        "--outbound none --ready-timeout 1s", "import time; time.sleep(600)",
    );
    assert_eq!(job.code(), 125);
    assert!(started.elapsed() >= Duration::from_secs(1));
    let said = job.said();
    assert!(
        said.contains("error: the app did not answer at 127.0.0.1:8080 within 1 s"),
        "{said}"
    );
    assert!(
        said.contains("hint: does the app listen on the address that --to names?"),
        "{said}"
    );
    assert!(!job.publish_file().exists());
    assert_all_gone(&alice, SOON);
}

#[test]
fn a_connection_is_no_answer_of_http() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import os, socket
server = socket.create_server(("127.0.0.1", int(os.environ["OOD_JOB_APP_PORT"])))
while True: server.accept()[0].sendall(b"RFB 003.008\n")
"#;
    let mut job = alice.job("--outbound none --ready-timeout 1s", script);
    assert_eq!(job.code(), 125, "{}", job.said());
    let mut job = alice.job("--outbound none --tcp", script);
    job.ready();
}

#[test]
fn a_port_that_is_taken_is_an_error_before_anything_starts() {
    let node = Node::new();
    let alice = node.user();
    // Somebody else's, on one address only.
    let taken = TcpListener::bind("10.77.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for address in ["0.0.0.0", "10.77.0.1"] {
        let mut job = alice.job(
            &format!("--outbound none --listen {address}:{port}"),
            "print('started')",
        );
        assert_eq!(job.code(), 125);
        let said = job.said();
        assert!(
            said.contains(&format!(
                "error: cannot listen on {address}:{port}: Address already in use"
            )),
            "{said}"
        );
        assert!(
            said.contains("hint: another program has that port"),
            "{said}"
        );
        assert!(!said.contains("started"));
    }
}

#[test]
fn the_port_is_held_before_the_app_starts_and_by_nobody_else() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import os, socket, time
print("port", os.environ["OOD_JOB_PORT"], flush=True)
time.sleep(600)
"#;
    let job = alice.job("--outbound none", script);
    job.expect_said("port ");
    let said = job.said();
    let port: u16 = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    for address in ["0.0.0.0", "127.0.0.1", "10.77.0.1"] {
        assert!(TcpListener::bind((address, port)).is_err(), "{address}");
    }
}

#[test]
fn a_command_that_cannot_be_run_says_so_as_env_does() {
    let node = Node::new();
    let alice = node.user();
    let mut missing = alice.start(&["--outbound", "none", "--", "no-such-program"]);
    assert_eq!(missing.code(), 127);
    assert!(
        missing
            .said()
            .contains("error: cannot start no-such-program: No such file"),
        "{}",
        missing.said()
    );
    let mut directory = alice.start(&["--outbound", "none", "--", "/etc"]);
    assert_eq!(directory.code(), 126);
    assert!(
        directory
            .said()
            .contains("cannot start /etc: Permission denied"),
        "{}",
        directory.said()
    );
}

#[test]
fn on_the_nodes_network_a_port_of_somebody_elses_is_not_taken_for_the_app() {
    let node = Node::new();
    let alice = node.user();
    // This test's user is root, who is not alice.
    crate::setup::web_server("127.0.0.1:8080".parse().unwrap(), "not the app");
    let mut job = alice.job(
        "--network host --allow-unisolated", "import time; time.sleep(600)",
    );
    assert_eq!(job.code(), 125);
    assert!(
        job.said()
            .contains("error: 127.0.0.1:8080 belongs to another user (uid 0)"),
        "{}",
        job.said()
    );
    assert_all_gone(&alice, SOON);
}

#[test]
fn sharing_the_nodes_network_must_be_meant() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--network host", "print('started')");
    assert_eq!(job.code(), 125);
    assert!(
        job.said().contains("add --allow-unisolated"),
        "{}",
        job.said()
    );
    let socket = alice.home.join("open");
    std::fs::create_dir(&socket).unwrap();
    let mut job = alice.job(
        &format!("--to unix:{}/socket", socket.display()),
        "print('started')",
    );
    assert_eq!(job.code(), 125);
    assert!(!job.said().contains("started"));
}

#[test]
fn ended_with_the_app_are_its_registration_and_its_publication() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none", APP);
    let published = job.ready();
    let files = session_files(&alice.home);
    assert!(
        files.contains(&format!("{}:{}", published.host, published.port)),
        "{files:?}"
    );
    assert!(
        files.contains(&format!("10.77.0.1:{}", published.port)),
        "{files:?}"
    );
    job.signal(Signal::TERM);
    assert_eq!(job.code(), 143);
    assert!(!job.publish_file().exists());
    assert_all_gone(&alice, SOON);
}

#[test]
fn as_process_1_of_a_container_it_reaps_and_hears_signals() {
    let node = Node::new();
    let alice = node.user();
    let uid = alice.uid();
    let script = "import os, signal, subprocess, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nsubprocess.Popen(['sh', '-c', '(sleep 0.1 &)'])\nprint('up', flush=True)\nwhile True: time.sleep(0.05)";
    for flags in ["", " --no-pidns"] {
        let line = format!(
            "--pid --fork --kill-child --mount-proc setpriv --reuid={uid} --regid={uid} --clear-groups env HOME={} {} run --outbound none{flags} -- python3 -c",
            alice.home.path().display(),
            alice.program().display()
        );
        let mut container = Server::start(
            require_tool("unshare"),
            line.split(' ').chain([script]).map(OsStr::new),
        );
        container.expect("the app is up", |said| said.contains("up").then_some(()));
        let inside = processes_of(uid).into_iter().find(|(pid, name)| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let first = status.lines().find(|l| l.starts_with("NSpid:"));
            name == "ood-job"
                && first.is_some_and(|l| {
                    l.split_whitespace().nth(2) == Some("1") && l.split_whitespace().count() == 3
                })
        });
        let pid = Pid::from_raw(inside.expect("process 1").0).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(container.code(), Some(7));
        assert_all_gone(&alice, SOON);
    }
}

#[test]
fn children_of_the_shell_that_became_it_are_left_alone() {
    let node = Node::new();
    let alice = node.user();
    let program = alice.program().display().to_string();
    let script = format!("sleep 600 & exec {program} run --outbound none --no-pidns -- true");
    let outcome = alice.run("setsid").args(["-w", "sh", "-c", &script]);
    // Its output is the sleep's too, so that it is not waited for to be closed.
    let mut running = outcome.start();
    ood_ca_tests::eventually("it ends", PATIENCE, || running.has_ended().then_some(()));
    let left = alice.process("sleep");
    kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn signals_that_batch_systems_choose_reach_the_app_too() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import os, signal, time
# Not print(), which a signal must not interrupt with another one.
say = lambda *words: os.write(1, (" ".join(words) + "\n").encode())
for number in (signal.SIGXCPU, signal.SIGIO, signal.SIGPWR, signal.SIGURG, signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX):
    signal.signal(number, lambda number, _: say("got", str(int(number))))
say("up")
# Not pause(), which would not return for a signal just before it.
while True: time.sleep(0.05)
"#;
    for flags in ["--outbound none", "--outbound none --no-pidns"] {
        let job = alice.job(flags, script);
        job.expect_said("up");
        for number in [24, 29, 30, 23, 34, 39, 64] {
            let words = [format!("-{number}"), job.pid().to_string()];
            let kill = ood_ca_tests::Run::new(require_tool("kill"));
            kill.args(words).output().assert_ok();
            job.expect_said(&format!("got {number}\n"));
        }
    }
}

#[test]
fn a_stopped_app_hears_that_it_shall_end() {
    let node = Node::new();
    let alice = node.user();
    for flags in ["--outbound none", "--outbound none --no-pidns"] {
        let mut job = alice.job(
            flags,
            "print('up', flush=True)\nimport time; time.sleep(600)",
        );
        job.expect_said("up");
        let app = Pid::from_raw(alice.process("python3")).unwrap();
        kill_process(app, Signal::STOP).unwrap();
        let status = format!("/proc/{}/status", app.as_raw_nonzero());
        eventually("the app is stopped", PATIENCE, || {
            let status = std::fs::read_to_string(&status).unwrap();
            status.contains("State:\tT").then_some(())
        });
        job.signal(Signal::TERM);
        assert_eq!(job.code(), 143, "{}", job.said());
    }
}

#[test]
fn ignored_and_blocked_signals_are_the_apps_as_they_were() {
    let node = Node::new();
    let alice = node.user();
    let show = ["grep", "-E", "^Sig(Ign|Blk):", "/proc/self/status"];
    let program = alice.program();
    // 32 and 33 are the C library's own.
    let shown = |outcome: ood_ca_tests::Outcome| {
        let said = outcome.assert_ok().stdout;
        let masks = said.lines().map(|line| {
            let (name, mask) = line.split_once(":\t").unwrap();
            let mask = u64::from_str_radix(mask, 16).unwrap();
            format!("{name} {:x}", mask & !(3 << 31))
        });
        masks.collect::<Vec<_>>()
    };
    let around = [
        "exec \"$@\"",
        "trap '' PIPE CHLD HUP USR2 INT; exec \"$@\"",
        "trap '' CHLD; exec \"$@\"",
        "exec env --block-signal=USR1 --block-signal=CHLD --ignore-signal=PIPE \"$@\"",
    ];
    for script in around {
        let plain = alice.run("sh").args(["-c", script, "sh"]).args(show);
        let plain = shown(plain.output());
        assert_eq!(plain.len(), 2, "{plain:?}");
        for more in ["", "--no-pidns"] {
            let run = alice.run("sh").args(["-c", script, "sh"]);
            let run = run.args([&program]).args(["run", "--outbound", "none"]);
            let run = run.args(more.split_whitespace()).args(["--"]).args(show);
            assert_eq!(shown(run.output()), plain, "{script} {more}");
        }
    }
}

#[test]
fn it_can_be_ended_while_the_namespaces_are_built() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::new();
    let alice = node.user();
    // A way out that never says that it is ready.
    let tools = alice.home.dir("tools");
    let pasta = tools.join("pasta");
    std::fs::write(&pasta, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&pasta, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&tools, std::fs::Permissions::from_mode(0o755)).unwrap();
    alice.set("PATH", format!("{}:{PATH}", tools.display()));
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut job = alice.job("--outbound pasta", "print('started')");
        alice.process("sleep");
        let asked = Instant::now();
        job.signal(signal);
        assert_eq!(job.code(), code, "{}", job.said());
        // Not when the way out has run out of its ten seconds.
        assert!(asked.elapsed() < Duration::from_secs(8), "at once");
        assert!(!job.said().contains("started"));
        assert_all_gone(&alice, SOON);
    }
}

#[test]
fn an_app_whose_first_page_never_ends_counts_as_ready() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import os, socket, time
server = socket.create_server(("127.0.0.1", int(os.environ["OOD_JOB_APP_PORT"])))
while True:
    stream = server.accept()[0]
    stream.recv(4096)
    try:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            stream.sendall(b"data: more\n\n")
            time.sleep(0.005)
    except OSError: pass
"#;
    let mut job = alice.job("--outbound none --ready-timeout 20s", script);
    job.ready();
}

#[test]
fn an_app_that_takes_long_for_its_first_answer_is_asked_once_and_waited_for() {
    let node = Node::new();
    let alice = node.user();
    // Longer than the five seconds after which it was once asked again.
    let script = r#"
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", flush=True)
        time.sleep(6)
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["OOD_JOB_APP_PORT"])), Handler).serve_forever()
"#;
    let mut job = alice.job("--outbound none --ready-timeout 50s", script);
    job.ready();
    assert_eq!(job.said().matches("asked").count(), 1, "{}", job.said());
}

#[test]
fn a_place_that_cannot_be_written_to_is_an_error_before_anything_starts() {
    let node = Node::new();
    let alice = node.user();
    let publish = [
        "run", "--publish", "/etc/connection.json", "--outbound", "none",
    ];
    let command = ["--", "python3", "-c", "print('started')"];
    let outcome = alice.ood_job(publish.into_iter().chain(command)).output();
    let outcome = outcome.assert_refused(125, "Permission denied");
    assert!(!outcome.stdout.contains("started"), "{outcome}");
    // And what is tried leaves nothing.
    let mut job = alice.job("--outbound none", "pass");
    assert_eq!(job.code(), 0, "{}", job.said());
    let left = std::fs::read_dir(alice.home.path()).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".ood"]);
}
