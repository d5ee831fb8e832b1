//! `settrace`: told of each switch of the thread, in the target, after it.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::{raised, raised_as, watchdog};
use gevent::{GreenletExit, Me, SwitchError, TraceEvent, Tracer, current, enter, gettrace, settrace};

type Log = Rc<RefCell<Vec<(TraceEvent, u64, u64)>>>;

/// A tracer that writes down what it is told, and that it is told in the target.
fn logger() -> (Tracer, Log) {
    let log = Log::default();
    let inner = log.clone();
    let tracer: Tracer = Rc::new(move |event, from, to| {
        assert_eq!(current(), *to);
        inner.borrow_mut().push((event, from.id(), to.id()));
    });
    (tracer, log)
}

use TraceEvent::{Switch, Throw};

#[test]
fn it_returns_the_one_before() {
    let _watched = watchdog();
    assert!(gettrace().is_none());
    let (a, _) = logger();
    let (b, _) = logger();
    assert!(settrace(Some(a.clone())).is_none());
    assert!(Rc::ptr_eq(&gettrace().unwrap(), &a));
    assert!(Rc::ptr_eq(&settrace(Some(b.clone())).unwrap(), &a));
    assert!(Rc::ptr_eq(&settrace(None).unwrap(), &b));
    assert!(gettrace().is_none());
}

#[test]
fn it_is_of_this_thread_alone() {
    let _watched = watchdog();
    let (tracer, _) = logger();
    settrace(Some(tracer));
    std::thread::spawn(|| assert!(gettrace().is_none())).join().unwrap();
    settrace(None);
}

#[test]
fn starts_switches_and_ends_are_told_with_both_sides() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| me.switch(&home, ()).unwrap());
        let (tracer, log) = logger();
        settrace(Some(tracer));
        me.switch(&child, ()).unwrap();
        me.switch(&child, ()).unwrap();
        settrace(None);
        me.switch(&me.handle(), ()).unwrap();
        let (root, child) = (me.id(), child.id());
        let there_and_back = [(Switch, root, child), (Switch, child, root)];
        assert_eq!(*log.borrow(), [there_and_back, there_and_back].concat());
    });
}

#[test]
fn throws_panics_and_kills_are_told_apart_from_switches() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let make = || {
            let home = me.handle();
            let child = me.child(move |me: &Me<()>, ()| me.switch(&home, ()).unwrap());
            me.switch(&child, ()).unwrap();
            child
        };
        let (a, b) = (make(), make());
        let panics = me.child(|_, ()| panic!("told as a throw"));
        let (tracer, log) = logger();
        settrace(Some(tracer));
        let _ = me.throw(&a, Box::new(GreenletExit)); // in by a throw, out by a switch: it is no panic
        raised(|| me.throw(&b, Box::new("raised"))); // in and out by a throw
        raised(|| me.switch(&panics, ())); // in by a switch, out by a throw
        settrace(None);
        let root = me.id();
        assert_eq!(
            *log.borrow(),
            [
                (Throw, root, a.id()),
                (Switch, a.id(), root),
                (Throw, root, b.id()),
                (Throw, b.id(), root),
                (Switch, root, panics.id()),
                (Throw, panics.id(), root),
            ]
        );
    });
}

#[test]
fn a_switch_to_itself_is_none() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let (tracer, log) = logger();
        settrace(Some(tracer));
        me.switch(&me.handle(), 1).unwrap();
        raised(|| me.throw(me, Box::new(1)));
        settrace(None);
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn a_refused_switch_is_none() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let child = me.child(|_, n: u8| n);
        me.switch(&child, 1).unwrap();
        let (tracer, log) = logger();
        settrace(Some(tracer));
        assert!(me.switch(&child, 1).is_err() && me.throw(&child, Box::new(1)).is_err());
        settrace(None);
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn a_tracer_may_not_switch() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let child = me.child(|_, n: u8| n + 1);
        let other = me.child(|_, n: u8| n);
        let (target, refused) = (other.clone(), Rc::new(Cell::new(0)));
        let count = refused.clone();
        settrace(Some(Rc::new(move |_, _, _| {
            enter(|me: &Me<u8>| {
                assert!(matches!(me.switch(&target, 9), Err(SwitchError::Tracing(9))));
                let thrown = me.throw(&target, Box::new(GreenletExit));
                assert!(matches!(thrown, Err(SwitchError::Tracing(_))));
                count.set(count.get() + 1);
            });
        })));
        assert_eq!(me.switch(&child, 1).unwrap(), 2);
        settrace(None);
        assert_eq!(refused.get(), 2);
        assert!(!other.is_started());
        // Once it is gone, all is as before.
        assert_eq!(me.switch(&other, 5).unwrap(), 5);
    });
}

#[test]
fn a_tracer_that_panics_is_removed_and_the_target_raises_it() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<u8>, _| {
            let raised = raised_as::<&str, _>(|| me.switch(&home, 1));
            assert_eq!(raised, "from the tracer");
            assert!(gettrace().is_none());
            7
        });
        me.switch(&child, 0).unwrap();
        settrace(Some(Rc::new(|_, _, to| {
            if !to.is_root() {
                std::panic::panic_any("from the tracer");
            }
        })));
        assert_eq!(me.switch(&child, 0).unwrap(), 7);
        assert!(gettrace().is_none());
    });
}

#[test]
fn a_tracer_that_panics_at_a_start_ends_the_greenlet_without_running_it() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let child = me.child(|_, _: u8| unreachable!("it never runs"));
        settrace(Some(Rc::new(|_, _, _| std::panic::panic_any(5u32))));
        assert_eq!(raised_as::<u32, _>(|| me.switch(&child, 0)), 5);
        assert!(gettrace().is_none() && child.is_dead());
    });
}

#[test]
fn a_tracer_may_remove_or_replace_itself() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| ());
        let (second, log) = logger();
        settrace(Some(Rc::new(move |_, _, _| drop(settrace(Some(second.clone()))))));
        me.switch(&child, ()).unwrap();
        settrace(None);
        assert_eq!(*log.borrow(), [(Switch, child.id(), me.id())]);
    });
}

#[test]
fn a_tracer_may_drop_the_last_handle_of_a_suspended_greenlet() {
    let _watched = watchdog();
    let drops = common::Drops::new();
    enter(|me: &Me<()>| {
        let (home, token) = (me.handle(), drops.token());
        let suspended = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            me.switch(&home, ()).unwrap();
        });
        me.switch(&suspended, ()).unwrap();
        let last = RefCell::new(Some(suspended));
        let counted = drops.clone();
        settrace(Some(Rc::new(move |_, _, _| {
            let dropped = last.borrow_mut().take();
            if dropped.is_some() {
                drop(dropped);
                assert_eq!(counted.count(), 0, "not in the tracer itself");
            }
        })));
        let child = me.child(|_, ()| ());
        me.switch(&child, ()).unwrap();
        settrace(None);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn tracing_changes_no_value() {
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<u64>, mut n| {
            loop {
                n = me.switch(&home, n * 2).unwrap_or(0);
            }
        });
        let (tracer, log) = logger();
        for n in 0..1_000 {
            if n % 3 == 0 {
                settrace((n % 2 == 0).then(|| tracer.clone()));
            }
            assert_eq!(me.switch(&child, n).unwrap(), n * 2);
        }
        settrace(None);
        assert!(log.borrow().len() > 900);
        let _ = catch_unwind(AssertUnwindSafe(|| me.throw(&child, Box::new(GreenletExit))));
    });
}
