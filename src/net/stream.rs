//! [`TcpStream`].

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use super::addr::{ToSocketAddrs, each};
use super::methods::{common_methods, descriptor_traits, stream_traits, timeout_methods, ttl_methods};
use super::socket::Socket;
use crate::{io as cooperative, sys};

/// A TCP connection.
///
/// Mirrors [`std::net::TcpStream`]: reads, writes and `connect` suspend the greenlet, not the thread.
/// One greenlet may read while another writes, through `&TcpStream`, an `Rc`, or clones.
///
/// ```
/// use std::io::{Read, Write};
/// use std::rc::Rc;
///
/// # let listener = gevent::net::TcpListener::bind("127.0.0.1:0")?;
/// # let addr = listener.local_addr()?;
/// # let echo = gevent::spawn(move || {
/// #     let (stream, _) = listener.accept().unwrap();
/// #     std::io::copy(&mut &stream, &mut &stream).unwrap();
/// # });
/// let stream = Rc::new(gevent::net::TcpStream::connect(addr)?); // to an echo server
/// let reader = gevent::spawn({
///     let stream = stream.clone();
///     move || {
///         let mut all = Vec::new();
///         (&*stream).read_to_end(&mut all).map(|_| all)
///     }
/// });
/// (&*stream).write_all(b"to and fro")?;
/// stream.shutdown(std::net::Shutdown::Write)?;
/// assert_eq!(reader.join().unwrap()?, b"to and fro");
/// # std::io::Result::Ok(())
/// ```
pub struct TcpStream {
    pub(super) socket: Socket<std::net::TcpStream>,
}

descriptor_traits!(TcpStream, std::net::TcpStream);
stream_traits!(TcpStream, &TcpStream);

impl TcpStream {
    /// A connection to this address; to the first that works, if it is several.
    /// Mirrors [`std::net::TcpStream::connect`].
    ///
    /// # Errors
    /// Refused, unreachable, timed out by the kernel; it is no address, or a name that cannot be
    /// resolved; no descriptor is left. Of several addresses, the last one's error.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits; nothing is left open.
    ///
    /// ```
    /// use gevent::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let addr = listener.local_addr()?;
    /// let stream = TcpStream::connect(addr)?;
    /// assert_eq!(stream.peer_addr()?, addr);
    ///
    /// drop((listener, stream));
    /// let refused = TcpStream::connect(addr).unwrap_err();
    /// assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        each(addr, |addr| Self::connect_one(&addr, None))
    }

    /// A connection to this address, made within `timeout`.
    /// Mirrors [`std::net::TcpStream::connect_timeout`].
    ///
    /// # Errors
    /// As for [`connect`](TcpStream::connect); [`TimedOut`](io::ErrorKind::TimedOut);
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when `timeout` is zero.
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        Self::connect_one(addr, Some(timeout))
    }

    fn connect_one(addr: &SocketAddr, limit: Option<Duration>) -> io::Result<TcpStream> {
        let fd = sys::socket::stream(socket2::Domain::for_address(*addr))?;
        // From here on an unwind, too, tells the hub before the descriptor is closed.
        let socket = Socket::new(std::net::TcpStream::from(fd));
        let begun = cooperative::at_once(|| sys::socket::connect(socket.std().as_fd(), &(*addr).into()));
        match begun {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                if !socket.until_connected(limit)? {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
                }
            }
            done => done?,
        }
        Ok(TcpStream { socket })
    }

    /// The address of the other end. Mirrors [`std::net::TcpStream::peer_addr`].
    ///
    /// # Errors
    /// It is not connected any more.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().peer_addr()
    }

    /// The address of this end. Mirrors [`std::net::TcpStream::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().local_addr()
    }

    /// Ends reading, writing, or both, for all clones; whoever waits to do so wakes.
    /// Mirrors [`std::net::TcpStream::shutdown`].
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::Shutdown;
    /// # use gevent::net::{TcpListener, TcpStream};
    /// # let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let mut reader = stream.try_clone()?;
    /// let reader = gevent::spawn(move || reader.read(&mut [0; 16]));
    /// gevent::yield_now(); // it waits
    /// stream.shutdown(Shutdown::Read)?;
    /// assert_eq!(reader.join().unwrap()?, 0);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.std().shutdown(how)
    }

    /// Reads, and leaves it to be read again. Waits for data as a read does.
    /// Mirrors [`std::net::TcpStream::peek`].
    ///
    /// # Errors
    /// As a read's.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.peek(buf)
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`), rather than gathered.
    /// Mirrors [`std::net::TcpStream::set_nodelay`].
    ///
    /// # Errors
    /// It is no TCP socket.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.std().set_nodelay(nodelay)
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`).
    /// Mirrors [`std::net::TcpStream::nodelay`].
    ///
    /// # Errors
    /// It is no TCP socket.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket.std().nodelay()
    }

    common_methods!(TcpStream, "std::net::TcpStream");
    timeout_methods!("std::net::TcpStream");
    ttl_methods!("std::net::TcpStream");
}
