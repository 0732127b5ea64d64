//! Verifiers that look at files, without a connection.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ood_ca_tests::{Home, Outcome, Run, require_tool};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::cases::{Case, Peer, Reason, Role};
use super::{Verdict, Verifier};

/// The certificates of a PEM file.
pub(super) fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// rustls-webpki, called as a library.
pub(super) struct Webpki;

impl Verifier for Webpki {
    fn judge(&self, case: &Case) -> Verdict {
        let roots = certificates(&case.trust);
        let anchors: Vec<_> = roots
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).unwrap())
            .collect();
        let chain = certificates(&case.leaf.cert);
        let result = webpki::EndEntityCert::try_from(&chain[0]).and_then(|leaf| {
            let usage = match case.role {
                Role::Server => KeyUsage::server_auth(),
                Role::Client => KeyUsage::client_auth(),
            };
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &chain[1..],
                UnixTime::now(),
                usage,
                None,
                None,
            )?;
            match case.role {
                Role::Server => {
                    let name = ServerName::try_from(case.peer.text()).unwrap();
                    leaf.verify_is_valid_for_subject_name(&name)
                }
                Role::Client => Ok(()),
            }
        });
        match result {
            Ok(()) => Verdict::Accepts,
            Err(error) => Verdict::Refuses(format!("{error:?}")),
        }
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        match reason {
            Reason::Purpose => &["RequiredEkuNotFound"],
            Reason::UnknownIssuer => &["UnknownIssuer"],
            Reason::Forged => &[
                "InvalidSignatureForPublicKey", "UnsupportedSignatureAlgorithm",
            ],
            Reason::Expired => &["CertExpired"],
            Reason::NotYetValid => &["CertNotValidYet"],
            Reason::WrongHost | Reason::WrongAddress => &["CertNotValidForName"],
            Reason::NotAnAuthority => &["EndEntityUsedAsCa"],
            Reason::OutsideConstraints => &["NameConstraintViolation"],
        }
    }
}

/// How OpenSSL words a reason, on the command line and in a handshake.
pub(super) fn openssl_words(reason: Reason) -> &'static [&'static str] {
    match reason {
        Reason::Purpose => &[
            "unsuitable certificate purpose", "unsupported certificate purpose",
        ],
        Reason::UnknownIssuer => &[
            "unable to get local issuer certificate",
            "self-signed certificate in certificate chain",
        ],
        Reason::Forged => &["certificate signature failure"],
        Reason::Expired => &["certificate has expired"],
        Reason::NotYetValid => &["certificate is not yet valid"],
        Reason::WrongHost => &["hostname mismatch"],
        Reason::WrongAddress => &["IP address mismatch"],
        Reason::NotAnAuthority => &["invalid CA certificate"],
        Reason::OutsideConstraints => &["permitted subtree violation"],
    }
}

/// How GnuTLS words a reason, on the command line and in a handshake.
pub(super) fn gnutls_words(reason: Reason) -> &'static [&'static str] {
    match reason {
        Reason::Purpose => &["does not match the intended purpose"],
        Reason::UnknownIssuer => &["certificate issuer is unknown"],
        Reason::Forged => &[
            "signature in the certificate is invalid",
            "certificate issuer is unknown",
        ],
        Reason::Expired => &["uses expired certificate"],
        Reason::NotYetValid => &["uses not yet valid certificate"],
        Reason::WrongHost | Reason::WrongAddress => {
            &["name in the certificate does not match the expected"]
        }
        // Of the authority's path length 0, or of the leaf's CA:FALSE.
        Reason::NotAnAuthority => &[
            "violates the signer's constraints", "certificate issuer is not a CA",
        ],
        Reason::OutsideConstraints => &["violates the signer's constraints"],
    }
}

/// `openssl verify`.
pub(super) struct OpensslVerify(PathBuf);

impl OpensslVerify {
    pub(super) fn new() -> Self {
        OpensslVerify(require_tool("openssl"))
    }
}

/// The option by which OpenSSL is told whom to expect.
pub(super) fn openssl_peer(peer: &Peer) -> [&str; 2] {
    match peer {
        Peer::Host(name) => ["-verify_hostname", name],
        Peer::Address(address) => ["-verify_ip", address],
    }
}

impl Verifier for OpensslVerify {
    fn judge(&self, case: &Case) -> Verdict {
        let mut run = Run::new(&self.0)
            .args([
                "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile",
            ])
            .args([&case.trust]);
        if let Some(intermediate) = &case.intermediate {
            run = run.args(["-untrusted".as_ref(), intermediate.as_os_str()]);
        }
        run = match case.role {
            Role::Server => run
                .args(["-purpose", "sslserver"])
                .args(openssl_peer(&case.peer)),
            Role::Client => run.args(["-purpose", "sslclient"]),
        };
        let outcome = run.args([&case.leaf.cert]).output();
        match outcome.code() {
            Some(0) if outcome.stdout.trim_end().ends_with(": OK") => Verdict::Accepts,
            // "error 26 at 0 depth lookup: …": it has looked.
            Some(2) if outcome.stderr.contains(" depth lookup: ") => {
                Verdict::Refuses(outcome.stderr)
            }
            _ => Verdict::Broken(outcome.to_string()),
        }
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        openssl_words(reason)
    }
}

/// GnuTLS's `certtool --verify`.
pub(super) struct Certtool(PathBuf);

impl Certtool {
    pub(super) fn new() -> Self {
        Certtool(require_tool("certtool"))
    }
}

impl Verifier for Certtool {
    fn judge(&self, case: &Case) -> Verdict {
        let run = Run::new(&self.0)
            .args(["--verify", "--load-ca-certificate"])
            .args([&case.trust])
            .args(["--infile"])
            .args([&case.leaf.cert]);
        // RFC 5280 §4.2.1.12: id-kp-serverAuth, id-kp-clientAuth.
        let run = match case.role {
            Role::Server => run
                .args(["--verify-purpose", "1.3.6.1.5.5.7.3.1", "--verify-hostname"])
                .args([case.peer.text()]),
            Role::Client => run.args(["--verify-purpose", "1.3.6.1.5.5.7.3.2"]),
        };
        let outcome = run.output();
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        let verdict = said
            .lines()
            .rev()
            .find(|l| l.contains("Chain verification output: "));
        match (outcome.code(), verdict) {
            (Some(0), Some(line)) if line.contains("Verified. The certificate is trusted.") => {
                Verdict::Accepts
            }
            (Some(1), Some(line)) => Verdict::Refuses(line.to_owned()),
            _ => Verdict::Broken(outcome.to_string()),
        }
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        gnutls_words(reason)
    }
}

/// `ood-ca verify`.
pub(super) struct OodCaVerify(Home);

impl OodCaVerify {
    pub(super) fn new() -> Self {
        OodCaVerify(Home::new())
    }
}

impl Verifier for OodCaVerify {
    fn judge(&self, case: &Case) -> Verdict {
        let run = self.0.command([
            OsStr::new("verify"),
            case.leaf.cert.as_os_str(),
            "--trust".as_ref(),
            case.trust.as_os_str(),
        ]);
        let run = match (case.role, &case.peer) {
            (Role::Server, Peer::Host(name)) => run.args(["--server", "--host", name]),
            (Role::Server, Peer::Address(address)) => run.args(["--server", "--ip", address]),
            (Role::Client, _) => run.args(["--client"]),
        };
        verdict_of_ood_ca(run.output())
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        match reason {
            Reason::Purpose => &["may not act as a"],
            // It looks at the leaf alone: nothing stands between it and the authority.
            Reason::UnknownIssuer | Reason::NotAnAuthority => &["no trusted authority signed it"],
            Reason::Forged => &["its signature is not by the authority that it names"],
            Reason::Expired => &["it expired at"],
            Reason::NotYetValid => &["it is not valid before"],
            Reason::WrongHost | Reason::WrongAddress => &["it is not for"],
            Reason::OutsideConstraints => &["its authority may not sign for"],
        }
    }
}

fn verdict_of_ood_ca(outcome: Outcome) -> Verdict {
    match outcome.code() {
        Some(0) => Verdict::Accepts,
        Some(1) => Verdict::Refuses(outcome.stderr),
        _ => Verdict::Broken(outcome.to_string()),
    }
}
