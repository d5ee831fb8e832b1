//! Which hubs have registered which descriptor: one small word for each number, process-wide.
//!
//! A hub's registration is its thread's own, but a socket may be closed on any thread, and the
//! number given out again at once. So each number has a *generation*, raised when its descriptor is
//! closed, and a set of the hubs whose epoll knows it. Closing asks here; a number that no hub
//! knows costs one load.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::remote::Shared;

const CHUNK: usize = 1024;
const CHUNKS: usize = 4096;

#[derive(Default)]
struct Entry {
    generation: AtomicU32,
    /// A bit for each of [`SLOTS`].
    hubs: AtomicU64,
}

static TABLE: [OnceLock<Box<[Entry]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

/// The hubs by slot; past 63 hubs they share the last.
static SLOTS: Mutex<[Vec<Arc<Shared>>; 64]> = Mutex::new([const { Vec::new() }; 64]);

fn slots() -> std::sync::MutexGuard<'static, [Vec<Arc<Shared>>; 64]> {
    SLOTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn entry(fd: RawFd) -> Option<&'static Entry> {
    let fd = usize::try_from(fd).ok()?;
    let chunk = TABLE.get(fd / CHUNK)?.get_or_init(|| (0..CHUNK).map(|_| Entry::default()).collect());
    chunk.get(fd % CHUNK)
}

/// Gives a hub a slot, for as long as it lives.
pub(super) fn join(hub: &Arc<Shared>) -> u8 {
    let mut slots = slots();
    let slot = (0..63).find(|&slot| slots[slot].is_empty()).unwrap_or(63);
    slots[slot].push(hub.clone());
    slot as u8
}

pub(super) fn leave(hub: &Arc<Shared>) {
    for slot in slots().iter_mut() {
        slot.retain(|other| !Arc::ptr_eq(other, hub));
    }
}

/// Notes that a hub registers this number, and says its generation; `None` for numbers too large.
pub(super) fn register(fd: RawFd, slot: u8) -> Option<u32> {
    let entry = entry(fd)?;
    entry.hubs.fetch_or(1 << slot, Ordering::AcqRel);
    Some(entry.generation.load(Ordering::Acquire))
}

/// The number's generation now.
#[inline]
pub(super) fn generation(fd: RawFd) -> u32 {
    entry(fd).map_or(0, |entry| entry.generation.load(Ordering::Acquire))
}

/// Whether any hub knows the number.
#[inline]
pub(super) fn is_known(fd: RawFd) -> bool {
    let known = |fd: usize| {
        let chunk = TABLE.get(fd / CHUNK)?.get()?;
        Some(chunk[fd % CHUNK].hubs.load(Ordering::Acquire) != 0)
    };
    usize::try_from(fd).ok().and_then(known).unwrap_or(false)
}

/// The descriptor is about to be closed: raises the generation, and returns the hubs that know it.
pub(super) fn close(fd: RawFd) -> Vec<Arc<Shared>> {
    let Some(entry) = entry(fd) else { return Vec::new() };
    entry.generation.fetch_add(1, Ordering::AcqRel);
    let hubs = entry.hubs.swap(0, Ordering::AcqRel);
    if hubs == 0 {
        return Vec::new();
    }
    let slots = slots();
    (0..64).filter(|slot| hubs & (1 << slot) != 0).flat_map(|slot| slots[slot].iter().cloned()).collect()
}
