//! A home whose file server has gone away, or has no room, and output that nobody
//! reads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use ood_ca_tests::fuse::{Errno, FOREVER, FaultyMount, Op};
use ood_ca_tests::{Home, eventually};
use rustix::fs::OFlags;
use rustix::process::Signal;

use crate::setup::{
    APP, Node, PATIENCE, User, ask, assert_all_gone, get, processes_of, session_files,
};

/// An app that answers, and says which signals it hears.
fn app() -> String {
    format!(
        r#"
import os, signal, sys
# Not print(), which a signal must not interrupt with another one.
say = lambda word: os.write(1, word + b"\n")
signal.signal(signal.SIGUSR1, lambda *_: say(b"heard"))
signal.signal(signal.SIGTERM, lambda *_: (say(b"bye"), sys.exit(5)))
{APP}"#
    )
}

/// A user of the node, whose home is this mount.
fn user<'a>(node: &'a Node, mount: &FaultyMount) -> User<'a> {
    let home = Home::at(&mount.join("home"), Home::spare_uid());
    node.user_at(home)
}

fn mount() -> (tempfile::TempDir, FaultyMount) {
    let backing = tempfile::tempdir().unwrap();
    fs::set_permissions(backing.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = FaultyMount::over(backing.path());
    (backing, mount)
}

/// Ends every fault, before a test that has failed waits for what hangs.
struct Healed<'a>(&'a FaultyMount);

impl Drop for Healed<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

#[test]
fn signals_reach_the_app_and_its_end_is_seen_while_the_home_hangs() {
    for flags in ["--outbound none", "--outbound none --no-pidns"] {
        let node = Node::new();
        let (_backing, mount) = mount();
        let alice = user(&node, &mount);
        // The registration needs that directory.
        mount.hang(Op::MakeDir, "sessions");
        let mut job = alice.job(flags, &app());
        let _healed = Healed(&mount);
        eventually("it registers", PATIENCE, || {
            (mount.hanging() == 1).then_some(())
        });
        job.signal(Signal::USR1);
        job.expect_said("heard");
        job.signal(Signal::TERM);
        job.expect_said("bye");
        // The keeper and all that it keeps are gone, whatever the home does.
        let own = job.pid();
        eventually("only ood-job is left", PATIENCE, || {
            let left = processes_of(alice.uid());
            left.iter().all(|(pid, _)| *pid == own).then_some(())
        });
        // A process can end when the kernel lets its threads go.
        mount.heal();
        assert_eq!(job.code(), 5, "{flags}: {}", job.said());
    }
}

#[test]
fn an_app_that_ends_while_it_is_told_of_leaves_nothing() {
    let node = Node::new();
    // A file server, for which each step takes its time.
    let (_backing, mount) = mount();
    let alice = user(&node, &mount);
    let once = APP.replace(
        "server.serve_forever()", "server.handle_request(); os._exit(5)",
    );
    for round in 0..15 {
        let mut job = alice.job("--outbound none --ready tcp", &once);
        assert_eq!(job.code(), 5, "{}", job.said());
        assert_eq!(session_files(&alice.home), [""; 0], "round {round}");
        assert!(!job.publish_file().exists(), "round {round}");
    }
}

#[test]
fn an_app_ends_in_time_though_its_session_cannot_be_taken_away() {
    let node = Node::new();
    let (_backing, mount) = mount();
    let alice = user(&node, &mount);
    let mut job = alice.job("--outbound none", &app());
    job.ready();
    let _healed = Healed(&mount);
    mount.hang(Op::Unlink, "");
    job.signal(Signal::TERM);
    job.expect_said("bye");
    let own = job.pid();
    eventually("only ood-job is left", PATIENCE, || {
        let left = processes_of(alice.uid());
        let only = left.iter().all(|(pid, _)| *pid == own);
        (only && mount.hanging() == 1).then_some(())
    });
    mount.heal();
    assert_eq!(job.code(), 5, "{}", job.said());
}

#[test]
fn it_can_be_ended_while_a_certificate_is_waited_for() {
    let node = Node::new();
    let (_backing, mount) = mount();
    let alice = user(&node, &mount);
    mount.hang(Op::MakeDir, "pki");
    let mut job = alice.job("--outbound none", "print('started')");
    let _healed = Healed(&mount);
    eventually("it makes an authority", PATIENCE, || {
        (mount.hanging() == 1).then_some(())
    });
    let own = job.pid();
    eventually("the keeper is there", PATIENCE, || {
        let all = processes_of(alice.uid());
        all.iter().any(|(pid, _)| *pid != own).then_some(())
    });
    job.signal(Signal::TERM);
    eventually("only ood-job is left", PATIENCE, || {
        let left = processes_of(alice.uid());
        left.iter().all(|(pid, _)| *pid == own).then_some(())
    });
    mount.heal();
    assert_eq!(job.code(), 143, "{}", job.said());
    assert!(!job.said().contains("started"));
}

#[test]
fn stale_handles_in_the_home_are_tried_again() {
    let node = Node::new();
    let (_backing, mount) = mount();
    let alice = user(&node, &mount);
    let commands: [&[&str]; 3] = [
        &["register", "40123"],
        &["sessions", "--json"],
        &["unregister", "10.77.0.1:40123"],
    ];
    let mut met = 0;
    for (op, name) in [
        (Op::Lookup, ".ood"),
        (Op::Lookup, "sessions"),
        (Op::Lookup, ":40123"),
        (Op::Open, "sessions"),
        (Op::Open, ":40123"),
        (Op::ReadDir, "sessions"),
        (Op::Create, ""),
        (Op::Rename, ""),
        (Op::Unlink, ":40123"),
    ] {
        for line in commands {
            // The kernel tries once itself: twice as ood-job sees it.
            mount.fail(op, name, Errno::ESTALE, 4);
            let outcome = alice.ood_job(line.iter().copied()).output();
            assert_eq!(outcome.code(), Some(0), "{op:?} of {name}: {outcome}");
            assert_eq!(outcome.stderr, "", "{op:?} of {name}");
            mount.heal();
            met += mount.faults_served();
            let registered = session_files(&alice.home);
            let expected = line[0] != "unregister";
            assert_eq!(
                registered.is_empty(),
                !expected,
                "{op:?} of {name}: {line:?}"
            );
        }
    }
    assert!(met >= 40, "only {met} faults were met");
}

#[test]
fn a_record_that_cannot_be_read_just_now_is_not_pruned() {
    let node = Node::new();
    let (_backing, mount) = mount();
    let alice = user(&node, &mount);
    let register = ["register", "40123", "--pid", "1"];
    alice.ood_job(register).output().assert_ok();
    let files = session_files(&alice.home);
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 3600);
    for file in &files {
        let path = alice.home.join(".ood/sessions").join(file);
        let opened = fs::File::options().write(true).open(path).unwrap();
        opened.set_modified(long_ago).unwrap();
    }
    for (op, errno) in [
        (Op::Open, Errno::EIO),
        (Op::Open, Errno::ESTALE),
        (Op::Read, Errno::EIO),
        (Op::Lookup, Errno::ESTALE),
    ] {
        mount.fail(op, ":40123", errno, FOREVER);
        alice.ood_job(["sessions"]).output();
        mount.heal();
        assert!(mount.faults_served() > 0, "{op:?}");
        assert_eq!(session_files(&alice.home), files, "{op:?} {errno:?}");
    }
    let listed = alice.ood_job(["sessions", "--json"]).output().json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn without_room_for_its_registration_an_app_runs_unless_the_site_requires_it() {
    let node = Node::new();
    let (_backing, mount) = mount();
    let alice = user(&node, &mount);
    mount.fail(Op::MakeDir, "sessions", Errno::ENOSPC, FOREVER);
    let mut job = alice.job("--outbound none", &app());
    job.ready();
    job.expect_said("warning: the session is not registered: ");
    assert!(session_files(&alice.home).is_empty());
    drop(job);

    let site = node.path().join("site.yml");
    fs::write(&site, "require_registration: true\n").unwrap();
    fs::set_permissions(&site, fs::Permissions::from_mode(0o644)).unwrap();
    let flags = format!("--config {} --outbound none", site.display());
    let mut job = alice.job(&flags, &app());
    assert_eq!(job.code(), 125, "{}", job.said());
    assert!(job.said().contains("No space left"), "{}", job.said());
}

#[test]
fn output_that_nobody_reads_stops_neither_the_tls_end_nor_its_end() {
    let node = Node::new();
    let alice = node.user();
    // As a paused terminal, or a pager that waits.
    alice.run("mkfifo").args(["unread"]).output().assert_ok();
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = alice.home.join("unread");
    let unread = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
    let through = ["sh", "-c", "exec \"$@\" 2>unread", "sh"];
    let words = [
        "--outbound", "none", "--access-log", "-", "--", "python3", "-c", APP,
    ];
    let mut job = alice.start_through(&through, &words);
    let port = job.ready().port;
    // Lines of two thousand letters, more than the pipe holds.
    let path = "a".repeat(2000);
    let request = format!("GET /{path} HTTP/1.1\r\nHost: n1\r\n\r\n").repeat(60);
    let request = format!("{request}GET / HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n");
    let answers = ask(port, Some(&alice.home), &alice.home, &request);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 61);
    let held = rustix::io::ioctl_fionread(&unread).unwrap();
    assert!(held > 30_000, "only {held} bytes wait to be read");
    assert!(get(port, &alice.home, "/", "").is_some());
    job.signal(Signal::TERM);
    assert_eq!(job.code(), 143);
    assert_all_gone(&alice, PATIENCE);
}
