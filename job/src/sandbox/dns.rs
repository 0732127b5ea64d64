//! The app's own `/etc/resolv.conf`: the node's may name a server on its
//! loopback, which is out of reach, as 127.0.0.53 of systemd-resolved is.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A directory that is on every node, covered for a moment.
const SCRATCH: &str = "/proc";

/// Shows the app a `/etc/resolv.conf` that names this server, in the mount
/// namespace of this process alone. Nothing is written to any disk.
pub(super) fn point_at(server: Ipv4Addr) -> io::Result<()> {
    let content = resolv_conf(&fs::read_to_string(RESOLV_CONF).unwrap_or_default(), server);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        SCRATCH,
        Some("tmpfs"),
        flags,
        Some("size=64k,mode=0755"),
    )?;
    let file = format!("{SCRATCH}/resolv.conf");
    let shown = fs::write(&file, content).and_then(|()| {
        // The target may be a link to what a resolver manages: that is covered.
        mount(
            Some(&*file),
            RESOLV_CONF,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(io::Error::from)
    });
    // The file lives on in the bind mount.
    umount2(SCRATCH, MntFlags::MNT_DETACH)?;
    shown
}

/// The node's file with other servers. `options` such as `rotate` or `trust-ad`
/// and the search list stay.
fn resolv_conf(node: &str, server: Ipv4Addr) -> String {
    let kept = node.lines().filter(|line| {
        let word = line.split_ascii_whitespace().next();
        matches!(word, Some("search" | "domain" | "options" | "sortlist"))
    });
    let server = format!("nameserver {server}");
    let lines: Vec<&str> = std::iter::once(&*server).chain(kept).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_are_replaced() {
        let node = "# made by x\nnameserver 127.0.0.53\nnameserver fd00::1\noptions edns0 trust-ad\nsearch a.example b.example\n";
        assert_eq!(
            resolv_conf(node, Ipv4Addr::new(10, 0, 2, 3)),
            "nameserver 10.0.2.3\noptions edns0 trust-ad\nsearch a.example b.example\n"
        );
        assert_eq!(
            resolv_conf("", Ipv4Addr::new(10, 0, 2, 3)),
            "nameserver 10.0.2.3\n"
        );
    }
}
