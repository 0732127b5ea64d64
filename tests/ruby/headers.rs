//! What reaches the app beside the request.

use serde_json::Value;

use crate::job::{Job, PORT, User};

/// All values of a header, as the bytes that came.
pub(crate) fn header(answer: &Value, name: &str) -> Vec<String> {
    let all = answer["headers"].as_array().unwrap().iter();
    let own = all.filter(|h| h[0].as_str().unwrap().eq_ignore_ascii_case(name));
    own.map(|h| {
        let hex = h[1].as_str().unwrap();
        let bytes = (0..hex.len()).step_by(2);
        let bytes = bytes.map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
        String::from_utf8(bytes.collect()).unwrap()
    })
    .collect()
}

/// Everything that means something to a shell, to JSON, to a Caddyfile or to Caddy's
/// placeholders.
const HOSTILE: &str =
    r##"a" } {env.HOME} {http.request.uri} {$HOME} \{x\} \\ $HOME `id` $(id) ' ; # & < > ü"##;

#[test]
fn a_header_arrives_as_it_was_given_and_nobody_can_forge_it() {
    let alice = User::new();
    let quoted = HOSTILE.replace('\'', r"'\''");
    alice.file(
        "before.sh",
        0o644,
        &format!(
            "port={PORT}\nadd_caddy_header X-Hostile '{quoted}'\n\
             add_caddy_header X-Twice first\nadd_caddy_header X-Twice second\n\
             add_caddy_header X-Session-Host real\n"
        ),
    );
    let _job = Job::ready(&alice, "");
    let answer = alice.ask(
        "/",
        &[
            "-H", "X-Hostile: forged", "-H", "X_Hostile: forged", "-H", "X-Session_Host: forged",
            "-H", "X_Session-Host: forged", "-H", "x_session_host: forged",
        ],
    );
    assert_eq!(header(&answer, "X-Session-Host"), ["real"]);
    for name in ["X-Session_Host", "X_Session-Host", "X_Session_Host"] {
        assert!(header(&answer, name).is_empty(), "{name}");
    }
    assert_eq!(header(&answer, "X-Hostile"), [HOSTILE]);
    assert!(header(&answer, "X_Hostile").is_empty());
    assert_eq!(header(&answer, "X-Twice"), ["second"]);
    // The value is in no command line and not in what the app can read.
    let said = answer["environment"].to_string() + &answer["processes"].to_string();
    assert!(!said.contains("MTLS_HEADER"), "{said}");
    assert!(
        alice
            .processes()
            .iter()
            .all(|line| !line.contains("{$HOME}"))
    );
}

#[test]
fn what_the_portal_says_of_the_request_arrives() {
    let alice = User::new();
    let _job = Job::ready(&alice, "");
    let answer = alice.ask(
        "/a%2Fb//c?d=%20",
        &[
            "-H", "Host: ondemand.example", "-H", "X-Forwarded-User: alice", "-H",
            "X-Forwarded-For: 192.0.2.7", "-H", "X-Forwarded-Proto: https", "-H",
            "X-Forwarded-Host: ondemand.example",
        ],
    );
    assert_eq!(answer["path"], "/a%2Fb//c?d=%20");
    for (name, value) in [
        ("Host", "ondemand.example"),
        ("X-Forwarded-User", "alice"),
        ("X-Forwarded-For", "192.0.2.7, 127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "ondemand.example"),
    ] {
        assert_eq!(header(&answer, name), [value], "{name}");
    }
    assert!(header(&answer, "Accept-Encoding").is_empty());
}

#[test]
fn a_header_that_could_become_two_is_refused() {
    let alice = User::new();
    for (name, value) in [
        ("X-A", "$'a\\nX-B: c'"),
        ("X-A", "$'a\\rb'"),
        ("X-A", "$'\\x7f'"),
        ("'X A'", "b"),
        ("X:A", "b"),
        ("$'X\\nA'", "b"),
        ("'X\"A'", "b"),
        ("'{env.HOME}'", "b"),
        ("''", "b"),
        ("Transfer-Encoding", "chunked"),
        ("content-length", "5"),
        ("Content_Length", "5"),
        ("Proxy-Connection", "b"),
        ("Host", "b"),
        ("X-A", ""),
        ("X-A", "''"),
        ("X-A", "' '"),
    ] {
        let code = format!(
            "add_caddy_header {name} {value} && exit 9; [ ${{#MTLS_HEADER_NAMES[@]}} = 0 ] || exit 8; exit 1"
        );
        alice.shell(&code).output().assert_refused(1, "header");
    }
    let said = alice.shell("add_caddy_header X-A $'a\\tb' && add_caddy_header x_b c");
    said.output().assert_ok();
}

#[test]
fn headers_that_could_not_count_are_an_error() {
    let alice = User::new();
    for (code, part) in [
        (
            "add_caddy_header X-A 1 && add_caddy_header X_A 2",
            "are one to many apps",
        ),
        ("MTLS_INSIDE=1; add_caddy_header X-A 1", "comes too late"),
        (
            "add_caddy_header X-A 1; export -f start_mtls_caddy mtls_is_port mtls_requirements mtls_error; \
             bash -c 'start_mtls_caddy 20000 20001 true'",
            "in another shell",
        ),
    ] {
        let ran = alice.shell(code).output();
        assert!(!ran.status.success(), "{ran}");
        assert!(ran.stderr.contains(part), "{ran}");
    }
    let code = "start_mtls_caddy 20000 20001 true";
    for setting in ["MTLS_READY_TIMEOUT=10m", "MTLS_GRACE='a[$(id)]'"] {
        let ran = alice.shell(&format!("{setting}; {code}")).output();
        ran.assert_refused(2, "is no number of seconds");
    }
}
