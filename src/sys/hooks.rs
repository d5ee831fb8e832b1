//! What the C library calls back: at the end of a thread, and around a fork.

use std::ptr;
use std::sync::OnceLock;

use libc::c_void;

/// A function to be called at the ends of threads, after the destructors of their thread-locals.
///
/// A pthread key, not a thread-local with a destructor: access to one of ours stays a plain load, and
/// the destructors of other thread-locals may still use what the function tears down. It is not called
/// on the main thread when `main` returns: the process is over then. Nothing happens if the process
/// has no keys left; the caller's things then leak.
pub(crate) struct ThreadEnd {
    key: OnceLock<Option<libc::pthread_key_t>>,
    end: extern "C" fn(*mut c_void),
}

impl ThreadEnd {
    pub(crate) const fn new(end: extern "C" fn(*mut c_void)) -> Self {
        ThreadEnd { key: OnceLock::new(), end }
    }

    /// Has the function called when the current thread ends.
    pub(crate) fn arm(&'static self) {
        let key = self.key.get_or_init(|| {
            let mut key = 0;
            // SAFETY: the key is written before it is used; the function lives for ever.
            (unsafe { libc::pthread_key_create(&mut key, Some(self.end)) } == 0).then_some(key)
        });
        if let Some(key) = *key {
            // SAFETY: the key was created above. Its value only has to be other than null for the
            // destructor to be called; nobody reads through it.
            unsafe { libc::pthread_setspecific(key, ptr::without_provenance(1)) };
        }
    }
}

/// Has `before` called before each fork, and `after` after it in both processes.
pub(crate) fn at_fork(before: unsafe extern "C" fn(), after: unsafe extern "C" fn()) {
    // SAFETY: all three are functions that live for ever.
    unsafe { pthread_atfork(Some(before), Some(after), Some(after)) };
}

// Not in the libc crate for every C library.
unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> libc::c_int;
}
