//! `ood-job config`: each generated configuration, run by the real program.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use ood_ca_tests::{Home, Snapshot, eventually, require_tool};

use crate::setup::{Node, PATIENCE, User, ask, web_server, web_server_at};

const ANSWER: &str = "the app's answer";

struct TlsEnd<'a> {
    alice: &'a User<'a>,
    config: PathBuf,
    port: u16,
}

impl<'a> TlsEnd<'a> {
    /// With the app at a port, or at a socket in a directory of the user's own.
    fn prepare(alice: &'a User<'a>, program: &str, by_socket: bool) -> Self {
        alice
            .home
            .ood_ca("issue --host n1.cluster.test --ip 127.0.0.1 --out certs")
            .assert_ok();
        let to = if by_socket {
            let socket = alice.home.dir("app").join("socket");
            fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
            web_server_at(&socket, ANSWER);
            chown(&socket, Some(alice.uid()), Some(alice.uid())).unwrap();
            format!("unix:{}", socket.display())
        } else {
            let app: SocketAddr = (Ipv4Addr::LOCALHOST, 8888).into();
            web_server(app, ANSWER);
            app.to_string()
        };
        let port = 8443;
        let certs = alice.home.join("certs");
        let outcome = alice
            .ood_job(["config", program, "--listen", "127.0.0.1:8443", "--to", &to])
            .args(["--certs".into(), certs])
            .output()
            .assert_ok();
        assert!(!outcome.stderr.contains("warning"), "{outcome}");
        let config = alice.home.join("config");
        fs::write(&config, &outcome.stdout).unwrap();
        chown(&config, Some(alice.uid()), Some(alice.uid())).unwrap();
        TlsEnd {
            alice,
            config,
            port,
        }
    }

    fn asked_by(&self, home: Option<&Home>) -> String {
        let request = "GET / HTTP/1.1\r\nHost: portal.example\r\nConnection: close\r\n\r\n";
        ask(self.port, home, &self.alice.home, request)
    }

    /// Runs it, and has everybody knock.
    fn assert_guards(&self, program: &str, args: &[&str]) {
        let args = args
            .iter()
            .map(|a| a.replace("CONFIG", self.config.to_str().unwrap()));
        let step = self.alice.home.join("certs/caddy");
        let mut running = self
            .alice
            .run(require_tool(program))
            .env("STEPPATH", step)
            .args(args)
            .limit(PATIENCE * 2)
            .start();
        eventually(&format!("{program} listens"), PATIENCE, || {
            if running.has_ended() {
                return Some(());
            }
            // To try the port by listening on it would take it from the program.
            let open = TcpStream::connect(("127.0.0.1", self.port));
            open.is_ok().then_some(())
        });
        assert!(!running.has_ended(), "{}", running.wait());
        let answer = eventually("the owner is answered", PATIENCE, || {
            let answer = self.asked_by(Some(&self.alice.home));
            answer.contains(ANSWER).then_some(answer)
        });
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mallory = self.alice_neighbour();
        for client in [None, Some(&mallory)] {
            let answer = self.asked_by(client);
            assert!(!answer.contains(ANSWER), "{answer}");
        }
        // A server leaf of the same authority is no client.
        let impostor = self.alice.home.seen_at(&self.alice.home.dir("impostor"));
        fs::create_dir_all(impostor.pki()).unwrap();
        for (from, to) in [("server.crt", "client.crt"), ("server.key", "client.key")] {
            fs::copy(
                self.alice.home.join("certs").join(from),
                impostor.pki().join(to),
            )
            .unwrap();
        }
        assert!(!self.asked_by(Some(&impostor)).contains(ANSWER));
        // A kill would leave nginx's worker.
        running.terminate();
    }

    fn alice_neighbour(&self) -> Home {
        let home = Home::of_somebody();
        home.ood_ca("init").assert_ok();
        home
    }
}

fn guards(program: &str, args: &[&str]) {
    for by_socket in [false, true] {
        guards_at(program, args, by_socket);
    }
}

fn guards_at(program: &str, args: &[&str], by_socket: bool) {
    let node = Node::new();
    let alice = node.user();
    let end = TlsEnd::prepare(&alice, program, by_socket);
    let before = Snapshot::of(alice.home.path());
    end.assert_guards(program, args);
    // Nothing but what lies beside the certificates.
    let changed = before.changes(&Snapshot::of(alice.home.path()));
    let strange: Vec<_> = changed
        .iter()
        .filter(|path| !path.starts_with("certs") && !path.starts_with("impostor"))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn caddy() {
    guards("caddy", &["run", "--config", "CONFIG"]);
}

#[test]
fn stunnel() {
    guards("stunnel", &["CONFIG"]);
}

#[test]
fn nginx() {
    guards("nginx", &["-e", "stderr", "-c", "CONFIG"]);
}

#[test]
fn haproxy() {
    guards("haproxy", &["-db", "-f", "CONFIG"]);
}

#[test]
fn ghostunnel_says_that_it_is_not_tested() {
    let node = Node::new();
    let alice = node.user();
    let words = "config ghostunnel --listen 127.0.0.1:8443 --to 127.0.0.1:8888 --certs /certs";
    let outcome = alice.ood_job(words.split(' ')).output().assert_ok();
    assert!(outcome.stdout.contains("# Not tested"), "{outcome}");
    // A shell at least reads it.
    let file = alice.home.join("ghostunnel.sh");
    fs::write(&file, outcome.stdout).unwrap();
    alice
        .run("sh")
        .args(["-n"])
        .args([&file])
        .output()
        .assert_ok();
}

#[test]
fn a_path_that_means_something_to_a_program_is_refused() {
    let node = Node::new();
    let alice = node.user();
    for certs in ["/certs;evil", "/certs\nevil", "/c $x", "a;b", "/a/../b"] {
        let words = [
            "config", "nginx", "--listen", "0.0.0.0:1", "--to", "127.0.0.1:1", "--certs", certs,
        ];
        assert_eq!(alice.ood_job(words).output().code(), Some(2), "{certs}");
    }
}
