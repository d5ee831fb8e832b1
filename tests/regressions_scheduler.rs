//! A test for each bug of the scheduler that `scheduler_proptest` found, or the reading that went into it.

mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use common::watchdog;
use gevent::hub::VirtualClock;
use gevent::{GreenletExit, Hub, Me, SwitchError, enter};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `f` on a fresh thread with an isolated hub that looks at its timers after every switch.
fn on_a_hub<T: Send>(f: impl FnOnce(Hub, VirtualClock) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            let clock = VirtualClock::new();
            let hub = Hub::builder().clock(clock.clone()).isolated().switches(1).install().unwrap();
            f(hub, clock)
        };
        scope.spawn(run).join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

/// Found by `scheduler_proptest`: it stayed as it was, and `kill` waited for ever.
#[test]
fn a_kill_ends_a_raw_greenlet_that_never_ran() {
    let _watched = watchdog();
    on_a_hub(|_, _| {
        let held = Rc::new(());
        let captured = held.clone();
        let raw = enter(|me: &Me<u32>| {
            me.child(move |_: &Me<()>, ()| {
                drop(captured);
                0
            })
        });
        let linked = Rc::new(Cell::new(false));
        let flag = linked.clone();
        raw.link(move |_| flag.set(true));
        raw.kill();
        assert!(raw.is_dead() && raw.ready() && raw.successful());
        assert_eq!(Rc::strong_count(&held), 1);
        gevent::idle();
        assert!(linked.get());
        let refused = enter(|me: &Me<u32>| me.switch(&raw, ()));
        assert!(matches!(refused, Err(SwitchError::Dead(()))));
    });
}

/// Found by reading: what waited for its end was never told.
#[test]
fn a_throw_at_a_raw_greenlet_that_never_ran_wakes_who_waits_for_its_end() {
    let _watched = watchdog();
    on_a_hub(|_, _| {
        enter(|me: &Me<()>| {
            let raw = me.child(|_: &Me<()>, ()| ());
            let told = Rc::new(Cell::new(false));
            let flag = told.clone();
            raw.link(move |_| flag.set(true));
            let any = (*raw).clone();
            let waiting = gevent::spawn(move || any.wait(None));
            gevent::yield_now();
            assert!(matches!(me.throw(&raw, Box::new(GreenletExit)), Err(SwitchError::Exited(_))));
            assert!(waiting.join().unwrap());
            assert!(told.get());
        });
    });
}

/// Found by `scheduler_proptest`: its timer stayed, so that a deadlock went unseen until then.
#[test]
fn a_kill_takes_the_timer_of_a_greenlet_that_was_to_start_later() {
    let _watched = watchdog();
    on_a_hub(|hub, clock| {
        let later = gevent::spawn_later(HOUR, || ());
        assert_eq!(hub.timer_count(), 1);
        later.kill();
        assert_eq!(hub.timer_count(), 0);
        assert_eq!(clock.now(), Duration::ZERO);
    });
}

/// Found by reading: `timeout` held its own greenlet.
#[test]
fn a_timeout_does_not_keep_its_greenlet_alive() {
    let _watched = watchdog();
    on_a_hub(|hub, _| {
        enter(|me: &Me<()>| {
            let raw = me.child(|me: &Me<()>, ()| {
                let parent = me.parent().unwrap();
                gevent::timeout(HOUR, || me.throw(&parent, Box::new(GreenletExit)).unwrap()).unwrap();
            });
            let thrown = catch_unwind(AssertUnwindSafe(|| me.switch(&raw, ())));
            assert!(thrown.unwrap_err().is::<GreenletExit>());
            assert_eq!(hub.live_count(), 1);
            drop(raw);
            assert_eq!(hub.live_count(), 0);
            assert_eq!(hub.timer_count(), 0);
        });
    });
}

/// Found by reading: a stride of N was N + 1 switches.
#[test]
fn the_hub_looks_after_as_many_switches_as_it_was_told() {
    let _watched = watchdog();
    on_a_hub(|_, _| {
        for n in 0..4 {
            let yields = Cell::new(0);
            let limit = gevent::timeout(Duration::ZERO, || {
                gevent::yield_now();
                yields.set(yields.get() + 1);
            });
            assert_eq!((limit.is_err(), yields.get()), (true, 0), "the {n}th time");
        }
    });
}

/// Found by reading: it waited until nothing else was ready, which may be never.
#[test]
fn a_kill_reaches_a_greenlet_in_idle_while_others_are_busy() {
    let _watched = watchdog();
    on_a_hub(|_, _| {
        let busy = gevent::spawn(|| {
            for _ in 0..1000 {
                gevent::yield_now();
            }
        });
        let idle = gevent::spawn(gevent::idle);
        gevent::yield_now();
        gevent::yield_now();
        idle.kill();
        assert!(!busy.ready());
    });
}

/// Found by reading: between the look at the target and the wait a deferred unwind may run, and end
/// the target; the wait then was for ever.
#[test]
fn a_wait_sees_an_end_that_comes_while_it_begins() {
    struct Kills(gevent::AnyGreenlet);
    impl Drop for Kills {
        fn drop(&mut self) {
            self.0.kill_timeout(Duration::ZERO);
        }
    }
    struct DropsLast(Option<gevent::RawGreenlet<()>>);
    impl Drop for DropsLast {
        fn drop(&mut self) {
            drop(self.0.take()); // unwinding: its greenlet is put off to the next switch
        }
    }
    let _watched = watchdog();
    on_a_hub(|_, _| {
        enter(|me: &Me<()>| {
            let target = me.child(|_: &Me<()>, ()| ());
            let kills = Kills((*target).clone());
            let parent = me.handle();
            let suspended = me.child(move |me: &Me<()>, ()| {
                let _kills = kills;
                let _ = me.switch(&parent, ());
            });
            me.switch(&suspended, ()).unwrap();
            let dropped = catch_unwind(AssertUnwindSafe(|| {
                let _drops = DropsLast(Some(suspended));
                std::panic::resume_unwind(Box::new(GreenletExit));
            }));
            assert!(dropped.is_err());
            assert!(!target.is_dead());
            assert!(target.wait(None));
        });
    });
}
