//! [`Builder`] and [`spawn`].

use std::io;
use std::panic::Location;
use std::sync::Arc;

use super::handle::{JoinHandle, Ticket};
use super::packet::{Looks, Packet, Promise, launch};
use super::scope::{Scope, ScopedJoinHandle, erase};
use crate::StackSize;
use crate::greenlet::block::WaitsFor;
use crate::hub;

/// Runs `f` in a new greenlet of this thread's hub, when the running one next waits. Mirrors
/// [`std::thread::spawn`].
///
/// `f` must be `Send` as std's, though it stays on this thread: its handle may be joined, and the
/// result so taken, by another. [`gevent::spawn`](crate::spawn) asks for no `Send`.
///
/// # Panics
/// When no stack can be had; [`Builder::spawn`] returns that instead.
///
/// ```
/// use gevent::thread;
/// use std::sync::mpsc::channel;
///
/// let (tx, rx) = channel();
/// let sender = thread::spawn(move || tx.send("hello").unwrap());
/// let receiver = thread::spawn(move || rx.recv().unwrap()); // ran after the sender: does not block
/// sender.join().unwrap();
/// assert_eq!(receiver.join().unwrap(), "hello");
/// ```
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new().spawn(f).unwrap_or_else(|error| panic!("failed to spawn a greenlet: {error}"))
}

/// Settings for one greenlet. Mirrors [`std::thread::Builder`].
///
/// ```
/// use gevent::thread;
///
/// let builder = thread::Builder::new().name("foo".into()).stack_size(32 * 1024);
/// let handle = builder.spawn(|| thread::current().name().map(str::to_owned)).unwrap();
/// assert_eq!(handle.join().unwrap().as_deref(), Some("foo"));
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<usize>,
}

impl Builder {
    /// The defaults: no name, the hub's stack size. Mirrors [`std::thread::Builder::new`].
    pub fn new() -> Builder {
        Builder::default()
    }

    /// A name, for lists, reports, and the message of a stack overflow. Must not contain null bytes.
    /// Mirrors [`std::thread::Builder::name`].
    pub fn name(mut self, name: String) -> Builder {
        self.name = Some(name);
        self
    }

    /// How much stack its code may use, in bytes, at least: rounded up to what there is, and at most
    /// 64 MiB less the guard. Mirrors [`std::thread::Builder::stack_size`].
    ///
    /// Default: the hub's, which is 192 KiB unless set
    /// ([`HubBuilder::stack_size`](crate::hub::HubBuilder::stack_size)), and less than std's 2 MiB.
    pub fn stack_size(mut self, size: usize) -> Builder {
        self.stack_size = Some(size);
        self
    }

    /// Spawns `f` so. Mirrors [`std::thread::Builder::spawn`].
    ///
    /// # Errors
    /// No stack can be had, or none of that size; the error's source is a
    /// [`StackError`](crate::StackError).
    ///
    /// # Panics
    /// When the name contains null bytes.
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let handle = thread::Builder::new().spawn(|| 1).unwrap();
    /// assert_eq!(handle.join().unwrap(), 1);
    /// assert!(thread::Builder::new().stack_size(usize::MAX).spawn(|| ()).is_err());
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let looks = self.looks(Location::caller())?;
        let packet = Arc::new(Packet::new(f, None));
        let thread = launch(hub::try_hub()?, Promise::new(packet.clone()), &looks, None)?;
        let waits_for = WaitsFor::Join(thread.id().number());
        Ok(JoinHandle::new(Ticket::new(packet, thread, waits_for)))
    }

    /// Spawns what may borrow, unwatched. Mirrors [`std::thread::Builder::spawn_unchecked`].
    ///
    /// # Errors
    /// As [`spawn`](Builder::spawn).
    ///
    /// # Safety
    /// As std's: the caller must see to it that the greenlet has ended before anything that `f` and its
    /// result borrow does, and that the handle is joined or dropped before that. A greenlet that was
    /// left for good by its thread's exit has not ended.
    ///
    /// # Panics
    /// When the name contains null bytes.
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let mut x = 1;
    /// let r = &mut x;
    /// // SAFETY: joined below, before `x` is used again.
    /// let handle = unsafe { thread::Builder::new().spawn_unchecked(move || *r += 1) }.unwrap();
    /// handle.join().unwrap();
    /// assert_eq!(x, 2);
    /// ```
    #[track_caller]
    pub unsafe fn spawn_unchecked<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        let (looks, hub) = (self.looks(Location::caller())?, hub::try_hub()?);
        let packet = Arc::new(Packet::new(f, None));
        // SAFETY: the packet is empty when its greenlet has ended and its handle is gone, and by the
        // caller's promise both are before what it borrows is.
        let run = unsafe { erase(packet.clone()) };
        let thread = launch(hub, Promise::new(run), &looks, None)?;
        let waits_for = WaitsFor::Join(thread.id().number());
        // SAFETY: the caller's promise again.
        Ok(JoinHandle::new(unsafe { Ticket::new(packet, thread, waits_for).unbounded() }))
    }

    /// Spawns `f` so, in a scope: it may borrow from outside. Mirrors
    /// [`std::thread::Builder::spawn_scoped`].
    ///
    /// # Errors
    /// As [`spawn`](Builder::spawn); and in a scope that was entered while its greenlet unwinds, since
    /// such a one cannot wait for anything.
    ///
    /// # Panics
    /// When the name contains null bytes.
    ///
    /// ```
    /// use gevent::thread;
    ///
    /// let mut words = vec!["a", "b"];
    /// thread::scope(|s| {
    ///     thread::Builder::new().name("pusher".into()).spawn_scoped(s, || words.push("c")).unwrap();
    /// });
    /// assert_eq!(words.len(), 3);
    /// ```
    #[track_caller]
    pub fn spawn_scoped<'scope, 'env, F, T>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        scope.start(&self.looks(Location::caller())?, f)
    }

    fn looks(&self, site: &'static Location<'static>) -> io::Result<Looks<'_>> {
        let name = self.name.as_deref();
        assert!(!name.is_some_and(|name| name.contains('\0')), "a thread's name may not contain null bytes");
        Ok(Looks { name, stack_size: self.stack_size.map(stack_for).transpose()?, site })
    }
}

/// The smallest stack of which `bytes` can be used.
fn stack_for(bytes: usize) -> io::Result<StackSize> {
    let size = StackSize::new(bytes.max(1))?;
    if size.usable() >= bytes { Ok(size) } else { Ok(StackSize::new(bytes + size.guard())?) }
}
