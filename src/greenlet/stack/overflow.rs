//! The report of an overflow: a greenlet that ran into its guard gets a name, not "Segmentation fault".
//!
//! The handler is put in front of whatever handles SIGSEGV and SIGBUS when the first greenlet runs
//! (usually std's own, which reports overflows of threads). A fault is ours if
//!
//! ```text
//!   the address that faulted lies in the guard of a slot   ── found by arithmetic over the segments
//!   and the stack pointer of what was interrupted lies
//!   in the same slot                                       ── the greenlet is the one running here
//! ```
//!
//! All other faults are handed on. A program that installs a handler of its own later has replaced
//! this one: its business.
//!
//! Everything the handler calls is async-signal-safe: atomics, arithmetic, write(2), sigaction(2),
//! abort(3). It runs on the thread's alternate signal stack, for the greenlet's own is used up.

use std::cell::Cell;
use std::sync::Once;

use libc::{SIGBUS, SIGSEGV, c_int, c_void, siginfo_t};

use crate::sys::fault::{self, AlternateStack, Previous};

use super::slot::{NAME_MAX, Place};

static BEFORE_SEGV: Previous = Previous::new();
static BEFORE_BUS: Previous = Previous::new();

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    /// The alternate stack that we made for this thread, if it had none.
    static MADE: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// Has overflows on this thread reported: installs the handlers, once for the process, and gives this
/// thread an alternate signal stack if it has none, until the thread ends.
///
/// Should the kernel refuse either, overflows still end the process, only without the report.
#[inline]
pub(crate) fn arm_thread() {
    if !ARMED.get() {
        arm();
    }
}

#[cold]
#[inline(never)]
fn arm() {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        for (signal, previous) in [(SIGSEGV, &BEFORE_SEGV), (SIGBUS, &BEFORE_BUS)] {
            // SAFETY: `on_fault` is async-signal-safe, and hands on what is not its own.
            let _ = unsafe { fault::install(signal, on_fault, previous) };
        }
    });
    if let Ok(Some(made)) = AlternateStack::ensure() {
        MADE.set(Some(made.into_parts()));
        super::shelf::hook_thread_end();
    }
    ARMED.set(true);
}

/// Takes the alternate stack away again, at the end of the thread.
pub(super) fn disarm_thread() {
    if let Some((base, len)) = MADE.take() {
        // SAFETY: the parts were stored by `arm` on this thread, and taken out just now.
        unsafe { AlternateStack::from_parts(base, len) }.remove();
        ARMED.set(false);
    }
}

unsafe extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's own arguments, or those of a handler put in front of ours that hands on.
    let (address, pointer) = unsafe { (fault::address(info), fault::stack_pointer(context)) };
    if let Some(overflow) = address.and_then(|address| overflowed(address, pointer)) {
        report(&overflow);
        fault::abort();
    }
    let previous = if signal == SIGBUS { &BEFORE_BUS } else { &BEFORE_SEGV };
    // SAFETY: we are the handler of this signal, and these are our arguments.
    unsafe { previous.hand_on(signal, info, context) }
}

/// The slot whose guard was hit by code running in the same slot.
fn overflowed(address: usize, stack_pointer: usize) -> Option<Place> {
    let place = Place::of(address)?;
    let guard = place.low..place.low + place.size.guard();
    let slot = place.low..=place.low + place.size.bytes();
    (guard.contains(&address) && slot.contains(&stack_pointer)).then_some(place)
}

/// `greenlet 'NAME' (id N) has overflowed its stack of N KiB`, and what to do about it.
fn report(place: &Place) {
    let mut name = [0; NAME_MAX];
    let (id, name) = place.label(&mut name);
    let mut text = Text::new();
    text.add(b"\ngreenlet ");
    if !name.is_empty() {
        text.add(b"'");
        text.add(name);
        text.add(b"' ");
    }
    text.add(b"(id ");
    text.add_number(id);
    text.add(b") has overflowed its stack of ");
    text.add_number(place.size.usable() as u64 / 1024);
    text.add(b" KiB\n");
    text.add(b"set a larger one with Builder::stack_size, Hub::builder().stack_size or GEVENT_STACK_SIZE\n");
    fault::write_stderr(&text.bytes[..text.len]);
}

/// A line being put together without allocation; what does not fit is left off.
struct Text {
    bytes: [u8; 320],
    len: usize,
}

impl Text {
    fn new() -> Text {
        Text { bytes: [0; 320], len: 0 }
    }

    fn add(&mut self, more: &[u8]) {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(more) {
            *to = *from;
            self.len += 1;
        }
    }

    fn add_number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = number;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.add(&digits[first..]);
    }
}
