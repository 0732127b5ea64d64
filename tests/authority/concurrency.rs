//! Many processes at once, on one host and on two.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ca_core::{Certificate, PrivateKey};
use ood_ca_tests::fuse::{FaultyMount, Op};
use ood_ca_tests::{
    Home, LeafKind, Running, State, assert_leaves_verify, assert_pair, eventually, leftovers,
    own_file,
};

/// Runs `act` for each of `count` numbers at the same moment.
fn all_at_once<T: Send>(count: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(count);
    thread::scope(|scope| {
        let (start, act) = (&start, &act);
        let threads: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn(move || {
                    start.wait();
                    act(number)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a thread of this test failed"))
            .collect()
    })
}

/// Tells other threads to end, also when this one fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One home as two hosts see it, over a file server.
struct TwoHosts {
    hosts: [Home; 2],
    mounts: [FaultyMount; 2],
    backing: tempfile::TempDir,
}

impl TwoHosts {
    fn new() -> Self {
        let backing = tempfile::tempdir().unwrap();
        let uid = Home::spare_uid();
        let at_server = Home::at(&backing.path().join("home"), uid);
        let mounts = [
            FaultyMount::over(backing.path()),
            FaultyMount::over(backing.path()),
        ];
        let hosts = [0, 1].map(|i: usize| at_server.seen_at(&mounts[i].join("home")));
        TwoHosts {
            hosts,
            mounts,
            backing,
        }
    }

    fn pki_at_server(&self) -> PathBuf {
        self.backing.path().join("home/.ood/pki")
    }
}

fn init_and_issue(home: &Home, number: usize) {
    home.ood_ca("init").assert_ok();
    let out = home.join(format!("out-{number}"));
    home.ood_ca(&format!(
        "issue --host n{number:03}.cluster.example --out {}",
        out.display()
    ))
    .assert_ok();
}

/// What must hold after many processes each ran `init` and `issue`.
fn assert_one_authority(home: &Path, count: usize) {
    let pki = home.join(".ood/pki");
    let trust = fs::read(pki.join("trust.crt")).unwrap();
    assert_eq!(trust, fs::read(pki.join("ca.crt")).unwrap());
    let mut leaves = vec![];
    for number in 0..count {
        let out = home.join(format!("out-{number}"));
        assert_eq!(
            trust,
            fs::read(out.join("trust.crt")).unwrap(),
            "process {number} saw another authority"
        );
        assert_pair(&out.join("server.key"), &out.join("server.crt"));
        leaves.push(out.join("server.crt"));
        fs::remove_file(out.join("trust.crt")).unwrap();
    }
    assert_leaves_verify(&pki.join("trust.crt"), LeafKind::Server, &leaves);
    assert_leaves_verify(
        &pki.join("trust.crt"),
        LeafKind::Client,
        &[pki.join("client.crt")],
    );
    assert_pair(&pki.join("ca.key"), &pki.join("ca.crt"));
    assert_pair(&pki.join("client.key"), &pki.join("client.crt"));
    // The authority, the client leaf, and one for each process.
    let recorded = fs::read_dir(pki.join("issued")).unwrap().count();
    assert_eq!(recorded, count + 2, "each leaf is recorded once");
    let beside: Vec<_> = fs::read_dir(home.join(".ood"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(beside, ["pki"], "losers of the race clean up");
}

#[test]
fn sixty_four_processes_at_once_make_one_authority() {
    let home = Home::of_somebody();
    all_at_once(64, |number| init_and_issue(&home, number));
    assert_one_authority(home.path(), 64);
}

#[test]
fn sixty_four_processes_on_two_hosts_make_one_authority() {
    let two = TwoHosts::new();
    all_at_once(64, |number| init_and_issue(&two.hosts[number % 2], number));
    assert_one_authority(&two.backing.path().join("home"), 64);
}

#[test]
fn every_race_to_create_has_one_winner() {
    for _ in 0..12 {
        let home = Home::of_somebody();
        all_at_once(8, |number| init_and_issue(&home, number));
        assert_one_authority(home.path(), 8);
    }
}

#[test]
fn hosts_that_see_each_other_late_still_make_one_authority() {
    for round in 0..6 {
        let two = TwoHosts::new();
        // Each host looks first, and so remembers that there is nothing.
        for host in &two.hosts {
            host.ood_ca("show")
                .assert_refused(1, "no certificate authority");
        }
        two.mounts
            .iter()
            .for_each(|mount| mount.serve_stale_lookups(2 + round));
        all_at_once(8, |number| init_and_issue(&two.hosts[number % 2], number));
        assert_one_authority(&two.backing.path().join("home"), 8);
    }
}

#[test]
fn preparing_a_rotation_many_times_at_once_prepares_one() {
    let two = TwoHosts::new();
    two.hosts[0].ood_ca("init").assert_ok();
    let before = State::of(&two.pki_at_server());
    all_at_once(24, |number| {
        two.hosts[number % 2].ood_ca("rotate --prepare").assert_ok()
    });
    let after = State::of(&two.pki_at_server());
    assert_eq!(after.signer, before.signer);
    assert!(after.is_sound() && after.trust.len() == 2, "{after:?}");
    // It can be used: its key was not lost to another one's.
    two.hosts[0].ood_ca("rotate --activate").assert_ok();
    let active = State::of(&two.pki_at_server());
    assert_eq!(&active.signer, after.other().unwrap());
}

#[test]
fn activating_many_times_at_once_activates_once() {
    let two = TwoHosts::new();
    two.hosts[0].ood_ca("init").assert_ok();
    two.hosts[0].ood_ca("rotate --prepare").assert_ok();
    let before = State::of(&two.pki_at_server());
    all_at_once(24, |number| {
        two.hosts[number % 2]
            .ood_ca("rotate --activate")
            .assert_ok()
    });
    let pki = two.pki_at_server();
    let after = State::of(&pki);
    assert_eq!(
        &after.signer,
        before.other().unwrap(),
        "what was prepared signs"
    );
    assert_eq!(after.trust, before.trust);
    assert!(after.is_sound(), "{after:?}");
}

#[test]
fn retiring_many_times_at_once_retires_once_and_keeps_the_clients_key() {
    let two = TwoHosts::new();
    for line in ["init", "rotate --prepare", "rotate --activate"] {
        two.hosts[0].ood_ca(line).assert_ok();
    }
    let before = State::of(&two.pki_at_server());
    all_at_once(24, |number| {
        two.hosts[number % 2].ood_ca("rotate --retire").assert_ok()
    });
    let after = State::of(&two.pki_at_server());
    assert!(after.trusts_only_signer() && after.signer == before.signer);
    assert!(after.client_matches && after.client_trusted && after.has_client_key_of(&before));
}

/// Runs steps on two hosts, each at its own pace. A step may be refused, but
/// whatever happened, there is an authority that works in the end.
fn steps_at_once(steps: &[&str]) {
    for _ in 0..3 {
        let two = TwoHosts::new();
        two.hosts[0].ood_ca("init").assert_ok();
        all_at_once(4, |number| {
            for turn in 0..8 {
                // Each starts elsewhere in the list and goes round it.
                let line = steps[(turn + number * 3) % steps.len()];
                let outcome = two.hosts[number % 2].ood_ca(line);
                assert!(matches!(outcome.code(), Some(0 | 1)), "{outcome}");
            }
        });
        let pki = two.pki_at_server();
        let found = State::of(&pki);
        for host in &two.hosts {
            host.ood_ca("renew").assert_ok();
            host.ood_ca("issue --host n001 --out .").assert_ok();
        }
        let mended = State::of(&pki);
        assert!(mended.is_sound(), "{mended:?}");
        assert_eq!(mended.signer, found.signer);
        let home = two.backing.path().join("home");
        assert_pair(&home.join("server.key"), &home.join("server.crt"));
        let leaf = home.join("server.crt");
        assert_leaves_verify(&pki.join("trust.crt"), LeafKind::Server, &[leaf]);
    }
}

#[test]
fn rotation_steps_by_two_hosts_at_once_never_lose_the_authority() {
    steps_at_once(&[
        "rotate --prepare", "rotate --activate", "renew --force", "rotate --retire --force", "show",
    ]);
}

#[test]
fn emergencies_on_two_hosts_at_once_never_lose_the_authority() {
    steps_at_once(&["rotate --emergency", "renew --force", "rotate --emergency"]);
}

#[test]
fn emergencies_amid_a_rotation_never_lose_the_authority() {
    steps_at_once(&[
        "rotate --prepare", "rotate --emergency", "rotate --activate", "renew",
        "rotate --retire --force",
    ]);
}

/// Reads the pair as a program that starts up does, until `over`.
fn read_pair_until(over: &AtomicBool, pki: &Path, looked: &AtomicUsize) {
    let certificate = || Certificate::from_pem(&fs::read(pki.join("client.crt")).unwrap()).unwrap();
    let key = || PrivateKey::from_pem(&fs::read(pki.join("client.key")).unwrap()).unwrap();
    while !over.load(Ordering::SeqCst) {
        // Programs differ in what they read first.
        let (first, then, last) = (certificate(), key(), certificate());
        let fit = first.belongs_to(&then) && last.belongs_to(&then);
        assert!(fit, "a reader saw a pair that does not match");
        looked.fetch_add(1, Ordering::SeqCst);
    }
}

/// Renews from `writers` processes, again and again, while others read.
fn renew_while_others_read(writers: &[&Home], reader: &Home, pki: &Path) {
    const RENEWALS: usize = 8;
    const MOST: usize = 500;
    let over = AtomicBool::new(false);
    let (looked, verified) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _end = SetWhenDropped(&over);
            read_pair_until(&over, pki, &looked);
        });
        scope.spawn(|| {
            let _end = SetWhenDropped(&over);
            let pki = reader.pki();
            let (certificate, key) = (pki.join("client.crt"), pki.join("client.key"));
            let line = format!(
                "verify {} --client --key {}",
                certificate.display(),
                key.display()
            );
            while !over.load(Ordering::SeqCst) {
                reader.ood_ca(&line).assert_ok();
                verified.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Even if a renewal fails, the readers must come to an end.
        let _end = SetWhenDropped(&over);
        let read_enough =
            || looked.load(Ordering::SeqCst) > 20 && verified.load(Ordering::SeqCst) > 2;
        thread::scope(|scope| {
            for writer in writers {
                let (over, read_enough) = (&over, &read_enough);
                scope.spawn(move || {
                    for time in 0..MOST {
                        let enough = time >= RENEWALS && read_enough();
                        if enough || over.load(Ordering::SeqCst) {
                            return;
                        }
                        writer.ood_ca("renew --force").assert_ok();
                    }
                    panic!("after {MOST} renewals nobody has read the pair often enough");
                });
            }
        });
    });
}

#[test]
fn renewing_many_times_at_once_keeps_the_key_and_never_shows_a_mismatch() {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    let before = State::of(&home.pki());
    renew_while_others_read(&[&home; 8], &home, &home.pki());
    let after = State::of(&home.pki());
    assert!(after.client_matches && after.client_trusted && after.has_client_key_of(&before));
    assert_ne!(after.client, before.client);
    assert_eq!(leftovers(home.path()), Vec::<PathBuf>::new());
}

#[test]
fn renewing_on_two_hosts_keeps_the_key_and_never_shows_a_mismatch() {
    let two = TwoHosts::new();
    let [one, other] = &two.hosts;
    one.ood_ca("init").assert_ok();
    let before = State::of(&two.pki_at_server());
    renew_while_others_read(&[one, other, one, other], other, &two.pki_at_server());
    let after = State::of(&two.pki_at_server());
    assert!(after.client_matches && after.client_trusted && after.has_client_key_of(&before));
}

#[test]
fn a_missing_client_key_is_made_once_by_many_renewals() {
    for _ in 0..4 {
        let two = TwoHosts::new();
        two.hosts[0].ood_ca("init").assert_ok();
        fs::remove_file(two.pki_at_server().join("client.key")).unwrap();
        all_at_once(12, |number| {
            two.hosts[number % 2].ood_ca("renew --force").assert_ok()
        });
        let after = State::of(&two.pki_at_server());
        assert!(after.client_matches && after.client_trusted, "{after:?}");
    }
}

/// Rotates at least `rounds` times while `issuers` issue leaves. Each leaf must
/// verify against the trust bundle that came with it.
fn issue_while(issuers: &[&Home], rounds: usize, rotate: impl Fn()) {
    const LEAVES: usize = 20;
    const MOST: usize = 500;
    let over = AtomicBool::new(false);
    let issued = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (number, home) in issuers.iter().enumerate() {
            let (over, issued) = (&over, &issued);
            scope.spawn(move || {
                let _end = SetWhenDropped(over);
                let out = home.dir(&format!("out-{number}"));
                let line = format!("issue --host n001 --out {}", out.display());
                while !over.load(Ordering::SeqCst) {
                    home.ood_ca(&line).assert_ok();
                    let leaf = out.join("server.crt");
                    assert_pair(&out.join("server.key"), &leaf);
                    assert_leaves_verify(&out.join("trust.crt"), LeafKind::Server, &[leaf]);
                    issued.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Even if a rotation fails, the issuers must come to an end.
        let _end = SetWhenDropped(&over);
        for round in 0..MOST {
            let enough = round >= rounds && issued.load(Ordering::SeqCst) >= LEAVES;
            if enough || over.load(Ordering::SeqCst) {
                return;
            }
            rotate();
        }
        panic!("too few leaves were issued during {MOST} rotations");
    });
}

fn rotate_once(home: &Home) {
    for step in ["--prepare", "--activate", "--retire --force"] {
        home.ood_ca(&format!("rotate {step}")).assert_ok();
    }
}

#[test]
fn leaves_are_issued_without_error_while_the_authority_is_rotated() {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    let before = State::of(&home.pki());
    issue_while(&[&home, &home, &home], 6, || rotate_once(&home));
    let after = State::of(&home.pki());
    assert_ne!(after.signer, before.signer);
    assert!(after.trusts_only_signer(), "{after:?}");
}

#[test]
fn leaves_are_issued_without_error_while_another_host_rotates() {
    let two = TwoHosts::new();
    let [one, other] = &two.hosts;
    one.ood_ca("init").assert_ok();
    issue_while(&[other, other], 4, || {
        two.mounts[1].serve_stale_lookups(3);
        rotate_once(one);
    });
}

#[test]
fn leaves_are_issued_without_error_during_emergencies() {
    let home = Home::of_somebody();
    home.ood_ca("init").assert_ok();
    issue_while(&[&home, &home], 6, || {
        home.ood_ca("rotate --emergency").assert_ok();
    });
    let after = State::of(&home.pki());
    assert!(after.client_matches && after.client_trusted);
}

fn assert_works(two: &TwoHosts) -> State {
    let pki = two.pki_at_server();
    for host in &two.hosts {
        host.ood_ca("renew").assert_ok();
        host.ood_ca("issue --host n001 --out .").assert_ok();
    }
    let state = State::of(&pki);
    assert!(state.is_sound(), "{state:?}");
    state
}

/// Lets what is held up go on, also when the test fails: a process that waits
/// for its server cannot even be killed.
struct HealWhenDropped<'a>(&'a FaultyMount);

impl Drop for HealWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

/// Takes a step on one host and holds it up before its first, second, … change
/// of a name, lets another host act meanwhile, and lets the first go on.
fn held_up_anywhere(
    before: &[&str],
    step: &str,
    elsewhere: &[&str],
    judge: impl Fn(&State, &State),
) {
    const MOST: u32 = 40;
    for nth in 0..MOST {
        let two = TwoHosts::new();
        let [slow, other] = &two.hosts;
        slow.ood_ca("init").assert_ok();
        for line in before {
            slow.ood_ca(line).assert_ok();
        }
        let old = State::of(&two.pki_at_server());
        two.mounts[0].hang_after(nth, Op::Rename, "");
        let (running, held_up) = start_held_up(slow, &two.mounts[0], step);
        let _heal = HealWhenDropped(&two.mounts[0]);
        if !held_up {
            assert!(nth > 0, "{step} changes nothing");
            return;
        }
        for line in elsewhere {
            other.ood_ca(line).assert_ok();
        }
        two.mounts[0].heal();
        // That it fails is no harm; what it leaves behind may be.
        let outcome = running.wait();
        let what = format!("{step}, held up at change {nth}, against {elsewhere:?}: {outcome}");
        let new = explained(&what, || assert_works(&two));
        explained(&what, || judge(&old, &new));
    }
    panic!("{step} makes more than {MOST} changes");
}

/// Says what was being tried if `look` fails.
fn explained<T>(what: &str, look: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).unwrap_or_else(|failure| {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("this failed after: {what}");
        }
        std::panic::resume_unwind(failure)
    })
}

const STEPS: &[(&[&str], &str)] = &[
    (&[], "renew --force"),
    (&[], "rotate --prepare"),
    (&["rotate --prepare"], "rotate --activate"),
    (
        &["rotate --prepare", "rotate --activate"],
        "rotate --retire --force",
    ),
    (&[], "rotate --emergency"),
];

#[test]
fn a_step_that_comes_late_does_not_undo_an_emergency() {
    for (before, step) in STEPS {
        held_up_anywhere(before, step, &["rotate --emergency"], |old, new| {
            let revived = new.trust.intersection(&old.trust).next();
            assert_eq!(revived, None, "what an emergency ended is trusted again");
            assert!(
                !new.has_client_key_of(old),
                "a client key that may be known is used again"
            );
        });
    }
}

#[test]
fn a_step_that_comes_late_does_not_undo_a_rotation() {
    let rotation = [
        "rotate --prepare", "rotate --activate", "rotate --retire --force",
    ];
    let cases: [(&[&str], &str, &[&str]); 4] = [
        (&[], "renew --force", &rotation),
        (&[], "rotate --prepare", &rotation),
        (&rotation[..1], "rotate --activate", &rotation[1..]),
        (&rotation[..2], "rotate --retire --force", &rotation[2..]),
    ];
    for (before, step, elsewhere) in cases {
        held_up_anywhere(before, step, elsewhere, |old, new| {
            let gone = if before.len() == 2 {
                old.other().unwrap()
            } else {
                &old.signer
            };
            assert!(
                !new.trust.contains(gone),
                "what was retired is trusted again"
            );
            assert!(
                new.has_client_key_of(old),
                "a rotation keeps the client's key"
            );
        });
    }
}

#[test]
fn a_step_that_comes_late_amid_a_rotation_finds_the_first_authoritys_key() {
    for step in ["renew --force", "rotate --prepare"] {
        let elsewhere = ["rotate --prepare", "rotate --activate"];
        held_up_anywhere(&[], step, &elsewhere, |old, new| {
            assert!(new.trust.contains(&old.signer), "nobody has retired it");
            assert!(new.has_client_key_of(old), "a rotation keeps it");
        });
    }
}

/// Starts a step; whether it is held up before it ends.
fn start_held_up(home: &Home, mount: &FaultyMount, line: &str) -> (Running, bool) {
    // It is held up for as long as the others take.
    let command = home.command(line.split_whitespace());
    let mut running = command.limit(Duration::from_secs(180)).start();
    let what = "the step ends or is held up";
    let held_up = eventually(what, Duration::from_secs(60), || {
        let held_up = mount.hanging() > 0;
        (held_up || running.has_ended()).then_some(held_up)
    });
    (running, held_up)
}

#[test]
fn a_step_that_tidies_up_late_takes_no_key_that_is_about_to_sign() {
    const MOST: u32 = 20;
    for nth in 0..MOST {
        let two = TwoHosts::new();
        let [one, other] = &two.hosts;
        one.ood_ca("init").assert_ok();
        // One has read what is trusted and is about to look for what is not.
        two.mounts[1].hang_after(nth, Op::ReadDir, "");
        let (tidies, held_up) = start_held_up(other, &two.mounts[1], "rotate --retire");
        let _heal_other = HealWhenDropped(&two.mounts[1]);
        if !held_up {
            assert!(nth > 0, "it looks for nothing");
            return;
        }
        one.ood_ca("rotate --prepare").assert_ok();
        // The other has seen that the new key is there, and not said yet that it signs.
        two.mounts[0].hang(Op::Rename, "trust.crt");
        let (activates, held_up) = start_held_up(one, &two.mounts[0], "rotate --activate");
        let _heal_one = HealWhenDropped(&two.mounts[0]);
        assert!(held_up);
        two.mounts[1].heal();
        let tidied = tidies.wait();
        two.mounts[0].heal();
        let activated = activates.wait();
        let what = format!("held up at look {nth}: {tidied}{activated}");
        explained(&what, || assert_works(&two));
    }
    panic!("it looks around more than {MOST} times");
}

#[test]
fn an_emergency_and_a_step_that_come_late_to_each_other_end_what_was_known() {
    const MOST: u32 = 40;
    for (before, step) in STEPS {
        for nth in 0..=MOST {
            assert!(nth < MOST, "an emergency makes more than {MOST} changes");
            let two = TwoHosts::new();
            let [slow, other] = &two.hosts;
            slow.ood_ca("init").assert_ok();
            for line in *before {
                slow.ood_ca(line).assert_ok();
            }
            let old = State::of(&two.pki_at_server());
            two.mounts[0].hang_after(nth, Op::Rename, "");
            let (emergency, held_up) = start_held_up(slow, &two.mounts[0], "rotate --emergency");
            let _heal_one = HealWhenDropped(&two.mounts[0]);
            if !held_up {
                break;
            }
            // Has read what was there, and is about to say what it makes of it.
            two.mounts[1].hang(Op::Rename, "trust.crt");
            let (late, _) = start_held_up(other, &two.mounts[1], step);
            let _heal_other = HealWhenDropped(&two.mounts[1]);
            two.mounts[0].heal();
            let ended = emergency.wait();
            two.mounts[1].heal();
            let what = format!("held up at change {nth}: {ended}{}", late.wait());
            explained(&what, || {
                let new = assert_works(&two);
                assert!(new.trust.is_disjoint(&old.trust), "it is trusted again");
                assert!(!new.has_client_key_of(&old), "its key may be known");
            });
        }
    }
}

#[test]
fn an_emergency_ends_what_is_only_being_prepared() {
    // Its key is on disk under a temporary name; its certificate is not; it is not trusted.
    for nth in [0, 1, 2] {
        let two = TwoHosts::new();
        let [slow, other] = &two.hosts;
        slow.ood_ca("init").assert_ok();
        two.mounts[0].hang_after(nth, Op::Rename, "");
        let (prepares, held_up) = start_held_up(slow, &two.mounts[0], "rotate --prepare");
        let _heal = HealWhenDropped(&two.mounts[0]);
        assert!(held_up);
        other.ood_ca("rotate --emergency").assert_ok();
        let replaced = State::of(&two.pki_at_server());
        two.mounts[0].heal();
        let outcome = prepares.wait();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        let new = assert_works(&two);
        assert!(new.trusts_only_signer(), "{outcome}");
        assert_eq!(new.signer, replaced.signer);
    }
}

#[test]
fn an_emergency_ends_what_another_step_has_put_aside_too() {
    let two = TwoHosts::new();
    let [slow, other] = &two.hosts;
    slow.ood_ca("init").assert_ok();
    two.mounts[0].hang(Op::Rename, "trust.crt");
    let (prepares, held_up) = start_held_up(slow, &two.mounts[0], "rotate --prepare");
    let _heal = HealWhenDropped(&two.mounts[0]);
    assert!(held_up);
    // As a third one does that looks whether they are still needed.
    let pki = two.pki_at_server();
    let signer = fs::read(pki.join("ca.crt")).unwrap();
    let signer = Certificate::from_pem(&signer).unwrap().serial().to_string();
    let mut aside = 0;
    for file in fs::read_dir(&pki).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let serial = own_file(&name, ".key").or(own_file(&name, ".crt"));
        if serial.is_some_and(|serial| serial != signer) {
            let to = pki.join(format!(".tmp-{name}-0123456789abcdef"));
            fs::rename(pki.join(name), to).unwrap();
            aside += 1;
        }
    }
    assert_eq!(aside, 2);
    other.ood_ca("rotate --emergency").assert_ok();
    let replaced = State::of(&pki);
    two.mounts[0].heal();
    let outcome = prepares.wait();
    explained(&outcome.to_string(), || {
        let new = assert_works(&two);
        assert!(new.trusts_only_signer(), "a key that may be known");
        assert_eq!(new.signer, replaced.signer);
    });
}

#[test]
fn a_key_that_a_killed_step_has_put_aside_is_found() {
    let two = TwoHosts::new();
    let [one, other] = &two.hosts;
    for line in ["init", "rotate --prepare"] {
        one.ood_ca(line).assert_ok();
    }
    let before = State::of(&two.pki_at_server());
    let pki = two.pki_at_server();
    let files = fs::read_dir(&pki).unwrap();
    let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    let own: Vec<String> = names.filter(|n| own_file(n, ".key").is_some()).collect();
    assert_eq!(own.len(), 2, "{own:?}");
    for name in own {
        let aside = pki.join(format!(".tmp-{name}-0123456789abcdef"));
        fs::rename(pki.join(name), aside).unwrap();
    }
    for line in [
        "rotate --activate", "renew --force", "rotate --retire --force",
    ] {
        other.ood_ca(line).assert_ok();
    }
    assert_eq!(&assert_works(&two).signer, before.other().unwrap());
}

#[test]
fn a_step_that_comes_late_does_not_lose_a_step_taken_elsewhere() {
    for (before, step) in STEPS {
        for elsewhere in ["renew --force", "rotate --prepare"] {
            if before.is_empty() || elsewhere == "renew --force" {
                held_up_anywhere(before, step, &[elsewhere], |_, _| ());
            }
        }
    }
}
