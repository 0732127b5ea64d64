//! `ood-job doctor` says what this node allows because it has tried it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use ood_ca_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::setup::{Node, PATIENCE, User, processes_of};

fn examined(user: &User<'_>, code: i32) -> Value {
    let outcome = user.ood_job(["doctor", "--json"]).output();
    assert_eq!(outcome.code(), Some(code), "{outcome}");
    outcome.json()
}

fn verdict<'a>(report: &'a Value, name: &str) -> &'a str {
    let mut checks = report["checks"].as_array().unwrap().iter();
    let check = checks
        .find(|c| c["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {report}"));
    check["verdict"].as_str().unwrap()
}

#[test]
fn where_all_is_allowed_the_private_network_is_advised_and_it_works() {
    let node = Node::new();
    let alice = node.user();
    let report = examined(&alice, 0);
    assert_eq!(report["mode"], "private", "{report}");
    assert_eq!(report["command"], "ood-job run");
    assert_eq!(verdict(&report, "private network"), "ok");
    assert!(crate::setup::processes_of(alice.uid()).is_empty());
}

#[test]
fn it_waits_for_nothing_that_it_has_not_started() {
    let node = Node::new();
    let alice = node.user();
    // Its children are ours by then, and theirs come to us.
    let script = "sleep 600 & sh -c 'sleep 600 & sleep 0.01' & exec \"$0\" doctor";
    let run = alice.run("sh").args(["-c", script]).args([alice.program()]);
    let mut doctor = run.start();
    eventually("it ends", PATIENCE, || doctor.has_ended().then_some(()));
    let left = processes_of(alice.uid());
    for (pid, _) in &left {
        let _ = kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL);
    }
    doctor.wait().assert_ok();
    assert!(left.iter().all(|(_, name)| name == "sleep"), "{left:?}");
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn without_a_tun_device_there_is_a_network_without_a_way_out() {
    let node = Node::with_tun(Some(0o600));
    let alice = node.user();
    let report = examined(&alice, 1);
    assert_eq!(report["mode"], "private-no-outbound", "{report}");
    assert_eq!(verdict(&report, "tun device"), "failed");
    // What it advises works.
    let command = report["command"].as_str().unwrap();
    let flags = command.strip_prefix("ood-job run ").unwrap();
    assert_eq!(alice.job(flags, "print('started')").code(), 0);
}

#[test]
fn where_user_namespaces_are_forbidden_a_unix_socket_is_advised() {
    let node = Node::new();
    let alice = node.user();
    forbid_user_namespaces(&node);
    let report = examined(&alice, 1);
    assert_eq!(report["mode"], "unix-socket", "{report}");
    assert_eq!(verdict(&report, "user namespaces"), "failed");
    let mut job = alice.job("--outbound none", "print('started')");
    assert_eq!(job.code(), 125);
    let said = job.said();
    assert!(
        said.contains("error: this node does not let you create a process namespace"),
        "{said}"
    );
    assert!(said.contains("user.max_user_namespaces is 0"), "{said}");
    assert!(said.contains("--to unix:PATH"), "{said}");
}

/// The limit itself counts for the whole system, so the rest of it is left
/// alone: a file that says 0 is what is read; and a chroot, in which no user
/// namespace may be made (clone(2), EPERM), is what the kernel does about it.
pub(crate) fn forbid_user_namespaces(node: &Node) {
    let zero = node.path().join("zero");
    fs::write(&zero, "0\n").unwrap();
    let bind = |from: &Path, to: &str, more: MsFlags| {
        let flags = MsFlags::MS_BIND | more;
        mount(Some(from), to, None::<&str>, flags, None::<&str>).unwrap();
    };
    bind(
        &zero,
        "/proc/sys/user/max_user_namespaces",
        MsFlags::empty(),
    );
    // Any directory that every system has, covered for this test alone.
    bind(Path::new("/"), "/mnt", MsFlags::MS_REC);
    nix::unistd::chroot("/mnt").unwrap();
    nix::unistd::chdir("/").unwrap();
}

#[test]
fn an_authority_that_no_app_could_use_is_a_failure() {
    let node = Node::new();
    let alice = node.user();
    assert_eq!(verdict(&examined(&alice, 0), "authority"), "ok");
    alice.home.ood_ca("init").assert_ok();
    assert_eq!(verdict(&examined(&alice, 0), "authority"), "ok");
    let key = alice.home.pki().join("ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(verdict(&examined(&alice, 1), "authority"), "failed");
    alice.set("HOME", "/no/such/home");
    assert_eq!(verdict(&examined(&alice, 1), "authority"), "failed");
}
