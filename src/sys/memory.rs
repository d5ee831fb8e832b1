//! Address space: reserving it, opening it, guarding it, asking about it.
//!
//! All functions take plain addresses, because what they work on is not yet (or no longer) Rust
//! memory. Those that can destroy what others hold references to are `unsafe`; those that only make
//! new mappings or ask questions are not.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, c_long, c_void};

/// Makes later accesses of the range fault with SIGSEGV, without a mapping of its own (Linux 6.13).
pub(crate) const GUARD_INSTALL: c_int = 102;
/// Gives the pages of the range back; they read as zeroes afterwards.
pub(crate) const DONTNEED: c_int = libc::MADV_DONTNEED;
/// No huge pages in the range: one touched byte must cost one small page.
pub(crate) const NOHUGEPAGE: c_int = libc::MADV_NOHUGEPAGE;

/// The kernel takes at most this many ranges in one vectored call (`UIO_MAXIOV`).
pub(crate) const MAX_RANGES: usize = 1024;

/// Turns the usual "-1 and errno" into a `Result`.
fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// [`check`] for the results of `syscall(2)`.
fn check_long(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The size of a page in bytes: a power of two, 4,096 on x86_64, up to 65,536 on aarch64.
pub(crate) fn page_size() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf reads a constant; it has no preconditions.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let page = usize::try_from(page).unwrap_or(4096);
            PAGE.store(page, Ordering::Relaxed);
            page
        }
        page => page,
    }
}

/// Reserves `len` bytes of address space that nothing may touch yet (see [`open`]).
///
/// `MAP_NORESERVE`, because a reservation is no promise of memory; and without access, because then
/// strict overcommit and `RLIMIT_DATA` count only what is opened later, and a program that called
/// `mlockall(MCL_FUTURE)` does not get all of it filled with memory at once.
pub(crate) fn reserve(len: usize) -> io::Result<usize> {
    map(len, libc::PROT_NONE, libc::MAP_STACK)
}

/// Maps `len` bytes of zeroes, committed as they are touched.
pub(crate) fn map_table(len: usize) -> io::Result<usize> {
    map(len, libc::PROT_READ | libc::PROT_WRITE, 0)
}

fn map(len: usize, protection: c_int, extra: c_int) -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | extra;
    // SAFETY: without MAP_FIXED the kernel chooses a free place, so no existing memory is touched.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address as usize) }
}

/// Takes a mapping away.
///
/// # Safety
///
/// The whole range was mapped by this module, and nobody holds a pointer into it that is used again.
pub(crate) unsafe fn unmap(address: usize, len: usize) -> io::Result<()> {
    // SAFETY: the caller owns the range and promises that nothing refers to it.
    check(unsafe { libc::munmap(address as *mut c_void, len) }).map(drop)
}

/// Lets the range be read and written.
///
/// # Safety
///
/// The range lies in a mapping made by this module, and is page-aligned.
pub(crate) unsafe fn open(address: usize, len: usize) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: more access to memory of our own takes nothing from anyone.
    check(unsafe { libc::mprotect(address as *mut c_void, len, protection) }).map(drop)
}

/// Forbids every access to the range.
///
/// # Safety
///
/// The range lies in a mapping made by this module, is page-aligned, and nobody uses its contents
/// until it is opened again.
pub(crate) unsafe fn close(address: usize, len: usize) -> io::Result<()> {
    // SAFETY: the caller promises that nobody uses what becomes inaccessible.
    check(unsafe { libc::mprotect(address as *mut c_void, len, libc::PROT_NONE) }).map(drop)
}

/// `madvise(2)` on one range.
///
/// # Safety
///
/// The range lies in a mapping made by this module, and nobody relies on contents that the advice
/// throws away.
pub(crate) unsafe fn advise(address: usize, len: usize, advice: c_int) -> io::Result<()> {
    // SAFETY: the caller owns the range and has answered for its contents.
    check(unsafe { libc::madvise(address as *mut c_void, len, advice) }).map(drop)
}

/// One range of [`advise_all`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Range(libc::iovec);

impl Range {
    /// No range at all, to fill arrays with.
    pub(crate) const EMPTY: Range = Range(libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 });

    pub(crate) fn new(address: usize, len: usize) -> Range {
        Range(libc::iovec { iov_base: address as *mut c_void, iov_len: len })
    }

    pub(crate) fn address(self) -> usize {
        self.0.iov_base as usize
    }

    pub(crate) fn len(self) -> usize {
        self.0.iov_len
    }
}

/// `process_madvise(2)` on this process: many ranges in one call. Returns how many bytes, from the
/// first range on, have been advised; that may be less than asked for.
///
/// The pidfd is made anew for each call: one that was kept would, after a fork, still name the
/// parent, and the child would advise its parent's memory.
///
/// # Safety
///
/// As for [`advise`], for every one of the ranges.
pub(crate) unsafe fn advise_all(ranges: &[Range], advice: c_int) -> io::Result<usize> {
    let ranges = &ranges[..ranges.len().min(MAX_RANGES)];
    let pidfd = own_pidfd()?;
    // SAFETY: Range is a transparent iovec, the array outlives the call, and the caller has
    // answered for the memory that it names.
    let advised = check_long(unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            ranges.as_ptr(),
            ranges.len(),
            advice,
            0u32,
        )
    })?;
    Ok(advised as usize)
}

fn own_pidfd() -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and makes a new descriptor.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0u32) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Makes a locked range (`mlockall(MCL_FUTURE)`) be locked page by page as it is touched, instead of
/// filled with memory from end to end. Does nothing when the range is not locked.
///
/// # Safety
///
/// The range lies in a reservation of this module and is closed, and nobody uses its contents.
pub(crate) unsafe fn lock_on_fault_if_locked(address: usize, len: usize) -> io::Result<()> {
    const MLOCK_ONFAULT: c_int = 1;
    // SAFETY: the range has no contents to lose. The kernel refuses this advice exactly for locked
    // ranges, which is the only way to ask without reading /proc.
    match unsafe { advise(address, len, DONTNEED) } {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: mlock2 changes no contents.
            check_long(unsafe { libc::syscall(libc::SYS_mlock2, address, len, MLOCK_ONFAULT) }).map(drop)
        }
        other => other,
    }
}

/// Asks which pages of the range are in memory: bit 0 of one byte a page. `pages` must have as many
/// bytes as the range has pages.
pub(crate) fn resident(address: usize, pages: &mut [u8]) -> io::Result<()> {
    let len = pages.len() * page_size();
    // SAFETY: mincore reads no memory of the range, and writes one byte a page into `pages`.
    check(unsafe { libc::mincore(address as *mut c_void, len, pages.as_mut_ptr()) }).map(drop)
}

/// Whether the kernel gets EFAULT when it reads from, and when it writes to, each byte given.
/// That tells a guard from memory without a signal being raised.
pub(crate) struct FaultProbe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl FaultProbe {
    pub(crate) fn new() -> io::Result<FaultProbe> {
        let mut fds = [0; 2];
        // SAFETY: the array has room for the two descriptors.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        // SAFETY: both are new and known to nobody else.
        unsafe {
            Ok(FaultProbe { reader: OwnedFd::from_raw_fd(fds[0]), writer: OwnedFd::from_raw_fd(fds[1]) })
        }
    }

    /// Whether write(2) from this byte fails with EFAULT.
    pub(crate) fn read_faults(&self, address: usize) -> io::Result<bool> {
        // SAFETY: the kernel checks the address itself: that is what is asked.
        let result = unsafe { libc::write(self.writer.as_raw_fd(), address as *const c_void, 1) };
        let faulted = faulted(result)?;
        if !faulted {
            let mut byte = 0u8;
            // SAFETY: the byte is ours. The read empties the pipe for the next question.
            unsafe { libc::read(self.reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
        }
        Ok(faulted)
    }

    /// Whether read(2) into this byte fails with EFAULT.
    ///
    /// # Safety
    ///
    /// The byte is a guard or the caller's own: if it is memory, it is overwritten by zero.
    pub(crate) unsafe fn write_faults(&self, address: usize) -> io::Result<bool> {
        let zero = 0u8;
        // SAFETY: one byte from a local variable.
        if unsafe { libc::write(self.writer.as_raw_fd(), (&raw const zero).cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel checks the address, and the caller allows the byte to be overwritten.
        let result = unsafe { libc::read(self.reader.as_raw_fd(), address as *mut c_void, 1) };
        let faulted = faulted(result)?;
        if faulted {
            let mut byte = 0u8;
            // SAFETY: as in `read_faults`: empties the pipe.
            unsafe { libc::read(self.reader.as_raw_fd(), (&raw mut byte).cast(), 1) };
        }
        Ok(faulted)
    }
}

fn faulted(result: isize) -> io::Result<bool> {
    if result == -1 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EFAULT) { Ok(true) } else { Err(error) }
    } else {
        Ok(false)
    }
}

/// A userfaultfd, used for one thing only: `UFFDIO_POISON` (Linux 6.6).
///
/// It asks for `UFFD_USER_MODE_ONLY`, which unprivileged programs get too whatever
/// `vm.unprivileged_userfaultfd` says: poisoned pages fault in the kernel all the same.
pub(crate) struct Userfault(OwnedFd);

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioPoison {
    range: UffdioRange,
    mode: u64,
    updated: i64,
}

/// The number of an ioctl of userfaultfd, as `_IOC` of `linux/ioctl.h` makes it on x86_64 and aarch64.
const fn uffdio<T>(direction: u64, number: u64) -> u64 {
    (direction << 30) | ((size_of::<T>() as u64) << 16) | (0xAA << 8) | number
}

const READ: u64 = 2;
const READ_WRITE: u64 = 3;
const UFFDIO_API: u64 = uffdio::<UffdioApi>(READ_WRITE, 0x3F);
const UFFDIO_REGISTER: u64 = uffdio::<UffdioRegister>(READ_WRITE, 0x00);
const UFFDIO_UNREGISTER: u64 = uffdio::<UffdioRange>(READ, 0x01);
const UFFDIO_POISON: u64 = uffdio::<UffdioPoison>(READ_WRITE, 0x08);
const UFFD_API: u64 = 0xAA;
const UFFD_FEATURE_POISON: u64 = 1 << 14;
const UFFD_USER_MODE_ONLY: c_int = 1;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

impl Userfault {
    /// Opens one. Fails where the kernel has none, forbids it, or cannot poison.
    pub(crate) fn open() -> io::Result<Userfault> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: takes an integer and makes a new descriptor.
        let fd = check_long(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
        // SAFETY: the kernel has just given us this descriptor; nobody else knows it.
        let this = Userfault(unsafe { OwnedFd::from_raw_fd(fd as c_int) });
        let mut api = UffdioApi { api: UFFD_API, features: UFFD_FEATURE_POISON, ioctls: 0 };
        // SAFETY: the number belongs to this struct; it changes nothing but the struct.
        unsafe { this.ioctl(UFFDIO_API, &mut api)? };
        Ok(this)
    }

    /// Puts a range under this userfaultfd, which is what allows [`poison`](Userfault::poison) in it.
    ///
    /// # Safety
    ///
    /// The range lies in an open mapping of this module, and nobody touches it until
    /// [`unregister`](Userfault::unregister): a thread that did would wait for ever.
    pub(crate) unsafe fn register(&self, start: usize, len: usize) -> io::Result<()> {
        let range = UffdioRange { start: start as u64, len: len as u64 };
        let mut register = UffdioRegister { range, mode: UFFDIO_REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: the number belongs to this struct, and the caller keeps everybody off the range.
        unsafe { self.ioctl(UFFDIO_REGISTER, &mut register) }
    }

    /// Poisons pages that were never touched: each access raises SIGBUS from now on.
    ///
    /// # Safety
    ///
    /// The range is registered, and nobody uses it.
    pub(crate) unsafe fn poison(&self, start: usize, len: usize) -> io::Result<()> {
        let range = UffdioRange { start: start as u64, len: len as u64 };
        let mut poison = UffdioPoison { range, mode: 0, updated: 0 };
        // SAFETY: the number belongs to this struct, and the caller answers for the range.
        unsafe { self.ioctl(UFFDIO_POISON, &mut poison)? };
        if poison.updated == len as i64 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EAGAIN)) }
    }

    /// Takes the range out again; its poison stays.
    pub(crate) fn unregister(&self, start: usize, len: usize) -> io::Result<()> {
        let mut range = UffdioRange { start: start as u64, len: len as u64 };
        // SAFETY: the number belongs to this struct; unregistering leaves all contents alone.
        unsafe { self.ioctl(UFFDIO_UNREGISTER, &mut range) }
    }

    /// # Safety
    ///
    /// `T` is the type that `request` reads and writes, and what it does to memory is allowed.
    unsafe fn ioctl<T>(&self, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: the caller pairs the request with its type; the reference is valid for the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, &raw mut *argument) }).map(drop)
    }
}

/// `vm.max_map_count`, or the kernel's own default where /proc is not mounted.
pub(crate) fn max_map_count() -> usize {
    proc_number("/proc/sys/vm/max_map_count").unwrap_or(65_530)
}

/// Whether `vm.overcommit_memory` is 2: every opened page counts, touched or not.
pub(crate) fn strict_overcommit() -> bool {
    proc_number("/proc/sys/vm/overcommit_memory") == Some(2)
}

/// How many mappings the process has, where /proc tells.
pub(crate) fn mappings() -> Option<usize> {
    let maps = std::fs::read("/proc/self/maps").ok()?;
    Some(maps.iter().filter(|&&byte| byte == b'\n').count())
}

fn proc_number(path: &str) -> Option<usize> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The soft limit of a resource, in bytes; `None` when there is no limit.
pub(crate) fn soft_limit(resource: nix::sys::resource::Resource) -> Option<u64> {
    match nix::sys::resource::getrlimit(resource) {
        Ok((soft, _)) if soft != libc::RLIM_INFINITY => Some(soft),
        _ => None,
    }
}
