//! `Me::throw`: raises in the target, at the switch that it is suspended in.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::{Drops, raised, raised_as, watchdog};
use gevent::{GreenletExit, Me, RawGreenlet, SwitchError, enter, root};

/// A payload that is told from every other.
#[derive(Debug, PartialEq)]
struct Custom(u32);

#[test]
fn it_is_raised_where_the_target_is_suspended() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            assert_eq!(raised_as::<Custom, _>(|| me.switch(&home, "ready")), Custom(1));
            "caught it"
        });
        assert_eq!(me.switch(&child, ()).unwrap(), "ready");
        assert_eq!(me.throw(&child, Box::new(Custom(1))).unwrap(), "caught it");
    });
}

#[test]
fn the_target_may_go_on_afterwards() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<u32>, first| {
            let mut next = first;
            loop {
                let answer = catch_unwind(AssertUnwindSafe(|| me.switch(&home, next).unwrap()));
                next = match answer {
                    Ok(n) => n + 1,
                    Err(payload) => payload.downcast::<Custom>().unwrap().0 * 100,
                };
                if next > 1_000 {
                    return next;
                }
            }
        });
        assert_eq!(me.switch(&child, 1).unwrap(), 1);
        assert_eq!(me.throw(&child, Box::new(Custom(3))).unwrap(), 300);
        assert_eq!(me.switch(&child, 4).unwrap(), 5);
        assert_eq!(me.throw(&child, Box::new(Custom(50))).unwrap(), 5_000);
        assert!(child.is_dead());
    });
}

#[test]
fn uncaught_it_reaches_the_parent_with_its_payload() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            let _ = me.switch(&home, ());
        });
        me.switch(&child, ()).unwrap();
        assert_eq!(raised_as::<Custom, _>(|| me.throw(&child, Box::new(Custom(7)))), Custom(7));
        assert!(child.is_dead());
    });
}

#[test]
fn greenlet_exit_reaches_the_parent_as_exited() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let (home, token) = (me.handle(), drops.token());
        let child = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            me.switch(&home, ()).unwrap();
            unreachable!("it was told to end");
        });
        me.switch(&child, ()).unwrap();
        assert_eq!(drops.count(), 0);
        match me.throw(&child, Box::new(GreenletExit)) {
            Err(SwitchError::Exited(id)) => assert_eq!(id, child.id()),
            other => panic!("{other:?}"),
        }
        assert!(child.is_dead());
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn a_greenlet_may_end_itself_by_greenlet_exit() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| std::panic::panic_any(GreenletExit));
        assert!(matches!(me.switch(&child, ()), Err(SwitchError::Exited(id)) if id == child.id()));
    });
}

#[test]
fn a_caught_greenlet_exit_is_over() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            assert!(raised(|| me.switch(&home, 1)).is::<GreenletExit>());
            // Thrown at by another, not dropped: it may go on as it likes.
            me.switch(&home, 2).unwrap();
            3
        });
        me.switch(&child, ()).unwrap();
        assert_eq!(me.throw(&child, Box::new(GreenletExit)).unwrap(), 2);
        assert_eq!(me.switch(&child, ()).unwrap(), 3);
    });
}

#[test]
fn an_unstarted_target_dies_without_running() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        for payload in 0..2 {
            let token = drops.token();
            let child = me.child(move |_: &Me<()>, ()| {
                let _token = token;
                unreachable!("it never runs");
            });
            if payload == 0 {
                let told = me.throw(&child, Box::new(GreenletExit));
                assert!(matches!(told, Err(SwitchError::Exited(id)) if id == child.id()));
            } else {
                let payload = raised_as::<Custom, _>(|| me.throw(&child, Box::new(Custom(4))));
                assert_eq!(payload, Custom(4));
            }
            assert!(child.is_dead());
            assert_eq!(drops.count(), payload + 1);
        }
    });
}

#[test]
fn an_unstarted_target_tells_its_parent_not_the_thrower() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let home = me.handle();
        let handed: Rc<RefCell<Option<RawGreenlet<()>>>> = Rc::default();
        let (hand, back) = (handed.clone(), home.clone());
        let parent = me.child(move |me: &Me<()>, ()| {
            *hand.borrow_mut() = Some(me.child(|_, ()| unreachable!("it never runs")));
            let told = raised_as::<Custom, _>(|| me.switch(&back, "ready"));
            assert_eq!(told, Custom(5));
            "the parent was told"
        });
        assert_eq!(me.switch(&parent, ()).unwrap(), "ready");
        let child = handed.borrow_mut().take().unwrap();
        assert_eq!(me.throw(&child, Box::new(Custom(5))).unwrap(), "the parent was told");
    });
}

#[test]
fn a_dead_target_gives_the_payload_back() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| ());
        me.switch(&child, ()).unwrap();
        match me.throw(&child, Box::new(Custom(6))) {
            Err(SwitchError::Dead(payload)) => assert_eq!(*payload.downcast::<Custom>().unwrap(), Custom(6)),
            other => panic!("{other:?}"),
        }
        // GreenletExit too: no error turns into a value on the way.
        assert!(matches!(me.throw(&child, Box::new(GreenletExit)), Err(SwitchError::Dead(_))));
    });
}

#[test]
fn thrown_at_itself_it_is_raised_at_once() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        assert_eq!(raised_as::<Custom, _>(|| me.throw(me, Box::new(Custom(8)))), Custom(8));
        let child = me.child(|me: &Me<()>, ()| {
            assert_eq!(raised_as::<Custom, _>(|| me.throw(me, Box::new(Custom(9)))), Custom(9));
            1
        });
        assert_eq!(me.switch(&child, ()).unwrap(), 1);
    });
}

#[test]
fn siblings_ancestors_and_the_root_can_be_thrown_at() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        // A sibling.
        let home = me.handle();
        let waits = me.child(move |me: &Me<()>, ()| {
            assert_eq!(raised_as::<Custom, _>(|| me.switch(&home, "waits")), Custom(1));
            "the sibling raised it"
        });
        me.switch(&waits, ()).unwrap();
        let throws = me.child(move |me: &Me<()>, ()| {
            let _ = me.throw(&waits, Box::new(Custom(1)));
            unreachable!("nobody comes back here");
        });
        assert_eq!(me.switch(&throws, ()).unwrap(), "the sibling raised it");

        // An ancestor that is not the parent, and is not the root.
        let home = me.handle();
        let grandparent = me.child(move |me: &Me<()>, ()| {
            let (up, home) = (me.handle().downgrade(), home.clone());
            let parent = me.child(move |me: &Me<()>, ()| {
                let up = up.upgrade().unwrap();
                let child = me.child(move |me: &Me<()>, ()| {
                    let _ = me.throw(&up, Box::new(Custom(2)));
                });
                let _ = me.switch(&child, ());
                let _ = home;
                unreachable!("passed over");
            });
            assert_eq!(raised_as::<Custom, _>(|| me.switch(&parent, ())), Custom(2));
            "the ancestor raised it"
        });
        assert_eq!(me.switch(&grandparent, ()).unwrap(), "the ancestor raised it");

        // The root, by a handle without a type.
        let child = me.child(|me: &Me<()>, ()| {
            let _ = me.throw(&root(), Box::new(Custom(3)));
            unreachable!("nobody comes back here");
        });
        assert_eq!(raised_as::<Custom, _>(|| me.switch(&child, ())), Custom(3));
        assert!(child.is_active());
    });
}

#[test]
fn it_goes_to_the_parent_of_that_moment() {
    // Thrown at after a change of parents, what escapes goes to the new one.
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            me.switch(&home, "ready").unwrap();
            "unreachable"
        });
        me.switch(&child, ()).unwrap();
        let target = child.clone();
        let other = me.child(move |me: &Me<&'static str>, _| {
            target.set_parent(me).unwrap();
            let payload = raised_as::<Custom, _>(|| me.throw(&target, Box::new(Custom(11))));
            assert_eq!(payload, Custom(11));
            "the new parent was told"
        });
        assert_eq!(me.switch(&other, "").unwrap(), "the new parent was told");
        assert!(child.is_dead());
    });
}

#[test]
fn the_thrower_gets_what_is_next_sent_to_it() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            let answers = Cell::new(10);
            loop {
                if catch_unwind(AssertUnwindSafe(|| me.switch(&home, answers.get()))).is_err() {
                    answers.set(answers.get() + 1);
                }
            }
        });
        me.switch(&child, ()).unwrap();
        for n in 11..20 {
            assert_eq!(me.throw(&child, Box::new(())).unwrap(), n);
        }
    });
}

#[test]
fn panics_and_throws_do_not_leak_into_other_greenlets() {
    // While one greenlet is suspended, no other sees `panicking`; mutexes are not poisoned.
    let _watched = watchdog();
    let lock = Rc::new(std::sync::Mutex::new(0));
    enter(|me: &Me<()>| {
        let (home, inner) = (me.handle(), lock.clone());
        let child = me.child(move |me: &Me<()>, ()| {
            for _ in 0..3 {
                let caught = catch_unwind(AssertUnwindSafe(|| me.switch(&home, ())));
                assert!(caught.is_err() && !std::thread::panicking());
                *inner.lock().unwrap() += 1;
            }
        });
        me.switch(&child, ()).unwrap();
        for _ in 0..3 {
            assert!(!std::thread::panicking());
            let _ = me.throw(&child, Box::new("caught there"));
            assert!(!std::thread::panicking());
        }
        assert_eq!(*lock.lock().unwrap(), 3);
    });
}
