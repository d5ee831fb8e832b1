//! Who a greenlet is to `gevent::thread`: [`Thread`], [`ThreadId`], [`current`].
//!
//! A spawned greenlet gets its identity with its block, any other at its first [`current`]. The
//! thread's own code keeps its identity in a thread-local without a destructor, so that it is the same
//! one in the destructors of other thread-locals; it is let go after those.

use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::parker::Parker;
use crate::greenlet::block::BlockRef;
use crate::greenlet::driver;
use crate::sys::hooks::ThreadEnd;

/// A number that no other greenlet or thread of this process has, or had. Mirrors
/// [`std::thread::ThreadId`], whose values only std can make.
///
/// ```
/// use gevent::thread;
///
/// let other = thread::spawn(|| thread::current().id()).join().unwrap();
/// assert_ne!(other, thread::current().id());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadId(u64);

impl ThreadId {
    pub(super) fn new(id: u64) -> Self {
        ThreadId(id)
    }

    /// The number: that of the greenlet, save for a thread's own code and for what another thread sent.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadId").field(&self.0).finish()
    }
}

struct Identity {
    id: ThreadId,
    name: Option<Box<str>>,
    parker: Parker,
}

/// A handle to a greenlet, or to a thread's own code. Mirrors [`std::thread::Thread`].
///
/// `Send + Sync`, and cheap to clone: any thread may keep it, to unpark its greenlet. It keeps nothing
/// else alive, so the greenlet may have ended long since.
#[derive(Clone)]
pub struct Thread(Arc<Identity>);

impl Thread {
    pub(super) fn new(id: ThreadId, name: Option<&str>) -> Self {
        Thread(Arc::new(Identity { id, name: name.map(Box::from), parker: Parker::new() }))
    }

    /// Makes this the identity of a greenlet that has none yet.
    pub(super) fn be(&self, block: &BlockRef) {
        // Whoever asked before us would have another; but it has not run, and nobody else has it.
        let _ = block.rare().identity.set(self.0.clone());
    }

    pub(super) fn parker(&self) -> &Parker {
        &self.0.parker
    }

    /// Makes its token available, so that its [`park`](super::park), be it running or yet to come,
    /// returns. Mirrors [`std::thread::Thread::unpark`].
    ///
    /// From any thread. Tokens do not add up: two unparks before a park are one.
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let parked = thread::spawn(|| { thread::park(); "awake" });
    /// let handle = parked.thread().clone();
    /// std::thread::spawn(move || handle.unpark());
    /// assert_eq!(parked.join().unwrap(), "awake");
    /// ```
    pub fn unpark(&self) {
        self.0.parker.unpark();
    }

    /// Its number. Mirrors [`std::thread::Thread::id`].
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let handle = thread::spawn(|| thread::current().id());
    /// let id = handle.thread().id();
    /// assert_eq!(handle.join().unwrap(), id);
    /// ```
    #[must_use]
    pub fn id(&self) -> ThreadId {
        self.0.id
    }

    /// Its name, if it was given one: by a `Builder`, or, for a thread's own code, std's name of the
    /// thread. Mirrors [`std::thread::Thread::name`].
    ///
    /// As std's it never changes: a name that is set later
    /// ([`set_name`](crate::AnyGreenlet::set_name)) shows only in lists and reports.
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let named = thread::Builder::new().name("foo".into());
    /// let handle = named.spawn(|| assert_eq!(thread::current().name(), Some("foo"))).unwrap();
    /// handle.join().unwrap();
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("id", &self.id()).field("name", &self.name()).finish_non_exhaustive()
    }
}

thread_local! {
    static ROOT: ManuallyDrop<Cell<Option<Thread>>> = const { ManuallyDrop::new(Cell::new(None)) };
}

extern "C" fn forget_root(_: *mut c_void) {
    drop(ROOT.with(|root| root.take()));
}

/// A handle to the running greenlet, or to the thread's own code. Mirrors [`std::thread::current`].
///
/// Each greenlet is a thread of its own here, raw ones too.
///
/// ```
/// use gevent::thread;
///
/// let handler = thread::Builder::new()
///     .name("named greenlet".into())
///     .spawn(|| assert_eq!(thread::current().name(), Some("named greenlet")))
///     .unwrap();
/// handler.join().unwrap();
/// assert_eq!(thread::current().name(), std::thread::current().name());
/// ```
#[must_use]
pub fn current() -> Thread {
    if driver::in_greenlet() {
        return driver::with_current(|me| {
            let made = || -> Arc<dyn Any + Send + Sync> {
                Thread::new(ThreadId::new(me.id), me.name().as_deref()).0
            };
            let identity = me.rare().identity.get_or_init(made).clone();
            Thread(identity.downcast().expect("only this file fills the cell"))
        });
    }
    ROOT.with(|root| {
        let thread = root.take().unwrap_or_else(|| {
            static END: ThreadEnd = ThreadEnd::new(forget_root);
            END.arm();
            let id = match driver::current_id() {
                0 => driver::next_id(),
                id => id,
            };
            Thread::new(ThreadId::new(id), std::thread::current().name())
        });
        root.set(Some(thread.clone()));
        thread
    })
}
