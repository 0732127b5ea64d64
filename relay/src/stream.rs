//! Connections to the app behind an ingress, and how they are made.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::buffer::ReadAhead;

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
        Box::pin(async { Stream::tcp(TcpStream::connect(self.0).await?) })
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
    /// A TCP connection to the app, if it is one: who connects to a port of
    /// loopback where nobody listens can meet itself (RFC 9293 §3.5), and would
    /// take its own words for the app's and the app's port for itself.
    ///
    /// # Errors
    /// `ConnectionRefused` for a connection to itself, which is reset.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        if stream.local_addr()? == stream.peer_addr()? {
            let _ = stream.set_zero_linger();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Stream::Tcp(stream))
    }

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

/// How often a connection is looked at from which nobody reads just now.
pub(crate) const LOOK: Duration = Duration::from_secs(10);

/// A client's connection.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Whether the client has reset it or does not answer any more, whatever is
    /// still to be read. That it has said its last word is no such sign.
    fn is_broken(&self) -> bool;
}

impl Wire for TcpStream {
    fn is_broken(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        // Errors are told whatever is asked for (poll(2)).
        let mut asked = [PollFd::new(self, PollFlags::empty())];
        let told = poll(&mut asked, Some(&Timespec::default()));
        told.is_ok() && asked[0].revents().contains(PollFlags::ERR)
    }
}

impl<S: Wire> Wire for ReadAhead<S> {
    fn is_broken(&self) -> bool {
        self.inner().is_broken()
    }
}

impl<S: Wire> Wire for tokio_rustls::server::TlsStream<S> {
    fn is_broken(&self) -> bool {
        self.get_ref().0.is_broken()
    }
}

#[cfg(test)]
impl Wire for tokio::io::DuplexStream {
    fn is_broken(&self) -> bool {
        false
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket, UnixListener};

    #[tokio::test]
    async fn a_connection_to_itself_is_none() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let met = socket.connect(address).await.unwrap();
        let error = Stream::tcp(met).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        // And nothing of it is left in the app's way.
        TcpListener::bind(address).await.unwrap();
    }

    #[tokio::test]
    async fn an_app_on_a_socket_is_reached() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app");
        let listener = UnixListener::bind(&path).unwrap();
        let backend = UnixBackend(path);
        let (stream, accepted) = tokio::join!(backend.connect(), listener.accept());
        let (mut stream, mut app) = (stream.unwrap().without_delay(), accepted.unwrap().0);
        stream.write_all(b"ask").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        app.read_to_end(&mut got).await.unwrap();
        app.write_all(b"answer").await.unwrap();
        drop(app);
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"askanswer");
    }
}
