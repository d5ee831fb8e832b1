//! poll(2) of one descriptor, for threads that have no hub.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::check;

/// Waits until the descriptor is ready to read (else: to write), at most `limit`. An error or a
/// hang-up counts as ready: the call that follows tells.
pub(crate) fn wait(fd: BorrowedFd<'_>, read: bool, limit: Option<Duration>) -> io::Result<bool> {
    // Too far for the clock is without end.
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    // Not POLLPRI: urgent data stays pending while a plain read finds nothing, and the two would spin.
    let events = if read { libc::POLLIN | libc::POLLRDHUP } else { libc::POLLOUT };
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    loop {
        let millis = match end {
            None => -1,
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now()).as_nanos().div_ceil(1_000_000);
                i32::try_from(left).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: one entry, which lives through the call.
        match check(unsafe { libc::poll(&raw mut entry, 1, millis) }) {
            Ok(0) if millis != i32::MAX => return Ok(false),
            Ok(0) => {}
            Ok(_) if entry.revents & libc::POLLNVAL != 0 => {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether reading was shut down: by this end, or by the other one of a stream.
pub(crate) fn read_ended(fd: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    let told = unsafe { libc::poll(&raw mut entry, 1, 0) };
    told == 1 && entry.revents & libc::POLLRDHUP != 0
}
