//! Waiting: how the running greenlet gives the thread away until something it named has happened.
//!
//! Every blocking call of the crate comes through [`Inner::wait`] (or [`Inner::yield_now`]): it is
//! the one place that decides whether a wait may begin, and the one place where kills, timeouts and
//! deadlocks come out. What comes out is a [`Cut`]; the caller first takes its registrations back,
//! then turns it into an unwind or an error.

use std::io;

use super::timer::TimerKey;
use super::waiter::{self, CANCELLED, GRANTED, SharedWait, SharedWaiter, TIMED_OUT, Waiter};
use super::{Due, Inner, make_ready};
use crate::greenlet;
use crate::greenlet::block::{Arrival, BlockRef, Payload, Pending, State, WaitsFor};
use crate::greenlet::driver::{self, Refusal};
use crate::greenlet::exit::{GreenletExit, LoopExit};

/// Why a wait did not begin, or ended with neither a grant nor its deadline.
#[derive(Debug)]
#[must_use]
pub(crate) enum Cut {
    /// The greenlet unwinds: it may not suspend.
    Unwinding,
    /// A tracer, or a drop on the loop: it may not suspend.
    Barred,
    /// The thread exits: every wait ends at once.
    Exiting,
    /// A kill, a throw or a timeout of ours is pending.
    Interrupted,
    /// Nothing can ever wake it.
    LoopExit(LoopExit),
}

impl Cut {
    /// For calls that have no result: unwinds, panics, or returns at once where neither is allowed.
    pub(crate) fn unwind(self) {
        match self {
            Cut::Unwinding | Cut::Barred | Cut::Exiting => {}
            Cut::Interrupted => raise_pending(),
            Cut::LoopExit(exit) => panic!("{exit}"),
        }
    }

    /// For calls that have an `io::Result`: unwinds, or is the error to return.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Cut::Unwinding => io::Error::new(
                io::ErrorKind::WouldBlock,
                "the greenlet unwinds, and may not wait while it does",
            ),
            Cut::Barred => io::Error::new(io::ErrorKind::WouldBlock, "a tracer may not wait"),
            Cut::Exiting => io::Error::other("the thread exits, and waits for nothing any more"),
            Cut::Interrupted => {
                raise_pending();
                // Inside `no_unwind`: an error instead.
                driver::with_current(|me| {
                    let timeout =
                        me.rare().pending.borrow().first().is_some_and(|pending| pending.timeout != 0);
                    io::Error::from_raw_os_error(if timeout { libc::ETIMEDOUT } else { libc::ECANCELED })
                })
            }
            Cut::LoopExit(exit) => io::Error::other(exit),
        }
    }
}

/// Raises a pending kill or timeout, unless inside `no_unwind`.
pub(crate) fn raise_pending() {
    let payload = driver::with_current(|me| {
        if me.rare().no_unwind.get() > 0 || std::thread::panicking() {
            return None;
        }
        take_pending(me)
    });
    if let Some(payload) = payload {
        std::panic::resume_unwind(payload);
    }
}

#[inline]
fn has_pending(me: &BlockRef) -> bool {
    me.has_rare().is_some_and(|rare| !rare.pending.borrow().is_empty())
}

/// A kill before timeouts, the first of either first.
pub(crate) fn take_pending(me: &BlockRef) -> Option<Payload> {
    let mut pending = me.has_rare()?.pending.borrow_mut();
    if pending.is_empty() {
        return None;
    }
    let first = pending.iter().position(|pending| pending.timeout == 0).unwrap_or(0);
    Some(pending.remove(first).payload)
}

/// How long a wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until it is granted.
    Forever,
    /// Until this time of the hub's clock: then it ends as timed out.
    Deadline(u64),
    /// Until this time: then it is granted. For sleeps.
    Alarm(u64),
}

impl Inner {
    /// Whether the running greenlet may begin a wait.
    #[inline(always)]
    fn may_wait(&self, me: &BlockRef) -> Result<(), Cut> {
        if driver::is_plain() && me.has_rare().is_none() { Ok(()) } else { self.may_wait_after_all(me) }
    }

    #[cold]
    #[inline(never)]
    fn may_wait_after_all(&self, me: &BlockRef) -> Result<(), Cut> {
        match driver::refusal() {
            None => {}
            Some(Refusal::Unwinding) => return Err(Cut::Unwinding),
            Some(Refusal::Tracing | Refusal::Looping) => return Err(Cut::Barred),
        }
        if driver::exiting() {
            driver::survives(me);
            return Err(Cut::Exiting);
        }
        driver::reap_pending();
        if has_pending(me) {
            return Err(Cut::Interrupted);
        }
        Ok(())
    }

    /// Waits until the waiter that `enlist` is given is woken: `Ok(true)`; or the deadline has come:
    /// `Ok(false)`. When `enlist` returns false there is nothing to wait for: `Ok(true)`.
    ///
    /// The caller then takes the waiter off whatever list it was put on; a [`Cut`] is dealt with
    /// after that.
    pub(crate) fn wait(
        &self,
        what: WaitsFor,
        until: Until,
        enlist: impl FnOnce(Waiter) -> io::Result<bool>,
    ) -> Result<io::Result<bool>, Cut> {
        driver::with_current(|me| {
            self.may_wait(me)?;
            let waiter = Waiter::begin(me);
            let epoch = waiter.epoch();
            match enlist(waiter) {
                Ok(true) => {}
                ended => {
                    waiter::close(me);
                    return Ok(ended.map(|_| true));
                }
            }
            self.suspend(me, what, until, epoch).map(Ok)
        })
    }

    /// As [`Inner::wait`], for waits that other threads may end too.
    pub(crate) fn wait_shared(
        &self,
        what: WaitsFor,
        until: Until,
        enlist: impl FnOnce(SharedWaiter) -> bool,
    ) -> Result<bool, Cut> {
        let waited = self.wait_either(what, until, |_, shared| Ok(enlist(shared)))?;
        Ok(waited.expect("putting a waiter on a list of one's own does not fail"))
    }

    /// As [`Inner::wait_shared`], for waits that a list of this thread (a descriptor's, say) may end
    /// as well: the one wait, by two names.
    pub(crate) fn wait_either(
        &self,
        what: WaitsFor,
        until: Until,
        enlist: impl FnOnce(&Waiter, SharedWaiter) -> io::Result<bool>,
    ) -> Result<io::Result<bool>, Cut> {
        driver::with_current(|me| {
            self.may_wait(me)?;
            let waiter = Waiter::begin(me);
            let epoch = waiter.epoch();
            let shared = SharedWait::open(&waiter, &self.shared);
            // From here on a grant may come from any thread: it sends a message, which finds the
            // greenlet here.
            self.sharing.borrow_mut().insert(me.id, me.clone());
            let _shares = Shares { hub: self, me };
            match enlist(&waiter, shared) {
                Ok(true) => {
                    drop(waiter);
                    self.suspend(me, what, until, epoch).map(Ok)
                }
                ended => Ok(ended.map(|_| true)),
            }
        })
    }

    /// Gives the thread away until the wait that is open has ended.
    fn suspend(&self, me: &BlockRef, what: WaitsFor, until: Until, epoch: u64) -> Result<bool, Cut> {
        let waiter = || Waiter::of(me, epoch);
        let timer = match until {
            Until::Forever => None,
            Until::Deadline(at) => Some(self.timers.borrow_mut().insert(at, Due::Expire(waiter()))),
            Until::Alarm(at) => Some(self.timers.borrow_mut().insert(at, Due::Wake(waiter()))),
        };
        me.sched.waits_for.set(what);
        me.sched.since.set(self.now.get());
        driver::park(|arrival| self.resume(me, epoch, timer, arrival))
    }

    /// Closes the wait from which the greenlet has just come back, and says how it ended. What the
    /// greenlet does next may be to wait anew.
    fn resume(
        &self,
        me: &BlockRef,
        epoch: u64,
        timer: Option<TimerKey>,
        arrival: Option<Arrival>,
    ) -> Result<bool, Cut> {
        me.sched.waits_for.set(WaitsFor::Nothing);
        if let Some(timer) = timer {
            let due = self.timers.borrow_mut().cancel(timer);
            drop(due);
        }
        let state = waiter::state(me);
        if state == waiter::WAITING {
            // Thrown at, or deadlocked: neither granted nor cancelled until now.
            waiter::end(me, Some(epoch), CANCELLED);
        }
        let state = waiter::state(me);
        waiter::close(me);
        match arrival {
            Some(Arrival::LoopExit(exit)) if state != GRANTED => return Err(Cut::LoopExit(exit)),
            Some(Arrival::Throw(payload)) => {
                me.rare().pending.borrow_mut().insert(0, Pending { timeout: 0, payload });
            }
            _ => {}
        }
        match state {
            // A grant that came first is kept; what else is pending comes out at the next wait.
            GRANTED => Ok(true),
            TIMED_OUT => Ok(false),
            _ => Err(Cut::Interrupted),
        }
    }

    /// Lets every other ready greenlet run first.
    pub(crate) fn yield_now(&self) -> Result<(), Cut> {
        driver::with_current(|me| {
            self.may_wait(me)?;
            self.push_ready(me.clone());
            self.pause(me)
        })
    }

    /// Runs again when nothing else is ready.
    pub(crate) fn idle(&self) -> Result<(), Cut> {
        driver::with_current(|me| {
            self.may_wait(me)?;
            me.queued.set(true);
            self.idle.borrow_mut().push_back(me.clone());
            self.pause(me)
        })
    }

    /// Takes a greenlet off the idle, which may wait as long as others are busy. False: it is not there.
    fn leaves_idle(&self, block: &BlockRef) -> bool {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().position(|other| other.same(block));
        at.and_then(|at| idle.remove(at)).is_some()
    }

    /// Suspends a greenlet that is in a queue already.
    fn pause(&self, me: &BlockRef) -> Result<(), Cut> {
        driver::park(|arrival| {
            if let Some(Arrival::Throw(payload)) = arrival {
                me.rare().pending.borrow_mut().insert(0, Pending { timeout: 0, payload });
            }
        });
        if has_pending(me) { Err(Cut::Interrupted) } else { Ok(()) }
    }

    /// Counts a call that had no need to wait; after so many in a row the caller yields, so that a
    /// greenlet whose peer is always ready starves nobody.
    #[inline]
    pub(crate) fn spend(&self) {
        let left = self.budget.get();
        if left == 0 {
            self.overspent();
        } else {
            self.budget.set(left - 1);
        }
    }

    #[cold]
    fn overspent(&self) {
        // Pending kills come out at the caller's next wait: this call has succeeded.
        if let Err(cut) = self.yield_now() {
            drop(cut);
        }
        self.budget.set(self.budget_full);
    }
}

/// A wait that other threads may end is open; closed also when a tracer's panic comes out of it.
struct Shares<'a> {
    hub: &'a Inner,
    me: &'a BlockRef,
}

impl Drop for Shares<'_> {
    fn drop(&mut self) {
        waiter::close(self.me);
        self.hub.sharing.borrow_mut().remove(&self.me.id);
    }
}

/// Has a greenlet raise something at its blocking call, or at its next one.
pub(crate) fn interrupt(hub: &Inner, block: &BlockRef, pending: Pending) {
    match block.state.get() {
        State::Dead => {}
        State::Switched => {
            // It waits for a switch, which nobody need ever make: the hub resumes it.
            block.arrive(Arrival::Throw(pending.payload));
            block.state.set(State::Parked);
            make_ready(block.clone());
        }
        State::Unstarted => {
            let Err(payload) = greenlet::kill_unstarted(block, pending.payload) else { return };
            let pending = Pending { payload, ..pending };
            block.rare().pending.borrow_mut().push(pending);
            // It starts, to end at once: see `task`.
            let delayed = hub.later.borrow_mut().remove(&block.id);
            if let Some((block, timer)) = delayed {
                let due = hub.timers.borrow_mut().cancel(timer);
                drop(due);
                make_ready(block);
            }
        }
        State::Current | State::Parked => {
            block.rare().pending.borrow_mut().push(pending);
            if block.state.get() == State::Parked
                && (waiter::end(block, None, CANCELLED) || hub.leaves_idle(block))
            {
                make_ready(block.clone());
            }
        }
    }
}

/// Kills greenlets of this thread, by their ids in rising order. Those that have ended are passed over.
pub(crate) fn kill_all(hub: &Inner, ids: &[u64]) {
    for block in driver::live().into_iter().chain(hub.unstarted()) {
        if ids.binary_search(&block.id).is_ok() {
            interrupt(hub, &block, Pending { timeout: 0, payload: kill_payload() });
        }
    }
}

/// See [`driver::Hooks::ending`].
pub(super) fn kill_unstarted() {
    let Some(hub) = super::existing() else { return };
    for block in hub.unstarted() {
        interrupt(hub, &block, Pending { timeout: 0, payload: kill_payload() });
    }
}

/// See [`driver::Hooks::settle`]. The root, which calls it, goes to the end of the queue and so comes
/// back when all that are in it have run.
pub(super) fn settle() -> bool {
    let Some(hub) = super::existing() else { return false };
    if hub.ready.borrow().is_empty() {
        return false;
    }
    driver::with_current(|root| {
        hub.push_ready(root.clone());
        let _ = hub.pause(root);
    });
    true
}

/// Layer 1's door to the hub: see [`driver::Hooks::unpark`].
pub(super) fn unpark(block: &BlockRef, payload: Payload) -> Result<(), Payload> {
    let waits = waiter::state(block) == waiter::WAITING || block.queued.get();
    let Some(hub) = super::existing() else { return Err(payload) };
    if !waits && block.state.get() != State::Unstarted {
        return Err(payload);
    }
    interrupt(hub, block, Pending { timeout: 0, payload });
    Ok(())
}

/// Whether a greenlet waits in the hub, or has been woken from a wait and has not run yet. False while
/// it waits for another greenlet that it has resumed itself, so that raising something in it now would
/// cut that short.
pub(crate) fn waits_in_hub(block: &BlockRef) -> bool {
    waiter::state(block) != waiter::IDLE || block.queued.get()
}

/// Runs `f` with kills and timeouts of ours turned into errors: no blocking call below it unwinds.
///
/// For code that an unwind must not cross, such as a callback that C calls: `extern "C"` frames abort
/// when they are unwound. Inside, a blocking call that is killed returns an error (`ECANCELED`, or
/// `ETIMEDOUT` for a [`timeout`](crate::timeout)), one that has no result returns at once, and so does
/// every later one. What is pending is raised at the first blocking call after `f`.
///
/// ```
/// use std::time::Duration;
///
/// let greenlet = gevent::spawn(|| {
///     gevent::no_unwind(|| gevent::sleep(Duration::from_secs(60))); // returns when it is killed
///     "still here"
/// });
/// gevent::yield_now();
/// greenlet.kill();
/// assert_eq!(greenlet.join().unwrap(), "still here");
/// ```
pub fn no_unwind<R>(f: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            driver::with_current(|me| me.rare().no_unwind.set(me.rare().no_unwind.get() - 1));
        }
    }
    driver::with_current(|me| me.rare().no_unwind.set(me.rare().no_unwind.get() + 1));
    let _leave = Leave;
    f()
}

/// What a kill raises, unless another payload was given.
pub(crate) fn kill_payload() -> Payload {
    Box::new(GreenletExit)
}
