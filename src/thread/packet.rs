//! What a greenlet of `gevent::thread` and its join handle share: the closure until it starts, the
//! result when it has ended.
//!
//! ```text
//!              run                      the closure returned or raised
//!   Unstarted ─────> Running ──────────────────────────────> Ended ──join, or the handle's drop──> Taken
//!       └──────────────┴─── revoked, the hub ended, left for good ─────^
//! ```
//!
//! The closure lies here and not in the greenlet's body, so that whoever must be sure that it will
//! not run any more (a scope that cannot wait, a hub that ends) can take it out and drop it. After
//! `Ended` nothing of the closure's is left anywhere, and the result belongs to the handle alone: it is
//! dropped by the greenlet, before it counts as ended, or by whoever holds the handle. A packet that
//! outlives all that is empty. The scopes' soundness rests on this.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::identity::{Thread, ThreadId};
use super::parker::Parker;
use super::scope::Family;
use crate::greenlet::block::{AtEnd, BlockRef, Outcome, Payload};
use crate::greenlet::driver;
use crate::greenlet::stack::{StackError, StackSize};
use crate::hub::{self, HubGone, Inner, spawn as start};

type Outcomes<T> = Result<T, Payload>;

enum Life<F, T> {
    Unstarted(F),
    Running,
    Ended(Outcomes<T>),
    Taken,
}

struct State<F, T> {
    life: Life<F, T>,
    /// The handle is gone: nobody will ask.
    detached: bool,
    /// It ended by a panic that nobody has looked at.
    unhandled: bool,
}

pub(super) struct Packet<F, T> {
    state: Mutex<State<F, T>>,
    ended: Parker,
    /// The scope that waits for it, if it is a scope's.
    family: Option<Arc<Family>>,
}

/// A packet as its greenlet, its hub and its scope see it.
pub(super) trait Run: Send + Sync {
    /// The greenlet's body.
    fn run(&self, me: &BlockRef, killed: Option<Payload>) -> Outcome;

    /// It will not run, for this reason, if it has not begun to.
    fn revoke(&self, why: Payload);

    /// Nobody will run it any more, or run it to its end.
    fn lost(&self);
}

/// A packet as its join handle sees it.
pub(super) trait Join<T>: Send + Sync {
    fn is_ended(&self) -> bool;

    fn take(&self) -> Option<Outcomes<T>>;

    fn ended(&self) -> &Parker;

    /// The handle goes: a result that is there is dropped, one that comes later is by the greenlet.
    fn detach(&self);
}

impl<F, T> Packet<F, T> {
    pub(super) fn new(f: F, family: Option<Arc<Family>>) -> Self {
        let state = State { life: Life::Unstarted(f), detached: false, unhandled: false };
        Packet { state: Mutex::new(state), ended: Parker::new(), family }
    }

    fn state(&self) -> MutexGuard<'_, State<F, T>> {
        // Nothing under the lock panics, and no code of a user's runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the closure, if it has not begun to run.
    fn begin(&self) -> Option<F> {
        let mut state = self.state();
        match std::mem::replace(&mut state.life, Life::Running) {
            Life::Unstarted(f) => Some(f),
            other => {
                state.life = other;
                None
            }
        }
    }

    /// Notes how it ended; the closure, and all it borrowed, is gone by now. The last thing that its
    /// greenlet does with it. Gives the result back when nobody will ask.
    fn end(&self, result: Outcomes<T>, unhandled: bool) -> Result<(), Outcomes<T>> {
        let mut state = self.state();
        if state.detached {
            state.life = Life::Taken;
            return Err(result);
        }
        state.life = Life::Ended(result);
        state.unhandled = unhandled;
        if let (true, Some(family)) = (unhandled, &self.family) {
            family.unhandled(1);
        }
        drop(state);
        self.ended.unpark();
        Ok(())
    }

    /// As far as this goes, nothing borrowed is left.
    fn leave(&self) {
        if let Some(family) = &self.family {
            family.child_ended(std::ptr::from_ref(self).addr());
        }
    }
}

/// By what a scope knows a packet: its address.
pub(super) fn key(run: &Arc<dyn Run>) -> usize {
    Arc::as_ptr(run).addr()
}

impl<F, T> Run for Packet<F, T>
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    fn run(&self, me: &BlockRef, killed: Option<Payload>) -> Outcome {
        if killed.is_some() && driver::exiting() {
            // Its thread ended before it began: that is what joiners are told, not a kill.
            self.revoke(Box::new(HubGone(())));
        }
        let Some(f) = self.begin() else {
            // A tracer's panic, maybe, whose drop may panic in turn.
            if let Some(payload) = killed {
                driver::drop_later(Box::new(payload));
            }
            return Outcome::Killed;
        };
        let result = start::run(killed, f);
        let mut outcome = match &result {
            Ok(_) => Outcome::Returned,
            Err(payload) => start::outcome_of(me, payload),
        };
        if let Err(result) = self.end(result, outcome == Outcome::Panicked) {
            if let Err(payload) = result {
                self.unjoined(me, payload, outcome);
            } else if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(result))) {
                // The drop of a value that nobody took.
                outcome = start::outcome_of(me, &payload);
                self.unjoined(me, payload, outcome);
            }
        }
        self.leave();
        outcome
    }

    fn revoke(&self, why: Payload) {
        let Some(f) = self.begin() else { return };
        let (result, panicked) = match catch_unwind(AssertUnwindSafe(|| drop(f))) {
            Ok(()) => (Err(why), false),
            Err(payload) => (Err(payload), true),
        };
        // Refused, there is nobody to tell: it never ran.
        if let Err(Err(payload)) = self.end(result, panicked) {
            // Its drop may panic, and what comes next must be done.
            driver::drop_later(Box::new(payload));
        }
        self.leave();
    }

    fn lost(&self) {
        self.revoke(Box::new(HubGone(())));
        if matches!(self.state().life, Life::Running) {
            if let Some(family) = &self.family {
                family.child_lost();
            }
            drop(self.end(Err(Box::new(HubGone(()))), false));
        }
    }
}

impl<F, T> Packet<F, T> {
    fn unjoined(&self, me: &BlockRef, payload: Payload, outcome: Outcome) {
        if outcome != Outcome::Panicked {
            return;
        }
        match &self.family {
            Some(family) => {
                // The scope panics for it.
                family.unhandled(1);
                driver::drop_later(Box::new(payload));
            }
            None => start::unjoined(me, payload),
        }
    }
}

impl<F, T> Join<T> for Packet<F, T>
where
    F: Send,
    T: Send,
{
    fn is_ended(&self) -> bool {
        matches!(self.state().life, Life::Ended(_))
    }

    fn take(&self) -> Option<Outcomes<T>> {
        let mut state = self.state();
        match std::mem::replace(&mut state.life, Life::Taken) {
            Life::Ended(result) => {
                if let (true, Some(family)) = (std::mem::take(&mut state.unhandled), &self.family) {
                    family.unhandled(-1);
                }
                Some(result)
            }
            other => {
                state.life = other;
                None
            }
        }
    }

    fn ended(&self) -> &Parker {
        &self.ended
    }

    fn detach(&self) {
        let mut state = self.state();
        state.detached = true;
        let ended = matches!(state.life, Life::Ended(_));
        let left = ended.then(|| std::mem::replace(&mut state.life, Life::Taken));
        drop(state);
        // User code, maybe.
        drop(left);
    }
}

/// Held by a greenlet until its end, by a message until it is read: its drop says that nobody will
/// run the packet any more.
pub(super) struct Promise(Arc<dyn Run>);

impl Promise {
    pub(super) fn new(run: Arc<dyn Run>) -> Self {
        Promise(run)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.lost();
    }
}

/// What a new greenlet is to be like.
pub(super) struct Looks<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) stack_size: Option<StackSize>,
    pub(super) site: &'static Location<'static>,
}

/// Makes the greenlet of a packet, on this thread's hub, and has it run. The packet is revoked when
/// no stack can be had.
pub(super) fn launch(
    hub: &Inner,
    promise: Promise,
    looks: &Looks<'_>,
    thread: Option<Thread>,
) -> Result<Thread, StackError> {
    let run = promise.0.clone();
    let size = looks.stack_size.unwrap_or_else(|| hub.stack_size());
    let made = start::unstarted(size, looks.name, looks.site, move |me, killed| run.run(me, killed));
    let block = match made {
        Ok(block) => block,
        Err(error) => {
            promise.0.revoke(Box::new(error.clone()));
            return Err(error);
        }
    };
    let thread = thread.unwrap_or_else(|| Thread::new(ThreadId::new(block.id), looks.name));
    thread.be(&block);
    block.sched.at_end.set(vec![AtEnd::Release(Box::new(promise))]);
    hub::make_ready(block);
    Ok(thread)
}
