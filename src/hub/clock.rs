//! What time it is, and who of the ready runs next: the two things that tests replace.
//!
//! Both are chosen when a hub is built, from types that only this crate can add to. The usual ones
//! cost a branch.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::sys;

pub(crate) mod sealed {
    use std::cell::Cell;
    use std::rc::Rc;

    /// Nanoseconds; see [`super::Clock`].
    #[derive(Debug)]
    pub enum AnyClock {
        /// `CLOCK_MONOTONIC`.
        Monotonic,
        /// Stands still until every greenlet waits.
        Virtual(Rc<Cell<u64>>),
    }

    /// See [`super::Scheduler`].
    #[derive(Debug)]
    pub enum AnyScheduler {
        /// First in, first out.
        Fifo,
        /// By a random generator of this state.
        Seeded(u64),
    }

    /// Closed to other crates.
    pub trait Sealed {}
}

use sealed::{AnyClock, AnyScheduler, Sealed};

/// What time a hub goes by: [`MonotonicClock`] or [`VirtualClock`].
pub trait Clock: Sealed {
    #[doc(hidden)]
    fn into_any(self) -> AnyClock;
}

/// Who of the ready greenlets runs next: [`Fifo`] or [`Seeded`].
pub trait Scheduler: Sealed {
    #[doc(hidden)]
    fn into_any(self) -> AnyScheduler;
}

/// The system's monotonic clock: never set back, whatever happens to the wall clock. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

/// A clock that stands still while anything runs and jumps to the next timer when everything waits.
///
/// An hour of sleeps takes microseconds, and their order does not depend on the machine. Before it
/// jumps the hub looks once at its descriptors, so that what is there already comes first.
///
/// ```
/// use std::time::Duration;
/// use gevent::hub::{Hub, VirtualClock};
///
/// let clock = VirtualClock::new();
/// Hub::builder().clock(clock.clone()).install().unwrap();
/// gevent::sleep(Duration::from_secs(3600));
/// assert_eq!(clock.now(), Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug, Default)]
pub struct VirtualClock {
    now: Rc<Cell<u64>>,
}

impl VirtualClock {
    /// A clock that shows zero.
    pub fn new() -> Self {
        VirtualClock::default()
    }

    /// How far it has come.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now.get())
    }
}

/// First in, first out: gevent's order, and the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fifo;

/// An order drawn from a seed: the same seed and program give the same order.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(
    /// The seed.
    pub u64,
);

impl Sealed for MonotonicClock {}
impl Clock for MonotonicClock {
    fn into_any(self) -> AnyClock {
        AnyClock::Monotonic
    }
}

impl Sealed for VirtualClock {}
impl Clock for VirtualClock {
    fn into_any(self) -> AnyClock {
        AnyClock::Virtual(self.now)
    }
}

impl Sealed for Fifo {}
impl Scheduler for Fifo {
    fn into_any(self) -> AnyScheduler {
        AnyScheduler::Fifo
    }
}

impl Sealed for Seeded {}
impl Scheduler for Seeded {
    fn into_any(self) -> AnyScheduler {
        AnyScheduler::Seeded(self.0)
    }
}

impl AnyClock {
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self {
            AnyClock::Monotonic => sys::time::monotonic(),
            AnyClock::Virtual(now) => now.get(),
        }
    }
}

impl AnyScheduler {
    /// Which of `ready` greenlets runs next.
    #[inline]
    pub(crate) fn pick(&mut self, ready: usize) -> usize {
        match self {
            AnyScheduler::Fifo => 0,
            AnyScheduler::Seeded(state) => {
                // splitmix64: any seed will do, zero too.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) % ready as u64) as usize
            }
        }
    }
}
