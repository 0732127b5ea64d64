//! Who is let in.

use std::io::{Read, Write};
use std::net::TcpStream;

use ca_core::{Rotation, TlsMin};
use ood_ca_tests::eventually;
use ood_relay::IngressOptions;

use crate::setup::{App, PATIENCE, Pki, Tls, get, tcp_mode};

#[test]
fn only_a_client_leaf_of_the_users_own_authority_is_let_in() {
    let (alice, bob) = (Pki::new(), Pki::new());
    let app = App::plain();
    for options in [IngressOptions::default(), tcp_mode()] {
        let ingress = alice.ingress(&app, options);
        // Each presents a leaf and trusts what alice trusts, so that only what
        // the ingress thinks of the client decides.
        for (leaf, reason) in [
            (None, "no-certificate"),
            (Some(bob.client()), "unknown-authority"),
            (Some(alice.server()), "wrong-purpose"),
            (Some(bob.server()), "wrong-purpose"),
            (Some(alice.expired_client()), "expired"),
        ] {
            let before = app.connections();
            let config = alice.client_config(leaf.as_ref());
            let mut tls = Tls::connect(ingress.address, &config).unwrap();
            drop(tls.write_all(get("/").as_bytes()));
            let mut all = Vec::new();
            let error = tls.read_to_end(&mut all).unwrap_err().to_string();
            assert!(error.contains("fatal alert"), "{reason}: {error}");
            assert_eq!(all, b"", "{reason}");
            assert_eq!(app.connections(), before, "{reason}: the app saw it");
            let line = ingress.expect_line(&format!("reason={reason}"));
            assert!(line.starts_with("refused peer=127.0.0.1:"), "{line}");
        }
        assert_eq!(ingress.get("/").text(), "hello");
        assert_eq!(ingress.handle.stats().refused, 5);
    }
}

#[test]
fn what_is_not_tls_is_told_apart() {
    let alice = Pki::new();
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    let mut plain = TcpStream::connect(ingress.address).unwrap();
    plain.write_all(get("/").as_bytes()).unwrap();
    let mut all = Vec::new();
    drop(plain.read_to_end(&mut all));
    ingress.expect_line("reason=not-tls");
    drop(TcpStream::connect(ingress.address).unwrap());
    ingress.expect_line("reason=broken-off");
}

#[test]
fn tls_1_2_is_let_in_only_where_it_is_allowed() {
    let alice = Pki::new();
    let old = alice.client_speaking(&[&rustls::version::TLS12], Some(&alice.client()));
    let modern = alice.ingress(&App::plain(), IngressOptions::default());
    assert!(Tls::connect(modern.address, &old).is_err());
    modern.expect_line("reason=incompatible");

    let options = IngressOptions {
        tls_min: TlsMin::V1_2,
        ..IngressOptions::default()
    };
    let app = App::plain();
    let lenient = alice.ingress(&app, options);
    let mut tls = Tls::connect(lenient.address, &old).unwrap();
    tls.write_all(get("/").as_bytes()).unwrap();
    tls.read_until(b"hello");
    assert_eq!(lenient.get("/").text(), "hello", "1.3 counts as well");
    // And the older version is no way around the rules.
    for leaf in [None, Some(alice.server()), Some(Pki::new().client())] {
        let config = alice.client_speaking(&[&rustls::version::TLS12], leaf.as_ref());
        assert!(Tls::connect(lenient.address, &config).is_err());
    }
}

#[test]
fn an_authority_that_leaves_takes_its_connections_and_tickets_along() {
    for options in [IngressOptions::default(), tcp_mode()] {
        let alice = Pki::new();
        let app = App::plain();
        let ingress = alice.ingress(&app, options);
        let ask = |tls: &mut Tls| {
            tls.write_all(get("/").as_bytes()).unwrap();
            tls.read_until(b"hello");
        };
        let mut open = ingress.connect();
        ask(&mut open);
        let mut again = ingress.connect();
        ask(&mut again);
        assert!(again.was_resumed(), "tickets should work at all");

        let rotation = Rotation::new(&alice.location, &alice.site);
        rotation.emergency(ca_core::now()).unwrap();
        for tls in [&mut open, &mut again] {
            assert!(tls.is_closed());
        }
        ingress.expect_line("is no longer trusted");
        ingress.expect_line("reloaded trust bundle");
        eventually("they are gone", PATIENCE, || {
            (ingress.handle.stats().open == 0).then_some(())
        });
        // The ticket is of no use now, and neither is the leaf.
        let mut late = Tls::connect(ingress.address, &ingress.config).unwrap();
        assert!(!late.was_resumed());
        drop(late.write_all(get("/").as_bytes()));
        assert!(late.read_to_end(&mut Vec::new()).is_err());
        ingress.expect_line("reason=unknown-authority");

        // Who has a leaf of the new authority is let in; the ingress still
        // answers with a leaf of the old one until it gets another.
        ingress.handle.replace_identity(alice.identity());
        let fresh = alice.client_config(Some(&alice.client()));
        ask(&mut Tls::connect(ingress.address, &fresh).unwrap());
    }
}

#[test]
fn a_connection_of_an_authority_that_stays_goes_on() {
    let alice = Pki::new();
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    let mut open = ingress.connect();
    let rotation = Rotation::new(&alice.location, &alice.site);
    rotation.prepare(ca_core::now()).unwrap();
    ingress.expect_line("reloaded trust bundle");
    open.write_all(get("/").as_bytes()).unwrap();
    open.read_until(b"hello");
}
