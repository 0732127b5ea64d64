//! Who asks too much, or is too slow.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ood_ca_tests::nginx::{parse_response, read_response};
use ood_ca_tests::{eventually, repeatedly};
use ood_relay::{IngressOptions, Limits, Mode, Timeouts};

use crate::setup::{App, PATIENCE, Pki, Tls, get, read_head, reasons};

/// Tells other threads to end, also when this one fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn with_limits(limits: Limits) -> IngressOptions {
    IngressOptions {
        limits,
        ..IngressOptions::default()
    }
}

fn with_timeouts(timeouts: Timeouts) -> IngressOptions {
    IngressOptions {
        timeouts,
        ..IngressOptions::default()
    }
}

#[test]
fn connections_beyond_the_cap_are_closed_and_summed_up() {
    let alice = Pki::new();
    let options = IngressOptions {
        limits: Limits {
            connections: 2,
            ..Limits::default()
        },
        timeouts: Timeouts {
            // All of them come within it.
            summary: Duration::from_secs(4),
            ..Timeouts::default()
        },
        ..IngressOptions::default()
    };
    let ingress = alice.ingress(&App::plain(), options);
    let mut open: Vec<Tls> = (0..2).map(|_| ingress.connect()).collect();
    eventually("both are in", PATIENCE, || {
        (ingress.handle.stats().open == 2).then_some(())
    });
    for _ in 0..5 {
        let refused = Tls::connect(ingress.address, &ingress.config);
        assert!(refused.is_err(), "a third was let in");
    }
    ingress.expect_line("refused 4 more");
    assert_eq!(reasons(&ingress.events()), ["too-many-connections"]);
    for tls in &mut open {
        tls.write_all(get("/").as_bytes()).unwrap();
        tls.read_until(b"hello");
    }
    drop(open);
    eventually("both are gone", PATIENCE, || {
        (ingress.handle.stats().open == 0).then_some(())
    });
    assert_eq!(ingress.get("/").status, 200);
}

#[test]
fn who_connects_and_says_nothing_keeps_nobody_out() {
    let alice = Pki::new();
    let options = IngressOptions {
        limits: Limits {
            handshakes: 4,
            ..Limits::default()
        },
        timeouts: Timeouts {
            handshake: 2 * PATIENCE,
            ..Timeouts::default()
        },
        ..IngressOptions::default()
    };
    let ingress = alice.ingress(&App::plain(), options);
    let mut established = ingress.connect();
    established.write_all(get("/").as_bytes()).unwrap();
    established.read_until(b"hello");

    let silent: Vec<TcpStream> = (0..12)
        .map(|_| TcpStream::connect(ingress.address).unwrap())
        .collect();
    // Who was there already notices nothing.
    let began = Instant::now();
    for _ in 0..20 {
        established.write_all(get("/").as_bytes()).unwrap();
        established.read_until(b"hello");
    }
    assert!(began.elapsed() < PATIENCE / 2);
    // And who comes now is served within a few half seconds, not when the
    // silent ones have run out of time.
    assert_eq!(ingress.get("/").status, 200);
    assert!(began.elapsed() < PATIENCE);
    assert!(reasons(&ingress.events()).contains(&"too-many-handshakes"));
    drop(silent);
}

#[test]
fn a_flood_of_handshakes_does_not_starve_who_is_in() {
    let alice = Pki::new();
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    let mut established = ingress.connect();
    let without = alice.client_config(None);
    let (enough, over) = (
        Instant::now() + Duration::from_secs(2),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        // Also when a request fails, the flood must come to an end.
        let _end = SetWhenDropped(&over);
        for _ in 0..4 {
            scope.spawn(|| {
                repeatedly(
                    || over.load(Ordering::SeqCst),
                    |_| drop(Tls::connect(ingress.address, &without)),
                );
            });
        }
        let (mut slowest, asked) = (Duration::ZERO, Cell::new(0));
        // Until there was a flood and enough was asked in it, however slow the machine.
        let enough_asked = || {
            let flood = ingress.handle.stats().refused > 50;
            Instant::now() > enough && flood && asked.get() > 20
        };
        repeatedly(enough_asked, |times| {
            asked.set(times + 1);
            let began = Instant::now();
            established.write_all(get("/").as_bytes()).unwrap();
            established.read_until(b"hello");
            slowest = slowest.max(began.elapsed());
        });
        assert!(slowest < PATIENCE / 2, "{slowest:?}");
    });
    // Not a line each.
    assert!(ingress.events().len() < 20_000);
    assert_eq!(ingress.get("/").status, 200);
}

#[test]
fn a_handshake_has_its_time() {
    let alice = Pki::new();
    let timeouts = Timeouts {
        handshake: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let ingress = alice.ingress(&App::plain(), with_timeouts(timeouts));
    let mut silent = TcpStream::connect(ingress.address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    ingress.expect_line("reason=timeout");
}

#[test]
fn a_head_has_its_time_however_it_drips() {
    let alice = Pki::new();
    let app = App::plain();
    let timeouts = Timeouts {
        head: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let ingress = alice.ingress(&app, with_timeouts(timeouts));
    let mut slow = ingress.connect();
    slow.set_read_timeout(Duration::from_millis(20));
    let mut all = Vec::new();
    let mut bytes = get("/").into_bytes();
    bytes.truncate(bytes.len() - 4);
    bytes.extend(b"x".repeat(10_000));
    let mut drops = bytes.iter();
    let began = Instant::now();
    loop {
        // Always one more byte, always before any timeout for reading.
        if let Some(byte) = drops.next() {
            let _ = slow.write_all(&[*byte]);
        }
        let mut part = [0; 1024];
        match slow.read(&mut part) {
            Ok(0) => break,
            Ok(n) => all.extend(&part[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        assert!(began.elapsed() < PATIENCE, "it is not cut");
    }
    assert_eq!(parse_response(&all).status, 408);
    ingress.expect_line("reason=bad-request: the request's head did not come in time");
    assert!(app.seen().is_empty());
}

#[test]
fn between_requests_there_is_a_time_too() {
    let alice = Pki::new();
    let timeouts = Timeouts {
        keep_alive: Duration::from_millis(500),
        ..Timeouts::default()
    };
    let ingress = alice.ingress(&App::plain(), with_timeouts(timeouts));
    let mut tls = ingress.connect();
    tls.write_all(get("/").as_bytes()).unwrap();
    tls.read_until(b"hello");
    assert!(tls.is_closed());
}

#[test]
fn nothing_that_moves_is_idle_and_all_else_ends() {
    let alice = Pki::new();
    for mode in [Mode::Http, Mode::Tcp] {
        let app = App::new(|mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            // Altogether longer than it may be idle, and each much less.
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(450));
                let _ = stream.write_all(b"tick");
            }
            // And then nothing more.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let options = IngressOptions {
            mode,
            timeouts: Timeouts {
                idle: Duration::from_secs(4),
                keep_alive: Duration::from_secs(4),
                ..Timeouts::default()
            },
            ..IngressOptions::default()
        };
        let ingress = alice.ingress(&app, options);
        let mut tls = ingress.connect();
        tls.write_all(get("/").as_bytes()).unwrap();
        let all = tls.read_until("tick".repeat(10).as_bytes());
        assert!(!all.is_empty());
        assert!(tls.is_closed());
        if mode == Mode::Tcp {
            ingress.expect_line("end=idle");
        }
    }
}

#[test]
fn heads_are_bounded_in_bytes_and_lines() {
    let alice = Pki::new();
    let app = App::plain();
    let limits = Limits {
        head_bytes: 8 * 1024,
        headers: 50,
        ..Limits::default()
    };
    let ingress = alice.ingress(&app, with_limits(limits));
    let long = format!(
        "GET / HTTP/1.1\r\nHost: n1\r\nX: {}\r\n\r\n",
        "a".repeat(8 * 1024)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: n1\r\n{}\r\n",
        "X: a\r\n".repeat(50)
    );
    let endless = format!("GET /{}", "a".repeat(1024 * 1024));
    for request in [&long, &many, &endless] {
        let mut tls = ingress.connect();
        drop(tls.write_all(request.as_bytes()));
        assert_eq!(read_response(&mut tls).status, 431);
        assert!(tls.is_closed());
    }
    assert!(app.seen().is_empty());
    // As large as it may be.
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: n1\r\nX: {}\r\n\r\n",
        "a".repeat(8 * 1024 - 100)
    );
    assert_eq!(ingress.ask(&fits).status, 200);
    // The default takes what any browser sends.
    let ingress = alice.ingress(&app, IngressOptions::default());
    let cookies = format!(
        "GET / HTTP/1.1\r\nHost: n1\r\nCookie: {}\r\n\r\n",
        "a".repeat(60 * 1024)
    );
    assert_eq!(ingress.ask(&cookies).status, 200);
}
