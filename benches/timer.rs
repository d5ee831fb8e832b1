//! The hub's timers beside the two plain structures one would take from std: a binary heap with lazy cancelling, and
//! a B-tree by deadline. `cargo bench --bench timer`

use criterion::{BatchSize, BenchmarkGroup, Criterion, measurement::WallTime};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hint::black_box;
use std::time::{Duration, Instant};

// The structure is private to the crate, and stays so: the bench compiles its file a second time.
#[path = "../src/hub/timer.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "what only the crate and its tests use; `pub(crate)` there is not meant for this crate"
)]
mod timer;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;
const MILLION: usize = 1_000_000;

/// What is measured of each.
trait Set {
    const NAME: &'static str;
    type Key: Copy;
    fn new() -> Self;
    fn insert(&mut self, deadline: u64, value: u64) -> Self::Key;
    fn cancel(&mut self, key: Self::Key) -> Option<u64>;
    fn pop_due(&mut self, now: u64) -> Option<(u64, u64)>;
    fn next_deadline(&mut self) -> Option<u64>;
}

impl Set for timer::Timers<u64> {
    const NAME: &'static str = "ours";
    type Key = timer::TimerKey;
    fn new() -> Self {
        timer::Timers::new(0)
    }
    fn insert(&mut self, deadline: u64, value: u64) -> Self::Key {
        self.insert(deadline, value)
    }
    fn cancel(&mut self, key: Self::Key) -> Option<u64> {
        self.cancel(key)
    }
    fn pop_due(&mut self, now: u64) -> Option<(u64, u64)> {
        self.pop_due(now)
    }
    fn next_deadline(&mut self) -> Option<u64> {
        self.next_deadline()
    }
}

/// A binary heap over a slab; a cancelled entry stays in the heap until it is met, or until more than half are such.
struct LazyHeap {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    slab: Vec<(u64, Option<u64>)>,
    free: Vec<u32>,
    sequence: u64,
    dead: usize,
}

impl LazyHeap {
    fn take(&mut self, index: u32, sequence: u64) -> Option<u64> {
        let (s, value) = &mut self.slab[index as usize];
        if *s != sequence {
            return None;
        }
        let value = value.take()?;
        self.free.push(index);
        Some(value)
    }
}

impl Set for LazyHeap {
    const NAME: &'static str = "BinaryHeap, lazy cancel";
    type Key = (u32, u64);
    fn new() -> Self {
        LazyHeap { heap: BinaryHeap::new(), slab: Vec::new(), free: Vec::new(), sequence: 0, dead: 0 }
    }
    fn insert(&mut self, deadline: u64, value: u64) -> Self::Key {
        self.sequence += 1;
        let entry = (self.sequence, Some(value));
        let index = if let Some(index) = self.free.pop() {
            self.slab[index as usize] = entry;
            index
        } else {
            self.slab.push(entry);
            (self.slab.len() - 1) as u32
        };
        self.heap.push(Reverse((deadline, self.sequence, index)));
        (index, self.sequence)
    }
    fn cancel(&mut self, (index, sequence): Self::Key) -> Option<u64> {
        let value = self.take(index, sequence)?;
        self.dead += 1;
        if self.dead > 32 && self.dead > self.heap.len() / 2 {
            let slab = &self.slab;
            self.heap.retain(|Reverse((_, s, i))| matches!(slab[*i as usize], (t, Some(_)) if t == *s));
            self.dead = 0;
        }
        Some(value)
    }
    fn pop_due(&mut self, now: u64) -> Option<(u64, u64)> {
        while let Some(&Reverse((deadline, sequence, index))) = self.heap.peek() {
            if deadline > now {
                return None;
            }
            self.heap.pop();
            if let Some(value) = self.take(index, sequence) {
                return Some((deadline, value));
            }
            self.dead -= 1;
        }
        None
    }
    fn next_deadline(&mut self) -> Option<u64> {
        while let Some(&Reverse((deadline, sequence, index))) = self.heap.peek() {
            if matches!(self.slab[index as usize], (s, Some(_)) if s == sequence) {
                return Some(deadline);
            }
            self.heap.pop();
            self.dead -= 1;
        }
        None
    }
}

#[derive(Default)]
struct Tree {
    tree: BTreeMap<(u64, u64), u64>,
    sequence: u64,
}

impl Set for Tree {
    const NAME: &'static str = "BTreeMap";
    type Key = (u64, u64);
    fn new() -> Self {
        Tree::default()
    }
    fn insert(&mut self, deadline: u64, value: u64) -> Self::Key {
        self.sequence += 1;
        self.tree.insert((deadline, self.sequence), value);
        (deadline, self.sequence)
    }
    fn cancel(&mut self, key: Self::Key) -> Option<u64> {
        self.tree.remove(&key)
    }
    fn pop_due(&mut self, now: u64) -> Option<(u64, u64)> {
        let first = self.tree.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let ((deadline, _), value) = first.remove_entry();
        Some((deadline, value))
    }
    fn next_deadline(&mut self) -> Option<u64> {
        self.tree.first_key_value().map(|(key, _)| key.0)
    }
}

/// xorshift64*: the same numbers for all.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * u128::from(n)) >> 64) as u64
    }
}

/// A read with a 30 s timeout that is answered in time, over and over, on a million connections: one cancelled at
/// random, one inserted, 100 ns later than the last.
fn replace<M: Set>(group: &mut BenchmarkGroup<'_, WallTime>, alive: usize) {
    let mut set = M::new();
    let mut random = Random(7);
    let mut now = 0;
    let step = (100 * MILLION / alive) as u64;
    let mut keys: Vec<M::Key> = Vec::new();
    for i in 0..alive {
        now += step;
        keys.push(set.insert(now + 30 * S, i as u64));
    }
    let mut next = |now: &mut u64| {
        *now += step;
        let n = random.below(alive as u64) as usize;
        assert!(set.cancel(keys[n]).is_some());
        keys[n] = set.insert(*now + 30 * S, n as u64);
        if *now % 1024 == 0 {
            // The hub looks at its timers now and then; those not cancelled for 30 s fire, and are set again.
            while let Some((_, n)) = set.pop_due(*now) {
                keys[n as usize] = set.insert(*now + 30 * S, n);
            }
            black_box(set.next_deadline());
        }
    };
    for _ in 0..2 * alive {
        next(&mut now);
    }
    group.bench_function(M::NAME, |b| b.iter(|| next(&mut now)));
}

fn filled<M: Set>(span: u64) -> M {
    let mut set = M::new();
    let mut random = Random(9);
    for i in 0..MILLION {
        set.insert(random.below(span), i as u64);
    }
    set
}

/// A million over 60 s: the time is for all of them. The clock goes in steps of 1 ms, or in one jump.
fn fire<M: Set>(group: &mut BenchmarkGroup<'_, WallTime>, step: u64) {
    group.bench_function(M::NAME, |b| {
        b.iter_batched(
            || filled::<M>(60 * S),
            |mut set| {
                let (mut now, mut fired) = (0, 0);
                while fired < MILLION {
                    now += step;
                    while let Some(due) = set.pop_due(now) {
                        black_box(due);
                        fired += 1;
                    }
                    black_box(set.next_deadline());
                }
                set
            },
            BatchSize::PerIteration,
        );
    });
}

fn insert_million<M: Set>(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function(M::NAME, |b| b.iter_with_large_drop(|| filled::<M>(60 * S)));
}

/// The common case: a few sleepers, each of which sleeps again when woken; the hub waits for the next.
fn sleep<M: Set>(group: &mut BenchmarkGroup<'_, WallTime>, alive: u64, ns: u64) {
    let mut set = M::new();
    for i in 0..alive {
        set.insert(i * ns / alive, i);
    }
    group.bench_function(M::NAME, |b| {
        b.iter(|| {
            let now = set.next_deadline().unwrap();
            while let Some((_, value)) = set.pop_due(now) {
                set.insert(now + ns, value);
            }
        });
    });
}

/// The longest stop: the one call that finds a million timers of 5 minutes in one slot and spreads them below.
fn longest<M: Set>(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function(M::NAME, |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let mut set = M::new();
                let mut random = Random(3);
                // The free nodes are in random order, as in a program that has run for a while.
                let mut keys: Vec<_> = (0..MILLION).map(|i| set.insert(random.below(S), i as u64)).collect();
                set.insert(1000 * S, 0);
                while !keys.is_empty() {
                    let n = random.below(keys.len() as u64) as usize;
                    set.cancel(keys.swap_remove(n));
                }
                for i in 0..MILLION {
                    set.insert(300 * S + random.below(200 * S), i as u64);
                }
                let mut longest = Duration::ZERO;
                let mut now = 0;
                let mut fired = 0;
                while fired < 10 {
                    now += MS;
                    let start = Instant::now();
                    let due = set.pop_due(now);
                    longest = longest.max(start.elapsed());
                    fired += usize::from(due.is_some());
                }
                total += longest;
            }
            total
        });
    });
}

/// The longest single cancel of 1,200,000 at random, each followed by an insert, with a million alive.
fn longest_cancel<M: Set>(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.bench_function(M::NAME, |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let mut set = M::new();
                let mut random = Random(5);
                let mut keys: Vec<_> = (0..MILLION as u64).map(|i| set.insert(30 * S + i * 100, i)).collect();
                let mut longest = Duration::ZERO;
                for i in 0..1_200_000 {
                    let n = random.below(MILLION as u64) as usize;
                    let start = Instant::now();
                    black_box(set.cancel(keys[n]));
                    longest = longest.max(start.elapsed());
                    keys[n] = set.insert(31 * S + i * 100, i);
                }
                total += longest;
            }
            total
        });
    });
}

macro_rules! each {
    ($c:expr, $title:expr, $samples:expr, $f:ident($($arg:expr),*)) => {{
        let mut group = $c.benchmark_group($title);
        group.sample_size($samples).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
        $f::<timer::Timers<u64>>(&mut group $(, $arg)*);
        $f::<LazyHeap>(&mut group $(, $arg)*);
        $f::<Tree>(&mut group $(, $arg)*);
        group.finish();
    }};
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    let c = &mut c;
    each!(c, "cancel + insert 30 s, 1,000,000 alive", 50, replace(MILLION));
    each!(c, "cancel + insert 30 s, 1,000 alive", 50, replace(1_000));
    each!(c, "insert 1,000,000 over 60 s", 10, insert_million());
    each!(c, "fire 1,000,000 over 60 s, steps of 1 ms", 10, fire(MS));
    each!(c, "fire 1,000,000 over 60 s, one jump", 10, fire(60 * S));
    each!(c, "sleep 50 us, 1 alive", 50, sleep(1, 50 * US));
    each!(c, "sleep 50 us, 10 alive", 50, sleep(10, 50 * US));
    each!(c, "sleep 20 ms, 1 alive", 50, sleep(1, 20 * MS));
    each!(c, "sleep 20 ms, 10 alive", 50, sleep(10, 20 * MS));
    each!(c, "sleep 20 ms, 10,000 alive", 50, sleep(10_000, 20 * MS));
    each!(c, "longest pop_due, 1,000,000 of 300 to 500 s", 10, longest());
    each!(c, "longest cancel of 1,200,000, 1,000,000 alive", 10, longest_cancel());
    c.final_summary();
}
