//! Programs that people put in front of an app, each with the same leaf.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ood_ca_tests::nginx::{LeafPaths, World};
use ood_ca_tests::tls::{Server, python_with};
use ood_ca_tests::{Run, require_tool};

use crate::job::{Job, ok};

/// What every end answers.
pub(crate) const GREETING: &str = "hello from the job";

/// Who speaks TLS for the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// rustls, as our own code uses it.
    Rustls,
    /// stunnel in front of a plain server.
    Stunnel,
    /// Caddy.
    Caddy,
    /// Another nginx.
    Nginx,
    /// The `ssl` module of Python.
    Python,
}

/// All of them.
pub(crate) const KINDS: [Kind; 5] = [
    Kind::Rustls,
    Kind::Stunnel,
    Kind::Caddy,
    Kind::Nginx,
    Kind::Python,
];

/// One that runs.
pub(crate) struct End {
    pub(crate) port: u16,
    _server: Option<Server>,
}

impl End {
    /// Starts one on this address.
    pub(crate) fn start(kind: Kind, world: &World, address: &str, leaf: &LeafPaths) -> Self {
        if kind == Kind::Rustls {
            let job = Job::saying(&format!("{address}:0"), leaf, ok(GREETING.as_bytes()));
            return End {
                port: job.port(),
                _server: None,
            };
        }
        let port = free_port(address);
        let dir = world.path(&format!("end-{port}"));
        fs::create_dir(&dir).unwrap();
        let mut server = match kind {
            Kind::Stunnel => stunnel(&dir, address, port, leaf),
            Kind::Caddy => caddy(&dir, address, port, leaf),
            Kind::Nginx => nginx(&dir, address, port, leaf),
            _ => python(address, port, leaf),
        };
        let at = format!("{address}:{port}");
        server.expect("the end listens", |_| {
            TcpStream::connect(&at).is_ok().then_some(())
        });
        End {
            port,
            _server: Some(server),
        }
    }
}

/// A port that the kernel gives to nobody who asks for any, so that no job of a
/// test that runs beside this one takes it.
fn free_port(address: &str) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let offset = std::process::id().wrapping_mul(97);
    std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
        .take(1000)
        .map(|step| 20_000 + (offset.wrapping_add(step) % 12_000) as u16)
        .find(|port| TcpListener::bind((address, *port)).is_ok())
        .expect("a port is free")
}

fn stunnel(dir: &Path, address: &str, port: u16, leaf: &LeafPaths) -> Server {
    let conf = dir.join("stunnel.conf");
    let text = format!(
        "foreground = yes\npid =\nsyslog = no\n[job]\naccept = {address}:{port}\nconnect = 127.0.0.1:{app}\n\
         cert = {cert}\nkey = {key}\nCAfile = {trust}\nverifyChain = yes\nrequireCert = yes\nTIMEOUTclose = 0\n",
        app = plain_app(),
        cert = leaf.certificate.display(),
        key = leaf.key.display(),
        trust = leaf.trust.display(),
    );
    fs::write(&conf, text).unwrap();
    Server::start(require_tool("stunnel"), [&conf])
}

/// An app without TLS, on a port of its own.
fn plain_app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let mut head = [0; 16_384];
                let _ = stream.read(&mut head);
                let _ = stream.write_all(&ok(GREETING.as_bytes()));
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut head);
            });
        }
    });
    port
}

fn caddy(dir: &Path, address: &str, port: u16, leaf: &LeafPaths) -> Server {
    let conf = dir.join("Caddyfile");
    let text = format!(
        "{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {dir}/storage\n\tservers {{\n\t\tstrict_sni_host insecure_off\n\t}}\n}}\n\
         https://:{port} {{\n\tbind {address}\n\ttls {cert} {key} {{\n\t\tclient_auth {{\n\t\t\tmode require_and_verify\n\t\t\ttrusted_ca_cert_file {trust}\n\t\t}}\n\t}}\n\trespond \"{GREETING}\"\n}}\n",
        dir = dir.display(),
        cert = leaf.certificate.display(),
        key = leaf.key.display(),
        trust = leaf.trust.display(),
    );
    fs::write(&conf, text).unwrap();
    let home = format!("HOME={}", dir.display());
    let caddy = require_tool("caddy");
    Server::start(
        "env",
        [
            home.as_ref(),
            caddy.as_os_str(),
            "run".as_ref(),
            "--adapter".as_ref(),
            "caddyfile".as_ref(),
            "--config".as_ref(),
            conf.as_os_str(),
        ],
    )
}

fn nginx(dir: &Path, address: &str, port: u16, leaf: &LeafPaths) -> Server {
    let conf = dir.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/log; events {{ }}\n\
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen {address}:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key}; ssl_client_certificate {trust}; ssl_verify_client on; ssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{ return 200 \"{GREETING}\"; }} }} }}\n",
        dir = dir.display(),
        cert = leaf.certificate.display(),
        key = leaf.key.display(),
        trust = leaf.trust.display(),
    );
    fs::write(&conf, text).unwrap();
    Server::start(
        require_tool("nginx"),
        [
            "-c".as_ref(),
            conf.as_os_str(),
            "-p".as_ref(),
            dir.as_os_str(),
        ],
    )
}

const PYTHON_SERVER: &str = r#"
import http.server, ssl, sys
address, port, cert, key, trust, text = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
context.load_verify_locations(trust)
context.verify_mode = ssl.CERT_REQUIRED
class Server(http.server.ThreadingHTTPServer):
    # The handshake belongs into the thread of the connection.
    def finish_request(self, request, client_address):
        try:
            super().finish_request(context.wrap_socket(request, server_side=True), client_address)
        except OSError:
            pass
Server((address, int(port)), Handler).serve_forever()
"#;

fn python(address: &str, port: u16, leaf: &LeafPaths) -> Server {
    let port = port.to_string();
    let args: Vec<&std::ffi::OsStr> = vec![
        "-c".as_ref(),
        PYTHON_SERVER.as_ref(),
        address.as_ref(),
        port.as_ref(),
        leaf.certificate.as_os_str(),
        leaf.key.as_os_str(),
        leaf.trust.as_os_str(),
        GREETING.as_ref(),
    ];
    Server::start(python_with("ssl"), args)
}

const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
address, port = sys.argv[1:3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if len(sys.argv) > 3:
    context.load_cert_chain(sys.argv[3], sys.argv[4])
answer = b""
try:
    with socket.create_connection((address, int(port)), 10) as tcp:
        with context.wrap_socket(tcp, server_hostname="n2.cluster.test") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: n2.cluster.test\r\nConnection: close\r\n\r\n")
            while True:
                part = tls.recv(65536)
                if not part:
                    break
                answer += part
except OSError as error:
    print("refused:", error)
print(answer.decode("latin-1"))
"#;

/// What somebody gets who connects directly, with or without a certificate.
pub(crate) fn knock(address: &str, port: u16, leaf: Option<&LeafPaths>) -> String {
    let mut args: Vec<std::ffi::OsString> = vec![
        "-c".into(),
        PYTHON_CLIENT.into(),
        address.into(),
        port.to_string().into(),
    ];
    if let Some(leaf) = leaf {
        args.extend([leaf.certificate.clone().into(), leaf.key.clone().into()]);
    }
    Run::new(python_with("ssl"))
        .args(args)
        .output()
        .assert_ok()
        .stdout
}
