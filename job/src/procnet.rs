//! Listening sockets as `/proc/<pid>/net` shows them: those of the network that
//! the process is in. And who is at the other end of a connection.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use serde::Serialize;

use crate::sockdiag::SockDiag;

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

/// Who is at the other end of a TCP connection within this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// This user.
    User(u32),
    /// Nobody that could be seen.
    Unseen,
}

/// Who listens at an address of this network; somebody else than the caller first.
pub(crate) fn listener(address: SocketAddr) -> Option<u32> {
    let me = rustix::process::geteuid().as_raw();
    let listening = of_process("self").unwrap_or_default();
    match listener_among(&listening, address, me) {
        Listener::At(uid) => Some(uid),
        // Bound as any app would: nobody who is there already lets it.
        Listener::Perhaps(uid) => TcpListener::bind(address).is_err().then_some(uid),
        Listener::Nobody => None,
    }
}

/// Who listens, as far as the addresses tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    At(u32),
    /// At `[::]`, and it is not shown whether that takes IPv4 in.
    Perhaps(u32),
    Nobody,
}

fn listener_among(listening: &[Listening], address: SocketAddr, me: u32) -> Listener {
    let wanted = address.ip().to_canonical();
    let of = |matches: &dyn Fn(IpAddr) -> bool| {
        let there = listening.iter().filter(|l| {
            l.protocol == Protocol::Tcp
                && l.address.port() == address.port()
                && matches(l.address.ip())
        });
        there.map(|l| l.uid).min_by_key(|uid| *uid == me)
    };
    let certain = of(&|ip| {
        ip.to_canonical() == wanted || ip.is_unspecified() && ip.is_ipv4() == wanted.is_ipv4()
    });
    if let Some(uid) = certain {
        return Listener::At(uid);
    }
    let perhaps = of(&|ip| wanted.is_ipv4() && ip.is_ipv6() && ip.is_unspecified());
    perhaps.map_or(Listener::Nobody, Listener::Perhaps)
}

/// Who has the end of a connection of ours that is at `there`, or will have it:
/// until it is accepted nobody has it (the kernel then shows no inode, and as its
/// user root or the listener's), and what counts is who listens. One that listens
/// and is not `me` is told before any that is.
pub(crate) fn peer(here: SocketAddr, there: SocketAddr, me: u32) -> Peer {
    // The list takes tens of milliseconds where there are thousands of sockets.
    let sockets = asked(here, there).unwrap_or_else(|_| listed(there.port()));
    peer_among(&sockets, here, there, me)
}

/// As much as `peer_among` needs, asked of the kernel. Fails where that cannot be
/// trusted to tell.
fn asked(here: SocketAddr, there: SocketAddr) -> io::Result<Vec<Socket>> {
    let mut diag = SockDiag::open()?;
    match diag.end(there, here)? {
        Some(end) if end.inode != 0 => return Ok(vec![end]),
        Some(_) => {}
        // Our own end is there: where not even that shows, the kernel has no module
        // that tells of TCP, and may not load it.
        None if diag.end(here, there)?.is_some() => return Ok(Vec::new()),
        None => return Err(io::ErrorKind::Unsupported.into()),
    }
    // The end last: if it is not accepted even then, its listener was in the list,
    // and has not made way for another since.
    let mut sockets = diag.listeners(there.port())?;
    sockets.extend(diag.end(there, here)?);
    Ok(sockets)
}

/// All with a port, as `/proc` lists them.
fn listed(port: u16) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for file in ["tcp", "tcp6"] {
        // A node without IPv6 has no such file.
        let text = fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
        let port = format!(":{port:04X} ");
        let lines = text.lines().skip(1).filter(|line| line.contains(&port));
        sockets.extend(lines.filter_map(Socket::parse));
    }
    sockets
}

fn peer_among(sockets: &[Socket], here: SocketAddr, there: SocketAddr, me: u32) -> Peer {
    let same = |a: SocketAddr, b: SocketAddr| {
        a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
    };
    let end = |s: &&Socket| !s.listens && same(s.local, there) && same(s.remote, here);
    let Some(end) = sockets.iter().find(end) else {
        return Peer::Unseen;
    };
    if end.inode != 0 {
        return Peer::User(end.uid);
    }
    // Whom the kernel would choose: the most exact address. Two users cannot both
    // have the same, nor one of them a part of the other's.
    let v4 = there.ip().to_canonical().is_ipv4();
    let tiers: [fn(IpAddr, IpAddr) -> bool; 3] = [
        |a, there| a.to_canonical() == there.to_canonical(),
        |a, there| a.is_unspecified() && a.is_ipv4() == there.to_canonical().is_ipv4(),
        |a, _| a.is_unspecified() && a.is_ipv6(),
    ];
    for of_tier in tiers.iter().take(if v4 { 3 } else { 2 }) {
        let listeners = sockets.iter().filter(|s| {
            s.listens && s.local.port() == there.port() && of_tier(s.local.ip(), there.ip())
        });
        let mut uids: Vec<u32> = listeners.map(|s| s.uid).collect();
        uids.sort_by_key(|uid| *uid == me);
        if let Some(uid) = uids.first() {
            return Peer::User(*uid);
        }
    }
    Peer::Unseen
}

/// A TCP socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) listens: bool,
    pub(crate) uid: u32,
    /// 0 of one that no process has.
    pub(crate) inode: u64,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = address(fields.next()?)?;
        let remote = address(fields.next()?)?;
        let listens = fields.next()? == TCP_LISTEN;
        let mut fields = fields.skip(3);
        Some(Socket {
            local,
            remote,
            listens,
            uid: fields.next()?.parse().ok()?,
            inode: fields.nth(1)?.parse().ok()?,
        })
    }
}

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
    fn the_other_end_of_a_connection_is_found_before_and_after_it_is_accepted() {
        use std::net::{TcpListener, TcpStream};
        let me = rustix::process::geteuid().as_raw();
        for (listen, connect) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::]:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
        ] {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let stream = TcpStream::connect((connect, port)).unwrap();
            let (here, there) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            // Both ways to know agree.
            let check = |expected| {
                let seen = peer_among(&asked(here, there).unwrap(), here, there, me);
                assert_eq!(seen, expected, "{listen}");
                let seen = peer_among(&listed(port), here, there, me);
                assert_eq!(seen, expected, "{listen}");
                assert_eq!(peer(here, there, me), expected, "{listen}");
            };
            check(Peer::User(me));
            let accepted = listener.accept().unwrap();
            check(Peer::User(me));
            drop(listener);
            check(Peer::User(me));
            drop(accepted);
            check(Peer::Unseen);
        }
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(peer(nowhere, nowhere, me), Peer::Unseen);
    }

    #[test]
    fn of_a_connection_that_nobody_has_accepted_the_listener_counts() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let listener = |local: &str, uid| Socket {
            local: at(local),
            remote: at("0.0.0.0:0"),
            listens: true,
            uid,
            inode: 7,
        };
        let (here, there) = (at("127.0.0.1:40000"), at("127.0.0.1:8080"));
        let end = |uid, inode| Socket {
            local: there,
            remote: here,
            listens: false,
            uid,
            inode,
        };
        let seen = |sockets: &[Socket]| peer_among(sockets, here, there, 1000);
        // Accepted: whose it is, whoever listens by now.
        let own = listener("127.0.0.1:8080", 1000);
        assert_eq!(seen(&[own, end(1001, 8)]), Peer::User(1001));
        // Not accepted: of root, as older kernels say, or of the listener's.
        for shown in [0, 1000, 1001] {
            let end = end(shown, 0);
            assert_eq!(seen(&[own, end]), Peer::User(1000));
            assert_eq!(seen(&[end]), Peer::Unseen);
            let exact = listener("127.0.0.1:8080", 1001);
            assert_eq!(seen(&[exact, end]), Peer::User(1001));
            assert_eq!(seen(&[own, exact, end]), Peer::User(1001));
            // Another port, another address, IPv6 alone: not in the way.
            let others = ["127.0.0.1:8081", "127.0.0.2:8080", "[::]:8080"];
            let others = others.map(|local| listener(local, 1001));
            assert_eq!(seen(&[&others[..], &[own, end]].concat()), Peer::User(1000));
            let any = listener("0.0.0.0:8080", 1001);
            assert_eq!(seen(&[any, end]), Peer::User(1001));
            let both = listener("[::]:8080", 1001);
            assert_eq!(seen(&[both, end]), Peer::User(1001));
            let mapped = listener("[::ffff:127.0.0.1]:8080", 1001);
            assert_eq!(seen(&[mapped, end]), Peer::User(1001));
        }
        // The other end of the same: ours, which is not the peer's.
        let mine = Socket {
            local: here,
            remote: there,
            ..end(1000, 9)
        };
        assert_eq!(seen(&[mine]), Peer::Unseen);
    }

    #[test]
    fn who_listens_at_an_address_is_of_its_family() {
        let at = |text: &str, uid| Listening {
            protocol: Protocol::Tcp,
            address: text.parse().unwrap(),
            uid,
            inode: 7,
        };
        let among = |listening: &[Listening], address: &str| {
            listener_among(listening, address.parse().unwrap(), 1000)
        };
        let any4 = at("0.0.0.0:80", 0);
        let any6 = at("[::]:80", 0);
        for taken in ["127.0.0.1:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80"] {
            let there = [any6.clone(), at(taken, 5)];
            assert_eq!(among(&there, "127.0.0.1:80"), Listener::At(5));
            assert_eq!(among(&there, "127.0.0.1:81"), Listener::Nobody);
        }
        let both = [at("127.0.0.1:80", 1000), any4.clone()];
        assert_eq!(among(&both, "127.0.0.1:80"), Listener::At(0));
        let any6 = [any6];
        assert_eq!(among(&any6, "127.0.0.1:80"), Listener::Perhaps(0));
        assert_eq!(among(&any6, "[::1]:80"), Listener::At(0));
        assert_eq!(among(&[any4], "[::1]:80"), Listener::Nobody);
        let exact6 = [at("[::1]:80", 0)];
        assert_eq!(among(&exact6, "127.0.0.1:80"), Listener::Nobody);
    }

    #[test]
    fn what_listens_on_ipv6_alone_does_not_take_ipv4() {
        use rustix::net::{self, AddressFamily, SocketType, sockopt};
        let me = rustix::process::geteuid().as_raw();
        for ip in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
            let socket = net::socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            sockopt::set_ipv6_v6only(&socket, true).unwrap();
            net::bind(&socket, &SocketAddr::from((ip, 0))).unwrap();
            net::listen(&socket, 1).unwrap();
            let port = TcpListener::from(socket.try_clone().unwrap());
            let port = port.local_addr().unwrap().port();
            assert_eq!(listener((Ipv4Addr::LOCALHOST, port).into()), None, "{ip}");
            let taken = listener((Ipv6Addr::LOCALHOST, port).into());
            assert_eq!(taken, Some(me), "{ip}");
        }
        let both = TcpListener::bind("[::]:0").unwrap();
        let port = both.local_addr().unwrap().port();
        let taken = listener((Ipv4Addr::LOCALHOST, port).into());
        assert_eq!(taken, Some(me));
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
