//! A test for each bug that was found in the hub by its threads, named after what went wrong.

mod threads;

use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gevent::{Ended, settrace};
use threads::watchdog;

/// A greenlet that was killed before its start drops its closure; a panic of that drop aborted the
/// process.
#[test]
fn a_drop_that_panics_in_a_greenlet_that_never_ran_is_its_panic() {
    struct Fails;
    impl Drop for Fails {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("in the drop");
            }
        }
    }
    let _watched = watchdog();
    let fails = Fails;
    let greenlet = gevent::spawn(move || drop(fails));
    greenlet.kill();
    match greenlet.join() {
        Err(Ended::Panicked(payload)) => assert_eq!(threads::message(&*payload), "in the drop"),
        other => panic!("{other:?}"),
    }
}

/// A tracer's panic came out of a wait that other threads may end, and left it open: the word of the
/// next wait was looked for in the wrong place, and nothing woke that one any more.
#[test]
fn a_panic_of_a_tracer_in_a_park_leaves_the_next_wait_whole() {
    let _watched = watchdog();
    let parked = gevent::thread::spawn(|| {
        let raised = catch_unwind(gevent::thread::park);
        assert_eq!(threads::message(&*raised.unwrap_err()), "in the tracer");
        let begun = Instant::now();
        gevent::yield_now();
        gevent::sleep(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20));
    });
    gevent::yield_now();
    settrace(Some(Rc::new(|_, _, to| {
        if !to.is_root() {
            panic!("in the tracer");
        }
    })));
    parked.thread().unpark();
    parked.join().unwrap();
}

/// The rare looks that quick turns allow were given up by halves, so timers stayed late for a hundred slow turns.
#[test]
fn slow_turns_after_quick_ones_hold_up_one_look_only() {
    let _watched = watchdog();
    for _ in 0..10_000 {
        gevent::yield_now();
    }
    let turns = Rc::new(std::cell::Cell::new(0));
    let count = turns.clone();
    let slow = gevent::spawn(move || {
        loop {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(6) {}
            count.set(count.get() + 1);
            gevent::yield_now();
        }
    });
    gevent::sleep(Duration::from_millis(1));
    let before = turns.get();
    gevent::sleep(Duration::from_millis(1));
    assert!(turns.get() - before <= 3, "{} turns of 6 ms each", turns.get() - before);
    slow.kill();
}
