//! The hub's timers: who is to be woken when.
//!
//! A plain structure over nanoseconds since any start the caller likes. It reads no clock, does no I/O and runs no
//! code of the values it holds; that makes it the same under the real and the virtual clock. It fires in the order of
//! deadlines, to the nanosecond, and among equal ones in the order of insertion.
//!
//! # The wheel, the horizon and the heap
//!
//! ```text
//!   past        now   horizon                                                            future
//!    |           |       |
//!    +-----------+-------+-----------------+----------------------+-------------------------->
//!      near: a heap      | level 0         | level 1              | level 2 ... 7
//!      by (deadline,     | 1.05 ms a slot  | 67 ms a slot         | 4.3 s, 275 s, ... 584 years in all
//!          sequence)     | [ ][x][ ][ ][x] | [  ][xx][  ][  ][ x] | [      ][ xxx  ][      ]
//!                           slots in no order: an array of (deadline, sequence, index) each
//!
//!    nodes: [ sequence, value ] by index: live while its sequence is the entry's
//! ```
//!
//! A deadline's upper 44 bits, its *tick*, are read as 8 digits of 6 bits. The level of a timer is that of the highest
//! digit in which its tick differs from the horizon's, its slot is its own digit there. So a lower level is always
//! earlier than a higher one, and two `trailing_zeros` find the first slot that holds anything. When the horizon comes
//! into a slot of a higher level, that slot is spread over the lower ones; a slot of level 0 goes into the heap, which
//! puts it in exact order. A timer moves at most 8 times, a 30 s timeout 3 times.
//!
//! Cancelling frees the node and leaves the entry behind: whoever meets an entry whose node has another sequence drops
//! it. Each cancelling pays for looking at 4 more entries, so that the dead are at most about as many as the living.
//! When no timer is left, all go at once.
//!
//! # Why this, with figures
//!
//! A timeout is set on nearly every read and cancelled nearly always, so with a million alive both must not depend on
//! how many there are. A wheel gives that; it cannot give exact order, hence the heap, which stays short. Slots were
//! linked lists first: following them through memory made firing 300 ns a timer (and a cancel+insert 183 ns).
//!
//! `cargo bench --bench timer`, on a shared 2-core Xeon; the 4-ary heap was measured in the same run and then left out
//! of the tree. Per timer, save the last two rows. `BinaryHeap` cancels lazily and is swept when half is dead.
//!
//! | | ours | 4-ary heap, indexed | `BinaryHeap` | `BTreeMap` |
//! |---|--:|--:|--:|--:|
//! | cancel + insert of 30 s, 1,000,000 alive | 123 ns | 216 ns | 116 ns | 974 ns |
//! | cancel + insert of 30 s, 1,000 alive | 26 ns | 23 ns | 19 ns | 112 ns |
//! | insert 1,000,000 over 60 s | 30 ns | 33 ns | 38 ns | 258 ns |
//! | fire them, the clock in steps of 1 ms | 87 ns | 250 ns | 332 ns | 50 ns |
//! | fire them after one jump | 78 ns | 252 ns | 353 ns | 51 ns |
//! | sleep 50 µs, 1 alive (wait, fire, insert) | 17 ns | 8 ns | 4 ns | 11 ns |
//! | sleep 20 ms, 1 alive | 26 ns | 8 ns | 5 ns | 12 ns |
//! | sleep 20 ms, 10 alive | 24 ns | 15 ns | 14 ns | 17 ns |
//! | sleep 20 ms, 10,000 alive | 36 ns | 61 ns | 37 ns | 70 ns |
//! | longest stop in a cancel, 1,000,000 alive | 0.11 ms | 0.16 ms | 25.7 ms | 0.37 ms |
//! | longest stop in `pop_due`, 1,000,000 in one slot | 15.7 ms | 0.04 ms | 0.04 ms | 0.05 ms |
//!
//! What it costs: some 15 ns more than a heap when few are alive, beside a switch and an `epoll_wait` in each sleep;
//! and a stop of 16 ns a timer when a slot is spread. A slot of level 2 is 4.3 s wide, of level 3 275 s, so only
//! hundreds of thousands of timeouts of minutes are felt.
//!
//! Memory: 44 bytes a timer with a pointer for value (node 16, entry 24, free list 4), before the spare room of growing
//! arrays and the dead entries; 24 KiB a hub for the slots. The nodes' array is given back when no timer is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

/// A tick, the width of a slot of level 0, is 2^20 ns: 1.05 ms.
const TICK_BITS: u32 = 20;
/// 64 slots a level, so that a `u64` says which of them hold anything.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough levels for every tick a `u64` of nanoseconds can name: there is no overflow list.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(SLOT_BITS) as usize;
/// Entries looked at for every timer cancelled, to find those of cancelled timers: at most about half are such.
const SWEPT: usize = 4;
/// Not less than this many at a time.
const FEW: usize = 32;
/// An emptied slot keeps its allocation up to this many entries.
const KEPT_ENTRIES: usize = 256;
/// When the last timer goes, room for more than this many is given back to the allocator.
const KEPT_NODES: usize = 4096;

/// Names one inserted timer, for [`Timers::cancel`].
///
/// It stays harmless after its timer has fired or been cancelled: the node may be in use again, but under another
/// generation. A generation is the low half of the timer's sequence number, so an old key could be mistaken only if
/// it were kept while an exact multiple of 2^32 other timers were inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    index: u32,
    generation: u32,
}

/// What a timer is while it waits, under an index that does not change.
struct Node<T> {
    /// Counts the insertions, from 1. 0 in a free node.
    sequence: u64,
    value: Option<T>,
}

/// A timer's place in the wheel or the heap, ordered as it is to fire. If the node has another sequence by now, the
/// timer was cancelled, and the entry is dropped by whoever comes across it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    deadline: u64,
    sequence: u64,
    index: u32,
}

/// The timers of one slot of the wheel, in no order.
struct Slot {
    /// Not later than any in `entries`; means nothing if that is empty. It may itself have been cancelled.
    first: Entry,
    entries: Vec<Entry>,
}

/// A set of timers, each a deadline in nanoseconds and a value. See the module's description.
pub(crate) struct Timers<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    sequence: u64,
    /// In ticks: entries before it are in `near`, the others in the wheel. It never goes back.
    horizon: u64,
    near: BinaryHeap<Reverse<Entry>>,
    /// Bit `l` is set if level `l` holds anything.
    levels: u32,
    /// Bit `s` is set if slot `s` of the level holds anything.
    occupied: [u64; LEVELS],
    slots: Box<[Slot]>,
    /// Where to sweep next: a slot's number, or one more than the last for the heap, and the entry in the slot.
    sweep_slot: usize,
    sweep_entry: usize,
    /// How many entries may be swept for what was cancelled so far.
    sweep_credit: usize,
}

fn tick_of(deadline: u64) -> u64 {
    deadline >> TICK_BITS
}

/// The slot that the level's digit of this tick names.
fn digit(tick: u64, level: usize) -> usize {
    (tick >> (level as u32 * SLOT_BITS)) as usize % SLOTS
}

fn is_live<T>(nodes: &[Node<T>], entry: &Entry) -> bool {
    nodes[entry.index as usize].sequence == entry.sequence
}

impl<T> Timers<T> {
    /// An empty set. `now` is only a hint: where to begin.
    pub(crate) fn new(now: u64) -> Self {
        let none = Entry { deadline: 0, sequence: 0, index: 0 };
        Timers {
            nodes: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            horizon: tick_of(now),
            near: BinaryHeap::new(),
            levels: 0,
            occupied: [0; LEVELS],
            slots: (0..LEVELS * SLOTS).map(|_| Slot { first: none, entries: Vec::new() }).collect(),
            sweep_slot: 0,
            sweep_entry: 0,
            sweep_credit: 0,
        }
    }

    /// How many timers are waiting.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Whether none is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a timer. Any deadline will do: one already past is due at the next [`pop_due`](Self::pop_due).
    ///
    /// # Panics
    ///
    /// If 2^32 timers are waiting already.
    pub(crate) fn insert(&mut self, deadline: u64, value: T) -> TimerKey {
        self.sequence += 1;
        let node = Node { sequence: self.sequence, value: Some(value) };
        let index = if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            index
        } else {
            let index = u32::try_from(self.nodes.len()).expect("fewer than 2^32 timers");
            self.nodes.push(node);
            index
        };
        self.put(Entry { deadline, sequence: self.sequence, index });
        TimerKey { index, generation: self.sequence as u32 }
    }

    /// Takes a timer out and gives its value back; `None` if it has fired or was cancelled before.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if node.value.is_none() || node.sequence as u32 != key.generation {
            return None;
        }
        let value = self.release(key.index);
        self.sweep();
        value
    }

    /// Takes the earliest timer if its deadline is not after `now`; among equal deadlines, the one inserted first.
    ///
    /// Call it until it says `None`. A `now` before an earlier call's is allowed, and fires nothing early.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<(u64, T)> {
        loop {
            while let Some(&Reverse(first)) = self.near.peek() {
                if first.deadline > now {
                    return None;
                }
                self.near.pop();
                if is_live(&self.nodes, &first) {
                    return self.release(first.index).map(|value| (first.deadline, value));
                }
            }
            if !self.advance(tick_of(now)) {
                return None;
            }
        }
    }

    /// When to call [`pop_due`](Self::pop_due) next; `None` if no timer is waiting.
    ///
    /// Never later than the earliest deadline, and equal to it unless the earliest slot is long and its earliest
    /// timer was cancelled. A caller woken too early by that finds nothing due, and asks again: by then the
    /// cancelled one is gone.
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        while let Some(Reverse(first)) = self.near.peek() {
            if is_live(&self.nodes, first) {
                return Some(first.deadline);
            }
            self.near.pop();
        }
        // The horizon stays where it is: if it ran ahead to a far timer, all that comes later would go to the heap.
        loop {
            let (level, slot) = self.earliest()?;
            let Slot { first, entries } = &self.slots[level * SLOTS + slot];
            if entries.len() > FEW || is_live(&self.nodes, first) {
                return Some(first.deadline);
            }
            self.purge(level, slot);
        }
    }

    /// Frees the node and hands its value out. Its entry stays where it is.
    fn release(&mut self, index: u32) -> Option<T> {
        let node = &mut self.nodes[index as usize];
        node.sequence = 0;
        let value = node.value.take();
        self.free.push(index);
        if self.is_empty() {
            self.reset();
        }
        value
    }

    /// With no timer waiting: drops the entries of those cancelled, so that they wake nobody, and gives memory back.
    fn reset(&mut self) {
        self.near.clear();
        while let Some((level, slot)) = self.earliest() {
            self.take_slot(level, slot);
        }
        self.sweep_credit = 0;
        if self.nodes.len() > KEPT_NODES {
            // No key comes true again by this: `sequence` goes on.
            self.nodes = Vec::new();
            self.free = Vec::new();
            self.near = BinaryHeap::new();
        }
    }

    /// Pays for one cancelling: looks at some more entries, slot after slot and then the heap, and drops the dead.
    ///
    /// So cancelling takes constant time and no memory, and never stops for long.
    fn sweep(&mut self) {
        self.sweep_credit += SWEPT;
        if self.sweep_credit < FEW {
            return;
        }
        let (level, slot) = (self.sweep_slot / SLOTS, self.sweep_slot % SLOTS);
        let Some(rest) = self.occupied.get(level).map(|occupied| occupied >> slot) else {
            // The heap, last, is short as a rule; it is swept in one go, when that much has been paid for.
            if self.sweep_credit >= self.near.len() {
                self.sweep_credit = 0;
                self.near.retain(|Reverse(entry)| is_live(&self.nodes, entry));
                (self.sweep_slot, self.sweep_entry) = (0, 0);
            }
            return;
        };
        if rest & 1 == 0 {
            let skip = if rest == 0 { SLOTS - slot } else { rest.trailing_zeros() as usize };
            (self.sweep_slot, self.sweep_entry) = (self.sweep_slot + skip, 0);
            return;
        }
        self.sweep_credit = 0;
        let entries = &mut self.slots[self.sweep_slot].entries;
        for _ in 0..FEW {
            match entries.get(self.sweep_entry) {
                Some(entry) if is_live(&self.nodes, entry) => self.sweep_entry += 1,
                Some(_) => drop(entries.swap_remove(self.sweep_entry)),
                None => break,
            }
        }
        if entries.is_empty() {
            self.take_slot(level, slot);
        } else if self.sweep_entry < entries.len() {
            return;
        }
        (self.sweep_slot, self.sweep_entry) = (self.sweep_slot + 1, 0);
    }

    /// Drops the entries of cancelled timers from a slot.
    fn purge(&mut self, level: usize, slot: usize) {
        let Slot { first, entries } = &mut self.slots[level * SLOTS + slot];
        entries.retain(|entry| is_live(&self.nodes, entry));
        if let Some(earliest) = entries.iter().min() {
            *first = *earliest;
        } else {
            self.take_slot(level, slot);
        }
    }

    /// Level and slot of a tick not before the horizon: the level is that of the highest digit in which they differ.
    fn place(&self, tick: u64) -> (usize, usize) {
        let level = (((tick ^ self.horizon) | 1).ilog2() / SLOT_BITS) as usize;
        (level, digit(tick, level))
    }

    /// The first slot that holds anything. Lower levels are earlier: their timers agree with the horizon in more digits.
    fn earliest(&self) -> Option<(usize, usize)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros() as usize;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    fn put(&mut self, entry: Entry) {
        let tick = tick_of(entry.deadline);
        if tick < self.horizon {
            self.near.push(Reverse(entry));
            return;
        }
        let (level, slot) = self.place(tick);
        let Slot { first, entries } = &mut self.slots[level * SLOTS + slot];
        if entries.is_empty() || entry.deadline < first.deadline {
            *first = entry;
        }
        entries.push(entry);
        self.occupied[level] |= 1 << slot;
        self.levels |= 1 << level;
    }

    /// Empties a slot.
    fn take_slot(&mut self, level: usize, slot: usize) -> Vec<Entry> {
        self.occupied[level] &= !(1 << slot);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
        std::mem::take(&mut self.slots[level * SLOTS + slot].entries)
    }

    /// Gives an emptied slot its allocation back, if it is a small one.
    fn keep_room(&mut self, level: usize, slot: usize, mut entries: Vec<Entry>) {
        if entries.capacity() <= KEPT_ENTRIES {
            entries.clear();
            self.slots[level * SLOTS + slot].entries = entries;
        }
    }

    /// With the heap empty: moves the next slot that may be due at tick `target` into it. False if there is none, and
    /// then the horizon lies behind `target`.
    ///
    /// It goes slot by slot, not to `target` at once, so that after a long pause the heap is small all the same.
    fn advance(&mut self, target: u64) -> bool {
        while self.horizon <= target {
            let due = self
                .earliest()
                .map(|(level, slot)| (level, slot, tick_of(self.slots[level * SLOTS + slot].first.deadline)));
            match due {
                Some((0, slot, tick)) if tick <= target => {
                    let entries = self.take_slot(0, slot);
                    self.near.extend(entries.iter().copied().map(Reverse));
                    self.keep_room(0, slot, entries);
                    self.set_horizon(tick + 1);
                    return true;
                }
                Some((_, _, tick)) if tick <= target => self.set_horizon(tick),
                _ => self.set_horizon(target + 1),
            }
        }
        false
    }

    /// Moves the horizon to a tick at or before all in the wheel, and keeps the rule of [`place`](Self::place): if
    /// the horizon has come into a slot of a higher level, that slot's timers go to lower ones.
    ///
    /// Only the earliest slot can be concerned: what lies in others differs from it in this digit or a higher one.
    fn set_horizon(&mut self, tick: u64) {
        self.horizon = tick;
        let Some((level, slot)) = self.earliest() else {
            return;
        };
        if level > 0 && slot == digit(tick, level) {
            let entries = self.take_slot(level, slot);
            // Dead ones too: to look at every node, in the order they lie in memory, would take several times longer.
            for entry in &entries {
                self.put(*entry);
            }
            self.keep_room(level, slot, entries);
        }
    }
}

impl<T> fmt::Debug for Timers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers")
            .field("len", &self.len())
            .field("horizon_ns", &(u128::from(self.horizon) << TICK_BITS))
            .field("near", &self.near.len())
            .finish_non_exhaustive()
    }
}

// The path is written out for benches/timer.rs, which compiles this file from elsewhere.
#[cfg(test)]
#[path = "timer/tests.rs"]
mod tests;
