//! Guards: three ways to make one, which of them works here, and opening slots together with theirs.
//!
//! A slot is never open without its guard. The kind is chosen once: the first, in the order of
//! [`GuardKind`], for which the kernel was *seen* to guard (not merely to accept the call, which
//! emulators do). If it fails later on, as guard markers do once a program has called `mlockall`,
//! the chunk at hand gets the next kind that works.
//!
//! # The userfaultfd kind
//!
//! A chunk is registered, poisoned and unregistered while nobody can use it yet, with a descriptor
//! opened for that and closed again. The poison stays: it lives in the page tables. No descriptor is
//! kept, because a child would inherit it, and poison its *parent's* memory through it. What wipes
//! the poison is `MADV_DONTNEED` over it, which this room never does: [`trim`](super::trim()) covers bodies only.

use std::env;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys::memory::{self, FaultProbe, MAX_RANGES, Range, Userfault};

use super::{StackError, StackSize};

/// How the guards below stacks are made, best first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GuardKind {
    /// Markers in the page tables, by `MADV_GUARD_INSTALL` (Linux 6.13 or later). No limit on their
    /// number.
    Install,
    /// Poisoned pages, by userfaultfd's `UFFDIO_POISON` (Linux 6.6 or later). No limit on their number;
    /// often forbidden in containers. An overflow raises SIGBUS instead of SIGSEGV.
    UserFault,
    /// Pages without access, by `mprotect`. Two mappings a stack: `vm.max_map_count` limits
    /// them, by default to some 32,000.
    Mprotect,
}

impl GuardKind {
    const ORDER: [GuardKind; 3] = [GuardKind::Install, GuardKind::UserFault, GuardKind::Mprotect];

    /// The kind in use: the first that was seen to work here, or the one that the environment
    /// variable `GEVENT_STACK_GUARD` demands (`install`, `userfault` or `mprotect`).
    ///
    /// # Errors
    ///
    /// No kind works, or not the demanded one; or it could not be tried, for want of descriptors say.
    ///
    /// # Examples
    ///
    /// ```
    /// match gevent::GuardKind::probed() {
    ///     Ok(kind) => println!("stacks are guarded by {kind}"),
    ///     Err(error) => println!("greenlets cannot run here: {error}"),
    /// }
    /// # gevent::GuardKind::probed()?;
    /// # Ok::<(), gevent::StackError>(())
    /// ```
    pub fn probed() -> Result<GuardKind, StackError> {
        choice().map(|choice| choice.kind)
    }
}

impl fmt::Display for GuardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GuardKind::Install => "madvise(MADV_GUARD_INSTALL)",
            GuardKind::UserFault => "userfaultfd(UFFDIO_POISON)",
            GuardKind::Mprotect => "mprotect",
        })
    }
}

/// What was probed, or demanded.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    kind: GuardKind,
    forced: bool,
}

impl Choice {
    pub(super) fn kind(self) -> GuardKind {
        self.kind
    }

    pub(super) fn forced(self) -> bool {
        self.forced
    }
}

/// The choice, probed at the first call. Only a success is remembered: a failure may have been for
/// want of descriptors or memory, and costs nothing that matters where no greenlet can run.
pub(super) fn choice() -> Result<Choice, StackError> {
    const FORCED: u8 = 4;
    static CHOICE: AtomicU8 = AtomicU8::new(0);
    let known = CHOICE.load(Ordering::Relaxed);
    if known != 0 {
        let kind = GuardKind::ORDER[(known & 3) as usize - 1];
        return Ok(Choice { kind, forced: known & FORCED != 0 });
    }
    let choice = match demanded()? {
        Some(kind) => match probe(kind)? {
            Ok(()) => Choice { kind, forced: true },
            Err(why) => {
                return Err(StackError::NoGuard { tried: vec![(kind, why)], forced: true });
            }
        },
        None => {
            let mut tried = Vec::new();
            loop {
                let Some(&kind) = GuardKind::ORDER.get(tried.len()) else {
                    return Err(StackError::NoGuard { tried, forced: false });
                };
                match probe(kind)? {
                    Ok(()) => {
                        break Choice { kind, forced: false };
                    }
                    Err(why) => tried.push((kind, why)),
                }
            }
        }
    };
    CHOICE.store(choice.kind as u8 + 1 + if choice.forced { FORCED } else { 0 }, Ordering::Relaxed);
    Ok(choice)
}

fn demanded() -> Result<Option<GuardKind>, StackError> {
    let Some(value) = env::var_os("GEVENT_STACK_GUARD") else {
        return Ok(None);
    };
    match value.to_str() {
        Some("install") => Ok(Some(GuardKind::Install)),
        Some("userfault") => Ok(Some(GuardKind::UserFault)),
        Some("mprotect") => Ok(Some(GuardKind::Mprotect)),
        _ => Err(StackError::GuardSetting { value: value.to_string_lossy().into_owned() }),
    }
}

/// Makes two small stacks and looks whether the kernel faults in their guards and nowhere else.
/// The inner error says why the kind does not work; the outer one, why that could not be found out.
pub(super) fn probe(kind: GuardKind) -> Result<Result<(), String>, StackError> {
    let transient = |error: io::Error| {
        let os_error = error.raw_os_error().unwrap_or(0);
        let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EAGAIN];
        if short.contains(&os_error) { Err(StackError::Probe { os_error }) } else { Ok(error.to_string()) }
    };
    let kernel = match FaultProbe::new() {
        Ok(kernel) => kernel,
        Err(error) => return transient(error).map(Err),
    };
    let (size, count) = (StackSize::min(), 2);
    let len = size.bytes() * count;
    let base = memory::reserve(len).map_err(|error| StackError::no_memory(len, &error, 0))?;
    let chunk = Chunk { base, count, size };
    // SAFETY: the range is a fresh reservation, known to nobody else.
    let opened = unsafe { chunk.open(kind) };
    let outcome = match opened {
        Ok(()) => guards_hold(&kernel, &chunk),
        Err(OpenError::Guard(error) | OpenError::Memory(error)) => Err(error),
    };
    // SAFETY: nobody has been told of the range.
    let _ = unsafe { memory::unmap(base, len) };
    match outcome {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Ok(Err("the kernel accepts it, but the guard does not hold".to_owned())),
        Err(error) => transient(error).map(Err),
    }
}

/// Whether both ends of each guard fault, and both ends of each body do not.
fn guards_hold(kernel: &FaultProbe, chunk: &Chunk) -> io::Result<bool> {
    let (stride, guard) = (chunk.size.bytes(), chunk.size.guard());
    for low in (0..chunk.count).map(|index| chunk.base + index * stride) {
        for (address, is_guard) in
            [(low, true), (low + guard - 1, true), (low + guard, false), (low + stride - 1, false)]
        {
            // SAFETY: every byte of the chunk is the prober's own.
            let faults = unsafe { [kernel.read_faults(address)?, kernel.write_faults(address)?] };
            if faults != [is_guard; 2] {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Slots that lie side by side and are opened together.
pub(super) struct Chunk {
    pub(super) base: usize,
    pub(super) count: usize,
    pub(super) size: StackSize,
}

/// What stood in the way of opening a chunk.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The kernel has no more: a smaller chunk may do.
    Memory(io::Error),
    /// Guards of this kind are refused: another kind may do.
    Guard(io::Error),
}

impl OpenError {
    /// For calls that set guards: out of memory is told from "not this way".
    fn of_guard(error: io::Error) -> OpenError {
        if error.raw_os_error() == Some(libc::ENOMEM) {
            OpenError::Memory(error)
        } else {
            OpenError::Guard(error)
        }
    }
}

impl Chunk {
    /// Opens the slots with guards of the kind chosen, or the next that works. Returns the kind.
    ///
    /// # Safety
    ///
    /// The chunk is closed (as reserved), lies in a reservation of ours, and is nobody else's.
    pub(super) unsafe fn open_guarded(&self, choice: Choice) -> Result<GuardKind, OpenError> {
        let mut refusal = None;
        for kind in GuardKind::ORDER.into_iter().skip_while(|&kind| kind != choice.kind) {
            // Only the chosen kind has been seen to work; another is tried out before it is trusted.
            if refusal.is_some() && (choice.forced || !matches!(probe(kind), Ok(Ok(())))) {
                continue;
            }
            // SAFETY: the caller's contract, and a failed `open` leaves the chunk closed.
            match unsafe { self.open(kind) } {
                Ok(()) => return Ok(kind),
                Err(OpenError::Memory(error)) => return Err(OpenError::Memory(error)),
                Err(OpenError::Guard(error)) => refusal = refusal.or(Some(error)),
            }
        }
        Err(OpenError::Guard(refusal.unwrap_or_else(|| io::ErrorKind::Unsupported.into())))
    }

    /// Opens the slots with guards of this kind; on failure all of them are closed again.
    ///
    /// # Safety
    ///
    /// As for [`open_guarded`](Chunk::open_guarded).
    pub(super) unsafe fn open(&self, kind: GuardKind) -> Result<(), OpenError> {
        let len = self.count * self.size.bytes();
        // Programs that called mlockall would get all of the chunk filled with memory otherwise.
        // SAFETY: the chunk is closed and nobody's: it has no contents.
        unsafe { memory::lock_on_fault_if_locked(self.base, len) }.map_err(OpenError::Memory)?;
        // SAFETY: the caller's contract.
        let result = unsafe {
            match kind {
                GuardKind::Mprotect => self.open_bodies(),
                _ => match memory::open(self.base, len) {
                    Err(error) => Err(OpenError::Memory(error)),
                    Ok(()) if kind == GuardKind::Install => self.install().map_err(OpenError::of_guard),
                    Ok(()) => self.poison().map_err(OpenError::of_guard),
                },
            }
        };
        if result.is_err() {
            // SAFETY: the caller's contract. Should it fail, the pool never uses the range: what is
            // not opened successfully is not handed out.
            let _ = unsafe { memory::close(self.base, len) };
        }
        result
    }

    /// The low address of each slot.
    fn lows(&self) -> impl Iterator<Item = usize> {
        let (base, stride) = (self.base, self.size.bytes());
        (0..self.count).map(move |index| base + index * stride)
    }

    /// # Safety
    ///
    /// As for [`open_guarded`](Chunk::open_guarded).
    unsafe fn open_bodies(&self) -> Result<(), OpenError> {
        let guard = self.size.guard();
        for low in self.lows() {
            // SAFETY: a part of the chunk; what stays closed is the guard.
            unsafe { memory::open(low + guard, self.size.usable()) }.map_err(OpenError::Memory)?;
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`open_guarded`](Chunk::open_guarded), and the chunk is open.
    unsafe fn install(&self) -> io::Result<()> {
        let guard = self.size.guard();
        let ranges: Vec<Range> = self.lows().map(|low| Range::new(low, guard)).collect();
        let mut rest = &ranges[..];
        while let Some(first) = rest.first() {
            // SAFETY: guards of slots that nobody uses yet have no contents.
            let done = match unsafe {
                memory::advise_all(&rest[..rest.len().min(MAX_RANGES)], memory::GUARD_INSTALL)
            } {
                // Whole ranges only; what is partly done is done again, which is harmless.
                Ok(bytes) if bytes >= guard => bytes / guard,
                // An old or fenced-in process_madvise: one at a time, whose error counts.
                _ => {
                    // SAFETY: as above.
                    unsafe { memory::advise(first.address(), first.len(), memory::GUARD_INSTALL)? };
                    1
                }
            };
            rest = &rest[done.min(rest.len())..];
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`open_guarded`](Chunk::open_guarded), and the chunk is open and was never touched.
    unsafe fn poison(&self) -> io::Result<()> {
        let (len, guard) = (self.count * self.size.bytes(), self.size.guard());
        let userfault = Userfault::open()?;
        // SAFETY: nobody touches the chunk before it is handed out, which is after `unregister`.
        unsafe { userfault.register(self.base, len)? };
        // SAFETY: registered above, and nobody's.
        let poisoned = self.lows().try_for_each(|low| unsafe { userfault.poison(low, guard) });
        // Not left to the closing of the descriptor: a child forked meanwhile would keep it open.
        let unregistered = userfault.unregister(self.base, len);
        poisoned.and(unregistered)
    }
}
