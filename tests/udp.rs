//! `gevent::net::UdpSocket`: what std documents of each method, over IPv4 and IPv6.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::sockets::{assert_kind, loopbacks, settle, watchdog};
use gevent::net::UdpSocket;
use gevent::{spawn, timeout};

const SHORT: Duration = Duration::from_millis(20);

/// Two sockets of one kind, and their addresses.
fn two(ip: IpAddr) -> [(UdpSocket, SocketAddr); 2] {
    [(); 2].map(|()| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        (socket, addr)
    })
}

fn connected(ip: IpAddr) -> (UdpSocket, UdpSocket) {
    let [(a, at), (b, bt)] = two(ip);
    a.connect(bt).unwrap();
    b.connect(at).unwrap();
    assert_eq!((a.peer_addr().unwrap(), b.peer_addr().unwrap()), (bt, at));
    (a, b)
}

#[test]
fn datagrams_keep_their_bounds_and_tell_their_sender() {
    let _alive = watchdog();
    for ip in loopbacks() {
        let [(a, at), (b, bt)] = two(ip);
        assert_kind(a.peer_addr(), ErrorKind::NotConnected);
        // Parked first; then all of them come in one edge: a short read takes one datagram only.
        let receiver = spawn(move || {
            (0..4)
                .map(|_| {
                    let mut buf = [0; 16];
                    let (n, from) = b.recv_from(&mut buf).unwrap();
                    assert_eq!(from, at);
                    n
                })
                .collect::<Vec<_>>()
        });
        settle();
        for len in [3, 0, 16, 40] {
            assert_eq!(a.send_to(&vec![7; len], bt).unwrap(), len);
        }
        assert_eq!(receiver.join().unwrap(), [3, 0, 16, 16]); // what does not fit is cut off
    }
}

#[test]
fn connected_sockets_send_and_receive() {
    let _alive = watchdog();
    for ip in loopbacks() {
        let (a, b) = connected(ip);
        let echo = spawn(move || {
            let mut buf = [0; 16];
            let n = b.recv(&mut buf).unwrap();
            b.send(&buf[..n]).unwrap();
            b
        });
        assert_eq!(a.send(b"ping").unwrap(), 4);
        let mut buf = [0; 16];
        for _ in 0..2 {
            assert_eq!(a.peek(&mut buf).unwrap(), 4);
            assert_eq!(a.peek_from(&mut buf[..2]).unwrap(), (2, a.peer_addr().unwrap()));
        }
        assert_eq!(a.recv(&mut buf).unwrap(), 4);
        assert_eq!(&buf[..4], b"ping");
        drop(echo);
    }
}

#[test]
fn a_refusal_comes_out_of_the_next_call() {
    let _alive = watchdog();
    let [(a, _), (b, bt)] = two(Ipv4Addr::LOCALHOST.into());
    a.connect(bt).unwrap();
    let copy = a.try_clone().unwrap();
    let receiver = spawn(move || a.recv(&mut [0; 8]));
    settle();
    drop(b);
    copy.send(b"anybody?").unwrap();
    assert_kind(receiver.join().unwrap(), ErrorKind::ConnectionRefused);
    assert!(copy.take_error().unwrap().is_none());
}

#[test]
fn addresses_are_tried_or_the_first_is_taken() {
    let _alive = watchdog();
    let none: &[SocketAddr] = &[];
    let [(a, at), (b, bt)] = two(Ipv4Addr::LOCALHOST.into());
    let std = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for (ours, std) in [
        (a.send_to(b"", none).unwrap_err(), std.send_to(b"", none).unwrap_err()),
        (a.connect(none).unwrap_err(), std.connect(none).unwrap_err()),
        (UdpSocket::bind(none).unwrap_err(), std::net::UdpSocket::bind(none).unwrap_err()),
        (a.send(b"").unwrap_err(), std.send(b"").unwrap_err()),
        (a.send_to(&[0; 70000], bt).unwrap_err(), std.send_to(&[0; 70000], bt).unwrap_err()),
    ] {
        assert_eq!((ours.kind(), ours.to_string()), (std.kind(), std.to_string()));
    }
    assert_kind(UdpSocket::bind(at), ErrorKind::AddrInUse);
    let second = UdpSocket::bind(&[at, "127.0.0.1:0".parse().unwrap()][..]).unwrap();
    second.send_to(b"x", &[bt, at][..]).unwrap();
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 1);
    second.send_to(b"by name", ("localhost", bt.port())).unwrap_or_else(|error| {
        eprintln!("localhost is IPv6 here: {error}");
        7
    });
}

#[test]
fn timeouts_and_non_blocking_mode_are_stds() {
    let _alive = watchdog();
    let (a, b) = connected(Ipv4Addr::LOCALHOST.into());
    assert_kind(a.set_read_timeout(Some(Duration::ZERO)), ErrorKind::InvalidInput);
    assert_kind(a.set_write_timeout(Some(Duration::ZERO)), ErrorKind::InvalidInput);
    a.set_read_timeout(Some(SHORT)).unwrap();
    a.set_write_timeout(Some(SHORT)).unwrap();
    assert!(a.read_timeout().unwrap() >= Some(SHORT) && a.write_timeout().unwrap() >= Some(SHORT));
    let mut buf = [0; 8];
    for call in [UdpSocket::recv, UdpSocket::peek, |a: &UdpSocket, buf: &mut [u8]| Ok(a.recv_from(buf)?.0)] {
        let begun = Instant::now();
        assert_kind(call(&a, &mut buf), ErrorKind::WouldBlock);
        assert!(begun.elapsed() >= SHORT);
    }
    a.set_read_timeout(None).unwrap();
    assert_eq!(a.read_timeout().unwrap(), None);
    a.set_nonblocking(true).unwrap();
    assert_kind(a.recv(&mut buf), ErrorKind::WouldBlock);
    assert_kind(a.peek_from(&mut buf), ErrorKind::WouldBlock);
    b.send(b"1").unwrap();
    assert_eq!(a.recv(&mut buf).unwrap(), 1);
}

#[test]
fn options_are_stds() {
    let _alive = watchdog();
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    a.set_broadcast(true).unwrap();
    assert!(a.broadcast().unwrap());
    a.set_multicast_loop_v4(false).unwrap();
    assert!(!a.multicast_loop_v4().unwrap());
    a.set_multicast_ttl_v4(7).unwrap();
    assert_eq!(a.multicast_ttl_v4().unwrap(), 7);
    a.set_ttl(9).unwrap();
    assert_eq!(a.ttl().unwrap(), 9);
    let (group, here) = (Ipv4Addr::new(224, 0, 0, 123), Ipv4Addr::LOCALHOST);
    a.join_multicast_v4(&group, &here).unwrap();
    assert_kind(a.join_multicast_v4(&group, &here), ErrorKind::AddrInUse);
    a.leave_multicast_v4(&group, &here).unwrap();
    assert_kind(a.leave_multicast_v4(&group, &here), ErrorKind::AddrNotAvailable);
    assert!(a.join_multicast_v4(&here, &here).is_err());
    assert!(a.multicast_loop_v6().is_err());
    if loopbacks().len() == 2 {
        let b = UdpSocket::bind("[::1]:0").unwrap();
        b.set_multicast_loop_v6(false).unwrap();
        assert!(!b.multicast_loop_v6().unwrap());
        let group = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 0x123);
        b.join_multicast_v6(&group, 1).unwrap();
        b.leave_multicast_v6(&group, 1).unwrap();
        assert!(b.leave_multicast_v6(&group, 1).is_err());
    }
}

#[test]
fn many_receivers_each_get_their_own() {
    let _alive = watchdog();
    let [(a, _), (b, bt)] = two(Ipv4Addr::LOCALHOST.into());
    let b = Rc::new(b);
    let receivers: Vec<_> = (0..20)
        .map(|n| {
            let (b, copy) = (b.clone(), b.try_clone().unwrap());
            spawn(move || {
                let mut buf = [0; 64];
                let n = if n % 2 == 0 { b.recv(&mut buf) } else { copy.recv(&mut buf) }.unwrap();
                n as u32
            })
        })
        .collect();
    settle();
    for len in 1..=20 {
        a.send_to(&vec![0; len], bt).unwrap();
    }
    let mut lengths: Vec<u32> = receivers.into_iter().map(|greenlet| greenlet.join().unwrap()).collect();
    lengths.sort();
    assert_eq!(lengths, (1..=20).collect::<Vec<_>>());
}

#[test]
fn threads_other_hubs_and_std_share_it() {
    let _alive = watchdog();
    let [(a, _), (b, bt)] = two(Ipv4Addr::LOCALHOST.into());
    let b = Arc::new(b);
    let plain = std::thread::spawn({
        let b = b.clone();
        move || b.recv(&mut [0; 8]).unwrap()
    });
    let hub = std::thread::spawn({
        let b = b.clone();
        move || spawn(move || b.recv(&mut [0; 8]).unwrap()).join().unwrap()
    });
    let here = spawn({
        let b = b.clone();
        move || b.recv(&mut [0; 8]).unwrap()
    });
    settle();
    for _ in 0..3 {
        a.send_to(b"abc", bt).unwrap();
    }
    assert_eq!([here.join().unwrap(), plain.join().unwrap(), hub.join().unwrap()], [3; 3]);
    // Killed and timed out, and still good; then std's, and ours again.
    let killed = spawn({
        let b = b.clone();
        move || b.recv(&mut [0; 8])
    });
    settle();
    killed.kill();
    assert!(timeout(SHORT, || b.recv(&mut [0; 8])).is_err());
    drop(killed);
    let b = Arc::into_inner(b).unwrap();
    let shown = format!("{b:?}");
    let std: std::net::UdpSocket = b.into();
    assert_eq!(shown, format!("{std:?}"));
    std.set_read_timeout(Some(SHORT)).unwrap();
    assert_kind(std.recv(&mut [0; 8]), ErrorKind::WouldBlock);
    let b = UdpSocket::from(OwnedFd::from(UdpSocket::from(std)));
    let begun = Instant::now();
    assert_kind(b.recv(&mut [0; 8]), ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= SHORT);
    a.send_to(b"abc", bt).unwrap();
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 3);
}
