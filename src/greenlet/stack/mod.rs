//! The stacks that greenlets run on: where they come from, what guards them, where they go back to.
//!
//! ```text
//!  a segment: 1 GiB of reserved address space, all slots of one size, opened a chunk at a time
//!  ┌──────┬──────┬──────┬──────┬──────┬──────┬─────────────────────────────────────────┐
//!  │ slot │ slot │ slot │ slot │ slot │ slot │   not opened yet: no access, no memory  │
//!  └──────┴──────┴──────┴──────┴──────┴──────┴─────────────────────────────────────────┘
//!
//!  one slot: `StackSize` bytes (the stride) from `low` to `low + stride`
//!
//!   low                                                                     low + stride
//!   │◄──── guard ────►│◄───────────────────────── body ──────────────────────────────►│
//!   ├─────────────────┼───────────────────────────────────────────────────────┬───────┤
//!   │ 16 pages, or a  │ never touched until used          ◄── grows down ──── │ colour│
//!   │ quarter of the  │ (page tables only)                │  the one page a   │ 0–384 │
//!   │ stride if less  │                                   │  shallow one uses │ bytes │
//!   └─────────────────┴───────────────────────────────────────────────────────┴───────┘
//!   ▲ limit()         ▲ any access below faults                               ▲ base(), "top"
//!
//!  beside it, not on it: a dense table with one cache line a slot
//!   next free | top | id | name …
//! ```
//!
//! **Guard.** An access to it faults, and the fault becomes the report of [`overflow`]. Rust's stack
//! probes touch every page on the way down, so one page would do for Rust; C code without probes
//! may skip a page, hence 16. How it is made depends on the kernel: see [`GuardKind`].
//!
//! **Colour.** Stack tops at the same offset of every page compete for the same sets of the
//! processor's cache. Four offsets of 128 bytes, by slot index, spread them (10–26 % on switches); more
//! would push a shallow greenlet into a second page.
//!
//! **Labels** (id and name, for the report) live in the dense table, so that they touch no page of
//! the stack and can be read by a signal handler.
//!
//! **Free slots** wait in lists of the thread that used them ([`shelf`]), newest first, so that the next
//! greenlet gets the stack that is still in the cache. Taking and giving back makes no system call.
//! What deep use left behind is given back to the kernel later, by [`trim()`].
//!
//! What may come in: memory of stacks and the report of their overflow. What never comes in:
//! switching, or knowing what a greenlet is beyond an id and a name.
//!
//! # Forks
//!
//! A child has a copy of every slot, guards included (all three kinds survive a fork), and of the free
//! lists of the thread that forked; those of other threads, and the stacks they were using, are
//! leaked in the child. The process-wide lock is taken across the fork, so that the child never
//! inherits it locked.

mod error;
mod guard;
mod overflow;
mod shelf;
mod slab;
mod slot;
mod trim;

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod overflow_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;

use corosensei::stack::{Stack, StackPointer};

use crate::sys::memory::{self, page_size};

pub use self::error::StackError;
pub use self::guard::GuardKind;
pub(crate) use self::overflow::arm_thread;
pub use self::shelf::{StackStats, stack_stats};
pub(crate) use self::trim::trim;

use self::slot::SlotRef;

/// The size of a greenlet's stack: a power of two from 64 KiB to 64 MiB of address space, the guard
/// inside it.
///
/// The guard takes 16 pages (64 KiB where a page has 4 KiB), but never more than a quarter; the rest is
/// [`usable`](StackSize::usable). Memory is only used for pages that were touched, so a large size
/// costs address space and page tables: 128 bytes a greenlet at 64 KiB, 512 at 256 KiB, 2 KiB from
/// 1 MiB on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StackSize {
    log2: u8,
}

impl StackSize {
    /// 256 KiB, of which 192 KiB are usable where a page has 4 KiB.
    pub const DEFAULT: StackSize = StackSize { log2: 18 };
    /// The largest size: 64 MiB.
    pub const MAX: StackSize = StackSize { log2: 26 };

    /// The smallest there is anywhere; the first class of the pool.
    const MIN_LOG2: u8 = 16;
    /// Rounded up to a power of two, so that an index needs no bounds check.
    const CLASSES: usize = 16;
    /// The guard in pages, if a quarter of the stride has room for them.
    const GUARD_PAGES: usize = 16;

    /// The smallest size here: 64 KiB, or four pages where those are larger.
    pub fn min() -> StackSize {
        let bytes = (1 << Self::MIN_LOG2).max(4 * page_size());
        StackSize { log2: bytes.trailing_zeros() as u8 }
    }

    /// The smallest size of at least `bytes`, the guard counted in.
    ///
    /// # Errors
    ///
    /// [`StackError::Size`] if `bytes` is 0 or more than 64 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use gevent::StackSize;
    ///
    /// let size = StackSize::new(300_000)?;
    /// assert_eq!(size.bytes(), 512 * 1024);
    /// assert_eq!(size.usable(), size.bytes() - size.guard());
    ///
    /// let error = StackSize::new(0).unwrap_err();
    /// assert!(error.to_string().starts_with("a stack size of 0 bytes is out of range"));
    /// # Ok::<(), gevent::StackError>(())
    /// ```
    pub fn new(bytes: usize) -> Result<StackSize, StackError> {
        if bytes == 0 || bytes > Self::MAX.bytes() {
            return Err(StackError::Size { bytes });
        }
        let bytes = bytes.max(Self::min().bytes()).next_power_of_two();
        Ok(StackSize { log2: bytes.trailing_zeros() as u8 })
    }

    /// The size of stacks for which none was named: what `GEVENT_STACK_SIZE` says (bytes, or KiB or MiB
    /// with a `k` or `m` behind the number; read once), else [`DEFAULT`](StackSize::DEFAULT).
    ///
    /// # Errors
    ///
    /// The variable is not a size, or not one in range.
    ///
    /// ```
    /// use gevent::StackSize;
    /// assert_eq!(StackSize::configured().unwrap(), StackSize::DEFAULT); // unless the variable is set
    /// ```
    pub fn configured() -> Result<StackSize, StackError> {
        static CONFIGURED: OnceLock<Result<StackSize, StackError>> = OnceLock::new();
        let read = || match std::env::var_os("GEVENT_STACK_SIZE") {
            None => Ok(StackSize::DEFAULT),
            Some(value) => value
                .to_str()
                .and_then(StackSize::parse)
                .ok_or_else(|| StackError::SizeSetting { value: value.to_string_lossy().into_owned() }),
        };
        CONFIGURED.get_or_init(read).clone()
    }

    fn parse(text: &str) -> Option<StackSize> {
        let text = text.trim();
        let (number, unit) = match text.char_indices().next_back()? {
            (at, 'k' | 'K') => (&text[..at], 1 << 10),
            (at, 'm' | 'M') => (&text[..at], 1 << 20),
            _ => (text, 1),
        };
        StackSize::new(number.trim_end().parse::<usize>().ok()?.checked_mul(unit)?).ok()
    }

    /// The address space that one stack takes, in bytes, with its guard.
    pub const fn bytes(self) -> usize {
        1 << self.log2
    }

    /// What the greenlet's code can use, in bytes.
    pub fn usable(self) -> usize {
        self.bytes() - self.guard()
    }

    /// The guard at the low end, in bytes.
    pub fn guard(self) -> usize {
        (Self::GUARD_PAGES * page_size()).min(self.bytes() / 4)
    }

    /// The place of this size among the pool's lists.
    fn class(self) -> usize {
        (self.log2 - Self::MIN_LOG2) as usize & (Self::CLASSES - 1)
    }
}

impl Default for StackSize {
    fn default() -> Self {
        StackSize::DEFAULT
    }
}

impl fmt::Debug for StackSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StackSize({} KiB)", self.bytes() / 1024)
    }
}

/// A stack of its own for one greenlet: a slot with its guard in place.
///
/// Dropping it puts the slot on top of the current thread's free list, at once: the next
/// [`take`](GuardedStack::take) on this thread may get it. So it must not be dropped by code that
/// still runs on it. A stack that is leaked is never used again. Not `Send`, as are greenlets.
pub(crate) struct GuardedStack {
    slot: SlotRef,
}

impl GuardedStack {
    /// A stack that is not promised to a [`Claim`]. Asks the kernel for more if the free list is empty.
    ///
    /// # Errors
    ///
    /// Why there is no further stack: address space, mappings, or no way to guard one.
    #[inline]
    pub(crate) fn take(size: StackSize) -> Result<GuardedStack, StackError> {
        Ok(GuardedStack { slot: shelf::take(size)? })
    }

    /// The stack that was promised. Cannot fail, and makes no system call.
    #[inline]
    pub(crate) fn take_claimed(claim: Claim) -> GuardedStack {
        let size = claim.size;
        std::mem::forget(claim);
        GuardedStack { slot: shelf::take_claimed(size) }
    }

    /// Says whose stack it is, for the report of an overflow. An empty name is none; of a long one
    /// the first bytes are kept (cut between characters, the cut marked with `…`).
    #[inline]
    pub(crate) fn set_label(&self, id: u64, name: &str) {
        self.slot.set_label(id, name);
    }

    pub(crate) fn size(&self) -> StackSize {
        self.slot.size()
    }

    /// What the greenlet's code can use, in bytes (the colour, at most 384 bytes, not taken off).
    #[cfg(test)]
    pub(crate) fn usable(&self) -> usize {
        self.size().usable()
    }

    /// How deep the stack has ever been used, in bytes from its upper end, rounded up to pages: the
    /// lowest page that is in memory and all above it.
    ///
    /// It goes by what is in memory: an earlier greenlet on the same stack counts until the stack is
    /// trimmed, pages of a frame that were skipped over count, and a page that was swapped out does not
    /// if it was the lowest. 0 for a stack that was never touched.
    #[cfg(test)]
    pub(crate) fn high_water(&self) -> usize {
        high_water(self.slot.low() + self.size().guard(), self.slot.end())
    }
}

/// How much room is left below an address on a greenlet's stack, in bytes; `None` elsewhere.
pub(crate) fn room_at(address: usize) -> Option<usize> {
    let place = slot::Place::of(address)?;
    Some(address.saturating_sub(place.low + place.size.guard()))
}

/// The high-water mark of the stack that `address` lies in; `None` when it is not one of ours.
pub(crate) fn high_water_at(address: usize) -> Option<usize> {
    let place = slot::Place::of(address)?;
    Some(high_water(place.low + place.size.guard(), place.low + place.size.bytes()))
}

/// From the lowest page in memory to `end`.
fn high_water(low: usize, end: usize) -> usize {
    const AT_ONCE: usize = 128;
    let page = page_size();
    let mut pages = [0u8; AT_ONCE];
    let mut address = low;
    while address < end {
        let count = ((end - address) / page).min(AT_ONCE);
        let part = &mut pages[..count];
        if memory::resident(address, part).is_err() {
            return 0;
        }
        if let Some(first) = part.iter().position(|page| page & 1 == 1) {
            return end - (address + first * page);
        }
        address += count * page;
    }
    0
}

impl Drop for GuardedStack {
    #[inline]
    fn drop(&mut self) {
        shelf::give_back(self.slot);
    }
}

impl fmt::Debug for GuardedStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuardedStack({:#x}, {:?})", self.slot.top(), self.size())
    }
}

// SAFETY: the pool opens a slot only together with its guard (never unguarded), at least 48 KiB of it
// are usable, the top is 128-byte aligned, and a slot is in one list or one GuardedStack, never both.
unsafe impl Stack for GuardedStack {
    #[inline]
    fn base(&self) -> StackPointer {
        StackPointer::new(self.slot.top()).expect("a stack is never at address 0")
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        StackPointer::new(self.slot.low()).expect("a stack is never at address 0")
    }
}

/// A promise that this thread will have a stack of this size when it is asked for.
///
/// It moves the failure from where a greenlet first runs to where it is spawned. Dropping it
/// releases the promise. Not `Send`: the promise is that of one thread's free list.
#[derive(Debug)]
pub(crate) struct Claim {
    size: StackSize,
    not_send: PhantomData<*const ()>,
}

impl Claim {
    /// # Errors
    ///
    /// As [`GuardedStack::take`].
    #[inline]
    pub(crate) fn new(size: StackSize) -> Result<Claim, StackError> {
        shelf::claim(size)?;
        Ok(Claim { size, not_send: PhantomData })
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        shelf::unclaim(self.size);
    }
}
