//! One source, a thread-per-connection server and its clients written for std, compiled and run both
//! ways: with std, and with the one line `use gevent::std;` before it.

mod common;

use common::threads::watchdog;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mod with_std {
    include!("both_ways/server.rs");
    include!("both_ways/client.rs");
}

mod with_gevent {
    use gevent::std; // the one line

    include!("both_ways/server.rs");
    include!("both_ways/client.rs");
}

#[test]
fn answers_are_right() {
    let _watched = watchdog();
    with_std::answers_are_right("127.0.0.1:0");
    with_gevent::answers_are_right("127.0.0.1:0");
    with_gevent::answers_are_right(("localhost", 0));
}

#[test]
fn clients_are_served_side_by_side() {
    let _watched = watchdog();
    with_std::clients_are_served_side_by_side(100);
    with_gevent::clients_are_served_side_by_side(100);
}

#[test]
fn a_thousand_clients_are_served_by_greenlets() {
    let _watched = watchdog();
    // Four descriptors for each.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    with_gevent::clients_are_served_side_by_side(1000);
}

#[test]
fn a_stop_ends_open_connections() {
    let _watched = watchdog();
    with_std::a_stop_ends_open_connections();
    with_gevent::a_stop_ends_open_connections();
}

#[test]
fn with_gevent_one_native_thread_serves_all() {
    let _watched = watchdog();
    assert_eq!(with_std::served_by_one_native_thread(25), "1");
    assert_eq!(with_gevent::served_by_one_native_thread(25), "25");
}

/// One side of each kind, in one process.
#[test]
fn each_serves_the_other() {
    let _watched = watchdog();
    let std_server = with_std::Server::start("127.0.0.1:0").unwrap();
    let our_server = with_gevent::Server::start("127.0.0.1:0").unwrap();
    with_gevent::ask_all(std_server.addr(), 50);
    let (addr, done) = (our_server.addr(), common::threads::Flag::new());
    let flag = done.clone();
    let native = std::thread::spawn(move || {
        with_std::ask_all(addr, 50);
        flag.set();
    });
    done.spin();
    native.join().unwrap();
    our_server.stop().unwrap();
    std_server.stop().unwrap();
}
