//! Servers: a greenlet for each connection or datagram, bounds, and an end in good order.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::time::Duration;
//! use gevent::net::TcpStream;
//! use gevent::server::StreamServer;
//!
//! let server = StreamServer::bind("127.0.0.1:0")?
//!     .max_connections(10_000)
//!     .stop_on(&[libc::SIGINT, libc::SIGTERM], Duration::from_secs(5));
//! let addr = server.local_addr()?;
//! let stopper = server.stopper();
//! let serving = server.start(|mut stream, _peer| {
//!     let mut buf = [0; 1024];
//!     loop {
//!         match stream.read(&mut buf)? {
//!             0 => return std::io::Result::Ok(()),
//!             n => stream.write_all(&buf[..n])?,
//!         }
//!     }
//! });
//!
//! let mut client = TcpStream::connect(addr)?;
//! client.write_all(b"hello")?;
//! let mut buf = [0; 5];
//! client.read_exact(&mut buf)?;
//! assert_eq!(&buf, b"hello");
//! drop(client);
//! stopper.stop();
//! serving.join().unwrap()
//! # ?; std::io::Result::Ok(())
//! ```
//!
//! What may come in: taking work from a socket, and when to stop. What never comes in: what is said
//! over a connection.
//!
//! | room | holds |
//! |---|---|
//! | `control` | how much is being handled, on all hubs of a server, and whether it is to stop: [`Stopper`] |
//! | `lane` | one hub's loop: take, hand out, back off, drain |
//! | `stream` | [`StreamServer`] |
//! | `datagram` | [`DatagramServer`] |
//!
//! # How a server stops
//!
//! By a signal of `stop_on` or by its [`Stopper`]: it closes its socket at once, lets what is being
//! handled go on for the *grace*, kills what remains, and `serve` returns `Ok`. A second signal ends the
//! grace at once. Work that catches the kill and goes on is left to itself a second later, with a line
//! on standard error.
//!
//! # When accepting fails
//!
//! Out of descriptors or memory, a connection that was reset in the queue, no stack for another greenlet:
//! the server tries again after 10 ms, doubling to 1 s, and at once when a connection of its own has
//! ended. One line on standard error tells of it; the next one comes only when the queue was empty
//! meanwhile. A socket that can never accept again (closed or shut down behind its back) ends `serve`
//! with the error.

mod control;
mod datagram;
mod lane;
mod stream;

use std::fmt::Display;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use control::Stopper;
pub use datagram::DatagramServer;
pub use stream::{Listener, StreamServer};

/// What a handler may return: nothing, or a `Result` whose error is written to standard error, with
/// the peer.
///
/// Implemented for `()` and `Result<(), E>` with `E: Display`; nothing else can be.
pub trait Outcome: sealed::Outcome {}
impl<T: sealed::Outcome> Outcome for T {}

mod sealed {
    pub trait Outcome: 'static {
        fn error(self) -> Option<String>;
    }
}

impl sealed::Outcome for () {
    fn error(self) -> Option<String> {
        None
    }
}

impl<E: Display + 'static> sealed::Outcome for Result<(), E> {
    fn error(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// Raises the number of descriptors that this process may have open to the most that it may ask for,
/// and says how many that is.
///
/// Every connection is a descriptor, and the usual limit is 1,024. Beyond that, `select(2)` no longer
/// works: a program with C code that calls it should not do this.
///
/// # Errors
/// The kernel refuses.
///
/// ```
/// let most = gevent::server::raise_fd_limit()?;
/// assert_eq!(gevent::server::raise_fd_limit()?, most);
/// # std::io::Result::Ok(())
/// ```
pub fn raise_fd_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
