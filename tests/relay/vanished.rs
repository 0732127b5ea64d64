//! Clients that leave without a word, and clients that take their time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread::sleep;
use std::time::Duration;

use ood_ca_tests::eventually;
use ood_relay::{IngressOptions, Mode, Timeouts};

use crate::setup::{App, Pki, Running, Tls, get, read_head, tcp_mode};

/// Longer than a connection is left without a look, twice.
const NOTICED: Duration = Duration::from_secs(30);

/// An app that takes a request, answers `said`, and then reads nothing more.
fn deaf_app(said: &'static str) -> App {
    let kept: Mutex<Vec<TcpStream>> = Mutex::default();
    App::new(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(said.as_bytes());
        kept.lock().unwrap().push(stream);
    })
}

/// Sends until nothing more is taken. Each piece of a record waits for its time.
fn flood(tls: &mut Tls) {
    tls.set_write_timeout(Duration::from_millis(20));
    // A record that does not leave makes rustls look whether anything has come.
    tls.set_read_timeout(Duration::from_millis(20));
    let part = vec![7; 256 * 1024];
    while tls.write_all(&part).is_ok() {}
}

fn all_are_let_go(ingress: &Running, many: usize) {
    eventually("they are in", NOTICED, || {
        (ingress.handle.stats().accepted == many as u64).then_some(())
    });
    eventually("none is kept", NOTICED, || {
        (ingress.handle.stats().open == 0).then_some(())
    });
}

#[test]
fn an_upload_that_is_broken_off_ends_also_where_the_app_does_not_read() {
    let alice = Pki::new();
    let app = deaf_app("");
    let ingress = alice.ingress(&app, IngressOptions::default());
    for _ in 0..3 {
        let mut tls = ingress.connect();
        tls.write_all(b"POST /up HTTP/1.1\r\nHost: n1\r\nContent-Length: 1000000000\r\n\r\n")
            .unwrap();
        flood(&mut tls);
        tls.reset();
    }
    all_are_let_go(&ingress, 3);
    let line = ingress.expect_line("POST /up");
    assert!(line.contains(" incomplete"), "{line}");
}

#[test]
fn so_does_a_connection_and_a_websocket() {
    let alice = Pki::new();
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let ask = "GET /ws HTTP/1.1\r\nHost: n1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    for (options, said, line) in [
        (tcp_mode(), "\r\n\r\n", "end=broken"),
        (IngressOptions::default(), switch, "status=101"),
    ] {
        let app = deaf_app(said);
        let ingress = alice.ingress(&app, options);
        let mut tls = ingress.connect();
        tls.write_all(ask.as_bytes()).unwrap();
        tls.read_until(b"\r\n\r\n");
        flood(&mut tls);
        tls.reset();
        all_are_let_go(&ingress, 1);
        ingress.expect_line(line);
    }
}

#[test]
fn who_has_said_everything_is_still_there() {
    let alice = Pki::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    // It takes longer than a look is away, and then reads and answers.
    let app = App::new(move |mut stream| {
        wait.lock().unwrap().recv_timeout(NOTICED).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        write!(stream, "{} bytes", all.len()).unwrap();
    });
    let ingress = alice.ingress(&app, tcp_mode());
    let mut tls = ingress.connect();
    tls.write_all(&[7; 100_000]).unwrap();
    tls.finish_writing();
    sleep(Duration::from_secs(12));
    go.send(()).unwrap();
    tls.read_until(b"100000 bytes");
}

#[test]
fn a_download_waits_for_who_does_not_read_just_now_whatever_its_length() {
    let alice = Pki::new();
    let app = App::http(|head| {
        let size = head.split(' ').nth(1).unwrap()[1..].parse().unwrap();
        crate::setup::ok(&vec![b'x'; size])
    });
    let options = IngressOptions {
        timeouts: Timeouts {
            keep_alive: Duration::from_millis(500),
            ..Timeouts::default()
        },
        mode: Mode::Http,
        ..IngressOptions::default()
    };
    let ingress = alice.ingress(&app, options);
    // Of some of these lengths the last bytes are in nobody's hands but ours.
    let sizes = (1..=80).map(|n| n * 64 * 1024);
    let mut waiting: Vec<(usize, Tls)> = sizes
        .map(|size| {
            let mut tls = ingress.connect();
            tls.write_all(get(&format!("/{size}")).as_bytes()).unwrap();
            (size, tls)
        })
        .collect();
    sleep(Duration::from_secs(3));
    let told = ingress.lines().len();
    assert!(told < waiting.len(), "some must be too long to have left");
    for (size, tls) in &mut waiting {
        let head = read_head(tls).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut all = vec![0; *size];
        let whole = tls.read_exact(&mut all);
        assert!(whole.is_ok(), "of {size}: {whole:?}");
    }
    eventually("all are told", NOTICED, || {
        (ingress.lines().len() == waiting.len()).then_some(())
    });
    let lines = ingress.lines();
    assert!(
        lines.iter().all(|l| !l.contains("incomplete")),
        "{lines:#?}"
    );
}

#[test]
fn what_had_not_left_when_the_client_did_is_not_complete() {
    let alice = Pki::new();
    let app = App::http(|_| crate::setup::ok(&vec![b'x'; 64 * 1024 * 1024]));
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(get("/large").as_bytes()).unwrap();
    tls.read_until(b"\r\n\r\n");
    tls.reset();
    let line = ingress.expect_line("GET /large");
    assert!(line.contains(" incomplete"), "{line}");
}
