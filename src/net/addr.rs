//! Addresses: [`ToSocketAddrs`], and names looked up where the hub is not held up.

use std::io;
use std::iter;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{option, slice, vec};

use crate::threadpool;

/// What can be turned into addresses to bind or connect to.
///
/// Mirrors [`std::net::ToSocketAddrs`], with all of its implementations. It is a trait of ours since
/// std's looks names up on the calling thread, which would hold up every greenlet of it. Here only
/// names are looked up, by a thread of a small pool, while the asking greenlet waits; literal
/// addresses (`"127.0.0.1:80"`, `"[::1]:80"`) start no thread.
///
/// # Errors
/// [`to_socket_addrs`](ToSocketAddrs::to_socket_addrs) fails where std's does: a string that is no
/// `host:port`, and a name that cannot be resolved.
///
/// ```
/// use gevent::net::ToSocketAddrs;
///
/// let one = ("127.0.0.1", 80).to_socket_addrs()?.next();
/// assert_eq!(one, Some("127.0.0.1:80".parse().unwrap()));
/// assert!("localhost:80".to_socket_addrs()?.all(|addr| addr.ip().is_loopback()));
/// assert!("no port here".to_socket_addrs().is_err());
/// # std::io::Result::Ok(())
/// ```
pub trait ToSocketAddrs {
    /// The addresses, in order.
    type Iter: Iterator<Item = SocketAddr>;

    /// The addresses. Waits, cooperatively, if a name is to be looked up.
    ///
    /// # Errors
    /// It is no address, or a name that cannot be resolved.
    fn to_socket_addrs(&self) -> io::Result<Self::Iter>;
}

/// Those that are addresses already: std does them.
macro_rules! literal {
    ($($From:ty),*) => { $(
        impl ToSocketAddrs for $From {
            type Iter = option::IntoIter<SocketAddr>;
            fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
                net::ToSocketAddrs::to_socket_addrs(self)
            }
        }
    )* };
}

literal!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

impl ToSocketAddrs for (&str, u16) {
    type Iter = vec::IntoIter<SocketAddr>;
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let (host, port) = *self;
        if host.parse::<IpAddr>().is_ok() {
            return net::ToSocketAddrs::to_socket_addrs(self);
        }
        let host = host.to_owned();
        threadpool::run(move || net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port)))?
    }
}

impl ToSocketAddrs for (String, u16) {
    type Iter = vec::IntoIter<SocketAddr>;
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (self.0.as_str(), self.1).to_socket_addrs()
    }
}

impl ToSocketAddrs for str {
    type Iter = vec::IntoIter<SocketAddr>;
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        match self.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if self.parse::<SocketAddr>().is_err() => (host, port).to_socket_addrs(),
            // A literal, or an error that takes no lookup.
            _ => net::ToSocketAddrs::to_socket_addrs(self),
        }
    }
}

impl ToSocketAddrs for String {
    type Iter = vec::IntoIter<SocketAddr>;
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        self.as_str().to_socket_addrs()
    }
}

impl<'a> ToSocketAddrs for &'a [SocketAddr] {
    type Iter = iter::Cloned<slice::Iter<'a, SocketAddr>>;
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(self.iter().cloned())
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    type Iter = T::Iter;
    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (**self).to_socket_addrs()
    }
}

/// Tries each address in turn: the first success, or the last error.
pub(crate) fn each<A: ToSocketAddrs, T>(
    addr: A,
    mut f: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for addr in addr.to_socket_addrs()? {
        match f(addr) {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses")))
}

/// The address that the kernel told.
pub(crate) fn told(addr: socket2::SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "invalid argument"))
}
