//! Runs a program on the library, on a fresh thread with a hub of its own, and watches it.
//!
//! The run writes down the same events as the model. What needs no model is checked here as it
//! happens: no sleep ends early or late, no wait gives up at another time than its deadline, nothing
//! is called deadlocked that could go on. Every frame and every task holds a guard that counts its
//! drop.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

use gevent::hub::{Fifo, Seeded, VirtualClock};
use gevent::{
    AnyGreenlet, Ended, Greenlet, GreenletExit, Hub, LinkId, Me, Payload, RawGreenlet, State, SwitchError,
};

use super::outside::Outside;
use super::program::{BURST, EVENTS, Kind, Make, Op, PAIRS, Program, WRITES};
use super::{Event, How, Out, Trace, Why};

/// A payload of the tests' own.
struct Boom;

/// The order in which the hub runs what is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Fifo,
    Seeded(u64),
}

/// What a run did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Up to the root's last step.
    pub(crate) trace: Trace,
    /// What was wrong whatever the model says.
    pub(crate) wrong: Vec<String>,
}

/// Runs a numbered program. An error is a hang: what each greenlet does.
pub(crate) fn run(program: &Program, order: Order, limit: Duration) -> Result<Ran, String> {
    let outside = Arc::new(Outside::new(program.tasks.len()));
    let pairs: [_; PAIRS] = std::array::from_fn(|_| UnixStream::pair().expect("a few descriptors"));
    let writers = pairs.each_ref().map(|(_, writer)| writer.try_clone().expect("a few descriptors"));
    let (send, receive) = mpsc::channel::<()>();
    let (its_program, its_outside) = (program.clone(), outside.clone());
    let thread = std::thread::Builder::new()
        .name(CASE_THREAD.to_owned())
        .spawn(move || {
            let _gone = send;
            run_here(its_program, order, its_outside, pairs)
        })
        .expect("a thread for the case");
    // The sender goes when the thread's function ends, by a panic too.
    if !outside.watch(&receive, &writers, limit) {
        let each = outside.what_each_does(program);
        return Err(format!("hangs for {limit:?} under {order:?}; what each greenlet does:\n{each}"));
    }
    let (trace, mut wrong) = match thread.join() {
        Ok(ran) => ran,
        Err(payload) => (Vec::new(), vec![format!("the case's thread panicked: {}", text(&payload))]),
    };
    for (t, (made, dropped)) in outside.made.iter().zip(&outside.dropped).enumerate() {
        if made.load(Relaxed) != dropped.load(Relaxed) || made.load(Relaxed) > 1 {
            wrong.push(format!(
                "what task {t} holds was made {} times and dropped {} times",
                made.load(Relaxed),
                dropped.load(Relaxed)
            ));
        }
    }
    let frames = (outside.frames_made.load(Relaxed), outside.frames_dropped.load(Relaxed));
    if frames.0 != frames.1 {
        wrong.push(format!("{} frames of blocks were opened and {} dropped", frames.0, frames.1));
    }
    Ok(Ran { trace, wrong })
}

/// The name of the threads that cases run on; the panic hook is quiet there.
pub(crate) const CASE_THREAD: &str = "case";

/// What a payload says, for people.
pub(crate) fn text(payload: &Payload) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&'static str>().copied())
        .unwrap_or("a payload that is not text")
}

fn why(payload: &Payload) -> Why {
    if payload.is::<GreenletExit>() {
        Why::Exit
    } else if payload.is::<Boom>() {
        Why::Boom
    } else if payload.is::<String>() || payload.is::<&'static str>() {
        if text(payload).contains("would block forever") { Why::LoopExit } else { Why::Other }
    } else {
        Why::Timeout
    }
}

// ---------------------------------------------------------------------------------------------
// On the case's thread
// ---------------------------------------------------------------------------------------------

struct World {
    program: Program,
    clock: VirtualClock,
    trace: RefCell<Trace>,
    wrong: RefCell<Vec<String>>,
    /// Each task's handles: of any kind, to switch to, to join.
    any: RefCell<Vec<Option<AnyGreenlet>>>,
    typed: RefCell<Vec<Option<RawGreenlet<u64>>>>,
    joins: RefCell<Vec<Option<Greenlet<u64>>>>,
    made: RefCell<Vec<bool>>,
    /// How many calls hold a clone of the handle.
    held: Vec<Cell<usize>>,
    had_children: Vec<Cell<bool>>,
    /// What each task waits for, if the end of a greenlet.
    targets: RefCell<Vec<Option<AnyGreenlet>>>,
    tasks_by_id: RefCell<HashMap<u64, usize>>,
    /// An event is the end of a greenlet that does nothing: whoever sets it runs that to its end.
    events: RefCell<Vec<RawGreenlet<()>>>,
    links: RefCell<Vec<(usize, LinkId)>>,
    pairs: [Pair; PAIRS],
    /// How many shield blocks each task is in: there a wait may end early.
    shields: Vec<Cell<u32>>,
    /// The thread's greenlets are being ended: waits end at once.
    over: Cell<bool>,
    outside: Arc<Outside>,
}

/// A socket pair: what is written at one end is read at the other.
struct Pair {
    reader: gevent::os::unix::net::UnixStream,
    writer: gevent::os::unix::net::UnixStream,
    /// How many writes were made or are to be.
    writes: Cell<usize>,
    /// How many bytes were sent and received. Each byte is one more than the last.
    sent: Cell<usize>,
    received: Cell<usize>,
}

/// In a read of a pair.
struct Reading<'w>(&'w AtomicUsize);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counts its drop; held by a task from its making to its end.
struct Guard {
    world: Rc<World>,
    task: usize,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.world.outside.dropped[self.task].fetch_add(1, Relaxed);
        self.world.note(Event::Dropped(self.task));
    }
}

/// Counts its drop; in the frame of a block.
struct InFrame(Arc<Outside>);

impl InFrame {
    fn new(world: &World) -> InFrame {
        world.outside.frames_made.fetch_add(1, Relaxed);
        InFrame(world.outside.clone())
    }
}

impl Drop for InFrame {
    fn drop(&mut self) {
        self.0.frames_dropped.fetch_add(1, Relaxed);
    }
}

/// In a shield block.
struct Shielded<'w>(&'w Cell<u32>);

impl<'w> Shielded<'w> {
    fn new(depth: &'w Cell<u32>) -> Shielded<'w> {
        depth.set(depth.get() + 1);
        Shielded(depth)
    }
}

impl Drop for Shielded<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A task may wait for its target.
struct Waits<'w> {
    world: &'w World,
    by: usize,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let target = self.world.targets.borrow_mut()[self.by].take();
        drop(target);
    }
}

/// A clone of a task's handle, counted, as somebody's wait holds it.
struct Held<'w> {
    world: &'w World,
    task: usize,
    greenlet: AnyGreenlet,
    _waits: Waits<'w>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.world.held[self.task].set(self.world.held[self.task].get() - 1);
    }
}

fn run_here(
    program: Program,
    order: Order,
    outside: Arc<Outside>,
    pairs: [(UnixStream, UnixStream); PAIRS],
) -> (Trace, Vec<String>) {
    let clock = VirtualClock::new();
    let builder = Hub::builder()
        .clock(clock.clone())
        .isolated()
        .switches(u32::from(program.looks))
        .budget(u32::from(program.budget));
    outside.thread.store(nix::unistd::gettid().as_raw(), Relaxed);
    let hub = match order {
        Order::Fifo => builder.scheduler(Fifo),
        Order::Seeded(seed) => builder.scheduler(Seeded(seed)),
    }
    .install()
    .expect("a fresh thread has no hub");
    let count = program.tasks.len();
    let world = Rc::new(World {
        clock,
        trace: RefCell::default(),
        wrong: RefCell::default(),
        any: RefCell::new(vec![None; count]),
        typed: RefCell::new(vec![None; count]),
        joins: RefCell::new((0..count).map(|_| None).collect()),
        made: RefCell::new(vec![false; count]),
        held: vec![Cell::new(0); count],
        had_children: vec![Cell::new(false); count],
        targets: RefCell::new(vec![None; count]),
        tasks_by_id: RefCell::default(),
        events: RefCell::new((0..EVENTS).map(|_| signal()).collect()),
        links: RefCell::default(),
        pairs: pairs.map(|(reader, writer)| Pair {
            reader: reader.into(),
            writer: writer.into(),
            writes: Cell::new(0),
            sent: Cell::new(0),
            received: Cell::new(0),
        }),
        shields: vec![Cell::new(0); count],
        over: Cell::new(false),
        outside,
        program,
    });
    gevent::enter::<u64, _>(|me| world.root(me));
    let trace = world.trace.borrow().clone();
    world.over.set(true);
    // Whatever is left is told to end: only its destructors count.
    hub.shutdown();
    let handles =
        (world.any.take(), world.typed.take(), world.joins.take(), world.targets.take(), world.events.take());
    drop(handles);
    let wrong = world.wrong.take();
    (trace, wrong)
}

/// A greenlet whose end is an event.
fn signal() -> RawGreenlet<()> {
    let signal = gevent::enter(|me: &Me<()>| me.child(|_: &Me<()>, ()| ()));
    signal.set_parent(&gevent::root()).expect("a new greenlet is nobody's ancestor");
    signal
}

impl World {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_millis()).expect("a short run")
    }

    fn note(&self, event: Event) {
        self.trace.borrow_mut().push((self.now(), event));
        self.outside.events.fetch_add(1, Relaxed);
    }

    fn done(&self, t: usize, op: &Op, out: Out) {
        self.note(Event::Done(t, op.id, out));
    }

    fn is_wrong(&self, what: String) {
        self.wrong.borrow_mut().push(format!("at {} ms: {what}", self.now()));
    }

    fn root(self: &Rc<World>, me: &Me<u64>) {
        self.any.borrow_mut()[0] = Some(gevent::current());
        self.typed.borrow_mut()[0] = Some(me.handle());
        self.made.borrow_mut()[0] = true;
        self.tasks_by_id.borrow_mut().insert(me.id(), 0);
        for (t, task) in self.program.tasks.iter().enumerate() {
            if task.first {
                self.make(me, 0, t);
            }
        }
        for op in &self.program.tasks[0].ops {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.step(me, 0, op))) {
                let why = why(&payload);
                if why == Why::Other {
                    self.is_wrong(format!("the root panicked: {}", text(&payload)));
                }
                self.done(0, op, Out::Caught(why));
                if why == Why::LoopExit {
                    self.check_deadlock();
                }
            }
        }
    }

    fn make(self: &Rc<World>, me: &Me<u64>, by: usize, t: usize) -> bool {
        if t == 0 || std::mem::replace(&mut self.made.borrow_mut()[t], true) {
            return false;
        }
        self.outside.made[t].fetch_add(1, Relaxed);
        let guard = Guard { world: self.clone(), task: t };
        let make = self.program.tasks[t].make;
        let any = match make {
            Make::Root => unreachable!("task 0 alone is the root"),
            Make::Spawned | Make::Later(_) => {
                let f = move || {
                    gevent::enter::<u64, _>(|me| {
                        guard.world.typed.borrow_mut()[t] = Some(me.handle());
                        body(me, 0, guard)
                    })
                };
                let greenlet = match make {
                    Make::Later(d) => gevent::spawn_later(self.millis(d), f),
                    _ => gevent::spawn(f),
                };
                let any = greenlet.handle();
                self.joins.borrow_mut()[t] = Some(greenlet);
                any
            }
            Make::Raw => {
                self.had_children[by].set(true);
                let raw = me.child(move |me, first| body(me, first, guard));
                let any: AnyGreenlet = (*raw).clone();
                self.typed.borrow_mut()[t] = Some(raw);
                any
            }
        };
        any.set_name(&format!("task {t}"));
        self.tasks_by_id.borrow_mut().insert(any.id(), t);
        self.any.borrow_mut()[t] = Some(any);
        true
    }

    fn millis(&self, d: u8) -> Duration {
        Duration::from_millis(self.program.millis(d))
    }

    fn held(&self, by: usize, task: usize) -> Option<Held<'_>> {
        let greenlet = self.any.borrow()[task].clone()?;
        self.held[task].set(self.held[task].get() + 1);
        Some(Held { world: self, task, greenlet, _waits: Waits { world: self, by } })
    }

    fn steps(self: &Rc<World>, me: &Me<u64>, t: usize, ops: &[Op]) {
        for op in ops {
            self.step(me, t, op);
        }
    }

    /// The root was told that nothing can happen any more: then nothing may be ready, and nobody wait
    /// for what has happened or for a time.
    fn check_deadlock(&self) {
        for (t, any) in self.any.borrow().iter().enumerate().skip(1) {
            let Some(any) = any else { continue };
            let raw = self.program.tasks[t].make == Make::Raw;
            match any.state() {
                State::Dead => continue,
                State::Blocked(_) => {}
                State::Ready if raw && !any.is_started() => continue,
                state => self.is_wrong(format!("LoopExit, but task {t} is {state}")),
            }
            if let Some(target) = &self.targets.borrow()[t] {
                if target.ready() {
                    self.is_wrong(format!(
                        "LoopExit, but what task {t} waits for has ended: its wake was lost"
                    ));
                }
            }
            let at = self.outside.at[t].load(Relaxed).checked_sub(1).and_then(|id| self.program.find(id));
            if let Some(Op {
                kind: Kind::Sleep | Kind::Yield | Kind::Idle | Kind::Wait | Kind::AwaitFor,
                ..
            }) = at
            {
                self.is_wrong(format!("LoopExit, but task {t} is at {}", at.expect("just seen")));
            }
        }
    }
}

fn outcome(done: &std::io::Result<usize>) -> Out {
    match done {
        Ok(n) => Out::Got(*n as u64),
        Err(error) => error.raw_os_error().map_or(Out::Unexpected, Out::Error),
    }
}

/// A task's code.
fn body(me: &Me<u64>, first: u64, guard: Guard) -> u64 {
    let (world, t) = (guard.world.clone(), guard.task);
    world.note(Event::Began(t, first));
    let result = catch_unwind(AssertUnwindSafe(|| world.steps(me, t, &world.program.tasks[t].ops)));
    let value = 1000 + t as u64;
    world.note(Event::Ended(
        t,
        match &result {
            Ok(()) => How::Returned(value),
            Err(payload) => How::Raised(why(payload)),
        },
    ));
    if let Err(payload) = &result {
        if why(payload) == Why::Other {
            world.is_wrong(format!("task {t} panicked: {}", text(payload)));
        }
    }
    world.outside.at[t].store(usize::MAX, Relaxed);
    drop(guard);
    match result {
        Ok(()) => value,
        Err(payload) => resume_unwind(payload),
    }
}

// ---------------------------------------------------------------------------------------------
// Steps
// ---------------------------------------------------------------------------------------------

impl World {
    fn step(self: &Rc<World>, me: &Me<u64>, t: usize, op: &Op) {
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
