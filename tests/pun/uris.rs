//! The address: never another host, port or path than the one that was checked.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use ood_ca_tests::nginx::{Pun, Setup, User, World};

use crate::job::Job;

/// A nameserver that knows one name and remembers every question.
struct Dns {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    fn knowing(name: &'static str, address: [u8; 4]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((size, from)) = socket.recv_from(&mut packet) {
                let (question, end) = question_of(&packet[..size]);
                let is_a = packet[end..end + 2] == [0, 1];
                record.lock().unwrap().push(question.clone());
                let known = question == name;
                let answers = u8::from(known && is_a);
                // RFC 1035 §4.1.1: a response, recursion available; 3 is NXDOMAIN.
                let code = if known { 0x80 } else { 0x83 };
                let mut answer = packet[..2].to_vec();
                answer.extend([0x81, code, 0, 1, 0, answers, 0, 0, 0, 0]);
                answer.extend(&packet[12..end + 4]);
                if answers == 1 {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                    answer.extend(address);
                }
                let _ = socket.send_to(&answer, from);
            }
        });
        Dns { port, asked }
    }

    fn questions(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked.dedup();
        asked
    }
}

/// The name in a question and where its type stands.
fn question_of(packet: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while packet[at] != 0 {
        let length = usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..=at + length]).into_owned());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}

fn world() -> (World, User, Dns) {
    let world = World::new();
    let user = world.alice();
    let dns = Dns::knowing("n7.cluster.test", [127, 0, 0, 7]);
    (world, user, dns)
}

fn setup(dns: &Dns) -> Setup {
    Setup::new().with(&format!("resolver: ['127.0.0.1:{}']", dns.port))
}

#[test]
fn both_forms_reach_the_job_by_name_by_address_and_by_dns() {
    let (world, user, dns) = world();
    let leaf = user.leaf(
        "job",
        "--host n2.cluster.test --host n7.cluster.test --ip 127.0.0.2",
    );
    let job = Job::plain("127.0.0.2:0", &leaf);
    let far = Job::plain("127.0.0.7:0", &leaf);
    let pun = Pun::start(&world, &user, &setup(&dns));
    for (job, host) in [
        (&job, "n2"),
        (&job, "n2.cluster.test"),
        (&job, "127.0.0.2"),
        (&far, "n7"),
        (&far, "n7.cluster.test"),
    ] {
        let port = job.port();
        let base = format!("/pun/proxy/{host}/{port}");
        let answer = pun.get(&format!("{base}/lab?a=%2F&b=/../"));
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "hello"),
            "{host}: {}",
            pun.log()
        );
        assert_eq!(job.request().target, format!("{base}/lab?a=%2F&b=/../"));

        let answer = pun.get(&format!("/pun/rproxy/{host}/{port}/lab?a=%2F&b=/../"));
        assert_eq!(answer.status, 200, "{host}");
        assert_eq!(job.request().target, "/lab?a=%2F&b=/../");
    }
    assert_eq!(dns.questions(), ["n7.cluster.test"]);
}

#[test]
fn a_path_arrives_byte_for_byte() {
    let (world, user, dns) = world();
    let job = Job::plain("127.0.0.2:0", &user.leaf("job", "--host n2.cluster.test"));
    let pun = Pun::start(&world, &user, &setup(&dns));
    // nginx takes a request line of 8 KiB: its method, its version, our prefix.
    let around = format!("GET /pun/rproxy/n2/{} HTTP/1.1\r\n", job.port()).len();
    let long = format!("/{}", "x".repeat(8192 - around - 1));
    let longer = format!("/pun/rproxy/n2/{}{long}xx", job.port());
    assert_eq!(pun.get(&longer).status, 414);
    for path in [
        "/", "//", "///a//b", "/a%2Fb", "/a%2fb", "/%25", "/%252e%252e/", "/a+b%20c", "/a;b=c;d",
        "/.hidden", "/...", "/..a", "/a../b", "/a/.../b", "/%7e~", "/\u{e9}\u{4e2d}", "/a:b@c",
        "/a%3Fb", "/a?", "/a??b?", "/?x=//../..%2f%00", "/a?%0d%0a", "/'()*!$&,", "/[x]{y}|z^`",
        "/a%3Bb", "/a%5Cb", "/a\\b", "/%zz", &long,
    ] {
        for (form, prefix) in [("proxy", true), ("rproxy", false)] {
            let base = format!("/pun/{form}/n2/{}", job.port());
            let answer = pun.get(&format!("{base}{path}"));
            if path == "/%zz" {
                // nginx itself refuses what is no percent encoding.
                assert_eq!(answer.status, 400);
                continue;
            }
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let wanted = if prefix {
                format!("{base}{path}")
            } else {
                path.to_owned()
            };
            assert_eq!(job.request().target, wanted);
        }
    }
    assert!(dns.questions().is_empty());
}

#[test]
fn a_missing_slash_after_the_port_is_redirected_and_nothing_else_is() {
    let (world, user, dns) = world();
    let job = Job::plain("127.0.0.2:0", &user.leaf("job", "--host n2.cluster.test"));
    let pun = Pun::start(&world, &user, &setup(&dns));
    for form in ["proxy", "rproxy"] {
        let base = format!("/pun/{form}/n2/{}", job.port());
        for (query, method) in [("", "GET"), ("?a=b%2F", "POST")] {
            let answer = pun.request(method, &format!("{base}{query}"), &[], b"");
            assert_eq!(answer.status, 308);
            assert_eq!(
                answer.header("Location"),
                Some(format!("{base}/{query}").as_str())
            );
        }
    }
    assert_eq!(job.connections.load(Ordering::SeqCst), 0);
}

/// `H` stands for the job's host, `P` for its port.
const HOSTILE: &[(&str, u16)] = &[
    // Dot segments, in every spelling.
    ("/pun/proxy/H/P/../../evil/22/", 400),
    ("/pun/proxy/H/P/..", 400),
    ("/pun/proxy/H/P/.", 400),
    ("/pun/proxy/H/P/./a", 400),
    ("/pun/proxy/H/P/a/../b", 400),
    ("/pun/proxy/H/P/%2e%2e/", 400),
    ("/pun/proxy/H/P/.%2E/a", 400),
    ("/pun/proxy/H/P/%2e/", 400),
    ("/pun/proxy/H/P/..%2fa", 400),
    ("/pun/proxy/H/P/a%2f..%2fb", 400),
    ("/pun/proxy/H/P/..\\a", 400),
    ("/pun/proxy/H/P/a\\..\\b", 400),
    ("/pun/proxy/H/P/a%5c..%5Cb", 400),
    ("/pun/proxy/H/P/..;/a", 400),
    ("/pun/proxy/H/P/..%3b/a", 400),
    ("/pun/proxy/H/P/..?a", 400),
    ("/pun/proxy/../proxy/H/P/", 400),
    ("/pun/proxy/H/../evil/P/", 400),
    ("/pun/proxy/H/P/..%00/", 400),
    // Control bytes, fragments.
    ("/pun/proxy/H/P/a%00b", 400),
    ("/pun/proxy/H/P/a%0d%0aX:y", 400),
    ("/pun/proxy/H/P/a%09b", 400),
    ("/pun/proxy/H/P/..%09/", 400),
    ("/pun/proxy/H/P/a%1Bb", 400),
    ("/pun/proxy/H/P/a%7fb", 400),
    ("/pun/proxy/H/P/a%0Ab", 400),
    ("/pun/proxy/H/P/a#b", 400),
    ("/pun/proxy/H/P/#/../..", 400),
    ("/pun/proxy/H/P#", 400),
    // The address itself.
    ("/pun/proxy//H/P/", 400),
    ("//pun/proxy/H/P/", 400),
    ("/pun//proxy/H/P/", 400),
    ("/pun/%70roxy/H/P/", 400),
    ("/pun/proxy/H//P/", 400),
    ("/pun/proxy/H/", 400),
    ("/pun/proxy/H", 400),
    ("/pun/proxy/", 400),
    ("/pun/rproxy/", 400),
    ("/pun/proxy", 404),
    ("/pun/rproxy", 404),
    ("/pun/proxy/H%2FP/", 400),
    ("/pun/proxy/H/P%2F", 400),
    ("/pun/proxy/H:22/P/", 400),
    ("/pun/proxy/user@H/P/", 400),
    ("/pun/proxy/H@evil/P/", 400),
    ("/pun/proxy/H%00/P/", 400),
    ("/pun/proxy/H%0a/P/", 400),
    ("/pun/proxy/H%20/P/", 400),
    ("/pun/proxy/%6e2/P/", 400),
    ("/pun/proxy/H?/P/", 400),
    ("/pun/proxy/H;/P/", 400),
    ("/pun/proxy/$ood_ca_t/P/", 400),
    ("/pun/proxy/N2/P/", 400),
    ("/pun/proxy/n2./P/", 400),
    ("/pun/proxy/n2.cluster.test./P/", 400),
    ("/pun/proxy/.n2/P/", 400),
    ("/pun/proxy/-n2/P/", 400),
    ("/pun/proxy/n2-/P/", 400),
    ("/pun/proxy/n2..cluster.test/P/", 400),
    ("/pun/proxy/n_2/P/", 400),
    ("/pun/proxy/n\u{e9}/P/", 400),
    // Numbers that somebody reads as an address.
    ("/pun/proxy/127.1/P/", 400),
    ("/pun/proxy/0x7f.1/P/", 400),
    ("/pun/proxy/0x7f000001/P/", 400),
    ("/pun/proxy/2130706433/P/", 400),
    ("/pun/proxy/127.0.0.2.1/P/", 400),
    ("/pun/proxy/127.0.0.02/P/", 400),
    ("/pun/proxy/0177.0.0.2/P/", 400),
    ("/pun/proxy/127.0.0.256/P/", 400),
    ("/pun/proxy/127.0.0.2./P/", 400),
    // IPv6.
    ("/pun/proxy/[::1]/P/", 403),
    ("/pun/proxy/%5B::1%5D/P/", 403),
    ("/pun/proxy/::1/P/", 403),
    ("/pun/proxy/[::ffff:127.0.0.2]/P/", 403),
    ("/pun/rproxy/fe80::1/P/", 403),
    // Not allowed.
    ("/pun/proxy/localhost/P/", 403),
    ("/pun/proxy/localhost.cluster.test/P/", 403),
    ("/pun/proxy/127.0.0.1/P/", 403),
    ("/pun/proxy/127.0.0.3/P/", 403),
    ("/pun/proxy/169.254.169.254/P/", 403),
    ("/pun/proxy/169.254.1.1/P/", 403),
    ("/pun/proxy/0.0.0.0/P/", 403),
    ("/pun/proxy/evil.example/P/", 403),
    ("/pun/proxy/evil/P/", 403),
    ("/pun/proxy/n2.cluster.test.evil.example/P/", 403),
    ("/pun/proxy/metadata.cluster.test/P/", 403),
    ("/pun/proxy/server.ood.internal/P/", 403),
    ("/pun/proxy/10.9.9.9/P/", 403),
    ("/pun/proxy/web.cluster.test/P/", 403),
    // Ports.
    ("/pun/proxy/H/0/", 403),
    ("/pun/proxy/H/22/", 403),
    ("/pun/proxy/H/1023/", 403),
    ("/pun/proxy/H/65536/", 403),
    ("/pun/proxy/H/99999/", 403),
    ("/pun/proxy/H/100000/", 400),
    ("/pun/proxy/H/0P/", 400),
    ("/pun/proxy/H/00P/", 400),
    ("/pun/proxy/H/+P/", 400),
    ("/pun/proxy/H/-1/", 400),
    ("/pun/proxy/H/P.0/", 400),
    ("/pun/proxy/H/0x50/", 400),
    ("/pun/proxy/H/P:22/", 400),
    ("/pun/proxy/H/P@evil/", 400),
    ("/pun/proxy/H/%38888/", 400),
    // Our own inner addresses.
    ("/.ood-ca-host/n2.cluster.test", 404),
    ("/.ood-ca-error/starting.html", 404),
    // Only its page: it is internal.
    ("/.ood-ca-refused/ipv6/x", 403),
    ("/pun/proxy/../../.ood-ca-host/n2.cluster.test", 404),
];

#[test]
fn no_hostile_address_reaches_anything() {
    let (world, user, dns) = world();
    let leaf = user.leaf(
        "job",
        "--host n2.cluster.test --ip 127.0.0.2 --ip 127.0.0.3",
    );
    let job = Job::plain("127.0.0.2:0", &leaf);
    let port = job.port().to_string();
    // The same port elsewhere on loopback would notice a wrong address.
    let trap = Job::plain(&format!("127.0.0.1:{port}"), &leaf);
    let mut setup = setup(&dns);
    setup.own_addresses = vec!["10.9.9.9".parse().unwrap()];
    setup.own_names = vec![ca_core::HostName::parse("web").unwrap()];
    let pun = Pun::start(&world, &user, &setup);
    for (target, status) in HOSTILE {
        let target = target.replace('H', "n2").replace("P", &port);
        for target in [target.clone(), target.replace("/proxy/", "/rproxy/")] {
            let before = pun.log().len();
            for method in ["GET", "POST", "OPTIONS"] {
                let answer = pun.request(method, &target, &[], b"");
                assert_eq!(
                    answer.status,
                    *status,
                    "{method} {target}: {}",
                    answer.text()
                );
                assert!(!answer.text().contains("evil"), "{target} is reflected");
            }
            let reached = (
                trap.connections.load(Ordering::SeqCst),
                job.connections.load(Ordering::SeqCst),
            );
            assert_eq!(reached, (0, 0), "{target} reached something");
            assert_eq!(dns.questions(), [""; 0], "{target} was looked up");
            if target.starts_with("/pun")
                && *status != 404
                && !target.contains("//pun")
                && !target.starts_with("/pun//")
            {
                let lines = pun.refusals_since(before);
                // nginx refuses an encoded NUL and a path above the root itself.
                let by_nginx = target.contains("%00") || target.contains("../../..");
                assert!(lines.len() == 3 || by_nginx, "{target}: {lines:#?}");
                assert!(lines.iter().all(|l| l.contains("user=alice")), "{lines:?}");
            }
        }
    }
}

#[test]
fn a_refusal_is_one_line_with_user_host_port_and_reason() {
    let (world, user, dns) = world();
    let pun = Pun::start(
        &world,
        &user,
        &setup(&dns).with("require_registration: true"),
    );
    for (target, headers, wanted) in [
        (
            "/pun/proxy/evil/8888/",
            vec![],
            "user=alice host=evil port=8888 reason=host-not-in-host_regex",
        ),
        (
            "/pun/proxy/n2/22/",
            vec![],
            "user=alice host=n2 port=22 reason=port-not-in-port_range",
        ),
        (
            "/pun/proxy/n2/8888/",
            vec![],
            "user=alice host=n2.cluster.test port=8888 reason=not-registered",
        ),
        (
            "/pun/proxy/127.0.0.1/8888/",
            vec![],
            "user=alice host=127.0.0.1 port=8888 reason=loopback",
        ),
    ] {
        let before = pun.log().len();
        let answer = pun.request("GET", target, &headers, b"");
        assert!((400..500).contains(&answer.status));
        let lines = pun.refusals_since(before);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].contains(wanted), "{lines:#?}");
    }
}

#[test]
fn only_registered_sessions_are_reached_where_the_site_wants_it() {
    let (world, user, dns) = world();
    let job = Job::plain("127.0.0.2:0", &user.leaf("job", "--host n2.cluster.test"));
    let pun = Pun::start(
        &world,
        &user,
        &setup(&dns).with("require_registration: true"),
    );
    let target = format!("/pun/proxy/n2/{}/", job.port());
    assert_eq!(pun.get(&target).status, 404);
    assert_eq!(pun.get(&target).page().as_deref(), Some("not-registered"));
    let sessions = user.home.dir(".ood/sessions");
    let session = sessions.join(format!("n2.cluster.test:{}", job.port()));
    std::fs::write(&session, "{}").unwrap();
    assert_eq!(pun.get(&target).status, 200);
    std::fs::remove_file(&session).unwrap();
    assert_eq!(pun.get(&target).status, 404);
}

#[test]
fn no_random_address_reaches_another_place_than_it_says() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    let (world, user, dns) = world();
    let leaf = user.leaf("job", "--host n2.cluster.test --ip 127.0.0.2");
    let job = Job::plain("127.0.0.2:0", &leaf);
    let port = job.port().to_string();
    let trap = Job::plain(&format!("127.0.0.1:{port}"), &leaf);
    let pun = Pun::start(&world, &user, &setup(&dns));
    let token = prop::sample::select(vec![
        "/", "/", "//", ".", "..", "/../", "%2e", "%2F", "%5c", "\\", ";", "?", "#", "%", "%00",
        "%0a", ":", "@", "a", "n2", "127.0.0.2", "evil", "22", "/pun/proxy/", "/pun/rproxy/", "$",
        "\u{e9}", "&", "=", "+", "%20", "[", "]",
    ]);
    let tails = (
        prop::bool::ANY,
        prop::bool::ANY,
        prop::collection::vec(token, 0..12),
    );
    let mut runner = TestRunner::new(Config {
        cases: 600,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&tails, |(rproxy, whole, tokens)| {
            let form = if rproxy { "rproxy" } else { "proxy" };
            let tail = tokens.concat();
            let target = match whole {
                true => format!("/pun/{form}/n2/{port}/{tail}"),
                false => format!("/pun/{form}/{tail}/{port}/"),
            };
            let answer = pun.get(&target);
            prop_assert_eq!(trap.connections.load(Ordering::SeqCst), 0, "{}", target);
            // Other tokens in a row can be a name that the site allows, and that
            // no nameserver knows: `n222`. Nothing else is asked for.
            let named = target.split('/').nth(3).unwrap_or_default();
            let number = named.strip_prefix('n').unwrap_or_default();
            let allowed = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let asked = dns.questions();
            if !asked.is_empty() {
                prop_assert!(allowed && named != "n2", "{}: {:?}", target, asked);
                let full = format!("{named}.cluster.test");
                prop_assert!(asked.iter().all(|name| *name == full), "{:?}", asked);
                prop_assert_eq!(answer.status, 502, "{}", target);
                prop_assert_eq!(job.count(), 0);
            } else if answer.status == 200 {
                let seen = job.request().target;
                let stripped = target
                    .strip_prefix(&format!("/pun/rproxy/n2/{port}"))
                    .or_else(|| target.strip_prefix(&format!("/pun/rproxy/127.0.0.2/{port}")));
                let wanted = if rproxy {
                    stripped.unwrap_or("?")
                } else {
                    target.as_str()
                };
                prop_assert_eq!(&seen, wanted);
                let path = seen.split('?').next().unwrap_or_default();
                let plain = path
                    .to_ascii_lowercase()
                    .replace("%2e", ".")
                    .replace("%2f", "/");
                prop_assert!(
                    !plain.replace('\\', "/").split('/').any(|part| part == ".."),
                    "{}",
                    seen
                );
            } else {
                prop_assert!(
                    [308, 400, 403, 404].contains(&answer.status)
                        || (allowed && named != "n2" && answer.status == 502),
                    "{}: {}",
                    target,
                    answer.status
                );
                prop_assert_eq!(job.count(), 0);
            }
            Ok(())
        })
        .unwrap();
}
