//! WebSockets of a library that others wrote, at both ends.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use ood_ca_tests::Run;
use ood_ca_tests::nginx::{Pun, Setup, World};
use ood_ca_tests::tls::{Server, python_with};
use ood_relay::{Event, IngressOptions};

use crate::behind_pun;
use crate::setup::{App, Pki, read_head, values};

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/relay/websocket_peer.py");

/// The server, until it is dropped, as an app.
fn echo() -> (Server, App) {
    let python = python_with("websockets");
    let (server, port) = Server::listening(
        python,
        || vec![PEER.to_owned(), "serve".to_owned()],
        |said| said.strip_prefix("port ")?.trim().parse::<u16>().ok(),
    );
    let mut app = App::plain();
    app.address = SocketAddr::from(([127, 0, 0, 1], port));
    (server, app)
}

fn torture(arguments: &[&str]) {
    let outcome = Run::new(python_with("websockets"))
        .args([PEER, "torture"])
        .args(arguments)
        .output()
        .assert_ok();
    assert_eq!(outcome.stdout.trim(), "all is well");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn messages_of_every_kind_pass_straight() {
    let alice = Pki::new();
    let (_server, app) = echo();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let pki = alice.path(".ood/pki");
    torture(&[
        &format!("wss://{}/ws?token=hush", ingress.address),
        text(&pki.join("trust.crt")),
        text(&pki.join("client.crt")),
        text(&pki.join("client.key")),
    ]);
    let upgraded = |e: &&Event| matches!(e, Event::Request(r) if r.upgraded);
    let events = ingress.events();
    let record = events.iter().find(upgraded).unwrap().to_string();
    assert!(record.contains("GET /ws status=101"), "{record}");
    assert!(!format!("{events:?}").contains("hush"));
}

#[test]
fn messages_of_every_kind_pass_the_pun_too() {
    let world = World::new();
    let alice = world.alice();
    let (_server, app) = echo();
    let ingress = behind_pun::ingress(&alice, &app, IngressOptions::default());
    let _pun = Pun::start(&world, &alice, &Setup::new());
    for form in ["proxy", "rproxy"] {
        torture(&[
            &format!(
                "ws://portal.test/pun/{form}/n2/{}/ws",
                ingress.address.port()
            ),
            text(&world.path("alice").join("pun.sock")),
        ]);
    }
}

#[test]
fn what_comes_right_behind_the_heads_is_not_lost() {
    let alice = Pki::new();
    let app = App::new(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert_eq!(values(&head, "Upgrade"), ["websocket"]);
        assert_eq!(values(&head, "Connection"), ["Upgrade"]);
        // In one piece with its head.
        let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\r\nfrom the app";
        stream.write_all(switching.as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    // Too early, as RFC 6455 has it, and still to be carried as it is.
    let early = "x".repeat(100_000);
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: n1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n{early}"
    );
    tls.write_all(request.as_bytes()).unwrap();
    tls.read_until(b"\r\n\r\nfrom the app");
    tls.finish_writing();
    let mut back = Vec::new();
    tls.read_to_end(&mut back).unwrap();
    assert!(back == early.as_bytes(), "{} bytes came back", back.len());
    let line = ingress.expect_line("GET /ws");
    assert!(
        line.contains("status=101 in=100000 out=100012") && line.ends_with(" upgraded"),
        "{line}"
    );
}
