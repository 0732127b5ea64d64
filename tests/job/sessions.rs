//! `~/.ood/sessions` as the portal and its owner see it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::setup::{
    APP, HidingProc, Node, SOON, User, assert_all_gone, kill_all_at_once, session_files,
};

#[test]
fn an_app_is_registered_under_every_name_a_url_may_hold_while_it_runs() {
    let node = Node::new();
    let alice = node.user();
    let config = alice.home.join("ood_ca.yml");
    fs::write(&config, "domain: cluster.test\n").unwrap();
    alice.set("OOD_CA_CONFIG", config.display().to_string());
    alice.set("SLURM_JOB_ID", "4711");
    let mut job = alice.job("--outbound none", APP);
    let published = job.ready();
    // What the PUN asks for: `-f "…/sessions/$ood_ca_full:$ood_ca_port"`.
    assert!(published.host.ends_with(".cluster.test"), "{published:?}");
    let port = published.port;
    let files = session_files(&alice.home);
    let short = published.host.split('.').next().unwrap();
    for host in [&*published.host, short, "10.77.0.1"] {
        assert!(
            files.contains(&format!("{host}:{port}")),
            "{host}: {files:?}"
        );
    }
    for file in &files {
        let path = alice.home.join(".ood/sessions").join(file);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(record["session"], published.session);
        assert_eq!(record["job"]["id"], "4711");
        // Its arguments may hold secrets.
        assert_eq!(record["command"], "python3");
    }
    let listed = alice
        .ood_job(["sessions", "--json"])
        .output()
        .assert_ok()
        .json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(listed["sessions"][0]["host"], published.host);
    let table = alice.ood_job(["sessions"]).output().assert_ok().stdout;
    assert!(table.contains("slurm 4711"), "{table}");
}

#[test]
fn the_record_outlives_no_process_that_it_names() {
    let node = Node::new();
    let alice = node.user();
    let server = alice.run("sleep").args(["600"]).start();
    let pid = alice.process("sleep").to_string();
    let port = "40123";
    alice
        .ood_job(["register", port, "--pid", &pid])
        .output()
        .assert_ok();
    let files = session_files(&alice.home);
    assert!(files.contains(&"10.77.0.1:40123".to_owned()), "{files:?}");
    alice.ood_job(["sessions"]).output().assert_ok();
    assert_eq!(session_files(&alice.home), files);
    drop(server);
    let outcome = alice.ood_job(["sessions"]).output().assert_ok();
    assert!(outcome.stdout.contains("(process-gone)"), "{outcome}");
    assert!(session_files(&alice.home).is_empty());
}

#[test]
fn where_proc_hides_processes_a_running_app_stays_registered_and_an_ended_one_does_not() {
    let node = Node::new();
    let _hiding = HidingProc::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none", APP);
    job.ready();
    let stat = format!("/proc/{}/stat", job.pid());
    let seen = alice.run("test").args(["-e", &stat]).output();
    assert_eq!(seen.code(), Some(1), "the node hides it");
    let files = session_files(&alice.home);
    for command in [&["sessions"][..], &["register", "40123", "--host", "n2"]] {
        let said = alice.ood_job(command.iter().copied()).output().assert_ok();
        assert!(!said.stdout.contains("pruned"), "{said}");
    }
    let left = session_files(&alice.home);
    assert!(files.iter().all(|file| left.contains(file)), "{left:?}");
    alice
        .ood_job(["unregister", "n2:40123"])
        .output()
        .assert_ok();
    kill_all_at_once(&alice);
    job.code();
    let said = alice.ood_job(["sessions"]).output().assert_ok();
    assert!(said.stdout.contains("(process-gone)"), "{said}");
    assert!(session_files(&alice.home).is_empty());
}

/// A file or directory of the user's in `~/.ood/sessions`, two hours old.
fn old(alice: &User<'_>, name: &str, content: Option<&str>) {
    let path = alice.home.join(".ood/sessions").join(name);
    match content {
        Some(content) => fs::write(&path, content).unwrap(),
        None => fs::create_dir(&path).unwrap(),
    }
    chown(&path, Some(alice.uid()), Some(alice.uid())).unwrap();
    let then = SystemTime::now() - Duration::from_secs(2 * 3600);
    fs::File::open(&path).unwrap().set_modified(then).unwrap();
}

#[test]
fn what_a_crash_or_a_restore_has_left_of_a_record_goes_in_time_or_on_request() {
    let node = Node::new();
    let alice = node.user();
    alice.ood_job(["register", "40123"]).output().assert_ok();
    let before = session_files(&alice.home);
    old(&alice, "n2:1", Some(""));
    old(&alice, "n3:1", Some("{\"session\":"));
    let said = alice.ood_job(["sessions"]).output().assert_ok().stdout;
    for name in ["n2:1", "n3:1"] {
        assert!(
            said.contains(&format!("pruned: {name} (unreadable)")),
            "{said}"
        );
    }
    assert_eq!(session_files(&alice.home), before);
    // This may still be written, by a file system of its own habits.
    let fresh = alice.home.join(".ood/sessions/n2:1");
    fs::write(&fresh, "").unwrap();
    chown(&fresh, Some(alice.uid()), Some(alice.uid())).unwrap();
    let said = alice.ood_job(["sessions"]).output().assert_ok().stdout;
    assert!(!said.contains("pruned") && fresh.exists(), "{said}");
    let said = alice.ood_job(["unregister", "n2:1"]).output().assert_ok();
    assert_eq!(said.stdout, "unregistered: n2:1\n");
    assert!(!fresh.exists());
}

#[test]
fn an_apps_files_go_with_it_though_a_chmod_has_opened_them() {
    let node = Node::new();
    let alice = node.user();
    for mode in [0o644, 0o666] {
        let mut job = alice.job("--outbound none", APP);
        job.ready();
        let sessions = alice.home.join(".ood/sessions");
        let mut files: Vec<_> = session_files(&alice.home)
            .iter()
            .map(|name| sessions.join(name))
            .collect();
        files.push(job.publish_file().to_owned());
        for file in &files {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        alice.ood_job(["sessions"]).output().assert_ok();
        assert!(files.iter().all(|file| file.exists()), "its app runs");
        job.signal(Signal::TERM);
        job.code();
        assert_all_gone(&alice, SOON);
        assert!(!job.publish_file().exists(), "{mode:o}");
    }
}

#[test]
fn an_odd_entry_stops_no_start() {
    let node = Node::new();
    let alice = node.user();
    alice.ood_job(["register", "40123"]).output().assert_ok();
    old(&alice, ".tmp-x", None);
    old(&alice, "n2:1", None);
    let mut job = alice.job("--outbound none", "print('started')");
    assert_eq!(job.code(), 0, "{}", job.said());
    assert!(!job.said().contains("older sessions"), "{}", job.said());
}

#[test]
fn what_cannot_be_tidied_up_is_a_warning_at_a_start() {
    let node = Node::new();
    let alice = node.user();
    alice.ood_job(["register", "40123"]).output().assert_ok();
    old(&alice, "n2:1", Some(""));
    let sessions = alice.home.join(".ood/sessions");
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod(&sessions, 0o500);
    let mut job = alice.job("--outbound none", "print('started')");
    assert_eq!(job.code(), 0, "{}", job.said());
    let said = job.said();
    assert!(
        said.contains("warning: what is left of older sessions stays: "),
        "{said}"
    );
    // But not where nothing may be entered either: that an app need not find out.
    chmod(&sessions, 0o777);
    let mut job = alice.job("--outbound none", "print('started')");
    assert_eq!(job.code(), 125);
    assert!(
        job.said().contains("others may write to it"),
        "{}",
        job.said()
    );
    assert!(!job.said().contains("started"), "{}", job.said());
}

#[test]
fn a_job_of_another_node_is_asked_for_and_pruned_only_by_a_clear_answer() {
    let node = Node::new();
    let alice = node.user();
    alice.set("SLURM_JOB_ID", "4711");
    alice
        .ood_job(["register", "40123", "--host", "n2.cluster.test"])
        .output()
        .assert_ok();
    let squeue = alice.home.dir("bin").join("squeue");
    let answers = |script: &str| {
        fs::write(&squeue, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&squeue, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", alice.home.join("bin").display());
        let run = alice
            .ood_job(["sessions", "--ask-scheduler"])
            .env("PATH", path);
        run.output().assert_ok().stdout
    };
    for unclear in [
        "echo RUNNING",
        "exit 0",
        "exit 1",
        "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1",
    ] {
        let said = answers(unclear);
        assert!(said.contains("n2.cluster.test:40123"), "{said}");
        assert!(!said.contains("pruned"), "{said}");
    }
    let said = answers("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1");
    assert!(
        said.contains("pruned: n2.cluster.test:40123 (job-gone)"),
        "{said}"
    );
    assert!(session_files(&alice.home).is_empty());
}

#[test]
fn registered_is_taken_away_under_all_its_names() {
    let node = Node::new();
    let alice = node.user();
    alice.ood_job(["register", "40123"]).output().assert_ok();
    assert!(session_files(&alice.home).len() > 1);
    alice
        .ood_job(["unregister", "10.77.0.1:40123"])
        .output()
        .assert_ok();
    assert!(session_files(&alice.home).is_empty());
    let again = alice.ood_job(["unregister", "10.77.0.1:40123"]).output();
    again.assert_refused(1, "10.77.0.1:40123 is not registered");
}

#[test]
fn a_home_that_others_can_write_is_refused() {
    let node = Node::new();
    let alice = node.user();
    let sessions = alice.home.dir(".ood");
    fs::set_permissions(&sessions, fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = alice.ood_job(["register", "40123"]).output();
    outcome.assert_refused(1, "others may write to it");
    let mut job = alice.job("--outbound none", "print('started')");
    assert_eq!(job.code(), 125);
    assert!(!job.said().contains("started"));
}
