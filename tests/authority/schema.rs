//! Every `--json` output is as the schemas in `docs/json` say, and the schemas
//! say enough to notice when it is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ca_core::{
    Authority, HostName, LeafRequest, PkiLocation, SiteConfig, TrustBundle, UserName, WebHosts, now,
};
use ood_ca_tests::{Home, Outcome, Run, require_tool, schema};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

/// What the schemas allow and no run here can show, each with the reason.
const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "('error.schema.json.error.code', 'bad-ttl')",
        "it is a word of the library: a wrong --ttl is a wrong command line",
    ),
    (
        "('error.schema.json.error.code', 'crypto')",
        "it needs a system without randomness",
    ),
    (
        "('error.schema.json.error.code', 'no-home')",
        "it needs a user whom the system does not know",
    ),
    (
        "('error.schema.json.error.code', 'not-trusted')",
        "it is a word of the library: `verify` tells its verdict in its own object",
    ),
];

/// What commands printed, by the schema that it should obey.
struct Documents(schema::Documents);

impl Documents {
    fn new() -> Self {
        Documents(schema::Documents::of(""))
    }

    /// Runs a command with `--json`, which must end with this exit code and
    /// print one object on one line.
    #[track_caller]
    fn run(&mut self, home: &Home, schema: &str, code: i32, line: &str) -> Value {
        self.take(schema, code, home.ood_ca(&format!("{line} --json")))
    }

    /// As [`Documents::run`], of a command that fails with this error.
    #[track_caller]
    fn fail(&mut self, home: &Home, error: &str, line: &str) {
        let code = if line.contains("needs-renewal") {
            255
        } else {
            1
        };
        let document = self.run(home, "error", code, line);
        assert_eq!(
            document["error"]["code"], error,
            "`{line}` failed otherwise: {document}"
        );
    }

    #[track_caller]
    fn take(&mut self, schema: &str, code: i32, outcome: Outcome) -> Value {
        self.0.take(schema, code, &outcome)
    }
}

/// A leaf made at another time than now.
fn issue_at(home: &Home, request: &LeafRequest, name: &str, ago: Duration) {
    let location = PkiLocation::at(home.pki()).unwrap();
    let authority = Authority::open(&location, &SiteConfig::default(), now()).unwrap();
    let issued = authority.mint(request, now() - ago).unwrap();
    fs::write(home.join(name), issued.certificate.to_pem()).unwrap();
}

/// An authority made at another time than now.
fn authority_of(home: &Home, settings: &str, at: OffsetDateTime) {
    let site = SiteConfig::parse(settings, Path::new("ood_ca.yml")).unwrap();
    Authority::ensure(&PkiLocation::at(home.pki()).unwrap(), &site, at).unwrap();
}

fn successes(all: &mut Documents) {
    let home = Home::new();
    fs::write(
        home.join("limits.yml"),
        "name_constraints: {dns: [cluster.example], ip: [10.0.0.0/8]}\n",
    )
    .unwrap();
    all.run(&home, "doctor", 1, "doctor");
    let first = all.run(&home, "init", 0, "init");
    assert_eq!(first["created"], true);
    let healthy = all.run(&home, "doctor", 0, "doctor");
    // A temporary directory may lie in memory, and doctor warns of that.
    let checks = healthy["checks"].as_array().unwrap();
    let unwell: Vec<_> = checks
        .iter()
        .filter(|c| c["verdict"] != "ok")
        .map(|c| &c["name"])
        .collect();
    if unwell == ["file system"] {
        let label = "in memory, taken as healthy";
        let mut healthy = healthy.clone();
        healthy["verdict"] = json!("ok");
        all.0.add("doctor", label, &healthy);
    } else {
        assert!(unwell.is_empty(), "{healthy}");
    }
    let second = all.run(&home, "init", 0, "init");
    assert_eq!(
        (second["created"].clone(), &second["authority"]),
        (Value::Bool(false), &first["authority"])
    );

    let server = all.run(
        &home,
        "issue",
        0,
        "issue --host n001.cluster.example --ip 10.0.0.5 --ip fd00::5",
    );
    assert_eq!(server["certificate"]["kind"], "server");
    assert_eq!(
        server["certificate"]["dns_names"],
        json!(["n001.cluster.example", "10-0-0-5.ip.ood.internal"])
    );
    all.run(&home, "issue", 0, "issue --client --name mine");
    all.run(
        &home,
        "issue",
        0,
        "issue --any-host --name any --format bundle",
    );
    all.run(
        &home,
        "issue",
        0,
        "issue --host n001 --layout oodproxy --out oodproxy",
    );
    let clamped = all.run(
        &home,
        "issue",
        0,
        "issue --host n001 --ttl 400d --name long",
    );
    assert_ne!(clamped["notices"], json!([]));
    csr(&home);
    let certified = all.run(
        &home,
        "issue",
        0,
        "issue --host n001 --csr request.csr --name certified",
    );
    assert!(
        !certified["files"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f.as_str().unwrap().ends_with(".key"))
    );

    all.run(&home, "needs-renewal", 1, "needs-renewal");
    all.run(&home, "needs-renewal", 1, "needs-renewal server.crt");
    assert_eq!(all.run(&home, "renew", 0, "renew")["renewed"], false);
    assert_eq!(all.run(&home, "renew", 0, "renew --force")["renewed"], true);
    assert_eq!(
        all.run(&home, "renew", 0, "renew server.crt")["renewed"],
        false
    );
    assert_eq!(
        all.run(&home, "renew", 0, "renew server.crt --force")["renewed"],
        true
    );

    let valid = all.run(&home, "verify", 0, "verify server.crt");
    assert_eq!(
        (&valid["valid"], &valid["peer"]),
        (&json!(true), &json!(null))
    );
    all.run(
        &home,
        "verify",
        0,
        "verify certified.crt --host n001 --key request.key",
    );
    all.run(
        &home,
        "verify",
        0,
        "verify mine.crt --client --key mine.key",
    );
    all.run(&home, "verify", 1, "verify mine.crt --server --host n001");
    all.run(&home, "verify", 1, "verify certified.crt --ip 192.0.2.1");
    all.run(&home, "verify", 1, "verify certified.crt --key mine.key");
    foreign_certificate(&home);
    let foreign = all.run(&home, "verify", 1, "verify foreign.crt");
    assert_eq!(foreign["certificate"]["key_type"], json!(null));

    let location = PkiLocation::at(home.pki()).unwrap();
    let bundle = TrustBundle::from_pem(&fs::read(home.pki().join("trust.crt")).unwrap()).unwrap();
    WebHosts::record(
        &location,
        &HostName::parse("ood.cluster.example").unwrap(),
        &bundle,
    )
    .unwrap();
    fs::write(home.pki().join("issued/torn.crt"), "not a certificate").unwrap();
    let shown = all.run(&home, "show", 0, "show");
    assert_eq!(shown["unreadable"], json!(["torn.crt"]));
    assert_eq!(shown["web_hosts"][0]["name"], "ood.cluster.example");
    all.run(&home, "doctor", 0, "doctor");

    assert_eq!(
        all.run(&home, "rotate", 0, "rotate --prepare")["phase"],
        "prepared"
    );
    assert_eq!(
        all.run(&home, "rotate", 0, "rotate --prepare")["changed"],
        false
    );
    all.run(&home, "show", 0, "show");
    all.run(&home, "rotate", 0, "rotate --activate --force");
    let shown = all.run(&home, "show", 0, "show");
    assert_eq!(
        (&shown["phase"], shown["trust"].as_array().unwrap().len()),
        (&json!("activated"), 2)
    );
    all.run(&home, "doctor", 0, "doctor");
    all.run(&home, "rotate", 0, "rotate --retire --force");
    let emergency = all.run(&home, "rotate", 0, "rotate --emergency");
    assert_eq!(emergency["phase"], "settled");

    fs::remove_file(home.pki().join("client.crt")).unwrap();
    let due = all.run(&home, "needs-renewal", 0, "needs-renewal");
    assert_eq!(
        (&due["due"], &due["certificate"]),
        (&json!(true), &json!(null))
    );
    assert_eq!(
        all.run(&home, "show", 0, "show")["client"]["certificate"],
        json!(null)
    );
    all.run(&home, "doctor", 1, "doctor");
    fs::set_permissions(home.pki().join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    all.run(&home, "doctor", 1, "doctor");
    fs::write(home.join("bad.yml"), "key_typ: x\n").unwrap();
    all.run(&home, "doctor", 1, "doctor --config bad.yml");

    let limited = Home::new();
    fs::copy(home.join("limits.yml"), limited.join("limits.yml")).unwrap();
    all.run(&limited, "init", 0, "init --config limits.yml");
    let shown = all.run(&limited, "show", 0, "show --config limits.yml");
    assert_ne!(shown["limits"], json!(null));

    let expired = Home::new();
    authority_of(&expired, "", now() - Duration::days(60));
    issue_at(
        &expired,
        &LeafRequest::client(UserName::parse("alice").unwrap()),
        "old.crt",
        Duration::days(40),
    );
    let verified = all.run(&expired, "verify", 1, "verify old.crt --client");
    assert_eq!(verified["certificate"]["expired"], true);
    all.run(&expired, "needs-renewal", 0, "needs-renewal old.crt");
    all.run(&expired, "init", 0, "init");
    fs::write(expired.join("ed.yml"), "key_type: ed25519\n").unwrap();
    let edwards = all.run(&expired, "issue", 0, "issue --host n001 --config ed.yml");
    assert_eq!(edwards["certificate"]["key_type"], "ed25519");
    // So near the end of its authority's life that a renewal has to be cut short.
    let ending = Home::new();
    authority_of(&ending, "ca_lifetime: 40d\n", now() - Duration::days(30));
    assert_ne!(
        all.run(&ending, "renew", 0, "renew --force")["notices"],
        json!([])
    );
    fs::remove_file(ending.pki().join("client.crt")).unwrap();
    assert_ne!(all.run(&ending, "init", 0, "init")["notices"], json!([]));

    // The authority as a certificate to look at.
    let authority = all.run(&expired, "verify", 1, "verify .ood/pki/ca.crt");
    assert_eq!(authority["certificate"]["kind"], "authority");
}

fn csr(home: &Home) {
    Run::new(require_tool("openssl"))
        .within(home.path())
        .args([
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        ])
        .args([
            "-subj", "/CN=x", "-keyout", "request.key", "-out", "request.csr",
        ])
        .output()
        .assert_ok();
}

/// A certificate of somebody else, for no purpose, with a key that we do not know.
fn foreign_certificate(home: &Home) {
    Run::new(require_tool("openssl"))
        .within(home.path())
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=foreign", "-days", "2",
        ])
        .args([
            "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "foreign.key", "-out",
            "foreign.crt",
        ])
        .output()
        .assert_ok();
}

fn failures(all: &mut Documents) {
    let home = Home::new();
    for line in ["show", "needs-renewal", "rotate --prepare"] {
        all.fail(&home, "no-authority", line);
    }
    home.ood_ca("issue --host n001").assert_ok();
    all.fail(&home, "io", "issue --host n001 --out missing/directory");
    all.fail(&home, "io", "verify missing.crt");
    all.fail(&home, "unsafe-path", "verify .");
    // There is no hint for a name that no file system can have.
    all.fail(&home, "io", &format!("verify {}", "x".repeat(300)));
    all.fail(&home, "io", "needs-renewal missing.crt");
    all.fail(&home, "bad-request", "issue --host *.cluster.example");
    all.fail(&home, "bad-request", "issue --layout oodproxy --client");
    all.fail(&home, "rotation", "rotate --activate");
    fs::write(home.join("bad.yml"), "key_type: rsa\n").unwrap();
    for line in [
        "init", "issue", "renew", "needs-renewal", "show", "verify server.crt", "rotate --prepare",
    ] {
        all.fail(&home, "config", &format!("{line} --config bad.yml"));
    }
    fs::write(home.join("text"), "no certificate\n").unwrap();
    all.fail(&home, "bad-certificate", "verify text");
    all.fail(&home, "bad-certificate", "renew text");
    all.fail(&home, "bad-certificate", "needs-renewal text");
    all.fail(
        &home, "not-an-authority", "verify server.crt --trust server.crt",
    );
    all.fail(&home, "bad-csr", "issue --host n001 --csr text");
    let stranger = Home::new();
    stranger.ood_ca("issue --host n001").assert_ok();
    fs::copy(stranger.join("server.crt"), home.join("strange.crt")).unwrap();
    all.fail(&home, "bad-request", "renew strange.crt");
    all.fail(&home, "bad-name", "issue --host n001 --name ../../x");

    let key = home.pki().join("ca.key");
    let good = fs::read(&key).unwrap();
    fs::write(&key, "no key\n").unwrap();
    all.fail(&home, "bad-key", "issue --host n001");
    fs::copy(stranger.pki().join("ca.key"), &key).unwrap();
    all.fail(&home, "key-mismatch", "issue --host n001");
    fs::write(&key, good).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    for line in [
        "init", "issue --host n001", "renew", "show", "rotate --prepare",
    ] {
        all.fail(&home, "unsafe-path", line);
    }

    let (late, early) = (Home::new(), Home::new());
    const SHORT: &str = "ca_lifetime: 1d\nmax_leaf_lifetime: 1d\nleaf_lifetime: 1d\n";
    authority_of(&late, SHORT, now() - Duration::days(2));
    all.fail(&late, "authority-expired", "issue --host n001");
    authority_of(&early, SHORT, now() + Duration::days(2));
    all.fail(&early, "authority-not-yet-valid", "issue --host n001");
}

#[test]
fn every_json_output_is_as_its_schema_says() {
    let mut all = Documents::new();
    successes(&mut all);
    failures(&mut all);
    all.0.assert_all_as_said(NOT_SHOWN);
}

#[test]
fn a_schema_refuses_an_output_that_is_not_as_it_says() {
    let home = Home::new();
    let mut all = Documents::new();
    let good = all.run(&home, "init", 0, "init");
    let mutant = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        let mut one = schema::Documents::of("");
        one.add("init", "mutant", &document);
        one.validate().problems.len()
    };
    assert_eq!(mutant(&|_| {}), 0);
    assert_ne!(mutant(&|d| d["created"] = json!("yes")), 0);
    assert_ne!(
        mutant(&|d| d["authority"]["not_after"] = json!("2026-13-41T00:00:00Z")),
        0
    );
    assert_ne!(mutant(&|d| d["authority"]["sha256"] = json!("ABC")), 0);
    assert_ne!(mutant(&|d| d["authority"]["kind"] = json!("king")), 0);
    assert_ne!(mutant(&|d| d["notices"] = json!(null)), 0);
    assert_ne!(mutant(&|d| d["more"] = json!(1)), 0);
    assert_ne!(
        mutant(&|d| drop(d.as_object_mut().unwrap().remove("pki_dir"))),
        0
    );
}

#[test]
fn a_wrong_command_line_prints_no_json() {
    let home = Home::new();
    for (line, code) in [
        ("issue --no-such-option --json", 2),
        ("issue --ttl soon --json", 2),
        ("issue --host under_score --json", 2),
        ("rotate --json", 2),
        ("needs-renewal --no-such-option --json", 255),
    ] {
        let outcome = home.ood_ca(line);
        assert_eq!(
            (outcome.code(), outcome.stdout.as_str()),
            (Some(code), ""),
            "{outcome}"
        );
        assert!(outcome.stderr.contains("error: "), "{outcome}");
    }
    assert!(
        !home.join(".ood").exists(),
        "nothing is made for a wrong command line"
    );
}
