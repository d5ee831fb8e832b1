//! Helpers that the test files share: a watchdog, drop counters, caught panics, subprocesses.

// Each test file is a crate of its own and uses some of these only.
#![allow(dead_code)]

pub(crate) mod duplex;
pub(crate) mod sockets;
pub(crate) mod threads;
mod watchdog;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output};
use std::rc::Rc;

pub(crate) use watchdog::watchdog;

/// Counts the drops of the tokens that it has handed out.
#[derive(Clone, Default)]
pub(crate) struct Drops {
    made: Rc<Cell<usize>>,
    dropped: Rc<Cell<usize>>,
}

impl Drops {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A value whose drop is counted.
    pub(crate) fn token(&self) -> Token {
        self.made.set(self.made.get() + 1);
        Token { drops: self.clone() }
    }

    /// How many tokens were dropped so far.
    pub(crate) fn count(&self) -> usize {
        self.dropped.get()
    }

    /// How many tokens are alive.
    pub(crate) fn alive(&self) -> usize {
        self.made.get() - self.dropped.get()
    }
}

/// See [`Drops::token`].
pub(crate) struct Token {
    drops: Drops,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.drops.dropped.set(self.drops.dropped.get() + 1);
    }
}

/// Runs a function when it is dropped.
pub(crate) struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub(crate) fn new(f: F) -> Self {
        OnDrop(Some(f))
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// What `f` raises; it must raise something.
#[track_caller]
pub(crate) fn raised<R>(f: impl FnOnce() -> R) -> Box<dyn Any + Send> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("nothing was raised"),
        Err(payload) => payload,
    }
}

/// The same, as the type that it must be.
#[track_caller]
pub(crate) fn raised_as<P: Any, R>(f: impl FnOnce() -> R) -> P {
    match raised(f).downcast::<P>() {
        Ok(payload) => *payload,
        Err(_) => panic!("something other than a {} was raised", std::any::type_name::<P>()),
    }
}

/// The variable that tells a test that it is the child of itself.
pub(crate) const CHILD: &str = "GEVENT_TEST_CHILD";

/// Whether this process was started by [`subprocess`].
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// This test binary, to be run again: by the program that `GEVENT_TEST_RUNNER` names where the machine
/// cannot run it by itself (`ci/aarch64.sh`).
pub(crate) fn this_program() -> Command {
    let program = std::env::current_exe().expect("the test binary has a path");
    let runner = std::env::var("GEVENT_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// Runs this test binary again, for the one test `name`, with [`CHILD`] and `env` set. It is ended
/// after a minute.
pub(crate) fn subprocess(name: &str, env: &[(&str, &str)]) -> Output {
    let mut command = this_program();
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, name);
    command.env("RUST_BACKTRACE", "0");
    for (key, value) in env {
        command.env(key, value);
    }
    command.output().expect("the test binary can be run again")
}

/// What a process printed: both of its streams.
pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a test in a process of its own, and says what it printed there; the child must end well.
/// `None`: this is the child, do the test.
#[track_caller]
pub(crate) fn in_child(name: &str) -> Option<String> {
    if is_child() {
        return None;
    }
    let output = subprocess(name, &[]);
    let printed = printed(&output);
    assert!(output.status.success(), "{name} ended with {}:\n{printed}", output.status);
    // A filter that matches nothing succeeds too.
    assert!(printed.contains("1 passed"), "{name} was not run:\n{printed}");
    Some(printed)
}

/// Runs `f` in a forked process that has no thread but the calling one: the test harness always has
/// two. Call it in a subprocess, where nothing else runs.
#[track_caller]
pub(crate) fn alone(f: impl FnOnce()) {
    use nix::sys::wait::{WaitStatus, waitpid};
    assert!(is_child(), "other tests run in this process");
    // SAFETY: the harness's other thread waits for this one, so it holds no lock that the child needs.
    match unsafe { nix::unistd::fork() }.expect("the process can be forked") {
        nix::unistd::ForkResult::Child => {
            // SAFETY: `alarm` has no preconditions. The watchdog's thread is not here.
            unsafe { libc::alarm(60) };
            let failed = catch_unwind(AssertUnwindSafe(f)).is_err();
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(if failed { 101 } else { 0 }) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let ended = waitpid(child, None).expect("it is our child");
            assert_eq!(ended, WaitStatus::Exited(child, 0), "what ran alone failed");
        }
    }
}

/// Makes this thread's hub one that nobody else wakes: what waits for ever is told so.
pub(crate) fn isolated() -> gevent::Hub {
    gevent::Hub::builder().isolated().install().expect("a test's thread has no hub yet")
}

/// The same, with a clock that jumps when everything waits.
pub(crate) fn virtual_time() -> gevent::hub::VirtualClock {
    let clock = gevent::hub::VirtualClock::new();
    let hub = gevent::Hub::builder().isolated().clock(clock.clone()).install();
    hub.expect("a test's thread has no hub yet");
    clock
}

/// The text of a panic's payload.
pub(crate) fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(not text)")
}

/// A list that several greenlets write to.
pub(crate) struct Log<T>(Rc<std::cell::RefCell<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T> Log<T> {
    pub(crate) fn new() -> Self {
        Log(Rc::default())
    }

    pub(crate) fn push(&self, what: T) {
        self.0.borrow_mut().push(what);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// What was written since it was last asked.
    pub(crate) fn take(&self) -> Vec<T> {
        self.0.take()
    }
}
