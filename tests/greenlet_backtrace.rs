//! Backtraces of greenlets: where they are suspended, without their noticing.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::{Drops, raised, watchdog};
use gevent::{GreenletExit, Me, RawGreenlet, enter, root, settrace};

#[inline(never)]
fn waits_in_here(me: &Me<u32>, home: &RawGreenlet<u32>, value: u32) -> u32 {
    let got = me.switch(home, value).unwrap();
    std::hint::black_box(got)
}

#[inline(never)]
fn then_waits_there(me: &Me<u32>, home: &RawGreenlet<u32>, value: u32) -> u32 {
    let got = me.switch(home, value).unwrap();
    std::hint::black_box(got)
}

fn waiting(me: &Me<u32>) -> RawGreenlet<u32> {
    let home = me.handle();
    me.child(move |me: &Me<u32>, first| {
        let second = waits_in_here(me, &home, first);
        then_waits_there(me, &home, second)
    })
}

fn shown(greenlet: &gevent::AnyGreenlet) -> String {
    greenlet.backtrace().expect("it has a stack").to_string()
}

#[test]
fn it_shows_the_function_that_it_is_suspended_in() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = waiting(me);
        me.switch(&child, 1).unwrap();
        let trace = shown(&child);
        assert!(trace.contains("waits_in_here") && !trace.contains("then_waits_there"), "{trace}");
        me.switch(&child, 2).unwrap();
        let trace = shown(&child);
        assert!(trace.contains("then_waits_there") && !trace.contains("waits_in_here"), "{trace}");
    });
}

#[test]
fn one_without_a_stack_has_none() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = me.child(|_, n: u32| n);
        assert!(child.backtrace().is_none());
        me.switch(&child, 1).unwrap();
        assert!(child.backtrace().is_none());
    });
}

#[test]
fn looking_disturbs_nothing() {
    let _watched = watchdog();
    let (drops, seen) = (Drops::new(), Rc::new(Cell::new(0)));
    enter(|me: &Me<u32>| {
        let (home, token, count) = (me.handle(), drops.token(), seen.clone());
        let child = me.child(move |me: &Me<u32>, mut n| {
            let _token = token;
            loop {
                // SAFETY: the calling thread's own int.
                unsafe { *libc::__errno_location() = n as i32 };
                let sent = n;
                n = me.switch(&home, sent * 2).unwrap();
                count.set(count.get() + 1);
                // SAFETY: as above.
                assert_eq!(unsafe { *libc::__errno_location() }, sent as i32);
            }
        });
        let told = Rc::new(Cell::new(0));
        let tell = told.clone();
        settrace(Some(Rc::new(move |_, _, _| tell.set(tell.get() + 1))));
        for n in 1..=50 {
            assert_eq!(me.switch(&child, n).unwrap(), n * 2);
            for _ in 0..3 {
                assert!(child.backtrace().is_some());
                assert!(child.is_active() && !child.is_current() && me.is_current());
            }
            assert_eq!((seen.get(), drops.count()), (n - 1, 0));
        }
        settrace(None);
        assert_eq!(told.get(), 100, "a look is no switch");
        assert!(me.throw(&child, Box::new(GreenletExit)).is_err());
        assert_eq!(drops.count(), 1);
    });
}

#[test]
fn one_greenlet_looks_at_another() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let target = waiting(me);
        me.switch(&target, 1).unwrap();
        let looked_at = target.clone();
        let looker = me.child(move |_: &Me<()>, ()| {
            let trace = shown(&looked_at);
            u32::from(trace.contains("waits_in_here"))
        });
        assert_eq!(me.switch(&looker, ()).unwrap(), 1);
        // Resumed by the loop afterwards, it still comes back to the right place.
        assert_eq!(me.switch(&target, 5).unwrap(), 5);
        assert_eq!(me.switch(&target, 6).unwrap(), 6);
        assert!(target.is_dead());
    });
}

#[test]
fn the_running_greenlet_and_the_root_show_this_place() {
    #[inline(never)]
    fn in_the_root(me: &Me<bool>) -> bool {
        let child = me.child(|me: &Me<()>, ()| {
            let own = shown(me);
            let roots = shown(&root());
            own.contains("the_running_greenlet") && roots.contains("in_the_root")
        });
        me.switch(&child, ()).unwrap()
    }
    let _watched = watchdog();
    enter(|me: &Me<bool>| {
        assert!(shown(me).contains("the_running_greenlet_and_the_root_show_this_place"));
        assert!(in_the_root(me));
    });
}

#[test]
fn it_can_be_taken_while_unwinding_and_in_a_tracer() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let child = waiting(me);
        me.switch(&child, 1).unwrap();
        let (a, b) = (child.clone(), child.clone());
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (first, second) = (seen.clone(), seen.clone());
        raised(move || {
            let _guard = common::OnDrop::new(move || first.borrow_mut().push(shown(&a)));
            panic!("unwinds");
        });
        settrace(Some(Rc::new(move |_, _, to| {
            if to.is_root() {
                second.borrow_mut().push(shown(&b));
            }
        })));
        me.switch(&child, 2).unwrap();
        settrace(None);
        let seen = seen.borrow();
        assert!(seen[0].contains("waits_in_here") && seen[1].contains("then_waits_there"));
    });
}

#[test]
fn a_thousand_greenlets_can_be_looked_at() {
    let _watched = watchdog();
    enter(|me: &Me<u32>| {
        let greenlets: Vec<_> = (0..1_000).map(|_| waiting(me)).collect();
        for greenlet in &greenlets {
            me.switch(greenlet, 1).unwrap();
        }
        assert!(greenlets.iter().all(|greenlet| greenlet.backtrace().is_some()));
        for greenlet in &greenlets {
            assert_eq!(me.switch(greenlet, 3).unwrap(), 3);
        }
    });
}
