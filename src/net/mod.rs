//! Networking shaped as `std::net`, where waiting suspends the greenlet instead of the thread.
//!
//! Every name of [`std::net`] is here: addresses are std's own, sockets are ours, with every stable
//! public method and trait of std's, the same signatures, and the same errors. So this is the whole
//! of porting a module:
//!
//! ```
//! use std::io::{Read, Write};
//!
//! use gevent::net::{TcpListener, TcpStream}; // was std::net
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let addr = listener.local_addr()?;
//! let server = gevent::spawn(move || {
//!     let (mut stream, _peer) = listener.accept()?;
//!     let mut buf = [0; 5];
//!     stream.read_exact(&mut buf)?; // another greenlet runs meanwhile
//!     stream.write_all(&buf)
//! });
//!
//! let mut client = TcpStream::connect(addr)?;
//! client.write_all(b"hello")?;
//! let mut echo = String::new();
//! client.read_to_string(&mut echo)?;
//! assert_eq!(echo, "hello");
//! server.join().unwrap()
//! # ?; std::io::Result::Ok(())
//! ```
//!
//! # What is the same, and what is not
//!
//! - Sockets are `Send + Sync`. Any number of greenlets, of any number of hubs, and plain threads
//!   without a hub may wait on one socket and on its clones, to read and to write.
//! - A call that must wait parks the running greenlet; in a thread that has no hub it blocks the
//!   thread. Calls that need not wait yield now and then, so that a busy peer starves nobody.
//! - A kill or a [`timeout`](crate::timeout()) unwinds from the call that waits. What had been read,
//!   written or accepted by then is not lost: such a call returns it, and the kill comes at the next.
//! - While its greenlet unwinds, a call tries once, and fails with
//!   [`WouldBlock`](std::io::ErrorKind::WouldBlock) where it would wait.
//! - [`ToSocketAddrs`] is ours: names are looked up by another thread, never on the hub's.
//! - Descriptors are non-blocking underneath. `as_raw_fd` shows that; every `Into` (std's types,
//!   `OwnedFd`, `into_raw_fd`) gives the socket back as its user has set it. Timeouts set through a
//!   copy outside after that are not seen here.
//!
//! | room | holds |
//! |---|---|
//! | `socket` | what all kinds share: modes, and the calls that may wait |
//! | `methods` | methods and traits that several kinds have word for word |
//! | `addr` | [`ToSocketAddrs`] |
//! | `listener`, `stream`, `udp` | one type each; those of unix are in [`os::unix::net`](crate::os::unix::net) |
//!
//! # Unsafe
//!
//! Only `FromRawFd::from_raw_fd`, which the trait makes an `unsafe fn`: it passes on its caller's
//! promise.

pub(crate) mod addr;
pub(crate) mod listener;
pub(crate) mod methods;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod udp;

// Ours, named below, stand before std's of the same names; what std adds later is there at once.
#[doc(no_inline)]
pub use std::net::*;

pub use crate::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
pub use addr::ToSocketAddrs;
pub use listener::{Incoming, TcpListener};
pub use stream::TcpStream;
pub use udp::UdpSocket;
