//! Headers that the app may trust, and those that count for one hop only.

use ood_relay::{Headers, IngressOptions};

use crate::setup::{App, Pki, values};

fn options(headers: Headers) -> IngressOptions {
    IngressOptions {
        headers,
        ..IngressOptions::default()
    }
}

#[test]
fn a_trusted_header_can_be_forged_in_no_spelling() {
    let alice = Pki::new();
    let app = App::plain();
    let headers = Headers::new()
        .with("X-Forwarded-User", "alice")
        .unwrap()
        .with("Api_Token", "hush")
        .unwrap()
        .with_client_facts();
    let ingress = alice.ingress(&app, options(headers));
    ingress.ask(
        "GET / HTTP/1.1\r\nHost: n1\r\n\
         X-Forwarded-User: eve\r\nx-forwarded-user: eve\r\nX_Forwarded_User: eve\r\nX-Forwarded_User: eve\r\nX.Forwarded.User: eve\r\n\
         Api-Token: eve\r\nAPI_TOKEN: eve\r\napi-token: eve\r\n\
         X-Client-Cert-Subject: eve\r\nX_Client_Cert_Serial: eve\r\nX-Client-Cert: eve\r\nX_Forwarded_For: eve\r\n\
         Content_Length: 5\r\nTransfer_Encoding: chunked\r\nHo_st: fine\r\n\
         Connection: X-Forwarded-User, Api-Token, X-Client-Cert-Subject, X-Gone, Host\r\nX-Gone: eve\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 192.0.2.7\r\n\r\n",
    );
    let head = app.one();
    assert!(!head.contains("eve"), "{head}");
    assert_eq!(values(&head, "X-Forwarded-User"), ["alice"]);
    assert_eq!(values(&head, "Api_Token"), ["hush"]);
    assert_eq!(values(&head, "X-Client-Cert-Subject"), ["alice"]);
    for (name, length) in [
        ("Serial", 32),
        ("Fingerprint", 64),
        ("Issuer", 36),
        ("Not-After", 20),
    ] {
        let value = values(&head, &format!("X-Client-Cert-{name}"));
        assert_eq!(value.len(), 1, "{head}");
        assert_eq!(value[0].len(), length, "{head}");
    }
    // What the PUN says passes, and what counts for nobody else's trust.
    assert_eq!(values(&head, "X-Forwarded-For"), ["192.0.2.7"]);
    assert_eq!(values(&head, "X-Forwarded-Proto"), ["https"]);
    assert_eq!(values(&head, "X-Real-IP"), ["192.0.2.7"]);
    assert_eq!(values(&head, "Host"), ["n1"]);
    assert_eq!(values(&head, "Ho_st"), ["fine"]);
    for framing in ["Content_Length", "Transfer_Encoding", "Content-Length"] {
        assert!(values(&head, framing).is_empty(), "{head}");
    }
}

#[test]
fn facts_about_the_client_are_never_taken_from_the_client() {
    let alice = Pki::new();
    let app = App::plain();
    let ingress = alice.ingress(&app, IngressOptions::default());
    ingress.ask(
        "GET / HTTP/1.1\r\nHost: n1\r\nX-Client-Cert-Subject: eve\r\nX_Client-Cert: eve\r\n\r\n",
    );
    assert!(!app.one().contains("eve"));
}

#[test]
fn what_counts_for_one_hop_stays_there() {
    let alice = Pki::new();
    let app = App::http(|_| {
        b"HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive\r\nX-Secret: a\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let answer = ingress.ask(
        "GET / HTTP/1.1\r\nHost: n1\r\nConnection: keep-alive, X-Mine\r\nX-Mine: a\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nX-Kept: MiXeD\r\nx-lower: a\r\n\r\n",
    );
    let head = app.one();
    for gone in [
        "Connection", "X-Mine", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE",
        "Upgrade",
    ] {
        assert!(values(&head, gone).is_empty(), "{gone} in {head}");
    }
    // Names keep the spelling that they came in.
    assert!(head.contains("\r\nX-Kept: MiXeD\r\n"), "{head}");
    assert!(head.contains("\r\nx-lower: a\r\n"), "{head}");
    for gone in ["X-Secret", "Keep-Alive", "Upgrade", "Proxy-Authenticate"] {
        assert!(answer.all(gone).is_empty(), "{gone} in {answer:?}");
    }
    assert_eq!(answer.all("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.text(), "ok");
}

#[test]
fn an_answer_that_names_two_lengths_has_one_when_it_arrives() {
    let alice = Pki::new();
    let app = App::http(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec()
    });
    let ingress = alice.ingress(&app, IngressOptions::default());
    let answer = ingress.get("/");
    assert!(answer.all("Content-Length").is_empty(), "{answer:?}");
    assert_eq!(answer.text(), "ok");
}

#[test]
fn headers_that_cannot_be_set_are_refused_without_showing_their_value() {
    for (name, value) in [
        ("Content-Length", "hush"),
        ("transfer_encoding", "hush"),
        ("Connection", "hush"),
        ("X-Client-Cert-Subject", "hush"),
        ("X A", "hush"),
        ("", "hush"),
        ("X-A", "hush\r\nX-B: c"),
        ("X-A", " hush"),
        ("X-A", "hush\0"),
        ("X-A", "hüsh"),
    ] {
        let error = Headers::new().with(name, value).unwrap_err();
        assert_eq!(error.code(), "bad-header", "{name:?}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains("hush") && !said.contains("hüsh"), "{said}");
    }
    let headers = Headers::new().with("X-A", "hush").unwrap();
    assert!(!format!("{headers:?}").contains("hush"));
}
