//! Ending greenlets that nobody holds any more, and all of a thread's at its exit.
//!
//! ```text
//!   last reference drops ──> allowed here? ── yes ──> reap: GreenletExit is thrown, and the dropper
//!                                │                    waits until the greenlet has ended or parked
//!                                └ no (it unwinds, a tracer, the loop, another reap)
//!                                       └──> `to_reap`, seen to by whoever is switched to next
//! ```
//!
//! What may come in: the rules of ending by force. What never comes in: a second way to switch.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::ptr::null;

use super::super::block::{Arrival, BlockRef, State};
use super::super::exit::{self, GreenletExit};
use super::{
    ATTENTION, BUSY, DRIVER, Driver, EXITING, current, forget_live, hooks, note_throw, places, refusal,
    set_tracer, settle, switch_to, with_current,
};

/// How often a greenlet that is to end may go on before it is left suspended for good.
pub(crate) const SURVIVALS: u32 = 100;

/// Counts that a greenlet that is to end went on; leaves it when that was too often.
#[cold]
pub(crate) fn survives(me: &BlockRef) {
    let survived = &me.rare().survived;
    survived.set(survived.get() + 1);
    if survived.get() > SURVIVALS && !me.is_root {
        abandon_current(&format!("was told to end {SURVIVALS} times and went on"));
    }
}

/// The last reference to a suspended greenlet is going: unwinds it now, or at the next switch when
/// this is no place for it.
#[cold]
pub(in crate::greenlet) fn last_reference(block: BlockRef) {
    DRIVER.with(|d| {
        if d.current.get().is_null() || refusal().is_some() || d.reaping.get() {
            reap_later(block);
        } else {
            reap(&block);
            drop(block);
            clear_waiting(d);
        }
    });
}

/// Has a suspended greenlet unwound at the next switch that allows it.
#[cold]
pub(in crate::greenlet) fn reap_later(block: BlockRef) {
    DRIVER.with(|d| {
        d.to_reap.borrow_mut().push(block);
        d.set(ATTENTION, true);
    });
}

/// Has the greenlet that runs next drop `what`, since dropping runs user code: it may panic, switch, or
/// be thrown at, and where this is called one can bear none of these.
#[cold]
pub(crate) fn drop_later(what: Box<dyn Any>) {
    DRIVER.with(|d| {
        d.to_drop.borrow_mut().push(what);
        d.set(ATTENTION, true);
    });
}

/// Unwinds what [`last_reference`] had to put off, and drops what [`drop_later`] was given.
#[cold]
pub(super) fn clear_waiting(d: &Driver) {
    loop {
        let next = d.to_reap.borrow_mut().pop();
        if let Some(block) = next {
            // Found again through a weak handle, it lives on; its last reference comes here anew.
            if block.is_last() {
                reap(&block);
            }
            continue;
        }
        let next = d.to_drop.borrow_mut().pop();
        let Some(what) = next else { return };
        // It has nothing to do with this greenlet, so it does not raise in it: the panic hook has
        // told of it. Should it have been told to end in here, its next switch tells it again; kills
        // and timeouts wait until it is over, else they would end here and be lost.
        with_current(|me| {
            let no_unwind = &me.rare().no_unwind;
            no_unwind.set(no_unwind.get() + 1);
            let dropped = std::panic::catch_unwind(AssertUnwindSafe(|| drop(what)));
            if let Err(Err(payload)) =
                dropped.map_err(|p| std::panic::catch_unwind(AssertUnwindSafe(|| drop(p))))
            {
                // A panic whose payload panics when it is dropped, with such a payload again.
                std::mem::forget(payload);
            }
            no_unwind.set(no_unwind.get() - 1);
        });
    }
}

/// Whether something waits to be unwound; the next switch then sees to it.
#[inline]
pub(crate) fn reap_pending() {
    DRIVER.with(|d| {
        if d.is(ATTENTION) && !d.reaping.get() && refusal().is_none() {
            clear_waiting(d);
        }
    });
}

/// Throws [`GreenletExit`] into a suspended greenlet and returns when it has ended, or has parked in
/// the hub, which holds it from then on.
pub(crate) fn reap(block: &BlockRef) {
    if !matches!(block.state.get(), State::Switched | State::Parked) || block.live_index.get() == u32::MAX {
        return;
    }
    struct Reaping(bool);
    impl Drop for Reaping {
        fn drop(&mut self) {
            DRIVER.with(|d| d.reaping.set(self.0));
        }
    }
    let _reaping = Reaping(DRIVER.with(|d| d.reaping.replace(true)));
    // It was to raise this, and is to end now. Its drop is a user's, who would find us neither running
    // nor suspended here.
    if let Some(before) = block.take_arrival() {
        drop_later(Box::new(before));
    }
    with_current(|me| {
        let outer = me.state.replace(State::Parked);
        block.rare().reaper.set(Some(me.clone()));
        block.arrive(Arrival::Throw(Box::new(GreenletExit)));
        note_throw();
        switch_to(Some(block.clone()));
        me.state.set(outer);
        settle();
    });
}

/// Leaves the running greenlet suspended for good, with its stack, and says why. Whoever waits for
/// its end is told.
#[cold]
pub(crate) fn abandon_current(why: &str) -> ! {
    let me = current();
    exit::report(&format!(
        "{} {why}; it is left suspended for good, with its stack (made at {})",
        me.describe(),
        me.site
    ));
    let at_end = me.sched.at_end.take();
    if let (false, Some(hooks)) = (at_end.is_empty(), hooks()) {
        (hooks.ended)(&me, at_end);
    }
    let reaper = me.take_reaper();
    // Its block must outlive its stack, which is never freed.
    std::mem::forget(me.clone());
    DRIVER.with(|d| forget_live(d, &me));
    me.state.set(State::Dead);
    drop(me);
    loop {
        switch_to(reaper.clone());
    }
}

/// Ends every greenlet of this thread that has a stack: see "Exit" in the crate's docs.
pub(crate) fn end_all() {
    DRIVER.with(|d| {
        if d.current.get().is_null() || refusal().is_some() || d.current.get() != d.root.get() {
            return;
        }
        let was = d.is(EXITING);
        d.set(EXITING, true);
        if let Some(hooks) = hooks() {
            (hooks.ending)();
        }
        let mut settled = 0;
        loop {
            let last = d.live.borrow().last().copied();
            let Some(raw) = last else {
                // What these spawn runs too, as long as it comes to an end. Counted before it runs, so that
                // none is left suspended: what it refers to (the hub, say) may be gone soon.
                if settled == SURVIVALS {
                    break;
                }
                settled += 1;
                let settle = || hooks().is_some_and(|hooks| (hooks.settle)());
                match std::panic::catch_unwind(AssertUnwindSafe(settle)) {
                    Ok(false) => break,
                    Ok(true) => {}
                    Err(payload) => drop_later(Box::new(payload)),
                }
                continue;
            };
            // SAFETY: on the list, so not freed; the copy is not dropped, its clone is counted.
            let block = BlockRef::clone(&ManuallyDrop::new(unsafe { BlockRef::from_raw(raw) }));
            // A tracer may panic here, where nobody could catch it; it is removed then.
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
                reap(&block);
                clear_waiting(d);
            }));
            if let Err(payload) = ended {
                // A user's: its drop may panic in turn.
                drop_later(Box::new(payload));
            }
        }
        d.set(EXITING, was);
    });
}

/// Its destructor, as a thread-local's, is the thread's exit.
pub(super) struct ExitGuard;

impl Drop for ExitGuard {
    fn drop(&mut self) {
        // At the end of the process nothing is run: `process::exit` calls this on whichever stack
        // called it, and main's greenlets end with main.
        let main = nix::unistd::gettid() == nix::unistd::getpid();
        let at_root = DRIVER.with(|d| d.current.get() == d.root.get() && !d.is(BUSY));
        if main || !at_root {
            return;
        }
        // A destructor that comes later, or is run by this, may make greenlets and a hub anew.
        DRIVER.with(|d| d.exit_armed.set(false));
        end_all();
        if let Some(hooks) = DRIVER.with(|d| d.hooks.take()) {
            (hooks.exit)();
        }
        drop(set_tracer(None));
        free();
        // The stacks' own hook gives the free ones to other threads after this.
        places::thread_exit();
    }
}

/// Frees what the driver holds, as far as it is not needed for greenlets that were left suspended. It
/// can be used again, once.
fn free() {
    DRIVER.with(|d| {
        clear_waiting(d);
        d.set(ATTENTION, false);
        // Empty but for a greenlet that was started, or dropped, by the destructor of another.
        if d.to_reap.borrow().is_empty() && d.to_drop.borrow().is_empty() && d.live.borrow().is_empty() {
            drop(std::mem::take(&mut **d.to_reap.borrow_mut()));
            drop(std::mem::take(&mut **d.to_drop.borrow_mut()));
            drop(std::mem::take(&mut **d.live.borrow_mut()));
        }
        for cell in [&d.current, &d.root] {
            let root = cell.replace(null());
            if !root.is_null() {
                // SAFETY: the cell owned a count, which is taken here once. Nothing runs as the root
                // any more: the thread's own function has returned, or has called `process::exit`.
                drop(unsafe { BlockRef::from_raw(root) });
            }
        }
    });
}
