//! A wait, and the one atomic step that ends it.
//!
//! ```text
//!                 begin            wake() ──> true: yours, it will run
//!      Idle ────────────> Waiting ─────────────────────> Granted
//!        ^   (epoch + 1)     ├──── kill, exit ─────────> Cancelled
//!        │                   └──── its deadline ───────> TimedOut
//!        └──────────────────── the greenlet runs again ─────┘
//! ```
//!
//! Whoever grants learns from [`Waiter::wake`] whether the wait took it; if not (it was cancelled,
//! or the greenlet waits for something else by now: the epoch differs), the giver takes the next
//! waiter. After a grant a kill or timeout stays pending until the next blocking call. So no grant
//! is ever lost, and none is given twice.
//!
//! The word lives in the greenlet's block while only this thread can grant. A wait that other
//! threads may end uses the same word behind an `Arc` ([`SharedWait`]); see there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::remote::{Message, Shared};
use crate::greenlet::block::BlockRef;

pub(crate) const IDLE: u64 = 0;
pub(crate) const WAITING: u64 = 1;
pub(crate) const GRANTED: u64 = 2;
pub(crate) const CANCELLED: u64 = 3;
pub(crate) const TIMED_OUT: u64 = 4;
const STATE: u64 = 7;
const EPOCH: u64 = 8;
const EPOCH_SHIFT: u32 = 3;
const KIND: &str = "only `SharedWait::open` fills the cell";

/// The right to end one wait of one greenlet of this thread.
pub(crate) struct Waiter {
    block: BlockRef,
    epoch: u64,
}

impl Waiter {
    /// Begins a wait of this greenlet.
    pub(super) fn begin(block: &BlockRef) -> Waiter {
        let word = (block.sched.wait.get() & !STATE) + EPOCH + WAITING;
        block.sched.wait.set(word);
        Waiter { block: block.clone(), epoch: word >> EPOCH_SHIFT }
    }

    /// The same right again, for a second list.
    pub(super) fn of(block: &BlockRef, epoch: u64) -> Waiter {
        Waiter { block: block.clone(), epoch }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn block(&self) -> &BlockRef {
        &self.block
    }

    /// Whether it is that wait of that greenlet.
    pub(crate) fn is(&self, id: u64, epoch: u64) -> bool {
        self.block.id == id && self.epoch == epoch
    }

    /// Ends the wait. False: it had ended, nothing happened; the grant is still the caller's.
    pub(crate) fn wake(self) -> bool {
        if end(&self.block, Some(self.epoch), GRANTED) {
            super::make_ready(self.block);
            true
        } else {
            false
        }
    }
}

impl Clone for Waiter {
    fn clone(&self) -> Self {
        Waiter { block: self.block.clone(), epoch: self.epoch }
    }
}

/// The word of the wait that is open, if other threads may touch it.
#[inline]
fn sharing(block: &BlockRef) -> Option<&SharedWait> {
    let rare = block.has_rare()?;
    if !rare.sharing.get() {
        return None;
    }
    rare.shared.get()?.downcast_ref()
}

/// How the wait of a greenlet stands.
#[inline]
pub(crate) fn state(block: &BlockRef) -> u64 {
    match sharing(block) {
        Some(shared) => shared.word.load(Ordering::Acquire) & STATE,
        None => block.sched.wait.get() & STATE,
    }
}

/// Whether the greenlet's last wait is that one.
pub(super) fn is_epoch(block: &BlockRef, epoch: u64) -> bool {
    block.sched.wait.get() >> EPOCH_SHIFT == epoch
}

/// The one step: Waiting to `to`, if it is that epoch's wait (`None`: whichever it is).
pub(crate) fn end(block: &BlockRef, epoch: Option<u64>, to: u64) -> bool {
    let word = block.sched.wait.get();
    if epoch.is_some_and(|epoch| word >> EPOCH_SHIFT != epoch) {
        return false;
    }
    if let Some(shared) = sharing(block) {
        return shared.end(word >> EPOCH_SHIFT, to);
    }
    if word & STATE != WAITING {
        return false;
    }
    block.sched.wait.set(word & !STATE | to);
    true
}

/// The running greenlet runs again: no wait is open.
#[inline]
pub(super) fn close(block: &BlockRef) {
    if let Some(rare) = block.has_rare() {
        rare.sharing.set(false);
    }
    block.sched.wait.set(block.sched.wait.get() & !STATE | IDLE);
}

/// A wait that other threads may end.
///
/// One for each greenlet that ever made such a wait, kept until it dies. The word decides; the
/// message that follows a remote grant merely tells the hub to make the greenlet ready.
pub(crate) struct SharedWait {
    word: AtomicU64,
    id: u64,
    hub: Arc<Shared>,
}

/// The right, for any thread, to end one wait.
#[derive(Clone)]
pub(crate) struct SharedWaiter {
    wait: Arc<SharedWait>,
    epoch: u64,
}

impl SharedWait {
    /// Makes the wait that the block has just begun one that any thread may end.
    pub(super) fn open(waiter: &Waiter, hub: &Arc<Shared>) -> SharedWaiter {
        let block = &waiter.block;
        let made = || -> Arc<dyn std::any::Any + Send + Sync> {
            Arc::new(SharedWait { word: AtomicU64::new(0), id: block.id, hub: hub.clone() })
        };
        let wait = block.rare().shared.get_or_init(made).clone().downcast::<SharedWait>().expect(KIND);
        wait.word.store(waiter.epoch << EPOCH_SHIFT | WAITING, Ordering::Release);
        block.rare().sharing.set(true);
        SharedWaiter { wait, epoch: waiter.epoch }
    }

    fn end(&self, epoch: u64, to: u64) -> bool {
        self.word
            .compare_exchange(
                epoch << EPOCH_SHIFT | WAITING,
                epoch << EPOCH_SHIFT | to,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }
}

impl SharedWaiter {
    /// Ends the wait, from any thread. False: it had ended; the grant is still the caller's.
    pub(crate) fn wake(&self) -> bool {
        if !self.wait.end(self.epoch, GRANTED) {
            return false;
        }
        // A hub that is gone has cancelled its waits, so this one is there, or was a moment ago.
        let _ = self.wait.hub.send(Message::Granted { id: self.wait.id, epoch: self.epoch });
        true
    }
}

impl std::fmt::Debug for SharedWaiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedWaiter").field("greenlet", &self.wait.id).field("epoch", &self.epoch).finish()
    }
}
