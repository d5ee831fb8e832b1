//! What Linux adds to sockets, shaped as `std::os::linux::net`.

use std::io;

use crate::net::TcpStream;

#[doc(no_inline)]
pub use std::os::linux::net::SocketAddrExt;

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::net::TcpStream {}
}

/// What Linux adds to [`TcpStream`]. Mirrors `std::os::linux::net::TcpStreamExt`, which only std's
/// own type may have.
///
/// ```
/// use gevent::net::{TcpListener, TcpStream};
/// use gevent::os::linux::net::TcpStreamExt;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::connect(listener.local_addr()?)?;
/// stream.set_quickack(true)?;
/// assert!(stream.quickack()?);
/// # std::io::Result::Ok(())
/// ```
pub trait TcpStreamExt: sealed::Sealed {
    /// Whether acknowledgements are sent at once (`TCP_QUICKACK`). The kernel may set it back.
    ///
    /// # Errors
    /// It is no TCP socket.
    fn set_quickack(&self, quickack: bool) -> io::Result<()>;

    /// Whether acknowledgements are sent at once (`TCP_QUICKACK`).
    ///
    /// # Errors
    /// It is no TCP socket.
    fn quickack(&self) -> io::Result<bool>;
}

impl TcpStreamExt for TcpStream {
    fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        socket2::SockRef::from(self).set_tcp_quickack(quickack)
    }

    fn quickack(&self) -> io::Result<bool> {
        socket2::SockRef::from(self).tcp_quickack()
    }
}
