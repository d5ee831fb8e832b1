//! How a blocking call is made cooperative: try, park, try again. The one place that does it.
//!
//! ```text
//!   blocking(fd, side, …, op)
//!     unwinding, tracer ────────────> op once; EAGAIN is an error
//!     no hub on this thread ────────> op, poll(2), op, …      (an ordinary thread: nothing else to run)
//!     known to be drained ──────────> park first, then op
//!     else ─────────────────────────> op; EAGAIN: park, op, …
//! ```
//!
//! What may come in: this rule, and waiting for a descriptor by itself. What never comes in: any
//! particular call; those give themselves as `op`, which must not block (sockets of ours are
//! `O_NONBLOCK`; others pass `MSG_DONTWAIT` or poll first).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::greenlet::block::WaitsFor;
use crate::greenlet::driver;
use crate::hub::poller::Side;
use crate::hub::wait::Until;
use crate::hub::{self, Inner};
use crate::sys;

/// Makes one blocking call of `op`, which returns `WouldBlock` where it would block.
///
/// `limit` is the socket's own timeout: it comes out as `WouldBlock`, as std's does on Linux.
/// `drained` says whether a result shows that nothing is left (a short read or write of a stream),
/// so that the next call need not try.
#[inline]
pub(crate) fn blocking<T>(
    fd: BorrowedFd<'_>,
    side: Side,
    limit: Option<Duration>,
    drained: impl Fn(&T) -> bool,
    mut op: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let Some(hub) = hub_here() else { return without_hub(fd, side, limit, op) };
    let raw = fd.as_raw_fd();
    let mut until = None;
    let may_park = driver::refusal().is_none();
    loop {
        if !may_park || hub.poller.worth_trying(raw, side) {
            match op() {
                Ok(value) => {
                    if drained(&value) {
                        hub.poller.drained(raw, side, true);
                    }
                    hub.spend();
                    return Ok(value);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    hub.poller.drained(raw, side, false);
                }
                Err(error) => {
                    // Failures count too: a loop that tries until it works, such as `accept` without
                    // descriptors left, must let those run who could make it work.
                    hub.spend();
                    return Err(error);
                }
            }
        }
        let until = *until.get_or_insert_with(|| deadline(hub, limit));
        if !park(hub, fd, side, until)? {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
    }
}

/// Makes one call that never waits: non-blocking mode, or what needs no wait. It counts as one all
/// the same, so that a loop around it does not hold up the other greenlets.
#[inline]
pub(crate) fn at_once<T>(op: impl FnOnce() -> T) -> T {
    let done = op();
    if let Some(hub) = hub::existing() {
        hub.spend();
    }
    done
}

/// The hub to wait in: this thread's, made if a greenlet asks. An ordinary thread without one needs
/// none: it has nothing else to run.
#[inline]
pub(crate) fn hub_here() -> Option<&'static Inner> {
    match hub::existing() {
        None if driver::in_greenlet() => Some(hub::hub()),
        found => found,
    }
}

fn deadline(hub: &Inner, limit: Option<Duration>) -> Until {
    limit.map_or(Until::Forever, |limit| Until::Deadline(hub.deadline(limit)))
}

/// Waits until an edge comes, or there is one that nobody used. False: the deadline came first.
fn park(hub: &Inner, fd: BorrowedFd<'_>, side: Side, until: Until) -> io::Result<bool> {
    let raw = fd.as_raw_fd();
    let what = match side {
        Side::Read => WaitsFor::Read(raw),
        Side::Write => WaitsFor::Write(raw),
    };
    let mut mine = None;
    let waited = hub.wait(what, until, |waiter| {
        mine = Some((waiter.epoch(), waiter.block().id));
        hub.poller.enlist(raw, side, waiter)
    });
    match waited {
        Ok(Ok(true)) => Ok(true),
        Ok(Err(error)) => Err(error),
        ended => {
            if let Some((epoch, id)) = mine {
                hub.poller.delist(raw, side, epoch, id);
            }
            match ended {
                Err(cut) => Err(cut.into_io()),
                _ => Ok(false),
            }
        }
    }
}

#[cold]
fn without_hub<T>(
    fd: BorrowedFd<'_>,
    side: Side,
    limit: Option<Duration>,
    mut op: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    // Too far for the clock is without end.
    let end = limit.and_then(|limit| std::time::Instant::now().checked_add(limit));
    loop {
        match op() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        let left = end.map(|end| end.saturating_duration_since(std::time::Instant::now()));
        if !sys::poll::wait(fd, side == Side::Read, left)? {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
    }
}

/// The first pause between two tries of [`retrying`], and the longest; it doubles.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// [`blocking`], for calls that the kernel refuses with EAGAIN and of which it never says when they
/// would succeed: `connect` of a unix stream whose listener's queue is full, and a unix datagram sent
/// to a full receiver that is not connected to. They are tried again after a while.
pub(crate) fn retrying<T>(
    fd: BorrowedFd<'_>,
    limit: Option<Duration>,
    mut op: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let again = || io::Error::from_raw_os_error(libc::EAGAIN);
    let (mut pause, longest) = PAUSES;
    let mut left = limit.unwrap_or(Duration::MAX);
    loop {
        match at_once(&mut op) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        if left.is_zero() {
            return Err(again());
        }
        let now = pause.min(left);
        match hub_here() {
            None => std::thread::sleep(now),
            Some(hub) => {
                let until = Until::Alarm(hub.deadline(now));
                match hub.wait(WaitsFor::Write(fd.as_raw_fd()), until, |_| Ok(true)) {
                    Ok(_) => {}
                    Err(cut) => return Err(cut.into_io()),
                }
            }
        }
        left -= now;
        pause = longest.min(pause * 2);
    }
}

/// Waits until a descriptor is ready on one side, at most `limit`. False: it is not.
///
/// Edge-triggered at heart, level-triggered in effect: it asks the kernel before it parks.
pub(crate) fn wait_ready(fd: BorrowedFd<'_>, side: Side, limit: Option<Duration>) -> io::Result<bool> {
    let ready = blocking(
        fd,
        side,
        limit,
        |()| false,
        || {
            if sys::poll::wait(fd, side == Side::Read, Some(Duration::ZERO))? {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EAGAIN))
            }
        },
    );
    match ready {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}
