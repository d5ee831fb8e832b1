//! `signal`: functions that run in greenlets when a signal comes. Signals are the process's, so each test
//! has one of its own.

mod common;

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Drops, Log, in_child, isolated, raised, text, watchdog};
use gevent::{current, idle, signal, sleep, spawn, yield_now};
use nix::sys::signal::{SigHandler, Signal, raise};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Waits until something was logged.
fn until<T>(log: &Log<T>) {
    let begun = Instant::now();
    while log.len() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the signal never came");
        sleep(MS);
    }
}

#[test]
fn the_function_runs_in_a_greenlet_and_may_wait() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let root = current();
    signal(libc::SIGUSR1, move |number| {
        assert!(!current().is_root() && current() != root);
        sleep(MS);
        spawn(|| ()).join().unwrap();
        out.push(number);
    })
    .unwrap();
    for _ in 0..3 {
        raise(Signal::SIGUSR1).unwrap();
        assert_eq!(log.len(), 0, "not in the handler");
        until(&log);
        assert_eq!(log.take(), [libc::SIGUSR1]);
    }
}

#[test]
fn two_functions_of_one_signal_both_run_in_their_order() {
    let _watched = watchdog();
    let log = Log::new();
    for name in ["first", "second"] {
        let out = log.clone();
        signal(libc::SIGUSR2, move |_| out.push(name)).unwrap();
    }
    raise(Signal::SIGUSR2).unwrap();
    until(&log);
    yield_now();
    assert_eq!(log.take(), ["first", "second"]);
}

#[test]
fn a_cancelled_function_is_dropped_and_runs_no_more() {
    let _watched = watchdog();
    let (log, drops) = (Log::new(), Drops::new());
    let (out, token) = (log.clone(), drops.token());
    let handle = signal(libc::SIGALRM, move |_| {
        let _token = &token;
        out.push("cancelled");
    })
    .unwrap();
    let out = log.clone();
    signal(libc::SIGALRM, move |_| out.push("stays")).unwrap();
    handle.cancel();
    assert_eq!(drops.count(), 1);
    raise(Signal::SIGALRM).unwrap();
    until(&log);
    idle();
    assert_eq!(log.take(), ["stays"]);
}

#[test]
fn one_that_is_cancelled_when_the_signal_has_come_already_does_not_run() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    let handle = signal(libc::SIGVTALRM, move |_| out.push(())).unwrap();
    raise(Signal::SIGVTALRM).unwrap();
    handle.cancel();
    sleep(5 * MS);
    assert_eq!(log.len(), 0);
}

#[test]
fn a_function_may_cancel_itself_and_add_others() {
    let _watched = watchdog();
    let log = Log::new();
    let own = Rc::new(Cell::new(None::<gevent::hub::SignalHandle>));
    let (out, mine) = (log.clone(), own.clone());
    let handle = signal(libc::SIGPROF, move |_| {
        if let Some(handle) = mine.take() {
            handle.cancel();
        }
        let inner = out.clone();
        signal(libc::SIGPROF, move |_| inner.push("other")).unwrap();
        out.push("own");
    })
    .unwrap();
    own.set(Some(handle));
    for expected in ["own", "other"] {
        raise(Signal::SIGPROF).unwrap();
        until(&log);
        idle();
        assert_eq!(log.take(), [expected]);
    }
}

#[test]
fn signals_that_come_together_are_handled_once() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    signal(libc::SIGIO, move |_| out.push(())).unwrap();
    for _ in 0..5 {
        raise(Signal::SIGIO).unwrap();
    }
    until(&log);
    idle();
    assert_eq!(log.len(), 1);
}

#[test]
fn a_panic_in_a_function_disturbs_nobody() {
    let Some(printed) = in_child("a_panic_in_a_function_disturbs_nobody") else {
        let log = Log::new();
        let out = log.clone();
        signal(libc::SIGUSR1, |_| panic!("in the function")).unwrap();
        signal(libc::SIGUSR1, move |_| out.push(())).unwrap();
        for _ in 0..2 {
            raise(Signal::SIGUSR1).unwrap();
            until(&log);
            idle();
            assert_eq!(log.take().len(), 1);
        }
        return;
    };
    assert_eq!(printed.matches("'signal'").count(), 2, "{printed}");
}

#[test]
fn a_signal_that_another_thread_takes_wakes_the_hub() {
    let _watched = watchdog();
    isolated();
    let me = gevent::thread::current();
    signal(libc::SIGURG, move |_| me.unpark()).unwrap();
    let taker = std::thread::spawn(|| {
        std::thread::sleep(30 * MS);
        raise(Signal::SIGURG).unwrap(); // to that very thread
    });
    let begun = Instant::now();
    gevent::thread::park();
    assert!(begun.elapsed() >= 20 * MS);
    taker.join().unwrap();
}

#[test]
fn a_busy_hub_sees_it_too() {
    let _watched = watchdog();
    let seen = Rc::new(Cell::new(false));
    let flag = seen.clone();
    signal(libc::SIGCONT, move |_| flag.set(true)).unwrap();
    raise(Signal::SIGCONT).unwrap();
    let mut turns = 0;
    while !seen.get() {
        yield_now();
        turns += 1;
    }
    assert!(turns <= 2, "{turns}");
}

#[test]
fn each_hub_runs_its_own_functions() {
    let _watched = watchdog();
    let log = Log::new();
    let out = log.clone();
    signal(libc::SIGTTOU, move |_| out.push("mine")).unwrap();
    let (ready, set) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let log = Log::new();
        let out = log.clone();
        signal(libc::SIGTTOU, move |_| out.push("theirs")).unwrap();
        ready.send(()).unwrap();
        until(&log);
        log.take()
    });
    set.recv().unwrap();
    raise(Signal::SIGTTOU).unwrap();
    until(&log);
    assert_eq!(log.take(), ["mine"]);
    assert_eq!(other.join().unwrap(), ["theirs"]);
    // With that thread its functions are gone.
    raise(Signal::SIGTTOU).unwrap();
    until(&log);
    assert_eq!(log.take(), ["mine"]);
}

#[test]
fn forbidden_and_unknown_signals_are_errors() {
    let _watched = watchdog();
    let forbidden = [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE];
    for number in forbidden.into_iter().chain([0, -1, 65, i32::MAX, i32::MIN]) {
        let error = signal(number, |_| ()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{number}");
        assert!(error.to_string().contains(&format!("signal {number} ")), "{error}");
    }
    // Those that the C library keeps for itself.
    signal(32, |_| ()).unwrap_err();
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn real_time_signals_to_the_last() {
    let _watched = watchdog();
    let log = Log::new();
    for number in [libc::SIGRTMIN(), libc::SIGRTMAX()] {
        let out = log.clone();
        signal(number, move |number| out.push(number)).unwrap();
        // SAFETY: the signal is handled.
        assert_eq!(unsafe { libc::raise(number) }, 0);
        until(&log);
        assert_eq!(log.take(), [number]);
    }
}

#[test]
fn while_one_listens_a_wait_is_no_deadlock_and_after_a_cancel_it_is() {
    let _watched = watchdog();
    isolated();
    let handle = signal(libc::SIGTTIN, |_| ()).unwrap();
    assert!(gevent::timeout(20 * MS, gevent::thread::park).is_err());
    handle.cancel();
    let payload = raised(gevent::thread::park);
    assert!(text(&*payload).starts_with("this operation would block forever"));
}

#[test]
fn the_handle_says_which_signal() {
    let _watched = watchdog();
    let handle = signal(libc::SIGPIPE, |_| ()).unwrap();
    assert_eq!(format!("{handle:?}"), format!("SignalHandle {{ signal: {} }}", libc::SIGPIPE));
}

/// Sends a signal to a child that says when it is ready; the child must end.
fn send_to(test: &str, number: i32) -> std::process::ExitStatus {
    use std::io::BufRead;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(common::CHILD, test)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().any(|line| line.unwrap().contains("is ready")), "{test} was not run");
    // SAFETY: plain system call, on a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
    child.wait().unwrap()
}

#[test]
fn sigint_ends_a_program_that_does_not_ask_for_it() {
    let test = "sigint_ends_a_program_that_does_not_ask_for_it";
    if common::is_child() {
        let _watched = watchdog();
        drop(spawn(|| {
            println!("it is ready");
            sleep(HOUR);
        }));
        sleep(HOUR);
    }
    assert_eq!(send_to(test, libc::SIGINT).signal(), Some(libc::SIGINT));
}

#[test]
fn sigint_is_the_functions_in_one_that_does() {
    let test = "sigint_is_the_functions_in_one_that_does";
    if common::is_child() {
        let _watched = watchdog();
        signal(libc::SIGINT, |_| std::process::exit(7)).unwrap();
        println!("it is ready");
        sleep(HOUR);
    }
    assert_eq!(send_to(test, libc::SIGINT).code(), Some(7));
}

#[test]
fn a_handler_that_was_there_before_is_called_too() {
    let Some(_) = in_child("a_handler_that_was_there_before_is_called_too") else {
        static BEFORE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        extern "C" fn before(_: i32) {
            BEFORE.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        // SAFETY: the handler stores to an atomic.
        unsafe { nix::sys::signal::signal(Signal::SIGUSR1, SigHandler::Handler(before)) }.unwrap();
        let log = Log::new();
        let out = log.clone();
        signal(libc::SIGUSR1, move |_| out.push(())).unwrap();
        raise(Signal::SIGUSR1).unwrap();
        until(&log);
        assert!(BEFORE.load(std::sync::atomic::Ordering::SeqCst));
        return;
    };
}
