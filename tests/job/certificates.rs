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

/// What shows a key of ours: the words of PEM, and of its DER the part before the
/// secret number, alike in PKCS#8 and SEC 1 (`ECPrivateKey`, version 1, 32 bytes).
const SIGNS_OF_A_KEY: [&[u8]; 2] = [b"PRIVATE KEY", &[0x02, 0x01, 0x01, 0x04, 0x20]];

/// The point that belongs to a leaf's key and is beside it in most formats. In a
/// certificate it is too; those on disks are PEM.
fn public_point(leaf: &Certificate) -> Vec<u8> {
    // BIT STRING of 66 bytes, no unused bits, uncompressed.
    const HEAD: [u8; 4] = [0x03, 0x42, 0x00, 0x04];
    let der = leaf.der();
    let at = der.windows(4).position(|part| part == HEAD);
    let start = at.expect("a key on P-256") + HEAD.len();
    der[start..start + 64].to_vec()
}

fn holds(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|other| other == part)
}

/// As `strace -xx` shows it.
fn traced(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write;
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

/// The certificates in what `strace -xx` has shown.
fn certificates_in(trace: &str) -> Vec<Certificate> {
    let (begin, end) = (
        traced(b"-----BEGIN CERTIFICATE-----"),
        traced(b"-----END CERTIFICATE-----\n"),
    );
    let bytes = |text: &str| -> Vec<u8> {
        let digits = text.split("\\x").skip(1);
        digits
            .map(|d| u8::from_str_radix(&d[..2], 16).unwrap())
            .collect()
    };
    trace
        .split(&begin)
        .skip(1)
        .map(|rest| {
            let (body, _) = rest.split_once(&end).unwrap();
            let pem = [bytes(&begin), bytes(body), bytes(&end)].concat();
            Certificate::from_pem(&pem).unwrap()
        })
        .collect()
}

#[test]
fn its_key_is_never_on_a_disk() {
    let node = Node::new();
    let alice = node.user();
    alice.home.ood_ca("init").assert_ok();
    let keys = |signs: &[&[u8]]| {
        let all = Snapshot::of(alice.home.path()).0;
        let held = all
            .into_iter()
            .filter(|(_, entry)| signs.iter().any(|sign| holds(&entry.content, sign)));
        held.map(|(path, _)| path).collect::<Vec<_>>()
    };
    let before = keys(&SIGNS_OF_A_KEY);
    assert_eq!(
        before.len(),
        2,
        "the authority's and the client's: {before:?}"
    );
    // What is looked for in DER is there where a key is in DER.
    let der = Run::new(require_tool("openssl"))
        .args(["pkey", "-outform", "DER", "-out"])
        .args([alice.home.join("key.der")])
        .args(["-in".into(), alice.home.pki().join("client.key")]);
    der.output().assert_ok();
    assert_eq!(keys(&SIGNS_OF_A_KEY[1..]).len(), 1);
    let client = fs::read(alice.home.pki().join("client.crt")).unwrap();
    let clients = public_point(&Certificate::from_pem(&client).unwrap());
    assert_eq!(keys(&[&clients]).len(), 1);
    fs::remove_file(alice.home.join("key.der")).unwrap();

    let trace = alice.home.join("trace");
    let setpriv = format!("--reuid={0} --regid={0} --clear-groups", alice.uid());
    let mut job = alice.job("--outbound none", APP);
    let leaf = leaf_at(job.ready().port);
    let point = public_point(&leaf);
    let signs = [SIGNS_OF_A_KEY[0], SIGNS_OF_A_KEY[1], &point];
    assert_eq!(keys(&signs), before);
    drop(job);
    // Nor was it for a moment: every write of every process of a whole run.
    // By root: a process that cannot be dumped shows its owner nothing.
    let outcome = Run::new(require_tool("strace"))
        .env("HOME", alice.home.path())
        .args([
            "-f",
            "-qq",
            "-xx",
            "-e",
            "trace=write,pwrite64,writev,sendmsg,sendto",
            "-s",
            "16384",
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
    let leaves = certificates_in(&written);
    assert!(!leaves.is_empty(), "the record of the leaf is written");
    let points = leaves.iter().map(public_point);
    let signs = SIGNS_OF_A_KEY.iter().map(|sign| sign.to_vec());
    for sign in signs.chain(points) {
        assert!(!written.contains(&traced(&sign)), "a key was written");
    }
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
