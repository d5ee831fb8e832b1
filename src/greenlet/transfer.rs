//! What travels with a switch: a value, a throw, or the end of a child.
//!
//! ```text
//!   receiver's frame, suspended            sender's frame, running
//!   ┌───────────────────────────┐          ┌───────────────────────┐
//!   │ landing: Cell<Option<In>> │ <─ write ┤ switch(&to, value)    │   then the stacks are switched
//!   └──────────▲────────────────┘          └───────────────────────┘
//!              └── block.landing, block.port
//! ```
//!
//! The sender moves the value straight into the receiver's own frame, before the switch: nothing is
//! allocated, nothing is lost if the sender ends meanwhile, and nothing is read late. What proves
//! the type is the *port*: each typed view of a greenlet (its `Me`, each `enter`) has a number that
//! no other view of that greenlet has, a handle carries the number of the view that it was made
//! from, and a greenlet is suspended under the number of the view that suspended it.
//!
//! What may come in: landings, arrivals, and the walk up the parents when a greenlet ends. What
//! never comes in: stacks and the hub. `unsafe` here is the writing through `landing` and `first`.

use std::any::Any;
use std::cell::Cell;
use std::ptr::null;

use super::block::{Arrival, BlockRef, Kind, Outcome, Payload, State, kind};
use super::driver;
use super::exit::{self, GreenletExit, Orphan, SwitchError};

/// Suspends `me` under `port`, waiting for an `In`, after `send` has delivered something and named
/// who runs next (`None`: whom the hub picks).
///
/// # Panics
/// Raises what was thrown.
pub(super) fn exchange<In: 'static, E>(
    me: &BlockRef,
    port: u64,
    send: impl FnOnce() -> Result<Option<BlockRef>, E>,
) -> Result<Result<In, Arrival>, E> {
    let landing = Cell::new(None::<In>);
    me.kind.set(kind::<In>);
    me.port.set(port);
    me.landing.set((&raw const landing).cast());
    let sent = send();
    match sent {
        Err(refused) => {
            me.landing.set(null());
            Err(refused)
        }
        // To itself: it has landed already.
        Ok(Some(next)) if next.same(me) => {
            me.landing.set(null());
            let landed = landing.take();
            let arrival = if landed.is_none() { me.take_arrival() } else { None };
            driver::reap_pending();
            Ok(arrived(landed, arrival))
        }
        Ok(next) => {
            me.state.set(State::Switched);
            driver::switch_to(next);
            me.landing.set(null());
            let landed = landing.take();
            let arrival = if landed.is_none() { me.take_arrival() } else { None };
            // User code may run in here (a tracer, a drop), so what arrived was taken before.
            driver::settle();
            Ok(arrived(landed, arrival))
        }
    }
}

#[inline]
fn arrived<In>(landed: Option<In>, arrival: Option<Arrival>) -> Result<In, Arrival> {
    match landed {
        Some(value) => Ok(value),
        None => match arrival {
            Some(Arrival::Throw(payload)) => std::panic::resume_unwind(payload),
            Some(other) => Err(other),
            None => unreachable!("a greenlet was resumed with nothing"),
        },
    }
}

/// Writes a value into the landing of a suspended greenlet.
///
/// # Safety
/// The greenlet must be suspended (or be the current one, in `exchange`) with a landing of type `T`.
pub(super) unsafe fn land<T: 'static>(to: &BlockRef, value: T) {
    debug_assert_eq!((to.kind.get())().0, std::any::TypeId::of::<T>());
    let landing = to.landing.get().cast::<Cell<Option<T>>>();
    // SAFETY: by the caller's promise the greenlet is inside `exchange::<T>`, whose frame holds the
    // cell until the pointer is null again.
    unsafe { (*landing).set(Some(value)) };
}

/// Has `to`, which is about to start, find its first value in the frame of its switcher.
pub(super) fn point_first<T: 'static>(to: &BlockRef, value: &Cell<Option<T>>) {
    to.landing.set(std::ptr::from_ref(value).cast());
}

/// Takes the first value of a greenlet that has just started.
///
/// # Safety
/// The greenlet must have been started with a `T`, and nothing have run since.
pub(super) unsafe fn take_first<T: 'static>(me: &BlockRef) -> T {
    let slot = me.landing.replace(null()).cast::<Cell<Option<T>>>();
    if slot.is_null() {
        let boxed = me.rare().first.take().expect("a typed greenlet was started with nothing");
        return *boxed.downcast::<T>().expect("checked by `finish`");
    }
    // SAFETY: it points into the frame of the switcher, which is suspended in `switch`; nothing has
    // run since, and by the caller's promise the type is `T`.
    unsafe { (*slot).take() }.expect("the first value is gone")
}

/// What a greenlet ends with.
pub(super) enum Ending<Out> {
    Value(Out),
    Raise(Payload),
    Exited(u64),
    Orphan(Box<Orphan>),
}

impl<Out> Ending<Out> {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Ending::Value(_) => Outcome::Returned,
            Ending::Exited(_) => Outcome::Killed,
            Ending::Raise(_) | Ending::Orphan(_) => Outcome::Panicked,
        }
    }

    /// From what the body returned or raised.
    pub(super) fn of(result: Result<Out, Payload>, id: u64) -> Self {
        match result {
            Ok(value) => Ending::Value(value),
            Err(payload) if payload.is::<GreenletExit>() => Ending::Exited(id),
            Err(payload) => Ending::Raise(payload),
        }
    }
}

/// Tells whoever is to know how `who` ended, and says who runs next (`None`: whom the hub picks).
///
/// Runs no user code: `who` cannot be unwound any more, or is not the greenlet that runs. What is to be
/// dropped is dropped by the greenlet that runs next.
///
/// Walks up the parents: the dead are skipped, an unstarted one is started with a value of its type
/// (and dies of anything else), a suspended one receives it. What fails becomes the error that the
/// next ancestor receives.
pub(super) fn finish<Out: 'static>(who: &BlockRef, ending: Ending<Out>) -> Option<BlockRef> {
    let next = tell(who, ending);
    who.leave_parents();
    next
}

fn tell<Out: 'static>(who: &BlockRef, mut ending: Ending<Out>) -> Option<BlockRef> {
    if let Some(reaper) = who.take_reaper() {
        // Nobody holds it any more: a value is dropped, only a panic is worth a line.
        if let Ending::Raise(payload) = ending {
            exit::report(&format!(
                "{} panicked while it was dropped: {}",
                who.describe(),
                exit::message(&payload)
            ));
            driver::drop_later(Box::new(payload));
        } else {
            ending.drop_later();
        }
        return Some(reaper);
    }
    // They stay linked until all is told: a dead one leads its children to who is next.
    let mut ancestor = who.parent();
    while let Some(parent) = ancestor {
        match parent.state.get() {
            State::Dead => {}
            State::Unstarted if !parent.has_parent() => {
                // Spawned, so the hub is its parent: only a throw ends it.
                match to_hub(&parent, ending) {
                    Ok(()) => return None,
                    Err(refused) => ending = refused,
                }
            }
            State::Unstarted => match ending {
                Ending::Value(value) if takes::<Out>(parent.kind.get()) && has_body(&parent) => {
                    match driver::prepare(&parent) {
                        Ok(()) => {
                            parent.rare().first.set(Some(Box::new(value)));
                            return Some(parent);
                        }
                        Err(error) => {
                            exit::report(&format!("no stack to start {}: {error}", parent.describe()));
                            ending = Ending::Value(value);
                        }
                    }
                }
                other => {
                    let outcome = other.outcome();
                    ending = other.mismatched(who.id, parent.kind.get());
                    // A throw at a greenlet that never ran ends it; its parent is told.
                    if !matches!(ending, Ending::Orphan(_)) {
                        end_unstarted(&parent, outcome);
                    }
                }
            },
            State::Switched | State::Current => {
                ending = ending.mismatched(who.id, parent.kind.get());
                match ending {
                    // SAFETY: suspended in `exchange` (or in it, about to suspend), with a landing
                    // of the kind that `mismatched` has just compared with `Out`.
                    Ending::Value(value) => unsafe { land(&parent, value) },
                    Ending::Raise(payload) => {
                        // To itself it is raised at once, without a switch to tell of.
                        if parent.state.get() == State::Switched {
                            driver::note_throw();
                        }
                        parent.arrive(Arrival::Throw(payload));
                    }
                    Ending::Exited(id) => parent.arrive(Arrival::Exited(id)),
                    Ending::Orphan(orphan) => parent.arrive(Arrival::Orphan(orphan)),
                }
                return Some(parent);
            }
            State::Parked => match to_hub(&parent, ending) {
                Ok(()) => return None,
                Err(refused) => ending = refused,
            },
        }
        ancestor = parent.parent();
    }
    lost(who, &ending);
    ending.drop_later();
    None
}

/// Has the hub raise a panic in a greenlet that waits there; anything else is refused.
fn to_hub<Out>(parent: &BlockRef, ending: Ending<Out>) -> Result<(), Ending<Out>> {
    match (ending, driver::hooks()) {
        (Ending::Raise(payload), Some(hooks)) => (hooks.unpark)(parent, payload).map_err(Ending::Raise),
        (ending, _) => Err(ending),
    }
}

/// Whether a landing of this kind takes an `Out`.
fn takes<Out: 'static>(kind: Kind) -> bool {
    kind().0 == std::any::TypeId::of::<Out>()
}

/// Whether its body was given and has not begun.
pub(super) fn has_body(block: &BlockRef) -> bool {
    let body = block.body.take();
    let has = body.is_some();
    block.body.set(body);
    has
}

impl<Out: 'static> Ending<Out> {
    fn drop_later(self) {
        match self {
            Ending::Value(value) if std::mem::needs_drop::<Out>() => driver::drop_later(Box::new(value)),
            Ending::Value(_) | Ending::Exited(_) => {}
            Ending::Raise(payload) => driver::drop_later(Box::new(payload)),
            Ending::Orphan(orphan) => driver::drop_later(Box::new(orphan)),
        }
    }

    /// A value that a landing of this kind cannot take becomes an orphan.
    fn mismatched(self, from: u64, kind: Kind) -> Self {
        match self {
            Ending::Value(value) if !takes::<Out>(kind) => Ending::Orphan(Box::new(Orphan {
                from,
                expected: kind().1,
                found: std::any::type_name::<Out>(),
                value: Box::new(value) as Box<dyn Any>,
            })),
            other => other,
        }
    }
}

/// Ends a greenlet that never ran, and tells who waits for its end. Its body, and so what it captured,
/// is dropped: user code.
pub(super) fn discard(block: &BlockRef, outcome: Outcome) {
    block.state.set(State::Dead);
    drop(block.claim.take());
    drop(block.body.take());
    super::ended(block, outcome);
}

/// The same, where no user code may run.
fn end_unstarted(block: &BlockRef, outcome: Outcome) {
    block.state.set(State::Dead);
    drop(block.claim.take());
    if let Some(body) = block.body.take() {
        driver::drop_later(Box::new(body));
    }
    super::ended(block, outcome);
}

#[cold]
fn lost<Out>(who: &BlockRef, ending: &Ending<Out>) {
    match ending {
        // Being told to end, it ended.
        Ending::Exited(_) => {}
        Ending::Value(_) | Ending::Orphan(_) => {
            if std::mem::size_of::<Out>() > 0 {
                exit::report(&format!(
                    "{} ended with a {}, but none of its parents waits for a value; it is dropped",
                    who.describe(),
                    std::any::type_name::<Out>()
                ));
            }
        }
        Ending::Raise(payload) => exit::report(&format!(
            "{} panicked, but none of its parents could be told: {}",
            who.describe(),
            exit::message(payload)
        )),
    }
}

/// An arrival that is not a value, as the error that `switch` returns.
pub(super) fn error<T>(arrival: Arrival) -> SwitchError<T> {
    match arrival {
        Arrival::Throw(payload) => std::panic::resume_unwind(payload),
        Arrival::Exited(id) => SwitchError::Exited(id),
        Arrival::Orphan(orphan) => SwitchError::Orphan(*orphan),
        Arrival::LoopExit(exit) => SwitchError::LoopExit(exit),
    }
}
