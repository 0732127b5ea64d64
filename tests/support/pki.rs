//! What a PKI directory holds, read as its documentation says and without the
//! code that wrote it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use ca_core::{Certificate, PrivateKey, TrustBundle};

use super::command::Run;
use super::files::Snapshot;
use super::tools::require_tool;

/// What a leaf may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// Answers connections.
    Server,
    /// Makes connections.
    Client,
}

/// Every leaf must verify against this trust bundle, as OpenSSL sees it.
///
/// # Panics
/// If one does not.
#[track_caller]
pub fn assert_leaves_verify<P: AsRef<Path>>(trust: &Path, kind: LeafKind, leaves: &[P]) {
    assert!(!leaves.is_empty(), "there should be leaves to verify");
    let purpose = match kind {
        LeafKind::Server => "sslserver",
        LeafKind::Client => "sslclient",
    };
    let outcome = Run::new(require_tool("openssl"))
        .args([
            "verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore", "-CAfile",
        ])
        .args([trust])
        .args(leaves.iter().map(AsRef::as_ref))
        .output()
        .assert_ok();
    let good = outcome
        .stdout
        .lines()
        .filter(|line| line.ends_with(": OK"))
        .count();
    assert_eq!(good, leaves.len(), "every leaf should verify: {outcome}");
}

/// A key and a certificate must belong together.
///
/// # Panics
/// If they do not, or are not what they should be.
#[track_caller]
pub fn assert_pair(key: &Path, certificate: &Path) {
    assert!(
        certificate_at(certificate).belongs_to(&key_at(key)),
        "{} should belong to {}",
        key.display(),
        certificate.display()
    );
}

#[track_caller]
fn bytes_at(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The block of this kind in a file that may hold others too.
#[track_caller]
fn block_at(path: &Path, kind: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes_at(path)).into_owned();
    let (begin, end) = (
        format!("-----BEGIN {kind}-----"),
        format!("-----END {kind}-----"),
    );
    let block = text
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once(&end));
    let (body, _) = block.unwrap_or_else(|| panic!("{} holds no {kind}", path.display()));
    format!("{begin}{body}{end}\n").into_bytes()
}

#[track_caller]
fn key_at(path: &Path) -> PrivateKey {
    PrivateKey::from_pem(&block_at(path, "PRIVATE KEY"))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn certificate_at(path: &Path) -> Certificate {
    Certificate::from_pem(&block_at(path, "CERTIFICATE"))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a PKI directory says, complete and consistent.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// Fingerprint of the authority that signs.
    pub signer: String,
    /// Fingerprints of the authorities that are trusted and have not ended.
    pub trust: BTreeSet<String>,
    /// Fingerprint of the PUN's client leaf.
    pub client: String,
    /// Whether the client leaf belongs to its key.
    pub client_matches: bool,
    /// Whether a trusted authority signed the client leaf.
    pub client_trusted: bool,
    /// Whether `trust.crt`, `ca.key` and `ca.crt` say all this by themselves,
    /// as programs that know nothing of rotations read them.
    pub in_place: bool,
    client_key: Vec<u8>,
}

impl State {
    /// Reads a PKI directory. The first authority of `trust.crt` that has not
    /// ended signs; its key is `ca.key` if `ca.crt` is its certificate, and
    /// otherwise has a name of its own. If all of them have ended, the newest
    /// authority with files of its own signs.
    ///
    /// # Panics
    /// If there is no such authority, or a file is missing or malformed.
    #[must_use]
    #[track_caller]
    pub fn of(pki: &Path) -> Self {
        let listed = TrustBundle::from_pem(&bytes_at(&pki.join("trust.crt")))
            .unwrap_or_else(|error| panic!("trust.crt: {error}"));
        let has_ended = |authority: &Certificate| {
            pki.join(format!("ca.{}.ended", authority.serial()))
                .exists()
        };
        let mut trusted: Vec<Certificate> = listed.authorities().to_vec();
        trusted.retain(|authority| !has_ended(authority));
        if trusted.is_empty() {
            trusted.extend(newest_own_authority(pki, has_ended));
        }
        let signer = trusted
            .first()
            .unwrap_or_else(|| panic!("{} has no authority that has not ended", pki.display()))
            .clone();
        let (key, certificate) = (pki.join("ca.key"), pki.join("ca.crt"));
        let placed = certificate.exists()
            && certificate_at(&certificate) == signer
            && signer.belongs_to(&key_at(&key));
        if !placed {
            let own = pki.join(format!("ca.{}.key", signer.serial()));
            let fits = own.exists() && signer.belongs_to(&key_at(&own));
            assert!(
                fits,
                "{} has no key for the authority {} that signs: {:#?}",
                pki.display(),
                signer.serial(),
                Snapshot::of(pki)
            );
        }
        let client = certificate_at(&pki.join("client.crt"));
        let fingerprint = |authority: &Certificate| authority.fingerprint().to_string();
        State {
            signer: fingerprint(&signer),
            trust: trusted.iter().map(fingerprint).collect(),
            client: fingerprint(&client),
            client_matches: client.belongs_to(&key_at(&pki.join("client.key"))),
            client_trusted: trusted
                .iter()
                .any(|authority| client.is_signed_by(authority)),
            in_place: placed && listed.authorities() == trusted,
            client_key: bytes_at(&pki.join("client.key")),
        }
    }

    /// The authority that is trusted beside the signer during a rotation.
    #[must_use]
    pub fn other(&self) -> Option<&String> {
        self.trust
            .iter()
            .find(|authority| **authority != self.signer)
    }

    /// Whether nothing is left to be mended: all is in place and the client
    /// leaf works.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.in_place && self.client_matches && self.client_trusted
    }

    /// Whether the authority that signs is the only one that is trusted.
    #[must_use]
    pub fn trusts_only_signer(&self) -> bool {
        self.trust.len() == 1 && self.trust.contains(&self.signer)
    }

    /// Whether the client's key is the same in both.
    #[must_use]
    pub fn has_client_key_of(&self, other: &State) -> bool {
        self.client_key == other.client_key
    }

    /// Whether signer and trust are the same in both.
    #[must_use]
    pub fn has_authority_of(&self, other: &State) -> bool {
        self.signer == other.signer && self.trust == other.trust
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |fingerprint: &String| fingerprint.chars().take(8).collect::<String>();
        f.debug_struct("State")
            .field("signer", &short(&self.signer))
            .field("trust", &self.trust.iter().map(short).collect::<Vec<_>>())
            .field("client", &short(&self.client))
            .field("client_matches", &self.client_matches)
            .field("client_trusted", &self.client_trusted)
            .field("in_place", &self.in_place)
            .finish_non_exhaustive()
    }
}

/// The newest authority that has a certificate and a key under its own name.
fn newest_own_authority(
    pki: &Path,
    has_ended: impl Fn(&Certificate) -> bool,
) -> Option<Certificate> {
    let own = |file: fs::DirEntry| {
        let path = file.path();
        let serial = own_file(path.file_name()?.to_str()?, ".crt")?.to_owned();
        let authority = certificate_at(&path);
        let key = pki.join(format!("ca.{serial}.key"));
        (key.exists() && authority.belongs_to(&key_at(&key))).then_some(authority)
    };
    let found = fs::read_dir(pki)
        .unwrap()
        .filter_map(|file| own(file.unwrap()));
    found
        .filter(|authority| !has_ended(authority))
        .max_by_key(Certificate::not_before)
}

/// The serial number in `ca.<serial>.key` and the like.
#[must_use]
pub fn own_file<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    let serial = name.strip_prefix("ca.")?.strip_suffix(end)?;
    let is_serial = serial.len() == 32 && serial.bytes().all(|b| b.is_ascii_hexdigit());
    is_serial.then_some(serial)
}

/// Whether a file's bytes are (the beginning of) something with a private key.
fn holds_key(content: &[u8]) -> bool {
    const MARK: &[u8] = b"-----BEGIN PRIVATE KEY-----";
    let begins = content.len() > 11 && MARK.starts_with(&content[..content.len().min(MARK.len())]);
    begins || content.windows(MARK.len()).any(|part| part == MARK)
}

/// No file below `dir` that holds key material may be open to anybody but its
/// owner.
///
/// # Panics
/// If one is.
#[track_caller]
pub fn assert_keys_are_private(dir: &Path) {
    for (path, entry) in Snapshot::of(dir).files() {
        let named_key = path.extension().is_some_and(|e| e == "key");
        if holds_key(&entry.content) || named_key {
            let mode = entry.mode & 0o7777;
            assert_eq!(
                mode,
                0o600,
                "{} holds a key and has mode {mode:04o}",
                dir.join(path).display()
            );
        }
    }
}

/// The temporary files and half-made directories below a home directory or an
/// output directory. Whatever else lies there must have a documented name.
///
/// # Panics
/// If something lies there that should not, or a temporary file is open to
/// others though it holds a key.
#[must_use]
#[track_caller]
pub fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (path, entry) in Snapshot::of(dir).0 {
        let parts: Vec<_> = path
            .iter()
            .map(|p| p.to_string_lossy().into_owned())
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let kind = classify(&parts);
        let shown = dir.join(&path);
        match kind {
            Name::Documented => {}
            Name::Unknown => panic!("{} has no name that is documented", shown.display()),
            Name::Temporary => {
                let mode = entry.mode & 0o7777;
                let is_dir = entry.mode & 0o170_000 == 0o040_000;
                let closed = if is_dir { mode == 0o700 } else { mode == 0o600 };
                // A certificate gets its final mode just before its final name.
                let public = !is_dir && mode == 0o644 && !holds_key(&entry.content);
                assert!(
                    closed || public,
                    "{} is left over with mode {mode:04o}",
                    shown.display()
                );
                found.push(path);
            }
        }
    }
    found
}

enum Name {
    Documented,
    Temporary,
    Unknown,
}

/// What a path below a home directory is. `out` is where the tests write leaves.
fn classify(parts: &[&str]) -> Name {
    let (pki, inner) = match parts {
        [] | [".ood" | "out"] | [".ood", "pki"] => return Name::Documented,
        ["out", file] if file.starts_with(".tmp-") => return Name::Temporary,
        ["out", _] => return Name::Documented,
        [".ood", "pki", inner @ ..] => (true, inner),
        [".ood", made, inner @ ..] if made.starts_with(".pki.tmp-") => (false, inner),
        _ => return Name::Unknown,
    };
    let known = match inner {
        [] => true,
        [.., file] if file.starts_with(".tmp-") && inner.len() <= 2 => return Name::Temporary,
        ["ca.key" | "ca.crt" | "trust.crt" | "client.key" | "client.crt"] => true,
        ["issued" | "webhosts"] => true,
        [own]
            if [".key", ".crt", ".ended"]
                .iter()
                .any(|end| own_file(own, end).is_some()) =>
        {
            true
        }
        ["issued", file] => file.strip_suffix(".crt").is_some_and(|s| s.len() == 32),
        ["webhosts", _] => true,
        _ => false,
    };
    match (known, pki) {
        (false, _) => Name::Unknown,
        (true, true) => Name::Documented,
        // All of a half-made directory is in the way until it is removed; its
        // files already have their final modes.
        (true, false) if inner.is_empty() => Name::Temporary,
        (true, false) => Name::Documented,
    }
}
