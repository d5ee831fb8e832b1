//! [`UnixStream`].

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net as std_net;
use std::path::Path;

use super::{SocketAddr, raw};
use crate::net::methods::{common_methods, descriptor_traits, stream_traits, timeout_methods};
use crate::net::socket::Socket;
use crate::{io as cooperative, sys};

/// A unix stream socket.
///
/// Mirrors [`std::os::unix::net::UnixStream`]: reads, writes and `connect` suspend the greenlet, not
/// the thread.
///
/// ```
/// use std::io::Write;
/// use gevent::os::unix::net::UnixStream;
///
/// let (mut one, other) = UnixStream::pair()?;
/// let writer = gevent::spawn(move || one.write_all(&vec![7; 1 << 20])); // more than fits at once
/// assert_eq!(std::io::Read::bytes(other).count(), 1 << 20);
/// writer.join().unwrap()
/// # ?; std::io::Result::Ok(())
/// ```
pub struct UnixStream {
    pub(super) socket: Socket<std_net::UnixStream>,
}

descriptor_traits!(UnixStream, std_net::UnixStream);
stream_traits!(UnixStream, &UnixStream);

impl UnixStream {
    /// A connection to the listener at this path.
    /// Mirrors [`std::os::unix::net::UnixStream::connect`].
    ///
    /// # Errors
    /// Nothing is there, nobody listens any more, or it is no socket; the path is longer than 107
    /// bytes, or has a zero byte in it; no descriptor is left.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits, for room in the listener's queue.
    pub fn connect<P: AsRef<Path>>(path: P) -> io::Result<UnixStream> {
        Self::connect_addr(&SocketAddr::from_pathname(path)?)
    }

    /// A connection to the listener at this address, which may be an abstract name.
    /// Mirrors [`std::os::unix::net::UnixStream::connect_addr`].
    ///
    /// # Errors
    /// As for [`connect`](UnixStream::connect).
    ///
    /// # Panics
    /// As for [`connect`](UnixStream::connect).
    pub fn connect_addr(socket_addr: &SocketAddr) -> io::Result<UnixStream> {
        let to = raw(socket_addr)?;
        let socket = Socket::new(std_net::UnixStream::from(sys::socket::stream(socket2::Domain::UNIX)?));
        let fd = socket.std().as_fd();
        cooperative::retrying(fd, None, || sys::socket::connect(fd, &to))?;
        Ok(UnixStream { socket })
    }

    /// Two sockets that are connected to each other.
    /// Mirrors [`std::os::unix::net::UnixStream::pair`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (one, other) = std_net::UnixStream::pair()?;
        Ok((UnixStream { socket: Socket::made(one)? }, UnixStream { socket: Socket::made(other)? }))
    }

    /// The address of this end. Mirrors [`std::os::unix::net::UnixStream::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().local_addr()
    }

    /// The address of the other end. Mirrors [`std::os::unix::net::UnixStream::peer_addr`].
    ///
    /// # Errors
    /// It is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().peer_addr()
    }

    /// Ends reading, writing, or both, for all clones; whoever waits to do so wakes.
    /// Mirrors [`std::os::unix::net::UnixStream::shutdown`].
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.std().shutdown(how)
    }

    common_methods!(UnixStream, "std::os::unix::net::UnixStream");
    timeout_methods!("std::os::unix::net::UnixStream");
}
