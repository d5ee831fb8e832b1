//! A test for each bug that was found in the hub by its threads, named after what went wrong.

mod common;

use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::threads::watchdog;
use gevent::{Ended, settrace};

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
        Err(Ended::Panicked(payload)) => assert_eq!(common::threads::message(&*payload), "in the drop"),
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
        assert_eq!(common::threads::message(&*raised.unwrap_err()), "in the tracer");
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
    gevent::Hub::current(); // without one a yield is nothing
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

struct FailsToDrop;

impl Drop for FailsToDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in the drop");
        }
    }
}

/// The drop of what a greenlet returned and nobody joins ran where a panic aborts the process.
#[test]
fn a_result_that_nobody_joins_may_panic_when_it_is_dropped() {
    let Some(printed) = common::in_child("a_result_that_nobody_joins_may_panic_when_it_is_dropped") else {
        let _watched = watchdog();
        let told = common::Log::new();
        let out = told.clone();
        gevent::Hub::current().on_error(move |failure| out.push(failure.message().to_owned()));
        drop(gevent::spawn(|| FailsToDrop));
        gevent::sleep(Duration::from_millis(1));
        assert_eq!(told.take(), ["in the drop"]);
        assert_eq!(gevent::spawn(|| 1).join().unwrap(), 1);
        return;
    };
    assert!(printed.contains("panicked: in the drop; its hub goes on"), "{printed}");
}

/// The same, for what a greenlet panicked with, and for what it was killed with after it had ended its waits.
#[test]
fn a_payload_that_nobody_takes_may_panic_when_it_is_dropped() {
    let Some(_) = common::in_child("a_payload_that_nobody_takes_may_panic_when_it_is_dropped") else {
        let _watched = watchdog();
        drop(gevent::spawn(|| std::panic::panic_any(FailsToDrop)));
        gevent::sleep(Duration::from_millis(1));
        // Woken by the other's end, when the kill comes: that stays pending, and it ends without another wait.
        let other = gevent::spawn(gevent::yield_now).handle();
        let woken = gevent::spawn(move || other.wait(None));
        let handle = woken.handle();
        let killer = gevent::spawn(move || {
            gevent::yield_now();
            assert_eq!(handle.state(), gevent::State::Ready);
            handle.kill_with(Box::new(FailsToDrop));
        });
        killer.join().unwrap();
        assert!(woken.join().unwrap());
        gevent::sleep(Duration::from_millis(1));
        assert_eq!(gevent::spawn(|| 1).join().unwrap(), 1);
        return;
    };
}

/// Between the end of a wait and its return other greenlets' leftovers are dropped. A drop that waits there
/// took the outer wait's grant away: a read was cancelled, a token lost; after a shared wait nothing woke it.
#[test]
fn a_drop_that_waits_where_a_wait_ends_leaves_that_wait_whole() {
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            gevent::sleep(Duration::from_millis(1));
        }
    }
    /// Wakes somebody, who then is the one to drop a `Waits`: the value of a greenlet whose parent takes none now.
    fn wake_and_leave(wake: impl FnOnce() + 'static) {
        drop(gevent::spawn(|| {
            gevent::enter(|me: &gevent::Me<Waits>| {
                let child = me.child(|_: &gevent::Me<()>, ()| Waits);
                let starts = gevent::spawn(move || {
                    wake();
                    let _ = gevent::enter(|me: &gevent::Me<()>| me.switch(&child, ()));
                });
                gevent::sleep(Duration::from_millis(20)); // in the hub it takes nothing
                starts.kill();
            })
        }));
        gevent::sleep(Duration::from_millis(50));
    }
    use std::io::{Read, Write};
    let _watched = watchdog();
    let (mut here, mut there) = gevent::os::unix::net::UnixStream::pair().unwrap();
    let reader = gevent::spawn(move || here.read_exact(&mut [0]));
    let parked = gevent::thread::spawn(|| {
        gevent::thread::park();
        gevent::thread::park();
    });
    gevent::yield_now();
    wake_and_leave(move || there.write_all(b"x").unwrap());
    assert!(reader.ready());
    reader.join().unwrap().unwrap();
    let thread = parked.thread().clone();
    wake_and_leave(move || thread.unpark());
    parked.thread().unpark();
    gevent::timeout(Duration::from_secs(5), || parked.join()).expect("both tokens came").unwrap();
}

/// A thread that sent something and ended at once was counted as gone before what it sent was seen.
#[test]
fn a_message_of_a_thread_that_has_ended_is_no_deadlock() {
    let Some(_) = common::in_child("a_message_of_a_thread_that_has_ended_is_no_deadlock") else {
        common::alone(|| {
            gevent::Hub::current();
            for _ in 0..3000 {
                let me = gevent::thread::current();
                drop(std::thread::spawn(move || me.unpark()));
                gevent::thread::park();
            }
        });
        return;
    };
}

/// A kill of oneself unwound out of `no_unwind`.
#[test]
fn a_kill_of_oneself_waits_for_the_end_of_no_unwind() {
    let _watched = watchdog();
    let inside = Rc::new(std::cell::Cell::new(false));
    let after = Rc::new(std::cell::Cell::new(false));
    let (one, two) = (inside.clone(), after.clone());
    let greenlet = gevent::spawn(move || {
        gevent::no_unwind(|| {
            gevent::current().kill();
            one.set(true);
        });
        gevent::yield_now();
        two.set(true);
    });
    assert!(matches!(greenlet.join(), Err(Ended::Killed)));
    assert_eq!((inside.get(), after.get()), (true, false));
}

/// A timeout too long for the clock was a panic, on threads without a hub.
#[test]
fn a_socket_timeout_without_end_waits_without_end() {
    use std::io::{Read, Write};
    let _watched = watchdog();
    let (mut here, mut there) = gevent::os::unix::net::UnixStream::pair().unwrap();
    here.set_read_timeout(Some(Duration::MAX)).unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        there.write_all(b"x").unwrap();
        there
    });
    let mut byte = [0];
    here.read_exact(&mut byte).unwrap();
    writer.join().unwrap();
}

/// Threads were counted once, as the root began to wait: one that ended after that, and had nothing to say,
/// left the root waiting for ever.
#[test]
fn a_thread_that_ends_without_a_word_leaves_a_deadlock() {
    let Some(_) = common::in_child("a_thread_that_ends_without_a_word_leaves_a_deadlock") else {
        common::alone(|| {
            gevent::Hub::current();
            drop(std::thread::spawn(|| std::thread::sleep(Duration::from_millis(50))));
            let told = common::raised(gevent::thread::park);
            assert!(common::text(&*told).starts_with("this operation would block forever"));
        });
        return;
    };
}

/// A look at a greenlet that had little left of its stack took that and went on: an overflow, and the end.
#[test]
fn a_greenlet_with_little_stack_left_is_not_looked_at_there() {
    #[inline(never)]
    fn down_to(end: usize) {
        let here = std::hint::black_box([0u8; 64]);
        if here.as_ptr().addr() > end {
            down_to(end);
        } else {
            gevent::sleep(Duration::from_secs(3600));
        }
        std::hint::black_box(&here);
    }
    let _watched = watchdog();
    let size = gevent::StackSize::new(1).unwrap();
    let parked_with = |left: usize| {
        let greenlet = gevent::Builder::new().stack_size(size).spawn(move || {
            let top = std::hint::black_box([0u8; 64]);
            down_to(top.as_ptr().addr() - size.usable() + left);
        });
        gevent::yield_now();
        greenlet.unwrap()
    };
    let (deep, other) = (parked_with(8 * 1024), parked_with(24 * 1024));
    assert!(deep.backtrace().is_none());
    assert!(other.backtrace().is_some());
    let tree = gevent::observe::tree();
    let node = tree.nodes().iter().find(|node| node.id == deep.id()).unwrap();
    assert_eq!(node.backtrace, "");
    deep.kill();
    other.kill();
}

/// A hub that a thread-local's destructor made after the thread's own had ended was never freed: two
/// descriptors a thread.
#[test]
fn a_hub_made_by_a_thread_locals_destructor_goes_too() {
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            gevent::sleep(Duration::from_millis(1));
            drop(gevent::spawn(|| gevent::sleep(Duration::from_secs(3600))));
            gevent::yield_now();
        }
    }
    thread_local! { static FIRST: Waits = const { Waits }; }
    let Some(_) = common::in_child("a_hub_made_by_a_thread_locals_destructor_goes_too") else {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for _ in 0..20 {
            let thread = std::thread::spawn(|| {
                FIRST.with(|_| ()); // first made, last destroyed
                gevent::spawn(gevent::yield_now).join().unwrap();
            });
            thread.join().unwrap();
        }
        assert_eq!(open(), before);
        return;
    };
}
