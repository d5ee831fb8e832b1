//! Layer 1, the greenlet API (to be written); so far only the room of its stacks.
#[allow(
    dead_code,
    unused_imports,
    reason = "the driver that will use the stacks is not written yet"
)]
pub(crate) mod stack;
