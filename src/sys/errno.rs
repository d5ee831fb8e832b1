//! The calling thread's `errno`, as a plain value.

/// Reads `errno`.
#[inline]
pub(crate) fn get() -> i32 {
    // SAFETY: glibc and musl give a pointer to the calling thread's own int, valid as long as
    // the thread lives; nobody else touches it.
    unsafe { *libc::__errno_location() }
}

/// Writes `errno`.
#[inline]
pub(crate) fn set(value: i32) {
    // SAFETY: as in `get`.
    unsafe { *libc::__errno_location() = value }
}
