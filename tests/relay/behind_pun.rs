//! The whole way: a real nginx as the PUN, the ingress, an app.

use std::io::Write;

use ca_core::{Certificate, PrivateKey, TrustBundle};
use ood_ca_tests::nginx::{Pun, Setup, User, World, request_bytes};
use ood_relay::{Headers, Identity, IngressOptions, TrustSource};

use crate::setup::{App, Pki, Running, values};
use crate::smuggling;

/// An ingress with a leaf of this user's, on the host that the PUN calls `n2`.
pub(crate) fn ingress(user: &User, app: &App, options: IngressOptions) -> Running {
    let leaf = user.leaf("job", "--host n2.cluster.test");
    // The files are the user's, and this process is root's.
    let read = |path| std::fs::read(path).unwrap();
    let certificate = Certificate::from_pem(&read(&leaf.certificate)).unwrap();
    let key = PrivateKey::from_pem(&read(&leaf.key)).unwrap();
    let identity = Identity::new(certificate, &key).unwrap();
    let bundle = TrustBundle::from_pem(&std::fs::read(&leaf.trust).unwrap()).unwrap();
    // Nobody connects but nginx, so that any client's configuration will do.
    let config = Pki::new().client_config(None);
    Running::on(
        "127.0.0.2:0",
        identity,
        TrustSource::Fixed(bundle),
        app.address,
        options,
        config,
    )
}

fn options() -> IngressOptions {
    IngressOptions {
        headers: Headers::new().with("X-Site-Token", "hush").unwrap(),
        ..IngressOptions::default()
    }
}

#[test]
fn a_request_arrives_with_the_headers_that_the_app_may_trust() {
    let world = World::new();
    let alice = world.alice();
    let app = App::plain();
    let ingress = ingress(&alice, &app, options());
    let pun = Pun::start(&world, &alice, &Setup::new());
    let port = ingress.address.port();
    let forged = [
        ("X-Forwarded-User", "eve"),
        ("X_Forwarded_User", "eve"),
        ("X-Site-Token", "eve"),
        ("X_Site_Token", "eve"),
        ("X-Client-Cert-Subject", "eve"),
        ("Connection", "X-Site-Token, X-Forwarded-User"),
    ];
    for (form, path) in [
        ("proxy", format!("/pun/proxy/n2/{port}/lab?x=1")),
        ("rproxy", "/lab?x=1".to_owned()),
    ] {
        let target = format!("/pun/{form}/n2/{port}/lab?x=1");
        let answer = pun.request("POST", &target, &forged, b"body");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        let head = app.one();
        assert!(
            head.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
            "{head}"
        );
        assert!(!head.contains("eve"), "{head}");
        assert_eq!(values(&head, "X-Forwarded-User"), ["alice"]);
        assert_eq!(values(&head, "X-Site-Token"), ["hush"]);
        assert_eq!(values(&head, "X-Forwarded-Proto"), ["https"]);
        assert_eq!(values(&head, "Host"), ["portal.test"]);
    }
    let line = ingress.expect_line("request peer=");
    assert!(
        line.contains("user=alice") || line.contains("user=nobody"),
        "{line}"
    );
}

#[test]
fn another_users_pun_is_refused() {
    let world = World::new();
    let (alice, bob) = (world.alice(), world.bob());
    let app = App::plain();
    let ingress = ingress(&alice, &app, options());
    // He even trusts her authority, so that his nginx takes her for his own.
    std::fs::copy(alice.trust_file(), bob.trust_file()).unwrap();
    let pun = Pun::start(&world, &bob, &Setup::new());
    let target = format!("/pun/proxy/n2/{}/", ingress.address.port());
    assert_eq!(pun.get(&target).status, 502);
    ingress.expect_line("reason=unknown-authority");
    assert!(app.seen().is_empty());
}

#[test]
fn nothing_is_smuggled_through_both() {
    let world = World::new();
    let alice = world.alice();
    let app = App::plain();
    let ingress = ingress(&alice, &app, options());
    let pun = Pun::start(&world, &alice, &Setup::new());
    let target = format!("/pun/rproxy/n2/{}/outer", ingress.address.port());
    let inner = smuggling::INNER.replace(
        "/smuggled",
        &format!("/pun/rproxy/n2/{}/smuggled", ingress.address.port()),
    );
    for (name, request) in smuggling::refused() {
        let text = String::from_utf8_lossy(&request).into_owned();
        let text = text
            .replace("/outer", &target)
            .replace(smuggling::INNER, &inner)
            .replace("n1\r", "portal.test\r");
        let mut stream = pun.connect();
        drop(stream.write_all(text.as_bytes()));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut all = Vec::new();
        drop(std::io::Read::read_to_end(&mut stream, &mut all));
        let seen = app.seen();
        // nginx mends some of these; then one request arrives, in one reading.
        assert!(seen.len() <= 1, "{name}: {seen:?}");
        assert!(!seen.concat().contains("smuggled"), "{name}: {seen:?}");
        for head in seen {
            let lengths = values(&head, "Content-Length").len();
            let codings = values(&head, "Transfer-Encoding").len();
            assert!(lengths + codings <= 1, "{name}: {head}");
        }
    }
    // An oversized head stops at one of the two.
    let large = "a".repeat(100 * 1024);
    let request = request_bytes("GET", &target, &[("X-Large", &large)], b"");
    let mut stream = pun.connect();
    drop(stream.write_all(&request));
    let mut all = Vec::new();
    drop(std::io::Read::read_to_end(&mut stream, &mut all));
    assert!(app.seen().is_empty());
}
