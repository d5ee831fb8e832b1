//! One slot, the segment it lies in, and the way back from an address to its slot.
//!
//! Segments are never unmapped and their headers live for ever, so that the signal handler can walk
//! them without a lock, and a slot can be followed at any time.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering, compiler_fence};

use crate::sys::memory;

use super::{StackError, StackSize};

/// Address space reserved at once, if the limits allow.
const SEGMENT: usize = 1 << 30;
/// Below this, a smaller segment would not help either.
const SMALLEST_SEGMENT: usize = 1 << 20;
/// Colours of stack tops, and the distance of one from the next.
const COLOURS: usize = 4;
const COLOUR_STEP: usize = 128;
/// Bytes of a name that fit the slot's cache line.
pub(super) const NAME_MAX: usize = 33;

/// What is known of one slot: a cache line in a dense table. All zeroes until its chunk is opened.
#[repr(C, align(64))]
pub(super) struct Slot {
    next: Cell<*const Slot>,
    /// The coloured top.
    top: Cell<usize>,
    id: AtomicU64,
    /// The trim pass in which it was given back.
    stamp: Cell<u32>,
    log2: Cell<u8>,
    /// Whether the topmost page was given back too (or never touched).
    cold: Cell<bool>,
    name_len: AtomicU8,
    name: [AtomicU8; NAME_MAX],
}

const _: () = assert!(size_of::<Slot>() == 64);

/// A slot that was opened. Slots live for ever, so this can be followed at any time; but only the
/// thread that has it (in a list, or in a `GuardedStack`) does, for its fields are not shared.
#[derive(Clone, Copy)]
pub(super) struct SlotRef(NonNull<Slot>);

impl SlotRef {
    #[inline]
    fn get(&self) -> &Slot {
        // SAFETY: made only from slots in the tables of segments, which are never unmapped; all
        // fields are cells or atomics, and all zeroes are valid.
        unsafe { self.0.as_ref() }
    }

    fn from_ptr(slot: *const Slot) -> Option<SlotRef> {
        NonNull::new(slot.cast_mut()).map(SlotRef)
    }

    #[inline]
    pub(super) fn next(self) -> Option<SlotRef> {
        SlotRef::from_ptr(self.get().next.get())
    }

    #[inline]
    pub(super) fn set_next(self, next: Option<SlotRef>) {
        self.get().next.set(next.map_or(ptr::null(), |slot| slot.0.as_ptr()));
    }

    #[inline]
    pub(super) fn top(self) -> usize {
        self.get().top.get()
    }

    /// The uncoloured upper end: the colour is less than any page.
    pub(super) fn end(self) -> usize {
        self.top().next_multiple_of(COLOURS * COLOUR_STEP)
    }

    #[inline]
    pub(super) fn low(self) -> usize {
        self.end() - self.size().bytes()
    }

    #[inline]
    pub(super) fn size(self) -> StackSize {
        StackSize { log2: self.get().log2.get() }
    }

    /// The trim pass in which it was given back.
    pub(super) fn stamp(self) -> u32 {
        self.get().stamp.get()
    }

    #[inline]
    pub(super) fn set_stamp(self, stamp: u32) {
        self.get().stamp.set(stamp);
    }

    /// Whether its topmost page was given back too, or never touched.
    pub(super) fn cold(self) -> bool {
        self.get().cold.get()
    }

    #[inline]
    pub(super) fn set_cold(self, cold: bool) {
        self.get().cold.set(cold);
    }

    /// The label of the greenlet before must not be taken for the next one's.
    #[inline]
    pub(super) fn clear_label(self) {
        self.get().name_len.store(0, Ordering::Relaxed);
        self.get().id.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn set_label(self, id: u64, name: &str) {
        let slot = self.get();
        // The handler may interrupt this (the call itself may overflow): never show a length for
        // bytes that are not there yet.
        slot.name_len.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::Release);
        slot.id.store(id, Ordering::Relaxed);
        if name.is_empty() {
            return;
        }
        let (kept, mark) = shorten(name);
        for (to, from) in slot.name.iter().zip(kept.bytes().chain(mark.bytes())) {
            to.store(from, Ordering::Relaxed);
        }
        compiler_fence(Ordering::Release);
        slot.name_len.store((kept.len() + mark.len()) as u8, Ordering::Relaxed);
    }
}

/// As much of a name as fits, and the mark of what was left off.
fn shorten(name: &str) -> (&str, &str) {
    const MARK: &str = "…";
    if name.len() <= NAME_MAX {
        return (name, "");
    }
    let mut end = NAME_MAX - MARK.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    (&name[..end], MARK)
}

/// Address space for slots of one size.
pub(super) struct Segment {
    pub(super) base: usize,
    pub(super) slots: usize,
    size: StackSize,
    table: NonNull<Slot>,
    older: *const Segment,
}

/// The newest segment; each knows the one before. Only ever added to.
static SEGMENTS: AtomicPtr<Segment> = AtomicPtr::new(ptr::null_mut());

impl Segment {
    /// Reserves a segment, smaller and smaller until the limits allow it.
    pub(super) fn reserve(size: StackSize, mprotected: usize) -> Result<&'static Segment, StackError> {
        let smallest = SMALLEST_SEGMENT.max(size.bytes());
        let mut len = SEGMENT;
        loop {
            match Segment::map(size, len) {
                Ok(segment) => return Ok(segment),
                Err(_) if len / 2 >= smallest => len /= 2,
                Err(error) => return Err(StackError::no_memory(len, &error, mprotected)),
            }
        }
    }

    fn map(size: StackSize, len: usize) -> std::io::Result<&'static Segment> {
        let slots = len / size.bytes();
        let table_len = slots * size_of::<Slot>();
        let base = memory::reserve(len)?;
        let table = match memory::map_table(table_len) {
            Ok(table) => table,
            Err(error) => {
                // SAFETY: nobody has been told of it.
                let _ = unsafe { memory::unmap(base, len) };
                return Err(error);
            }
        };
        // Kernels before 6.7 take no hint from MAP_STACK. Refused where there are no huge pages.
        // SAFETY: the advice throws nothing away.
        let _ = unsafe { memory::advise(base, len, memory::NOHUGEPAGE) };
        let table = NonNull::new(table as *mut Slot).expect("the kernel maps nothing at address 0");
        let older = SEGMENTS.load(Ordering::Relaxed);
        let segment: &'static Segment = Box::leak(Box::new(Segment { base, slots, size, table, older }));
        // Under the pool's lock, so nobody else stores meanwhile. Release: the handler follows it.
        SEGMENTS.store(ptr::from_ref(segment).cast_mut(), Ordering::Release);
        Ok(segment)
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots * self.size.bytes()
    }

    /// A slot by its place in the segment.
    fn slot(&self, index: usize) -> SlotRef {
        assert!(index < self.slots);
        // SAFETY: the table has this many slots.
        SlotRef(unsafe { self.table.add(index) })
    }

    /// Writes the lines of slots that were opened, and chains them, lowest first, before `chain`.
    pub(super) fn chain(&self, first: usize, count: usize, mut chain: Option<SlotRef>) -> Option<SlotRef> {
        for index in (first..first + count).rev() {
            let slot = self.slot(index);
            let end = self.base + (index + 1) * self.size.bytes();
            slot.get().top.set(end - index % COLOURS * COLOUR_STEP);
            slot.get().log2.set(self.size.log2);
            slot.get().cold.set(true);
            slot.set_next(chain);
            chain = Some(slot);
        }
        chain
    }
}

/// Where an address lies, as the signal handler sees it. Follows only what is never freed.
pub(super) struct Place {
    /// The low end of the slot.
    pub(super) low: usize,
    pub(super) size: StackSize,
    line: SlotRef,
}

impl Place {
    /// The slot that an address lies in. Async-signal-safe.
    pub(super) fn of(address: usize) -> Option<Place> {
        let mut segment = SEGMENTS.load(Ordering::Acquire).cast_const();
        // SAFETY: segments are leaked, complete before they are published, and never changed.
        while let Some(here) = unsafe { segment.as_ref() } {
            if (here.base..here.base + here.bytes()).contains(&address) {
                let index = (address - here.base) / here.size.bytes();
                let low = here.base + index * here.size.bytes();
                return Some(Place { low, size: here.size, line: here.slot(index) });
            }
            segment = here.older;
        }
        None
    }

    /// The id and name written there. Async-signal-safe.
    pub(super) fn label<'a>(&self, buffer: &'a mut [u8; NAME_MAX]) -> (u64, &'a [u8]) {
        let slot = self.line.get();
        let len = usize::from(slot.name_len.load(Ordering::Relaxed)).min(NAME_MAX);
        for (to, from) in buffer[..len].iter_mut().zip(&slot.name) {
            *to = from.load(Ordering::Relaxed);
        }
        (slot.id.load(Ordering::Relaxed), &buffer[..len])
    }
}
