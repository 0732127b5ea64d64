//! What users do wrong, and what they are told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use ood_ca_tests::{Run, require_tool};

use crate::setup::{APP, Node, session_files};

#[test]
fn a_file_of_something_else_is_not_published_over() {
    let node = Node::new();
    let alice = node.user();
    let file = alice.home.join("params.yml");
    fs::write(&file, "a: 1\n").unwrap();
    let words = ["run", "--outbound", "none", "--publish"];
    let words = words
        .into_iter()
        .chain([file.to_str().unwrap(), "--", "true"]);
    let outcome = alice.ood_job(words).output();
    outcome.assert_refused(125, "it is there and tells of no session");
    assert_eq!(fs::read_to_string(&file).unwrap(), "a: 1\n");
}

#[test]
fn where_it_cannot_be_published_the_file_that_was_named_is_told() {
    let node = Node::new();
    let alice = node.user();
    let closed = alice.home.dir("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let file = closed.join("connection.yml").display().to_string();
    let words = ["run", "--outbound", "none", "--publish", &file];
    let outcome = alice.ood_job(words.into_iter().chain(["--", "true"]));
    let outcome = outcome.output();
    assert_eq!(outcome.code(), Some(125), "{outcome}");
    assert!(outcome.stderr.contains(&format!("cannot write {file}: ")));
    assert!(!outcome.stderr.contains(".tmp"), "{outcome}");
}

#[test]
fn hosts_that_the_portal_cannot_reach_are_told_of() {
    let node = Node::new();
    let alice = node.user();
    for host in ["localhost", "127.0.0.5"] {
        let flags = format!("--outbound none --host {host}");
        let mut job = alice.job(&flags, APP);
        job.ready();
        job.expect_said(&format!("warning: {host}: the portal reaches no loopback"));
    }
}

#[test]
fn without_a_home_it_says_what_would_help() {
    let node = Node::new();
    let alice = node.user();
    // Nobody knows this user either.
    let outcome = Run::new("/usr/bin/env")
        .args(["-u", "HOME"])
        .args([alice.program()])
        .args(["run", "--outbound", "none", "--", "true"])
        .as_user(alice.uid())
        .output()
        .assert_refused(125, "your home directory is not known");
    assert!(outcome.stderr.contains("hint: set HOME\n"), "{outcome}");
}

#[test]
fn nor_over_the_file_of_an_app_that_runs() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none", APP);
    job.ready();
    let told = fs::read_to_string(job.publish_file()).unwrap();
    let words = ["run", "--outbound", "none", "--publish"];
    let file = job.publish_file().display().to_string();
    let words = words.into_iter().chain([&*file, "--", "true"]);
    let outcome = alice.ood_job(words).output();
    outcome.assert_refused(125, "it tells of another app, which runs");
    assert_eq!(fs::read_to_string(&file).unwrap(), told);
    // What a killed one has left is nobody's: the next one takes its place.
    job.kill();
    crate::setup::assert_all_gone(&alice, crate::setup::SOON);
    fs::write(&file, told).unwrap();
    chown(&file, Some(alice.uid()), Some(alice.uid())).unwrap();
    let words = [
        "run", "--outbound", "none", "--publish", &file, "--", "true",
    ];
    alice.ood_job(words).output().assert_ok();
}

#[test]
fn what_listens_there_already_is_not_taken_for_the_app() {
    let node = Node::new();
    let alice = node.user();
    alice.home.dir("own");
    for (flags, place) in [
        (
            "--network host --allow-unisolated --to 127.0.0.1:18998",
            "127.0.0.1:18998",
        ),
        ("--to unix:own/socket", "own/socket"),
    ] {
        let mut first = alice.job(flags, APP);
        first.ready();
        let mut second = alice.job(flags, APP);
        assert_eq!(second.code(), 125, "{}", second.said());
        let said = second.said();
        assert!(said.contains("something listens at "), "{said}");
        assert!(said.contains(place), "{said}");
        assert!(!second.publish_file().exists());
        // And it has not taken anything of the first one's.
        assert!(first.publish_file().exists());
        first.kill();
    }
}

#[test]
fn a_socket_goes_with_its_app_and_one_that_was_left_is_in_nobodys_way() {
    let node = Node::new();
    let alice = node.user();
    let socket = alice.home.dir("own").join("socket");
    for killed in [false, true] {
        let mut job = alice.job("--to unix:own/socket", APP);
        job.ready();
        assert!(socket.exists());
        if killed {
            job.kill();
        } else {
            job.signal(rustix::process::Signal::TERM);
            job.code();
        }
        drop(job);
        assert!(!socket.exists(), "killed: {killed}");
    }
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    chown(&socket, Some(alice.uid()), Some(alice.uid())).unwrap();
    // One that is young might be about to be listened on.
    Run::new(require_tool("touch"))
        .args(["--no-dereference", "--date=10 seconds ago"])
        .args([&socket])
        .output()
        .assert_ok();
    let mut job = alice.job("--to unix:own/socket", APP);
    job.ready();
}

#[test]
fn an_app_that_ends_before_it_answers_is_told_of() {
    let node = Node::new();
    let alice = node.user();
    for (code, script) in [
        // As start scripts do that make a daemon.
        (
            0,
            "import subprocess; subprocess.Popen(['setsid', 'sleep', '600'])",
        ),
        (3, "import sys; sys.exit(3)"),
    ] {
        let mut job = alice.job("--outbound none", script);
        assert_eq!(job.code(), code);
        let told = format!("the app ended (exit code {code}) before it answered");
        assert!(job.said().contains(&told), "{}", job.said());
        assert!(session_files(&alice.home).is_empty());
    }
}

#[test]
fn why_it_does_not_answer_is_said_where_it_can_be_seen() {
    let node = Node::new();
    let alice = node.user();
    let listen = "import socket, time; s = socket.create_server(('127.0.0.1', 9999))\n";
    let greet = "import socket\ns = socket.create_server(('127.0.0.1', 8080))\nwhile True: s.accept()[0].sendall(b'RFB 003.008\\n')";
    for (flags, script, hint) in [
        (
            "--outbound none",
            format!("{listen}time.sleep(600)"),
            "hint: it listens on 127.0.0.1:9999: name that with --to",
        ),
        (
            "--outbound none",
            greet.to_owned(),
            "hint: something answers there, but not in HTTP: for VNC, SSH and the like add --tcp",
        ),
        (
            "--outbound none",
            "import time; time.sleep(600)".to_owned(),
            "hint: does the app listen on the address that --to names? It runs in a network of its own",
        ),
        (
            "--network host --allow-unisolated",
            "import time; time.sleep(600)".to_owned(),
            "hint: does the app listen on the address that --to names?; a slow one",
        ),
    ] {
        // Time enough for what listens to be there.
        let mut job = alice.job(&format!("--ready-timeout 4s {flags}"), &script);
        assert_eq!(job.code(), 125);
        assert!(job.said().contains(hint), "{}", job.said());
    }
}

#[test]
fn an_app_is_not_told_where_the_app_of_an_ood_job_around_it_is() {
    let node = Node::new();
    let alice = node.user();
    // As in a terminal of an app that was started with --to unix:PATH.
    alice.set("OOD_JOB_APP_SOCKET", "/nowhere/socket");
    alice.job("--outbound none", APP).ready();
}

#[test]
fn a_new_authority_is_told_of_once() {
    let node = Node::new();
    let alice = node.user();
    let made = |job: &mut crate::setup::Job<'_>| {
        job.ready();
        job.said()
            .contains("made a certificate authority for you in")
    };
    assert!(made(&mut alice.job("--outbound none", APP)));
    assert!(!made(&mut alice.job("--outbound none", APP)));
}

#[test]
fn an_ipv6_address_is_no_place_that_the_portal_finds_by_itself() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none --listen [::1]:0", APP);
    job.ready();
    job.expect_said("the portal reaches no IPv6 address by itself");
}

#[test]
fn a_place_where_something_else_of_the_users_is_stays_as_it_is() {
    let node = Node::new();
    let alice = node.user();
    let own = alice.home.dir("own");
    let hold = r#"
import os, socket, time
def bound(kind, name):
    s = socket.socket(socket.AF_UNIX, kind); s.bind("own/" + name); return s
datagram, packets, closed = bound(socket.SOCK_DGRAM, "datagram"), bound(socket.SOCK_SEQPACKET, "packets"), bound(socket.SOCK_STREAM, "closed")
packets.listen(); closed.listen(); os.chmod("own/closed", 0o400)
fresh = bound(socket.SOCK_STREAM, "fresh")
print("they are there", flush=True)
time.sleep(600)
"#;
    let mut holder = alice.job("--outbound none", hold);
    holder.expect_said("they are there");
    for name in ["datagram", "packets", "closed", "fresh"] {
        let target = format!("unix:own/{name}");
        let words = ["run", "--outbound", "none", "--to", &target, "--", "true"];
        drop(alice.ood_job(words).within(alice.home.path()).output());
        assert!(own.join(name).exists(), "{name}");
    }
    holder.kill();
}

#[test]
fn two_that_start_at_once_do_not_take_each_others_file() {
    let node = Node::new();
    let alice = node.user();
    // Until it may.
    let slow = format!("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n{APP}");
    let mut first = alice.job("--outbound none", APP);
    let file = first.publish_file().display().to_string();
    let words = [
        "run", "--outbound", "none", "--publish", &file, "--", "python3", "-c", &slow,
    ];
    // Before the first one has told anybody.
    let second = alice.ood_job(words).start();
    let published = first.ready();
    fs::write(alice.home.join("go"), "").unwrap();
    let outcome = second.wait();
    outcome.assert_refused(125, "it tells of another app, which runs");
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains(&published.session)
    );
}
