//! What all six sockets share: the descriptor, its modes, and the calls that may wait.
//!
//! ```text
//!   Socket<std::net::TcpStream> ── std: the descriptor, and std's own methods for whatever cannot block
//!                               └─ mode: Arc ── what the user set: non-blocking, two timeouts
//!                                   └── shared by clones, as the kernel shares O_NONBLOCK and SO_RCVTIMEO
//! ```
//!
//! The descriptor itself is always non-blocking: waiting is the hub's. A socket that comes from
//! outside (`From`) is made so, and is given back as its user left it (`Into`). Copies outside may
//! undo that at any time, so calls that carry data say `MSG_DONTWAIT` as well, and `accept`, which
//! cannot, polls first where such copies may be.
//!
//! What may come in: what holds for more than one kind. What never comes in: addresses and names.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libc::MSG_PEEK;
use socket2::{SockAddr, SockRef};

use crate::hub::poller::Side;
use crate::sys::{poll, socket};
use crate::{hub, io as cooperative};

/// One of std's sockets, and when a call on it shows that nothing is left.
pub(crate) trait Std: AsFd {
    /// A read of fewer bytes than asked for, and not none, took all there was.
    const SHORT_READ_DRAINS: bool = false;
    /// A write of fewer bytes than asked for filled the buffer.
    const SHORT_WRITE_DRAINS: bool = false;
    /// The kernel answers a non-blocking read after `shutdown` by EAGAIN, where a blocking one ends
    /// with nothing.
    const DATAGRAM: bool = false;
    /// An accepted connection starts with the timeouts of its listener.
    const INHERITS_TIMEOUTS: bool = false;
}

impl Std for std::net::TcpListener {}
impl Std for std::net::TcpStream {
    const SHORT_READ_DRAINS: bool = true;
    const SHORT_WRITE_DRAINS: bool = true;
    const INHERITS_TIMEOUTS: bool = true;
}
impl Std for std::net::UdpSocket {
    const DATAGRAM: bool = true;
}
impl Std for std::os::unix::net::UnixListener {}
impl Std for std::os::unix::net::UnixStream {
    // A read stops where descriptors were passed along (SCM_RIGHTS), with more behind.
    const SHORT_WRITE_DRAINS: bool = true;
}
impl Std for std::os::unix::net::UnixDatagram {
    const DATAGRAM: bool = true;
}

/// What the user set, for all clones. Relaxed everywhere: it orders nothing else.
struct Mode {
    nonblocking: AtomicBool,
    /// In nanoseconds; 0 is none.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    /// There may be copies of the descriptor outside, which may make it block.
    foreign: AtomicBool,
    /// Held from poll to accept where there are, so that two of ours do not race for one connection.
    accepting: Mutex<()>,
}

impl Mode {
    fn new(nonblocking: bool, foreign: bool) -> Mode {
        Mode {
            nonblocking: AtomicBool::new(nonblocking),
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
            foreign: AtomicBool::new(foreign),
            accepting: Mutex::new(()),
        }
    }

    fn timeout(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::Read => &self.read_timeout,
            Side::Write => &self.write_timeout,
        }
    }

    #[inline]
    fn limit(&self, side: Side) -> Option<Duration> {
        match self.timeout(side).load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    fn set_limit(&self, side: Side, limit: Option<Duration>) {
        // Past 584 years it is none.
        let nanos = limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(0));
        self.timeout(side).store(nanos, Ordering::Relaxed);
    }
}

/// A socket that waits in the hub. Closing it tells the hubs first.
pub(crate) struct Socket<S: Std> {
    /// Some, until it is given away.
    std: Option<S>,
    mode: Arc<Mode>,
}

impl<S: Std> Socket<S> {
    /// A socket of ours that is non-blocking already.
    pub(crate) fn new(std: S) -> Self {
        Socket { std: Some(std), mode: Arc::new(Mode::new(false, false)) }
    }

    /// A socket that std has just made for us.
    pub(crate) fn made(std: S) -> io::Result<Self> {
        SockRef::from(&std).set_nonblocking(true)?;
        Ok(Socket::new(std))
    }

    /// A socket from outside: notes how its user has set it. What is no socket stays one: its
    /// calls fail, as std's do.
    pub(crate) fn adopt(std: S) -> Self {
        let mode = {
            let socket = SockRef::from(&std);
            let mode = Mode::new(socket.nonblocking().unwrap_or(false), true);
            mode.set_limit(Side::Read, socket.read_timeout().unwrap_or(None));
            mode.set_limit(Side::Write, socket.write_timeout().unwrap_or(None));
            let _ = socket.set_nonblocking(true);
            mode
        };
        Socket { std: Some(std), mode: Arc::new(mode) }
    }

    /// Gives it away as its user has set it. The timeouts are in the kernel too.
    pub(crate) fn release(mut self) -> S {
        let std = self.std.take().expect(HELD);
        hub::closing(std.as_fd().as_raw_fd());
        if Arc::strong_count(&self.mode) > 1 {
            // Clones go on, with a copy of theirs outside.
            self.mode.foreign.store(true, Ordering::Relaxed);
        }
        if !self.nonblocking() {
            // It fails where the descriptor is no socket: then it was not set either.
            let _ = SockRef::from(&std).set_nonblocking(false);
        }
        std
    }

    /// A connection that this listener accepted. The kernel has given it the listener's timeouts, if
    /// it is TCP.
    pub(crate) fn accepted<T: Std>(&self, std: T) -> Socket<T> {
        let accepted = Socket::new(std);
        if T::INHERITS_TIMEOUTS {
            for side in [Side::Read, Side::Write] {
                accepted.mode.set_limit(side, self.mode.limit(side));
            }
        }
        accepted
    }

    /// A clone: another descriptor of the same socket.
    pub(crate) fn share(&self, copy: S) -> Self {
        Socket { std: Some(copy), mode: self.mode.clone() }
    }

    /// Std's view of it, for calls that cannot block.
    #[inline]
    pub(crate) fn std(&self) -> &S {
        self.std.as_ref().expect(HELD)
    }

    #[inline]
    fn fd(&self) -> BorrowedFd<'_> {
        self.std().as_fd()
    }

    fn nonblocking(&self) -> bool {
        self.mode.nonblocking.load(Ordering::Relaxed)
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        // Nothing to change in the kernel, but a closed or foreign descriptor is to be an error.
        SockRef::from(&self.fd()).set_nonblocking(true)?;
        self.mode.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// Notes a timeout that the kernel has accepted.
    pub(crate) fn set_limit(&self, side: Side, limit: Option<Duration>) {
        self.mode.set_limit(side, limit);
    }

    /// A read, which ends with nothing where a blocking one of std's would.
    #[inline]
    fn read<T>(
        &self,
        drained: impl Fn(&T) -> bool,
        nothing: impl Fn() -> T,
        mut op: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        if !S::DATAGRAM || self.nonblocking() {
            return self.call(Side::Read, drained, op);
        }
        self.call(Side::Read, drained, || match op() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && poll::read_ended(self.fd()) => {
                Ok(nothing())
            }
            read => read,
        })
    }

    /// One call that may wait.
    #[inline]
    fn call<T>(
        &self,
        side: Side,
        drained: impl Fn(&T) -> bool,
        op: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.nonblocking() {
            return cooperative::at_once(op);
        }
        cooperative::blocking(self.fd(), side, self.mode.limit(side), drained, op)
    }

    #[inline]
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len();
        let drained = |&n: &usize| S::SHORT_READ_DRAINS && n != 0 && n < len;
        self.read(drained, || 0, || socket::recv(self.fd(), buf, 0))
    }

    pub(crate) fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.read(|_| false, || 0, || socket::recv(self.fd(), buf, MSG_PEEK))
    }

    /// Scattered reads of streams. Into no room at all, nothing is read, at once: as `readv(2)`.
    pub(crate) fn recv_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let len = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if len == 0 {
            return Ok(0);
        }
        let drained = |&n: &usize| S::SHORT_READ_DRAINS && n != 0 && n < len;
        self.call(Side::Read, drained, || socket::recv_vectored(self.fd(), bufs))
    }

    pub(crate) fn recv_from(&self, buf: &mut [u8], peek: bool) -> io::Result<(usize, SockAddr)> {
        let flags = if peek { MSG_PEEK } else { 0 };
        self.read(|_| false, || (0, nobody()), || socket::recv_from(self.fd(), buf, flags))
    }

    #[inline]
    pub(crate) fn send(&self, buf: &[u8]) -> io::Result<usize> {
        if S::SHORT_WRITE_DRAINS && buf.is_empty() {
            // A stream takes nothing at once, whether it is full or not.
            return socket::send(self.fd(), buf);
        }
        let drained = |&n: &usize| S::SHORT_WRITE_DRAINS && n < buf.len();
        self.call(Side::Write, drained, || socket::send(self.fd(), buf))
    }

    /// Gathered writes of streams.
    pub(crate) fn send_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if len == 0 {
            return self.send(&[]);
        }
        // A call takes 1,024 parts at most: fewer bytes than asked for do not show a full buffer then.
        let drained = |&n: &usize| S::SHORT_WRITE_DRAINS && n < len && bufs.len() <= socket::MOST_PARTS;
        self.call(Side::Write, drained, || socket::send_vectored(self.fd(), bufs))
    }

    pub(crate) fn send_to(&self, buf: &[u8], to: &SockAddr) -> io::Result<usize> {
        self.call(Side::Write, |_| false, || socket::send_to(self.fd(), buf, to))
    }

    /// `send_to` where the kernel never says when a full receiver has room.
    pub(crate) fn send_to_retrying(&self, buf: &[u8], to: &SockAddr) -> io::Result<usize> {
        let op = || socket::send_to(self.fd(), buf, to);
        if self.nonblocking() {
            return cooperative::at_once(op);
        }
        cooperative::retrying(self.fd(), self.mode.limit(Side::Write), op)
    }

    /// The next connection, non-blocking.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, SockAddr)> {
        self.call(Side::Read, |_| false, || self.accept_once())
    }

    /// The next connection, if there is one now; else `WouldBlock`, whatever the mode is.
    pub(crate) fn accept_now(&self) -> io::Result<(OwnedFd, SockAddr)> {
        self.now(|| self.accept_once())
    }

    /// The next datagram, if there is one now; else `WouldBlock`, whatever the mode is.
    pub(crate) fn recv_from_now(&self, buf: &mut [u8]) -> io::Result<(usize, SockAddr)> {
        self.now(|| socket::recv_from(self.fd(), buf, 0))
    }

    /// One call to read that does not wait, for those who wait for more than this socket. That it
    /// would block is remembered.
    fn now<T>(&self, op: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        cooperative::at_once(|| {
            op().inspect_err(|error| {
                if let (io::ErrorKind::WouldBlock, Some(hub)) = (error.kind(), hub::existing()) {
                    hub.poller.drained(self.fd().as_raw_fd(), Side::Read, false);
                }
            })
        })
    }

    fn accept_once(&self) -> io::Result<(OwnedFd, SockAddr)> {
        let fd = self.fd();
        if !self.mode.foreign.load(Ordering::Relaxed) {
            return socket::accept(fd);
        }
        let _mine = self.mode.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        if poll::wait(fd, true, Some(Duration::ZERO))? {
            socket::accept(fd)
        } else {
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        }
    }

    /// Waits, at most `limit`, until a connection that was begun is made, or has failed. False: it
    /// is neither yet.
    pub(crate) fn until_connected(&self, limit: Option<Duration>) -> io::Result<bool> {
        if !cooperative::wait_ready(self.fd(), Side::Write, limit)? {
            return Ok(false);
        }
        match SockRef::from(&self.fd()).take_error()? {
            None => Ok(true),
            Some(error) => Err(error),
        }
    }
}

/// The sender of nothing.
fn nobody() -> SockAddr {
    SockAddr::unix("").expect("no path is never too long")
}

const HELD: &str = "a socket has its descriptor until it is dropped or given away";

impl<S: Std> Drop for Socket<S> {
    fn drop(&mut self) {
        if let Some(std) = &self.std {
            hub::closing(std.as_fd().as_raw_fd());
        }
    }
}
