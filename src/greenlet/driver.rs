//! The driver: one a thread, and the only file that switches stacks.
//!
//! ```text
//!            root's own stack                greenlet A's stack        greenlet B's stack
//!          ┌──────────────────┐             ┌──────────────────┐      ┌──────────────────┐
//!          │ main()           │             │ entry            │      │ entry            │
//!          │  me.switch(&a,…) │             │  body            │      │  body            │
//!          │   switch_to      │             │   me.switch(&b,…)│      │   hub::park      │
//!          │    drive ────────┼── resume ──>│    switch_to     │      │    switch_to     │
//!          │     loop <───────┼── suspend ──┤     suspend      │  ┌───┤     suspend      │
//!          │      │           │             └──────────────────┘  │   └──────────────────┘
//!          │      ├───────────┼── resume ─────────────────────────┼──>
//!          │      └ next? <───┼── suspend ────────────────────────┘
//!          └──────────────────┘
//! ```
//!
//! The root greenlet is the thread's own code and has no coroutine. A switch *from* it enters
//! [`drive`], a loop on its own stack; a switch *to* it leaves that loop. A switch between two
//! greenlets is one suspend to the loop and one resume from it, whatever their relation: depth
//! never grows. When no target is named the loop asks the layer above ([`Hooks::pick`]).
//!
//! What may come in: suspending, resuming, starting and pooling of stacks, and the state that
//! must be swapped with them (errno; later a thread-local block). This is the door behind which a
//! second, direct backend can stand: everything else calls [`switch_to`], [`settle`], [`prepare`]
//! and [`backtrace_of`] alone. What never comes in: values (they lie in the receiver's frame,
//! [`super::transfer`]), policy, and user code on the loop: links, tracers and drops run on
//! greenlets, in [`settle`].
//!
//! # Why it is sound
//!
//! * A greenlet never leaves its thread: blocks are `Rc`s, and all state here is thread-local.
//! * The thread-local has no destructor, so it is there during thread exit, whatever runs then.
//! * Each pointer in a cell of [`Driver`] owns one count of its block ([`BlockRef::into_raw`]).
//! * A suspended coroutine is never dropped: its block's last reference unwinds it first
//!   ([`last_reference`]), by an ordinary resume and an ordinary panic payload.
//! * Nothing suspends while its thread is panicking, so std's per-thread panic count is zero at
//!   each switch: refused in [`refusal`].

mod places;
mod reap;

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, Location};
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use super::AnyGreenlet;
use super::block::{Arrival, AtEnd, Block, BlockRef, Payload, State};
use super::exit::LoopExit;
use super::stack::{self, GuardedStack, StackError, StackSize};
use super::trace::{self, TraceEvent, Tracer};
use crate::sys::errno;

pub(super) use places::{block_place, free_block_place};
use reap::{ExitGuard, clear_waiting};
pub(crate) use reap::{SURVIVALS, abandon_current, drop_later, end_all, reap, reap_pending, survives};
pub(super) use reap::{last_reference, reap_later};

pub(super) type Coroutine = corosensei::Coroutine<(), (), (), GuardedStack>;
type Yielder = corosensei::Yielder<(), ()>;

/// What the hub lends to layer 1.
pub(crate) struct Hooks {
    /// Who runs next when nobody was named. Runs on the loop; must run no user code.
    pub(crate) pick: fn() -> BlockRef,
    /// Cancels the wait of a parked greenlet and makes it raise the payload; gives it back when the
    /// greenlet does not wait in the hub.
    pub(crate) unpark: fn(&BlockRef, Payload) -> Result<(), Payload>,
    /// A greenlet has ended: does what is in its `at_end`.
    pub(crate) ended: fn(&BlockRef, Vec<AtEnd>),
    /// All that have a stack are to end: has those end that have not begun, too.
    pub(crate) ending: fn(),
    /// They have ended: lets those run that their ends made ready (links, say). False: there are none.
    pub(crate) settle: fn() -> bool,
    /// The thread exits: no greenlet runs after this.
    pub(crate) exit: fn(),
}

struct Driver {
    /// The greenlet that runs; null until the thread's first use.
    current: Cell<*const Block>,
    /// Whom to run next; null: ask the hub. Set just before suspending.
    next: Cell<*const Block>,
    /// Who ran before the current one; its count is dropped in [`settle`].
    previous: Cell<*const Block>,
    root: Cell<*const Block>,
    /// What is out of the ordinary: zero, as a rule, so that one look tells.
    flags: Cell<u8>,
    /// The last switch was a throw (for tracers).
    thrown: Cell<bool>,
    /// The thread's errno, null until the first switch.
    errno: Cell<*mut i32>,
    exit_armed: Cell<bool>,
    /// Where a resumed greenlet is to write its backtrace and suspend again; else null.
    probe: Cell<*mut Option<Backtrace>>,
    hooks: Cell<Option<&'static Hooks>>,
    tracer: RefCell<ManuallyDrop<Option<Tracer>>>,
    /// Greenlets whose last reference went where they could not be unwound at once.
    to_reap: RefCell<ManuallyDrop<Vec<BlockRef>>>,
    /// Somebody waits in [`reap()`]; it sees to `to_reap` afterwards, so that waits do not pile up.
    reaping: Cell<bool>,
    /// What [`drop_later`] was given.
    to_drop: RefCell<ManuallyDrop<Vec<Box<dyn Any>>>>,
    /// Every greenlet that has a stack, not counted.
    live: RefCell<ManuallyDrop<Vec<*const Block>>>,
    ids: Cell<(u64, u64)>,
    /// Places for blocks that are free.
    places: RefCell<ManuallyDrop<Vec<NonNull<Block>>>>,
}

/// The loop runs, so nobody is current.
const BUSY: u8 = 1;
/// A tracer runs.
const TRACING: u8 = 2;
/// The thread exits.
const EXITING: u8 = 4;
/// There is a tracer, or something to be unwound: for [`settle`].
const ATTENTION: u8 = 8;

impl Driver {
    #[inline]
    fn is(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    fn set(&self, flag: u8, to: bool) {
        self.flags.set(if to { self.flags.get() | flag } else { self.flags.get() & !flag });
    }
}

const _: () =
    assert!(!std::mem::needs_drop::<Driver>(), "the driver must outlive every thread-local destructor");

thread_local! {
    static DRIVER: Driver = const {
        Driver {
            current: Cell::new(null()),
            next: Cell::new(null()),
            previous: Cell::new(null()),
            root: Cell::new(null()),
            flags: Cell::new(0),
            thrown: Cell::new(false),
            errno: Cell::new(null_mut()),
            exit_armed: Cell::new(false),
            probe: Cell::new(null_mut()),
            hooks: Cell::new(None),
            tracer: RefCell::new(ManuallyDrop::new(None)),
            to_reap: RefCell::new(ManuallyDrop::new(Vec::new())),
            reaping: Cell::new(false),
            to_drop: RefCell::new(ManuallyDrop::new(Vec::new())),
            live: RefCell::new(ManuallyDrop::new(Vec::new())),
            ids: Cell::new((0, 0)),
            places: RefCell::new(ManuallyDrop::new(Vec::new())),
        }
    };
    /// Its destructor is the thread's exit.
    static EXIT: ExitGuard = const { ExitGuard };
    /// The same, for what other thread-locals' destructors make after that.
    static AGAIN: ExitGuard = const { ExitGuard };
}

// ---------------------------------------------------------------------------------------------
// Who is there
// ---------------------------------------------------------------------------------------------

/// A greenlet id: process-wide unique, handed to threads 1,024 at a time so that they stay small
/// and cost no shared cache line.
pub(crate) fn next_id() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    DRIVER.with(|d| {
        let (mut next, mut end) = d.ids.get();
        if next == end {
            next = BLOCKS.fetch_add(1, Ordering::Relaxed) * 1024;
            end = next + 1024;
            next = next.max(1);
        }
        d.ids.set((next + 1, end));
        next
    })
}

/// The id of the running greenlet; 0 before the thread's first use.
pub(crate) fn current_id() -> u64 {
    DRIVER.with(|d| {
        let current = d.current.get();
        // SAFETY: a non-null `current` owns a count of its block.
        if current.is_null() { 0 } else { unsafe { (*current).id } }
    })
}

#[cold]
fn make_root(d: &Driver) {
    let root = Block::make(super::block::kind::<()>, None, true, Location::caller());
    d.root.set(root.clone().into_raw());
    d.current.set(root.into_raw());
    stack::arm_thread();
}

/// Calls `f` with the running greenlet, without touching its count.
#[inline]
pub(crate) fn with_current<R>(f: impl FnOnce(&BlockRef) -> R) -> R {
    DRIVER.with(|d| {
        if d.current.get().is_null() {
            make_root(d);
        }
        // SAFETY: `current` owns a count of a live block; the copy made here is never dropped, and
        // `f` runs as the current greenlet, so the count stays until it returns or is back again.
        let me = ManuallyDrop::new(unsafe { BlockRef::from_raw(d.current.get()) });
        f(&me)
    })
}

/// The public view of a reference.
#[inline]
pub(super) fn as_any(block: &BlockRef) -> &AnyGreenlet {
    // SAFETY: `AnyGreenlet` is `repr(transparent)` over `BlockRef`.
    unsafe { &*std::ptr::from_ref(block).cast::<AnyGreenlet>() }
}

/// The running greenlet.
#[inline]
pub(crate) fn current() -> BlockRef {
    with_current(BlockRef::clone)
}

/// The thread's root greenlet.
pub(crate) fn root() -> BlockRef {
    with_current(|_| ());
    DRIVER.with(|d| {
        // SAFETY: made above; the cell keeps its count, we add one and take only that.
        let root = ManuallyDrop::new(unsafe { BlockRef::from_raw(d.root.get()) });
        BlockRef::clone(&root)
    })
}

/// Whether this thread runs a greenlet that is not its root.
pub(crate) fn in_greenlet() -> bool {
    DRIVER.with(|d| d.current.get() != d.root.get())
}

/// Every greenlet of this thread that has a stack.
pub(crate) fn live() -> Vec<BlockRef> {
    DRIVER.with(|d| {
        d.live
            .borrow()
            .iter()
            // SAFETY: a block is taken off the list before its stack is, and is not freed before.
            .map(|&block| BlockRef::clone(&ManuallyDrop::new(unsafe { BlockRef::from_raw(block) })))
            .collect()
    })
}

/// How many greenlets of this thread have a stack.
pub(crate) fn live_count() -> usize {
    DRIVER.with(|d| d.live.borrow().len())
}

/// Registers the layer above, once a thread.
pub(crate) fn set_hooks(hooks: &'static Hooks) {
    DRIVER.with(|d| d.hooks.set(Some(hooks)));
}

pub(super) fn hooks() -> Option<&'static Hooks> {
    DRIVER.with(|d| d.hooks.get())
}

/// Whether the thread is on its way out: waits end at once.
#[inline]
pub(crate) fn exiting() -> bool {
    DRIVER.with(|d| d.is(EXITING))
}

/// Why the running code may not suspend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A panic, throw or kill unwinds it.
    Unwinding,
    /// It is a tracer.
    Tracing,
    /// The loop drops something: nobody is current.
    Looping,
}

/// Whether the running code may suspend.
#[inline]
pub(crate) fn refusal() -> Option<Refusal> {
    if std::thread::panicking() {
        return Some(Refusal::Unwinding);
    }
    DRIVER.with(|d| match d.flags.get() & (TRACING | BUSY) {
        0 => None,
        flags if flags & TRACING != 0 => Some(Refusal::Tracing),
        _ => Some(Refusal::Looping),
    })
}

/// Whether nothing at all is out of the ordinary: a wait may begin without a further look.
#[inline]
pub(crate) fn is_plain() -> bool {
    !std::thread::panicking() && DRIVER.with(|d| d.flags.get() == 0)
}

// ---------------------------------------------------------------------------------------------
// Switching
// ---------------------------------------------------------------------------------------------

/// Suspends the running greenlet, whose state the caller has set, and runs `next`, or whom the hub
/// picks. Returns when somebody runs it again; the caller takes what arrived, then calls
/// [`settle`]. errno is the greenlet's own.
#[inline]
pub(crate) fn switch_to(next: Option<BlockRef>) {
    DRIVER.with(|d| {
        if d.errno.get().is_null() {
            d.errno.set(errno::place());
        }
        // SAFETY: this thread's own errno, which lives as long as the thread.
        let saved = unsafe { *d.errno.get() };
        d.next.set(next.map_or(null(), BlockRef::into_raw));
        let me = d.current.get();
        if me == d.root.get() {
            drive(d, me);
        } else {
            // SAFETY: the current greenlet is not the root, so it runs on its coroutine, whose
            // yielder lies at the base of that very stack.
            unsafe { suspend(d, me) }
        }
        // SAFETY: as above; a greenlet never leaves its thread.
        unsafe { *d.errno.get() = saved };
    });
}

/// Gives the thread to the loop until the loop gives it back.
///
/// # Safety
/// `me` must be the greenlet whose stack this runs on.
#[inline]
unsafe fn suspend(d: &Driver, me: *const Block) {
    let here = 0u8;
    // SAFETY: `me` is live.
    unsafe { (*me).depth.set(&raw const here) };
    loop {
        // SAFETY: `me` is live (it is current, which owns a count) and its yielder was set by
        // `entry`, on this stack, by the caller's promise.
        unsafe { (*(*me).yielder.get().cast::<Yielder>()).suspend(()) };
        let probe = d.probe.get();
        if probe.is_null() {
            return;
        }
        // SAFETY: `backtrace_of` points it to its own frame, and waits there until it is null.
        unsafe { *probe = Some(Backtrace::force_capture()) };
        d.probe.set(null_mut());
    }
}

/// Parks the running greenlet: no value can be sent to it, the hub will name it. When it runs again
/// `close` ends its wait; it is given what arrived instead of a hub's grant (a throw, or that nothing can
/// wake it), and runs no user code.
#[inline]
pub(crate) fn park<R>(close: impl FnOnce(Option<Arrival>) -> R) -> R {
    with_current(|me| {
        me.state.set(State::Parked);
        // Whoever dropped its last reference need not wait on: the hub holds it now.
        switch_to(me.take_reaper());
        let ended = close(me.take_arrival());
        // User code, maybe, that begins and ends waits of its own: this one is closed before.
        settle();
        ended
    })
}

/// Has the processor fetch what a resume of the block will touch: first the block itself, some
/// switches later (`stack`) the end of its stack. With a thousand greenlets neither is in the cache.
#[inline(always)]
pub(crate) fn prefetch(block: &BlockRef, stack: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing as far as the program can tell, and never faults.
        unsafe {
            if stack {
                let end = block.depth.get().cast::<i8>();
                for line in 0..6 {
                    _mm_prefetch::<_MM_HINT_T0>(end.wrapping_add(line * 64));
                }
            } else {
                _mm_prefetch::<_MM_HINT_T0>(block.as_raw().cast::<i8>());
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let (from, lines) = if stack { (block.depth.get(), 6) } else { (block.as_raw().cast::<u8>(), 1) };
        for line in 0..lines {
            // SAFETY: as above; the instruction has no other effect.
            unsafe {
                std::arch::asm!("prfm pldl1keep, [{}]", in(reg) from.wrapping_add(line * 64), options(nostack, preserves_flags, readonly));
            }
        }
    }
}

/// The loop: runs greenlets, on the root's stack, until the root itself is to run.
#[inline(never)]
fn drive(d: &Driver, root: *const Block) {
    loop {
        let mut target = d.next.replace(null());
        if target.is_null() {
            d.set(BUSY, true);
            target = match d.hooks.get() {
                Some(hooks) => (hooks.pick)(),
                None => nobody(),
            }
            .into_raw();
            d.set(BUSY, false);
        }
        d.previous.set(d.current.replace(target));
        // SAFETY: `target` owns a count, now held by `current`, so the block is live. It is not
        // running: the caller of `switch_to` and the hub name only suspended or unstarted
        // greenlets and the root, and a coroutine that runs is never re-entered since only this
        // loop resumes, and it is here. Its coroutine cell is touched by nobody else meanwhile.
        unsafe {
            (*target).state.set(State::Current);
            if target == root {
                return;
            }
            let coroutine = (*target).coroutine.get();
            if (*coroutine).is_none() {
                start_claimed(target);
            }
            let running = (*coroutine).as_mut().unwrap_unchecked();
            if running.resume(()).as_return().is_some() {
                retire(d, target);
            }
        }
    }
}

/// Without a hub a suspended root can only be woken by the others, and they have all ended.
#[cold]
fn nobody() -> BlockRef {
    let root = root();
    root.arrive(Arrival::LoopExit(LoopExit::new(String::new())));
    root
}

/// Gives a stack to a greenlet that is about to run for the first time.
pub(crate) fn prepare(block: &BlockRef) -> Result<(), StackError> {
    let stack = match block.claim.take() {
        Some(claim) => GuardedStack::take_claimed(claim),
        None => GuardedStack::take(block.stack_size.get().map_or_else(StackSize::configured, Ok)?)?,
    };
    install(block, stack);
    Ok(())
}

/// `prepare` on the loop, where only greenlets that the hub spawned start: they hold a claim.
#[cold]
unsafe fn start_claimed(target: *const Block) {
    // SAFETY: `drive` holds a count of `target`; this copy is not dropped.
    let block = ManuallyDrop::new(unsafe { BlockRef::from_raw(target) });
    let claim = block.claim.take().expect("a greenlet in the ready queue has no claim on a stack");
    install(&block, GuardedStack::take_claimed(claim));
}

fn install(block: &BlockRef, stack: GuardedStack) {
    stack.set_label(block.id, block.name().as_deref().unwrap_or(""));
    let raw = block.as_raw();
    let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
        // SAFETY: whoever resumes the coroutine holds a count of its block as `current`.
        unsafe { entry(yielder, raw) }
    });
    // SAFETY: only this file looks into the cell; the greenlet is unstarted, so no coroutine is
    // there and none of its code runs.
    unsafe { *block.coroutine.get() = Some(ManuallyDrop::new(coroutine)) };
    DRIVER.with(|d| {
        let mut live = d.live.borrow_mut();
        block.live_index.set(u32::try_from(live.len()).expect("more than 2^32 greenlets"));
        live.push(raw);
    });
    arm_exit();
}

/// Has this thread's exit end its greenlets.
pub(crate) fn arm_exit() {
    if !DRIVER.with(|d| d.exit_armed.replace(true)) {
        // What is made when both have run is leaked: nothing then ends its greenlets.
        let _ = EXIT.try_with(|_| ()).or_else(|_| AGAIN.try_with(|_| ()));
    }
}

/// The first frame on a greenlet's stack.
///
/// # Safety
/// `raw` must be the current greenlet, and `yielder` its own.
unsafe fn entry(yielder: &Yielder, raw: *const Block) {
    // SAFETY: `current` owns a count of it; this copy is never dropped.
    let me = ManuallyDrop::new(unsafe { BlockRef::from_raw(raw) });
    me.yielder.set(std::ptr::from_ref(yielder).cast());
    let body = me.body.take().expect("a greenlet without a body was started");
    // A body catches what its user's code raises; if anything else unwinds, nobody could catch it.
    let next =
        std::panic::catch_unwind(AssertUnwindSafe(|| body(&me))).unwrap_or_else(|_| std::process::abort());
    me.state.set(State::Dead);
    DRIVER.with(|d| d.next.set(next.map_or(null(), BlockRef::into_raw)));
}

/// Takes the stack of a greenlet that has ended.
///
/// # Safety
/// Its coroutine must have returned, on this thread.
unsafe fn retire(d: &Driver, target: *const Block) {
    // SAFETY: `current` still holds a count; the coroutine has returned, so no borrow of the cell
    // is left and `into_stack` is allowed.
    let (stack, block) = unsafe {
        let done = (*(*target).coroutine.get()).take().unwrap_unchecked();
        (ManuallyDrop::into_inner(done).into_stack(), &*target)
    };
    drop(stack);
    forget_live(d, block);
}

/// Takes a greenlet off the list of those that have a stack.
fn forget_live(d: &Driver, block: &Block) {
    let index = block.live_index.replace(u32::MAX) as usize;
    let mut live = d.live.borrow_mut();
    live.swap_remove(index);
    if let Some(&moved) = live.get(index) {
        // SAFETY: on the list, so not freed.
        unsafe { (*moved).live_index.set(index as u32) };
    }
}

/// Does, as the greenlet that has just been switched to, what the switch left over: tells the
/// tracer, and drops the reference to who ran before. May run user code; may panic (a tracer's).
#[inline]
pub(crate) fn settle() {
    DRIVER.with(|d| {
        let previous = d.previous.replace(null());
        if previous.is_null() {
            return;
        }
        // SAFETY: the cell owned a count, which is taken here once.
        let previous = unsafe { BlockRef::from_raw(previous) };
        if d.is(ATTENTION) {
            attend(d, &previous);
        }
    });
}

#[cold]
fn attend(d: &Driver, previous: &BlockRef) {
    let thrown = d.thrown.replace(false);
    let tracer = Option::clone(&d.tracer.borrow());
    if let Some(tracer) = tracer {
        let event = if thrown { TraceEvent::Throw } else { TraceEvent::Switch };
        d.set(TRACING, true);
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| {
            with_current(|me| trace::tell(&tracer, event, previous, me));
        }));
        d.set(TRACING, false);
        if let Err(payload) = told {
            set_tracer(None);
            std::panic::resume_unwind(payload);
        }
    }
    if !d.reaping.get() {
        clear_waiting(d);
        d.set(ATTENTION, d.tracer.borrow().is_some());
    }
}

/// Notes that the coming switch is a throw, when anybody wants to know.
pub(super) fn note_throw() {
    DRIVER.with(|d| d.thrown.set(d.is(ATTENTION)));
}

/// Sets the thread's tracer, and returns the one before.
pub(super) fn set_tracer(tracer: Option<Tracer>) -> Option<Tracer> {
    DRIVER.with(|d| {
        d.set(
            ATTENTION,
            tracer.is_some() || !d.to_reap.borrow().is_empty() || !d.to_drop.borrow().is_empty(),
        );
        std::mem::replace(&mut **d.tracer.borrow_mut(), tracer)
    })
}

pub(super) fn tracer() -> Option<Tracer> {
    DRIVER.with(|d| Option::clone(&d.tracer.borrow()))
}

/// How much of a greenlet's stack is in memory, in bytes; `None` when it has none of ours.
pub(crate) fn stack_used(block: &BlockRef) -> Option<usize> {
    if block.live_index.get() == u32::MAX {
        return None;
    }
    stack::high_water_at(block.yielder.get().addr())
}

/// The room that a backtrace takes on the stack that it is of, in bytes, with a wide margin.
const TRACE_ROOM: usize = 8 * 1024;

/// The backtrace of a suspended greenlet, which does not notice. `None`: it has no stack, too little of
/// it is left, or it cannot be looked at from here. Symbols are resolved when it is printed.
#[inline(never)] // its name ends a suspended greenlet's own frames
pub(crate) fn backtrace_of(block: &BlockRef) -> Option<Backtrace> {
    // By its place, not by its state: that is set a little before a switch.
    if std::ptr::eq(DRIVER.with(|d| d.current.get()), block.as_raw()) {
        return Some(Backtrace::force_capture());
    }
    if block.is_root {
        // Its frames are below the loop, which is below every greenlet: a trace of the running one
        // ends with them.
        return Some(Backtrace::force_capture());
    }
    DRIVER.with(|d| {
        if !matches!(block.state.get(), State::Switched | State::Parked) || block.live_index.get() == u32::MAX
        {
            return None;
        }
        // To look takes room there, and an overflow is the end of the process.
        if stack::room_at(block.depth.get().addr()).is_some_and(|room| room < TRACE_ROOM) {
            return None;
        }
        let mut found = None;
        d.probe.set(&raw mut found);
        // SAFETY: the greenlet is suspended (checked above: its state, and that it is not the one
        // that runs, since its state says so a little before), so its coroutine is not running and
        // may be resumed; its `suspend` sees the probe, fills `found`, and suspends again before
        // anything else runs on its stack. No other code touches the cell meanwhile: this thread
        // is here. Resuming from any stack is legal, the coroutine returns to its resumer.
        unsafe {
            let coroutine = (*block.coroutine.get()).as_mut().unwrap_unchecked();
            let ended = coroutine.resume(()).as_return().is_some();
            debug_assert!(!ended, "a probe ran a greenlet to its end");
        }
        d.probe.set(null_mut());
        found
    })
}
