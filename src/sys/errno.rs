//! The calling thread's `errno`.

/// Where it is: valid as long as the thread lives, for that thread alone.
#[inline]
pub(crate) fn place() -> *mut i32 {
    // SAFETY: no preconditions; the C library gives each thread its own.
    unsafe { libc::__errno_location() }
}
