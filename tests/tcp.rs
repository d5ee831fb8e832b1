//! `gevent::net::TcpListener` and `TcpStream`: what std documents of each method, over IPv4 and IPv6.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use common::sockets::{assert_kind, loopbacks, settle, tcp_pair, watchdog};
use gevent::net::{TcpListener, TcpStream, ToSocketAddrs};
use gevent::os::linux::net::TcpStreamExt;
use gevent::{sleep, spawn};
use socket2::{Domain, SockRef, Socket, Type};

suite!(v4, crate::common::sockets::tcp_pair);
suite!(v6, crate::common::sockets::tcp6_pair);

#[test]
fn connect_and_accept_tell_both_addresses() {
    let _alive = watchdog();
    for ip in loopbacks() {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(addr.ip(), ip);
        let server = spawn(move || listener.accept().unwrap());
        settle();
        let client = TcpStream::connect(addr).unwrap();
        let (served, peer) = server.join().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!((client.peer_addr().unwrap(), served.local_addr().unwrap()), (addr, addr));
        assert_eq!(served.peer_addr().unwrap(), peer);
    }
}

#[test]
fn incoming_goes_on() {
    let _alive = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let clients = spawn(move || (0..5).map(|_| TcpStream::connect(addr).unwrap()).collect::<Vec<_>>());
    let served: Vec<_> = listener.incoming().take(5).map(Result::unwrap).collect();
    assert_eq!((served.len(), clients.join().unwrap().len()), (5, 5));
    assert!(
        format!("{:?}", listener.incoming())
            .starts_with("Incoming { listener: TcpListener { addr: 127.0.0.1:")
    );
}

#[test]
fn many_accept_at_once_and_each_connection_is_taken_once() {
    let _alive = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptors: Vec<_> = (0..30)
        .map(|n| {
            let listener = listener.try_clone().unwrap();
            let accept = move || listener.accept().unwrap().0.write_all(&[n]).unwrap();
            spawn(accept)
        })
        .collect();
    settle();
    let mut got: Vec<u8> = (0..30)
        .map(|_| {
            let mut buf = [0; 1];
            TcpStream::connect(addr).unwrap().read_exact(&mut buf).unwrap();
            buf[0]
        })
        .collect();
    acceptors.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    got.sort();
    assert_eq!(got, (0..30).collect::<Vec<_>>());
}

#[test]
fn bind_and_connect_try_each_address_and_tell_the_last_error() {
    let _alive = watchdog();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (busy, any): (SocketAddr, SocketAddr) = (taken.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
    assert_kind(TcpListener::bind(busy), ErrorKind::AddrInUse);
    let second = TcpListener::bind(&[busy, any][..]).unwrap();
    let open = second.local_addr().unwrap();
    let closed = TcpListener::bind(any).unwrap().local_addr().unwrap();
    assert_kind(TcpStream::connect(closed), ErrorKind::ConnectionRefused);
    assert_eq!(TcpStream::connect(&[closed, open][..]).unwrap().peer_addr().unwrap(), open);
    assert_kind(TcpStream::connect(&[closed, closed][..]), ErrorKind::ConnectionRefused);
    assert_kind(TcpListener::bind("192.0.2.1:0"), ErrorKind::AddrNotAvailable);
    let none: &[SocketAddr] = &[];
    for (ours, std) in [
        (TcpStream::connect(none).unwrap_err(), std::net::TcpStream::connect(none).unwrap_err()),
        (TcpListener::bind(none).unwrap_err(), std::net::TcpListener::bind(none).unwrap_err()),
        (
            TcpStream::connect("colonless").unwrap_err(),
            std::net::TcpStream::connect("colonless").unwrap_err(),
        ),
        (TcpStream::connect("a:70000").unwrap_err(), std::net::TcpStream::connect("a:70000").unwrap_err()),
        (TcpStream::connect("[::1").unwrap_err(), std::net::TcpStream::connect("[::1").unwrap_err()),
    ] {
        assert_eq!((ours.kind(), ours.to_string()), (std.kind(), std.to_string()));
    }
}

#[test]
fn refused_in_a_loop_does_not_hold_up_the_server_to_be() {
    let _alive = watchdog();
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = spawn(move || TcpListener::bind(addr).unwrap().accept().map(drop));
    while TcpStream::connect(addr).is_err() {}
    server.join().unwrap().unwrap();
}

#[test]
fn connect_timeout_is_told_apart() {
    let _alive = watchdog();
    let addr = "127.0.0.1:0".parse::<SocketAddr>().unwrap();
    assert_kind(TcpStream::connect_timeout(&addr, Duration::ZERO), ErrorKind::InvalidInput);
    // A listener whose queue is full drops what begins a connection.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&addr.into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut made = Vec::new();
    let error = loop {
        match TcpStream::connect_timeout(&addr, Duration::from_millis(50)) {
            Ok(stream) => made.push(stream),
            Err(error) => break error,
        }
        assert!(made.len() < 10);
    };
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::TimedOut, "connection timed out".to_owned()));
    assert!(!made.is_empty());
    // Killed in the same wait, by another name.
    assert!(gevent::timeout(Duration::from_millis(20), || TcpStream::connect(addr)).is_err());
    // Without a hub.
    std::thread::spawn(move || {
        assert_kind(TcpStream::connect_timeout(&addr, Duration::from_millis(20)), ErrorKind::TimedOut);
    })
    .join()
    .unwrap();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    TcpStream::connect_timeout(&open.local_addr().unwrap(), Duration::from_secs(30)).unwrap();
}

#[test]
fn addresses_come_in_every_form_of_stds() {
    let _alive = watchdog();
    fn all(addr: impl ToSocketAddrs) -> Vec<String> {
        addr.to_socket_addrs().unwrap().map(|addr| addr.to_string()).collect()
    }
    let v4: SocketAddr = "1.2.3.4:5".parse().unwrap();
    let v6: SocketAddr = "[::2]:5".parse().unwrap();
    let (string, reference) = (&"1.2.3.4:5".to_owned(), &&v4);
    for forms in [
        all(v4),
        all("1.2.3.4:5"),
        all("1.2.3.4:5".to_owned()),
        all(string),
        all(("1.2.3.4", 5)),
        all(("1.2.3.4".to_owned(), 5)),
        all((v4.ip(), 5)),
        all(("1.2.3.4".parse::<std::net::Ipv4Addr>().unwrap(), 5)),
        all(&[v4][..]),
        all(reference),
    ] {
        assert_eq!(forms, ["1.2.3.4:5"]);
    }
    let SocketAddr::V6(six) = v6 else { unreachable!() };
    for forms in [all(v6), all(six), all("[::2]:5"), all(("::2", 5)), all((*six.ip(), 5))] {
        assert_eq!(forms, ["[::2]:5"]);
    }
}

#[test]
fn literal_addresses_start_no_thread_and_names_do_not_hold_up_the_hub() {
    common::sockets::in_child("literal_addresses_start_no_thread_and_names_do_not_hold_up_the_hub", || {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        for addr in ["127.0.0.1:1", "[::1]:1", "0.0.0.0:0"] {
            addr.to_socket_addrs().unwrap();
        }
        ("::1", 7).to_socket_addrs().unwrap();
        assert!("no port".to_socket_addrs().is_err() && "host:port".to_socket_addrs().is_err());
        assert_eq!(threads(), before);
        let turns = std::rc::Rc::new(std::cell::Cell::new(0));
        let counting = spawn({
            let turns = turns.clone();
            move || loop {
                turns.set(turns.get() + 1);
                gevent::yield_now();
            }
        });
        let lookups: Vec<_> = (0..50)
            .map(|_| {
                let turns = turns.clone();
                spawn(move || {
                    let before = turns.get();
                    assert!("localhost:80".to_socket_addrs().unwrap().count() >= 1);
                    assert!(turns.get() > before, "nobody ran meanwhile");
                })
            })
            .collect();
        lookups.into_iter().for_each(|lookup| lookup.join().unwrap());
        assert!((before + 1..=before + 10).contains(&threads()));
        counting.kill();
        assert!("a.name.that.is.invalid:1".to_socket_addrs().is_err());
        // A killed one is not waited for; a thread without a hub looks up by itself.
        let killed = spawn(|| TcpStream::connect("localhost:1"));
        gevent::yield_now();
        killed.kill();
        std::thread::spawn(|| assert!("localhost:80".to_socket_addrs().unwrap().count() >= 1))
            .join()
            .unwrap();
    });
}

#[test]
fn options_are_stds() {
    let _alive = watchdog();
    let (a, _b) = tcp_pair();
    a.set_nodelay(true).unwrap();
    assert!(a.nodelay().unwrap());
    a.set_nodelay(false).unwrap();
    assert!(!a.nodelay().unwrap());
    a.set_ttl(42).unwrap();
    assert_eq!(a.ttl().unwrap(), 42);
    assert_kind(a.set_ttl(1000), ErrorKind::InvalidInput);
    a.set_quickack(true).unwrap();
    assert!(a.quickack().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_ttl(43).unwrap();
    assert_eq!(listener.ttl().unwrap(), 43);
    assert!(listener.take_error().unwrap().is_none());
}

#[test]
fn peek_leaves_the_data_there() {
    let _alive = watchdog();
    for ip in loopbacks() {
        let (a, mut b) = common::sockets::tcp_pair_of(ip);
        let reader = spawn(move || {
            let mut got = Vec::new();
            for _ in 0..3 {
                let mut buf = [0; 64];
                let n = a.peek(&mut buf).unwrap();
                got.push(buf[..n].to_vec());
            }
            got.push(vec![0; 64]);
            let n = (&a).read(&mut got[3]).unwrap();
            got[3].truncate(n);
            got
        });
        settle();
        b.write_all(b"peeked").unwrap();
        assert_eq!(reader.join().unwrap(), [b"peeked"; 4]);
    }
}

#[test]
fn a_listener_may_be_non_blocking_and_comes_from_and_goes_to_std() {
    let _alive = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_kind(listener.accept(), ErrorKind::WouldBlock);
    assert!(listener.incoming().next().unwrap().is_err());
    listener.set_nonblocking(false).unwrap();
    let copy = listener.try_clone().unwrap();
    // std's half makes the shared socket block; ours must poll first.
    let std = std::net::TcpListener::from(listener);
    let addr = std.local_addr().unwrap();
    let ticks = spawn(|| sleep(Duration::from_millis(5)));
    let acceptors: Vec<_> = (0..2)
        .map(|_| {
            let copy = copy.try_clone().unwrap();
            spawn(move || copy.accept().unwrap().0)
        })
        .collect();
    settle();
    ticks.join().unwrap(); // the hub is not blocked
    let clients = [TcpStream::connect(addr).unwrap(), TcpStream::connect(addr).unwrap()];
    acceptors.into_iter().for_each(|greenlet| drop(greenlet.join().unwrap()));
    let third = std::thread::spawn(move || std.accept().unwrap());
    let client = TcpStream::connect(addr).unwrap();
    third.join().unwrap();
    drop((clients, client));
    let ours = TcpListener::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = ours.local_addr().unwrap();
    let accepting = spawn(move || ours.accept().map(drop));
    settle();
    TcpStream::connect(addr).unwrap();
    accepting.join().unwrap().unwrap();
}

#[test]
fn an_accepted_connection_has_its_listeners_timeouts() {
    let _alive = watchdog();
    let std = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&std).set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let listener = TcpListener::from(std);
    assert_kind(listener.accept(), ErrorKind::WouldBlock);
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    assert!(served.read_timeout().unwrap().is_some());
    assert_kind(served.read(&mut [0; 1]), ErrorKind::WouldBlock);
}

#[test]
fn a_reset_wakes_readers_and_writers() {
    let _alive = watchdog();
    let (a, b) = tcp_pair();
    let mut copy = a.try_clone().unwrap();
    let reader = spawn(move || copy.read(&mut [0; 8]));
    let mut a = a;
    let writer = spawn(move || {
        loop {
            if let Err(error) = a.write(&[0; 65536]) {
                return error.kind();
            }
        }
    });
    settle();
    sleep(Duration::from_millis(5)); // the writer fills the buffers and parks
    assert!(!reader.ready() && !writer.ready());
    SockRef::from(&b).set_linger(Some(Duration::ZERO)).unwrap();
    drop(b);
    let read = reader.join().unwrap().map_err(|error| error.kind());
    let wrote = writer.join().unwrap();
    // The first of the two to look takes the error; the other finds the connection ended.
    assert!(
        matches!(
            (&read, wrote),
            (Err(ErrorKind::ConnectionReset), ErrorKind::BrokenPipe) | (Ok(0), ErrorKind::ConnectionReset)
        ),
        "{read:?} {wrote:?}"
    );
}

/// A read stops before the urgent byte, with data behind it, for which no further edge comes.
#[test]
fn urgent_data_does_not_hide_what_follows() {
    let _alive = watchdog();
    for round in 0..50 {
        let (a, mut b) = tcp_pair();
        let read = move || {
            let mut all = Vec::new();
            (&a).read_to_end(&mut all).map(|_| all)
        };
        let burst = move || {
            b.write_all(b"before").unwrap();
            SockRef::from(&b).send_out_of_band(b"!").unwrap();
            b.write_all(b"after").unwrap();
            b
        };
        if round % 2 == 0 {
            let reader = spawn(read);
            settle();
            let b = burst();
            settle();
            b.shutdown(Shutdown::Write).unwrap();
            assert_eq!(reader.join().unwrap().unwrap(), b"beforeafter");
        } else {
            let reader = std::thread::spawn(read);
            drop(burst());
            assert_eq!(reader.join().unwrap().unwrap(), b"beforeafter");
        }
    }
}

/// Urgent data alone is no data: a thread that waits must wait, not spin.
#[test]
fn a_thread_that_waits_with_urgent_data_pending_uses_no_time() {
    let _alive = watchdog();
    let (a, b) = tcp_pair();
    SockRef::from(&b).send_out_of_band(b"!").unwrap();
    let used = std::thread::spawn(move || {
        let clock = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        let begun = clock();
        a.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_kind((&a).read(&mut [0; 8]), ErrorKind::WouldBlock);
        Duration::from(clock() - begun)
    });
    assert!(used.join().unwrap() < Duration::from_millis(50));
}
