//! gevent for Rust.
#![allow(dead_code)] // the hub, which uses the rest, comes next
pub(crate) mod greenlet;
pub(crate) mod sys;
pub use greenlet::exit::{GreenletExit, LoopExit, Orphan};
pub use greenlet::generator::{Generator, Step, Yielder};
pub use greenlet::stack::{GuardKind, StackError, StackSize, StackStats, stack_stats};
pub use greenlet::trace::{TraceEvent, Tracer, gettrace, settrace};
pub use greenlet::{
    AnyGreenlet, Body, Me, ParentError, Payload, RawGreenlet, SwitchError, WaitsFor, WeakGreenlet, current,
    enter, root,
};
