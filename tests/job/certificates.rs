//! The leaf that answers: for whom, how long, and where its key is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ca_core::Certificate;
use ood_ca_tests::{Run, Snapshot, eventually, require_tool};

use crate::setup::{APP, Node, PATIENCE};

/// The leaf that a port answers with, as anybody may see it.
fn leaf_at(port: u16) -> Certificate {
    let outcome = Run::new(require_tool("openssl"))
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .limit(PATIENCE)
        .output();
    let (_, rest) = outcome
        .stdout
        .split_once("-----BEGIN")
        .unwrap_or_else(|| panic!("{outcome}"));
    let (body, _) = rest.split_once("-----END CERTIFICATE-----").unwrap();
    let pem = format!("-----BEGIN{body}-----END CERTIFICATE-----\n");
    Certificate::from_pem(pem.as_bytes()).unwrap()
}

fn in_seconds(seconds: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    (now + seconds).to_string()
}

fn hours_left(leaf: &Certificate) -> i64 {
    (leaf.not_after() - ca_core::now()).whole_minutes() / 60
}

#[test]
fn it_names_the_node_and_lives_as_long_as_the_job() {
    let node = Node::new();
    let alice = node.user();
    let mut job = alice.job("--outbound none", APP);
    let published = job.ready();
    let leaf = leaf_at(published.port);
    assert!(leaf.dns_names().contains(&published.host), "{leaf:?}");
    assert!(
        leaf.dns_names()
            .contains(&"10-77-0-1.ip.ood.internal".to_owned()),
        "{leaf:?}"
    );
    assert_eq!(
        hours_left(&leaf) / 24,
        34,
        "35 days where nothing says how long"
    );
    drop(job);

    alice.set("SLURM_JOB_ID", "4711");
    alice.set("SLURM_JOB_END_TIME", in_seconds(5 * 3600 + 60));
    let mut job = alice.job("--outbound none", APP);
    assert_eq!(hours_left(&leaf_at(job.ready().port)), 5);
    drop(job);

    // But not so short that it would hardly be of use.
    alice.set("SLURM_JOB_END_TIME", in_seconds(30));
    let mut job = alice.job("--outbound none", APP);
    let leaf = leaf_at(job.ready().port);
    assert_eq!((leaf.not_after() - ca_core::now()).whole_minutes(), 4);
}

#[test]
fn its_key_is_never_on_a_disk() {
    let node = Node::new();
    let alice = node.user();
    alice.home.ood_ca("init").assert_ok();
    let keys = |home| {
        let all = Snapshot::of(home).0;
        let held = all
            .into_iter()
            .filter(|(_, entry)| entry.content.windows(11).any(|part| part == b"PRIVATE KEY"));
        held.map(|(path, _)| path).collect::<Vec<_>>()
    };
    let before = keys(alice.home.path());
    assert_eq!(
        before.len(),
        2,
        "the authority's and the client's: {before:?}"
    );
    let trace = alice.home.join("trace");
    let setpriv = format!("--reuid={0} --regid={0} --clear-groups", alice.uid());
    let mut job = alice.job("--outbound none", APP);
    job.ready();
    assert_eq!(keys(alice.home.path()), before);
    drop(job);
    // Nor was it for a moment: every write of every process of a whole run.
    // By root: a process that cannot be dumped shows its owner nothing.
    let outcome = Run::new(require_tool("strace"))
        .env("HOME", alice.home.path())
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=write,pwrite64,writev,sendmsg,sendto",
            "-s",
            "4096",
            "-o",
        ])
        .args([&trace])
        .args(["setpriv"])
        .args(setpriv.split(' '))
        .args([alice.program()])
        .args(["run", "--outbound", "none", "--", "true"])
        .output();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let written = fs::read_to_string(&trace).unwrap();
    assert!(
        written.contains("BEGIN CERTIFICATE"),
        "the record of the leaf is written"
    );
    assert!(!written.contains("PRIVATE"), "a key was written");
}

#[test]
fn it_is_renewed_in_time_and_open_connections_go_on() {
    let node = Node::new();
    let alice = node.user();
    // The shortest that a site can want, of which a fifth is left when it is
    // renewed: less than the time between two looks.
    let site = node.path().join("site.yml");
    fs::write(&site, "leaf_lifetime: 1m\n").unwrap();
    fs::set_permissions(&site, fs::Permissions::from_mode(0o644)).unwrap();
    let flags = format!("--config {} --outbound none", site.display());
    let mut job = alice.job(&flags, APP);
    let port = job.ready().port;
    let first = leaf_at(port);
    let second = eventually("a new leaf answers", Duration::from_secs(100), || {
        std::thread::sleep(Duration::from_secs(1));
        let now = leaf_at(port);
        (now.serial() != first.serial()).then_some(now)
    });
    assert!(ca_core::now() < first.not_after(), "in time");
    assert!(second.not_after() > first.not_after() - time::Duration::seconds(1));
    assert_eq!(second.dns_names(), first.dns_names());
    assert!(crate::setup::get(port, &alice.home, "/", "").is_some());
}
