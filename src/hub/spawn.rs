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
        Some(payload) => Err(catch_unwind(AssertUnwindSafe(|| drop(f))).err().unwrap_or(payload)),
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
pub(crate) fn unjoined(hub: &Inner, block: &BlockRef, payload: Payload) {
    if let Some(hook) = hub.error_hook() {
        let failure = Failure { greenlet: AnyGreenlet::from_block(block.clone()), payload };
        internal(hub, "on_error", move || hook(failure));
    }
}

/// Runs `f` in a greenlet that nobody joins.
pub(crate) fn internal(hub: &Inner, name: &str, f: impl FnOnce() + 'static) {
    detached(hub, Some(name), Location::caller(), f);
}

fn detached(hub: &Inner, name: Option<&str>, site: &'static Location<'static>, f: impl FnOnce() + 'static) {
    let made = unstarted(hub.stack_size(), name, site, move |me, killed| match run(killed, f) {
        Ok(()) => Outcome::Returned,
        Err(payload) => {
            let outcome = outcome_of(me, &payload);
            if let (Outcome::Panicked, Some(hub)) = (outcome, super::existing()) {
                // A hook that panics is not told of itself.
                if me.name().as_deref() != Some("on_error") {
                    unjoined(hub, me, payload);
                }
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

/// A greenlet has ended: wakes who waits for it, and calls its links.
pub(super) fn ended(block: &BlockRef, at_end: Vec<AtEnd>) {
    for what in at_end {
        match what {
            AtEnd::Wake(waiting, epoch) => {
                Waiter::of(&waiting, epoch).wake();
            }
            AtEnd::Call(_, f) => f(block),
            AtEnd::Release(held) => drop(held),
        }
    }
}
