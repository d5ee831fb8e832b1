//! The hub: how it is made, its order, timers and descriptors among ready greenlets, the clock and
//! the order that tests choose, `idle`, `on_error`, `shutdown`, and many hubs at once.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::{Drops, Log, OnDrop, in_child, text, virtual_time, watchdog};
use gevent::hub::{Failure, Seeded};
use gevent::os::unix::net::UnixStream;
use gevent::{GreenletExit, Hub, StackSize, current, idle, sleep, spawn, spawn_later, timeout, yield_now};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

// ---------------------------------------------------------------------------------------------
// Making it
// ---------------------------------------------------------------------------------------------

#[test]
fn it_is_made_at_its_first_use() {
    let _watched = watchdog();
    drop(spawn(|| ()));
    let error = Hub::builder().install().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains(&format!("hub {}", Hub::current().id())), "{error}");
    assert!(error.to_string().contains("it_is_made_at_its_first_use"), "names the thread: {error}");
}

#[test]
fn a_yield_before_anything_was_spawned_makes_none() {
    let _watched = watchdog();
    yield_now();
    Hub::builder().install().unwrap();
}

#[test]
fn a_second_one_on_a_thread_is_an_error() {
    let _watched = watchdog();
    let first = Hub::builder().install().unwrap();
    assert_eq!(Hub::builder().install().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(Hub::current().id(), first.id());
}

#[test]
fn each_thread_has_its_own() {
    let _watched = watchdog();
    let mine = Hub::current().id();
    let theirs = std::thread::Builder::new()
        .name("other".into())
        .spawn(|| (Hub::current().id(), Hub::current().thread_name()))
        .unwrap()
        .join()
        .unwrap();
    assert_ne!(mine, theirs.0);
    assert_eq!(theirs.1, "other");
}

#[test]
fn it_tells_how_it_stands() {
    let _watched = watchdog();
    let hub = Hub::current();
    assert_eq!((hub.ready_count(), hub.live_count(), hub.timer_count()), (0, 0, 0));
    let one = spawn(|| sleep(HOUR));
    let two = spawn_later(HOUR, || ());
    assert_eq!((hub.ready_count(), hub.live_count(), hub.timer_count()), (1, 0, 1));
    yield_now();
    assert_eq!((hub.ready_count(), hub.live_count(), hub.timer_count()), (0, 1, 2));
    let shown = format!("{hub:?}");
    assert!(shown.contains("live: 1") && shown.contains("timers: 2"), "{shown}");
    one.kill();
    two.kill();
    assert_eq!((hub.ready_count(), hub.live_count(), hub.timer_count()), (0, 0, 0));
}

#[test]
fn its_stack_size_is_that_of_greenlets_that_name_none() {
    #[inline(never)]
    fn deep(levels: usize) -> usize {
        let frame = std::hint::black_box([1u8; 1024]);
        if levels == 0 { 0 } else { frame[levels % 1024] as usize + deep(levels - 1) }
    }
    let _watched = watchdog();
    Hub::builder().stack_size(StackSize::new(4 << 20).unwrap()).install().unwrap();
    // More than the default of 256 KiB would hold.
    assert_eq!(spawn(|| deep(1000)).join().unwrap(), 1000);
}

/// How often another greenlet got its turn during a hundred calls that had no need to wait.
fn turns_during_a_hundred_calls() -> usize {
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    let other = spawn(move || {
        loop {
            count.set(count.get() + 1);
            yield_now();
        }
    });
    spawn(|| {
        for _ in 0..100 {
            gevent::thread::current().unpark();
            gevent::thread::park();
        }
    })
    .join()
    .unwrap();
    other.kill();
    turns.get()
}

#[test]
fn its_budget_makes_a_busy_greenlet_give_way() {
    let _watched = watchdog();
    Hub::builder().budget(10).install().unwrap();
    let turns = turns_during_a_hundred_calls();
    assert!((8..=12).contains(&turns), "{turns}");
}

#[test]
fn a_budget_of_zero_is_one() {
    let _watched = watchdog();
    Hub::builder().budget(0).switches(0).install().unwrap();
    let turns = turns_during_a_hundred_calls();
    assert!((49..=101).contains(&turns), "{turns}");
}

// ---------------------------------------------------------------------------------------------
// Order
// ---------------------------------------------------------------------------------------------

#[test]
fn greenlets_run_first_in_first_out() {
    let _watched = watchdog();
    let log = Log::new();
    for n in 0..1000 {
        let log = log.clone();
        drop(spawn(move || {
            log.push(n);
            yield_now();
            log.push(n);
        }));
    }
    yield_now();
    yield_now();
    let expected: Vec<i32> = (0..1000).chain(0..1000).collect();
    assert_eq!(log.take(), expected);
}

#[test]
fn a_yield_goes_to_the_back_of_the_queue() {
    let _watched = watchdog();
    let log = Log::new();
    for name in ["a", "b", "c"] {
        let log = log.clone();
        drop(spawn(move || {
            for _ in 0..3 {
                log.push(name);
                yield_now();
            }
        }));
    }
    idle();
    assert_eq!(log.take(), ["a", "b", "c", "a", "b", "c", "a", "b", "c"]);
}

#[test]
fn what_a_greenlet_spawns_runs_after_those_that_are_ready() {
    let _watched = watchdog();
    let log = Log::new();
    let (first, second) = (log.clone(), log.clone());
    drop(spawn(move || {
        let log = first.clone();
        drop(spawn(move || log.push("child")));
        first.push("first");
    }));
    drop(spawn(move || second.push("second")));
    idle();
    assert_eq!(log.take(), ["first", "second", "child"]);
}

// ---------------------------------------------------------------------------------------------
// Timers and descriptors while greenlets stay ready
// ---------------------------------------------------------------------------------------------

#[test]
fn timers_fire_though_greenlets_stay_ready() {
    let _watched = watchdog();
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    drop(spawn(move || {
        sleep(5 * MS);
        flag.set(true);
    }));
    while !done.get() {
        yield_now();
    }
}

/// How many switches a reader waits for data that is there, while two greenlets switch all the time.
fn switches_until_read() -> usize {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let got = Rc::new(Cell::new(false));
    let flag = got.clone();
    let reader = spawn(move || {
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        flag.set(true);
    });
    for _ in 0..100 {
        yield_now();
    }
    there.write_all(b"x").unwrap();
    let mut switches = 0;
    while !got.get() {
        yield_now();
        switches += 1;
    }
    reader.join().unwrap();
    switches
}

#[test]
fn descriptors_are_looked_at_every_so_many_switches() {
    let _watched = watchdog();
    Hub::builder().switches(16).install().unwrap();
    let switches = switches_until_read();
    assert!(switches <= 16 + 2, "{switches}");
}

#[test]
fn descriptors_may_be_looked_at_at_every_switch() {
    let _watched = watchdog();
    Hub::builder().switches(1).install().unwrap();
    let switches = switches_until_read();
    assert!(switches <= 3, "{switches}");
}

/// Counted in turns, so that a slow machine does not matter.
#[test]
fn when_turns_take_long_it_looks_more_often() {
    let _watched = watchdog();
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    let slow = spawn(move || {
        loop {
            let begun = Instant::now();
            while begun.elapsed() < 6 * MS {}
            count.set(count.get() + 1);
            yield_now();
        }
    });
    // It may notice only when it has looked once; quick turns before had let it look rarely.
    sleep(MS);
    for _ in 0..10 {
        let before = turns.get();
        sleep(MS);
        let waited = turns.get() - before;
        assert!(waited <= 3, "a sleep of 1 ms took {waited} turns of 6 ms each");
    }
    slow.kill();
}

#[test]
fn long_turns_after_many_quick_ones_are_noticed_at_the_first_look() {
    let _watched = watchdog();
    Hub::current(); // without one a yield is nothing
    for _ in 0..10_000 {
        yield_now(); // as rare looks as it gets
    }
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    let slow = spawn(move || {
        loop {
            let begun = Instant::now();
            while begun.elapsed() < 6 * MS {}
            count.set(count.get() + 1);
            yield_now();
        }
    });
    sleep(MS);
    let before = turns.get();
    sleep(MS);
    let waited = turns.get() - before;
    assert!(waited <= 3, "a sleep of 1 ms took {waited} turns of 6 ms each");
    slow.kill();
}

#[test]
fn a_write_from_another_thread_wakes_a_waiting_hub() {
    let _watched = watchdog();
    let (mut here, there) = UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(20 * MS);
        (&there).write_all(b"x").unwrap();
        there
    });
    let mut byte = [0];
    spawn(move || here.read_exact(&mut byte)).join().unwrap().unwrap();
    writer.join().unwrap();
}

// ---------------------------------------------------------------------------------------------
// The clock and the order that tests choose
// ---------------------------------------------------------------------------------------------

#[test]
fn the_virtual_clock_jumps_from_timer_to_timer() {
    let _watched = watchdog();
    let clock = virtual_time();
    let log = Log::new();
    for hours in [3, 1, 2] {
        let (log, clock) = (log.clone(), clock.clone());
        drop(spawn(move || {
            sleep(HOUR * hours);
            log.push(clock.now());
        }));
    }
    let begun = Instant::now();
    sleep(HOUR * 4);
    assert_eq!(log.take(), [HOUR, HOUR * 2, HOUR * 3]);
    assert_eq!(clock.now(), HOUR * 4);
    assert_eq!(Hub::current().now(), HOUR * 4);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_virtual_clock_stands_still_while_anything_runs() {
    let _watched = watchdog();
    let clock = virtual_time();
    let sleeper = spawn(|| sleep(MS));
    for _ in 0..1000 {
        yield_now();
    }
    assert_eq!((clock.now(), sleeper.ready()), (Duration::ZERO, false));
    sleeper.join().unwrap();
    assert_eq!(clock.now(), MS);
}

#[test]
fn the_virtual_clock_looks_at_descriptors_before_it_jumps() {
    let _watched = watchdog();
    let clock = virtual_time();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let seen = clock.clone();
    let reader = spawn(move || {
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        seen.now()
    });
    let sleeper = spawn(|| sleep(HOUR));
    yield_now();
    there.write_all(b"x").unwrap();
    sleeper.join().unwrap();
    assert_eq!(reader.join().unwrap(), Duration::ZERO, "the data was there before the hour began");
}

/// The order in which 20 greenlets run, yield and run again.
fn order(seed: u64) -> Vec<usize> {
    std::thread::spawn(move || {
        Hub::builder().scheduler(Seeded(seed)).install().unwrap();
        let log = Log::new();
        let all: Vec<_> = (0..20)
            .map(|n| {
                let log = log.clone();
                spawn(move || {
                    for _ in 0..3 {
                        log.push(n);
                        yield_now();
                    }
                })
            })
            .collect();
        for greenlet in all {
            greenlet.join().unwrap();
        }
        log.take()
    })
    .join()
    .unwrap()
}

#[test]
fn a_seeded_order_replays() {
    let _watched = watchdog();
    assert_eq!(order(7), order(7));
    assert_ne!(order(7), order(8));
    for seed in [0, 7, u64::MAX] {
        let mut order = order(seed);
        order.sort_unstable();
        let every: Vec<usize> = (0..20).flat_map(|n| [n; 3]).collect();
        assert_eq!(order, every, "each runs, whatever the order");
    }
}

// ---------------------------------------------------------------------------------------------
// Idle
// ---------------------------------------------------------------------------------------------

#[test]
fn idle_runs_when_nothing_else_is_ready() {
    let _watched = watchdog();
    let log = Log::new();
    let (one, two) = (log.clone(), log.clone());
    let idler = spawn(move || {
        idle();
        one.push("idle");
    });
    drop(spawn(move || {
        for _ in 0..50 {
            yield_now();
        }
        two.push("busy");
    }));
    idler.join().unwrap();
    assert_eq!(log.take(), ["busy", "idle"]);
}

#[test]
fn those_that_idle_take_turns() {
    let _watched = watchdog();
    let log = Log::new();
    let turns = ["a", "b"].map(|name| {
        let log = log.clone();
        spawn(move || {
            for _ in 0..2 {
                idle();
                log.push(name);
            }
        })
    });
    turns.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    assert_eq!(log.take(), ["a", "b", "a", "b"]);
}

#[test]
fn timers_come_before_the_idle() {
    let _watched = watchdog();
    let stop = Rc::new(Cell::new(false));
    let stopped = stop.clone();
    let idler = spawn(move || {
        while !stopped.get() {
            idle();
        }
    });
    sleep(5 * MS);
    stop.set(true);
    idler.join().unwrap();
}

#[test]
fn an_idle_greenlet_is_killed_though_others_stay_ready() {
    let _watched = watchdog();
    let idler = spawn(idle);
    let spinner = spawn(|| {
        loop {
            yield_now();
        }
    });
    yield_now();
    assert!(idler.kill_timeout(Duration::from_secs(5)));
    let late = spawn(|| timeout(MS, idle));
    assert!(late.wait(Some(Duration::from_secs(5))));
    assert!(late.join().unwrap().is_err());
    spinner.kill();
}

// ---------------------------------------------------------------------------------------------
// Panics that nobody joins
// ---------------------------------------------------------------------------------------------

/// The messages that `on_error` was told.
fn told() -> Log<String> {
    let log = Log::new();
    let told = log.clone();
    Hub::current().on_error(move |failure: Failure| told.push(failure.message().to_owned()));
    log
}

#[test]
fn on_error_is_told_once_of_a_panic_that_nobody_joins() {
    let _watched = watchdog();
    let told = told();
    drop(spawn(|| panic!("dropped before")));
    let late = spawn(|| panic!("dropped after"));
    late.wait(None);
    sleep(MS);
    assert_eq!(told.take(), ["dropped before"]);
    drop(late);
    sleep(MS);
    assert_eq!(told.take(), ["dropped after"]);
    sleep(MS);
    assert_eq!(told.len(), 0);
}

#[test]
fn on_error_is_not_told_of_what_is_joined_or_killed() {
    let _watched = watchdog();
    let told = told();
    spawn(|| panic!("joined")).join().unwrap_err();
    let tried = spawn(|| panic!("tried"));
    tried.wait(None);
    tried.try_join().unwrap().unwrap_err();
    let killed = spawn(|| sleep(HOUR));
    yield_now();
    killed.kill();
    drop(killed);
    drop(spawn(|| std::panic::resume_unwind(Box::new(GreenletExit))));
    sleep(MS);
    assert_eq!(told.len(), 0);
}

#[test]
fn on_error_runs_in_a_greenlet_of_its_own_and_may_wait() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    Hub::current().on_error(move |failure| {
        let me = current();
        out.push((me.is_root(), me == failure.greenlet, failure.greenlet.is_dead()));
        sleep(MS);
        spawn(|| ()).join().unwrap();
        out.push((me.is_root(), true, true));
    });
    drop(spawn(|| panic!("lost")));
    sleep(20 * MS);
    assert_eq!(log.take(), [(false, false, true), (false, true, true)]);
}

#[test]
fn on_error_gets_the_payload_itself() {
    let _watched = watchdog();
    let got = Rc::new(Cell::new(0));
    let out = got.clone();
    Hub::current().on_error(move |failure| out.set(*failure.payload.downcast::<i32>().unwrap()));
    drop(spawn(|| std::panic::panic_any(42)));
    sleep(MS);
    assert_eq!(got.get(), 42);
}

#[test]
fn a_later_on_error_replaces_the_one_before_even_from_within() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let drops = Drops::new();
    let token = drops.token();
    Hub::current().on_error(move |_| {
        let _token = &token;
        out.push("first");
        let out = out.clone();
        Hub::current().on_error(move |_| out.push("second"));
    });
    for _ in 0..2 {
        drop(spawn(|| panic!("lost")));
        sleep(MS);
    }
    assert_eq!(log.take(), ["first", "second"]);
    assert_eq!(drops.count(), 1);
}

#[test]
fn an_on_error_that_panics_is_not_told_of_itself() {
    let Some(printed) = in_child("an_on_error_that_panics_is_not_told_of_itself") else {
        let _watched = watchdog();
        let count = Rc::new(Cell::new(0));
        let calls = count.clone();
        Hub::current().on_error(move |_| {
            calls.set(calls.get() + 1);
            panic!("in the hook");
        });
        drop(spawn(|| panic!("lost")));
        sleep(MS);
        assert_eq!(count.get(), 1);
        assert_eq!(spawn(|| 1).join().unwrap(), 1);
        return;
    };
    assert!(printed.contains("panicked: lost; its hub goes on"), "{printed}");
    assert!(printed.contains("'on_error'") && printed.contains("panicked: in the hook"), "{printed}");
}

// ---------------------------------------------------------------------------------------------
// Shutdown
// ---------------------------------------------------------------------------------------------

#[test]
fn shutdown_ends_every_greenlet_and_runs_their_drops() {
    let _watched = watchdog();
    let drops = Drops::new();
    let sleeping = drops.token();
    let one = spawn(move || {
        let _token = sleeping;
        sleep(HOUR);
    });
    let joining = drops.token();
    let two = spawn(move || {
        let _token = joining;
        one.join()
    });
    let (mut here, _there) = UnixStream::pair().unwrap();
    let reading = drops.token();
    let three = spawn(move || {
        let _token = reading;
        here.read(&mut [0])
    });
    yield_now();
    Hub::current().shutdown();
    assert_eq!((drops.count(), Hub::current().live_count()), (3, 0));
    assert!(two.ready() && three.ready());
}

#[test]
fn shutdown_ends_those_that_have_not_begun_too() {
    let _watched = watchdog();
    let ran = Rc::new(Cell::new(false));
    let drops = Drops::new();
    let (flag, token) = (ran.clone(), drops.token());
    let ready = spawn(move || {
        let _token = token;
        flag.set(true);
    });
    let (flag, token) = (ran.clone(), drops.token());
    let later = spawn_later(MS, move || {
        let _token = token;
        flag.set(true);
    });
    Hub::current().shutdown();
    assert_eq!(drops.count(), 2);
    assert!(ready.ready() && later.ready());
    sleep(5 * MS);
    assert!(!ran.get());
}

#[test]
fn links_and_on_error_run_in_a_shutdown() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    Hub::current().on_error(move |failure| out.push(failure.message().to_owned()));
    let linked = spawn(|| sleep(HOUR));
    let out = log.clone();
    linked.link(move |who| out.push(format!("link, {}", who.successful())));
    drop(spawn(|| {
        let _panics = OnDrop::new(|| ());
        let _ = catch_unwind(|| sleep(HOUR));
        panic!("while it was ended");
    }));
    yield_now();
    Hub::current().shutdown();
    let mut said = log.take();
    said.sort();
    assert_eq!(said, ["link, true", "while it was ended"]);
}

#[test]
fn in_a_shutdown_nothing_waits_any_more() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    drop(spawn(move || {
        let _ = catch_unwind(|| sleep(HOUR));
        let begun = Instant::now();
        sleep(HOUR);
        out.push(begun.elapsed() < Duration::from_secs(5));
    }));
    yield_now();
    Hub::current().shutdown();
    assert_eq!(log.take(), [true]);
}

#[test]
fn one_that_never_ends_is_left_and_its_joiner_told() {
    let _watched = watchdog();
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    let stubborn = spawn(move || {
        loop {
            let _ = catch_unwind(yield_now);
            count.set(count.get() + 1);
        }
    });
    yield_now();
    Hub::current().shutdown();
    let at_the_end = turns.get();
    assert!((50..=300).contains(&at_the_end), "{at_the_end}");
    assert!(stubborn.is_dead());
    sleep(MS);
    assert_eq!(turns.get(), at_the_end);
    assert!(matches!(stubborn.join(), Err(gevent::Ended::Unfinished)));
}

#[test]
fn the_thread_goes_on_after_a_shutdown() {
    let _watched = watchdog();
    drop(spawn(|| sleep(HOUR)));
    yield_now();
    Hub::current().shutdown();
    let begun = Instant::now();
    assert_eq!(spawn(|| sleep(5 * MS)).join().unwrap(), ());
    assert!(begun.elapsed() >= 5 * MS);
    Hub::current().shutdown();
    sleep(MS);
}

#[test]
fn a_shutdown_from_a_greenlet_does_nothing() {
    let _watched = watchdog();
    let sleeper = spawn(|| sleep(HOUR));
    yield_now();
    spawn(|| Hub::current().shutdown()).join().unwrap();
    assert!(!sleeper.ready());
    sleeper.kill();
}

// ---------------------------------------------------------------------------------------------
// Many
// ---------------------------------------------------------------------------------------------

/// More than the 64 that have a bit of their own in the table of descriptors.
#[test]
fn a_hundred_hubs_wait_for_descriptors_at_once() {
    const HUBS: usize = 100;
    let _watched = watchdog();
    let parked = Arc::new(Barrier::new(HUBS + 1));
    let (mut writers, mut threads) = (Vec::new(), Vec::new());
    for n in 0..HUBS {
        let (mut here, there) = UnixStream::pair().unwrap();
        writers.push(there);
        let parked = parked.clone();
        threads.push(std::thread::spawn(move || {
            let mut bytes = [0; 2];
            let reader = spawn(move || {
                here.read_exact(&mut bytes).unwrap();
                bytes
            });
            yield_now();
            assert_eq!(reader.state(), reader.state());
            parked.wait();
            assert_eq!(reader.join().unwrap(), [n as u8; 2]);
            Hub::current().id()
        }));
    }
    parked.wait();
    for (n, mut writer) in writers.into_iter().enumerate() {
        writer.write_all(&[n as u8; 2]).unwrap();
    }
    let mut ids: Vec<u32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), HUBS);
}

/// One descriptor, known to many hubs, closed by one of them: each is told before its number is another's.
#[test]
fn a_close_is_told_to_all_of_a_hundred_hubs() {
    const HUBS: usize = 100;
    let _watched = watchdog();
    let (here, there) = UnixStream::pair().unwrap();
    let here = Arc::new(here);
    let parked = Arc::new(Barrier::new(HUBS + 1));
    let threads: Vec<_> = (0..HUBS)
        .map(|_| {
            let (here, parked) = (here.clone(), parked.clone());
            std::thread::spawn(move || {
                let reader = spawn(move || (&*here).read(&mut [0]).unwrap());
                yield_now();
                parked.wait();
                reader.join().unwrap()
            })
        })
        .collect();
    parked.wait();
    drop(there);
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 0);
    }
    // The number is used again, by a socket that nobody has read to its end.
    drop(here);
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let reader = spawn(move || {
        let mut byte = [0];
        here.read_exact(&mut byte).map(|()| byte[0])
    });
    yield_now();
    assert!(!reader.ready());
    there.write_all(b"y").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), b'y');
}

/// Past 63 hubs some share a bit: a close is told to all that may be meant, and the number, given out again,
/// is another descriptor to them.
#[test]
fn a_number_that_is_used_again_is_another_descriptor_to_the_hundredth_hub_too() {
    const HUBS: usize = 100;
    // The numbers are the process's: in one of its own, where no other test closes them.
    if !common::is_child() {
        in_child("a_number_that_is_used_again_is_another_descriptor_to_the_hundredth_hub_too");
        return;
    }
    let _watched = watchdog();
    let (end, ended) = (Arc::new(Barrier::new(HUBS + 1)), Arc::new(Barrier::new(HUBS + 1)));
    let others: Vec<_> = (0..HUBS)
        .map(|_| {
            let (end, ended) = (end.clone(), ended.clone());
            std::thread::spawn(move || {
                Hub::current();
                end.wait();
                ended.wait();
            })
        })
        .collect();
    end.wait();
    let last = std::thread::spawn(|| {
        let numbers = Log::new();
        for round in 0..20 {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            numbers.push(std::os::fd::AsRawFd::as_raw_fd(&here));
            let reader = spawn(move || {
                let mut byte = [0];
                let early = timeout(MS, || here.read(&mut byte)).is_ok(); // known to be drained now
                here.read_exact(&mut byte).unwrap();
                (early, byte[0], here)
            });
            sleep(2 * MS);
            there.write_all(&[round]).unwrap();
            let (early, byte, here) =
                timeout(Duration::from_secs(10), || reader.join().unwrap()).expect("it is read");
            assert_eq!((early, byte), (false, round));
            // On another thread: this hub has to be told.
            std::thread::spawn(move || drop((here, there))).join().unwrap();
        }
        let mut numbers = numbers.take();
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.len() < 20, "no number was used again: {numbers:?}");
    });
    let passed = last.join();
    ended.wait();
    others.into_iter().for_each(|other| other.join().unwrap());
    passed.unwrap();
}

#[test]
fn a_threads_exit_ends_its_greenlets() {
    let _watched = watchdog();
    thread_local! { static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) } }
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let sent = tx.clone();
        drop(spawn(move || {
            let _sent = OnDrop::new(move || sent.send("parked").unwrap());
            sleep(HOUR);
        }));
        yield_now();
        let sent = tx.clone();
        let unstarted = OnDrop::new(move || sent.send("not begun").unwrap());
        drop(spawn(move || drop(unstarted)));
        let sent = tx;
        let later = OnDrop::new(move || sent.send("later").unwrap());
        drop(spawn_later(HOUR, move || drop(later)));
    })
    .join()
    .unwrap();
    let mut ended: Vec<_> = rx.iter().collect();
    ended.sort_unstable();
    assert_eq!(ended, ["later", "not begun", "parked"]);
}

#[test]
fn a_panic_that_comes_out_of_a_wait_says_so() {
    let _watched = watchdog();
    let payload = catch_unwind(AssertUnwindSafe(|| spawn(|| panic!("inner")).join().unwrap())).unwrap_err();
    assert!(text(&*payload).contains("inner"), "{}", text(&*payload));
}
