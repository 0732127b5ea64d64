//! Apps of one user that want the same place at the same time: one has it, and the
//! others are told.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use ood_ca_tests::{Running, eventually};
use rustix::process::Signal;
use serde_json::Value;

use crate::setup::{APP, HidingProc, Node, PATIENCE, User, assert_all_gone, kill_all_at_once};

/// How many want it: enough that some are in each other's way.
const MANY: usize = 5;

/// The app, which listens when there is a file `go` in its directory.
fn when_told() -> String {
    format!(
        "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.001)\n{APP}"
    )
}

/// That many of the same, of which all but one are waited for; the one, and what the
/// others have said. `then` comes when all are started.
fn one_of(alice: &User<'_>, words: &[&str], then: impl FnOnce()) -> (Running, Vec<String>) {
    let start = |_| {
        let run = alice.ood_job(words.iter().copied());
        run.within(alice.home.path()).start()
    };
    let mut running: Vec<Running> = (0..MANY).map(start).collect();
    then();
    let mut said = Vec::new();
    eventually("one is left", PATIENCE, || {
        let ended = running.extract_if(.., Running::has_ended);
        said.extend(ended.map(|one| one.wait().assert_failed(125, "error: ").stderr));
        (running.len() == 1).then_some(())
    });
    (running.remove(0), said)
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_socket_is_one_apps_before_anything_listens_on_it() {
    let node = Node::new();
    let alice = node.user();
    alice.home.dir("own");
    let mut first = alice.job("--to unix:own/socket", &when_told());
    first.expect_said("up");
    // What it would find there is the first one's, whatever it starts itself.
    for flags in [
        "--to unix:own/socket",
        "--network private --outbound none --to unix:own/socket",
    ] {
        let mut second = alice.job(
            flags,
            "import time; print('started', flush=True); time.sleep(600)",
        );
        assert_eq!(second.code(), 125, "{}", second.said());
        let said = second.said();
        assert!(said.contains("error: another app of yours "), "{said}");
        assert!(said.contains("hint: "), "{said}");
        assert!(!said.contains("started"), "{said}");
        assert!(!second.publish_file().exists());
    }
    fs::write(alice.home.join("go"), "").unwrap();
    first.ready();
    // Another one in the same directory is in nobody's way.
    let mut other = alice.job("--to unix:own/other", APP);
    other.ready();
    other.signal(Signal::TERM);
    other.code();
    first.signal(Signal::TERM);
    first.code();
    assert_eq!(names_in(&alice.home.join("own")), [""; 0]);
}

#[test]
fn a_port_of_the_node_is_one_apps_before_anything_listens_on_it() {
    let node = Node::new();
    let (alice, bob) = (node.user(), node.user());
    let flags = "--network host --allow-unisolated --to 127.0.0.1:18997";
    let mut first = alice.job(flags, &when_told());
    first.expect_said("up");
    let idle = "import time; print('started', flush=True); time.sleep(600)";
    let mut second = alice.job(flags, idle);
    assert_eq!(second.code(), 125, "{}", second.said());
    let said = second.said();
    assert!(
        said.contains("error: another app of yours has 127.0.0.1:18997"),
        "{said}"
    );
    assert!(said.contains("hint: "), "{said}");
    assert!(!said.contains("started"), "{said}");
    fs::write(alice.home.join("go"), "").unwrap();
    first.ready();
    // Killed, it lets the port go with the last of it.
    first.kill();
    assert_all_gone(&alice, PATIENCE);
    // Another user who has the name keeps nobody off.
    let script = format!(
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0ood-job/{}/127.0.0.1:18997'); s.listen(); print('held', flush=True); time.sleep(600)",
        alice.uid()
    );
    let bobs = bob.job(
        "--network host --allow-unisolated --to 127.0.0.1:18996",
        &script,
    );
    bobs.expect_said("held");
    let mut third = alice.job(flags, APP);
    third.ready();
    assert!(
        third
            .said()
            .contains("warning: nothing keeps two apps of yours off"),
        "{}",
        third.said()
    );
}

#[test]
fn of_many_that_start_at_once_on_one_socket_one_goes_on() {
    let node = Node::new();
    let alice = node.user();
    let own = alice.home.dir("own");
    for round in 0..3 {
        let words = ["run", "--to", "unix:own/socket", "--", "python3", "-c", APP];
        let (winner, said) = one_of(&alice, &words, || {});
        for said in said {
            assert!(said.contains("own/socket"), "{said}");
            assert!(said.contains("hint: "), "{said}");
        }
        let answers = own.join("socket");
        eventually("it listens", PATIENCE, || {
            std::os::unix::net::UnixStream::connect(&answers).ok()
        });
        winner.terminate();
        assert_eq!(names_in(&own), [""; 0], "round {round}");
        assert_all_gone(&alice, PATIENCE);
    }
}

#[test]
fn a_socket_whose_app_was_killed_is_the_next_ones() {
    let node = Node::new();
    let alice = node.user();
    let own = alice.home.dir("own");
    let mut job = alice.job("--to unix:own/socket", APP);
    job.ready();
    job.kill();
    assert_all_gone(&alice, PATIENCE);
    assert_eq!(names_in(&own), [""; 0]);
    // With nobody left to tidy up, what stays keeps nobody off.
    let mut job = alice.job("--to unix:own/socket", &when_told());
    job.expect_said("up");
    kill_all_at_once(&alice);
    job.code();
    fs::write(alice.home.join("go"), "").unwrap();
    let mut job = alice.job("--to unix:own/socket", &when_told());
    job.ready();
    job.signal(Signal::TERM);
    job.code();
    assert_eq!(names_in(&own), [""; 0]);
}

/// Which session a file tells of.
fn session_in(file: &Path) -> Option<String> {
    let value: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).unwrap();
    Some(value["session"].as_str()?.to_owned())
}

#[test]
fn of_many_that_publish_at_once_one_has_the_file() {
    let node = Node::new();
    let alice = node.user();
    let file = alice.home.join("connection.json");
    let publish = file.display().to_string();
    let app = when_told();
    for before in ["", "{\"session\":\"of one that was killed\"}"] {
        if !before.is_empty() {
            fs::write(&file, before).unwrap();
            chown(&file, Some(alice.uid()), Some(alice.uid())).unwrap();
        }
        let words = [
            "run", "--outbound", "none", "--publish", &publish, "--", "python3", "-c", &app,
        ];
        let go = alice.home.join("go");
        let (winner, said) = one_of(&alice, &words, || {
            eventually("all wait", PATIENCE, || {
                let all = crate::setup::processes_of(alice.uid());
                let apps = all.iter().filter(|(_, name)| name == "python3");
                (apps.count() == MANY).then_some(())
            });
            fs::write(&go, "").unwrap();
        });
        for said in said {
            let refused = "it tells of another app, which runs";
            assert!(said.contains(refused), "{said}");
            assert!(said.contains("hint: "), "{said}");
        }
        // What it says is what the one left is registered as.
        let listed = alice.ood_job(["sessions", "--json"]).output();
        let listed = listed.assert_ok().json();
        let sessions = listed["sessions"].as_array().unwrap();
        assert_eq!(sessions.len(), 1, "{listed}");
        assert_eq!(sessions[0]["session"], session_in(&file).unwrap());
        winner.terminate();
        assert_all_gone(&alice, PATIENCE);
        assert!(!file.exists());
        fs::remove_file(&go).unwrap();
        assert_eq!(names_in(alice.home.path()), [".ood"]);
    }
}

#[test]
fn the_file_of_an_app_that_runs_is_known_where_its_process_cannot_be_seen() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none", APP);
    let session = job.ready().session;
    let file = job.publish_file().to_owned();
    let publish = file.display().to_string();
    let second = |around: &[&str]| {
        let program = alice.program().display().to_string();
        let mut words = around.to_vec();
        words.extend([
            &*program, "run", "--outbound", "none", "--publish", &publish, "--", "true",
        ]);
        alice.run(words[0]).args(&words[1..]).output()
    };
    let refused = "it tells of another app, which runs";
    let hiding = HidingProc::new();
    second(&["env"]).assert_refused(125, refused);
    drop(hiding);
    // As in a container, where its number means nothing.
    let apart = [
        "unshare", "--map-current-user", "--pid", "--fork", "--mount-proc", "--kill-child",
    ];
    second(&apart).assert_refused(125, refused);
    assert_eq!(session_in(&file).as_deref(), Some(&*session));
    // Killed with all that could tidy up, it is known to be gone there, too.
    let told = fs::read_to_string(&file).unwrap();
    kill_all_at_once(&alice);
    job.code();
    assert_eq!(fs::read_to_string(&file).unwrap(), told);
    second(&apart).assert_ok();
}
