//! A gibibyte each way, compared byte by byte.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;

use ood_relay::IngressOptions;

use crate::setup::{App, PATIENCE, Pki, read_head, tcp_mode};

const SIZE: usize = 1024 * 1024 * 1024;

/// Bytes whose order counts: no piece of a power of two repeats.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..1_000_003).map(|_| next()).collect()
}

fn send(to: &mut impl Write) -> std::io::Result<()> {
    let pattern = pattern();
    let mut left = SIZE;
    while left > 0 {
        let n = left.min(pattern.len());
        to.write_all(&pattern[..n])?;
        left -= n;
    }
    to.flush()
}

fn receive(from: &mut impl Read) {
    let pattern = pattern();
    let mut part = vec![0; 256 * 1024];
    let mut at = 0;
    while at < SIZE {
        let most = part
            .len()
            .min(pattern.len() - at % pattern.len())
            .min(SIZE - at);
        let n = from.read(&mut part[..most]).unwrap();
        assert!(n > 0, "it ended after {at} bytes");
        let from = at % pattern.len();
        assert!(part[..n] == pattern[from..from + n], "wrong near {at}");
        at += n;
    }
}

#[test]
fn http_uploads_and_downloads_arrive_intact() {
    let alice = Pki::new();
    let app = App::new(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            if head.starts_with("GET") {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                send(&mut stream).unwrap();
            } else {
                receive(&mut stream);
                stream
                    .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
                    .unwrap();
            }
        }
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    let head = format!("PUT /up HTTP/1.1\r\nHost: n1\r\nContent-Length: {SIZE}\r\n\r\n");
    tls.write_all(head.as_bytes()).unwrap();
    send(&mut tls).unwrap();
    tls.read_until(b"\r\n\r\nok");
    tls.write_all(b"GET /down HTTP/1.1\r\nHost: n1\r\n\r\n")
        .unwrap();
    read_head(&mut tls).unwrap();
    receive(&mut tls);
    assert_eq!(app.connections(), 1);
    let line = ingress.expect_line("GET /down");
    assert!(line.contains(&format!("out={SIZE}")), "{line}");
}

#[test]
fn tcp_carries_both_ways_at_once_intact() {
    let alice = Pki::new();
    let (got, gets) = mpsc::channel();
    let got = Mutex::new(got);
    let app = App::new(move |mut stream| {
        let mut other = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| send(&mut other).unwrap());
            receive(&mut stream);
        });
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        got.lock().unwrap().send(()).unwrap();
    });
    let ingress = alice.ingress(&app, tcp_mode());
    // One stream for both directions has no two threads: send as the other
    // side sends, a piece of each in turn.
    let mut tls = ingress.connect();
    let pattern = pattern();
    let mut part = vec![0; 64 * 1024];
    let (mut sent, mut read) = (0, 0);
    while sent < SIZE || read < SIZE {
        if sent < SIZE {
            let from = sent % pattern.len();
            let n = part.len().min(pattern.len() - from).min(SIZE - sent);
            tls.write_all(&pattern[from..from + n]).unwrap();
            sent += n;
        }
        if read < SIZE {
            let from = read % pattern.len();
            let most = part.len().min(pattern.len() - from);
            let n = tls.read(&mut part[..most]).unwrap();
            assert!(n > 0, "it ended after {read} bytes");
            assert!(part[..n] == pattern[from..from + n], "wrong near {read}");
            read += n;
        }
    }
    gets.recv_timeout(PATIENCE).unwrap();
    tls.finish_writing();
    assert_eq!(tls.read(&mut part).unwrap(), 0);
    ingress.expect_line("end=finished");
}
