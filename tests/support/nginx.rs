//! A real nginx as one user's PUN, shaped like Open OnDemand's `pun.conf`, and
//! a client that sends it exactly the bytes a test wants.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ca_core::{
    Authority, ConfigPath, HostName, LeafRequest, PkiLocation, SiteConfig, Ttl, UserName,
};
use pun_helper::portal::PortalFacts;
use pun_helper::render::{NginxVersion, RenderRequest, render};
use pun_helper::resolver::plan;

use super::files::copy_tree;
use super::home::Home;
use super::tls::Server;
use super::tools::{require_root, require_tool};
use super::wait::eventually;

/// Long enough for anything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is the same for both users of a test: a directory that both can enter.
#[derive(Debug)]
pub struct World {
    dir: tempfile::TempDir,
}

/// A user of the portal. The accounts are those that every Linux has, because
/// nginx wants its worker's by name.
#[derive(Debug)]
pub struct User {
    /// The login name at the portal.
    pub name: &'static str,
    account: &'static str,
    /// The home directory, with the PKI.
    pub home: Home,
    dir: PathBuf,
}

impl World {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        require_root();
        let dir = tempfile::Builder::new()
            .prefix("ood-ca-pun-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = World { dir };
        copy_pages(&world.path("errors"));
        world
    }

    /// A path inside.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// A user with an authority.
    #[must_use]
    pub fn alice(&self) -> User {
        self.user("alice", "nobody", 65_534)
    }

    /// Another.
    #[must_use]
    pub fn bob(&self) -> User {
        self.user("bob", "daemon", 1)
    }

    fn user(&self, name: &'static str, account: &'static str, uid: u32) -> User {
        let home = Home::at(&self.path(&format!("home-{name}")), uid);
        let dir = self.path(name);
        fs::create_dir(&dir).unwrap();
        // The authority is old, so that it can have signed what has expired.
        let site = SiteConfig::default();
        let original = PkiLocation::at(dir.join("pki")).unwrap();
        let long_ago = ca_core::now() - time::Duration::days(100);
        Authority::ensure(&original, &site, long_ago).unwrap();
        home.dir(".ood");
        copy_tree(&original.path(), &home.pki());
        give(&home.pki(), uid);
        home.ood_ca("renew --force").assert_ok();
        let user = User {
            name,
            account,
            home,
            dir,
        };
        user.copy_trust();
        user
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn copy_pages(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/errors");
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap();
        let page = to.join(from.file_name());
        fs::copy(from.path(), &page).unwrap();
        fs::set_permissions(&page, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// A leaf on disk, for whatever program serves it.
#[derive(Clone, Debug)]
pub struct LeafPaths {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Whom to trust.
    pub trust: PathBuf,
}

impl User {
    /// A leaf that ran out weeks ago.
    pub fn expired_leaf(&self, name: &str, request: &LeafRequest) -> LeafPaths {
        let original = PkiLocation::at(self.dir.join("pki")).unwrap();
        let then = ca_core::now() - time::Duration::days(60);
        let authority = Authority::open(&original, &SiteConfig::default(), then).unwrap();
        let request = request.clone().with_ttl(Ttl::from_days(1));
        let issued = authority.issue(&request, then).unwrap();
        let out = self.home.dir("leaves");
        let paths = LeafPaths {
            key: out.join(format!("{name}.key")),
            certificate: out.join(format!("{name}.crt")),
            trust: out.join(format!("{name}-trust.crt")),
        };
        fs::write(&paths.key, issued.key.unwrap().to_pem().as_bytes()).unwrap();
        fs::write(&paths.certificate, issued.certificate.to_pem()).unwrap();
        fs::write(&paths.trust, issued.trust.to_pem()).unwrap();
        paths
    }

    /// The PUN's own client leaf.
    #[must_use]
    pub fn client_leaf(&self) -> LeafPaths {
        LeafPaths {
            key: self.home.pki().join("client.key"),
            certificate: self.home.pki().join("client.crt"),
            trust: self.home.pki().join("trust.crt"),
        }
    }

    /// The root-owned copy of the trust bundle.
    #[must_use]
    pub fn trust_file(&self) -> PathBuf {
        self.dir.join("trust.crt")
    }

    /// Does what the hook does with the trust bundle.
    pub fn copy_trust(&self) {
        fs::copy(self.home.pki().join("trust.crt"), self.trust_file()).unwrap();
    }

    /// Issues a leaf with these arguments of `ood-ca issue`.
    pub fn leaf(&self, name: &str, arguments: &str) -> LeafPaths {
        let out = self.home.dir("leaves");
        let line = format!("issue --out {} --name {name} {arguments}", out.display());
        self.home.ood_ca(&line).assert_ok();
        let trust = out.join(format!("{name}-trust.crt"));
        fs::copy(out.join("trust.crt"), &trust).unwrap();
        LeafPaths {
            key: out.join(format!("{name}.key")),
            certificate: out.join(format!("{name}.crt")),
            trust,
        }
    }
}

/// What decides how a PUN is rendered.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Keys of `ood_ca.yml`.
    pub site: String,
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolv: String,
    /// Addresses of the web host.
    pub own_addresses: Vec<IpAddr>,
    /// Names of the web host.
    pub own_names: Vec<HostName>,
}

impl Setup {
    /// Names below `cluster.test` and addresses; 127.0.0.2 and its names may be
    /// reached, for everything in a test is on loopback.
    #[must_use]
    pub fn new() -> Self {
        Setup {
            site: "domain: cluster.test\n\
                   host_regex: '[a-z0-9.-]+\\.cluster\\.test|n[0-9]+|10\\.[0-9.]+|127\\.[0-9.]+|169\\.[0-9.]+'\n\
                   allow_hosts: [127.0.0.2, n2.cluster.test, n3.cluster.test]\n\
                   resolver: ['127.0.0.1:9']\n"
                .into(),
            hosts: "127.0.0.2 n2.cluster.test\n127.0.0.3 n3.cluster.test\n".into(),
            resolv: String::new(),
            own_addresses: Vec::new(),
            own_names: Vec::new(),
        }
    }

    /// With more keys.
    #[must_use]
    pub fn with(mut self, keys: &str) -> Self {
        for line in keys.lines() {
            let key = line.split(':').next().unwrap();
            let kept = self
                .site
                .lines()
                .filter(|l| !l.starts_with(&format!("{key}:")));
            self.site = kept.chain([line]).map(|l| format!("{l}\n")).collect();
        }
        self
    }

    /// The snippet for a user.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn snippet(&self, world: &World, user: &User) -> String {
        let site = SiteConfig::parse(&self.site, Path::new("ood_ca.yml")).unwrap();
        let path = |p: PathBuf| ConfigPath::parse(p.to_str().unwrap()).unwrap();
        let resolver = plan(
            &site,
            Some(&self.resolv),
            &self.hosts,
            site.host_regex.as_ref(),
        )
        .unwrap();
        render(&RenderRequest {
            user: &UserName::parse(user.name).unwrap(),
            pki_dir: &path(user.home.pki()),
            sessions_dir: &path(user.home.join(".ood/sessions")),
            trust_file: &path(user.trust_file()),
            errors_dir: &path(world.path("errors")),
            site: &site,
            portal: &PortalFacts::default(),
            resolver: &resolver,
            nginx: installed_version(),
            own_addresses: &self.own_addresses,
            own_names: &self.own_names,
        })
        .unwrap()
        .as_str()
        .to_owned()
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

/// The version of the nginx that the tests run.
#[must_use]
pub fn installed_version() -> NginxVersion {
    let output = super::Run::new(require_tool("nginx")).args(["-v"]).output();
    NginxVersion::from_binary_output(&output.stderr).unwrap()
}

/// `pun.conf` as Open OnDemand makes it, as far as it counts here.
#[must_use]
pub fn pun_conf(dir: &Path, account: &str, include: &Path) -> String {
    let dir = dir.display();
    let group = if account == "nobody" {
        "nogroup"
    } else {
        account
    };
    format!(
        r#"user {account} {group};
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    access_log {dir}/access.log combined;
    client_body_temp_path {dir}/tmp-body;
    proxy_temp_path {dir}/tmp-proxy;
    fastcgi_temp_path {dir}/tmp-fastcgi;
    uwsgi_temp_path {dir}/tmp-uwsgi;
    scgi_temp_path {dir}/tmp-scgi;
    sendfile on;
    keepalive_timeout 65;
    client_max_body_size 10420m;
    server_names_hash_bucket_size 128;
    server {{
        listen unix:{dir}/pun.sock;
        server_name localhost;
        location ~ /pun/html/ {{ return 200 "not ours"; }}
        location ^~ /pun/sys/dashboard {{ return 200 "the dashboard"; }}
        location /sendfile/ {{ internal; alias /; }}
        include {include};
    }}
}}
"#,
        include = include.display()
    )
}

/// An nginx that runs as a user's PUN.
#[derive(Debug)]
pub struct Pun {
    dir: PathBuf,
    server: Option<Server>,
}

impl Pun {
    /// Renders and starts.
    #[must_use]
    pub fn start(world: &World, user: &User, setup: &Setup) -> Self {
        Self::start_with(user, &setup.snippet(world, user))
    }

    /// Starts with this snippet.
    ///
    /// # Panics
    /// If nginx does not start.
    #[must_use]
    pub fn start_with(user: &User, snippet: &str) -> Self {
        let include = user.dir.join("ood-ca.conf");
        fs::write(&include, snippet).unwrap();
        let conf = pun_conf(&user.dir, user.account, &include);
        fs::write(user.dir.join("pun.conf"), conf).unwrap();
        let mut pun = Pun {
            dir: user.dir.clone(),
            server: None,
        };
        pun.launch();
        pun
    }

    fn launch(&mut self) {
        let conf = self.dir.join("pun.conf");
        let _ = fs::remove_file(self.socket());
        let mut server = Server::start(
            require_tool("nginx"),
            [
                "-c".as_ref(),
                conf.as_os_str(),
                "-p".as_ref(),
                self.dir.as_os_str(),
            ],
        );
        let socket = self.socket();
        server.expect("the PUN listens", |said| {
            assert!(!said.contains("[warn]"), "{said}");
            UnixStream::connect(&socket).is_ok().then_some(())
        });
        self.server = Some(server);
    }

    /// Stops and starts, as "Restart Web Server" does.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("pun.sock")
    }

    /// The master's process id.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    /// The processor time that its worker has taken so far, whatever else the
    /// machine has to do meanwhile.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn worker_time(&self) -> Duration {
        // Linux counts in hundredths of a second for everybody.
        const TICK: Duration = Duration::from_millis(10);
        let master = self.pid().to_string();
        let of_worker = |entry: fs::DirEntry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // From the third field, the state, on.
            let (_, rest) = stat.rsplit_once(") ")?;
            let fields: Vec<&str> = rest.split(' ').collect();
            let field = |nth: usize| fields.get(nth)?.parse::<u32>().ok();
            (fields.get(1) == Some(&master.as_str())).then(|| Some(field(11)? + field(12)?))?
        };
        // It listens before it has one.
        TICK * eventually("the master has a worker", PATIENCE, || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            all.into_iter().find_map(of_worker)
        })
    }

    /// What nginx has written to its error log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }

    /// The lines of the log about refusals since `before` bytes of it.
    #[must_use]
    pub fn refusals_since(&self, before: usize) -> Vec<String> {
        let log = self.log();
        log[before..]
            .lines()
            .filter(|l| l.contains("reason="))
            .map(str::to_owned)
            .collect()
    }

    /// A connection to the PUN's socket.
    #[must_use]
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and reads the whole answer.
    #[must_use]
    pub fn send(&self, request: &[u8]) -> Response {
        let mut stream = self.connect();
        // nginx may answer and close before it has read everything.
        drop(stream.write_all(request));
        read_response(&mut stream)
    }

    /// A request with the headers that Apache adds.
    #[must_use]
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.send(&request_bytes(method, target, headers, body))
    }

    /// GET.
    #[must_use]
    pub fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }
}

impl Drop for Pun {
    fn drop(&mut self) {
        // SIGTERM, so that the worker ends too; a plain kill would leave it.
        if !std::thread::panicking() {
            self.stop();
            return;
        }
        if let Some(server) = &self.server
            && let Some(pid) = rustix::process::Pid::from_raw(server.pid().cast_signed())
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The bytes of a request as Apache passes it on, `Connection: close` at the end.
#[must_use]
pub fn request_bytes(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut all = vec![];
    write!(all, "{method} {target} HTTP/1.1\r\n").unwrap();
    for (name, value) in [
        ("Host", "portal.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-User", "somebody"),
        ("Connection", "close"),
    ] {
        if !given(name) {
            write!(all, "{name}: {value}\r\n").unwrap();
        }
    }
    for (name, value) in headers {
        write!(all, "{name}: {value}\r\n").unwrap();
    }
    if !body.is_empty() {
        write!(all, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    all.extend(b"\r\n");
    all.extend(body);
    all
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, …
    pub status: u16,
    /// Names as sent and values.
    pub headers: Vec<(String, String)>,
    /// Without chunking.
    pub body: Vec<u8>,
}

impl Response {
    /// All values of a header.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// The one value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times", all.len());
        all.first().copied()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Which of our pages this is.
    #[must_use]
    pub fn page(&self) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(", page ")?;
        rest.split('.').next().map(str::to_owned)
    }
}

/// Reads one answer up to the end of the connection.
///
/// # Panics
/// If it is no HTTP.
pub fn read_response(stream: &mut impl Read) -> Response {
    let mut all = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut part = [0; 65_536];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => {
                all.extend(&part[..n]);
                if is_complete(&all) {
                    break;
                }
            }
            Err(error) => {
                let text = String::from_utf8_lossy(&all).into_owned();
                assert!(!all.is_empty(), "no answer: {error}");
                assert!(text.contains("\r\n\r\n"), "{error} after {text}");
                break;
            }
        }
        assert!(Instant::now() < deadline, "the answer does not end");
    }
    parse_response(&all)
}

/// Whether an answer says itself that it is at its end.
fn is_complete(all: &[u8]) -> bool {
    let Some(end) = find(all, b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let length = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length:"));
    match length.map(|length| length.trim().parse::<usize>()) {
        Some(Ok(length)) => all.len() >= end + 4 + length,
        _ => head.contains("transfer-encoding: chunked") && all.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// Parses an answer.
///
/// # Panics
/// If it is no HTTP.
#[must_use]
pub fn parse_response(all: &[u8]) -> Response {
    let end = find(all, b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(all)));
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.split(' ').nth(1))
        .unwrap_or_default();
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.to_owned(), v.trim().to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(n, v)| n.eq_ignore_ascii_case("transfer-encoding") && v == "chunked");
    let body = &all[end + 4..];
    Response {
        status: status
            .parse()
            .unwrap_or_else(|_| panic!("no status: {head}")),
        headers,
        body: if chunked {
            unchunk(body)
        } else {
            body.to_vec()
        },
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return body;
        }
        body.extend(&rest[..size.min(rest.len())]);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
    body
}

/// Where `what` starts in `all`.
#[must_use]
pub fn find(all: &[u8], what: &[u8]) -> Option<usize> {
    all.windows(what.len()).position(|part| part == what)
}

/// Gives a directory and what is in it to a user.
fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), uid);
        }
    }
}
