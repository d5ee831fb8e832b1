//! Layer 2: the hub, one event loop a thread, made on first use.
//!
//! ```text
//!   spawn, wake ──> ready queue ──> pick() ──> the driver runs it
//!                        ^            │ empty, or it is time to look
//!        timers ─────────┤            ▼
//!        epoll ──────────┤          look(): timers, epoll, news ──> nothing? wait in epoll
//!        HubHandle ──────┤                                            until the next timer
//!        signals ────────┘
//! ```
//!
//! The loop has no thread and no stack of its own: when a greenlet parks, the thread's driver asks
//! `run::pick` who is next, and that is the loop. It runs on the root's stack, between greenlets,
//! and runs no user code: links, signal functions and drops of results run in greenlets.
//!
//! | room | holds |
//! |---|---|
//! | `waiter` | a wait, and the one atomic step that ends it |
//! | `wait` | how a greenlet waits: kills, timeouts and deadlocks come out there |
//! | `run` | the loop: who is next, when to look, when to wait, `LoopExit` |
//! | `timer` | who is to be woken when |
//! | `poller`, `descriptors` | readiness of descriptors, and which hub knows which |
//! | `spawn` | how a greenlet of the hub begins and ends |
//! | `remote` | the half that other threads touch |
//! | `clock` | what time it is, and who of the ready is next |
//! | `signal` | signals as greenlets |
//!
//! # Unsafe
//!
//! One block, in `exit`: a hub is reached by a plain reference from a thread-local without a
//! destructor (so that it is there during thread exit, at no cost), and is freed once, when the
//! thread's greenlets have ended.

pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod poller;
pub(crate) mod remote;
pub(crate) mod run;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod timer;
pub(crate) mod wait;
pub(crate) mod waiter;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::greenlet::AnyGreenlet;
use crate::greenlet::block::{BlockRef, WeakRef};
use crate::greenlet::driver::{self, Hooks};
use crate::greenlet::stack::{GuardKind, StackSize};
use clock::sealed::{AnyClock, AnyScheduler};
use poller::Poller;
use remote::Shared;
use timer::{TimerKey, Timers};
use waiter::Waiter;

pub use clock::{Clock, Fifo, MonotonicClock, Scheduler, Seeded, VirtualClock};
pub use remote::HubGone;
pub use signal::{SignalHandle, signal};

/// A greenlet that ended by a panic which nobody joins, as [`Hub::on_error`] is told of it.
#[derive(Debug)]
pub struct Failure {
    /// The greenlet.
    pub greenlet: AnyGreenlet,
    /// What it panicked with.
    pub payload: crate::Payload,
}

impl Failure {
    /// The panic's message, if its payload is text.
    pub fn message(&self) -> &str {
        crate::greenlet::exit::message(&self.payload)
    }
}

type OnError = Rc<dyn Fn(Failure)>;

/// What a timer does.
pub(crate) enum Due {
    /// Grants a wait.
    Wake(Waiter),
    /// Ends a wait as timed out.
    Expire(Waiter),
    /// Makes a greenlet ready that was spawned for later.
    Start(u64),
    /// Raises a `timeout`.
    Timeout { block: WeakRef, id: u64 },
}

/// One thread's hub.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) poller: Poller,
    ready: RefCell<VecDeque<BlockRef>>,
    idle: RefCell<VecDeque<BlockRef>>,
    /// Spawned, to start at a later time; by id.
    later: RefCell<BTreeMap<u64, (BlockRef, TimerKey)>>,
    pub(crate) timers: RefCell<Timers<Due>>,
    clock: AnyClock,
    scheduler: RefCell<AnyScheduler>,
    /// The clock at the last look.
    now: Cell<u64>,
    /// Switches until the next look, and how many there were to be.
    left: Cell<u32>,
    stride: Cell<u32>,
    /// Calls without a wait that the running greenlet may make before it yields.
    budget: Cell<u32>,
    budget_full: u32,
    most_switches: u32,
    isolated: bool,
    stack_size: StackSize,
    on_error: RefCell<Option<OnError>>,
    /// Greenlets in a wait that other threads may end; by id.
    sharing: RefCell<HashMap<u64, BlockRef>>,
    signals: RefCell<signal::Table>,
    /// Jobs of ours that other threads work on: they will answer.
    operations: Cell<usize>,
}

thread_local! {
    static HUB: Cell<Option<&'static Inner>> = const { Cell::new(None) };
}

static HOOKS: Hooks = Hooks {
    pick: run::pick,
    unpark: wait::unpark,
    ended: spawn::ended,
    ending: wait::kill_unstarted,
    settle: wait::settle,
    exit,
};

/// This thread's hub, if it has one.
#[inline]
pub(crate) fn existing() -> Option<&'static Inner> {
    HUB.get()
}

/// This thread's hub, made if need be.
///
/// # Panics
/// When the descriptors that it needs cannot be had.
#[inline]
pub(crate) fn hub() -> &'static Inner {
    match HUB.get() {
        Some(hub) => hub,
        None => try_hub().unwrap_or_else(|error| panic!("cannot make this thread's hub: {error}")),
    }
}

/// [`hub`], with failure as a value.
pub(crate) fn try_hub() -> io::Result<&'static Inner> {
    HUB.get().map_or_else(|| HubBuilder::new().make(), Ok)
}

/// Puts a greenlet at the end of its hub's ready queue.
#[inline]
pub(crate) fn make_ready(block: BlockRef) {
    if let Some(hub) = HUB.get() {
        hub.push_ready(block);
    }
}

/// The thread's exit, when its greenlets have ended.
fn exit() {
    let Some(hub) = HUB.take() else { return };
    let unsent = hub.shared.close();
    descriptors::leave(&hub.shared);
    hub.signals.borrow_mut().clear();
    drop(unsent);
    // SAFETY: `make` leaked this very box. The thread-local is empty, so nobody finds the hub any
    // more. Whoever held the reference was code in a greenlet (ended, or left suspended for good),
    // or code of the root below `driver::end_all`'s caller: the thread's exit, where the thread's
    // own function has returned.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(hub).cast_mut()) });
}

/// This thread's hub. Mirrors `gevent.get_hub()`.
///
/// Made when something first needs it; [`Hub::builder`] makes one with other settings before that.
/// The value is a mere view, looked up at each use: it never leaves the thread, and one that is kept
/// longer than the thread's hub sees the next one.
#[derive(Clone, Copy)]
pub struct Hub {
    here: PhantomData<*mut ()>,
}

impl Hub {
    /// This thread's hub, made if need be.
    ///
    /// # Panics
    /// When the two descriptors that it needs (epoll, eventfd) cannot be had.
    ///
    /// ```
    /// println!("{:?}", gevent::Hub::current());
    /// ```
    pub fn current() -> Hub {
        hub();
        Hub { here: PhantomData }
    }

    /// Settings for this thread's hub, before it is made.
    pub fn builder() -> HubBuilder {
        HubBuilder::new()
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u32 {
        hub().shared.id
    }

    /// The name of the thread that it belongs to.
    pub fn thread_name(&self) -> String {
        hub().shared.thread.clone()
    }

    /// How many greenlets are ready to run.
    pub fn ready_count(&self) -> usize {
        hub().ready.borrow().len()
    }

    /// How many greenlets have a stack: started and not ended.
    pub fn live_count(&self) -> usize {
        driver::live_count()
    }

    /// How many timers are set.
    pub fn timer_count(&self) -> usize {
        hub().timers.borrow().len()
    }

    /// The time of its clock, as of its last look, since an arbitrary start.
    pub fn now(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(hub().clock.now())
    }

    /// Whom to tell of a greenlet that panicked and that nobody joins: its handle was dropped.
    /// Replaces who was told before. The function runs in a greenlet of its own.
    ///
    /// Whatever is set, the panic hook has run and one line has named the greenlet.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// let told = Rc::new(Cell::new(0));
    /// let count = told.clone();
    /// gevent::Hub::current().on_error(move |failure| {
    ///     assert_eq!(failure.message(), "lost");
    ///     count.set(count.get() + 1);
    /// });
    /// drop(gevent::spawn(|| panic!("lost")));
    /// gevent::sleep(std::time::Duration::from_millis(1));
    /// assert_eq!(told.get(), 1);
    /// ```
    pub fn on_error(&self, f: impl Fn(Failure) + 'static) {
        let before = hub().on_error.replace(Some(Rc::new(f)));
        drop(before);
    }

    /// Ends every greenlet of this thread: raises `GreenletExit` in each, once, and lets it unwind;
    /// its blocking calls end at once. What still goes on after a hundred of them is left suspended
    /// for good. One that has not begun never runs. Links and [`on_error`](Hub::on_error) run, and wait
    /// for nothing either. Call it from the root greenlet; elsewhere, or while unwinding, it does nothing.
    ///
    /// The exit of a thread other than main does the same by itself, but only when its thread-locals
    /// are being destroyed already.
    pub fn shutdown(&self) {
        driver::end_all();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("id", &self.id())
            .field("thread", &self.thread_name())
            .field("ready", &self.ready_count())
            .field("live", &self.live_count())
            .field("timers", &self.timer_count())
            .finish()
    }
}

impl Inner {
    #[inline]
    fn push_ready(&self, block: BlockRef) {
        block.queued.set(true);
        self.ready.borrow_mut().push_back(block);
    }

    /// Now, by the hub's clock.
    #[inline]
    pub(crate) fn clock_now(&self) -> u64 {
        self.clock.now()
    }

    /// `duration` from now, by the hub's clock; too far is for ever.
    pub(crate) fn deadline(&self, duration: std::time::Duration) -> u64 {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.clock.now().saturating_add(nanos)
    }

    pub(crate) fn stack_size(&self) -> StackSize {
        self.stack_size
    }

    /// Has a greenlet start at a later time.
    pub(crate) fn start_later(&self, block: BlockRef, at: u64) {
        let id = block.id;
        let timer = self.timers.borrow_mut().insert(at, Due::Start(id));
        self.later.borrow_mut().insert(id, (block, timer));
    }

    pub(crate) fn error_hook(&self) -> Option<OnError> {
        self.on_error.borrow().clone()
    }

    /// Counts a job that another thread will answer: the hub waits for it.
    pub(crate) fn operation_begins(&self) {
        self.operations.set(self.operations.get() + 1);
    }

    pub(crate) fn operation_ends(&self) {
        self.operations.set(self.operations.get() - 1);
    }

    /// Every greenlet of this thread that is ready or waits to start and has no stack yet.
    pub(crate) fn unstarted(&self) -> Vec<BlockRef> {
        let ready = self.ready.borrow();
        let later = self.later.borrow();
        ready
            .iter()
            .chain(later.values().map(|(block, _)| block))
            .filter(|b| b.state.get() == crate::greenlet::block::State::Unstarted)
            .cloned()
            .collect()
    }
}

/// Settings for a thread's hub, to be made before anything else makes it. Mirrors `gevent.config`.
///
/// ```
/// use gevent::hub::{Hub, Seeded, VirtualClock};
///
/// let hub = Hub::builder().clock(VirtualClock::new()).scheduler(Seeded(7)).isolated().install().unwrap();
/// assert_eq!(hub.ready_count(), 0);
/// assert!(Hub::builder().install().is_err()); // this thread has its hub now
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `install`"]
pub struct HubBuilder {
    clock: AnyClock,
    scheduler: AnyScheduler,
    isolated: bool,
    stack_size: Option<StackSize>,
    budget: u32,
    switches: u32,
}

impl HubBuilder {
    fn new() -> Self {
        HubBuilder {
            clock: AnyClock::Monotonic,
            scheduler: AnyScheduler::Fifo,
            isolated: false,
            stack_size: None,
            budget: 64,
            switches: 64,
        }
    }

    /// What time it goes by. Default: [`MonotonicClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = clock.into_any();
        self
    }

    /// Who of the ready greenlets runs next. Default: [`Fifo`].
    pub fn scheduler(mut self, scheduler: impl Scheduler) -> Self {
        self.scheduler = scheduler.into_any();
        self
    }

    /// Promises that no other thread wakes anything here. A root that waits while nothing else can
    /// ever happen then gets [`LoopExit`](crate::LoopExit) even though other threads run.
    pub fn isolated(mut self) -> Self {
        self.isolated = true;
        self
    }

    /// The stack of greenlets that name no size of their own. Default: [`StackSize::configured`].
    pub fn stack_size(mut self, size: StackSize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// How many calls that need not wait a greenlet may make before it yields. Default: 64; at
    /// least 1.
    pub fn budget(mut self, calls: u32) -> Self {
        self.budget = calls.max(1);
        self
    }

    /// After how many switches, at most, the hub looks at timers and descriptors while greenlets
    /// are ready. Default: 64; at least 1. It looks sooner when they run long, to keep to 5 ms.
    pub fn switches(mut self, switches: u32) -> Self {
        self.switches = switches.max(1);
        self
    }

    /// Makes this thread's hub.
    ///
    /// # Errors
    /// The thread has one already; the two descriptors that it needs cannot be had; or
    /// `GEVENT_STACK_SIZE` is not a size.
    pub fn install(self) -> io::Result<Hub> {
        if let Some(hub) = existing() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "thread {} has its hub already (hub {}): build it before the first call that needs one",
                    hub.shared.thread, hub.shared.id
                ),
            ));
        }
        self.make()?;
        Ok(Hub { here: PhantomData })
    }

    fn make(self) -> io::Result<&'static Inner> {
        static IDS: AtomicU32 = AtomicU32::new(1);
        let stack_size = self.stack_size.map_or_else(StackSize::configured, Ok)?;
        // Trying out stack guards takes descriptors: better now than when none is left. If none works
        // the first spawn says so.
        let _ = GuardKind::probed();
        let shared = Arc::new(Shared::new(IDS.fetch_add(1, Ordering::Relaxed))?);
        let slot = descriptors::join(&shared);
        let poller = Poller::new(shared.epoll.clone(), slot, shared.wake_fd())
            .inspect_err(|_| descriptors::leave(&shared))?;
        let now = self.clock.now();
        let hub: &'static Inner = Box::leak(Box::new(Inner {
            shared,
            poller,
            ready: RefCell::new(VecDeque::new()),
            idle: RefCell::new(VecDeque::new()),
            later: RefCell::new(BTreeMap::new()),
            timers: RefCell::new(Timers::new(now)),
            clock: self.clock,
            scheduler: RefCell::new(self.scheduler),
            now: Cell::new(now),
            left: Cell::new(0),
            stride: Cell::new(1),
            budget: Cell::new(self.budget),
            budget_full: self.budget,
            most_switches: self.switches,
            isolated: self.isolated,
            stack_size,
            on_error: RefCell::new(None),
            sharing: RefCell::new(HashMap::new()),
            signals: RefCell::new(signal::Table::new()),
            operations: Cell::new(0),
        }));
        driver::with_current(|_| ());
        driver::set_hooks(&HOOKS);
        driver::arm_exit();
        HUB.set(Some(hub));
        Ok(hub)
    }
}

/// A hub for other threads: wakes it, and runs things there. Mirrors `loop.run_callback_threadsafe`.
///
/// Cheap to clone, `Send + Sync`. Costs no system call while the hub is awake.
#[derive(Clone, Debug)]
pub struct HubHandle {
    shared: Arc<Shared>,
}

impl HubHandle {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The hub's number.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// The name of the hub's thread.
    pub fn thread_name(&self) -> &str {
        &self.shared.thread
    }

    /// Whether the hub has ended with its thread.
    pub fn is_gone(&self) -> bool {
        self.shared.is_closed()
    }
}

impl Hub {
    /// A handle for other threads.
    pub fn handle(&self) -> HubHandle {
        HubHandle { shared: hub().shared.clone() }
    }
}

/// The descriptor is about to be closed or given away: no hub may know it any more. Costs a load
/// when none does.
pub(crate) fn closing(fd: i32) {
    if !descriptors::is_known(fd) {
        return;
    }
    for shared in descriptors::close(fd) {
        // Gone from its epoll before the number is free, on whichever thread this is.
        let _ = shared.epoll.delete(fd);
        match existing() {
            Some(hub) if Arc::ptr_eq(&hub.shared, &shared) => hub.poller.closed(fd),
            _ => drop(shared.send(remote::Message::Closed { fd })),
        }
    }
}

/// Where something was spawned from, for messages.
pub(crate) fn site_of(site: &Location<'_>) -> String {
    format!("{}:{}", site.file(), site.line())
}
