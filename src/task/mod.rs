//! Layer 3: greenlets that the hub schedules. `spawn`, join, kill, links, timeouts.
//!
//! What may come in: the life of a spawned greenlet as its user sees it. What never comes in:
//! switching (layer 1) and deciding who is next (the hub).
//!
//! | room | holds |
//! |---|---|
//! | this file | [`Greenlet`], [`spawn`], [`Builder`], [`sleep`], [`yield_now`], [`idle`] |
//! | [`handle`] | what any greenlet's handle can do: state, wait, kill, links |
//! | [`timeout`] | [`timeout()`](timeout::timeout) |

pub(crate) mod handle;
pub(crate) mod timeout;

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use crate::greenlet::AnyGreenlet;
use crate::greenlet::block::{Outcome, Payload, WaitsFor};
use crate::greenlet::stack::{StackError, StackSize};
use crate::hub::wait::Until;
use crate::hub::{self, spawn as start};

/// Why a greenlet gave no value.
#[non_exhaustive]
pub enum Ended {
    /// It was killed, and unwound. No error: that is what was asked for.
    Killed,
    /// It panicked, with this payload.
    Panicked(Payload),
    /// The value is not here: another thread's exit, or a wait that could not be waited out.
    Unfinished,
}

impl Ended {
    /// The panic's message, if it panicked and its payload is text.
    pub fn message(&self) -> Option<&str> {
        match self {
            Ended::Panicked(payload) => Some(crate::greenlet::exit::message(payload)),
            _ => None,
        }
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Killed => f.write_str("Killed"),
            Ended::Unfinished => f.write_str("Unfinished"),
            Ended::Panicked(payload) => {
                f.debug_tuple("Panicked").field(&crate::greenlet::exit::message(payload)).finish()
            }
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Killed => f.write_str("the greenlet was killed"),
            Ended::Unfinished => {
                f.write_str("the greenlet has not ended, and may not be waited for here (an unwind, a tracer, a thread's exit)")
            }
            Ended::Panicked(payload) => write!(f, "the greenlet panicked: {}", crate::greenlet::exit::message(payload)),
        }
    }
}

impl std::error::Error for Ended {}

/// The result of a greenlet: what it returned, or how it ended otherwise.
type Outcomes<T> = Result<T, Ended>;

struct Packet<T> {
    result: RefCell<Slot<T>>,
}

enum Slot<T> {
    /// It runs, and somebody holds its handle.
    Awaited,
    /// It runs, and nobody will ask.
    Detached,
    Ended(Outcomes<T>),
    Taken,
}

/// A spawned greenlet, and the right to its result. Mirrors `gevent.Greenlet`.
///
/// Dropping it detaches the greenlet, which goes on. Not `Clone`: one joiner takes the value; for
/// more, and to kill, wait and link, [`handle`](Greenlet::handle) (or any method of [`AnyGreenlet`],
/// to which it dereferences).
///
/// ```
/// let greenlet = gevent::spawn(|| 40 + 2);
/// assert_eq!(greenlet.join().unwrap(), 42);
/// ```
///
/// ```compile_fail
/// let greenlet = gevent::spawn(|| ());
/// std::thread::spawn(move || greenlet.join()); // a greenlet never leaves its thread
/// ```
pub struct Greenlet<T: 'static> {
    any: AnyGreenlet,
    packet: Rc<Packet<T>>,
}

impl<T: 'static> Greenlet<T> {
    /// Waits for its end and takes what it returned. Mirrors `Greenlet.get`.
    ///
    /// # Errors
    /// [`Ended::Killed`], or [`Ended::Panicked`] with the payload; [`Ended::Unfinished`] when it
    /// has not ended and the caller may not wait, since it unwinds.
    ///
    /// # Panics
    /// When it would wait for ever: see [`LoopExit`](crate::LoopExit). Unwinds when the caller is killed.
    pub fn join(self) -> Result<T, Ended> {
        self.any.wait(None);
        self.try_join().unwrap_or(Err(Ended::Unfinished))
    }

    /// What it returned, if it has ended; else itself, unharmed.
    ///
    /// # Errors
    /// It has not ended.
    ///
    /// ```
    /// let greenlet = gevent::spawn(|| 7);
    /// let greenlet = greenlet.try_join().unwrap_err(); // it has not run yet
    /// gevent::yield_now();
    /// assert_eq!(greenlet.try_join().unwrap().unwrap(), 7);
    /// ```
    pub fn try_join(self) -> Result<Result<T, Ended>, Greenlet<T>> {
        let slot = self.packet.result.replace(Slot::Taken);
        match slot {
            Slot::Ended(result) => Ok(result),
            other => {
                self.packet.result.replace(other);
                Err(self)
            }
        }
    }

    /// A handle that can be cloned, and does not take the result.
    pub fn handle(&self) -> AnyGreenlet {
        self.any.clone()
    }
}

impl<T: 'static> Deref for Greenlet<T> {
    type Target = AnyGreenlet;
    fn deref(&self) -> &AnyGreenlet {
        &self.any
    }
}

impl<T: 'static> Drop for Greenlet<T> {
    fn drop(&mut self) {
        let slot = self.packet.result.replace(Slot::Detached);
        if let Slot::Ended(Err(Ended::Panicked(payload))) = slot {
            start::unjoined(self.any.block(), payload);
        }
    }
}

impl<T: 'static> fmt::Debug for Greenlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.any.fmt(f)
    }
}

/// Runs `f` in a new greenlet of this thread's hub, when the running one next waits. Mirrors
/// `gevent.spawn`.
///
/// # Panics
/// When no stack can be had; [`try_spawn`] returns that instead.
///
/// ```
/// let greenlets: Vec<_> = (0..10).map(|n| gevent::spawn(move || n * n)).collect();
/// let sum: i32 = greenlets.into_iter().map(|g| g.join().unwrap()).sum();
/// assert_eq!(sum, 285);
/// ```
#[track_caller]
pub fn spawn<T: 'static>(f: impl FnOnce() -> T + 'static) -> Greenlet<T> {
    match try_spawn(f) {
        Ok(greenlet) => greenlet,
        Err(error) => panic!("cannot spawn a greenlet: {error}"),
    }
}

/// [`spawn`], with failure as a value.
///
/// # Errors
/// No stack can be had: out of address space, or of mappings; or this thread has no hub yet, and there
/// are no descriptors for one.
#[track_caller]
pub fn try_spawn<T: 'static>(f: impl FnOnce() -> T + 'static) -> Result<Greenlet<T>, StackError> {
    make(hub_or_error()?.stack_size(), None, Location::caller(), None, f)
}

/// [`spawn`], to start after `delay`. Mirrors `gevent.spawn_later`.
///
/// # Panics
/// When no stack can be had.
///
/// ```
/// use std::time::Duration;
/// let greenlet = gevent::spawn_later(Duration::from_millis(1), || "late");
/// assert_eq!(greenlet.join().unwrap(), "late");
/// ```
#[track_caller]
pub fn spawn_later<T: 'static>(delay: Duration, f: impl FnOnce() -> T + 'static) -> Greenlet<T> {
    let hub = hub::hub();
    match make(hub.stack_size(), None, Location::caller(), Some(delay), f) {
        Ok(greenlet) => greenlet,
        Err(error) => panic!("cannot spawn a greenlet: {error}"),
    }
}

/// Settings for one greenlet.
///
/// ```
/// use gevent::{Builder, StackSize};
///
/// let greenlet = Builder::new()
///     .name("deep")
///     .stack_size(StackSize::new(1 << 20).unwrap())
///     .spawn(|| gevent::current().name())
///     .unwrap();
/// assert_eq!(greenlet.join().unwrap().as_deref(), Some("deep"));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<StackSize>,
    delay: Option<Duration>,
}

impl Builder {
    /// The defaults.
    pub fn new() -> Self {
        Builder::default()
    }

    /// A name, for lists, reports, and the message of a stack overflow.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The size of its stack, guard included. Default: the hub's.
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Starts it only after this long.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Spawns `f` so.
    ///
    /// # Errors
    /// No stack can be had: out of address space, or of mappings.
    #[track_caller]
    pub fn spawn<T: 'static>(self, f: impl FnOnce() -> T + 'static) -> Result<Greenlet<T>, StackError> {
        let size = self.stack_size.unwrap_or(hub_or_error()?.stack_size());
        make(size, self.name.as_deref(), Location::caller(), self.delay, f)
    }
}

/// This thread's hub; why there is none is the spawner's to see.
fn hub_or_error() -> Result<&'static hub::Inner, StackError> {
    hub::try_hub().map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<StackError>()) {
            Some(setting) => setting.clone(),
            None => StackError::NoHub { os_error: error.raw_os_error().unwrap_or(libc::EMFILE) },
        }
    })
}

fn make<T: 'static>(
    size: StackSize,
    name: Option<&str>,
    site: &'static Location<'static>,
    delay: Option<Duration>,
    f: impl FnOnce() -> T + 'static,
) -> Result<Greenlet<T>, StackError> {
    let hub = hub::hub();
    let packet = Rc::new(Packet { result: RefCell::new(Slot::Awaited) });
    let inner = packet.clone();
    let block = start::unstarted(size, name, site, move |me, killed| {
        let result = start::run(killed, f);
        let (outcome, ended) = match result {
            Ok(value) => (Outcome::Returned, Ok(value)),
            Err(payload) => match start::outcome_of(me, &payload) {
                Outcome::Killed => (Outcome::Killed, Err(Ended::Killed)),
                outcome => (outcome, Err(Ended::Panicked(payload))),
            },
        };
        let mut slot = inner.result.borrow_mut();
        if matches!(*slot, Slot::Awaited) {
            *slot = Slot::Ended(ended);
            return outcome;
        }
        drop(slot);
        match ended {
            Err(Ended::Panicked(payload)) => {
                start::unjoined(me, payload);
                outcome
            }
            ended => start::drop_unjoined(me, ended, outcome),
        }
    })?;
    let any = AnyGreenlet::from_block(block.clone());
    match delay {
        None => hub::make_ready(block),
        Some(delay) => hub.start_later(block, hub.deadline(delay)),
    }
    Ok(Greenlet { any, packet })
}

/// Lets every other ready greenlet run first. Mirrors `gevent.sleep(0)`.
///
/// While the caller unwinds it returns at once.
///
/// # Panics
/// Unwinds when the caller is killed.
pub fn yield_now() {
    if let Some(hub) = hub::existing() {
        if let Err(cut) = hub.yield_now() {
            cut.unwind();
        }
    }
}

/// Waits this long, while others run. Mirrors `gevent.sleep`, and `std::thread::sleep`.
///
/// Never wakes early; zero is [`yield_now`]. While the caller unwinds it returns at once.
///
/// # Panics
/// Unwinds when the caller is killed.
pub fn sleep(duration: Duration) {
    if duration.is_zero() {
        return yield_now();
    }
    let hub = hub::hub();
    let until = Until::Alarm(hub.deadline(duration));
    if let Err(cut) = hub.wait(WaitsFor::Sleep, until, |_| Ok(true)) {
        cut.unwind();
    }
}

/// Waits until no other greenlet is ready and no descriptor or timer is due. Mirrors `gevent.idle`.
///
/// # Panics
/// Unwinds when the caller is killed.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// let count = Rc::new(Cell::new(0));
/// for _ in 0..3 {
///     let count = count.clone();
///     gevent::spawn(move || for _ in 0..5 { count.set(count.get() + 1); gevent::yield_now() });
/// }
/// gevent::idle();
/// assert_eq!(count.get(), 15);
/// ```
pub fn idle() {
    if let Err(cut) = hub::hub().idle() {
        cut.unwind();
    }
}
