//! `Generator`: functions that yield, from any depth, and are sent values.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::{Drops, OnDrop, raised, raised_as, watchdog};
use gevent::{Generator, GreenletExit, Me, Step, SwitchError, Yielder, enter};

#[test]
fn it_yields_its_values_in_order_and_ends() {
    let _watched = watchdog();
    let mut generator = Generator::new(|outside, ()| {
        for n in 0..3 {
            outside.send(n);
        }
    });
    assert!(!generator.is_done());
    assert_eq!(generator.next(), Some(0));
    assert_eq!(generator.next(), Some(1));
    assert_eq!(generator.next(), Some(2));
    assert!(!generator.is_done());
    assert_eq!(generator.next(), None);
    assert!(generator.is_done());
    assert_eq!(generator.next(), None);
}

#[test]
fn it_is_sent_values_and_returns_one() {
    let _watched = watchdog();
    let mut sum = Generator::new(|outside, first: Option<u32>| {
        let (mut total, mut next) = (0, first);
        while let Some(n) = next {
            total += n;
            next = outside.send(total);
        }
        format!("total {total}")
    });
    assert_eq!(sum.send(Some(1)).unwrap(), Step::Yielded(1));
    assert_eq!(sum.send(Some(10)).unwrap(), Step::Yielded(11));
    assert_eq!(sum.send(None).unwrap(), Step::Returned("total 11".to_owned()));
    match sum.send(Some(5)) {
        Err(SwitchError::Dead(value)) => assert_eq!(value, Some(5)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_an_iterator_like_any_other() {
    let _watched = watchdog();
    fn count(from: u64) -> Generator<(), u64> {
        Generator::new(move |outside, ()| {
            for n in from.. {
                outside.send(n);
            }
        })
    }
    let drops = Drops::new();
    let token = drops.token();
    let odd: Vec<u64> = count(1).filter(|n| n % 2 == 1).take(4).collect();
    assert_eq!(odd, [1, 3, 5, 7]);
    let pairs: Vec<_> = count(0).zip(count(100)).take(2).collect();
    assert_eq!(pairs, [(0, 100), (1, 101)]);
    drop(token);
    assert_eq!(drops.count(), 1);
}

#[test]
fn it_yields_from_any_depth_of_calls() {
    fn hanoi(outside: &Yielder<'_, (), (u8, u8), ()>, discs: u32, from: u8, to: u8, by: u8) {
        if discs > 0 {
            hanoi(outside, discs - 1, from, by, to);
            outside.send((from, to));
            hanoi(outside, discs - 1, by, to, from);
        }
    }
    let _watched = watchdog();
    let mut towers = [Vec::from_iter((1..=6).rev()), vec![], vec![]];
    let moves = Generator::new(|outside, ()| hanoi(outside, 6, 0, 2, 1));
    let mut count = 0;
    for (from, to) in moves {
        let disc = towers[from as usize].pop().unwrap();
        assert!(towers[to as usize].last().is_none_or(|&below| below > disc));
        towers[to as usize].push(disc);
        count += 1;
    }
    assert_eq!((count, &towers[2][..]), (63, &[6, 5, 4, 3, 2, 1][..]));
}

#[test]
fn generators_drive_generators_recursively() {
    enum Tree {
        Leaf,
        Node(Box<Tree>, u32, Box<Tree>),
    }
    fn build(low: u32, high: u32) -> Tree {
        if low >= high {
            return Tree::Leaf;
        }
        let middle = (low + high) / 2;
        Tree::Node(Box::new(build(low, middle)), middle, Box::new(build(middle + 1, high)))
    }
    // One generator a node, each driven by the one of its parent node.
    fn walk(tree: Rc<Tree>, at: fn(&Tree) -> &Tree, path: Vec<bool>) -> Generator<(), u32> {
        Generator::new(move |outside, ()| {
            let mut node = at(&tree);
            for &right in &path {
                let Tree::Node(left, _, r) = node else { return };
                node = if right { r } else { left };
            }
            let Tree::Node(_, value, _) = node else { return };
            for side in [false, true] {
                for n in walk(tree.clone(), at, [&path[..], &[side]].concat()) {
                    outside.send(n);
                }
                if !side {
                    outside.send(*value);
                }
            }
        })
    }
    let _watched = watchdog();
    let tree = Rc::new(build(0, 60));
    let values: Vec<u32> = walk(tree, |tree| tree, vec![]).collect();
    assert_eq!(values, (0..60).collect::<Vec<_>>());
}

#[test]
fn permutations_by_nested_generators() {
    fn permutations(items: Vec<char>) -> Generator<(), String> {
        Generator::new(move |outside, ()| {
            if items.len() <= 1 {
                outside.send(items.iter().collect());
                return;
            }
            for at in 0..items.len() {
                let mut rest = items.clone();
                let head = rest.remove(at);
                for tail in permutations(rest) {
                    outside.send(format!("{head}{tail}"));
                }
            }
        })
    }
    let _watched = watchdog();
    let all: Vec<String> = permutations("abc".chars().collect()).collect();
    assert_eq!(all, ["abc", "acb", "bac", "bca", "cab", "cba"]);
    let all: Vec<String> = permutations("abcde".chars().collect()).collect();
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (120, 120));
    assert!(all.is_sorted());
}

#[test]
fn a_throw_is_raised_at_its_yield() {
    let _watched = watchdog();
    let mut generator = Generator::new(|outside, ()| {
        let thrown = raised_as::<&str, _>(|| outside.send("ready"));
        outside.send(if thrown == "thrown" { "caught" } else { "?" });
    });
    assert_eq!(generator.send(()).unwrap(), Step::Yielded("ready"));
    assert_eq!(generator.throw(Box::new("thrown")).unwrap(), Step::Yielded("caught"));
    // Uncaught, it is raised in who threw.
    assert_eq!(raised_as::<u8, _>(|| generator.throw(Box::new(3u8))), 3);
    assert!(generator.is_done());
    assert!(matches!(generator.throw(Box::new(4u8)), Err(SwitchError::Dead(_))));
}

#[test]
fn a_panic_is_raised_in_who_asked() {
    let _watched = watchdog();
    let mut generator = Generator::<u8, u8>::new(|outside, n| {
        outside.send(n);
        panic!("after the first");
    });
    generator.send(1).unwrap();
    assert_eq!(raised_as::<&str, _>(|| generator.send(2)), "after the first");
    assert!(generator.is_done());
}

#[test]
fn a_panic_passes_through_nested_generators() {
    let _watched = watchdog();
    let drops = Drops::new();
    let (inner_token, outer_token) = (drops.token(), drops.token());
    let mut outer = Generator::<(), u8>::new(move |outside, ()| {
        let _token = outer_token;
        let inner = Generator::<(), u8>::new(move |outside, ()| {
            let _token = inner_token;
            outside.send(1);
            std::panic::panic_any(7u64);
        });
        for n in inner {
            outside.send(n);
        }
    });
    assert_eq!(outer.next(), Some(1));
    assert_eq!(raised_as::<u64, _>(|| outer.next()), 7);
    assert_eq!(drops.count(), 2);
}

#[test]
fn close_unwinds_it() {
    let _watched = watchdog();
    let drops = Drops::new();
    let token = drops.token();
    let mut generator = Generator::<(), u8, u8>::new(move |outside, ()| {
        let _token = token;
        loop {
            outside.send(1);
        }
    });
    generator.send(()).unwrap();
    assert_eq!(generator.close(), Ok(None));
    assert_eq!(drops.count(), 1);
    assert!(generator.is_done());
    assert_eq!(generator.close(), Ok(None), "closing again is nothing");
}

#[test]
fn close_of_one_that_never_ran_drops_its_body() {
    let _watched = watchdog();
    let drops = Drops::new();
    let token = drops.token();
    let mut generator = Generator::<(), u8>::new(move |_, ()| {
        let _token = &token;
        unreachable!("it never runs");
    });
    assert_eq!(generator.close(), Ok(None));
    assert!(generator.is_done());
    assert_eq!(drops.count(), 1);
    assert_eq!(generator.next(), None);
}

#[test]
fn close_tells_of_a_generator_that_goes_on_or_returns() {
    let _watched = watchdog();
    let mut generator = Generator::<(), u8, &str>::new(|outside, ()| {
        assert!(raised(|| outside.send(1)).is::<GreenletExit>());
        assert!(raised(|| outside.send(2)).is::<GreenletExit>());
        "returned"
    });
    generator.send(()).unwrap();
    assert_eq!(generator.close(), Err(2));
    assert!(!generator.is_done());
    assert_eq!(generator.close(), Ok(Some("returned")));
}

#[test]
fn dropped_it_is_unwound() {
    let _watched = watchdog();
    let drops = Drops::new();
    let token = drops.token();
    let mut generator = Generator::<(), u8>::new(move |outside, ()| {
        let _token = token;
        loop {
            outside.send(1);
        }
    });
    generator.next();
    drop(generator);
    assert_eq!(drops.count(), 1);
    // Unstarted: what it captured goes.
    let token = drops.token();
    drop(Generator::<(), u8>::new(move |_, ()| drop(token)));
    assert_eq!(drops.count(), 2);
}

#[test]
fn a_nested_one_is_unwound_with_the_outer() {
    let _watched = watchdog();
    let drops = Drops::new();
    let (a, b) = (drops.token(), drops.token());
    let mut outer = Generator::<(), u8>::new(move |outside, ()| {
        let _token = a;
        let inner = Generator::<(), u8>::new(move |outside, ()| {
            let _token = b;
            loop {
                outside.send(1);
            }
        });
        for n in inner {
            outside.send(n);
        }
    });
    outer.next();
    drop(outer);
    // The inner one was dropped while the outer one unwound.
    enter(|me: &Me<()>| me.switch(&me.handle(), ()).unwrap());
    assert_eq!(drops.count(), 2);
}

#[test]
fn consumers_may_take_turns() {
    let _watched = watchdog();
    let generator = Rc::new(RefCell::new(Generator::new(|outside, ()| {
        for n in 0..6 {
            outside.send(n);
        }
    })));
    enter(|me: &Me<Option<i32>>| {
        let shared = generator.clone();
        let home = me.handle();
        let other = me.child(move |me: &Me<()>, ()| {
            loop {
                let got = shared.borrow_mut().next();
                me.switch(&home, got).unwrap();
            }
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(generator.borrow_mut().next());
            seen.push(me.switch(&other, ()).unwrap());
        }
        assert_eq!(seen, (0..6).map(Some).collect::<Vec<_>>());
        // Its end, and what it raises, goes to who asked last.
        assert_eq!(me.switch(&other, ()).unwrap(), None);
    });
    assert!(generator.borrow().is_done());
}

#[test]
fn a_generator_outlives_a_consumer_that_ended() {
    let _watched = watchdog();
    let generator = Rc::new(RefCell::new(Generator::new(|outside, ()| {
        outside.send(1);
        outside.send(2);
        panic!("to who asks now");
    })));
    enter(|me: &Me<()>| {
        let shared = generator.clone();
        let consumer = me.child(move |_: &Me<()>, ()| assert_eq!(shared.borrow_mut().next(), Some(1)));
        me.switch(&consumer, ()).unwrap();
        assert!(consumer.is_dead());
    });
    assert_eq!(generator.borrow_mut().next(), Some(2));
    assert_eq!(raised_as::<&str, _>(|| generator.borrow_mut().next()), "to who asks now");
}

#[test]
fn driving_itself_is_an_error_and_dropping_itself_is_not() {
    let _watched = watchdog();
    let cell: Rc<RefCell<Option<Generator<u32, u32>>>> = Rc::default();
    let own = cell.clone();
    let drops = Drops::new();
    let token = drops.token();
    let generator = Generator::<u32, u32>::new(move |_, first| {
        let _token = token;
        let mut itself = own.borrow_mut().take().unwrap();
        match itself.send(first + 1) {
            Err(SwitchError::OtherType(n)) => assert_eq!(n, 8),
            other => panic!("{other:?}"),
        }
        drop(itself);
    });
    let greenlet = generator.greenlet().clone();
    *cell.borrow_mut() = Some(generator);
    // Started by hand, since its own `send` would need it outside; its parent is the root.
    enter(|me: &Me<u8>| {
        let ended = me.switch(&greenlet, 7);
        assert!(matches!(ended, Err(SwitchError::Orphan(_))), "{ended:?}");
    });
    assert!(greenlet.is_dead());
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_yield_without_a_consumer_is_an_error_in_the_generator() {
    let _watched = watchdog();
    let mut generator = Generator::<u8, u8>::new(|outside, first| {
        let mut n = outside.send(first);
        loop {
            // Resumed by hand, it has nobody to yield to.
            n = catch_unwind(AssertUnwindSafe(|| outside.send(n))).unwrap_or_else(resume);
        }
        fn resume(payload: Box<dyn std::any::Any + Send>) -> u8 {
            std::panic::resume_unwind(payload)
        }
    });
    generator.send(1).unwrap();
    enter(|me: &Me<()>| {
        let raised = raised(|| me.switch(generator.greenlet(), 2));
        assert!(raised.downcast_ref::<&str>().unwrap().contains("Generator::send"));
    });
    assert!(generator.is_done());
}

#[test]
fn it_is_asked_while_unwinding_in_vain() {
    let _watched = watchdog();
    let generator = Rc::new(RefCell::new(Generator::<u8, u8>::new(|outside, n| {
        outside.send(n);
    })));
    let inner = generator.clone();
    raised(move || {
        let _guard = OnDrop::new(move || {
            let refused = inner.borrow_mut().send(3);
            assert!(matches!(refused, Err(SwitchError::Unwinding(3))), "{refused:?}");
        });
        panic!("unwinds");
    });
    assert_eq!(generator.borrow_mut().send(4).unwrap(), Step::Yielded(4));
}

#[test]
fn a_million_sends_allocate_nothing_lasting_and_lose_nothing() {
    let _watched = watchdog();
    let mut echo = Generator::<u64, u64>::new(|outside, mut n| {
        loop {
            n = outside.send(n + 1);
        }
    });
    let mut n = 0;
    for _ in 0..1_000_000 {
        match echo.send(n) {
            Ok(Step::Yielded(next)) => n = next,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(n, 1_000_000);
}
