//! Apps behind mutual TLS, as they run in a job.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ood_ca_tests::tls::Server;
use ood_ca_tests::{eventually, require_tool};
use serde_json::Value;

use crate::portal::Portal;

const PATIENCE: Duration = Duration::from_secs(60);

/// A request as an app has seen it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    /// Whether it asks for a page and not for something in one.
    pub(crate) fn is_page(&self) -> bool {
        self.header("Sec-Fetch-Dest") == "document"
    }

    /// All values of a header.
    pub(crate) fn header(&self, name: &str) -> String {
        let same = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let values: Vec<&str> = same.map(|(_, v)| v.as_str()).collect();
        values.join(", ")
    }
}

/// An app of alice's on the host `n2`.
pub(crate) struct App {
    pub(crate) port: u16,
    /// What it offers to download, and what was uploaded to it.
    pub(crate) files: PathBuf,
    server: Server,
}

impl App {
    /// `sample.py`, on a free port.
    pub(crate) fn start(portal: &Portal) -> Self {
        Self::start_at(portal, 0)
    }

    /// `sample.py`, on this port.
    pub(crate) fn start_at(portal: &Portal, port: u16) -> Self {
        let files = portal.world.path(&format!("app-{port}"));
        fs::create_dir(&files).unwrap();
        let before = [in_sources("browser/sample.py"), files.display().to_string()];
        Self::launch(portal, port, &before, files)
    }

    /// The app of the demo, as it is.
    pub(crate) fn of_demo(portal: &Portal) -> Self {
        let before = [in_sources("../demo/app.py")];
        Self::launch(portal, 0, &before, PathBuf::new())
    }

    fn launch(portal: &Portal, port: u16, before: &[String], files: PathBuf) -> Self {
        let leaf = portal.alice.leaf("server", "--host n2.cluster.test");
        let certificates = leaf.key.parent().unwrap().display().to_string();
        let listen = format!("127.0.0.2:{port}");
        let arguments = [
            "--listen", &listen, "--certs", &certificates, "--user", "alice", "--ready-fd", "1",
        ];
        let arguments = before.iter().map(String::as_str).chain(arguments);
        // -B: nothing is to be written beside the sources.
        let arguments = ["-B"].into_iter().chain(arguments);
        let mut server = Server::start(require_tool("python3"), arguments);
        // The only line that is nothing but a number.
        let port = server.expect("the app listens", |said| {
            said.lines().find_map(|line| line.parse().ok())
        });
        App {
            port,
            files,
            server,
        }
    }

    /// Waits until a request like this has arrived, after the first `skip`.
    #[track_caller]
    pub(crate) fn wait_for(&self, skip: usize, wanted: impl Fn(&Seen) -> bool) -> Seen {
        eventually("a request of the browser", PATIENCE, || {
            self.seen().into_iter().skip(skip).find(&wanted)
        })
    }

    /// What has arrived so far, in this order. Only `sample.py` tells.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let said = self.server.said();
        let requests = said.lines().filter_map(|line| line.strip_prefix("seen: "));
        requests.map(parse).collect()
    }
}

fn parse(line: &str) -> Seen {
    let all: Value = serde_json::from_str(line).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let headers = all["headers"].as_array().unwrap().iter();
    Seen {
        method: text(&all["method"]),
        target: text(&all["target"]),
        headers: headers.map(|h| (text(&h[0]), text(&h[1]))).collect(),
    }
}

fn in_sources(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    path.canonicalize().unwrap().display().to_string()
}
