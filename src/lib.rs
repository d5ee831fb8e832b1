//! gevent for Rust (map to be written)
#![allow(dead_code)]
pub(crate) mod greenlet;
pub mod hub;
pub(crate) mod io;
pub mod net;
pub mod observe;
pub mod os;
pub mod std;
pub(crate) mod sys;
pub(crate) mod task;
pub mod thread;
pub(crate) mod threadpool;
pub use greenlet::exit::{GreenletExit, LoopExit, Orphan};
pub use greenlet::generator::{Generator, Step, Yielder};
pub use greenlet::stack::{GuardKind, StackError, StackSize, StackStats, stack_stats};
pub use greenlet::trace::{TraceEvent, Tracer, gettrace, settrace};
pub use greenlet::{
    AnyGreenlet, Body, Me, ParentError, Payload, RawGreenlet, SwitchError, WaitsFor, WeakGreenlet, current,
    enter, root,
};
pub use hub::wait::no_unwind;
pub use hub::{Hub, HubHandle, signal};
pub use task::handle::{LinkId, State};
pub use task::timeout::{Elapsed, timeout};
pub use task::{Builder, Ended, Greenlet, idle, sleep, spawn, spawn_later, try_spawn, yield_now};
