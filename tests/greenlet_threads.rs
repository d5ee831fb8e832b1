//! Threads: each has its own root, and ends its own greenlets when it exits.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use common::watchdog;
use gevent::{GreenletExit, Me, RawGreenlet, current, enter, root};

/// Counts its drops across threads.
struct Shared(Arc<AtomicUsize>);

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Starts a greenlet that keeps a token on its stack, suspends it, and returns it.
fn suspended(me: &Me<()>, dropped: &Arc<AtomicUsize>) -> RawGreenlet<()> {
    let (home, token) = (me.handle(), Shared(dropped.clone()));
    let child = me.child(move |me: &Me<()>, ()| {
        let _token = token;
        me.switch(&home, ()).unwrap();
    });
    me.switch(&child, ()).unwrap();
    child
}

#[test]
fn each_thread_has_its_own_root() {
    let _watched = watchdog();
    let here = root().id();
    let ids: Vec<u64> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                assert!(current().is_root() && current() == root());
                root().id()
            })
        })
        .map(|thread| thread.join().unwrap())
        .collect();
    let distinct: std::collections::HashSet<u64> = ids.iter().copied().chain([here]).collect();
    assert_eq!(distinct.len(), 5);
}

#[test]
fn ids_are_unique_over_threads() {
    let _watched = watchdog();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                enter(|me: &Me<()>| (0..3_000).map(|_| me.child(|_, ()| ()).id()).collect::<Vec<u64>>())
            })
        })
        .collect();
    let mut ids: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 12_000);
    assert!(ids.iter().all(|&id| id > 0));
}

#[test]
fn greenlets_of_many_threads_switch_at_once() {
    let _watched = watchdog();
    let threads: Vec<_> = (0..4u64)
        .map(|seed| {
            std::thread::spawn(move || {
                enter(|me: &Me<u64>| {
                    let home = me.handle();
                    let child = me.child(move |me: &Me<u64>, mut n| {
                        loop {
                            n = me.switch(&home, n + seed).unwrap();
                        }
                    });
                    (0..20_000).fold(0, |n, _| me.switch(&child, n).unwrap())
                })
            })
        })
        .collect();
    let sums: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(sums, [0, 20_000, 40_000, 60_000]);
}

#[test]
fn live_greenlets_are_unwound_at_a_threads_exit() {
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    std::thread::spawn(move || {
        enter(|me: &Me<()>| {
            for _ in 0..10 {
                std::mem::forget(suspended(me, &count));
            }
        });
        assert_eq!(count.load(SeqCst), 0);
    })
    .join()
    .unwrap();
    assert_eq!(dropped.load(SeqCst), 10);
}

#[test]
fn those_in_a_cycle_are_unwound_too() {
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    std::thread::spawn(move || {
        enter(|me: &Me<()>| {
            let (home, token) = (me.handle(), Shared(count));
            let child = me.child(move |me: &Me<()>, ()| {
                let _itself = (me.handle(), token);
                me.switch(&home, ()).unwrap();
            });
            me.switch(&child, ()).unwrap();
        });
    })
    .join()
    .unwrap();
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn handles_in_thread_locals_are_dropped_in_peace() {
    thread_local! {
        static BEFORE: RefCell<Vec<RawGreenlet<()>>> = const { RefCell::new(Vec::new()) };
        static AFTER: RefCell<Vec<RawGreenlet<()>>> = const { RefCell::new(Vec::new()) };
    }
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    std::thread::spawn(move || {
        // One is registered for destruction before the thread's first greenlet, one after.
        BEFORE.with_borrow(|handles| assert!(handles.is_empty()));
        enter(|me: &Me<()>| {
            let (a, b, unstarted) = (suspended(me, &count), suspended(me, &count), Shared(count.clone()));
            let unstarted = me.child(move |_, ()| drop(unstarted));
            BEFORE.with_borrow_mut(|handles| handles.push(a));
            AFTER.with_borrow_mut(|handles| handles.extend([b, unstarted]));
        });
    })
    .join()
    .unwrap();
    assert_eq!(dropped.load(SeqCst), 3);
}

#[test]
fn one_that_goes_on_a_hundred_times_is_left() {
    let _watched = watchdog();
    let (dropped, rounds) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, counted) = (dropped.clone(), rounds.clone());
    std::thread::spawn(move || {
        enter(|me: &Me<()>| {
            let (home, token) = (me.handle(), Shared(count.clone()));
            let stubborn = me.child(move |me: &Me<()>, ()| {
                let _token = token;
                loop {
                    let _ = catch_unwind(AssertUnwindSafe(|| me.switch(&home, ()).unwrap()));
                    counted.fetch_add(1, SeqCst);
                }
            });
            me.switch(&stubborn, ()).unwrap();
            std::mem::forget(stubborn);
            // The others are unwound all the same.
            std::mem::forget(suspended(me, &count));
        });
    })
    .join()
    .unwrap();
    assert_eq!(dropped.load(SeqCst), 1);
    assert!((100..=102).contains(&rounds.load(SeqCst)), "{}", rounds.load(SeqCst));
}

#[test]
fn one_that_goes_on_a_few_times_ends() {
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    std::thread::spawn(move || {
        enter(|me: &Me<()>| {
            let (home, token) = (me.handle(), Shared(count));
            let child = me.child(move |me: &Me<()>, ()| {
                let _token = token;
                for _ in 0..50 {
                    let told = catch_unwind(AssertUnwindSafe(|| me.switch(&home, ())));
                    assert!(told.is_err_and(|payload| payload.is::<GreenletExit>()));
                }
            });
            me.switch(&child, ()).unwrap();
            std::mem::forget(child);
        });
    })
    .join()
    .unwrap();
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_thread_that_panics_ends_its_greenlets_as_well() {
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    let ended = std::thread::spawn(move || {
        enter(|me: &Me<()>| {
            let _dropped_while_unwinding = suspended(me, &count);
            std::mem::forget(suspended(me, &count));
            panic!("the thread's own");
        });
    })
    .join();
    assert!(ended.is_err());
    assert_eq!(dropped.load(SeqCst), 2);
}

#[test]
fn destructors_at_a_threads_exit_may_use_older_thread_locals() {
    thread_local! { static LOCAL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) } }
    struct Uses(Arc<AtomicUsize>);
    impl Drop for Uses {
        fn drop(&mut self) {
            LOCAL.with_borrow_mut(|local| local.push(1));
            self.0.fetch_add(1, SeqCst);
        }
    }
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    std::thread::spawn(move || {
        // First used after the thread's first greenlet it would be gone by then: thread-locals are
        // destroyed last first, and the thread's greenlets end as one of them.
        LOCAL.with_borrow_mut(|local| local.push(0));
        enter(|me: &Me<()>| {
            let (home, uses) = (me.handle(), Uses(count));
            let child = me.child(move |me: &Me<()>, ()| {
                let _uses = uses;
                me.switch(&home, ()).unwrap();
            });
            me.switch(&child, ()).unwrap();
            std::mem::forget(child);
        });
    })
    .join()
    .unwrap();
    assert_eq!(dropped.load(SeqCst), 1);
}
