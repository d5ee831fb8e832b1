//! Parents: who gets what a greenlet ends with, and the rules of changing that.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::{Drops, raised_as, watchdog};
use gevent::{AnyGreenlet, GreenletExit, Me, ParentError, RawGreenlet, SwitchError, current, enter, root};

#[derive(Debug, PartialEq)]
struct Custom(u32);

#[test]
fn the_parent_is_who_made_it() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|me: &Me<()>, ()| {
            let own = current();
            let grandchild = me.child(|_, ()| ());
            assert_eq!(grandchild.parent(), Some(own));
            me.switch(&grandchild, ()).unwrap();
            assert_eq!(grandchild.parent(), None, "a dead one has none");
        });
        assert_eq!(child.parent(), Some(root()));
        assert_eq!(root().parent(), None);
        me.switch(&child, ()).unwrap();
    });
}

#[test]
fn what_it_returns_is_the_parents_pending_switch() {
    let _watched = watchdog();
    enter(|me: &Me<String>| {
        let child = me.child(|_, n: u8| format!("returned {n}"));
        assert_eq!(me.switch(&child, 5).unwrap(), "returned 5");
    });
}

#[test]
fn it_goes_to_the_parent_whoever_switched_last() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let child = me.child(|_, ()| "to the root");
        let other = me.child(move |me: &Me<()>, ()| {
            let _ = me.switch(&child, ());
            unreachable!("the child's parent is the root");
        });
        assert_eq!(me.switch(&other, ()).unwrap(), "to the root");
        assert!(other.is_active());
    });
}

#[test]
fn a_panic_is_raised_in_the_parent_with_its_payload() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, n: u32| std::panic::panic_any(Custom(n)));
        assert_eq!(raised_as::<Custom, _>(|| me.switch(&child, 3)), Custom(3));
        let child = me.child(|_, n: u32| panic!("with {n}"));
        assert_eq!(raised_as::<String, _>(|| me.switch(&child, 4)), "with 4");
        let child = me.child(|_, ()| panic!("plain"));
        assert_eq!(raised_as::<&str, _>(|| me.switch(&child, ())), "plain");
    });
}

#[test]
fn a_panic_passes_through_a_line_of_parents() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let (outer, inner) = (drops.token(), drops.token());
        let child = me.child(move |me: &Me<()>, ()| {
            let _token = outer;
            let grandchild = me.child(move |_: &Me<()>, ()| {
                let _token = inner;
                std::panic::panic_any(Custom(9))
            });
            me.switch(&grandchild, ()).unwrap();
        });
        assert_eq!(raised_as::<Custom, _>(|| me.switch(&child, ())), Custom(9));
        assert!(child.is_dead());
        assert_eq!(drops.count(), 2);
    });
}

/// Makes a greenlet of `body` whose parent, a child of the root, has ended.
fn orphaned<Out: Default + 'static>(
    me: &Me<Out>,
    body: impl FnOnce(&Me<()>, ()) -> Out + 'static,
) -> RawGreenlet<()> {
    let handed: Rc<RefCell<Option<RawGreenlet<()>>>> = Rc::default();
    let hand = handed.clone();
    let parent = me.child(move |me: &Me<Out>, first: Out| {
        *hand.borrow_mut() = Some(me.child(body));
        first
    });
    me.switch(&parent, Out::default()).unwrap();
    assert!(parent.is_dead());
    let child = handed.borrow_mut().take().unwrap();
    assert!(!child.is_dead());
    child
}

#[test]
fn a_dead_parent_is_skipped_by_a_value() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = orphaned(me, |_, ()| 17);
        assert_eq!(me.switch(&child, ()).unwrap(), 17);
    });
}

#[test]
fn a_dead_parent_is_skipped_by_a_panic() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = orphaned(me, |_, ()| std::panic::panic_any(Custom(1)));
        assert_eq!(raised_as::<Custom, _>(|| me.switch(&child, ())), Custom(1));
    });
}

#[test]
fn a_dead_parent_is_skipped_by_greenlet_exit() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = orphaned(me, |_, ()| unreachable!("it never runs"));
        assert!(
            matches!(me.throw(&child, Box::new(GreenletExit)), Err(SwitchError::Exited(id)) if id == child.id())
        );
    });
}

#[test]
fn a_line_of_dead_parents_is_skipped() {
    // Each makes the next and ends; only the last one is left, and the root.
    fn line(me: &Me<u32>, left: u32, hand: Rc<RefCell<Option<RawGreenlet<u32>>>>) -> u32 {
        if left == 0 {
            *hand.borrow_mut() = Some(me.child(|_, n| n + 1));
            return 0;
        }
        let next = me.child(move |me: &Me<u32>, left| line(me, left, hand));
        me.switch(&next, left - 1).unwrap()
    }
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let handed = Rc::default();
        assert_eq!(line(me, 20, Rc::clone(&handed)), 0);
        let last = handed.borrow_mut().take().unwrap();
        assert_eq!(me.switch(&last, 41).unwrap(), 42);
    });
}

#[test]
fn a_skipped_parents_parent_is_asked_for_its_type() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let handed: Rc<RefCell<Option<RawGreenlet<()>>>> = Rc::default();
        let hand = handed.clone();
        let parent = me.child(move |me: &Me<u64>, _| {
            *hand.borrow_mut() = Some(me.child(|_, ()| 5u64));
            "ended"
        });
        assert_eq!(me.switch(&parent, 0).unwrap(), "ended");
        let child = handed.borrow_mut().take().unwrap();
        match me.switch(&child, ()) {
            Err(SwitchError::Orphan(orphan)) => {
                assert_eq!((orphan.from(), orphan.expected(), orphan.found()), (child.id(), "&str", "u64"));
                assert_eq!(*orphan.into_value().downcast::<u64>().unwrap(), 5);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_unstarted_parent_is_started_with_the_value() {
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let parent = me.child(|_, n: u64| n * 10);
        let child = me.child(|_, n: u64| n + 1);
        child.set_parent(&parent).unwrap();
        assert_eq!(me.switch(&child, 4).unwrap(), 50);
        assert!(parent.is_dead());
    });
}

#[test]
fn a_line_of_unstarted_parents_is_run_one_by_one() {
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let greenlets: Vec<_> = (0..50).map(|_| me.child(|_, n: u64| n + 1)).collect();
        for pair in greenlets.windows(2) {
            pair[0].set_parent(&pair[1]).unwrap();
        }
        assert_eq!(me.switch(&greenlets[0], 0).unwrap(), 50);
        assert!(greenlets.iter().all(|greenlet| greenlet.is_dead()));
    });
}

#[test]
fn an_unstarted_parent_dies_of_a_panic_without_running() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<u64>| {
        let token = drops.token();
        let parent = me.child(move |_, n: u64| {
            let _token = &token;
            unreachable!("never runs with {n}")
        });
        let child = me.child(|_, ()| std::panic::panic_any(Custom(2)));
        child.set_parent(&parent).unwrap();
        assert_eq!(raised_as::<Custom, _>(|| me.switch(&child, ())), Custom(2));
        assert!(parent.is_dead());
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn an_unstarted_parent_of_another_type_passes_the_value_on() {
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let parent = me.child(|_, text: String| text.len() as u64);
        let child = me.child(|_, n: u64| n);
        child.set_parent(&parent).unwrap();
        match me.switch(&child, 4) {
            Err(SwitchError::Orphan(orphan)) => {
                assert_eq!((orphan.from(), orphan.found()), (child.id(), "u64"));
                assert!(orphan.expected().contains("String"));
                assert_eq!(orphan.into_value().downcast_ref(), Some(&4u64));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_mismatched_value_after_set_parent_is_an_orphan_with_the_value() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<u8>| {
        let counted = drops.clone();
        let child = me.child(|_, n: u8| n);
        let target = child.clone();
        let other = me.child(move |me: &Me<common::Token>, first: common::Token| {
            target.set_parent(me).unwrap();
            drop(first);
            match me.switch(&target, 200) {
                Err(SwitchError::Orphan(orphan)) => {
                    assert!(format!("{orphan:?}").contains("u8"));
                    assert!(
                        orphan.to_string().contains("u8") && orphan.to_string().contains("Token"),
                        "{orphan}"
                    );
                    *orphan.into_value().downcast::<u8>().unwrap()
                }
                other => panic!("{:?}", other.map(|_| ())),
            }
        });
        assert_eq!(me.switch(&other, counted.token()).unwrap(), 200);
    });
    assert_eq!((drops.count(), drops.alive()), (1, 0));
}

#[test]
fn the_value_goes_to_the_parent_of_the_end() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let child = me.child(|_, ()| "ended");
        let target = child.clone();
        let other = me.child(move |me: &Me<&'static str>, _| {
            target.set_parent(me).unwrap();
            assert_eq!(target.parent().unwrap(), current());
            let got = me.switch(&target, ()).unwrap();
            assert_eq!(got, "ended");
            "went to the new parent"
        });
        assert_eq!(me.switch(&other, "").unwrap(), "went to the new parent");
    });
}

#[test]
fn a_started_greenlet_may_be_given_another_parent() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            me.switch(&home, 1).unwrap();
            2
        });
        me.switch(&child, ()).unwrap();
        let target = child.clone();
        let other = me.child(move |me: &Me<u8>, _| {
            target.set_parent(me).unwrap();
            me.switch(&target, ()).unwrap() + 40
        });
        assert_eq!(me.switch(&other, 0).unwrap(), 42);
    });
}

#[test]
fn cycles_are_refused() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let a = me.child(|_, ()| ());
        let b = me.child(|_, ()| ());
        let c = me.child(|_, ()| ());
        assert_eq!(a.set_parent(&a), Err(ParentError::Cycle));
        b.set_parent(&a).unwrap();
        c.set_parent(&b).unwrap();
        assert_eq!(a.set_parent(&b), Err(ParentError::Cycle));
        assert_eq!(a.set_parent(&c), Err(ParentError::Cycle));
        assert_eq!(a.parent(), Some(root()), "a refusal changes nothing");
        c.set_parent(&root()).unwrap();
        a.set_parent(&c).unwrap();
        assert!(ParentError::Cycle.to_string().contains("cyclic"));
    });
}

#[test]
fn the_root_is_given_no_parent() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| ());
        assert_eq!(root().set_parent(&child), Err(ParentError::Root));
        assert_eq!(root().set_parent(&root()), Err(ParentError::Root));
        assert_eq!(me.set_parent(&child), Err(ParentError::Root));
        assert!(ParentError::Root.to_string().contains("root"));
    });
}

#[test]
fn parents_may_be_dead_or_unstarted_when_they_are_set() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let dead = me.child(|_, n: u8| n);
        me.switch(&dead, 1).unwrap();
        let child = me.child(|_, n: u8| n);
        // It stands for the root, where its own result went.
        child.set_parent(&dead).unwrap();
        assert_eq!(me.switch(&child, 9).unwrap(), 9);
    });
}

#[test]
fn a_parent_may_end_first_while_its_child_is_suspended() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let home = me.handle();
        let handed: Rc<RefCell<Option<RawGreenlet<()>>>> = Rc::default();
        let hand = handed.clone();
        let parent = me.child(move |me: &Me<u8>, _| {
            let child = me.child(move |me: &Me<()>, ()| {
                me.switch(&home, 1).unwrap();
                2
            });
            *hand.borrow_mut() = Some(child.clone());
            me.switch(&child, ()).unwrap()
        });
        assert_eq!(me.switch(&parent, 0).unwrap(), 1);
        assert_eq!(me.switch(&parent, 3).unwrap(), 3);
        assert!(parent.is_dead());
        let child = handed.borrow_mut().take().unwrap();
        assert_eq!(me.switch(&child, ()).unwrap(), 2);
    });
}

#[test]
fn children_keep_their_parent_alive() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<u8>| {
        let token = drops.token();
        let parent = me.child(move |_, n: u8| {
            let _token = &token;
            n + 1
        });
        let child = me.child(|_, n: u8| n);
        child.set_parent(&parent).unwrap();
        drop(parent);
        assert_eq!(drops.count(), 0);
        assert_eq!(me.switch(&child, 1).unwrap(), 2);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn a_dead_child_does_not_keep_its_parent_alive() {
    // The child's handle lies on its parent's own stack: were the link kept, the parent would hold itself.
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let (home, token) = (me.handle(), drops.token());
        let parent = me.child(move |me: &Me<()>, ()| {
            let _token = token;
            let child = me.child(|_, ()| ());
            me.switch(&child, ()).unwrap();
            assert!(child.is_dead());
            me.switch(&home, ()).unwrap();
        });
        me.switch(&parent, ()).unwrap();
        drop(parent);
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn handles_of_any_type_compare_by_greenlet() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| ());
        let any: AnyGreenlet = (*child).clone();
        assert_eq!(any, *child);
        assert!(any.same(&child) && !any.same(&root()));
        let seen = Cell::new(0);
        for greenlet in [any, root()] {
            if greenlet == *child {
                seen.set(seen.get() + 1);
            }
        }
        assert_eq!(seen.get(), 1);
    });
}
