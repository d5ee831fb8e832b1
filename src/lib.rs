//! gevent for Rust (map to be written)
pub(crate) mod greenlet;
pub(crate) mod sys;

pub use greenlet::stack::{GuardKind, StackError, StackSize, StackStats, stack_stats};
