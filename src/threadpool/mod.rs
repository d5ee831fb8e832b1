//! Native threads for what cannot yield: on demand, a few at most, gone when idle.
//!
//! What may come in: running a function elsewhere while the asking greenlet waits. What never comes
//! in: knowing what the function does. The name lookups of `net` come here; the toolkit's
//! `ThreadPool` is to grow from it.
//!
//! A job that nobody waits for any more (its greenlet was killed) runs to its end, and its result is
//! dropped on its thread. Idle threads do not count when the hub asks whether anything can still
//! happen: see `sys::spare_threads`.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::greenlet::block::WaitsFor;
use crate::hub::Inner;
use crate::hub::wait::Until;
use crate::hub::waiter::SharedWaiter;
use crate::{io as cooperative, sys};

/// How many threads there are at most. Lookups wait for servers, not for processors.
const MOST: usize = 10;

/// How long an idle thread stays.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does its work, calls what it is given (the thread is as good as idle), then says that it is done.
type Job = Box<dyn FnOnce(&dyn Fn()) + Send>;

struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Of these, waiting for a job.
    idle: usize,
    /// The process that the counts are of: after a fork the child has none of these threads.
    process: u32,
}

static STATE: Mutex<State> = Mutex::new(State { queue: VecDeque::new(), threads: 0, idle: 0, process: 0 });
static WORK: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    // Jobs run outside the lock: nothing under it panics.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` on another thread while the caller, a greenlet or a root with a hub, waits cooperatively;
/// a thread without a hub runs it itself. A panic of `f` comes out here.
///
/// # Errors
/// No thread can be had; or the wait may not begin, or was cut short inside `no_unwind`.
pub(crate) fn run<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let Some(hub) = cooperative::hub_here() else { return Ok(f()) };
    let answer = Arc::new(Answer { slot: Mutex::new((None, None)) });
    let _asked = Operation::begin(hub);
    let mut refused = None;
    let waited = hub.wait_shared(WaitsFor::Thread, Until::Forever, |waiter| {
        answer.lock().1 = Some(waiter);
        let answer = answer.clone();
        let job = Box::new(move |idle: &dyn Fn()| {
            let result = catch_unwind(AssertUnwindSafe(f));
            idle();
            answer.give(result);
        });
        refused = submit(job).err();
        refused.is_none()
    });
    if let Err(cut) = waited {
        return Err(cut.into_io());
    }
    if let Some(error) = refused {
        return Err(error);
    }
    let result = answer.lock().0.take();
    match result {
        Some(Ok(value)) => Ok(value),
        Some(Err(payload)) => resume_unwind(payload),
        None => Err(io::Error::other("a thread of the pool gave no answer")),
    }
}

/// Where the result goes, and whom to wake.
struct Answer<T> {
    slot: Mutex<(Option<std::thread::Result<T>>, Option<SharedWaiter>)>,
}

impl<T> Answer<T> {
    fn lock(&self) -> MutexGuard<'_, (Option<std::thread::Result<T>>, Option<SharedWaiter>)> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, result: std::thread::Result<T>) {
        let waiter = {
            let mut slot = self.lock();
            slot.0 = Some(result);
            slot.1.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// Tells the hub that somebody will answer, for as long as it lives.
struct Operation<'a>(&'a Inner);

impl<'a> Operation<'a> {
    fn begin(hub: &'a Inner) -> Self {
        hub.operation_begins();
        Operation(hub)
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.0.operation_ends();
    }
}

/// Queues a job, with a thread to run it.
fn submit(job: Job) -> io::Result<()> {
    let mut state = state();
    if state.process != std::process::id() {
        *state = State { queue: VecDeque::new(), threads: 0, idle: 0, process: std::process::id() };
        sys::no_spare_threads();
    }
    state.queue.push_back(job);
    if state.queue.len() <= state.idle || state.threads == MOST {
        WORK.notify_one();
        return Ok(());
    }
    match std::thread::Builder::new().name("gevent-pool".to_owned()).spawn(work) {
        Ok(_) => state.threads += 1,
        // Those that are there will come to it.
        Err(_) if state.threads > 0 => {}
        Err(error) => {
            state.queue.pop_back();
            return Err(error);
        }
    }
    Ok(())
}

/// A thread's life.
fn work() {
    let mut state = state();
    loop {
        if let Some(job) = state.queue.pop_front() {
            drop(state);
            job(&|| sys::spare_thread(true));
            sys::spare_thread(false);
            state = self::state();
            continue;
        }
        state.idle += 1;
        sys::spare_thread(true);
        let (back, waited) = WORK
            .wait_timeout_while(state, PATIENCE, |state| state.queue.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state = back;
        state.idle -= 1;
        if waited.timed_out() && state.queue.is_empty() {
            state.threads -= 1;
            drop(state);
            // It stays spare until it is gone; the kernel's count follows a moment later.
            sys::spare_thread(false);
            return;
        }
        sys::spare_thread(false);
    }
}
