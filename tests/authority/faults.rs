//! Full disks, spent quotas, read-only and root-squashed homes, and file
//! servers that forget.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::fuse::{Errno, Event, FOREVER, FaultyMount, Op, WhenFull};
use ood_ca_tests::{
    Home, LeafKind, ReadOnlyBind, SmallDisk, Snapshot, State, assert_keys_are_private,
    assert_leaves_verify, assert_pair, eventually, leftovers, own_file,
};

const PAGE: u64 = 4096;

/// A home on a file server.
struct Remote {
    home: Home,
    mount: FaultyMount,
    backing: tempfile::TempDir,
}

impl Remote {
    fn new() -> Self {
        let backing = tempfile::tempdir().unwrap();
        let mount = FaultyMount::over(backing.path());
        let at_server = Home::at(&backing.path().join("home"), Home::spare_uid());
        let home = at_server.seen_at(&mount.join("home"));
        Remote {
            home,
            mount,
            backing,
        }
    }

    fn with_authority() -> Self {
        let remote = Remote::new();
        remote.home.ood_ca("init").assert_ok();
        remote
    }

    /// The home as it lies on the server, where no fault is.
    fn at_server(&self) -> PathBuf {
        self.backing.path().join("home")
    }

    fn pki_at_server(&self) -> PathBuf {
        self.at_server().join(".ood/pki")
    }

    fn state(&self) -> State {
        State::of(&self.pki_at_server())
    }
}

/// Nothing half-made is left of a first creation that failed.
fn assert_nothing_made(home: &Path) {
    let left: Vec<_> = Snapshot::of(home)
        .0
        .into_keys()
        .filter(|p| p != Path::new("") && p != Path::new(".ood"))
        .collect();
    assert!(left.is_empty(), "something was left behind: {left:?}");
}

fn assert_sound(pki: &Path) -> State {
    let state = State::of(pki);
    assert!(state.is_sound(), "{state:?}");
    assert_keys_are_private(pki);
    state
}

/// A leaf written to a directory that has no fault.
fn assert_leaf_in(out: &Path, pki: &Path) {
    assert_pair(&out.join("server.key"), &out.join("server.crt"));
    assert_leaves_verify(
        &pki.join("trust.crt"),
        LeafKind::Server,
        &[out.join("server.crt")],
    );
    assert!(out.join("trust.crt").exists());
}

// Full disks

#[test]
fn init_on_a_full_disk_says_so_and_leaves_nothing_half_made() {
    for (failed, spare_pages) in (0..64).enumerate() {
        let disk = SmallDisk::new(64 * PAGE, 1000);
        let home = Home::at(&disk.path().join("home"), Home::spare_uid());
        disk.fill_but(spare_pages * PAGE);
        let outcome = home.ood_ca("init");
        if outcome.status.success() {
            assert_sound(&home.pki());
            assert!(failed >= 4, "only {failed} sizes were too small");
            return;
        }
        outcome.assert_refused(1, "o space left");
        assert_nothing_made(home.path());
        disk.make_room();
        home.ood_ca("init").assert_ok();
        assert_sound(&home.pki());
    }
    panic!("init needs more than 64 pages");
}

#[test]
fn init_without_free_inodes_says_so_and_leaves_nothing_half_made() {
    for (failed, inodes) in (3..64).enumerate() {
        let disk = SmallDisk::new(1000 * PAGE, inodes);
        let home = Home::at(&disk.path().join("home"), Home::spare_uid());
        let outcome = home.ood_ca("init");
        if outcome.status.success() {
            assert_sound(&home.pki());
            assert!(failed >= 4, "only {failed} sizes were too small");
            return;
        }
        outcome.assert_refused(1, "o space left");
        assert_nothing_made(home.path());
    }
    panic!("init needs more than 60 inodes");
}

/// Runs a command with more and more room until it succeeds; each time that it
/// fails it must leave signer, trust and client as they were.
fn with_little_room(prepare: &[&str], command: &str, finished: impl Fn(&State, &State)) {
    let mut failed = 0;
    for spare_pages in 0..32 {
        let disk = SmallDisk::new(128 * PAGE, 1000);
        let home = Home::at(&disk.path().join("home"), Home::spare_uid());
        home.ood_ca("init").assert_ok();
        prepare
            .iter()
            .for_each(|line| drop(home.ood_ca(line).assert_ok()));
        let before = assert_sound(&home.pki());
        disk.fill_but(spare_pages * PAGE);
        let outcome = home.ood_ca(command);
        let after = assert_sound(&home.pki());
        if outcome.status.success() {
            finished(&before, &after);
            if outcome.stderr.contains("warning: ") {
                // The record did not fit; a little more room and it does.
                continue;
            }
            assert!(failed > 0, "no size was too small");
            return;
        }
        outcome.assert_refused(1, "o space left");
        // Renewing the client leaf first is a step of its own.
        assert!(
            after.has_authority_of(&before) && after.has_client_key_of(&before),
            "a command that failed for want of space changed something: {before:?} -> {after:?}"
        );
        assert_eq!(leftovers(home.path()), Vec::<PathBuf>::new());
        failed += 1;
        home.ood_ca("show").assert_ok();
    }
    panic!("{command} needs more than 32 pages");
}

#[test]
fn renew_on_a_full_disk_leaves_the_old_leaf() {
    with_little_room(&[], "renew --force", |before, after| {
        assert!(after.client != before.client && after.has_client_key_of(before));
    });
}

#[test]
fn prepare_on_a_full_disk_changes_no_trust() {
    with_little_room(&[], "rotate --prepare", |before, after| {
        assert_eq!((after.trust.len(), &after.signer), (2, &before.signer));
    });
}

#[test]
fn retire_on_a_full_disk_keeps_the_old_trust() {
    with_little_room(
        &["rotate --prepare", "rotate --activate"],
        "rotate --retire",
        |before, after| {
            assert!(
                after.trusts_only_signer() && after.signer == before.signer,
                "{after:?}"
            );
        },
    );
}

/// Takes a step with more and more room until it succeeds. Each time that it
/// fails, the old or the new authority must be there, and the step can be
/// taken again when there is room.
fn old_or_new_with_little_room(prepare: &[&str], command: &str) {
    for (failed, spare_pages) in (0..32).enumerate() {
        let disk = SmallDisk::new(128 * PAGE, 1000);
        let home = Home::at(&disk.path().join("home"), Home::spare_uid());
        home.ood_ca("init").assert_ok();
        for line in prepare {
            home.ood_ca(line).assert_ok();
        }
        let before = assert_sound(&home.pki());
        disk.fill_but(spare_pages * PAGE);
        let outcome = home.ood_ca(command);
        if outcome.status.success() {
            let after = State::of(&home.pki());
            assert!(after.signer != before.signer && after.client_trusted);
            assert!(failed > 0, "no size was too small");
            return;
        }
        outcome.assert_refused(1, "o space left");
        let found = State::of(&home.pki());
        if found.signer == before.signer {
            assert_eq!(found.trust, before.trust);
            assert!(found.client_matches && found.client_trusted);
        }
        // Whichever it is, jobs get leaves that both ends trust.
        let out = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(out.path(), Some(home.uid()), None).unwrap();
        let line = format!("issue --host n001 --out {}", out.path().display());
        home.ood_ca(&line).assert_ok();
        let leaf = out.path().join("server.crt");
        assert_leaves_verify(&out.path().join("trust.crt"), LeafKind::Server, &[leaf]);
        disk.make_room();
        home.ood_ca(command).assert_ok();
        assert_ne!(assert_sound(&home.pki()).signer, before.signer);
    }
    panic!("{command} needs more than 32 pages");
}

#[test]
fn activate_on_a_full_disk_is_old_or_new_and_can_be_repeated() {
    old_or_new_with_little_room(&["rotate --prepare"], "rotate --activate");
}

#[test]
fn an_emergency_on_a_full_disk_is_old_or_new_and_can_be_repeated() {
    old_or_new_with_little_room(&[], "rotate --emergency");
}

#[test]
fn issue_succeeds_when_only_the_record_does_not_fit() {
    let disk = SmallDisk::new(128 * PAGE, 1000);
    let home = Home::at(&disk.path().join("home"), Home::spare_uid());
    home.ood_ca("init").assert_ok();
    let out = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(out.path(), Some(home.uid()), None).unwrap();
    disk.fill_but(0);
    let record = Snapshot::of(&home.pki());
    let line = format!("issue --host n001 --out {}", out.path().display());
    home.ood_ca(&line).assert_warned("record");
    assert_leaf_in(out.path(), &home.pki());
    record.assert_unchanged(&home.pki());
}

#[test]
fn issue_into_a_full_disk_fails_and_keeps_the_old_leaf() {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    for (failed, spare_pages) in (0..16).enumerate() {
        let disk = SmallDisk::new(64 * PAGE, 1000);
        let there = Home::at(&disk.path().join("job"), home.uid());
        let line = format!("issue --host n001 --out {}", there.path().display());
        home.ood_ca(&line).assert_ok();
        let before = Snapshot::of(there.path());
        disk.fill_but(spare_pages * PAGE);
        let outcome = home.ood_ca(&line);
        if outcome.status.success() {
            assert_leaf_in(there.path(), &home.pki());
            assert!(failed > 0, "no size was too small");
            return;
        }
        outcome.assert_refused(1, "o space left");
        before.assert_unchanged(there.path());
    }
    panic!("a leaf needs more than 16 pages");
}

// Quotas, as file servers report them: at the write or only at the close

/// Runs `init` with more and more quota until it fits.
fn init_within_a_quota(when: WhenFull) {
    let remote = Remote::new();
    for (failed, bytes) in (0..40_000).step_by(300).enumerate() {
        remote.mount.limit_space(bytes, Errno::EDQUOT, when);
        let outcome = remote.home.ood_ca("init");
        let complained = remote.mount.faults_served() > 0;
        remote.mount.heal();
        if outcome.status.success() {
            assert!(
                !complained,
                "a write was lost and nobody said so: {outcome}"
            );
            assert_sound(&remote.pki_at_server());
            assert!(failed >= 4, "only {failed} quotas were too small");
            return;
        }
        outcome.assert_refused(1, "uota exceeded");
        assert_nothing_made(&remote.at_server());
    }
    panic!("init writes more than 40 000 bytes");
}

#[test]
fn init_over_quota_says_so_and_leaves_nothing_half_made() {
    init_within_a_quota(WhenFull::Write);
}

#[test]
fn init_over_a_quota_that_shows_only_at_the_close_says_so_too() {
    init_within_a_quota(WhenFull::Close);
}

/// Runs a command with more and more quota until nothing is lost.
fn within_a_quota(when: WhenFull, command: &str) {
    let remote = Remote::with_authority();
    let mut failed = 0;
    for bytes in (0..20_000).step_by(200) {
        let before = remote.state();
        remote.mount.limit_space(bytes, Errno::EDQUOT, when);
        let outcome = remote.home.ood_ca(command);
        let complained = remote.mount.faults_served() > 0;
        remote.mount.heal();
        let after = assert_sound(&remote.pki_at_server());
        if outcome.status.success() {
            if complained {
                // Only the record may be missing, and that is said.
                outcome.assert_warned("record");
                continue;
            }
            assert!(failed > 0, "no quota was too small");
            return;
        }
        outcome.assert_refused(1, "uota exceeded");
        assert_eq!(after, before);
        failed += 1;
    }
    panic!("{command} writes more than 20 000 bytes");
}

#[test]
fn renew_over_quota_leaves_the_old_leaf() {
    within_a_quota(WhenFull::Write, "renew --force");
    within_a_quota(WhenFull::Close, "renew --force");
}

#[test]
fn prepare_over_quota_changes_no_trust() {
    within_a_quota(WhenFull::Write, "rotate --prepare");
    within_a_quota(WhenFull::Close, "rotate --prepare");
}

#[test]
fn a_job_leaf_lost_by_a_quota_is_an_error_and_not_an_empty_file() {
    for when in [WhenFull::Write, WhenFull::Close] {
        let home = Home::of_somebody();
        home.ood_ca("init").assert_ok();
        let remote = Remote::new();
        fs::create_dir(remote.at_server().join("job")).unwrap();
        std::os::unix::fs::chown(remote.at_server().join("job"), Some(home.uid()), None).unwrap();
        fs::set_permissions(remote.at_server(), fs::Permissions::from_mode(0o755)).unwrap();
        let out = remote.home.join("job");
        let line = format!("issue --host n001 --out {}", out.display());
        let mut failed = 0;
        for bytes in (0..4000).step_by(100) {
            remote.mount.limit_space(bytes, Errno::EDQUOT, when);
            let outcome = home.ood_ca(&line);
            let complained = remote.mount.faults_served() > 0;
            remote.mount.heal();
            let there = remote.at_server().join("job");
            if outcome.status.success() {
                assert!(!complained, "bytes were lost and nobody said so: {outcome}");
                assert_leaf_in(&there, &home.pki());
                break;
            }
            outcome.assert_refused(1, "uota exceeded");
            assert_eq!(
                fs::read_dir(&there).unwrap().count(),
                0,
                "half a leaf is left"
            );
            failed += 1;
        }
        assert!(failed >= 2, "only {failed} quotas were too small");
    }
}

#[test]
fn an_unwritable_record_does_not_keep_a_job_from_its_leaf() {
    let remote = Remote::with_authority();
    let out = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(out.path(), Some(remote.home.uid()), None).unwrap();
    let line = format!("issue --host n001 --out {}", out.path().display());
    for errno in [
        Errno::EDQUOT,
        Errno::ENOSPC,
        Errno::EIO,
        Errno::EROFS,
        Errno::EACCES,
    ] {
        remote.mount.fail(Op::Create, ".tmp-", errno, FOREVER);
        remote.home.ood_ca(&line).assert_warned("record");
        assert!(remote.mount.faults_served() > 0);
        remote.mount.heal();
        assert_leaf_in(out.path(), &remote.pki_at_server());
    }
}

// Read-only homes

#[test]
fn a_read_only_home_still_serves_for_reading_and_issuing_elsewhere() {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    let out = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(out.path(), Some(home.uid()), None).unwrap();
    let before = Snapshot::of(home.path());
    {
        let _read_only = ReadOnlyBind::over(home.path());
        home.ood_ca("show").assert_ok();
        home.ood_ca("show --json").assert_ok().json();
        let pki = home.pki();
        let (leaf, key) = (pki.join("client.crt"), pki.join("client.key"));
        home.ood_ca(&format!(
            "verify {} --client --key {}",
            leaf.display(),
            key.display()
        ))
        .assert_ok();
        assert_eq!(home.ood_ca("needs-renewal").code(), Some(1));
        home.ood_ca("init").assert_ok();
        home.ood_ca(&format!("issue --host n001 --out {}", out.path().display()))
            .assert_warned("record");
        assert_leaf_in(out.path(), &pki);
        home.ood_ca("renew --force").assert_refused(1, "ead-only");
        home.ood_ca("rotate --prepare")
            .assert_refused(1, "ead-only");
        home.ood_ca("rotate --emergency")
            .assert_refused(1, "ead-only");
        home.ood_ca("issue --host n001 --out out")
            .assert_refused(1, "ead-only");
    }
    before.assert_unchanged(home.path());
}

#[test]
fn no_authority_can_be_made_in_a_read_only_home() {
    let home = Home::of_somebody();
    let _read_only = ReadOnlyBind::over(home.path());
    home.ood_ca("init").assert_refused(1, "ead-only");
    home.ood_ca("issue --host n001")
        .assert_refused(1, "ead-only");
    assert_nothing_made(home.path());
}

// Root-squash

#[test]
fn root_on_a_squashed_home_is_told_to_be_the_owner() {
    let remote = Remote::with_authority();
    let before = Snapshot::of(&remote.at_server());
    remote.mount.squash_root(true);
    for line in [
        "init", "issue --host n001 --out /nonexistent", "show", "renew --force",
        "rotate --prepare", "doctor",
    ] {
        let outcome = remote
            .home
            .command(line.split_whitespace())
            .as_user(0)
            .within(Path::new("/"))
            .output();
        assert!(
            !outcome.status.success(),
            "root should be refused: {outcome}"
        );
        if line != "doctor" {
            let outcome = outcome.assert_refused(1, "home: Permission denied");
            assert!(
                outcome.stderr.contains("run this as the directory's owner"),
                "{outcome}"
            );
        }
    }
    assert!(remote.mount.faults_served() > 0);
    remote.home.ood_ca("issue --host n001 --out .").assert_ok();
    remote.mount.heal();
    fs::remove_file(remote.at_server().join("server.key")).unwrap();
    let after = Snapshot::of(&remote.at_server());
    let changed = before.changes(&after);
    assert!(
        changed
            .iter()
            .all(|p| !p.ends_with("ca.key") && !p.ends_with("client.crt")),
        "{changed:?}"
    );
}

#[test]
fn root_does_not_use_the_keys_of_others_even_where_it_could() {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    let before = Snapshot::of(home.path());
    for line in [
        "init", "issue --host n001 --out /tmp", "show", "renew --force", "rotate --emergency",
    ] {
        let outcome = home.command(line.split_whitespace()).as_user(0).output();
        let outcome = outcome.assert_refused(1, ".ood");
        assert!(outcome.stderr.contains("root"), "{outcome}");
    }
    before.assert_unchanged(home.path());
}

// ESTALE and stale look-ups

/// What users run most, each of which must bear a file server's hiccup.
const COMMANDS: &[&str] = &[
    "init", "issue --host n001 --out OUT", "show", "renew --force", "needs-renewal",
    "rotate --prepare", "rotate --activate", "rotate --retire --force", "rotate --emergency",
];

#[test]
fn a_stale_handle_is_tried_again() {
    // The kernel tries once itself, so two errors are one that ood-ca sees.
    let files = [
        "ca.key", "ca.crt", "trust.crt", "client.key", "client.crt", "issued", "pki",
    ];
    for (op, names) in [
        (Op::Lookup, &files[..]),
        (Op::Open, &files[..5]),
        (Op::ReadDir, &files[5..]),
    ] {
        let mut met = 0;
        for name in names {
            let remote = Remote::with_authority();
            let out = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(out.path(), Some(remote.home.uid()), None).unwrap();
            for line in COMMANDS {
                remote.mount.fail(op, name, Errno::ESTALE, 2);
                let outcome = remote
                    .home
                    .ood_ca(&line.replace("OUT", out.path().to_str().unwrap()));
                let expected = if *line == "needs-renewal" { 1 } else { 0 };
                assert_eq!(
                    outcome.code(),
                    Some(expected),
                    "{op:?} of {name}: {outcome}"
                );
                assert_eq!(
                    outcome
                        .stderr
                        .matches("warning: the certificate is good but")
                        .count(),
                    0,
                    "{outcome}"
                );
                remote.mount.heal();
                met += remote.mount.faults_served();
            }
            assert_sound(&remote.pki_at_server());
        }
        assert!(met >= 10, "only {met} faults of {op:?} were met");
    }
}

#[test]
fn a_stale_handle_of_a_named_file_or_an_output_directory_is_tried_again() {
    let remote = Remote::with_authority();
    let out = remote.home.dir("out");
    let file = |name: &str| out.join(name).display().to_string();
    let issue = format!("issue --host n001 --out {}", out.display());
    remote.home.ood_ca(&issue).assert_ok();
    let (leaf, key, trust) = (file("server.crt"), file("server.key"), file("trust.crt"));
    let verify = format!("verify {leaf} --key {key} --trust {trust}");
    let renew = format!("renew --force {leaf}");
    for (line, op, name) in [
        (&issue, Op::Lookup, "out"),
        (&issue, Op::Create, "server"),
        (&issue, Op::Rename, "server"),
        (&verify, Op::Open, "server.crt"),
        (&verify, Op::Open, "server.key"),
        (&verify, Op::Open, "trust.crt"),
        (&renew, Op::Open, "server.crt"),
        (&renew, Op::Rename, "server"),
    ] {
        // Twice as ood-ca sees it: the kernel tries once itself.
        remote.mount.fail(op, name, Errno::ESTALE, 4);
        let outcome = remote.home.ood_ca(line);
        assert_eq!(outcome.code(), Some(0), "{op:?} of {name}: {outcome}");
        assert_eq!(remote.mount.faults_served(), 4, "{op:?} of {name}");
        remote.mount.heal();
        assert_pair(Path::new(&key), Path::new(&leaf));
        assert_leaves_verify(Path::new(&trust), LeafKind::Server, &[&leaf]);
    }
}

#[test]
fn a_stale_handle_at_a_change_is_tried_again_or_leaves_the_old_state() {
    for op in [Op::Create, Op::Rename, Op::Sync, Op::SyncDir, Op::Write] {
        let remote = Remote::with_authority();
        let out = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(out.path(), Some(remote.home.uid()), None).unwrap();
        let mut met = 0;
        for line in COMMANDS {
            let line = line.replace("OUT", out.path().to_str().unwrap());
            remote.mount.fail(op, "", Errno::ESTALE, 2);
            let outcome = remote.home.ood_ca(&line);
            remote.mount.heal();
            let faults = remote.mount.faults_served();
            met += faults;
            let expected = if line == "needs-renewal" { 1 } else { 0 };
            assert_eq!(outcome.code(), Some(expected), "{op:?}: {outcome}");
            assert_sound(&remote.pki_at_server());
        }
        assert!(met > 0, "no fault of {op:?} was met");
    }
}

#[test]
fn the_first_creation_bears_stale_handles() {
    for (op, name) in [
        (Op::Lookup, ".ood"),
        (Op::Lookup, "pki"),
        (Op::MakeDir, ""),
        (Op::Create, ""),
        (Op::Rename, ".tmp-"),
        (Op::Rename, ".pki.tmp-"),
        (Op::SyncDir, ""),
    ] {
        let remote = Remote::new();
        remote.mount.fail(op, name, Errno::ESTALE, 2);
        remote.home.ood_ca("init").assert_ok();
        assert!(remote.mount.faults_served() > 0, "{op:?} {name}");
        assert_sound(&remote.pki_at_server());
        let beside = fs::read_dir(remote.at_server().join(".ood"))
            .unwrap()
            .count();
        assert_eq!(beside, 1, "{op:?} of {name} left something half-made");
    }
}

#[test]
fn a_handle_that_stays_stale_is_a_clear_error_in_bounded_time() {
    let remote = Remote::with_authority();
    let before = Snapshot::of(&remote.at_server());
    for line in [
        "show", "renew --force", "issue --host n001", "rotate --prepare",
    ] {
        remote
            .mount
            .fail(Op::Open, "trust.crt", Errno::ESTALE, FOREVER);
        let outcome = remote
            .home
            .command(line.split_whitespace())
            .limit(Duration::from_secs(60))
            .output();
        remote.mount.heal();
        outcome.assert_refused(1, "tale");
        assert!(remote.mount.faults_served() > 2, "{line} did not try again");
    }
    before.assert_unchanged(&remote.at_server());
}

/// Commands on this host while the other changes the directory at the server.
struct OtherHost<'a>(&'a Remote);

impl OtherHost<'_> {
    fn runs(&self, line: &str) {
        let other = FaultyMount::over(self.0.backing.path());
        self.0
            .home
            .seen_at(&other.join("home"))
            .ood_ca(line)
            .assert_ok();
    }
}

#[test]
fn an_authority_that_another_host_just_made_is_found_though_look_ups_are_stale() {
    for stale in [1, 2, 4, 8] {
        let remote = Remote::new();
        remote
            .home
            .ood_ca("show")
            .assert_refused(1, "no certificate authority");
        OtherHost(&remote).runs("init");
        let made = remote.state();
        remote.mount.serve_stale_lookups(stale);
        remote
            .home
            .ood_ca("issue --host n001 --out job")
            .assert_ok();
        assert!(remote.mount.faults_served() > 0, "no stale look-up was met");
        assert_eq!(remote.state(), made, "a second authority was made");
        assert_leaf_in(&remote.at_server().join("job"), &remote.pki_at_server());
        assert_eq!(
            fs::read_dir(remote.at_server().join(".ood"))
                .unwrap()
                .count(),
            1
        );
    }
}

#[test]
fn a_rotation_by_another_host_is_seen_late_but_never_half() {
    let steps = [
        "rotate --prepare", "rotate --activate", "rotate --retire --force", "renew --force",
        "rotate --emergency",
    ];
    for stale in [1, 2, 3, 5, 8] {
        let remote = Remote::with_authority();
        let here = &remote.home;
        for (number, step) in steps.iter().enumerate() {
            // This host remembers every file as it is now.
            here.ood_ca("show").assert_ok();
            OtherHost(&remote).runs(step);
            remote.mount.serve_stale_lookups(stale);
            let out = format!("job-{number}");
            here.ood_ca(&format!("issue --host n001 --out {out}"))
                .assert_ok();
            let out = remote.at_server().join(out);
            assert_pair(&out.join("server.key"), &out.join("server.crt"));
            assert_leaves_verify(
                &out.join("trust.crt"),
                LeafKind::Server,
                &[out.join("server.crt")],
            );
            remote.mount.serve_stale_lookups(stale);
            here.ood_ca("renew --force").assert_ok();
            remote.mount.heal();
            assert_sound(&remote.pki_at_server());
        }
        assert!(remote.mount.faults_served() > 0, "no stale look-up was met");
    }
}

#[test]
fn steps_taken_by_turns_on_two_hosts_make_one_rotation() {
    let remote = Remote::with_authority();
    let before = remote.state();
    let other = FaultyMount::over(remote.backing.path());
    let there = remote.home.seen_at(&other.join("home"));
    for (number, step) in [
        "rotate --prepare", "rotate --activate", "rotate --retire --force",
    ]
    .iter()
    .enumerate()
    {
        let (first, second) = if number % 2 == 0 {
            (&remote.home, &there)
        } else {
            (&there, &remote.home)
        };
        first.ood_ca("show").assert_ok();
        second.ood_ca("show").assert_ok();
        first.ood_ca(step).assert_ok();
        remote.mount.serve_stale_lookups(4);
        other.serve_stale_lookups(4);
        // Taken again by a host that has not noticed yet.
        second.ood_ca(step).assert_ok();
        remote.mount.heal();
        other.heal();
        assert_sound(&remote.pki_at_server());
    }
    let after = remote.state();
    assert_ne!(after.signer, before.signer);
    assert!(after.trusts_only_signer(), "{after:?}");
}

// Disks that fail

#[test]
fn init_fails_when_the_disk_does_not_confirm_it() {
    for op in [Op::Sync, Op::Write] {
        let remote = Remote::new();
        remote.mount.fail(op, "", Errno::EIO, FOREVER);
        remote
            .home
            .ood_ca("init")
            .assert_failed(1, "nput/output error");
        remote.mount.heal();
        assert!(remote.mount.faults_served() > 0);
        assert_nothing_made(&remote.at_server());
        remote.home.ood_ca("init").assert_ok();
    }
}

#[test]
fn a_change_that_the_disk_does_not_confirm_is_an_error_and_leaves_the_old_state() {
    let remote = Remote::with_authority();
    for line in ["renew --force", "rotate --prepare", "rotate --emergency"] {
        let before = remote.state();
        remote.mount.fail(Op::Sync, "", Errno::EIO, FOREVER);
        remote
            .home
            .ood_ca(line)
            .assert_failed(1, "nput/output error");
        remote.mount.heal();
        assert!(remote.mount.faults_served() > 0);
        assert_eq!(assert_sound(&remote.pki_at_server()), before);
        assert_eq!(leftovers(&remote.at_server()), Vec::<PathBuf>::new());
    }
}

#[test]
fn every_single_sync_that_fails_leaves_the_old_or_the_new_state() {
    let steps: &[(&[&str], &str)] = &[
        (&[], "renew --force"),
        (&[], "rotate --prepare"),
        (&["rotate --prepare"], "rotate --activate"),
        (
            &["rotate --prepare", "rotate --activate"],
            "rotate --retire",
        ),
        (&[], "rotate --emergency"),
    ];
    for (prepare, line) in steps {
        for op in [Op::Sync, Op::SyncDir] {
            for after in 0.. {
                let remote = Remote::with_authority();
                prepare
                    .iter()
                    .for_each(|step| drop(remote.home.ood_ca(step).assert_ok()));
                let _setup = remote.mount.faults_served();
                remote.mount.fail_after(after, op, "", Errno::EIO, 1);
                let outcome = remote.home.ood_ca(line);
                remote.mount.heal();
                if remote.mount.faults_served() == 0 {
                    outcome.assert_ok();
                    break;
                }
                if op == Op::Sync {
                    outcome.assert_failed(1, "nput/output error");
                }
                // A consistent state (`State::of` refuses others), and one that
                // the same step can be taken from.
                drop(State::of(&remote.pki_at_server()));
                remote.home.ood_ca(line).assert_ok();
                assert_sound(&remote.pki_at_server());
                assert!(after < 40, "{line} never ends");
            }
        }
    }
}

// Power failures: what must not be lost is on disk before it is relied on

/// Files whose loss hurts.
const PRECIOUS: &[&str] = &["ca.key", "ca.crt", "trust.crt", "client.key", "client.crt"];

fn is_precious(name: &str) -> bool {
    PRECIOUS.contains(&name) || own_file(name, ".key").or(own_file(name, ".crt")).is_some()
}

/// Checks that each precious file was synced before it got its name, and that
/// the directory was synced after the last such change.
fn assert_synced_in_order(events: &[Event], line: &str) {
    let good: Vec<&Event> = events.iter().filter(|e| e.answer == 0).collect();
    let named = |e: &Event| {
        matches!(e.op, Op::Rename | Op::Link) && e.target.as_deref().is_some_and(is_precious)
    };
    let mut seen = 0;
    for (at, event) in good.iter().enumerate().filter(|(_, e)| named(e)) {
        seen += 1;
        let before = &good[..at];
        let target = event.target.as_deref().unwrap_or_default();
        // A rename of one precious name onto another carries no new bytes.
        if !is_precious(&event.name) {
            let synced = before
                .iter()
                .rposition(|e| e.op == Op::Sync && e.name == event.name);
            let written = before
                .iter()
                .rposition(|e| e.op == Op::Write && e.name == event.name);
            assert!(
                written.is_some(),
                "{line}: {target} got its name before its bytes"
            );
            assert!(
                synced > written,
                "{line}: {target} got its name before its bytes were on disk"
            );
        }
        let settled = good[at..].iter().any(|e| e.op == Op::SyncDir);
        assert!(
            settled,
            "{line}: the directory was not synced after {target} changed"
        );
    }
    assert!(seen > 0, "{line} should have changed something");
}

#[test]
fn what_must_survive_a_power_failure_is_on_disk_before_it_is_relied_on() {
    let remote = Remote::new();
    for line in [
        "init", "renew --force", "rotate --prepare", "rotate --activate",
        "rotate --retire --force", "rotate --emergency",
    ] {
        drop(remote.mount.take_events());
        remote.home.ood_ca(line).assert_ok();
        assert_synced_in_order(&remote.mount.take_events(), line);
    }
}

#[test]
fn a_new_directory_is_on_disk_with_all_its_files_before_it_gets_its_name() {
    let remote = Remote::new();
    remote.home.ood_ca("init").assert_ok();
    let events = remote.mount.take_events();
    let placed = events
        .iter()
        .position(|e| e.op == Op::Rename && e.target.as_deref() == Some("pki"));
    let placed = placed.expect("the directory is renamed into place");
    let aside = &events[placed].name;
    let synced = events[..placed]
        .iter()
        .rposition(|e| e.op == Op::SyncDir && e.name == *aside);
    let last_name = events[..placed].iter().rposition(|e| {
        matches!(e.op, Op::Rename | Op::Link) && e.target.as_deref().is_some_and(is_precious)
    });
    assert!(
        synced > last_name,
        "the half-made directory is synced after its last file"
    );
    let after: Vec<&str> = events[placed..]
        .iter()
        .filter(|e| e.op == Op::SyncDir)
        .map(|e| e.name.as_str())
        .collect();
    assert!(
        after.contains(&".ood"),
        "the directory above is synced after the rename, not {after:?}"
    );
}

#[test]
fn the_new_home_of_a_new_directory_is_on_disk_too() {
    let remote = Remote::new();
    remote.home.ood_ca("init").assert_ok();
    let events = remote.mount.take_events();
    let made = events
        .iter()
        .position(|e| e.op == Op::MakeDir && e.name == ".ood")
        .unwrap();
    let synced = events[made..]
        .iter()
        .any(|e| e.op == Op::SyncDir && e.name == "home");
    assert!(
        synced,
        "a power failure after init would lose .ood: its entry in the home was never synced"
    );
}

// A server that hangs

#[test]
fn a_process_killed_while_the_server_hangs_leaves_the_old_state() {
    for (op, line) in [
        (Op::Sync, "renew --force"),
        (Op::Rename, "rotate --prepare"),
        (Op::Create, "rotate --emergency"),
    ] {
        let remote = Remote::with_authority();
        let before = remote.state();
        remote.mount.hang(op, "");
        let mut running = remote.home.command(line.split_whitespace()).start();
        eventually(
            "the command waits for the server",
            Duration::from_secs(60),
            || (remote.mount.hanging() > 0).then_some(()),
        );
        running.kill();
        // What the server has in hand it may still do.
        remote.mount.heal();
        assert!(running.wait().was_killed());
        let after = assert_sound(&remote.pki_at_server());
        assert!(after.has_authority_of(&before), "{line}");
        remote.home.ood_ca(line).assert_ok();
        assert_sound(&remote.pki_at_server());
    }
}
