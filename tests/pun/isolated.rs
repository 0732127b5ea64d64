//! The whole way of an app in a network of its own: nginx as the PUN, `ood-job`
//! as the other end.

use std::io::{Read, Write};

use ood_ca_tests::job::Job;
use ood_ca_tests::nginx::{Pun, Setup, User, World, request_bytes};

/// Keeps what it is sent in a digest, and sends as much as it is asked for.
const APP: &str = r#"
import hashlib, http.server, os
PART = bytes(range(251)) * 4096
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def say(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        size = int(self.path.rsplit("/", 1)[1] or 0)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        while size:
            size -= self.wfile.write(PART[:size])
    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            part = self.rfile.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        self.say(digest.hexdigest().encode())
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["OOD_JOB_APP_PORT"])), Handler).serve_forever()
"#;

/// As `PART` of the app.
fn part() -> Vec<u8> {
    (0..=250).collect::<Vec<u8>>().repeat(4096)
}

fn app(world: &World, user: &User) -> Job {
    let app = ["python3", "-c", APP];
    let flags = ["--to", "127.0.0.1:8888", "--host", "n2.cluster.test"];
    Job::start(world, user, "", &[], &flags, &app)
}

#[test]
fn where_the_site_wants_registration_an_app_is_reached_while_ood_job_runs_it() {
    let world = World::new();
    let (alice, bob) = (world.alice(), world.bob());
    let setup = Setup::new().with("require_registration: true");
    let pun = Pun::start(&world, &alice, &setup);
    let hers = app(&world, &alice);
    let port = hers.port;
    // By each name that a URL may have for the node.
    let path = hers.path("proxy");
    let by_name = |name: &str| format!("/pun/proxy/{name}/{port}/");
    for target in [path.clone(), by_name("n2"), by_name("n2.cluster.test")] {
        assert_eq!(pun.get(&target).status, 200, "{target}");
    }
    // What listens there is not thereby registered for everybody.
    let his_pun = Pun::start(&world, &bob, &setup);
    let answer = his_pun.get(&path);
    assert_eq!(
        (answer.status, answer.page().as_deref()),
        (404, Some("not-registered"))
    );
    hers.stop();
    let answer = pun.get(&path);
    assert_eq!(
        (answer.status, answer.page().as_deref()),
        (404, Some("not-registered"))
    );

    let again = app(&world, &alice);
    assert_eq!(pun.get(&again.path("proxy")).status, 200);
}

#[test]
fn a_gibibyte_up_and_down_arrives_intact() {
    const SIZE: usize = 1 << 30;
    let world = World::new();
    let alice = world.alice();
    let pun = Pun::start(&world, &alice, &Setup::new());
    let job = app(&world, &alice);
    let part = part();

    let mut stream = pun.connect();
    let target = format!("{}{SIZE}", job.path("rproxy"));
    stream
        .write_all(&request_bytes("GET", &target, &[], b""))
        .unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (mut at, mut buffer) = (0, vec![0; part.len()]);
    while at < SIZE {
        let from = at % part.len();
        let most = (part.len() - from).min(SIZE - at);
        let length = stream.read(&mut buffer[..most]).unwrap();
        assert!(length > 0, "it ended after {at} bytes");
        assert!(
            buffer[..length] == part[from..from + length],
            "wrong near {at}"
        );
        at += length;
    }
    assert_eq!(stream.read(&mut buffer).unwrap(), 0);

    let mut stream = pun.connect();
    let length = SIZE.to_string();
    let target = format!("{}up", job.path("rproxy"));
    let headers = [("Content-Length", &*length)];
    stream
        .write_all(&request_bytes("PUT", &target, &headers, b""))
        .unwrap();
    let mut left = SIZE;
    while left > 0 {
        let most = left.min(part.len());
        stream.write_all(&part[..most]).unwrap();
        left -= most;
    }
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut digest = String::new();
    stream.read_to_string(&mut digest).unwrap();
    assert_eq!(digest, digest_of(&part, SIZE));
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// SHA-256 of so many bytes of the part again and again.
fn digest_of(part: &[u8], size: usize) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut left = size;
    while left > 0 {
        let most = left.min(part.len());
        digest.update(&part[..most]);
        left -= most;
    }
    let digest = digest.finish();
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
