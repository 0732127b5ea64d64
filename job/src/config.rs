//! Configurations for who brings another program as the TLS end: each lets in
//! clients of the user's own authority only, by TLS 1.3, and passes on to the
//! app. They use what `ood-ca issue --out DIR` writes.

use std::net::SocketAddr;

use ca_core::ConfigPath;

use crate::target::Target;

/// A program that can be the TLS end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Caddy, as JSON: what a Caddyfile cannot say in 2.6 is to write nothing
    /// into the home directory.
    Caddy,
    /// stunnel.
    Stunnel,
    /// nginx, by itself and without root.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// ghostunnel: a command line.
    Ghostunnel,
}

/// Where it listens, where the app is, and where its files are.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the app listens.
    pub to: Backend,
    /// The directory with `server.key`, `server.crt` and `trust.crt`. The types
    /// hold nothing that means anything in any of these languages.
    pub certs: ConfigPath,
}

impl Ends {
    /// Which of the files that the configuration names are not there.
    #[must_use]
    pub fn missing_files(&self) -> Vec<&'static str> {
        let mut files = vec!["server.crt", "server.key", "trust.crt"];
        files.retain(|file| !self.certs.as_path().join(file).exists());
        files
    }
}

/// Where the app listens, in characters that mean nothing in any of these
/// languages.
#[derive(Clone, Debug)]
pub struct Backend(Target);

impl Backend {
    /// Takes a destination.
    ///
    /// # Errors
    /// What is wrong with the path of a socket, in words.
    pub fn new(target: Target) -> Result<Self, &'static str> {
        if let Target::Unix(path) = &target {
            ConfigPath::parse(&path.to_string_lossy())?;
        }
        Ok(Backend(target))
    }

    /// The destination.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.0
    }

    /// As this program writes it.
    fn written_for(&self, program: Program) -> String {
        match (&self.0, program) {
            (Target::Tcp(address), _) => address.to_string(),
            (Target::Unix(path), Program::Caddy) => format!("unix/{}", path.display()),
            (Target::Unix(path), Program::Stunnel) => path.display().to_string(),
            (Target::Unix(path), Program::Haproxy) => format!("unix@{}", path.display()),
            (target @ Target::Unix(_), Program::Nginx | Program::Ghostunnel) => target.to_string(),
        }
    }
}

/// The text of a configuration.
#[must_use]
pub fn render(program: Program, ends: &Ends) -> String {
    let template = match program {
        Program::Caddy => include_str!("config/caddy.json"),
        Program::Stunnel => include_str!("config/stunnel.conf"),
        Program::Nginx => include_str!("config/nginx.conf"),
        Program::Haproxy => include_str!("config/haproxy.cfg"),
        Program::Ghostunnel => include_str!("config/ghostunnel.sh"),
    };
    template
        .replace("{{listen}}", &ends.listen.to_string())
        .replace("{{to}}", &ends.to.written_for(program))
        .replace("{{certs}}", ends.certs.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: [Program; 5] = [
        Program::Caddy,
        Program::Stunnel,
        Program::Nginx,
        Program::Haproxy,
        Program::Ghostunnel,
    ];

    fn ends(to: &str) -> Ends {
        Ends {
            listen: "[::]:4000".parse().unwrap(),
            to: Backend::new(Target::parse(to).unwrap()).unwrap(),
            certs: ConfigPath::parse("/home/alice/certs").unwrap(),
        }
    }

    #[test]
    fn every_place_is_filled_in() {
        for (to, shown) in [
            ("127.0.0.1:8888", "127.0.0.1:8888"),
            ("unix:/home/alice/app/socket", "/home/alice/app/socket"),
        ] {
            for program in ALL {
                let text = render(program, &ends(to));
                for part in ["[::]:4000", shown, "/home/alice/certs/trust.crt"] {
                    assert!(text.contains(part), "{program:?}: {part}");
                }
                assert!(!text.contains("{{"), "{program:?}");
            }
        }
    }

    #[test]
    fn a_socket_whose_name_means_something_is_refused() {
        for path in ["/a;b", "/a b", "/a/$x", "/a:b", "/a\nb", "/a\"b"] {
            assert!(Backend::new(Target::Unix(path.into())).is_err(), "{path}");
        }
    }
}
