//! Apache in front of alice's nginx, shaped as Open OnDemand's portal, and
//! sites that are not the portal.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ood_ca_tests::apache::{Apache, our_lines};
use ood_ca_tests::nginx::{Pun, Setup, User, World};

/// Browsers know without asking that each name below `localhost` is this
/// machine and as good as HTTPS, so that they send `Sec-Fetch-*` and allow
/// service workers. For them each is a site of its own.
const PORTAL: &str = "portal.localhost";

/// Names that are not the portal's, and what a browser calls the way from there.
pub(crate) const FOREIGN: &[(&str, &str)] = &[
    ("other.localhost", "cross-site"),
    ("sibling.portal.localhost", "same-site"),
];

const MODULES: &[&str] = &[
    "headers", "proxy", "proxy_http", "proxy_wstunnel", "rewrite",
];

/// A portal with one user, who has logged in.
pub(crate) struct Portal {
    /// As `Origin` has it.
    pub(crate) origin: String,
    pub(crate) pun: Pun,
    pub(crate) alice: User,
    pub(crate) world: World,
    _apache: Apache,
}

impl Portal {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With more locations in the user's nginx.
    pub(crate) fn start_with(locations: &str) -> Self {
        let world = World::new();
        let alice = world.alice();
        let snippet = Setup::new().snippet(&world, &alice);
        let pun = Pun::start_with(&alice, &format!("{snippet}{locations}"));
        let socket = world.path("alice/pun.sock");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        let apache = Apache::start(&world.path("apache"), MODULES, |port| {
            portal_conf(port, &socket)
        });
        Portal {
            origin: format!("http://{PORTAL}:{}", apache.port),
            pun,
            alice,
            world,
            _apache: apache,
        }
    }

    /// The dashboard, a page of the portal's own.
    pub(crate) fn dashboard(&self) -> String {
        format!("{}/pun/sys/dashboard", self.origin)
    }

    /// The path of a session, with the slash at its end.
    pub(crate) fn path(form: &str, port: u16) -> String {
        format!("/pun/{form}/n2/{port}/")
    }

    /// The address of a session.
    pub(crate) fn session(&self, form: &str, port: u16) -> String {
        self.origin.clone() + &Self::path(form, port)
    }
}

/// What Open OnDemand's own template has around `/pun`, but for the login. The
/// dashboard of the tests' nginx is a page here.
fn portal_conf(port: u16, socket: &Path) -> String {
    format!(
        r#"<VirtualHost 127.0.0.1:{port}>
  ServerName {PORTAL}
  Header always set Content-Security-Policy "frame-ancestors http://{PORTAL}:{port};"
{ours}
  <Location "/pun">
    ProxyPreserveHost On
    ProxyPassReverse "http://localhost/pun"
    Header edit* Set-Cookie "(?i);\s*Domain=[^;]*" ""
    Header edit* Set-Cookie "(?i);\s*Path\s*=(?!\s*/pun)[^;]*" "; Path=/pun"
    RequestHeader set X-Forwarded-Proto "http"
    RequestHeader set X-Forwarded-User "alice"
    RequestHeader set X-Forwarded-Escaped-Uri "expr=%{{escape:%{{REQUEST_URI}}}}"
  </Location>
  <Location "/pun/sys/dashboard">
    Header set Content-Type "text/html"
  </Location>
  RewriteEngine On
  RewriteRule "^/favicon.ico$" "-" [R=204]
  RewriteCond "%{{HTTP:Upgrade}}" "."
  RewriteRule "^/pun/" "unix:{socket}|ws://localhost%{{REQUEST_URI}}" [P]
  ProxyPass "/pun" "unix:{socket}|http://localhost/pun"
</VirtualHost>
"#,
        socket = socket.display(),
        ours = our_lines(),
    )
}

/// Starts a server for the sites that are not the portal: an empty page,
/// whatever is asked. Gives its port.
pub(crate) fn start_foreign_sites() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A browser opens connections in advance and leaves them idle.
            std::thread::spawn(move || answer_empty_page(stream));
        }
    });
    port
}

fn answer_empty_page(mut stream: TcpStream) {
    const PAGE: &str = "<!doctype html><title>Another site</title><body>";
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
    if lines.take_while(|line| !line.is_empty()).count() == 0 {
        return;
    }
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{PAGE}",
        PAGE.len()
    );
}
