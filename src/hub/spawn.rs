//! How a greenlet of the hub begins and ends.
//!
//! Its stack is promised when it is spawned (a claim, so that failure is the spawner's to see) and
//! taken when it starts, hot from whoever ended last. A kill that came before its start is found
//! here, so its body never runs. Panics are caught here: one line names the greenlet, and the hub
//! goes on.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use super::wait::take_pending;
use super::waiter::Waiter;
use super::{Failure, Inner, make_ready, site_of};
use crate::greenlet::block::{AtEnd, BlockRef, Outcome, Payload};
use crate::greenlet::exit::{self, GreenletExit};
use crate::greenlet::stack::{Claim, StackError, StackSize};
use crate::greenlet::{self, AnyGreenlet, driver};

/// Makes a greenlet that is not ready yet. `body` is given what killed it before its start, if
/// anything did, and says how it ended.
pub(crate) fn unstarted(
    size: StackSize,
    name: Option<&str>,
    site: &'static Location<'static>,
    body: impl FnOnce(&BlockRef, Option<Payload>) -> Outcome + 'static,
) -> Result<BlockRef, StackError> {
    let claim = Claim::new(size)?;
    let block = greenlet::hub_greenlet(
        move |me| {
            let settled = catch_unwind(AssertUnwindSafe(driver::settle));
            let outcome = body(me, settled.err().or_else(|| take_pending(me)));
            greenlet::ended(me, outcome);
        },
        claim,
        site,
    );
    if let Some(name) = name {
        block.set_name(name);
    }
    Ok(block)
}

/// Runs a body: what it returned, or what it raised.
pub(crate) fn run<T>(killed: Option<Payload>, f: impl FnOnce() -> T) -> Result<T, Payload> {
    match killed {
        // What `f` captured is dropped here, in the greenlet; it may panic as `f` may.
        Some(payload) => match catch_unwind(AssertUnwindSafe(|| drop(f))) {
            Ok(()) => Err(payload),
            Err(panic) => {
                // A user's as well: its drop may panic where nobody catches it.
                driver::drop_later(Box::new(payload));
                Err(panic)
            }
        },
        None => catch_unwind(AssertUnwindSafe(f)),
    }
}

/// How a body that raised this has ended; names it if that is an error.
pub(crate) fn outcome_of(me: &BlockRef, payload: &Payload) -> Outcome {
    if payload.is::<GreenletExit>() {
        return Outcome::Killed;
    }
    exit::report(&format!(
        "{}, spawned at {}, panicked: {}; its hub goes on",
        me.describe(),
        site_of(me.site),
        exit::message(payload)
    ));
    Outcome::Panicked
}

/// Gives a panic that nobody joins to [`Hub::on_error`](super::Hub::on_error).
pub(crate) fn unjoined(block: &BlockRef, payload: Payload) {
    let hub = super::existing();
    match hub.and_then(|hub| Some((hub, hub.error_hook()?))) {
        Some((hub, hook)) => {
            let failure = Failure { greenlet: AnyGreenlet::from_block(block.clone()), payload };
            internal(hub, "on_error", move || hook(failure));
        }
        // The drop may panic, and that of what it panics with. Of the first panic a line has told.
        None => driver::drop_later(Box::new(payload)),
    }
}

/// Drops, in its own greenlet, what one that ended so returned, since nobody joins it. That may panic as
/// the body may.
pub(crate) fn drop_unjoined<T>(me: &BlockRef, result: T, outcome: Outcome) -> Outcome {
    let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(result))) else { return outcome };
    let outcome = outcome_of(me, &payload);
    if outcome == Outcome::Panicked {
        unjoined(me, payload);
    }
    outcome
}

/// Runs `f` in a greenlet that nobody joins.
pub(crate) fn internal(hub: &Inner, name: &'static str, f: impl FnOnce() + 'static) {
    detached(hub, Some(name), Location::caller(), f);
}

fn detached(
    hub: &Inner,
    name: Option<&'static str>,
    site: &'static Location<'static>,
    f: impl FnOnce() + 'static,
) {
    let made = unstarted(hub.stack_size(), name, site, move |me, killed| match run(killed, f) {
        Ok(()) => Outcome::Returned,
        Err(payload) => {
            let outcome = outcome_of(me, &payload);
            // A hook that panics is not told of itself.
            if outcome == Outcome::Panicked && name != Some("on_error") {
                unjoined(me, payload);
            } else {
                driver::drop_later(Box::new(payload));
            }
            outcome
        }
    });
    match made {
        Ok(block) => make_ready(block),
        Err(error) => {
            exit::report(&format!("no stack for {}: {error}; it does not run", name.unwrap_or("a greenlet")));
        }
    }
}

/// Runs what may panic and has nobody to tell but the panic hook.
fn caught(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        driver::drop_later(Box::new(payload));
    }
}

/// A greenlet has ended: wakes who waits for it, and calls its links.
pub(super) fn ended(block: &BlockRef, at_end: Vec<AtEnd>) {
    for what in at_end {
        match what {
            AtEnd::Wake(waiting, epoch) => {
                Waiter::of(&waiting, epoch).wake();
            }
            // Should either panic, those that come after are still to be told.
            AtEnd::Call(_, f) => caught(|| f(block)),
            AtEnd::Release(held) => caught(|| drop(held)),
        }
    }
}
