//! Private keys leave no trace but in files of mode 0600, and no file is seen
//! before it is complete: read off the system calls of the real command.

mod trace;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ca_core::{
    Authority, ClientLeaf, HostName, KeyType, LeafRequest, PkiLocation, PrivateKey, SiteConfig,
    UserName, now,
};
use ood_ca_tests::{Home, Outcome, Run, Snapshot, require_root, require_tool};
use trace::{Call, Event, calls_of, follow};

/// What gives a key away: every piece, 12 bytes long, of its secret number, in
/// every form that it could take in a file, a message or a log.
struct Secret(Vec<Form>);

/// The pieces of a secret in one form, all of one length.
struct Form {
    length: usize,
    pieces: BTreeSet<Vec<u8>>,
    /// Which two bytes a piece begins with: most of any data needs no look further.
    beginnings: BTreeSet<[u8; 2]>,
    first: [bool; 256],
}

impl Form {
    fn new(length: usize, pieces: BTreeSet<Vec<u8>>) -> Self {
        let mut first = [false; 256];
        pieces
            .iter()
            .for_each(|piece| first[usize::from(piece[0])] = true);
        let beginnings = pieces.iter().map(|piece| [piece[0], piece[1]]).collect();
        Form {
            length,
            pieces,
            beginnings,
            first,
        }
    }

    fn is_in(&self, data: &[u8]) -> bool {
        data.windows(self.length).any(|w| {
            self.first[usize::from(w[0])]
                && self.beginnings.contains(&[w[0], w[1]])
                && self.pieces.contains(w)
        })
    }
}

impl Secret {
    fn of(key: &PrivateKey) -> Self {
        let der = key.pkcs8_der();
        // RFC 5915 §3 and RFC 8410 §7: behind an OCTET STRING of 32 bytes.
        let at = match key.key_type() {
            KeyType::EcdsaP256 => 36,
            _ => 16,
        };
        assert_eq!(
            der[at - 2..at],
            [0x04, 32],
            "the secret number is where it should be"
        );
        let number = &der[at..at + 32];
        let mut forms = Vec::new();
        let mut add = |form: &[u8], length: usize| {
            forms.push(Form::new(
                length,
                form.windows(length).map(<[u8]>::to_vec).collect(),
            ));
        };
        add(number, 12);
        // Base64 of the same bytes looks different by where they begin.
        for begin in 0..3 {
            add(base64(&number[begin..begin + 30]).as_bytes(), 16);
        }
        let in_form = |form: fn(&u8) -> String, between: &str| {
            number.iter().map(form).collect::<Vec<_>>().join(between)
        };
        add(in_form(|b| format!("{b:02x}"), "").as_bytes(), 24);
        add(in_form(|b| format!("{b:02X}"), "").as_bytes(), 24);
        add(in_form(|b| format!("{b:02x}"), ":").as_bytes(), 24);
        // As `{:?}` of a slice of bytes.
        let decimal: Vec<_> = number.windows(8).map(|w| format!("{w:?}")).collect();
        let decimal: BTreeSet<_> = decimal
            .iter()
            .map(|d| d.trim_matches(['[', ']']).as_bytes().to_vec())
            .collect();
        for length in decimal.iter().map(Vec::len).collect::<BTreeSet<_>>() {
            let pieces = decimal
                .iter()
                .filter(|d| d.len() == length)
                .cloned()
                .collect();
            forms.push(Form::new(length, pieces));
        }
        Secret(forms)
    }

    fn of_file(path: &Path) -> Self {
        Self::of(&PrivateKey::from_pem(&fs::read(path).unwrap()).unwrap())
    }

    fn is_in(&self, data: &[u8]) -> bool {
        // Line breaks hide nothing; `{:#?}` puts each number on a line.
        let joined: Vec<u8> = data
            .iter()
            .copied()
            .filter(|b| *b != b'\n' && *b != b'\r')
            .collect();
        let spaced = String::from_utf8_lossy(data)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let ways: [&[u8]; 3] = [data, &joined, spaced.as_bytes()];
        self.0
            .iter()
            .any(|form| ways.iter().any(|way| form.is_in(way)))
    }
}

/// RFC 4648 §4, for lengths that need no padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(bytes.len() % 3, 0);
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, b| bits << 8 | usize::from(*b));
        text.extend([18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63])));
    }
    text
}

#[test]
fn the_search_for_a_secret_finds_it_in_every_form() {
    for key_type in [KeyType::EcdsaP256, KeyType::Ed25519] {
        let key = PrivateKey::generate(key_type).unwrap();
        let secret = Secret::of(&key);
        let der = key.pkcs8_der();
        assert!(secret.is_in(key.to_pem().as_bytes()));
        assert!(secret.is_in(der));
        assert!(secret.is_in(format!("{der:?}").as_bytes()));
        assert!(secret.is_in(format!("{der:#?}").as_bytes()));
        assert!(secret.is_in(format!("{der:02x?}").replace(", ", "").as_bytes()));
        for line in key.to_pem().lines().skip(1).take(1) {
            assert!(
                secret.is_in(&line.as_bytes()[line.len() - 16..]),
                "{key_type}"
            );
        }
        let other = PrivateKey::generate(key_type).unwrap();
        assert!(!secret.is_in(other.to_pem().as_bytes()));
        let authority = Authority::ensure(
            &PkiLocation::at(Home::new().join("pki")).unwrap(),
            &SiteConfig::default(),
            now(),
        );
        assert!(!secret.is_in(authority.unwrap().certificate().to_pem().as_bytes()));
    }
}

/// A traced run of `ood-ca`.
struct Traced {
    calls: Vec<Call>,
    events: Vec<Event>,
    outcome: Outcome,
    before: Snapshot,
}

/// Runs `ood-ca` as the home's owner under strace.
fn traced(home: &Home, umask: u32, line: &str) -> Traced {
    // The tracer stays root: the program makes itself undumpable, and then only
    // root can still read its memory to show the data of its calls.
    require_root();
    let notes = tempfile::tempdir().unwrap();
    let log = notes.path().join("trace");
    let uid = home.uid().to_string();
    let before = Snapshot::of(home.path());
    let outcome = Run::new(require_tool("strace"))
        .args(["-f", "-v", "-xx", "-s", "65535", "-o"])
        .args([&log])
        .args(["--"])
        .args([require_tool("setpriv")])
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
        .args(["sh", "-c", &format!("umask {umask:04o}; exec \"$@\""), "sh"])
        .args([home.program()])
        .args(line.split_whitespace())
        .within(home.path())
        .env("HOME", home.path())
        .env("OOD_CA_CONFIG", "")
        .output()
        .assert_ok();
    let calls = calls_of(&fs::read_to_string(&log).unwrap(), "/ood-ca");
    let existing: Vec<_> = before
        .files()
        .map(|(path, entry)| (home.join(path), entry.mode))
        .collect();
    let events = follow(&calls, home.path(), umask, &existing);
    Traced {
        calls,
        events,
        outcome,
        before,
    }
}

/// What a run may have written secrets into.
fn key_files(home: &Home) -> Vec<PathBuf> {
    let all = Snapshot::of(home.path());
    let is_key = |content: &[u8]| content.windows(19).any(|w| w == b"BEGIN PRIVATE KEY--");
    all.files()
        .filter(|(_, entry)| is_key(&entry.content))
        .map(|(path, _)| home.join(path))
        .collect()
}

/// The key in a file that may also hold certificates.
fn secret_in(path: &Path) -> Secret {
    let text = fs::read_to_string(path).unwrap();
    let begin = text.find("-----BEGIN PRIVATE KEY-----").unwrap();
    const END: &str = "-----END PRIVATE KEY-----\n";
    let end = text[begin..].find(END).unwrap() + begin + END.len();
    Secret::of(&PrivateKey::from_pem(&text.as_bytes()[begin..end]).unwrap())
}

fn assert_keys_stay_in_private_files(run: &Traced, secrets: &[(PathBuf, Secret)], line: &str) {
    let holds = |bytes: &[u8]| {
        secrets
            .iter()
            .find(|(_, secret)| secret.is_in(bytes))
            .map(|(path, _)| path.display())
    };
    let mut private = BTreeSet::new();
    for event in &run.events {
        match event {
            Event::Wrote { file, mode, bytes } => {
                if let Some(key) = holds(bytes) {
                    assert_eq!(
                        *mode, 0o600,
                        "{line}: {key} was written to a file of mode {mode:04o}"
                    );
                    private.insert(*file);
                }
            }
            Event::ModeSet { file, mode } => {
                assert!(
                    *mode == 0o600 || !private.contains(file),
                    "{line}: a file with a key got mode {mode:04o}"
                );
            }
            Event::Sent { to, bytes } => {
                assert!(holds(bytes).is_none(), "{line}: a key was sent to {to}");
            }
            _ => {}
        }
    }
    for call in &run.calls {
        let moves_data = [
            "read", "pread64", "readv", "preadv", "write", "pwrite64", "writev", "pwritev",
            "getrandom",
        ];
        if !moves_data.contains(&call.name.as_str()) {
            let told = call.strings().iter().any(|s| holds(s).is_some());
            assert!(
                !told,
                "{line}: a key stands in an argument of {}",
                call.name
            );
        }
    }
    for said in [&run.outcome.stdout, &run.outcome.stderr] {
        assert!(
            holds(said.as_bytes()).is_none(),
            "{line}: a key was printed"
        );
    }
}

/// A part of the path that says that the file is not there yet.
fn is_temporary(path: &Path) -> bool {
    path.iter().any(|part| {
        let part = part.to_string_lossy();
        part.starts_with(".tmp-") || part.starts_with(".pki.tmp-")
    })
}

fn assert_files_appear_complete(home: &Home, run: &Traced, line: &str) {
    for event in &run.events {
        if let Event::OpenedToWrite { path } = event {
            assert!(
                is_temporary(path),
                "{line}: {} was opened for writing",
                path.display()
            );
        }
    }
    let after = Snapshot::of(home.path());
    for changed in run.before.changes(&after) {
        let path = home.join(&changed);
        let Some(entry) = after
            .0
            .get(&changed)
            .filter(|e| e.mode & 0o170_000 == 0o100_000)
        else {
            continue;
        };
        assert!(
            !is_temporary(&path),
            "{line}: {} was left behind",
            path.display()
        );
        let arrival = run
            .events
            .iter()
            .rposition(|e| matches!(e, Event::Appeared { path: p, .. } if *p == path));
        let arrival = arrival
            .unwrap_or_else(|| panic!("{line}: {} came about in no known way", path.display()));
        let Event::Appeared { file, .. } = run.events[arrival] else {
            unreachable!()
        };
        // Files that were there have the first numbers.
        let written = |events: &[Event]| -> Vec<u8> {
            let of_file = events.iter().filter_map(|e| match e {
                Event::Wrote { file: f, bytes, .. } if *f == file => Some(bytes.as_slice()),
                _ => None,
            });
            of_file.collect::<Vec<_>>().concat()
        };
        let whole = match run.before.files().nth(file) {
            // It was there under another name, whole since an earlier command.
            Some((_, old)) => old.content.clone(),
            None => written(&run.events[..arrival]),
        };
        // No `assert_eq`: a message must not show a key.
        assert!(
            whole == entry.content,
            "{line}: {} was not complete when it appeared",
            path.display()
        );
        assert!(
            written(&run.events[arrival..]).is_empty(),
            "{line}: {} was written later",
            path.display()
        );
        let chmod_later = run.events[arrival..]
            .iter()
            .any(|e| matches!(e, Event::ModeSet { file: f, .. } if *f == file));
        assert!(
            !chmod_later,
            "{line}: {} changed its mode after it appeared",
            path.display()
        );
    }
}

/// What cannot be made again is on disk before it is visible, and its name is
/// before the command reports success.
fn assert_durable(home: &Home, run: &Traced, line: &str) {
    let after = Snapshot::of(home.path());
    for name in ["ca.key", "ca.crt", "trust.crt", "client.key", "client.crt"] {
        let path = home.pki().join(name);
        let below = path.strip_prefix(home.path()).unwrap();
        if run.before.0.get(below) == after.0.get(below) {
            continue;
        }
        let is_arrival = |e: &Event| matches!(e, Event::Appeared { path: p, .. } if *p == path);
        let arrival = run.events.iter().rposition(is_arrival).unwrap();
        let Event::Appeared { file, .. } = run.events[arrival] else {
            unreachable!()
        };
        let is_old = file < run.before.files().count();
        let synced = run.events[..arrival]
            .iter()
            .any(|e| matches!(e, Event::Synced { file: f } if *f == file));
        assert!(
            synced || is_old,
            "{line}: {name} was not on disk when it appeared"
        );
        let name_synced = run.events[arrival..].iter().any(|e| {
            matches!(e, Event::SyncedDirectory { path: p } if path.starts_with(p) && p.starts_with(home.path()))
        });
        assert!(
            name_synced,
            "{line}: the name of {name} was not on disk at the end"
        );
    }
    for (made, event) in run.events.iter().enumerate() {
        let Event::MadeDirectory { path, .. } = event else {
            continue;
        };
        let above = path.parent().unwrap();
        let synced = run.events[made..]
            .iter()
            .any(|e| matches!(e, Event::SyncedDirectory { path: p } if p == above));
        assert!(
            synced,
            "{line}: the name of the new directory {} was not on disk at the end",
            path.display()
        );
    }
}

fn assert_directories_are_private(home: &Home, run: &Traced, line: &str) {
    for event in &run.events {
        if let Event::MadeDirectory { path, mode } = event {
            assert_eq!(
                mode & 0o077,
                0,
                "{line}: {} was made with mode {mode:04o}",
                path.display()
            );
            assert!(path.starts_with(home.path()));
        }
    }
}

/// No core file and no other process can take a key out of memory.
fn assert_undumpable_before_keys(run: &Traced, secrets: &[(PathBuf, Secret)], line: &str) {
    let touches = |bytes: &[u8]| secrets.iter().any(|(_, secret)| secret.is_in(bytes));
    let first = run.events.iter().position(|event| match event {
        Event::Wrote { bytes, .. } | Event::Read { bytes } => touches(bytes),
        _ => false,
    });
    let first = first.unwrap_or_else(|| panic!("{line}: no key was read or written"));
    let before = &run.events[..first];
    assert!(
        before.iter().any(|e| matches!(e, Event::NotDumpable)),
        "{line}: keys came into memory that others may look into (PR_SET_DUMPABLE)"
    );
    assert!(
        before.iter().any(|e| matches!(e, Event::NoCore)),
        "{line}: keys came into memory that a crash may write to a core file (RLIMIT_CORE)"
    );
}

/// The commands that make or move keys, in an order in which each has work.
const COMMANDS: &[&str] = &[
    "init",
    "issue --host n001.cluster.example --out {out}",
    "issue --client --out {out}",
    "issue --host n001.cluster.example --format bundle --name both --out {out}",
    "issue --host n001.cluster.example --layout oodproxy --out {layout}",
    "renew --force",
    "renew {out}/server.crt --force",
    "rotate --prepare",
    "rotate --activate",
    "rotate --retire --force",
    "rotate --emergency",
];

fn follow_every_command(umask: u32, settings: &str, commands: &[&str]) {
    let home = Home::of_somebody();
    let (out, layout) = (home.dir("out"), home.dir("layout"));
    fs::write(home.join("ood_ca.yml"), settings).unwrap();
    for line in commands {
        let line = line
            .replace("{out}", &out.display().to_string())
            .replace("{layout}", &layout.display().to_string());
        let line = format!("--config {} {line}", home.join("ood_ca.yml").display());
        let old_keys: Vec<_> = key_files(&home)
            .iter()
            .map(|path| (path.clone(), secret_in(path)))
            .collect();
        let run = traced(&home, umask, &line);
        let mut secrets: Vec<_> = key_files(&home)
            .iter()
            .map(|path| (path.clone(), secret_in(path)))
            .collect();
        secrets.extend(old_keys);
        assert_keys_stay_in_private_files(&run, &secrets, &line);
        assert_files_appear_complete(&home, &run, &line);
        assert_durable(&home, &run, &line);
        assert_directories_are_private(&home, &run, &line);
        assert_undumpable_before_keys(&run, &secrets, &line);
        for key in key_files(&home) {
            let mode = fs::metadata(&key).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{line}: {}", key.display());
        }
    }
}

#[test]
fn under_an_open_umask_every_command_keeps_keys_private_and_files_whole() {
    follow_every_command(0o000, "key_type: ecdsa-p256\n", COMMANDS);
}

#[test]
fn under_a_closed_umask_every_command_keeps_keys_private_and_files_whole() {
    follow_every_command(0o077, "key_type: ed25519\n", COMMANDS);
}

#[test]
fn the_very_first_issue_keeps_keys_private_and_files_whole() {
    for umask in [0o000, 0o022, 0o077] {
        follow_every_command(
            umask,
            "",
            &["issue --host n001.cluster.example --out {out}"],
        );
    }
}

#[test]
fn the_trace_would_show_a_key_in_an_open_file_and_a_file_that_is_not_whole() {
    // The same eyes on a program that does it all wrong.
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    let secrets = [(
        home.pki().join("ca.key"),
        secret_in(&home.pki().join("ca.key")),
    )];
    let notes = tempfile::tempdir().unwrap();
    let log = notes.path().join("trace");
    let before = Snapshot::of(home.path());
    let outcome = Run::new(require_tool("strace"))
        .args(["-f", "-v", "-xx", "-s", "65535", "-o"])
        .args([&log])
        .args(["dd", "if=.ood/pki/ca.key", "of=copy", "status=none"])
        .within(home.path())
        .output()
        .assert_ok();
    let calls = calls_of(&fs::read_to_string(&log).unwrap(), "/dd");
    let events = follow(&calls, home.path(), 0o022, &[]);
    let run = Traced {
        calls,
        events,
        outcome,
        before,
    };
    let fails =
        |check: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(check).is_err();
    let run = std::panic::AssertUnwindSafe(run);
    let (home, secrets) = (
        std::panic::AssertUnwindSafe(home),
        std::panic::AssertUnwindSafe(secrets),
    );
    assert!(fails(&|| assert_keys_stay_in_private_files(
        &run, &*secrets, "dd"
    )));
    assert!(fails(&|| assert_files_appear_complete(&home, &run, "dd")));
    assert!(fails(&|| assert_undumpable_before_keys(
        &run, &*secrets, "dd"
    )));
}

#[test]
fn debug_output_of_the_library_shows_no_key() {
    let home = Home::new();
    for (key_type, settings) in [
        ("p256", "key_type: ecdsa-p256\n"),
        ("ed25519", "key_type: ed25519\n"),
    ] {
        let site = SiteConfig::parse(settings, Path::new("ood_ca.yml")).unwrap();
        let location = PkiLocation::at(home.join(key_type)).unwrap();
        let authority = Authority::ensure(&location, &site, now()).unwrap();
        let request = LeafRequest::server([HostName::parse("n001").unwrap()]);
        let issued = authority.issue(&request, now()).unwrap();
        let client = authority
            .issue(
                &LeafRequest::client(UserName::parse("alice").unwrap()),
                now(),
            )
            .unwrap();
        let leaf = ClientLeaf::examine(&location, now()).unwrap();
        let mut secrets: Vec<_> = ["ca.key", "client.key"]
            .iter()
            .map(|name| home.join(key_type).join(name))
            .filter(|path| path.exists())
            .map(|path| Secret::of_file(&path))
            .collect();
        secrets.extend([&issued, &client].map(|i| Secret::of(i.key.as_ref().unwrap())));
        assert!(secrets.len() >= 3);
        let shown = [
            format!("{authority:?}{authority:#?}"),
            format!("{issued:?}{issued:#?}"),
            format!("{client:?}{client:#?}"),
            format!("{:?}{:#?}", issued.key, issued.key),
            format!("{request:?}{location:?}{site:?}{leaf:?}"),
        ];
        for text in shown {
            assert!(text.len() > 20, "nothing to look at");
            assert!(
                !secrets.iter().any(|s| s.is_in(text.as_bytes())),
                "{key_type}: a key is shown"
            );
        }
    }
}

/// Ways in which a key file goes bad, each of which keeps most of the secret.
fn corrupted(pem: &str) -> Vec<(&'static str, Vec<u8>)> {
    let lines: Vec<_> = pem.lines().collect();
    let body = &lines[1..lines.len() - 1];
    let join = |lines: &[&str]| (lines.join("\n") + "\n").into_bytes();
    let relabelled = |label: &str| pem.replace("PRIVATE KEY", label).into_bytes();
    let mut broken_line = body[0].to_owned();
    broken_line.replace_range(3..4, "!");
    let der = PrivateKey::from_pem(pem.as_bytes())
        .unwrap()
        .pkcs8_der()
        .to_vec();
    vec![
        ("without its last line", join(&lines[..lines.len() - 1])),
        ("without its first line", join(&lines[1..])),
        ("body only", join(body)),
        (
            "with a character that is not base64",
            join(&[lines[0], &broken_line, lines[lines.len() - 1]]),
        ),
        ("cut short", pem.as_bytes()[..pem.len() / 2].to_vec()),
        ("with another label", relabelled("EC PRIVATE KEY")),
        ("with a label made of the key", relabelled(body[0])),
        (
            "with something behind it",
            format!("{pem}trailing {}\n", body[0]).into_bytes(),
        ),
        ("in DER", der),
        ("with a NUL", [pem.as_bytes(), b"\0"].concat()),
        (
            "on one line",
            format!(
                "{} {} {}\n",
                lines[0],
                body.concat(),
                lines[lines.len() - 1]
            )
            .into_bytes(),
        ),
    ]
}

#[test]
fn no_message_quotes_a_corrupt_key() {
    let commands = [
        "issue --host n001 --out out", "issue --client --out out", "renew --force",
        "needs-renewal", "rotate --prepare", "show", "doctor", "init",
    ];
    let home = Home::new();
    home.dir("out");
    home.ood_ca("issue --host n001 --out out").assert_ok();
    home.ood_ca("renew --force").assert_ok();
    let good = Snapshot::of(&home.pki());
    for file in ["ca.key", "client.key"] {
        let path = home.pki().join(file);
        let pem = fs::read_to_string(&path).unwrap();
        let secret = Secret::of_file(&path);
        for (nth, (how, bad)) in corrupted(&pem).into_iter().enumerate() {
            let mut complained = 0;
            for (mth, command) in commands.iter().enumerate() {
                let json = if (nth + mth) % 2 == 0 { "" } else { " --json" };
                fs::write(&path, &bad).unwrap();
                let outcome = home.ood_ca(&format!("{command}{json}"));
                let said = format!("{}{}", outcome.stdout, outcome.stderr);
                assert!(
                    !secret.is_in(said.as_bytes()),
                    "{file} {how}: `{command}{json}` quotes it"
                );
                assert!(
                    !said.contains("panicked"),
                    "{file} {how}: `{command}{json}` panics"
                );
                complained += usize::from(said.contains(file));
                // A command may have mended or replaced something.
                restore(&home.pki(), &good);
            }
            assert!(complained > 0, "no command said that {file} is bad {how}");
        }
    }
}

fn restore(dir: &Path, good: &Snapshot) {
    for changed in good.changes(&Snapshot::of(dir)) {
        let path = dir.join(&changed);
        match good.0.get(&changed) {
            Some(entry) if entry.mode & 0o170_000 == 0o100_000 => {
                fs::write(&path, &entry.content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode & 0o7777))
                    .unwrap();
            }
            Some(_) => {}
            None if path.is_file() => fs::remove_file(&path).unwrap(),
            None => {}
        }
    }
}

#[test]
fn a_corrupt_key_given_to_verify_is_not_quoted() {
    let home = Home::new();
    home.ood_ca("issue --host n001").assert_ok();
    let pem = fs::read_to_string(home.join("server.key")).unwrap();
    let secret = Secret::of_file(&home.join("server.key"));
    home.ood_ca("verify server.crt --key server.key")
        .assert_ok();
    for (how, bad) in corrupted(&pem) {
        fs::write(home.join("server.key"), &bad).unwrap();
        let outcome = home.ood_ca("verify server.crt --key server.key");
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!secret.is_in(said.as_bytes()), "{how}: it is quoted");
        assert!(!said.contains("panicked"), "{how}: panic");
    }
}
