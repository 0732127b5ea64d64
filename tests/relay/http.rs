//! Requests and answers as HTTP/1.1 wants them passed on.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

use ood_ca_tests::eventually;
use ood_ca_tests::nginx::{find, parse_response, read_response};
use ood_ca_tests::tls::Silent;
use ood_relay::{Event, IngressOptions, RequestRecord};

use crate::setup::{App, PATIENCE, Pki, get, ok, read_head, values};

#[test]
fn a_connection_serves_many_requests_on_both_sides() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    for n in 0..50 {
        tls.write_all(get(&format!("/{n}?x=%2F")).as_bytes())
            .unwrap();
        tls.read_until(b"hello");
        let head = app.one();
        assert!(
            head.starts_with(&format!("GET /{n}?x=%2F HTTP/1.1\r\n")),
            "{head}"
        );
    }
    assert_eq!(app.connections(), 1);
    // And when many come in one piece, each is answered in its turn.
    let burst: String = (0..20).map(|n| get(&format!("/p{n}"))).collect();
    tls.write_all(burst.as_bytes()).unwrap();
    let mut all: Vec<u8> = Vec::new();
    while all.windows(5).filter(|w| *w == b"hello").count() < 20 {
        let mut part = [0; 4096];
        let n = tls.read(&mut part).unwrap();
        assert!(n > 0);
        all.extend(&part[..n]);
    }
    let paths: Vec<String> = app.seen();
    assert!(
        paths
            .iter()
            .enumerate()
            .all(|(n, head)| head.starts_with(&format!("GET /p{n} ")))
    );
}

#[test]
fn the_log_has_a_line_for_each_request_and_no_query() {
    let alice = Pki::new();
    let ingress = alice.ingress(&App::plain(), IngressOptions::default());
    ingress.ask("POST /a/b?token=hush HTTP/1.1\r\nHost: n1\r\nAuthorization: hush\r\nCookie: hush\r\nContent-Length: 4\r\n\r\nbody");
    let line = ingress.expect_line("request peer=");
    assert!(
        line.contains(" user=alice POST /a/b status=200 in=4 out=5 seconds="),
        "{line}"
    );
    let all = format!("{:?}", ingress.events());
    assert!(!all.contains("hush"), "{all}");
    let [Event::Request(RequestRecord { complete: true, .. })] = &ingress.events()[..] else {
        panic!("{all}")
    };
}

#[test]
fn head_and_answers_without_a_body_have_none() {
    let alice = Pki::new();
    let app = App::http(|head| match head.split(' ').nth(1).unwrap() {
        "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n".to_vec(),
        _ => ok(b"next"),
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    for (request, wanted) in [
        (
            "HEAD /head HTTP/1.1\r\nHost: n1\r\n\r\n",
            "Content-Length: 1234",
        ),
        ("GET /204 HTTP/1.1\r\nHost: n1\r\n\r\n", "204 No Content"),
        ("GET /304 HTTP/1.1\r\nHost: n1\r\n\r\n", "ETag: \"x\""),
    ] {
        tls.write_all(request.as_bytes()).unwrap();
        let answer = tls.read_until(b"\r\n\r\n");
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            text.contains(wanted) && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        // Nothing was left of it: the connection is good for another.
        tls.write_all(get("/next").as_bytes()).unwrap();
        tls.read_until(b"\r\n\r\nnext");
    }
}

#[test]
fn a_body_of_unknown_length_passes_in_chunks_as_it_comes() {
    let alice = Pki::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let app = App::new(move |mut stream| {
        read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            .unwrap();
        for n in 0..3 {
            stream
                .write_all(format!("data: {n}\n\n").as_bytes())
                .unwrap();
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(get("/events").as_bytes()).unwrap();
    for n in 0..3 {
        tls.read_until(format!("data: {n}\n\n").as_bytes());
        go.send(()).unwrap();
    }
    tls.read_until(b"0\r\n\r\n");
}

#[test]
fn an_app_that_speaks_http_1_0_costs_the_client_neither_connection_nor_certainty() {
    let alice = Pki::new();
    let app = App::new(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        let answer: &[u8] = if head.starts_with("GET /known ") {
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        } else {
            b"HTTP/1.0 200 OK\r\n\r\nhello"
        };
        stream.write_all(answer).unwrap();
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    for (path, end) in [("/known", "hello"), ("/unknown", "0\r\n\r\n")] {
        for _ in 0..2 {
            tls.write_all(get(path).as_bytes()).unwrap();
            let answer = tls.read_until(end.as_bytes());
            let text = String::from_utf8_lossy(&answer);
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        }
    }
    // An older client gets what it understands.
    let answer = ingress.ask("GET /unknown HTTP/1.0\r\n\r\n");
    assert_eq!(answer.body, b"hello");
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let alice = Pki::new();
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let app = App::new(move |mut stream| {
            read_head(&mut stream);
            stream.write_all(head.as_bytes()).unwrap();
        });
        let ingress = alice.ingress(&app, IngressOptions::default());
        let mut tls = ingress.connect();
        tls.write_all(get("/").as_bytes()).unwrap();
        let mut all = Vec::new();
        drop(tls.read_to_end(&mut all));
        assert!(find(&all, b"abc").is_some());
        assert!(find(&all, b"\r\n0\r\n").is_none(), "it looks complete");
        ingress.expect_line(" incomplete");
    }
}

#[test]
fn a_body_is_sent_only_when_the_app_wants_it() {
    let alice = Pki::new();
    let request =
        "PUT /up HTTP/1.1\r\nHost: n1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    // One that asks for it.
    let app = App::new(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert_eq!(values(&head, "Expect"), ["100-continue"]);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(&ok(&body)).unwrap();
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(request.as_bytes()).unwrap();
    assert_eq!(
        tls.read_until(b"\r\n\r\n"),
        b"HTTP/1.1 100 Continue\r\n\r\n"
    );
    tls.write_all(b"body").unwrap();
    tls.read_until(b"\r\n\r\nbody");

    // One that says no: the body is never asked for.
    let app = App::new(|mut stream| {
        read_head(&mut stream);
        let no = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        stream.write_all(no).unwrap();
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    drop(tls.read_to_end(&mut all));
    assert_eq!(parse_response(&all).status, 413);

    // One that knows nothing of it: a second later the body is asked for.
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(request.as_bytes()).unwrap();
    tls.read_until(b"100 Continue\r\n\r\n");
    tls.write_all(b"body").unwrap();
    tls.read_until(b"hello");

    let other = "GET / HTTP/1.1\r\nHost: n1\r\nExpect: a-miracle\r\n\r\n";
    assert_eq!(ingress.ask(other).status, 417);
}

#[test]
fn trailers_pass_both_ways_and_bring_nothing_forged() {
    let alice = Pki::new();
    let app = App::new(|mut stream| {
        read_head(&mut stream);
        let mut all = Vec::new();
        let mut byte = [0];
        while !all.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            all.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&all).to_lowercase();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\nX-Sum: 42\r\n\r\n",
            text.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let options = IngressOptions {
        headers: ood_relay::Headers::new().with("X-Role", "user").unwrap(),
        ..IngressOptions::default()
    };
    let ingress = alice.ingress(&app, options);
    let mut tls = ingress.connect();
    tls.write_all(
        b"POST / HTTP/1.1\r\nHost: n1\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Hash, X-Role, X_Role, X-Forwarded-User, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\nabc\r\n0\r\nX-Hash: 7\r\nX-Role: admin\r\nX_Role: admin\r\nX-Forwarded-User: eve\r\nContent-Length: 5\r\n\r\n",
    )
    .unwrap();
    let answer =
        String::from_utf8(tls.read_until(b"\r\n\r\n0\r\nX-Sum: 42\r\n\r\n")).unwrap_or_default();
    // hyper may write names in lower case; the body holds what the app got.
    assert!(answer.contains("x-hash: 7"), "{answer}");
    for forged in ["admin", "eve", "content-length: 5"] {
        assert!(!answer.contains(forged), "{answer}");
    }
}

#[test]
fn interim_answers_stop_here_and_the_real_one_passes() {
    let alice = Pki::new();
    let app = App::http(|_| {
        let mut all = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
        all.extend(ok(b"real"));
        all
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let answer = ingress.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "real"));
}

#[test]
fn http_1_0_is_answered_in_its_own_way() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut all = Vec::new();
    drop(tls.read_to_end(&mut all));
    assert!(all.ends_with(b"\r\n\r\nhello"));
    assert!(app.one().starts_with("GET / HTTP/1.1\r\n"));
}

#[test]
fn when_the_client_leaves_the_app_learns_of_it() {
    let alice = Pki::new();
    let (left, learnt) = mpsc::channel();
    let left = std::sync::Mutex::new(left);
    let (came, arrived) = mpsc::channel();
    let came = std::sync::Mutex::new(came);
    let app = App::new(move |mut stream| {
        read_head(&mut stream);
        came.lock().unwrap().send(()).unwrap();
        // A long poll: nothing to say yet.
        let end = stream.read(&mut [0; 16]);
        left.lock()
            .unwrap()
            .send(matches!(end, Ok(0) | Err(_)))
            .unwrap();
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(get("/poll").as_bytes()).unwrap();
    arrived.recv_timeout(PATIENCE).unwrap();
    drop(tls);
    assert!(learnt.recv_timeout(PATIENCE).unwrap());
    let line = ingress.expect_line("GET /poll");
    assert!(line.contains("status=499"), "{line}");
}

#[test]
fn an_app_that_is_not_there_or_talks_nonsense_is_said_to() {
    let alice = Pki::new();
    let nobody = Silent::at(Ipv4Addr::LOCALHOST);
    let mut app = App::plain();
    app.address = nobody.address();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let answer = ingress.get("/");
    assert_eq!(answer.status, 502);
    assert_eq!(
        answer.header("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    let line = ingress.expect_line("status=502");
    assert!(line.contains("Connection refused"), "{line}");

    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n", "", "HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
    ] {
        let app = App::new(move |mut stream| {
            read_head(&mut stream);
            stream.write_all(nonsense.as_bytes()).unwrap();
        });
        let ingress = alice.ingress(&app, IngressOptions::default());
        assert_eq!(ingress.get("/").status, 502, "{nonsense:?}");
    }
}

#[test]
fn an_early_answer_does_not_let_the_body_become_a_request() {
    let alice = Pki::new();
    let app = App::new(|mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("POST /early"), "smuggled: {head}");
        stream.write_all(&ok(b"enough")).unwrap();
        // And reads no body.
        let _ = stream.read(&mut [0; 1]);
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let inner = get("/smuggled");
    let mut tls = ingress.connect();
    tls.write_all(
        format!(
            "POST /early HTTP/1.1\r\nHost: n1\r\nContent-Length: {}\r\n\r\n",
            inner.len()
        )
        .as_bytes(),
    )
    .unwrap();
    let answer = tls.read_until(b"enough");
    assert_eq!(parse_response(&answer).status, 200);
    drop(tls.write_all(inner.as_bytes()));
    let mut rest = Vec::new();
    drop(tls.read_to_end(&mut rest));
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    let events = ingress.events();
    assert!(!format!("{events:?}").contains("smuggled"), "{events:?}");
}

#[test]
fn methods_that_would_echo_or_tunnel_do_not_pass() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(b"TRACE / HTTP/1.1\r\nHost: n1\r\n\r\n")
        .unwrap();
    assert_eq!(read_response(&mut tls).status, 405);
    assert_eq!(
        ingress
            .ask("CONNECT n1:22 HTTP/1.1\r\nHost: n1:22\r\n\r\n")
            .status,
        400
    );
    assert_eq!(app.seen().len(), 0);
}

#[test]
fn a_target_passes_byte_for_byte() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    for target in [
        "/", "//", "//n2/a", "/a//b/../c/./d", "/?", "/a?", "/a?b?c", "/%2f%2E%2e/%00%0d%0a",
        "/a;b=c", "/a:b@c", "/a?x={y}&z=|", "/~a!$&'()*+,=", "/A%E9?%e9",
    ] {
        assert_eq!(ingress.get(target).status, 200, "{target}");
        let head = app.one();
        assert!(
            head.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{head}"
        );
    }
    assert_eq!(
        ingress.ask("OPTIONS * HTTP/1.1\r\nHost: n1\r\n\r\n").status,
        200
    );
    assert!(app.one().starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[test]
fn what_comes_behind_a_request_does_not_cut_its_answer_short() {
    const SIZE: usize = 16 * 1024 * 1024;
    let alice = Pki::new();
    let app = App::http(|_| ok(&vec![b'd'; SIZE]));
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    let behind = "GET /second HTTP/1.1\r\n\r\n";
    tls.write_all(format!("{}{behind}", get("/first")).as_bytes())
        .unwrap();
    // So slowly that every buffer on the way is full when the answer ends.
    let mut all = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        match tls.read(&mut part).unwrap() {
            0 => break,
            n => all.extend(&part[..n]),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = find(&all, b"\r\n\r\n").unwrap() + 4;
    assert!(all[end..end + SIZE].iter().all(|b| *b == b'd'));
    assert_eq!(parse_response(&all[end + SIZE..]).status, 400);
}

#[test]
fn an_answer_whose_coding_or_length_is_unclear_is_the_apps_fault() {
    let alice = Pki::new();
    for (headers, status) in [
        ("Transfer-Encoding: gzip, chunked", 502),
        ("Transfer-Encoding: chunked, identity", 502),
        ("Transfer-Encoding: xchunked", 502),
        ("Transfer-Encoding: identity\r\nContent-Length: 5", 502),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            502,
        ),
        ("Content-Length: 5\r\nContent-Length: 6", 502),
        ("Content-Length: 5, 6", 502),
        ("Transfer-Encoding: Chunked\r\nContent-Length: 9", 200),
        ("Content-Length: 5, 5", 200),
        ("Content-Length: 5\r\nContent-Length: 5", 200),
    ] {
        let body = if headers.starts_with('T') {
            "5\r\nhello\r\n0\r\n\r\n"
        } else {
            "hello"
        };
        let said = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{body}");
        let app = App::http(move |_| said.clone().into_bytes());
        let ingress = alice.ingress(&app, IngressOptions::default());
        let answer = ingress.get("/");
        assert_eq!(answer.status, status, "{headers}");
        if status == 200 {
            assert_eq!(answer.text(), "hello", "{headers}");
            let lengths = answer.all("Content-Length");
            assert!(lengths.iter().all(|l| *l == "5"), "{headers}: {lengths:?}");
            assert!(lengths.len() <= 1, "{headers}: {lengths:?}");
        }
    }
}

#[test]
fn answers_before_the_answer_have_an_end() {
    let alice = Pki::new();
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let some = App::http(move |_| [hint.repeat(50).as_bytes(), &ok(b"hello")].concat());
    let ingress = alice.ingress(&some, IngressOptions::default());
    assert_eq!(ingress.get("/").status, 200);
    // One after the other, as long as anybody listens.
    let endless = App::new(move |mut stream| {
        read_head(&mut stream);
        while stream.write_all(hint.repeat(50).as_bytes()).is_ok() {}
    });
    let ingress = alice.ingress(&endless, IngressOptions::default());
    assert_eq!(ingress.get("/").status, 502);
    ingress.expect_line("does not come to its point");
}

#[test]
fn every_expectation_must_be_known() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let ask = |more: &str| {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: n1\r\nExpect: 100-continue\r\n{more}Content-Length: 0\r\n\r\n"
        );
        ingress.ask(&head).status
    };
    assert_eq!(ask("Expect: something\r\n"), 417);
    assert!(app.seen().is_empty());
    assert_eq!(ask(""), 200);
}

#[test]
fn a_target_that_no_url_holds_is_refused_in_words() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    for target in ["/a?q=\"x\"", "/a<b", "/a>b", "/a`b", "/?a<b"] {
        let answer = ingress.get(target);
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.text().contains("percent-encoded"), "{answer:?}");
    }
    eventually("each is told", PATIENCE, || {
        let lines = ingress.lines();
        let told = lines.iter().filter(|l| l.contains("percent-encoded"));
        (told.count() == 5).then_some(())
    });
    // As browsers send it.
    assert_eq!(ingress.get("/a?q=`x`").status, 200);
}

#[test]
fn a_client_that_leaves_in_its_body_is_not_the_apps_fault() {
    let alice = Pki::new();
    let app = App::http(|_| ok(b"never"));
    let ingress = alice.ingress(&app, IngressOptions::default());
    let mut tls = ingress.connect();
    tls.write_all(b"POST /up HTTP/1.1\r\nHost: n1\r\nContent-Length: 100\r\n\r\nsome")
        .unwrap();
    eventually("it is on its way", PATIENCE, || {
        (ingress.handle.stats().requests == 1).then_some(())
    });
    tls.reset();
    let line = ingress.expect_line("POST /up");
    assert!(line.contains("status=499"), "{line}");
}

#[test]
fn what_stands_beside_a_body_has_bounds() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    let head = "POST / HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extended = format!("1;{}\r\nx\r\n", "e".repeat(200));
    for (body, status) in [
        (format!("{}0\r\n\r\n", extended.repeat(50)), 200),
        (format!("{}0\r\n\r\n", extended.repeat(100)), 400),
        (format!("0\r\nX: {}\r\n\r\n", "t".repeat(10_000)), 200),
        (format!("0\r\nX: {}\r\n\r\n", "t".repeat(20_000)), 400),
    ] {
        let answer = ingress.ask(&format!("{head}{body}"));
        assert_eq!(answer.status, status, "{}", &body[..40]);
    }
}
