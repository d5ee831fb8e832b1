//! Sockets: the calls that carry data or make descriptors. None of them blocks, whatever the
//! descriptor's flags say, save [`accept`]; none raises SIGPIPE; what they make is close-on-exec and
//! non-blocking. Options and addresses go through `std` and `socket2`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;
use socket2::{SockAddr, SockRef};

/// How many parts a vectored call takes at most (`UIO_MAXIOV`); the rest is left for the next one.
pub(crate) const MOST_PARTS: usize = 1024;

fn size(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// `recv(2)`, with `MSG_DONTWAIT`.
#[inline]
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the buffer is ours to write for the whole call, from end to end.
    size(unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), flags) })
}

/// `recvmsg(2)` without ancillary data, with `MSG_DONTWAIT`.
pub(crate) fn recv_vectored(fd: BorrowedFd<'_>, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    // SAFETY: zeros are a valid message: no address, no parts, no ancillary data.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = bufs.as_mut_ptr().cast();
    message.msg_iovlen = bufs.len().min(MOST_PARTS) as _;
    // SAFETY: std promises that `IoSliceMut` has the layout of `iovec`; the parts, their number and
    // the buffers behind them are ours to write for the whole call.
    size(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

/// `recvfrom(2)`, with `MSG_DONTWAIT`.
pub(crate) fn recv_from(fd: BorrowedFd<'_>, buf: &mut [u8], flags: c_int) -> io::Result<(usize, SockAddr)> {
    // SAFETY: bytes are valid as bytes that may be uninitialised; socket2 promises never to
    // write uninitialised ones into them, as its own `Read` relies on.
    let buf = unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) };
    SockRef::from(&fd).recv_from_with_flags(buf, flags | libc::MSG_DONTWAIT)
}

/// `send(2)`, with `MSG_DONTWAIT | MSG_NOSIGNAL`.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer is readable for the whole call, from end to end.
    size(unsafe { libc::send(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len(), flags) })
}

/// `sendmsg(2)` without ancillary data, with `MSG_DONTWAIT | MSG_NOSIGNAL`.
pub(crate) fn send_vectored(fd: BorrowedFd<'_>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    let bufs = &bufs[..bufs.len().min(MOST_PARTS)];
    SockRef::from(&fd).send_vectored_with_flags(bufs, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
}

/// `sendto(2)`, with `MSG_DONTWAIT | MSG_NOSIGNAL`.
pub(crate) fn send_to(fd: BorrowedFd<'_>, buf: &[u8], to: &SockAddr) -> io::Result<usize> {
    SockRef::from(&fd).send_to_with_flags(buf, to, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
}

/// `accept4(2)`: the connection is close-on-exec and non-blocking. Blocks if the listener does.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    loop {
        match SockRef::from(&fd).accept4(flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            accepted => return accepted.map(|(socket, from)| (socket.into(), from)),
        }
    }
}

/// `socket(2)`: a stream socket, close-on-exec and non-blocking.
pub(crate) fn stream(domain: socket2::Domain) -> io::Result<OwnedFd> {
    socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None).map(OwnedFd::from)
}

/// `connect(2)` of a non-blocking socket.
pub(crate) fn connect(fd: BorrowedFd<'_>, to: &SockAddr) -> io::Result<()> {
    SockRef::from(&fd).connect(to)
}
