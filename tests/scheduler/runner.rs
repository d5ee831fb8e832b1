//! Runs a program on the library, on a fresh thread with a hub of its own, and watches it.
//!
//! The run writes down the same events as the model. What needs no model is checked here as it
//! happens: no sleep ends early or late, no wait gives up at another time than its deadline, nothing
//! is called deadlocked that could go on. Every frame and every task holds a guard that counts its
//! drop.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

use gevent::hub::{Fifo, Seeded, VirtualClock};
use gevent::{AnyGreenlet, Greenlet, GreenletExit, Hub, LinkId, Me, Payload, RawGreenlet, State};

use super::outside::Outside;
use super::program::{EVENTS, Kind, Make, Op, PAIRS, Program};
use super::{Event, How, Out, Trace, Why};

/// A payload of the tests' own.
pub(super) struct Boom;

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

pub(super) fn why(payload: &Payload) -> Why {
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

pub(super) struct World {
    pub(super) program: Program,
    pub(super) clock: VirtualClock,
    pub(super) trace: RefCell<Trace>,
    pub(super) wrong: RefCell<Vec<String>>,
    /// Each task's handles: of any kind, to switch to, to join.
    pub(super) any: RefCell<Vec<Option<AnyGreenlet>>>,
    pub(super) typed: RefCell<Vec<Option<RawGreenlet<u64>>>>,
    pub(super) joins: RefCell<Vec<Option<Greenlet<u64>>>>,
    pub(super) made: RefCell<Vec<bool>>,
    /// How many calls hold a clone of the handle.
    pub(super) held: Vec<Cell<usize>>,
    pub(super) had_children: Vec<Cell<bool>>,
    /// What each task waits for, if the end of a greenlet.
    pub(super) targets: RefCell<Vec<Option<AnyGreenlet>>>,
    pub(super) tasks_by_id: RefCell<HashMap<u64, usize>>,
    /// An event is the end of a greenlet that does nothing: whoever sets it runs that to its end.
    pub(super) events: RefCell<Vec<RawGreenlet<()>>>,
    pub(super) links: RefCell<Vec<(usize, LinkId)>>,
    pub(super) pairs: [Pair; PAIRS],
    /// How many shield blocks each task is in: there a wait may end early.
    pub(super) shields: Vec<Cell<u32>>,
    /// The thread's greenlets are being ended: waits end at once.
    pub(super) over: Cell<bool>,
    pub(super) outside: Arc<Outside>,
}

/// A socket pair: what is written at one end is read at the other.
pub(super) struct Pair {
    pub(super) reader: gevent::os::unix::net::UnixStream,
    pub(super) writer: gevent::os::unix::net::UnixStream,
    /// How many writes were made or are to be.
    pub(super) writes: Cell<usize>,
    /// How many bytes were sent and received. Each byte is one more than the last.
    pub(super) sent: Cell<usize>,
    pub(super) received: Cell<usize>,
}

/// In a read of a pair.
pub(super) struct Reading<'w>(pub(super) &'w AtomicUsize);

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
pub(super) struct InFrame(Arc<Outside>);

impl InFrame {
    pub(super) fn new(world: &World) -> InFrame {
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
pub(super) struct Shielded<'w>(&'w Cell<u32>);

impl<'w> Shielded<'w> {
    pub(super) fn new(depth: &'w Cell<u32>) -> Shielded<'w> {
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
pub(super) struct Waits<'w> {
    pub(super) world: &'w World,
    pub(super) by: usize,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let target = self.world.targets.borrow_mut()[self.by].take();
        drop(target);
    }
}

/// A clone of a task's handle, counted, as somebody's wait holds it.
pub(super) struct Held<'w> {
    pub(super) world: &'w World,
    pub(super) task: usize,
    pub(super) greenlet: AnyGreenlet,
    pub(super) _waits: Waits<'w>,
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
pub(super) fn signal() -> RawGreenlet<()> {
    let signal = gevent::enter(|me: &Me<()>| me.child(|_: &Me<()>, ()| ()));
    signal.set_parent(&gevent::root()).expect("a new greenlet is nobody's ancestor");
    signal
}

impl World {
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_millis()).expect("a short run")
    }

    pub(super) fn note(&self, event: Event) {
        self.trace.borrow_mut().push((self.now(), event));
        self.outside.events.fetch_add(1, Relaxed);
    }

    pub(super) fn done(&self, t: usize, op: &Op, out: Out) {
        self.note(Event::Done(t, op.id, out));
    }

    pub(super) fn is_wrong(&self, what: String) {
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

    pub(super) fn make(self: &Rc<World>, me: &Me<u64>, by: usize, t: usize) -> bool {
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

    pub(super) fn millis(&self, d: u8) -> Duration {
        Duration::from_millis(self.program.millis(d))
    }

    pub(super) fn held(&self, by: usize, task: usize) -> Option<Held<'_>> {
        let greenlet = self.any.borrow()[task].clone()?;
        self.held[task].set(self.held[task].get() + 1);
        Some(Held { world: self, task, greenlet, _waits: Waits { world: self, by } })
    }

    pub(super) fn steps(self: &Rc<World>, me: &Me<u64>, t: usize, ops: &[Op]) {
        for op in ops {
            self.step(me, t, op);
        }
    }

    /// The root was told that nothing can happen any more: then nothing may be ready, and nobody wait
    /// for what has happened or for a time.
    pub(super) fn check_deadlock(&self) {
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

pub(super) fn outcome(done: &std::io::Result<usize>) -> Out {
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
