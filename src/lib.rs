//! gevent for Rust: write ordinary *blocking* code, run hundreds of thousands of it at once on one thread.
//!
//! ```
//! use gevent::std; // the one new line: what follows is cooperative
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! let listener = TcpListener::bind("127.0.0.1:0").unwrap();
//! let address = listener.local_addr().unwrap();
//! gevent::spawn(move || {
//!     for mut stream in listener.incoming().map(Result::unwrap) {
//!         gevent::spawn(move || {
//!             let mut buf = [0; 1024];
//!             while let Ok(n @ 1..) = stream.read(&mut buf) {
//!                 stream.write_all(&buf[..n]).unwrap();
//!             }
//!         });
//!     }
//! });
//! let mut client = TcpStream::connect(address).unwrap(); // others run while this waits
//! client.write_all(b"hello").unwrap();
//! let mut buf = [0; 5];
//! client.read_exact(&mut buf).unwrap();
//! assert_eq!(&buf, b"hello");
//! ```
//!
//! # The house
//!
//! A room uses what stands above it in this list, never what stands below.
//!
//! | room | what it is for |
//! |---|---|
//! | `sys` | the only door to the kernel |
//! | `greenlet` | layer 1: [`enter`], [`Me`], [`RawGreenlet`], [`Generator`], [`settrace`]; stacks. No hub, no clock, no I/O |
//! | [`hub`] | layer 2: one event loop a thread; [`Hub`], [`HubHandle`], [`signal()`] |
//! | `task` | layer 3: [`spawn`], [`Greenlet`], [`Builder`], [`timeout`], [`sleep`] |
//! | `io` | the one rule of blocking calls: try, park, try again |
//! | `threadpool` | native threads for what cannot yield: name lookups, for now |
//! | [`net`], [`os`], [`thread`] | std-shaped and cooperative |
//! | [`std`](mod@std) | all of `::std` with these in their places |
//! | [`server`] | a greenlet a connection: accepting, bounds, and ends in good order |
//! | [`observe`] | every greenlet, what it waits for and where it is |
//!
//! `unsafe` lives in `sys`, in `greenlet`'s driver, transfer, block and stacks, and in a few marked
//! places more: the end of a hub, its signals, and the scopes of [`thread`].
//!
//! # What is promised
//!
//! * No safe call causes undefined behaviour, whatever is forgotten, leaked, caught or dropped; with one
//!   exception that no library which switches stacks can close: see "Thread-locals".
//! * A greenlet never leaves its thread, and no handle of one does: closures need not be `Send`.
//! * A wait ends by one step, granted or cancelled. A grant is never lost.
//! * [`kill`](AnyGreenlet::kill) and [`timeout`] unwind from a blocking call: destructors run.
//!   They do not cross C frames: [`no_unwind`].
//! * An idle hub costs no CPU: it never ticks.
//!
//! # Ends
//!
//! * *Of a greenlet*: it returns, panics, or is ended by [`GreenletExit`]. Its result goes to who joins
//!   it (spawned) or to its parent (raw).
//! * *Of a thread other than main*: every greenlet that lives is raised `GreenletExit`, once, and
//!   unwinds; its blocking calls end at once. One that still goes on after a hundred of them is left
//!   suspended for good, with its stack. [`Hub::shutdown`] does the same at a time of your choice,
//!   and that is better when destructors use thread-locals: the thread's exit destroys those in an
//!   order of its own, and one that is gone already makes its user panic while it unwinds, which
//!   aborts the process.
//! * *Of the process*, when `main` returns or calls `process::exit`: no greenlet's destructors run,
//!   but for those whose last handle lies in a `thread_local!` of yours.
//!
//! # Thread-locals
//!
//! A `thread_local!` is shared by all greenlets of its thread. Its owner, std, takes it that nothing else
//! runs on the thread during [`LocalKey::with`](::std::thread::LocalKey::with) or during its initialiser.
//! **So do not wait in either.** If a greenlet waits in an initialiser and another one initialises the
//! same thread-local meanwhile, the first one's value replaces the second one's, while references to
//! that may be in use; and a greenlet suspended inside `with` at its thread's exit may find the value
//! destroyed. Copy or take the value out, then wait. `const` initialisers and
//! [`Hub::shutdown`] before the thread ends avoid both.
//!
//! # While a greenlet unwinds
//!
//! It may not suspend: std counts panics by thread, and every other greenlet would seem to panic. A
//! blocking call with a `Result` is tried once, and is an error if it would wait; [`sleep`] and
//! [`yield_now`] return at once; [`Me::switch`] is refused.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("gevent needs Linux: it is built on epoll, eventfd and guarded mappings");

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("gevent supports x86_64 and aarch64: its stack switch has been tested on no other processor");

#[cfg(panic = "abort")]
compile_error!("gevent needs panic = \"unwind\": kills and timeouts unwind, so that destructors run");

pub(crate) mod sys;

pub(crate) mod greenlet;

pub mod hub;

pub(crate) mod task;

pub(crate) mod io;
pub(crate) mod threadpool;

pub mod net;
pub mod os;
pub mod thread;

pub mod std;

pub mod server;

pub mod observe;

pub use greenlet::exit::{GreenletExit, LoopExit, Orphan};
pub use greenlet::generator::{Generator, Step, Yielder};
pub use greenlet::stack::{GuardKind, StackError, StackSize, StackStats, stack_stats};
pub use greenlet::trace::{TraceEvent, Tracer, gettrace, settrace};
pub use greenlet::{
    AnyGreenlet, Body, Me, ParentError, Payload, RawGreenlet, SwitchError, WaitsFor, WeakGreenlet, current,
    enter, root,
};
pub use hub::wait::no_unwind;
pub use hub::{Failure, Hub, HubHandle, signal};
pub use task::handle::{LinkId, State};
pub use task::timeout::{Elapsed, timeout};
pub use task::{Builder, Ended, Greenlet, idle, sleep, spawn, spawn_later, try_spawn, yield_now};

/// The pages of `docs/` and the README, whose examples are tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/coming-from-gevent.md")]
    struct ComingFromGevent;
    #[doc = include_str!("../docs/dependencies.md")]
    struct Dependencies;
}
