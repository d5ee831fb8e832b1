//! The model's tasks: how they start, wait, unwind and end.

use super::model::{Arrival, AtEnd, Block, Due, Flow, Frame, Life, Model, Raise, Ready, Target, Then, Wait};
use super::program::{Kind, Make, Op};
use super::{Event, How, Out, Why};

impl<'p> Model<'p> {
    pub(super) fn note(&mut self, event: Event) {
        self.trace.push((self.now, event));
    }

    pub(super) fn done(&mut self, t: usize, op: &Op, out: Out) -> Flow {
        self.note(Event::Done(t, op.id, out));
        Flow::Go
    }

    pub(super) fn is_raw(&self, t: usize) -> bool {
        self.program.tasks[t].make == Make::Raw
    }

    pub(super) fn open(&mut self, t: usize, ops: &'p [Op], block: Block, id: usize) {
        self.tasks[t].frames.push(Frame { ops, next: 0, block, id });
    }

    pub(super) fn shielded(&self, t: usize) -> bool {
        self.tasks[t].frames.iter().any(|frame| frame.block == Block::Shield)
    }

    /// A kill before timeouts, the first of either first.
    pub(super) fn take_pending(&mut self, t: usize) -> Option<Raise> {
        let pending = &mut self.tasks[t].pending;
        if pending.is_empty() {
            return None;
        }
        let first = pending.iter().position(|raise| !matches!(raise, Raise::Timeout(_))).unwrap_or(0);
        Some(pending.remove(first))
    }

    pub(super) fn spawn(&mut self, by: usize, t: usize) -> bool {
        if self.tasks[t].life != Life::Absent || t == 0 {
            return false;
        }
        self.tasks[t].life = Life::Unstarted;
        match self.program.tasks[t].make {
            Make::Root => {}
            Make::Spawned => self.ready.push_back(Ready::Task(t)),
            Make::Later(d) => {
                let at = self.now + self.program.millis(d);
                self.timer(at, Due::Start(t));
            }
            Make::Raw => {
                self.tasks[t].parent = Some(by);
                self.tasks[by].had_children = true;
            }
        }
        true
    }

    /// A task has the thread: takes what came, and says who runs (it may have ended at once).
    pub(super) fn resume(&mut self, t: usize) -> usize {
        self.drop_later();
        self.tasks[t].life = Life::Current;
        let flow = match self.tasks[t].then {
            Then::Start => self.start(t),
            Then::Turn(op) => {
                if self.tasks[t].pending.is_empty() {
                    self.done(t, op, Out::Ok)
                } else {
                    self.interrupted(t, op, None)
                }
            }
            Then::Spent(op, out, left) => self.after_spending(t, op, out, left),
            Then::Waited(op, target, timer) => self.waited(t, op, target, timer),
            Then::Switched(op) => match self.tasks[t].arrival.take() {
                Some(Arrival::Value(v)) => self.done(t, op, Out::Got(v)),
                Some(Arrival::Exited(who)) => self.done(t, op, Out::Exited(who)),
                Some(Arrival::LoopExit) => self.done(t, op, Out::LoopExit),
                Some(Arrival::Throw(raise)) => self.raise(t, raise),
                None => panic!("the model resumed task {t} with nothing"),
            },
        };
        match flow {
            Flow::Go => t,
            Flow::To(next) => self.resume(next),
            Flow::Hub => {
                let next = self.pick();
                self.resume(next)
            }
            Flow::Over => unreachable!("only the root's last step ends the run"),
        }
    }

    pub(super) fn start(&mut self, t: usize) -> Flow {
        let first = match self.tasks[t].arrival.take() {
            Some(Arrival::Value(v)) => v,
            _ => 0,
        };
        if !self.is_raw(t) {
            if let Some(raise) = self.take_pending(t) {
                self.never_runs(t, raise);
                return Flow::Hub;
            }
        }
        self.tasks[t].began = true;
        self.note(Event::Began(t, first));
        self.open(t, &self.program.tasks[t].ops, Block::Base, usize::MAX);
        Flow::Go
    }

    pub(super) fn waited(
        &mut self,
        t: usize,
        op: &'p Op,
        target: Option<Target>,
        timer: Option<u64>,
    ) -> Flow {
        if let Some(timer) = timer {
            self.cancel(timer);
        }
        let number = self.tasks[t].waits;
        let stays = |what: &AtEnd| !matches!(what, AtEnd::Wake(w, n) if *w == t && *n == number);
        match target {
            Some(Target::Task(other)) => self.tasks[other].at_end.retain(stays),
            Some(Target::Signal(signal)) => self.signals[signal].1.retain(stays),
            Some(Target::Pair(pair)) => self.pairs.leave(pair, t, number),
            None => {}
        }
        let state = std::mem::replace(&mut self.tasks[t].wait, Wait::None);
        if let Some(Arrival::LoopExit) = self.tasks[t].arrival.take() {
            return self.raise(t, Raise::LoopExit);
        }
        match (state, target) {
            (Wait::Granted, Some(Target::Pair(pair))) => self.read(t, op, pair),
            (Wait::Granted | Wait::TimedOut, _) => self.answer(t, op, target),
            _ => self.interrupted(t, op, target),
        }
    }

    /// A blocking call finds a kill or timeout.
    pub(super) fn interrupted(&mut self, t: usize, op: &'p Op, target: Option<Target>) -> Flow {
        if self.shielded(t) {
            return self.answer(t, op, target);
        }
        match self.take_pending(t) {
            Some(raise) => self.raise(t, raise),
            None => self.answer(t, op, target),
        }
    }

    /// What a wait says when it is over.
    pub(super) fn answer(&mut self, t: usize, op: &Op, target: Option<Target>) -> Flow {
        let out = match target {
            None => Out::Ok,
            Some(Target::Pair(_)) => Out::Error(self.errno(t)),
            Some(Target::Signal(signal)) => Out::Is(self.signals[signal].0),
            Some(Target::Task(other)) => match self.tasks[other].ended {
                Some(how) if op.kind == Kind::Join && self.tasks[t].takes => Out::Joined(how),
                None if op.kind == Kind::Join && self.tasks[t].takes => Out::Unfinished,
                ended => Out::Is(ended.is_some()),
            },
        };
        self.done(t, op, out)
    }

    pub(super) fn park(&mut self, t: usize, life: Life, then: Then<'p>) -> Flow {
        self.tasks[t].life = life;
        self.tasks[t].then = then;
        Flow::Hub
    }

    /// Waits for a target's end (or, without one, for the deadline).
    pub(super) fn wait(
        &mut self,
        t: usize,
        op: &'p Op,
        target: Option<Target>,
        deadline: Option<u64>,
    ) -> Flow {
        if !self.tasks[t].pending.is_empty() {
            return self.interrupted(t, op, target);
        }
        let task = &mut self.tasks[t];
        task.wait = Wait::Waiting;
        task.waits += 1;
        let waits = task.waits;
        match target {
            Some(Target::Task(other)) => self.tasks[other].at_end.push(AtEnd::Wake(t, waits)),
            Some(Target::Signal(signal)) => self.signals[signal].1.push(AtEnd::Wake(t, waits)),
            Some(Target::Pair(pair)) => self.pairs.enter(pair, t, waits),
            None => {}
        }
        let timer = deadline.map(|at| {
            let due = if target.is_none() { Due::Wake(t, waits) } else { Due::Expire(t, waits) };
            self.timer(at, due)
        });
        self.park(t, Life::Parked, Then::Waited(op, target, timer))
    }

    /// Unwinds a task to whatever catches it.
    pub(super) fn raise(&mut self, t: usize, raise: Raise) -> Flow {
        loop {
            let frame = self.tasks[t].frames.pop().expect("a running task has a frame");
            match frame.block {
                Block::Base if t == 0 => {
                    self.note(Event::Done(0, frame.ops[frame.next - 1].id, Out::Caught(raise.why())));
                    self.tasks[0].frames.push(frame);
                    return Flow::Go;
                }
                Block::Base => return self.end(t, How::Raised(raise.why()), raise),
                Block::Timeout(timer) => {
                    self.close_timeout(t, timer);
                    if raise == Raise::Timeout(timer) {
                        self.note(Event::Done(t, frame.id, Out::Elapsed));
                        return Flow::Go;
                    }
                }
                Block::Catch => {
                    self.note(Event::Done(t, frame.id, Out::Caught(raise.why())));
                    return Flow::Go;
                }
                Block::Shield => {}
            }
        }
    }

    pub(super) fn close_timeout(&mut self, t: usize, timer: u64) {
        self.cancel(timer);
        self.tasks[t].pending.retain(|raise| *raise != Raise::Timeout(timer));
    }

    /// A task ends, and whoever is to know is told. `raise` counts only if it raised.
    pub(super) fn end(&mut self, t: usize, how: How, raise: Raise) -> Flow {
        self.note(Event::Ended(t, how));
        self.note(Event::Dropped(t));
        self.ends(t, how);
        if self.is_raw(t) { self.finish(t, how, raise) } else { Flow::Hub }
    }

    /// A raw task's end goes to the nearest ancestor that can be told.
    pub(super) fn finish(&mut self, who: usize, how: How, raise: Raise) -> Flow {
        let mut ancestor = self.tasks[who].parent;
        while let Some(parent) = ancestor {
            match (self.tasks[parent].life, how) {
                (Life::Absent | Life::Dead, _) => {}
                (Life::Unstarted, How::Returned(v)) if self.is_raw(parent) => {
                    self.tasks[parent].arrival = Some(Arrival::Value(v));
                    return Flow::To(parent);
                }
                (Life::Unstarted, How::Raised(_)) if self.is_raw(parent) => {
                    // Whoever runs next drops what it holds: who has ended runs nothing any more.
                    self.drops.push(parent);
                    self.ends(parent, How::Raised(raise.why()));
                }
                (Life::Switched | Life::Current, _) => {
                    self.tasks[parent].arrival = Some(match how {
                        How::Returned(v) => Arrival::Value(v),
                        How::Raised(Why::Exit) => Arrival::Exited(who),
                        How::Raised(_) => Arrival::Throw(raise),
                    });
                    return Flow::To(parent);
                }
                (Life::Unstarted | Life::Parked, How::Raised(why)) if why != Why::Exit => {
                    self.interrupt(parent, raise);
                    return Flow::Hub;
                }
                (Life::Unstarted | Life::Parked, _) => {}
            }
            ancestor = self.tasks[parent].parent;
        }
        Flow::Hub
    }
}
