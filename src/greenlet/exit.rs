//! `GreenletExit`, the errors of switching, and the rules of ending.
//!
//! A greenlet ends by returning, by a panic, or by [`GreenletExit`]. What it ends with goes to its
//! parent: a value arrives there as the value of the pending switch, a panic is raised there with
//! its payload intact, and `GreenletExit` arrives as [`SwitchError::Exited`]: ending was what
//! somebody asked for, so it is no failure of the parent's.

use std::any::Any;
use std::fmt;

use super::block::Payload;
use super::stack::StackError;

/// Raised in a greenlet to end it: unwinds its stack, runs its destructors, and is no error.
///
/// Mirrors `greenlet.GreenletExit`. The panic hook does not run for it and nothing is printed.
/// Throw your own with [`Me::throw`](crate::Me::throw).
///
/// ```
/// use gevent::{enter, GreenletExit, SwitchError};
///
/// enter(|me| {
///     let child = me.child(|me: &gevent::Me<()>, ()| {
///         let back = me.parent();
///         unreachable!("{back:?} never lets it run");
///     });
///     let ended = me.throw(&child, Box::new(GreenletExit));
///     assert!(matches!(ended, Err(SwitchError::Exited(id)) if id == child.id()));
/// });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GreenletExit;

impl fmt::Display for GreenletExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("greenlet exit")
    }
}

impl std::error::Error for GreenletExit {}

/// What a [`timeout`](crate::timeout) raises, by its number; only that one catches it.
pub(crate) struct TimeoutRaised(pub(crate) u64);

/// "This operation would block forever": the root waits, and nothing is left that could wake it.
///
/// Mirrors gevent's `LoopExit`. [`report`](LoopExit::report) lists who waits on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopExit {
    report: String,
}

impl LoopExit {
    pub(crate) fn new(report: String) -> Self {
        LoopExit { report }
    }

    /// Who waits on what, one greenlet a line; empty when no greenlet is left.
    pub fn report(&self) -> &str {
        &self.report
    }
}

impl fmt::Display for LoopExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this operation would block forever")?;
        if self.report.is_empty() {
            f.write_str(": no greenlet is left that could wake it")
        } else {
            write!(f, ":\n{}", self.report.trim_end())
        }
    }
}

impl std::error::Error for LoopExit {}

/// A child's value that its parent could not take, since it waits for another type.
///
/// Happens only where types cannot see it: after [`set_parent`](crate::AnyGreenlet::set_parent), or
/// when the parent that was there when the child was made has ended and its parent is next.
pub struct Orphan {
    pub(crate) from: u64,
    pub(crate) expected: &'static str,
    pub(crate) found: &'static str,
    pub(crate) value: Box<dyn Any>,
}

impl Orphan {
    /// The id of the greenlet that ended.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The type that the parent waits for.
    pub fn expected(&self) -> &'static str {
        self.expected
    }

    /// The type of the value.
    pub fn found(&self) -> &'static str {
        self.found
    }

    /// The value itself.
    pub fn into_value(self) -> Box<dyn Any> {
        self.value
    }
}

impl fmt::Debug for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orphan")
            .field("from", &self.from)
            .field("expected", &self.expected)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "greenlet {} ended with a {}, but its parent waits for a {}: the parent was changed after it was made",
            self.from, self.found, self.expected
        )
    }
}

/// Why a switch or throw brought no value. Every refusal gives what was to be sent back.
#[non_exhaustive]
pub enum SwitchError<T> {
    /// The target has ended.
    Dead(T),
    /// The caller's `Me` is not the greenlet that runs: it was carried into another one.
    NotCurrent(T),
    /// The target waits in the hub, or in the drop of another greenlet: no value can be sent to it.
    Parked(T),
    /// The target waits in another `enter`, for another type than this handle's.
    OtherType(T),
    /// The target was declared, but its body has not been given: call `Body::run` first.
    NoBody(T),
    /// The caller unwinds: a switch would leak the panic into other greenlets.
    Unwinding(T),
    /// The caller is a tracer: tracers may not switch.
    Tracing(T),
    /// No stack could be had for the target's start.
    NoStack(T, StackError),
    /// A child ended by [`GreenletExit`]; its id.
    Exited(u64),
    /// A child ended with a value of another type.
    Orphan(Orphan),
    /// Nothing is left that could ever switch back.
    LoopExit(LoopExit),
}

impl<T> SwitchError<T> {
    /// What was to be sent, if it was not.
    pub fn into_inner(self) -> Option<T> {
        match self {
            SwitchError::Dead(v)
            | SwitchError::NotCurrent(v)
            | SwitchError::Parked(v)
            | SwitchError::OtherType(v)
            | SwitchError::NoBody(v)
            | SwitchError::Unwinding(v)
            | SwitchError::Tracing(v)
            | SwitchError::NoStack(v, _) => Some(v),
            SwitchError::Exited(_) | SwitchError::Orphan(_) | SwitchError::LoopExit(_) => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            SwitchError::Dead(_) => "Dead",
            SwitchError::NotCurrent(_) => "NotCurrent",
            SwitchError::Parked(_) => "Parked",
            SwitchError::OtherType(_) => "OtherType",
            SwitchError::NoBody(_) => "NoBody",
            SwitchError::Unwinding(_) => "Unwinding",
            SwitchError::Tracing(_) => "Tracing",
            SwitchError::NoStack(..) => "NoStack",
            SwitchError::Exited(_) => "Exited",
            SwitchError::Orphan(_) => "Orphan",
            SwitchError::LoopExit(_) => "LoopExit",
        }
    }
}

// By hand, so that `unwrap` and `expect` work whatever was sent.
impl<T> fmt::Debug for SwitchError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.name())
    }
}

impl<T> fmt::Display for SwitchError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwitchError::Dead(_) => f.write_str("the target greenlet has ended"),
            SwitchError::NotCurrent(_) => {
                f.write_str("this `Me` is not the running greenlet: use the one that the running body was given")
            }
            SwitchError::Parked(_) => f.write_str(
                "the target greenlet waits in the hub (or in the drop of another greenlet) and takes no value now",
            ),
            SwitchError::OtherType(_) => {
                f.write_str("the target greenlet waits in another `enter`, for a value of another type")
            }
            SwitchError::NoBody(_) => f.write_str("the target greenlet has no body yet: call `Body::run` first"),
            SwitchError::Unwinding(_) => f.write_str("cannot switch while the running greenlet unwinds"),
            SwitchError::Tracing(_) => f.write_str("cannot switch from a tracer"),
            SwitchError::NoStack(_, error) => write!(f, "no stack for the target greenlet: {error}"),
            SwitchError::Exited(id) => write!(f, "greenlet {id} ended by GreenletExit"),
            SwitchError::Orphan(orphan) => orphan.fmt(f),
            SwitchError::LoopExit(exit) => exit.fmt(f),
        }
    }
}

impl<T> std::error::Error for SwitchError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SwitchError::NoStack(_, error) => Some(error),
            SwitchError::LoopExit(exit) => Some(exit),
            _ => None,
        }
    }
}

/// Why a greenlet cannot be given this parent. A greenlet of another thread is not among them:
/// handles never leave their thread, so it does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParentError {
    /// The new parent is the greenlet itself, or a child of it.
    Cycle,
    /// A root greenlet has no parent: it is the thread's own code.
    Root,
    /// The greenlet was spawned: the hub is its parent, and what it ends with goes to who joins it.
    Spawned,
}

impl fmt::Display for ParentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ParentError::Cycle => {
                "cyclic parent chain: the new parent is the greenlet itself or a descendant of it"
            }
            ParentError::Root => "a root greenlet cannot be given a parent",
            ParentError::Spawned => "a spawned greenlet's parent is its hub",
        })
    }
}

impl std::error::Error for ParentError {}

/// What ends with nobody left to tell goes to standard error, a line each.
pub(crate) fn report(line: &str) {
    use std::io::Write;
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "gevent: {line}");
}

/// The message of a panic payload, if it has one.
pub(crate) fn message(payload: &Payload) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a payload that is not text"
    }
}
