//! The only door to the kernel: thin, safe wrappers over `nix` and `libc`.
//!
//! What may come in: one function or small type per system call, with its errors turned into
//! [`std::io::Error`] in one place ([`check`]). What never comes in: policy. Nothing here retries,
//! waits on its own account, logs, or knows what a greenlet is.

pub(crate) mod epoll;
pub(crate) mod errno;
pub(crate) mod fault;
pub(crate) mod hooks;
pub(crate) mod memory;
pub(crate) mod poll;
pub(crate) mod time;

use std::io;

/// A system call's result, or errno as an error.
#[inline]
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// How many threads this process has; a large number when `/proc` does not say.
pub(crate) fn thread_count() -> u64 {
    use std::os::unix::fs::MetadataExt;
    // A directory's links: `.`, `..` and one for each thread.
    std::fs::metadata("/proc/self/task").map_or(u64::MAX, |tasks| tasks.nlink().saturating_sub(2))
}
