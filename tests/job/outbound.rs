//! How an app reaches the world from its own network, and what it does not
//! reach: the node's loopback.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

use ood_ca_tests::require_tool;
use ood_ca_tests::tls::Server;
use rustix::process::{Pid, Signal, kill_process};

use crate::setup::{APP, ELSEWHERE, Node, User, get, name_server, processes_of, web_server};

/// Asks for a page by name and tries the node's loopback by every address that
/// could mean it.
const CLIENT: &str = r#"
import os, socket, ssl, urllib.request
def fetch(url, **more):
    try: return urllib.request.urlopen(url, timeout=10, **more).read().decode()
    except OSError as error: return "nothing: %s" % error
print("page:", fetch("http://web.cluster.test/"))
trust = ssl.create_default_context(cafile=os.path.expanduser("~/.ood/pki/trust.crt"))
print("secure page:", "Cipher" in fetch("https://web.cluster.test/", context=trust))
for host in ("127.0.0.1", "10.0.2.2", "169.254.1.1", "10.77.0.254", "10.77.0.1", "::1"):
    try:
        # Only with somebody's word: user-mode networking may open and end one itself.
        with socket.create_connection((host, 7777), 2) as there:
            there.settimeout(10)
            there.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if there.recv(99): print("REACHED", host)
    except OSError: pass
print("done", flush=True)
"#;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// HTTPS of a host that the node reaches, with a certificate for its name.
fn secure_web_server(alice: &User<'_>) -> Server {
    let issued = alice.home.ood_ca("issue --host web.cluster.test --out web");
    issued.assert_ok();
    let file = |name: &str| alice.home.join("web").join(name).display().to_string();
    let address = format!("{ELSEWHERE}:443");
    let (cert, key) = (file("server.crt"), file("server.key"));
    let words = [
        "s_server", "-www", "-accept", &address, "-cert", &cert, "-key", &key,
    ];
    let mut server = Server::start(require_tool("openssl"), words.map(OsStr::new));
    server.expect("it listens", |said| said.contains("ACCEPT").then_some(()));
    server
}

fn reaches_by(flags: &str) {
    let node = Node::new();
    let asked = name_server();
    web_server(SocketAddr::from((ELSEWHERE, 80)), "a page from elsewhere");
    let met = web_server(loopback(7777), "the node's own");
    let alice = node.user();
    let _secure = secure_web_server(&alice);
    let mut job = alice.job(flags, CLIENT);
    assert_eq!(job.code(), 0, "{}", job.said());
    let said = job.said();
    assert!(said.contains("page: a page from elsewhere"), "{said}");
    assert!(said.contains("secure page: True"), "{said}");
    assert!(!said.contains("REACHED"), "{said}");
    assert_eq!(met.load(Ordering::SeqCst), 0, "{said}");
    assert!(
        asked
            .lock()
            .unwrap()
            .iter()
            .any(|name| name == "web.cluster.test")
    );

    // The same attempts on the node's own network: they can succeed.
    let outside = alice
        .run("python3")
        .args(["-c", CLIENT])
        .output()
        .assert_ok();
    assert!(outside.stdout.contains("REACHED 127.0.0.1"), "{outside}");
    assert_eq!(met.load(Ordering::SeqCst), 1, "{outside}");
}

#[test]
fn by_pasta_a_page_is_fetched_by_name_and_the_nodes_loopback_is_out_of_reach() {
    reaches_by("--outbound pasta");
}

#[test]
fn by_slirp4netns_a_page_is_fetched_by_name_and_the_nodes_loopback_is_out_of_reach() {
    reaches_by("--outbound slirp4netns");
}

#[test]
fn without_process_namespace_it_is_the_same() {
    reaches_by("--no-pidns --outbound pasta");
    reaches_by("--no-pidns --outbound slirp4netns");
}

#[test]
fn the_end_of_the_way_out_is_told_and_the_app_is_reached_all_the_same() {
    let node = Node::new();
    let alice = node.user();
    for tool in ["pasta", "slirp4netns"] {
        for flags in ["", " --no-pidns"] {
            let mut job = alice.job(&format!("--outbound {tool}{flags}"), APP);
            let port = job.ready().port;
            assert!(!job.said().contains("warning"), "{}", job.said());
            let all = processes_of(alice.uid());
            // pasta goes by other names too, such as passt.avx2.
            let mut others = all.iter().filter(|(_, n)| n != "ood-job" && n != "python3");
            let (pid, _) = others.next().unwrap();
            kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
            job.expect_said(
                "warning: the program that brought the app's connections out has ended",
            );
            assert!(get(port, &alice.home, "/", "").is_some());
        }
    }
}

#[test]
fn with_none_there_is_no_way_out_and_loopback_works() {
    let node = Node::with_tun(None);
    let alice = node.user();
    let script = r#"
import socket
server = socket.create_server(("127.0.0.1", 9009))
socket.create_connection(("127.0.0.1", 9009))
server6 = socket.create_server(("::1", 9009), family=socket.AF_INET6)
socket.create_connection(("::1", 9009))
try: socket.create_connection(("10.77.0.9", 80), 2)
except OSError as error: print(error.strerror)
"#;
    let mut job = alice.job("--outbound none", script);
    assert_eq!(job.code(), 0, "{}", job.said());
    assert!(
        job.said().starts_with("Network is unreachable"),
        "{}",
        job.said()
    );
}

#[test]
fn the_apps_resolv_conf_is_its_own_and_the_nodes_is_as_it_was() {
    let node = Node::new();
    node.resolv_conf("search cluster.test\nnameserver 127.0.0.53\noptions edns0\n");
    let alice = node.user();
    let before = fs::read_to_string("/etc/resolv.conf").unwrap();
    let mut job = alice.job("", "print(open('/etc/resolv.conf').read())");
    assert_eq!(job.code(), 0);
    let said = job.said();
    assert!(
        said.starts_with("nameserver 169.254.1.1\nsearch cluster.test\noptions edns0\n"),
        "{said}"
    );
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), before);
}

/// A PATH with what an app needs and only these of the two programs.
fn path_with(user: &User<'_>, tools: &[&str]) -> String {
    let dir = user.home.dir("bin");
    for tool in ["python3", "sh"].iter().chain(tools) {
        symlink(Path::new("/usr/bin").join(tool), dir.join(tool)).unwrap();
    }
    dir.display().to_string()
}

#[test]
fn what_is_missing_is_named_with_its_package_and_the_other_ways() {
    let node = Node::with_tun(None);
    let alice = node.user();
    let mut job = alice.job("", "print('started')");
    assert_eq!(job.code(), 125);
    let said = job.said();
    assert!(said.contains("error: this node does not let you reach the network from the app: /dev/net/tun: No such file"), "{said}");
    assert!(
        said.contains("hint: an administrator can bring it with: modprobe tun"),
        "{said}"
    );
    assert!(
        said.contains("--outbound none") && said.contains("--to unix:PATH"),
        "{said}"
    );
    assert!(!said.contains("started"), "{said}");
}

#[test]
fn a_tun_device_of_roots_is_named() {
    let node = Node::with_tun(Some(0o600));
    let alice = node.user();
    let mut job = alice.job("", "print('started')");
    assert_eq!(job.code(), 125);
    let said = job.said();
    assert!(said.contains("/dev/net/tun: Permission denied"), "{said}");
    assert!(said.contains("chmod 0666 /dev/net/tun"), "{said}");
}

#[test]
fn a_program_that_fails_is_followed_by_the_other_and_quoted_if_there_is_none() {
    let node = Node::new();
    let alice = node.user();
    let path = path_with(&alice, &["slirp4netns"]);
    let broken = alice.home.join("bin/pasta");
    fs::write(
        &broken,
        "#!/bin/sh\necho 'no interface today' >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    alice.set("PATH", path);
    let mut job = alice.job("", "print('started')");
    assert_eq!(job.code(), 0, "{}", job.said());
    let mut job = alice.job("--outbound pasta", "print('started')");
    assert_eq!(job.code(), 125);
    assert!(
        job.said().contains("pasta: no interface today"),
        "{}",
        job.said()
    );
}
