//! [`UnixListener`].

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net as std_net;
use std::path::Path;

use socket2::SockAddr;

use super::{SocketAddr, UnixStream, told};
use crate::net::methods::{common_methods, descriptor_traits, incoming};
use crate::net::socket::Socket;

/// A unix socket that listens for connections.
///
/// Mirrors [`std::os::unix::net::UnixListener`]: `accept` suspends the greenlet, not the thread.
///
/// ```
/// use std::io::Write;
/// use gevent::os::unix::net::{UnixListener, UnixStream};
///
/// let path = std::env::temp_dir().join(format!("gevent-doc-listener-{}", std::process::id()));
/// let listener = UnixListener::bind(&path)?;
/// let server = gevent::spawn(move || listener.accept()?.0.write_all(b"hi"));
/// let stream = UnixStream::connect(&path)?;
/// assert_eq!(std::io::read_to_string(stream)?, "hi");
/// server.join().unwrap()?;
/// std::fs::remove_file(path)?;
/// # std::io::Result::Ok(())
/// ```
pub struct UnixListener {
    socket: Socket<std_net::UnixListener>,
}

descriptor_traits!(UnixListener, std_net::UnixListener);
incoming!(Incoming, UnixListener, UnixStream, "std::os::unix::net::Incoming");

impl<'a> IntoIterator for &'a UnixListener {
    type Item = io::Result<UnixStream>;
    type IntoIter = Incoming<'a>;
    fn into_iter(self) -> Incoming<'a> {
        self.incoming()
    }
}

impl UnixListener {
    /// A listener at this path, which must not exist. Dropping it does not remove the path.
    /// Mirrors [`std::os::unix::net::UnixListener::bind`].
    ///
    /// # Errors
    /// The path exists ([`AddrInUse`](io::ErrorKind::AddrInUse)), cannot be made, is longer than 107
    /// bytes, or has a zero byte in it; no descriptor is left.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixListener> {
        Ok(UnixListener { socket: Socket::made(std_net::UnixListener::bind(path)?)? })
    }

    /// A listener on this address, which may be an abstract name.
    /// Mirrors [`std::os::unix::net::UnixListener::bind_addr`].
    ///
    /// # Errors
    /// As for [`bind`](UnixListener::bind).
    ///
    /// ```
    /// use gevent::os::linux::net::SocketAddrExt;
    /// use gevent::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    ///
    /// let name = format!("gevent-doc-{}", std::process::id());
    /// let addr = SocketAddr::from_abstract_name(&name)?;
    /// let listener = UnixListener::bind_addr(&addr)?;
    /// let stream = UnixStream::connect_addr(&addr)?;
    /// assert_eq!(stream.peer_addr()?.as_abstract_name(), Some(name.as_bytes()));
    /// # drop(listener);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind_addr(socket_addr: &SocketAddr) -> io::Result<UnixListener> {
        Ok(UnixListener { socket: Socket::made(std_net::UnixListener::bind_addr(socket_addr)?)? })
    }

    /// Waits for a connection. Mirrors [`std::os::unix::net::UnixListener::accept`].
    ///
    /// # Errors
    /// No descriptor is left (`EMFILE`; the connection stays in the queue); `WouldBlock` in
    /// non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        self.accepted(self.socket.accept()?)
    }

    /// `accept`, if there is a connection now; else `WouldBlock`, whatever the mode is.
    pub(crate) fn accept_now(&self) -> io::Result<(UnixStream, SocketAddr)> {
        self.accepted(self.socket.accept_now()?)
    }

    fn accepted(&self, (fd, from): (OwnedFd, SockAddr)) -> io::Result<(UnixStream, SocketAddr)> {
        let stream = UnixStream { socket: self.socket.accepted(fd.into()) };
        Ok((stream, told(&from)?))
    }

    /// The address that it listens on. Mirrors [`std::os::unix::net::UnixListener::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().local_addr()
    }

    /// The connections that come, without end.
    /// Mirrors [`std::os::unix::net::UnixListener::incoming`].
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    common_methods!(UnixListener, "std::os::unix::net::UnixListener");
}
