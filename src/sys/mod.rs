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
pub(crate) mod socket;
pub(crate) mod time;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Threads of ours that have nothing to do, and will wake nobody unless they are given a job.
static SPARE: AtomicU64 = AtomicU64::new(0);

/// The calling thread has nothing to do from now on; or has.
pub(crate) fn spare_thread(spare: bool) {
    if spare {
        SPARE.fetch_add(1, Ordering::AcqRel);
    } else {
        SPARE.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A forked child has none of them.
pub(crate) fn no_spare_threads() {
    SPARE.store(0, Ordering::Release);
}

/// How many threads of ours have nothing to do.
pub(crate) fn spare_threads() -> u64 {
    SPARE.load(Ordering::Acquire)
}
