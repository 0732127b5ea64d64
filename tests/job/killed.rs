//! What is left after a `kill -9`: nothing, whoever is killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::setup::{
    APP, HidingProc, Job, Node, PATH, PATIENCE, SOON, User, assert_all_gone, kill_all_at_once,
    processes_of, session_files,
};

/// An app with daemons: processes that have left its session, parent and group.
fn with_daemons() -> String {
    format!(
        "import subprocess\nfor _ in range(2): subprocess.Popen(['sh', '-c', '(setsid sleep 600 &)'])\n{APP}"
    )
}

/// What is promised. A loaded machine may miss it, but not each time.
const PROMISED: Duration = Duration::from_secs(2);

/// Has a job started and killed until nothing is left of one in time, and of none for
/// long.
fn assert_all_gone_in_time<'a>(alice: &'a User<'_>, start_and_kill: impl Fn() -> Job<'a>) {
    const TIMES: u32 = 3;
    for time in 1..=TIMES {
        // Kept until then: what drops it waits as well.
        let _job = start_and_kill();
        let killed = Instant::now();
        assert_all_gone(alice, if time < TIMES { SOON } else { PROMISED });
        if killed.elapsed() <= PROMISED {
            return;
        }
    }
}

const WAYS: [&str; 6] = [
    "--outbound pasta", "--outbound slirp4netns", "--outbound none", "--no-pidns --outbound pasta",
    "--no-pidns --outbound slirp4netns", "--network host --allow-unisolated",
];

fn started<'a>(alice: &'a User<'_>, flags: &str) -> Job<'a> {
    let mut job = alice.job(flags, &with_daemons());
    job.ready();
    ood_ca_tests::eventually("its daemons run", PATIENCE, || {
        let all = processes_of(alice.uid());
        (all.iter().filter(|(_, name)| name == "sleep").count() == 2).then_some(())
    });
    assert!(!session_files(&alice.home).is_empty());
    job
}

#[test]
fn ood_job_alone() {
    let node = Node::new();
    let alice = node.user();
    for flags in WAYS {
        assert_all_gone_in_time(&alice, || {
            let mut job = started(&alice, flags);
            assert!(job.publish_file().exists());
            job.kill();
            job
        });
        let mut left = fs::read_dir(alice.home.path()).unwrap();
        let published = |name: &str| name.starts_with("connection-");
        assert!(
            !left.any(|entry| published(&entry.unwrap().file_name().to_string_lossy())),
            "{flags}"
        );
    }
}

#[test]
fn the_keeper_alone() {
    let node = Node::new();
    let alice = node.user();
    for flags in WAYS {
        assert_all_gone_in_time(&alice, || {
            let mut job = started(&alice, flags);
            kill_process(job.keeper(), Signal::KILL).unwrap();
            assert_eq!(job.code(), 125, "{flags}: {}", job.said());
            assert!(
                job.said()
                    .contains("error: the app's keeper ended unexpectedly"),
                "{flags}"
            );
            job
        });
    }
}

#[test]
fn the_whole_job_at_once_leaves_a_record_that_the_next_command_prunes() {
    let node = Node::new();
    let alice = node.user();
    for flags in WAYS {
        let mut job = started(&alice, flags);
        kill_all_at_once(&alice);
        job.code();
        alice.ood_job(["sessions"]).output().assert_ok();
        assert_all_gone(&alice, SOON);
        // The file for the portal is overwritten by the next job of its name.
        drop(fs::remove_file(job.publish_file()));
    }
}

#[test]
fn where_proc_hides_processes_the_way_out_ends_too() {
    let node = Node::new();
    let _hiding = HidingProc::new();
    let alice = node.user();
    for flags in WAYS {
        for signal in [Signal::TERM, Signal::KILL] {
            let mut job = alice.job(flags, APP);
            job.ready();
            job.signal(signal);
            job.code();
            // pasta looks once a second whether there is still anything to do.
            let limit = match signal {
                Signal::KILL => SOON,
                _ => Duration::from_millis(500),
            };
            assert_all_gone(&alice, limit);
        }
    }
}

#[test]
fn before_the_app_has_answered() {
    let node = Node::new();
    let alice = node.user();
    for milliseconds in [0, 2, 5, 10, 20, 40, 80] {
        assert_all_gone_in_time(&alice, || {
            let mut job = alice.job("", "import time; time.sleep(600)");
            std::thread::sleep(Duration::from_millis(milliseconds));
            job.kill();
            job
        });
    }
}

#[test]
fn while_the_way_out_takes_its_time() {
    let node = Node::new();
    let alice = node.user();
    // None of them ever says that it is ready.
    let tools = alice.home.dir("tools");
    fs::set_permissions(&tools, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["pasta", "slirp4netns"] {
        let tool = tools.join(name);
        fs::write(&tool, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    }
    alice.set("PATH", format!("{}:{PATH}", tools.display()));
    for flags in [
        "--outbound pasta", "--outbound slirp4netns", "--no-pidns", "",
    ] {
        assert_all_gone_in_time(&alice, || {
            let mut job = alice.job(flags, "print('started')");
            alice.process("sleep");
            job.kill();
            job
        });
    }
}
