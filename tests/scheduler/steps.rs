//! The model's steps: what each kind of step does to the machine.

use super::model::{Arrival, AtEnd, Block, Due, Flow, Life, Model, Raise, Ready, Target, Task, Then};
use super::program::{EVENTS, Kind, Op};
use super::{Event, How, Out, Why};

impl<'p> Model<'p> {
    /// Does the current task's next step.
    pub(super) fn advance(&mut self, t: usize) -> Flow {
        let frame = self.tasks[t].frames.last_mut().expect("a running task has a frame");
        let Some(op) = frame.ops.get(frame.next) else { return self.leave(t) };
        frame.next += 1;
        let before = self.trace.len();
        let flow = self.step(t, op);
        let skipped = |(_, event): &(u64, Event)| *event == Event::Done(t, op.id, Out::Skipped);
        if !self.trace[before..].last().is_some_and(skipped) {
            self.begun[op.kind as usize] += 1;
        }
        flow
    }

    /// The end of a block, or of the task.
    fn leave(&mut self, t: usize) -> Flow {
        let frame = self.tasks[t].frames.pop().expect("a running task has a frame");
        match frame.block {
            Block::Base if t == 0 => return Flow::Over,
            Block::Base => return self.end(t, How::Returned(1000 + t as u64), Raise::Exit),
            Block::Timeout(timer) => self.close_timeout(t, timer),
            Block::Catch | Block::Shield => {}
        }
        self.note(Event::Done(t, frame.id, Out::Ok));
        Flow::Go
    }

    fn step(&mut self, t: usize, op: &'p Op) -> Flow {
        let a = self.program.task(op.a);
        let event = self.events[usize::from(op.a) % EVENTS];
        let millis = |d| self.program.millis(d);
        match op.kind {
            Kind::Spawn => {
                let out = if self.spawn(t, a) { Out::Ok } else { Out::Skipped };
                self.done(t, op, out)
            }
            Kind::Sleep if millis(op.a) > 0 => {
                let at = self.now + millis(op.a);
                self.wait(t, op, None, Some(at))
            }
            Kind::Yield | Kind::Idle | Kind::Sleep => {
                if !self.tasks[t].pending.is_empty() {
                    return self.interrupted(t, op, None);
                }
                if op.kind == Kind::Idle {
                    self.idle.push_back(t);
                } else {
                    self.ready.push_back(Ready::Task(t));
                }
                self.park(t, Life::Parked, Then::Turn(op))
            }
            Kind::Switch => self.switch(t, op, a),
            Kind::Throw => self.throw(t, op, a),
            Kind::Join | Kind::Wait | Kind::Kill | Kind::KillFor | Kind::KillNow => self.of_task(t, op, a),
            Kind::Link => {
                if !self.has_handle(a) {
                    return self.done(t, op, Out::Skipped);
                }
                let n = self.links.len();
                self.links.push(a);
                let link = AtEnd::Link(n, op.b % 3);
                match self.tasks[a].ended {
                    Some(how) => self.tell(link, !matches!(how, How::Raised(why) if why != Why::Exit)),
                    None => self.tasks[a].at_end.push(link),
                }
                self.done(t, op, Out::Got(n as u64))
            }
            Kind::Unlink => {
                if self.links.is_empty() {
                    return self.done(t, op, Out::Skipped);
                }
                let n = (usize::from(op.a) + 16 * usize::from(op.b)) % self.links.len();
                let at_end = &mut self.tasks[self.links[n]].at_end;
                let before = at_end.len();
                at_end.retain(|what| !matches!(what, AtEnd::Link(m, _) if *m == n));
                let out = Out::Is(at_end.len() < before);
                self.done(t, op, out)
            }
            Kind::Set => {
                let signal = &mut self.signals[event];
                let first = !std::mem::replace(&mut signal.0, true);
                for what in std::mem::take(&mut signal.1) {
                    self.tell(what, true);
                }
                self.done(t, op, Out::Is(first))
            }
            Kind::Clear => {
                let was = self.signals[event].0;
                if was {
                    self.events[usize::from(op.a) % EVENTS] = self.signals.len();
                    self.signals.push((false, Vec::new()));
                }
                self.done(t, op, Out::Is(was))
            }
            Kind::Await | Kind::AwaitFor => {
                if self.signals[event].0 {
                    return self.done(t, op, Out::Is(true));
                }
                let until = (op.kind == Kind::AwaitFor).then(|| self.now + millis(op.b));
                self.wait(t, op, Some(Target::Signal(event)), until)
            }
            Kind::Write | Kind::Read | Kind::Burst => self.of_pair(t, op),
            Kind::Reparent => self.reparent(t, op, self.program.raw(op.a)),
            Kind::Discard => self.discard(t, op, self.program.raw(op.a)),
            Kind::Timeout => {
                let at = self.now + millis(op.a);
                let timer = self.timer(at, Due::Timeout(t));
                self.open(t, &op.body, Block::Timeout(timer), op.id);
                Flow::Go
            }
            Kind::Catch => {
                self.open(t, &op.body, Block::Catch, op.id);
                Flow::Go
            }
            Kind::Shield => {
                self.open(t, &op.body, Block::Shield, op.id);
                Flow::Go
            }
        }
    }

    fn has_handle(&self, t: usize) -> bool {
        self.tasks[t].life != Life::Absent && !self.tasks[t].discarded
    }

    fn switch(&mut self, t: usize, op: &'p Op, a: usize) -> Flow {
        // A spawned task can be switched to once it has made its own typed handle.
        if !self.has_handle(a) || !(self.is_raw(a) || self.tasks[a].began) {
            return self.done(t, op, Out::Skipped);
        }
        let value = u64::from(op.b);
        match self.tasks[a].life {
            Life::Current => self.done(t, op, Out::Got(value)),
            Life::Dead => self.done(t, op, Out::Dead),
            Life::Parked => self.done(t, op, Out::Parked),
            Life::Absent => unreachable!("it has a handle"),
            Life::Unstarted | Life::Switched => {
                self.park(t, Life::Switched, Then::Switched(op));
                self.tasks[a].arrival = Some(Arrival::Value(value));
                Flow::To(a)
            }
        }
    }

    fn throw(&mut self, t: usize, op: &'p Op, a: usize) -> Flow {
        if !self.has_handle(a) {
            return self.done(t, op, Out::Skipped);
        }
        let raise = if op.b % 2 == 0 { Raise::Exit } else { Raise::Boom };
        match self.tasks[a].life {
            Life::Current => self.raise(t, raise),
            Life::Dead => self.done(t, op, Out::Dead),
            Life::Absent => unreachable!("it has a handle"),
            Life::Unstarted if self.is_raw(a) => {
                self.never_runs(a, raise);
                self.park(t, Life::Switched, Then::Switched(op));
                self.finish(a, How::Raised(raise.why()), raise)
            }
            Life::Unstarted | Life::Parked => {
                self.interrupt(a, raise);
                self.park(t, Life::Switched, Then::Switched(op))
            }
            Life::Switched => {
                self.park(t, Life::Switched, Then::Switched(op));
                self.tasks[a].arrival = Some(Arrival::Throw(raise));
                Flow::To(a)
            }
        }
    }

    /// Joins, waits and kills.
    fn of_task(&mut self, t: usize, op: &'p Op, a: usize) -> Flow {
        if !self.has_handle(a) {
            return self.done(t, op, Out::Skipped);
        }
        let target = Some(Target::Task(a));
        if op.kind == Kind::Join {
            self.tasks[t].takes = a != 0 && !self.is_raw(a) && !self.tasks[a].taken;
            self.tasks[a].taken = true;
        }
        if self.tasks[a].ended.is_some() {
            return self.answer(t, op, target);
        }
        if matches!(op.kind, Kind::Kill | Kind::KillFor | Kind::KillNow) {
            if a == t && !self.shielded(t) {
                return self.raise(t, Raise::Exit);
            }
            self.interrupt(a, Raise::Exit);
            let zero = op.kind == Kind::KillFor && self.program.millis(op.b) == 0;
            // In a shield its own kill stays pending, and it does not wait for itself.
            if op.kind == Kind::KillNow || zero || a == t || self.tasks[a].ended.is_some() {
                return self.answer(t, op, target);
            }
        }
        let limited = matches!(op.kind, Kind::Wait | Kind::KillFor);
        let until = limited.then(|| self.now + self.program.millis(op.b));
        self.wait(t, op, target, until)
    }

    fn reparent(&mut self, t: usize, op: &'p Op, a: usize) -> Flow {
        let parent = self.program.task(op.b);
        let lives = |t: usize| self.has_handle(t) && self.tasks[t].life != Life::Dead;
        if !self.is_raw(a) || !lives(a) || !lives(parent) {
            return self.done(t, op, Out::Skipped);
        }
        let mut ancestor = Some(parent);
        while let Some(p) = ancestor {
            if p == a {
                return self.done(t, op, Out::Is(false));
            }
            ancestor = self.tasks[p].parent;
        }
        self.tasks[a].parent = Some(parent);
        self.tasks[parent].had_children = true;
        self.done(t, op, Out::Is(true))
    }

    /// The last handle of a raw task goes: it unwinds at once.
    fn discard(&mut self, t: usize, op: &'p Op, a: usize) -> Flow {
        let held = |task: &Task<'_>| match task.then {
            _ if !matches!(task.life, Life::Parked | Life::Switched) => false,
            Then::Waited(_, target, _) => target == Some(Target::Task(a)),
            Then::Switched(op) => self.program.task(op.a) == a,
            Then::Start | Then::Turn(_) | Then::Spent(..) => false,
        };
        let task = &self.tasks[a];
        let last = self.is_raw(a)
            && self.has_handle(a)
            && !self.program.catches(a)
            && !task.had_children
            && !self.tasks.iter().any(held);
        let life = task.life;
        if !last || !matches!(life, Life::Unstarted | Life::Switched | Life::Dead) {
            return self.done(t, op, Out::Skipped);
        }
        if life == Life::Unstarted && !task.at_end.is_empty() {
            return self.done(t, op, Out::Skipped);
        }
        self.tasks[a].discarded = true;
        match life {
            Life::Switched => {
                for frame in std::mem::take(&mut self.tasks[a].frames) {
                    if let Block::Timeout(timer) = frame.block {
                        self.close_timeout(a, timer);
                    }
                }
                let how = How::Raised(Why::Exit);
                self.note(Event::Ended(a, how));
                self.note(Event::Dropped(a));
                self.ends(a, how);
            }
            Life::Unstarted => {
                self.tasks[a].life = Life::Dead;
                self.note(Event::Dropped(a));
            }
            _ => {}
        }
        self.done(t, op, Out::Ok)
    }
}
