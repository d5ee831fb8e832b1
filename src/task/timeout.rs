//! `timeout`: a limit on everything that a function waits for.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::greenlet::driver;
use crate::greenlet::exit::TimeoutRaised;
use crate::hub::{self, Due};

/// A [`timeout`] ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    limit: Duration,
}

impl Elapsed {
    /// The limit that was set.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not done within {:?}", self.limit)
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Runs `f`, and unwinds it at its blocking call when `limit` has passed. Mirrors
/// `gevent.with_timeout`.
///
/// Timeouts nest, and are told apart: an outer one passes through an inner one. A limit of zero
/// ends at the first blocking call that would wait. Code that never waits is never ended: a greenlet
/// is not preempted. It works by unwinding, so destructors run, and a `catch_unwind` that swallows
/// everything swallows this too. It never crosses a C frame: see [`no_unwind`](crate::no_unwind).
///
/// # Errors
/// [`Elapsed`], which converts to an [`io::Error`](std::io::Error) of kind `TimedOut`.
///
/// # Panics
/// Raises what `f` raises.
///
/// ```
/// use std::time::Duration;
/// use gevent::{sleep, timeout};
///
/// let late = timeout(Duration::from_millis(1), || sleep(Duration::from_secs(60)));
/// assert!(late.is_err());
/// assert_eq!(timeout(Duration::from_secs(60), || 42).unwrap(), 42);
/// ```
pub fn timeout<T>(limit: Duration, f: impl FnOnce() -> T) -> Result<T, Elapsed> {
    thread_local! { static TIMEOUTS: Cell<u64> = const { Cell::new(0) } }
    let hub = hub::hub();
    let id = TIMEOUTS.get() + 1;
    TIMEOUTS.set(id);
    // Nothing here holds the greenlet: it would keep itself alive.
    let due = Due::Timeout { block: driver::with_current(|me| me.downgrade()), id };
    let timer = hub.timers.borrow_mut().insert(hub.deadline(limit), due);
    let result = catch_unwind(AssertUnwindSafe(f));
    let unfired = hub.timers.borrow_mut().cancel(timer);
    drop(unfired);
    driver::with_current(|me| {
        if let Some(rare) = me.has_rare() {
            // It may have fired after the last blocking call of `f`.
            rare.pending.borrow_mut().retain(|pending| pending.timeout != id);
        }
    });
    match result {
        Ok(value) => Ok(value),
        Err(payload) => match payload.downcast::<TimeoutRaised>() {
            Ok(raised) if raised.0 == id => Err(Elapsed { limit }),
            Ok(raised) => resume_unwind(raised),
            Err(payload) => resume_unwind(payload),
        },
    }
}
