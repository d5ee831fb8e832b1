//! Idle means idle: a hub that waits takes no processor time and is never scheduled.

mod common;

use std::io::{BufRead, Read};
use std::time::Duration;

use common::watchdog;
use gevent::os::unix::net::UnixStream;
use gevent::{sleep, spawn};

/// How often any thread of the process has given up the processor to wait, by name and id.
fn switches(process: u32) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let path = task.unwrap().path();
        let status = std::fs::read_to_string(path.join("status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).expect("it is in every status");
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        all.push((path.display().to_string(), value("voluntary_ctxt_switches:").parse().unwrap()));
    }
    all.sort();
    all
}

/// Starts this test as a child, waits until it says so and has settled, and looks at it for two seconds.
fn is_idle(test: &str) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(common::CHILD, test)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().any(|line| line.unwrap().contains("is ready")), "{test} was not run");
    // Memory of stacks is given back, and threads are counted, for a second or so.
    std::thread::sleep(Duration::from_secs(3));
    let before = switches(child.id());
    std::thread::sleep(Duration::from_secs(2));
    let after = switches(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(before, after);
    assert!(!before.is_empty());
}

/// What a program does before it idles: stacks deep and shallow, timers, descriptors, other threads.
fn some_work() {
    #[inline(never)]
    fn deep(levels: usize) -> usize {
        let frame = std::hint::black_box([1u8; 1024]);
        if levels == 0 { 0 } else { frame[levels % 1024] as usize + deep(levels - 1) }
    }
    let all: Vec<_> = (0..100)
        .map(|n| {
            spawn(move || {
                deep(n / 2) + {
                    sleep(Duration::from_millis(1));
                    0
                }
            })
        })
        .collect();
    all.into_iter().for_each(|greenlet| assert!(greenlet.join().is_ok()));
    let hub = gevent::Hub::current().handle();
    let sent = std::thread::spawn(move || hub.spawn(|| ()).unwrap().join());
    sleep(Duration::from_millis(20));
    sent.join().unwrap().unwrap();
}

#[test]
fn with_a_descriptor_and_a_far_timer() {
    if common::is_child() {
        let _watched = watchdog();
        some_work();
        let (mut here, there) = UnixStream::pair().unwrap();
        let reader = spawn(move || here.read(&mut [0]).unwrap());
        drop(spawn(|| sleep(Duration::from_secs(3600))));
        println!("it is ready");
        reader.join().unwrap();
        drop(there);
        return;
    }
    is_idle("with_a_descriptor_and_a_far_timer");
}

/// Only another thread could wake this one: those are counted anew for a second, then no more.
#[test]
fn with_nothing_but_other_threads() {
    if common::is_child() {
        let _watched = watchdog();
        some_work();
        println!("it is ready");
        gevent::thread::park();
        return;
    }
    is_idle("with_nothing_but_other_threads");
}

#[test]
fn with_a_function_for_a_signal() {
    if common::is_child() {
        let _watched = watchdog();
        gevent::signal(libc::SIGUSR1, |_| ()).unwrap();
        gevent::observe::dump_on(libc::SIGQUIT).unwrap();
        println!("it is ready");
        gevent::thread::park();
        return;
    }
    is_idle("with_a_function_for_a_signal");
}
