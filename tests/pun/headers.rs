//! Headers, cookies and redirects, seen from both ends.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use ood_ca_tests::nginx::{Pun, Response, Setup, World};

use crate::job::{Job, Seen, answer};

/// A PUN with one job, whose answer can be changed.
struct Stage {
    _world: World,
    pun: Pun,
    job: Job,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl Stage {
    fn new(keys: &str) -> Self {
        let world = World::new();
        let user = world.alice();
        let bytes = Arc::new(Mutex::new(answer("200 OK", &[], b"hello")));
        let says = Arc::clone(&bytes);
        let leaf = user.leaf("job", "--host n2.cluster.test --ip 127.0.0.2");
        let job = Job::start("127.0.0.2:0", &leaf, move |_, tls| {
            let _ = tls.get_mut().write_all(&says.lock().unwrap());
        });
        let pun = Pun::start(&world, &user, &Setup::new().with(keys));
        Stage {
            _world: world,
            pun,
            job,
            answer: bytes,
        }
    }

    fn base(&self, form: &str) -> String {
        format!("/pun/{form}/n2/{}", self.job.port())
    }

    /// What the job sees of a GET with these headers.
    #[track_caller]
    fn sees(&self, headers: &[(&str, &str)]) -> Seen {
        let target = self.base("proxy") + "/x";
        let answer = self.pun.request("GET", &target, headers, b"");
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
        self.job.request()
    }

    /// What the browser sees when the job answers this.
    #[track_caller]
    fn shows(&self, form: &str, status: &str, headers: &[&str]) -> Response {
        *self.answer.lock().unwrap() = answer(status, headers, b"hello");
        let answer = self.pun.get(&(self.base(form) + "/x/y"));
        assert_eq!(answer.status.to_string(), status[..3], "{headers:?}");
        self.job.request();
        answer
    }

    #[track_caller]
    fn status(&self, method: &str, headers: &[(&str, &str)]) -> u16 {
        let answer = self
            .pun
            .request(method, &(self.base("proxy") + "/x"), headers, b"");
        let arrived = self.job.seen.lock().unwrap().drain(..).count();
        assert_eq!(arrived, usize::from(answer.status == 200), "{headers:?}");
        answer.status
    }
}

#[test]
fn a_job_sees_who_asks_and_how_and_nothing_of_the_portals() {
    let stage = Stage::new("trusted_headers: {X-Site-User: 'site:%{user}'}");
    let seen = stage.sees(&[
        ("X-Forwarded-User", "root"),
        ("X_Forwarded_User", "root"),
        ("X-Site-User", "root"),
        ("X-Forwarded-For", "1.2.3.4, 192.0.2.7"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Real-IP", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4"),
        ("Authorization", "Basic cGFzc3dvcmQ="),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy", "http://evil"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("OIDC_access_token", "secret"),
        ("OIDC-access-token", "secret"),
        ("OIDC-CLAIM-email", "secret"),
        ("OIDC_CLAIM_sub", "secret"),
        ("Accept-Language", "en"),
        ("X-Requested-With", "XMLHttpRequest"),
        ("X-XSRFToken", "abc"),
        ("Connection", "close, X-Forwarded-User, Cookie"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAAA"),
        ("TE", "trailers"),
    ]);
    let base = stage.base("proxy");
    for (name, value) in [
        ("Host", "portal.test"),
        ("X-Forwarded-User", "alice"),
        ("X-Site-User", "site:alice"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Real-IP", "192.0.2.7"),
        ("X-Forwarded-Host", "portal.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", base.as_str()),
        ("Connection", "close"),
        ("Accept-Language", "en"),
        ("X-Requested-With", "XMLHttpRequest"),
        ("X-XSRFToken", "abc"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    for name in [
        "Authorization", "Proxy-Authorization", "Proxy", "Forwarded", "X-Original-URL",
        "X-Rewrite-URL", "OIDC_access_token", "OIDC-access-token", "OIDC-CLAIM-email",
        "OIDC_CLAIM_sub", "Upgrade", "HTTP2-Settings", "X_Forwarded_User", "Cookie",
    ] {
        assert!(seen.all(name).is_empty(), "{name} arrived");
    }
}

#[test]
fn a_site_can_show_jobs_their_own_host() {
    let stage = Stage::new("host_header: upstream");
    let own = format!("n2.cluster.test:{}", stage.job.port());
    assert_eq!(stage.sees(&[]).header("Host"), Some(own.as_str()));
    assert_eq!(
        stage.sees(&[]).header("X-Forwarded-Host"),
        Some("portal.test")
    );
}

#[test]
fn the_scheme_is_what_apache_says_and_otherwise_https() {
    let stage = Stage::new("");
    for (given, seen) in [
        ("http", "http"),
        ("https", "https"),
        ("", "https"),
        ("ftp|http|https", "https"),
    ] {
        let request = stage.sees(&[("X-Forwarded-Proto", given)]);
        assert_eq!(request.header("X-Forwarded-Proto"), Some(seen), "{given}");
    }
    assert_eq!(stage.status("GET", &[("Host", "a$b")]), 400);
    assert_eq!(stage.status("GET", &[("Host", "a b")]), 400);
}

#[test]
fn portal_cookies_stay_behind_and_all_others_arrive() {
    let stage = Stage::new("");
    for (given, seen) in [
        ("a=b", Some("a=b")),
        ("a=b; c=d", Some("a=b; c=d")),
        ("mod_auth_openidc_session=x", None),
        ("mod_auth_openidc_session=x; a=b", Some("a=b")),
        ("a=b; mod_auth_openidc_session=x", Some("a=b")),
        ("a=b; mod_auth_openidc_session=x; c=d", Some("a=b; c=d")),
        (
            "mod_auth_openidc_session_0=x; mod_auth_openidc_session_1=y; a=b",
            Some("a=b"),
        ),
        ("mod_auth_openidc_session_chunks=2; a=b", Some("a=b")),
        (
            "_dashboard_session=x; _session_id=y; _job_constructor_session=z; a=b",
            Some("a=b"),
        ),
        ("a=b;_session_id=y;c=d", Some("a=b;c=d")),
        ("a=b;  _session_id = y ; c=d", Some("a=b;  c=d")),
        ("a=b; x_session_id=y", Some("a=b; x_session_id=y")),
        (
            "my_mod_auth_openidc_session=y",
            Some("my_mod_auth_openidc_session=y"),
        ),
        ("a=_session_id=y", Some("a=_session_id=y")),
        ("_session_id", Some("_session_id")),
        ("a=b, _session_id=y", Some("a=b")),
        (
            "_xsrf=2|abc|def; username-localhost=\"2|1:0|10:x\"",
            Some("_xsrf=2|abc|def; username-localhost=\"2|1:0|10:x\""),
        ),
        ("a=\"b; _session_id=y\"; c=d", Some("a=\"b; c=d")),
    ] {
        assert_eq!(
            stage.sees(&[("Cookie", given)]).header("Cookie"),
            seen,
            "{given}"
        );
    }
    // Several header lines become one.
    let seen = stage.sees(&[
        ("Cookie", "a=b"),
        ("Cookie", "_session_id=y"),
        ("Cookie", "c=d"),
    ]);
    assert!(!seen.header("Cookie").unwrap().contains("_session_id"));
}

#[test]
fn more_portal_cookies_than_can_be_removed_are_a_refusal() {
    let stage = Stage::new("");
    let runs = |n: usize| -> String {
        let runs = (0..n).map(|i| format!("a{i}=b; _session_id={i}"));
        runs.collect::<Vec<_>>().join("; ")
    };
    let seen = stage.sees(&[("Cookie", &runs(8))]);
    assert!(!seen.header("Cookie").unwrap().contains("_session_id"));
    assert_eq!(stage.status("GET", &[("Cookie", &runs(9))]), 400);
    // One run of many is one.
    let many = "_session_id=1; ".repeat(200) + "a=b";
    assert_eq!(
        stage.sees(&[("Cookie", &many)]).header("Cookie"),
        Some("a=b")
    );
}

/// The cookies of a header as a lenient server splits them: name and value.
fn split(header: &str) -> Vec<(String, String)> {
    let parts = header
        .split([';', ','])
        .filter_map(|part| part.split_once('='));
    parts
        .map(|(name, value)| (name.trim().to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn no_cookie_header_gets_a_portal_cookie_through() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    let stage = Stage::new("");
    let is_portals = |name: &str| {
        name.starts_with("mod_auth_openidc_session")
            || [
                "_dashboard_session", "_session_id", "_job_constructor_session",
            ]
            .contains(&name)
    };
    let token = prop::sample::select(vec![
        "a=b", "c", "=", ";", "; ", ",", " ", "\t", "\"", "mod_auth_openidc_session=x",
        "_session_id=y", "_session_id", "_dashboard_session = z",
        "mod_auth_openidc_session_0=\"q;r\"", "x_session_id=1", "\u{e9}", "(?<c>",
    ]);
    let headers = prop::collection::vec(token, 1..24).prop_map(|tokens| tokens.concat());
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&headers, |header| {
            let target = stage.base("proxy") + "/x";
            let answer = stage
                .pun
                .request("GET", &target, &[("Cookie", &header)], b"");
            if answer.status == 400 {
                return Ok(());
            }
            prop_assert_eq!(answer.status, 200, "{}", header);
            let seen = stage.job.request();
            let left = seen.header("Cookie").unwrap_or_default();
            for (name, _) in split(left) {
                prop_assert!(!is_portals(&name), "{:?} became {:?}", header, left);
            }
            // Without quotes and commas nothing else may be lost.
            if !header.contains(['"', ',']) {
                let kept: Vec<_> = split(&header)
                    .into_iter()
                    .filter(|(n, _)| !is_portals(n))
                    .collect();
                let trim = |all: Vec<(String, String)>| -> Vec<_> {
                    all.into_iter()
                        .map(|(n, v)| (n, v.trim().to_owned()))
                        .collect()
                };
                prop_assert_eq!(
                    trim(kept),
                    trim(split(left)),
                    "{:?} became {:?}",
                    header,
                    left
                );
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_long_cookie_header_takes_no_long_time() {
    let stage = Stage::new("");
    for header in [
        ";".repeat(7000),
        "mod_auth_openidc_session".repeat(290),
        format!("a={}", "; mod_auth_openidc_session".repeat(260)),
        format!("mod_auth_openidc_session{}", " ".repeat(7000)),
        format!("a=b{}", " ;".repeat(3500)),
    ] {
        let before = stage.pun.worker_time();
        let status = stage.status("GET", &[("Cookie", &header)]);
        assert!([200, 400].contains(&status), "{status}");
        let took = stage.pun.worker_time() - before;
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn configured_cookies_are_removed_beside_those_of_ood() {
    let stage = Stage::new("strip_cookies: [portal.id, 'sso-*']");
    let seen = stage.sees(&[(
        "Cookie",
        "portal.id=1; portalxid=2; sso-a=3; sso=4; _session_id=5",
    )]);
    assert_eq!(seen.header("Cookie"), Some("portalxid=2; sso=4"));
}

#[test]
fn cookies_of_a_job_stay_below_its_own_path() {
    let stage = Stage::new("");
    for form in ["proxy", "rproxy"] {
        let base = stage.base(form);
        for (given, path) in [
            ("a=b; Path=/", format!("{base}/")),
            ("a=b; Path=/lab", format!("{base}/lab")),
            ("a=b; path = /lab ; HttpOnly", format!("{base}/lab")),
            ("a=b; Path=BASE/", format!("{base}/")),
            ("a=b; Path=BASE/lab", format!("{base}/lab")),
            ("a=b; Path=BASE", format!("{base}/")),
            ("a=b; Path=/pun", format!("{base}/pun")),
            ("a=b; Path=/pun/", format!("{base}/")),
            ("a=b; Path=/pun/sys/dashboard", format!("{base}/")),
            ("a=b; Path=/pun/proxy/n3/8888/", format!("{base}/")),
            ("a=b; Path=\"/pun/sys\"", format!("{base}/")),
            ("a=b; Path=pun", format!("{base}/")),
            ("a=b; Path=", format!("{base}/")),
            (
                "a=b;Path=/pun/sys/dashboard;Path=/pun/sys",
                format!("{base}/"),
            ),
            ("a=b; PATH=/PUN/sys", format!("{base}/PUN/sys")),
            ("a=b; Path =/pun/sys", format!("{base}/")),
        ] {
            let given = format!("Set-Cookie: {}", given.replace("BASE", &base));
            let answer = stage.shows(form, "200 OK", &[&given]);
            let cookie = answer.header("Set-Cookie").unwrap().to_owned();
            let paths: Vec<_> = cookie
                .split(';')
                .skip(1)
                .filter_map(|a| a.split_once('='))
                .filter(|(n, _)| n.trim().eq_ignore_ascii_case("path"))
                .map(|(_, v)| v.trim())
                .collect();
            assert!(
                !paths.is_empty() && paths.iter().all(|p| *p == path),
                "{given} became {cookie}"
            );
        }
        // Without a path the browser takes that of the page.
        let answer = stage.shows(
            form,
            "200 OK",
            &[
                "Set-Cookie: a=b; Secure", "Set-Cookie: c=d; Domain=.test; Path=/",
            ],
        );
        let cookies = answer.all("Set-Cookie");
        assert_eq!(cookies[0], "a=b; Secure");
        assert!(!cookies[1].contains("test"), "{cookies:?}");
        for (given, kept) in [
            ("Domain=portal.test", false),
            ("domain = .test ", false),
            ("Domain=\"test\"", false),
            ("SameSite=Lax", true),
            ("Max-Age=5", true),
        ] {
            let answer = stage.shows(form, "200 OK", &[&format!("Set-Cookie: a=b; {given}")]);
            let cookie = answer.header("Set-Cookie").unwrap();
            assert_eq!(
                cookie.contains(given.split('=').nth(1).unwrap().trim()),
                kept,
                "{cookie}"
            );
        }
    }
}

/// nginx takes spaces for white space before and after the name of a cookie's
/// attribute, browsers also take tabs (RFC 6265bis §5.6). Nothing in a `server`
/// block can mend that; the threat model says so, and that a job's script could
/// set the same cookie. When this test fails, nginx has learnt it: move the
/// cases into the table above.
#[test]
fn an_attribute_behind_a_tab_is_not_seen_by_nginx() {
    let stage = Stage::new("");
    for given in [
        "a=b;\tPath=/pun/sys/dashboard", "a=b; Path\t=/pun/sys/dashboard",
    ] {
        let answer = stage.shows("proxy", "200 OK", &[&format!("Set-Cookie: {given}")]);
        assert_eq!(answer.header("Set-Cookie"), Some(given));
    }
    let base = stage.base("proxy");
    let answer = stage.shows(
        "proxy",
        "200 OK",
        &["Set-Cookie: a=b; Path=\t/pun/sys/dashboard\t"],
    );
    assert_eq!(
        answer.header("Set-Cookie"),
        Some(format!("a=b; Path={base}/").as_str())
    );
}

#[test]
fn redirects_to_the_job_itself_lead_back_through_the_portal() {
    let stage = Stage::new("");
    let port = stage.job.port();
    for form in ["proxy", "rproxy"] {
        let base = stage.base(form);
        // Where an absolute path of the job starts, as the browser sees it.
        let root = if form == "proxy" { "" } else { base.as_str() };
        for (given, wanted) in [
            ("BASE/a?b=c#d".into(), format!("{base}/a?b=c#d")),
            ("https://n2:PORTBASE/a".into(), format!("{base}/a")),
            ("http://n2:PORTBASE/a".into(), format!("{base}/a")),
            (
                "https://n2.cluster.test:PORTBASE/a".into(),
                format!("{base}/a"),
            ),
            ("https://portal.testBASE/a".into(), format!("{base}/a")),
            ("https://n2:PORT/a".into(), format!("{root}/a")),
            ("http://n2:PORT/".into(), format!("{root}/")),
            ("http://n2.cluster.test:PORT/a".into(), format!("{root}/a")),
            ("https://portal.test/a".into(), format!("{root}/a")),
            ("/a/b?c=/d".into(), format!("{root}/a/b?c=/d")),
            ("/".into(), format!("{root}/")),
            ("/pun/sys/dashboard".into(), "/pun/sys/dashboard".into()),
            ("a/b".into(), "a/b".into()),
            ("?a".into(), "?a".into()),
            ("../a".into(), "../a".to_owned()),
            ("//other.example/a".into(), "//other.example/a".into()),
            ("/\\other.example/a".into(), "/\\other.example/a".into()),
            (
                "https://other.example/a".into(),
                "https://other.example/a".into(),
            ),
            (
                "https://n2.evil.example:PORT/a".into(),
                format!("https://n2.evil.example:{port}/a"),
            ),
            ("https://n2:PORTx/a".into(), format!("https://n2:{port}x/a")),
            ("mailto:a@b".into(), "mailto:a@b".to_owned()),
        ] {
            let given: String = given;
            let given = given
                .replace("BASE", &base)
                .replace("PORT", &port.to_string());
            let answer = stage.shows(form, "302 Found", &[&format!("Location: {given}")]);
            assert_eq!(
                answer.header("Location"),
                Some(wanted.as_str()),
                "{form}: {given}"
            );
        }
    }
}

#[test]
fn a_job_cannot_speak_for_the_portal_or_command_nginx() {
    let stage = Stage::new("");
    let hostile = [
        "X-Accel-Redirect: /sendfile/etc/hostname",
        "X-Accel-Expires: 100",
        "X-Accel-Limit-Rate: 1",
        "X-Accel-Buffering: yes",
        "X-Accel-Charset: utf-7",
        "X-Sendfile: /etc/hostname",
        "Service-Worker-Allowed: /",
        "Clear-Site-Data: \"*\"",
        "Strict-Transport-Security: max-age=1",
        "Alt-Svc: h2=\":443\"",
        "NEL: {}",
        "Report-To: {}",
        "Reporting-Endpoints: a=\"/x\"",
        "Accept-CH: DPR",
        "WWW-Authenticate: Basic realm=\"portal\"",
    ];
    for form in ["proxy", "rproxy"] {
        for status in [
            "200 OK", "404 Not Found", "401 Unauthorized", "500 Oh", "502 Oh", "503 Oh",
            "418 Teapot", "566 Ours",
        ] {
            let answer = stage.shows(form, status, &hostile);
            assert_eq!(answer.text(), "hello", "{status}");
            for header in hostile {
                let name = header.split(':').next().unwrap();
                assert!(answer.all(name).is_empty(), "{name} passed");
            }
        }
    }
    let answer = stage.shows(
        "proxy",
        "200 OK",
        &[
            "X-App: 1", "Content-Security-Policy: x", "Content-Type: text/x", "ETag: \"1\"",
            "Cache-Control: max-age=5", "Content-Encoding: gzip",
        ],
    );
    for (name, value) in [
        ("X-App", "1"),
        ("Content-Security-Policy", "x"),
        ("Content-Type", "text/x"),
        ("ETag", "\"1\""),
        ("Cache-Control", "max-age=5"),
        ("Content-Encoding", "gzip"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
}

#[test]
fn a_page_that_hides_its_origin_is_let_through_only_from_here() {
    let stage = Stage::new("");
    for (origin, site, passes) in [
        ("null", "same-origin", true),
        ("null", "cross-site", false),
        ("null", "same-site", false),
        ("null", "", false),
        ("null|same-origin|", "", false),
        ("null", "same-origin|x", false),
        ("https://evil", "same-origin", false),
        ("NULL", "same-origin", false),
    ] {
        let mut headers = vec![("Origin", origin)];
        if !site.is_empty() {
            headers.push(("Sec-Fetch-Site", site));
        }
        let status = stage.status("POST", &headers);
        assert_eq!(status, if passes { 200 } else { 403 }, "{headers:?}");
    }
}

#[test]
fn what_another_site_makes_a_browser_send_is_refused() {
    let stage = Stage::new("");
    let upgrade = [("Upgrade", "websocket"), ("Connection", "upgrade")];
    for (method, origin, proto, host, upgrades, passes) in [
        ("GET", "", "https", "portal.test", true, true),
        (
            "GET", "https://portal.test", "https", "portal.test", true, true,
        ),
        (
            "GET", "https://evil.test", "https", "portal.test", true, false,
        ),
        (
            "GET", "https://evil.test", "https", "portal.test", false, true,
        ),
        ("GET", "null", "https", "portal.test", true, false),
        (
            "POST", "https://portal.test", "https", "portal.test", false, true,
        ),
        (
            "POST", "https://portal.test:443", "https", "portal.test", false, true,
        ),
        (
            "POST", "https://portal.test", "https", "portal.test:443", false, true,
        ),
        (
            "POST", "https://portal.test:8443", "https", "portal.test:8443", false, true,
        ),
        (
            "POST", "https://portal.test", "https", "portal.test:8443", false, false,
        ),
        (
            "POST", "https://portal.test:8443", "https", "portal.test", false, false,
        ),
        (
            "POST", "http://portal.test", "https", "portal.test", false, false,
        ),
        (
            "POST", "http://portal.test", "http", "portal.test", false, true,
        ),
        (
            "POST", "https://portal.test", "http", "portal.test", false, true,
        ),
        ("POST", "", "https", "portal.test", false, true),
        ("POST", "null", "https", "portal.test", false, false),
        (
            "POST", "https://portal.test.evil", "https", "portal.test", false, false,
        ),
        (
            "POST", "https://evil/https://portal.test", "https", "portal.test", false, false,
        ),
        (
            "POST", "https://portalxtest", "https", "portal.test", false, false,
        ),
        (
            "POST",
            "https://portal.test|https://portal.test",
            "https",
            "portal.test",
            false,
            false,
        ),
        ("PUT", "https://evil", "https", "portal.test", false, false),
        (
            "DELETE", "https://evil", "https", "portal.test", false, false,
        ),
        (
            "PATCH", "https://evil", "https", "portal.test", false, false,
        ),
        (
            "PROPFIND", "https://evil", "https", "portal.test", false, false,
        ),
    ] {
        let mut headers = vec![("X-Forwarded-Proto", proto), ("Host", host)];
        if !origin.is_empty() {
            headers.push(("Origin", origin));
        }
        if upgrades {
            headers.extend(upgrade);
        }
        let status = stage.status(method, &headers);
        assert_eq!(
            status,
            if passes { 200 } else { 403 },
            "{method} {headers:?}"
        );
    }
    for (method, site, mode, dest, passes) in [
        ("GET", "same-origin", "cors", "empty", true),
        ("GET", "none", "navigate", "document", true),
        ("GET", "cross-site", "navigate", "document", true),
        ("GET", "cross-site", "navigate", "", true),
        ("GET", "same-origin", "navigate", "iframe", true),
        ("GET", "cross-site", "navigate", "iframe", false),
        ("GET", "same-site", "navigate", "frame", false),
        ("GET", "cross-site", "navigate", "fencedframe", false),
        ("HEAD", "same-site", "navigate", "document", true),
        ("GET", "cross-site", "navigate", "object", false),
        ("GET", "cross-site", "navigate", "embed", false),
        ("GET", "cross-site", "no-cors", "script", false),
        ("GET", "cross-site", "no-cors", "image", false),
        ("GET", "cross-site", "cors", "empty", false),
        ("GET", "same-site", "cors", "empty", false),
        ("OPTIONS", "cross-site", "cors", "empty", false),
        ("POST", "cross-site", "navigate", "document", false),
        ("GET", "cross-site", "websocket", "empty", false),
        ("GET", "CROSS-SITE", "cors", "empty", false),
        ("GET", "x", "cors", "same-origin", false),
    ] {
        let headers = [
            ("Sec-Fetch-Site", site),
            ("Sec-Fetch-Mode", mode),
            ("Sec-Fetch-Dest", dest),
        ];
        let before = stage.pun.log().len();
        let status = stage.status(method, &headers);
        assert_eq!(
            status,
            if passes { 200 } else { 403 },
            "{method} {headers:?}"
        );
        assert_eq!(stage.pun.refusals_since(before).len(), usize::from(!passes));
    }
}

#[test]
fn only_websockets_are_upgraded() {
    let stage = Stage::new("");
    for (upgrade, seen) in [
        ("websocket", Some("websocket")),
        ("WebSocket", Some("websocket")),
        ("h2c", None),
        ("websocket, h2c", None),
        ("TLS/1.0", None),
        ("a|upgrade websocket close", None),
    ] {
        let request = stage.sees(&[("Upgrade", upgrade), ("Connection", "upgrade")]);
        assert_eq!(
            request.header("Upgrade").map(str::to_lowercase).as_deref(),
            seen,
            "{upgrade}"
        );
        let connection = if seen.is_some() { "upgrade" } else { "close" };
        assert_eq!(request.header("Connection"), Some(connection));
    }
}

#[test]
fn own_hosts_and_those_that_allow_hosts_names_are_told_apart() {
    let world = World::new();
    let user = world.alice();
    let leaf = user.leaf(
        "job",
        "--host n2.cluster.test --ip 127.0.0.2 --ip 127.0.0.4",
    );
    let job = Job::plain("127.0.0.4:0", &leaf);
    let mut setup = Setup::new().with("allow_hosts: [127.0.0.4]");
    setup.own_addresses = vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4))];
    let pun = Pun::start(&world, &user, &setup);
    assert_eq!(
        pun.get(&format!("/pun/proxy/127.0.0.4/{}/", job.port()))
            .status,
        200
    );
    assert_eq!(
        pun.get(&format!("/pun/proxy/127.0.0.5/{}/", job.port()))
            .status,
        403
    );
    // /etc/hosts says loopback, which nobody allowed: it is not taken over.
    let answer = pun.get(&format!("/pun/proxy/n2/{}/", job.port()));
    assert_eq!(answer.page().as_deref(), Some("no-such-host"));
    assert_eq!(job.count(), 1);
}
