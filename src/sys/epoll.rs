//! epoll and eventfd.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::check;

/// One readiness event: flags as epoll gives them, and the word it was registered with.
pub(crate) type Event = libc::epoll_event;

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Epoll { fd })
    }

    pub(crate) fn add(&self, fd: RawFd, flags: u32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, flags, data)
    }

    pub(crate) fn modify(&self, fd: RawFd, flags: u32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, flags, data)
    }

    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, op: i32, fd: RawFd, flags: u32, data: u64) -> io::Result<()> {
        let mut event = Event { events: flags, u64: data };
        // SAFETY: `event` lives through the call; the kernel checks both descriptors.
        unsafe { check(libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &raw mut event)) }?;
        Ok(())
    }

    /// Waits for events, at most `timeout` nanoseconds (`None`: without limit), and says how many
    /// of `events` it filled. An interruption by a signal is no event and no error.
    pub(crate) fn wait(&self, events: &mut [Event], timeout: Option<u64>) -> io::Result<usize> {
        /// Linux before 5.11 has no `epoll_pwait2`.
        static MILLISECONDS_ONLY: AtomicBool = AtomicBool::new(false);
        let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
        let precise = !matches!(timeout, None | Some(0)) && !MILLISECONDS_ONLY.load(Ordering::Relaxed);
        let count = if precise {
            let nanos = timeout.unwrap_or(0);
            let spec = libc::timespec {
                tv_sec: (nanos / 1_000_000_000).min(i32::MAX as u64) as libc::time_t,
                tv_nsec: (nanos % 1_000_000_000) as _,
            };
            // SAFETY: `events` has room for `room` events, `spec` lives through the call, and a null
            // signal mask leaves the mask alone.
            unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.fd.as_raw_fd(),
                    events.as_mut_ptr(),
                    room,
                    &raw const spec,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                ) as i32
            }
        } else {
            // Rounded up, so that a timer is never looked at early.
            let millis =
                timeout.map_or(-1, |nanos| i32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i32::MAX));
            // SAFETY: `events` has room for `room` events.
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), room, millis) }
        };
        match check(count) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if precise && error.raw_os_error() == Some(libc::ENOSYS) => {
                MILLISECONDS_ONLY.store(true, Ordering::Relaxed);
                self.wait(events, timeout)
            }
            Err(error) => Err(error),
        }
    }
}

/// An eventfd: wakes an epoll that watches it, from any thread and from signal handlers.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<EventFd> {
        // SAFETY: no pointers; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe {
            let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(EventFd { fd })
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Makes it readable. Async-signal-safe.
    pub(crate) fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes the eight bytes of `one`. It fails only when the counter is full, and then
        // the eventfd is readable as it is.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Makes it unreadable again.
    pub(crate) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into `count`. It fails only when there is nothing to clear.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}
