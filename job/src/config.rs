//! Configurations for who brings another program as the TLS end: each lets in
//! clients of the user's own authority only, by TLS 1.3, and passes on to the
//! app. They use what `ood-ca issue --out DIR` writes.

use std::net::SocketAddr;

use ca_core::ConfigPath;

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
    pub to: SocketAddr,
    /// The directory with `server.key`, `server.crt` and `trust.crt`. The types
    /// hold nothing that means anything in any of these languages.
    pub certs: ConfigPath,
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
        .replace("{{to}}", &ends.to.to_string())
        .replace("{{certs}}", ends.certs.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled_in() {
        let ends = Ends {
            listen: "[::]:4000".parse().unwrap(),
            to: "127.0.0.1:8888".parse().unwrap(),
            certs: ConfigPath::parse("/home/alice/certs").unwrap(),
        };
        for program in [
            Program::Caddy,
            Program::Stunnel,
            Program::Nginx,
            Program::Haproxy,
            Program::Ghostunnel,
        ] {
            let text = render(program, &ends);
            for part in ["[::]:4000", "127.0.0.1:8888", "/home/alice/certs/trust.crt"] {
                assert!(text.contains(part), "{program:?}: {part}");
            }
            assert!(!text.contains("{{"), "{program:?}");
        }
    }
}
