//! How a job ends, and what is left of it: nothing.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::job::{Job, PORT, User};

const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn the_apps_exit_code_is_passed_on() {
    let alice = User::new();
    for code in [0, 7] {
        let shell = format!("start_mtls {PORT} 5000 bash -c 'sleep 0.1; exit {code}'");
        let said = alice.shell(&shell).output();
        assert_eq!(said.code(), Some(code), "{said}");
        alice.assert_nothing_left(AT_ONCE);
    }
    let said = alice.shell(&format!("start_mtls {PORT} 5000 bash -c 'kill -9 $$'"));
    let said = said.output();
    assert_eq!(said.code(), Some(137), "{said}");
    let said = alice
        .shell(&format!("start_mtls {PORT} 5000 /nowhere"))
        .output();
    assert_eq!(said.code(), Some(127), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn when_the_app_ends_so_does_the_job_and_nothing_is_left() {
    let alice = User::new();
    let job = Job::ready(&alice, "");
    let pki = alice.home.pki();
    let (certificate, key) = (pki.join("client.crt"), pki.join("client.key"));
    let url = format!("https://{}:{PORT}/exit?code=3", crate::job::HOST);
    alice.request(Some((&certificate, &key)), &[&url]);
    let said = job.running.wait();
    // What ood_core's template makes of a main script that fails.
    assert_eq!(said.code(), Some(1), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn after_sigkill_of_the_script_nothing_keeps_serving() {
    let alice = User::new();
    // The app has children that go their own way.
    alice.file(
        "script.sh",
        0o755,
        "#!/bin/bash\nsetsid sleep 1000 & (setsid nohup sleep 1001 >/dev/null 2>&1 &)\n\
         exec python3 app.py \"$port\"\n",
    );
    let mut job = Job::ready(&alice, "");
    alice.ask("/", &[]);
    assert!(alice.process("sleep 1001").is_some());
    job.running.kill();
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn after_sigkill_of_the_supervisor_nothing_keeps_serving() {
    let alice = User::new();
    let job = Job::ready(&alice, "");
    alice.ask("/", &[]);
    // Who waits for Caddy and the namespaces.
    let space = alice.process("unshare --map-current-user").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{space}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|l| l.strip_prefix("PPid:"))
        .unwrap();
    kill(
        Pid::from_raw(parent.trim().parse().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let said = job.running.wait();
    assert_eq!(said.code(), Some(1), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn started_in_the_background_it_ends_when_it_is_killed() {
    let alice = User::new();
    let code = format!(
        "start_mtls {PORT} 5000 python3 app.py 5000 & \
         until mtls_connects {PORT}; do sleep 0.1; done; kill \"$!\"; wait \"$!\"; until mtls_listens=$(mtls_listeners {PORT}); \
         [ \"$mtls_listens\" = 0 ]; do sleep 0.1; done; exit 5"
    );
    let said = alice.shell(&code).output();
    assert_eq!(said.code(), Some(5), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn each_part_that_is_killed_takes_the_rest_with_it() {
    for part in [
        "caddy run", "slirp4netns", "unshare --map-current-user", "bash -c mtls_inside",
    ] {
        let alice = User::new();
        let job = Job::ready(&alice, "");
        let process = alice.process(part).unwrap();
        kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        let said = job.running.wait();
        assert_eq!(said.code(), Some(1), "{part}: {said}");
        alice.assert_nothing_left(AT_ONCE);
    }
}

#[test]
fn a_terminated_job_lets_the_app_finish() {
    let alice = User::new();
    let code = format!(
        "start_mtls {PORT} 5000 bash -c 'trap \"echo saved >note; exit 0\" TERM; \
         python3 app.py 5000 & while :; do wait; done'"
    );
    let mut job = alice.shell(&code).start();
    ood_ca_tests::eventually("it listens", Duration::from_secs(30), || {
        let open = std::net::TcpStream::connect(("127.0.0.1", PORT));
        (open.is_ok() && alice.process("app.py").is_some()).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    assert!(!job.has_ended());
    // To all of it, as a scheduler does.
    for line in alice.processes() {
        let number: i32 = line.split(':').next().unwrap().parse().unwrap();
        // It may be gone already.
        let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
    }
    let said = job.wait();
    assert_ne!(said.code(), Some(0), "{said}");
    let note = std::fs::read_to_string(alice.work.join("note"));
    assert_eq!(note.unwrap_or_default(), "saved\n", "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn an_app_that_never_listens_ends_with_a_message() {
    let alice = User::new();
    let code = format!("MTLS_READY_TIMEOUT=1 start_mtls {PORT} 5000 sleep 100");
    let said = alice.shell(&code).output();
    said.assert_refused(1, "does not listen on 127.0.0.1:5000");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn what_is_missing_is_named() {
    let alice = User::new();
    let start = format!("start_mtls {PORT} 5000 true");
    let said = alice.shell(&format!("MTLS_CADDY=/nowhere/caddy {start}"));
    said.output()
        .assert_refused(1, "/nowhere/caddy is not on this node");
    let said = alice.shell(&format!("MTLS_OUTBOUND=pasta {start}"));
    said.output().assert_refused(1, "MTLS_OUTBOUND is 'pasta'");
    let said = alice.shell(&format!("start_mtls {PORT} 99999 true"));
    said.output().assert_refused(2, "two ports and a command");
    let said = alice.shell(&format!("MTLS_HOSTS='not/a/host' {start}"));
    assert_ne!(said.output().code(), Some(0));
    alice.assert_nothing_left(AT_ONCE);
}
