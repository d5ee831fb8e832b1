//! `settrace` and `gettrace`: told of every switch of this thread, in the target, after it.
//!
//! Free when unset: the driver looks at one flag that is set for other reasons too.

use std::rc::Rc;

use super::AnyGreenlet;
use super::block::BlockRef;
use super::driver;

/// What a tracer is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TraceEvent {
    /// A value was sent, or the hub resumed the target.
    Switch,
    /// Something was raised in the target.
    Throw,
}

/// A tracer: called with the event, the greenlet that ran before, and the one that runs now.
pub type Tracer = Rc<dyn Fn(TraceEvent, &AnyGreenlet, &AnyGreenlet)>;

/// Sets or removes this thread's tracer and returns the one before. Mirrors `greenlet.settrace`.
///
/// The tracer runs after each switch, in the greenlet that was switched to. It may not switch
/// itself: that is [`SwitchError::Tracing`](crate::SwitchError::Tracing). If it panics it is removed,
/// and the panic is raised in the target.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
/// use gevent::{TraceEvent, enter, settrace};
///
/// let seen = Rc::new(RefCell::new(Vec::new()));
/// let log = seen.clone();
/// settrace(Some(Rc::new(move |event, from, to| log.borrow_mut().push((event, from.id(), to.id())))));
/// let (here, child) = enter(|me: &gevent::Me<()>| {
///     let child = me.child(|_, ()| ());
///     me.switch(&child, ()).unwrap();
///     (me.id(), child.id())
/// });
/// settrace(None);
/// assert_eq!(*seen.borrow(), [(TraceEvent::Switch, here, child), (TraceEvent::Switch, child, here)]);
/// ```
pub fn settrace(tracer: Option<Tracer>) -> Option<Tracer> {
    driver::set_tracer(tracer)
}

/// This thread's tracer. Mirrors `greenlet.gettrace`.
pub fn gettrace() -> Option<Tracer> {
    driver::tracer()
}

pub(super) fn tell(tracer: &Tracer, event: TraceEvent, origin: &BlockRef, target: &BlockRef) {
    tracer(event, &AnyGreenlet::from_block(origin.clone()), &AnyGreenlet::from_block(target.clone()));
}
