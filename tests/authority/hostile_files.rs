//! What others, accidents or a wrong clock can put in a directory, and that it
//! is refused with the file's name and a way out, changing nothing.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ca_core::{
    Authority, Certificate, HostName, LeafRequest, PeerName, PkiLocation, Purpose, SiteConfig,
    UserName,
};
use ood_ca_tests::{
    Home, LeafKind, Outcome, Run, Snapshot, State, assert_leaves_verify, assert_pair, require_tool,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

/// A refusal, too, takes no longer than this: nothing may hang.
const SOON: Duration = Duration::from_secs(60);

/// What can be wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    WrongOwner,
    Mode(u32),
    LinkToFile,
    LinkToNothing,
    Fifo,
    Socket,
    Device,
    Directory,
    Huge,
    Empty,
    Garbage,
    NotText,
    Missing,
}

const TRAPS: &[Trap] = &[
    Trap::WrongOwner,
    Trap::Mode(0o666),
    Trap::Mode(0o664),
    Trap::LinkToFile,
    Trap::LinkToNothing,
    Trap::Fifo,
    Trap::Socket,
    Trap::Device,
    Trap::Directory,
    Trap::Huge,
    Trap::Empty,
    Trap::Garbage,
    Trap::NotText,
    Trap::Missing,
];

/// Those that replace a file's bytes and leave it a safe file otherwise.
fn is_damage(trap: Trap) -> bool {
    matches!(
        trap,
        Trap::Empty | Trap::Garbage | Trap::NotText | Trap::Missing
    )
}

/// Puts a trap in place of a file. Links lead to the file itself, moved away:
/// following one would seem to work.
fn lay(trap: Trap, path: &Path, elsewhere: &Path) {
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    let mode = fs::metadata(path).unwrap().permissions();
    let overwrite = |bytes: &[u8]| fs::write(path, bytes).unwrap();
    let special = |kind: FileType, device| {
        fs::remove_file(path).unwrap();
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
    };
    match trap {
        Trap::WrongOwner => chown(path, Some(Home::spare_uid()), None).unwrap(),
        Trap::Mode(mode) => fs::set_permissions(path, Permissions::from_mode(mode)).unwrap(),
        Trap::LinkToFile => {
            let moved = elsewhere.join("moved");
            fs::copy(path, &moved).unwrap();
            fs::set_permissions(&moved, mode).unwrap();
            chown(&moved, Some(owner), Some(owner)).unwrap();
            fs::remove_file(path).unwrap();
            symlink(moved, path).unwrap();
        }
        Trap::LinkToNothing => {
            fs::remove_file(path).unwrap();
            symlink(elsewhere.join("nothing"), path).unwrap();
        }
        Trap::Fifo => special(FileType::Fifo, 0),
        Trap::Socket => {
            fs::remove_file(path).unwrap();
            drop(UnixListener::bind(path).unwrap());
            chown(path, Some(owner), Some(owner)).unwrap();
        }
        // Never ends when it is read.
        Trap::Device => special(FileType::CharacterDevice, makedev(1, 5)),
        Trap::Directory => {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            chown(path, Some(owner), Some(owner)).unwrap();
        }
        Trap::Huge => File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(1 << 32)
            .unwrap(),
        Trap::Empty => overwrite(b""),
        Trap::Garbage => overwrite(
            "-----BEGIN CERTIFICATE-----\nnot base64!\n"
                .repeat(9)
                .as_bytes(),
        ),
        Trap::NotText => overwrite(&[
            0xff, 0xfe, 0x00, 0x80, b'\n', 0x1b, b'[', b'2', b'J', 0xc3, 0x28,
        ]),
        Trap::Missing => fs::remove_file(path).unwrap(),
    }
}

fn with_authority() -> Home {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    home.dir("out");
    home
}

fn run(home: &Home, line: &str) -> Outcome {
    home.command(line.split_whitespace()).limit(SOON).output()
}

/// Names and everything about them, but for the bytes of a huge file.
fn everything(home: &Home, trap: Trap) -> Option<Snapshot> {
    (trap != Trap::Huge).then(|| Snapshot::of(home.path()))
}

/// Lays each trap in place of a file and expects each command to refuse it.
fn refuse_each_trap(file: &str, traps: &[Trap], commands: &[(&str, i32)]) {
    for trap in traps {
        let home = with_authority();
        let path = home.pki().join(file);
        lay(*trap, &path, &home.dir("elsewhere"));
        let before = everything(&home, *trap);
        for (line, code) in commands {
            let outcome = run(&home, line);
            assert_eq!(outcome.code(), Some(*code), "{file} {trap:?}: {outcome}");
            let outcome = outcome.assert_refused(*code, file);
            let control = |c: char| c.is_control() && c != '\n';
            assert!(
                !outcome.stderr.contains(control),
                "{file} {trap:?} reached the terminal: {outcome}"
            );
            assert!(
                !outcome.stderr.contains("BEGIN"),
                "{file} {trap:?}: {outcome}"
            );
        }
        if let Some(before) = before {
            before.assert_unchanged(home.path());
        }
    }
}

const ISSUE: &str = "issue --host n001 --out out";

#[test]
fn a_hostile_key_of_the_authority_is_refused() {
    let commands = [
        (ISSUE, 1),
        ("init", 1),
        ("renew --force", 1),
        ("rotate --prepare", 1),
    ];
    refuse_each_trap("ca.key", TRAPS, &commands);
    let closed = [
        Trap::Mode(0o640),
        Trap::Mode(0o604),
        Trap::Mode(0o644),
        Trap::Mode(0o620),
    ];
    refuse_each_trap("ca.key", &closed, &commands);
}

#[test]
fn a_hint_can_be_pasted_whatever_the_path_is() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let home = Home::at(
        &place.path().join("it's $(touch pwned); :"),
        Home::spare_uid(),
    );
    home.ood_ca("init").assert_ok();
    let key = home.pki().join("ca.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let refused = home.ood_ca("show --json");
    assert_eq!(refused.code(), Some(1), "{refused}");
    let error = &refused.json()["error"];
    let command = error["hint"].as_str().unwrap();
    assert!(command.starts_with("chmod "), "{command}");
    let shell = Run::new("/bin/sh").args(["-c", command]);
    shell.within(home.path()).output().assert_ok();
    home.ood_ca("show").assert_ok();
    assert!(!home.join("pwned").exists());
}

#[test]
fn a_hostile_certificate_of_the_authority_is_refused() {
    refuse_each_trap(
        "ca.crt",
        TRAPS,
        &[
            (ISSUE, 1),
            ("init", 1),
            ("show", 1),
            ("rotate --prepare", 1),
        ],
    );
}

#[test]
fn a_hostile_trust_bundle_is_refused() {
    let commands = [(ISSUE, 1), ("init", 1), ("show", 1), ("needs-renewal", 255)];
    refuse_each_trap("trust.crt", TRAPS, &commands);
}

#[test]
fn a_hostile_client_key_is_refused() {
    let (damage, traps): (Vec<_>, Vec<_>) = TRAPS.iter().copied().partition(|t| is_damage(*t));
    let commands = [("renew --force", 1), ("needs-renewal", 255)];
    refuse_each_trap("client.key", &traps, &commands);
    refuse_each_trap(
        "client.key",
        &[Trap::Mode(0o640), Trap::Mode(0o604)],
        &commands,
    );
    let damage: Vec<_> = damage.into_iter().filter(|t| *t != Trap::Missing).collect();
    refuse_each_trap("client.key", &damage, &commands);
}

#[test]
fn a_hostile_client_certificate_is_refused() {
    let traps: Vec<_> = TRAPS.iter().copied().filter(|t| !is_damage(*t)).collect();
    refuse_each_trap(
        "client.crt",
        &traps,
        &[("renew --force", 1), ("needs-renewal", 255)],
    );
}

#[test]
fn a_damaged_client_certificate_is_made_again_for_the_same_key() {
    for trap in TRAPS.iter().copied().filter(|t| is_damage(*t)) {
        let home = with_authority();
        let before = State::of(&home.pki());
        lay(trap, &home.pki().join("client.crt"), home.path());
        assert_eq!(run(&home, "needs-renewal").code(), Some(0), "{trap:?}");
        run(&home, "renew").assert_ok();
        let after = State::of(&home.pki());
        assert!(after.client_matches && after.client_trusted && after.has_client_key_of(&before));
    }
}

#[test]
fn a_missing_client_key_is_replaced_with_its_certificate() {
    let home = with_authority();
    fs::remove_file(home.pki().join("client.key")).unwrap();
    run(&home, "renew").assert_ok();
    assert_pair(
        &home.pki().join("client.key"),
        &home.pki().join("client.crt"),
    );
}

#[test]
fn a_leaf_is_not_written_through_what_lies_at_its_name() {
    for trap in TRAPS.iter().copied().filter(|t| *t != Trap::Missing) {
        let home = with_authority();
        let out = home.join("out");
        run(&home, ISSUE).assert_ok();
        let target = home.dir("elsewhere");
        lay(trap, &out.join("server.key"), &target);
        let outside = Snapshot::of(&target);
        let before = (trap != Trap::Huge).then(|| Snapshot::of(&out));
        let outcome = run(&home, ISSUE);
        if is_damage(trap) {
            // Replaced, not written to: it is a plain private file again.
            outcome.assert_ok();
            let meta = fs::symlink_metadata(out.join("server.key")).unwrap();
            assert!(meta.is_file(), "{trap:?}");
            assert_eq!(meta.permissions().mode() & 0o7777, 0o600, "{trap:?}");
            assert_pair(&out.join("server.key"), &out.join("server.crt"));
        } else {
            outcome.assert_refused(1, "server.key");
            if let Some(before) = before {
                assert_eq!(
                    before.changes(&Snapshot::of(&out)),
                    Vec::<PathBuf>::new(),
                    "{trap:?}"
                );
            }
        }
        outside.assert_unchanged(&target);
    }
}

// The record and the web hosts

#[test]
fn hostile_files_in_the_record_are_reported_and_harm_nothing() {
    for trap in TRAPS.iter().copied().filter(|t| *t != Trap::Missing) {
        let home = with_authority();
        run(&home, ISSUE).assert_ok();
        let entry = fs::read_dir(home.pki().join("issued"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let name = entry.file_name().into_string().unwrap();
        lay(trap, &entry.path(), &home.dir("elsewhere"));
        let shown = run(&home, "show --json").assert_ok().json();
        assert_eq!(shown["unreadable"][0], name.as_str(), "{trap:?}");
        run(&home, ISSUE).assert_ok();
        run(&home, "renew").assert_ok();
        run(&home, "rotate --prepare").assert_ok();
        run(&home, "rotate --activate").assert_ok();
    }
}

#[test]
fn a_hostile_record_of_a_web_host_is_refused() {
    for trap in TRAPS.iter().copied().filter(|t| !is_damage(*t)) {
        let home = with_authority();
        run(&home, "rotate --prepare").assert_ok();
        let record = home.pki().join("webhosts/web01");
        fs::write(&record, "").unwrap();
        fs::set_permissions(&record, Permissions::from_mode(0o600)).unwrap();
        chown(&record, Some(home.uid()), Some(home.uid())).unwrap();
        lay(trap, &record, &home.dir("elsewhere"));
        let before = everything(&home, trap);
        run(&home, "rotate --activate").assert_refused(1, "web01");
        if let Some(before) = before {
            before.assert_unchanged(home.path());
        }
    }
}

#[test]
fn a_web_host_with_a_damaged_record_counts_as_not_knowing_the_new_authority() {
    let damages: [&[u8]; 4] = [
        b"",
        b"no fingerprint\n",
        &[0xff, 0xfe, b'\n', 0x80],
        &[b'0'; 64],
    ];
    for damage in damages {
        let home = with_authority();
        run(&home, "rotate --prepare").assert_ok();
        let record = home.pki().join("webhosts/web01");
        fs::write(&record, damage).unwrap();
        fs::set_permissions(&record, Permissions::from_mode(0o600)).unwrap();
        chown(&record, Some(home.uid()), Some(home.uid())).unwrap();
        let before = Snapshot::of(home.path());
        run(&home, "rotate --activate").assert_refused(1, "web01");
        before.assert_unchanged(home.path());
        run(&home, "rotate --activate --force").assert_ok();
    }
}

// Directories

/// What can be wrong with a directory.
#[derive(Clone, Copy, Debug)]
enum DirTrap {
    WrongOwner,
    Mode(u32),
    LinkToDir,
    LinkToEtc,
    LinkToNothing,
    Fifo,
    File,
}

const DIR_TRAPS: &[DirTrap] = &[
    DirTrap::WrongOwner,
    DirTrap::Mode(0o770),
    DirTrap::Mode(0o720),
    DirTrap::Mode(0o702),
    DirTrap::Mode(0o1777),
    DirTrap::LinkToDir,
    DirTrap::LinkToEtc,
    DirTrap::LinkToNothing,
    DirTrap::Fifo,
    DirTrap::File,
];

fn lay_dir(trap: DirTrap, path: &Path, elsewhere: &Path) {
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    let away = elsewhere.join("moved");
    let move_away = || fs::rename(path, &away).unwrap();
    match trap {
        DirTrap::WrongOwner => {
            // Open to reading: it is the owner that must be objected to.
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
            chown(path, Some(Home::spare_uid()), None).unwrap();
        }
        DirTrap::Mode(mode) => fs::set_permissions(path, Permissions::from_mode(mode)).unwrap(),
        DirTrap::LinkToDir => {
            move_away();
            symlink(&away, path).unwrap();
        }
        DirTrap::LinkToEtc => {
            move_away();
            symlink("/etc", path).unwrap();
        }
        DirTrap::LinkToNothing => {
            move_away();
            symlink(elsewhere.join("nothing"), path).unwrap();
        }
        DirTrap::Fifo => {
            move_away();
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            chown(path, Some(owner), Some(owner)).unwrap();
        }
        DirTrap::File => {
            move_away();
            fs::write(path, "").unwrap();
            chown(path, Some(owner), Some(owner)).unwrap();
        }
    }
}

fn refuse_each_dir_trap(dir: &str, commands: &[&str]) {
    for trap in DIR_TRAPS {
        let home = with_authority();
        lay_dir(*trap, &home.join(dir), &home.dir("elsewhere"));
        let before = Snapshot::of(home.path());
        for line in commands {
            let name = dir.rsplit('/').next().unwrap();
            let outcome = run(&home, line);
            assert_eq!(outcome.code(), Some(1), "{dir} {trap:?}: {outcome}");
            outcome.assert_refused(1, name);
        }
        before.assert_unchanged(home.path());
    }
}

#[test]
fn a_hostile_directory_above_the_keys_is_refused() {
    refuse_each_dir_trap(
        ".ood",
        &["init", ISSUE, "show", "renew --force", "rotate --emergency"],
    );
}

#[test]
fn a_hostile_directory_of_keys_is_refused() {
    refuse_each_dir_trap(
        ".ood/pki",
        &["init", ISSUE, "show", "renew --force", "rotate --emergency"],
    );
}

#[test]
fn a_hostile_directory_of_the_record_is_refused_before_a_leaf_is_made() {
    refuse_each_dir_trap(".ood/pki/issued", &[ISSUE, "show"]);
}

#[test]
fn a_hostile_directory_of_web_hosts_is_refused() {
    refuse_each_dir_trap(".ood/pki/webhosts", &["show"]);
}

#[test]
fn root_is_not_led_to_etc_either() {
    let home = Home::new();
    symlink("/etc", home.join(".ood")).unwrap();
    for line in ["init", "issue --host n001", "rotate --emergency"] {
        run(&home, line).assert_refused(1, ".ood");
    }
    assert!(!Path::new("/etc/pki/ca.key").exists());
}

#[test]
fn an_access_list_that_lets_others_in_is_refused_and_named() {
    let setfacl = require_tool("setfacl");
    let grant = |rights: &str, path: &Path| {
        let entry = format!("u:{}:{rights}", Home::spare_uid());
        Run::new(&setfacl)
            .args(["-m", &entry])
            .args([path])
            .output()
            .assert_ok();
    };
    for dir in [".ood", ".ood/pki"] {
        let home = with_authority();
        grant("rwx", &home.join(dir));
        let outcome = run(&home, ISSUE).assert_refused(1, dir.rsplit('/').next().unwrap());
        assert!(
            outcome.stderr.contains("ACL"),
            "the hint should tell of access lists: {outcome}"
        );
    }
    let home = with_authority();
    grant("r", &home.pki().join("ca.key"));
    run(&home, ISSUE).assert_refused(1, "ca.key");
}

#[test]
fn an_inherited_access_list_opens_no_key_to_others() {
    let setfacl = require_tool("setfacl");
    let home = Home::of_somebody();
    let other = Home::spare_uid();
    let entries = format!("d:u:{other}:rwx,u:{other}:rwx");
    Run::new(&setfacl)
        .args(["-m", &entries])
        .args([home.path()])
        .output()
        .assert_ok();
    run(&home, "issue --host n001 --out job").assert_ok();
    let reachable = Run::new(require_tool("find"))
        .args([home.path()])
        .args(["-type", "f", "-readable"])
        .as_user(other)
        .within(Path::new("/"))
        .output();
    assert!(!reachable.stdout.contains("key"), "{reachable}");
    let key = Run::new("cat")
        .args([home.join("job/server.key")])
        .as_user(other)
        .within(Path::new("/"))
        .output();
    assert!(!key.status.success());
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    for umask in ["000", "002", "022", "027", "077"] {
        let home = Home::of_somebody();
        let script = format!("umask {umask}; \"$0\" issue --host n001 --out job");
        home.run("sh")
            .args(["-c", &script])
            .args([home.program()])
            .output()
            .assert_ok();
        let mode =
            |path: PathBuf| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        for dir in [
            ".ood", ".ood/pki", ".ood/pki/issued", ".ood/pki/webhosts", "job",
        ] {
            assert_eq!(mode(home.join(dir)), 0o700, "umask {umask}: {dir}");
        }
        for key in [".ood/pki/ca.key", ".ood/pki/client.key", "job/server.key"] {
            assert_eq!(mode(home.join(key)), 0o600, "umask {umask}: {key}");
        }
        for public in [
            ".ood/pki/ca.crt", ".ood/pki/trust.crt", ".ood/pki/client.crt", "job/server.crt",
        ] {
            assert_eq!(mode(home.join(public)), 0o644, "umask {umask}: {public}");
        }
    }
}

#[test]
fn an_empty_directory_in_place_of_the_authority_is_filled() {
    let home = Home::of_somebody();
    home.dir(".ood");
    home.dir(".ood/pki");
    run(&home, "init").assert_ok();
    drop(State::of(&home.pki()));
}

#[test]
fn a_directory_that_everybody_may_write_to_holds_no_authority() {
    let home = Home::of_somebody();
    let open = home.dir("open");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    run(&home, "init --pki-dir open/pki").assert_refused(1, "open");
    run(&home, "issue --host n001 --out open").assert_refused(1, "open");
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}

#[test]
fn a_leaf_never_takes_the_place_of_the_authority_or_the_client_leaf() {
    let home = with_authority();
    let before = Snapshot::of(&home.pki());
    let pki = home.pki();
    for line in [
        "issue --client --out .ood/pki",
        "issue --host n001 --name ca --out .ood/pki",
        "issue --host n001 --name ca.0123456789abcdef0123456789abcdef --out .ood/pki",
        "issue --host n001 --layout oodproxy --out .ood/pki",
        "issue --host n001 --out .ood/pki",
        "issue --host n001 --out .ood/pki/issued",
    ] {
        run(&home, line).assert_refused(1, "pki");
    }
    for line in ["issue --client", "issue --host n001 --name ca"] {
        let outcome = home
            .command(line.split_whitespace())
            .within(&pki)
            .limit(SOON)
            .output();
        outcome.assert_refused(1, "");
    }
    symlink(&pki, home.join("link")).unwrap();
    run(&home, "issue --client --out link").assert_refused(1, "");
    for line in [
        "renew .ood/pki/ca.crt --force", "renew .ood/pki/trust.crt --force",
    ] {
        run(&home, line).assert_refused(1, "");
    }
    let changed = before.changes(&Snapshot::of(&pki));
    let precious: Vec<_> = changed
        .iter()
        .filter(|p| !p.starts_with("issued"))
        .collect();
    assert!(precious.is_empty(), "{precious:?}");
}

// Races with somebody who may write beside us

/// A directory like /tmp, and somebody else who is there.
struct Sticky {
    dir: tempfile::TempDir,
    attacker: u32,
}

impl Sticky {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        Sticky {
            dir,
            attacker: Home::spare_uid(),
        }
    }

    /// Runs a shell script there as the other user.
    fn attack(&self, script: &str) -> Run {
        Run::new("sh")
            .args(["-c", script])
            .as_user(self.attacker)
            .within(self.dir.path())
            .limit(Duration::from_secs(60))
    }
}

#[test]
fn links_that_another_user_placed_at_the_output_names_are_not_followed() {
    let home = with_authority();
    let precious = home.join("precious");
    fs::write(&precious, "precious").unwrap();
    chown(&precious, Some(home.uid()), None).unwrap();
    for kind in [
        "ln -s {}", "ln -s /nonexistent/x", "ln -s $PWD/seen", "mkdir", "mkfifo", "touch",
        "ln -s $PWD",
    ] {
        let sticky = Sticky::new();
        let kind = kind.replace("{}", precious.to_str().unwrap());
        let script = format!(
            "umask 0; touch seen; for f in server.key server.crt trust.crt; do {kind} $f; done"
        );
        sticky.attack(&script).output().assert_ok();
        let before = Snapshot::of(sticky.dir.path());
        let line = format!("issue --host n001 --out {}", sticky.dir.path().display());
        let outcome = run(&home, &line).assert_refused(1, "server.key");
        assert!(!outcome.stdout.contains("issued"), "{outcome}");
        before.assert_unchanged(sticky.dir.path());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }
}

#[test]
fn an_output_directory_of_another_user_is_refused() {
    let home = with_authority();
    for script in [
        "mkdir -m 777 job", "mkdir -m 1777 job", "mkdir -m 777 real; ln -s real job",
    ] {
        let sticky = Sticky::new();
        sticky.attack(script).output().assert_ok();
        let before = Snapshot::of(sticky.dir.path());
        let line = format!(
            "issue --host n001 --out {}",
            sticky.dir.path().join("job").display()
        );
        run(&home, &line).assert_refused(1, "job");
        before.assert_unchanged(sticky.dir.path());
    }
}

#[test]
fn a_link_by_another_user_does_not_lead_a_leaf_into_the_owners_own_directories() {
    let home = with_authority();
    let ours = home.dir("private");
    for target in [home.pki(), ours.clone()] {
        let sticky = Sticky::new();
        sticky
            .attack(&format!("ln -s {} job", target.display()))
            .output()
            .assert_ok();
        let before = Snapshot::of(&target);
        let line = format!(
            "issue --client --out {}",
            sticky.dir.path().join("job").display()
        );
        run(&home, &line).assert_refused(1, "job");
        let changed = before.changes(&Snapshot::of(&target));
        let precious: Vec<_> = changed
            .iter()
            .filter(|p| !p.starts_with("issued"))
            .collect();
        assert!(precious.is_empty(), "{precious:?}");
    }
}

#[test]
fn an_output_directory_that_changes_under_our_hands_leaks_nothing() {
    let home = with_authority();
    let sticky = Sticky::new();
    sticky.attack("umask 0; mkdir theirs").output().assert_ok();
    let _attack = sticky
        .attack(&format!(
            "while :; do ln -s theirs job; ln -sfn {} job; rm job; mkdir -m 777 job; rmdir job; done 2>/dev/null",
            home.pki().display()
        ))
        .start();
    let before = Snapshot::of(&home.pki());
    let job = sticky.dir.path().join("job");
    let line = format!("issue --host n001 --out {}", job.display());
    let started = Instant::now();
    let mut refused = 0;
    while started.elapsed() < Duration::from_secs(3) || (refused == 0 && started.elapsed() < SOON) {
        let outcome = run(&home, &line);
        if outcome.status.success() {
            let meta = fs::symlink_metadata(&job);
            let is_dir = meta.as_ref().is_ok_and(fs::Metadata::is_dir);
            assert!(is_dir, "a leaf was written through a link: {outcome}");
            let meta = meta.unwrap();
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), home.uid());
            assert_eq!(meta.permissions().mode() & 0o7777, 0o700);
            // Ours stays, and nobody could take it away: make room for more.
            fs::remove_dir_all(&job).unwrap();
            continue;
        }
        outcome.assert_failed(1, "job");
        refused += 1;
    }
    assert!(refused > 0, "the other user was never in the way");
    assert_eq!(
        fs::read_dir(sticky.dir.path().join("theirs"))
            .unwrap()
            .count(),
        0
    );
    let changed = before.changes(&Snapshot::of(&home.pki()));
    assert!(
        changed.iter().all(|p| p.starts_with("issued")),
        "{changed:?}"
    );
}

/// Exchanges two paths again and again while `act` runs; `act` is told which
/// outcomes it has seen and stops when it has seen enough.
fn while_exchanging(a: &Path, b: &Path, act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        over.store(true, Ordering::SeqCst);
        swapping.join().unwrap();
        if let Err(failure) = result {
            std::panic::resume_unwind(failure);
        }
    });
}

/// Issues until both a success and a refusal were seen, so that the race was
/// one. `fresh` is where each leaf goes.
fn issue_until_both(home: &Home, named: &str, trust: &Path) {
    let deadline = Instant::now() + SOON;
    let (mut good, mut refused) = (0, 0);
    while good < 5 || refused < 5 {
        assert!(
            Instant::now() < deadline,
            "only {good} successes and {refused} refusals"
        );
        let outcome = run(home, "issue --host n001 --out out");
        if outcome.status.success() {
            good += 1;
            assert_leaves_verify(trust, LeafKind::Server, &[home.join("out/server.crt")]);
            assert_pair(&home.join("out/server.key"), &home.join("out/server.crt"));
        } else {
            refused += 1;
            outcome.assert_refused(1, named);
        }
    }
}

#[test]
fn a_link_swapped_in_for_the_directory_is_never_followed() {
    for dir in [".ood", ".ood/pki"] {
        let home = with_authority();
        let trust = home.join("real-trust.crt");
        fs::copy(home.pki().join("trust.crt"), &trust).unwrap();
        // The other user has a complete authority that the link leads to.
        let attacker = with_authority();
        fs::set_permissions(attacker.path(), Permissions::from_mode(0o755)).unwrap();
        let decoy = home.join("decoy");
        symlink(attacker.join(dir), &decoy).unwrap();
        let before = Snapshot::of(attacker.path());
        while_exchanging(&home.join(dir), &decoy, || {
            issue_until_both(&home, dir, &trust)
        });
        before.assert_unchanged(attacker.path());
    }
}

#[test]
fn a_directory_of_another_user_swapped_in_is_never_used() {
    let home = with_authority();
    let trust = home.join("real-trust.crt");
    fs::copy(home.pki().join("trust.crt"), &trust).unwrap();
    let attacker = with_authority();
    let decoy = home.join("decoy");
    ood_ca_tests::copy_tree(&attacker.join(".ood"), &decoy);
    fs::set_permissions(&decoy, Permissions::from_mode(0o755)).unwrap();
    while_exchanging(&home.join(".ood"), &decoy, || {
        issue_until_both(&home, ".ood", &trust)
    });
}

#[test]
fn a_link_or_a_fifo_swapped_in_for_a_key_is_never_followed() {
    for fifo in [false, true] {
        let home = with_authority();
        let trust = home.join("real-trust.crt");
        fs::copy(home.pki().join("trust.crt"), &trust).unwrap();
        let decoy = home.join("decoy");
        if fifo {
            mknodat(CWD, &decoy, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        } else {
            symlink(home.pki().join("client.key"), &decoy).unwrap();
        }
        let key = home.pki().join("ca.key");
        while_exchanging(&key, &decoy, || issue_until_both(&home, "ca.key", &trust));
    }
}

// Wrong certificates and wrong clocks

#[test]
fn a_key_of_somebody_else_is_refused() {
    let home = with_authority();
    let other = with_authority();
    fs::copy(other.pki().join("ca.key"), home.pki().join("ca.key")).unwrap();
    let before = Snapshot::of(home.path());
    for line in ["init", ISSUE, "show", "renew --force", "rotate --prepare"] {
        run(&home, line).assert_refused(1, "ca.key");
    }
    before.assert_unchanged(home.path());
    run(&home, "rotate --emergency").assert_ok();
    assert!(State::of(&home.pki()).client_matches);
}

#[test]
fn a_leaf_offered_as_an_authority_is_refused() {
    let home = with_authority();
    run(&home, ISSUE).assert_ok();
    let pki = home.pki();
    fs::copy(home.join("out/server.key"), pki.join("ca.key")).unwrap();
    fs::copy(home.join("out/server.crt"), pki.join("ca.crt")).unwrap();
    let before = Snapshot::of(home.path());
    run(&home, ISSUE).assert_refused(1, ".crt");
    before.assert_unchanged(home.path());

    fs::copy(home.join("out/server.crt"), pki.join("trust.crt")).unwrap();
    let before = Snapshot::of(home.path());
    for line in [ISSUE, "init", "show", "rotate --prepare"] {
        run(&home, line).assert_refused(1, "trust.crt is not a certificate authority");
    }
    before.assert_unchanged(home.path());
    run(&home, "rotate --emergency").assert_ok();
}

#[test]
fn an_authority_of_another_make_is_refused() {
    let home = with_authority();
    let pki = home.pki();
    let openssl = require_tool("openssl");
    home.run(openssl)
        .args([
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        ])
        .args([
            "-subj", "/CN=other", "-days", "10", "-keyout", ".ood/pki/ca.key", "-out",
            ".ood/pki/ca.crt",
        ])
        .output()
        .assert_ok();
    fs::copy(pki.join("ca.crt"), pki.join("trust.crt")).unwrap();
    for line in [ISSUE, "init", "show", "rotate --prepare"] {
        run(&home, line).assert_refused(1, ".crt");
    }
}

/// An authority made at another time, in a home of the user who runs the test.
fn made_at(offset: time::Duration) -> (Home, PkiLocation) {
    let home = Home::new();
    let location = PkiLocation::at(home.pki()).unwrap();
    Authority::ensure(&location, &SiteConfig::default(), ca_core::now() + offset).unwrap();
    home.dir("out");
    (home, location)
}

#[test]
fn an_expired_authority_is_refused_shown_and_can_be_replaced() {
    let (home, _) = made_at(-time::Duration::days(10 * 366 + 3));
    let before = Snapshot::of(home.path());
    for line in ["init", ISSUE, "renew", "rotate --prepare"] {
        run(&home, line).assert_refused(1, "expired");
    }
    run(&home, "show").assert_ok();
    assert_eq!(
        run(&home, "show --json").assert_ok().json()["authority"]["expired"],
        true
    );
    before.assert_unchanged(home.path());
    run(&home, "rotate --emergency").assert_ok();
    run(&home, ISSUE).assert_ok();
}

#[test]
fn an_authority_that_is_not_valid_yet_points_at_the_clock() {
    let (home, _) = made_at(time::Duration::days(1));
    let before = Snapshot::of(home.path());
    for line in ["init", ISSUE, "renew --force"] {
        let outcome = run(&home, line).assert_refused(1, "not valid before");
        assert!(outcome.stderr.contains("clock"), "{outcome}");
    }
    before.assert_unchanged(home.path());
}

#[test]
fn a_clock_ten_minutes_off_does_no_harm() {
    for minutes in [-11, -10, 0, 9] {
        let (home, _) = made_at(time::Duration::minutes(minutes));
        run(&home, "init").assert_ok();
        run(&home, ISSUE).assert_ok();
        run(&home, "renew --force").assert_ok();
        assert!(State::of(&home.pki()).client_trusted);
    }
    let (home, _) = made_at(time::Duration::minutes(11));
    run(&home, ISSUE).assert_refused(1, "not valid before");
}

#[test]
fn leaves_are_valid_for_peers_whose_clocks_are_ten_minutes_off() {
    let (_home, location) = made_at(time::Duration::ZERO);
    let now = ca_core::now();
    let authority = Authority::open(&location, &SiteConfig::default(), now).unwrap();
    let host = HostName::parse("n001").unwrap();
    let peer = PeerName::parse("n001").unwrap();
    let server = LeafRequest::server([host]);
    let client = LeafRequest::client(UserName::parse("alice").unwrap());
    let cases = [
        (server, Purpose::Server, Some(&peer)),
        (client, Purpose::Client, None),
    ];
    for (request, purpose, peer) in cases {
        let leaf: Certificate = authority.issue(&request, now).unwrap().certificate;
        let at =
            |offset: time::Duration| authority.trust().verify(&leaf, purpose, peer, now + offset);
        let minute = time::Duration::MINUTE;
        at(-10 * minute + time::Duration::seconds(2)).unwrap();
        at(10 * minute).unwrap();
        assert!(
            at(-11 * minute).is_err(),
            "a leaf is backdated by ten minutes and no more"
        );
        at(time::Duration::days(35) - minute).unwrap();
        assert!(
            at(time::Duration::days(35) + minute).is_err(),
            "a leaf ends after 35 days"
        );
    }
}

#[test]
fn an_authority_made_by_a_host_whose_clock_is_ahead_can_be_used_by_others() {
    let site = SiteConfig::default();
    let now = ca_core::now();
    let minute = time::Duration::MINUTE;
    for ahead in [0, 5, 9] {
        let (_home, location) = made_at(ahead * minute);
        let authority = Authority::open(&location, &site, now).unwrap();
        let leaf = authority
            .issue(
                &LeafRequest::server([HostName::parse("n001").unwrap()]),
                now,
            )
            .unwrap();
        authority
            .trust()
            .verify(&leaf.certificate, Purpose::Server, None, now)
            .unwrap();
    }
    let (_home, location) = made_at(15 * minute);
    let refused = Authority::open(&location, &site, now).unwrap_err();
    assert_eq!(refused.code(), "authority-not-yet-valid");
    assert!(refused.hint().is_some());
}
