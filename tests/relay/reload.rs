//! Files that change, and files that are broken.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ca_core::Rotation;
use ood_ca_tests::{Run, eventually, repeatedly, require_tool};
use ood_relay::{Identity, IngressOptions};

use crate::setup::{App, PATIENCE, Pki, Running, Tls, get};

/// In one step, so that nobody sees half of it.
fn replace(file: &Path, content: &[u8]) {
    let aside = file.with_extension("aside");
    fs::write(&aside, content).unwrap();
    fs::rename(aside, file).unwrap();
}

/// Looks that an ingress of these tests takes, at least.
fn looks(count: u32) -> Duration {
    Duration::from_millis(10) * count
}

#[test]
fn a_broken_trust_bundle_keeps_the_old_one_and_says_so_once() {
    let alice = Pki::new();
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    let file = alice.path(".ood/pki/trust.crt");
    let good = fs::read(&file).unwrap();
    for broken in [
        b"".as_slice(),
        b"garbage",
        &good[..good.len() / 2],
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let before = ingress.lines().len();
        replace(&file, broken);
        let said = |part: &str| {
            let lines = ingress.lines();
            lines[before..].iter().filter(|l| l.contains(part)).count()
        };
        eventually("it says so", PATIENCE, || {
            (said("not reloaded trust bundle") == 1).then_some(())
        });
        // Nobody is any worse off, and it is not said again.
        repeatedly_for(looks(10), || assert_eq!(ingress.get("/").status, 200));
        assert_eq!(
            said("not reloaded trust bundle"),
            1,
            "{:?}",
            ingress.lines()
        );
        replace(&file, &good);
        eventually("it is well again", PATIENCE, || {
            (said("reloaded trust bundle") == 2).then_some(())
        });
    }
    // Away altogether.
    let pki = alice.path(".ood/pki");
    fs::rename(&pki, alice.path("away")).unwrap();
    ingress.expect_line("there is no certificate authority");
    assert_eq!(ingress.get("/").status, 200);
    fs::rename(alice.path("away"), &pki).unwrap();
}

/// Does something for a while, at least once.
fn repeatedly_for(time: Duration, mut act: impl FnMut()) {
    let deadline = std::time::Instant::now() + time;
    repeatedly(|| std::time::Instant::now() > deadline, |_| act());
}

#[test]
fn a_bundle_of_the_same_size_and_time_is_seen_to_differ() {
    let (alice, bob) = (Pki::new(), Pki::new());
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    let file = alice.path(".ood/pki/trust.crt");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, fs::read(bob.path(".ood/pki/trust.crt")).unwrap()).unwrap();
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(time)
        .unwrap();
    ingress.expect_line("reloaded trust bundle");
}

#[test]
fn a_renewed_leaf_is_taken_up_and_a_broken_one_is_not() {
    let alice = Pki::new();
    let dir = alice.path("leaf");
    fs::create_dir(&dir).unwrap();
    alice.server().write(&dir);
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    let identity = Identity::from_files(&certificate, &key).unwrap();
    let before = identity.certificate().fingerprint();
    let app = App::plain();
    let ingress = Running::start(
        &alice,
        identity,
        alice.trust(),
        app.address,
        IngressOptions::default(),
    );
    let mut open = ingress.connect();
    open.write_all(get("/").as_bytes()).unwrap();
    open.read_until(b"hello");

    fs::write(&key, "garbage").unwrap();
    ingress.expect_line("not reloaded leaf");
    assert_eq!(ingress.get("/").status, 200);
    alice.client().write(&dir);
    ingress.expect_line("it is a client leaf");
    assert_eq!(ingress.get("/").status, 200);

    alice.server().write(&dir);
    let served = || {
        let mut tls = Tls::connect(ingress.address, &alice.client_config(Some(&alice.client())));
        tls.as_mut().unwrap().server_leaf().fingerprint()
    };
    eventually("the new leaf answers", PATIENCE, || {
        (served() != before).then_some(())
    });
    open.write_all(get("/").as_bytes()).unwrap();
    open.read_until(b"hello");
    let said = format!("{:?}", ingress.events());
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

#[test]
fn reloads_under_load_fail_no_request() {
    let alice = Pki::new();
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    // Phases of a rotation that keep the first authority.
    let rotation = Rotation::new(&alice.location, &alice.site);
    let done = AtomicBool::new(false);
    let over = || done.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for kept in [true, false, true] {
            let (ingress, over) = (&ingress, &over);
            clients.push(scope.spawn(move || {
                let mut tls = ingress.connect();
                repeatedly(over, |_| {
                    if !kept {
                        tls = ingress.connect();
                    }
                    tls.write_all(get("/").as_bytes()).unwrap();
                    tls.read_until(b"hello");
                })
            }));
        }
        rotation.prepare(ca_core::now()).unwrap();
        ingress.expect_line("reloaded trust bundle");
        for _ in 0..20 {
            ingress.handle.replace_identity(alice.identity());
            std::thread::sleep(looks(1));
        }
        rotation.activate(true, ca_core::now()).unwrap();
        eventually("again", PATIENCE, || {
            let lines = ingress.lines();
            let count = lines
                .iter()
                .filter(|l| l.contains("reloaded trust"))
                .count();
            (count == 2).then_some(())
        });
        done.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
}

#[test]
fn a_leaf_that_cannot_be_read_keeps_no_authority_in() {
    let alice = Pki::new();
    let dir = alice.path("leaf");
    fs::create_dir(&dir).unwrap();
    alice.server().write(&dir);
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    let identity = Identity::from_files(&certificate, &key).unwrap();
    let options = IngressOptions::default();
    let ingress = Running::start(
        &alice,
        identity,
        alice.trust(),
        App::plain().address,
        options,
    );
    fs::remove_file(&certificate).unwrap();
    Run::new(require_tool("mkfifo"))
        .args([&certificate])
        .output()
        .assert_ok();
    ingress.expect_line("not reloaded leaf");
    let rotation = Rotation::new(&alice.location, &alice.site);
    rotation.emergency(ca_core::now()).unwrap();
    ingress.expect_line("is no longer trusted");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let alice = Pki::new();
    let dir = alice.path("leaf");
    fs::create_dir(&dir).unwrap();
    alice.server().write(&dir);
    let key = dir.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Identity::from_files(dir.join("server.crt"), &key).unwrap_err();
    assert!(error.to_string().contains("server.key"), "{error}");
}
