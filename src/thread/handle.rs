//! [`JoinHandle`], and what it shares with a scope's handle.

use std::fmt;
use std::sync::Arc;

use super::identity::{Thread, current};
use super::packet::Join;
use crate::Ended;
use crate::greenlet::block::WaitsFor;

/// The right to a result that may borrow for `'a`.
pub(super) struct Ticket<'a, T> {
    join: Arc<dyn Join<T> + 'a>,
    thread: Thread,
    waits_for: WaitsFor,
}

impl<'a, T> Ticket<'a, T> {
    pub(super) fn new(join: Arc<dyn Join<T> + 'a>, thread: Thread, waits_for: WaitsFor) -> Self {
        Ticket { join, thread, waits_for }
    }

    pub(super) fn thread(&self) -> &Thread {
        &self.thread
    }

    pub(super) fn is_finished(&self) -> bool {
        self.join.is_ended()
    }

    pub(super) fn join(self) -> super::Result<T> {
        loop {
            if let Some(result) = self.join.take() {
                return result;
            }
            if self.thread.id() == current().id() {
                panic!("{:?} tries to join itself, which would never end", self.thread);
            }
            if let Err(cut) = self.join.ended().park(self.waits_for, None) {
                cut.unwind();
                return self.join.take().unwrap_or_else(|| Err(Box::new(Ended::Unfinished)));
            }
        }
    }

    /// The same ticket, with no limit on how long it is good for.
    ///
    /// # Safety
    /// The caller of whoever gets it must see to it that it is not used after what `T` and its
    /// closure borrow has ended.
    pub(super) unsafe fn unbounded(self) -> Ticket<'static, T> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so each field is moved out once. The join keeps its type
        // but for the lifetime, for which the caller answers.
        unsafe {
            Ticket {
                join: std::mem::transmute::<Arc<dyn Join<T> + 'a>, Arc<dyn Join<T> + 'static>>(
                    std::ptr::read(&this.join),
                ),
                thread: std::ptr::read(&this.thread),
                waits_for: this.waits_for,
            }
        }
    }
}

impl<T> Drop for Ticket<'_, T> {
    fn drop(&mut self) {
        self.join.detach();
    }
}

/// The right to join a greenlet. Mirrors [`std::thread::JoinHandle`].
///
/// `Send + Sync`: any greenlet of any thread may join, and so may a thread that has no hub. Dropping it
/// detaches the greenlet, which goes on; if it then panics, [`Hub::on_error`](crate::Hub::on_error) of
/// its hub is told. (A panic that was there when the handle was dropped is not told any more.)
///
/// [`JoinHandleExt`](std::os::unix::thread::JoinHandleExt) is not for it: a greenlet has no pthread.
///
/// ```
/// use gevent::thread;
///
/// let handle = thread::spawn(|| 6 * 7);
/// let answer = std::thread::spawn(move || handle.join().unwrap()); // joined by another thread
/// while !answer.is_finished() { thread::yield_now() }
/// assert_eq!(answer.join().unwrap(), 42);
/// ```
pub struct JoinHandle<T>(Ticket<'static, T>);

impl<T> JoinHandle<T> {
    pub(super) fn new(ticket: Ticket<'static, T>) -> Self {
        JoinHandle(ticket)
    }

    /// The greenlet's handle. Mirrors [`std::thread::JoinHandle::thread`].
    ///
    /// ```
    /// let handle = gevent::thread::spawn(|| ());
    /// println!("{:?}", handle.thread().id());
    /// ```
    #[must_use]
    pub fn thread(&self) -> &Thread {
        self.0.thread()
    }

    /// Waits for its end and takes what it returned. Mirrors [`std::thread::JoinHandle::join`].
    ///
    /// What the greenlet did happens before what comes after the join.
    ///
    /// # Errors
    /// The payload of its panic. Three come from no panic: [`GreenletExit`](crate::GreenletExit) when
    /// it was killed; [`HubGone<()>`](crate::hub::HubGone) when its hub ended before it did; and
    /// [`Ended::Unfinished`](crate::Ended::Unfinished) when it has not ended and the caller may not
    /// wait, since it unwinds.
    ///
    /// # Panics
    /// When a greenlet joins itself, or waits for what can never come
    /// ([`LoopExit`](crate::LoopExit)). Unwinds when the caller is killed.
    ///
    /// ```
    /// let failed = gevent::thread::spawn(|| panic!("oh no")).join();
    /// assert_eq!(failed.unwrap_err().downcast_ref(), Some(&"oh no"));
    /// ```
    pub fn join(self) -> super::Result<T> {
        self.0.join()
    }

    /// Whether it has ended, so that [`join`](JoinHandle::join) does not wait. Mirrors
    /// [`std::thread::JoinHandle::is_finished`].
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let handle = thread::spawn(|| ());
    /// assert!(!handle.is_finished()); // it has not run yet
    /// thread::yield_now();
    /// assert!(handle.is_finished());
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("thread", self.thread())
            .field("finished", &self.is_finished())
            .finish()
    }
}
