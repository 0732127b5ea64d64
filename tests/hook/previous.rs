//! `also_run`: the hook that the site had before.

use std::fs;
use std::time::Instant;

use ood_ca_tests::{Run, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::setup::{SOON, User, WebHost};

fn host_with(script: &str) -> WebHost {
    let host = WebHost::new();
    let script = script.replace("DIR", host.join("").to_str().unwrap());
    let path = host.script("previous", &script);
    host.also_configure(&format!("also_run: {}\n", path.display()));
    host
}

#[test]
fn it_runs_first_with_the_same_arguments_and_environment_and_nothing_open() {
    let host = host_with(
        "echo \"$@\" $(id -u) $OOD_TOKEN $(umask) > DIR/said; ls /proc/self/fd > DIR/open; readlink /proc/self/fd/0 >> DIR/said; ls -d DIR/config/mtls >> DIR/said 2>&1",
    );
    let user = User::new(&host);
    // Something left open on purpose, as a careless caller might.
    let line = format!(
        "exec 7</etc/passwd 8>>{}; exec {} hook --user {} --config {}",
        host.join("leak").display(),
        ood_ca_tests::pun_helper().display(),
        user.name,
        host.config().display()
    );
    Run::new("/bin/sh")
        .args(["-c", &line])
        .env("OOD_TOKEN", "t0ken")
        .output()
        .assert_ok();
    let said = fs::read_to_string(host.join("said")).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], format!("--user {} 0 t0ken 0022", user.name));
    assert_eq!(lines[1], "/dev/null");
    assert!(lines[2].contains("No such file"), "{said}");
    // 3 is the listing itself.
    assert_eq!(
        fs::read_to_string(host.join("open")).unwrap(),
        "0\n1\n2\n3\n"
    );
}

#[test]
fn its_failure_is_told_but_is_not_ours() {
    let host = host_with("echo no such tape >&2; exit 3");
    let user = User::new(&host);
    let report = user.expect("ready");
    let notices = report["notices"].to_string();
    assert!(
        notices.contains("no such tape") && notices.contains('3'),
        "{notices}"
    );
}

#[test]
fn one_that_hangs_is_ended_with_all_its_children() {
    // A number that nobody else on this machine sleeps for.
    let sleep = format!("sleep 4321{}", std::process::id());
    let host = host_with(&format!("{sleep} & {sleep}"));
    host.also_configure("hook_timeout: 3s\n");
    let user = User::new(&host);
    let started = Instant::now();
    let report = user.expect("ready");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(
        report["notices"].to_string().contains("took too long"),
        "{report}"
    );
    eventually("its children are gone", SOON, || {
        let all = Run::new("/bin/ps").args(["-eo", "args="]).output();
        (!all.stdout.contains(&sleep)).then_some(())
    });
}

#[test]
fn one_that_leaves_a_daemon_holds_nobody_up() {
    // Twice forked, in a session of its own, with stdout and stderr kept.
    let host = host_with(
        "(setsid sh -c 'echo $$ > DIR/daemon; exec sleep 600' & )
         until [ -s DIR/daemon ]; do sleep 0.01; done; echo done >&2",
    );
    let user = User::new(&host);
    let started = Instant::now();
    // This waits until both pipes are closed by everyone.
    user.expect("ready");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let daemon = fs::read_to_string(host.join("daemon")).unwrap();
    let daemon = Pid::from_raw(daemon.trim().parse().unwrap()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
}

#[test]
fn one_that_floods_stderr_is_cut_short() {
    let host = host_with("head -c 50000000 /dev/zero | tr '\\0' x >&2; exit 1");
    let user = User::new(&host);
    let report = user.expect("ready");
    assert!(report["notices"].to_string().len() < 10_000);
}

#[test]
fn one_that_others_may_change_is_not_run() {
    let host = host_with("touch DIR/ran");
    let user = User::new(&host);
    let mode = |bits| std::os::unix::fs::PermissionsExt::from_mode(bits);
    fs::set_permissions(host.join("previous"), mode(0o777)).unwrap();
    assert!(
        user.expect("ready")["notices"]
            .to_string()
            .contains("is not run")
    );
    assert!(!host.join("ran").exists());
    fs::set_permissions(host.join("previous"), mode(0o755)).unwrap();
    user.expect("ready");
    assert!(host.join("ran").exists());
}
