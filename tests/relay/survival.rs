//! Ends: of the ingress, of one direction, of the app.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ood_ca_tests::eventually;
use ood_ca_tests::tls::Silent;
use ood_relay::{IngressOptions, Mode};

use crate::setup::{App, PATIENCE, Pki, Tls, get, ok, read_head, tcp_mode};

/// An app whose answer waits for the test.
fn patient_app() -> (App, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let (came, arrived) = mpsc::channel();
    let shared = Mutex::new((wait, came));
    let app = App::new(move |mut stream| {
        while read_head(&mut stream).is_some() {
            let shared = shared.lock().unwrap();
            shared.1.send(()).unwrap();
            let answer = match shared.0.recv_timeout(PATIENCE) {
                Ok(()) => ok(b"at last"),
                Err(_) => return,
            };
            drop(shared);
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    (app, go, arrived)
}

#[test]
fn what_runs_when_it_drains_is_finished() {
    let alice = Pki::new();
    let (app, go, arrived) = patient_app();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut idle = ingress.connect();
    let mut busy = ingress.connect();
    busy.write_all(get("/").as_bytes()).unwrap();
    arrived.recv_timeout(PATIENCE).unwrap();

    // A client's end of a handshake is not yet the server's.
    eventually("both are in", PATIENCE, || {
        (ingress.handle.stats().open == 2).then_some(())
    });
    ingress.handle.drain(PATIENCE);
    assert!(idle.is_closed(), "it has nothing to finish");
    ingress.expect_line("draining, ");
    assert!(TcpStream::connect(ingress.address).is_err());
    go.send(()).unwrap();
    let answer = busy.read_until(b"at last");
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(text.contains("connection: close"), "{text}");
    ingress.wait();
}

#[test]
fn a_drain_ends_at_its_limit_and_a_second_word_ends_it_at_once() {
    for (limit, second) in [(Duration::from_millis(100), false), (PATIENCE, true)] {
        for mode in [Mode::Http, Mode::Tcp] {
            let alice = Pki::new();
            let (app, _go, arrived) = patient_app();
            let options = IngressOptions {
                mode,
                ..IngressOptions::default()
            };
            let ingress = alice.ingress(&app, options);
            let mut busy = ingress.connect();
            busy.write_all(get("/").as_bytes()).unwrap();
            arrived.recv_timeout(PATIENCE).unwrap();
            let began = Instant::now();
            ingress.handle.drain(limit);
            ingress.expect_line("draining");
            if second {
                ingress.handle.stop();
            }
            ingress.wait();
            assert!(busy.is_closed());
            assert!(began.elapsed() < PATIENCE / 2);
        }
    }
}

#[test]
fn either_side_may_finish_first() {
    let alice = Pki::new();
    // The client first: the app answers when it has everything.
    let app = App::new(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let ingress = alice.ingress(&app, tcp_mode());
    let mut tls = ingress.connect();
    tls.write_all(b"drawer").unwrap();
    tls.finish_writing();
    let mut all = Vec::new();
    tls.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"reward");
    let line = ingress.expect_line("connection peer=");
    assert!(
        line.contains("in=6 out=6") && line.contains("end=finished"),
        "{line}"
    );

    // The app first: the client goes on.
    let (got, gets) = mpsc::channel();
    let got = Mutex::new(got);
    let app = App::new(move |mut stream| {
        stream.write_all(b"that is all").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        got.lock().unwrap().send(all).unwrap();
    });
    let ingress = alice.ingress(&app, tcp_mode());
    let mut tls = ingress.connect();
    let mut all = Vec::new();
    tls.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"that is all");
    tls.write_all(b"but not for me").unwrap();
    tls.finish_writing();
    assert_eq!(gets.recv_timeout(PATIENCE).unwrap(), b"but not for me");
}

#[test]
fn what_breaks_off_looks_broken_off_to_the_app() {
    let alice = Pki::new();
    let (how, tells) = mpsc::channel();
    let how = Mutex::new(how);
    let app = App::new(move |mut stream| {
        let end = stream.read_to_end(&mut Vec::new());
        how.lock().unwrap().send(end.map_err(|e| e.kind())).unwrap();
    });
    let ingress = alice.ingress(&app, tcp_mode());
    // Without a word of farewell, as a cut on the way would look.
    let mut tls = ingress.connect();
    tls.write_all(b"half a sen").unwrap();
    drop(tls);
    let end = tells.recv_timeout(PATIENCE).unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    ingress.expect_line("end=broken");
}

#[test]
fn an_app_that_dies_and_returns_is_found_again() {
    let alice = Pki::new();
    let silent = Silent::at(Ipv4Addr::LOCALHOST);
    let address = silent.address();
    let listener = TcpListener::bind(address).unwrap();
    // Answers one request and is gone, listener and all.
    let dies = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        read_head(&mut stream).unwrap();
        stream.write_all(&ok(b"hello")).unwrap();
    });
    let mut app = App::plain();
    app.address = address;
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    let mut ask = |method: &str| {
        let request = format!("{method} / HTTP/1.1\r\nHost: n1\r\nContent-Length: 0\r\n\r\n");
        tls.write_all(request.as_bytes()).unwrap();
        ood_ca_tests::nginx::read_response(&mut tls).status
    };
    assert_eq!(ask("GET"), 200);
    dies.join().unwrap();
    assert_eq!(ask("GET"), 502);
    assert_eq!(ask("POST"), 502);
    let again = TcpListener::bind(address).unwrap();
    let _app = App::at(again, |mut stream| {
        while read_head(&mut stream).is_some() {
            stream.write_all(&ok(b"hello")).unwrap();
        }
    });
    assert_eq!(ask("POST"), 200);
    assert_eq!(ask("GET"), 200);
}

#[test]
fn a_kept_connection_that_the_app_closes_fails_no_request() {
    let alice = Pki::new();
    // Says that it keeps the connection, and closes it when asked again.
    let app = App::new(|mut stream| {
        read_head(&mut stream);
        stream.write_all(&ok(b"hello")).unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls: Tls = ingress.connect();
    for _ in 0..20 {
        tls.write_all(get("/").as_bytes()).unwrap();
        assert_eq!(ood_ca_tests::nginx::read_response(&mut tls).status, 200);
    }
    assert_eq!(app.connections(), 20);
}

#[test]
fn an_app_that_is_not_there_ends_a_tcp_connection_with_a_reason() {
    let alice = Pki::new();
    let nobody = Silent::at(Ipv4Addr::LOCALHOST);
    let mut app = App::plain();
    app.address = nobody.address();
    let ingress = alice.ingress(&app, tcp_mode());
    assert!(ingress.connect().is_closed());
    ingress.expect_line("reason=app-unreachable");
    ingress.expect_line("end=app-unreachable");
}
