//! `sleep`: never early, in the order of deadlines, and as many as one likes.

mod common;

use std::time::{Duration, Instant};

use common::{Log, raised_as, virtual_time, watchdog};
use gevent::{GreenletExit, sleep, spawn, yield_now};

const MS: Duration = Duration::from_millis(1);

#[test]
fn it_is_never_early() {
    let _watched = watchdog();
    let lengths = [1, 7, 50, 333, 999, 1000, 1001, 1500, 4999, 20_000].map(Duration::from_micros);
    let all: Vec<_> = lengths
        .into_iter()
        .cycle()
        .take(200)
        .map(|length| {
            spawn(move || {
                let begun = Instant::now();
                sleep(length);
                (length, begun.elapsed())
            })
        })
        .collect();
    for greenlet in all {
        let (length, took) = greenlet.join().unwrap();
        assert!(took >= length, "{length:?} took {took:?}");
    }
}

#[test]
fn a_root_may_sleep_too() {
    let _watched = watchdog();
    for length in [Duration::from_nanos(1), Duration::from_micros(30), 3 * MS] {
        let begun = Instant::now();
        sleep(length);
        assert!(begun.elapsed() >= length);
    }
}

#[test]
fn zero_is_a_yield() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    drop(spawn(move || out.push("other")));
    sleep(Duration::ZERO);
    log.push("root");
    assert_eq!(log.take(), ["other", "root"]);
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    let _watched = watchdog();
    virtual_time();
    let log = Log::new();
    // A permutation of 0..1000, a nanosecond to a millisecond apart.
    let lengths: Vec<u64> = (0..1000).map(|n| n * 577 % 1000).collect();
    for scale in [1, 1000, 1_000_000] {
        for &length in &lengths {
            let log = log.clone();
            drop(spawn(move || {
                sleep(Duration::from_nanos(1 + length * scale));
                log.push(length);
            }));
        }
        sleep(Duration::from_secs(2));
        assert_eq!(log.take(), (0..1000).collect::<Vec<u64>>());
    }
}

#[test]
fn those_that_end_together_wake_in_the_order_in_which_they_began() {
    let _watched = watchdog();
    virtual_time();
    let log = Log::new();
    for n in 0..1000 {
        let log = log.clone();
        drop(spawn(move || {
            sleep(5 * MS);
            log.push(n);
        }));
    }
    sleep(6 * MS);
    assert_eq!(log.take(), (0..1000).collect::<Vec<i32>>());
}

#[test]
fn a_sleep_without_end_is_ended_by_a_kill() {
    let _watched = watchdog();
    let sleeper = spawn(|| raised_as::<GreenletExit, _>(|| sleep(Duration::MAX)));
    yield_now();
    sleeper.kill();
    assert_eq!(sleeper.join().unwrap(), GreenletExit);
}

#[test]
fn while_one_sleeps_the_others_run() {
    let _watched = watchdog();
    let begun = Instant::now();
    let all: Vec<_> = (0..100).map(|_| spawn(|| sleep(50 * MS))).collect();
    all.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    let took = begun.elapsed();
    assert!((50 * MS..100 * 50 * MS / 4).contains(&took), "{took:?}");
}

#[test]
fn a_hundred_thousand_sleep_at_once() {
    let _watched = watchdog();
    let woken = Log::new();
    for n in 0..100_000u64 {
        let woken = woken.clone();
        let greenlet = gevent::try_spawn(move || {
            let length = Duration::from_micros(1000 + n % 100_000);
            let begun = Instant::now();
            sleep(length);
            assert!(begun.elapsed() >= length);
            woken.push(n);
        });
        match greenlet {
            Ok(greenlet) => drop(greenlet),
            // Where guards are made by mprotect there are fewer.
            Err(gevent::StackError::Mappings { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    while woken.len() < 100_000 {
        sleep(10 * MS);
    }
    assert_eq!(gevent::Hub::current().timer_count(), 0);
}
