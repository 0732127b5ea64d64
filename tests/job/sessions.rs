//! `~/.ood/sessions` as the portal and its owner see it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::setup::{APP, Node, session_files};

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
