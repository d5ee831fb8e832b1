//! [`UnixDatagram`].

use std::io;
use std::net::Shutdown;
use std::os::unix::net as std_net;
use std::path::Path;

use super::{SocketAddr, raw, told};
use crate::net::methods::{common_methods, descriptor_traits, timeout_methods};
use crate::net::socket::Socket;

/// A unix datagram socket.
///
/// Mirrors [`std::os::unix::net::UnixDatagram`]: sends and receives suspend the greenlet, not the
/// thread. Datagrams arrive whole, in order, and are not lost: a full receiver makes the sender wait.
///
/// ```
/// use gevent::os::unix::net::UnixDatagram;
///
/// let (one, other) = UnixDatagram::pair()?;
/// let sender = gevent::spawn(move || (0..1000u32).try_for_each(|n| one.send(&n.to_le_bytes()).map(drop)));
/// for n in 0..1000u32 {
///     let mut buf = [0; 4];
///     other.recv(&mut buf)?;
///     assert_eq!(u32::from_le_bytes(buf), n);
/// }
/// sender.join().unwrap()
/// # ?; std::io::Result::Ok(())
/// ```
pub struct UnixDatagram {
    socket: Socket<std_net::UnixDatagram>,
}

descriptor_traits!(UnixDatagram, std_net::UnixDatagram);

impl UnixDatagram {
    /// A socket at this path, which must not exist. Dropping it does not remove the path.
    /// Mirrors [`std::os::unix::net::UnixDatagram::bind`].
    ///
    /// # Errors
    /// The path exists ([`AddrInUse`](io::ErrorKind::AddrInUse)), cannot be made, is longer than 107
    /// bytes, or has a zero byte in it; no descriptor is left.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixDatagram> {
        Self::made(std_net::UnixDatagram::bind(path)?)
    }

    /// A socket on this address, which may be an abstract name.
    /// Mirrors [`std::os::unix::net::UnixDatagram::bind_addr`].
    ///
    /// # Errors
    /// As for [`bind`](UnixDatagram::bind).
    pub fn bind_addr(socket_addr: &SocketAddr) -> io::Result<UnixDatagram> {
        Self::made(std_net::UnixDatagram::bind_addr(socket_addr)?)
    }

    /// A socket without an address: it can send, and nobody can send to it unless it is connected.
    /// Mirrors [`std::os::unix::net::UnixDatagram::unbound`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn unbound() -> io::Result<UnixDatagram> {
        Self::made(std_net::UnixDatagram::unbound()?)
    }

    /// Two sockets that are connected to each other.
    /// Mirrors [`std::os::unix::net::UnixDatagram::pair`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (one, other) = std_net::UnixDatagram::pair()?;
        Ok((Self::made(one)?, Self::made(other)?))
    }

    fn made(std: std_net::UnixDatagram) -> io::Result<UnixDatagram> {
        Ok(UnixDatagram { socket: Socket::made(std)? })
    }

    /// Sets whom [`send`](UnixDatagram::send) sends to; only datagrams from there are received.
    /// Never waits. Mirrors [`std::os::unix::net::UnixDatagram::connect`].
    ///
    /// # Errors
    /// Nobody is there; the path is longer than 107 bytes, or has a zero byte in it.
    pub fn connect<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.socket.std().connect(path)
    }

    /// [`connect`](UnixDatagram::connect) to an address, which may be an abstract name.
    /// Mirrors [`std::os::unix::net::UnixDatagram::connect_addr`].
    ///
    /// # Errors
    /// As for [`connect`](UnixDatagram::connect).
    pub fn connect_addr(&self, socket_addr: &SocketAddr) -> io::Result<()> {
        self.socket.std().connect_addr(socket_addr)
    }

    /// Its own address. Mirrors [`std::os::unix::net::UnixDatagram::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().local_addr()
    }

    /// The address that it is connected to. Mirrors [`std::os::unix::net::UnixDatagram::peer_addr`].
    ///
    /// # Errors
    /// It is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().peer_addr()
    }

    /// Waits for a datagram: its length and sender. What does not fit into `buf` is lost.
    /// Mirrors [`std::os::unix::net::UnixDatagram::recv_from`].
    ///
    /// # Errors
    /// The read timeout has passed, or `WouldBlock` in non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.recv_from(buf, false)?;
        Ok((len, told(&from)?))
    }

    /// [`recv_from`](UnixDatagram::recv_from), where the sender is of no interest.
    /// Mirrors [`std::os::unix::net::UnixDatagram::recv`].
    ///
    /// # Errors
    /// As for [`recv_from`](UnixDatagram::recv_from).
    ///
    /// # Panics
    /// As for [`recv_from`](UnixDatagram::recv_from).
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buf)
    }

    /// Sends a datagram to the socket at this path. While the receiver is full it is tried again
    /// after 1 ms, doubling to 50. Mirrors [`std::os::unix::net::UnixDatagram::send_to`].
    ///
    /// # Errors
    /// Nobody is there; it is too long; the path is longer than 107 bytes, or has a zero byte in it;
    /// the write timeout has passed, or `WouldBlock` in non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> io::Result<usize> {
        self.send_to_addr(buf, &SocketAddr::from_pathname(path)?)
    }

    /// [`send_to`](UnixDatagram::send_to) an address, which may be an abstract name.
    /// Mirrors [`std::os::unix::net::UnixDatagram::send_to_addr`].
    ///
    /// # Errors
    /// As for [`send_to`](UnixDatagram::send_to).
    ///
    /// # Panics
    /// As for [`send_to`](UnixDatagram::send_to).
    pub fn send_to_addr(&self, buf: &[u8], socket_addr: &SocketAddr) -> io::Result<usize> {
        self.socket.send_to_retrying(buf, &raw(socket_addr)?)
    }

    /// Sends a datagram to whom it is connected to. Mirrors
    /// [`std::os::unix::net::UnixDatagram::send`].
    ///
    /// # Errors
    /// It is not connected, or the other end is closed; it is too long; the write timeout has passed,
    /// or `WouldBlock` in non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.socket.send(buf)
    }

    /// Ends reading, writing, or both, for all clones; whoever waits to do so wakes.
    /// Mirrors [`std::os::unix::net::UnixDatagram::shutdown`].
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.std().shutdown(how)
    }

    common_methods!(UnixDatagram, "std::os::unix::net::UnixDatagram");
    timeout_methods!("std::os::unix::net::UnixDatagram");
}
