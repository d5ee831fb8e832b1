//! The loop: who runs next, when to look at timers and descriptors, when to wait, and `LoopExit`.
//!
//! While greenlets are ready the hub looks up after every so many switches: `stride`, which it
//! doubles while a stride takes less than a quarter of [`PERIOD`], and cuts to what takes that long when
//! it took more. So short runs do not pay for a clock, and long ones do not hold up timers. When none is
//! ready it looks, then waits in epoll until the next timer, for ever if there is none. It never ticks.

use super::remote::Message;
use super::waiter::{self, GRANTED, TIMED_OUT};
use super::{Due, Inner, existing, make_ready, site_of, wait};
use crate::greenlet::block::{Arrival, BlockRef, Pending, State};
use crate::greenlet::exit::{LoopExit, TimeoutRaised};
use crate::greenlet::{driver, stack};
use crate::sys;

/// Timers and descriptors are looked at at least this often, in nanoseconds, as far as greenlets
/// give the thread back.
const PERIOD: u64 = 5_000_000;

/// How often it is asked again whether other threads are left, after 1 ms, 2 ms, 4 ms and so on.
const RECHECKS: u32 = 10;

/// With more than this many ready their stacks are fetched ahead; with fewer they are in the cache.
const CROWD: usize = 64;

/// Names the greenlet that runs next, waiting until there is one. Called by the driver, on the
/// root's stack.
pub(super) fn pick() -> BlockRef {
    let hub = existing().expect("the hooks are set with the hub");
    let mut rests = 0;
    loop {
        if hub.left.get() == 0 || hub.shared.has_news() {
            hub.look();
        }
        if let Some(block) = hub.pop() {
            hub.left.set(hub.left.get() - 1);
            return block;
        }
        hub.rest(rests);
        rests += 1;
    }
}

impl Inner {
    #[inline]
    fn pop(&self) -> Option<BlockRef> {
        let mut ready = self.ready.borrow_mut();
        loop {
            let len = ready.len();
            if len == 0 {
                return None;
            }
            if len > CROWD {
                driver::prefetch(&ready[8], false);
                driver::prefetch(&ready[4], true);
            }
            let at = self.scheduler.borrow_mut().pick(len);
            let block = if at == 0 { ready.pop_front() } else { ready.remove(at) }?;
            block.queued.set(false);
            self.budget.set(self.budget_full);
            match block.state.get() {
                // Ended, or was switched to by hand, while it was in the queue.
                State::Dead | State::Switched | State::Current => {}
                State::Parked | State::Unstarted => return Some(block),
            }
        }
    }

    /// Makes ready whatever has become due: timers, descriptors, messages, signals.
    #[cold]
    #[inline(never)]
    fn look(&self) {
        let now = self.clock.now();
        let took = now - self.now.replace(now);
        let stride = self.stride.get();
        let next = if took < PERIOD / 4 {
            stride.saturating_mul(2)
        } else {
            // At once to what fits: halving would let a whole line of long strides pass first.
            (u64::from(stride) * (PERIOD / 4) / took).max(1) as u32
        };
        self.stride.set(next.min(self.most_switches));
        self.left.set(self.stride.get());
        // While the thread's greenlets end nobody waits for news, and what is to be spawned is not.
        if self.shared.has_news() && !driver::exiting() {
            self.read_news();
        }
        if self.poller.is_used() {
            self.poll(Some(0));
        }
        self.fire(now);
    }

    fn poll(&self, timeout: Option<u64>) {
        match self.poller.poll(timeout) {
            Ok(woken) => self.shared.wake_up(woken),
            Err(error) => {
                // The hub's own epoll is gone: somebody closed a descriptor that is not theirs.
                crate::greenlet::exit::report(&format!(
                    "hub {} of thread {} cannot wait for events any more: {error}; has its descriptor been closed?",
                    self.shared.id, self.shared.thread
                ));
                std::process::abort();
            }
        }
    }

    fn fire(&self, now: u64) {
        loop {
            let due = self.timers.borrow_mut().pop_due(now);
            match due {
                None => return,
                Some((_, Due::Wake(waiter))) => {
                    waiter.wake();
                }
                Some((_, Due::Expire(waiter))) => {
                    if waiter::end(waiter.block(), Some(waiter.epoch()), TIMED_OUT) {
                        make_ready(waiter.block().clone());
                    }
                }
                Some((_, Due::Start(id))) => {
                    let block = self.later.borrow_mut().remove(&id);
                    if let Some((block, _)) = block {
                        make_ready(block);
                    }
                }
                Some((_, Due::Timeout { block, id })) => {
                    if let Some(block) = BlockRef::upgrade(&block) {
                        let payload = Box::new(TimeoutRaised(id));
                        wait::interrupt(self, &block, Pending { timeout: id, payload });
                    }
                }
            }
        }
    }

    fn read_news(&self) {
        let (messages, signals) = self.shared.take();
        for message in messages {
            match message {
                Message::Granted { id, epoch } => {
                    let block = self.sharing.borrow().get(&id).cloned();
                    if let Some(block) = block {
                        let granted = waiter::is_epoch(&block, epoch) && waiter::state(&block) == GRANTED;
                        // It may be ready already, having been told of a deadlock at that moment.
                        if granted && !block.queued.get() {
                            make_ready(block);
                        }
                    }
                }
                Message::Spawn { start } => start(self),
                Message::Closed { fd } => self.poller.closed(fd),
                Message::Kill { ids } => wait::kill_all(self, &ids),
            }
        }
        if signals != 0 {
            self.raise_signals(signals);
        }
    }

    /// Nothing is ready, and was not `rests` times before: looks, runs the idle, waits, or finds that there
    /// is nothing to wait for.
    #[cold]
    #[inline(never)]
    fn rest(&self, rests: u32) {
        self.look();
        if !self.ready.borrow().is_empty() {
            return;
        }
        let idle = self.idle.borrow_mut().pop_front();
        if let Some(block) = idle {
            make_ready(block);
            return;
        }
        let next = self.timers.borrow_mut().next_deadline();
        if let super::AnyClock::Virtual(clock) = &self.clock {
            // It has just looked at the descriptors: what is there already came first.
            if let Some(next) = next {
                clock.set(clock.get().max(next));
                self.now.set(clock.get());
                self.fire(clock.get());
                return;
            }
        }
        let mut recheck = None;
        if next.is_none() && self.only_threads_are_left() {
            if self.no_thread_can_wake_it() {
                self.loop_exit();
                return;
            }
            // A thread that is ending counts until it is gone, and then says nothing: asked again in a
            // while, ten times within a second.
            recheck = (rests < RECHECKS).then(|| 1_000_000 << rests);
        }
        let timer = next.map(|next| next.saturating_sub(self.clock.now()));
        // The memory of deep stacks is given back while nothing is to be done; soon there is none.
        let trim = stack::trim().map(|again| u64::try_from(again.as_nanos()).unwrap_or(u64::MAX).max(1));
        let timeout = [timer, trim, recheck].into_iter().flatten().min();
        if timeout == Some(0) || !self.shared.fall_asleep() {
            return;
        }
        self.poll(timeout);
        // The time asleep is not what the greenlets took.
        self.now.set(self.clock.now());
        self.left.set(0);
    }

    /// Whether a wait without a timer would be for other threads alone.
    fn only_threads_are_left(&self) -> bool {
        self.poller.waiting() == 0 && self.operations.get() == 0 && !self.signals.borrow().holds()
    }

    /// Whether that would be for ever. Idle threads of ours do not count. It takes a system call.
    fn no_thread_can_wake_it(&self) -> bool {
        (self.isolated || sys::thread_count().saturating_sub(sys::spare_threads()) <= 1)
            // A thread that is gone may have sent something before it went.
            && !self.shared.has_news()
    }

    #[cold]
    fn loop_exit(&self) {
        let mut lines = String::new();
        for block in driver::live() {
            lines.push_str(&format!(
                "  {} waits for {}, spawned at {}\n",
                block.describe(),
                what(&block),
                site_of(block.site)
            ));
        }
        let root = driver::root();
        lines.push_str(&format!("  {} waits for {}\n", root.describe(), what(&root)));
        root.arrive(Arrival::LoopExit(LoopExit::new(lines)));
        waiter::end(&root, None, waiter::CANCELLED);
        if root.state.get() == State::Switched {
            root.state.set(State::Parked);
        }
        make_ready(root);
    }
}

fn what(block: &BlockRef) -> String {
    match block.state.get() {
        State::Switched => "a switch".to_owned(),
        _ => block.sched.waits_for.get().to_string(),
    }
}
