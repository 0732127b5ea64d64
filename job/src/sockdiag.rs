//! Single TCP sockets of this thread's network, asked of the kernel by
//! `NETLINK_SOCK_DIAG` (`sock_diag(7)`). It finds one by its hash, however many there
//! are, where `/proc/net/tcp` writes out all of them.
//!
//! The messages are those of `linux/netlink.h`, `linux/sock_diag.h` and
//! `linux/inet_diag.h`: numbers in the order of the machine, addresses and ports in
//! that of the network. Lengths are in bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, send, socket_with,
};

use crate::procnet::Socket;

/// `linux/netlink.h`: types of a message, and flags.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

/// `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// `linux/socket.h` and `linux/in.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// `include/net/tcp_states.h`.
const TCP_LISTEN: u8 = 10;

/// `INET_DIAG_NOCOOKIE` of `linux/inet_diag.h`, twice.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// `struct nlmsghdr`, `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: u32 = 16 + 56;

/// As much as the kernel puts into one part of an answer.
const BUFFER: usize = 32 * 1024;
/// Parts of an answer: far more than one port's listeners fill.
const PARTS: u32 = 256;
/// The kernel has answered by the time the request is sent.
const TIMEOUT: Duration = Duration::from_millis(200);

/// `lo` is the first interface of every network. What this node sends itself comes
/// in there, and a socket of no interface, or of this one, is found by it.
const LOOPBACK: u32 = 1;

/// A way to ask the kernel.
pub(crate) struct SockDiag {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl SockDiag {
    /// Fails where it is not allowed, as in some containers.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
        set_socket_timeout(&socket, Timeout::Send, Some(TIMEOUT))?;
        Ok(SockDiag {
            socket,
            buffer: vec![0; BUFFER],
            sequence: 0,
        })
    }

    /// The end of a connection that is at `local`, accepted or not. `None` too where
    /// the kernel cannot tell of TCP: it has one error for both.
    pub(crate) fn end(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        // One table has the connections of both families, and those of IPv4 to a
        // socket of IPv6 as IPv4: asked for as such, they are found in either.
        let scope = [scope(local), scope(remote)].into_iter().find(|s| *s != 0);
        let (local, remote) = (canonical(local), canonical(remote));
        let asked = Asked {
            flags: NLM_F_REQUEST,
            states: u32::MAX,
            local,
            remote: Some(remote),
            interface: scope.unwrap_or(LOOPBACK),
        };
        let found = match self.ask(&asked) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        // Without such a connection the kernel tells who listens.
        let same =
            |s: &Socket| !s.listens && canonical(s.local) == local && canonical(s.remote) == remote;
        Ok(found.into_iter().find(same))
    }

    /// All that listen at a port, of either family.
    pub(crate) fn listeners(&mut self, port: u16) -> io::Result<Vec<Socket>> {
        let mut all = Vec::new();
        for ip in [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ] {
            let local = SocketAddr::new(ip, port);
            let found = self.ask(&Asked {
                flags: NLM_F_REQUEST | NLM_F_DUMP,
                states: 1 << TCP_LISTEN,
                local,
                remote: None,
                interface: 0,
            })?;
            all.extend(found);
        }
        all.retain(|s| s.listens && s.local.port() == port);
        Ok(all)
    }

    fn ask(&mut self, asked: &Asked) -> io::Result<Vec<Socket>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = asked.packed(self.sequence);
        if send(&self.socket, &request, SendFlags::empty())? != request.len() {
            return Err(odd());
        }
        let mut found = Vec::new();
        for _ in 0..PARTS {
            let (_, length, from) = recvfrom(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC)?;
            let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
            // The kernel is port 0; a part that does not fit has been cut.
            if from.is_none_or(|from| from.pid() != 0) {
                return Err(odd());
            }
            let part = self.buffer.get(..length).ok_or_else(odd)?;
            if read_part(part, self.sequence, &mut found)? {
                return Ok(found);
            }
        }
        Err(odd())
    }
}

/// A question: one socket, or with `NLM_F_DUMP` all that are alike.
struct Asked {
    flags: u16,
    /// A bit for each state of TCP.
    states: u32,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    /// Its index; 0 is any, of a dump.
    interface: u32,
}

impl Asked {
    /// `struct nlmsghdr`, `struct inet_diag_req_v2` and in it `struct
    /// inet_diag_sockid`.
    fn packed(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 56);
        bytes.extend(REQUEST.to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        // No extensions, no padding.
        bytes.extend([family(self.local), IPPROTO_TCP, 0, 0]);
        bytes.extend(self.states.to_ne_bytes());
        let remote_port = self.remote.map_or(0, |remote| remote.port());
        bytes.extend(self.local.port().to_be_bytes());
        bytes.extend(remote_port.to_be_bytes());
        bytes.extend(ip_bytes(Some(self.local.ip())));
        bytes.extend(ip_bytes(self.remote.map(|remote| remote.ip())));
        bytes.extend(self.interface.to_ne_bytes());
        bytes.extend(NO_COOKIE);
        bytes
    }
}

/// Adds the sockets of one part of an answer, and says whether it was the last.
fn read_part(mut part: &[u8], sequence: u32, found: &mut Vec<Socket>) -> io::Result<bool> {
    if part.is_empty() {
        return Err(odd());
    }
    while !part.is_empty() {
        let mut fields = Fields(part);
        let length = fields.u32().ok_or_else(odd)? as usize;
        let kind = fields.u16().ok_or_else(odd)?;
        let flags = fields.u16().ok_or_else(odd)?;
        if fields.u32().ok_or_else(odd)? != sequence {
            return Err(odd());
        }
        let body = part.get(HEADER..length).ok_or_else(odd)?;
        // Aligned to 4, which the last need not be.
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
        match kind {
            NLMSG_ERROR => return Err(error(body)),
            // The end of a dump has its error, too.
            NLMSG_DONE => {
                return match Fields(body).u32() {
                    Some(0) | None if flags & NLM_F_DUMP_INTR == 0 => Ok(true),
                    Some(0) | None => Err(odd()),
                    Some(_) => Err(error(body)),
                };
            }
            SOCK_DIAG_BY_FAMILY if flags & NLM_F_DUMP_INTR == 0 => {
                found.push(socket(body).ok_or_else(odd)?);
                if flags & NLM_F_MULTI == 0 {
                    return Ok(true);
                }
            }
            // Such as an overrun.
            _ => return Err(odd()),
        }
    }
    Ok(false)
}

/// `struct inet_diag_msg`; what follows it are extensions.
fn socket(body: &[u8]) -> Option<Socket> {
    let mut fields = Fields(body);
    let [family, state, _timer, _retransmits] = fields.take()?;
    let local_port = u16::from_be_bytes(fields.take()?);
    let remote_port = u16::from_be_bytes(fields.take()?);
    let local = ip(family, fields.take()?)?;
    let remote = ip(family, fields.take()?)?;
    let _interface_and_cookie: [u8; 12] = fields.take()?;
    let _expires_and_queues: [u8; 12] = fields.take()?;
    Some(Socket {
        local: SocketAddr::new(local, local_port),
        remote: SocketAddr::new(remote, remote_port),
        listens: state == TCP_LISTEN,
        uid: fields.u32()?,
        inode: fields.u32()?.into(),
    })
}

/// `struct nlmsgerr`: a negative errno, or 0, which nobody has asked for.
fn error(body: &[u8]) -> io::Error {
    let errno = Fields(body).take().map(i32::from_ne_bytes);
    match errno.and_then(i32::checked_neg) {
        Some(errno) if errno > 0 => io::Error::from_raw_os_error(errno),
        _ => odd(),
    }
}

/// Bytes, from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an odd answer of the kernel")
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn family(address: SocketAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The interface of a link-local address, else 0.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

/// IPv4 is in the first 4 bytes.
fn ip_bytes(ip: Option<IpAddr>) -> [u8; 16] {
    match ip {
        None => [0; 16],
        Some(IpAddr::V6(ip)) => ip.octets(),
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

fn ip(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        AF_INET => Some(Ipv4Addr::new(a, b, c, d).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    #[test]
    fn an_end_has_a_user_and_once_accepted_an_inode() {
        let me = rustix::process::geteuid().as_raw();
        let mut diag = SockDiag::open().unwrap();
        for (listen, connect) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::]:0", "127.0.0.1"),
            ("[::]:0", "::ffff:127.0.0.1"),
            ("[::1]:0", "::1"),
        ] {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let stream = TcpStream::connect((connect, port)).unwrap();
            let (here, there) = ends(&stream);
            let waiting = diag.end(there, here).unwrap().unwrap();
            assert_eq!((waiting.inode, waiting.listens), (0, false), "{listen}");
            let listeners = diag.listeners(port).unwrap();
            let of_it = |s: &&Socket| s.local == listener.local_addr().unwrap();
            assert_eq!(listeners.iter().find(of_it).unwrap().uid, me, "{listen}");

            let accepted = listener.accept().unwrap();
            let end = diag.end(there, here).unwrap().unwrap();
            assert_eq!(end.uid, me, "{listen}");
            assert_ne!(end.inode, 0, "{listen}");
            assert!(diag.end(here, there).unwrap().is_some(), "{listen}");
            drop((accepted, stream));
        }
    }

    #[test]
    fn a_listener_is_not_the_end_of_a_connection_that_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let here = "127.0.0.1:1".parse().unwrap();
        let mut diag = SockDiag::open().unwrap();
        assert!(diag.end(there, here).unwrap().is_none());
        // What came in answer to it is read: the next is told of on its own.
        let listens = |diag: &mut SockDiag| {
            let all = diag.listeners(there.port()).unwrap();
            all.iter().any(|s| s.local == there)
        };
        assert!(listens(&mut diag));
        drop(listener);
        assert!(diag.end(there, here).unwrap().is_none());
        assert!(!listens(&mut diag));
    }

    #[test]
    fn more_listeners_than_one_part_holds_are_all_told() {
        // An address of their own, so that no other test meets them.
        // Port 0 is no port: asked for it, the kernel tells of any.
        let listeners: Vec<TcpListener> = (0..600)
            .map(|_| TcpListener::bind("127.0.0.77:0").unwrap())
            .collect();
        let mut diag = SockDiag::open().unwrap();
        let found = diag
            .ask(&Asked {
                flags: NLM_F_REQUEST | NLM_F_DUMP,
                states: 1 << TCP_LISTEN,
                local: "0.0.0.0:0".parse().unwrap(),
                remote: None,
                interface: 0,
            })
            .unwrap();
        for listener in &listeners {
            let local = listener.local_addr().unwrap();
            assert!(found.iter().any(|s| s.local == local && s.listens));
        }
    }

    /// A message as the kernel sends it.
    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn read(part: &[u8]) -> io::Result<(bool, usize)> {
        let mut found = Vec::new();
        read_part(part, 7, &mut found).map(|last| (last, found.len()))
    }

    #[test]
    fn parts_of_an_answer_are_read_and_odd_ones_refused() {
        let mut body = [0; 72];
        body[0] = AF_INET;
        let one = message(SOCK_DIAG_BY_FAMILY, 0, &body);
        assert_eq!(read(&one).unwrap(), (true, 1));
        let many = message(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, &body);
        assert_eq!(read(&[&many[..], &many].concat()).unwrap(), (false, 2));
        let done = message(NLMSG_DONE, NLM_F_MULTI, &[0; 4]);
        assert_eq!(read(&[&many[..], &done].concat()).unwrap(), (true, 1));

        let missing = message(NLMSG_ERROR, 0, &(-2i32).to_ne_bytes());
        let kind = read(&missing).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::NotFound);
        let minimum = i32::MIN.to_ne_bytes();
        let intr = NLM_F_MULTI | NLM_F_DUMP_INTR;
        for odd in [
            message(NLMSG_ERROR, 0, &[]),
            message(NLMSG_ERROR, 0, &[0; 4]),
            message(NLMSG_ERROR, 0, &minimum),
            message(NLMSG_DONE, 0, &minimum),
            message(NLMSG_DONE, intr, &[0; 4]),
            message(SOCK_DIAG_BY_FAMILY, intr, &body),
            message(SOCK_DIAG_BY_FAMILY, 0, &body[..71]),
            message(SOCK_DIAG_BY_FAMILY, 0, &[0; 72]),
            message(1, 0, &body),
            one[..one.len() - 1].to_vec(),
            Vec::new(),
        ] {
            let kind = read(&odd).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidData, "{odd:?}");
        }
        let mut of_another = Vec::new();
        assert!(read_part(&one, 8, &mut of_another).is_err());
        assert!(of_another.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = socket(&bytes);
            let _ = error(&bytes);
        }

        #[test]
        fn nor_are_messages_that_lie(
            length in prop_oneof![0..200u32, any::<u32>()],
            kind in 0..24u16,
            flags in any::<u16>(),
            body in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = message(kind, flags, &body);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let _ = read(&[&bytes[..], &bytes].concat());
        }
    }
}
