//! Nothing is allocated by a switch, and nothing is left behind by rounds of anything. This test binary
//! counts every allocation.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use common::{raised, watchdog};
use gevent::{Generator, GreenletExit, Me, RawGreenlet, SwitchError, enter, settrace};

/// Counts what is allocated: by the calling thread, and alive over all threads.
struct Counting;

thread_local! {
    static MADE: Cell<usize> = const { Cell::new(0) };
}
static ALIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: everything is passed on to `System`; the counters are plain words, and the thread-local has
// no destructor, so it is there whenever this is called.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MADE.with(|made| made.set(made.get() + 1));
        ALIVE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `ALIVE` is of the whole process, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How many allocations `f` makes on this thread.
fn allocations(f: impl FnOnce()) -> usize {
    let before = MADE.get();
    f();
    MADE.get() - before
}

/// Runs `round` until its caches are warm, then many times, and checks that no memory stays.
#[track_caller]
fn leaves_nothing(mut round: impl FnMut()) {
    (0..20).for_each(|_| round());
    let before = ALIVE.load(Relaxed);
    (0..200).for_each(|_| round());
    let grown = ALIVE.load(Relaxed) - before;
    // The harness may print a line or two meanwhile: less than 20 bytes a round are none of ours.
    assert!(grown < 4_000, "200 rounds left {grown} bytes behind");
}

fn suspended(me: &Me<()>) -> RawGreenlet<()> {
    let home = me.handle();
    let child = me.child(move |me: &Me<()>, ()| me.switch(&home, ()).unwrap());
    me.switch(&child, ()).unwrap();
    child
}

#[test]
fn a_switch_allocates_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<[u64; 16]>| {
        let home = me.handle();
        let echo = me.child(move |me: &Me<String>, mut text| {
            loop {
                text = me.switch(&home, [text.len() as u64; 16]).unwrap();
            }
        });
        let texts: Vec<String> = (0..1_000).map(|n| "x".repeat(n)).collect();
        me.switch(&echo, String::new()).unwrap();
        let made = allocations(|| {
            for (n, text) in texts.into_iter().enumerate() {
                assert_eq!(me.switch(&echo, text).unwrap()[15], n as u64);
            }
        });
        assert_eq!(made, 0);
    });
}

#[test]
fn switches_between_siblings_and_to_oneself_allocate_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<u32>| {
        let (ping, body) = me.declare::<u32>();
        let back = ping.downgrade();
        let pong = me.child(move |me: &Me<u32>, mut n| {
            let ping = back.upgrade().unwrap();
            loop {
                n = me.switch(&me.handle(), n).unwrap();
                n = me.switch(&ping, n).unwrap();
            }
        });
        let home = me.handle();
        body.run(move |me, mut left| {
            loop {
                left = if left == 0 { me.switch(&home, 0) } else { me.switch(&pong, left - 1) }.unwrap();
            }
        });
        me.switch(&ping, 10).unwrap();
        assert_eq!(allocations(|| assert_eq!(me.switch(&ping, 100_000).unwrap(), 0)), 0);
        // They hold each other: ended by hand.
        assert!(matches!(me.throw(&ping, Box::new(GreenletExit)), Err(SwitchError::Exited(_))));
    });
}

#[test]
fn a_refused_switch_allocates_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<()>| {
        let dead = me.child(|_, ()| ());
        me.switch(&dead, ()).unwrap();
        let (bodyless, _body) = me.declare::<()>();
        let made = allocations(|| {
            for _ in 0..100 {
                assert!(me.switch(&dead, ()).is_err() && me.switch(&bodyless, ()).is_err());
            }
        });
        assert_eq!(made, 0);
    });
}

#[test]
fn a_generators_send_allocates_nothing() {
    let _watched = (watchdog(), alone());
    let mut echo = Generator::<u64, u64>::new(|outside, mut n| {
        loop {
            n = outside.send(n);
        }
    });
    echo.send(0).unwrap();
    assert_eq!(allocations(|| (0..10_000).for_each(|n| assert!(echo.send(n).is_ok()))), 0);
}

#[test]
fn lives_leave_nothing_however_they_end() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<()>| {
        leaves_nothing(|| {
            let returned = me.child(|_, ()| ());
            me.switch(&returned, ()).unwrap();
            let thrown_at = suspended(me);
            let _ = me.throw(&thrown_at, Box::new(GreenletExit));
            let dropped = suspended(me);
            drop(dropped);
            drop(me.child(|_, ()| ()));
            drop(me.declare::<()>());
            let unstarted = me.child(|_, ()| ());
            let _ = me.throw(&unstarted, Box::new(GreenletExit));
        });
    });
}

#[test]
fn panics_and_throws_leave_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<()>| {
        leaves_nothing(|| {
            let panics = me.child(|_, ()| std::panic::resume_unwind(Box::new([1u8; 100])));
            raised(|| me.switch(&panics, ()));
            let target = suspended(me);
            raised(|| me.throw(&target, Box::new(String::from("payload"))));
            let held = suspended(me);
            raised(move || {
                let _held = held;
                std::panic::resume_unwind(Box::new(()))
            });
            me.switch(&me.handle(), ()).unwrap();
        });
    });
}

#[test]
fn parents_leave_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<u64>| {
        leaves_nothing(|| {
            let greenlets: Vec<_> = (0..10).map(|_| me.child(|_, n: u64| n)).collect();
            for pair in greenlets.windows(2) {
                pair[0].set_parent(&pair[1]).unwrap();
            }
            me.switch(&greenlets[0], 1).unwrap();
            // One whose parent is dead, and one that dies with its parent suspended.
            let handed: Rc<Cell<Option<RawGreenlet<u64>>>> = Rc::default();
            let hand = handed.clone();
            let parent = me.child(move |me: &Me<u64>, n| {
                hand.set(Some(me.child(|_, n: u64| n)));
                n
            });
            me.switch(&parent, 1).unwrap();
            me.switch(&handed.take().unwrap(), 2).unwrap();
            // An orphan, dropped unread.
            let text = me.child(|_, text: String| text.len() as u64);
            let child = me.child(|_, n: u64| n);
            child.set_parent(&text).unwrap();
            assert!(matches!(me.switch(&child, 1), Err(SwitchError::Orphan(_))));
        });
    });
}

#[test]
fn generators_leave_nothing() {
    let _watched = (watchdog(), alone());
    leaves_nothing(|| {
        let numbers =
            |to: u32| Generator::<(), u32>::new(move |outside, ()| (0..to).for_each(|n| outside.send(n)));
        assert_eq!(numbers(5).sum::<u32>(), 10);
        let mut outer = Generator::<(), u32>::new(move |outside, ()| {
            for n in numbers(3) {
                outside.send(n);
            }
        });
        outer.next();
        drop(outer);
        enter(|me: &Me<()>| me.switch(&me.handle(), ()).unwrap());
        let mut closed = numbers(3);
        closed.next();
        closed.close().unwrap();
        drop(numbers(3));
        let mut thrown_at = numbers(3);
        thrown_at.next();
        let _ = catch_unwind(AssertUnwindSafe(|| thrown_at.throw(Box::new("text"))));
    });
}

#[test]
fn tracers_leave_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<()>| {
        leaves_nothing(|| {
            let data = vec![1u8; 64];
            settrace(Some(Rc::new(move |_, _, _| {
                let _ = &data;
            })));
            let child = me.child(|_, ()| ());
            me.switch(&child, ()).unwrap();
            settrace(Some(Rc::new(|_, _, _| std::panic::resume_unwind(Box::new(1u8)))));
            let child = me.child(|_, ()| ());
            raised(|| me.switch(&child, ()));
        });
    });
}

#[test]
fn backtraces_leave_nothing() {
    let _watched = (watchdog(), alone());
    enter(|me: &Me<()>| {
        let child = suspended(me);
        leaves_nothing(|| drop(child.backtrace().unwrap()));
    });
}

#[test]
fn threads_leave_nothing() {
    let _watched = (watchdog(), alone());
    leaves_nothing(|| {
        std::thread::spawn(|| {
            enter(|me: &Me<()>| {
                let _dropped = suspended(me);
                let held = suspended(me);
                raised(move || {
                    let _held = held;
                    std::panic::resume_unwind(Box::new(()))
                });
            });
        })
        .join()
        .unwrap();
    });
}

#[test]
fn the_process_does_not_grow() {
    /// Resident pages.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    let _watched = (watchdog(), alone());
    enter(|me: &Me<()>| {
        let round = || {
            let greenlets: Vec<_> = (0..100).map(|_| suspended(me)).collect();
            drop(greenlets);
        };
        (0..10).for_each(|_| round());
        let before = resident();
        (0..200).for_each(|_| round());
        let grown = resident().saturating_sub(before);
        assert!(grown < 100, "20,000 greenlets, 100 at a time, left {grown} pages behind");
    });
}
