//! `pun-helper clean` and real PUNs.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use ood_ca_tests::{Run, eventually, pun_helper, require_tool};
use serde_json::Value;

use crate::setup::{SOON, User, WebHost};

/// A PUN that proxies to this port, until it is dropped.
pub(crate) struct Pun {
    dir: std::path::PathBuf,
    pid: i32,
}

impl Pun {
    pub(crate) fn start(user: &User<'_>, port: u16) -> Self {
        let dir = user.host.join("run").join(&user.name);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = kinds
            .iter()
            .map(|k| format!("{k}_temp_path {};\n", at(k)))
            .collect();
        let conf = dir.join("pun.conf");
        let text = format!(
            "user {} nogroup;\nerror_log {};\npid {};\nworker_processes 1;\nevents {{}}\nhttp {{\n{temporary}access_log off;\n\
             server {{ listen unix:{};\nlocation / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; \
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }} }}\n",
            user.name,
            at("error.log"),
            at("passenger.pid"),
            at("passenger.sock"),
        );
        fs::write(&conf, text).unwrap();
        Run::new(require_tool("nginx"))
            .args(["-c"])
            .args([&conf])
            .output()
            .assert_ok();
        let pid = eventually("nginx has written its process id", SOON, || {
            fs::read_to_string(dir.join("passenger.pid"))
                .ok()?
                .trim()
                .parse()
                .ok()
        });
        Pun { dir, pid }
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.dir.join("passenger.sock")).unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        client
    }
}

impl Drop for Pun {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// A stand-in that keeps to the contract of nginx_stage: it prints the user
/// whose PUN it stops, and writes down how it was called.
pub(crate) fn nginx_stage(host: &WebHost) {
    let calls = host.join("calls").display().to_string();
    let path = host.script(
        "nginx_stage",
        &format!("echo \"$@\" >> {calls}\nfor a; do case $a in --user=*) echo \"${{a#--user=}}\";; esac; done"),
    );
    host.also_configure(&format!("nginx_stage: {}\n", path.display()));
}

fn calls(host: &WebHost) -> String {
    let text = fs::read_to_string(host.join("calls")).unwrap_or_default();
    drop(fs::remove_file(host.join("calls")));
    text
}

fn clean(host: &WebHost, more: &[&str]) -> Value {
    let run = Run::new(pun_helper())
        .args(["clean", "--json", "--config"])
        .args([host.config()]);
    run.args(more).output().assert_ok().json()
}

#[test]
fn a_pun_with_an_open_connection_is_let_alone_and_an_idle_one_is_not() {
    let host = WebHost::new();
    nginx_stage(&host);
    let (busy, idle) = (User::new(&host), User::new(&host));
    let app = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = app.local_addr().unwrap().port();
    let (busy_pun, _idle_pun) = (Pun::start(&busy, port), Pun::start(&idle, port));
    let mut client = busy_pun.connect();
    let (mut upstream, _) = app.accept().unwrap();
    upgrade(&mut upstream, &mut client);

    let report = clean(&host, &[]);
    let of = |report: &Value, user: &User<'_>| {
        let all = report["puns"].as_array().unwrap().clone();
        all.into_iter()
            .find(|one| one["user"] == user.name.as_str())
            .unwrap()
    };
    assert_eq!(of(&report, &busy)["connections"], 1);
    assert_eq!(of(&report, &busy)["stopped"], false);
    assert_eq!(of(&report, &idle)["stopped"], true);
    assert_eq!(calls(&host), format!("nginx_clean --user={}\n", idle.name));
    // The WebSocket lives.
    upstream.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");

    drop((client, upstream));
    eventually("the PUN has closed the connection", SOON, || {
        let report = clean(&host, &["--dry-run"]);
        (of(&report, &busy)["connections"] == 0).then_some(())
    });
    calls(&host);
    clean(&host, &["--dry-run"]);
    let called = calls(&host);
    assert!(
        called.contains(&format!("nginx_clean --user={} --skip-nginx", busy.name)),
        "{called}"
    );
}

/// Lets a WebSocket handshake pass.
fn upgrade(upstream: &mut TcpStream, client: &mut UnixStream) {
    let mut request = [0; 1024];
    let length = upstream.read(&mut request).unwrap();
    assert!(length > 0);
    upstream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        .unwrap();
    let mut answer = [0; 1024];
    let length = client.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 101"));
}

#[test]
fn what_is_stale_or_nobodys_is_left_to_nginx_stage() {
    let host = WebHost::new();
    nginx_stage(&host);
    for name in ["gone", "a+b", "-rf"] {
        let dir = host.join("run").join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("passenger.pid"), "4194304\n").unwrap();
    }
    let run = Run::new(pun_helper())
        .args(["clean", "--json", "--config"])
        .args([host.config()]);
    let ran = run.output();
    assert_eq!(ran.code(), Some(1), "{ran}");
    // No option smuggled in by a directory's name, and `+` as it decodes it.
    assert_eq!(
        calls(&host),
        "nginx_clean --user=a%2Bb\nnginx_clean --user=gone\n"
    );
    // To say what would be done it is not asked about users who are gone: it
    // would do it.
    let run = Run::new(pun_helper())
        .args(["clean", "--dry-run", "--config"])
        .args([host.config()]);
    assert_eq!(run.output().stdout, "-rf\na+b\ngone\n");
    assert_eq!(calls(&host), "");
}

#[test]
fn an_nginx_stage_that_complains_is_reported() {
    let host = WebHost::new();
    let path = host.script("nginx_stage", "echo broken pipe >&2");
    host.also_configure(&format!("nginx_stage: {}\n", path.display()));
    let user = User::new(&host);
    let _pun = Pun::start(&user, 9);
    let run = Run::new(pun_helper())
        .args(["clean", "--config"])
        .args([host.config()]);
    run.output().assert_failed(1, "broken pipe");
}
