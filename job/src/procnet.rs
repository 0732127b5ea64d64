//! Listening sockets as `/proc/<pid>/net` shows them: those of the network that
//! the process is in.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A socket that waits for whoever comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) uid: u32,
    pub(crate) inode: u64,
}

/// `TCP_LISTEN`, and of UDP a socket that is bound and not connected, which the
/// kernel shows as `TCP_CLOSE` (include/net/tcp_states.h).
const TCP_LISTEN: &str = "0A";
const UDP_BOUND: &str = "07";

/// All of them in the network of a process; `None` if it is gone or not ours.
pub(crate) fn of_process(pid: impl fmt::Display) -> Option<Vec<Listening>> {
    let mut all = Vec::new();
    for (file, protocol) in [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ] {
        match fs::read_to_string(format!("/proc/{pid}/net/{file}")) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(|l| parse(l, protocol))),
            // A node without IPv6 has no such file.
            Err(_) if file.ends_with('6') => {}
            Err(_) => return None,
        }
    }
    Some(all)
}

fn parse(line: &str, protocol: Protocol) -> Option<Listening> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let wanted = match protocol {
        Protocol::Tcp => TCP_LISTEN,
        Protocol::Udp => UDP_BOUND,
    };
    if *fields.get(3)? != wanted {
        return None;
    }
    Some(Listening {
        protocol,
        address: address(fields.get(1)?)?,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// `0100007F:1F90`: words of 32 bits in the order of the machine, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0";
        let found = parse(tcp, Protocol::Tcp).unwrap();
        assert_eq!(found.address.to_string(), "127.0.0.1:8080");
        assert_eq!((found.uid, found.inode), (1000, 12345));
        let connected = tcp.replace(" 0A ", " 01 ");
        assert_eq!(parse(&connected, Protocol::Tcp), None);
        let udp6 = "  1: 000080FE00000000FF005450B6AD1DFE:0222 0:0 07 00000000:00000000 00:00000000 00000000     7        0 99 2 0 0";
        let found = parse(udp6, Protocol::Udp).unwrap();
        assert_eq!(found.address.to_string(), "[fe80::5054:ff:fe1d:adb6]:546");
        for bad in [
            "", "x", "0: zz:0 0:0 0A 0 0 0 0 0 0", "0: 0100:1 0:0 0A a b c 1 0 1",
        ] {
            assert_eq!(parse(bad, Protocol::Tcp), None, "{bad}");
        }
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let all = of_process("self").unwrap();
        let found = all.iter().find(|l| l.address == address).unwrap();
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(of_process("0"), None);
    }
}
