//! What nginx_stage gives the hook and what it gets.

use std::fs;
use std::path::Path;

use ood_ca_tests::{Run, Snapshot, pun_helper, require_tool};

use crate::setup::{User, WebHost, assert_roots_own, copy_program, mark, write_program};

#[test]
fn the_first_run_makes_everything_that_the_pun_needs() {
    let host = WebHost::new();
    let user = User::new(&host);
    let report = user.expect("ready");
    assert_eq!(report["written"], true);
    assert!(user.is_served());
    assert_eq!(
        user.trust(),
        fs::read_to_string(user.home.pki().join("trust.crt")).unwrap()
    );
    assert_roots_own(&host.roots_own());
    user.assert_pun_starts();
    // What the PUN has loaded is on record, in the user's own directory.
    let record = fs::read_to_string(user.home.pki().join("webhosts/web1.example")).unwrap();
    assert_eq!(record.lines().count(), 1);
}

#[test]
fn with_nothing_to_do_it_writes_nothing_and_forks_once() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let (snippet, trust) = (mark(&user.snippet_path()), mark(&user.trust_path()));
    let home = Snapshot::of(user.home.path());
    let log = host.join("strace.log");
    let ran = Run::new(require_tool("strace"))
        .args([
            "-f", "-qq", "-e", "trace=fork,vfork,clone,clone3,execve", "-o",
        ])
        .args([&log])
        .args([pun_helper()])
        .args(["hook", "--user", &user.name, "--json", "--config"])
        .args([host.config()])
        .output()
        .assert_ok();
    assert_eq!(ran.json()["written"], false);
    assert_eq!(
        (mark(&user.snippet_path()), mark(&user.trust_path())),
        (snippet, trust)
    );
    home.assert_unchanged(user.home.path());
    let calls = fs::read_to_string(&log).unwrap();
    let forks = calls
        .lines()
        .filter_map(|l| l.split_once(' '))
        // The call comes after the number of the process.
        .filter(|(_, call)| {
            ["clone", "fork", "vfork"]
                .iter()
                .any(|c| call.trim_start().starts_with(c))
        })
        .count();
    assert_eq!(forks, 1, "{calls}");
    assert!(!calls.contains("nginx\""), "nginx was asked again: {calls}");
}

#[test]
fn nginx_is_asked_again_when_it_was_replaced() {
    let host = WebHost::new();
    let nginx = host.join("nginx");
    copy_program(&require_tool("nginx"), &nginx);
    host.also_configure(&format!("nginx: {}\n", nginx.display()));
    let user = User::new(&host);
    user.expect("ready");
    // The new one accepts nothing: what it would not start with must go.
    fs::remove_file(&nginx).unwrap();
    let version = "nginx version: nginx/1.22.1";
    let answers = format!("[ \"$1\" = -v ] && {{ echo {version} >&2; exit 0; }}");
    let refuses = "echo 'nginx: [emerg] no' >&2; exit 1";
    write_program(&nginx, &format!("#!/bin/sh\n{answers}\n{refuses}\n"));
    let report = user.expect("absent");
    assert!(
        report["problems"][0]["message"]
            .as_str()
            .unwrap()
            .contains("[emerg] no")
    );
    assert!(!user.snippet_path().exists());
}

#[test]
fn an_expired_or_missing_client_leaf_is_renewed() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    fs::remove_file(user.home.pki().join("client.crt")).unwrap();
    let report = user.expect("ready");
    let notices = report["notices"].to_string();
    assert!(notices.contains("client leaf renewed"), "{notices}");
    assert_eq!(report["written"], false);
}

#[test]
fn a_rotation_reaches_the_pun_at_its_next_start() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    user.home.ood_ca("rotate --prepare").assert_ok();
    // The PUN has not been started anew: it must not be taken for granted.
    user.home
        .ood_ca("rotate --activate")
        .assert_refused(1, "web1.example");
    // Long ago, so that this is no hook beside another one.
    let lock = user.trust_path().with_file_name(".lock");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::open(lock)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let report = user.expect("ready");
    assert_eq!(report["authorities"], 2);
    user.assert_pun_starts();
    user.home.ood_ca("rotate --activate").assert_ok();
}

#[test]
fn of_two_hooks_in_a_row_the_pun_may_belong_to_the_first() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    user.home.ood_ca("rotate --prepare").assert_ok();
    // However long that took.
    let lock = user.trust_path().with_file_name(".lock");
    fs::File::open(lock)
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    assert_eq!(user.expect("ready")["authorities"], 2);
    user.home
        .ood_ca("rotate --activate")
        .assert_refused(1, "web1.example");
}

#[test]
fn without_hosts_the_page_says_so() {
    let host = WebHost::with("resolver: [127.0.0.1]\n");
    let user = User::new(&host);
    let report = user.expect("unavailable");
    assert_eq!(report["problems"][0]["code"], "no-hosts");
    assert!(!user.is_served());
    user.assert_pun_starts();
}

#[test]
fn a_configuration_that_is_wrong_leaves_what_was_good() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let before = Snapshot::of(&host.roots_own());
    host.also_configure("hook_timout: 3s\n");
    let ran = user.hook();
    assert_eq!(ran.json()["outcome"], "untouched", "{ran}");
    ran.assert_refused(1, "hook_timout");
    before.assert_unchanged(&host.roots_own());
}

#[test]
fn nobody_and_root_have_no_pun() {
    let host = WebHost::new();
    for (name, part) in [
        ("no-such-user-here", "there is no user"),
        ("root", "root has no PUN"),
    ] {
        Run::new(pun_helper())
            .args(["hook", "--user", name, "--config"])
            .args([host.config()])
            .output()
            .assert_failed(1, part);
    }
    let bad = Run::new(pun_helper())
        .args(["hook", "--user", "../etc"])
        .output();
    assert_eq!(bad.code(), Some(2), "{bad}");
    assert_eq!(Snapshot::of(&host.roots_own()).0.len(), 1);
}

#[test]
fn stdout_is_silent_and_stderr_speaks_only_of_failure() {
    let host = WebHost::new();
    let user = User::new(&host);
    let hook = || {
        let run = Run::new(pun_helper()).within(Path::new("/"));
        run.args(["hook", "--user", &user.name, "--config"])
            .args([host.config()])
            .output()
    };
    let good = hook().assert_ok();
    assert_eq!((good.stdout.as_str(), good.stderr.as_str()), ("", ""));
    fs::remove_dir_all(user.home.join(".ood")).unwrap();
    std::os::unix::fs::symlink("/etc", user.home.join(".ood")).unwrap();
    let bad = hook();
    assert_eq!(bad.stdout, "");
    bad.assert_refused(1, "symbolic link");
}

#[test]
fn the_system_log_gets_one_line_a_run() {
    use nix::mount::{MsFlags, mount};
    use std::os::unix::net::UnixDatagram;
    let host = WebHost::new();
    let user = User::new(&host);
    // A /dev of the test's own, with the devices of the real one.
    let dev = host.join("dev");
    fs::create_dir(&dev).unwrap();
    mount(
        Some("tmpfs"),
        &dev,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .unwrap();
    for name in ["null", "zero", "random", "urandom"] {
        let real = Path::new("/dev").join(name);
        fs::write(dev.join(name), "").unwrap();
        mount(
            Some(&real),
            &dev.join(name),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
    }
    mount(
        Some(&dev),
        "/dev",
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .unwrap();
    // Seen at /dev alone, so that the directory can be removed.
    nix::mount::umount2(&dev, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let log = UnixDatagram::bind("/dev/log").unwrap();
    log.set_nonblocking(true).unwrap();
    let next = || {
        let mut line = [0; 4096];
        let length = log.recv(&mut line).ok()?;
        Some(String::from_utf8_lossy(&line[..length]).into_owned())
    };
    user.expect("ready");
    let line = next().unwrap();
    // Facility daemon, severity info.
    assert!(line.starts_with("<30>pun-helper["), "{line}");
    assert!(
        line.contains(&format!("hook {}: ready, written, 1 trusted", user.name)),
        "{line}"
    );
    fs::remove_dir_all(user.home.join(".ood")).unwrap();
    std::os::unix::fs::symlink("/etc", user.home.join(".ood")).unwrap();
    user.expect("unavailable");
    let line = next().unwrap();
    assert!(line.starts_with("<27>pun-helper["), "{line}");
    assert!(
        line.contains("symbolic link") && !line.contains('\n'),
        "{line}"
    );
    assert_eq!(next(), None);
}

#[test]
fn nobody_but_root_can_run_it() {
    let host = WebHost::new();
    let user = User::new(&host);
    let copy = host.join("pun-helper");
    copy_program(pun_helper(), &copy);
    let run = user
        .home
        .run(&copy)
        .args(["hook", "--user", &user.name, "--config"]);
    run.args([host.config()])
        .output()
        .assert_refused(1, "needs root");
    assert_eq!(Snapshot::of(&host.roots_own()).0.len(), 1);
}

#[test]
fn a_portal_configuration_that_is_wrong_leaves_what_was_good() {
    let host = WebHost::new();
    let user = User::new(&host);
    fs::write(host.join("ood_portal.yml"), ": [nonsense").unwrap();
    user.expect("unavailable");
    user.assert_pun_starts();
    fs::remove_file(host.join("ood_portal.yml")).unwrap();
    user.expect("ready");
    fs::write(host.join("ood_portal.yml"), ": [nonsense").unwrap();
    user.expect("kept");
    assert!(user.is_served());
    let records = fs::read_dir(user.home.pki().join("webhosts")).unwrap();
    assert_eq!(
        records.count(),
        1,
        "a web host that does not exist was recorded"
    );
}

#[test]
fn whose_bundle_it_is_is_written_down_again_when_that_was_lost() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let memory = user.trust_path().with_file_name("state");
    let before = fs::read_to_string(&memory).unwrap();
    for lost in ["", "nonsense\n"] {
        fs::write(&memory, lost).unwrap();
        user.expect("ready");
        assert_eq!(fs::read_to_string(&memory).unwrap(), before);
    }
}

#[test]
fn the_configuration_may_be_named_from_where_one_stands() {
    let host = WebHost::new();
    let user = User::new(&host);
    Run::new(pun_helper())
        .within(host.config().parent().unwrap())
        .args(["hook", "--user", &user.name, "--config", "ood_ca.yml"])
        .output()
        .assert_ok();
    assert!(user.is_served());
}
