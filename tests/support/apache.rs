//! A real Apache, which the portal has in front of the users' web servers.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use super::tls::{Server, free_port};
use super::tools::require_tool;

/// Where distributions keep Apache's modules.
const MODULE_DIRS: &[&str] = &["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"];

/// An Apache that listens on loopback. Dropped, it ends with its children.
#[derive(Debug)]
pub struct Apache {
    /// Where it listens.
    pub port: u16,
    server: Option<Server>,
}

impl Apache {
    /// Starts it in a directory that it makes, with these modules, and what
    /// `configuration` says for the port.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(dir: &Path, modules: &[&str], configuration: impl Fn(u16) -> String) -> Self {
        let port = free_port();
        fs::create_dir(dir).unwrap();
        let text = format!(
            "ServerRoot {dir}\nPidFile {dir}/pid\nErrorLog {dir}/log\nServerName portal.test\n\
             Listen 127.0.0.1:{port}\nUser nobody\nGroup #65534\n{}{}",
            load(modules),
            configuration(port),
            dir = dir.display(),
        );
        let file = dir.join("apache.conf");
        fs::write(&file, text).unwrap();
        let mut server = Server::start(
            require_tool("apache2"),
            ["-f".as_ref(), file.as_os_str(), "-DFOREGROUND".as_ref()],
        );
        server.expect("Apache listens", |_| {
            TcpStream::connect(("127.0.0.1", port))
                .is_ok()
                .then_some(())
        });
        Apache {
            port,
            server: Some(server),
        }
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        // SIGTERM, so that its children end too.
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

/// Some modules are built in, here or there.
fn load(modules: &[&str]) -> String {
    let mut dirs = MODULE_DIRS.iter().map(Path::new);
    let dir = dirs
        .find(|dir| dir.is_dir())
        .expect("Apache has its modules in one of MODULE_DIRS");
    let line = |module: &&str| {
        let file = dir.join(format!("mod_{module}.so"));
        let line = format!("LoadModule {module}_module {}\n", file.display());
        file.exists().then_some(line)
    };
    ["mpm_event", "unixd", "authz_core"]
        .iter()
        .chain(modules)
        .filter_map(line)
        .collect()
}

/// `custom_vhost_directives` of the example that we ship.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn our_lines() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/ood_portal.yml");
    let text = fs::read_to_string(path).unwrap();
    let (_, list) = text.split_once("custom_vhost_directives:\n").unwrap();
    list.lines()
        .map_while(|line| line.strip_prefix("  - '")?.strip_suffix('\''))
        .map(|line| format!("  {line}\n"))
        .collect()
}
