//! One hub's loop of a server: take work, hand it out, back off, and in the end drain.
//!
//! ```text
//!          ┌──> stopping? ──────────────────────────────> close the socket, drain, kill
//!          │    socket known to be empty? ── wait for it, or the bell
//!          │    no place left? ───────────── wait for the bell (work has ended)
//!          │    take ── nothing there ────── wait for the socket, or the bell
//!          │     │  └── it failed ────────── back off: wait for the bell, or the time
//!          └─────┴── work: a greenlet of its own
//! ```
//!
//! One greenlet waits, in one place at a time, and whatever it has to hear of rings one bell. Work is
//! counted in before it is taken, so nothing is accepted only to be dropped.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::control::{Control, Place};
use crate::greenlet::AnyGreenlet;
use crate::greenlet::block::WaitsFor;
use crate::greenlet::exit::report;
use crate::greenlet::stack::StackError;
use crate::hub;
use crate::hub::poller::Side;
use crate::hub::wait::Until;
use crate::sys;
use crate::task::Builder;
use crate::thread::parker::Parker;

/// How long to back off after a failure: at first, and at most; it doubles.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long work that was killed may take to unwind before it is left to itself.
const UNWINDING: Duration = Duration::from_secs(1);

/// Where work comes from, and what to do with it.
pub(super) trait Source: AsFd {
    /// A connection, or a datagram.
    type Work;

    /// Takes what there is; never waits.
    fn take(&self) -> io::Result<Self::Work>;

    /// Begins to handle it, in a greenlet, which holds `held` until it is done.
    fn begin(&self, work: Self::Work, held: Held) -> Result<AnyGreenlet, StackError>;
}

/// Serves until the server is stopped, or its socket is of no use any more: then it is stopped, too.
pub(super) fn run(control: &Arc<Control>, name: &str, source: impl Source) -> io::Result<()> {
    let lane = Lane { control, name, bell: Arc::new(Parker::new()), live: Rc::default() };
    control.join(&lane.bell);
    let ended = lane.serve(&source);
    drop(source);
    if ended.is_err() {
        control.stop();
    }
    lane.drain()?;
    ended
}

/// What is being handled in this hub, by number.
type Live = Rc<RefCell<HashMap<u64, AnyGreenlet>>>;

struct Lane<'a> {
    control: &'a Arc<Control>,
    name: &'a str,
    bell: Arc<Parker>,
    live: Live,
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.control.leave(&self.bell);
    }
}

/// What the greenlet of each piece of work holds until it is done.
pub(super) struct Held {
    live: Live,
    number: u64,
    /// Given back last, when the work's own descriptors are closed.
    _place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        let me = self.live.borrow_mut().remove(&self.number);
        drop(me);
    }
}

impl Held {
    /// Runs `f`, which is given the name, in a greenlet of this name.
    pub(super) fn run(self, name: String, f: impl FnOnce(&str) + 'static) -> Result<AnyGreenlet, StackError> {
        let greenlet = Builder::new().name(name.clone()).spawn(move || {
            let _held = self; // dropped after `f`, and what that captured
            f(&name);
        })?;
        Ok(greenlet.handle())
    }
}

impl Lane<'_> {
    fn serve(&self, source: &impl Source) -> io::Result<()> {
        let fd = source.as_fd().as_raw_fd();
        let mut pause = PAUSES.0;
        let mut told = false;
        while self.control.stops() == 0 {
            if !hub::hub().poller.worth_trying(fd, Side::Read) {
                told = false;
                self.wait_for(fd)?;
                continue;
            }
            let Some(place) = self.control.place() else {
                self.wait_for_place()?;
                continue;
            };
            let failed = match source.take() {
                Ok(work) => {
                    let number = NUMBERS.get() + 1;
                    NUMBERS.set(number);
                    let held = Held { live: self.live.clone(), number, _place: place };
                    match source.begin(work, held) {
                        Ok(greenlet) => {
                            pause = PAUSES.0;
                            self.live.borrow_mut().insert(number, greenlet);
                            continue;
                        }
                        Err(error) => io::Error::other(error),
                    }
                }
                Err(error) => {
                    drop(place);
                    error
                }
            };
            match failed.raw_os_error() {
                Some(libc::EAGAIN) => {
                    told = false;
                    self.wait_for(fd)?;
                }
                Some(libc::EINTR) => {}
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => return Err(failed),
                // The kernel looks for a descriptor first: it may be that nobody wants one.
                Some(libc::EMFILE | libc::ENFILE)
                    if !sys::poll::wait(source.as_fd(), true, Some(Duration::ZERO))? =>
                {
                    hub::hub().poller.drained(fd, Side::Read, false);
                    self.wait_for(fd)?;
                }
                _ => {
                    if !std::mem::replace(&mut told, true) {
                        report(&format!(
                            "{} cannot take what comes: {failed}; it goes on trying, up to a second apart",
                            self.name
                        ));
                    }
                    self.back_off(pause)?;
                    pause = PAUSES.1.min(pause * 2);
                }
            }
        }
        Ok(())
    }

    /// Waits until something may be there, or the bell.
    fn wait_for(&self, fd: i32) -> io::Result<()> {
        let hub = hub::hub();
        match self.bell.park_or_readable(hub, WaitsFor::Read(fd), Until::Forever, fd) {
            Ok(waited) => waited.map(drop),
            Err(cut) => Err(cut.into_io()),
        }
    }

    fn wait_for_place(&self) -> io::Result<()> {
        let _wanted = self.control.want_ends();
        if self.control.place().is_some() {
            return Ok(());
        }
        self.wait("a place for one more", Until::Forever).map(drop)
    }

    fn back_off(&self, pause: Duration) -> io::Result<()> {
        let _wanted = self.control.want_ends();
        self.wait("a while, after a failure", Until::Deadline(hub::hub().deadline(pause))).map(drop)
    }

    /// Waits for the bell. False: the time has come first.
    fn wait(&self, what: &'static str, until: Until) -> io::Result<bool> {
        match self.bell.wait_in(hub::hub(), WaitsFor::Other(what), until, |_| Ok(true)) {
            Ok(waited) => waited,
            Err(cut) => Err(cut.into_io()),
        }
    }

    /// Waits for the rest as long as was granted, then kills it.
    fn drain(&self) -> io::Result<()> {
        let _wanted = self.control.want_ends();
        let (mut seen, mut end) = (0, u64::MAX);
        while !self.live.borrow().is_empty() {
            let stops = self.control.stops();
            if stops != std::mem::replace(&mut seen, stops) {
                end = end.min(hub::hub().deadline(self.control.granted()));
            }
            if hub::hub().clock_now() >= end {
                break;
            }
            self.wait("what it serves to end", Until::Deadline(end))?;
        }
        // All at once, then all together.
        let rest: Vec<AnyGreenlet> = self.live.borrow().values().cloned().collect();
        for greenlet in rest {
            greenlet.kill_timeout(Duration::ZERO);
        }
        let end = hub::hub().deadline(UNWINDING);
        while !self.live.borrow().is_empty() {
            if !self.wait("what it has killed to end", Until::Deadline(end))? {
                let count = self.live.borrow().len();
                report(&format!("{} has stopped; {count} that it killed still go on", self.name));
                break;
            }
        }
        Ok(())
    }
}

thread_local! {
    /// The last number that was given to a piece of work of this thread.
    static NUMBERS: Cell<u64> = const { Cell::new(0) };
}
