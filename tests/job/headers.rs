//! Headers that the app may trust, and where their values come from.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::setup::{APP, Node, get};

#[test]
fn they_come_from_the_command_line_a_file_and_the_environment_and_from_no_client() {
    let node = Node::new();
    let alice = node.user();
    let file = alice.home.join("headers");
    fs::write(&file, "X-From-File: hunter2\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&file, Some(alice.uid()), Some(alice.uid())).unwrap();
    alice.set("SECRET", "hunter3");
    let flags = format!(
        "--outbound none --header X-Plain:one --header-file {} --header-env X-From-Env=SECRET --client-cert-headers",
        file.display()
    );
    let mut job = alice.job(&flags, APP);
    let port = job.ready().port;
    let forged = "X-Plain: forged\r\nx_from_file: forged\r\nX-From-Env: forged\r\n";
    let seen = get(port, &alice.home, "/", forged).unwrap()["headers"].clone();
    assert_eq!(
        seen["X-Plain"].as_str().or(seen["x-plain"].as_str()),
        Some("one"),
        "{seen}"
    );
    let text = seen.to_string();
    assert!(
        text.contains("hunter2") && text.contains("hunter3"),
        "{text}"
    );
    assert!(!text.contains("forged"), "{text}");
    assert!(
        text.to_lowercase().contains("client-cert") || text.to_lowercase().contains("x-client"),
        "{text}"
    );
    // And stand in nobody's process list.
    let command = fs::read_to_string(format!("/proc/{}/cmdline", job.pid())).unwrap();
    assert!(
        command.contains("header-env") && !command.contains("hunter"),
        "{command}"
    );
    assert!(!job.said().contains("hunter"));
}

#[test]
fn a_file_of_headers_that_others_can_read_is_refused() {
    let node = Node::new();
    let alice = node.user();
    let file = alice.home.join("headers");
    fs::write(&file, "X-From-File: hunter2\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&file, Some(alice.uid()), Some(alice.uid())).unwrap();
    let mut job = alice.job(
        &format!("--outbound none --header-file {}", file.display()),
        APP,
    );
    assert_eq!(job.code(), 125);
    assert!(!job.said().contains("hunter2"), "{}", job.said());
}
