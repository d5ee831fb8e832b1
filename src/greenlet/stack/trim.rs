//! Giving back to the kernel what deep use left behind in free stacks.
//!
//! Never on the way of a take or a drop: `madvise` costs a microsecond, a warm reuse a few
//! nanoseconds. The hub calls [`trim`] when it has nothing to do. A stack is trimmed when it has been
//! free since before the pass before, that is for at least [`INTERVAL`]; those in steady use never are.
//!
//! Its topmost page, which every greenlet touches, stays, for the [`KEEP_WARM`] stacks that are likely
//! to be used again; of a larger crowd that is gone, everything goes.

use std::time::{Duration, Instant};

use crate::sys::memory::{self, Range, page_size};

use super::shelf::{Shelf, Shelves, with_shelves};
use super::slot::SlotRef;

/// From one pass to the next, at least.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// Stacks trimmed in one call, at most; and one vectored call's worth.
const BATCH: usize = 64;
/// Newer stacks stepped over in one call, at most.
const LOOK: usize = 16_384;
/// Trimmed stacks that keep their topmost page, for each thread and size.
pub(super) const KEEP_WARM: usize = 1024;

/// Gives back the memory of the current thread's free stacks that have not been used for a while; a
/// bounded number of them in each call.
///
/// Returns when it should be called again if the thread is still idle then: zero if more can be
/// done at once, `None` if nothing is left to do. A hub that waits without limit after `Some` keeps that
/// memory until it next goes idle; nothing worse.
pub(crate) fn trim() -> Option<Duration> {
    with_shelves(|shelves| {
        if shelves.sizes.iter().all(|shelf| shelf.dirty.get().is_none()) {
            return None;
        }
        if !shelves.backlog.get() {
            let now = Instant::now();
            if let Some(last) = shelves.last_pass.get() {
                let since = now.saturating_duration_since(last);
                if since < INTERVAL {
                    return Some(INTERVAL - since);
                }
            }
            shelves.last_pass.set(Some(now));
            // What was given back before the last pass has the stamp before that of the last pass.
            shelves.stamp.set(shelves.stamp.get().wrapping_add(1));
        }
        let newest_to_trim = shelves.stamp.get().wrapping_sub(2);
        let mut room = BATCH;
        for shelf in &shelves.sizes {
            room -= trim_shelf(shelf, newest_to_trim, room);
        }
        shelves.backlog.set(room == 0);
        if room == 0 {
            return Some(Duration::ZERO);
        }
        shelves.sizes.iter().any(|shelf| shelf.dirty.get().is_some()).then_some(INTERVAL)
    })
}

/// Trims every stack that was used since it was last trimmed, at the end of a thread.
pub(super) fn trim_all(shelves: &Shelves) {
    for shelf in &shelves.sizes {
        // Nothing more is kept warm: nobody here will use it again.
        let warm = shelf.warm.replace(KEEP_WARM);
        while shelf.dirty.get().is_some() {
            trim_shelf(shelf, shelves.stamp.get(), BATCH);
        }
        shelf.warm.set(warm);
    }
}

/// Moves up to `room` stacks, not newer than the stamp, from dirty to clean. Returns how many.
fn trim_shelf(shelf: &Shelf, newest: u32, room: usize) -> usize {
    // The list is ordered by age, newest first: skip those, then cut.
    let mut above: Option<SlotRef> = None;
    let mut next = shelf.dirty.get();
    let mut steps = 0;
    while let Some(slot) = next.filter(|slot| slot.stamp().wrapping_sub(newest) as i32 > 0) {
        steps += 1;
        if steps == LOOK {
            return 0;
        }
        above = Some(slot);
        next = slot.next();
    }
    let mut ranges = [Range::EMPTY; BATCH];
    let mut count = 0;
    while let Some(slot) = next.filter(|_| count < room.min(BATCH)) {
        next = slot.next();
        let keep = if shelf.warm.get() < KEEP_WARM { page_size() } else { 0 };
        slot.set_cold(keep == 0);
        if keep != 0 {
            shelf.warm.set(shelf.warm.get() + 1);
        }
        let body = slot.low() + slot.size().guard();
        ranges[count] = Range::new(body, slot.end() - keep - body);
        count += 1;
        slot.set_next(shelf.clean.get());
        shelf.clean.set(Some(slot));
    }
    match above {
        Some(above) => above.set_next(next),
        None => shelf.dirty.set(next),
    }
    give_back_memory(&ranges[..count]);
    count
}

/// Errors do not matter: memory that cannot be given back (it is locked, say) is kept.
fn give_back_memory(ranges: &[Range]) {
    let mut rest = ranges;
    while !rest.is_empty() {
        // SAFETY: bodies of slots that were in a free list of this thread a moment ago, without
        // their guards: nobody relies on what is in them.
        let Ok(mut bytes) = (unsafe { memory::advise_all(rest, memory::DONTNEED) }) else {
            break;
        };
        let done = rest.iter().take_while(|range| {
            let whole = bytes >= range.len();
            bytes = bytes.saturating_sub(range.len());
            whole
        });
        match done.count() {
            0 => break,
            done => rest = &rest[done..],
        }
    }
    // A kernel whose process_madvise does not know this advice, or no descriptor left for it.
    for range in rest {
        // SAFETY: as above.
        if unsafe { memory::advise(range.address(), range.len(), memory::DONTNEED) }.is_err() {
            return;
        }
    }
}
