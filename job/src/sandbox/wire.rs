//! What the supervisor and the keeper say to each other: one JSON value a
//! packet, and packets with one socket each.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest packet, in bytes.
const MOST: usize = 16 * 1024;

/// What the supervisor wants.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start the app, in the foreground of the terminal or not.
    Start {
        /// Whether it gets the terminal.
        foreground: bool,
    },
    /// Send it this signal.
    Signal(i32),
    /// Let it go on after a stop, in the foreground of the terminal or not.
    Continue {
        /// Whether it gets the terminal.
        foreground: bool,
    },
}

/// What the keeper has to tell.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// Everything is ready for the app; with what the user should know.
    Built {
        /// Which program brings the app's traffic out, if any.
        outbound: Option<String>,
        /// What did not work though the rest does.
        notices: Vec<String>,
    },
    /// It cannot be made ready.
    Failed(Failure),
    /// The app runs.
    Started,
    /// The app cannot be started: its `errno`.
    NotStarted(i32),
    /// The app was stopped (SIGTSTP and the like).
    Stopped,
    /// The program that brings the app's traffic out has ended.
    OutboundLost,
    /// The app has ended with this exit code, 128 and the signal's number if
    /// a signal has ended it.
    Exited(u8),
}

/// Why the isolation could not be built.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What was tried, as a verb.
    pub(crate) what: String,
    /// The system's answer.
    pub(crate) why: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// Two connected ends that keep packets apart and notice each other's end.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Whether nobody is at the other end any more. Whatever else fails may work in a
/// moment: descriptors, memory and room for what is under way come back.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

/// Sends one value.
pub(super) fn send(to: impl AsFd, value: &impl Serialize) -> io::Result<()> {
    let packet = serde_json::to_vec(value)?;
    // NOSIGNAL: the other end may be gone, which is no reason to die of SIGPIPE.
    rustix::net::send(to, &packet, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one value; `None` when the other end is gone.
pub(super) fn receive<T: DeserializeOwned>(from: impl AsFd) -> io::Result<Option<T>> {
    let mut packet = vec![0; MOST];
    let (length, _) = rustix::net::recv(from, &mut packet[..], RecvFlags::empty())?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&packet[..length])?))
}

/// Hands a socket over.
pub(super) fn send_socket(to: impl AsFd, socket: impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
    rustix::net::sendmsg(
        to,
        &[IoSlice::new(b"s")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Says that there is none to hand over.
pub(super) fn send_no_socket(to: impl AsFd) -> io::Result<()> {
    rustix::net::send(to, b"n", SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes a socket that was handed over; `None` when the other end is gone, an
/// error of kind `NotFound` when it had none.
pub(super) fn receive_socket(from: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let answer = rustix::net::recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if answer.bytes == 0 {
        return Ok(None);
    }
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    socket
        .map(Some)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}
