//! `kill -9` before every system call that changes the file system.
//!
//! strace first lists these calls, then kills the command before each of them
//! in turn. After each kill the directory must be in the old or the new state,
//! nothing secret may lie about, and the same command, run again, must reach
//! the new state.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use ood_ca_tests::{
    Home, LeafKind, Outcome, Snapshot, State, assert_keys_are_private, assert_leaves_verify,
    assert_pair, copy_tree, leftovers, own_file, require_tool,
};

/// Calls that change a file system, or open a file that may be new. `?`: not on
/// every architecture.
const CHANGES: &str = "openat,?open,?creat,?openat2,write,writev,pwrite64,pwritev,\
    ?mkdir,mkdirat,?mknod,mknodat,?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat,\
    ?unlink,unlinkat,?rmdir,truncate,ftruncate,fallocate,?chmod,fchmod,fchmodat,?fchmodat2,\
    ?chown,fchown,fchownat,?lchown,fsync,fdatasync,sync_file_range,syncfs,sync,copy_file_range,\
    sendfile,utimensat,?futimesat,setxattr,fsetxattr";

/// One system call of a command: the `nth` with this name.
#[derive(Clone, Debug)]
struct Change {
    call: String,
    nth: usize,
}

/// Runs the command under strace, which may kill it.
fn traced(home: &Home, line: &str, log: &Path, kill_at: Option<&Change>) -> Outcome {
    let mut run = home
        .run(require_tool("strace"))
        .args(["-f", "-qq", "-o"])
        .args([log]);
    run = match kill_at {
        None => run.args(["-e", &format!("trace={CHANGES}")]),
        Some(Change { call, nth }) => run.args([
            "-e",
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:signal=SIGKILL:when={nth}"),
        ]),
    };
    run.args([home.program()])
        .args(line.split_whitespace())
        .output()
}

/// The calls of a command that change something, in order.
fn changes_of(before: &Home, line: &str) -> Vec<Change> {
    let home = Home::new();
    copy_home(before, &home);
    let log = tempfile::NamedTempFile::new().unwrap();
    traced(&home, line, log.path(), None).assert_ok();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut changes = Vec::new();
    for entry in fs::read_to_string(log.path()).unwrap().lines() {
        // "1234  renameat2(5, ..." — without -f there is no process id.
        let entry = entry
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start();
        let Some((call, arguments)) = entry.split_once('(') else {
            continue;
        };
        let nth = seen.entry(call.to_owned()).or_default();
        *nth += 1;
        let only_reads = call.starts_with("open") && !arguments.contains("O_CREAT");
        // What it says at the end counts: all is done then, and nothing said.
        if !only_reads {
            changes.push(Change {
                call: call.to_owned(),
                nth: *nth,
            });
        }
    }
    changes
}

/// A command and what it starts from.
struct Crash<'a> {
    /// The home directory that each run gets a copy of.
    before: &'a Home,
    command: &'a str,
    /// Kills that must at least have left different files behind.
    at_least: usize,
}

impl Crash<'_> {
    /// Kills the command before each of its changes and lets `judge` look at
    /// what is left and try again.
    fn everywhere(&self, judge: impl Fn(&Home)) {
        let changes = changes_of(self.before, self.command);
        let mut different = HashSet::new();
        for change in &changes {
            let home = Home::new();
            copy_home(self.before, &home);
            let outcome = traced(&home, self.command, Path::new("/dev/null"), Some(change));
            assert!(outcome.was_killed(), "no kill at {change:?}: {outcome}");
            different.insert(shape(home.path()));
            explain(
                &format!("{} killed before {change:?}", self.command),
                || {
                    assert_keys_are_private(home.path());
                    // Named as documented, and closed to others; that they are
                    // there is no fault.
                    drop(leftovers(home.path()));
                    judge(&home);
                    assert_keys_are_private(home.path());
                },
            );
        }
        assert!(
            different.len() >= self.at_least,
            "only {} of {} kills left something different behind",
            different.len(),
            changes.len()
        );
    }
}

/// Says what was being tried if `look` fails.
fn explain(what: &str, look: impl FnOnce()) {
    if let Err(failure) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)) {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("this failed after: {what}");
        }
        std::panic::resume_unwind(failure);
    }
}

fn copy_home(from: &Home, to: &Home) {
    for name in [".ood", "out"] {
        if from.join(name).exists() {
            copy_tree(&from.join(name), &to.join(name));
        }
    }
}

/// Names, without what is random in them, sizes and modes.
fn shape(dir: &Path) -> Vec<(PathBuf, u32, usize)> {
    let random = |part: &str| part.len() >= 16 && part.chars().all(|c| c.is_ascii_hexdigit());
    Snapshot::of(dir)
        .0
        .into_iter()
        .map(|(path, entry)| {
            let name = path.to_string_lossy();
            let parts: Vec<_> = name
                .split(['-', '.', '/'])
                .filter(|part| !random(part))
                .collect();
            // Certificates differ by a few bytes from one run to the next.
            (
                PathBuf::from(parts.join("/")),
                entry.mode,
                entry.content.len() / 64,
            )
        })
        .collect()
}

fn shown(home: &Home) -> Outcome {
    let outcome = home.ood_ca("show --json");
    drop(outcome.json());
    outcome
}

/// What any finished state must satisfy.
fn assert_sound(home: &Home) {
    let pki = home.pki();
    shown(home).assert_ok();
    let state = State::of(&pki);
    assert!(state.is_sound(), "{state:?}");
    assert_leaves_verify(
        &pki.join("trust.crt"),
        LeafKind::Client,
        &[pki.join("client.crt")],
    );
    assert_pair(&pki.join("ca.key"), &pki.join("ca.crt"));
}

/// No key of an authority is left but that of the signer: one that is not
/// needed can only leak.
fn assert_no_other_key(home: &Home, signer: &str) {
    for (path, _) in Snapshot::of(&home.pki()).files() {
        let name = path.to_string_lossy();
        let Some(serial) = own_file(&name, ".key") else {
            continue;
        };
        let authority = fs::read(home.pki().join(format!("ca.{serial}.crt"))).unwrap_or_default();
        let authority = ca_core::Certificate::from_pem(&authority);
        let is_signer = authority.is_ok_and(|a| a.fingerprint().to_string() == signer);
        assert!(
            is_signer,
            "{name} is the key of an authority that is no longer used"
        );
    }
}

fn with_authority() -> Home {
    let home = Home::new();
    home.ood_ca("init").assert_ok();
    home
}

fn issued_count(home: &Home) -> usize {
    let entries = fs::read_dir(home.pki().join("issued")).unwrap();
    entries
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|e| e == "crt")
        })
        .count()
}

#[test]
fn init_killed_anywhere_leaves_no_authority_or_a_whole_one() {
    let before = Home::new();
    Crash {
        before: &before,
        command: "init",
        at_least: 12,
    }
    .everywhere(|home| {
        if home.pki().exists() {
            assert_sound(home);
        } else {
            shown(home).assert_refused(1, "no certificate authority");
        }
        home.ood_ca("init").assert_ok();
        assert_sound(home);
    });
}

#[test]
fn the_first_issue_killed_anywhere_can_be_run_again() {
    let before = Home::new();
    before.dir("out");
    let command = "issue --host n001 --out out";
    Crash {
        before: &before,
        command,
        at_least: 20,
    }
    .everywhere(|home| {
        if home.pki().exists() {
            assert_sound(home);
        }
        home.ood_ca(command).assert_ok();
        assert_sound(home);
        assert_output(home);
    });
}

/// The output directory holds a leaf that works.
fn assert_output(home: &Home) {
    let out = home.join("out");
    assert_pair(&out.join("server.key"), &out.join("server.crt"));
    assert_leaves_verify(
        &home.pki().join("trust.crt"),
        LeafKind::Server,
        &[out.join("server.crt")],
    );
    assert_eq!(
        fs::read(out.join("trust.crt")).unwrap(),
        fs::read(home.pki().join("trust.crt")).unwrap()
    );
}

#[test]
fn issue_killed_anywhere_shows_no_half_written_file() {
    let before = with_authority();
    before.dir("out");
    let command = "issue --host n001 --out out";
    let authority = State::of(&before.pki());
    Crash {
        before: &before,
        command,
        at_least: 8,
    }
    .everywhere(|home| {
        assert_eq!(
            State::of(&home.pki()),
            authority,
            "issuing changes nothing of the authority"
        );
        let out = home.join("out");
        // What has its final name is whole.
        let (key, leaf) = (out.join("server.key"), out.join("server.crt"));
        if key.exists() && leaf.exists() {
            assert_pair(&key, &leaf);
        }
        if leaf.exists() {
            assert_leaves_verify(&home.pki().join("trust.crt"), LeafKind::Server, &[leaf]);
        }
        for entry in fs::read_dir(home.pki().join("issued")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "crt") {
                ca_core::Certificate::from_pem(&fs::read(&path).unwrap()).unwrap();
            }
        }
        home.ood_ca(command).assert_ok();
        assert_output(home);
        shown(home).assert_ok();
    });
}

#[test]
fn a_bundle_is_replaced_in_one_step() {
    let before = with_authority();
    before.dir("out");
    let command = "issue --host n001 --format bundle --out out";
    before.ood_ca(command).assert_ok();
    Crash {
        before: &before,
        command,
        at_least: 6,
    }
    .everywhere(|home| {
        let bundle = home.join("out/server.pem");
        assert_pair(&bundle, &bundle);
        home.ood_ca(command).assert_ok();
        assert_pair(&bundle, &bundle);
    });
}

#[test]
fn a_leaf_renewed_in_place_is_the_old_one_or_the_new_one() {
    let before = with_authority();
    before.dir("out");
    before.ood_ca("issue --host n001 --out out").assert_ok();
    let key = fs::read(before.join("out/server.key")).unwrap();
    Crash {
        before: &before,
        command: "renew out/server.crt --force",
        at_least: 6,
    }
    .everywhere(|home| {
        assert_output(home);
        home.ood_ca("renew out/server.crt --force").assert_ok();
        assert_output(home);
        assert_eq!(
            fs::read(home.join("out/server.key")).unwrap(),
            key,
            "a renewal keeps the key"
        );
    });
}

#[test]
fn renew_killed_anywhere_keeps_key_and_leaf_a_pair() {
    let before = with_authority();
    let old = State::of(&before.pki());
    let recorded = issued_count(&before);
    Crash {
        before: &before,
        command: "renew --force",
        at_least: 6,
    }
    .everywhere(|home| {
        assert_sound(home);
        let found = State::of(&home.pki());
        assert!(found.has_authority_of(&old) && found.has_client_key_of(&old));
        home.ood_ca("renew --force").assert_ok();
        assert_sound(home);
        let new = State::of(&home.pki());
        assert!(
            new.has_client_key_of(&old) && new.client != old.client && new.client != found.client
        );
        assert!(issued_count(home) > recorded);
    });
}

#[test]
fn prepare_killed_anywhere_is_not_begun_or_done() {
    let before = with_authority();
    let old = State::of(&before.pki());
    Crash {
        before: &before,
        command: "rotate --prepare",
        at_least: 10,
    }
    .everywhere(|home| {
        assert_sound(home);
        let found = State::of(&home.pki());
        assert_eq!(found.signer, old.signer);
        home.ood_ca("rotate --prepare").assert_ok();
        assert_sound(home);
        let new = State::of(&home.pki());
        assert_eq!((&new.signer, new.trust.len()), (&old.signer, 2));
        if found.trust.len() == 2 {
            assert_eq!(new.trust, found.trust, "what was prepared stays");
        }
        rotate_to_the_end(home, new.other().unwrap());
    });
}

/// A state reached after a crash must also serve for what comes next.
fn rotate_to_the_end(home: &Home, next: &str) {
    home.ood_ca("rotate --activate").assert_ok();
    assert_eq!(State::of(&home.pki()).signer, next);
    home.ood_ca("rotate --retire --force").assert_ok();
    assert_sound(home);
    let settled = State::of(&home.pki());
    assert!(
        settled.trusts_only_signer() && settled.signer == next,
        "{settled:?}"
    );
    assert_no_other_key(home, next);
}

#[test]
fn activate_killed_anywhere_signs_with_the_old_or_the_new_authority() {
    let before = with_authority();
    before.ood_ca("rotate --prepare").assert_ok();
    let old = State::of(&before.pki());
    Crash {
        before: &before,
        command: "rotate --activate",
        at_least: 3,
    }
    .everywhere(|home| {
        let found = State::of(&home.pki());
        assert_eq!(found.trust, old.trust);
        assert!(found.client_matches && found.client_trusted);
        shown(home).assert_ok();
        // A job that starts right now gets a leaf that both ends trust.
        home.dir("out");
        home.ood_ca("issue --host n001 --out out").assert_ok();
        assert_output(home);
        home.ood_ca("rotate --activate").assert_ok();
        assert_sound(home);
        let new = State::of(&home.pki());
        assert_eq!(
            (&new.signer, &new.trust),
            (old.other().unwrap(), &old.trust)
        );
    });
}

#[test]
fn retire_killed_anywhere_trusts_the_old_authority_or_not() {
    let before = with_authority();
    // The second rotation: the authority that goes was itself rotated in.
    for step in [
        "--prepare", "--activate", "--retire", "--prepare", "--activate",
    ] {
        before.ood_ca(&format!("rotate {step}")).assert_ok();
    }
    let old = State::of(&before.pki());
    Crash {
        before: &before,
        command: "rotate --retire",
        at_least: 8,
    }
    .everywhere(|home| {
        assert_sound(home);
        let found = State::of(&home.pki());
        assert_eq!(found.signer, old.signer);
        assert!(found.trust == old.trust || found.trusts_only_signer());
        home.ood_ca("rotate --retire").assert_ok();
        assert_sound(home);
        let new = State::of(&home.pki());
        assert!(
            new.trusts_only_signer() && new.signer == old.signer,
            "{new:?}"
        );
        assert!(
            new.has_client_key_of(&old),
            "retiring keeps the client's key"
        );
        assert_no_other_key(home, &new.signer);
    });
}

#[test]
fn an_emergency_killed_anywhere_is_mended_by_a_renewal() {
    let before = with_authority();
    let old = State::of(&before.pki());
    Crash {
        before: &before,
        command: "rotate --emergency",
        at_least: 12,
    }
    .everywhere(|home| {
        shown(home).assert_ok();
        let found = State::of(&home.pki());
        if found.trust.contains(&old.signer) {
            assert!(found.has_authority_of(&old), "the old state is whole");
            assert!(found.client_matches && found.client_trusted);
        } else {
            assert!(
                found.trusts_only_signer(),
                "the new state trusts nothing old"
            );
            let mended = Home::new();
            copy_home(home, &mended);
            mended.ood_ca("renew").assert_ok();
            assert_sound(&mended);
            let mended = State::of(&mended.pki());
            assert_eq!(mended.signer, found.signer);
            assert!(
                !mended.has_client_key_of(&old),
                "a key that others may know is not kept"
            );
        }
        home.ood_ca("rotate --emergency").assert_ok();
        assert_sound(home);
        let new = State::of(&home.pki());
        assert!(new.signer != old.signer && !new.has_client_key_of(&old));
        assert!(new.trusts_only_signer(), "{new:?}");
        assert_no_other_key(home, &new.signer);
    });
}

#[test]
fn what_killed_processes_left_is_cleaned_up_when_it_is_old() {
    let home = with_authority();
    let pki = home.pki();
    let strays = [
        pki.join(".tmp-client.crt-0123456789abcdef"),
        pki.join("issued/.tmp-x.crt-0123456789abcdef"),
    ];
    let fresh = pki.join(".tmp-ca.key-fedcba9876543210");
    let half_made = home.join(".ood/.pki.tmp-0123456789abcdef");
    fs::create_dir(&half_made).unwrap();
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    for stray in strays.iter().chain([&half_made.join("ca.key")]) {
        let file = fs::File::create(stray).unwrap();
        file.set_modified(two_days_ago).unwrap();
    }
    fs::File::open(&half_made)
        .unwrap()
        .set_modified(two_days_ago)
        .unwrap();
    fs::write(&fresh, "").unwrap();
    home.ood_ca("renew").assert_ok();
    assert!(
        strays.iter().all(|stray| !stray.exists()),
        "old ones are removed"
    );
    assert!(!half_made.exists(), "a half-made directory is removed");
    assert!(
        fresh.exists(),
        "what may be somebody's work in progress is left alone"
    );
}
