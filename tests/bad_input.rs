//! Bad input and used-up limits: an error that names what is wrong, and the hub runs on. What sockets are
//! given is tested with them.

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::{in_child, raised, text, watchdog};
use gevent::{Builder, Hub, StackError, StackSize, sleep, spawn, timeout, try_spawn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_stack_size_of_zero_or_too_much() {
    let _watched = watchdog();
    for bytes in [0, StackSize::MAX.bytes() + 1, usize::MAX] {
        let error = StackSize::new(bytes).unwrap_err();
        assert_eq!(error, StackError::Size { bytes });
        assert!(
            error.to_string().contains(&format!("a stack size of {bytes} bytes is out of range")),
            "{error}"
        );
        assert_eq!(std::io::Error::from(error).kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn the_smallest_and_the_largest_stack() {
    let _watched = watchdog();
    for bytes in [1, StackSize::MAX.bytes()] {
        let size = StackSize::new(bytes).unwrap();
        let greenlet = Builder::new().stack_size(size).spawn(|| sleep(MS)).unwrap();
        greenlet.join().unwrap();
    }
}

/// Leaves room for `spare` more descriptors.
fn use_up_descriptors(spare: usize) -> Vec<std::fs::File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    held.truncate(held.len() - spare);
    held
}

#[test]
fn no_descriptors_for_a_hub() {
    let Some(_) = in_child("no_descriptors_for_a_hub") else {
        // It needs two: with none, and with one, nothing is left over from the attempt.
        for spare in [0, 1] {
            let held = use_up_descriptors(spare);
            for _ in 0..100 {
                let error = Hub::builder().install().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
            }
            let payload = raised(|| spawn(|| ()));
            let why = "cannot spawn a greenlet: cannot make this thread's hub: Too many open files";
            assert!(text(&*payload).starts_with(why), "{}", text(&*payload));
            let error = gevent::try_spawn(|| ()).unwrap_err();
            assert!(matches!(error, gevent::StackError::NoHub { os_error: libc::EMFILE, .. }), "{error}");
            let payload = raised(|| sleep(MS));
            assert!(text(&*payload).contains("Too many open files"), "{}", text(&*payload));
            drop(held);
        }
        // With descriptors again, there is a hub.
        assert_eq!(spawn(|| 1).join().unwrap(), 1);
        return;
    };
}

#[test]
fn no_descriptors_left_while_the_hub_runs() {
    let Some(_) = in_child("no_descriptors_left_while_the_hub_runs") else {
        Hub::current();
        spawn(|| ()).join().unwrap();
        let held = use_up_descriptors(0);
        // Greenlets, timers, timeouts and lists need none.
        let all: Vec<_> = (0..1000)
            .map(|n| {
                spawn(move || {
                    sleep(MS);
                    n
                })
            })
            .collect();
        assert!(all.into_iter().enumerate().all(|(n, greenlet)| greenlet.join().unwrap() == n));
        timeout(MS, || sleep(Duration::from_secs(60))).unwrap_err();
        assert!(gevent::observe::tree().to_string().contains("(root) running"));
        let error = gevent::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        drop(held);
        gevent::net::TcpListener::bind("127.0.0.1:0").unwrap();
        return;
    };
}

#[test]
fn no_address_space_for_any_stack_out_of_address_space() {
    let Some(_) = in_child("no_address_space_for_any_stack_out_of_address_space") else {
        Hub::current();
        drop(gevent::observe::tree().to_string()); // what that needs is loaded now
        let pages: u64 =
            std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
        setrlimit(Resource::RLIMIT_AS, pages * 4096 + (4 << 20), hard).unwrap();
        let size = StackSize::new(8 << 20).unwrap();
        let error = Builder::new().stack_size(size).spawn(|| ()).unwrap_err();
        assert!(error.to_string().contains("RLIMIT_AS"), "{error}");
        sleep(MS);
        setrlimit(Resource::RLIMIT_AS, hard, hard).unwrap();
        assert_eq!(try_spawn(|| 1).unwrap().join().unwrap(), 1);
        return;
    };
}

#[test]
fn times_that_are_too_long_are_without_end() {
    let _watched = watchdog();
    let never = gevent::spawn_later(Duration::MAX, || unreachable!());
    assert!(!never.wait(Some(MS)));
    timeout(MS, || sleep(Duration::MAX)).unwrap_err();
    timeout(Duration::MAX, || sleep(MS)).unwrap();
    assert!(!never.kill_timeout(Duration::ZERO) && never.kill_timeout(Duration::MAX));
}

#[test]
fn a_greenlet_that_waits_for_itself_has_a_limit() {
    let _watched = watchdog();
    let greenlet = spawn(|| gevent::current().wait(Some(MS)));
    assert!(!greenlet.join().unwrap());
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let test = "settings_that_make_no_sense_are_named";
    if common::is_child() {
        eprintln!("says: {}", Hub::builder().install().unwrap_err());
        return;
    }
    let output = common::subprocess(test, &[("GEVENT_STACK_SIZE", "lots")]);
    let printed = common::printed(&output);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("says: GEVENT_STACK_SIZE is \"lots\""), "{printed}");
}
