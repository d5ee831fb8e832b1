//! What a hostile review found, a test each. Those that take the process down run in a child of their own.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::threads::watchdog;
use gevent::thread;

thread_local! {
    static SEEN: RefCell<Vec<(bool, usize)>> = const { RefCell::new(Vec::new()) };
    static CHILD: RefCell<Option<gevent::AnyGreenlet>> = const { RefCell::new(None) };
}

/// Who drops it must not pass for suspended: `tree` would resume it to have its backtrace.
struct Tells;
impl Drop for Tells {
    fn drop(&mut self) {
        let nodes = gevent::observe::tree().nodes().len();
        SEEN.with_borrow_mut(|seen| seen.push((gevent::current().is_current(), nodes)));
    }
}

#[test]
fn what_a_greenlet_was_to_raise_is_not_dropped_by_one_that_passes_for_suspended() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        SEEN.with_borrow(|_| ());
        CHILD.with_borrow(|_| ());
        // First in the thread's list; the child takes its place there, so that the owner, behind it,
        // is ended first and ends the child itself.
        let filler = gevent::spawn(|| gevent::sleep(Duration::from_millis(1)));
        gevent::yield_now();
        let owner = gevent::spawn(|| {
            thread::scope(|s| {
                s.spawn(|| {
                    CHILD.set(Some(gevent::current()));
                    thread::sleep(Duration::from_millis(2));
                    gevent::enter(|me: &gevent::Me<()>| {
                        let other = me.child(|_: &gevent::Me<()>, ()| gevent::sleep(Duration::from_secs(60)));
                        let _ = me.switch(&other, ());
                    });
                });
            });
        });
        gevent::sleep(Duration::from_millis(5));
        assert!(filler.is_dead() && !owner.is_dead());
        let child = CHILD.take().unwrap();
        let _killer = gevent::spawn(move || child.kill_with(Box::new(Tells)));
        // The killer runs, then this, and the child would next.
        gevent::yield_now();
        gevent::Hub::current().shutdown();
        let seen = SEEN.take();
        assert!(!seen.is_empty() && seen.iter().all(|(current, _)| *current), "{seen:?}");
    })
    .join()
    .unwrap();
}

struct Bomb;
impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

#[test]
fn a_kill_payload_that_panics_as_it_is_dropped() {
    let _watched = watchdog();
    let bomb = Bomb;
    let greenlet = gevent::spawn(move || drop(bomb));
    assert!(catch_unwind(AssertUnwindSafe(|| greenlet.kill_with(Box::new(Bomb)))).is_ok());
    gevent::yield_now();
    std::mem::forget(greenlet);
}

#[test]
fn a_scope_whose_child_is_revoked_with_bombs() {
    struct Outer;
    impl Drop for Outer {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }
    let _watched = watchdog();
    let (tx, rx) = std::sync::mpsc::channel();
    // A scope on this thread, its child on another, which ends before the child begins.
    let result = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|s| {
            std::thread::scope(|native| {
                native.spawn(move || {
                    let outer = Outer;
                    drop(s.spawn(move || drop(outer)));
                    tx.send(()).unwrap();
                });
            });
        });
    }));
    rx.recv().unwrap();
    eprintln!("{}", result.is_err());
}

#[test]
fn a_greenlet_that_outlives_the_exit_finds_its_hub() {
    struct Hold(RefCell<Option<gevent::AnyGreenlet>>);
    impl Drop for Hold {
        fn drop(&mut self) {
            if let Some(left) = self.0.take() {
                LEFT.fetch_add(1, Relaxed);
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    gevent::enter(|me: &gevent::Me<()>| {
                        let _ = me.throw(&left, Box::new(gevent::GreenletExit));
                    });
                }));
            }
        }
    }
    static LEFT: AtomicUsize = AtomicUsize::new(0);
    thread_local! { static HOLD: Hold = const { Hold(RefCell::new(None)) } }
    fn again(rounds: usize) {
        drop(gevent::spawn(move || {
            if rounds > 0 {
                return again(rounds - 1);
            }
            let _ = gevent::timeout(Duration::from_secs(60), || {
                gevent::enter(|me: &gevent::Me<()>| {
                    let gone = me.child(|_: &gevent::Me<()>, ()| ());
                    gone.set_parent(&gevent::root()).unwrap();
                    HOLD.with(|hold| hold.0.replace(Some(gevent::current())));
                    let _ = me.switch(&gone, ());
                });
            });
        }));
    }
    struct Later(usize);
    impl Drop for Later {
        fn drop(&mut self) {
            again(self.0);
        }
    }
    let _watched = watchdog();
    for rounds in 94..=104 {
        std::thread::spawn(move || {
            HOLD.with(|_| ());
            drop(gevent::spawn(move || {
                let _later = Later(rounds);
                gevent::sleep(Duration::from_secs(60));
            }));
            gevent::yield_now();
        })
        .join()
        .unwrap();
    }
    assert!(LEFT.load(Relaxed) > 0, "some of them ran");
}

#[test]
fn a_tracers_panic_at_a_threads_exit_may_be_a_bomb() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        drop(gevent::spawn(|| gevent::sleep(Duration::from_secs(60))));
        gevent::yield_now();
        let root = gevent::root();
        gevent::settrace(Some(std::rc::Rc::new(
            move |_, _: &gevent::AnyGreenlet, to: &gevent::AnyGreenlet| {
                if to.same(&root) {
                    std::panic::panic_any(Bomb);
                }
            },
        )));
    })
    .join()
    .unwrap();
}
