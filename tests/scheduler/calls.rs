//! What each kind of step calls of the library.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use gevent::{AnyGreenlet, Ended, Greenlet, GreenletExit, Me, Payload, SwitchError};

use super::program::{BURST, EVENTS, Kind, Make, Op, PAIRS, WRITES};
use super::runner::{Boom, InFrame, Reading, Shielded, Waits, World, outcome, signal, why};
use super::{Event, How, Out, Why};

impl World {
    pub(super) fn step(self: &Rc<World>, me: &Me<u64>, t: usize, op: &Op) {
        self.outside.at[t].store(op.id + 1, Relaxed);
        let a = self.program.task(op.a);
        let event = usize::from(op.a) % EVENTS;
        let begun = self.now();
        let out = match op.kind {
            Kind::Spawn => {
                if self.make(me, t, a) {
                    Out::Ok
                } else {
                    Out::Skipped
                }
            }
            Kind::Yield => {
                gevent::yield_now();
                Out::Ok
            }
            Kind::Idle => {
                gevent::idle();
                Out::Ok
            }
            Kind::Sleep => {
                gevent::sleep(self.millis(op.a));
                Out::Ok
            }
            Kind::Switch => self.switch(me, t, op, a),
            Kind::Throw => self.throw(me, t, op, a),
            Kind::Join | Kind::Wait | Kind::Kill | Kind::KillFor | Kind::KillNow => self.of_task(t, op, a),
            Kind::Link => self.link(op, a),
            Kind::Unlink => self.unlink(op),
            Kind::Set => self.set(event),
            Kind::Clear => {
                let is_set = self.events.borrow()[event].is_dead();
                if is_set {
                    let fresh = signal();
                    let before = std::mem::replace(&mut self.events.borrow_mut()[event], fresh);
                    drop(before);
                }
                Out::Is(is_set)
            }
            Kind::Await | Kind::AwaitFor => {
                let signal: AnyGreenlet = (*self.events.borrow()[event]).clone();
                let limit = (op.kind == Kind::AwaitFor).then(|| self.millis(op.b));
                self.targets.borrow_mut()[t] = Some(signal.clone());
                let _waits = Waits { world: self, by: t };
                Out::Is(signal.wait(limit))
            }
            Kind::Write | Kind::Read | Kind::Burst => self.of_pair(op),
            Kind::Reparent => self.reparent(op, self.program.raw(op.a)),
            Kind::Discard => self.discard(t, self.program.raw(op.a)),
            Kind::Timeout => {
                let ended = gevent::timeout(self.millis(op.a), || {
                    let _frame = InFrame::new(self);
                    self.steps(me, t, &op.body);
                });
                if ended.is_ok() { Out::Ok } else { Out::Elapsed }
            }
            Kind::Catch => {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    let _frame = InFrame::new(self);
                    self.steps(me, t, &op.body);
                }));
                caught.map_or_else(|payload| Out::Caught(why(&payload)), |()| Out::Ok)
            }
            Kind::Shield => {
                gevent::no_unwind(|| {
                    let _shielded = Shielded::new(&self.shields[t]);
                    let _frame = InFrame::new(self);
                    self.steps(me, t, &op.body);
                });
                Out::Ok
            }
        };
        self.done(t, op, out);
        let limit = match (op.kind, out) {
            (Kind::Sleep, _) => Some(op.a),
            (Kind::Wait | Kind::AwaitFor | Kind::KillFor, Out::Is(false)) => Some(op.b),
            _ => None,
        };
        if let Some(limit) = limit.map(|d| self.program.millis(d)) {
            let took = self.now() - begun;
            if took != limit && self.shields[t].get() == 0 && !self.over.get() {
                self.is_wrong(format!("task {t}, step {}: {op} gave up after {took} ms, not {limit}", op.id));
            }
        }
        match out {
            Out::LoopExit => self.check_deadlock(),
            Out::Unexpected if !self.over.get() => {
                self.is_wrong(format!("task {t}, step {}: {op}: an error of no kind it may have", op.id))
            }
            _ => {}
        }
    }

    fn switched<T>(&self, result: Result<u64, SwitchError<T>>) -> Out {
        match result {
            Ok(value) => Out::Got(value),
            Err(SwitchError::Dead(_)) => Out::Dead,
            Err(SwitchError::Parked(_)) => Out::Parked,
            Err(SwitchError::Exited(id)) => {
                self.tasks_by_id.borrow().get(&id).map_or(Out::Unexpected, |&t| Out::Exited(t))
            }
            Err(SwitchError::LoopExit(_)) => Out::LoopExit,
            Err(error) => {
                self.is_wrong(format!("a switch failed: {error:?}"));
                Out::Unexpected
            }
        }
    }

    fn switch(&self, me: &Me<u64>, t: usize, op: &Op, a: usize) -> Out {
        let to = self.typed.borrow()[a].clone();
        let (Some(to), Some(_held)) = (to, self.held(t, a)) else { return Out::Skipped };
        self.switched(me.switch(&to, u64::from(op.b)))
    }

    fn throw(&self, me: &Me<u64>, t: usize, op: &Op, a: usize) -> Out {
        let Some(held) = self.held(t, a) else { return Out::Skipped };
        let payload: Payload = if op.b % 2 == 0 { Box::new(GreenletExit) } else { Box::new(Boom) };
        self.switched(me.throw(&held.greenlet, payload))
    }

    fn of_task(&self, t: usize, op: &Op, a: usize) -> Out {
        let Some(held) = self.held(t, a) else { return Out::Skipped };
        let greenlet = &held.greenlet;
        self.targets.borrow_mut()[t] = Some(greenlet.clone());
        let limit = self.millis(op.b);
        match op.kind {
            Kind::Join => {
                let join = self.joins.borrow_mut()[a].take();
                match join.map(Greenlet::join) {
                    None => Out::Is(greenlet.wait(None)),
                    Some(Ok(value)) => Out::Joined(How::Returned(value)),
                    Some(Err(Ended::Killed)) => Out::Joined(How::Raised(Why::Exit)),
                    Some(Err(Ended::Panicked(payload))) => Out::Joined(How::Raised(why(&payload))),
                    Some(Err(Ended::Unfinished)) => Out::Unfinished,
                    Some(Err(_)) => Out::Unexpected,
                }
            }
            Kind::Wait => Out::Is(greenlet.wait(Some(limit))),
            Kind::Kill => {
                greenlet.kill();
                Out::Is(greenlet.ready())
            }
            Kind::KillFor => Out::Is(greenlet.kill_timeout(limit)),
            _ => Out::Is(greenlet.kill_timeout(Duration::ZERO)),
        }
    }

    fn link(self: &Rc<World>, op: &Op, a: usize) -> Out {
        let any = self.any.borrow()[a].clone();
        let Some(any) = any else { return Out::Skipped };
        let n = self.links.borrow().len();
        let world = self.clone();
        let call = move |who: AnyGreenlet| world.note(Event::Linked(n, who.successful()));
        let id = match op.b % 3 {
            0 => any.link(call),
            1 => any.link_value(call),
            _ => any.link_panic(call),
        };
        self.links.borrow_mut().push((a, id));
        Out::Got(n as u64)
    }

    fn unlink(&self, op: &Op) -> Out {
        let count = self.links.borrow().len();
        if count == 0 {
            return Out::Skipped;
        }
        let (a, id) = self.links.borrow()[(usize::from(op.a) + 16 * usize::from(op.b)) % count];
        let any = self.any.borrow()[a].clone();
        Out::Is(any.is_some_and(|any| any.unlink(id)))
    }

    fn set(&self, event: usize) -> Out {
        let signal = self.events.borrow()[event].clone();
        if signal.is_dead() {
            return Out::Is(false);
        }
        signal.set_parent(&gevent::current()).expect("a signal is nobody's ancestor");
        match gevent::enter(|me: &Me<()>| me.switch(&signal, ())) {
            Ok(()) => {}
            Err(error) => self.is_wrong(format!("an event could not be set: {error:?}")),
        }
        // So that the signal does not keep whoever set it alive.
        let _ = signal.set_parent(&gevent::root());
        Out::Is(true)
    }

    fn of_pair(&self, op: &Op) -> Out {
        let n = usize::from(op.a) % PAIRS;
        let pair = &self.pairs[n];
        let calls = match op.kind {
            Kind::Write => 1,
            Kind::Burst => BURST,
            _ => 0,
        };
        if self.program.looks != 1 || pair.writes.get() + calls > WRITES {
            return Out::Skipped;
        }
        pair.writes.set(pair.writes.get() + calls);
        let len = if op.kind == Kind::Burst { 1 } else { usize::from(op.b % 4 + 1) };
        let mut bytes = [0; 4];
        if op.kind == Kind::Read {
            self.outside.reading[n].fetch_add(1, Relaxed);
            let _reading = Reading(&self.outside.reading[n]);
            let read = (&pair.reader).read(&mut bytes[..len]);
            // Which read comes first is not seen here: a read that has succeeded may be made to yield.
            let got = &bytes[..*read.as_ref().unwrap_or(&0)];
            if got.windows(2).any(|two| two[1] != two[0].wrapping_add(1)) {
                self.is_wrong(format!("pair {n}: {got:?} was read, which nobody wrote in a row"));
            }
            pair.received.set(pair.received.get() + got.len());
            if pair.received.get() > pair.sent.get() {
                self.is_wrong(format!(
                    "pair {n}: {} bytes were read, {} written",
                    pair.received.get(),
                    pair.sent.get()
                ));
            }
            return outcome(&read);
        }
        let mut out = Out::Ok;
        for _ in 0..calls {
            for byte in &mut bytes[..len] {
                *byte = pair.sent.get() as u8;
                pair.sent.set(pair.sent.get() + 1);
            }
            let written = (&pair.writer).write(&bytes[..len]);
            out = outcome(&written);
            if written.is_err() {
                break;
            }
        }
        out
    }

    fn reparent(&self, op: &Op, a: usize) -> Out {
        let p = self.program.task(op.b);
        let (any, parent) = (self.any.borrow()[a].clone(), self.any.borrow()[p].clone());
        let (Some(any), Some(parent)) = (any, parent) else { return Out::Skipped };
        if self.program.tasks[a].make != Make::Raw || any.is_dead() || parent.is_dead() {
            return Out::Skipped;
        }
        let set = any.set_parent(&parent).is_ok();
        if set {
            self.had_children[p].set(true);
        }
        Out::Is(set)
    }

    fn discard(&self, t: usize, a: usize) -> Out {
        let Some(any) = self.any.borrow()[a].clone() else { return Out::Skipped };
        let last = self.program.tasks[a].make == Make::Raw
            && !self.program.catches(a)
            && !self.had_children[a].get()
            && self.held[a].get() == 0
            && a != t;
        let suspended = any.is_active() && any.state().to_string() == "blocked on a switch";
        let unstarted = !any.is_started() && !any.has_links();
        if !last || !(any.is_dead() || suspended || unstarted) {
            return Out::Skipped;
        }
        drop(any);
        let typed = self.typed.borrow_mut()[a].take();
        let any = self.any.borrow_mut()[a].take();
        drop(any);
        drop(typed);
        Out::Ok
    }
}
