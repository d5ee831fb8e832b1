//! Fault signals: installing a handler in front of another, and the stack that handlers run on.
//!
//! Everything here that is called from a handler is async-signal-safe: no allocation, no lock, no
//! thread-local, no formatting.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};

use super::memory;

/// A handler installed with `SA_SIGINFO`.
pub(crate) type Handler = unsafe extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// The action that was there before ours: who gets the faults that are not for us.
#[derive(Debug)]
pub(crate) struct Previous {
    handler: AtomicUsize,
    flags: AtomicI32,
}

impl Previous {
    pub(crate) const fn new() -> Previous {
        Previous { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0) }
    }

    fn store(&self, action: &libc::sigaction) {
        self.flags.store(action.sa_flags, Ordering::Release);
        self.handler.store(action.sa_sigaction, Ordering::Release);
    }

    /// Does with the signal what would have been done without us.
    ///
    /// # Safety
    ///
    /// Called from the handler of `signal`, with that handler's own arguments.
    pub(crate) unsafe fn hand_on(&self, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        let handler = self.handler.load(Ordering::Acquire);
        // SAFETY: the kernel passed a valid siginfo to the handler that calls us.
        let from_kernel = unsafe { (*info).si_code } > 0;
        match handler {
            // A fault cannot be ignored: the kernel would kill for it. A signal sent by kill(2) can.
            libc::SIG_IGN if !from_kernel => {}
            libc::SIG_DFL | libc::SIG_IGN => {
                set_default(signal);
                if !from_kernel {
                    // Nothing will fault again: send it again. It is blocked until we return.
                    // SAFETY: raise is async-signal-safe and has no preconditions.
                    unsafe { libc::raise(signal) };
                }
            }
            handler if self.flags.load(Ordering::Acquire) & libc::SA_SIGINFO != 0 => {
                // SAFETY: it was installed with SA_SIGINFO, so it is a function of this type; it is
                // called as the kernel would have called it.
                let handler: Handler = unsafe { std::mem::transmute(handler) };
                // SAFETY: as above.
                unsafe { handler(signal, info, context) };
            }
            handler => {
                // SAFETY: it was installed without SA_SIGINFO, so it takes the number alone.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

/// Puts `handler` in front of the present action of `signal`, which is kept in `previous`.
///
/// # Safety
///
/// The handler is async-signal-safe, and hands on what is not its own.
pub(crate) unsafe fn install(signal: c_int, handler: Handler, previous: &Previous) -> io::Result<()> {
    // Asked for and stored first: another thread may fault as soon as ours is installed.
    let old = action(signal, None)?;
    previous.store(&old);
    let mut new = old;
    new.sa_sigaction = handler as usize;
    // The mask stays, and so does SA_NODEFER: the handler there before runs inside of ours.
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | (old.sa_flags & libc::SA_NODEFER);
    let replaced = action(signal, Some(&new))?;
    previous.store(&replaced);
    Ok(())
}

/// Restores the default action.
pub(crate) fn set_default(signal: c_int) {
    // SAFETY: all zeroes are a sigaction: SIG_DFL, no flags, an empty mask.
    let mut default: libc::sigaction = unsafe { std::mem::zeroed() };
    default.sa_sigaction = libc::SIG_DFL;
    let _ = action(signal, Some(&default));
}

fn action(signal: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = MaybeUninit::uninit();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or valid, `old` has room. A handler in `new` was answered for by the
    // caller of `install`.
    if unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled it in.
    Ok(unsafe { old.assume_init() })
}

/// The address that faulted; `None` if the signal was sent by a program instead.
///
/// # Safety
///
/// `info` was passed to a handler of SIGSEGV or SIGBUS.
pub(crate) unsafe fn address(info: *const siginfo_t) -> Option<usize> {
    // SAFETY: valid by contract; si_addr is filled in for these two signals when they come from the
    // kernel, which a positive code says.
    unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) }
}

/// The stack pointer of the code that was interrupted.
///
/// # Safety
///
/// `context` was passed to a handler installed with `SA_SIGINFO`.
pub(crate) unsafe fn stack_pointer(context: *const c_void) -> usize {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid ucontext to such handlers.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        (*context).uc_mcontext.gregs[libc::REG_RSP as usize] as usize
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        (*context).uc_mcontext.sp as usize
    }
}

/// Writes to standard error, whatever becomes of it.
pub(crate) fn write_stderr(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the slice is valid. write(2) is async-signal-safe.
        let written = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        match written {
            1.. => bytes = &bytes[written as usize..],
            // SAFETY: errno of this thread is always there.
            -1 if unsafe { *libc::__errno_location() } == libc::EINTR => {}
            _ => return,
        }
    }
}

/// Ends the process by SIGABRT, past every handler.
pub(crate) fn abort() -> ! {
    set_default(libc::SIGABRT);
    // SAFETY: abort(3) is async-signal-safe and has no preconditions.
    unsafe { libc::abort() }
}

/// A stack for signal handlers, made by us for a thread that had none.
#[derive(Debug)]
pub(crate) struct AlternateStack {
    base: usize,
    len: usize,
}

impl AlternateStack {
    /// Gives the current thread a stack for signal handlers, unless it has one already (`None`).
    pub(crate) fn ensure() -> io::Result<Option<AlternateStack>> {
        if Self::present()?.ss_flags & libc::SS_DISABLE == 0 {
            return Ok(None);
        }
        let page = memory::page_size();
        // The kernel's own frame (large with AVX-512 or SVE), and room for the handlers we hand on to.
        // SAFETY: getauxval reads a table of constants.
        let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        let room = (frame + 64 * 1024).next_multiple_of(page);
        let base = memory::reserve(page + room)?;
        let this = AlternateStack { base, len: page + room };
        // SAFETY: all but the lowest page of our own fresh reservation; that page stays as a guard.
        if let Err(error) = unsafe { memory::open(base + page, room) } {
            // SAFETY: nobody has been told of the range.
            let _ = unsafe { memory::unmap(this.base, this.len) };
            return Err(error);
        }
        let stack = libc::stack_t { ss_sp: (base + page) as *mut c_void, ss_flags: 0, ss_size: room };
        // SAFETY: the memory is ours and stays mapped until `remove`.
        if unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } == -1 {
            let error = io::Error::last_os_error();
            // SAFETY: the kernel has refused it, so nobody uses it.
            let _ = unsafe { memory::unmap(this.base, this.len) };
            return Err(error);
        }
        Ok(Some(this))
    }

    /// The stack the current thread has now.
    fn present() -> io::Result<libc::stack_t> {
        let mut now = MaybeUninit::uninit();
        // SAFETY: only asks; `now` has room for the answer.
        if unsafe { libc::sigaltstack(ptr::null(), now.as_mut_ptr()) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it has filled it in.
        Ok(unsafe { now.assume_init() })
    }

    /// Takes it away from the current thread, which must be the one it was made on. If somebody
    /// has put another in its place meanwhile, that one stays.
    pub(crate) fn remove(self) {
        let ours = |now: libc::stack_t| (self.base..self.base + self.len).contains(&(now.ss_sp as usize));
        if Self::present().is_ok_and(ours) {
            let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: disabling needs no memory. It fails only on the stack itself: then we keep it.
            if unsafe { libc::sigaltstack(&none, ptr::null_mut()) } == -1 {
                return;
            }
        }
        // SAFETY: the kernel does not use it any more, and we have never given it to anyone else.
        let _ = unsafe { memory::unmap(self.base, self.len) };
    }

    /// Taken apart for a thread-local without destructor.
    pub(crate) fn into_parts(self) -> (usize, usize) {
        (self.base, self.len)
    }

    /// # Safety
    ///
    /// The parts come from [`into_parts`](Self::into_parts) on this thread, and are used once.
    pub(crate) unsafe fn from_parts(base: usize, len: usize) -> AlternateStack {
        AlternateStack { base, len }
    }
}
