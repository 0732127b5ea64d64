//! Messages that two programs could read in two ways.

use std::io::{Read, Write};

use ood_ca_tests::nginx::{find, parse_response};
use ood_relay::IngressOptions;

use crate::setup::{App, Pki, get};

/// What would be a request of its own if somebody took it for one.
pub(crate) const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: n1\r\n\r\n";

/// Requests that are refused as they stand: a name, and their bytes.
pub(crate) fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let head = "POST /outer HTTP/1.1\r\nHost: n1\r\n";
    let with = |fields: &str, body: &str| format!("{head}{fields}\r\n{body}").into_bytes();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let length = INNER.len();
    vec![
        (
            "CL.TE",
            with(
                &format!("Content-Length: {}\r\n{chunked}", length + 5),
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "TE.CL",
            with(
                &format!("{chunked}Content-Length: 4\r\n"),
                &format!("{length:x}\r\n{INNER}\r\n0\r\n\r\n"),
            ),
        ),
        (
            "CL twice",
            with(
                &format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
                INNER,
            ),
        ),
        (
            "CL twice the same",
            with("Content-Length: 1\r\nContent-Length: 1\r\n", "x"),
        ),
        (
            "CL list",
            with(&format!("Content-Length: 0, {length}\r\n"), INNER),
        ),
        (
            "CL sign",
            with(&format!("Content-Length: +{length}\r\n"), INNER),
        ),
        (
            "CL space",
            with(&format!("Content-Length : {length}\r\n"), INNER),
        ),
        (
            "TE twice",
            with(
                &format!("{chunked}Transfer-Encoding: identity\r\n"),
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "TE list",
            with(
                "Transfer-Encoding: identity, chunked\r\n",
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "TE misspelt",
            with(
                "Transfer-Encoding: xchunked\r\n",
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "TE vertical tab",
            with(
                "Transfer-Encoding: \u{b}chunked\r\n",
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "TE space",
            with(
                "Transfer-Encoding : chunked\r\n",
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "TE folded",
            with(
                "Transfer-Encoding:\r\n chunked\r\n",
                &format!("0\r\n\r\n{INNER}"),
            ),
        ),
        (
            "folded",
            with(&format!("X: a\r\n Content-Length: {length}\r\n"), INNER),
        ),
        (
            "bare LF",
            format!("GET /outer HTTP/1.1\nHost: n1\n\n{INNER}").into_bytes(),
        ),
        (
            "bare LF in one line",
            with("X: a\nContent-Length: 5\r\n", ""),
        ),
        ("bare CR", with("X: a\rContent-Length: 5\r\n", "")),
        ("NUL", with("X: a\0b\r\n", "")),
        ("NUL in a name", with("X\0Y: a\r\n", "")),
        ("two hosts", with("Host: n2\r\n", "")),
        ("no host", b"GET /outer HTTP/1.1\r\n\r\n".to_vec()),
        (
            "absolute form",
            b"GET http://n2/outer HTTP/1.1\r\nHost: n1\r\n\r\n".to_vec(),
        ),
        (
            "space in the target",
            b"GET /outer HTTP/1.1 HTTP/1.1\r\nHost: n1\r\n\r\n".to_vec(),
        ),
        (
            "fragment",
            b"GET /outer#x HTTP/1.1\r\nHost: n1\r\n\r\n".to_vec(),
        ),
        ("HTTP/0.9", b"GET /outer\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        (
            "1.0 and chunks",
            format!("POST /outer HTTP/1.0\r\n{chunked}\r\n0\r\n\r\n{INNER}").into_bytes(),
        ),
        ("no colon", with("Whatever\r\n", "")),
        ("empty name", with(": a\r\n", "")),
    ]
}

#[test]
fn what_could_be_read_in_two_ways_reaches_no_app() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    for (name, request) in refused() {
        for after_a_good_one in [false, true] {
            let mut tls = ingress.connect();
            if after_a_good_one {
                tls.write_all(get("/good").as_bytes()).unwrap();
                tls.read_until(b"hello");
                assert!(app.one().starts_with("GET /good "));
            }
            drop(tls.write_all(&request));
            let mut all = Vec::new();
            // Refused, closed, and the refusal arrives though not everything
            // that was sent has been read.
            tls.read_to_end(&mut all)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let answer = parse_response(&all);
            assert_eq!(answer.status, 400, "{name}: {}", answer.text());
            assert_eq!(answer.header("Connection"), Some("close"), "{name}");
            assert!(app.seen().is_empty(), "{name} reached the app");
        }
    }
    ingress.expect_line("user=alice reason=bad-request: Content-Length and Transfer-Encoding");
}

#[test]
fn broken_chunks_end_the_connection_and_the_request() {
    let alice = Pki::new();
    for chunks in [
        format!("{:x}\nX", INNER.len()),
        format!("0\r\n\n{INNER}"),
        format!("3\r\nabcd\r\n0\r\n\r\n{INNER}"),
        format!("0x3\r\nabc\r\n0\r\n\r\n{INNER}"),
        format!("-1\r\n{INNER}"),
        format!("3;a\nb\r\nabc\r\n0\r\n\r\n{INNER}"),
        format!("ffffffffffffffff1\r\n{INNER}"),
        format!("3 \r\nabc\r\n0\r\n\r\n{INNER}"),
        format!("0\r\nX: a\n\r\n{INNER}"),
        format!("0\r\n folded\r\n\r\n{INNER}"),
    ] {
        let app = App::plain();
        let ingress = alice.ingress(&app, IngressOptions::default());
        let mut tls = ingress.connect();
        let head = "POST /outer HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n";
        drop(tls.write_all(format!("{head}{chunks}").as_bytes()));
        let mut all = Vec::new();
        drop(tls.read_to_end(&mut all));
        assert_eq!(parse_response(&all).status, 400, "{chunks:?}");
        assert_eq!(all.windows(5).filter(|w| *w == b"HTTP/").count(), 1);
        let seen = app.seen().concat();
        assert!(!seen.contains("smuggled"), "{chunks:?}: {seen}");
        ingress.expect_line("reason=bad-request");
    }
}

#[test]
fn an_upgrade_that_the_app_declines_opens_nothing() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: n1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    // What comes behind it is the next request, judged as any other.
    tls.write_all(format!("{upgrade}GET /next HTTP/1.1\r\nX_Y: a\r\n\r\n").as_bytes())
        .unwrap();
    let mut all = Vec::new();
    tls.read_to_end(&mut all).unwrap();
    assert!(find(&all, b"hello").is_some());
    assert!(find(&all, b"400 Bad Request").is_some(), "without Host");
    assert!(app.one().starts_with("GET /ws "));
}

#[test]
fn an_app_cannot_change_the_protocol_by_itself() {
    let alice = Pki::new();
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let other = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
    let asks = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    for (answer, fields) in [
        (switching, ""),
        (other, asks),
        (other, "Upgrade: h2c\r\nConnection: Upgrade\r\n"),
        (switching, "Upgrade: websocket\r\n"),
        (
            switching,
            "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n",
        ),
    ] {
        let app = App::http(move |_| answer.as_bytes().to_vec());
        let ingress = alice.ingress(&app, IngressOptions::default());
        let reply = ingress.ask(&format!("GET / HTTP/1.1\r\nHost: n1\r\n{fields}\r\n"));
        assert_eq!(reply.status, 502, "{fields:?} {answer:?}");
    }
    // With a body it is no request for a WebSocket.
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    ingress.ask(&format!(
        "GET / HTTP/1.1\r\nHost: n1\r\n{asks}Content-Length: 1\r\n\r\nx"
    ));
    assert!(!app.one().contains("websocket"));
}
