//! Unix sockets, shaped as `std::os::unix::net`, where waiting suspends the greenlet instead of the
//! thread. What [`gevent::net`](crate::net) says of its sockets holds for these.
//!
//! ```
//! use std::io::{Read, Write};
//! use gevent::os::unix::net::UnixStream; // was std::os::unix::net
//!
//! let (mut one, mut other) = UnixStream::pair()?;
//! let reader = gevent::spawn(move || {
//!     let mut buf = [0; 5];
//!     other.read_exact(&mut buf).map(|()| buf) // another greenlet runs meanwhile
//! });
//! gevent::yield_now();
//! one.write_all(b"hello")?;
//! assert_eq!(&reader.join().unwrap()?, b"hello");
//! # std::io::Result::Ok(())
//! ```
//!
//! Two waits have no event that would end them, and are tried again after 1 ms, doubling to 50:
//! connecting to a listener whose queue is full, and sending to a full receiver by its address.

mod datagram;
mod listener;
mod stream;

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket2::SockAddr;

#[doc(no_inline)]
pub use std::os::unix::net::SocketAddr;

pub use datagram::UnixDatagram;
pub use listener::{Incoming, UnixListener};
pub use stream::UnixStream;

/// The kernel's form of an address.
fn raw(addr: &SocketAddr) -> io::Result<SockAddr> {
    match (addr.as_pathname(), addr.as_abstract_name()) {
        (Some(path), _) => SockAddr::unix(path),
        (_, Some(name)) => {
            let mut bytes = vec![0];
            bytes.extend_from_slice(name);
            SockAddr::unix(Path::new(std::ffi::OsStr::from_bytes(&bytes)))
        }
        _ => SockAddr::unix(""),
    }
}

/// std's form of an address that the kernel told.
fn told(addr: &SockAddr) -> io::Result<SocketAddr> {
    if let Some(path) = addr.as_pathname() {
        SocketAddr::from_pathname(path)
    } else if let Some(name) = addr.as_abstract_namespace() {
        SocketAddr::from_abstract_name(name)
    } else if addr.len() == 0 || addr.is_unix() {
        SocketAddr::from_pathname("") // unnamed
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "file descriptor did not correspond to a Unix socket",
        ))
    }
}
