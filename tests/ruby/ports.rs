//! Ports that somebody else has.

use std::net::TcpListener;

use crate::end::both;
use crate::job::{Job, PORT, User};

#[test]
fn a_taken_port_ends_the_job_before_anything_is_published() {
    let alice = User::new();
    for address in ["0.0.0.0", "127.0.0.1"] {
        let other = TcpListener::bind((address, PORT)).unwrap();
        let said = alice.start("").running.wait();
        assert!(!said.status.success(), "{said}");
        assert!(
            said.stderr
                .contains(&format!("error: port {PORT} of this node is taken")),
            "{said}"
        );
        assert!(!alice.work.join("connection.yml").exists(), "{said}");
        drop(other);
    }
    alice.assert_nothing_left(std::time::Duration::from_secs(10));
}

#[test]
fn a_port_of_another_job_of_the_same_user_is_taken_too() {
    // Caddy would share it (SO_REUSEPORT) and half of the requests would go astray.
    let alice = User::new();
    let _job = Job::ready(&alice, "");
    for (_, setting) in both(&alice) {
        let code = format!("{setting} start_mtls {PORT} 5000 python3 app.py 5000");
        let said = alice.shell(&code).output();
        said.assert_refused(1, &format!("port {PORT} of this node is taken"));
    }
    assert_eq!(alice.ask("/", &[])["uid"], alice.home.uid());
}

#[test]
fn two_that_start_at_once_do_not_share_a_port() {
    let alice = User::new();
    let code = format!("MTLS_READY_TIMEOUT=20; start_mtls {PORT} 5000 python3 app.py 5000");
    let one = alice.shell(&code).start();
    let two = alice.shell(&code).start();
    let mut both = [one, two];
    // At least one gives up; both may.
    ood_ca_tests::eventually("one gives up", std::time::Duration::from_secs(30), || {
        both.iter_mut().any(|job| job.has_ended()).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap()
        + &std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = format!(":{PORT:04X} ");
    let listening = text.lines().filter(|l| {
        let mut words = l.split_whitespace().skip(1);
        words
            .next()
            .is_some_and(|w| format!("{w} ").ends_with(&port))
            && words.nth(1) == Some("0A")
    });
    assert!(listening.count() <= 1, "{text}");
}

#[test]
fn without_a_port_of_its_own_a_job_gets_a_free_one() {
    let alice = User::new();
    alice.file("before.sh", 0o644, "");
    let job = Job::ready(&alice, "min_port: 40000, max_port: 40009");
    assert!((40_000..=40_009).contains(&job.port), "{}", job.port);
}

#[test]
fn a_free_port_is_one_that_nobody_listens_on() {
    let alice = User::new();
    let others: Vec<_> = (40_000..40_009)
        .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap())
        .collect();
    let said = alice
        .shell("mtls_free_port 40000 40009")
        .output()
        .assert_ok();
    assert_eq!(said.stdout, "40009\n");
    let said = alice.shell("mtls_free_port 40000 40008").output();
    said.assert_refused(1, "no free port");
    let said = alice.shell("mtls_free_port 5 1").output();
    said.assert_refused(1, "no range");
    drop(others);
}
