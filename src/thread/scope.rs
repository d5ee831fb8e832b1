//! Scopes: greenlets that borrow from the one that waits for them.
//!
//! ```text
//!   scope(|s| …)
//!     body ── panic, kill ──┐   caught at the boundary: the thread's panic count is back to zero here,
//!       │                   │   so waiting is legal
//!       ▼                   ▼
//!     wait until no child is left <──┐
//!       │         └─ kill, timeout, LoopExit: kill the children once, keep it for later, go on
//!       ▼
//!     raise what was caught, or kept; or panic for a child that nobody joined
//! ```
//!
//! The rule is `std::thread::scope`'s: the function does not return, by any way, before every child
//! has ended. A child has ended ([`Family::child_ended`]) when its closure and its result are gone, or
//! the result is its handle's; see [`super::packet`]. Four other projects had unsound scopes, each
//! through a way out that skipped the wait. The ways out here:
//!
//! | way | what happens |
//! |---|---|
//! | the body panics | it is caught; the children go on to their ends, as std's; then it goes on |
//! | the owner is killed, or times out, in the body or in the wait | the children are killed too; its own kills wait meanwhile |
//! | the owner waits for what can never come (`LoopExit`) | the children are killed; those that go on all the same 100 times: the process is aborted |
//! | the owner is in `no_unwind` | the same, and nothing is raised after |
//! | a handle is forgotten | the children are counted by the scope, not by their handles |
//! | the owner's coroutine is dropped | never happens: the driver throws, which is a kill |
//! | the owner's thread exits | the wait errs at once; the owner revokes the children that have not begun, and runs the others to their ends itself. Is any left, on another thread or since it cannot be ended, the owner stays suspended for good with its stack, and so does all that the children borrow |
//! | a child's thread exits | the child is ended as any other; if it cannot be, it counts as running for ever: its stack is left, and with it the owner's |
//! | the owner cannot be left, being a thread's own code | the process is aborted |
//! | the scope is entered while its greenlet unwinds (a `Drop`), or by a tracer | it cannot wait, so it refuses to spawn |
//!
//! # Unsafe
//!
//! One block, in [`erase`]: a child's packet goes into the hub, which knows no lifetimes. It is sound
//! since the scope's function does not return before [`Packet`] is empty of everything that has the
//! lifetime `'scope`; an empty packet may outlive it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::Ticket;
use super::identity::Thread;
use super::packet::{Looks, Packet, Promise, Run, key, launch};
use super::parker::Parker;
use crate::GreenletExit;
use crate::greenlet::block::{Payload, Pending, State, WaitsFor};
use crate::greenlet::driver;
use crate::greenlet::exit::{self, LoopExit, TimeoutRaised};
use crate::hub::remote::{Message, Shared};
use crate::hub::wait::{self, Cut};
use crate::hub::{self, Inner};

/// Forgets what a packet's closure borrows.
///
/// # Safety
/// The packet must be empty before what it borrows ends; see [`super::packet`].
pub(super) unsafe fn erase<'a>(run: Arc<dyn Run + 'a>) -> Arc<dyn Run> {
    // SAFETY: the two types are one but for a lifetime, for which the caller answers.
    unsafe { std::mem::transmute::<Arc<dyn Run + 'a>, Arc<dyn Run + 'static>>(run) }
}

/// A scope, as its children see it.
pub(super) struct Family {
    brood: Mutex<Brood>,
    /// Who waits is the owner. Told when no child is left, or none that can end.
    owner: Parker,
    /// It was entered where its owner cannot wait.
    barren: bool,
}

#[derive(Default)]
struct Brood {
    children: HashMap<usize, Child>,
    /// How many of them will never end.
    lost: usize,
    /// Panics that nobody joined.
    unhandled: isize,
    /// Its owner was killed, so newcomers are too.
    killed: bool,
}

struct Child {
    run: Arc<dyn Run>,
    hub: Arc<Shared>,
    id: u64,
}

impl Brood {
    /// Whether there is nothing to wait for any more.
    fn is_settled(&self) -> bool {
        self.children.len() == self.lost
    }
}

impl Family {
    fn new() -> Self {
        Family {
            brood: Mutex::new(Brood::default()),
            owner: Parker::new(),
            barren: driver::refusal().is_some(),
        }
    }

    fn brood(&self) -> MutexGuard<'_, Brood> {
        // Nothing under the lock panics, and no code of a user's runs under it.
        self.brood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child's closure and its result are gone, or its handle has the result.
    pub(super) fn child_ended(&self, key: usize) {
        let mut brood = self.brood();
        let child = brood.children.remove(&key);
        let settled = brood.is_settled();
        drop(brood);
        drop(child);
        if settled {
            self.owner.unpark();
        }
    }

    /// A child was left suspended for good.
    pub(super) fn child_lost(&self) {
        let mut brood = self.brood();
        brood.lost += 1;
        let settled = brood.is_settled();
        drop(brood);
        if settled {
            self.owner.unpark();
        }
    }

    /// A child panicked (1), or somebody looked at that (-1).
    pub(super) fn unhandled(&self, count: isize) {
        self.brood().unhandled += count;
    }

    /// Kills every child, wherever it runs, and those to come.
    fn kill_children(&self) {
        let mut of_hubs: Vec<(Arc<Shared>, Vec<u64>)> = Vec::new();
        let mut brood = self.brood();
        brood.killed = true;
        for child in brood.children.values() {
            match of_hubs.iter_mut().find(|(hub, _)| Arc::ptr_eq(hub, &child.hub)) {
                Some((_, ids)) => ids.push(child.id),
                None => of_hubs.push((child.hub.clone(), vec![child.id])),
            }
        }
        drop(brood);
        for (hub, mut ids) in of_hubs {
            ids.sort_unstable();
            // A hub that is gone has ended its greenlets.
            let _ = hub.send(Message::Kill { ids });
        }
    }

    /// Waits until every child has ended. Returns what is to be raised after that.
    fn wait(&self, killed: bool) -> Kept {
        let mut kept = Kept::default();
        let mut deadlocks = 0;
        if killed && !self.brood().children.is_empty() {
            self.kill_children();
        }
        loop {
            {
                let brood = self.brood();
                if brood.children.is_empty() {
                    return kept;
                }
                if brood.is_settled() {
                    drop(brood);
                    stay("waits for greenlets of its scope that were left suspended for good");
                }
            }
            // A tracer that panics, or a drop that was put off, would unwind out of the wait.
            let parked = catch_unwind(AssertUnwindSafe(|| {
                self.owner.park(WaitsFor::Other("the greenlets of its scope"), None)
            }));
            let waited = match parked {
                Ok(waited) => waited,
                Err(payload) => {
                    kept.keep(payload);
                    continue;
                }
            };
            match waited {
                Ok(_) => {}
                Err(Cut::Interrupted) => {
                    if kept.take_pending() {
                        self.kill_children();
                    }
                }
                Err(Cut::LoopExit(exit)) => {
                    kept.loop_exit.get_or_insert(exit);
                    deadlocks += 1;
                    if deadlocks > driver::SURVIVALS {
                        stay("waits for greenlets of its scope that nothing can wake");
                    }
                    self.kill_children();
                }
                Err(Cut::Exiting) => {
                    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.end_children_here())) {
                        kept.keep(payload);
                    }
                    if !self.brood().children.is_empty() {
                        stay("waits for greenlets of its scope, and its thread exits");
                    }
                }
                // A scope that is entered so has no children.
                Err(Cut::Unwinding | Cut::Barred) => stay("may not wait for the greenlets of its scope"),
            }
        }
    }

    /// The thread exits: its hub runs nobody any more, so the owner ends its children by itself, as far
    /// as they are on this thread and can be ended.
    fn end_children_here(&self) {
        let Some(hub) = hub::existing() else { return };
        let mut mine: Vec<(u64, Arc<dyn Run>)> = Vec::new();
        for child in self.brood().children.values() {
            if Arc::ptr_eq(&child.hub, &hub.shared) {
                mine.push((child.id, child.run.clone()));
            }
        }
        mine.sort_unstable_by_key(|(id, _)| *id);
        for (_, run) in &mine {
            run.revoke(Box::new(GreenletExit));
        }
        for block in driver::live() {
            let child = mine.binary_search_by_key(&block.id, |(id, _)| *id).is_ok();
            // One that runs us, further up, is not to be cut short: it stays, and so do we.
            if child && (wait::waits_in_hub(&block) || block.state.get() == State::Switched) {
                driver::reap(&block);
            }
        }
    }
}

/// The owner cannot go on, and must not return: it stays suspended for good. A thread's own code has
/// nowhere to stay.
#[cold]
fn stay(why: &str) -> ! {
    if driver::in_greenlet() && driver::refusal().is_none() {
        driver::abandon_current(why);
    }
    let who = driver::with_current(|me| me.describe());
    exit::report(&format!("{who} {why}; it cannot be left, so the process is aborted"));
    std::process::abort()
}

/// Kills, timeouts, a deadlock and panics of others that came while the owner waited.
#[derive(Default)]
struct Kept {
    pending: Vec<Pending>,
    loop_exit: Option<LoopExit>,
    panic: Option<Payload>,
}

impl Kept {
    /// False: there was none.
    fn take_pending(&mut self) -> bool {
        let before = self.pending.len();
        driver::with_current(|me| self.pending.append(&mut me.rare().pending.borrow_mut()));
        self.pending.len() > before
    }

    /// The first of them counts.
    fn keep(&mut self, payload: Payload) {
        if self.panic.is_none() {
            self.panic = Some(payload);
        } else {
            // Its drop may run anything, panic too.
            std::mem::forget(payload);
        }
    }

    /// Has the kills and timeouts come out at the owner's next blocking call.
    fn give_back(&mut self) {
        if !self.pending.is_empty() {
            driver::with_current(|me| {
                me.rare().pending.borrow_mut().splice(0..0, self.pending.drain(..));
            });
        }
    }

    /// Raises them now.
    fn raise(mut self) {
        if let Some(payload) = self.panic.take() {
            self.give_back();
            resume_unwind(payload);
        }
        if let Some(exit) = self.loop_exit.take() {
            self.give_back();
            panic!("{exit}");
        }
        if !self.pending.is_empty() {
            self.give_back();
            wait::raise_pending();
        }
    }
}

/// A scope to spawn greenlets in. Mirrors [`std::thread::Scope`].
///
/// See [`scope`].
pub struct Scope<'scope, 'env: 'scope> {
    family: Arc<Family>,
    /// Invariant over both, as std's: else `'scope` could be shrunk, and a child borrow the body's own.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// Runs `f` with a scope, in which greenlets may be spawned that borrow from outside; returns when all
/// of them have ended. Mirrors [`std::thread::scope`].
///
/// Those that were not joined by hand are waited for at the end. What differs from std comes of
/// greenlets being killable: when the caller is killed, or a [`timeout`](crate::timeout) around the
/// scope runs out, the scope's greenlets are killed too, and the unwind goes on when the last of them
/// has ended, however long that takes. (A kill by a payload of one's own,
/// [`kill_with`](crate::AnyGreenlet::kill_with), is taken for a panic when it comes in `f`.)
///
/// A scope that is entered while its greenlet unwinds cannot wait, and refuses to spawn. When a thread
/// exits while one of its greenlets is in a scope, and the greenlets of the scope cannot be ended, they
/// and the one in the scope stay suspended for good, with their stacks and all they borrow.
///
/// # Panics
/// With `f`'s panic; else, if a greenlet of the scope panicked and nobody joined it, with "a scoped
/// thread panicked". When nothing could ever wake the scope's greenlets ([`LoopExit`]): they are killed
/// first. Unwinds when the caller is killed.
///
/// ```
/// use gevent::thread;
///
/// let mut a = vec![1, 2, 3];
/// let mut x = 0;
///
/// thread::scope(|s| {
///     s.spawn(|| println!("hello from the first scoped greenlet: {a:?}"));
///     s.spawn(|| x += a[0] + a[2]);
/// });
///
/// a.push(4);
/// assert_eq!(x, a.len());
/// ```
///
/// What a greenlet of the scope borrows must live outside the scope:
///
/// ```compile_fail
/// gevent::thread::scope(|s| {
///     let inside = 1;
///     s.spawn(|| assert_eq!(inside, 1));
/// });
/// ```
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope { family: Arc::new(Family::new()), scope: PhantomData, env: PhantomData };
    // Everything between here and the end of the wait must not unwind.
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    let killed = result.as_ref().is_err_and(is_cut);
    let mut kept = scope.family.wait(killed);
    match result {
        Err(payload) => {
            kept.give_back();
            resume_unwind(payload)
        }
        Ok(value) => {
            if scope.family.brood().unhandled > 0 {
                kept.give_back();
                panic!("a scoped thread panicked");
            }
            kept.raise();
            value
        }
    }
}

/// Whether this is a kill or a timeout of ours, not a panic.
fn is_cut(payload: &Payload) -> bool {
    payload.is::<GreenletExit>() || payload.is::<TimeoutRaised>()
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Runs `f` in a new greenlet, which may borrow from outside the scope. Mirrors
    /// [`std::thread::Scope::spawn`].
    ///
    /// The greenlet is of the hub of the thread that calls this.
    ///
    /// # Panics
    /// When no stack can be had, or the scope refuses;
    /// [`Builder::spawn_scoped`](super::Builder::spawn_scoped) returns that instead.
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let looks = Looks { name: None, stack_size: None, site: Location::caller() };
        self.start(&looks, f).unwrap_or_else(|error| panic!("failed to spawn a greenlet: {error}"))
    }

    pub(super) fn start<F, T>(
        &'scope self,
        looks: &Looks<'_>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        if self.family.barren {
            return Err(io::Error::other(
                "this scope was entered while its greenlet unwinds, so it cannot wait for greenlets and starts none",
            ));
        }
        let hub: &Inner = hub::try_hub()?;
        let packet = Arc::new(Packet::new(f, Some(self.family.clone())));
        // SAFETY: `scope` does not return before the packet is off the list of children that it is put
        // on in the next lines, where it stays until it is empty; between here and there nothing
        // unwinds.
        let run = unsafe { erase(packet.clone()) };
        let key = key(&run);
        let child = Child { run: run.clone(), hub: hub.shared.clone(), id: 0 };
        self.family.brood().children.insert(key, child);
        let thread = launch(hub, Promise::new(run), looks, None)?;
        let id = thread.id().number();
        let mut brood = self.family.brood();
        if let Some(child) = brood.children.get_mut(&key) {
            child.id = id;
        }
        let killed = brood.killed;
        drop(brood);
        if killed {
            wait::kill_all(hub, &[id]);
        }
        Ok(ScopedJoinHandle(Ticket::new(packet, thread, WaitsFor::Join(id))))
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brood = self.family.brood();
        f.debug_struct("Scope")
            .field("running", &brood.children.len())
            .field("unhandled_panics", &brood.unhandled)
            .finish_non_exhaustive()
    }
}

/// The right to join a greenlet of a scope. Mirrors [`std::thread::ScopedJoinHandle`].
///
/// `Send + Sync`. Dropped or forgotten, the greenlet is waited for at the end of the scope.
///
/// ```
/// use gevent::thread;
///
/// let words = ["to", "be"];
/// let length = thread::scope(|s| {
///     let handles = words.map(|word| s.spawn(move || word.len()));
///     handles.into_iter().map(|handle| handle.join().unwrap()).sum::<usize>()
/// });
/// assert_eq!(length, 4);
/// ```
pub struct ScopedJoinHandle<'scope, T>(Ticket<'scope, T>);

impl<T> ScopedJoinHandle<'_, T> {
    /// The greenlet's handle. Mirrors [`std::thread::ScopedJoinHandle::thread`].
    #[must_use]
    pub fn thread(&self) -> &Thread {
        self.0.thread()
    }

    /// Waits for its end and takes what it returned. Mirrors [`std::thread::ScopedJoinHandle::join`].
    ///
    /// A panic that is so taken does not make the scope panic.
    ///
    /// # Errors
    /// As [`JoinHandle::join`](super::JoinHandle::join).
    ///
    /// # Panics
    /// As [`JoinHandle::join`](super::JoinHandle::join).
    pub fn join(self) -> super::Result<T> {
        self.0.join()
    }

    /// Whether it has ended, so that [`join`](ScopedJoinHandle::join) does not wait. Mirrors
    /// [`std::thread::ScopedJoinHandle::is_finished`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle")
            .field("thread", self.thread())
            .field("finished", &self.is_finished())
            .finish()
    }
}
