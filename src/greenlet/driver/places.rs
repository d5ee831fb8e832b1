//! Places for control blocks: side by side, warm ones first, never given back to the allocator.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::block::Block;
use super::{DRIVER, Driver};

/// A place for a control block: the one that was freed last, so that it is warm.
///
/// Places are made 64 at a time, side by side, and never given back to the allocator: they go from
/// thread to thread ([`thread_exit`]).
pub(in crate::greenlet) fn block_place() -> NonNull<Block> {
    DRIVER.with(|d| {
        let free = d.places.borrow_mut().pop();
        free.unwrap_or_else(|| more_places(d))
    })
}

pub(in crate::greenlet) fn free_block_place(place: NonNull<Block>) {
    DRIVER.with(|d| d.places.borrow_mut().push(place));
}

/// Places of threads that have ended.
struct Places(Vec<NonNull<Block>>);
// SAFETY: a free place is bare memory that nobody else points to.
unsafe impl Send for Places {}
static PLACES: Mutex<Places> = Mutex::new(Places(Vec::new()));

fn shared_places() -> MutexGuard<'static, Places> {
    // Nothing under the lock panics.
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cold]
fn more_places(d: &Driver) -> NonNull<Block> {
    const CHUNK: usize = 64;
    let mut places = d.places.borrow_mut();
    {
        let shared = &mut shared_places().0;
        let rest = shared.len().saturating_sub(CHUNK);
        places.extend(shared.drain(rest..));
    }
    if places.is_empty() {
        let chunk: &'static mut [MaybeUninit<Block>] = Box::leak(Box::new_uninit_slice(CHUNK));
        places.extend(chunk.iter_mut().rev().map(|place| NonNull::from(place).cast()));
    }
    places.pop().expect("just filled")
}

/// This thread's free places go to others.
pub(super) fn thread_exit() {
    let free = DRIVER.with(|d| std::mem::take(&mut **d.places.borrow_mut()));
    shared_places().0.extend(free);
}
