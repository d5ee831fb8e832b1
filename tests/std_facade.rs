//! `use gevent::std;` as the one new line of a module: what is ours after it, and what is std's.

mod common;

/// Everything by `use`.
mod uses {
    use gevent::std;

    use std::any::TypeId;
    use std::collections::{BTreeMap, HashMap};
    use std::io::{self, Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    pub(super) fn thread_is_ours() {
        assert_eq!(TypeId::of::<JoinHandle<u8>>(), TypeId::of::<gevent::thread::JoinHandle<u8>>());
        assert_eq!(TypeId::of::<thread::Thread>(), TypeId::of::<gevent::thread::Thread>());
        let (count, log) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let handles: Vec<JoinHandle<usize>> = (0..3)
            .map(|n| {
                let (count, log) = (count.clone(), log.clone());
                thread::spawn(move || {
                    for step in 0..2 {
                        log.lock().unwrap().push((step, n));
                        thread::sleep(Duration::from_millis(1));
                    }
                    count.fetch_add(1, Ordering::Relaxed)
                })
            })
            .collect();
        for handle in handles {
            handle.join().unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), 3);
        // Each waited in its turn, on one native thread.
        assert_eq!(log.lock().unwrap()[..4], [(0, 0), (0, 1), (0, 2), (1, 0)]);
    }

    pub(super) fn the_rest_is_stds() {
        assert_eq!(TypeId::of::<HashMap<u8, u8>>(), TypeId::of::<::std::collections::HashMap<u8, u8>>());
        assert_eq!(TypeId::of::<io::Error>(), TypeId::of::<::std::io::Error>());
        let mut map = BTreeMap::new();
        map.insert(1, "one");
        let mut text = String::new();
        (&b"read"[..]).read_to_string(&mut text).unwrap();
        let mut out = Vec::new();
        write!(out, "{text} {map:?}").unwrap();
        assert_eq!(out, br#"read {1: "one"}"#);
    }
}

/// Everything by paths in the code.
mod paths {
    use gevent::std;

    pub(super) fn paths_are_ours() {
        let here = std::thread::current().id();
        let spawned = std::thread::spawn(move || std::thread::current().id() != here);
        assert!(spawned.join().unwrap());
        let native = ::std::thread::current().id();
        assert_eq!(std::thread::spawn(|| ::std::thread::current().id()).join().unwrap(), native);
        assert_ne!(::std::thread::spawn(|| ::std::thread::current().id()).join().unwrap(), native);
        let v: std::vec::Vec<u8> = std::iter::repeat_n(1, 2).collect();
        assert_eq!(v, self::std::vec![1, 1]);
    }
}

/// Macros and derives.
mod macros {
    use gevent::std;

    std::thread_local! { static BY_PATH: std::cell::Cell<u8> = const { std::cell::Cell::new(1) } }
    thread_local! { static BY_NAME: std::cell::RefCell<std::vec::Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) } }

    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Derived<T>(T);

    fn question() -> std::result::Result<u8, std::boxed::Box<dyn std::error::Error>> {
        let n: u8 = "7".parse()?;
        std::result::Result::Ok(n)
    }

    pub(super) fn macros_are_stds() {
        use std::fmt::Write;
        let mut text = String::new();
        write!(text, "{:?}", Derived(1)).unwrap();
        std::writeln!(text, "!").unwrap();
        println!("{text}");
        let inner = std::format!("{:?}", vec![1]);
        std::println!("{}", format!("{inner}{inner}").len());
        eprintln!();
        assert_eq!(dbg!(question().unwrap()), 7);
        std::assert_eq!(Derived(1), Derived(1).max(Derived::default()));
        assert!(matches!(dbg!(1), 1 | 3) && std::matches!(1, 1..=2));
        debug_assert_ne!(1, 2, "{}", std::concat!("a", 1));
        BY_PATH.set(BY_PATH.get() + 1);
        BY_NAME.with_borrow_mut(|v| v.push(BY_PATH.get()));
        assert_eq!(BY_NAME.take(), [2]);
        let caught = std::panic::catch_unwind(|| panic!("{}", 1)).unwrap_err();
        assert_eq!(caught.downcast_ref::<&str>().copied().unwrap_or("1"), "1");
        let pinned = std::pin::pin!(1);
        assert_eq!((*pinned, std::mem::offset_of!(Derived<u8>, 0)), (1, 0));
        assert!(std::env!("CARGO_PKG_NAME") == "gevent" && std::line!() > 1);
    }
}

/// A nested module has the real `std`, unless it says otherwise.
mod nested {
    use gevent::std;

    pub(super) mod without {
        pub(crate) fn native() -> ::std::thread::ThreadId {
            std::thread::spawn(|| std::thread::current().id()).join().unwrap()
        }
    }

    pub(super) mod with {
        use super::std;
        use std::thread;

        pub(crate) fn ours() -> gevent::thread::ThreadId {
            thread::spawn(|| thread::current().id()).join().unwrap()
        }
    }

    pub(super) mod glob {
        use super::*;
        use gevent::std;
        use std::thread;

        pub(crate) fn ours() -> gevent::thread::ThreadId {
            self::with::ours();
            thread::current().id()
        }
    }
}

/// A `macro_rules!` that says `std::` goes by who calls it.
macro_rules! native_id {
    () => {
        std::thread::spawn(|| ::std::thread::current().id()).join().unwrap()
    };
}

mod calls {
    use gevent::std;

    pub(super) fn macros_go_by_their_caller() {
        let here = ::std::thread::current().id();
        assert_eq!(native_id!(), here);
        assert_ne!(super::native_id(), here);
        assert!(!std::thread::panicking());
    }
}

fn native_id() -> std::thread::ThreadId {
    native_id!()
}

#[test]
fn thread_is_ours_by_use() {
    let _watched = common::threads::watchdog();
    uses::thread_is_ours();
}

#[test]
fn thread_is_ours_by_path() {
    let _watched = common::threads::watchdog();
    paths::paths_are_ours();
}

#[test]
fn all_else_is_stds() {
    uses::the_rest_is_stds();
}

#[test]
fn macros_and_derives_are_stds() {
    macros::macros_are_stds();
}

#[test]
fn a_nested_module_needs_a_line_of_its_own() {
    let _watched = common::threads::watchdog();
    assert_ne!(nested::without::native(), std::thread::current().id());
    assert_ne!(nested::with::ours(), nested::glob::ours());
}

#[test]
fn a_macro_goes_by_who_calls_it() {
    let _watched = common::threads::watchdog();
    calls::macros_go_by_their_caller();
}

#[test]
fn a_line_in_a_function_counts_for_its_block() {
    use gevent::std;
    use std::thread;
    let here = ::std::thread::current().id();
    assert_eq!(thread::spawn(|| ::std::thread::current().id()).join().unwrap(), here);
    {
        use ::std::thread;
        assert_ne!(thread::spawn(|| thread::current().id()).join().unwrap(), here);
    }
}

#[test]
fn sockets_are_ours_and_addresses_are_stds() {
    use gevent::std;
    use std::any::TypeId;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
    use std::os::fd::OwnedFd;
    use std::os::linux::net::TcpStreamExt;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};

    assert_eq!(TypeId::of::<TcpListener>(), TypeId::of::<gevent::net::TcpListener>());
    assert_eq!(TypeId::of::<TcpStream>(), TypeId::of::<gevent::net::TcpStream>());
    assert_eq!(TypeId::of::<UdpSocket>(), TypeId::of::<gevent::net::UdpSocket>());
    assert_eq!(TypeId::of::<UnixStream>(), TypeId::of::<gevent::os::unix::net::UnixStream>());
    assert_eq!(TypeId::of::<UnixListener>(), TypeId::of::<gevent::os::unix::net::UnixListener>());
    assert_eq!(TypeId::of::<UnixDatagram>(), TypeId::of::<gevent::os::unix::net::UnixDatagram>());
    assert_eq!(TypeId::of::<UnixAddr>(), TypeId::of::<::std::os::unix::net::SocketAddr>());
    assert_eq!(TypeId::of::<SocketAddr>(), TypeId::of::<::std::net::SocketAddr>());
    assert_eq!(TypeId::of::<std::net::TcpStream>(), TypeId::of::<TcpStream>());
    let addr: SocketAddr = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into();
    let listener = TcpListener::bind(addr.to_socket_addrs().unwrap().next().unwrap()).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_quickack(true).unwrap();
    drop(OwnedFd::from(stream));
}

/// Every name of `std::thread`, as of Rust 1.95, is to be had, and ours where it blocks.
#[test]
fn every_name_of_std_thread_is_there() {
    use gevent::std;
    #[allow(unused_imports, deprecated, reason = "that they resolve is what is tested")]
    use std::thread::{
        AccessError, Builder, JoinHandle, LocalKey, Result, Scope, ScopedJoinHandle, Thread, ThreadId,
        available_parallelism, current, panicking, park, park_timeout, park_timeout_ms, scope, sleep,
        sleep_ms, spawn, yield_now,
    };
    let _: fn(Duration) = sleep;
    let _: fn() -> gevent::thread::Thread = current;
    use std::time::Duration;
}
