//! One thread's slots: what is taken, claimed and given back without a lock.
//!
//! The lists are thread-locals without destructor, so that they work while other thread-locals are
//! destroyed, and cost a plain load. They are emptied by a hook at the end of the thread
//! ([`thread_exit`]); what is given back even later goes straight to the process.

use std::cell::Cell;
use std::time::Instant;

use libc::c_void;

use crate::sys::hooks::ThreadEnd;
use crate::sys::memory;

use super::slab::Pool;
use super::slot::SlotRef;
use super::{GuardKind, StackError, StackSize};

/// A thread's first chunk, in slots: a program with ten greenlets should not pay for a thousand.
const FIRST_CHUNK: usize = 16;
/// Chunks double up to this: as many guards as one vectored call can set.
const LARGEST_CHUNK: usize = memory::MAX_RANGES;

/// One thread's slots of one size.
pub(super) struct Shelf {
    pub(super) dirty: Cell<Option<SlotRef>>,
    pub(super) clean: Cell<Option<SlotRef>>,
    /// Slots in both lists.
    free: Cell<usize>,
    claims: Cell<usize>,
    /// Slots in both lists and in use.
    owned: Cell<usize>,
    /// Slots in `clean` whose topmost page is in memory.
    pub(super) warm: Cell<usize>,
    /// How many to open next.
    chunk: Cell<usize>,
}

/// One thread's slots.
pub(super) struct Shelves {
    pub(super) sizes: [Shelf; StackSize::CLASSES],
    /// The number of the present trim pass.
    pub(super) stamp: Cell<u32>,
    pub(super) last_pass: Cell<Option<Instant>>,
    pub(super) backlog: Cell<bool>,
    /// The thread is ending: what comes back goes to the process.
    ended: Cell<bool>,
    hooked: Cell<bool>,
}

thread_local! {
    static SHELVES: Shelves = const {
        Shelves {
            sizes: [const {
                Shelf {
                    dirty: Cell::new(None),
                    clean: Cell::new(None),
                    free: Cell::new(0),
                    claims: Cell::new(0),
                    owned: Cell::new(0),
                    warm: Cell::new(0),
                    chunk: Cell::new(FIRST_CHUNK),
                }
            }; StackSize::CLASSES],
            stamp: Cell::new(1),
            last_pass: Cell::new(None),
            backlog: Cell::new(false),
            ended: Cell::new(false),
            hooked: Cell::new(false),
        }
    };
}

const _: () = assert!(!std::mem::needs_drop::<Shelves>());

/// The current thread's slots.
#[inline]
pub(super) fn with_shelves<R>(f: impl FnOnce(&Shelves) -> R) -> R {
    SHELVES.with(f)
}

impl Shelf {
    /// Takes the newest slot. There is one: callers look at `free` first.
    #[inline]
    fn pop(&self) -> SlotRef {
        self.free.set(self.free.get() - 1);
        let slot = match self.dirty.get() {
            Some(slot) => {
                self.dirty.set(slot.next());
                slot
            }
            None => self.pop_clean(),
        };
        slot.clear_label();
        slot
    }

    #[inline(never)]
    fn pop_clean(&self) -> SlotRef {
        let slot = self.clean.get().expect("free counts the slots of both lists");
        self.clean.set(slot.next());
        if !slot.cold() {
            self.warm.set(self.warm.get() - 1);
        }
        slot
    }

    fn adopt(&self, slot: SlotRef, stamp: u32) {
        if slot.cold() {
            slot.set_next(self.clean.get());
            self.clean.set(Some(slot));
        } else {
            slot.set_stamp(stamp);
            slot.set_next(self.dirty.get());
            self.dirty.set(Some(slot));
        }
        self.free.set(self.free.get() + 1);
        self.owned.set(self.owned.get() + 1);
    }
}

#[inline]
pub(super) fn take(size: StackSize) -> Result<SlotRef, StackError> {
    with_shelves(|shelves| {
        let shelf = &shelves.sizes[size.class()];
        if shelf.free.get() <= shelf.claims.get() {
            grow(shelves, size)?;
        }
        Ok(shelf.pop())
    })
}

#[inline]
pub(super) fn claim(size: StackSize) -> Result<(), StackError> {
    with_shelves(|shelves| {
        let shelf = &shelves.sizes[size.class()];
        if shelf.free.get() <= shelf.claims.get() {
            grow(shelves, size)?;
        }
        shelf.claims.set(shelf.claims.get() + 1);
        Ok(())
    })
}

#[inline]
pub(super) fn unclaim(size: StackSize) {
    with_shelves(|shelves| {
        let shelf = &shelves.sizes[size.class()];
        shelf.claims.set(shelf.claims.get() - 1);
    });
}

/// Takes a slot that was claimed. Claims do not leave their thread, so it is there.
#[inline]
pub(super) fn take_claimed(size: StackSize) -> SlotRef {
    with_shelves(|shelves| {
        let shelf = &shelves.sizes[size.class()];
        shelf.claims.set(shelf.claims.get() - 1);
        shelf.pop()
    })
}

#[inline]
pub(super) fn give_back(slot: SlotRef) {
    with_shelves(|shelves| {
        let shelf = &shelves.sizes[slot.size().class()];
        slot.set_cold(false);
        if shelves.ended.get() {
            return give_back_late(shelf, slot);
        }
        slot.set_stamp(shelves.stamp.get());
        slot.set_next(shelf.dirty.get());
        shelf.dirty.set(Some(slot));
        shelf.free.set(shelf.free.get() + 1);
    });
}

/// The thread's lists were emptied already, and will not be again.
#[cold]
#[inline(never)]
fn give_back_late(shelf: &Shelf, slot: SlotRef) {
    shelf.owned.set(shelf.owned.get() - 1);
    Pool::lock().sizes[slot.size().class()].put(slot);
}

/// Brings slots of this size to the thread: given back by others, or fresh.
#[cold]
#[inline(never)]
fn grow(shelves: &Shelves, size: StackSize) -> Result<(), StackError> {
    let shelf = &shelves.sizes[size.class()];
    hook_thread_end();
    // A thread that is ending would lose what it does not use.
    let wanted = if shelves.ended.get() { 1 } else { shelf.chunk.get() };
    let (mut chain, fresh) = Pool::lock().refill(size, wanted)?;
    let stamp = shelves.stamp.get();
    // Onto a stack, so put in backwards: the lowest is then taken first.
    let mut reversed = None;
    while let Some(slot) = chain {
        chain = slot.next();
        slot.set_next(reversed);
        reversed = Some(slot);
    }
    while let Some(slot) = reversed {
        reversed = slot.next();
        shelf.adopt(slot, stamp);
    }
    if fresh && !shelves.ended.get() {
        shelf.chunk.set((shelf.chunk.get() * 2).min(LARGEST_CHUNK));
    }
    Ok(())
}

/// Has this thread's slots and signal stack given back when it ends.
pub(super) fn hook_thread_end() {
    if !with_shelves(|shelves| shelves.hooked.replace(true)) {
        static END: ThreadEnd = ThreadEnd::new(at_thread_end);
        END.arm();
    }
}

/// Gives the current thread's free slots, save those promised to claims, to the process, for other
/// threads to use, and their memory to the kernel.
///
/// Done by itself when a thread ends. Earlier, it is for a thread that will need no stacks for a while;
/// it does no harm if the thread then does.
pub(crate) fn thread_exit() {
    with_shelves(|shelves| {
        if shelves.sizes.iter().all(|shelf| shelf.free.get() == 0) {
            return;
        }
        super::trim::trim_all(shelves);
        let mut pool = Pool::lock();
        for (shelf, returned) in shelves.sizes.iter().zip(&mut pool.sizes) {
            while shelf.free.get() > shelf.claims.get() {
                let slot = shelf.pop();
                shelf.owned.set(shelf.owned.get() - 1);
                returned.put(slot);
            }
        }
    });
}

extern "C" fn at_thread_end(_: *mut c_void) {
    // What is given back on this thread from now on goes to the process at once.
    with_shelves(|shelves| shelves.ended.set(true));
    thread_exit();
    super::overflow::disarm_thread();
}

/// How the pool of stacks stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StackStats {
    /// How stacks are guarded; `None` if that is not known yet, or no way works.
    pub guard: Option<GuardKind>,
    /// Segments of address space reserved by the process.
    pub segments: usize,
    /// Their address space in bytes. It costs no memory.
    pub reserved: usize,
    /// Stacks opened by the process so far, in use or free.
    pub slots: usize,
    /// Those of them that are guarded by mprotect, for whatever reason.
    pub slots_mprotected: usize,
    /// Free stacks that ended threads left for others.
    pub slots_shared: usize,
    /// Free stacks of the current thread.
    pub slots_free: usize,
    /// Free stacks of the current thread that are promised to greenlets not started yet.
    pub slots_claimed: usize,
    /// Stacks that greenlets of the current thread are using (or have leaked).
    pub slots_in_use: usize,
}

/// Counts the stacks of the process and of the current thread, all sizes together.
///
/// # Examples
///
/// ```
/// let stats = gevent::stack_stats();
/// assert!(stats.slots >= stats.slots_in_use + stats.slots_free + stats.slots_shared);
/// println!("{} stacks in {} segments", stats.slots, stats.segments);
/// ```
pub fn stack_stats() -> StackStats {
    let guard = GuardKind::probed().ok();
    let pool = Pool::lock();
    with_shelves(|shelves| {
        let sum = |count: fn(&Shelf) -> usize| shelves.sizes.iter().map(count).sum();
        StackStats {
            guard,
            segments: pool.segments,
            reserved: pool.reserved,
            slots: pool.slots,
            slots_mprotected: pool.mprotected,
            slots_shared: pool.sizes.iter().map(|size| size.returned_count).sum(),
            slots_free: sum(|shelf| shelf.free.get()),
            slots_claimed: sum(|shelf| shelf.claims.get()),
            slots_in_use: sum(|shelf| shelf.owned.get() - shelf.free.get()),
        }
    })
}
