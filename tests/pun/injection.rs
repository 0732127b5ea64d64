//! Nothing that a user or a site writes becomes configuration.

use std::net::IpAddr;
use std::path::Path;

use ca_core::{ConfigPath, HostName, SiteConfig, UserName};
use ood_ca_tests::Run;
use ood_ca_tests::tls::python_with;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use pun_helper::conf::{Directive, check_snippet, parse};
use pun_helper::portal::PortalFacts;
use pun_helper::render::{NginxVersion, RenderRequest, Unavailable, UnavailableRequest};
use pun_helper::render::{render, render_unavailable};
use pun_helper::resolver::plan;

/// How nginx's own parser, written anew by its makers in Python, reads a file.
const CROSSPLANE: &str = r##"
import crossplane, json, sys, tempfile, os
answers = []
for text in json.load(sys.stdin):
    with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as conf:
        conf.write("events { }\nhttp { server {\n" + text + "\n} }\n")
    payload = crossplane.parse(conf.name, check_ctx=True, check_args=True)
    os.unlink(conf.name)
    def shape(block):
        return [[d["directive"], d["args"], shape(d["block"]) if "block" in d else None]
                for d in block if d["directive"] != "#"]
    errors = [e["error"] for e in payload["errors"]
              # Directives that are newer than this parser.
              if "proxy_ssl_certificate_cache" not in e["error"]]
    server = payload["config"][0]["parsed"][1]["block"][0]
    answers.append({"errors": errors, "top": len(payload["config"][0]["parsed"]), "shape": shape(server["block"])})
print(json.dumps(answers))
"##;

/// The values that could carry something: all as anybody could write them.
#[derive(Clone, Debug)]
struct Values {
    user: String,
    home: String,
    host_regex: String,
    domain: String,
    header: (String, String),
    cookie: String,
    allowed: String,
    own_name: String,
    resolv: String,
    hosts: String,
    servername: String,
}

fn evil() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z][a-z0-9.-]{0,12}",
        1 => "[a-z0-9 .;{}\"'$\\\\#\n\r\t/%*()|+?\\[\\]^-]{0,20}",
        1 => "\\PC{0,12}",
        1 => Just("a; } location / { root /; } #".to_owned()),
        1 => Just("$http_x\"; return 200; #".to_owned()),
        1 => Just("a\\".to_owned()),
        1 => Just("\u{0}\n}".to_owned()),
        1 => Just("%{user}".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = String> {
    evil().prop_map(|tail| format!("/home/{tail}"))
}

fn values() -> impl Strategy<Value = Values> {
    let one = (evil(), path(), evil(), evil(), (evil(), evil()), evil());
    let two = (evil(), evil(), evil(), vec((evil(), evil()), 0..4), evil());
    (one, two).prop_map(|(one, two)| {
        let (user, home, host_regex, domain, header, cookie) = one;
        let (allowed, own_name, resolv, hosts, servername) = two;
        let hosts = hosts
            .iter()
            .map(|(a, b)| format!("10.0.0.1 {a}\n{b} n1\n"))
            .collect();
        Values {
            user,
            home,
            host_regex,
            domain,
            header,
            cookie,
            allowed,
            own_name,
            resolv: format!("nameserver 10.0.0.2\nnameserver {resolv}\nsearch {resolv}\n"),
            hosts,
            servername,
        }
    })
}

/// YAML of one key; JSON strings are YAML.
fn line(key: &str, value: &str, list: bool) -> String {
    let value = serde_json::to_string(value).unwrap();
    match list {
        true => format!("{key}: [{value}]\n"),
        false => format!("{key}: {value}\n"),
    }
}

/// Renders if every value is accepted, each through the parser it has to pass.
/// A refused optional value is left out, so that the others get their turn.
fn attempt(values: &Values) -> Option<String> {
    let file = Path::new("ood_ca.yml");
    let mut yaml = String::new();
    let header = format!(
        "trusted_headers: {{{}: {}}}\n",
        serde_json::to_string(&values.header.0).unwrap(),
        serde_json::to_string(&values.header.1).unwrap()
    );
    for key in [
        line("host_regex", &values.host_regex, false),
        line("domain", &values.domain, false),
        header,
        line("strip_cookies", &values.cookie, true),
        line("strip_headers", &values.header.0, true),
        line("allow_hosts", &values.allowed, true),
    ] {
        if SiteConfig::parse(&(yaml.clone() + &key), file).is_ok() {
            yaml += &key;
        }
    }
    if !yaml.contains("host_regex") {
        yaml += "host_regex: n1\n";
    }
    let site = SiteConfig::parse(&yaml, file).unwrap();
    let portal = line("servername", &values.servername, false);
    let portal = PortalFacts::parse(&portal, Path::new("ood_portal.yml")).unwrap_or_default();
    let user = UserName::parse(&values.user).unwrap_or(UserName::parse("alice").unwrap());
    let home = ConfigPath::parse(&values.home)
        .or(ConfigPath::parse("/home/alice"))
        .unwrap();
    let own: Vec<HostName> = HostName::parse(&values.own_name).into_iter().collect();
    let addresses: [IpAddr; 1] = ["10.9.9.9".parse().unwrap()];
    let resolver = plan(
        &site,
        Some(&values.resolv),
        &values.hosts,
        site.host_regex.as_ref(),
    )
    .ok()?;
    let snippet = render(&RenderRequest {
        user: &user,
        pki_dir: &home.join(".ood/pki").ok()?,
        sessions_dir: &home.join(".ood/sessions").ok()?,
        trust_file: &home.join("trust.crt").ok()?,
        errors_dir: &home,
        site: &site,
        portal: &portal,
        resolver: &resolver,
        nginx: NginxVersion::parse("1.28.0").unwrap(),
        own_addresses: &addresses,
        own_names: &own,
    });
    let unavailable = render_unavailable(&UnavailableRequest {
        user: &user,
        errors_dir: &home,
        reason: Unavailable::Broken,
    })
    .unwrap();
    check_snippet(unavailable.as_str()).unwrap();
    snippet.ok().map(|s| s.as_str().to_owned())
}

/// The names of directives with their number of arguments, without those that
/// the site's lists repeat.
fn skeleton(all: &[Directive]) -> Vec<String> {
    let mut lines = Vec::new();
    for directive in all {
        let host = directive
            .args
            .last()
            .is_some_and(|a| a.starts_with("/.ood-ca-host/"));
        let repeated = directive.name == "proxy_set_header"
            || (directive.name == "if"
                && directive.args.first().is_some_and(|a| a == "($ood_ca_full"))
            || (directive.name == "location" && host);
        if repeated {
            continue;
        }
        lines.push(format!("{} {}", directive.name, directive.args.len()));
        lines.extend(skeleton(directive.block.as_deref().unwrap_or_default()));
    }
    lines
}

fn shape_of(all: &[Directive]) -> serde_json::Value {
    let one = |d: &Directive| {
        let args: Vec<String> = match d.name.as_str() {
            // crossplane drops the parentheses of a condition.
            "if" => condition(&d.args),
            _ => d.args.clone(),
        };
        serde_json::json!([d.name, args, d.block.as_deref().map(shape_of)])
    };
    all.iter().map(one).collect()
}

fn condition(args: &[String]) -> Vec<String> {
    let mut args = args.to_vec();
    args[0] = args[0].trim_start_matches('(').to_owned();
    if args.last().is_some_and(|a| a == ")") {
        args.pop();
    } else if let Some(last) = args.last_mut() {
        *last = last.trim_end_matches(')').to_owned();
    }
    args
}

#[test]
fn whatever_is_written_the_result_has_exactly_our_directives() {
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let accepted = std::cell::RefCell::new(Vec::new());
    runner
        .run(&values(), |values| {
            if let Some(text) = attempt(&values) {
                prop_assert!(check_snippet(&text).is_ok());
                accepted.borrow_mut().push(text);
            }
            Ok(())
        })
        .unwrap();
    let texts = accepted.into_inner();
    assert!(texts.len() > 100, "{} were rendered", texts.len());

    // The skeleton is that of a harmless site, with or without its options.
    let skeletons: std::collections::BTreeSet<Vec<String>> = texts
        .iter()
        .map(|text| skeleton(&parse(text).unwrap()))
        .collect();
    let known: std::collections::BTreeSet<Vec<String>> = ["", "domain: a.b\n"]
        .into_iter()
        .flat_map(|keys| ["", "10.0.0.1 n1\n"].map(|hosts| harmless(keys, hosts)))
        .collect();
    for skeleton in &skeletons {
        assert!(
            known.contains(skeleton),
            "an unknown shape, {} directives",
            skeleton.len()
        );
    }

    // And another parser reads the same.
    let sample: Vec<&String> = texts.iter().take(60).collect();
    let outcome = Run::new(python_with("crossplane"))
        .args(["-c", CROSSPLANE])
        .input(serde_json::to_string(&sample).unwrap().as_bytes())
        .limit(std::time::Duration::from_secs(120))
        .output()
        .assert_ok();
    let answers = outcome.json();
    for (text, answer) in sample.iter().zip(answers.as_array().unwrap()) {
        assert_eq!(answer["errors"], serde_json::json!([]));
        assert_eq!(answer["top"], 2, "something got out of the server block");
        assert_eq!(answer["shape"], shape_of(&parse(text).unwrap()));
    }
}

fn harmless(keys: &str, hosts: &str) -> Vec<String> {
    let site = SiteConfig::parse(&format!("host_regex: n1\n{keys}"), Path::new("x")).unwrap();
    let path = ConfigPath::parse("/x").unwrap();
    let resolver = plan(
        &site,
        Some("nameserver 10.0.0.2"),
        hosts,
        site.host_regex.as_ref(),
    )
    .unwrap();
    let snippet = render(&RenderRequest {
        user: &UserName::parse("alice").unwrap(),
        pki_dir: &path,
        sessions_dir: &path,
        trust_file: &path,
        errors_dir: &path,
        site: &site,
        portal: &PortalFacts::default(),
        resolver: &resolver,
        nginx: NginxVersion::parse("1.28.0").unwrap(),
        own_addresses: &[],
        own_names: &[],
    })
    .unwrap();
    skeleton(&parse(snippet.as_str()).unwrap())
}

#[test]
fn our_parser_and_crossplane_read_every_kind_of_site_alike() {
    // The one with everything in it, so that no construct goes unread.
    let values = Values {
        user: "alice".into(),
        home: "/home/alice".into(),
        host_regex: r"(n\d{1,3}|gpu[0-9]+)(\.cluster\.test)?".into(),
        domain: "cluster.test".into(),
        header: ("X-Site".into(), "a (b), c=%{user}".into()),
        cookie: "sso*".into(),
        allowed: "n1".into(),
        own_name: "web".into(),
        resolv: "nameserver 10.0.0.2\n".into(),
        hosts: "10.0.0.1 n1\nfd00::1 n2\n10.9.9.9 n3\n".into(),
        servername: "portal.example".into(),
    };
    let text = attempt(&values).unwrap();
    for part in [
        "X-Site \"a (b), c=alice\"", "|sso", "n3.cluster.test", "[fd00::1]", "portal.example",
    ] {
        assert!(text.contains(part), "{part}");
    }
}
