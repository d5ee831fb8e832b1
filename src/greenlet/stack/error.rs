//! Why there is no stack, in words that a person can act on.

use std::error::Error;
use std::fmt;
use std::io;

use nix::sys::resource::Resource;

use crate::sys::memory;

use super::{GuardKind, StackSize};

/// Why a stack could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackError {
    /// The size asked for is 0 or too large.
    Size {
        /// What was asked for, in bytes.
        bytes: usize,
    },
    /// The kernel gives no more address space or no more memory.
    #[non_exhaustive]
    Memory {
        /// How many bytes were asked for at last, after smaller and smaller attempts.
        bytes: usize,
        /// `errno` of the refused call.
        os_error: i32,
        /// `RLIMIT_AS` in bytes, if there is one.
        address_space_limit: Option<u64>,
        /// `RLIMIT_DATA` in bytes, if there is one.
        data_limit: Option<u64>,
        /// Whether `vm.overcommit_memory` is 2.
        strict_overcommit: bool,
    },
    /// The process has no mappings left. Where guards are made by mprotect, every stack takes two.
    #[non_exhaustive]
    Mappings {
        /// The value of `vm.max_map_count`.
        max_map_count: usize,
        /// How many stacks are guarded by mprotect.
        guards: usize,
    },
    /// No way of guarding a stack works here, or not the one that was demanded.
    #[non_exhaustive]
    NoGuard {
        /// What was tried, and what came of it.
        tried: Vec<(GuardKind, String)>,
        /// Whether `GEVENT_STACK_GUARD` allowed only this one.
        forced: bool,
    },
    /// Guards could not be tried out for want of something else, such as file descriptors.
    #[non_exhaustive]
    Probe {
        /// `errno` of the refused call.
        os_error: i32,
    },
    /// This thread's hub could not be made, for want of descriptors say.
    #[non_exhaustive]
    NoHub {
        /// `errno` of the refused call.
        os_error: i32,
    },
    /// `GEVENT_STACK_GUARD` has a value that is none of its three.
    GuardSetting {
        /// The value.
        value: String,
    },
    /// `GEVENT_STACK_SIZE` is not a size.
    SizeSetting {
        /// The value.
        value: String,
    },
}

impl StackError {
    /// For a refused mmap or mprotect of `bytes`; finds out which limit it was.
    #[cold]
    pub(super) fn no_memory(bytes: usize, error: &io::Error, guards: usize) -> StackError {
        let max_map_count = memory::max_map_count();
        if memory::mappings().is_some_and(|mappings| mappings + 3 >= max_map_count) {
            return StackError::Mappings { max_map_count, guards };
        }
        StackError::Memory {
            bytes,
            os_error: error.raw_os_error().unwrap_or(libc::ENOMEM),
            address_space_limit: memory::soft_limit(Resource::RLIMIT_AS),
            data_limit: memory::soft_limit(Resource::RLIMIT_DATA),
            strict_overcommit: memory::strict_overcommit(),
        }
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StackError::Size { bytes } => {
                let (min, max) = (StackSize::min().bytes() >> 10, StackSize::MAX.bytes() >> 20);
                write!(
                    f,
                    "a stack size of {bytes} bytes is out of range: 1 byte (rounded up to {min} KiB) to {max} MiB"
                )
            }
            StackError::Memory { bytes, os_error, address_space_limit, data_limit, strict_overcommit } => {
                let error = io::Error::from_raw_os_error(*os_error);
                write!(f, "no {} KiB of address space for a greenlet's stack: {error}", bytes / 1024)?;
                let mut known = false;
                if let Some(limit) = address_space_limit {
                    known = true;
                    write!(f, "; RLIMIT_AS is {} KiB (ulimit -v)", limit / 1024)?;
                }
                if let Some(limit) = data_limit {
                    known = true;
                    write!(f, "; RLIMIT_DATA is {} KiB (ulimit -d)", limit / 1024)?;
                }
                if *strict_overcommit {
                    known = true;
                    f.write_str("; vm.overcommit_memory is 2 (strict), so stacks count in full")?;
                }
                f.write_str(if known {
                    ": raise that limit, or use a smaller stack size"
                } else {
                    "; the machine has no memory left, or a control group limits it"
                })
            }
            StackError::Mappings { max_map_count, guards } => write!(
                f,
                "no memory mapping left for a greenlet's stack: vm.max_map_count is {max_map_count}, and {guards} \
                 stacks are guarded by mprotect, with two mappings each: raise it with sysctl -w \
                 vm.max_map_count=N, or run on Linux 6.13 or later, whose guards need none"
            ),
            StackError::NoGuard { tried, forced } => {
                f.write_str(if *forced {
                    "the stack guard that GEVENT_STACK_GUARD demands does not work here"
                } else {
                    "no way of guarding stacks works here"
                })?;
                for (kind, why) in tried {
                    write!(f, "; {kind}: {why}")?;
                }
                if !*forced {
                    let limit = memory::max_map_count();
                    write!(f, " (the last of them needs mappings: vm.max_map_count is {limit})")?;
                }
                Ok(())
            }
            StackError::Probe { os_error } => {
                let error = io::Error::from_raw_os_error(*os_error);
                write!(f, "could not try out which stack guards work here: {error}")
            }
            StackError::NoHub { os_error } => {
                write!(f, "cannot make this thread's hub: {}", io::Error::from_raw_os_error(*os_error))
            }
            StackError::GuardSetting { value } => {
                write!(f, "GEVENT_STACK_GUARD is {value:?}; it can be install, userfault or mprotect")
            }
            StackError::SizeSetting { value } => {
                let (min, max) = (StackSize::min().bytes() >> 10, StackSize::MAX.bytes() >> 20);
                write!(
                    f,
                    "GEVENT_STACK_SIZE is {value:?}; it can be a number of bytes, or of KiB or MiB with a k or m \
                     behind it, up to {max} MiB (less than {min} KiB is rounded up)"
                )
            }
        }
    }
}

impl Error for StackError {}

impl From<StackError> for io::Error {
    fn from(error: StackError) -> io::Error {
        let kind = match error {
            StackError::Size { .. } | StackError::GuardSetting { .. } | StackError::SizeSetting { .. } => {
                io::ErrorKind::InvalidInput
            }
            StackError::Memory { .. } | StackError::Mappings { .. } => io::ErrorKind::OutOfMemory,
            StackError::NoGuard { .. } => io::ErrorKind::Unsupported,
            StackError::Probe { os_error } | StackError::NoHub { os_error } => {
                io::Error::from_raw_os_error(os_error).kind()
            }
        };
        io::Error::new(kind, error)
    }
}
