//! `Me::switch`: values travel between any two greenlets of a thread, and refusals give them back.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::{Drops, OnDrop, raised, watchdog};
use gevent::{GreenletExit, Me, RawGreenlet, SwitchError, current, enter, root};

#[test]
fn the_first_value_is_the_bodys_argument() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = me.child(|_, (a, b): (u32, u32)| a * b);
        assert_eq!(me.switch(&child, (6, 7)).unwrap(), 42);
    });
}

#[test]
fn later_values_are_what_the_childs_switch_returns() {
    let _watched = watchdog();
    enter(|me: &Me<String>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<u32>, first| {
            let second = me.switch(&home, format!("got {first}")).unwrap();
            let third = me.switch(&home, format!("got {second}")).unwrap();
            format!("ends with {third}")
        });
        assert_eq!(me.switch(&child, 1).unwrap(), "got 1");
        assert_eq!(me.switch(&child, 2).unwrap(), "got 2");
        assert_eq!(me.switch(&child, 3).unwrap(), "ends with 3");
    });
}

#[test]
fn a_switch_returns_what_is_next_sent_by_anyone() {
    let _watched = watchdog();
    enter(|me: &Me<&'static str>| {
        let home = me.handle();
        // The first one never answers: it hands on to the second, which answers for it.
        let second = me.child(|_, asked: u32| if asked == 7 { "answered by the second" } else { "?" });
        let first = me.child(move |me: &Me<()>, ()| {
            me.switch(&second, 7).unwrap();
            me.switch(&home, "unreachable").unwrap();
            "unreachable"
        });
        assert_eq!(me.switch(&first, ()).unwrap(), "answered by the second");
        assert!(first.is_active());
    });
}

#[test]
fn two_children_take_turns() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let make = |name: char| {
            let (log, home) = (log.clone(), me.handle());
            me.child(move |me: &Me<()>, ()| {
                for n in 0..3 {
                    log.borrow_mut().push((name, n));
                    me.switch(&home, ()).unwrap();
                }
            })
        };
        let (a, b) = (make('a'), make('b'));
        for _ in 0..4 {
            me.switch(&a, ()).unwrap();
            me.switch(&b, ()).unwrap();
        }
        assert_eq!(*log.borrow(), [('a', 0), ('b', 0), ('a', 1), ('b', 1), ('a', 2), ('b', 2)]);
        assert!(a.is_dead() && b.is_dead());
    });
}

#[test]
fn a_switch_to_itself_returns_its_own_value_at_once() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<common::Token>| {
        let back = me.switch(&me.handle(), drops.token()).unwrap();
        assert_eq!(drops.count(), 0);
        drop(back);
        assert_eq!(drops.count(), 1);
    });
    enter(|me: &Me<u64>| {
        let child = me.child(|me: &Me<u64>, first| me.switch(&me.handle(), first + 1).unwrap() + 1);
        assert_eq!(me.switch(&child, 10).unwrap(), 12);
    });
}

#[test]
fn any_greenlet_reaches_any_other() {
    let _watched = watchdog();
    // root -> child -> grandchild -> (its uncle) sibling -> (its nephew) grandchild -> root
    enter(|me: &Me<Vec<&'static str>>| {
        let home = me.handle();
        let nephew = Rc::new(RefCell::new(None::<RawGreenlet<Vec<&'static str>>>));
        let (known, back) = (nephew.clone(), me.handle());
        let uncle = me.child(move |me: &Me<Vec<&'static str>>, mut path| {
            path.push("uncle");
            let nephew = known.borrow().clone().unwrap();
            let mut path = me.switch(&nephew, path).unwrap();
            path.push("uncle again");
            me.switch(&back, path).unwrap()
        });
        let child = me.child(move |me: &Me<Vec<&'static str>>, mut path| {
            path.push("child");
            let grandchild = me.child(move |me: &Me<Vec<&'static str>>, mut path| {
                path.push("grandchild");
                let mut path = me.switch(&uncle, path).unwrap();
                path.push("grandchild again");
                me.switch(&home, path).unwrap() // passing over its parent
            });
            *nephew.borrow_mut() = Some(grandchild.clone());
            me.switch(&grandchild, path).unwrap()
        });
        let path = me.switch(&child, vec!["root"]).unwrap();
        assert_eq!(path, ["root", "child", "grandchild", "uncle", "grandchild again"]);
    });
}

#[test]
fn values_of_every_shape_travel() {
    #[derive(Debug, PartialEq, Clone, Copy)]
    #[repr(align(128))]
    struct Aligned(u8);

    fn there_and_back<T: Clone + PartialEq + std::fmt::Debug + 'static>(value: T) {
        enter(|me: &Me<T>| {
            let home = me.handle();
            let child = me.child(move |me: &Me<T>, first| {
                let second = me.switch(&home, first).unwrap();
                me.switch(&me.handle(), second).unwrap()
            });
            assert_eq!(me.switch(&child, value.clone()).unwrap(), value);
            assert_eq!(me.switch(&child, value.clone()).unwrap(), value);
        });
    }
    let _watched = watchdog();
    there_and_back(());
    there_and_back(true);
    there_and_back(u128::MAX);
    there_and_back(Aligned(9));
    there_and_back([7u8; 1024]);
    there_and_back(String::from("text"));
    there_and_back(Some(Box::new([1u64; 32])));
    there_and_back::<Option<Rc<u8>>>(None);
    there_and_back::<Result<Vec<u8>, String>>(Err("no".into()));
    there_and_back(std::rc::Rc::new(5));
    there_and_back("static");
}

#[test]
fn a_result_is_a_value_like_any_other() {
    let _watched = watchdog();
    enter(|me: &Me<Result<u8, String>>| {
        let child = me.child(|_, ()| Err("an error is no panic".to_owned()));
        assert_eq!(me.switch(&child, ()).unwrap(), Err("an error is no panic".to_owned()));
    });
}

#[test]
fn every_value_is_dropped_exactly_once() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<common::Token>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<common::Token>, mut token| {
            loop {
                token = me.switch(&home, token).unwrap();
            }
        });
        for _ in 0..100 {
            let token = me.switch(&child, drops.token()).unwrap();
            assert_eq!(drops.alive(), 1);
            drop(token);
        }
        assert_eq!(drops.count(), 100);
    });
    assert_eq!((drops.count(), drops.alive()), (100, 0));
}

#[test]
fn the_states_of_a_life() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        assert!(me.is_root() && me.is_current() && me.is_started() && me.is_active() && !me.is_dead());
        let home = me.handle();
        let seen = Rc::new(Cell::new(false));
        let saw = seen.clone();
        let child = me.child(move |me: &Me<()>, ()| {
            assert!(me.is_current() && me.is_active() && me.is_started() && !me.is_dead() && !me.is_root());
            assert_eq!(current(), **me);
            assert!(!home.is_current() && home.is_active());
            saw.set(true);
            me.switch(&home, ()).unwrap();
        });
        assert!(!child.is_started() && !child.is_active() && !child.is_dead() && !child.is_current());
        me.switch(&child, ()).unwrap();
        assert!(seen.get());
        assert!(child.is_started() && child.is_active() && !child.is_dead() && !child.is_current());
        me.switch(&child, ()).unwrap();
        assert!(child.is_started() && !child.is_active() && child.is_dead() && !child.is_current());
    });
}

#[test]
fn current_and_root_name_the_running_and_the_first() {
    let _watched = watchdog();
    assert_eq!(current(), root());
    enter(|me: &Me<bool>| {
        let child = me.child(|me: &Me<()>, ()| current() == **me && root().is_root() && current() != root());
        assert!(me.switch(&child, ()).unwrap());
        assert_ne!(child.id(), root().id());
        assert_eq!(current(), root());
    });
}

#[test]
fn a_greenlet_tells_who_it_is() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let line = line!() + 1;
        let child = me.child(|_: &Me<()>, ()| ());
        assert_eq!((child.site().line(), child.site().file()), (line, file!()));
        assert_eq!(child.spawner(), me.id());
        assert_eq!((root().spawner(), child.name()), (0, None));
        child.set_name("worker");
        assert_eq!(child.name().as_deref(), Some("worker"));
        let shown = format!("{child:?}");
        assert!(shown.contains("worker") && shown.contains(&child.id().to_string()), "{shown}");
        assert!(shown.contains("Unstarted"), "{shown}");
        me.switch(&child, ()).unwrap();
        assert!(format!("{child:?}").contains("Dead"));
        assert!(format!("{me:?}").contains("Running"));
        assert!(format!("{:?}", child.downgrade()).contains("worker"));
    });
}

// ------------------------------------------------------------------------------------ refusals

#[test]
fn a_dead_target_gives_the_value_back() {
    let _watched = watchdog();
    let drops = Drops::new();
    enter(|me: &Me<()>| {
        let child = me.child(|_, _token: common::Token| ());
        me.switch(&child, drops.token()).unwrap();
        match me.switch(&child, drops.token()) {
            Err(SwitchError::Dead(token)) => drop(token),
            other => panic!("{other:?}"),
        }
        assert_eq!((drops.count(), drops.alive()), (2, 0));
        // The same through `into_inner`, and with words.
        let error = me.switch(&child, drops.token()).unwrap_err();
        assert!(error.to_string().contains("ended"), "{error}");
        assert!(error.into_inner().is_some());
    });
}

#[test]
fn a_target_without_a_body_gives_the_value_back_and_can_be_started_later() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let (child, body) = me.declare::<u8>();
        assert!(matches!(me.switch(&child, 3), Err(SwitchError::NoBody(3))));
        assert!(!child.is_started());
        body.run(|_, n| n * 2);
        assert_eq!(me.switch(&child, 4).unwrap(), 8);
    });
}

#[test]
fn a_body_that_is_never_given_leaves_its_greenlet_dead() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let (child, body) = me.declare::<u8>();
        drop(body);
        assert!(child.is_dead());
        assert!(matches!(me.switch(&child, 3), Err(SwitchError::Dead(3))));
    });
}

#[test]
fn a_body_given_to_a_greenlet_that_was_ended_meanwhile_never_runs() {
    let _watched = watchdog();
    let drops = Drops::new();
    let token = drops.token();
    enter(|me: &Me<u8>| {
        let (child, body) = me.declare::<u8>();
        assert!(matches!(me.throw(&child, Box::new(GreenletExit)), Err(SwitchError::Exited(_))));
        body.run(move |_, n| {
            let _token = &token;
            n
        });
        assert_eq!(drops.count(), 1);
        assert!(matches!(me.switch(&child, 3), Err(SwitchError::Dead(3))));
    });
}

#[test]
fn a_nested_enter_cannot_be_sent_the_outer_type() {
    let _watched = watchdog();
    enter(|outer: &Me<String>| {
        let outer_handle = outer.handle();
        let answer = enter(|inner: &Me<u64>| {
            let inner_handle = inner.handle();
            let child = inner.child(move |me: &Me<()>, ()| {
                let refused = me.switch(&outer_handle, "for the outer".to_owned());
                match refused {
                    Err(SwitchError::OtherType(text)) => assert_eq!(text, "for the outer"),
                    other => panic!("{other:?}"),
                }
                me.switch(&inner_handle, 5).unwrap();
                6
            });
            let first = inner.switch(&child, ()).unwrap();
            first * 10 + inner.switch(&child, ()).unwrap()
        });
        assert_eq!(answer, 56);
    });
}

#[test]
fn the_same_type_in_a_nested_enter_is_another_port_still() {
    let _watched = watchdog();
    enter(|outer: &Me<u8>| {
        let outer_handle = outer.handle();
        enter(|inner: &Me<u8>| {
            assert!(matches!(inner.switch(&outer_handle, 1), Err(SwitchError::OtherType(1))));
            // And the other way round: the outer `Me` waits as the outer, even in here.
            assert!(matches!(outer.switch(&inner.handle(), 2), Err(SwitchError::OtherType(2))));
            assert_eq!(outer.switch(&outer_handle, 3).unwrap(), 3);
            assert_eq!(inner.switch(&inner.handle(), 4).unwrap(), 4);
        });
        assert_eq!(outer.switch(&outer_handle, 5).unwrap(), 5);
    });
}

#[test]
fn a_handle_of_an_enter_that_is_over_sends_nothing() {
    let _watched = watchdog();
    let stale = enter(|me: &Me<u64>| me.handle());
    enter(|me: &Me<Vec<u8>>| {
        let child = me.child(move |me: &Me<()>, ()| match me.switch(&stale, 0x4141_4141) {
            Err(SwitchError::OtherType(n)) => n.to_le_bytes()[..4].to_vec(),
            other => panic!("{other:?}"),
        });
        assert_eq!(me.switch(&child, ()).unwrap(), b"AAAA");
    });
}

#[test]
fn a_carried_away_me_is_refused() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        // Safe code cannot do this; whoever does it with `unsafe` gets an error.
        let smuggled: *const Me<u8> = std::ptr::from_ref(me).cast();
        let child = me.child(move |own: &Me<u8>, n| {
            // SAFETY: the root is suspended inside `enter`, so its `Me` is there.
            let roots = unsafe { &*smuggled };
            assert!(matches!(roots.switch(&own.handle(), 9), Err(SwitchError::NotCurrent(9))));
            let refused = roots.throw(own, Box::new(77u8)).unwrap_err();
            match refused {
                SwitchError::NotCurrent(payload) => assert_eq!(*payload.downcast::<u8>().unwrap(), 77),
                other => panic!("{other:?}"),
            }
            n
        });
        assert_eq!(me.switch(&child, 1).unwrap(), 1);
    });
}

#[test]
fn a_switch_in_a_drop_while_unwinding_is_refused() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let child = me.child(|_, n: u8| n);
        let target = child.clone();
        let refusals = Rc::new(Cell::new(0));
        let seen = refusals.clone();
        let payload = raised(|| {
            let _guard = OnDrop::new(move || {
                enter(|me: &Me<u8>| {
                    assert!(matches!(me.switch(&target, 3), Err(SwitchError::Unwinding(3))));
                    let refused = me.throw(&target, Box::new("thrown")).unwrap_err();
                    assert_eq!(refused.into_inner().unwrap().downcast_ref(), Some(&"thrown"));
                    // Even to itself.
                    assert!(matches!(me.switch(&me.handle(), 4), Err(SwitchError::Unwinding(4))));
                });
                seen.set(seen.get() + 1);
            });
            panic!("unwinds")
        });
        assert_eq!(payload.downcast_ref(), Some(&"unwinds"));
        assert_eq!(refusals.get(), 1);
        // The target was not touched.
        assert_eq!(me.switch(&child, 8).unwrap(), 8);
    });
}

#[test]
fn a_switch_to_who_waits_in_a_drop_is_refused() {
    let _watched = watchdog();
    enter(|me: &Me<u8>| {
        let home = me.handle();
        let seen = Rc::new(Cell::new(false));
        let saw = seen.clone();
        let child = me.child(move |me: &Me<()>, ()| {
            let back = home.clone();
            let dropped = raised(|| me.switch(&home, 1));
            assert!(dropped.is::<GreenletExit>());
            // The root sits in the drop of this greenlet's last handle.
            assert!(back.is_active() && !back.is_current());
            saw.set(true);
            2
        });
        me.switch(&child, ()).unwrap();
        drop(child);
        assert!(seen.get());
    });
}

#[test]
fn errors_have_words_and_do_not_need_a_debug_value() {
    struct Opaque;
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let (child, body) = me.declare::<Opaque>();
        let error = me.switch(&child, Opaque).unwrap_err();
        assert!(format!("{error:?}").starts_with("NoBody"));
        assert!(error.to_string().contains("Body::run"));
        drop(body);
        let error: Box<dyn std::error::Error> = Box::new(me.switch(&child, Opaque).unwrap_err());
        assert!(error.source().is_none());
    });
}

// ------------------------------------------------------------------------------------- scale

#[test]
fn deep_recursion_switches_from_its_depth() {
    // Values go in and out at a depth of 300 frames, in two greenlets at once.
    fn dive(me: &Me<u64>, home: &RawGreenlet<u64>, depth: u64) -> u64 {
        let here = std::hint::black_box([depth; 8]);
        let got = if depth == 0 { me.switch(home, 0).unwrap() } else { dive(me, home, depth - 1) };
        assert!(here.iter().all(|&n| n == depth));
        got + 1
    }
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let make = || {
            let home = me.handle();
            me.child(move |me: &Me<u64>, depth| dive(me, &home, depth))
        };
        let (a, b) = (make(), make());
        me.switch(&a, 300).unwrap();
        me.switch(&b, 200).unwrap();
        assert_eq!(me.switch(&a, 1_000).unwrap(), 1_301);
        assert_eq!(me.switch(&b, 1_000).unwrap(), 1_201);
    });
}

#[test]
fn ten_thousand_greenlets_are_alive_at_once() {
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let greenlets: Vec<_> = (0..10_000u64)
            .map(|n| {
                let home = me.handle();
                let greenlet = me.child(move |me: &Me<u64>, sent| {
                    let more = me.switch(&home, n).unwrap();
                    n + sent + more
                });
                assert_eq!(me.switch(&greenlet, 1).unwrap(), n);
                greenlet
            })
            .collect();
        assert!(greenlets.iter().all(|greenlet| greenlet.is_active()));
        let ids: std::collections::HashSet<u64> = greenlets.iter().map(|greenlet| greenlet.id()).collect();
        assert_eq!(ids.len(), 10_000);
        for (n, greenlet) in greenlets.iter().enumerate() {
            assert_eq!(me.switch(greenlet, 2).unwrap(), n as u64 + 3);
        }
        assert!(greenlets.iter().all(|greenlet| greenlet.is_dead()));
    });
}

#[test]
fn a_chain_of_a_hundred_thousand_switches_keeps_its_depth() {
    // A ring of 1,000, none of which ever returns to who switched to it. Each sees its own frame
    // where it was, and the root's, so nothing is piled up.
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let home = me.handle();
        let ring: Rc<RefCell<Vec<RawGreenlet<u64>>>> = Rc::default();
        for at in 0..1_000usize {
            let (ring_of, home) = (Rc::downgrade(&ring), home.clone());
            let link = me.child(move |me: &Me<u64>, mut n| {
                loop {
                    if n == 100_000 {
                        me.switch(&home, n).unwrap();
                    }
                    let next = ring_of.upgrade().unwrap().borrow()[(at + 1) % 1_000].clone();
                    n = me.switch(&next, n + 1).unwrap();
                }
            });
            ring.borrow_mut().push(link);
        }
        let first = ring.borrow()[0].clone();
        assert_eq!(me.switch(&first, 1).unwrap(), 100_000);
    });
}

#[test]
fn a_chain_of_starts_unwinds_through_its_parents() {
    // Each starts the next as its child and adds one to what that ends with.
    fn link(me: &Me<u64>, left: u64) -> u64 {
        if left == 0 {
            return 0;
        }
        let next = me.child(link);
        me.switch(&next, left - 1).unwrap() + 1
    }
    let _watched = watchdog();
    enter(|me: &Me<u64>| {
        let first = me.child(link);
        assert_eq!(me.switch(&first, 2_000).unwrap(), 2_000);
    });
}

#[test]
fn errno_belongs_to_the_greenlet() {
    fn set(value: i32) {
        // SAFETY: the calling thread's own int.
        unsafe { *libc::__errno_location() = value }
    }
    fn get() -> i32 {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() }
    }
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            set(libc::ENOENT);
            me.switch(&home, ()).unwrap();
            assert_eq!(get(), libc::ENOENT);
            set(libc::EPERM);
        });
        set(libc::EAGAIN);
        me.switch(&child, ()).unwrap();
        assert_eq!(get(), libc::EAGAIN);
        set(libc::EINTR);
        me.switch(&child, ()).unwrap();
        assert_eq!(get(), libc::EINTR);
    });
}

#[test]
fn registers_and_floats_survive_a_switch() {
    let _watched = watchdog();
    enter(|me: &Me<f64>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<f64>, first| {
            let (mut a, mut b, mut c, mut d) = (first, first * 2.0, first * 3.0, first * 4.0);
            for _ in 0..100 {
                let x = me.switch(&home, a + b + c + d).unwrap();
                (a, b, c, d) = (a + x, b - x, c + x, d - x);
            }
            a + b + c + d
        });
        let (mut sum, mut n) = (0.0, 1.5f64);
        let first = me.switch(&child, 2.5).unwrap();
        for _ in 0..100 {
            sum += me.switch(&child, n).unwrap();
            n += 0.25;
        }
        assert_eq!((first, sum, n), (25.0, 2500.0, 26.5));
    });
}
