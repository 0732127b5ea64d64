//! WebSockets of a library that others wrote, at both ends.

use std::net::SocketAddr;
use std::path::Path;

use ood_ca_tests::Run;
use ood_ca_tests::nginx::{Pun, Setup, World};
use ood_ca_tests::tls::{Server, python_with};
use ood_relay::{Event, IngressOptions};

use crate::behind_pun;
use crate::setup::{App, Pki};

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
