//! Layer 1: greenlets, with the API of Python's greenlet and the types of Rust.
//!
//! A greenlet is a function with a stack of its own. Code switches from one to another by name,
//! with a value; the switch returns when somebody, anybody, switches back. Nothing is scheduled and
//! nothing runs in between.
//!
//! ```
//! use gevent::{Me, enter};
//!
//! // The thread's own code is the root greenlet; `enter` types it: it takes `&'static str`s here.
//! enter(|root: &Me<&'static str>| {
//!     // A child takes `u32`s; what it returns goes to its parent, the root.
//!     let child = root.child(|me: &Me<u32>, first| {
//!         let parent = me.parent().unwrap();
//!         assert_eq!((first, parent.is_root()), (1, true));
//!         "done"
//!     });
//!     assert_eq!(root.switch(&child, 1).unwrap(), "done");
//!     assert!(child.is_dead());
//! });
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`block`] | the control block of a greenlet, and the rule of its last reference |
//! | [`driver`] | the only file that switches stacks |
//! | [`transfer`] | the value or throw that travels with a switch; the walk up the parents at an end |
//! | [`exit`] | `GreenletExit`, and every error of this layer |
//! | [`trace`] | `settrace` |
//! | [`generator`] | `Generator` |
//! | [`stack`] | guarded stacks, their pool, and the report of an overflow |
//!
//! What may come in: what one thread needs to switch between stacks. What never comes in: a hub, a
//! clock, I/O; and a greenlet of another thread (no handle here is `Send`).

pub(crate) mod block;
pub(crate) mod driver;
pub(crate) mod exit;
pub(crate) mod generator;
pub(crate) mod stack;
pub(crate) mod trace;
mod transfer;

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use block::{Arrival, Block, BlockRef, Outcome, State, WeakRef};
use driver::Refusal;
use exit::GreenletExit;
use stack::{Claim, StackSize};
use transfer::Ending;

pub use block::{Payload, WaitsFor};
pub use exit::{ParentError, SwitchError};

/// A handle to any greenlet of this thread, whatever it takes. Mirrors `greenlet.greenlet` objects.
///
/// Cheap to clone; never leaves its thread. Dropping the last handle of a suspended raw greenlet
/// raises [`GreenletExit`](crate::GreenletExit) in it.
#[derive(Clone)]
#[repr(transparent)]
pub struct AnyGreenlet {
    block: BlockRef,
}

/// Invariant in `T`, and nothing else.
type Exactly<T> = fn(T) -> T;

/// A handle to a greenlet that takes `In`s. Mirrors `greenlet.greenlet` objects.
///
/// Dereferences to [`AnyGreenlet`]. Handles that two greenlets hold of each other keep both alive
/// (a leak, as with `Rc`): [`downgrade`](RawGreenlet::downgrade) one.
///
/// ```compile_fail
/// # use gevent::{enter, Me};
/// enter(|me: &Me<()>| {
///     let child = me.child(|_, ()| ());
///     std::thread::spawn(move || child.is_dead()); // a greenlet never leaves its thread
/// });
/// ```
pub struct RawGreenlet<In> {
    any: AnyGreenlet,
    port: u64,
    takes: PhantomData<Exactly<In>>,
}

/// A handle that does not keep its greenlet alive. Mirrors a `weakref` to a greenlet.
pub struct WeakGreenlet<In> {
    block: WeakRef,
    port: u64,
    takes: PhantomData<Exactly<In>>,
}

/// The running greenlet, seen from inside: it takes `In`s, and can switch.
///
/// Bodies get it by reference, so it cannot be carried away, and each use checks that it is the one
/// that runs. It never leaves its thread:
///
/// ```compile_fail
/// # use gevent::{enter, Me};
/// enter(|me: &Me<()>| { std::thread::scope(|s| { s.spawn(|| me.id()); }) });
/// ```
pub struct Me<'a, In> {
    /// Uncounted: a greenlet must not keep itself alive.
    block: &'a BlockRef,
    port: u64,
    takes: PhantomData<(Exactly<In>, *mut ())>,
}

/// The place for the body of a [declared](Me::declare) greenlet. Dropped without
/// [`run`](Body::run), the greenlet is dead.
///
/// It takes exactly what handles send, not a subtype: a body for more general functions would call
/// what it is sent with arguments that do not live long enough.
///
/// ```compile_fail
/// # use gevent::{enter, Body, Me};
/// enter(|me: &Me<()>| {
///     let (_child, body) = me.declare::<fn(&'static str)>();
///     let body: Body<for<'a> fn(&'a str), ()> = body;
/// });
/// ```
pub struct Body<In, Out> {
    block: Option<BlockRef>,
    /// Invariant in both, as the handles are.
    gives: PhantomData<(Exactly<In>, Exactly<Out>)>,
}

// ---------------------------------------------------------------------------------------------
// Any greenlet
// ---------------------------------------------------------------------------------------------

/// The greenlet that runs. Mirrors `greenlet.getcurrent`.
///
/// ```
/// assert!(gevent::current().is_root());
/// ```
pub fn current() -> AnyGreenlet {
    AnyGreenlet { block: driver::current() }
}

/// The root greenlet of this thread: the thread's own code.
///
/// ```
/// assert_eq!(gevent::root(), gevent::current());
/// ```
pub fn root() -> AnyGreenlet {
    AnyGreenlet { block: driver::root() }
}

impl AnyGreenlet {
    pub(crate) fn from_block(block: BlockRef) -> Self {
        AnyGreenlet { block }
    }

    pub(crate) fn block(&self) -> &BlockRef {
        &self.block
    }

    /// A number that no other greenlet of this process has, or had.
    pub fn id(&self) -> u64 {
        self.block.id
    }

    /// Its name, if it was given one.
    pub fn name(&self) -> Option<String> {
        self.block.name().as_deref().map(str::to_owned)
    }

    /// Names it, for people: lists, reports, and the message of a stack overflow (which shows the
    /// name that it had when it started).
    pub fn set_name(&self, name: &str) {
        self.block.set_name(name);
    }

    /// The id of the greenlet that made it; 0 for a root.
    pub fn spawner(&self) -> u64 {
        self.block.spawner
    }

    /// Where in the source it was made.
    pub fn site(&self) -> &'static Location<'static> {
        self.block.site
    }

    /// Whether it has ended. Mirrors `greenlet.dead`.
    pub fn is_dead(&self) -> bool {
        self.block.state.get() == State::Dead
    }

    /// Whether it has begun to run, be it dead by now.
    pub fn is_started(&self) -> bool {
        self.block.state.get() != State::Unstarted
    }

    /// Started and not dead. Mirrors `bool(greenlet)`.
    pub fn is_active(&self) -> bool {
        !matches!(self.block.state.get(), State::Unstarted | State::Dead)
    }

    /// Whether it is the one that runs.
    pub fn is_current(&self) -> bool {
        self.block.state.get() == State::Current
    }

    /// Whether it is the thread's own code. Mirrors `g.parent is None` in greenlet.
    pub fn is_root(&self) -> bool {
        self.block.is_root
    }

    /// Whom its result goes to; `None` for a root, a spawned greenlet (its hub) and a dead one.
    /// Mirrors `greenlet.parent`.
    pub fn parent(&self) -> Option<AnyGreenlet> {
        // A dead one keeps it, for its children only.
        if self.is_dead() { None } else { self.block.parent().map(AnyGreenlet::from_block) }
    }

    /// Gives its result to another greenlet. Mirrors setting `greenlet.parent`.
    ///
    /// What it returns is checked when it ends: a parent that waits for another type receives
    /// [`SwitchError::Orphan`] with the value boxed. A parent that has ended already stands for its
    /// own parent, or for the root once nothing else has it as its parent.
    ///
    /// # Errors
    /// A cycle; a root; a spawned greenlet.
    pub fn set_parent(&self, parent: &AnyGreenlet) -> Result<(), ParentError> {
        if self.is_root() {
            return Err(ParentError::Root);
        }
        if !self.is_dead() && !self.block.has_parent() {
            return Err(ParentError::Spawned);
        }
        // One that has no children is nobody's ancestor but its own.
        let mut ancestor = Some(parent.block.clone());
        while let Some(block) = ancestor {
            if block.same(&self.block) {
                return Err(ParentError::Cycle);
            }
            ancestor = if self.block.has_children() { block.parent() } else { None };
        }
        // One that has ended and has no children has forgotten whom it told: the root is told then.
        let forgotten = parent.is_dead() && !parent.block.has_parent();
        self.block.replace_parent(Some(if forgotten { driver::root() } else { parent.block.clone() }));
        Ok(())
    }

    /// Whether both handles are of the same greenlet.
    pub fn same(&self, other: &AnyGreenlet) -> bool {
        self.block.same(&other.block)
    }

    /// Its backtrace, taken without disturbing it; `None` when it has no stack now (unstarted or
    /// dead). Mirrors `greenlet.gr_frame`.
    pub fn backtrace(&self) -> Option<Backtrace> {
        driver::backtrace_of(&self.block)
    }
}

impl PartialEq for AnyGreenlet {
    fn eq(&self, other: &Self) -> bool {
        self.same(other)
    }
}

impl Eq for AnyGreenlet {}

impl fmt::Debug for AnyGreenlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = &self.block;
        let mut out = f.debug_struct("Greenlet");
        out.field("id", &block.id);
        match block.name() {
            Some(name) => out.field("name", &&*name),
            None => out.field("root", &block.is_root),
        };
        match block.state.get() {
            State::Parked if !block.queued.get() => {
                out.field("state", &format_args!("Blocked({})", block.sched.waits_for.get()))
            }
            State::Parked => out.field("state", &format_args!("Ready")),
            State::Current => out.field("state", &format_args!("Running")),
            state => out.field("state", &state),
        };
        out.finish()
    }
}

// ---------------------------------------------------------------------------------------------
// Typed handles
// ---------------------------------------------------------------------------------------------

impl<In> RawGreenlet<In> {
    /// A handle that does not keep it alive.
    pub fn downgrade(&self) -> WeakGreenlet<In> {
        WeakGreenlet { block: self.any.block.downgrade(), port: self.port, takes: PhantomData }
    }
}

impl<In> WeakGreenlet<In> {
    /// The handle, if anything still keeps the greenlet alive.
    pub fn upgrade(&self) -> Option<RawGreenlet<In>> {
        let block = BlockRef::upgrade(&self.block)?;
        Some(RawGreenlet { any: AnyGreenlet { block }, port: self.port, takes: PhantomData })
    }
}

impl<In> Clone for RawGreenlet<In> {
    fn clone(&self) -> Self {
        RawGreenlet { any: self.any.clone(), port: self.port, takes: PhantomData }
    }
}

impl<In> Clone for WeakGreenlet<In> {
    fn clone(&self) -> Self {
        WeakGreenlet { block: self.block.clone(), port: self.port, takes: PhantomData }
    }
}

impl<In> Deref for RawGreenlet<In> {
    type Target = AnyGreenlet;
    fn deref(&self) -> &AnyGreenlet {
        &self.any
    }
}

impl<In> Deref for Me<'_, In> {
    type Target = AnyGreenlet;
    fn deref(&self) -> &AnyGreenlet {
        driver::as_any(self.block)
    }
}

impl<In> fmt::Debug for RawGreenlet<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.any.fmt(f)
    }
}

impl<In> fmt::Debug for WeakGreenlet<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.upgrade() {
            Some(greenlet) => greenlet.fmt(f),
            None => f.write_str("Greenlet(gone)"),
        }
    }
}

impl<In> fmt::Debug for Me<'_, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        AnyGreenlet::fmt(self, f)
    }
}

impl<In, Out> fmt::Debug for Body<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

// ---------------------------------------------------------------------------------------------
// Switching
// ---------------------------------------------------------------------------------------------

/// Types the running greenlet: inside `f` it takes `In`s from whoever has a handle made there.
///
/// For code that was given no [`Me`]: a thread's own code, a spawned greenlet. Nested calls are
/// told apart: a handle from an outer `enter` cannot send into an inner one
/// ([`SwitchError::OtherType`]).
///
/// ```
/// let answer = gevent::enter(|me| {
///     let child = me.child(|_, (a, b): (i32, i32)| a + b);
///     me.switch(&child, (40, 2)).unwrap()
/// });
/// assert_eq!(answer, 42);
/// ```
pub fn enter<In: 'static, R>(f: impl FnOnce(&Me<In>) -> R) -> R {
    thread_local! { static PORTS: Cell<u64> = const { Cell::new(0) } }
    let port = PORTS.with(|ports| {
        ports.set(ports.get() + 1);
        ports.get()
    });
    driver::with_current(|block| f(&Me { block, port, takes: PhantomData }))
}

impl<In: 'static> Me<'_, In> {
    /// A handle to this greenlet, for others to switch to.
    pub fn handle(&self) -> RawGreenlet<In> {
        RawGreenlet { any: AnyGreenlet { block: self.block.clone() }, port: self.port, takes: PhantomData }
    }

    /// Makes a greenlet that runs `f` when it is first switched to. Mirrors `greenlet(run)`.
    ///
    /// This greenlet is its parent: what `f` returns, or raises, arrives here. `T` is what it
    /// takes, first as `f`'s argument. It gets its stack at its first switch.
    #[track_caller]
    pub fn child<T: 'static>(&self, f: impl FnOnce(&Me<T>, T) -> In + 'static) -> RawGreenlet<T> {
        let (greenlet, body) = self.declare();
        body.run(f);
        greenlet
    }

    /// Makes a greenlet whose body comes later, for siblings that refer to each other. Mirrors
    /// `g = greenlet()` and `g.run = f`.
    ///
    /// ```
    /// use gevent::{Me, enter};
    ///
    /// enter(|root: &Me<u32>| {
    ///     let (ping, ping_body) = root.declare::<u32>();
    ///     let back = ping.downgrade(); // not a full handle: they would keep each other alive
    ///     let pong = root.child(move |me, mut n: u64| loop {
    ///         if n == 10 { return 99 }
    ///         n = me.switch(&back.upgrade().unwrap(), n as u32 + 1).unwrap();
    ///     });
    ///     ping_body.run(move |me, mut n| loop { n = me.switch(&pong, u64::from(n) + 1).unwrap() });
    ///     assert_eq!(root.switch(&ping, 1).unwrap(), 99);
    /// });
    /// ```
    #[track_caller]
    pub fn declare<T: 'static>(&self) -> (RawGreenlet<T>, Body<T, In>) {
        let block = Block::make(block::kind::<T>, Some(self.block.clone()), false, Location::caller());
        let greenlet = RawGreenlet { any: AnyGreenlet { block: block.clone() }, port: 0, takes: PhantomData };
        (greenlet, Body { block: Some(block), gives: PhantomData })
    }

    /// Switches to `to`, sending it `value`, and returns what is next sent here, by anyone.
    /// Mirrors `greenlet.switch`.
    ///
    /// Sending to itself returns the value at once. Allocates nothing.
    ///
    /// # Errors
    /// Every refusal gives the value back: [`Dead`](SwitchError::Dead),
    /// [`NotCurrent`](SwitchError::NotCurrent), [`Parked`](SwitchError::Parked),
    /// [`OtherType`](SwitchError::OtherType), [`NoBody`](SwitchError::NoBody),
    /// [`Unwinding`](SwitchError::Unwinding), [`Tracing`](SwitchError::Tracing),
    /// [`NoStack`](SwitchError::NoStack). After a switch: [`Exited`](SwitchError::Exited) when a child
    /// ended by `GreenletExit`, [`Orphan`](SwitchError::Orphan) when one ended with a value of another
    /// type, [`LoopExit`](SwitchError::LoopExit) when nothing can switch back any more.
    ///
    /// # Panics
    /// Raises what is thrown here, and the panic of a child that ends by one.
    pub fn switch<T: 'static>(&self, to: &RawGreenlet<T>, value: T) -> Result<In, SwitchError<T>> {
        self.switch_by_value(to.clone(), value)
    }

    /// The same, holding no handle of `to` while this greenlet is suspended.
    #[inline]
    fn switch_by_value<T: 'static>(&self, to: RawGreenlet<T>, value: T) -> Result<In, SwitchError<T>> {
        let me = self.block;
        let target = to.any.block;
        match self.refusal() {
            None => {}
            Some(None) => return Err(SwitchError::NotCurrent(value)),
            Some(Some(Refusal::Unwinding)) => return Err(SwitchError::Unwinding(value)),
            Some(Some(Refusal::Tracing | Refusal::Looping)) => return Err(SwitchError::Tracing(value)),
        }
        let value = Cell::new(Some(value));
        let take = || value.take().expect("not sent yet");
        let sent = transfer::exchange::<In, _>(me, self.port, || match target.state.get() {
            State::Switched | State::Current => {
                if target.port.get() != to.port {
                    return Err(SwitchError::OtherType(take()));
                }
                driver::prefetch(&target, true);
                // SAFETY: it is suspended in `exchange` (or is this greenlet, in it) under the port
                // that `to` was made with, and one port has one type.
                unsafe { transfer::land(&target, take()) };
                Ok(Some(target))
            }
            State::Unstarted => {
                if !transfer::has_body(&target) {
                    return Err(SwitchError::NoBody(take()));
                }
                if let Err(error) = driver::prepare(&target) {
                    return Err(SwitchError::NoStack(take(), error));
                }
                transfer::point_first(&target, &value);
                Ok(Some(target))
            }
            State::Parked => Err(SwitchError::Parked(take())),
            State::Dead => Err(SwitchError::Dead(take())),
        })?;
        sent.map_err(transfer::error)
    }

    /// Raises `payload` in `to`, at the switch it is suspended in, and returns what is next sent
    /// here, by anyone. Mirrors `greenlet.throw`; throw [`GreenletExit`](crate::GreenletExit) to end
    /// it.
    ///
    /// An unstarted target is dead without having run, and its parent is told. A target that waits
    /// in the hub stops waiting. Thrown at itself, it is raised at once.
    ///
    /// # Errors
    /// As [`switch`](Me::switch), giving the payload back.
    ///
    /// # Panics
    /// As [`switch`](Me::switch).
    pub fn throw(&self, to: &AnyGreenlet, payload: Payload) -> Result<In, SwitchError<Payload>> {
        let me = self.block;
        let target = &to.block;
        match self.refusal() {
            None => {}
            Some(None) => return Err(SwitchError::NotCurrent(payload)),
            Some(Some(Refusal::Unwinding)) => return Err(SwitchError::Unwinding(payload)),
            Some(Some(Refusal::Tracing | Refusal::Looping)) => return Err(SwitchError::Tracing(payload)),
        }
        match target.state.get() {
            State::Current => std::panic::resume_unwind(payload),
            State::Dead => return Err(SwitchError::Dead(payload)),
            State::Unstarted if !target.has_parent() => {
                // Spawned: the hub is its parent.
                return match driver::hooks() {
                    Some(hooks) => match (hooks.unpark)(target, payload) {
                        Ok(()) => {
                            transfer::exchange::<In, _>(me, self.port, || Ok(None))?.map_err(transfer::error)
                        }
                        Err(payload) => Err(SwitchError::Parked(payload)),
                    },
                    None => Err(SwitchError::Parked(payload)),
                };
            }
            // What it captured is dropped before anything is sent: that may run user code, which may
            // switch, so whether this greenlet may is asked again.
            State::Unstarted => {
                transfer::discard(target, Outcome::of(&payload));
                self.raise_if_reaped();
            }
            State::Switched | State::Parked => {}
        }
        let sent = transfer::exchange::<In, _>(me, self.port, || match target.state.get() {
            State::Dead => Ok(transfer::finish::<()>(target, Ending::of(Err(payload), target.id))),
            State::Switched => {
                target.arrive(Arrival::Throw(payload));
                driver::note_throw();
                Ok(Some(target.clone()))
            }
            State::Parked => match driver::hooks() {
                Some(hooks) => (hooks.unpark)(target, payload).map(|()| None).map_err(SwitchError::Parked),
                None => Err(SwitchError::Parked(payload)),
            },
            State::Current | State::Unstarted => Err(SwitchError::Parked(payload)),
        })?;
        sent.map_err(transfer::error)
    }

    /// Why this greenlet may not switch now: `Some(None)` when it is not the one that runs.
    #[inline]
    fn refusal(&self) -> Option<Option<Refusal>> {
        let me = self.block;
        if me.state.get() != State::Current {
            return Some(None);
        }
        if let Some(refusal) = driver::refusal() {
            return Some(Some(refusal));
        }
        driver::reap_pending();
        self.raise_if_reaped();
        None
    }

    /// Raises `GreenletExit` in this greenlet when somebody waits in a drop for its end.
    #[inline]
    fn raise_if_reaped(&self) {
        let me = self.block;
        if me.is_reaped() {
            // It was told to end and went on: told again, it may not switch away from who waits.
            driver::survives(me);
            std::panic::resume_unwind(Box::new(GreenletExit));
        }
    }
}

impl<In: 'static, Out: 'static> Body<In, Out> {
    /// The size of the greenlet's stack, guard included. Default: [`StackSize::configured`].
    ///
    /// ```
    /// use gevent::{Me, StackSize, enter};
    ///
    /// enter(|root: &Me<u64>| {
    ///     let (deep, body) = root.declare::<u64>();
    ///     body.stack_size(StackSize::new(8 << 20).unwrap()).run(|_, n| {
    ///         fn down(n: u64) -> u64 { if n == 0 { 0 } else { 1 + down(std::hint::black_box(n - 1)) } }
    ///         down(n)
    ///     });
    ///     assert_eq!(root.switch(&deep, 10_000).unwrap(), 10_000);
    /// });
    /// ```
    #[must_use = "`run` gives the greenlet its body"]
    pub fn stack_size(self, size: StackSize) -> Self {
        if let Some(block) = &self.block {
            block.stack_size.set(Some(size));
        }
        self
    }

    /// Gives the declared greenlet its body. It runs at the greenlet's first switch.
    pub fn run(mut self, f: impl FnOnce(&Me<In>, In) -> Out + 'static) {
        let block = self.block.take().expect("taken only here");
        if block.state.get() != State::Unstarted {
            return; // thrown at meanwhile: it is dead and never runs
        }
        block.body.set(Some(Box::new(move |me| {
            // SAFETY: whoever starts this block sends an `In`: `switch` by the port, `finish` by
            // the kind; and nothing ran before this line.
            let first = unsafe { transfer::take_first::<In>(me) };
            let result = catch_unwind(AssertUnwindSafe(|| {
                driver::settle();
                let view = Me { block: me, port: 0, takes: PhantomData };
                f(&view, first)
            }));
            let ending = Ending::of(result, me.id);
            ended(me, ending.outcome());
            transfer::finish(me, ending)
        })));
    }
}

impl<In, Out> Drop for Body<In, Out> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            if block.state.get() == State::Unstarted {
                transfer::discard(&block, Outcome::Killed);
            }
        }
    }
}

/// Makes a greenlet for the layer above: its parent is the hub, and `body` ends it.
pub(crate) fn hub_greenlet(
    body: impl FnOnce(&BlockRef) + 'static,
    claim: Claim,
    site: &'static Location<'static>,
) -> BlockRef {
    // A type that nothing can be sent as: only the hub starts it.
    enum Nothing {}
    let block = Block::make(block::kind::<Nothing>, None, false, site);
    block.claim.set(Some(claim));
    block.body.set(Some(Box::new(move |me| {
        body(me);
        me.take_reaper()
    })));
    block
}

/// Ends a raw greenlet that never ran, as a kill does: nobody sent it anything, so its parent, wherever
/// that is, is not told. Gives the payload back for any other, whose end is the hub's to bring about.
pub(crate) fn kill_unstarted(block: &BlockRef, payload: Payload) -> Result<(), Payload> {
    if block.state.get() != State::Unstarted || !block.has_parent() {
        return Err(payload);
    }
    transfer::discard(block, Outcome::of(&payload));
    Ok(())
}

/// Notes how a greenlet ended, and does what was to be done then.
pub(crate) fn ended(me: &BlockRef, outcome: Outcome) {
    me.sched.outcome.set(outcome);
    if let Some(rare) = me.has_rare() {
        // Kills that came too late. Payloads of a user's are not to be dropped with the block, which goes
        // in somebody else's switch.
        let mut late = rare.pending.take();
        late.retain(|pending| pending.timeout == 0 && !pending.payload.is::<GreenletExit>());
        if !late.is_empty() {
            driver::drop_later(Box::new(late));
        }
    }
    let at_end = me.sched.at_end.take();
    if !at_end.is_empty() {
        if let Some(hooks) = driver::hooks() {
            (hooks.ended)(me, at_end);
        }
    }
}
