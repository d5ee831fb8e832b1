//! What a handle of any greenlet can do, beyond layer 1: its state, waiting for its end, killing
//! it, and links.

use std::fmt;
use std::time::Duration;

use crate::greenlet::block::{AtEnd, Outcome, Payload, Pending, State as Life, WaitsFor};
use crate::greenlet::{AnyGreenlet, driver};
use crate::hub::wait::{Until, interrupt, kill_payload};
use crate::hub::{self, spawn as start};

/// What a greenlet is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It would run if it were its turn; or it was spawned and has not started.
    Ready,
    /// It is the one that runs.
    Running,
    /// It waits.
    Blocked(WaitsFor),
    /// It ended.
    Dead,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Ready => f.write_str("ready"),
            State::Running => f.write_str("running"),
            State::Blocked(what) => write!(f, "blocked on {what}"),
            State::Dead => f.write_str("dead"),
        }
    }
}

/// Names a link, for [`AnyGreenlet::unlink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkId(u64);

/// Which ends a link is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Any,
    Value,
    Panic,
}

impl AnyGreenlet {
    /// What it is doing.
    pub fn state(&self) -> State {
        let block = self.block();
        match block.state.get() {
            Life::Dead => State::Dead,
            Life::Current => State::Running,
            Life::Unstarted => State::Ready,
            Life::Switched => State::Blocked(WaitsFor::Other("a switch")),
            Life::Parked if block.queued.get() => State::Ready,
            Life::Parked => State::Blocked(block.sched.waits_for.get()),
        }
    }

    /// Whether it has ended, its result and all. Mirrors `Greenlet.ready`.
    pub fn ready(&self) -> bool {
        self.block().sched.outcome.get() != Outcome::None || self.is_dead()
    }

    /// Whether it ended by returning, or by being killed (which is no error). Mirrors
    /// `Greenlet.successful`.
    pub fn successful(&self) -> bool {
        matches!(self.block().sched.outcome.get(), Outcome::Returned | Outcome::Killed)
    }

    /// Waits for its end, at most `timeout` (`None`: without limit). True when it has ended.
    /// Mirrors `Greenlet.join`.
    ///
    /// False at once while the caller unwinds.
    ///
    /// # Panics
    /// When it would wait for ever: see [`LoopExit`](crate::LoopExit). Unwinds when the caller is
    /// killed.
    ///
    /// ```
    /// use std::time::Duration;
    /// let greenlet = gevent::spawn(|| gevent::sleep(Duration::from_secs(60)));
    /// assert!(!greenlet.wait(Some(Duration::from_millis(1))));
    /// greenlet.kill();
    /// assert!(greenlet.wait(None));
    /// ```
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        if self.ready() {
            return true;
        }
        let hub = hub::hub();
        let until = timeout.map_or(Until::Forever, |timeout| Until::Deadline(hub.deadline(timeout)));
        let block = self.block();
        let mut epoch = 0;
        let waited = hub.wait(WaitsFor::Join(self.id()), until, |waiter| {
            if self.ready() {
                return Ok(false); // ended by what was unwound as the wait began
            }
            epoch = waiter.epoch();
            self.add(AtEnd::Wake(waiter.block().clone(), epoch));
            Ok(true)
        });
        if !self.ready() {
            let me = driver::current();
            let mut at_end = block.sched.at_end.take();
            at_end.retain(|what| !matches!(what, AtEnd::Wake(who, its) if who.same(&me) && *its == epoch));
            block.sched.at_end.set(at_end);
        }
        match waited {
            Ok(_) => self.ready(),
            Err(cut) => {
                cut.unwind();
                self.ready()
            }
        }
    }

    fn add(&self, what: AtEnd) {
        let mut at_end = self.block().sched.at_end.take();
        at_end.push(what);
        self.block().sched.at_end.set(at_end);
    }

    /// Ends it: raises [`GreenletExit`](crate::GreenletExit) at its blocking call, and waits until it
    /// has unwound. Mirrors `Greenlet.kill`.
    ///
    /// One that has not started never runs. One that catches the unwind and goes on is waited for.
    /// Killing a dead one does nothing; killing oneself unwinds at once.
    ///
    /// # Panics
    /// Unwinds when the caller is killed meanwhile.
    ///
    /// ```
    /// let greenlet = gevent::spawn(|| loop { gevent::yield_now() });
    /// greenlet.kill();
    /// assert!(matches!(greenlet.join(), Err(gevent::Ended::Killed)));
    /// ```
    pub fn kill(&self) {
        self.kill_by(kill_payload(), None);
    }

    /// [`kill`](AnyGreenlet::kill), waiting at most `timeout`; zero does not wait. True when it has
    /// ended.
    pub fn kill_timeout(&self, timeout: Duration) -> bool {
        self.kill_by(kill_payload(), Some(timeout))
    }

    /// [`kill`](AnyGreenlet::kill), raising something else: whoever joins gets
    /// [`Ended::Panicked`](crate::Ended::Panicked) with it.
    pub fn kill_with(&self, payload: Payload) {
        self.kill_by(payload, None);
    }

    fn kill_by(&self, payload: Payload, timeout: Option<Duration>) -> bool {
        if self.ready() {
            return true;
        }
        let block = self.block();
        if self.is_current() {
            if driver::refusal().is_some() {
                return false;
            }
            if !driver::with_current(|me| me.rare().no_unwind.get() > 0) {
                std::panic::resume_unwind(payload);
            }
            // It comes out at the first wait after `no_unwind`.
            interrupt(hub::hub(), block, Pending { timeout: 0, payload });
            return false;
        }
        interrupt(hub::hub(), block, Pending { timeout: 0, payload });
        match timeout {
            Some(Duration::ZERO) => self.ready(),
            other => self.wait(other),
        }
    }

    /// Runs `f`, in a greenlet of its own, when this one has ended; at once, when it has. Mirrors
    /// `Greenlet.link`.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    /// let ended = Rc::new(Cell::new(false));
    /// let flag = ended.clone();
    /// let greenlet = gevent::spawn(|| 1);
    /// greenlet.link(move |who| flag.set(who.successful()));
    /// gevent::idle();
    /// assert!(ended.get());
    /// ```
    pub fn link(&self, f: impl FnOnce(AnyGreenlet) + 'static) -> LinkId {
        self.link_on(On::Any, f)
    }

    /// [`link`](AnyGreenlet::link), called only if it ends without an error. Mirrors
    /// `Greenlet.link_value`.
    pub fn link_value(&self, f: impl FnOnce(AnyGreenlet) + 'static) -> LinkId {
        self.link_on(On::Value, f)
    }

    /// [`link`](AnyGreenlet::link), called only if it panics. Mirrors `Greenlet.link_exception`.
    pub fn link_panic(&self, f: impl FnOnce(AnyGreenlet) + 'static) -> LinkId {
        self.link_on(On::Panic, f)
    }

    fn link_on(&self, on: On, f: impl FnOnce(AnyGreenlet) + 'static) -> LinkId {
        thread_local! { static LINKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) } }
        let id = LINKS.get() + 1;
        LINKS.set(id);
        let call = move |block: &crate::greenlet::block::BlockRef| {
            let wanted = match on {
                On::Any => true,
                On::Value => block.sched.outcome.get() != Outcome::Panicked,
                On::Panic => block.sched.outcome.get() == Outcome::Panicked,
            };
            let who = AnyGreenlet::from_block(block.clone());
            if wanted {
                start::internal(hub::hub(), "link", move || f(who));
            } else {
                // Dropping it runs user code, which an end cannot bear.
                driver::drop_later(Box::new(f));
            }
        };
        if self.ready() {
            call(self.block());
        } else {
            hub::hub(); // the greenlet's end asks it
            self.add(AtEnd::Call(id, Box::new(call)));
        }
        LinkId(id)
    }

    /// Takes a link back. True: it was there, and will not be called. Mirrors `Greenlet.unlink`.
    pub fn unlink(&self, link: LinkId) -> bool {
        let mut at_end = self.block().sched.at_end.take();
        let at = at_end.iter().position(|what| matches!(what, AtEnd::Call(id, _) if *id == link.0));
        let removed = at.map(|at| at_end.remove(at));
        self.block().sched.at_end.set(at_end);
        // Its drop, which may run user code, comes last.
        removed.is_some()
    }

    /// Whether any link waits for its end. Mirrors `Greenlet.has_links`.
    pub fn has_links(&self) -> bool {
        let at_end = self.block().sched.at_end.take();
        let has = at_end.iter().any(|what| matches!(what, AtEnd::Call(..)));
        self.block().sched.at_end.set(at_end);
        has
    }
}
