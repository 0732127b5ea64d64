//! `kill -9` before every system call of root's that changes the file system.
//!
//! strace first lists these calls, then kills the hook before each in turn.
//! Whatever is left, the PUN must start, and the next hook must reach the end.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ood_ca_tests::{Outcome, Run, Snapshot, pun_helper, require_tool};

use crate::setup::{User, WebHost, assert_roots_own};

const CHANGES: &str = "openat,write,mkdirat,renameat,renameat2,unlinkat,fchmod,fsync,utimensat,\
    ftruncate,linkat,symlinkat";

/// Runs the hook under strace, which follows no child: it is root's part alone
/// that is listed and killed.
fn traced(user: &User<'_>, log: &Path, kill_at: Option<&(String, usize)>) -> Outcome {
    let mut run = Run::new(require_tool("strace"))
        .args(["-qq", "-o"])
        .args([log]);
    run = match kill_at {
        None => run.args(["-e", &format!("trace={CHANGES}")]),
        Some((call, nth)) => run.args([
            "-e",
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:signal=SIGKILL:when={nth}"),
        ]),
    };
    run.args([pun_helper()])
        .args(["hook", "--user", &user.name, "--config"])
        .args([user.host.config()])
        .output()
}

/// The calls that change something, each by its name and number.
fn changes(log: &Path) -> Vec<(String, usize)> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut all = Vec::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let Some((call, arguments)) = line.split_once('(') else {
            continue;
        };
        let nth = seen.entry(call.to_owned()).or_default();
        *nth += 1;
        if call != "openat" || arguments.contains("O_CREAT") {
            all.push((call.to_owned(), *nth));
        }
    }
    all
}

/// Kills a hook that starts from `before` at each of its changes.
fn everywhere(host: &WebHost, user: &User<'_>, before: impl Fn()) {
    let log = host.join("strace.log");
    before();
    traced(user, &log, None).assert_ok();
    let changes = changes(&log);
    assert!(changes.len() > 10, "{changes:?}");
    let mut left = 0;
    for change in &changes {
        before();
        let start = Snapshot::of(&host.roots_own());
        let killed = traced(user, Path::new("/dev/null"), Some(change));
        assert!(killed.was_killed(), "no kill at {change:?}: {killed}");
        let end = Snapshot::of(&host.roots_own());
        left += usize::from(start != end);
        assert_roots_own(&host.roots_own());
        // Nothing there yet is fine: the PUN starts without our locations.
        if user.snippet_path().parent().unwrap().exists() {
            user.assert_pun_starts();
        }
        let report = user.hooked();
        assert_eq!(report["outcome"], "ready", "after {change:?}: {report}");
        assert!(user.is_served());
        user.assert_pun_starts();
        let files = Snapshot::of(&host.roots_own());
        assert_eq!(files.files().count(), 4, "after {change:?}: {files:?}");
    }
    assert!(left > 3, "only {left} kills left anything different behind");
}

#[test]
fn a_first_hook_killed_anywhere_is_completed_by_the_next() {
    let host = WebHost::new();
    let user = User::new(&host);
    everywhere(&host, &user, || {
        for dir in ["config/mtls", "config/mtls-trust"] {
            drop(fs::remove_dir_all(host.join(dir)));
        }
    });
}

#[test]
fn a_change_of_trust_killed_anywhere_is_completed_by_the_next() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let old = fs::read(user.trust_path()).unwrap();
    user.home.ood_ca("rotate --emergency").assert_ok();
    everywhere(&host, &user, || {
        fs::write(user.trust_path(), &old).unwrap();
        fs::write(
            user.snippet_path(),
            "location = /pun/proxy { return 503; }\n",
        )
        .unwrap();
    });
    assert_ne!(fs::read(user.trust_path()).unwrap(), old);
}

#[test]
fn when_the_hook_is_killed_its_child_goes_too() {
    use ood_ca_tests::{
        Home, eventually,
        fuse::{FaultyMount, Op},
    };
    let host = WebHost::with("host_regex: 'n1'\nresolver: [127.0.0.1]\nhook_timeout: 20s\n");
    let backing = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(backing.path(), mode).unwrap();
    let mount = FaultyMount::over(backing.path());
    let user = User::at(&host, Home::at(&mount.join("home"), Home::spare_uid()));
    mount.hang(Op::MakeDir, "");
    let mut hook = user.hook_run().start();
    eventually("the child hangs", crate::setup::SOON, || {
        (mount.hanging() > 0).then_some(())
    });
    hook.kill();
    drop(hook);
    mount.heal();
    let uid = user.home.uid().to_string();
    eventually("the child is gone", crate::setup::SOON, || {
        let list = Run::new(require_tool("ps"))
            .args(["-o", "stat=", "-u", &uid])
            .output();
        let alive = list.stdout.lines().filter(|l| !l.starts_with('Z')).count();
        (alive == 0).then_some(())
    });
    // It was killed before it had made anything.
    assert!(!user.home.pki().exists());
}
