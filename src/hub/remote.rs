//! A hub as other threads see it: a queue of messages, and an eventfd to wake it.
//!
//! The hub sets `asleep`, fences, looks at its queue again, and only then waits in epoll. A sender
//! pushes, fences, and writes the eventfd only if it is the one that took `asleep` back. So a busy
//! hub costs its senders no system call, and no message is missed: of the two fences one is first.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Inner;
use crate::sys::epoll::{Epoll, EventFd};

/// The bit of a signal, 1 to 64.
pub(super) fn bit(signal: i32) -> u64 {
    1 << (signal & 63)
}

/// What other threads ask of a hub.
pub(crate) enum Message {
    /// A shared wait was granted: make that greenlet ready.
    Granted { id: u64, epoch: u64 },
    /// Make a greenlet: called on the loop, so it runs no user code.
    Spawn { start: Box<dyn FnOnce(&Inner) + Send> },
    /// A descriptor that it has registered is closed.
    Closed { fd: i32 },
    /// Kills of greenlets, by their ids in rising order.
    Kill { ids: Vec<u64> },
}

/// The half of a hub that other threads touch.
pub(crate) struct Shared {
    pub(crate) id: u32,
    pub(crate) thread: String,
    pub(super) epoll: Arc<Epoll>,
    wake: EventFd,
    queue: Mutex<Vec<Message>>,
    /// Something is in the queue, or a signal came.
    waiting: AtomicBool,
    asleep: AtomicBool,
    closed: AtomicBool,
    /// Signals that came and were not handled yet, a bit each.
    signals: AtomicU64,
}

impl Shared {
    pub(super) fn new(id: u32) -> std::io::Result<Shared> {
        Ok(Shared {
            id,
            thread: std::thread::current().name().unwrap_or("(unnamed)").to_owned(),
            epoll: Arc::new(Epoll::new()?),
            wake: EventFd::new()?,
            queue: Mutex::new(Vec::new()),
            waiting: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            signals: AtomicU64::new(0),
        })
    }

    pub(super) fn wake_fd(&self) -> i32 {
        self.wake.as_raw_fd()
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Message>> {
        // Nothing under the lock panics.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, or gives it back when the hub has ended.
    pub(crate) fn send(&self, message: Message) -> Result<(), Message> {
        self.send_made(message, |message| message)
    }

    /// Sends a message that is made of `parts`, or gives the parts back when the hub has ended.
    pub(crate) fn send_made<T>(&self, parts: T, make: impl FnOnce(T) -> Message) -> Result<(), T> {
        {
            let mut queue = self.queue();
            // Under the lock, so that nothing is put into a queue that nobody empties any more.
            if self.closed.load(Ordering::Relaxed) {
                return Err(parts);
            }
            queue.push(make(parts));
        }
        self.nudge();
        Ok(())
    }

    /// Has the hub look. Async-signal-safe.
    fn nudge(&self) {
        self.waiting.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.wake.signal();
        }
    }

    /// Notes a signal. Async-signal-safe: atomics and one write.
    pub(super) fn signal(&self, number: i32) {
        self.signals.fetch_or(bit(number), Ordering::Release);
        self.nudge();
    }

    /// Whether there is something to do; for the hub's own thread.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Takes all that came: messages and signals.
    pub(super) fn take(&self) -> (Vec<Message>, u64) {
        self.waiting.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        (std::mem::take(&mut *self.queue()), self.signals.swap(0, Ordering::AcqRel))
    }

    /// Says that the hub is about to wait. False: something came meanwhile, do not.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The hub is back from waiting.
    pub(super) fn wake_up(&self, by_eventfd: bool) {
        self.asleep.store(false, Ordering::Relaxed);
        if by_eventfd {
            self.wake.clear();
        }
    }

    /// The hub ends. What was sent and never looked at is returned, to be dropped by the caller.
    pub(super) fn close(&self) -> Vec<Message> {
        let mut queue = self.queue();
        self.closed.store(true, Ordering::Relaxed);
        std::mem::take(&mut *queue)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("id", &self.id).field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// The hub has ended with its thread; what was to be sent is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HubGone<T>(
    /// What was to be sent.
    pub T,
);

impl<T> fmt::Debug for HubGone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubGone(..)")
    }
}

impl<T> fmt::Display for HubGone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the hub has ended with its thread")
    }
}

impl<T> std::error::Error for HubGone<T> {}
