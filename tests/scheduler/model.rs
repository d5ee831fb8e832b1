//! What a program must do, by the rules of the design and nothing else.
//!
//! A plain machine: the ready queue is a list, the timers are a list looked through for the least,
//! each task is a stack of blocks. It shares no code with the library and knows no stack, no epoch
//! and no queue node. Where the two differ one of them is wrong.

use std::collections::VecDeque;

use super::pairs::Pairs;
use super::program::{EVENTS, Kind, Make, Op, Program};
use super::{Event, How, Out, Trace, Why};

/// What is raised in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raise {
    Exit,
    Boom,
    /// By the timer of that number.
    Timeout(u64),
    LoopExit,
}

impl Raise {
    pub(super) fn why(self) -> Why {
        match self {
            Raise::Exit => Why::Exit,
            Raise::Boom => Why::Boom,
            Raise::Timeout(_) => Why::Timeout,
            Raise::LoopExit => Why::LoopExit,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Not made yet.
    Absent,
    Unstarted,
    Current,
    /// Suspended in a switch or throw.
    Switched,
    /// Suspended in the hub.
    Parked,
    Dead,
}

/// How a task's last wait stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    None,
    Waiting,
    Granted,
    Cancelled,
    TimedOut,
}

/// What a task waits for the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Task(usize),
    /// Data in a pair.
    Pair(usize),
    /// The use of an event, up to its next `clear`.
    Signal(usize),
}

/// Where a suspended task goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then<'p> {
    Start,
    /// A wait has ended; its timer.
    Waited(&'p Op, Option<Target>, Option<u64>),
    /// The budget made the task yield after a call, which had this outcome; and how many calls of a
    /// burst are left.
    Spent(&'p Op, Out, usize),
    /// A turn in the ready queue, or of the idle, has come.
    Turn(&'p Op),
    Switched(&'p Op),
}

/// What came with a switch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival {
    Value(u64),
    Throw(Raise),
    Exited(usize),
    LoopExit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// The task itself.
    Base,
    Timeout(u64),
    Catch,
    Shield,
}

#[derive(Debug)]
pub(super) struct Frame<'p> {
    pub(super) ops: &'p [Op],
    pub(super) next: usize,
    pub(super) block: Block,
    /// The step that opened the block.
    pub(super) id: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum AtEnd {
    /// Grants that wait of that task.
    Wake(usize, u64),
    /// Calls that link: 0 for any end, 1 for a value, 2 for a panic.
    Link(usize, u8),
}

#[derive(Debug)]
pub(super) struct Task<'p> {
    pub(super) life: Life,
    pub(super) then: Then<'p>,
    pub(super) frames: Vec<Frame<'p>>,
    pub(super) wait: Wait,
    /// The number of its last wait.
    pub(super) waits: u64,
    pub(super) pending: Vec<Raise>,
    pub(super) arrival: Option<Arrival>,
    pub(super) parent: Option<usize>,
    /// It was somebody's parent once.
    pub(super) had_children: bool,
    /// Its last handle was dropped.
    pub(super) discarded: bool,
    /// Its result was taken.
    pub(super) taken: bool,
    /// Its join takes the result.
    pub(super) takes: bool,
    pub(super) began: bool,
    pub(super) ended: Option<How>,
    pub(super) at_end: Vec<AtEnd>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Wake(usize, u64),
    Expire(usize, u64),
    Start(usize),
    Timeout(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    Task(usize),
    /// The greenlet of a link, and whether its task ended without an error.
    Link(usize, bool),
}

pub(super) enum Flow {
    /// The same task goes on.
    Go,
    /// Whoever the hub picks.
    Hub,
    To(usize),
    /// The root has done its last step.
    Over,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Model<'p> {
    pub(super) program: &'p Program,
    pub(super) now: u64,
    pub(super) tasks: Vec<Task<'p>>,
    pub(super) ready: VecDeque<Ready>,
    pub(super) idle: VecDeque<usize>,
    pub(super) timers: Vec<(u64, u64, Due)>,
    pub(super) timers_made: u64,
    /// Each event's current use.
    pub(super) events: [usize; EVENTS],
    /// Whether each use has been set, and who waits for it.
    pub(super) signals: Vec<(bool, Vec<AtEnd>)>,
    pub(super) pairs: Pairs,
    /// Calls without a wait that the running task may make before it yields.
    pub(super) budget: u8,
    /// Tasks that never ran and whose belongings whoever runs next drops.
    pub(super) drops: Vec<usize>,
    /// The task of each link made, for taking it back.
    pub(super) links: Vec<usize>,
    pub(super) trace: Trace,
    /// How often each kind of step was begun.
    pub(crate) begun: Vec<usize>,
    /// How often nothing could happen any more.
    pub(crate) deadlocks: usize,
}

/// What the machine did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) trace: Trace,
    pub(crate) begun: Vec<usize>,
    pub(crate) deadlocks: usize,
}

/// Runs a program that has been numbered, until the root's last step.
pub(crate) fn run(program: &Program) -> Ran {
    let mut model = Model::new(program);
    model.run();
    Ran { trace: model.trace, begun: model.begun, deadlocks: model.deadlocks }
}

impl<'p> Model<'p> {
    fn new(program: &'p Program) -> Model<'p> {
        let task = |_| Task {
            life: Life::Absent,
            then: Then::Start,
            frames: Vec::new(),
            wait: Wait::None,
            waits: 0,
            pending: Vec::new(),
            arrival: None,
            parent: None,
            had_children: false,
            discarded: false,
            taken: false,
            takes: false,
            began: false,
            ended: None,
            at_end: Vec::new(),
        };
        let mut model = Model {
            program,
            now: 0,
            tasks: program.tasks.iter().map(task).collect(),
            ready: VecDeque::new(),
            idle: VecDeque::new(),
            timers: Vec::new(),
            timers_made: 0,
            events: std::array::from_fn(|event| event),
            signals: (0..EVENTS).map(|_| (false, Vec::new())).collect(),
            pairs: Pairs::default(),
            budget: program.budget,
            drops: Vec::new(),
            links: Vec::new(),
            trace: Vec::new(),
            begun: vec![0; Kind::ALL.len()],
            deadlocks: 0,
        };
        model.tasks[0].life = Life::Current;
        model.tasks[0].began = true;
        model.open(0, &program.tasks[0].ops, Block::Base, usize::MAX);
        for (t, task) in program.tasks.iter().enumerate() {
            if task.first {
                model.spawn(0, t);
            }
        }
        model
    }

    pub(super) fn run(&mut self) {
        let mut current = 0;
        loop {
            current = match self.advance(current) {
                Flow::Go => current,
                Flow::Hub => {
                    let next = self.pick();
                    self.resume(next)
                }
                Flow::To(next) => self.resume(next),
                Flow::Over => return,
            };
        }
    }

    // -----------------------------------------------------------------------------------------
    // The hub
    // -----------------------------------------------------------------------------------------

    pub(super) fn pick(&mut self) -> usize {
        loop {
            self.poll();
            self.fire();
            let next = self.ready.pop_front();
            if next.is_some() {
                self.budget = self.program.budget;
            }
            match next {
                Some(Ready::Task(t)) => return t,
                Some(Ready::Link(n, fine)) => {
                    self.drop_later();
                    self.note(Event::Linked(n, fine));
                    continue;
                }
                None => {}
            }
            if let Some(t) = self.idle.pop_front() {
                self.ready.push_back(Ready::Task(t));
            } else if let Some(next) = self.timers.iter().map(|timer| timer.0).min() {
                self.now = self.now.max(next);
            } else if !self.close_a_pair() {
                self.deadlocks += 1;
                let root = &mut self.tasks[0];
                root.arrival = Some(Arrival::LoopExit);
                if root.wait == Wait::Waiting {
                    root.wait = Wait::Cancelled;
                }
                root.life = Life::Parked;
                self.ready.push_back(Ready::Task(0));
            }
        }
    }

    pub(super) fn timer(&mut self, at: u64, due: Due) -> u64 {
        self.timers_made += 1;
        self.timers.push((at, self.timers_made, due));
        self.timers_made
    }

    pub(super) fn cancel(&mut self, timer: u64) {
        self.timers.retain(|other| other.1 != timer);
    }

    /// What is due, in the order of deadlines, those of one time in the order in which they were set.
    pub(super) fn fire(&mut self) {
        loop {
            let now = self.now;
            let due = self.timers.iter().enumerate().filter(|(_, timer)| timer.0 <= now);
            let Some((at, _)) = due.min_by_key(|(_, timer)| (timer.0, timer.1)) else { return };
            let (_, id, due) = self.timers.remove(at);
            match due {
                Due::Wake(t, wait) => self.end_wait(t, Some(wait), Wait::Granted),
                Due::Expire(t, wait) => self.end_wait(t, Some(wait), Wait::TimedOut),
                Due::Start(t) => {
                    self.ready.push_back(Ready::Task(t));
                    true
                }
                Due::Timeout(t) => {
                    self.interrupt(t, Raise::Timeout(id));
                    true
                }
            };
        }
    }

    /// Grants that wait.
    pub(super) fn grant(&mut self, t: usize, wait: u64) {
        self.end_wait(t, Some(wait), Wait::Granted);
    }

    /// The one step that ends a wait.
    pub(super) fn end_wait(&mut self, t: usize, wait: Option<u64>, to: Wait) -> bool {
        let task = &mut self.tasks[t];
        if task.wait != Wait::Waiting || wait.is_some_and(|wait| wait != task.waits) {
            return false;
        }
        task.wait = to;
        self.ready.push_back(Ready::Task(t));
        true
    }

    /// A kill, a throw or a timeout.
    pub(super) fn interrupt(&mut self, t: usize, raise: Raise) {
        let raw = self.is_raw(t);
        let task = &mut self.tasks[t];
        match task.life {
            Life::Absent | Life::Dead => {}
            Life::Switched => {
                task.arrival = Some(Arrival::Throw(raise));
                task.life = Life::Parked;
                self.ready.push_back(Ready::Task(t));
            }
            Life::Unstarted if raw => self.never_runs(t, raise),
            Life::Unstarted => {
                task.pending.push(raise);
                let later = self.timers.iter().position(|timer| matches!(timer.2, Due::Start(s) if s == t));
                if let Some(at) = later {
                    self.timers.remove(at);
                    self.ready.push_back(Ready::Task(t));
                }
            }
            Life::Current | Life::Parked => {
                task.pending.push(raise);
                if !self.end_wait(t, None, Wait::Cancelled) {
                    if let Some(at) = self.idle.iter().position(|&idle| idle == t) {
                        self.idle.remove(at);
                        self.ready.push_back(Ready::Task(t));
                    }
                }
            }
        }
    }

    fn drop_later(&mut self) {
        while let Some(t) = self.drops.pop() {
            self.note(Event::Dropped(t));
        }
    }

    /// A raw task ends that never ran.
    pub(super) fn never_runs(&mut self, t: usize, raise: Raise) {
        self.tasks[t].life = Life::Dead;
        self.note(Event::Dropped(t));
        self.ends(t, How::Raised(raise.why()));
    }

    /// Tells who waits for a task's end.
    pub(super) fn ends(&mut self, t: usize, how: How) {
        self.tasks[t].life = Life::Dead;
        self.tasks[t].ended = Some(how);
        let fine = !matches!(how, How::Raised(why) if why != Why::Exit);
        for what in std::mem::take(&mut self.tasks[t].at_end) {
            self.tell(what, fine);
        }
    }

    pub(super) fn tell(&mut self, what: AtEnd, fine: bool) {
        match what {
            AtEnd::Wake(waiting, wait) => {
                self.end_wait(waiting, Some(wait), Wait::Granted);
            }
            AtEnd::Link(n, on) => {
                if on == 0 || (on == 1) == fine {
                    self.ready.push_back(Ready::Link(n, fine));
                }
            }
        }
    }

    // -----------------------------------------------------------------------------------------
    // Tasks
    // -----------------------------------------------------------------------------------------

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
