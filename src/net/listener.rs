//! [`TcpListener`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::SockAddr;

use super::addr::{ToSocketAddrs, each, told};
use super::methods::{common_methods, descriptor_traits, incoming, ttl_methods};
use super::socket::Socket;
use super::stream::TcpStream;

/// A TCP socket that listens for connections.
///
/// Mirrors [`std::net::TcpListener`]: `accept` suspends the greenlet, not the thread. Several
/// greenlets may accept at once.
///
/// ```
/// use std::io::Write;
///
/// let listener = gevent::net::TcpListener::bind("127.0.0.1:0")?;
/// let addr = listener.local_addr()?;
/// let server = gevent::spawn(move || {
///     for stream in listener.incoming().take(2) {
///         stream?.write_all(b"hi")?;
///     }
///     std::io::Result::Ok(())
/// });
/// for _ in 0..2 {
///     let stream = gevent::net::TcpStream::connect(addr)?;
///     assert_eq!(std::io::read_to_string(stream)?, "hi");
/// }
/// server.join().unwrap()
/// # ?; std::io::Result::Ok(())
/// ```
pub struct TcpListener {
    socket: Socket<std::net::TcpListener>,
}

descriptor_traits!(TcpListener, std::net::TcpListener);
incoming!(Incoming, TcpListener, TcpStream, "std::net::Incoming");

impl std::iter::FusedIterator for Incoming<'_> {}

impl TcpListener {
    /// A listener on this address; on the first that works, if it is several. Port 0 is one that the
    /// system chooses. `SO_REUSEADDR` is set, as by std.
    /// Mirrors [`std::net::TcpListener::bind`].
    ///
    /// # Errors
    /// The address is in use, is not of this machine, or may not be used; it is no address; no
    /// descriptor is left.
    ///
    /// ```
    /// use gevent::net::TcpListener;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let taken = TcpListener::bind(listener.local_addr()?).unwrap_err();
    /// assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        let socket = each(addr, |addr| Socket::made(std::net::TcpListener::bind(addr)?))?;
        Ok(TcpListener { socket })
    }

    /// The address that it listens on. Mirrors [`std::net::TcpListener::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().local_addr()
    }

    /// Waits for a connection. Mirrors [`std::net::TcpListener::accept`].
    ///
    /// # Errors
    /// No descriptor is left (`EMFILE`; the connection stays in the queue); the connection was reset
    /// before it was accepted; `WouldBlock` in non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    ///
    /// ```
    /// use gevent::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let (_stream, peer) = listener.accept()?;
    /// assert_eq!(peer, client.local_addr()?);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accepted(self.socket.accept()?)
    }

    /// `accept`, if there is a connection now; else `WouldBlock`, whatever the mode is.
    pub(crate) fn accept_now(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accepted(self.socket.accept_now()?)
    }

    fn accepted(&self, (fd, from): (OwnedFd, SockAddr)) -> io::Result<(TcpStream, SocketAddr)> {
        let stream = TcpStream { socket: self.socket.accepted(fd.into()) };
        Ok((stream, told(from)?))
    }

    /// The connections that come, without end. Mirrors [`std::net::TcpListener::incoming`].
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// Does what it says, and came too late: the kernel allows it only before `bind`.
    /// Mirrors [`std::net::TcpListener::set_only_v6`].
    ///
    /// # Errors
    /// Always, on Linux.
    #[deprecated(note = "this option can only be set before the socket is bound")]
    #[allow(deprecated)] // std's is deprecated for the same reason
    pub fn set_only_v6(&self, only_v6: bool) -> io::Result<()> {
        self.socket.std().set_only_v6(only_v6)
    }

    /// Whether it takes IPv6 connections only. Mirrors [`std::net::TcpListener::only_v6`].
    ///
    /// # Errors
    /// It is no IPv6 socket.
    #[deprecated(note = "this option can only be set before the socket is bound")]
    #[allow(deprecated)] // std's is deprecated for the same reason
    pub fn only_v6(&self) -> io::Result<bool> {
        self.socket.std().only_v6()
    }

    common_methods!(TcpListener, "std::net::TcpListener");
    ttl_methods!("std::net::TcpListener");
}
