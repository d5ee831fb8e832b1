//! `timeout`: a limit on what a function waits for. Nested ones are told apart; what it unwinds runs its
//! drops; it never ends code that does not wait.

mod common;

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Drops, OnDrop, raised, text, virtual_time, watchdog};
use gevent::os::unix::net::UnixStream;
use gevent::{Elapsed, Ended, idle, no_unwind, sleep, spawn, timeout, yield_now};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn what_is_done_in_time_is_returned() {
    let _watched = watchdog();
    virtual_time();
    assert_eq!(timeout(HOUR, || 1).unwrap(), 1);
    let slept = timeout(2 * SEC, || {
        sleep(SEC);
        2
    });
    assert_eq!(slept.unwrap(), 2);
    assert_eq!(gevent::Hub::current().timer_count(), 0);
}

#[test]
fn what_is_not_is_unwound_at_its_limit() {
    let _watched = watchdog();
    let clock = virtual_time();
    let elapsed = timeout(SEC, || sleep(HOUR)).unwrap_err();
    assert_eq!((elapsed.limit(), clock.now()), (SEC, SEC));
    assert_eq!(elapsed.to_string(), "not done within 1s");
}

#[test]
fn it_counts_all_waits_together() {
    let _watched = watchdog();
    let clock = virtual_time();
    let rounds = Cell::new(0);
    let limit = timeout(10 * SEC, || {
        loop {
            sleep(3 * SEC);
            rounds.set(rounds.get() + 1);
        }
    });
    limit.map(|never: ()| never).unwrap_err();
    assert_eq!((rounds.get(), clock.now()), (3, 10 * SEC));
}

#[test]
fn nested_ones_are_told_apart() {
    let _watched = watchdog();
    let clock = virtual_time();
    // The inner one is shorter.
    let outer = timeout(10 * SEC, || {
        let inner = timeout(SEC, || sleep(HOUR));
        assert_eq!(inner.unwrap_err().limit(), SEC);
        sleep(SEC);
        "outer goes on"
    });
    assert_eq!(outer.unwrap(), "outer goes on");
    assert_eq!(clock.now(), 2 * SEC);
    // The outer one is shorter: it passes through.
    let passed = Cell::new(false);
    let outer = timeout(SEC, || {
        let inner = timeout(10 * SEC, || sleep(HOUR));
        passed.set(true);
        inner
    });
    assert_eq!(outer.unwrap_err().limit(), SEC);
    assert!(!passed.get());
}

#[test]
fn of_two_that_end_together_each_is_raised_in_its_turn() {
    let _watched = watchdog();
    virtual_time();
    let inner_ended = Cell::new(false);
    let outer = timeout(SEC, || {
        let inner = timeout(SEC, || sleep(HOUR));
        inner_ended.set(inner.is_err());
        sleep(HOUR);
    });
    assert!(outer.is_err());
    // The outer one was set first, and so is raised first.
    assert!(!inner_ended.get());
    assert_eq!(gevent::Hub::current().timer_count(), 0);
}

#[test]
fn a_hundred_nested_ones_unwind_to_the_shortest() {
    fn nest(depth: u32) -> Result<u32, Elapsed> {
        timeout(SEC * depth, || {
            if depth == 100 {
                sleep(HOUR);
                return 0;
            }
            match nest(depth + 1) {
                Ok(at) => at,
                Err(_) => depth,
            }
        })
    }
    let _watched = watchdog();
    virtual_time();
    nest(1).unwrap_err();
    assert_eq!(gevent::Hub::current().timer_count(), 0);
}

#[test]
fn zero_ends_at_the_first_wait() {
    let _watched = watchdog();
    let begun = Cell::new(false);
    timeout(Duration::ZERO, || {
        begun.set(true);
        sleep(HOUR);
    })
    .unwrap_err();
    assert!(begun.get());
    assert_eq!(timeout(Duration::ZERO, || 5).unwrap(), 5);
}

#[test]
fn a_limit_without_end_never_comes() {
    let _watched = watchdog();
    timeout(Duration::MAX, || sleep(MS)).unwrap();
}

#[test]
fn code_that_never_waits_is_never_ended() {
    let _watched = watchdog();
    let begun = Instant::now();
    let value = timeout(MS, || {
        while begun.elapsed() < 10 * MS {}
        3
    });
    assert_eq!(value.unwrap(), 3);
    sleep(5 * MS); // nothing comes after
}

#[test]
fn one_that_fires_after_the_last_wait_is_forgotten() {
    let _watched = watchdog();
    virtual_time();
    let value = timeout(SEC, || {
        // Granted and timed out at one moment: the grant came first, and is kept.
        no_unwind(|| sleep(2 * SEC));
        8
    });
    assert_eq!(value.unwrap(), 8);
    sleep(HOUR);
    yield_now();
}

#[test]
fn a_catch_that_swallows_everything_swallows_it() {
    let _watched = watchdog();
    let clock = virtual_time();
    let value = timeout(SEC, || {
        raised(|| sleep(HOUR));
        sleep(SEC); // raised once
        4
    });
    assert_eq!(value.unwrap(), 4);
    assert_eq!(clock.now(), 2 * SEC);
}

#[test]
fn a_panic_passes_through() {
    let _watched = watchdog();
    virtual_time();
    let payload = raised(|| timeout(HOUR, || panic!("inner")));
    assert_eq!(text(&*payload), "inner");
    assert_eq!(gevent::Hub::current().timer_count(), 0);
}

#[test]
fn what_it_unwinds_runs_its_drops_which_do_not_wait() {
    let _watched = watchdog();
    let clock = virtual_time();
    let drops = Drops::new();
    timeout(SEC, || {
        let _token = drops.token();
        let _waits = OnDrop::new(|| {
            sleep(HOUR);
            yield_now();
            idle();
        });
        sleep(HOUR);
    })
    .unwrap_err();
    assert_eq!((drops.count(), clock.now()), (1, SEC));
    assert!(!std::thread::panicking());
}

#[test]
fn it_says_nothing_to_the_panic_hook() {
    let Some(printed) = common::in_child("it_says_nothing_to_the_panic_hook") else {
        timeout(MS, || sleep(HOUR)).unwrap_err();
        spawn(|| timeout(MS, || sleep(HOUR))).join().unwrap().unwrap_err();
        return;
    };
    assert!(!printed.contains("panicked"), "{printed}");
}

#[test]
fn it_ends_waits_of_every_kind() {
    let _watched = watchdog();
    let (mut here, _there) = UnixStream::pair().unwrap();
    let begun = Instant::now();
    let stuck = spawn(|| sleep(HOUR));
    timeout(MS, || stuck.wait(None)).unwrap_err();
    timeout(MS, || here.read(&mut [0])).unwrap_err();
    timeout(MS, gevent::thread::park).unwrap_err();
    let busy = spawn(|| {
        loop {
            yield_now();
        }
    });
    timeout(MS, idle).unwrap_err();
    timeout(MS, || {
        loop {
            yield_now();
        }
    })
    .map(|never: ()| never)
    .unwrap_err();
    busy.kill();
    stuck.kill();
    assert!(begun.elapsed() < 10 * SEC);
    // The socket goes on.
    assert_eq!(timeout(MS, || here.read(&mut [0])).unwrap_err().limit(), MS);
}

#[test]
fn inside_no_unwind_it_is_an_error() {
    let _watched = watchdog();
    let (mut here, _there) = UnixStream::pair().unwrap();
    let seen = Cell::new(None);
    let limit = timeout(MS, || {
        no_unwind(|| {
            let error = here.read(&mut [0]).unwrap_err();
            seen.set(error.raw_os_error());
            sleep(HOUR); // returns at once
        });
        yield_now(); // raised here
        unreachable!();
    });
    limit.unwrap_err();
    assert_eq!(seen.get(), Some(libc::ETIMEDOUT));
}

#[test]
fn one_that_a_greenlet_is_killed_in_is_a_kill() {
    let _watched = watchdog();
    virtual_time();
    let greenlet = spawn(|| timeout(HOUR, || sleep(2 * HOUR)));
    yield_now();
    greenlet.kill();
    assert!(matches!(greenlet.join(), Err(Ended::Killed)));
    assert_eq!(gevent::Hub::current().timer_count(), 0);
}

#[test]
fn a_kill_and_a_timeout_at_once_are_a_kill() {
    let _watched = watchdog();
    virtual_time();
    let greenlet = spawn(|| {
        yield_now(); // so that the killer is woken first
        timeout(SEC, || sleep(HOUR))
    });
    let handle = greenlet.handle();
    drop(spawn(move || {
        sleep(SEC);
        handle.kill_timeout(Duration::ZERO);
    }));
    assert!(matches!(greenlet.join(), Err(Ended::Killed)));
}

#[test]
fn a_killer_may_have_a_limit_to_its_patience() {
    let _watched = watchdog();
    virtual_time();
    let stop = Rc::new(Cell::new(false));
    let stopped = stop.clone();
    let stubborn = spawn(move || {
        while !stopped.get() {
            let _ = catch_unwind(AssertUnwindSafe(|| sleep(SEC)));
        }
    });
    yield_now();
    timeout(SEC, || stubborn.kill()).unwrap_err();
    assert!(!stubborn.kill_timeout(SEC));
    stop.set(true);
    stubborn.join().unwrap();
}

#[test]
fn in_a_greenlet_that_is_killed_it_ends_what_its_handler_waits_for() {
    let _watched = watchdog();
    let clock = virtual_time();
    let greenlet = spawn(|| {
        let killed = raised(|| sleep(HOUR));
        // Cleaning up may take its time, but not for ever.
        timeout(SEC, || sleep(HOUR)).unwrap_err();
        std::panic::resume_unwind(killed);
    });
    yield_now();
    greenlet.kill();
    assert_eq!(clock.now(), SEC);
    assert!(matches!(greenlet.join(), Err(Ended::Killed)));
}

#[test]
fn it_converts_to_an_io_error() {
    let _watched = watchdog();
    fn late() -> std::io::Result<()> {
        Ok(timeout(MS, || sleep(HOUR))?)
    }
    let error = late().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "not done within 1ms");
    assert_eq!(error.get_ref().unwrap().downcast_ref::<Elapsed>().unwrap().limit(), MS);
}

#[test]
fn it_leaves_nothing_of_ours_poisoned() {
    let _watched = watchdog();
    let (one, other) = UnixStream::pair().unwrap();
    let parked = gevent::thread::spawn(gevent::thread::park);
    for _ in 0..3 {
        timeout(MS, || (&one).read(&mut [0])).unwrap_err();
        timeout(MS, gevent::thread::park).unwrap_err();
    }
    parked.thread().unpark();
    parked.join().unwrap();
    std::io::Write::write_all(&mut &other, b"x").unwrap();
    assert_eq!((&one).read(&mut [0]).unwrap(), 1);
    gevent::thread::current().unpark();
    gevent::thread::park();
}

#[test]
fn a_thousand_greenlets_have_their_own() {
    let _watched = watchdog();
    virtual_time();
    let all: Vec<_> = (1..=1000u32)
        .map(|n| spawn(move || (n, timeout(MS * n, || sleep(MS * 500 + MS / 2)).is_err())))
        .collect();
    for greenlet in all {
        let (n, late) = greenlet.join().unwrap();
        assert_eq!(late, n <= 500, "{n}");
    }
}
