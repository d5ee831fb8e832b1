//! `HubHandle`: what other threads ask of a hub.

mod common;

use std::cell::Cell;
use std::collections::HashSet;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::threads::{Flag, OtherHub, message, watchdog};
use gevent::hub::HubGone;
use gevent::{GreenletExit, Hub, HubHandle, thread};

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn a_handle_names_its_hub() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    assert_eq!(other.handle.thread_name(), "other");
    assert_ne!(other.handle.id(), Hub::current().id());
    assert!(!other.handle.is_gone());
    assert!(format!("{:?}", other.handle).contains("other"));
}

#[test]
fn what_is_spawned_runs_on_the_hubs_thread_in_a_greenlet() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let handle = other
        .handle
        .spawn(|| {
            let inside = gevent::current();
            assert!(!inside.is_root());
            thread::yield_now();
            (std::thread::current().name().map(str::to_owned), thread::current().id())
        })
        .unwrap();
    let id = handle.thread().id();
    assert_eq!(handle.join().unwrap(), (Some("other".to_owned()), id));
}

#[test]
fn the_site_of_the_spawn_is_the_callers() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let before = line!();
    let site = other.handle.spawn(|| gevent::current().site()).unwrap().join().unwrap();
    assert_eq!(site.file(), file!());
    assert!(site.line() > before && site.line() < line!());
}

#[test]
fn a_thread_without_a_hub_spawns_and_joins() {
    let _watched = watchdog();
    let hub = Hub::current().handle();
    let done = Flag::new();
    let flag = done.clone();
    let plain = std::thread::spawn(move || {
        let sum = hub.spawn(|| 1 + 2).unwrap().join().unwrap();
        flag.set();
        sum
    });
    done.spin();
    assert_eq!(plain.join().unwrap(), 3);
}

#[test]
fn a_hub_may_be_asked_from_its_own_thread() {
    let _watched = watchdog();
    let hub = Hub::current().handle();
    assert_eq!(hub.spawn(|| 1).unwrap().join().unwrap(), 1);
    let inside = gevent::spawn(move || hub.spawn(|| 2).unwrap().join().unwrap());
    assert_eq!(inside.join().unwrap(), 2);
}

#[test]
fn what_one_thread_sends_starts_in_its_order() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let next = Arc::new(AtomicUsize::new(0));
    let handles: Vec<_> = (0..1000)
        .map(|n| {
            let next = next.clone();
            other.handle.spawn(move || assert_eq!(next.fetch_add(1, Ordering::Relaxed), n)).unwrap()
        })
        .collect();
    handles.into_iter().for_each(|handle| handle.join().unwrap());
}

#[test]
fn a_panic_is_joined_and_the_hub_goes_on() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let handle = other.handle.spawn(|| panic!("over there")).unwrap();
    assert_eq!(message(&*handle.join().unwrap_err()), "over there");
    assert_eq!(other.handle.spawn(|| 1).unwrap().join().unwrap(), 1);
}

#[test]
fn a_hub_that_sleeps_is_woken_at_once() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    // Nothing else would wake it: no timer, no descriptor.
    for _ in 0..200 {
        let begun = Instant::now();
        other.handle.spawn(|| ()).unwrap().join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    // And one that has a timer, before that.
    let sleeper = other.handle.spawn(|| thread::sleep(Duration::from_secs(3600))).unwrap();
    let begun = Instant::now();
    other.handle.spawn(|| ()).unwrap().join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(sleeper);
}

#[test]
fn a_busy_hub_looks_at_what_it_is_sent() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let busy = other.handle.spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            thread::yield_now();
        }
    });
    let seen = other.handle.spawn(move || stop.store(true, Ordering::Relaxed)).unwrap();
    seen.join().unwrap();
    busy.unwrap().join().unwrap();
}

/// What a hub that is awake costs its senders: nothing is written to its eventfd, so it has nothing to
/// read there. Counted by the kernel, for the sending thread (`write` is a voluntary system call that
/// shows in `/proc/thread-self/io`).
#[test]
fn a_hub_that_is_awake_costs_its_senders_no_write() {
    fn writes() -> Option<u64> {
        let io = std::fs::read_to_string("/proc/thread-self/io").ok()?;
        io.lines().find_map(|line| line.strip_prefix("syscw: "))?.trim().parse().ok()
    }
    let _watched = watchdog();
    if writes().is_none() {
        eprintln!("skipped: this kernel does not count a thread's writes");
        return;
    }
    let other = OtherHub::new("other");
    let (awake, stop) = (Flag::new(), Flag::new());
    let (woken, stopped) = (awake.clone(), stop.clone());
    // Its thread is held by a greenlet that does not give way, so it cannot be asleep.
    let holder = other.handle.spawn(move || {
        woken.set();
        stopped.wait();
    });
    awake.wait();
    let ran = Arc::new(AtomicUsize::new(0));
    let before = writes();
    for _ in 0..1000 {
        let ran = ran.clone();
        drop(other.handle.spawn(move || ran.fetch_add(1, Ordering::Relaxed)));
    }
    let after = writes();
    stop.set();
    holder.unwrap().join().unwrap();
    other.handle.spawn(|| ()).unwrap().join().unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 1000);
    assert_eq!(after, before);
}

#[test]
fn thousands_of_messages_from_many_threads_all_run() {
    const THREADS: usize = 8;
    const EACH: usize = 2_000;
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let ran = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..THREADS)
        .map(|_| {
            let (hub, ran) = (other.handle.clone(), ran.clone());
            std::thread::spawn(move || {
                let handles: Vec<_> = (0..EACH)
                    .map(|n| {
                        let ran = ran.clone();
                        hub.spawn(move || {
                            ran.fetch_add(1, Ordering::Relaxed);
                            n
                        })
                        .unwrap()
                    })
                    .collect();
                for (n, handle) in handles.into_iter().enumerate() {
                    assert_eq!(handle.join().unwrap(), n);
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert_eq!(ran.load(Ordering::Relaxed), THREADS * EACH);
}

/// The hub falls asleep after each message, and the next comes at any moment of that: one that it
/// missed would hang its sender.
#[test]
fn no_message_is_missed_by_a_hub_that_falls_asleep() {
    let _watched = watchdog();
    let other = OtherHub::new("other");
    let senders: Vec<_> = (0..3)
        .map(|seed| {
            let hub = other.handle.clone();
            std::thread::spawn(move || {
                let mut random: u32 = seed + 1;
                for _ in 0..5_000 {
                    hub.spawn(|| ()).unwrap().join().unwrap();
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    for _ in 0..random >> 24 {
                        std::hint::spin_loop();
                    }
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[test]
fn two_hubs_spawn_into_each_other() {
    fn bounce(here: HubHandle, there: HubHandle, left: usize, done: Flag) {
        if left == 0 {
            done.set();
            return;
        }
        let (next, back) = (there.clone(), here);
        drop(there.spawn(move || bounce(next, back, left - 1, done)).unwrap());
    }
    let _watched = watchdog();
    let (one, two) = (OtherHub::new("one"), OtherHub::new("two"));
    let done = Flag::new();
    let (from, to, flag) = (one.handle.clone(), two.handle.clone(), done.clone());
    drop(one.handle.spawn(move || bounce(from, to, 10_000, flag)).unwrap());
    done.wait();
}

// ---------------------------------------------------------------------------------------------
// The end of the hub
// ---------------------------------------------------------------------------------------------

#[test]
fn a_hub_that_has_ended_gives_the_closure_back() {
    let _watched = watchdog();
    let mut other = OtherHub::new("other");
    other.end();
    assert!(other.handle.is_gone());
    let kept = String::from("kept");
    let HubGone(f) = other.handle.spawn(move || kept).unwrap_err();
    assert_eq!(f(), "kept");
    let error = HubGone(());
    assert!(error.to_string().contains("ended with its thread"));
}

#[test]
fn what_was_sent_and_never_ran_is_dropped_and_joined_with_an_error() {
    struct Sets(Flag);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.set();
        }
    }
    let _watched = watchdog();
    let (tx, rx) = mpsc::channel();
    let go = Flag::new();
    let went = go.clone();
    let thread = std::thread::spawn(move || {
        tx.send(Hub::current().handle()).unwrap();
        // It never looks again.
        went.wait();
    });
    let hub = rx.recv().unwrap();
    let dropped = Flag::new();
    let sets = Sets(dropped.clone());
    let handle = hub.spawn(move || drop(sets)).unwrap();
    let joiner = gevent::spawn(move || handle.join().map_err(|error| error.is::<HubGone<()>>()));
    thread::yield_now();
    go.set();
    thread.join().unwrap();
    assert!(dropped.is_set());
    assert_eq!(joiner.join().unwrap(), Err(true));
}

#[test]
fn what_runs_when_its_hub_ends_is_killed() {
    let _watched = watchdog();
    let mut other = OtherHub::new("other");
    let running = Flag::new();
    let flag = running.clone();
    let handle = other.handle.spawn(move || {
        flag.set();
        thread::park();
    });
    running.wait();
    other.end();
    assert!(handle.unwrap().join().unwrap_err().is::<GreenletExit>());
}

/// Spawns race the end of the hub: each is refused, or runs, or is joined with an error; none is lost.
#[test]
fn spawns_that_race_the_end_of_the_hub_are_all_answered() {
    let _watched = watchdog();
    let (mut refused, mut ran, mut dropped) = (0, 0, 0);
    for round in 0..200 {
        let mut other = OtherHub::new("other");
        let hub = other.handle.clone();
        let sender = std::thread::spawn(move || (0..20).map(|n| hub.spawn(move || n)).collect::<Vec<_>>());
        for _ in 0..round * 20 {
            std::hint::spin_loop();
        }
        other.end();
        for (n, sent) in sender.join().unwrap().into_iter().enumerate() {
            match sent {
                Err(HubGone(f)) => {
                    assert_eq!(f(), n);
                    refused += 1;
                }
                Ok(handle) => match handle.join() {
                    Ok(value) => {
                        assert_eq!(value, n);
                        ran += 1;
                    }
                    Err(error) => {
                        assert!(error.is::<HubGone<()>>() || error.is::<GreenletExit>());
                        dropped += 1;
                    }
                },
            }
        }
    }
    println!("{refused} refused, {ran} ran, {dropped} dropped");
    assert_eq!(refused + ran + dropped, 200 * 20);
}

/// Wakes race the end of the hub whose greenlet they are for.
#[test]
fn unparks_that_race_the_end_of_the_hub_do_no_harm() {
    let _watched = watchdog();
    for _ in 0..200 {
        let mut other = OtherHub::new("other");
        let parked = other.handle.spawn(|| while catch_unwind(thread::park).is_ok() {}).unwrap();
        let handle = parked.thread().clone();
        let waker = std::thread::spawn(move || (0..500).for_each(|_| handle.unpark()));
        other.end();
        waker.join().unwrap();
        let _ = parked.join();
    }
}

#[test]
fn a_closure_whose_drop_panics_when_the_hub_ends_does_no_harm() {
    struct Fails;
    impl Drop for Fails {
        fn drop(&mut self) {
            panic!("in the drop");
        }
    }
    let _watched = watchdog();
    let (tx, rx) = mpsc::channel();
    let go = Flag::new();
    let went = go.clone();
    let thread = std::thread::spawn(move || {
        tx.send(Hub::current().handle()).unwrap();
        went.wait();
    });
    let hub = rx.recv().unwrap();
    let fails = Fails;
    let first = hub.spawn(move || drop(fails)).unwrap();
    let second = hub.spawn(|| ()).unwrap();
    go.set();
    thread.join().unwrap();
    assert_eq!(message(&*first.join().unwrap_err()), "in the drop");
    assert!(second.join().unwrap_err().is::<HubGone<()>>());
}

// ---------------------------------------------------------------------------------------------
// Idle
// ---------------------------------------------------------------------------------------------

/// A root that waits for another thread is no deadlock, though nothing else is there to wake it.
#[test]
fn a_hub_waits_for_other_threads() {
    let _watched = watchdog();
    let handle = thread::current();
    let hub = Hub::current().handle();
    let told = std::rc::Rc::new(Cell::new(false));
    std::thread::spawn(move || {
        std::thread::sleep(5 * MILLI);
        hub.spawn(move || handle.unpark()).unwrap().join().unwrap();
    });
    thread::park();
    told.set(true);
    assert!(told.get());
}

#[test]
fn ids_are_unique_across_hubs() {
    let _watched = watchdog();
    let hubs: Vec<_> = (0..4).map(|n| OtherHub::new(&format!("hub {n}"))).collect();
    let handles: Vec<_> = (0..400)
        .map(|n| hubs[n % 4].handle.spawn(|| (gevent::current().id(), thread::current().id())).unwrap())
        .collect();
    let ids: HashSet<_> = handles.into_iter().map(|handle| handle.join().unwrap()).collect();
    let (greenlets, threads): (HashSet<_>, HashSet<_>) = ids.into_iter().unzip();
    assert_eq!((greenlets.len(), threads.len()), (400, 400));
}
