//! `gevent::thread`: std's documented behaviour of each item, between greenlets, hubs and plain threads.

mod common;

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::threads::{Flag, OtherHub, in_child, is_child, message, watchdog};
use gevent::thread::{self, JoinHandle, Thread, ThreadId};
use gevent::{Ended, GreenletExit, Hub};

const MILLI: Duration = Duration::from_millis(1);

// ---------------------------------------------------------------------------------------------
// Types
// ---------------------------------------------------------------------------------------------

#[test]
fn handles_are_send_and_sync_as_stds() {
    fn both<T: Send + Sync>() {}
    both::<Thread>();
    both::<ThreadId>();
    both::<thread::Builder>();
    both::<thread::Scope<'_, '_>>();
    // Whatever they carry, as std's: only something `Send` can get in.
    both::<JoinHandle<*mut ()>>();
    both::<thread::ScopedJoinHandle<'_, u8>>();
    both::<gevent::HubHandle>();
    fn unwind_safe<T: UnwindSafe>() {}
    unwind_safe::<Thread>();
}

#[test]
fn what_is_printed_names_the_thread() {
    let _watched = watchdog();
    let handle = thread::Builder::new().name("worker".into()).spawn(|| ()).unwrap();
    let shown = format!("{:?}", handle.thread());
    assert!(
        shown.starts_with("Thread { id: ThreadId(") && shown.contains(r#"name: Some("worker")"#),
        "{shown}"
    );
    assert!(format!("{handle:?}").contains("finished: false"));
    handle.join().unwrap();
    thread::scope(|s| assert!(format!("{s:?}").contains("running: 0")));
}

// ---------------------------------------------------------------------------------------------
// spawn, join
// ---------------------------------------------------------------------------------------------

#[test]
fn join_gives_what_was_returned() {
    let _watched = watchdog();
    assert_eq!(thread::spawn(|| vec![1, 2]).join().unwrap(), [1, 2]);
}

#[test]
fn join_gives_the_payload_of_a_panic() {
    let _watched = watchdog();
    let handle = thread::spawn(|| std::panic::panic_any(7_u64));
    assert_eq!(handle.join().unwrap_err().downcast_ref(), Some(&7_u64));
}

#[test]
fn join_of_one_that_was_killed_is_an_error_with_greenlet_exit() {
    let _watched = watchdog();
    let handle = thread::spawn(|| {
        let me = gevent::current();
        gevent::spawn(move || me.kill());
        thread::park();
    });
    assert!(handle.join().unwrap_err().is::<GreenletExit>());
}

#[test]
fn spawned_ones_run_in_order_when_the_spawner_waits() {
    let _watched = watchdog();
    let ran = Arc::new(AtomicUsize::new(0));
    let handles: Vec<_> = (0..100)
        .map(|n| {
            let ran = ran.clone();
            thread::spawn(move || assert_eq!(ran.fetch_add(1, Ordering::Relaxed), n))
        })
        .collect();
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    for handle in handles {
        handle.join().unwrap();
    }
}

#[test]
fn one_that_is_detached_goes_on_and_drops_its_result() {
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let _watched = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    let result = Counts(dropped.clone());
    drop(thread::spawn(move || result));
    thread::yield_now();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    // And one that is dropped after the end drops it then.
    let result = Counts(dropped.clone());
    let handle = thread::spawn(move || result);
    thread::yield_now();
    assert!(handle.is_finished());
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    drop(handle);
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn a_panic_that_nobody_joins_is_told_to_the_hub() {
    let _watched = watchdog();
    let told = std::rc::Rc::new(Cell::new(0));
    let count = told.clone();
    Hub::current().on_error(move |failure| {
        assert_eq!(failure.message(), "lost");
        count.set(count.get() + 1);
    });
    drop(thread::spawn(|| panic!("lost")));
    thread::sleep(MILLI);
    assert_eq!(told.get(), 1);
}

#[test]
fn a_result_whose_drop_panics_does_not_take_the_hub_down() {
    struct Fails;
    impl Drop for Fails {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }
    let _watched = watchdog();
    drop(thread::spawn(|| Fails));
    thread::yield_now();
    assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn a_plain_thread_joins_a_greenlet() {
    let _watched = watchdog();
    let handle = thread::spawn(|| {
        thread::sleep(5 * MILLI);
        "joined"
    });
    let done = Flag::new();
    let flag = done.clone();
    let plain = std::thread::spawn(move || {
        let result = handle.join().unwrap();
        flag.set();
        result
    });
    done.spin();
    assert_eq!(plain.join().unwrap(), "joined");
}

#[test]
fn a_greenlet_of_another_hub_joins_and_its_hub_goes_on() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let mine = thread::spawn(|| {
        thread::sleep(10 * MILLI);
        1
    });
    let ticks = Arc::new(AtomicUsize::new(0));
    let (count, done) = (ticks.clone(), Arc::new(AtomicBool::new(false)));
    let stop = done.clone();
    let ticker = other
        .handle
        .spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(MILLI);
            }
        })
        .unwrap();
    let joiner = other.handle.spawn(move || mine.join().unwrap() + 1).unwrap();
    assert_eq!(joiner.join().unwrap(), 2);
    assert!(ticks.load(Ordering::Relaxed) > 2, "the other hub stood still while it joined");
    done.store(true, Ordering::Relaxed);
    ticker.join().unwrap();
}

#[test]
fn what_was_done_happens_before_the_join() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    for _ in 0..1000 {
        let value = Arc::new(AtomicUsize::new(0));
        let written = value.clone();
        other.handle.spawn(move || written.store(1, Ordering::Relaxed)).unwrap().join().unwrap();
        assert_eq!(value.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn is_finished_tells_without_waiting() {
    let _watched = watchdog();
    let handle = thread::spawn(thread::park);
    thread::yield_now();
    assert!(!handle.is_finished());
    handle.thread().unpark();
    while !handle.is_finished() {
        thread::yield_now();
    }
    handle.join().unwrap();
}

#[test]
fn joining_oneself_is_a_panic() {
    let _watched = watchdog();
    let (tx, rx) = std::sync::mpsc::channel::<JoinHandle<()>>();
    let handle = thread::spawn(move || {
        let failed = catch_unwind(AssertUnwindSafe(|| rx.recv().unwrap().join()));
        assert!(message(&*failed.unwrap_err()).contains("tries to join itself"));
        RAN.store(true, Ordering::Relaxed);
    });
    static RAN: AtomicBool = AtomicBool::new(false);
    tx.send(handle).unwrap();
    thread::sleep(MILLI);
    assert!(RAN.load(Ordering::Relaxed));
}

#[test]
fn a_join_while_the_caller_unwinds_does_not_wait() {
    struct Joins(Option<JoinHandle<()>>, Arc<AtomicBool>);
    impl Drop for Joins {
        fn drop(&mut self) {
            let error = self.0.take().unwrap().join().unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(Ended::Unfinished)));
            self.1.store(true, Ordering::Relaxed);
        }
    }
    let _watched = watchdog();
    let tried = Arc::new(AtomicBool::new(false));
    let joins = Joins(Some(thread::spawn(thread::park)), tried.clone());
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let _joins = joins;
        panic!("on the way");
    }));
    assert_eq!(message(&*failed.unwrap_err()), "on the way");
    assert!(tried.load(Ordering::Relaxed));
}

#[test]
fn a_killed_joiner_leaves_the_other_alone() {
    let _watched = watchdog();
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let slow = thread::spawn(move || {
        thread::sleep(5 * MILLI);
        flag.store(true, Ordering::Relaxed);
    });
    let joiner = gevent::spawn(move || slow.join());
    thread::yield_now();
    joiner.kill();
    assert!(!ended.load(Ordering::Relaxed));
    thread::sleep(20 * MILLI);
    assert!(ended.load(Ordering::Relaxed));
}

#[test]
fn a_join_of_what_never_ends_is_a_loop_exit() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        Hub::builder().isolated().install().unwrap();
        let handle = thread::spawn(thread::park);
        let failed = catch_unwind(AssertUnwindSafe(|| handle.join()));
        let failed = failed.unwrap_err();
        assert!(message(&*failed).contains("would block forever"), "{}", message(&*failed));
        assert!(message(&*failed).contains("waits for unpark"), "{}", message(&*failed));
    })
    .join()
    .unwrap();
}

#[test]
fn a_greenlet_of_a_thread_that_ended_is_joined_with_an_error() {
    let _watched = watchdog();
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let unwound = thread::spawn(thread::park);
        thread::yield_now();
        let never_ran = thread::spawn(|| ());
        let survivor = thread::spawn(|| {
            loop {
                let _ = catch_unwind(thread::park);
            }
        });
        tx.send((unwound, never_ran, survivor)).unwrap();
    })
    .join()
    .unwrap();
    let (unwound, never_ran, survivor) = rx.recv().unwrap();
    assert!(unwound.join().unwrap_err().is::<GreenletExit>());
    assert!(never_ran.join().unwrap_err().is::<gevent::hub::HubGone<()>>());
    assert!(survivor.join().unwrap_err().is::<gevent::hub::HubGone<()>>());
}

/// One that goes on whatever happens is left with its stack, and its joiners are told.
#[test]
fn a_greenlet_that_was_left_for_good_is_joined_with_an_error() {
    let _watched = watchdog();
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let survivor = thread::spawn(|| {
            loop {
                let _ = catch_unwind(thread::park);
            }
        });
        thread::yield_now();
        tx.send(survivor).unwrap();
    })
    .join()
    .unwrap();
    let waits = rx.recv().unwrap();
    assert!(waits.join().unwrap_err().is::<gevent::hub::HubGone<()>>());
}

// ---------------------------------------------------------------------------------------------
// Builder
// ---------------------------------------------------------------------------------------------

#[test]
fn a_name_is_the_greenlets_too() {
    let _watched = watchdog();
    let handle = thread::Builder::new()
        .name("named".into())
        .spawn(|| (thread::current().name().map(str::to_owned), gevent::current().name()))
        .unwrap();
    assert_eq!(handle.thread().name(), Some("named"));
    assert_eq!(handle.join().unwrap(), (Some("named".to_owned()), Some("named".to_owned())));
    assert_eq!(thread::spawn(|| thread::current().name().is_none()).join().ok(), Some(true));
}

#[test]
#[should_panic(expected = "null bytes")]
fn a_name_with_a_null_byte_is_a_panic() {
    let _ = thread::Builder::new().name("nu\0ll".into()).spawn(|| ());
}

#[test]
fn a_stack_size_is_what_the_code_can_use() {
    #[inline(never)]
    fn deep(bytes: usize) -> usize {
        let block = std::hint::black_box([1_u8; 4096]);
        if bytes < 8192 { usize::from(block[0]) } else { usize::from(block[1]) + deep(bytes - 4096) }
    }
    let _watched = watchdog();
    let handle = thread::Builder::new().stack_size(2 << 20).spawn(|| deep(1 << 20)).unwrap();
    assert_eq!(handle.join().unwrap(), (1 << 20) / 4096);
    for size in [0, 1, 4096] {
        thread::Builder::new().stack_size(size).spawn(|| ()).unwrap().join().unwrap();
    }
}

#[test]
fn a_stack_that_cannot_be_had_is_an_error() {
    let error = thread::Builder::new().stack_size(1 << 40).spawn(|| ()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("out of range"), "{error}");
    let error = thread::scope(|s| {
        thread::Builder::new().stack_size(usize::MAX).spawn_scoped(s, || ()).map(|_| ()).unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn spawn_unchecked_may_borrow() {
    let _watched = watchdog();
    let mut words = vec!["a".to_owned()];
    // SAFETY: joined before `words` is used again.
    let handle = unsafe {
        thread::Builder::new().spawn_unchecked(|| {
            words.push("b".to_owned());
            words.first_mut().unwrap()
        })
    };
    handle.unwrap().join().unwrap().push('!');
    assert_eq!(words, ["a!", "b"]);
}

// ---------------------------------------------------------------------------------------------
// current
// ---------------------------------------------------------------------------------------------

#[test]
fn each_greenlet_is_a_thread_of_its_own() {
    let _watched = watchdog();
    let mut ids = HashSet::new();
    ids.insert(thread::current().id());
    for handle in (0..50).map(|_| thread::spawn(|| thread::current().id())).collect::<Vec<_>>() {
        let id = handle.thread().id();
        assert_eq!(handle.join().unwrap(), id);
        ids.insert(id);
    }
    // Other kinds of greenlets, and other threads.
    ids.insert(gevent::spawn(|| thread::current().id()).join().unwrap());
    ids.insert(gevent::enter(|me: &gevent::Me<ThreadId>| {
        let child = me.child(|_, ()| thread::current().id());
        me.switch(&child, ()).unwrap()
    }));
    ids.insert(std::thread::spawn(|| thread::current().id()).join().unwrap());
    let other = OtherHub::new("other");
    ids.insert(other.root.id());
    ids.insert(other.handle.spawn(|| thread::current().id()).unwrap().join().unwrap());
    assert_eq!(ids.len(), 56);
}

#[test]
fn current_is_the_same_each_time() {
    let _watched = watchdog();
    let first = thread::current().id();
    let inside = thread::spawn(|| {
        let id = thread::current().id();
        thread::yield_now();
        (id, thread::current().id())
    });
    let (before, after) = inside.join().unwrap();
    assert_eq!(before, after);
    assert_eq!(thread::current().id(), first);
}

#[test]
fn the_threads_own_code_has_the_threads_name() {
    let _watched = watchdog();
    assert_eq!(thread::current().name(), std::thread::current().name());
    let named = std::thread::Builder::new().name("native".into());
    let name = named.spawn(|| thread::current().name().map(str::to_owned)).unwrap().join().unwrap();
    assert_eq!(name.as_deref(), Some("native"));
    let spawned =
        gevent::Builder::new().name("spawned").spawn(|| thread::current().name().map(str::to_owned));
    assert_eq!(spawned.unwrap().join().unwrap().as_deref(), Some("spawned"));
}

#[test]
fn current_is_itself_in_the_destructor_of_a_thread_local() {
    struct AtEnd(Cell<Option<ThreadId>>);
    impl Drop for AtEnd {
        fn drop(&mut self) {
            SAME.store(Some(thread::current().id()) == self.0.get(), Ordering::Relaxed);
            // A token that was there before is there still.
            thread::park();
            thread::sleep(MILLI);
        }
    }
    static SAME: AtomicBool = AtomicBool::new(false);
    thread_local! { static AT_END: AtEnd = const { AtEnd(Cell::new(None)) } }
    let _watched = watchdog();
    for with_hub in [false, true] {
        std::thread::spawn(move || {
            AT_END.with(|at_end| at_end.0.set(Some(thread::current().id())));
            if with_hub {
                thread::spawn(|| ()).join().unwrap();
            }
            thread::current().unpark();
        })
        .join()
        .unwrap();
        assert!(SAME.swap(false, Ordering::Relaxed));
    }
}

#[test]
fn a_plain_thread_is_given_no_hub() {
    let _watched = watchdog();
    let files = |what: &str| {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|link| link.to_string_lossy().contains(what))
            .count()
    };
    if !is_child("a_plain_thread_is_given_no_hub") {
        let out = in_child("a_plain_thread_is_given_no_hub");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    let handle = thread::current();
    std::thread::spawn(move || handle.unpark());
    thread::park();
    thread::park_timeout(MILLI);
    thread::sleep(MILLI);
    thread::yield_now();
    assert_eq!(files("eventpoll"), 0);
    thread::spawn(|| ()).join().unwrap();
    assert_eq!(files("eventpoll"), 1);
}

// ---------------------------------------------------------------------------------------------
// sleep, yield_now
// ---------------------------------------------------------------------------------------------

#[test]
fn sleeps_take_their_time_and_let_others_run() {
    let _watched = watchdog();
    let begun = Instant::now();
    let handles: Vec<_> = (0..50).map(|_| thread::spawn(|| thread::sleep(20 * MILLI))).collect();
    for handle in handles {
        handle.join().unwrap();
    }
    assert!(begun.elapsed() >= 20 * MILLI && begun.elapsed() < 900 * MILLI, "{:?}", begun.elapsed());
    #[allow(deprecated)]
    thread::sleep_ms(2);
    assert!(begun.elapsed() >= 22 * MILLI);
    let begun = Instant::now();
    std::thread::spawn(|| thread::sleep(3 * MILLI)).join().unwrap();
    assert!(begun.elapsed() >= 3 * MILLI);
}

#[test]
fn yield_now_lets_every_other_run_once() {
    let _watched = watchdog();
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let handles: Vec<_> = (0..3)
        .map(|n| {
            let log = log.clone();
            thread::spawn(move || {
                for step in 0..3 {
                    log.lock().unwrap().push((step, n));
                    thread::yield_now();
                }
            })
        })
        .collect();
    handles.into_iter().for_each(|handle| handle.join().unwrap());
    let mut sorted = log.lock().unwrap().clone();
    sorted.sort_unstable();
    assert_eq!(*log.lock().unwrap(), sorted);
}

#[test]
fn nothing_waits_while_the_caller_unwinds() {
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            assert!(thread::panicking());
            thread::sleep(Duration::from_secs(600));
            thread::park();
            thread::park_timeout(Duration::from_secs(600));
            thread::yield_now();
        }
    }
    let _watched = watchdog();
    let handle = thread::spawn(|| {
        let _waits = Waits;
        panic!("on the way");
    });
    assert_eq!(message(&*handle.join().unwrap_err()), "on the way");
}

// ---------------------------------------------------------------------------------------------
// park
// ---------------------------------------------------------------------------------------------

#[test]
fn a_token_that_is_there_is_taken_at_once_and_only_once() {
    let _watched = watchdog();
    let check = || {
        thread::current().unpark();
        thread::current().unpark();
        thread::park();
        let begun = Instant::now();
        thread::park_timeout(10 * MILLI);
        assert!(begun.elapsed() >= 10 * MILLI, "two unparks were two tokens");
        thread::current().unpark();
        let begun = Instant::now();
        thread::park_timeout(Duration::from_secs(600));
        assert!(begun.elapsed() < Duration::from_secs(60));
    };
    check();
    thread::spawn(check).join().unwrap();
    std::thread::spawn(check).join().unwrap();
}

#[test]
fn a_token_given_before_the_start_is_there_at_the_start() {
    let _watched = watchdog();
    let handle = thread::spawn(thread::park);
    handle.thread().unpark();
    handle.join().unwrap();
}

#[test]
fn unpark_of_one_that_has_ended_does_nothing() {
    let _watched = watchdog();
    let handle = thread::spawn(|| ());
    let ended = handle.thread().clone();
    handle.join().unwrap();
    ended.unpark();
    let mut other = OtherHub::new("other");
    other.end();
    other.root.unpark();
}

#[test]
fn park_timeout_ends_at_its_time() {
    let _watched = watchdog();
    let check = || {
        let begun = Instant::now();
        thread::park_timeout(5 * MILLI);
        assert!(begun.elapsed() >= 5 * MILLI);
        #[allow(deprecated)]
        thread::park_timeout_ms(1);
        thread::park_timeout(Duration::ZERO);
    };
    check();
    thread::spawn(check).join().unwrap();
    std::thread::spawn(check).join().unwrap();
    // For ever is no time that overflows.
    let parked = thread::spawn(|| thread::park_timeout(Duration::MAX));
    thread::yield_now();
    parked.thread().unpark();
    parked.join().unwrap();
}

#[test]
fn a_token_survives_the_kill_that_came_first() {
    let _watched = watchdog();
    let handle = thread::spawn(|| {
        let me = gevent::current();
        let own = thread::current();
        gevent::spawn(move || {
            me.kill_timeout(Duration::ZERO);
            own.unpark();
        });
        assert!(catch_unwind(thread::park).unwrap_err().is::<GreenletExit>());
        thread::park(); // the token is there
    });
    handle.join().unwrap();
}

#[test]
fn greenlets_park_and_unpark_each_other() {
    let _watched = watchdog();
    let turn = Arc::new(AtomicUsize::new(0));
    let play = |me: usize, turn: Arc<AtomicUsize>| {
        move || {
            let other = loop {
                if let Some(other) = PEERS.with_borrow(|peers| peers.get(1 - me).cloned()) {
                    break other;
                }
                thread::yield_now();
            };
            for round in 0..10_000 {
                while turn.load(Ordering::Relaxed) != 2 * round + me {
                    thread::park();
                }
                turn.fetch_add(1, Ordering::Relaxed);
                other.unpark();
            }
        }
    };
    thread_local! { static PEERS: std::cell::RefCell<Vec<Thread>> = const { std::cell::RefCell::new(Vec::new()) } }
    let handles = [0, 1].map(|me| thread::spawn(play(me, turn.clone())));
    PEERS.with_borrow_mut(|peers| peers.extend(handles.iter().map(|handle| handle.thread().clone())));
    handles.into_iter().for_each(|handle| handle.join().unwrap());
}

/// One side parks until the other has counted up, in turn: a wake that is lost hangs it.
fn ping_pong(other: impl FnOnce(Box<dyn FnOnce() + Send>) -> Box<dyn Any>) {
    const ROUNDS: usize = 20_000;
    let turn = Arc::new(AtomicUsize::new(0));
    let here = thread::current();
    let (theirs, peer) = (turn.clone(), Arc::new(std::sync::Mutex::new(None::<Thread>)));
    let tell = peer.clone();
    let handle = other(Box::new(move || {
        *tell.lock().unwrap() = Some(thread::current());
        here.unpark();
        for round in 0..ROUNDS {
            while theirs.load(Ordering::Relaxed) != 2 * round + 1 {
                thread::park();
            }
            theirs.fetch_add(1, Ordering::Relaxed);
            here.unpark();
        }
    }));
    let peer = loop {
        if let Some(peer) = peer.lock().unwrap().clone() {
            break peer;
        }
        thread::park();
    };
    for round in 0..ROUNDS {
        while turn.load(Ordering::Relaxed) != 2 * round {
            thread::park();
        }
        turn.fetch_add(1, Ordering::Relaxed);
        peer.unpark();
    }
    while turn.load(Ordering::Relaxed) != 2 * ROUNDS {
        thread::park();
    }
    drop(handle);
}

#[test]
fn no_wake_is_lost_between_two_hubs() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    thread::spawn(move || {
        ping_pong(|f| Box::new(other.handle.spawn(f).unwrap()));
    })
    .join()
    .unwrap();
}

#[test]
fn no_wake_is_lost_between_the_own_code_of_two_threads_one_with_a_hub() {
    let _watched = watchdog();
    Hub::current();
    ping_pong(|f| Box::new(std::thread::spawn(f)));
}

#[test]
fn no_wake_is_lost_between_two_plain_threads() {
    let _watched = watchdog();
    std::thread::spawn(|| ping_pong(|f| Box::new(std::thread::spawn(f)))).join().unwrap();
}

/// Deadlines race tokens: each token that is not taken by one park is by the next.
#[test]
fn no_token_is_lost_when_deadlines_race_it() {
    const TOKENS: usize = 3_000;
    let _watched = watchdog();
    let (given, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, acknowledged) = (given.clone(), taken.clone());
    let parked = thread::spawn(move || {
        for n in 0..TOKENS {
            while seen.load(Ordering::Acquire) <= n {
                // Near to how long the other side takes.
                thread::park_timeout(Duration::from_micros(n as u64 % 50));
            }
            acknowledged.store(n + 1, Ordering::Release);
            // The token of this round may be left; the last park has none and waits.
            if n % 100 == 0 {
                thread::sleep(Duration::from_micros(1));
            }
        }
    });
    let unparked = parked.thread().clone();
    let giver = std::thread::spawn(move || {
        for n in 0..TOKENS {
            given.store(n + 1, Ordering::Release);
            unparked.unpark();
            while taken.load(Ordering::Acquire) <= n {
                std::hint::spin_loop();
            }
        }
    });
    parked.join().unwrap();
    giver.join().unwrap();
}

/// Four threads unpark a thousand greenlets of one hub, each once a round.
#[test]
fn no_wake_is_lost_among_a_thousand() {
    const GREENLETS: usize = 1_000;
    const ROUNDS: usize = 10;
    let _watched = watchdog();
    let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..GREENLETS).map(|_| AtomicUsize::new(0)).collect());
    let handles: Vec<_> = (0..GREENLETS)
        .map(|n| {
            let counts = counts.clone();
            thread::spawn(move || {
                for round in 1..=ROUNDS {
                    while counts[n].load(Ordering::Acquire) < round {
                        thread::park();
                    }
                }
            })
        })
        .collect();
    let givers: Vec<_> = (0..4)
        .map(|part| {
            let (counts, parked) =
                (counts.clone(), handles.iter().map(|h| h.thread().clone()).collect::<Vec<_>>());
            std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    for n in (part..GREENLETS).step_by(4) {
                        counts[n].fetch_add(1, Ordering::Release);
                        parked[n].unpark();
                    }
                }
            })
        })
        .collect();
    handles.into_iter().for_each(|handle| handle.join().unwrap());
    givers.into_iter().for_each(|giver| giver.join().unwrap());
}

/// A greenlet that never has to wait must not starve the others.
#[test]
fn tokens_without_end_starve_nobody() {
    let _watched = watchdog();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let busy = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            thread::current().unpark();
            thread::park();
        }
    });
    thread::yield_now();
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
}

#[test]
fn park_of_what_nothing_can_wake_is_a_loop_exit() {
    let _watched = watchdog();
    std::thread::spawn(|| {
        Hub::builder().isolated().install().unwrap();
        let failed = catch_unwind(thread::park).unwrap_err();
        assert!(message(&*failed).contains("would block forever"));
    })
    .join()
    .unwrap();
}
