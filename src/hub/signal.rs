//! Signals as greenlets: `signal(SIGTERM, …)` runs its function in a new greenlet of the hub.
//!
//! The handler proper, which may run on any thread between any two instructions, sets a bit and
//! wakes the hub: nothing else is allowed there. `unsafe` here is the registration of that handler.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;

use super::{Inner, spawn};

type OnSignal = Rc<dyn Fn(i32)>;

struct Listener {
    id: u64,
    f: OnSignal,
    /// Counts as something that may happen, so that waiting for it is no deadlock.
    holds: bool,
}

/// What this hub does at which signal.
pub(super) struct Table {
    entries: BTreeMap<i32, Vec<Listener>>,
    handlers: BTreeMap<i32, signal_hook_registry::SigId>,
    next: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        Table { entries: BTreeMap::new(), handlers: BTreeMap::new(), next: 1 }
    }

    /// Whether somebody waits for a signal.
    pub(super) fn holds(&self) -> bool {
        self.entries.values().flatten().any(|entry| entry.holds)
    }

    pub(super) fn clear(&mut self) {
        for (_, handler) in std::mem::take(&mut self.handlers) {
            signal_hook_registry::unregister(handler);
        }
        self.entries.clear();
    }
}

/// Keeps a signal function; [`cancel`](SignalHandle::cancel) removes it, dropping the handle does not.
pub struct SignalHandle {
    signal: i32,
    id: u64,
    /// The function is its thread's; another thread has one of the same number.
    here: PhantomData<*mut ()>,
}

impl SignalHandle {
    /// Stops calling the function. The signal itself stays caught: once a program has handled a
    /// signal, its default action does not come back.
    pub fn cancel(self) {
        if let Some(hub) = super::existing() {
            let mut removed = None;
            if let Some(entries) = hub.signals.borrow_mut().entries.get_mut(&self.signal) {
                if let Some(at) = entries.iter().position(|entry| entry.id == self.id) {
                    removed = Some(entries.remove(at));
                }
            }
            // Outside the borrow: it drops what the function captured.
            drop(removed);
        }
    }
}

impl fmt::Debug for SignalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalHandle").field("signal", &self.signal).finish()
    }
}

/// Runs `f`, with the signal's number, in a new greenlet of this thread's hub whenever the signal
/// comes. Mirrors `gevent.signal_handler`.
///
/// The signal no longer does what it does by default. While a function waits for a signal a root
/// that waits is no deadlock. Several functions may wait for one signal; signals that come faster
/// than they are handled are handled once.
///
/// # Errors
/// The signal cannot be caught (`SIGKILL`, `SIGSTOP`), is a fault of the program's own (`SIGSEGV`,
/// `SIGFPE`, `SIGILL`: their handlers may not return), or there is no such signal.
///
/// ```
/// use std::{cell::Cell, rc::Rc, time::Duration};
///
/// let got = Rc::new(Cell::new(0));
/// let seen = got.clone();
/// gevent::signal(libc::SIGUSR1, move |number| seen.set(number)).unwrap();
/// nix::sys::signal::raise(nix::sys::signal::SIGUSR1).unwrap();
/// gevent::sleep(Duration::from_millis(1));
/// assert_eq!(got.get(), libc::SIGUSR1);
/// ```
pub fn signal(signal: i32, f: impl Fn(i32) + 'static) -> io::Result<SignalHandle> {
    listen(signal, Rc::new(f), true)
}

/// [`signal`], for functions whose waiting does not keep a deadlocked program from being told so.
pub(crate) fn listen(signal: i32, f: OnSignal, holds: bool) -> io::Result<SignalHandle> {
    if !(1..=64).contains(&signal) || signal_hook_registry::FORBIDDEN.contains(&signal) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "signal {signal} cannot be handled: it cannot be caught, is a fault of the program's own, or does not exist"
            ),
        ));
    }
    let hub = super::hub();
    let mut table = hub.signals.borrow_mut();
    if let Entry::Vacant(vacant) = table.handlers.entry(signal) {
        let shared = hub.shared.clone();
        // SAFETY: the action is async-signal-safe: atomics, and a write to an eventfd that the
        // `Arc` keeps open. It neither allocates nor locks nor panics.
        let handler = unsafe { signal_hook_registry::register(signal, move || shared.signal(signal)) }?;
        vacant.insert(handler);
    }
    let id = table.next;
    table.next += 1;
    table.entries.entry(signal).or_default().push(Listener { id, f, holds });
    Ok(SignalHandle { signal, id, here: PhantomData })
}

impl Inner {
    /// Makes a greenlet for each function of each signal that came.
    pub(super) fn raise_signals(&self, signals: u64) {
        for number in (1..=64).filter(|number| signals & super::remote::bit(*number) != 0) {
            let due: Vec<OnSignal> = self
                .signals
                .borrow()
                .entries
                .get(&number)
                .map_or(Vec::new(), |e| e.iter().map(|e| e.f.clone()).collect());
            for f in due {
                spawn::internal(self, "signal", move || f(number));
            }
        }
    }
}
