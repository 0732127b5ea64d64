//! `ood-job ports`: what the job listens on, its private networks included.

use serde_json::Value;

use crate::setup::{APP, Node};

fn find<'a>(ports: &'a Value, protocol: &str, port: u64) -> Option<&'a Value> {
    let mut all = ports["ports"].as_array().unwrap().iter();
    all.find(|p| p["protocol"] == protocol && p["port"] == port)
}

#[test]
fn every_kind_of_listener_of_the_tree_is_listed_and_no_other() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import socket, subprocess, sys
kept = []
for family, kind, address, port in (
    (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 5001), (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 5002),
    (socket.AF_INET6, socket.SOCK_STREAM, "::1", 5003), (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", 5004),
    (socket.AF_INET6, socket.SOCK_DGRAM, "::1", 5005)):
    s = socket.socket(family, kind); s.bind((address, port)); kept.append(s)
    if kind == socket.SOCK_STREAM: s.listen()
client = socket.create_connection(("127.0.0.1", 5002))
for flags in (["--json"], ["--lines"], []):
    print(subprocess.run([sys.argv[1], "ports", *flags], capture_output=True, text=True, check=True).stdout, end="")
    print("--")
"#;
    // Not of this user, so not of this job.
    let _other = std::net::TcpListener::bind("0.0.0.0:5006").unwrap();
    let outcome = alice
        .run("setsid")
        .args(["-w", "python3", "-c", script])
        .args([alice.program()])
        .output();
    let outcome = outcome.assert_ok();
    let parts: Vec<&str> = outcome.stdout.split("--\n").collect();
    let ports: Value = serde_json::from_str(parts[0]).unwrap();
    assert_eq!(ports["ports"].as_array().unwrap().len(), 5, "{ports}");
    for (protocol, port, open) in [
        ("tcp", 5001, true),
        ("tcp", 5002, false),
        ("tcp", 5003, false),
        ("udp", 5004, true),
        ("udp", 5005, false),
    ] {
        let found = find(&ports, protocol, port).unwrap_or_else(|| panic!("{port}: {ports}"));
        assert_eq!(found["open"], open, "{found}");
        assert_eq!(found["command"], "python3");
        assert_eq!(found["private"], false);
    }
    let lines: Vec<&str> = parts[1].lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with(":5001"), "{lines:?}");
    assert!(parts[2].starts_with("PROTO  ADDRESS"), "{}", parts[2]);
    assert!(parts[2].contains("udp    [::1]:5005"), "{}", parts[2]);
}

#[test]
fn a_port_in_a_network_of_its_own_is_listed_as_such() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none", APP);
    let published = job.ready();
    let pid = job.pid().to_string();
    let ports = alice
        .ood_job(["ports", "--json", "--pid", &pid])
        .output()
        .assert_ok()
        .json();
    let app = find(&ports, "tcp", 8080).unwrap_or_else(|| panic!("{ports}"));
    assert_eq!(app["private"], true);
    assert_eq!(app["open"], false);
    // The TLS end's own is not shown: its process cannot be looked into, by
    // nobody, for it holds the key.
    assert!(
        find(&ports, "tcp", published.port.into()).is_none(),
        "{ports}"
    );
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let node = Node::new();
    let alice = node.user();
    let outcome = alice.ood_job(["ports", "--pid", "99999999"]).output();
    outcome.assert_refused(1, "there is none with this number here");
}
