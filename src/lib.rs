//! gevent for Rust (map to be written)
pub(crate) mod sys;
