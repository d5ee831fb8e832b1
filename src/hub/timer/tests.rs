//! The timers by themselves, then beside a plain model: a `BTreeMap` by (deadline, order of insertion).

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;

const TICK: u64 = 1 << TICK_BITS;

impl<T> Timers<T> {
    /// What must hold between any two calls.
    fn check(&self) {
        let mut entries = Vec::new();
        let mut levels = 0;
        for level in 0..LEVELS {
            let mut occupied = 0;
            for slot in 0..SLOTS {
                let list = &self.slots[level * SLOTS + slot];
                occupied |= u64::from(!list.entries.is_empty()) << slot;
                for entry in &list.entries {
                    let tick = tick_of(entry.deadline);
                    assert!(tick >= self.horizon, "before the horizon, yet in the wheel");
                    assert_eq!(self.place(tick), (level, slot), "in the wrong slot");
                    assert!(list.first.deadline <= entry.deadline, "an earlier one than the first");
                }
                entries.extend(&list.entries);
            }
            assert_eq!(self.occupied[level], occupied);
            levels |= u32::from(occupied != 0) << level;
        }
        assert_eq!(self.levels, levels);
        assert!(self.near.iter().all(|near| tick_of(near.0.deadline) < self.horizon));
        entries.extend(self.near.iter().map(|near| near.0));
        assert!(entries.len() <= 2 * self.len() + 1000, "{} entries for {}", entries.len(), self.len());
        entries.retain(|entry| is_live(&self.nodes, entry));
        entries.sort_unstable();
        entries.dedup();
        assert_eq!(entries.len(), self.len());
        assert_eq!(self.nodes.iter().filter(|node| node.value.is_some()).count(), self.len());
    }

    fn drain(&mut self, now: u64) -> Vec<(u64, T)> {
        std::iter::from_fn(|| self.pop_due(now)).collect()
    }
}

#[test]
fn empty_set_has_nothing_due_and_no_deadline() {
    let mut timers = Timers::<()>::new(5);
    assert!(timers.is_empty());
    assert_eq!(timers.next_deadline(), None);
    assert_eq!(timers.pop_due(u64::MAX), None);
    assert_eq!(timers.next_deadline(), None);
}

#[test]
fn fires_at_its_nanosecond_and_not_before() {
    for deadline in
        [1, TICK - 1, TICK, TICK + 1, 64 * TICK, 64 * 64 * TICK + 7, 1 << 40, u64::MAX - 1, u64::MAX]
    {
        let mut timers = Timers::new(0);
        timers.insert(deadline, ());
        assert_eq!(timers.next_deadline(), Some(deadline));
        assert_eq!(timers.pop_due(deadline - 1), None);
        timers.check();
        assert_eq!(timers.next_deadline(), Some(deadline));
        assert_eq!(timers.pop_due(deadline), Some((deadline, ())));
        assert_eq!(timers.pop_due(u64::MAX), None);
        assert!(timers.is_empty());
    }
}

#[test]
fn deadline_in_the_past_is_due_at_once_and_in_order() {
    let mut timers = Timers::new(100 * TICK);
    timers.insert(100 * TICK, 'd');
    timers.insert(7, 'c');
    timers.insert(0, 'a');
    timers.insert(0, 'b');
    assert_eq!(timers.next_deadline(), Some(0));
    assert_eq!(timers.drain(100 * TICK), [(0, 'a'), (0, 'b'), (7, 'c'), (100 * TICK, 'd')]);
}

#[test]
fn clock_at_its_end_still_takes_timers() {
    let mut timers = Timers::new(u64::MAX);
    timers.insert(u64::MAX, 1);
    assert_eq!(timers.drain(u64::MAX), [(u64::MAX, 1)]);
    timers.insert(u64::MAX, 2);
    timers.insert(3, 3);
    assert_eq!(timers.next_deadline(), Some(3));
    assert_eq!(timers.drain(u64::MAX), [(3, 3), (u64::MAX, 2)]);
    timers.check();
}

#[test]
fn equal_deadlines_fire_in_order_of_insertion_across_wheel_and_heap() {
    let deadline = 70 * TICK + 9;
    let mut timers = Timers::new(0);
    timers.insert(deadline, 0); // level 1
    assert_eq!(timers.pop_due(65 * TICK), None);
    timers.insert(deadline, 1); // level 0
    assert_eq!(timers.pop_due(70 * TICK), None);
    timers.insert(deadline, 2); // the heap
    timers.check();
    assert_eq!(timers.drain(deadline), [(deadline, 0), (deadline, 1), (deadline, 2)]);
}

#[test]
fn far_timer_does_not_carry_the_horizon_away() {
    let mut timers = Timers::new(0);
    timers.insert(1 << 50, ());
    assert_eq!(timers.next_deadline(), Some(1 << 50));
    assert_eq!(timers.pop_due(TICK), None);
    assert_eq!(timers.horizon, 2);
    timers.insert(1 << 40, ());
    assert!(timers.near.is_empty());
}

#[test]
fn long_pause_does_not_fill_the_heap() {
    let mut timers = Timers::new(0);
    for i in 0..10_000 {
        timers.insert(i * TICK, i);
    }
    for i in 0..10_000 {
        assert_eq!(timers.pop_due(u64::MAX), Some((i * TICK, i)));
        assert!(timers.near.len() <= 1);
    }
}

#[test]
fn cancel_gives_the_value_back_once() {
    for deadline in [0, TICK, 1 << 45] {
        let mut timers = Timers::new(TICK);
        let key = timers.insert(deadline, "x");
        assert_eq!(timers.cancel(key), Some("x"));
        assert_eq!(timers.cancel(key), None);
        assert_eq!(timers.len(), 0);
        assert_eq!(timers.next_deadline(), None);
        assert_eq!(timers.pop_due(u64::MAX), None);
        timers.check();
    }
}

#[test]
fn key_of_a_fired_timer_does_not_cancel_the_one_in_its_place() {
    let mut timers = Timers::new(0);
    let old = timers.insert(1, 'a');
    assert_eq!(timers.pop_due(1), Some((1, 'a')));
    let new = timers.insert(2, 'b');
    assert_eq!(old.index, new.index);
    assert_ne!(old, new);
    assert_eq!(timers.cancel(old), None);
    assert_eq!(timers.cancel(new), Some('b'));
}

#[test]
fn key_outlives_a_slab_given_back() {
    let mut timers = Timers::new(0);
    let keys: Vec<_> = (0..KEPT_NODES as u64 + 1).map(|i| timers.insert(i, i)).collect();
    for (key, i) in keys.iter().zip(0..) {
        assert_eq!(timers.cancel(*key), Some(i));
    }
    assert_eq!(timers.nodes.capacity() + timers.near.capacity(), 0);
    timers.check();
    assert_eq!(timers.cancel(keys[0]), None);
    timers.insert(9, 9);
    assert_eq!(timers.cancel(keys[0]), None);
    assert_eq!(timers.drain(9), [(9, 9)]);
}

#[test]
fn cancelled_earliest_of_a_short_slot_asks_for_no_wake() {
    let mut timers = Timers::new(0);
    let first = timers.insert(5 * TICK, ());
    timers.insert(5 * TICK + 50, ());
    timers.cancel(first);
    assert_eq!(timers.next_deadline(), Some(5 * TICK + 50));
}

#[test]
fn cancelled_earliest_of_a_long_slot_asks_for_one_wake() {
    let mut timers = Timers::new(0);
    let first = timers.insert(5 * TICK, 0);
    for i in 0..1000 {
        timers.insert(5 * TICK + 50, i);
    }
    timers.cancel(first);
    assert_eq!(timers.next_deadline(), Some(5 * TICK));
    assert_eq!(timers.pop_due(5 * TICK), None);
    assert_eq!(timers.next_deadline(), Some(5 * TICK + 50));
}

#[test]
fn slot_emptied_by_cancelling_asks_for_no_wake() {
    let mut timers = Timers::new(0);
    let keys: Vec<_> = (0..1000).map(|i| timers.insert((1 << 30) + i, ())).collect();
    for key in keys {
        timers.cancel(key);
    }
    assert_eq!(timers.next_deadline(), None);
    timers.insert((1 << 30) + 2, ());
    assert_eq!(timers.next_deadline(), Some((1 << 30) + 2));
}

#[test]
fn cancelling_leaves_no_heap_of_dead_entries() {
    for far in [0, 30_000_000_000] {
        let mut timers = Timers::new(1 << 30);
        timers.insert(0, 0);
        timers.insert(u64::MAX, 0);
        for i in 0..100_000 {
            let key = timers.insert(far + i, i);
            assert_eq!(timers.cancel(key), Some(i));
            if i % 1000 == 0 {
                timers.check();
            }
        }
        assert_eq!(timers.nodes.len(), 3);
        timers.check();
    }
}

#[test]
fn many_alive_and_replaced_at_random_leave_few_dead_entries() {
    let mut timers = Timers::new(0);
    let mut keys: Vec<_> = (0..20_000).map(|i| timers.insert((1 << 35) + i, i)).collect();
    for i in 0..200_000 {
        let n = (i * 7919 % 20_000) as usize;
        timers.cancel(keys[n]).unwrap();
        keys[n] = timers.insert((1 << 35) + i * 1000, i);
        if i % 10_000 == 0 {
            timers.pop_due(i * 1000);
            timers.check();
        }
    }
}

#[test]
fn values_left_over_are_dropped_with_the_set() {
    let value = Rc::new(());
    let mut timers = Timers::new(TICK);
    for deadline in [0, 1, TICK, 1 << 40] {
        timers.insert(deadline, Rc::clone(&value));
    }
    timers.pop_due(0);
    assert_eq!(Rc::strong_count(&value), 4);
    drop(timers);
    assert_eq!(Rc::strong_count(&value), 1);
}

#[test]
fn timer_takes_44_bytes_with_a_pointer() {
    assert_eq!(size_of::<Node<std::ptr::NonNull<()>>>() + size_of::<Entry>() + size_of::<u32>(), 44);
    assert_eq!(size_of::<TimerKey>(), 8);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// At so many nanoseconds from now, or before it.
    Insert(i64),
    InsertAt(u64),
    /// Again at the deadline of an earlier insertion.
    Tie(usize),
    Cancel(usize),
    /// The clock goes on, and all that is due fires.
    Advance(u64),
    /// The clock goes on, but the caller takes only some.
    AdvanceTake(u64, usize),
    /// Sleep as the hub does: until `next_deadline`.
    Sleep,
    Next,
}

/// Spans of every size: within a tick, at its edges, over levels.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..3u64,
        0..TICK,
        0..4096 * TICK,
        (0..=63u32, 0..3u64).prop_map(|(bits, d)| ((1u64 << bits) - 1 + d).min(i64::MAX as u64)),
        (0..=63u32).prop_flat_map(|bits| 0..=((1u64 << bits) - 1)),
        (0..200u64, 0..3u64).prop_map(|(ticks, d)| (ticks * TICK + d).saturating_sub(1)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (span(), prop::bool::weighted(0.1)).prop_map(|(s, past)| Step::Insert(if past { -(s as i64) } else { s as i64 })),
        1 => prop_oneof![Just(0), Just(u64::MAX), Just(u64::MAX - TICK), any::<u64>()].prop_map(Step::InsertAt),
        4 => any::<usize>().prop_map(Step::Tie),
        5 => any::<usize>().prop_map(Step::Cancel),
        3 => span().prop_map(|s| Step::Advance(s & ((1 << 40) - 1))),
        1 => span().prop_map(Step::Advance),
        2 => (span(), 0..4usize).prop_map(|(s, n)| Step::AdvanceTake(s & ((1 << 32) - 1), n)),
        4 => Just(Step::Sleep),
        2 => Just(Step::Next),
    ]
}

/// The set under test beside the model.
struct Pair {
    timers: Timers<usize>,
    model: BTreeMap<(u64, usize), ()>,
    keys: Vec<(TimerKey, u64)>,
    now: u64,
}

impl Pair {
    fn insert(&mut self, deadline: u64) {
        let n = self.keys.len();
        self.keys.push((self.timers.insert(deadline, n), deadline));
        self.model.insert((deadline, n), ());
    }

    fn pop(&mut self) -> Option<(u64, usize)> {
        let due = self.model.first_key_value().map(|(key, ())| *key).filter(|key| key.0 <= self.now);
        if let Some(key) = due {
            self.model.remove(&key);
        }
        assert_eq!(self.timers.pop_due(self.now), due, "at {}", self.now);
        due
    }

    fn next(&mut self) -> Option<u64> {
        let truth = self.model.first_key_value().map(|(key, ())| key.0);
        let next = self.timers.next_deadline();
        assert_eq!(next.is_some(), truth.is_some());
        assert!(next <= truth, "{next:?} is later than {truth:?}");
        next
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Insert(ns) => self.insert(self.now.saturating_add_signed(ns)),
            Step::InsertAt(deadline) => self.insert(deadline),
            Step::Tie(n) if !self.keys.is_empty() => self.insert(self.keys[n % self.keys.len()].1),
            Step::Cancel(n) if !self.keys.is_empty() => {
                let n = n % self.keys.len();
                let (key, deadline) = self.keys[n];
                let had = self.model.remove(&(deadline, n)).map(|()| n);
                assert_eq!(self.timers.cancel(key), had);
            }
            Step::Tie(_) | Step::Cancel(_) => {}
            Step::Advance(ns) => {
                self.now = self.now.saturating_add(ns);
                while self.pop().is_some() {}
            }
            Step::AdvanceTake(ns, n) => {
                self.now = self.now.saturating_add(ns);
                for _ in 0..n {
                    self.pop();
                }
            }
            Step::Sleep => {
                if let Some(next) = self.next() {
                    self.now = self.now.max(next);
                    while self.pop().is_some() {}
                    let after = self.next();
                    assert!(
                        after.is_none_or(|after| after > self.now),
                        "a wake that changes nothing: the hub would spin"
                    );
                }
            }
            Step::Next => {
                self.next();
            }
        }
        self.timers.check();
        assert_eq!(self.timers.len(), self.model.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(start in prop_oneof![Just(0), span(), any::<u64>()], steps in prop::collection::vec(step(), 1..150)) {
        let mut pair = Pair { timers: Timers::new(start), model: BTreeMap::new(), keys: Vec::new(), now: start };
        for step in steps {
            pair.apply(step);
        }
        pair.now = u64::MAX;
        while pair.pop().is_some() {}
        assert!(pair.timers.is_empty());
        pair.timers.check();
    }

    /// However stale `next_deadline` is made by cancelling, a sleeper gets to the true deadline in a few wakes.
    #[test]
    fn wakes_in_vain_are_few(deadlines in prop::collection::vec(span(), 2..200), keep in any::<usize>()) {
        let mut timers = Timers::new(0);
        let keys: Vec<_> = deadlines.iter().map(|&deadline| timers.insert(deadline, ())).collect();
        let keep = keep % keys.len();
        for (n, key) in keys.iter().enumerate() {
            if n != keep {
                timers.cancel(*key);
            }
        }
        let mut vain = 0;
        while let Some(next) = timers.next_deadline() {
            match timers.pop_due(next) {
                Some((deadline, ())) => assert_eq!(deadline, deadlines[keep]),
                None => vain += 1,
            }
        }
        assert!(timers.is_empty());
        assert!(vain <= 1, "{vain} wakes in vain"); // a slot is looked through when it is reached
    }
}
