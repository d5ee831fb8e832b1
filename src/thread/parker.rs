//! One place to wait for one token, for greenlets of any hub and for plain threads.
//!
//! ```text
//!            park                unpark
//!   Empty ──────────> Greenlet ──────────> Empty      the wait took the token
//!     │  ──────────> Thread   ──────────> Notified   the thread takes it when it runs
//!     │     unpark
//!     └────────────────> Notified ── park ──> Empty   at once
//! ```
//!
//! One waits, anybody unparks. The lock is held for a few words and never while anything waits, so
//! a hub's thread is never held up by it. A wait that was ended by a kill or by its deadline leaves
//! the token for the next one: [`SharedWaiter::wake`] says which it was.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::greenlet::block::WaitsFor;
use crate::hub::Inner;
use crate::hub::poller::Side;
use crate::hub::wait::{Cut, Until};
use crate::hub::waiter::{SharedWaiter, Waiter};
use crate::io::hub_here;

#[derive(Debug)]
enum Token {
    Empty,
    Notified,
    /// A greenlet waits in its hub.
    Greenlet(SharedWaiter),
    /// A thread that has no hub waits on the condition.
    Thread,
}

/// A token, and one who may wait for it.
#[derive(Debug)]
pub(crate) struct Parker {
    token: Mutex<Token>,
    notified: Condvar,
}

impl Parker {
    pub(crate) fn new() -> Self {
        Parker { token: Mutex::new(Token::Empty), notified: Condvar::new() }
    }

    fn token(&self) -> MutexGuard<'_, Token> {
        // Nothing under the lock panics.
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the token, waiting for it for at most `limit`. False: it did not come.
    pub(crate) fn park(&self, what: WaitsFor, limit: Option<Duration>) -> Result<bool, Cut> {
        {
            let mut token = self.token();
            if matches!(*token, Token::Notified) {
                *token = Token::Empty;
                drop(token);
                if let Some(hub) = crate::hub::existing() {
                    hub.spend();
                }
                return Ok(true);
            }
        }
        match hub_here() {
            Some(hub) => self.park_greenlet(hub, what, limit),
            None => Ok(self.park_thread(limit)),
        }
    }

    fn park_greenlet(&self, hub: &Inner, what: WaitsFor, limit: Option<Duration>) -> Result<bool, Cut> {
        let until = limit.map_or(Until::Forever, |limit| Until::Deadline(hub.deadline(limit)));
        let waited = self.wait_in(hub, what, until, |_| Ok(true))?;
        Ok(waited.expect("nothing else is enlisted that could fail"))
    }

    /// Waits in this thread's hub, until the token comes, or there may be something to read from
    /// `fd`. False: it is `until`.
    ///
    /// # Errors
    /// `fd` cannot be watched.
    pub(crate) fn park_or_readable(
        &self,
        hub: &Inner,
        what: WaitsFor,
        until: Until,
        fd: RawFd,
    ) -> Result<io::Result<bool>, Cut> {
        let mut mine = None;
        let waited = self.wait_in(hub, what, until, |waiter| {
            mine = Some((waiter.epoch(), waiter.block().id));
            hub.poller.enlist(fd, Side::Read, waiter.clone())
        });
        if let Some((epoch, id)) = mine {
            hub.poller.delist(fd, Side::Read, epoch, id);
        }
        waited
    }

    /// Waits in this thread's hub. `also` puts the same wait on another list; false: that has happened
    /// already, and the token, if there is one, stays.
    pub(crate) fn wait_in(
        &self,
        hub: &Inner,
        what: WaitsFor,
        until: Until,
        also: impl FnOnce(&Waiter) -> io::Result<bool>,
    ) -> Result<io::Result<bool>, Cut> {
        let waited = hub.wait_either(what, until, |waiter, shared| {
            if !also(waiter)? {
                return Ok(false);
            }
            let mut token = self.token();
            if matches!(*token, Token::Notified) {
                *token = Token::Empty;
                return Ok(false);
            }
            *token = Token::Greenlet(shared);
            Ok(true)
        });
        let mut token = self.token();
        match (&*token, waited) {
            (Token::Greenlet(_), waited) => {
                *token = Token::Empty;
                waited
            }
            // It came after the deadline, and before anybody could see that.
            (Token::Notified, Ok(Ok(false))) => {
                *token = Token::Empty;
                Ok(Ok(true))
            }
            // After a kill the token stays: the next wait takes it.
            (_, waited) => waited,
        }
    }

    fn park_thread(&self, limit: Option<Duration>) -> bool {
        let mut token = self.token();
        if matches!(*token, Token::Empty) {
            *token = Token::Thread;
        }
        let waits = |token: &mut Token| matches!(*token, Token::Thread);
        let mut token = match limit {
            None => self.notified.wait_while(token, waits).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.notified
                    .wait_timeout_while(token, limit, waits)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        matches!(std::mem::replace(&mut *token, Token::Empty), Token::Notified)
    }

    /// Puts the token there, and wakes who waits for it.
    pub(crate) fn unpark(&self) {
        let mut token = self.token();
        match &*token {
            Token::Notified => {}
            Token::Empty => *token = Token::Notified,
            Token::Greenlet(waiter) => *token = if waiter.wake() { Token::Empty } else { Token::Notified },
            Token::Thread => {
                *token = Token::Notified;
                self.notified.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::UnixStream;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::rc::Rc;

    /// Whichever of the two ends the wait, the other list does not keep it, and no token is lost.
    #[test]
    fn a_wait_for_two_things_leaves_nothing_behind() {
        let hub = crate::hub::hub();
        let (one, mut other) = UnixStream::pair().unwrap();
        let parker = Rc::new(Parker::new());
        let wait = |until| {
            let waited = parker.park_or_readable(hub, WaitsFor::Nothing, until, one.as_raw_fd());
            assert_eq!(hub.poller.waiting(), 0);
            waited.unwrap().unwrap()
        };
        let soon = || Until::Deadline(hub.deadline(Duration::from_millis(1)));
        assert!(!wait(soon()));
        parker.unpark(); // before
        assert!(wait(Until::Forever));
        let unparks = crate::spawn({
            let parker = parker.clone();
            move || parker.unpark()
        });
        assert!(wait(Until::Forever)); // meanwhile
        unparks.join().unwrap();
        assert!(!wait(soon()));
        let writes = crate::spawn(move || {
            other.write_all(b"!").unwrap();
            other // open, so that nothing more comes
        });
        assert!(wait(Until::Forever));
        parker.unpark();
        assert!(wait(Until::Forever)); // readable still: the token stays
        hub.poller.drained(one.as_raw_fd(), Side::Read, false);
        assert!(wait(Until::Forever));
        assert!(!wait(soon()));
        drop(writes.join());
    }
}
