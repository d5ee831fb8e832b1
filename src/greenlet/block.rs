//! The control block of a greenlet, and the reference to it that everything else holds.
//!
//! ```text
//!   RawGreenlet ─┐                       ┌─ coroutine: stack and saved stack pointer
//!   Me ──────────┤                       ├─ state, landing, port     (a switch touches these)
//!   child.parent ┼──> BlockRef ──> Block ┼─ sched: the words the hub keeps here
//!   hub queues ──┤    (an Rc)            └─ id, name, parent, body   (cold)
//!   the driver ──┘
//! ```
//!
//! What may come in: the data that belongs to one greenlet, and the rule of its last reference.
//! What never comes in: switching (that is [`super::driver`]) and any knowledge of the hub, which
//! merely gets a few words of room ([`Sched`]) so that it need not look its own data up.
//!
//! A block whose greenlet is suspended is never freed: [`BlockRef`]'s `Drop` sees that it holds the
//! last reference and hands the greenlet to [`super::driver::last_reference`], which unwinds it.

use std::any::{Any, TypeId};
use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::driver::{self, Coroutine};
use super::exit::{LoopExit, Orphan};
use super::stack::{Claim, StackSize};

/// What a panic, a throw or a kill carries.
pub type Payload = Box<dyn Any + Send + 'static>;

/// Where a greenlet is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, never run: it has no stack yet.
    Unstarted,
    /// The one that runs on this thread now.
    Current,
    /// Suspended in `switch` or `throw`: its landing waits for a value.
    Switched,
    /// Suspended where no value can be sent to it: in the hub, or in the drop of another greenlet.
    Parked,
    /// It ended, or never ran and never will.
    Dead,
}

/// What came with a switch instead of a value.
pub(crate) enum Arrival {
    /// Raise this.
    Throw(Payload),
    /// A child ended by `GreenletExit`.
    Exited(u64),
    /// A child ended with a value of another type.
    Orphan(Box<Orphan>),
    /// Nothing can ever send anything.
    LoopExit(LoopExit),
}

/// The type that a landing takes, by a function so that it is one word to store.
pub(crate) type Kind = fn() -> (TypeId, &'static str);

/// The [`Kind`] of `T`.
pub(crate) fn kind<T: 'static>() -> (TypeId, &'static str) {
    (TypeId::of::<T>(), std::any::type_name::<T>())
}

/// The erased body: runs on the greenlet's own stack, and says who runs next (`None`: ask the hub).
pub(crate) type Body = Box<dyn FnOnce(&BlockRef) -> Option<BlockRef>>;

/// What a wait in the hub waits for: for people, and for the greenlet's printed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Nothing named.
    Nothing,
    /// A timer.
    Sleep,
    /// Another greenlet's end, by id.
    Join(u64),
    /// Data or a connection on this descriptor.
    Read(i32),
    /// Room on this descriptor.
    Write(i32),
    /// `thread::park`.
    Unpark,
    /// A native thread that works for it.
    Thread,
    /// Anything else, in words.
    Other(&'static str),
}

impl std::fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WaitsFor::Nothing => f.write_str("nothing"),
            WaitsFor::Sleep => f.write_str("sleep"),
            WaitsFor::Join(id) => write!(f, "the end of greenlet {id}"),
            WaitsFor::Read(fd) => write!(f, "read fd {fd}"),
            WaitsFor::Write(fd) => write!(f, "write fd {fd}"),
            WaitsFor::Unpark => f.write_str("unpark"),
            WaitsFor::Thread => f.write_str("a native thread"),
            WaitsFor::Other(what) => f.write_str(what),
        }
    }
}

/// What is to happen when a greenlet has ended; done by [`driver::Hooks::ended`].
pub(crate) enum AtEnd {
    /// That wait of that greenlet is granted.
    Wake(BlockRef, u64),
    /// The function is called; the number is for taking it back.
    Call(u64, Box<dyn FnOnce(&BlockRef)>),
    /// It is dropped; also when the greenlet never runs, or never ends.
    Release(Box<dyn Any>),
}

/// How a greenlet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has not.
    None,
    Returned,
    /// By `GreenletExit`.
    Killed,
    Panicked,
}

/// A kill or timeout that has not been raised yet.
pub(crate) struct Pending {
    /// Which timeout; 0 is a kill.
    pub(crate) timeout: u64,
    /// What to raise.
    pub(crate) payload: Payload,
}

/// What few greenlets ever have, so that the others need no room for it.
#[derive(Default)]
pub(crate) struct Rare {
    /// What came with a switch instead of a value.
    pub(crate) arrival: Cell<Option<Arrival>>,
    /// The first value, boxed since its sender has ended.
    pub(super) first: Cell<Option<Box<dyn Any>>>,
    /// Who dropped the last reference and waits for this greenlet's end.
    pub(super) reaper: Cell<Option<BlockRef>>,
    /// How often it went on switching while it was to end.
    pub(crate) survived: Cell<u32>,
    /// Kills and timeouts that wait for the next blocking call.
    pub(crate) pending: RefCell<Vec<Pending>>,
    /// Depth of `no_unwind`.
    pub(crate) no_unwind: Cell<u32>,
    pub(crate) name: RefCell<Option<Rc<str>>>,
    /// The half of a wait that other threads may touch.
    pub(crate) shared: OnceCell<Arc<dyn Any + Send + Sync>>,
    /// Whether the wait that is open is a shared one.
    pub(crate) sharing: Cell<bool>,
    /// The `gevent::thread` identity.
    pub(crate) identity: OnceCell<Arc<dyn Any + Send + Sync>>,
}

/// The words that the layer above keeps with each greenlet. Layer 1 only makes and drops them.
pub(crate) struct Sched {
    /// Epoch of the current or last wait, and its state (`hub/waiter.rs`).
    pub(crate) wait: Cell<u64>,
    /// What it waits for, and since when (nanoseconds of the hub's clock).
    pub(crate) waits_for: Cell<WaitsFor>,
    pub(crate) since: Cell<u64>,
    /// Whether the hub's ready queue holds it.
    pub(crate) queued: Cell<bool>,
    pub(crate) outcome: Cell<Outcome>,
    /// Done, in order, when the greenlet has ended.
    pub(crate) at_end: Cell<Vec<AtEnd>>,
}

/// The control block. See the module docs.
pub(crate) struct Block {
    /// The suspended coroutine: only the driver looks inside.
    pub(super) coroutine: UnsafeCell<Option<ManuallyDrop<Coroutine>>>,
    /// The corosensei handle that suspends it, once it runs. Only the driver uses it.
    pub(super) yielder: Cell<*const ()>,
    /// Where a value goes: a `Cell<Option<In>>` in the greenlet's own suspended frame; before its
    /// start, where its first value is: a `Cell<Option<In>>` in the switcher's. Null: neither.
    pub(super) landing: Cell<*const ()>,
    /// Which typed view (`Me`) of the greenlet is suspended.
    pub(super) port: Cell<u64>,
    pub(super) kind: Cell<Kind>,
    pub(crate) state: Cell<State>,
    pub(crate) is_root: bool,
    /// Its place in the driver's list of greenlets that have a stack; `u32::MAX` without.
    pub(super) live_index: Cell<u32>,
    pub(crate) sched: Sched,
    rare: OnceCell<Box<Rare>>,
    pub(super) body: Cell<Option<Body>>,
    parent: Cell<Option<BlockRef>>,
    pub(super) stack_size: Cell<StackSize>,
    pub(super) claim: Cell<Option<Claim>>,
    pub(crate) id: u64,
    pub(crate) spawner: u64,
    pub(crate) site: &'static Location<'static>,
}

impl Block {
    pub(super) fn new(
        kind: Kind,
        parent: Option<BlockRef>,
        is_root: bool,
        site: &'static Location<'static>,
    ) -> BlockRef {
        BlockRef(Rc::new(Block {
            coroutine: UnsafeCell::new(None),
            yielder: Cell::new(std::ptr::null()),
            landing: Cell::new(std::ptr::null()),
            port: Cell::new(0),
            kind: Cell::new(kind),
            state: Cell::new(if is_root { State::Current } else { State::Unstarted }),
            is_root,
            live_index: Cell::new(u32::MAX),
            sched: Sched {
                wait: Cell::new(0),
                waits_for: Cell::new(WaitsFor::Nothing),
                since: Cell::new(0),
                queued: Cell::new(false),
                outcome: Cell::new(Outcome::None),
                at_end: Cell::new(Vec::new()),
            },
            rare: OnceCell::new(),
            body: Cell::new(None),
            parent: Cell::new(parent),
            stack_size: Cell::new(StackSize::DEFAULT),
            claim: Cell::new(None),
            id: driver::next_id(),
            spawner: driver::current_id(),
            site,
        }))
    }

    /// What few have, made if need be.
    pub(crate) fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// What few have, if this one does.
    #[inline]
    pub(crate) fn has_rare(&self) -> Option<&Rare> {
        self.rare.get().map(|rare| &**rare)
    }

    /// Has `arrival` come out where the greenlet is suspended.
    pub(crate) fn arrive(&self, arrival: Arrival) {
        self.rare().arrival.set(Some(arrival));
    }

    #[inline]
    pub(crate) fn take_arrival(&self) -> Option<Arrival> {
        self.has_rare()?.arrival.take()
    }

    #[inline]
    pub(super) fn take_reaper(&self) -> Option<BlockRef> {
        self.has_rare()?.reaper.take()
    }

    /// Whether somebody waits in a drop for its end.
    #[inline]
    pub(super) fn is_reaped(&self) -> bool {
        self.has_rare().is_some_and(|rare| {
            let reaper = rare.reaper.take();
            let reaped = reaper.is_some();
            rare.reaper.set(reaper);
            reaped
        })
    }

    pub(crate) fn parent(&self) -> Option<BlockRef> {
        let parent = self.parent.take();
        self.parent.set(parent.clone());
        parent
    }

    pub(super) fn has_parent(&self) -> bool {
        let parent = self.parent.take();
        let has = parent.is_some();
        self.parent.set(parent);
        has
    }

    /// Sets the parent and returns the one before, whose drop may run user code.
    pub(super) fn replace_parent(&self, parent: Option<BlockRef>) -> Option<BlockRef> {
        self.parent.replace(parent)
    }

    pub(crate) fn name(&self) -> Option<Rc<str>> {
        self.has_rare()?.name.borrow().clone()
    }

    pub(crate) fn set_name(&self, name: &str) {
        *self.rare().name.borrow_mut() = Some(name.into());
    }

    /// `greenlet 4 'worker'`, `greenlet 4` or `the root greenlet of thread main`.
    pub(crate) fn describe(&self) -> String {
        match self.name() {
            Some(name) => format!("greenlet {} '{name}'", self.id),
            None if self.is_root => {
                format!(
                    "the root greenlet of thread {}",
                    std::thread::current().name().unwrap_or("(unnamed)")
                )
            }
            None => format!("greenlet {}", self.id),
        }
    }
}

/// A counted reference to a [`Block`]. Dropping the last one of a suspended greenlet unwinds it.
pub(crate) struct BlockRef(Rc<Block>);

impl BlockRef {
    /// Whether both are the same greenlet.
    #[inline]
    pub(crate) fn same(&self, other: &BlockRef) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    #[inline]
    pub(crate) fn downgrade(&self) -> Weak<Block> {
        Rc::downgrade(&self.0)
    }

    #[inline]
    pub(crate) fn upgrade(weak: &Weak<Block>) -> Option<BlockRef> {
        weak.upgrade().map(BlockRef)
    }

    /// Gives the reference up as a raw pointer, for the driver's destructor-free cells.
    #[inline]
    pub(super) fn into_raw(self) -> *const Block {
        // The field can't be moved out of a type with `Drop`; reading the pointer and forgetting
        // the whole is the same.
        let raw = Rc::as_ptr(&self.0);
        std::mem::forget(self);
        raw
    }

    /// Takes a reference back.
    ///
    /// # Safety
    /// `raw` must come from [`BlockRef::into_raw`], and each such pointer be taken back once.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *const Block) -> BlockRef {
        // SAFETY: by the caller's promise this pointer stands for one count of a live `Rc`.
        BlockRef(unsafe { Rc::from_raw(raw) })
    }
}

impl Clone for BlockRef {
    #[inline]
    fn clone(&self) -> Self {
        BlockRef(Rc::clone(&self.0))
    }
}

impl std::ops::Deref for BlockRef {
    type Target = Block;
    #[inline]
    fn deref(&self) -> &Block {
        &self.0
    }
}

impl Drop for BlockRef {
    #[inline]
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 && matches!(self.state.get(), State::Switched | State::Parked) {
            driver::last_reference(self.clone());
        }
    }
}
