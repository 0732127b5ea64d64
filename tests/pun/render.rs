//! The rendered text as other programs read it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ood_ca_tests::Run;
use ood_ca_tests::nginx::{Pun, Setup, World, pun_conf};
use ood_ca_tests::tls::python_with;

/// What gixy says about a whole `pun.conf`: plugin, severity and directive.
const REPORT: &str = r#"
import json, sys
from gixy.core.manager import Manager
from gixy.core.config import Config
manager = Manager(Config(allow_includes=True))
with open(sys.argv[1], "rb") as conf:
    manager.audit(sys.argv[1], conf, is_stdin=False)
found = []
for plugin in manager.results:
    for issue in plugin.issues:
        for directive in issue.directives:
            text = str(directive).strip().splitlines()[0]
            found.append([plugin.name, str(issue.severity or plugin.severity), text])
root = manager.root
count = sum(1 for _ in root.find_recursive("location")) if root else 0
print(json.dumps({"found": found, "locations": count}))
"#;

/// Everything that gixy is expected to report, each with the reason to leave
/// it: plugin, start of the directive.
const EXPECTED: &[(&str, &str)] = &[];

fn snippet_of(world: &World, setup: &Setup) -> String {
    setup.snippet(world, &world.alice())
}

/// What gixy finds in a snippet: plugin and first line of the directive.
fn gixy(world: &World, snippet: &str) -> BTreeSet<(String, String)> {
    let include = world.path("ood-ca.conf");
    fs::write(&include, snippet).unwrap();
    let conf = world.path("pun.conf");
    fs::write(&conf, pun_conf(Path::new("/run/pun"), "nobody", &include)).unwrap();
    let report = Run::new(python_with("gixy"))
        .args(["-c", REPORT, conf.to_str().unwrap()])
        .output()
        .assert_ok()
        .json();
    let locations = snippet.matches("\nlocation ").count();
    // Those of the wrapping file are three.
    assert_eq!(
        report["locations"],
        locations + 3,
        "gixy has not read everything: {report}"
    );
    let own: Vec<&str> = snippet.lines().map(str::trim).collect();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let found = report["found"].as_array().unwrap().iter();
    found
        .map(|f| (text(&f[0]), text(&f[2])))
        // What is wrong with the wrapping file is none of our business.
        .filter(|(_, text)| own.iter().any(|line| line.starts_with(text.as_str())))
        .collect()
}

#[test]
fn gixy_reports_exactly_what_is_expected() {
    let world = World::new();
    let snippet = snippet_of(&world, &Setup::new().with("require_registration: true"));
    let found = gixy(&world, &snippet);
    let matches = |(plugin, text): &(String, String)| {
        EXPECTED
            .iter()
            .position(|(p, t)| p == plugin && text.starts_with(t))
    };
    let unexpected: Vec<_> = found.iter().filter(|f| matches(f).is_none()).collect();
    assert!(unexpected.is_empty(), "gixy found more: {unexpected:#?}");
    let seen: BTreeSet<_> = found.iter().filter_map(matches).collect();
    assert_eq!(
        seen.len(),
        EXPECTED.len(),
        "gixy no longer finds all of {EXPECTED:?}"
    );

    // It would have found these.
    let flaws = "\nlocation /a {\n    proxy_pass http://$arg_a;\n    proxy_set_header Host $http_host;\n}\n";
    let found = gixy(&world, &(snippet + flaws));
    let plugins: Vec<&str> = found.iter().map(|(plugin, _)| plugin.as_str()).collect();
    assert!(plugins.contains(&"ssrf"), "{found:?}");
    assert!(plugins.contains(&"host_spoofing"), "{found:?}");
}

#[test]
fn the_only_script_that_may_run_is_the_one_of_the_starting_page() {
    let world = World::new();
    let snippet = snippet_of(&world, &Setup::new());
    let hash = r#"
import base64, hashlib, re, sys
page = open(sys.argv[1]).read()
script, = re.findall(r"<script>(.*?)</script>", page, re.S)
print(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(), end="")
"#;
    let page = world.path("errors/starting.html");
    let outcome = Run::new(python_with("crossplane"))
        .args(["-c", hash, page.to_str().unwrap()])
        .output()
        .assert_ok();
    assert!(snippet.contains(&format!("script-src 'sha256-{}'", outcome.stdout)));
}

#[test]
fn every_page_is_accessible_and_needs_nothing_from_elsewhere() {
    let world = World::new();
    for entry in fs::read_dir(world.path("errors")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        // WCAG 2.2: 3.1.1 language, 2.4.2 title, 1.3.1 one heading and landmarks,
        // 2.2.1 no timed refresh (failure F41), 1.4.4 zoom is not disabled.
        for needed in [
            "<html lang=\"en\">", "<title>", "<h1>", "<main>", "width=device-width",
            "charset=\"utf-8\"",
        ] {
            assert_eq!(text.matches(needed).count(), 1, "{name}: {needed}");
        }
        for refused in [
            "http-equiv", "src=", "url(", "@import", "http:", "https:", "<img", "user-scalable",
            "onclick", "style=\"",
        ] {
            assert!(!text.contains(refused), "{name}: {refused}");
        }
        let title = text
            .split("<title>")
            .nth(1)
            .unwrap()
            .split('<')
            .next()
            .unwrap();
        assert!(text.contains(&format!("<h1>{title}</h1>")), "{name}");
        assert!(text.contains(&format!(", page {name}.")), "{name}");
        assert_eq!(text.contains("<script>"), name == "starting");
    }
}

/// Relative luminance and contrast, WCAG 2.2.
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            match value <= 0.04045 {
                true => value / 12.92,
                false => ((value + 0.055) / 1.055).powf(2.4),
            }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (a, b) = (luminance(one), luminance(other));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn text_and_links_of_every_page_can_be_read_in_both_colour_schemes() {
    let world = World::new();
    for entry in fs::read_dir(world.path("errors")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let value = |scheme: &str, name: &str| {
            let at = scheme.find(&format!("--{name}: ")).unwrap() + name.len() + 4;
            scheme[at..at + 7].to_owned()
        };
        let (light, dark) = text.split_once("prefers-color-scheme: dark").unwrap();
        for scheme in [light, dark] {
            let paper = value(scheme, "paper");
            for name in ["ink", "link"] {
                assert!(contrast(&value(scheme, name), &paper) >= 4.5, "{name}");
            }
            assert!(contrast(&value(scheme, "rule"), &paper) >= 3.0);
        }
    }
}

#[test]
fn nginx_starts_with_every_kind_of_site() {
    let world = World::new();
    let user = world.alice();
    let many: String = (0..500)
        .map(|n| format!("10.1.{}.{} n{}\n", n / 250, n % 250, n + 10))
        .collect();
    for (keys, hosts) in [
        ("", ""),
        ("verify_host: user\ntls_min: 1.2\nhost_header: upstream", ""),
        ("strip_cookies: [a]\nstrip_headers: [X-A]", ""),
        (
            "strip_cookies: [a, b*, c.d]\ntrusted_headers: {X-A: 'b %{user} c'}",
            "",
        ),
        (
            "port_range: 8888-8888\nidle_timeout: 1h\nconnect_timeout: 1s",
            "",
        ),
        ("host_regex: '[^/]+'\nallow_hosts: [localhost]", ""),
        ("hosts_table: 500", many.as_str()),
    ] {
        let mut setup = Setup::new().with(keys);
        setup.hosts = hosts.to_owned();
        let pun = Pun::start(&world, &user, &setup);
        assert_eq!(pun.get("/pun/sys/dashboard").status, 200);
        assert_eq!(pun.get("/pun/proxy/n2/1/").status, 403, "{keys}");
    }
}

#[test]
fn what_is_not_set_up_is_said_for_both_forms() {
    use ca_core::{ConfigPath, UserName};
    use pun_helper::render::{Unavailable, UnavailableRequest, render_unavailable};
    let world = World::new();
    let user = world.alice();
    for (reason, page) in [
        (Unavailable::NoAuthority, "no-authority"),
        (Unavailable::NoHostsConfigured, "no-hosts"),
        (Unavailable::NoResolver, "no-resolver"),
        (Unavailable::Broken, "broken"),
    ] {
        let snippet = render_unavailable(&UnavailableRequest {
            user: &UserName::parse("alice").unwrap(),
            errors_dir: &ConfigPath::parse(world.path("errors").to_str().unwrap()).unwrap(),
            reason,
        })
        .unwrap();
        let pun = Pun::start_with(&user, snippet.as_str());
        for form in ["proxy", "rproxy"] {
            for method in ["GET", "POST", "PUT"] {
                let before = pun.log().len();
                let answer = pun.request(method, &format!("/pun/{form}/n2/8888/x"), &[], b"abc");
                assert_eq!(answer.status, 503);
                assert_eq!(answer.page().as_deref(), Some(page));
                assert_eq!(answer.header("Cache-Control"), Some("no-store"));
                assert_eq!(pun.refusals_since(before).len(), 1);
            }
        }
        assert_eq!(pun.get("/pun/sys/dashboard").text(), "the dashboard");
    }
    let mut setup = Setup::new();
    setup.site = "domain: cluster.test\n".into();
    let pun = Pun::start(&world, &user, &setup);
    assert_eq!(
        pun.get("/pun/proxy/n2/8888/x").page().as_deref(),
        Some("no-hosts")
    );
}

#[test]
fn the_examples_name_every_key_and_are_accepted() {
    use ca_core::SiteConfig;
    let shipped = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../nginx")
            .join(name);
        fs::read_to_string(path).unwrap()
    };
    let file = Path::new("ood_ca.yml");
    let text = shipped("ood_ca.yml");
    assert_eq!(
        SiteConfig::parse(&text, file).unwrap(),
        SiteConfig::default()
    );
    // The error about an unknown key lists the known ones.
    let unknown = SiteConfig::parse("zzzzzzzzzzzzzzzzzzzzzzzz: 1", file).unwrap_err();
    let hint = unknown.hint().unwrap();
    let keys = hint
        .trim_start_matches("did you mean one of ")
        .trim_end_matches('?');
    for key in keys.split(", ") {
        let line = text.lines().find(|l| l.starts_with(&format!("#{key}:")));
        let line = line.unwrap_or_else(|| panic!("{key} is not in the example"));
        if line.ends_with(':') || line.ends_with(',') {
            continue;
        }
        let site = SiteConfig::parse(&line[1..], file);
        let site = site.unwrap_or_else(|error| panic!("{line}: {error}"));
        let shown_as_example = [
            "host_regex", "domain", "also_run", "nginx", "web_host", "pki_dir",
        ];
        if !shown_as_example.contains(&key) {
            assert_eq!(site, SiteConfig::default(), "{line} is not the default");
        }
    }
    let portal = shipped("ood_portal.yml");
    let facts = pun_helper::portal::PortalFacts::parse(&portal, Path::new("ood_portal.yml"));
    assert_eq!(facts.unwrap(), pun_helper::portal::PortalFacts::default());
    assert!(shipped("nginx_stage.yml").contains("name: '../../mtls/%{user}/*'"));
}
