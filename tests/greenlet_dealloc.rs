//! The last reference: a suspended greenlet that nobody holds is unwound, whoever lets it go.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::{Drops, OnDrop, Token, raised, watchdog};
use gevent::{GreenletExit, Me, RawGreenlet, SwitchError, WeakGreenlet, current, enter};

/// A child that has started, holds a token on its stack, and is suspended.
fn suspended(me: &Me<()>, drops: &Drops) -> RawGreenlet<()> {
    let (home, token) = (me.handle(), drops.token());
    let child = me.child(move |me: &Me<()>, ()| {
        let _token = token;
        me.switch(&home, ()).unwrap();
    });
    me.switch(&child, ()).unwrap();
    assert!(child.is_active());
    child
}

/// Any switch: what was put off is done there.
fn switch_once(me: &Me<()>) {
    me.switch(&me.handle(), ()).unwrap();
}

#[test]
fn the_last_handle_unwinds_before_its_drop_returns() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let child = suspended(me, &drops);
        let (second, weak) = (child.clone(), child.downgrade());
        drop(child);
        assert_eq!(drops.count(), 0);
        assert!(weak.upgrade().is_some());
        drop(second);
        assert_eq!(drops.count(), 1);
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn an_untyped_handle_holds_as_well() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let child = suspended(me, &drops);
        let any = (*child).clone();
        drop(child);
        assert_eq!(drops.count(), 0);
        drop(any);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn it_sees_greenlet_exit() {
    let _watched = watchdog();
    let seen = Rc::new(Cell::new(false));
    enter(|me: &Me<()>| {
        let (home, saw) = (me.handle(), seen.clone());
        let child = me.child(move |me: &Me<()>, ()| {
            let payload = raised(|| me.switch(&home, ()));
            saw.set(payload.is::<GreenletExit>());
            std::panic::resume_unwind(payload)
        });
        me.switch(&child, ()).unwrap();
    });
    assert!(seen.get());
}

#[test]
fn an_unstarted_one_drops_what_it_captured_and_runs_nothing() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let token = drops.token();
        drop(me.child(move |_, ()| {
            let _token = &token;
            unreachable!("it never runs");
        }));
        assert_eq!(drops.count(), 1);
        let (greenlet, body) = me.declare::<()>();
        let token = drops.token();
        body.run(move |_, ()| drop(token));
        drop(greenlet);
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn what_a_body_captured_is_dropped_once_however_it_ends() {
    let _watched = watchdog();
    for how in 0..4 {
        let drops = Drops::new();
        enter(|me: &Me<()>| {
            let (home, by_ref, by_value) = (me.handle(), drops.token(), drops.token());
            let child = me.child(move |me: &Me<()>, ()| {
                let _ = &by_ref;
                match how {
                    0 => drop(by_value),
                    1 => panic!("ends by a panic"),
                    2 => std::mem::forget(me.switch(&home, ())),
                    _ => drop((by_value, me.switch(&home, ()))),
                }
            });
            let _ = catch_unwind(AssertUnwindSafe(|| me.switch(&child, ())));
            if how == 3 {
                me.switch(&child, ()).unwrap();
            }
            drop(child);
        });
        assert_eq!((drops.count(), drops.alive()), (2, 0), "way {how} to end");
    }
}

#[test]
fn dropped_while_unwinding_it_is_unwound_at_the_next_switch() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let child = suspended(me, &drops);
        raised(move || {
            let _child = child;
            panic!("drops it")
        });
        assert_eq!(drops.count(), 0);
        switch_once(me);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn ten_thousand_dropped_while_unwinding() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let greenlets: Vec<_> = (0..10_000).map(|_| suspended(me, &drops)).collect();
        raised(move || {
            let _greenlets = greenlets;
            panic!("drops them")
        });
        assert_eq!(drops.count(), 0);
        switch_once(me);
        assert_eq!(drops.count(), 10_000);
    });
}

#[test]
fn held_by_another_greenlets_stack_it_goes_with_that_one() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let inner = suspended(me, &drops);
        let (home, token) = (me.handle(), drops.token());
        let outer = me.child(move |me: &Me<()>, ()| {
            let _held = (inner, token);
            me.switch(&home, ()).unwrap();
        });
        me.switch(&outer, ()).unwrap();
        drop(outer);
        // The inner one's handle went while the outer one unwound; the drop saw to both.
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn a_nest_of_a_hundred_goes_together() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let mut held = suspended(me, &drops);
        for _ in 0..99 {
            let (home, token) = (me.handle(), drops.token());
            let outer = me.child(move |me: &Me<()>, ()| {
                let _held = (held, token);
                me.switch(&home, ()).unwrap();
            });
            me.switch(&outer, ()).unwrap();
            held = outer;
        }
        drop(held);
        assert_eq!(drops.count(), 100);
    });
}

#[test]
fn the_target_itself_lets_its_last_handle_go() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let own: Rc<RefCell<Option<RawGreenlet<()>>>> = Rc::default();
        let (home, itself, token) = (me.handle(), own.clone(), drops.token());
        let child = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            drop(itself.borrow_mut().take().unwrap());
            assert!(me.is_current(), "it runs on: who runs is held");
            me.switch(&home, ()).unwrap(); // nobody can come back
        });
        *own.borrow_mut() = Some(child);
        let child = own.borrow().clone().unwrap();
        let start = WeakStart(child.downgrade());
        drop(child);
        start.go(me);
        assert_eq!(drops.count(), 1);
        assert!(start.0.upgrade().is_none());
    });
    struct WeakStart(WeakGreenlet<()>);
    impl WeakStart {
        fn go(&self, me: &Me<()>) {
            let strong = self.0.upgrade().unwrap();
            me.switch(&strong, ()).unwrap();
        }
    }
}

#[test]
fn dropped_by_a_sibling_in_the_middle_of_its_run() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let victim = suspended(me, &drops);
        let counted = drops.clone();
        let sibling = me.child(move |me: &Me<()>, ()| {
            let before = current();
            drop(victim);
            assert_eq!(counted.count(), 1);
            assert!(before == current() && me.is_current());
        });
        me.switch(&sibling, ()).unwrap();
        assert!(sibling.is_dead());
    });
}

#[test]
fn a_greenlet_may_drop_its_own_parent() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let slot: Rc<RefCell<Option<RawGreenlet<()>>>> = Rc::default();
        let (held, home, token) = (slot.clone(), me.handle(), drops.token());
        let parent = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            let child = me.child(move |me: &Me<()>, ()| {
                drop(held.borrow_mut().take()); // the last handle, but this child holds its parent
                me.switch(&home, ()).unwrap();
            });
            me.switch(&child, ()).unwrap();
        });
        *slot.borrow_mut() = Some(parent.clone());
        me.switch(&parent, ()).unwrap();
        assert_eq!(drops.count(), 0);
        // Child and parent hold each other now, by the parent's stack. The handle breaks that.
        assert!(matches!(me.throw(&parent, Box::new(GreenletExit)), Err(SwitchError::Exited(_))));
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn it_may_catch_the_exit_and_end_in_its_own_way() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let (home, token) = (me.handle(), drops.token());
        let child = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            drop(catch_unwind(AssertUnwindSafe(|| me.switch(&home, ()))));
            // Told to end, it may still work, but not switch: it is told again.
            let again = raised(|| me.switch(&home, ()));
            assert!(again.is::<GreenletExit>());
        });
        me.switch(&child, ()).unwrap();
        drop(child);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn one_that_never_ends_is_left_after_a_hundred_times() {
    let _watched = watchdog();
    let drops = Drops::new();
    let rounds = Rc::new(Cell::new(0));
    enter(|me: &Me<()>| {
        let (home, token, counted) = (me.handle(), drops.token(), rounds.clone());
        let child = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            loop {
                counted.set(counted.get() + 1);
                let _ = catch_unwind(AssertUnwindSafe(|| me.switch(&home, ())));
            }
        });
        me.switch(&child, ()).unwrap();
        let weak = child.downgrade();
        drop(child);
        assert!((100..110).contains(&rounds.get()), "{}", rounds.get());
        // Suspended for good: nothing of it is dropped, and nobody can reach it.
        assert_eq!(drops.count(), 0);
        assert!(weak.upgrade().is_none_or(|left| left.is_dead()));
        switch_once(me);
    });
}

#[test]
fn a_panic_of_a_dropped_one_does_not_reach_the_dropper() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            drop(catch_unwind(AssertUnwindSafe(|| me.switch(&home, ()))));
            panic!("goes to the panic hook");
        });
        me.switch(&child, ()).unwrap();
        drop(child);
        switch_once(me);
    });
}

#[test]
fn a_live_child_on_its_parents_own_stack_holds_its_parent() {
    // As under greenlet: the child's link to its parent is a reference like any other.
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let (home, token, children) = (me.handle(), drops.token(), Rc::new(RefCell::new(Vec::new())));
        let held = children.clone();
        let parent = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            let child = me.child(|_, ()| ());
            held.borrow_mut().push(child.downgrade());
            me.switch(&home, ()).unwrap();
            drop(child);
        });
        me.switch(&parent, ()).unwrap();
        drop(parent);
        assert_eq!(drops.count(), 0);
        // Ending the child, or giving it another parent, lets the parent go.
        let child = children.borrow()[0].upgrade().unwrap();
        child.set_parent(&gevent::root()).unwrap();
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn cycles_are_broken_by_a_weak_handle() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let (ping, body) = me.declare::<()>();
        let (back, a, b) = (ping.downgrade(), drops.token(), drops.token());
        let pong = me.child(move |me: &Me<()>, ()| {
            let _token = a;
            me.switch(&back.upgrade().unwrap(), ()).unwrap();
        });
        let (there, home) = (pong.downgrade(), me.handle());
        body.run(move |me, ()| {
            let _token = b;
            me.switch(&there.upgrade().unwrap(), ()).unwrap();
            me.switch(&home, ()).unwrap();
        });
        me.switch(&ping, ()).unwrap();
        drop(ping);
        // A handle that is switched to is held as long as the switch lasts: `pong` still holds `ping`.
        assert_eq!(drops.count(), 0);
        drop(pong);
        assert_eq!(drops.count(), 2);
    });
}

#[test]
fn weak_handles_follow_a_life() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| ());
        let weak = child.downgrade();
        assert_eq!(weak.upgrade().as_deref(), Some(&*child));
        me.switch(&weak.upgrade().unwrap(), ()).unwrap();
        assert!(weak.upgrade().unwrap().is_dead());
        drop(child);
        assert!(weak.upgrade().is_none() && weak.clone().upgrade().is_none());
        assert_eq!(format!("{weak:?}"), "Greenlet(gone)");
    });
}

#[test]
fn a_value_in_flight_is_not_lost_when_its_receiver_is_killed() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        // The first value of one that is unwound at once, and one that it holds when it is dropped.
        let home = me.handle();
        let child = me.child(move |me: &Me<Token>, first: Token| {
            let _first = first;
            let second = me.switch(&home, ()).unwrap();
            me.switch(&home, ()).unwrap();
            drop(second);
        });
        me.switch(&child, drops.token()).unwrap();
        me.switch(&child, drops.token()).unwrap();
        assert_eq!((drops.count(), drops.alive()), (0, 2));
        drop(child);
        assert_eq!((drops.count(), drops.alive()), (2, 0));
    });
}

#[test]
fn a_value_for_one_that_ends_by_its_switch_is_the_senders_again() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        // The target holds its own end: the sender's other switch point ends it.
        let (ends, body) = me.declare::<Token>();
        body.run(|_, token| drop(token));
        me.switch(&ends, drops.token()).unwrap();
        let back = me.switch(&ends, drops.token()).unwrap_err().into_inner();
        assert!(back.is_some());
        assert_eq!((drops.count(), drops.alive()), (1, 1));
    });
}

#[test]
fn a_payload_in_flight_is_dropped_once() {
    let _watched = watchdog();
    let (sent, received) = std::sync::mpsc::channel();
    struct Payload(std::sync::mpsc::Sender<()>);
    impl Drop for Payload {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        for target in [suspended(me, &drops), me.child(|_, ()| ())] {
            let raised = raised(|| me.throw(&target, Box::new(Payload(sent.clone()))));
            assert!(received.try_recv().is_err());
            drop(raised);
            assert!(received.try_recv().is_ok() && received.try_recv().is_err());
            drop(me.throw(&target, Box::new(Payload(sent.clone()))));
            assert!(received.try_recv().is_ok() && received.try_recv().is_err());
        }
    });
}

#[test]
fn a_destructor_may_use_the_greenlet_api() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let (home, asked) = (me.handle(), Rc::new(Cell::new(0)));
        let count = asked.clone();
        let other = me.child(|_, ()| ());
        let child = me.child(move |me: &Me<()>, ()| {
            let _guard = OnDrop::new(move || {
                assert!(!current().is_root() && current().parent().is_some_and(|parent| parent.is_root()));
                enter(|me: &Me<()>| {
                    assert!(matches!(me.switch(&other, ()), Err(SwitchError::Unwinding(()))));
                    let unstarted = me.child(|_, ()| ());
                    assert!(!unstarted.is_started());
                });
                count.set(count.get() + 1);
            });
            me.switch(&home, ()).unwrap();
        });
        me.switch(&child, ()).unwrap();
        drop(child);
        assert_eq!(asked.get(), 1);
    });
}

#[test]
fn a_drop_in_a_drop_in_a_drop() {
    // A greenlet that caught its exit drops another, which catches its own and drops a third.
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let mut inner = suspended(me, &drops);
        for _ in 0..5 {
            let (home, token) = (me.handle(), drops.token());
            let outer = me.child(move |me: &Me<()>, ()| {
                let _token = token;
                drop(catch_unwind(AssertUnwindSafe(|| me.switch(&home, ()))));
                drop(inner);
            });
            me.switch(&outer, ()).unwrap();
            inner = outer;
        }
        drop(inner);
        assert_eq!(drops.count(), 6);
    });
}
