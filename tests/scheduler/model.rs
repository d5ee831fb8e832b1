//! What a program must do, by the rules of the design and nothing else.
//!
//! A plain machine: the ready queue is a list, the timers are a list looked through for the least,
//! each task is a stack of blocks. It shares no code with the library and knows no stack, no epoch
//! and no queue node. Where the two differ one of them is wrong.

use std::collections::VecDeque;

use super::pairs::Pairs;
use super::program::{EVENTS, Kind, Op, Program};
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

    pub(super) fn drop_later(&mut self) {
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
}
