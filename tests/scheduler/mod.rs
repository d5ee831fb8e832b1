//! A random program, what a plain model says it does, and what it does.

mod calls;
pub(crate) mod model;
mod outside;
mod pairs;
pub(crate) mod program;
pub(crate) mod runner;
mod steps;
mod tasks;

/// What both the model and the run write down, in the order in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A task's first code ran; with the value that it was started with, if any.
    Began(usize, u64),
    /// A step was done, and what came of it.
    Done(usize, usize, Out),
    /// A task's last code ran.
    Ended(usize, How),
    /// What the task held was dropped.
    Dropped(usize),
    /// A link was called: its number, and how the task that it is for had ended.
    Linked(usize, bool),
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// Done, with nothing to say.
    Ok,
    /// It makes no sense now (a task that is there already, or not yet), and nothing was called.
    Skipped,
    /// A wait's answer.
    Is(bool),
    /// A number: a switch's value, a link, the bytes of a read.
    Got(u64),
    /// The switch was refused: the target has ended.
    Dead,
    /// The switch was refused: the target waits in the hub.
    Parked,
    /// A child ended by `GreenletExit` while its parent waited in a switch.
    Exited(usize),
    /// The root's wait could never have ended.
    LoopExit,
    /// A timeout block ran out.
    Elapsed,
    /// A catch block (or the root, which catches all) caught this.
    Caught(Why),
    /// What a join found.
    Joined(How),
    /// A join that may not wait and has no result.
    Unfinished,
    /// An I/O error, by its number.
    Error(i32),
    /// An error that the model never expects.
    Unexpected,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Returned(u64),
    Raised(Why),
}

/// What unwinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// `GreenletExit`.
    Exit,
    /// The tests' own payload.
    Boom,
    /// A timeout.
    Timeout,
    /// The panic of a call without a result that could never have ended.
    LoopExit,
    /// Anything else.
    Other,
}

/// An event and when it happened, in milliseconds of the virtual clock.
pub(crate) type Trace = Vec<(u64, Event)>;
