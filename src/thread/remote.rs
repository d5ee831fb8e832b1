//! Spawning on another thread's hub.

use std::panic::Location;
use std::sync::Arc;

use super::handle::{JoinHandle, Ticket};
use super::identity::{Thread, ThreadId};
use super::packet::{Looks, Packet, Promise, launch};
use crate::greenlet::block::WaitsFor;
use crate::greenlet::driver;
use crate::hub::remote::Message;
use crate::hub::{HubGone, HubHandle, Inner};

impl HubHandle {
    /// Runs `f` in a new greenlet of that hub, from any thread. Mirrors
    /// `loop.run_callback_threadsafe`.
    ///
    /// It runs when the hub's thread next gives way. A hub that is awake is not woken by a system call;
    /// one that waits is woken at once. What is spawned so from one thread starts in that order.
    ///
    /// The hub may end before it gets there: joining then returns
    /// [`HubGone<()>`](crate::hub::HubGone) as an error, and `f` is dropped, on the hub's thread. So it
    /// does if no stack can be had there (a [`StackError`](crate::StackError)).
    ///
    /// # Errors
    /// The hub has ended: `f` is given back.
    ///
    /// ```
    /// let hub = gevent::Hub::current().handle();
    /// let other = std::thread::spawn(move || {
    ///     let sum = hub.spawn(|| (std::thread::current().id(), 1 + 2)).unwrap();
    ///     sum.join().unwrap()
    /// });
    /// while !other.is_finished() { gevent::yield_now() }
    /// assert_eq!(other.join().unwrap(), (std::thread::current().id(), 3));
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, HubGone<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let site = Location::caller();
        let thread = Thread::new(ThreadId::new(driver::next_id()), None);
        let mut made = None;
        let sent = self.shared().send_made(f, |f| {
            let packet = Arc::new(Packet::new(f, None));
            made = Some(packet.clone());
            let promise = Promise::new(packet);
            let thread = thread.clone();
            let start = move |hub: &Inner| {
                let looks = Looks { name: None, stack_size: None, site };
                // Without a stack, its joiner is told.
                let _ = launch(hub, promise, &looks, Some(thread));
            };
            Message::Spawn { start: Box::new(start) }
        });
        match (sent, made) {
            (Ok(()), Some(packet)) => {
                let waits_for = WaitsFor::Other("a greenlet that was sent to another hub");
                Ok(JoinHandle::new(Ticket::new(packet, thread, waits_for)))
            }
            (Err(f), _) => Err(HubGone(f)),
            (Ok(()), None) => unreachable!("what was sent was made"),
        }
    }
}
