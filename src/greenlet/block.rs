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
//! `unsafe` here is the counting: a block is reached at each switch, and an `Rc` would put its counts
//! into a cache line of their own.
//!
//! A block whose greenlet is suspended is never freed: [`BlockRef`]'s `Drop` sees that it holds the
//! last reference and hands the greenlet to [`super::driver::last_reference`], which unwinds it.

use std::any::{Any, TypeId};
use std::cell::{Cell, OnceCell, RefCell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use super::driver::{self, Coroutine};
use super::exit::{GreenletExit, LoopExit, Orphan};
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

impl Outcome {
    /// Of a greenlet that this ended.
    pub(crate) fn of(payload: &Payload) -> Outcome {
        if payload.is::<GreenletExit>() { Outcome::Killed } else { Outcome::Panicked }
    }
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
    pub(crate) outcome: Cell<Outcome>,
    /// Done, in order, when the greenlet has ended.
    pub(crate) at_end: Cell<Vec<AtEnd>>,
}

/// The control block. See the module docs.
///
/// In the order of use: a switch by the hub touches the first cache line, a switch by name the
/// second too. What is rare or cold comes after, or lies elsewhere ([`Rare`]).
#[repr(C, align(64))]
pub(crate) struct Block {
    /// How many [`BlockRef`]s there are.
    strong: Cell<u32>,
    pub(crate) state: Cell<State>,
    pub(crate) is_root: bool,
    /// Whether the hub's ready queue holds it.
    pub(crate) queued: Cell<bool>,
    /// The suspended coroutine: only the driver looks inside.
    pub(super) coroutine: UnsafeCell<Option<ManuallyDrop<Coroutine>>>,
    /// The corosensei handle that suspends it, once it runs. Only the driver uses it.
    pub(super) yielder: Cell<*const ()>,
    /// About where its stack ends while it is suspended: only to be fetched ahead of its resume.
    pub(super) depth: Cell<*const u8>,
    rare: OnceCell<Box<Rare>>,
    // The second line.
    /// Where a value goes: a `Cell<Option<In>>` in the greenlet's own suspended frame; before its
    /// start, where its first value is: a `Cell<Option<In>>` in the switcher's. Null: neither.
    pub(super) landing: Cell<*const ()>,
    /// Which typed view (`Me`) of the greenlet is suspended.
    pub(super) port: Cell<u64>,
    pub(super) kind: Cell<Kind>,
    pub(crate) sched: Sched,
    // Cold.
    /// How many [`WeakRef`]s there are, and one for all the `BlockRef`s.
    weak: Cell<u32>,
    /// Its place in the driver's list of greenlets that have a stack; `u32::MAX` without.
    pub(super) live_index: Cell<u32>,
    pub(super) body: Cell<Option<Body>>,
    /// Set by [`Block::replace_parent`] alone, which keeps `children` right.
    parent: Cell<Option<BlockRef>>,
    /// How many have this one as their parent.
    children: Cell<u32>,
    /// The size of its stack, if one was named.
    pub(super) stack_size: Cell<Option<StackSize>>,
    pub(super) claim: Cell<Option<Claim>>,
    pub(crate) id: u64,
    pub(crate) spawner: u64,
    pub(crate) site: &'static Location<'static>,
}

// Not with the sanitizer: a coroutine then holds the bounds of its stack too.
#[cfg(not(feature = "sanitizer"))]
const _: () = assert!(std::mem::offset_of!(Block, landing) == 64 && size_of::<Block>() == 256);

impl Block {
    pub(super) fn make(
        kind: Kind,
        parent: Option<BlockRef>,
        is_root: bool,
        site: &'static Location<'static>,
    ) -> BlockRef {
        if let Some(parent) = &parent {
            parent.children.set(parent.children.get() + 1);
        }
        let block = Block {
            strong: Cell::new(1),
            weak: Cell::new(1),
            coroutine: UnsafeCell::new(None),
            yielder: Cell::new(std::ptr::null()),
            depth: Cell::new(std::ptr::null()),
            landing: Cell::new(std::ptr::null()),
            port: Cell::new(0),
            kind: Cell::new(kind),
            state: Cell::new(if is_root { State::Current } else { State::Unstarted }),
            is_root,
            queued: Cell::new(false),
            live_index: Cell::new(u32::MAX),
            sched: Sched {
                wait: Cell::new(0),
                waits_for: Cell::new(WaitsFor::Nothing),
                since: Cell::new(0),
                outcome: Cell::new(Outcome::None),
                at_end: Cell::new(Vec::new()),
            },
            rare: OnceCell::new(),
            body: Cell::new(None),
            parent: Cell::new(parent),
            children: Cell::new(0),
            stack_size: Cell::new(None),
            claim: Cell::new(None),
            id: driver::next_id(),
            spawner: driver::current_id(),
            site,
        };
        let place = driver::block_place();
        // SAFETY: the place is that of one block, aligned, and nobody else's.
        unsafe { place.write(block) };
        BlockRef(place)
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

    /// Whether any greenlet has this one as its parent.
    pub(super) fn has_children(&self) -> bool {
        self.children.get() > 0
    }

    /// Sets the parent, and lets the one before go: that may run user code.
    pub(super) fn replace_parent(&self, parent: Option<BlockRef>) {
        if let Some(parent) = &parent {
            parent.children.set(parent.children.get() + 1);
        }
        leave(self.parent.replace(parent), false);
    }

    /// It has ended, and has told its parents: lets them go, unless its children are to find them.
    /// Runs no user code.
    pub(super) fn leave_parents(&self) {
        if !self.has_children() {
            leave(self.parent.take(), true);
        }
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

/// Lets go of somebody's parent; `later`: what runs user code is left to who runs next.
///
/// A line of parents may be held by nothing else, and be too long for recursion: each lets its own go
/// before it is dropped. One that is dead and has no children needs none.
fn leave(mut parent: Option<BlockRef>, later: bool) {
    while let Some(block) = parent {
        block.children.set(block.children.get() - 1);
        let last = block.is_last();
        let suspended = matches!(block.state.get(), State::Switched | State::Parked);
        match (last, later) {
            (true, true) if suspended => return driver::reap_later(block),
            (true, true) => return driver::drop_later(Box::new(block)),
            (true, false) if suspended => driver::last_reference(block.clone()),
            _ => {}
        }
        parent = match block.state.get() {
            State::Dead if !block.has_children() => block.parent.take(),
            State::Unstarted if last => block.parent.take(),
            _ => None,
        };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.replace_parent(None);
    }
}

/// A counted reference to a [`Block`]. Dropping the last one of a suspended greenlet unwinds it.
///
/// An `Rc` in all but the count's place, which is in the block's first line, and the memory, which
/// comes from the thread's own places ([`driver::block_place`]): both are touched at each switch.
#[repr(transparent)]
pub(crate) struct BlockRef(NonNull<Block>);

/// A reference that does not keep the greenlet alive.
pub(crate) struct WeakRef(NonNull<Block>);

impl BlockRef {
    /// Whether both are the same greenlet.
    #[inline]
    pub(crate) fn same(&self, other: &BlockRef) -> bool {
        self.0 == other.0
    }

    /// Whether no other reference is left.
    #[inline]
    pub(super) fn is_last(&self) -> bool {
        self.strong.get() == 1
    }

    /// A pointer to the block that [`BlockRef::from_raw`] takes, without a count; the block is not touched.
    #[inline]
    pub(super) fn as_raw(&self) -> *const Block {
        self.0.as_ptr()
    }

    pub(crate) fn downgrade(&self) -> WeakRef {
        self.weak.set(self.weak.get().checked_add(1).expect("2^32 references to a greenlet"));
        WeakRef(self.0)
    }

    pub(crate) fn upgrade(weak: &WeakRef) -> Option<BlockRef> {
        // SAFETY: the weak count keeps the place, and the counts in it are never dropped.
        let strong = unsafe { &(*weak.0.as_ptr()).strong };
        if strong.get() == 0 {
            return None;
        }
        strong.set(strong.get().checked_add(1).expect("2^32 references to a greenlet"));
        Some(BlockRef(weak.0))
    }

    /// Gives the reference up as a raw pointer, for the driver's destructor-free cells.
    #[inline]
    pub(super) fn into_raw(self) -> *const Block {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Takes a reference back.
    ///
    /// # Safety
    /// `raw` must come from [`BlockRef::into_raw`], and each such pointer be taken back once.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *const Block) -> BlockRef {
        // SAFETY: by the caller's promise it came from a `NonNull`.
        BlockRef(unsafe { NonNull::new_unchecked(raw.cast_mut()) })
    }

    /// The last count is gone: drops the block, and gives its place back when no weak reference is
    /// left. What it holds may be user's (an unstarted body), and so run anything.
    #[cold]
    #[inline(never)]
    fn free(&mut self) {
        let place = self.0;
        // SAFETY: no strong reference is left, so nobody reads the block but through its counts,
        // which have no destructor. The one weak count that the strong ones held is ours.
        unsafe {
            std::ptr::drop_in_place(place.as_ptr());
            WeakRef::release(place);
        }
    }
}

impl WeakRef {
    /// # Safety
    /// The caller owns one weak count of that place, and gives it up.
    unsafe fn release(place: NonNull<Block>) {
        // SAFETY: the count keeps the place.
        let weak = unsafe { &(*place.as_ptr()).weak };
        weak.set(weak.get() - 1);
        if weak.get() == 0 {
            driver::free_block_place(place);
        }
    }
}

impl Clone for WeakRef {
    fn clone(&self) -> Self {
        // SAFETY: as in `release`.
        let weak = unsafe { &(*self.0.as_ptr()).weak };
        weak.set(weak.get().checked_add(1).expect("2^32 references to a greenlet"));
        WeakRef(self.0)
    }
}

impl Drop for WeakRef {
    fn drop(&mut self) {
        // SAFETY: this reference's own count.
        unsafe { WeakRef::release(self.0) }
    }
}

impl Clone for BlockRef {
    #[inline]
    fn clone(&self) -> Self {
        self.strong.set(self.strong.get().checked_add(1).expect("2^32 references to a greenlet"));
        BlockRef(self.0)
    }
}

impl std::ops::Deref for BlockRef {
    type Target = Block;
    #[inline]
    fn deref(&self) -> &Block {
        // SAFETY: this reference's count keeps the block.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for BlockRef {
    #[inline]
    fn drop(&mut self) {
        if self.is_last() && matches!(self.state.get(), State::Switched | State::Parked) {
            driver::last_reference(self.clone());
        }
        // Read again: whoever unwound it may have kept a reference.
        let strong = self.strong.get() - 1;
        self.strong.set(strong);
        if strong == 0 {
            self.free();
        }
    }
}
