//! What the app is kept from, and what it may do.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use crate::job::{Job, NODE, PORT, User, tun};

/// Greets whoever connects.
fn greeter(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // Who only wants to know whether it is open does not read.
            drop(connection.and_then(|mut c| c.write_all(b"hello")));
        }
    });
    port
}

#[test]
fn the_nodes_loopback_is_out_of_reach_and_the_rest_of_the_network_is_not() {
    let alice = User::new();
    let inside = greeter("127.0.0.1");
    let outside = greeter(NODE);
    let _job = Job::ready(&alice, "");
    let [loopback, gateway, node] = [
        format!("127.0.0.1:{inside}"),
        format!("10.0.2.2:{inside}"),
        format!("{NODE}:{outside}"),
    ];
    let answer = alice.ask(
        &format!("/?connect={loopback}&connect={gateway}&connect={node}"),
        &[],
    );
    let reaches = |to: &str| answer["reaches"][to].as_str().unwrap().to_owned();
    assert!(reaches(&loopback).starts_with("no"), "{answer}");
    assert!(reaches(&gateway).starts_with("no"), "{answer}");
    assert_eq!(reaches(&node), "hello", "{answer}");
}

#[test]
fn the_app_is_an_ordinary_user_among_its_own_processes() {
    let alice = User::new();
    let _job = Job::ready(&alice, "");
    let answer = alice.ask("/", &[]);
    assert_eq!(answer["uid"], alice.home.uid());
    for set in answer["capabilities"].as_array().unwrap() {
        assert_eq!(set, "0000000000000000", "{answer}");
    }
    let processes = answer["processes"].to_string();
    assert!(processes.contains("python3 app.py"), "{processes}");
    // The Caddy that has the key is not among them: one is, the other end of the socket.
    assert_eq!(processes.matches("caddy run").count(), 1, "{processes}");
    assert!(!processes.contains("slirp4netns"), "{processes}");
}

#[test]
fn the_servers_key_is_in_no_file_and_no_command_line() {
    let alice = User::new();
    let _job = Job::ready(&alice, "");
    alice.ask("/", &[]);
    let dirs = alice.temporary_files();
    assert_eq!(dirs.len(), 1, "{dirs:?}");
    let mode = fs::metadata(&dirs[0]).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o700
    );
    let mut looked = 0;
    let mut todo = dirs;
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if meta.is_file() {
            looked += 1;
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("PRIVATE KEY"), "{} has it", path.display());
        }
    }
    assert!(looked > 0);
    assert!(alice.processes().iter().all(|l| !l.contains("PRIVATE KEY")));
}

#[test]
fn an_app_that_connects_to_nothing_needs_no_slirp4netns() {
    let alice = User::new();
    tun(0o600);
    let outside = greeter(NODE);
    let _job = Job::ready(&alice, "mtls_outbound: 'none'");
    let node = format!("{NODE}:{outside}");
    let answer = alice.ask(&format!("/?connect={node}"), &[]);
    assert!(answer["reaches"][&node].as_str().unwrap().starts_with("no"));
    assert_eq!(alice.process("slirp4netns"), None);
}

#[test]
fn a_node_that_keeps_the_tun_device_to_root_is_told_of() {
    let alice = User::new();
    tun(0o600);
    let code = format!("start_mtls {PORT} {PORT} python3 app.py {PORT}");
    let said = alice.shell(&code).output();
    let said = said.assert_refused(1, "/dev/net/tun cannot be opened by this user");
    assert!(said.stderr.contains("0666"), "{said}");
    assert!(said.stderr.contains("MTLS_OUTBOUND=none"), "{said}");
}

#[test]
fn inside_and_outside_may_have_different_ports() {
    let alice = User::new();
    alice.file(
        "script.sh",
        0o755,
        "#!/bin/bash\nstart_mtls_caddy \"$port\" 5000 python3 app.py 5000\n",
    );
    let job = alice.start("mtls_wrap: false");
    alice.connection();
    ood_ca_tests::eventually("the app answers", Duration::from_secs(60), || {
        let open = std::net::TcpStream::connect(("127.0.0.1", PORT));
        open.is_ok().then_some(())
    });
    let retry = [
        "--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--fail",
    ];
    assert_eq!(alice.ask("/", &retry)["uid"], alice.home.uid());
    assert!(std::net::TcpStream::connect(("127.0.0.1", 5000)).is_err());
    assert!(std::net::TcpStream::connect((NODE, 5000)).is_err());
    // Not the process that started it, but the one above.
    drop(job);
    alice.assert_nothing_left(Duration::from_secs(10));
}
