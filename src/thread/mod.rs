//! `std::thread` for greenlets: the same names, signatures and meanings, each greenlet a thread.
//!
//! ```
//! use gevent::thread;
//! use std::time::Duration;
//!
//! let sleepers: Vec<_> =
//!     (0..100).map(|_| thread::spawn(|| thread::sleep(Duration::from_millis(10)))).collect();
//! for sleeper in sleepers {
//!     sleeper.join().unwrap(); // all of them together take 10 ms, on one thread
//! }
//! ```
//!
//! What may come in: what `std::thread` has, and spawning on another thread's hub
//! ([`HubHandle::spawn`](crate::HubHandle::spawn)). What never comes in: what std has no word for
//! (kills, links, pools); that is [`gevent::spawn`](crate::spawn)'s, whose greenlets are threads here
//! too: [`current`], [`park`] and the rest work in them.
//!
//! | room | holds |
//! |---|---|
//! | `identity` | [`Thread`], [`ThreadId`], [`current`] |
//! | `parker` | one token, and one who waits for it: [`park`], joins and scopes rest on it |
//! | `packet` | what a greenlet and its join handle share |
//! | `handle`, `builder` | [`JoinHandle`]; [`Builder`], [`spawn`] |
//! | `scope` | [`scope()`], and why it is sound |
//! | `remote` | spawning on another thread's hub |
//!
//! # What differs from std
//!
//! * A greenlet starts when the running one next waits, and gives way only where it waits. A loop that
//!   spins on an atomic must call [`yield_now`].
//! * Stacks have 192 KiB unless [`Builder::stack_size`] says otherwise.
//! * A thread-local ([`LocalKey`]) belongs to the native thread: its greenlets share it.
//! * [`panicking`] is the native thread's too; nothing of ours waits while it is true: [`sleep`],
//!   [`park`] and [`yield_now`] then return at once.
//! * When the thread's own code returns, its greenlets are ended; std's threads go on, detached.
//! * On a thread that has no hub, and outside of any greenlet, everything here but spawning does what
//!   std's does, and makes no hub.
//!
//! # Unsafe
//!
//! Two blocks that forget a lifetime, in `scope` and `handle`; the rule they rest on is at the top of
//! `scope`.

mod builder;
mod handle;
mod identity;
mod packet;
pub(crate) mod parker;
mod remote;
mod scope;

use std::time::Duration;

use crate::greenlet::block::WaitsFor;
use crate::io::hub_here;

pub use builder::{Builder, spawn};
pub use handle::JoinHandle;
pub use identity::{Thread, ThreadId, current};
pub use scope::{Scope, ScopedJoinHandle, scope};

// What std adds later is to be had here at once; all that is above and below comes before it.
#[doc(no_inline)]
pub use ::std::thread::*;
#[doc(no_inline)]
pub use ::std::thread::{AccessError, LocalKey, Result, available_parallelism, panicking};

/// Waits this long, while others run. Mirrors [`std::thread::sleep`].
///
/// Never wakes early; zero gives way to the others once.
///
/// # Panics
/// Unwinds when the caller is killed.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let now = Instant::now();
/// gevent::thread::sleep(Duration::from_millis(10));
/// assert!(now.elapsed() >= Duration::from_millis(10));
/// ```
pub fn sleep(dur: Duration) {
    match hub_here() {
        Some(_) => crate::sleep(dur),
        None => ::std::thread::sleep(dur),
    }
}

/// [`sleep`], in milliseconds. Mirrors [`std::thread::sleep_ms`].
///
/// # Panics
/// Unwinds when the caller is killed.
///
/// ```
/// #[allow(deprecated)]
/// gevent::thread::sleep_ms(1);
/// ```
#[deprecated(note = "replaced by `gevent::thread::sleep`")]
pub fn sleep_ms(ms: u32) {
    sleep(Duration::from_millis(u64::from(ms)));
}

/// Lets every other ready greenlet run first. Mirrors [`std::thread::yield_now`].
///
/// # Panics
/// Unwinds when the caller is killed.
///
/// ```
/// use gevent::thread;
///
/// let handle = thread::spawn(|| ());
/// while !handle.is_finished() { thread::yield_now() }
/// ```
pub fn yield_now() {
    match hub_here() {
        Some(_) => crate::yield_now(),
        None => ::std::thread::yield_now(),
    }
}

/// Waits until the running greenlet's token is made available, and takes it. Mirrors
/// [`std::thread::park`].
///
/// The token is there if [`unpark`](Thread::unpark) was called since it was last taken: then this
/// returns at once. As std's, it may return for no reason: look again at what you wait for. So it does
/// while the caller unwinds.
///
/// # Panics
/// When it would wait for ever: see [`LoopExit`](crate::LoopExit). Unwinds when the caller is killed;
/// the token is not lost then.
///
/// ```
/// use gevent::thread;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// static FLAG: AtomicBool = AtomicBool::new(false);
/// let parked = thread::spawn(|| while !FLAG.load(Ordering::Acquire) { thread::park() });
/// FLAG.store(true, Ordering::Release);
/// parked.thread().unpark();
/// parked.join().unwrap();
/// ```
pub fn park() {
    if let Err(cut) = current().parker().park(WaitsFor::Unpark, None) {
        cut.unwind();
    }
}

/// [`park`], for at most this long. Mirrors [`std::thread::park_timeout`].
///
/// # Panics
/// Unwinds when the caller is killed; the token is not lost then.
///
/// ```
/// use gevent::thread;
/// use std::time::{Duration, Instant};
///
/// let (begun, timeout) = (Instant::now(), Duration::from_millis(5));
/// let mut left = timeout;
/// while !left.is_zero() {
///     thread::park_timeout(left); // nobody unparks us
///     left = timeout.saturating_sub(begun.elapsed());
/// }
/// ```
pub fn park_timeout(dur: Duration) {
    if let Err(cut) = current().parker().park(WaitsFor::Unpark, Some(dur)) {
        cut.unwind();
    }
}

/// [`park_timeout`], in milliseconds. Mirrors [`std::thread::park_timeout_ms`].
///
/// # Panics
/// Unwinds when the caller is killed.
///
/// ```
/// #[allow(deprecated)]
/// gevent::thread::park_timeout_ms(1);
/// ```
#[deprecated(note = "replaced by `gevent::thread::park_timeout`")]
pub fn park_timeout_ms(ms: u32) {
    park_timeout(Duration::from_millis(u64::from(ms)));
}
