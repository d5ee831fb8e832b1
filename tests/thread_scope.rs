//! `gevent::thread::scope`: it does not return before its children have ended, whatever happens.
//!
//! What the children borrow is a [`Canary`], which dies with the frame that it is in: a child that
//! looks at a dead one aborts the process.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::threads::{Flag, OtherHub, in_child, is_child, message, watchdog};
use gevent::thread::{self, Scope, ScopedJoinHandle};
use gevent::{Ended, GreenletExit, Hub};

const MILLI: Duration = Duration::from_millis(1);
const ALIVE: u64 = 0x0a11_7ea1_0a11_7ea1;

/// The state of an owner whose body is done.
const WAITS: gevent::State = gevent::State::Blocked(gevent::WaitsFor::Other("the greenlets of its scope"));

struct Canary(AtomicU64);

impl Canary {
    fn new() -> Self {
        Canary(AtomicU64::new(ALIVE))
    }

    fn sings(&self) {
        if self.0.load(Ordering::Relaxed) != ALIVE {
            eprintln!("a child outlived what it borrows");
            std::process::abort();
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Looks at a canary when it is dropped, and counts that.
struct Looks<'a>(&'a Canary, &'a AtomicUsize);

impl Drop for Looks<'_> {
    fn drop(&mut self) {
        self.0.sings();
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

// ---------------------------------------------------------------------------------------------
// What std says
// ---------------------------------------------------------------------------------------------

#[test]
fn children_borrow_and_return() {
    let _watched = watchdog();
    let mut a = vec![1, 2, 3];
    let mut x = 0;
    let sum = thread::scope(|s| {
        let shared = s.spawn(|| a.iter().sum::<i32>());
        let exclusive = s.spawn(|| {
            x += a[0] + a[2];
            &a[1]
        });
        assert_eq!(*exclusive.join().unwrap(), 2);
        shared.join().unwrap()
    });
    a.push(4);
    assert_eq!((sum, x, a.len()), (6, 4, 4));
}

#[test]
fn the_scope_waits_for_those_that_nobody_joins() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|s| {
        for n in 0..100_u64 {
            let (canary, ended) = (&canary, &ended);
            s.spawn(move || {
                let _looks = Looks(canary, ended);
                thread::sleep(Duration::from_micros(n * 50));
            });
        }
    });
    assert_eq!(ended.load(Ordering::Relaxed), 100);
}

#[test]
fn a_child_may_spawn_into_the_scope() {
    fn grow<'scope>(s: &'scope Scope<'scope, '_>, count: &'scope AtomicUsize, depth: usize) {
        count.fetch_add(1, Ordering::Relaxed);
        if depth > 0 {
            for _ in 0..3 {
                s.spawn(move || {
                    thread::yield_now();
                    grow(s, count, depth - 1);
                });
            }
        }
    }
    let _watched = watchdog();
    let count = AtomicUsize::new(0);
    thread::scope(|s| grow(s, &count, 5));
    assert_eq!(count.into_inner(), 1 + 3 + 9 + 27 + 81 + 243);
}

#[test]
fn a_panic_of_the_body_goes_on_when_the_children_have_ended() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    let failed = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|s| {
            s.spawn(|| {
                let _looks = Looks(&canary, &ended);
                thread::sleep(5 * MILLI);
                ended.fetch_add(10, Ordering::Relaxed);
            });
            panic!("in the body");
        })
    }));
    assert_eq!(message(&*failed.unwrap_err()), "in the body");
    assert_eq!(ended.load(Ordering::Relaxed), 11, "as std's, the child goes on to its end");
}

#[test]
fn a_panic_of_a_child_that_nobody_joined_is_the_scopes() {
    let _watched = watchdog();
    let after = AtomicBool::new(false);
    let failed = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|s| {
            s.spawn(|| panic!("in a child"));
            s.spawn(|| {
                thread::sleep(2 * MILLI);
                after.store(true, Ordering::Relaxed);
            });
        })
    }));
    assert_eq!(message(&*failed.unwrap_err()), "a scoped thread panicked");
    assert!(after.load(Ordering::Relaxed));
}

#[test]
fn a_panic_of_a_child_that_was_joined_is_not() {
    let _watched = watchdog();
    thread::scope(|s| {
        let handle = s.spawn(|| panic!("in a child"));
        assert_eq!(message(&*handle.join().unwrap_err()), "in a child");
        // Also when the other children of the scope do the joining.
        let handle = s.spawn(|| panic!("in a child"));
        s.spawn(|| assert!(handle.join().is_err()));
    });
}

#[test]
fn a_panic_of_the_body_goes_before_those_of_children() {
    let _watched = watchdog();
    let failed = catch_unwind(|| {
        thread::scope(|s| {
            s.spawn(|| panic!("in a child"));
            thread::yield_now();
            panic!("in the body");
        })
    });
    assert_eq!(message(&*failed.unwrap_err()), "in the body");
}

#[test]
fn is_finished_tells_of_the_closure() {
    let _watched = watchdog();
    thread::scope(|s| {
        let handle = s.spawn(|| 7);
        assert!(!handle.is_finished());
        while !handle.is_finished() {
            thread::yield_now();
        }
        assert_eq!(handle.join().unwrap(), 7);
    });
}

/// rust-lang/rust#98498: a result is dropped, and that may still use what it borrows.
#[test]
fn a_result_that_nobody_takes_is_dropped_before_the_scope_returns() {
    struct Spawns<'scope, 'env>(&'scope Scope<'scope, 'env>, &'env Canary, &'env AtomicUsize);
    impl Drop for Spawns<'_, '_> {
        fn drop(&mut self) {
            thread::sleep(2 * MILLI);
            let (canary, ended) = (self.1, self.2);
            self.0.spawn(move || {
                let _looks = Looks(canary, ended);
                thread::sleep(2 * MILLI);
            });
        }
    }
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|s| {
        let (canary, ended) = (&canary, &ended);
        s.spawn(move || Spawns(s, canary, ended));
    });
    assert_eq!(ended.load(Ordering::Relaxed), 1);
}

#[test]
fn a_result_whose_drop_panics_is_the_scopes_panic() {
    struct Fails;
    impl Drop for Fails {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }
    let _watched = watchdog();
    let failed = catch_unwind(|| {
        thread::scope(|s| {
            s.spawn(|| Fails);
        })
    });
    assert_eq!(message(&*failed.unwrap_err()), "a scoped thread panicked");
}

#[test]
fn scopes_nest() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|outer| {
        outer.spawn(|| {
            let inner_canary = Canary::new();
            thread::scope(|inner| {
                for _ in 0..10 {
                    inner.spawn(|| {
                        let _both = (Looks(&canary, &ended), Looks(&inner_canary, &ended));
                        thread::sleep(MILLI);
                    });
                }
            });
            assert_eq!(ended.load(Ordering::Relaxed), 20);
        });
    });
    assert_eq!(ended.load(Ordering::Relaxed), 20);
}

#[test]
fn a_scope_works_in_every_kind_of_greenlet_and_thread() {
    fn check() {
        let canary = Canary::new();
        let name = thread::scope(|s| {
            let named = thread::Builder::new().name("in a scope".into());
            let handle = named.spawn_scoped(s, || {
                thread::yield_now();
                canary.sings();
                thread::current().name().map(str::to_owned)
            });
            handle.unwrap().join().unwrap()
        });
        assert_eq!(name.as_deref(), Some("in a scope"));
        assert_eq!(thread::scope(|_| 5), 5);
    }
    let _watched = watchdog();
    check();
    gevent::spawn(check).join().unwrap();
    gevent::enter(|me: &gevent::Me<()>| {
        let child = me.child(|_, ()| check());
        // It parks in the hub, where nobody's switch ends it, so the value comes when it has ended.
        me.switch(&child, ()).unwrap();
    });
    std::thread::spawn(check).join().unwrap();
}

#[test]
fn a_plain_thread_may_spawn_into_a_scope_of_ours() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|ours| {
        std::thread::scope(|theirs| {
            for _ in 0..4 {
                theirs.spawn(|| {
                    let handle = ours.spawn(|| {
                        let _looks = Looks(&canary, &ended);
                        thread::sleep(MILLI);
                    });
                    handle.join().unwrap();
                    // This one never runs: its thread ends first.
                    let looks = Looks(&canary, &ended);
                    ours.spawn(move || drop(looks));
                });
            }
        });
    });
    assert_eq!(ended.load(Ordering::Relaxed), 8);
}

// ---------------------------------------------------------------------------------------------
// Handles
// ---------------------------------------------------------------------------------------------

#[test]
fn a_forgotten_handle_is_waited_for_and_its_result_leaks() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|s| {
        std::mem::forget(s.spawn(|| {
            thread::sleep(2 * MILLI);
            ended.fetch_add(10, Ordering::Relaxed);
            Looks(&canary, &ended)
        }));
    });
    assert_eq!(ended.load(Ordering::Relaxed), 10);
}

#[test]
fn a_panic_behind_a_forgotten_handle_is_the_scopes() {
    let _watched = watchdog();
    let failed = catch_unwind(|| thread::scope(|s| std::mem::forget(s.spawn(|| panic!("in a child")))));
    assert_eq!(message(&*failed.unwrap_err()), "a scoped thread panicked");
}

#[test]
fn a_handle_in_another_childs_result_is_dropped_in_time() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|s| {
        let inner = s.spawn(|| Looks(&canary, &ended));
        let outer: ScopedJoinHandle<'_, _> = s.spawn(move || {
            thread::sleep(MILLI);
            inner
        });
        s.spawn(move || drop(outer.join().unwrap()));
    });
    assert_eq!(ended.load(Ordering::Relaxed), 1);
}

// ---------------------------------------------------------------------------------------------
// Kills and timeouts
// ---------------------------------------------------------------------------------------------

/// An owner, in a greenlet, with children that park; returns how the kill found them.
fn killed_owner(in_body: bool, children: usize) -> (Result<(), Ended>, usize, bool) {
    let (ended, returned) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, flag) = (ended.clone(), returned.clone());
    let owner = gevent::spawn(move || {
        let canary = Canary::new();
        thread::scope(|s| {
            for _ in 0..children {
                s.spawn(|| {
                    let _looks = Looks(&canary, &count);
                    thread::park();
                    unreachable!("nobody unparks it");
                });
            }
            if in_body {
                thread::park();
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    thread::sleep(MILLI);
    assert_eq!(ended.load(Ordering::Relaxed), 0);
    owner.kill();
    let result = owner.join();
    (result, ended.load(Ordering::Relaxed), returned.load(Ordering::Relaxed))
}

#[test]
fn a_kill_of_the_owner_in_the_body_kills_the_children_first() {
    let _watched = watchdog();
    let (result, ended, returned) = killed_owner(true, 20);
    assert!(matches!(result, Err(Ended::Killed)));
    assert_eq!((ended, returned), (20, false));
}

#[test]
fn a_kill_of_the_owner_while_it_waits_does_so_too() {
    let _watched = watchdog();
    let (result, ended, returned) = killed_owner(false, 20);
    assert!(matches!(result, Err(Ended::Killed)));
    assert_eq!((ended, returned), (20, false));
}

#[test]
fn a_kill_of_the_owner_with_a_thousand_children_is_quick() {
    let _watched = watchdog();
    let begun = Instant::now();
    let (_, ended, _) = killed_owner(false, 2_000);
    assert_eq!(ended, 2_000);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_killed_owner_waits_for_a_child_that_goes_on() {
    let _watched = watchdog();
    let log = Arc::new(Mutex::new(Vec::new()));
    let inner = log.clone();
    let owner = gevent::spawn(move || {
        let canary = Canary::new();
        let _ended = Looks2(&inner, "owner");
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..3 {
                    let _ = catch_unwind(thread::park);
                    // More than once, and across waits.
                    thread::sleep(2 * MILLI);
                    canary.sings();
                }
                inner.lock().unwrap().push("child");
            });
        });
    });
    thread::sleep(MILLI);
    let waits = owner.handle();
    for _ in 0..5 {
        waits.kill_timeout(Duration::ZERO);
        thread::sleep(4 * MILLI);
    }
    assert!(matches!(owner.join(), Err(Ended::Killed)));
    assert_eq!(*log.lock().unwrap(), ["child", "owner"]);
}

struct Looks2<'a>(&'a Mutex<Vec<&'static str>>, &'static str);

impl Drop for Looks2<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1);
    }
}

#[test]
fn children_that_have_not_begun_never_run_when_the_owner_is_killed() {
    let _watched = watchdog();
    let (ended, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, flag) = (ended.clone(), ran.clone());
    let owner = gevent::spawn(move || {
        let canary = Canary::new();
        thread::scope(|s| {
            let kill = catch_unwind(thread::park).unwrap_err();
            for _ in 0..10 {
                let looks = Looks(&canary, &count);
                let flag = &flag;
                s.spawn(move || {
                    let _looks = looks;
                    flag.store(true, Ordering::Relaxed);
                });
            }
            std::panic::resume_unwind(kill);
        });
    });
    thread::yield_now();
    owner.kill();
    assert!(matches!(owner.join(), Err(Ended::Killed)));
    assert_eq!(ended.load(Ordering::Relaxed), 10);
    assert!(!ran.load(Ordering::Relaxed));
}

#[test]
fn what_is_spawned_into_a_killed_scope_never_runs() {
    let _watched = watchdog();
    let (ended, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, flag) = (ended.clone(), ran.clone());
    let owner = gevent::spawn(move || {
        let canary = Canary::new();
        thread::scope(|s| {
            let (canary, count, flag) = (&canary, &count, &flag);
            s.spawn(move || {
                assert!(catch_unwind(thread::park).is_err());
                let looks = Looks(canary, count);
                let late = s.spawn(move || {
                    let _looks = looks;
                    flag.store(true, Ordering::Relaxed);
                });
                assert!(late.join().unwrap_err().is::<GreenletExit>());
            });
        });
    });
    thread::sleep(MILLI);
    owner.kill();
    assert!(matches!(owner.join(), Err(Ended::Killed)));
    assert_eq!(ended.load(Ordering::Relaxed), 1);
    assert!(!ran.load(Ordering::Relaxed));
}

#[test]
fn a_timeout_around_a_scope_kills_its_children() {
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    for in_body in [false, true] {
        let elapsed = gevent::timeout(2 * MILLI, || {
            thread::scope(|s| {
                s.spawn(|| {
                    let _looks = Looks(&canary, &ended);
                    thread::park();
                });
                if in_body {
                    thread::park();
                }
            });
            unreachable!("the timeout goes on after the scope");
        });
        assert!(elapsed.is_err());
    }
    assert_eq!(ended.load(Ordering::Relaxed), 2);
    // And it is over with that.
    thread::sleep(2 * MILLI);
}

#[test]
fn a_killed_child_is_joined_with_greenlet_exit_and_is_no_panic() {
    let _watched = watchdog();
    let canary = Canary::new();
    thread::scope(|s| {
        let kill_me = || {
            let me = gevent::current();
            gevent::spawn(move || me.kill());
            canary.sings();
            thread::park();
        };
        s.spawn(kill_me);
        let handle = s.spawn(kill_me);
        assert!(handle.join().unwrap_err().is::<GreenletExit>());
    });
}

#[test]
fn a_kill_of_the_outer_owner_ends_nested_scopes_from_the_inside() {
    let _watched = watchdog();
    let log = Arc::new(Mutex::new(Vec::new()));
    let inner = log.clone();
    let owner = gevent::spawn(move || {
        let (canary, _owner) = (Canary::new(), Looks2(&inner, "owner"));
        thread::scope(|s| {
            s.spawn(|| {
                let (middle, _child) = (Canary::new(), Looks2(&inner, "child"));
                thread::scope(|s| {
                    s.spawn(|| {
                        let _grandchild = Looks2(&inner, "grandchild");
                        let _ = catch_unwind(thread::park);
                        thread::sleep(2 * MILLI);
                        canary.sings();
                        middle.sings();
                    });
                });
            });
        });
    });
    thread::sleep(MILLI);
    owner.kill();
    assert_eq!(*log.lock().unwrap(), ["grandchild", "child", "owner"]);
}

#[test]
fn in_no_unwind_a_killed_scope_ends_its_children_and_returns() {
    let _watched = watchdog();
    let greenlet = gevent::spawn(|| {
        let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
        gevent::no_unwind(|| {
            thread::scope(|s| {
                s.spawn(|| {
                    let _looks = Looks(&canary, &ended);
                    thread::park();
                });
                thread::park();
            });
        });
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        catch_unwind(thread::yield_now).unwrap_err().is::<GreenletExit>()
    });
    thread::sleep(MILLI);
    greenlet.kill();
    assert!(greenlet.join().unwrap(), "the kill comes after `no_unwind`");
}

/// Spawns into the scope from another hub, so that the child lives there.
fn spawn_there<'scope>(
    other: &gevent::HubHandle,
    s: &'scope Scope<'scope, '_>,
    f: impl FnOnce() + Send + 'scope,
) {
    let f: Box<dyn FnOnce() + Send + 'scope> = Box::new(f);
    // SAFETY: the greenlet that uses both has ended before this returns; what it spawned is the scope's.
    let (s, f) = unsafe {
        (
            std::mem::transmute::<&'scope Scope<'scope, '_>, &'static Scope<'static, 'static>>(s),
            std::mem::transmute::<Box<dyn FnOnce() + Send + 'scope>, Box<dyn FnOnce() + Send>>(f),
        )
    };
    if other.spawn(move || drop(s.spawn(f))).unwrap().join().is_err() {
        std::process::abort(); // else it would not hold
    }
}

#[test]
fn children_on_another_hub_are_waited_for_and_killed_with_the_owner() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    for kill in [false, true] {
        let (handle, ended) = (other.handle.clone(), Arc::new(AtomicUsize::new(0)));
        let count = ended.clone();
        let owner = gevent::spawn(move || {
            let canary = Canary::new();
            thread::scope(|s| {
                for _ in 0..10 {
                    spawn_there(&handle, s, || {
                        let _looks = Looks(&canary, &count);
                        if kill { thread::park() } else { thread::sleep(2 * MILLI) }
                    });
                }
            });
        });
        if kill {
            while owner.state()
                != gevent::State::Blocked(gevent::WaitsFor::Other("the greenlets of its scope"))
            {
                thread::yield_now();
            }
            owner.kill();
        }
        assert_eq!(owner.join().is_err(), kill);
        assert_eq!(ended.load(Ordering::Relaxed), 10);
    }
}

#[test]
fn children_on_a_hub_that_ends_are_ended_there() {
    let _watched = watchdog();
    let mut other = OtherHub::new("other");
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    thread::scope(|s| {
        for n in 0..3 {
            spawn_there(&other.handle, s, || {
                let _looks = Looks(&canary, &ended);
                thread::park();
            });
            if n > 0 {
                thread::sleep(MILLI);
            }
        }
        other.end();
    });
    assert_eq!(ended.load(Ordering::Relaxed), 3);
}

// ---------------------------------------------------------------------------------------------
// Where a scope cannot wait
// ---------------------------------------------------------------------------------------------

#[test]
fn a_scope_that_is_entered_while_unwinding_refuses_to_spawn() {
    struct Enters<'a>(&'a Canary, &'a Mutex<Vec<String>>);
    impl Drop for Enters<'_> {
        fn drop(&mut self) {
            let ran = AtomicBool::new(false);
            let error = thread::scope(|s| {
                let child = || {
                    self.0.sings();
                    ran.store(true, Ordering::Relaxed);
                };
                let refused = catch_unwind(AssertUnwindSafe(|| drop(s.spawn(child))));
                self.1.lock().unwrap().push(message(&*refused.unwrap_err()).to_owned());
                thread::Builder::new().spawn_scoped(s, child).map(|_| ()).unwrap_err()
            });
            self.1.lock().unwrap().push(error.to_string());
            assert!(!ran.load(Ordering::Relaxed));
        }
    }
    let _watched = watchdog();
    let (canary, said) = (Canary::new(), Mutex::new(Vec::new()));
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let _enters = Enters(&canary, &said);
        panic!("on the way");
    }));
    assert_eq!(message(&*failed.unwrap_err()), "on the way");
    let said = said.into_inner().unwrap();
    assert!(
        said.len() == 2 && said.iter().all(|text| text.contains("entered while its greenlet unwinds")),
        "{said:?}"
    );
    // A kill unwinds too.
    let said = Arc::new(Mutex::new(Vec::new()));
    let inner = said.clone();
    let killed = gevent::spawn(move || {
        let canary = Canary::new();
        let _enters = Enters(&canary, &inner);
        thread::park();
    });
    thread::yield_now();
    killed.kill();
    assert_eq!(said.lock().unwrap().len(), 2);
}

/// The body's own destructors unwind, but the scope was entered before: it can wait at its boundary.
#[test]
fn a_spawn_while_the_body_unwinds_is_waited_for() {
    struct Spawns<'scope, 'env>(&'scope Scope<'scope, 'env>, &'env Canary, &'env AtomicUsize);
    impl Drop for Spawns<'_, '_> {
        fn drop(&mut self) {
            let (canary, ended) = (self.1, self.2);
            self.0.spawn(move || {
                let _looks = Looks(canary, ended);
                thread::sleep(2 * MILLI);
            });
        }
    }
    let _watched = watchdog();
    let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
    let failed = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|s| {
            let _spawns = Spawns(s, &canary, &ended);
            panic!("in the body");
        })
    }));
    assert_eq!(message(&*failed.unwrap_err()), "in the body");
    assert_eq!(ended.load(Ordering::Relaxed), 1);
}

#[test]
fn a_tracer_that_panics_in_the_wait_does_not_end_it() {
    let _watched = watchdog();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let owner = gevent::spawn(move || {
        let canary = Canary::new();
        thread::scope(|s| {
            s.spawn(|| {
                let _looks = Looks(&canary, &count);
                // The owner is killed, and kills it, but it goes on.
                let _ = catch_unwind(thread::park);
                thread::sleep(2 * MILLI);
            });
        });
    });
    while owner.state() != WAITS {
        thread::yield_now();
    }
    // Told of the switch to the owner in the middle of its wait.
    let id = owner.id();
    gevent::settrace(Some(Rc::new(move |_, _, to| {
        if to.id() == id {
            panic!("in the tracer");
        }
    })));
    owner.kill();
    assert_eq!(owner.join().unwrap_err().message(), Some("in the tracer"));
    assert_eq!(ended.load(Ordering::Relaxed), 1);
}

#[test]
fn a_deadlock_kills_the_children_and_is_raised() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        Hub::builder().isolated().install().unwrap();
        let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
        let failed = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        let _looks = Looks(&canary, &ended);
                        thread::park();
                    });
                }
            })
        }));
        assert!(message(&*failed.unwrap_err()).contains("would block forever"));
        assert_eq!(ended.load(Ordering::Relaxed), 3);
    })
    .join()
    .unwrap();
}

#[test]
fn a_deadlock_that_no_kill_ends_aborts_the_process() {
    let _watched = watchdog();
    let test = "a_deadlock_that_no_kill_ends_aborts_the_process";
    if is_child(test) {
        std::thread::spawn(|| {
            Hub::builder().isolated().install().unwrap();
            thread::scope(|s| {
                s.spawn(|| {
                    loop {
                        let _ = catch_unwind(thread::park);
                    }
                });
            });
        })
        .join()
        .unwrap();
        return;
    }
    let out = in_child(test);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(said.contains("waits for greenlets of its scope that nothing can wake"), "{said}");
}

#[test]
fn a_shutdown_below_a_scope_of_the_root_ends_its_children() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        let (canary, ended) = (Canary::new(), AtomicUsize::new(0));
        thread::scope(|s| {
            for _ in 0..5 {
                s.spawn(|| {
                    let _looks = Looks(&canary, &ended);
                    thread::park();
                });
            }
            thread::yield_now();
            let late = s.spawn(|| drop(Looks(&canary, &ended)));
            Hub::current().shutdown();
            assert_eq!(ended.load(Ordering::Relaxed), 5);
            // It had not begun, and never does.
            late.join().unwrap_err();
        });
        assert_eq!(ended.load(Ordering::Relaxed), 5);
    })
    .join()
    .unwrap();
}

#[test]
fn a_root_whose_child_was_left_for_good_aborts_the_process() {
    let _watched = watchdog();
    let test = "a_root_whose_child_was_left_for_good_aborts_the_process";
    if is_child(test) {
        std::thread::spawn(|| {
            thread::scope(|s| {
                s.spawn(|| {
                    loop {
                        let _ = catch_unwind(thread::park);
                    }
                });
                thread::yield_now();
                Hub::current().shutdown();
            });
        })
        .join()
        .unwrap();
        return;
    }
    let out = in_child(test);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(said.contains("left suspended for good") && said.contains("the process is aborted"), "{said}");
}

// ---------------------------------------------------------------------------------------------
// The exit of threads
// ---------------------------------------------------------------------------------------------

/// Runs `f` in a greenlet of a thread that then exits with the greenlet in its scope; the canary is in
/// the greenlet's frame. How many of the children's destructors ran, and whether the owner's did.
fn exit_with_open_scope(
    f: impl for<'scope, 'env> Fn(&'scope Scope<'scope, 'env>, &'env Canary, &'env AtomicUsize) + Send + 'static,
) -> (usize, bool) {
    struct Sets(Arc<AtomicBool>);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (ended, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, sets) = (ended.clone(), Sets(left.clone()));
    std::thread::spawn(move || {
        let owner = gevent::spawn(move || {
            let _sets = sets;
            let canary = Canary::new();
            let count = &*count;
            thread::scope(|s| f(s, &canary, count));
        });
        let in_body = gevent::State::Blocked(gevent::WaitsFor::Unpark);
        while owner.state() != WAITS && owner.state() != in_body {
            thread::yield_now();
        }
        // Its children have begun by then, and theirs.
        for _ in 0..5 {
            thread::yield_now();
        }
    })
    .join()
    .unwrap();
    (ended.load(Ordering::Relaxed), left.load(Ordering::Relaxed))
}

#[test]
fn an_exit_ends_the_children_and_then_the_owner() {
    let _watched = watchdog();
    // While it waits at the end of the scope, and in its body; children before it and after it in the
    // list of the living.
    for in_body in [false, true] {
        let (ended, left) = exit_with_open_scope(move |s, canary, ended| {
            for _ in 0..5 {
                s.spawn(|| {
                    let _looks = Looks(canary, ended);
                    thread::park();
                });
            }
            if in_body {
                thread::park();
            }
        });
        assert_eq!((ended, left), (5, true));
    }
}

#[test]
fn an_exit_takes_the_closures_of_children_that_have_not_begun() {
    let _watched = watchdog();
    let (ended, left) = exit_with_open_scope(|s, canary, ended| {
        // Killed by the exit, it spawns what can only be taken back.
        let _ = catch_unwind(thread::park);
        for _ in 0..5 {
            let looks = Looks(canary, ended);
            s.spawn(move || {
                let _looks = looks;
                unreachable!("the hub runs nobody any more");
            });
        }
    });
    assert_eq!((ended, left), (5, true));
}

#[test]
fn an_exit_leaves_an_owner_whose_child_cannot_be_ended() {
    let _watched = watchdog();
    let (ended, left) = exit_with_open_scope(|s, canary, ended| {
        s.spawn(|| {
            let _never = Looks(canary, ended);
            loop {
                let _ = catch_unwind(thread::park);
                canary.sings();
            }
        });
        s.spawn(|| {
            let _looks = Looks(canary, ended);
            thread::park();
        });
    });
    assert_eq!((ended, left), (1, false), "both are left, with all they borrow");
}

#[test]
fn an_exit_ends_nested_scopes_from_the_inside() {
    let _watched = watchdog();
    let (ended, left) = exit_with_open_scope(|s, canary, ended| {
        for _ in 0..3 {
            s.spawn(|| {
                let middle = Canary::new();
                thread::scope(|s| {
                    for _ in 0..3 {
                        s.spawn(|| {
                            let _both = (Looks(canary, ended), Looks(&middle, ended));
                            let _ = catch_unwind(thread::park);
                            thread::sleep(MILLI);
                        });
                    }
                });
                canary.sings();
            });
        }
    });
    assert_eq!((ended, left), (18, true));
}

#[test]
fn an_exit_leaves_an_owner_whose_child_is_on_another_thread() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let (handle, stop) = (other.handle.clone(), Flag::new());
    let (stopped, done) = (stop.clone(), Flag::new());
    let set = done.clone();
    let (ended, left) = exit_with_open_scope(move |s, canary, ended| {
        let (stopped, set) = (stopped.clone(), set.clone());
        spawn_there(&handle, s, move || {
            // The kill that the owner sends it is no reason to end.
            while !stopped.is_set() {
                canary.sings();
                let _ = catch_unwind(|| thread::sleep(MILLI));
            }
            drop(Looks(canary, ended));
            set.set();
        });
    });
    assert_eq!((ended, left), (0, false));
    // Its thread is gone, but not what the child borrows.
    stop.set();
    done.wait();
}

#[test]
fn a_child_that_is_left_leaves_the_owner_of_another_thread() {
    let _watched = watchdog();
    let mut other = OtherHub::new("other");
    let (handle, returned) = (other.handle.clone(), Arc::new(AtomicBool::new(false)));
    let (flag, there) = (returned.clone(), Flag::new());
    let set = there.clone();
    let owner = gevent::spawn(move || {
        let canary = Canary::new();
        thread::scope(|s| {
            spawn_there(&handle, s, || {
                set.set();
                loop {
                    let _ = catch_unwind(thread::park);
                    canary.sings();
                }
            });
        });
        flag.store(true, Ordering::Relaxed);
    });
    there.spin();
    thread::sleep(MILLI);
    other.end();
    assert!(matches!(owner.join(), Err(Ended::Unfinished)));
    assert!(!returned.load(Ordering::Relaxed));
}

#[test]
fn process_exit_in_a_child_ends_the_process_as_it_is() {
    let _watched = watchdog();
    let test = "process_exit_in_a_child_ends_the_process_as_it_is";
    if is_child(test) {
        let canary = Canary::new();
        thread::scope(|s| {
            s.spawn(|| {
                let never = AtomicUsize::new(0);
                let _looks = Looks(&canary, &never);
                thread::park();
            });
            s.spawn(|| {
                canary.sings();
                std::process::exit(7);
            });
        });
        return;
    }
    let out = in_child(test);
    assert_eq!(out.status.code(), Some(7), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_raw_greenlet_that_is_dropped_in_its_scope_ends_it_first() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        gevent::enter(|me: &gevent::Me<()>| {
            let home = me.handle();
            let raw = me.child(move |me: &gevent::Me<()>, ()| {
                let canary = Canary::new();
                thread::scope(|s| {
                    for _ in 0..5 {
                        s.spawn(|| {
                            let _looks = Looks(&canary, &count);
                            thread::park();
                        });
                    }
                    let _ = me.switch(&home, ());
                    unreachable!("it is dropped there");
                });
            });
            me.switch(&raw, ()).unwrap();
            thread::sleep(MILLI);
            assert_eq!(ended.load(Ordering::Relaxed), 0);
            drop(raw);
            // The hub has it now, until its children have ended.
            thread::sleep(MILLI);
            assert_eq!(ended.load(Ordering::Relaxed), 5);
        });
    })
    .join()
    .unwrap();
}

/// The child holds the last handle of its owner, and drops it as the thread exits.
#[test]
fn an_owner_that_its_own_child_ends_is_left() {
    struct Sendable<T>(RefCell<Option<T>>);
    // SAFETY: none of these leave the thread that they are made on.
    unsafe impl<T> Send for Sendable<T> {}
    // SAFETY: as above.
    unsafe impl<T> Sync for Sendable<T> {}
    let _watched = watchdog();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        gevent::enter(|me: &gevent::Me<()>| {
            let (home, slot) = (me.handle(), Arc::new(Sendable(RefCell::new(None))));
            let held = slot.clone();
            let raw = me.child(move |me: &gevent::Me<()>, ()| {
                let canary = Canary::new();
                thread::scope(|s| {
                    let held = &held;
                    s.spawn(|| {
                        // Told to end by the exit, it goes on, and drops its owner's last handle.
                        let _ = catch_unwind(thread::park);
                        let last: Option<gevent::RawGreenlet<()>> = held.0.take();
                        drop(last);
                        canary.sings();
                        tx.send("the child ended").unwrap();
                    });
                    let _ = me.switch(&home, ());
                });
            });
            *slot.0.borrow_mut() = Some(raw.clone());
            me.switch(&raw, ()).unwrap();
            thread::sleep(MILLI);
        });
    })
    .join()
    .unwrap();
    assert_eq!(rx.recv(), Ok("the child ended"));
}
