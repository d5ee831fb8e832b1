//! Spawned greenlets, by the behaviours of gevent's own suite: join, wait, kill, links, states, late starts,
//! names and sizes, results and panics.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Drops, Log, OnDrop, in_child, isolated, raised, raised_as, text, virtual_time, watchdog};
use gevent::os::unix::net::UnixStream;
use gevent::{
    AnyGreenlet, Builder, Ended, Greenlet, GreenletExit, Hub, Me, StackSize, State, WaitsFor, current, enter,
    idle, no_unwind, sleep, spawn, spawn_later, try_spawn, yield_now,
};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// One that sleeps for good, and has begun to.
fn sleeper() -> Greenlet<()> {
    let greenlet = spawn(|| sleep(HOUR));
    yield_now();
    greenlet
}

// ---------------------------------------------------------------------------------------------
// Starting
// ---------------------------------------------------------------------------------------------

#[test]
fn it_runs_when_the_spawner_next_waits_and_not_before() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let greenlet = spawn(move || out.push("greenlet"));
    log.push("spawner");
    greenlet.join().unwrap();
    assert_eq!(log.take(), ["spawner", "greenlet"]);
}

#[test]
fn what_is_not_send_may_be_captured_and_returned() {
    let _watched = watchdog();
    let shared = Rc::new(Cell::new(1));
    let other = shared.clone();
    let back = spawn(move || {
        other.set(2);
        other
    })
    .join()
    .unwrap();
    assert!(Rc::ptr_eq(&shared, &back));
    assert_eq!(shared.get(), 2);
}

#[test]
fn spawn_later_starts_after_its_delay() {
    let _watched = watchdog();
    let clock = virtual_time();
    let seen = clock.clone();
    let late = spawn_later(SEC, move || seen.now());
    assert!(!late.is_started());
    sleep(SEC / 2);
    assert!(!late.is_started());
    assert_eq!(late.join().unwrap(), SEC);
}

#[test]
fn late_starts_are_in_the_order_of_their_times() {
    let _watched = watchdog();
    virtual_time();
    let log = Log::new();
    for delay in [3, 1, 2, 1] {
        let log = log.clone();
        drop(spawn_later(SEC * delay, move || log.push(delay)));
    }
    sleep(HOUR);
    assert_eq!(log.take(), [1, 1, 2, 3]);
}

#[test]
fn a_delay_of_zero_starts_soon() {
    let _watched = watchdog();
    assert_eq!(spawn_later(Duration::ZERO, || 1).join().unwrap(), 1);
}

#[test]
fn a_builder_gives_name_size_and_delay() {
    #[inline(never)]
    fn deep(levels: usize) -> usize {
        let frame = std::hint::black_box([1u8; 1024]);
        if levels == 0 { 0 } else { frame[levels % 1024] as usize + deep(levels - 1) }
    }
    let _watched = watchdog();
    let clock = virtual_time();
    let size = StackSize::new(1 << 20).unwrap();
    let builder = Builder::new().name("deep").stack_size(size).delay(SEC);
    let seen = clock.clone();
    let greenlet = builder
        .clone()
        .spawn(move || {
            (current().name(), seen.now(), deep(300)) // more than the default holds
        })
        .unwrap();
    assert_eq!(greenlet.name().as_deref(), Some("deep"));
    assert!(format!("{greenlet:?}").contains("\"deep\""), "{greenlet:?}");
    assert_eq!(greenlet.join().unwrap(), (Some("deep".into()), SEC, 300));
    assert!(format!("{builder:?}").contains("deep"));
}

#[test]
fn it_knows_who_made_it_and_where() {
    let _watched = watchdog();
    let (outer, inner, line) = spawn(|| {
        let inner = spawn(|| ());
        let line = line!() - 1;
        (current().id(), inner, line)
    })
    .join()
    .unwrap();
    assert_eq!(inner.spawner(), outer);
    assert_eq!((inner.site().file(), inner.site().line()), ("tests/spawn.rs", line));
    assert_ne!(inner.id(), outer);
}

#[test]
fn the_name_may_be_given_later() {
    let _watched = watchdog();
    let greenlet = spawn(|| current().name());
    assert_eq!(greenlet.name(), None);
    greenlet.set_name("later");
    assert_eq!(greenlet.join().unwrap().as_deref(), Some("later"));
}

// ---------------------------------------------------------------------------------------------
// Results
// ---------------------------------------------------------------------------------------------

#[test]
fn join_takes_the_value() {
    let _watched = watchdog();
    assert_eq!(spawn(|| String::from("value")).join().unwrap(), "value");
    // When it has ended long since, too.
    let greenlet = spawn(|| 3);
    sleep(MS);
    assert!(greenlet.ready() && greenlet.successful());
    assert_eq!(greenlet.join().unwrap(), 3);
}

#[test]
fn join_gives_a_panic_with_its_payload() {
    let _watched = watchdog();
    let ended = spawn(|| panic!("no {}", 7)).join().unwrap_err();
    assert_eq!(ended.message(), Some("no 7"));
    assert_eq!(format!("{ended:?}"), "Panicked(\"no 7\")");
    assert_eq!(ended.to_string(), "the greenlet panicked: no 7");
    match spawn(|| std::panic::panic_any(42u8)).join() {
        Err(Ended::Panicked(payload)) => assert_eq!(*payload.downcast::<u8>().unwrap(), 42),
        other => panic!("{other:?}"),
    }
}

#[test]
fn join_of_a_killed_one_says_so() {
    let _watched = watchdog();
    let greenlet = sleeper();
    greenlet.kill();
    assert!(greenlet.ready() && greenlet.successful(), "to be killed is no error");
    let ended = greenlet.join().unwrap_err();
    assert!(matches!(ended, Ended::Killed) && ended.message().is_none());
    assert_eq!(ended.to_string(), "the greenlet was killed");
}

#[test]
fn try_join_gives_the_handle_back_until_it_has_ended() {
    let _watched = watchdog();
    let greenlet = spawn(|| {
        yield_now();
        5
    });
    let greenlet = greenlet.try_join().unwrap_err();
    yield_now();
    let greenlet = greenlet.try_join().unwrap_err();
    yield_now();
    assert_eq!(greenlet.try_join().unwrap().unwrap(), 5);
}

#[test]
fn wait_leaves_the_value_and_has_a_limit() {
    let _watched = watchdog();
    let clock = virtual_time();
    let greenlet = spawn(|| {
        sleep(10 * SEC);
        5
    });
    assert!(!greenlet.wait(Some(SEC)));
    assert_eq!(clock.now(), SEC);
    assert!(!greenlet.wait(Some(Duration::ZERO)));
    assert!(greenlet.wait(Some(20 * SEC)));
    assert_eq!(clock.now(), 10 * SEC);
    assert!(greenlet.wait(None) && greenlet.wait(Some(Duration::ZERO)));
    assert_eq!(greenlet.join().unwrap(), 5);
}

#[test]
fn many_wait_for_one() {
    let _watched = watchdog();
    let target = spawn(|| sleep(5 * MS));
    let log = Log::new();
    let all: Vec<_> = (0..100)
        .map(|n| {
            let (handle, log) = (target.handle(), log.clone());
            spawn(move || {
                assert!(handle.wait(None));
                log.push(n);
            })
        })
        .collect();
    for waiting in all {
        waiting.join().unwrap();
    }
    assert_eq!(log.take(), (0..100).collect::<Vec<i32>>(), "woken in the order in which they came");
}

#[test]
fn a_wait_that_was_given_up_leaves_nothing_behind() {
    let _watched = watchdog();
    let target = sleeper();
    for _ in 0..100 {
        assert!(!target.wait(Some(Duration::from_micros(1))));
    }
    assert_eq!(Hub::current().timer_count(), 1);
    let handle = target.handle();
    let waiting = spawn(move || handle.wait(None));
    yield_now();
    waiting.kill();
    target.kill();
    assert!(matches!(waiting.join(), Err(Ended::Killed)));
}

#[test]
fn a_thousand_join_in_a_chain() {
    let _watched = watchdog();
    let mut last = spawn(|| 0);
    for _ in 0..1000 {
        last = spawn(move || last.join().unwrap() + 1);
    }
    assert_eq!(last.join().unwrap(), 1000);
}

#[test]
fn a_dropped_handle_detaches() {
    let _watched = watchdog();
    let done = Rc::new(Cell::new(false));
    let flag = done.clone();
    drop(spawn(move || {
        sleep(MS);
        flag.set(true);
    }));
    sleep(20 * MS);
    assert!(done.get());
}

#[test]
fn results_are_dropped_exactly_once() {
    let _watched = watchdog();
    let drops = Drops::new();
    let make = || {
        let token = drops.token();
        move || token
    };
    // Detached before its end; after it; joined; tried; killed before its start; unwound; never asked for.
    drop(spawn(make()));
    yield_now();
    assert_eq!(drops.count(), 1);
    let late = spawn(make());
    yield_now();
    assert_eq!(drops.count(), 1);
    drop(late);
    assert_eq!(drops.count(), 2);
    let token = spawn(make()).join().unwrap();
    assert_eq!(drops.count(), 2);
    drop(token);
    let tried = spawn(make());
    yield_now();
    drop(tried.try_join().unwrap().unwrap());
    assert_eq!(drops.count(), 4);
    let killed = spawn(make());
    killed.kill();
    assert_eq!(drops.count(), 5);
    let token = drops.token();
    let unwound = spawn(move || {
        let _token = token;
        sleep(HOUR);
    });
    yield_now();
    unwound.kill();
    assert_eq!(drops.count(), 6);
    let token = drops.token();
    spawn(move || {
        let _token = token;
        panic!("dropped by this");
    })
    .join()
    .unwrap_err();
    assert_eq!((drops.count(), drops.alive()), (7, 0));
}

#[test]
fn a_join_while_unwinding_does_not_wait() {
    let _watched = watchdog();
    let greenlet = spawn(|| 1);
    let seen = Rc::new(RefCell::new(None));
    let out = seen.clone();
    raised(move || {
        let _drops = OnDrop::new(move || *out.borrow_mut() = Some(greenlet.join()));
        panic!("unwinds");
    });
    assert!(matches!(seen.take(), Some(Err(Ended::Unfinished))));
    yield_now();
}

// ---------------------------------------------------------------------------------------------
// Kill
// ---------------------------------------------------------------------------------------------

#[test]
fn kill_of_one_that_has_not_begun() {
    let _watched = watchdog();
    let (ran, drops) = (Rc::new(Cell::new(false)), Drops::new());
    let (flag, token) = (ran.clone(), drops.token());
    let greenlet = spawn(move || {
        let _token = token;
        flag.set(true);
    });
    let linked = Rc::new(Cell::new(false));
    let flag = linked.clone();
    greenlet.link(move |who| flag.set(who.successful()));
    greenlet.kill();
    assert!(greenlet.is_dead() && greenlet.ready());
    assert_eq!((ran.get(), drops.count()), (false, 1));
    idle();
    assert!(linked.get());
    assert!(matches!(greenlet.join(), Err(Ended::Killed)));
}

#[test]
fn kill_of_one_that_is_to_start_later() {
    let _watched = watchdog();
    let clock = virtual_time();
    let late = spawn_later(HOUR, || unreachable!());
    late.kill();
    assert_eq!(clock.now(), Duration::ZERO);
    sleep(2 * HOUR);
    assert!(matches!(late.join(), Err(Ended::Killed)));
}

#[test]
fn kill_of_one_that_waits() {
    let _watched = watchdog();
    let (mut here, _there) = UnixStream::pair().unwrap();
    let waits: Vec<Greenlet<()>> = vec![
        spawn(|| sleep(HOUR)),
        spawn(gevent::thread::park),
        spawn(|| {
            current().wait(None);
        }),
        spawn(move || {
            let _ = std::io::Read::read(&mut here, &mut [0]);
        }),
        spawn(|| enter(|me: &Me<()>| drop(me.switch(&me.child(|_: &Me<()>, ()| sleep(HOUR)), ())))),
    ];
    yield_now();
    yield_now();
    for greenlet in waits {
        greenlet.kill();
        assert!(greenlet.is_dead(), "{greenlet:?}");
        assert!(matches!(greenlet.join(), Err(Ended::Killed)));
    }
}

#[test]
fn kill_of_one_that_is_ready() {
    let _watched = watchdog();
    let greenlet = spawn(|| {
        loop {
            yield_now();
        }
    });
    yield_now();
    greenlet.kill();
    assert!(matches!(greenlet.map_ended(), Err(Ended::Killed)));
}

trait MapEnded {
    fn map_ended(self) -> Result<(), Ended>;
}

impl<T> MapEnded for Greenlet<T> {
    fn map_ended(self) -> Result<(), Ended> {
        self.join().map(|_| ())
    }
}

#[test]
fn kill_of_one_that_has_ended_does_nothing() {
    let _watched = watchdog();
    let greenlet = spawn(|| 5);
    sleep(MS);
    greenlet.kill();
    assert!(greenlet.kill_timeout(Duration::ZERO));
    greenlet.kill_with(Box::new("ignored"));
    assert_eq!(greenlet.join().unwrap(), 5);
}

#[test]
fn kill_of_oneself_unwinds_at_once() {
    let _watched = watchdog();
    let after = Rc::new(Cell::new(false));
    let flag = after.clone();
    let greenlet = spawn(move || {
        current().kill();
        flag.set(true);
    });
    assert!(matches!(greenlet.join(), Err(Ended::Killed)));
    assert!(!after.get());
}

#[test]
fn kill_of_one_that_was_woken_already_comes_out_at_its_next_wait() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let target = spawn(yield_now).handle();
    let woken = spawn(move || {
        out.push(target.wait(None)); // keeps what it was given
        sleep(HOUR);
        unreachable!();
    });
    let handle = woken.handle();
    spawn(move || {
        yield_now();
        assert_eq!(handle.state(), State::Ready);
        handle.kill();
    })
    .join()
    .unwrap();
    assert_eq!(log.take(), [true]);
    assert!(matches!(woken.map_ended(), Err(Ended::Killed)));
}

#[test]
fn kill_waits_until_it_has_unwound() {
    let _watched = watchdog();
    let clock = virtual_time();
    let greenlet = spawn(|| {
        let killed = raised(|| sleep(HOUR));
        sleep(5 * SEC); // cleans up
        resume_unwind(killed);
    });
    yield_now();
    greenlet.kill();
    assert_eq!(clock.now(), 5 * SEC);
    assert!(greenlet.is_dead());
}

#[test]
fn kill_timeout_waits_so_long_and_zero_not_at_all() {
    let _watched = watchdog();
    let clock = virtual_time();
    let greenlet = spawn(|| {
        let killed = raised(|| sleep(HOUR));
        sleep(5 * SEC);
        resume_unwind(killed);
    });
    yield_now();
    assert!(!greenlet.kill_timeout(Duration::ZERO));
    assert!(!greenlet.is_dead());
    assert_eq!(greenlet.state(), State::Ready);
    yield_now();
    assert!(greenlet.wait(Some(10 * SEC)));
    assert_eq!(clock.now(), 5 * SEC);
    let slow = spawn(|| {
        let _ = catch_unwind(|| sleep(HOUR));
        sleep(5 * SEC);
    });
    yield_now();
    assert!(!slow.kill_timeout(SEC));
    assert!(slow.kill_timeout(SEC), "the second one ends it");
    assert_eq!(clock.now(), 6 * SEC);
}

#[test]
fn kill_with_raises_what_it_is_given() {
    let _watched = watchdog();
    let seen = Rc::new(Cell::new(0));
    let out = seen.clone();
    let greenlet = spawn(move || {
        out.set(raised_as::<i32, _>(|| sleep(HOUR)));
        "went on"
    });
    yield_now();
    greenlet.kill_with(Box::new(7i32));
    assert_eq!((seen.get(), greenlet.join().unwrap()), (7, "went on"));
    let greenlet = sleeper();
    greenlet.kill_with(Box::new("given"));
    assert!(!greenlet.successful());
    assert_eq!(greenlet.join().unwrap_err().message(), Some("given"));
    let unstarted = spawn(|| unreachable!());
    unstarted.kill_with(Box::new("before"));
    assert_eq!(unstarted.map_ended().unwrap_err().message(), Some("before"));
}

#[test]
fn one_may_catch_a_kill_and_go_on() {
    let _watched = watchdog();
    let greenlet = spawn(|| {
        let killed = raised_as::<GreenletExit, _>(|| sleep(HOUR));
        assert_eq!(killed, GreenletExit);
        sleep(MS);
        spawn(|| 1).join().unwrap() + 1
    });
    yield_now();
    greenlet.kill();
    assert_eq!(greenlet.join().unwrap(), 2);
}

#[test]
fn each_of_two_kills_is_raised() {
    let _watched = watchdog();
    let greenlet = spawn(|| {
        let first = raised_as::<&str, _>(|| sleep(HOUR));
        let second = raised_as::<&str, _>(|| sleep(HOUR));
        (first, second)
    });
    yield_now();
    for payload in ["first", "second"] {
        let handle = greenlet.handle();
        drop(spawn(move || handle.kill_with(Box::new(payload))));
    }
    assert_eq!(greenlet.join().unwrap(), ("first", "second"));
}

#[test]
fn a_killer_that_is_killed_stops_waiting() {
    let _watched = watchdog();
    let stubborn = spawn(|| {
        for _ in 0..3 {
            let _ = catch_unwind(|| sleep(HOUR));
        }
    });
    yield_now();
    let handle = stubborn.handle();
    let killer = spawn(move || handle.kill());
    yield_now();
    killer.kill();
    assert!(matches!(killer.join(), Err(Ended::Killed)));
    assert!(!stubborn.is_dead());
    stubborn.kill_timeout(Duration::ZERO);
    stubborn.kill();
}

#[test]
fn two_that_kill_each_other_both_end() {
    let _watched = watchdog();
    isolated();
    let other: Rc<RefCell<Option<AnyGreenlet>>> = Rc::default();
    let second = other.clone();
    let a = spawn(move || {
        yield_now();
        let b = second.borrow().clone().unwrap();
        b.kill();
    });
    let handle = a.handle();
    let b = spawn(move || {
        yield_now();
        handle.kill();
    });
    *other.borrow_mut() = Some(b.handle());
    assert!(a.wait(Some(5 * SEC)) && b.wait(Some(5 * SEC)));
}

#[test]
fn kill_from_a_drop_while_unwinding_does_not_wait() {
    let _watched = watchdog();
    let greenlet = sleeper();
    let handle = greenlet.handle();
    raised(|| {
        let _drops = OnDrop::new(|| handle.kill());
        panic!("unwinds");
    });
    assert!(!greenlet.ready());
    assert!(matches!(greenlet.join(), Err(Ended::Killed)), "it is killed all the same");
}

#[test]
fn kill_inside_no_unwind_is_raised_after_it() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let greenlet = spawn(move || {
        let begun = Instant::now();
        no_unwind(|| {
            no_unwind(|| sleep(HOUR));
            sleep(HOUR);
        });
        out.push(begun.elapsed() < 10 * SEC);
        yield_now();
        unreachable!();
    });
    yield_now();
    greenlet.kill();
    assert_eq!(log.take(), [true]);
    assert!(matches!(greenlet.map_ended(), Err(Ended::Killed)));
}

#[test]
fn a_drop_that_waits_in_a_kill_does_not() {
    let _watched = watchdog();
    let clock = virtual_time();
    let drops = Drops::new();
    let token = drops.token();
    let greenlet = spawn(move || {
        let _token = token;
        let _waits = OnDrop::new(|| {
            sleep(HOUR);
            spawn(|| ()).join().unwrap_err();
        });
        sleep(HOUR);
    });
    yield_now();
    greenlet.kill();
    assert_eq!((drops.count(), clock.now()), (1, Duration::ZERO));
}

#[test]
fn a_panic_in_another_greenlet_is_nobody_elses() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let greenlet = spawn(move || {
        let _drops = OnDrop::new(move || out.push(std::thread::panicking()));
        sleep(MS);
    });
    drop(spawn(|| panic!("elsewhere")));
    greenlet.join().unwrap();
    assert_eq!(log.take(), [false]);
}

// ---------------------------------------------------------------------------------------------
// Links
// ---------------------------------------------------------------------------------------------

/// Which of the three kinds of links are called for one that ends so.
fn called(f: impl FnOnce() + 'static) -> Vec<&'static str> {
    let log = Log::new();
    let greenlet = spawn(f);
    let (any, value, panic) = (log.clone(), log.clone(), log.clone());
    greenlet.link(move |_| any.push("any"));
    greenlet.link_value(move |_| value.push("value"));
    greenlet.link_panic(move |_| panic.push("panic"));
    greenlet.wait(None);
    idle();
    log.take()
}

#[test]
fn links_are_called_by_how_it_ended() {
    let _watched = watchdog();
    assert_eq!(called(|| ()), ["any", "value"]);
    assert_eq!(called(|| panic!("ended so")), ["any", "panic"]);
    assert_eq!(called(|| resume_unwind(Box::new(GreenletExit))), ["any", "value"]);
}

#[test]
fn a_link_runs_in_a_greenlet_of_its_own_and_may_wait() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let greenlet = spawn(|| ());
    let id = greenlet.id();
    greenlet.link(move |who| {
        assert!(who.id() == id && who.is_dead() && !current().is_root() && current() != who);
        sleep(MS);
        out.push("link");
    });
    greenlet.join().unwrap();
    sleep(20 * MS);
    assert_eq!(log.take(), ["link"]);
}

#[test]
fn links_are_called_in_their_order_once() {
    let _watched = watchdog();
    let log = Log::new();
    let greenlet = spawn(|| ());
    for n in 0..5 {
        let log = log.clone();
        greenlet.link(move |_| log.push(n));
    }
    assert!(greenlet.has_links());
    greenlet.wait(None);
    idle();
    assert_eq!(log.take(), [0, 1, 2, 3, 4]);
    assert!(!greenlet.has_links());
    idle();
    assert_eq!(log.len(), 0);
}

#[test]
fn a_link_of_one_that_has_ended_is_called_soon_but_not_at_once() {
    let _watched = watchdog();
    let log = Log::new();
    let greenlet = spawn(|| ());
    greenlet.wait(None);
    let (one, two) = (log.clone(), log.clone());
    greenlet.link(move |who| one.push(who.is_dead()));
    greenlet.link_panic(move |_| two.push(false));
    assert_eq!(log.len(), 0);
    idle();
    assert_eq!(log.take(), [true]);
}

#[test]
fn unlink_takes_a_link_back_and_drops_it() {
    let _watched = watchdog();
    let (log, drops) = (Log::new(), Drops::new());
    let greenlet = spawn(|| ());
    let (out, token) = (log.clone(), drops.token());
    let link = greenlet.link(move |_| {
        let _token = &token;
        out.push("unlinked");
    });
    let out = log.clone();
    let kept = greenlet.link(move |_| out.push("kept"));
    assert!(greenlet.unlink(link));
    assert_eq!(drops.count(), 1);
    assert!(!greenlet.unlink(link));
    assert!(greenlet.has_links());
    greenlet.wait(None);
    idle();
    assert_eq!(log.take(), ["kept"]);
    assert!(!greenlet.unlink(kept));
}

#[test]
fn a_wait_is_no_link() {
    let _watched = watchdog();
    let greenlet = sleeper();
    let handle = greenlet.handle();
    let waiting = spawn(move || handle.wait(None));
    yield_now();
    assert!(!greenlet.has_links());
    greenlet.kill();
    waiting.join().unwrap();
}

#[test]
fn a_link_that_panics_disturbs_nobody() {
    let Some(printed) = in_child("a_link_that_panics_disturbs_nobody") else {
        let told = Log::new();
        let out = told.clone();
        Hub::current().on_error(move |failure| out.push(failure.message().to_owned()));
        let log = Log::new();
        let greenlet = spawn(|| 5);
        greenlet.link(|_| panic!("in the link"));
        let out = log.clone();
        greenlet.link(move |_| out.push("second"));
        assert_eq!(greenlet.join().unwrap(), 5);
        idle();
        assert_eq!(log.take(), ["second"]);
        assert_eq!(told.take(), ["in the link"]);
        return;
    };
    assert!(printed.contains("'link'") && printed.contains("panicked: in the link"), "{printed}");
}

#[test]
fn a_link_may_link_again() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    spawn(|| ()).link(move |who| {
        let inner = out.clone();
        who.link(move |_| inner.push("inner"));
        out.push("outer");
    });
    sleep(MS);
    assert_eq!(log.take(), ["outer", "inner"]);
}

// ---------------------------------------------------------------------------------------------
// States
// ---------------------------------------------------------------------------------------------

#[test]
fn its_state_says_what_it_does() {
    let _watched = watchdog();
    let (mut here, there) = UnixStream::pair().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&here);
    let target = spawn(|| sleep(HOUR));
    let id = target.id();
    let handle = target.handle();
    let all: Vec<(Greenlet<()>, State)> = vec![
        (spawn(|| sleep(HOUR)), State::Blocked(WaitsFor::Sleep)),
        (spawn(move || assert!(handle.wait(None))), State::Blocked(WaitsFor::Join(id))),
        (spawn(move || drop(std::io::Read::read(&mut here, &mut [0]))), State::Blocked(WaitsFor::Read(fd))),
        (spawn(gevent::thread::park), State::Blocked(WaitsFor::Unpark)),
        (
            spawn(|| enter(|me: &Me<()>| drop(me.switch(&me.child(|_: &Me<()>, ()| sleep(HOUR)), ())))),
            State::Blocked(WaitsFor::Other("a switch")),
        ),
    ];
    for (greenlet, _) in &all {
        assert_eq!(greenlet.state(), State::Ready, "before its start");
    }
    yield_now();
    yield_now();
    for (greenlet, state) in &all {
        assert_eq!(greenlet.state(), *state);
    }
    assert_eq!(State::Blocked(WaitsFor::Join(7)).to_string(), "blocked on the end of greenlet 7");
    assert_eq!(current().state(), State::Running);
    let seen = spawn(|| current().state()).join().unwrap();
    assert_eq!(seen, State::Running);
    let yielding = spawn(yield_now);
    yield_now();
    assert_eq!(yielding.state(), State::Ready);
    let late = spawn_later(HOUR, || ());
    assert_eq!(late.state(), State::Ready);
    late.kill();
    for (greenlet, _) in all {
        greenlet.kill();
        assert_eq!(greenlet.state(), State::Dead);
    }
    target.kill();
    drop(there);
}

#[test]
fn the_roots_state_is_seen_from_a_greenlet() {
    let _watched = watchdog();
    let greenlet = spawn(|| gevent::root().state());
    let id = greenlet.id();
    assert_eq!(greenlet.join().unwrap(), State::Blocked(WaitsFor::Join(id)));
}

// ---------------------------------------------------------------------------------------------
// Panics
// ---------------------------------------------------------------------------------------------

#[test]
fn a_panic_is_named_on_standard_error_with_its_spawn_site() {
    let test = "a_panic_is_named_on_standard_error_with_its_spawn_site";
    let Some(printed) = in_child(test) else {
        let greenlet = Builder::new().name("worker").spawn(|| panic!("out of luck")).unwrap();
        eprintln!("it is {} of line {}", greenlet.id(), greenlet.site().line());
        greenlet.map_ended().unwrap_err();
        // Nobody joins this one: the same line.
        drop(spawn(|| panic!("nobody listens")));
        sleep(MS);
        // A kill is not worth a word.
        sleeper().kill();
        return;
    };
    let words: Vec<&str> =
        printed.lines().find(|line| line.starts_with("it is ")).unwrap().split(' ').collect();
    let line = format!(
        "gevent: greenlet {} 'worker', spawned at tests/spawn.rs:{}, panicked: out of luck; its hub goes on",
        words[2], words[5]
    );
    assert_eq!(printed.matches(&line).count(), 1, "{printed}");
    assert!(printed.contains("panicked at tests/spawn.rs:"), "std's hook prints as ever: {printed}");
    assert_eq!(printed.matches("panicked: nobody listens; its hub goes on").count(), 1, "{printed}");
    assert_eq!(printed.matches("gevent:").count(), 2, "{printed}");
}

#[test]
fn a_panic_does_not_take_the_hub_down() {
    let _watched = watchdog();
    for n in 0..100 {
        let ended = spawn(move || if n % 2 == 0 { panic!("number {n}") } else { n }).join();
        assert_eq!(ended.is_err(), n % 2 == 0);
    }
    assert_eq!(Hub::current().live_count(), 0);
}

#[test]
fn a_panic_hook_that_waits_does_not() {
    let Some(_) = in_child("a_panic_hook_that_waits_does_not") else {
        std::panic::set_hook(Box::new(|_| {
            sleep(HOUR);
            yield_now();
            idle();
            drop(spawn(|| ()));
            drop(gevent::observe::tree());
        }));
        let begun = Instant::now();
        spawn(|| panic!("hooked")).join().map(|never: ()| never).unwrap_err();
        raised(|| panic!("in the root"));
        sleep(MS);
        drop(std::panic::take_hook());
        assert!(begun.elapsed() < 10 * SEC);
        return;
    };
}

#[test]
fn a_panic_with_a_payload_that_is_not_text() {
    let _watched = watchdog();
    let ended = spawn(|| std::panic::panic_any(vec![1])).join().map(|never: ()| never).unwrap_err();
    assert_eq!(ended.message(), Some("a payload that is not text"));
}

#[test]
fn a_panic_can_be_raised_again_by_who_joins() {
    let _watched = watchdog();
    let outer = spawn(|| match spawn(|| panic!("innermost")).join() {
        Err(Ended::Panicked(payload)) => resume_unwind(payload),
        other => other.map(|never: ()| never).unwrap(),
    });
    let payload = match outer.join() {
        Err(Ended::Panicked(payload)) => payload,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(&*payload), "innermost");
}

// ---------------------------------------------------------------------------------------------
// Without
// ---------------------------------------------------------------------------------------------

#[test]
fn without_address_space_it_is_an_error_and_the_hub_runs_on_out_of_address_space() {
    let test = "without_address_space_it_is_an_error_and_the_hub_runs_on_out_of_address_space";
    let Some(_) = in_child(test) else {
        use nix::sys::resource::{Resource, setrlimit};
        spawn(|| ()).join().unwrap();
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let now = status.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
        let limit = now + (32 << 20);
        setrlimit(Resource::RLIMIT_AS, limit, limit).unwrap();
        let large = StackSize::new(16 << 20).unwrap();
        let mut held = Vec::new();
        let error = loop {
            match Builder::new().stack_size(large).spawn(|| sleep(MS)) {
                Ok(greenlet) => held.push(greenlet),
                Err(error) => break error,
            }
            assert!(held.len() < 1000, "no limit");
        };
        let said = error.to_string();
        assert!(said.contains("address space") && said.contains("RLIMIT_AS"), "{said}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::OutOfMemory);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..100_000 {
                held.push(spawn(|| sleep(MS)));
            }
        }));
        if let Err(payload) = panicked {
            assert!(text(&*payload).starts_with("cannot spawn a greenlet: "), "{}", text(&*payload));
        }
        let count = held.len();
        assert!(count > 0);
        for greenlet in held {
            greenlet.join().unwrap();
        }
        assert_eq!(try_spawn(|| 6).unwrap().join().unwrap(), 6, "after {count}");
        return;
    };
}
