//! [`DatagramServer`].

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use super::Outcome;
use super::control::Stopper;
use super::lane::{self, Held, Source};
use super::stream::Settings;
use crate::greenlet::AnyGreenlet;
use crate::greenlet::exit::report;
use crate::greenlet::stack::StackError;
use crate::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use crate::task::{Builder, Greenlet};

/// How many datagrams are handled at once, unless `max_in_flight` says otherwise.
const IN_FLIGHT: usize = 1024;

/// No datagram is longer.
const LONGEST: usize = 65_536;

/// A server that runs a greenlet for each datagram. Mirrors `gevent.server.DatagramServer`.
///
/// See [`server`](crate::server) for how it stops.
///
/// ```
/// use gevent::net::UdpSocket;
/// use gevent::server::DatagramServer;
///
/// let server = DatagramServer::bind("127.0.0.1:0")?;
/// let (addr, stopper) = (server.local_addr()?, server.stopper());
/// let serving = server.start(|data, peer, socket| socket.send_to(&data, peer).map(drop));
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"ping", addr)?;
/// let mut buf = [0; 64];
/// let (len, from) = client.recv_from(&mut buf)?;
/// assert_eq!((&buf[..len], from), (&b"ping"[..], addr));
/// stopper.stop();
/// serving.join().unwrap()
/// # ?; std::io::Result::Ok(())
/// ```
#[must_use = "a server receives nothing until `serve`"]
pub struct DatagramServer {
    socket: UdpSocket,
    settings: Settings,
}

impl DatagramServer {
    /// A server on this address; on the first that works, if it is several. Port 0 is one that the
    /// system chooses: see [`local_addr`](DatagramServer::local_addr).
    ///
    /// # Errors
    /// As for [`UdpSocket::bind`]: in use, not of this machine, not allowed; no address; no descriptor is
    /// left.
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        Ok(Self::from(UdpSocket::bind(addr)?))
    }

    /// The address that it receives on.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Bounds how many datagrams are handled at once; the others wait in the kernel's buffer, which drops
    /// what it has no room for. Default: 1,024; at least 1. Mirrors `spawn=Pool(n)`.
    pub fn max_in_flight(self, n: usize) -> Self {
        self.settings.control.set_most(n);
        self
    }

    /// Stops it when one of these signals comes, with this grace; a second one ends the grace. Mirrors
    /// `gevent.signal_handler(sig, server.stop)` and `stop_timeout`.
    ///
    /// The signals are caught from here on, and no longer end the process, even after the server. The
    /// error that this may have comes out of [`serve`](DatagramServer::serve).
    pub fn stop_on(mut self, signals: &[i32], grace: Duration) -> Self {
        self.settings.stop_on(signals, grace);
        self
    }

    /// What stops it from elsewhere, and tells how busy it is.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(self.settings.control.clone())
    }

    /// Receives datagrams, and runs `f` for each in a greenlet that is named after the peer, until the
    /// server is stopped. Mirrors `serve_forever`.
    ///
    /// `f` is given the data, the peer, and the socket to answer by. It may return nothing, or a `Result`,
    /// whose error is written to standard error with the peer. If it panics, a line names it, and the
    /// server goes on.
    ///
    /// # Errors
    /// The socket is of no use any more; a signal of [`stop_on`](DatagramServer::stop_on) cannot be
    /// caught.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed; what is being handled goes on.
    pub fn serve<F, R>(mut self, f: F) -> io::Result<()>
    where
        F: Fn(Vec<u8>, SocketAddr, &UdpSocket) -> R + 'static,
        R: Outcome,
    {
        self.settings.check()?;
        let name = self.name();
        let buf = RefCell::new(vec![0; LONGEST].into_boxed_slice());
        lane::run(
            &self.settings.control,
            &name,
            Receiving { socket: Rc::new(self.socket), f: Rc::new(f), buf },
        )
    }

    /// [`serve`](DatagramServer::serve) in a greenlet of its own. Mirrors `start`.
    ///
    /// # Panics
    /// When no stack can be had.
    #[track_caller]
    pub fn start<F, R>(self, f: F) -> Greenlet<io::Result<()>>
    where
        F: Fn(Vec<u8>, SocketAddr, &UdpSocket) -> R + 'static,
        R: Outcome,
    {
        match Builder::new().name(self.name()).spawn(move || self.serve(f)) {
            Ok(greenlet) => greenlet,
            Err(error) => panic!("cannot start a server: {error}"),
        }
    }

    fn name(&self) -> String {
        let addr = self.local_addr().map_or_else(|_| "at an unknown address".to_owned(), |a| a.to_string());
        format!("datagram server {addr}")
    }
}

struct Receiving<F> {
    socket: Rc<UdpSocket>,
    f: Rc<F>,
    buf: RefCell<Box<[u8]>>,
}

impl<F> AsFd for Receiving<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<F, R> Source for Receiving<F>
where
    F: Fn(Vec<u8>, SocketAddr, &UdpSocket) -> R + 'static,
    R: Outcome,
{
    type Work = (Vec<u8>, SocketAddr);

    fn take(&self) -> io::Result<Self::Work> {
        let mut buf = self.buf.borrow_mut();
        let (len, peer) = self.socket.recv_from_now(&mut buf)?;
        Ok((buf[..len].to_vec(), peer))
    }

    fn begin(&self, (data, peer): Self::Work, held: Held) -> Result<AnyGreenlet, StackError> {
        let (socket, f) = (self.socket.clone(), self.f.clone());
        held.run(peer.to_string(), move |name| {
            if let Some(error) = f(data, peer, &socket).error() {
                report(&format!("the datagram of {name} failed: {error}"));
            }
        })
    }
}

impl From<UdpSocket> for DatagramServer {
    /// A server on a socket that is set up already.
    fn from(socket: UdpSocket) -> Self {
        DatagramServer { socket, settings: Settings::new(IN_FLIGHT) }
    }
}

impl fmt::Debug for DatagramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramServer")
            .field("addr", &self.local_addr().ok())
            .field("stopper", &self.stopper())
            .finish()
    }
}
