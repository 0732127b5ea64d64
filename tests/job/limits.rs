//! At the limits of what a user may have: it works, or says what is short.

use std::time::Duration;

use ood_ca_tests::{eventually, require_tool};

use crate::setup::{self, Node, PATIENCE, SOON, User, assert_all_gone, get};

fn limited(alice: &User<'_>, limit: &str, number: u32) -> Option<i32> {
    let outcome = alice
        .run(require_tool("prlimit"))
        .args([format!("--{limit}={number}")])
        .args([alice.program()])
        .args(["run", "--outbound", "none", "--", "true"])
        .limit(Duration::from_secs(30))
        .output();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    let code = outcome.code();
    if code != Some(0) {
        outcome.assert_failed(125, "");
    }
    assert_all_gone(alice, SOON);
    code
}

#[test]
fn of_processes_it_needs_three() {
    let node = Node::new();
    let alice = node.user();
    for number in 1..=12 {
        let code = limited(&alice, "nproc", number);
        assert_eq!(code, Some(if number < 3 { 125 } else { 0 }), "{number}");
    }
}

#[test]
fn of_open_files_it_needs_some() {
    let node = Node::new();
    let alice = node.user();
    // An authority takes more than the run itself.
    alice.home.ood_ca("init").assert_ok();
    for number in 4..=24 {
        limited(&alice, "nofile", number);
    }
    assert_eq!(limited(&alice, "nofile", 32), Some(0));
}

#[test]
fn a_log_that_is_as_large_as_a_file_may_be_does_not_end_the_session() {
    let node = Node::new();
    let alice = node.user();
    let log = alice.home.join("access.log");
    let mut job = alice.start_through(
        &["prlimit", "--fsize=4096"],
        &[
            "--outbound",
            "none",
            "--access-log",
            "access.log",
            "--",
            "python3",
            "-c",
            setup::APP,
        ],
    );
    let published = job.ready();
    let path = format!("/{}", "a".repeat(1000));
    for _ in 0..6 {
        assert!(get(published.port, &alice.home, &path, "").is_some());
    }
    eventually("the log is full", PATIENCE, || {
        (std::fs::metadata(&log).ok()?.len() == 4096).then_some(())
    });
    assert!(get(published.port, &alice.home, "/", "").is_some());
    job.signal(rustix::process::Signal::TERM);
    assert_eq!(job.code(), 143, "{}", job.said());
}

#[test]
fn the_time_that_the_tls_end_takes_is_not_the_apps() {
    let node = Node::new();
    let alice = node.user();
    let script = format!(
        "import resource; print('app', *resource.getrlimit(resource.RLIMIT_CPU), flush=True)\n{}",
        setup::APP
    );
    let mut job = alice.start_through(
        &["prlimit", "--cpu=100:200"],
        &["--outbound", "none", "--", "python3", "-c", &script],
    );
    job.ready();
    job.expect_said("app 100 200");
    // At the first number the kernel sends SIGXCPU, which would be handed on.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", job.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max cpu time"));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["200", "200"], "{limits}");
}

/// Answers for as long as the trust bundle is not looked at more than once, with one
/// thread.
const APP: &str = r#"
import http.server, os, sys, time
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["OOD_JOB_APP_PORT"])), http.server.SimpleHTTPRequestHandler)
server.timeout = 0.1
end = time.time() + 12
while time.time() < end: server.handle_request()
sys.exit(7)
"#;

#[test]
fn at_the_limit_of_processes_an_app_is_not_ended_for_want_of_a_thread() {
    let node = Node::new();
    let alice = node.user();
    let outcome = alice
        .run(require_tool("prlimit"))
        .args(["--nproc=3"])
        .args([alice.program()])
        .args(["run", "--outbound", "none", "--", "python3", "-c", APP])
        .output();
    assert_eq!(outcome.code(), Some(7), "{outcome}");
    assert!(outcome.stderr.contains("ready at"), "{outcome}");
}
