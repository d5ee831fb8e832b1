//! Slots: reserved by the segment, opened by the chunk, free in lists of their thread.
//!
//! ```text
//!   process-wide, behind one lock (taken only to grow, and at the end of a thread)
//!     segments of one size ──open a chunk──┐      ┌── returned: what ended threads gave back
//!                                          ▼      ▼
//!   each thread, each size            clean list ──take (only when dirty is empty)──┐
//!     (no lock, no atomics)               ▲                                         ▼
//!                                       trim()                               GuardedStack
//!                                         │                                         │
//!                                     dirty list ◄───────────drop──────────────────┘
//!                                         └──────take: the newest──────────────────►
//! ```
//!
//! *dirty*: used since it was last trimmed, newest on top, each stamped with the pass of [`trim`](super::trim())
//! it was given back in. *clean*: never used, or trimmed.
//!
//! **Claims.** `free` counts both lists, `claims` the promises: always `free >= claims`. A plain take
//! leaves that many; so a claimed take finds one without looking.
//!
//! This file is the part behind the lock; the lists are in [`shelf`](super::shelf), slots and segments
//! in [`slot`](super::slot).

use std::cell::{Cell, UnsafeCell};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::sys::{hooks, memory};

use super::guard::{Chunk, OpenError, choice};
use super::slot::{Segment, SlotRef};
use super::{GuardKind, StackError, StackSize};

/// And no chunk is larger than this, for strict overcommit counts all of it.
const LARGEST_CHUNK_BYTES: usize = 256 << 20;
/// Mappings left to the rest of the program where guards take two each.
const SPARE_MAPPINGS: usize = 1024;

/// What all threads share.
pub(super) struct Pool {
    pub(super) sizes: [PoolOfSize; StackSize::CLASSES],
    pub(super) segments: usize,
    pub(super) reserved: usize,
    pub(super) slots: usize,
    /// Slots guarded by mprotect.
    pub(super) mprotected: usize,
}

/// The shared slots of one size.
pub(super) struct PoolOfSize {
    /// The segment that chunks are opened in.
    segment: Option<&'static Segment>,
    /// How many of its slots have been opened (or given up).
    pub(super) opened: usize,
    /// What ended threads gave back.
    returned: Option<SlotRef>,
    pub(super) returned_count: usize,
}

// SAFETY: the slots it holds belong to no thread: only who holds the lock follows them.
unsafe impl Send for Pool {}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    sizes: [const { PoolOfSize { segment: None, opened: 0, returned: None, returned_count: 0 } };
        StackSize::CLASSES],
    segments: 0,
    reserved: 0,
    slots: 0,
    mprotected: 0,
});

impl PoolOfSize {
    pub(super) fn put(&mut self, slot: SlotRef) {
        slot.set_next(self.returned);
        self.returned = Some(slot);
        self.returned_count += 1;
    }

    /// Takes up to `wanted` of what was given back, as a chain.
    fn take_returned(&mut self, wanted: usize) -> Option<SlotRef> {
        let first = self.returned?;
        let (mut last, mut count) = (first, 1);
        while count < wanted {
            let Some(next) = last.next() else { break };
            (last, count) = (next, count + 1);
        }
        self.returned = last.next();
        self.returned_count -= count;
        last.set_next(None);
        Some(first)
    }
}

impl Pool {
    pub(super) fn lock() -> PoolGuard {
        static FORK: Once = Once::new();
        FORK.call_once(|| hooks::at_fork(before_fork, after_fork));
        let guard = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        HELD_HERE.set(true);
        PoolGuard(guard)
    }

    /// A chain of at least one slot, and whether it is fresh.
    pub(super) fn refill(
        &mut self,
        size: StackSize,
        wanted: usize,
    ) -> Result<(Option<SlotRef>, bool), StackError> {
        let returned = self.sizes[size.class()].take_returned(wanted);
        if returned.is_some() {
            return Ok((returned, false));
        }
        Ok((self.open_chunk(size, wanted)?, true))
    }

    fn open_chunk(&mut self, size: StackSize, wanted: usize) -> Result<Option<SlotRef>, StackError> {
        let choice = choice()?;
        let (segment, first) = self.room(size)?;
        let mut count = wanted.min(segment.slots - first).min((LARGEST_CHUNK_BYTES / size.bytes()).max(1));
        loop {
            // Also where it is what other kinds had to fall back to.
            if choice.kind() == GuardKind::Mprotect || self.mprotected > 0 {
                count = count.min(self.mprotect_room()?);
            }
            let chunk = Chunk { base: segment.base + first * size.bytes(), count, size };
            // SAFETY: slots from `first` on have not been opened, and the lock keeps others off.
            match unsafe { chunk.open_guarded(choice) } {
                Ok(kind) => {
                    self.mprotected += if kind == GuardKind::Mprotect { count } else { 0 };
                    break;
                }
                Err(OpenError::Memory(_)) if count > 1 => count /= 2,
                Err(OpenError::Memory(error)) => {
                    return Err(StackError::no_memory(size.bytes(), &error, self.mprotected));
                }
                Err(OpenError::Guard(error)) => {
                    let tried = vec![(choice.kind(), error.to_string())];
                    return Err(StackError::NoGuard { tried, forced: choice.forced() });
                }
            }
        }
        self.sizes[size.class()].opened = first + count;
        self.slots += count;
        Ok(segment.chain(first, count, None))
    }

    /// The segment with slots left to open, and the first of these.
    fn room(&mut self, size: StackSize) -> Result<(&'static Segment, usize), StackError> {
        let here = &self.sizes[size.class()];
        if let Some(segment) = here.segment.filter(|segment| here.opened < segment.slots) {
            return Ok((segment, here.opened));
        }
        let segment = Segment::reserve(size, self.mprotected)?;
        self.segments += 1;
        self.reserved += segment.bytes();
        let here = &mut self.sizes[size.class()];
        (here.segment, here.opened) = (Some(segment), 0);
        Ok((segment, 0))
    }

    /// How many more slots may be guarded by mprotect.
    fn mprotect_room(&self) -> Result<usize, StackError> {
        let max_map_count = memory::max_map_count();
        match (max_map_count.saturating_sub(SPARE_MAPPINGS) / 2).saturating_sub(self.mprotected) {
            0 => Err(StackError::Mappings { max_map_count, guards: self.mprotected }),
            room => Ok(room),
        }
    }
}

/// The lock, and a note that this thread has it.
pub(super) struct PoolGuard(MutexGuard<'static, Pool>);

impl std::ops::Deref for PoolGuard {
    type Target = Pool;
    fn deref(&self) -> &Pool {
        &self.0
    }
}

impl std::ops::DerefMut for PoolGuard {
    fn deref_mut(&mut self) -> &mut Pool {
        &mut self.0
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        HELD_HERE.set(false);
    }
}

thread_local! {
    /// This thread holds the pool's lock: a fork from a signal handler must not wait for it.
    static HELD_HERE: Cell<bool> = const { Cell::new(false) };
}

/// The lock while a fork is under way.
struct AcrossFork(UnsafeCell<Option<PoolGuard>>);

// SAFETY: only touched by the thread that has the lock (it holds the guard of that lock, or is about
// to put it there).
unsafe impl Sync for AcrossFork {}

static ACROSS_FORK: AcrossFork = AcrossFork(UnsafeCell::new(None));

extern "C" fn before_fork() {
    if !HELD_HERE.get() {
        let guard = Pool::lock();
        // SAFETY: this thread has the lock, so no other is between these two functions.
        unsafe { *ACROSS_FORK.0.get() = Some(guard) };
    }
}

extern "C" fn after_fork() {
    if HELD_HERE.get() {
        // SAFETY: this thread has the lock, here or (as its copy) in the child. If it had it before
        // the fork already, there is nothing here, and nothing happens.
        drop(unsafe { (*ACROSS_FORK.0.get()).take() });
    }
}
