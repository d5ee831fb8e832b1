//! [`UdpSocket`].

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::addr::{ToSocketAddrs, each, told};
use super::methods::{common_methods, descriptor_traits, timeout_methods, ttl_methods};
use super::socket::Socket;

/// A UDP socket.
///
/// Mirrors [`std::net::UdpSocket`]: sends and receives suspend the greenlet, not the thread.
///
/// ```
/// use gevent::net::UdpSocket;
///
/// let server = UdpSocket::bind("127.0.0.1:0")?;
/// let addr = server.local_addr()?;
/// let echo = gevent::spawn(move || {
///     let mut buf = [0; 64];
///     let (len, from) = server.recv_from(&mut buf)?;
///     server.send_to(&buf[..len], from)
/// });
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.connect(addr)?;
/// client.send(b"ping")?;
/// let mut buf = [0; 64];
/// let len = client.recv(&mut buf)?;
/// assert_eq!(&buf[..len], b"ping");
/// assert_eq!(echo.join().unwrap()?, 4);
/// # std::io::Result::Ok(())
/// ```
pub struct UdpSocket {
    socket: Socket<std::net::UdpSocket>,
}

descriptor_traits!(UdpSocket, std::net::UdpSocket);

/// Options that std sets and tells as they are.
macro_rules! options {
    ($($(#[doc = $doc:literal])+ $set:ident, $get:ident: $Type:ty;)+) => { $(
        $(#[doc = $doc])+
        #[doc = concat!("Mirrors [`std::net::UdpSocket::", stringify!($set), "`].")]
        ///
        /// # Errors
        /// The socket has no such option, or the value is out of range.
        pub fn $set(&self, value: $Type) -> io::Result<()> {
            self.socket.std().$set(value)
        }

        #[doc = concat!("What [`", stringify!($set), "`](Self::", stringify!($set), ") sets.")]
        #[doc = concat!("Mirrors [`std::net::UdpSocket::", stringify!($get), "`].")]
        ///
        /// # Errors
        /// The socket has no such option.
        pub fn $get(&self) -> io::Result<$Type> {
            self.socket.std().$get()
        }
    )+ };
}

impl UdpSocket {
    /// A socket on this address; on the first that works, if it is several.
    /// Mirrors [`std::net::UdpSocket::bind`].
    ///
    /// # Errors
    /// The address is in use, is not of this machine, or may not be used; it is no address; no
    /// descriptor is left.
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<UdpSocket> {
        let socket = each(addr, |addr| Socket::made(std::net::UdpSocket::bind(addr)?))?;
        Ok(UdpSocket { socket })
    }

    /// Waits for a datagram: its length and sender. What does not fit into `buf` is lost.
    /// Mirrors [`std::net::UdpSocket::recv_from`].
    ///
    /// # Errors
    /// The receiver of an earlier datagram refused it (connected sockets); the read timeout has
    /// passed, or `WouldBlock` in non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.recv_from(buf, false)?;
        Ok((len, told(from)?))
    }

    /// As [`recv_from`](UdpSocket::recv_from), and leaves the datagram to be read again.
    /// Mirrors [`std::net::UdpSocket::peek_from`].
    ///
    /// # Errors
    /// As for [`recv_from`](UdpSocket::recv_from).
    pub fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.recv_from(buf, true)?;
        Ok((len, told(from)?))
    }

    /// `recv_from`, if there is a datagram now; else `WouldBlock`, whatever the mode is.
    pub(crate) fn recv_from_now(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.recv_from_now(buf)?;
        Ok((len, told(from)?))
    }

    /// Sends a datagram to this address; to the first, if it is several.
    /// Mirrors [`std::net::UdpSocket::send_to`].
    ///
    /// # Errors
    /// It is too long; the address is unreachable, of another kind, or none at all; the write
    /// timeout has passed, or `WouldBlock` in non-blocking mode.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        match addr.to_socket_addrs()?.next() {
            Some(addr) => self.socket.send_to(buf, &addr.into()),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "no addresses to send data to")),
        }
    }

    /// The address that it is connected to. Mirrors [`std::net::UdpSocket::peer_addr`].
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().peer_addr()
    }

    /// Its own address. Mirrors [`std::net::UdpSocket::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.std().local_addr()
    }

    /// Sets whom [`send`](UdpSocket::send) sends to; only datagrams from there are received.
    /// Waits only for a name to be looked up. Mirrors [`std::net::UdpSocket::connect`].
    ///
    /// # Errors
    /// It is unreachable, of another kind, or no address. Of several addresses, the last one's.
    pub fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        each(addr, |addr| self.socket.std().connect(addr))
    }

    /// Sends a datagram to whom it is connected to. Mirrors [`std::net::UdpSocket::send`].
    ///
    /// # Errors
    /// It is not connected; an earlier datagram was refused; and as for
    /// [`send_to`](UdpSocket::send_to).
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.socket.send(buf)
    }

    /// Waits for a datagram from whom it is connected to. What does not fit into `buf` is lost.
    /// Mirrors [`std::net::UdpSocket::recv`].
    ///
    /// # Errors
    /// As for [`recv_from`](UdpSocket::recv_from).
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed while it waits.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buf)
    }

    /// As [`recv`](UdpSocket::recv), and leaves the datagram to be read again.
    /// Mirrors [`std::net::UdpSocket::peek`].
    ///
    /// # Errors
    /// As for [`recv_from`](UdpSocket::recv_from).
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.peek(buf)
    }

    /// Joins a group of IPv4, on the interface with this address (unspecified: the system chooses).
    /// Mirrors [`std::net::UdpSocket::join_multicast_v4`].
    ///
    /// # Errors
    /// It is no multicast address; there is no such interface.
    pub fn join_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.std().join_multicast_v4(multiaddr, interface)
    }

    /// Joins a group of IPv6, on the interface with this index (0: any).
    /// Mirrors [`std::net::UdpSocket::join_multicast_v6`].
    ///
    /// # Errors
    /// It is no multicast address; there is no such interface.
    pub fn join_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.std().join_multicast_v6(multiaddr, interface)
    }

    /// Leaves a group of IPv4. Mirrors [`std::net::UdpSocket::leave_multicast_v4`].
    ///
    /// # Errors
    /// It was not joined.
    pub fn leave_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.std().leave_multicast_v4(multiaddr, interface)
    }

    /// Leaves a group of IPv6. Mirrors [`std::net::UdpSocket::leave_multicast_v6`].
    ///
    /// # Errors
    /// It was not joined.
    pub fn leave_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.std().leave_multicast_v6(multiaddr, interface)
    }

    options! {
        /// Whether it may send to a broadcast address (`SO_BROADCAST`).
        set_broadcast, broadcast: bool;
        /// Whether what it sends to a group of IPv4 comes back to this machine (`IP_MULTICAST_LOOP`).
        set_multicast_loop_v4, multicast_loop_v4: bool;
        /// How many routers what it sends to a group of IPv4 may pass (`IP_MULTICAST_TTL`).
        set_multicast_ttl_v4, multicast_ttl_v4: u32;
        /// Whether what it sends to a group of IPv6 comes back to this machine
        /// (`IPV6_MULTICAST_LOOP`).
        set_multicast_loop_v6, multicast_loop_v6: bool;
    }

    common_methods!(UdpSocket, "std::net::UdpSocket");
    timeout_methods!("std::net::UdpSocket");
    ttl_methods!("std::net::UdpSocket");
}
