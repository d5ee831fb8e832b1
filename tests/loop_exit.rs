//! `LoopExit`: told exactly when the root waits and nothing can ever wake it, with a list of who waits
//! for what. Hubs here are isolated, so that the harness's own threads do not count.

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{alone, in_child, isolated, raised, text, virtual_time, watchdog};
use gevent::hub::HubGone;
use gevent::os::unix::net::UnixStream;
use gevent::{
    AnyGreenlet, Builder, LoopExit, Me, SwitchError, current, enter, idle, signal, sleep, spawn, spawn_later,
    timeout, yield_now,
};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const MESSAGE: &str = "this operation would block forever";

/// What the root's wait for ever is told.
#[track_caller]
fn deadlock<R>(f: impl FnOnce() -> R) -> String {
    let payload = raised(f);
    let text = text(&*payload).to_owned();
    assert!(text.starts_with(MESSAGE), "{text}");
    text
}

/// Waits for its own end: for ever.
fn wait_for_ever() {
    current().wait(None);
}

#[test]
fn a_cycle_of_joins_is_told_with_names_and_sites() {
    let _watched = watchdog();
    isolated();
    let other: Rc<RefCell<Option<AnyGreenlet>>> = Rc::default();
    let second = other.clone();
    let a = Builder::new()
        .name("a")
        .spawn(move || {
            let b = second.borrow().clone().unwrap();
            b.wait(None)
        })
        .unwrap();
    let handle = a.handle();
    let b = Builder::new().name("b").spawn(move || handle.wait(None)).unwrap();
    *other.borrow_mut() = Some(b.handle());
    let (a_id, b_id) = (a.id(), b.id());
    let (a_line, b_line) = (a.site().line(), b.site().line());
    let told = deadlock(|| a.wait(None));
    let line = |id: u64, name: &str, waits: u64, line: u32| {
        format!(
            "greenlet {id} '{name}' waits for the end of greenlet {waits}, spawned at tests/loop_exit.rs:{line}\n"
        )
    };
    assert!(told.contains(&line(a_id, "a", b_id, a_line)), "{told}");
    assert!(told.contains(&line(b_id, "b", a_id, b_line)), "{told}");
    assert!(
        told.contains(&format!(
            "the root greenlet of thread a_cycle_of_joins_is_told_with_names_and_sites waits for the end of greenlet {a_id}"
        )),
        "{told}"
    );
    a.kill();
    b.kill();
}

#[test]
fn a_root_that_waits_alone_is_told() {
    let _watched = watchdog();
    isolated();
    let told = deadlock(gevent::thread::park);
    assert!(told.contains("the root greenlet") && told.contains("waits for unpark"), "{told}");
    deadlock(wait_for_ever);
}

#[test]
fn a_raw_switch_of_the_root_is_told_as_an_error() {
    let _watched = watchdog();
    isolated();
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| wait_for_ever());
        match me.switch(&child, ()) {
            Err(SwitchError::LoopExit(exit)) => {
                let said = format!("{exit}");
                assert!(said.starts_with(MESSAGE), "{said}");
                assert!(
                    exit.report().contains(&format!("greenlet {} waits for the end of", child.id())),
                    "{said}"
                );
                assert!(exit.report().contains("waits for a switch"), "{said}");
            }
            other => panic!("{other:?}"),
        }
        child.kill();
    });
}

#[test]
fn it_is_an_error_with_a_source() {
    let _watched = watchdog();
    isolated();
    let told = enter(|me: &Me<()>| {
        let child = me.child(|_, ()| wait_for_ever());
        me.switch(&child, ()).unwrap_err()
    });
    let source = std::error::Error::source(&told).expect("it has a source");
    assert!(source.downcast_ref::<LoopExit>().is_some());
}

#[test]
fn the_program_goes_on_after_it() {
    let _watched = watchdog();
    isolated();
    let stuck = spawn(wait_for_ever);
    for _ in 0..3 {
        deadlock(|| stuck.wait(None));
        assert_eq!(spawn(|| 7).join().unwrap(), 7);
        sleep(MS);
        assert!(timeout(MS, || stuck.wait(None)).is_err());
    }
    assert!(!stuck.ready(), "the others go on waiting");
    stuck.kill();
    assert!(stuck.ready());
}

#[test]
fn only_the_root_is_told() {
    let _watched = watchdog();
    isolated();
    let stuck = spawn(|| catch_unwind(wait_for_ever));
    deadlock(|| stuck.wait(None));
    assert!(!stuck.ready());
    stuck.kill();
}

#[test]
fn the_ready_run_first() {
    let _watched = watchdog();
    isolated();
    let busy = spawn(|| {
        for _ in 0..1000 {
            yield_now();
        }
        idle();
        9
    });
    let handle = busy.handle();
    deadlock(wait_for_ever);
    assert!(handle.ready());
    assert_eq!(busy.join().unwrap(), 9);
}

// ---------------------------------------------------------------------------------------------
// Not while something can happen
// ---------------------------------------------------------------------------------------------

#[test]
fn not_while_a_timer_is_set() {
    let _watched = watchdog();
    isolated();
    let me = gevent::thread::current();
    drop(spawn_later(20 * MS, move || me.unpark()));
    gevent::thread::park();
    let me = gevent::thread::current();
    drop(spawn(move || {
        sleep(20 * MS);
        me.unpark();
    }));
    gevent::thread::park();
    timeout(20 * MS, wait_for_ever).unwrap_err();
}

#[test]
fn a_killed_timer_is_none() {
    let _watched = watchdog();
    let clock = virtual_time();
    spawn_later(HOUR, || ()).kill();
    let sleeper = spawn(|| sleep(HOUR));
    yield_now();
    sleeper.kill();
    timeout(HOUR, || ()).unwrap();
    deadlock(gevent::thread::park);
    assert_eq!(clock.now(), Duration::ZERO);
}

#[test]
fn not_while_a_descriptor_is_waited_for() {
    let _watched = watchdog();
    isolated();
    let (mut here, there) = UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(30 * MS);
        (&there).write_all(b"x").unwrap();
        there
    });
    let reader = spawn(move || {
        here.read_exact(&mut [0]).unwrap();
        here
    });
    let here = reader.join().unwrap();
    writer.join().unwrap();
    // Registered, but nobody waits.
    deadlock(gevent::thread::park);
    drop(here);
}

#[test]
fn not_while_a_function_waits_for_a_signal() {
    let _watched = watchdog();
    isolated();
    let me = gevent::thread::current();
    let handle = signal(libc::SIGUSR1, move |_| me.unpark()).unwrap();
    let raiser = std::thread::spawn(|| {
        std::thread::sleep(30 * MS);
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGUSR1).unwrap();
    });
    gevent::thread::park();
    raiser.join().unwrap();
    handle.cancel();
    deadlock(gevent::thread::park);
}

#[test]
fn a_signal_that_dumps_the_tree_is_no_reason_to_wait() {
    let _watched = watchdog();
    isolated();
    gevent::observe::dump_on(libc::SIGWINCH).unwrap();
    deadlock(gevent::thread::park);
}

#[test]
fn not_while_another_thread_works_for_it() {
    let _watched = watchdog();
    isolated();
    // A name that is looked up: the lookup runs on a thread of ours.
    gevent::net::TcpListener::bind("localhost:0").unwrap();
    deadlock(gevent::thread::park);
}

#[test]
fn not_on_a_hub_that_other_threads_may_wake() {
    let _watched = watchdog();
    let me = gevent::thread::current();
    let other = std::thread::spawn(move || {
        std::thread::sleep(30 * MS);
        me.unpark();
    });
    let begun = Instant::now();
    gevent::thread::park();
    assert!(begun.elapsed() >= 30 * MS);
    other.join().unwrap();
}

#[test]
fn a_process_of_one_thread_is_told_without_being_isolated() {
    let Some(_) = in_child("a_process_of_one_thread_is_told_without_being_isolated") else {
        alone(|| {
            gevent::Hub::current(); // without one the thread itself would wait
            deadlock(gevent::thread::park);
            // A second thread that lives makes the difference.
            let me = gevent::thread::current();
            let other = std::thread::spawn(move || {
                std::thread::sleep(30 * MS);
                me.unpark();
            });
            gevent::thread::park();
            other.join().unwrap();
            deadlock(gevent::thread::park);
            // Threads of ours that have nothing to do do not count.
            gevent::net::TcpListener::bind("localhost:0").unwrap();
            deadlock(gevent::thread::park);
        });
        return;
    };
}

#[test]
fn it_ends_main_with_the_list_when_nobody_catches_it() {
    let name = "it_ends_main_with_the_list_when_nobody_catches_it";
    if common::is_child() {
        isolated();
        let stuck = Builder::new().name("stuck").spawn(wait_for_ever).unwrap();
        stuck.wait(None);
        return;
    }
    let output = common::subprocess(name, &[]);
    let printed = common::printed(&output);
    assert!(!output.status.success());
    assert!(
        printed.contains(MESSAGE) && printed.contains("'stuck' waits for the end of greenlet"),
        "{printed}"
    );
}

#[test]
fn a_hub_that_is_gone_says_so() {
    let _watched = watchdog();
    isolated();
    let hub = std::thread::spawn(|| gevent::Hub::current().handle()).join().unwrap();
    assert!(hub.is_gone());
    let HubGone(f) = hub.spawn(|| 5).unwrap_err();
    assert_eq!(f(), 5);
    deadlock(gevent::thread::park);
}
