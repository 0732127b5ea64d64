//! Verifiers at the end of a connection: both ends show a certificate, and the
//! case says which end's is on trial.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ood_ca_tests::tls::{Server, free_port};
use ood_ca_tests::{Run, require_tool};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection, SideData, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};

use super::cases::{Case, Peer, Reason, Role};
use super::certificates::Leaf;
use super::verifiers::{certificates, gnutls_words, openssl_peer, openssl_words};
use super::{Verdict, Verifier};

/// How long a handshake may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both ends of a connection as a case has them.
struct Ends<'a> {
    server: &'a Leaf,
    server_trusts: &'a Path,
    client: &'a Leaf,
    client_trusts: &'a Path,
    /// Whom the client wants to reach.
    peer: &'a Peer,
}

fn ends(case: &Case) -> Ends<'_> {
    match case.role {
        Role::Server => Ends {
            server: &case.leaf,
            server_trusts: &case.other.trust,
            client: &case.other.leaf,
            client_trusts: &case.trust,
            peer: &case.peer,
        },
        Role::Client => Ends {
            server: &case.other.leaf,
            server_trusts: &case.trust,
            client: &case.leaf,
            client_trusts: &case.other.trust,
            peer: &case.other.peer,
        },
    }
}

/// rustls on both ends, in memory, set up as our own TLS ends are.
pub(super) struct Rustls(pub(super) &'static SupportedProtocolVersion);

fn roots(path: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for der in certificates(path) {
        roots.add(der).unwrap();
    }
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn key_of(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap()
}

/// A rustls client that shows this leaf and verifies the server by `trust`.
pub(crate) fn rustls_client(
    cert: &Path,
    key: &Path,
    trust: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(trust))
        .with_client_auth_cert(certificates(cert), key_of(key))
        .unwrap();
    Arc::new(config)
}

fn rustls_server(
    leaf: &Leaf,
    trust: &Path,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(trust), provider())
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&leaf.cert), key_of(&leaf.key))
        .unwrap();
    Arc::new(config)
}

/// Hands what one end wants to send to the other.
fn carry<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<bool, rustls::Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let carried = !wire.is_empty();
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(carried)
}

/// Which end gave up, and why.
struct GaveUp {
    end: Role,
    error: rustls::Error,
}

fn talk(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), GaveUp> {
    loop {
        let to_server = carry(client, server).map_err(|error| GaveUp {
            end: Role::Server,
            error,
        })?;
        let to_client = carry(server, client).map_err(|error| GaveUp {
            end: Role::Client,
            error,
        })?;
        if !to_server && !to_client {
            return Ok(());
        }
    }
}

impl Verifier for Rustls {
    fn judge(&self, case: &Case) -> Verdict {
        let ends = ends(case);
        let client = rustls_client(
            &ends.client.cert,
            &ends.client.key,
            ends.client_trusts,
            &[self.0],
        );
        let server = rustls_server(ends.server, ends.server_trusts, self.0);
        let name = ServerName::try_from(ends.peer.text().to_owned()).unwrap();
        let mut client = ClientConnection::new(client, name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        let verifying = match case.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        match talk(&mut client, &mut server) {
            Ok(()) => {}
            Err(GaveUp { end, error }) if end == verifying => {
                return Verdict::Refuses(format!("{error:?}"));
            }
            Err(GaveUp { end, error }) => {
                return Verdict::Broken(format!("the other end, {end:?}: {error:?}"));
            }
        }
        client.writer().write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        match talk(&mut client, &mut server).map(|()| server.reader().read_exact(&mut heard)) {
            Ok(Ok(())) if &heard == b"ping" => Verdict::Accepts,
            _ => Verdict::Broken("the handshake is over, and nothing arrives".into()),
        }
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        match reason {
            Reason::Purpose => &["InvalidPurpose"],
            Reason::UnknownIssuer => &["UnknownIssuer"],
            Reason::Forged => &["BadSignature", "UnsupportedSignatureAlgorithm"],
            Reason::Expired => &["Expired"],
            Reason::NotYetValid => &["NotValidYet"],
            Reason::WrongHost | Reason::WrongAddress => &["NotValidForName"],
            Reason::NotAnAuthority => &["EndEntityUsedAsCa"],
            Reason::OutsideConstraints => &["NameConstraintViolation"],
        }
    }
}

/// `openssl s_server` and `openssl s_client`.
pub(super) struct Openssl {
    openssl: PathBuf,
    version: &'static str,
}

impl Openssl {
    pub(super) fn new(version: &'static str) -> Self {
        Openssl {
            openssl: require_tool("openssl"),
            version,
        }
    }

    /// What both ends are given: a leaf to show, whom to trust, and to verify strictly.
    fn common<'a>(&self, leaf: &'a Leaf, trust: &'a Path) -> Vec<&'a OsStr> {
        let mut args: Vec<&OsStr> = vec!["-cert".as_ref(), leaf.cert.as_ref()];
        args.extend(["-key".as_ref(), leaf.key.as_os_str()]);
        args.extend(["-CAfile".as_ref(), trust.as_os_str()]);
        args.extend(
            [
                "-no-CApath", "-no-CAstore", "-x509_strict", "-verify_return_error", self.version,
            ]
            .map(OsStr::new),
        );
        args
    }
}

/// The part after a marker, up to the end of the line.
fn after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(marker)?;
    // A line that is still being written does not count.
    rest.split_once('\n').map(|(line, _)| line)
}

impl Verifier for Openssl {
    fn judge(&self, case: &Case) -> Verdict {
        let ends = ends(case);
        let args = || {
            let mut args: Vec<&OsStr> = [
                "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-www", "-Verify", "1",
            ]
            .map(OsStr::new)
            .into();
            args.extend(self.common(ends.server, ends.server_trusts));
            if let Some(intermediate) = &case.intermediate {
                assert_eq!(
                    case.role,
                    Role::Server,
                    "only servers have shown a chain so far"
                );
                args.extend(["-cert_chain".as_ref(), intermediate.as_os_str()]);
            }
            args
        };
        let (mut server, address) = Server::listening(&self.openssl, args, |said| {
            after(said, "ACCEPT ").map(str::to_owned)
        });
        let client = Run::new(&self.openssl)
            .args(["s_client", "-ign_eof", "-connect", &address])
            .args(openssl_peer(ends.peer))
            .args(self.common(ends.client, ends.client_trusts))
            .input(b"GET / HTTP/1.0\r\n\r\n")
            .limit(PATIENCE)
            .output();
        let answered = client.stdout.contains("HTTP/1.0 200 ok");
        if case.role == Role::Client && !answered {
            server.expect("s_server says why", |said| {
                after(said, "verify error:num=").map(drop)
            });
        }
        let server_said = server.stop();
        let (verifying, other) = match case.role {
            Role::Server => (&client.stderr, &server_said),
            Role::Client => (&server_said, &client.stderr),
        };
        let doubts = |said: &str| said.contains("verify error:num=");
        match (answered, doubts(verifying), doubts(other)) {
            (true, false, false) => Verdict::Accepts,
            (false, true, false) => Verdict::Refuses(verifying.clone()),
            _ => Verdict::Broken(format!(
                "the client said:{client}\nthe server said:\n{server_said}"
            )),
        }
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        openssl_words(reason)
    }
}

/// All that gnutls-serv tells of a client certificate that it refuses. For
/// which reason GnuTLS refuses that certificate, `certtool` tells.
const UNEXPLAINED: &str = "Error in handshake: Error in the certificate.";

/// `gnutls-serv` and `gnutls-cli`.
pub(super) struct Gnutls {
    serv: PathBuf,
    cli: PathBuf,
    priority: String,
}

impl Gnutls {
    pub(super) fn new(version: &str) -> Self {
        Gnutls {
            serv: require_tool("gnutls-serv"),
            cli: require_tool("gnutls-cli"),
            priority: format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"),
        }
    }

    fn common<'a>(&'a self, leaf: &'a Leaf, trust: &'a Path, port: &'a str) -> Vec<&'a OsStr> {
        vec![
            "--x509certfile".as_ref(),
            leaf.cert.as_ref(),
            "--x509keyfile".as_ref(),
            leaf.key.as_ref(),
            "--x509cafile".as_ref(),
            trust.as_ref(),
            "--port".as_ref(),
            port.as_ref(),
            self.priority.as_ref(),
        ]
    }

    /// A server and its port. It knows no way to choose an address, nor to let
    /// the system choose the port: if somebody was faster, it tries another.
    fn serve(&self, leaf: &Leaf, trust: &Path) -> (Server, String) {
        let port = Cell::new(0);
        let args = || {
            port.set(free_port());
            let mut args: Vec<OsString> =
                ["--echo", "--require-client-cert", "--verify-client-cert"]
                    .map(OsString::from)
                    .into();
            let text = port.get().to_string();
            let common = self.common(leaf, trust, &text);
            args.extend(common.into_iter().map(OsStr::to_owned));
            args
        };
        let (server, ()) = Server::listening(&self.serv, args, |said| {
            said.contains(&format!(
                "listening on IPv4 0.0.0.0 port {}...done",
                port.get()
            ))
            .then_some(())
        });
        (server, port.get().to_string())
    }
}

impl Verifier for Gnutls {
    fn judge(&self, case: &Case) -> Verdict {
        let ends = ends(case);
        let (mut server, port) = self.serve(ends.server, ends.server_trusts);
        let client = Run::new(&self.cli)
            .args(self.common(ends.client, ends.client_trusts, &port))
            .args(["--verify-hostname", ends.peer.text(), "127.0.0.1"])
            .input(b"are you there\n")
            .limit(PATIENCE)
            .output();
        if case.role == Role::Client {
            // It alerts the client first and speaks afterwards.
            server.expect("gnutls-serv gives its verdict", |said| {
                after(said, "- Status: ")
                    .or(after(said, "Error in handshake: "))
                    .map(drop)
            });
        }
        let server_said = server.stop();
        let client_said = format!("{}{}", client.stdout, client.stderr);
        let (verifying, other) = match case.role {
            Role::Server => (&client_said, &server_said),
            Role::Client => (&server_said, &client_said),
        };
        let status = |said: &str| after(said, "- Status: ").map(str::to_owned);
        let trusts =
            |said: &str| status(said).is_some_and(|s| s.contains("The certificate is trusted."));
        let answered = client.stdout.lines().any(|line| line == "are you there");
        match (case.role, status(verifying), answered) {
            (_, Some(_), true) if trusts(verifying) && trusts(other) => Verdict::Accepts,
            (Role::Server, Some(status), false) if status.contains("NOT trusted") => {
                Verdict::Refuses(status)
            }
            (Role::Client, None, false) if trusts(other) && server_said.contains(UNEXPLAINED) => {
                Verdict::Refuses(UNEXPLAINED.into())
            }
            _ => Verdict::Broken(format!(
                "the client said:{client}\nthe server said:\n{server_said}"
            )),
        }
    }

    fn words(&self, reason: Reason) -> &'static [&'static str] {
        match reason {
            Reason::UnknownIssuer => &["certificate issuer is unknown", UNEXPLAINED],
            Reason::Expired => &["uses expired certificate", UNEXPLAINED],
            Reason::NotYetValid => &["uses not yet valid certificate", UNEXPLAINED],
            other => gnutls_words(other),
        }
    }
}
