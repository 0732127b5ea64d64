//! Who reaches whom: user, authority, host and expiry, in both directions, with
//! every program that stands in front of an app.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ca_core::{HostName, LeafRequest, UserName};
use ood_ca_tests::nginx::{LeafPaths, Pun, Response, Setup, World};
use ood_ca_tests::{Run, require_tool};

use crate::ends::{End, GREETING, KINDS, Kind, knock};
use crate::job::Job;

fn greeted(answer: &Response) -> bool {
    assert_eq!(
        answer.status == 200,
        answer.text() == GREETING,
        "{}",
        answer.text()
    );
    answer.status == 200
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

#[test]
fn the_pun_talks_only_to_the_users_own_job_on_that_host() {
    let world = World::new();
    let (alice, bob) = (world.alice(), world.bob());
    let pun = Pun::start(&world, &alice, &Setup::new());
    let right = alice.leaf("right", "--host n2.cluster.test --ip 127.0.0.2");
    // A job of bob's that would let alice in.
    let lets_in = |leaf: LeafPaths| LeafPaths {
        trust: right.trust.clone(),
        ..leaf
    };
    let client = alice.client_leaf();
    for kind in KINDS {
        let cases = [
            ("hers", "n2", true, right.clone()),
            (
                "hers, by its full name",
                "n2.cluster.test",
                true,
                right.clone(),
            ),
            ("hers, by address", "127.0.0.2", true, right.clone()),
            (
                "another user's",
                "n2",
                false,
                lets_in(bob.leaf("bobs", "--host n2.cluster.test")),
            ),
            (
                "for another host",
                "n2",
                false,
                alice.leaf("other", "--host n3.cluster.test"),
            ),
            (
                "for a host below",
                "n2",
                false,
                alice.leaf("below", "--host x.n2.cluster.test"),
            ),
            (
                "for another address",
                "127.0.0.2",
                false,
                alice.leaf("addr", "--ip 127.0.0.3"),
            ),
            (
                "for the name, by address",
                "127.0.0.2",
                false,
                alice.leaf("named", "--host n2.cluster.test"),
            ),
            (
                "for the address, by name",
                "n2",
                false,
                alice.leaf("ip", "--ip 127.0.0.2"),
            ),
            ("for no host", "n2", false, alice.leaf("any", "--any-host")),
            (
                "expired",
                "n2",
                false,
                alice.expired_leaf("old", &LeafRequest::server([host("n2.cluster.test")])),
            ),
            ("a client's", "n2", false, client.clone()),
        ];
        for (what, name, reached, leaf) in cases {
            let end = End::start(kind, &world, "127.0.0.2", &leaf);
            for form in ["proxy", "rproxy"] {
                let answer = pun.get(&format!("/pun/{form}/{name}/{}/", end.port));
                assert_eq!(
                    greeted(&answer),
                    reached,
                    "{kind:?}, {what}: {}\n{}",
                    answer.text(),
                    pun.log()
                );
                if !reached {
                    assert_eq!(
                        (answer.status, answer.page().as_deref()),
                        (502, Some("starting")),
                        "{kind:?}, {what}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_job_talks_only_to_the_pun_of_its_user() {
    let world = World::new();
    let (alice, bob) = (world.alice(), world.bob());
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let client = |name: &str| LeafRequest::client(UserName::parse(name).unwrap());
    let callers = [
        ("alice", true, Some(alice.client_leaf())),
        ("nobody", false, None),
        ("bob", false, Some(bob.client_leaf())),
        (
            "alice, expired",
            false,
            Some(alice.expired_leaf("old", &client("alice"))),
        ),
        ("a server's leaf", false, Some(leaf.clone())),
        ("self-signed", false, Some(self_signed(&world))),
    ];
    for kind in KINDS {
        let end = End::start(kind, &world, "127.0.0.2", &leaf);
        for (who, welcome, leaf) in &callers {
            let answer = knock("127.0.0.2", end.port, leaf.as_ref());
            assert_eq!(
                answer.contains(GREETING),
                *welcome,
                "{kind:?}, {who}: {answer}"
            );
        }
    }
}

fn self_signed(world: &World) -> LeafPaths {
    let (key, certificate) = (world.path("self.key"), world.path("self.crt"));
    Run::new(require_tool("openssl"))
        .args([
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", "/CN=alice", "-days", "2",
        ])
        .args([
            "-keyout".as_ref(),
            key.as_os_str(),
            "-out".as_ref(),
            certificate.as_os_str(),
        ])
        .output()
        .assert_ok();
    LeafPaths {
        key,
        trust: certificate.clone(),
        certificate,
    }
}

#[test]
fn neither_user_reaches_the_others_job_even_when_they_know_each_others_authority() {
    let world = World::new();
    let (alice, bob) = (world.alice(), world.bob());
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    // bob's PUN as bob would like it: it trusts alice's authority.
    std::fs::copy(alice.home.pki().join("trust.crt"), bob.trust_file()).unwrap();
    let honest = Pun::start(&world, &alice, &Setup::new());
    let nosy = Pun::start(&world, &bob, &Setup::new());
    for kind in KINDS {
        let end = End::start(kind, &world, "127.0.0.2", &leaf);
        let target = format!("/pun/proxy/n2/{}/", end.port);
        assert!(greeted(&honest.get(&target)));
        let answer = nosy.get(&target);
        assert!(!greeted(&answer), "{kind:?} let bob in");
        // nginx as a job answers itself, over TLS.
        let expected = if kind == Kind::Nginx { 400 } else { 502 };
        assert_eq!(answer.status, expected, "{kind:?}: {}", answer.text());
        if kind != Kind::Nginx {
            assert_eq!(answer.page().as_deref(), Some("refused"), "{kind:?}");
        }
    }
}

#[test]
fn a_stolen_leaf_serves_only_where_it_was_issued_for() {
    let world = World::new();
    let alice = world.alice();
    let setup =
        Setup::new().with("allow_hosts: [127.0.0.2, 127.0.0.3, n2.cluster.test, n3.cluster.test]");
    let pun = Pun::start(&world, &alice, &setup);
    let leaf = alice.leaf("job", "--host n2.cluster.test --ip 127.0.0.2");
    let at_home = Job::plain("127.0.0.2:0", &leaf);
    let elsewhere = Job::plain("127.0.0.3:0", &leaf);
    for (job, host, reached) in [
        (&at_home, "n2", true),
        (&at_home, "127.0.0.2", true),
        (&elsewhere, "n3", false),
        (&elsewhere, "127.0.0.3", false),
    ] {
        let answer = pun.get(&format!("/pun/proxy/{host}/{}/", job.port()));
        assert_eq!(answer.status == 200, reached, "{host}");
    }
    assert_eq!((at_home.count(), elsewhere.count()), (2, 0));
}

#[test]
fn a_site_can_ask_only_whose_job_it_is() {
    let world = World::new();
    let (alice, bob) = (world.alice(), world.bob());
    let pun = Pun::start(&world, &alice, &Setup::new().with("verify_host: user"));
    let any = alice.leaf("any", "--any-host");
    let theirs = LeafPaths {
        trust: any.trust.clone(),
        ..bob.leaf("any", "--any-host")
    };
    for (leaf, reached) in [(&any, true), (&theirs, false)] {
        let job = Job::plain("127.0.0.2:0", leaf);
        for host in ["n2", "127.0.0.2"] {
            let answer = pun.get(&format!("/pun/proxy/{host}/{}/", job.port()));
            assert_eq!(answer.status == 200, reached, "{host}");
        }
    }
}

#[test]
fn tls_1_2_only_where_the_site_allows_it() {
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let script = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.load_cert_chain(sys.argv[2], sys.argv[3])
server = socket.create_server((sys.argv[1], 0))
print("port", server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    try:
        tls = context.wrap_socket(connection, server_side=True)
        tls.recv(65536)
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        tls.close()
    except OSError:
        pass
"#;
    let mut old = ood_ca_tests::tls::Server::start(
        ood_ca_tests::tls::python_with("ssl"),
        [
            "-c".as_ref(),
            script.as_ref(),
            "127.0.0.2".as_ref(),
            leaf.certificate.as_os_str(),
            leaf.key.as_os_str(),
        ],
    );
    let port = old.expect("the port is known", |said| {
        said.strip_prefix("port ")?
            .lines()
            .next()?
            .parse::<u16>()
            .ok()
    });
    for (keys, status) in [("", 502), ("tls_min: 1.2", 200)] {
        let pun = Pun::start(&world, &alice, &Setup::new().with(keys));
        assert_eq!(
            pun.get(&format!("/pun/proxy/n2/{port}/")).status,
            status,
            "{keys}"
        );
    }
}

#[test]
fn a_renewal_under_load_costs_no_request_and_needs_no_reload() {
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let job = Job::plain("127.0.0.2:0", &leaf);
    let pun = Arc::new(Pun::start(&world, &alice, &Setup::new()));
    let target = format!("/pun/proxy/n2/{}/", job.port());
    let pid = pun.pid();
    let (over, good) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (pun, over, good, target) = (
                Arc::clone(&pun),
                Arc::clone(&over),
                Arc::clone(&good),
                target.clone(),
            );
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let answer = pun.get(&target);
                    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), pun.log());
                    good.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let certificate = alice.client_leaf().certificate;
    let mut seen = std::collections::BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end || good.load(Ordering::SeqCst) < 200 || seen.len() <= 20 {
        alice.home.ood_ca("renew --force").assert_ok();
        seen.insert(std::fs::read(&certificate).unwrap());
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert!(seen.len() > 20, "{} renewals", seen.len());
    assert_eq!(pun.pid(), pid);
}

#[test]
fn a_rotation_goes_through_its_phases_without_losing_a_job() {
    let world = World::new();
    let alice = world.alice();
    let mut pun = Pun::start(&world, &alice, &Setup::new());
    let reaches = |pun: &Pun, job: &Job| {
        let answer = pun.get(&format!("/pun/proxy/n2/{}/", job.port()));
        answer.status == 200
    };
    let before = Job::plain(
        "127.0.0.2:0",
        &alice.leaf("before", "--host n2.cluster.test"),
    );
    assert!(reaches(&pun, &before));

    alice.home.ood_ca("rotate --prepare").assert_ok();
    let prepared = Job::plain(
        "127.0.0.2:0",
        &alice.leaf("prepared", "--host n2.cluster.test"),
    );
    assert!(reaches(&pun, &before) && reaches(&pun, &prepared));
    // The PUN loads the new bundle, as the hook makes it.
    alice.copy_trust();
    pun.restart();
    assert!(reaches(&pun, &before) && reaches(&pun, &prepared));

    alice.home.ood_ca("rotate --activate").assert_ok();
    let activated = Job::plain(
        "127.0.0.2:0",
        &alice.leaf("activated", "--host n2.cluster.test"),
    );
    assert!(
        reaches(&pun, &prepared),
        "a job that knows both authorities"
    );
    assert!(reaches(&pun, &activated), "a job of the new authority");

    alice.home.ood_ca("rotate --retire --force").assert_ok();
    let retired = Job::plain(
        "127.0.0.2:0",
        &alice.leaf("retired", "--host n2.cluster.test"),
    );
    assert!(reaches(&pun, &retired) && reaches(&pun, &activated));
    alice.copy_trust();
    pun.restart();
    assert!(reaches(&pun, &retired) && reaches(&pun, &activated));
    assert!(
        !reaches(&pun, &before) && !reaches(&pun, &prepared),
        "the old authority counts no more"
    );
}

#[test]
fn an_emergency_cuts_off_the_old_authority_once_the_pun_is_restarted() {
    let world = World::new();
    let alice = world.alice();
    let mut pun = Pun::start(&world, &alice, &Setup::new());
    let job = Job::plain(
        "127.0.0.2:0",
        &alice.leaf("before", "--host n2.cluster.test"),
    );
    let target = format!("/pun/proxy/n2/{}/", job.port());
    assert_eq!(pun.get(&target).status, 200);
    alice.home.ood_ca("rotate --emergency").assert_ok();
    // The job of the stolen authority does not know the new client leaf.
    assert_eq!(pun.get(&target).page().as_deref(), Some("refused"));
    alice.copy_trust();
    pun.restart();
    assert_eq!(pun.get(&target).page().as_deref(), Some("starting"));
    let job = Job::plain(
        "127.0.0.2:0",
        &alice.leaf("after", "--host n2.cluster.test"),
    );
    assert_eq!(
        pun.get(&format!("/pun/proxy/n2/{}/", job.port())).status,
        200
    );
}

#[test]
fn own_certificate_trouble_has_a_page_of_its_own() {
    let world = World::new();
    let alice = world.alice();
    let job = Job::plain("127.0.0.2:0", &alice.leaf("job", "--host n2.cluster.test"));
    let pun = Pun::start(&world, &alice, &Setup::new());
    let target = format!("/pun/proxy/n2/{}/", job.port());
    let certificate = alice.client_leaf().certificate;
    let good = std::fs::read(&certificate).unwrap();
    for bad in [
        Vec::new(),
        b"garbage".to_vec(),
        good[..good.len() / 2].to_vec(),
    ] {
        std::fs::write(&certificate, &bad).unwrap();
        let answer = pun.get(&target);
        assert_eq!(
            (answer.status, answer.page().as_deref()),
            (500, Some("certificate"))
        );
    }
    std::fs::remove_file(&certificate).unwrap();
    for method in ["GET", "POST"] {
        let answer = pun.request(method, &target, &[], b"");
        assert_eq!(
            (answer.status, answer.page().as_deref()),
            (500, Some("certificate"))
        );
    }
    std::fs::write(&certificate, &good).unwrap();
    assert_eq!(pun.get(&target).status, 200);
    assert_eq!(job.count(), 1);
}
