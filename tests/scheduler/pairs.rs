//! The model's socket pairs, and the budget of calls that do not wait.
//!
//! What is known of a pair is what edge-triggered epoll tells: a side is tried unless it is known to be
//! drained, and whoever finds it so waits for the next edge. Edges are seen when the hub looks, in the
//! order in which they came.

use super::Out;
use super::model::{Flow, Life, Model, Raise, Ready, Target, Then};
use super::program::{BURST, Kind, Op, PAIRS, WRITES};

/// What the model knows of the pairs.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pairs: [Pair; PAIRS],
    /// The pairs that epoll has something to tell of.
    edges: Vec<usize>,
}

#[derive(Debug, Default)]
struct Pair {
    /// Bytes on the way.
    bytes: u64,
    writes: usize,
    closed: bool,
    /// The hub watches the reading end: somebody has waited for it.
    watched: bool,
    /// It is known to be drained; counts only while it is watched.
    drained: bool,
    /// Who waits to read, and in which wait of theirs.
    readers: Vec<(usize, u64)>,
}

impl Pairs {
    fn edge(&mut self, pair: usize) {
        if self.pairs[pair].watched && !self.edges.contains(&pair) {
            self.edges.push(pair);
        }
    }

    /// A task begins to wait.
    pub(super) fn enter(&mut self, pair: usize, t: usize, wait: u64) {
        if !self.pairs[pair].watched {
            self.pairs[pair].watched = true;
            self.edge(pair); // told at once that it can be written
        }
        self.pairs[pair].readers.push((t, wait));
    }

    /// A task waits no more.
    pub(super) fn leave(&mut self, pair: usize, t: usize, wait: u64) {
        self.pairs[pair].readers.retain(|&reader| reader != (t, wait));
    }
}

impl<'p> Model<'p> {
    /// The hub looks at its descriptors.
    pub(super) fn poll(&mut self) {
        for pair in std::mem::take(&mut self.pairs.edges) {
            let it = &mut self.pairs.pairs[pair];
            if it.bytes == 0 && !it.closed {
                continue;
            }
            it.drained = false;
            for (t, wait) in std::mem::take(&mut it.readers) {
                self.grant(t, wait);
            }
        }
    }

    /// Nothing can happen but on a pair: the first that is waited for is shut down.
    pub(super) fn close_a_pair(&mut self) -> bool {
        let Some(pair) = self.pairs.pairs.iter().position(|pair| !pair.readers.is_empty()) else {
            return false;
        };
        self.pairs.pairs[pair].closed = true;
        self.pairs.edge(pair);
        true
    }

    pub(super) fn of_pair(&mut self, t: usize, op: &'p Op) -> Flow {
        let n = usize::from(op.a) % PAIRS;
        let pair = &mut self.pairs.pairs[n];
        let writes = match op.kind {
            Kind::Write => 1,
            Kind::Burst => BURST,
            _ => 0,
        };
        if self.program.looks != 1 || pair.writes + writes > WRITES {
            return self.done(t, op, Out::Skipped);
        }
        pair.writes += writes;
        if op.kind == Kind::Read { self.read(t, op, n) } else { self.write(t, op, writes) }
    }

    /// Tries to read, and waits where there is nothing.
    pub(super) fn read(&mut self, t: usize, op: &'p Op, n: usize) -> Flow {
        let pair = &mut self.pairs.pairs[n];
        if !pair.watched || !pair.drained {
            if pair.bytes > 0 || pair.closed {
                let bytes = pair.bytes.min(u64::from(op.b % 4 + 1));
                pair.bytes -= bytes;
                return self.spend(t, op, Out::Got(bytes), 0);
            }
            pair.drained = true;
        }
        self.wait(t, op, Some(Target::Pair(n)), None)
    }

    fn write(&mut self, t: usize, op: &'p Op, left: usize) -> Flow {
        let n = usize::from(op.a) % PAIRS;
        let pair = &mut self.pairs.pairs[n];
        if pair.closed {
            return self.spend(t, op, Out::Error(libc::EPIPE), 0);
        }
        let bytes = if op.kind == Kind::Burst { 1 } else { u64::from(op.b % 4 + 1) };
        pair.bytes += bytes;
        self.pairs.edge(n);
        self.spend(t, op, Out::Got(bytes), left - 1)
    }

    /// A call did not wait: it counts.
    fn spend(&mut self, t: usize, op: &'p Op, out: Out, left: usize) -> Flow {
        if self.budget > 0 {
            self.budget -= 1;
        } else if self.tasks[t].pending.is_empty() {
            self.ready.push_back(Ready::Task(t));
            return self.park(t, Life::Parked, Then::Spent(op, out, left));
        } else {
            self.budget = self.program.budget;
        }
        if left > 0 { self.write(t, op, left) } else { self.done(t, op, out) }
    }

    /// A kill that came meanwhile is not for this call, which had succeeded.
    pub(super) fn after_spending(&mut self, t: usize, op: &'p Op, out: Out, left: usize) -> Flow {
        self.budget = self.program.budget;
        if left > 0 { self.write(t, op, left) } else { self.done(t, op, out) }
    }

    /// What an interrupted call returns where it may not unwind.
    pub(super) fn errno(&self, t: usize) -> i32 {
        match self.tasks[t].pending.first() {
            Some(Raise::Timeout(_)) => libc::ETIMEDOUT,
            _ => libc::ECANCELED,
        }
    }
}
