//! The only door to the kernel: thin, safe wrappers over `nix` and `libc`.
//!
//! What may come in: one function or small type per system call, with its errors turned into
//! [`std::io::Error`] in one place. What never comes in: policy. Nothing here retries, waits,
//! logs, or knows what a greenlet is.

pub(crate) mod fault;
pub(crate) mod hooks;
pub(crate) mod memory;
