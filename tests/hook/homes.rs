//! Homes that hang, are full, read-only, squashed or not there.

use std::fs;
use std::time::{Duration, Instant};

use ood_ca_tests::fuse::{Errno, FaultyMount, Op, WhenFull};
use ood_ca_tests::{Home, ReadOnlyBind, Snapshot, eventually};

use crate::setup::{SOON, User, WebHost, assert_roots_own};

/// A home on a file system with faults. The directory behind it comes first, so
/// that it goes last.
fn network_home() -> (tempfile::TempDir, FaultyMount, Home) {
    let backing = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(backing.path(), mode).unwrap();
    let mount = FaultyMount::over(backing.path());
    let home = Home::at(&mount.join("home"), Home::spare_uid());
    (backing, mount, home)
}

/// A site whose hook waits this long for a home.
fn patience_of(seconds: u32) -> String {
    format!("host_regex: 'n[0-9]+'\nresolver: [127.0.0.1]\nhook_timeout: {seconds}s\n")
}

/// What is not enough for a home that hangs.
const LITTLE: u32 = 3;
/// What is enough for one that does not.
const AMPLE: u32 = 25;

#[test]
fn a_home_that_hangs_does_not_keep_the_pun_from_starting() {
    let host = WebHost::with(&patience_of(LITTLE));
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    // In the kernel this cannot be interrupted: the child cannot even be killed.
    mount.hang(Op::MakeDir, "");
    let started = Instant::now();
    let report = user.expect("unavailable");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(report["problems"][0]["code"], "timeout");
    assert_eq!(mount.hanging(), 1);
    assert!(!user.is_served());
    user.assert_pun_starts();
    mount.heal();
    host.configure(&patience_of(AMPLE));
    user.expect("ready");
    assert!(user.is_served());
}

#[test]
fn while_a_home_hangs_what_was_good_serves_on() {
    let host = WebHost::with(&patience_of(AMPLE));
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    user.expect("ready");
    let before = (user.snippet(), user.trust());
    host.configure(&patience_of(LITTLE));
    for op in [Op::Lookup, Op::Open, Op::Attributes] {
        mount.hang(op, "");
        let started = Instant::now();
        let report = user.hooked();
        assert!(started.elapsed() < SOON, "{op:?}: {:?}", started.elapsed());
        assert!(
            mount.hanging() > 0 || report["outcome"] == "ready",
            "{op:?}: {report}"
        );
        if mount.hanging() > 0 {
            assert_eq!(report["outcome"], "kept", "{op:?}: {report}");
        }
        assert_eq!((user.snippet(), user.trust()), before);
        mount.heal();
        eventually("the stuck child is gone", SOON, || {
            (mount.hanging() == 0).then_some(())
        });
    }
    user.assert_pun_starts();
    host.configure(&patience_of(AMPLE));
    user.expect("ready");
}

#[test]
fn six_hooks_in_a_home_that_hangs_take_no_longer_than_one() {
    let host = WebHost::with(&patience_of(AMPLE));
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    user.expect("ready");
    host.configure(&patience_of(LITTLE));
    mount.hang(Op::Open, "");
    let started = Instant::now();
    let running: Vec<_> = (0..6).map(|_| user.hook_run().start()).collect();
    for hook in running {
        let report = hook.wait().json();
        assert_eq!(report["outcome"], "kept", "{report}");
    }
    // One after the other would take six times the patience.
    let limit = Duration::from_secs((5 * LITTLE).into());
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
}

#[test]
fn another_users_trust_bundle_is_not_kept_for_a_name_that_was_given_away() {
    let host = WebHost::with(&patience_of(AMPLE));
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    user.expect("ready");
    let name = user.name.clone();
    // The same login name, another person.
    let uid = Home::spare_uid();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let old = format!("{name}:x:{0}:{0}:", user.home.uid());
    fs::write(
        host.join(format!("passwd-{name}")),
        passwd.replace(&old, &format!("{name}:x:{uid}:{uid}:")),
    )
    .unwrap();
    host.configure(&patience_of(LITTLE));
    mount.hang(Op::Lookup, "");
    user.expect("unavailable");
    assert!(!user.is_served());
}

#[test]
fn a_full_home_without_an_authority_costs_a_503_and_no_more() {
    let host = WebHost::new();
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    for when in [WhenFull::Write, WhenFull::Close] {
        mount.limit_space(100, Errno::EDQUOT, when);
        let report = user.expect("unavailable");
        assert_eq!(report["problems"][0]["code"], "io", "{report}");
        assert!(mount.faults_served() > 0);
        user.assert_pun_starts();
        mount.heal();
    }
    user.expect("ready");
}

#[test]
fn a_full_home_with_an_authority_is_no_trouble() {
    let host = WebHost::new();
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    user.expect("ready");
    mount.limit_space(0, Errno::ENOSPC, WhenFull::Write);
    user.expect("ready");
    // Not even when a renewal is due: the leaf is missed, the PUN is not.
    fs::remove_file(user.home.pki().join("client.crt")).unwrap();
    let report = user.expect("ready");
    assert!(
        report["notices"].to_string().contains("not renewed"),
        "{report}"
    );
    assert!(user.is_served());
}

#[test]
fn a_read_only_home_is_served_from_what_is_there() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let bound = ReadOnlyBind::over(user.home.path());
    user.expect("ready");
    drop(bound);
    fs::remove_dir_all(user.home.join(".ood")).unwrap();
    let _bound = ReadOnlyBind::over(user.home.path());
    let report = user.hooked();
    assert_eq!(report["outcome"], "kept", "{report}");
}

#[test]
fn a_home_closed_to_root_is_no_trouble() {
    let host = WebHost::new();
    let (_backing, mount, home) = network_home();
    let user = User::at(&host, home);
    mount.squash_root(true);
    let report = user.expect("ready");
    assert_eq!(report["written"], true);
    assert!(user.is_served());
    assert_roots_own(&host.roots_own());
}

#[test]
fn a_home_that_does_not_exist_is_not_made() {
    let host = WebHost::new();
    let user = User::new(&host);
    let gone = user.home.path().with_extension("away");
    fs::rename(user.home.path(), &gone).unwrap();
    let before = Snapshot::of(&host.join("run"));
    user.expect("unavailable");
    assert!(!user.home.path().exists());
    before.assert_unchanged(&host.join("run"));
    user.assert_pun_starts();
    fs::rename(&gone, user.home.path()).unwrap();
}

#[test]
fn a_home_whose_name_nginx_cannot_bear_costs_a_503() {
    let host = WebHost::new();
    let dir = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), mode).unwrap();
    let user = User::at(
        &host,
        Home::at(&dir.path().join("a$b;c"), Home::spare_uid()),
    );
    user.expect("unavailable");
    assert!(!user.snippet().contains("a$b"));
    user.assert_pun_starts();
}
