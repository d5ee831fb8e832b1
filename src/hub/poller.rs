//! Readiness: one edge-triggered registration a descriptor, remembered until it is used up.
//!
//! ```text
//!   read ── try? ──> recv ── data ──────────────────────────> done
//!            │ no      │ EAGAIN, or a short read: drained()
//!            │         ▼
//!            └──> readable = false ── park on `readers` ──┐
//!                 readable = true  <── EPOLLIN edge ──────┘ (wakes all, in order; each tries again)
//! ```
//!
//! A descriptor is added to epoll at its first wait, with every flag, and stays until it is closed.
//! Readiness lives here, touched by the hub's own thread alone. EAGAIN drains a side. A short read or
//! write of a stream does so too, unless the side was hung up (HUP, RDHUP, ERR) or urgent data was
//! seen on the descriptor: then data may be left for which no further edge comes.
//!
//! What may come in: registration, readiness, lists of waiters. What never comes in: reading,
//! writing, retrying.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::descriptors;
use super::waiter::Waiter;
use crate::sys::epoll::{Epoll, Event};

/// Which side of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Read,
    Write,
}

const FLAGS: u32 =
    (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

/// The word of the hub's own eventfd.
const WAKE: u64 = u64::MAX;

#[derive(Default)]
struct Half {
    ready: bool,
    /// Hung up or failed: a short read no longer drains it, since no further edge may come.
    sticky: bool,
    waiters: VecDeque<Waiter>,
}

#[derive(Default)]
struct Registration {
    live: bool,
    generation: u32,
    /// Urgent data was seen.
    urgent: bool,
    /// The kernel does not poll it (a regular file): always ready.
    unpolled: bool,
    read: Half,
    write: Half,
}

impl Registration {
    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Read => &mut self.read,
            Side::Write => &mut self.write,
        }
    }
}

pub(crate) struct Poller {
    pub(super) epoll: std::sync::Arc<Epoll>,
    slot: u8,
    registrations: RefCell<Vec<Registration>>,
    events: RefCell<Vec<Event>>,
    /// How many descriptors are registered.
    registered: Cell<usize>,
    /// How many waiters are in the lists.
    waiting: Cell<usize>,
}

impl Poller {
    pub(super) fn new(epoll: std::sync::Arc<Epoll>, slot: u8, wake: RawFd) -> io::Result<Poller> {
        epoll.add(wake, (libc::EPOLLIN | libc::EPOLLET) as u32, WAKE)?;
        Ok(Poller {
            epoll,
            slot,
            registrations: RefCell::new(Vec::new()),
            events: RefCell::new(vec![Event { events: 0, u64: 0 }; 1024]),
            registered: Cell::new(0),
            waiting: Cell::new(0),
        })
    }

    /// Whether a look at epoll could find anything.
    #[inline]
    pub(super) fn is_used(&self) -> bool {
        self.registered.get() != 0
    }

    /// How many greenlets wait for descriptors.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Whether a call is worth a try: false only when the side is known to be drained.
    #[inline]
    pub(crate) fn worth_trying(&self, fd: RawFd, side: Side) -> bool {
        let mut registrations = self.registrations.borrow_mut();
        match registrations.get_mut(fd as usize) {
            Some(r) if r.live && r.generation == descriptors::generation(fd) => {
                r.unpolled || r.half(side).ready
            }
            _ => true,
        }
    }

    /// A call got EAGAIN; or, `short`, less than it asked for from a stream.
    #[inline]
    pub(crate) fn drained(&self, fd: RawFd, side: Side, short: bool) {
        let mut registrations = self.registrations.borrow_mut();
        if let Some(r) = registrations.get_mut(fd as usize) {
            let urgent = r.urgent;
            let half = r.half(side);
            if short && (urgent || half.sticky) {
                return;
            }
            // EAGAIN is the kernel's own word: whatever was hung up or failed was told already.
            half.ready = false;
            half.sticky = false;
        }
    }

    /// Puts a waiter on a side. `Ok(false)`: it is ready meanwhile, the waiter was not put there.
    pub(crate) fn enlist(&self, fd: RawFd, side: Side, waiter: Waiter) -> io::Result<bool> {
        let mut registrations = self.registrations.borrow_mut();
        let index = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if registrations.len() <= index {
            registrations.resize_with(index + 1, Registration::default);
        }
        let r = &mut registrations[index];
        if !r.live || r.generation != descriptors::generation(fd) {
            self.register(fd, side, r)?;
        }
        let unpolled = r.unpolled;
        let half = r.half(side);
        if unpolled || half.ready {
            return Ok(false);
        }
        half.waiters.push_back(waiter);
        self.waiting.set(self.waiting.get() + 1);
        Ok(true)
    }

    fn register(&self, fd: RawFd, drained: Side, r: &mut Registration) -> io::Result<()> {
        let stale = std::mem::take(r);
        self.forget(stale);
        let generation = descriptors::register(fd, self.slot).ok_or_else(|| {
            io::Error::other(format!(
                "descriptor {fd} is above the largest number that a hub can watch (4,194,303)"
            ))
        })?;
        let data = u64::from(generation) << 32 | fd as u64;
        match self.epoll.add(fd, FLAGS, data) {
            Ok(()) => {}
            // Closed behind our back and still known through a copy: watched anew, and told anew.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.epoll.modify(fd, FLAGS, data)?,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => r.unpolled = true,
            Err(error) => return Err(error),
        }
        r.live = true;
        r.generation = generation;
        // Only the side that was tried is known to be drained; epoll reports it as it is now.
        r.read.ready = drained != Side::Read;
        r.write.ready = drained != Side::Write;
        self.registered.set(self.registered.get() + 1);
        Ok(())
    }

    fn forget(&self, r: Registration) {
        if r.live {
            self.registered.set(self.registered.get() - 1);
            let waiters = r.read.waiters.len() + r.write.waiters.len();
            self.waiting.set(self.waiting.get() - waiters);
            for waiter in r.read.waiters.into_iter().chain(r.write.waiters) {
                // It tries again, and finds out.
                waiter.wake();
            }
        }
    }

    /// Takes a waiter that ended otherwise off its list.
    pub(crate) fn delist(&self, fd: RawFd, side: Side, epoch: u64, id: u64) {
        let mut registrations = self.registrations.borrow_mut();
        if let Some(r) = registrations.get_mut(fd as usize) {
            let waiters = &mut r.half(side).waiters;
            if let Some(at) = waiters.iter().position(|w| w.is(id, epoch)) {
                waiters.remove(at);
                self.waiting.set(self.waiting.get() - 1);
            }
        }
    }

    /// This thread, or another one, closes the descriptor (which is still open).
    pub(super) fn closed(&self, fd: RawFd) {
        let mut registrations = self.registrations.borrow_mut();
        if let Some(r) = registrations.get_mut(fd as usize) {
            if r.live && r.generation != descriptors::generation(fd) {
                let stale = std::mem::take(r);
                self.forget(stale);
            }
        }
    }

    /// Looks at epoll, waiting at most `timeout` nanoseconds, and wakes whom the events concern.
    /// Says whether the hub's own eventfd was among them.
    pub(super) fn poll(&self, timeout: Option<u64>) -> io::Result<bool> {
        let mut events = self.events.borrow_mut();
        let count = self.epoll.wait(&mut events, timeout)?;
        let mut registrations = self.registrations.borrow_mut();
        let mut woken = false;
        for event in &events[..count] {
            let (flags, data) = (event.events, event.u64);
            if data == WAKE {
                woken = true;
                continue;
            }
            let (fd, generation) = ((data & 0xffff_ffff) as usize, (data >> 32) as u32);
            let Some(r) = registrations.get_mut(fd) else { continue };
            if !r.live || r.generation != generation {
                continue; // an event of a descriptor that had this number before
            }
            let has = |flag: i32| flags & flag as u32 != 0;
            r.urgent |= has(libc::EPOLLPRI);
            let broken = has(libc::EPOLLHUP) || has(libc::EPOLLERR);
            if has(libc::EPOLLIN) || has(libc::EPOLLPRI) || has(libc::EPOLLRDHUP) || broken {
                self.ready(&mut r.read, has(libc::EPOLLRDHUP) || broken);
            }
            if has(libc::EPOLLOUT) || broken {
                self.ready(&mut r.write, broken);
            }
        }
        Ok(woken)
    }

    fn ready(&self, half: &mut Half, sticky: bool) {
        half.ready = true;
        half.sticky |= sticky;
        self.waiting.set(self.waiting.get() - half.waiters.len());
        for waiter in half.waiters.drain(..) {
            waiter.wake();
        }
    }
}
