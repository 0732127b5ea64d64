//! What lasts and what is large, and what the user sees when nobody answers.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ood_ca_tests::nginx::{Pun, Setup, World, find, parse_response, request_bytes};
use ood_ca_tests::tls::Silent;

use crate::job::{Job, Tls, ok};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the PUN knows as `n2`.
const N2: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[test]
fn a_websocket_carries_bytes_both_ways_as_they_come() {
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let job = Job::start("127.0.0.2:0", &leaf, |_, tls| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        tls.get_mut().write_all(head.as_bytes()).unwrap();
        tls.get_mut().flush().unwrap();
        let mut part = [0; 1024];
        while let Ok(n @ 1..) = tls.read(&mut part) {
            tls.get_mut().write_all(&part[..n]).unwrap();
            tls.get_mut().flush().unwrap();
        }
    });
    let pun = Pun::start(&world, &alice, &Setup::new());
    for form in ["proxy", "rproxy"] {
        let target = format!("/pun/{form}/n2/{}/ws?x=y", job.port());
        let mut stream = pun.connect();
        let headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Origin", "https://portal.test"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ];
        stream
            .write_all(&request_bytes("GET", &target, &headers, b""))
            .unwrap();
        let mut all = Vec::new();
        while find(&all, b"\r\n\r\n").is_none() {
            let mut part = [0; 1024];
            let n = stream.read(&mut part).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&all));
            all.extend(&part[..n]);
        }
        assert_eq!(parse_response(&all).status, 101);
        for message in [
            b"one".as_slice(),
            &[0x81, 0x05, 1, 2, 3, 4, 0xff],
            &[7; 1000],
        ] {
            stream.write_all(message).unwrap();
            let mut back = vec![0; message.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, message);
        }
        let seen = job.request();
        assert_eq!(seen.header("Connection"), Some("upgrade"));
        assert_eq!(
            seen.header("Sec-WebSocket-Key"),
            Some("dGhlIHNhbXBsZSBub25jZQ==")
        );
    }
}

#[test]
fn events_arrive_when_they_are_sent() {
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let job = Job::start("127.0.0.2:0", &leaf, move |_, tls| {
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        tls.get_mut().write_all(head.as_bytes()).unwrap();
        for n in 0..3 {
            let event = format!("data: {n}\n\n");
            tls.get_mut().write_all(event.as_bytes()).unwrap();
            tls.get_mut().flush().unwrap();
            // The next only when the browser has this one.
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
    });
    let pun = Pun::start(&world, &alice, &Setup::new());
    let mut stream = pun.connect();
    let target = format!("/pun/proxy/n2/{}/events", job.port());
    stream
        .write_all(&request_bytes("GET", &target, &[], b""))
        .unwrap();
    let mut all = Vec::new();
    for n in 0..3 {
        let wanted = format!("data: {n}\n\n");
        while find(&all, wanted.as_bytes()).is_none() {
            let mut part = [0; 1024];
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&all));
            all.extend(&part[..read]);
        }
        go.send(()).unwrap();
    }
}

fn files_below(dir: &std::path::Path) -> usize {
    let entries = fs::read_dir(dir).map(|d| d.flatten().collect::<Vec<_>>());
    let inside = entries
        .unwrap_or_default()
        .into_iter()
        .map(|e| match e.path() {
            path if path.is_dir() => files_below(&path),
            _ => 1,
        });
    inside.sum()
}

#[test]
fn uploads_and_downloads_pass_without_touching_the_disk() {
    const SIZE: usize = 64 * 1024 * 1024;
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let (began, first) = mpsc::channel::<usize>();
    let began = std::sync::Mutex::new(began);
    let job = Job::start("127.0.0.2:0", &leaf, move |request, tls| {
        match request.method.as_str() {
            "GET" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
                tls.get_mut().write_all(head.as_bytes()).unwrap();
                let part = vec![b'd'; 1024 * 1024];
                for _ in 0..SIZE / part.len() {
                    tls.get_mut().write_all(&part).unwrap();
                }
            }
            _ => {
                let mut left = SIZE;
                let mut part = vec![0; 1024 * 1024];
                let mut told = false;
                while left > 0 {
                    let n = tls.read(&mut part).unwrap();
                    assert!(n > 0 && part[..n].iter().all(|b| *b == b'u'));
                    left -= n;
                    if !told {
                        began.lock().unwrap().send(n).unwrap();
                        told = true;
                    }
                }
                tls.get_mut().write_all(&ok(b"got it")).unwrap();
            }
        }
    });
    let pun = Pun::start(&world, &alice, &Setup::new());
    let target = format!("/pun/rproxy/n2/{}/file", job.port());

    let mut stream = pun.connect();
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: portal.test\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let part = vec![b'u'; 1024 * 1024];
    stream.write_all(&part).unwrap();
    // The job has the beginning while most of it has not been sent.
    first.recv_timeout(PATIENCE).unwrap();
    for _ in 1..SIZE / part.len() {
        stream.write_all(&part).unwrap();
    }
    assert_eq!(
        ood_ca_tests::nginx::read_response(&mut stream).text(),
        "got it"
    );

    let answer = pun.get(&target);
    assert_eq!(answer.body.len(), SIZE);
    for tmp in ["tmp-body", "tmp-proxy"] {
        assert_eq!(files_below(&world.path("alice").join(tmp)), 0, "{tmp}");
    }
    let log = pun.log();
    assert!(!log.contains("buffered to a temporary file"), "{log}");
}

#[test]
fn methods_and_bodies_arrive_as_they_were_sent() {
    let world = World::new();
    let alice = world.alice();
    let job = Job::plain("127.0.0.2:0", &alice.leaf("job", "--host n2.cluster.test"));
    let pun = Pun::start(&world, &alice, &Setup::new());
    for form in ["proxy", "rproxy"] {
        let target = format!("/pun/{form}/n2/{}/api?q=%41", job.port());
        let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
            assert_eq!(
                pun.request(method, &target, &[], &body).status,
                200,
                "{method}"
            );
            let seen = job.request();
            assert_eq!((seen.method.as_str(), seen.body == body), (method, true));
        }
        assert_eq!(pun.request("HEAD", &target, &[], b"").status, 200);
        assert_eq!(job.request().method, "HEAD");
    }
}

#[test]
fn a_large_upload_gets_the_answer_it_deserves() {
    let world = World::new();
    let alice = world.alice();
    let pun = Pun::start(&world, &alice, &Setup::new());
    let body = vec![b'x'; 3 * 1024 * 1024];
    let huge = [("Content-Length", "99999999999999")];
    assert_eq!(
        pun.request("POST", "/pun/proxy/n2/22/", &[], &body).status,
        403
    );
    assert_eq!(
        pun.request("POST", "/pun/proxy/n2/22/", &huge, b"").status,
        403
    );
    assert_eq!(
        pun.request("POST", "/pun/proxy/n2/../22/", &huge, b"")
            .status,
        400
    );
}

/// The page of a failure, for every method.
#[track_caller]
fn fails(pun: &Pun, target: &str, status: u16, page: &str) {
    for method in ["GET", "POST", "PUT"] {
        let answer = pun.request(method, target, &[], b"");
        assert_eq!(
            (answer.status, answer.page().as_deref()),
            (status, Some(page)),
            "{method} {target}: {}\n{}",
            answer.text(),
            pun.log()
        );
        let policy = answer.header("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert_eq!(
            answer.header("Content-Type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    }
}

#[test]
fn each_failure_has_the_status_and_page_that_it_deserves() {
    let world = World::new();
    let alice = world.alice();
    // Short is only what is waited for.
    let with = |keys: &str| Pun::start(&world, &alice, &Setup::new().with(keys));
    let pun = with("connect_timeout: 1s");
    let leaf = alice.leaf("job", "--host n2.cluster.test");

    let nobody = Silent::at(N2);
    let port = nobody.address().port();
    fails(&pun, &format!("/pun/proxy/n2/{port}/"), 502, "starting");
    // Takes connections and says nothing.
    let _mute = TcpListener::bind(nobody.address()).unwrap();
    fails(&pun, &format!("/pun/proxy/n2/{port}/"), 504, "starting");
    // The nameserver of these tests does not answer either.
    fails(&pun, "/pun/proxy/n77/8888/", 502, "no-such-host");

    drop(pun);
    let pun = with("idle_timeout: 1s");
    let mute = Job::start("127.0.0.2:0", &leaf, |_, tls: &mut BufReader<&mut Tls>| {
        let mut rest = Vec::new();
        let _ = tls.read_to_end(&mut rest);
    });
    fails(
        &pun,
        &format!("/pun/proxy/n2/{}/", mute.port()),
        504,
        "slow",
    );
    drop(pun);
    let pun = with("");
    let hangs_up = Job::start("127.0.0.2:0", &leaf, |_, _| {});
    fails(
        &pun,
        &format!("/pun/proxy/n2/{}/", hangs_up.port()),
        502,
        "refused",
    );
}

#[test]
fn the_starting_page_gives_way_to_the_app() {
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let pun = Pun::start(&world, &alice, &Setup::new());
    let free = Silent::at(N2);
    let port = free.address().port();
    let target = format!("/pun/proxy/n2/{port}/lab");
    fails(&pun, &target, 502, "starting");
    let _job = Job::plain(&format!("127.0.0.2:{port}"), &leaf);
    // What its script asks.
    let headers = [
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Dest", "empty"),
    ];
    assert_eq!(pun.request("GET", &target, &headers, b"").status, 200);
}

#[test]
fn a_silent_connection_lives_as_long_as_the_site_says() {
    let world = World::new();
    let alice = world.alice();
    let leaf = alice.leaf("job", "--host n2.cluster.test");
    let job = Job::start("127.0.0.2:0", &leaf, |_, tls| {
        std::thread::sleep(Duration::from_secs(2));
        let _ = tls.get_mut().write_all(&ok(b"at last"));
    });
    let target = format!("/pun/proxy/n2/{}/", job.port());
    for (timeout, status) in [("10s", 200), ("1s", 504)] {
        let pun = Pun::start(
            &world,
            &alice,
            &Setup::new().with(&format!("idle_timeout: {timeout}")),
        );
        let began = Instant::now();
        assert_eq!(pun.get(&target).status, status, "{timeout}");
        assert!(began.elapsed() >= Duration::from_secs(1));
    }
}
