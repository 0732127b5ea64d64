//! `--layout oodproxy` in front of a real stunnel, set up as oodproxy documents
//! it: only the portal's own client certificate gets through.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::tls::Server;
use ood_ca_tests::{Home, Outcome, Run, eventually, require_tool};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use crate::interop::handshakes::rustls_client;

const PATIENCE: Duration = Duration::from_secs(60);

/// The app behind stunnel: answers one line with the same line and hangs up.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test process.
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            if BufReader::new(&connection).read_line(&mut line).is_ok() {
                let _ = (&connection).write_all(line.as_bytes());
            }
        }
    });
    address
}

/// A job's stunnel and the directory that it was given.
struct Job {
    home: Home,
    dir: PathBuf,
    stunnel: Server,
    port: u16,
    /// How many connections were made to it.
    connections: Cell<usize>,
}

impl Job {
    fn start() -> Self {
        let home = Home::new();
        let dir = home.join("oodproxy");
        home.ood_ca(
            "issue --host n001.cluster.example --ip 127.0.0.1 --layout oodproxy --out oodproxy",
        )
        .assert_ok();
        let config = home.join("stunnel.conf");
        fs::write(
            &config,
            format!(
                "foreground = yes\n\
                 pid =\n\
                 syslog = no\n\
                 debug = info\n\
                 [app]\n\
                 accept = 127.0.0.1:0\n\
                 connect = {app}\n\
                 cert = {dir}/server.crt\n\
                 key = {dir}/server.key\n\
                 CAfile = {dir}/ca+client.crt\n\
                 verifyChain = yes\n\
                 verifyPeer = yes\n\
                 requireCert = yes\n",
                app = echo(),
                dir = dir.display(),
            ),
        )
        .unwrap();
        let args = || vec![config.clone()];
        let (stunnel, port) = Server::listening(require_tool("stunnel"), args, |said| {
            let (_, rest) = said.split_once("bound to 127.0.0.1:")?;
            let (port, _) = rest.split_once('\n')?;
            // It says where it is bound a moment before it listens.
            said.contains("Accepting new connections")
                .then(|| port.parse().ok())?
        });
        // Its complaint about a key that others can read.
        assert!(
            !stunnel.said().contains("Insecure file permissions"),
            "{}",
            stunnel.said()
        );
        Job {
            home,
            dir,
            stunnel,
            port,
            connections: Cell::new(0),
        }
    }

    /// The portal's client leaf.
    fn own_client(&self) -> (PathBuf, PathBuf) {
        (
            self.home.pki().join("client.crt"),
            self.home.pki().join("client.key"),
        )
    }

    fn trust(&self) -> PathBuf {
        self.home.pki().join("trust.crt")
    }

    /// Sends a line with openssl; with a certificate, or none.
    fn send_as(&self, version: &str, leaf: Option<(&Path, &Path)>) -> Outcome {
        self.connections.set(self.connections.get() + 1);
        let address = format!("127.0.0.1:{}", self.port);
        let trust = self.trust();
        let mut args: Vec<&OsStr> = [
            "s_client", "-verify_return_error", "-verify_hostname", "n001.cluster.example",
            version, "-connect", &address,
        ]
        .map(OsStr::new)
        .into();
        args.extend(["-CAfile".as_ref(), trust.as_os_str(), "-quiet".as_ref()]);
        if let Some((cert, key)) = leaf {
            args.extend([
                "-cert".as_ref(),
                cert.as_os_str(),
                "-key".as_ref(),
                key.as_os_str(),
            ]);
        }
        // It stays until the other end hangs up.
        Run::new(require_tool("openssl"))
            .args(args)
            .input(b"are you there\n")
            .limit(PATIENCE)
            .output()
    }

    /// Nobody gets through with this leaf, and stunnel says why.
    #[track_caller]
    fn assert_refuses(&self, leaf: Option<(&Path, &Path)>, reason: &str) {
        for version in ["-tls1_3", "-tls1_2"] {
            let number = self.connections.get();
            let outcome = self.send_as(version, leaf);
            assert!(
                !outcome.stdout.contains("are you there"),
                "an answer came through:{outcome}"
            );
            let explained = eventually("stunnel says why", PATIENCE, || {
                connection_in(&self.stunnel.said(), number)
            });
            assert!(
                explained.contains(reason),
                "refused for another reason than {reason:?}:\n{explained}"
            );
            assert!(!explained.contains("TLS accepted"), "{explained}");
        }
    }
}

/// All that stunnel said of this connection, once it is over. It counts them
/// from 0, and the number stands in each line: `LOG5[7]: …`.
fn connection_in(said: &str, number: usize) -> Option<String> {
    let mark = format!("[{number}]: ");
    let lines: Vec<_> = said.lines().filter(|line| line.contains(&mark)).collect();
    let over = lines.iter().any(|l| l.contains("byte(s) sent to socket"));
    over.then(|| lines.join("\n"))
}

#[test]
fn the_layout_has_the_files_that_oodproxy_has_and_keeps_the_key_private() {
    let home = Home::new();
    home.ood_ca("issue --host n001.cluster.example --layout oodproxy --out oodproxy")
        .assert_ok();
    let dir = home.join("oodproxy");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "ca+client.crt", "ca.crt", "client.crt", "server.crt", "server.key"
        ]
    );
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("server.key")), 0o600);
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(text("ca+client.crt"), text("ca.crt") + &text("client.crt"));
    assert_eq!(
        text("client.crt"),
        fs::read_to_string(home.pki().join("client.crt")).unwrap()
    );
    assert_eq!(
        text("ca.crt"),
        fs::read_to_string(home.pki().join("trust.crt")).unwrap()
    );
    for name in ["ca+client.crt", "ca.crt", "client.crt", "server.crt"] {
        assert!(!text(name).contains("PRIVATE KEY"), "{name} holds a key");
    }
    home.ood_ca("verify oodproxy/server.crt --host n001.cluster.example --key oodproxy/server.key")
        .assert_ok();
    home.ood_ca("verify oodproxy/client.crt --client")
        .assert_ok();
}

#[test]
fn stunnel_answers_the_portal_and_nobody_else() {
    let job = Job::start();
    let (cert, key) = job.own_client();

    let through_openssl = |version: &str| {
        let outcome = job.send_as(version, Some((&cert, &key)));
        assert_eq!(outcome.stdout, "are you there\n", "{outcome}");
    };
    through_openssl("-tls1_3");
    through_openssl("-tls1_2");

    // A rustls client, which verifies the server as the portal's relay does.
    let config = rustls_client(&cert, &key, &job.trust(), rustls::ALL_VERSIONS);
    let through_rustls = |name: &'static str| -> std::io::Result<String> {
        job.connections.set(job.connections.get() + 1);
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, job.port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let connection =
            ClientConnection::new(config.clone(), ServerName::try_from(name).unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(b"and you\n")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    assert_eq!(through_rustls("n001.cluster.example").unwrap(), "and you\n");
    assert_eq!(through_rustls("127.0.0.1").unwrap(), "and you\n");
    let error = through_rustls("n002.cluster.example").unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");

    job.assert_refuses(None, "peer did not return a certificate");

    let stranger = Home::new();
    stranger.ood_ca("issue --client --name other").assert_ok();
    let (other_cert, other_key) = (stranger.join("other.crt"), stranger.join("other.key"));
    job.assert_refuses(
        Some((&other_cert, &other_key)),
        "unable to get local issuer certificate",
    );

    job.home.ood_ca("issue --client --name second").assert_ok();
    let (second_cert, second_key) = (job.home.join("second.crt"), job.home.join("second.key"));
    job.home
        .ood_ca("verify second.crt --client --key second.key")
        .assert_ok();
    job.assert_refuses(
        Some((&second_cert, &second_key)),
        "Certificate not found in local repository",
    );

    let (server_cert, server_key) = (job.dir.join("server.crt"), job.dir.join("server.key"));
    job.assert_refuses(
        Some((&server_cert, &server_key)),
        "unsuitable certificate purpose",
    );

    // After all that it still serves whom it should.
    through_openssl("-tls1_3");

    // stunnel compares keys, and a renewal keeps the key: a job that started
    // before the renewal answers the portal after it.
    let before = fs::read(&cert).unwrap();
    job.home.ood_ca("renew --force").assert_ok();
    assert_ne!(fs::read(&cert).unwrap(), before);
    through_openssl("-tls1_3");
    through_openssl("-tls1_2");

    let pid = job.stunnel.pid();
    let said = job.stunnel.stop();
    assert!(
        said.contains("Terminating") || said.contains("Terminated"),
        "{said}"
    );
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "stunnel is still there"
    );
}
