//! Connections to the app behind an ingress, and how they are made.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What [`Connect::connect`] returns.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;

/// How a connection to the app is made: over loopback, to a Unix socket, or on
/// a socket that was handed out of a network namespace.
///
/// The caller bounds the time ([`Timeouts::connect`](crate::Timeouts)) and
/// drops the future when it runs out, so an implementation must bear that.
///
/// ```
/// use ood_relay::{Connect, Connecting, Stream};
///
/// struct ToJupyter;
///
/// impl Connect for ToJupyter {
///     fn connect(&self) -> Connecting<'_> {
///         Box::pin(async {
///             let stream = tokio::net::TcpStream::connect(("127.0.0.1", 8888)).await?;
///             Ok(Stream::Tcp(stream))
///         })
///     }
/// }
/// ```
pub trait Connect: Send + Sync + 'static {
    /// Makes one connection.
    fn connect(&self) -> Connecting<'_>;
}

/// Connects to an address of this host.
#[derive(Clone, Copy, Debug)]
pub struct TcpBackend(pub SocketAddr);

impl Connect for TcpBackend {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { TcpStream::connect(self.0).await.map(Stream::Tcp) })
    }
}

/// Connects to a Unix socket.
#[derive(Clone, Debug)]
pub struct UnixBackend(pub PathBuf);

impl Connect for UnixBackend {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { UnixStream::connect(&self.0).await.map(Stream::Unix) })
    }
}

/// A connection to the app.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Sends what is written at once: what passes here is somebody else's
    /// traffic, which that somebody has already put together as they like.
    pub(crate) fn without_delay(self) -> Self {
        if let Stream::Tcp(stream) = &self {
            // A connection that has ended meanwhile will say so soon enough.
            let _ = stream.set_nodelay(true);
        }
        self
    }
}

/// A stream to the app that carries somebody's bytes. Unless they came to their
/// end its own end is abrupt (RST), so that the app can tell an interrupted
/// stream from a finished one.
#[derive(Debug)]
pub(crate) struct Carrying {
    pub(crate) stream: Stream,
    pub(crate) finished: bool,
}

impl Carrying {
    pub(crate) fn new(stream: Stream) -> Self {
        Carrying {
            stream,
            finished: false,
        }
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        if let (Stream::Tcp(stream), false) = (&self.stream, self.finished) {
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
