//! What all hubs of a server share: how much is being handled, and whether it is to stop.
//!
//! Everything here is reached from any thread. A loop that has to hear of something *wants* it: only
//! while one does, an end of work wakes the loops. So the common end costs two atomic steps.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::thread::parker::Parker;

/// One server, on all of its hubs.
pub(super) struct Control {
    /// How much is being handled, and how much may be. Changed before it serves only.
    active: AtomicUsize,
    most: AtomicUsize,
    /// How many loops want to hear of work that ends.
    wanted: AtomicUsize,
    /// How often it was told to stop. Changed under the lock.
    stops: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    /// Wakes each loop.
    bells: Vec<Arc<Parker>>,
    /// What [`Stopper::stop`] grants.
    grace: Duration,
    /// The shortest that was granted so far.
    granted: Duration,
}

impl Control {
    pub(super) fn new(most: usize) -> Self {
        Control {
            active: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            wanted: AtomicUsize::new(0),
            stops: AtomicUsize::new(0),
            // A second, as gevent's `stop_timeout`.
            state: Mutex::new(State {
                bells: Vec::new(),
                grace: Duration::from_secs(1),
                granted: Duration::MAX,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_most(&self, most: usize) {
        self.most.store(most.max(1), Ordering::SeqCst);
    }

    pub(super) fn set_grace(&self, grace: Duration) {
        self.state().grace = grace;
    }

    /// A loop begins: `bell` wakes it.
    pub(super) fn join(&self, bell: &Arc<Parker>) {
        self.state().bells.push(bell.clone());
    }

    pub(super) fn leave(&self, bell: &Arc<Parker>) {
        self.state().bells.retain(|other| !Arc::ptr_eq(other, bell));
    }

    fn ring(&self) {
        for bell in &self.state().bells {
            bell.unpark();
        }
    }

    /// A place for one more, if there is one.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let most = self.most.load(Ordering::SeqCst);
        let more = |active: usize| (active < most).then_some(active + 1);
        self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Place(self.clone()))
    }

    /// From now on, as long as this lives, the loops are woken whenever work ends. Look again after
    /// asking: it may have ended just before.
    pub(super) fn want_ends(&self) -> Wanted<'_> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        Wanted(self)
    }

    pub(super) fn stops(&self) -> usize {
        self.stops.load(Ordering::SeqCst)
    }

    pub(super) fn granted(&self) -> Duration {
        self.state().granted
    }

    pub(super) fn stop(&self) {
        let grace = self.state().grace;
        self.stop_within(grace);
    }

    pub(super) fn stop_within(&self, grace: Duration) {
        {
            let mut state = self.state();
            state.granted = state.granted.min(grace);
            self.stops.fetch_add(1, Ordering::SeqCst);
        }
        self.ring();
    }
}

/// A place among those that are being handled. Given back when it is dropped, on any thread.
pub(super) struct Place(Arc<Control>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        // A loop wants first and looks then; this gives back first and looks then. One sees the other.
        if self.0.wanted.load(Ordering::SeqCst) > 0 {
            self.0.ring();
        }
    }
}

/// See [`Control::want_ends`].
pub(super) struct Wanted<'a>(&'a Control);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Stops a server, from any greenlet and any thread, and tells how busy it is.
///
/// Mirrors `gevent.server.BaseServer.stop`, but does not wait: that `serve` returns says that the server
/// has stopped.
///
/// ```
/// use gevent::server::StreamServer;
///
/// let server = StreamServer::bind("127.0.0.1:0")?;
/// let stopper = server.stopper();
/// let timer = std::thread::spawn(move || stopper.stop()); // another thread
/// server.serve(|_stream, _peer| ())?; // returns, since it was stopped
/// timer.join().unwrap();
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct Stopper {
    control: Arc<Control>,
}

impl Stopper {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Stopper { control }
    }

    /// Stops the server with the grace of its `stop_on`, or of 1 s. Again: changes nothing.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Stops the server: what is being handled may go on for `grace`, then it is killed. After an
    /// earlier stop this can end the grace sooner, never later.
    pub fn stop_within(&self, grace: Duration) {
        self.control.stop_within(grace);
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.control.stops() > 0
    }

    /// How many connections, or datagrams, are being handled, on all of its hubs.
    pub fn connections(&self) -> usize {
        self.control.active.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper")
            .field("connections", &self.connections())
            .field("stopping", &self.is_stopping())
            .finish()
    }
}
