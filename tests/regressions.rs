//! A test for each bug that was found, named after what went wrong.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::{Drops, OnDrop, raised, raised_as, watchdog};
use gevent::{Generator, GreenletExit, Me, RawGreenlet, SwitchError, TraceEvent, enter, settrace};

/// User code that ran in the middle of a `throw` (the drop of what an unstarted parent captured) and
/// switched there left the thrower suspended without a landing: a null write by the next sender.
#[test]
fn a_switch_in_a_drop_in_the_middle_of_a_throw_keeps_the_throwers_landing() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let (home, inner) = (me.handle(), Rc::new(RefCell::new(None::<RawGreenlet<u64>>)));
        let (seen, dropped) = (inner.clone(), Rc::new(Cell::new(false)));
        let ran = dropped.clone();
        // Its drop switches, as the thrower.
        let guard = OnDrop::new(move || {
            enter(|me: &Me<u64>| {
                *seen.borrow_mut() = Some(me.handle());
                let other = me.child(|_, n: u64| n + 1);
                assert_eq!(me.switch(&other, 1).unwrap(), 2);
            });
            ran.set(true);
        });
        let waits = me.child(move |me: &Me<Result<u8, ()>>, _| {
            // The thrower's child tells it, through a parent that never ran.
            let told = catch_unwind(AssertUnwindSafe(|| me.switch(&home, 1))).is_err();
            assert!(told);
            // The thrower waits as what it was when it threw.
            if let Some(wrong) = inner.borrow().as_ref() {
                assert!(matches!(me.switch(wrong, 7), Err(SwitchError::OtherType(7))));
            }
            let _ = me.switch(&home, 2).unwrap();
            3
        });
        assert_eq!(me.switch(&waits, Ok(0)).unwrap(), 1);
        let middle = me.child(move |_, n: u8| {
            let _guard = &guard;
            n
        });
        middle.set_parent(&waits).unwrap();
        let target = me.child(|_, n: u8| n);
        target.set_parent(&middle).unwrap();
        drop(middle);
        assert_eq!(me.throw(&target, Box::new("told")).unwrap(), 2);
        assert!(dropped.get());
        assert_eq!(me.switch(&waits, Ok(0)).unwrap(), 3);
    });
}

/// A line of parents, held by nothing but the last child, was freed by recursion.
#[test]
fn a_long_line_of_parents_is_freed_without_recursion() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<u8>| {
        let mut last = me.child(|_, n: u8| n);
        for _ in 0..100_000 {
            let token = drops.token();
            let next = me.child(move |_, n: u8| {
                let _token = &token;
                n
            });
            next.set_parent(&last).unwrap();
            last = next;
        }
        drop(last);
        assert_eq!(drops.count(), 100_000);
    });
    // The same with suspended ones, in a greenlet's small stack.
    let drops = Drops::new();
    let counted = drops.clone();
    enter(|me: &Me<()>| {
        let home = me.handle();
        let work = me.child(move |me: &Me<()>, ()| {
            let mut last: Option<RawGreenlet<()>> = None;
            for _ in 0..5_000 {
                let (back, token) = (me.handle(), counted.token());
                let next = me.child(move |me: &Me<()>, ()| {
                    let _token = token;
                    me.switch(&back, ()).unwrap();
                });
                if let Some(last) = last {
                    next.set_parent(&last).unwrap();
                }
                me.switch(&next, ()).unwrap();
                last = Some(next);
            }
            drop(last);
            me.switch(&home, ()).unwrap();
        });
        me.switch(&work, ()).unwrap();
        assert_eq!(drops.count(), 5_000);
    });
}

/// `Body` was covariant in what the greenlet takes, so that a body could be given that takes more
/// general functions than are sent. That this does not compile is a doctest of `Body`; here, that
/// the rest still does.
#[test]
fn a_body_takes_exactly_what_is_sent() {
    let _watched = watchdog();
    enter(|me: &Me<usize>| {
        let (child, body) = me.declare::<fn(&'static str) -> usize>();
        body.run(|_, f| f("four"));
        assert_eq!(me.switch(&child, |text| text.len()).unwrap(), 4);
    });
}

/// A throw that came back to the thrower itself, through a child that never ran, made a tracer take
/// the next switch for a throw.
#[test]
fn a_throw_that_returns_to_the_thrower_is_not_the_next_event() {
    let _watched = watchdog();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    enter(|me: &Me<()>| {
        let unstarted = me.child(|_, ()| ());
        let other = me.child(|_, ()| ());
        settrace(Some(Rc::new(move |event, _, to| log.borrow_mut().push((event, to.id())))));
        assert_eq!(raised_as::<u8, _>(|| me.throw(&unstarted, Box::new(5u8))), 5);
        me.switch(&other, ()).unwrap();
        settrace(None);
        assert_eq!(*seen.borrow(), [(TraceEvent::Switch, other.id()), (TraceEvent::Switch, me.id())]);
    });
}

/// The drop of a generator that catches every unwind and yields again never returned.
#[test]
fn a_dropped_generator_that_goes_on_yielding_is_left() {
    let _watched = watchdog();
    let rounds = Rc::new(Cell::new(0u32));
    let counted = rounds.clone();
    let mut generator = Generator::<(), u32>::new(move |outside, ()| {
        loop {
            let _ = catch_unwind(AssertUnwindSafe(|| outside.send(1)));
            counted.set(counted.get() + 1);
            assert!(counted.get() < 10_000, "never left");
        }
    });
    generator.next();
    drop(generator);
    assert!((100..200).contains(&rounds.get()), "{}", rounds.get());
}

/// A panic in the drop of what an unstarted parent had captured ended the process.
#[test]
fn a_panic_in_the_drop_of_an_unstarted_parent_does_not_abort() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let guard = OnDrop::new(|| panic!("in a drop"));
        let middle = me.child(move |_, n: u8| {
            let _guard = &guard;
            n
        });
        let child = me.child(|_, _: u8| -> u8 { std::panic::panic_any(3u64) });
        child.set_parent(&middle).unwrap();
        drop(middle);
        assert_eq!(raised_as::<u64, _>(|| me.switch(&child, 1)), 3);
    });
}

/// The same for the value that a dropped greenlet ends with.
#[test]
fn a_panic_in_the_drop_of_the_result_of_a_dropped_greenlet_does_not_abort() {
    struct Bomb(bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.0, "in the drop of a result");
        }
    }
    let _watched = watchdog();
    enter(|me: &Me<Bomb>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            assert!(raised(|| me.switch(&home, Bomb(false)).unwrap()).is::<GreenletExit>());
            Bomb(true) // to nobody: it is dropped
        });
        drop(me.switch(&child, ()).unwrap());
        drop(child);
    });
}

/// While a greenlet was in the drop of such a value, nothing could end it: who waited for its end
/// waited for ever.
#[test]
fn a_greenlet_suspended_in_the_drop_of_its_result_can_be_dropped() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<u8>| {
        let (home, token) = (me.handle(), drops.token());
        // Ends with a panic that never reaches the root: its parent never ran, and holds a guard
        // whose drop switches away.
        let (away, told) = (me.handle(), Rc::new(Cell::new(false)));
        let tell = told.clone();
        let guard = OnDrop::new(move || {
            let _token = token;
            enter(|me: &Me<()>| {
                let _ = me.switch(&away, 9);
            });
            tell.set(true);
        });
        let middle = me.child(move |_, n: u8| {
            let _guard = &guard;
            n
        });
        let child = me.child(|_, _: u8| -> u8 { std::panic::panic_any(3u64) });
        child.set_parent(&middle).unwrap();
        drop(middle);
        let _ = catch_unwind(AssertUnwindSafe(|| me.switch(&child, 1)));
        drop(child);
        let again = me.child(|_, n: u8| n);
        assert_eq!(me.switch(&again, 5).unwrap(), 5);
        drop(home);
        assert_eq!(drops.count(), 1);
    });
}

/// A tracer that panicked while a thread's greenlets were ended brought the process down.
#[test]
fn a_tracer_that_panics_at_thread_exit_is_removed() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        enter(|me: &Me<()>| {
            let home = me.handle();
            let child = me.child(move |me: &Me<()>, ()| me.switch(&home, ()).unwrap());
            me.switch(&child, ()).unwrap();
            std::mem::forget(child);
        });
        settrace(Some(Rc::new(|_, _, to| assert!(!to.is_root(), "a tracer that fails at the root"))));
    })
    .join()
    .unwrap();
}

/// A handle taken from a weak one after the last reference was gone, but before the greenlet was
/// unwound, was of a greenlet that was then ended all the same.
#[test]
fn a_greenlet_found_again_before_it_was_unwound_lives_on() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<u8>, n| me.switch(&home, n).unwrap() + 1);
        let weak = child.downgrade();
        assert_eq!(me.switch(&child, 1).unwrap(), 1);
        raised(move || {
            let _child = child;
            panic!("drops it while it unwinds")
        });
        let child = weak.upgrade().expect("not unwound yet");
        assert_eq!(me.switch(&me.handle(), 3).unwrap(), 3);
        assert!(child.is_active());
        assert_eq!(me.switch(&child, 4).unwrap(), 5);
        assert!(child.is_dead());
    });
}

/// A `Hub` kept in a thread-local that outlived the hub pointed to freed memory.
#[test]
fn a_hub_that_is_kept_past_the_end_of_its_thread_sees_the_next_one() {
    use std::cell::RefCell;
    let _watched = watchdog();
    struct Kept(RefCell<Option<gevent::Hub>>);
    impl Drop for Kept {
        fn drop(&mut self) {
            let hub = self.0.take().expect("stored");
            assert_eq!(hub.ready_count(), 0);
            SEEN.store(hub.id(), std::sync::atomic::Ordering::SeqCst);
        }
    }
    static SEEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    thread_local! { static KEPT: Kept = const { Kept(RefCell::new(None)) } }
    let first = std::thread::spawn(|| {
        // Touched before the hub is there, so destroyed after it.
        KEPT.with(|kept| {
            let hub = gevent::Hub::current();
            *kept.0.borrow_mut() = Some(hub);
            hub.id()
        })
    })
    .join()
    .unwrap();
    assert!(SEEN.load(std::sync::atomic::Ordering::SeqCst) > first, "another hub, not the freed one");
}
