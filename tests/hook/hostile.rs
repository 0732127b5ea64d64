//! The hook as an attack target.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Instant;

use ood_ca_tests::{Home, Run, Snapshot, eventually, pun_helper, require_tool};

use crate::setup::{SOON, User, WebHost, assert_roots_own, copy_program, write_as};

#[test]
fn a_link_to_somewhere_else_leads_nowhere() {
    for place in [
        ".ood", ".ood/pki", ".ood/pki/trust.crt", ".ood/pki/webhosts",
    ] {
        let host = WebHost::new();
        let user = User::new(&host);
        user.expect("ready");
        let outside = host.join("outside");
        fs::create_dir(&outside).unwrap();
        chown(&outside, Some(user.home.uid()), Some(user.home.uid())).unwrap();
        let path = user.home.join(place);
        fs::rename(&path, outside.join("real")).unwrap();
        for target in ["/etc".into(), outside.join("real")] {
            drop(fs::remove_file(&path));
            symlink(&target, &path).unwrap();
            let etc = Snapshot::of("/etc/cron.d".as_ref());
            let before = Snapshot::of(&outside);
            let report = user.hooked();
            // A record that cannot be written is a complaint, no more.
            let expected = if place.ends_with("webhosts") {
                "ready"
            } else {
                "unavailable"
            };
            assert_eq!(report["outcome"], expected, "{place}: {report}");
            assert_eq!(
                report["problems"][0]["code"], "unsafe-path",
                "{place}: {report}"
            );
            before.assert_unchanged(&outside);
            etc.assert_unchanged("/etc/cron.d".as_ref());
            user.assert_pun_starts();
            assert_roots_own(&host.roots_own());
        }
    }
}

#[test]
fn a_trust_bundle_that_is_none_never_reaches_nginx() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let good = fs::read(user.home.pki().join("trust.crt")).unwrap();
    let leaf = fs::read(user.home.pki().join("client.crt")).unwrap();
    let other = User::new(&host);
    other.expect("ready");
    let foreign = fs::read(other.home.pki().join("trust.crt")).unwrap();
    let key = fs::read(user.home.pki().join("client.key")).unwrap();
    let bundles: [(&str, Vec<u8>); 9] = [
        ("empty", Vec::new()),
        ("garbage", vec![0xff; 5000]),
        ("huge", good.repeat(1000)),
        ("five of them", good.repeat(5)),
        ("a leaf", leaf),
        ("a key", [good.clone(), key].concat()),
        ("cut off", good[..good.len() / 2].to_vec()),
        (
            "a control sequence",
            b"\x1b]0;x\x07-----BEGIN CERTIFICATE-----\n".to_vec(),
        ),
        ("somebody else's", foreign),
    ];
    let path = user.home.pki().join("trust.crt");
    for (what, bundle) in bundles {
        write_as(&user, &path, &bundle, 0o644);
        let ran = user.hook();
        let report = ran.json();
        assert_eq!(report["outcome"], "unavailable", "{what}: {ran}");
        assert!(!ran.stderr.contains('\x1b'), "{what}: {ran}");
        assert!(!user.is_served(), "{what}");
        assert_eq!(
            user.trust().as_bytes(),
            good,
            "{what}: the copy was touched"
        );
        user.assert_pun_starts();
        write_as(&user, &path, &good, 0o644);
        user.expect("ready");
    }
}

#[test]
fn what_is_no_file_does_not_hold_it_up() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    for name in ["trust.crt", "ca.key", "ca.crt"] {
        let path = user.home.pki().join(name);
        let saved = fs::read(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        fs::remove_file(&path).unwrap();
        user.home
            .run(require_tool("mkfifo"))
            .args([&path])
            .output()
            .assert_ok();
        let started = Instant::now();
        user.expect("unavailable");
        assert!(started.elapsed() < SOON);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        user.expect("unavailable");
        fs::remove_dir(&path).unwrap();
        write_as(&user, &path, &saved, mode & 0o777);
        user.expect("ready");
    }
}

#[test]
fn a_swap_at_the_worst_moment_gains_nothing() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    // As fast as it can, the user changes .ood between a directory and a link
    // to what only root could change.
    let prize = host.join("prize");
    fs::create_dir(&prize).unwrap();
    fs::set_permissions(&prize, fs::Permissions::from_mode(0o700)).unwrap();
    let script = format!(
        "cd {} && while :; do mv .ood .real; ln -s {} .ood; rm .ood; mv .real .ood; done",
        user.home.path().display(),
        prize.display()
    );
    let racer = user.home.run("/bin/sh").args(["-c", &script]).start();
    for _ in 0..40 {
        let report = user.hooked();
        let word = report["outcome"].as_str().unwrap();
        assert!(["ready", "kept", "unavailable"].contains(&word), "{report}");
        assert_eq!(fs::read_dir(&prize).unwrap().count(), 0);
        assert_roots_own(&host.roots_own());
    }
    drop(racer);
    let uid = user.home.uid().to_string();
    eventually("the racer's last command has ended", SOON, || {
        let list = Run::new(require_tool("ps"))
            .args(["-o", "pid=", "-u", &uid])
            .output();
        list.stdout.trim().is_empty().then_some(())
    });
}

#[test]
fn directories_that_others_may_change_are_not_written_to() {
    let host = WebHost::new();
    let user = User::new(&host);
    let config = host.join("config");
    // Somebody else's, open to all, or reached through a link.
    chown(&config, Some(user.home.uid()), None).unwrap();
    let ran = user.hook();
    assert_eq!(ran.json()["outcome"], "untouched", "{ran}");
    chown(&config, Some(0), None).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o777)).unwrap();
    user.hook().assert_refused(1, "others may write to it");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read_dir(&config).unwrap().count(), 0);
    fs::rename(&config, host.join("elsewhere")).unwrap();
    symlink(host.join("elsewhere"), &config).unwrap();
    user.hook().assert_refused(1, "symbolic link");
    assert_eq!(fs::read_dir(host.join("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_link_in_roots_own_directory_is_replaced_and_not_followed() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let target = host.join("target");
    fs::write(&target, "precious").unwrap();
    for path in [user.snippet_path(), user.trust_path()] {
        fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        user.expect("ready");
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }
}

#[test]
fn the_users_part_is_the_user_and_can_start_nothing() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let logs = tempfile::tempdir().unwrap();
    Run::new(require_tool("strace"))
        // A log for each process, so that no call is cut in two by another's.
        .args([
            "-ff",
            "-qq",
            "-e",
            "trace=%creds,prctl,prlimit64,setsid,execve,umask",
            "-o",
        ])
        .args([logs.path().join("log")])
        .args([ood_ca_tests::pun_helper()])
        .args(["hook", "--user", &user.name, "--config"])
        .args([host.config()])
        .output()
        .assert_ok();
    let uid = user.home.uid();
    let logs = fs::read_dir(logs.path()).unwrap();
    let calls = logs
        .map(|log| fs::read_to_string(log.unwrap().path()).unwrap())
        .find(|calls| calls.contains(&format!("setuid({uid})")))
        .expect("a process becomes the user");
    let order = [
        "setsid()".to_owned(),
        "umask(077)".to_owned(),
        "setgroups(".to_owned(),
        format!("setgid({uid})"),
        format!("setuid({uid})"),
        "setuid(0)".to_owned(),
        "PR_SET_NO_NEW_PRIVS".to_owned(),
        "PR_SET_DUMPABLE".to_owned(),
        "PR_SET_PDEATHSIG".to_owned(),
        "RLIMIT_NPROC".to_owned(),
    ];
    let mut rest = calls.as_str();
    for call in order {
        let at = rest
            .find(&call)
            .unwrap_or_else(|| panic!("no {call} in turn: {calls}"));
        rest = &rest[at..];
    }
    let refused = calls
        .lines()
        .any(|l| l.contains("setuid(0)") && l.contains("EPERM"));
    assert!(refused, "{calls}");
}

#[test]
fn the_private_command_gives_nobody_another_identity() {
    let home = Home::of_somebody();
    let host = WebHost::new();
    let copy = host.join("pun-helper");
    copy_program(ood_ca_tests::pun_helper(), &copy);
    for uid in ["0", "1", &home.uid().to_string()] {
        let ran = home
            .run(&copy)
            .args(["as-user", "root", uid, uid, "1", "/tmp/x/.ood/pki", "web1"])
            .output();
        assert_eq!(
            (ran.code(), ran.stdout.as_str()),
            (Some(1), ""),
            "{uid}: {ran}"
        );
    }
}

#[test]
fn a_fifo_where_apache_keeps_process_ids_holds_nobody_up() {
    let host = WebHost::new();
    let user = User::new(&host);
    let dir = host.join("run").join(&user.name);
    fs::create_dir(&dir).unwrap();
    let file = dir.join("passenger.pid");
    Run::new("mkfifo").args([&file]).output().assert_ok();
    user.expect("ready");
    let clean = |what: &str| {
        let run = Run::new(pun_helper()).args(["clean", "--json", "--config"]);
        let ran = run.args([host.config()]).output();
        assert!(ran.code().is_some(), "{what}: {ran}");
    };
    clean("a FIFO");
    fs::remove_file(&file).unwrap();
    symlink("/dev/zero", &file).unwrap();
    user.expect("ready");
    clean("a device without end");
}

#[test]
fn root_runs_no_program_that_others_may_change() {
    let host = WebHost::new();
    let user = User::new(&host);
    let ran = host.join("ran");
    let nginx_stage = host.script("nginx_stage", &format!("touch {}", ran.display()));
    host.also_configure(&format!("nginx_stage: {}\n", nginx_stage.display()));
    let dir = host.join("run").join(&user.name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("passenger.pid"), "1\n").unwrap();
    let clean = || {
        let run = Run::new(pun_helper()).args(["clean", "--json", "--config"]);
        run.args([host.config()]).output();
        ran.exists()
    };
    fs::set_permissions(&nginx_stage, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(!clean(), "it ran though others may write it");
    fs::set_permissions(&nginx_stage, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&nginx_stage, Some(user.home.uid()), None).unwrap();
    assert!(!clean(), "it ran though it is the user's");
    chown(&nginx_stage, Some(0), None).unwrap();
    assert!(clean(), "it did not run at all");
}
