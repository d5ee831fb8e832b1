//! `gevent::os::unix::net`: what std documents of each method of the three unix sockets.

mod common;

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net as std_net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::sockets::{assert_kind, settle, watchdog};
use gevent::os::linux::net::SocketAddrExt;
use gevent::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use gevent::{sleep, spawn, timeout};

suite!(stream, crate::common::sockets::unix_pair);

const SHORT: Duration = Duration::from_millis(20);

/// A path that does not exist, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(std::env::temp_dir().join(format!("gevent-test-{}-{name}", std::process::id())))
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn abstract_addr(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("gevent-test-{}-{name}", std::process::id())).unwrap()
}

#[test]
fn connect_and_accept_tell_paths() {
    let _alive = watchdog();
    let place = Place::new("accept");
    let listener = UnixListener::bind(&place).unwrap();
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(place.as_ref()));
    assert_kind(UnixListener::bind(&place), ErrorKind::AddrInUse);
    let server = spawn(move || listener.accept().unwrap());
    settle();
    let client = UnixStream::connect(&place).unwrap();
    let (served, peer) = server.join().unwrap();
    assert!(peer.is_unnamed() && client.local_addr().unwrap().is_unnamed());
    assert_eq!(client.peer_addr().unwrap().as_pathname(), Some(place.as_ref()));
    assert_eq!(served.local_addr().unwrap().as_pathname(), Some(place.as_ref()));
    // The listener went with its greenlet.
    assert_kind(UnixStream::connect(&place), ErrorKind::ConnectionRefused);
}

#[test]
fn bad_paths_are_stds_errors() {
    let _alive = watchdog();
    let long = "x".repeat(200);
    for path in ["", "/does/not/exist", long.as_str(), "in\0side"] {
        let ours = UnixStream::connect(path).unwrap_err();
        let std = std_net::UnixStream::connect(path).unwrap_err();
        assert_eq!((ours.kind(), ours.to_string()), (std.kind(), std.to_string()));
        let ours = UnixDatagram::unbound().unwrap().send_to(b"", path).unwrap_err();
        let std = std_net::UnixDatagram::unbound().unwrap().send_to(b"", path).unwrap_err();
        assert_eq!((ours.kind(), ours.to_string()), (std.kind(), std.to_string()));
    }
    assert_kind(UnixListener::bind(long), ErrorKind::InvalidInput);
}

#[test]
fn abstract_names_work() {
    let _alive = watchdog();
    let addr = abstract_addr("listener");
    let listener = UnixListener::bind_addr(&addr).unwrap();
    assert_kind(UnixListener::bind_addr(&addr), ErrorKind::AddrInUse);
    let mut client = UnixStream::connect_addr(&addr).unwrap();
    client.write_all(b"hidden").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    for stream in (&listener).into_iter().take(1) {
        stream.unwrap().read_to_string(&mut text).unwrap();
    }
    assert_eq!(text, "hidden");
    assert_eq!(client.peer_addr().unwrap().as_abstract_name(), addr.as_abstract_name());
    let (one, other) = (abstract_addr("one"), abstract_addr("other"));
    let (a, b) = (UnixDatagram::bind_addr(&one).unwrap(), UnixDatagram::bind_addr(&other).unwrap());
    a.send_to_addr(b"x", &other).unwrap();
    let (n, from) = b.recv_from(&mut [0; 8]).unwrap();
    assert_eq!((n, from.as_abstract_name()), (1, one.as_abstract_name()));
    b.connect_addr(&one).unwrap();
    assert_eq!(b.peer_addr().unwrap().as_abstract_name(), one.as_abstract_name());
}

#[test]
fn a_listener_may_be_non_blocking_and_comes_from_and_goes_to_std() {
    let _alive = watchdog();
    let place = Place::new("modes");
    let listener = UnixListener::from(std_net::UnixListener::bind(&place).unwrap());
    listener.set_nonblocking(true).unwrap();
    assert_kind(listener.accept(), ErrorKind::WouldBlock);
    assert!(listener.take_error().unwrap().is_none());
    listener.set_nonblocking(false).unwrap();
    let copy = listener.try_clone().unwrap();
    let shown = (format!("{listener:?}"), format!("{:?}", listener.incoming()));
    let std: std_net::UnixListener = listener.into();
    assert_eq!(shown, (format!("{std:?}"), format!("{:?}", std.incoming())));
    let acceptor = spawn(move || copy.accept().map(drop));
    settle(); // would block the thread, were it not polled first
    UnixStream::connect(&place).unwrap();
    acceptor.join().unwrap().unwrap();
    let thread = std::thread::spawn(move || std.accept().map(drop));
    UnixStream::connect(&place).unwrap();
    thread.join().unwrap().unwrap();
}

/// `connect` gets EAGAIN, and no event says when there is room.
#[test]
fn connect_waits_for_room_in_the_queue() {
    let _alive = watchdog();
    let place = Place::new("backlog");
    let raw = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    raw.bind(&socket2::SockAddr::unix(&place).unwrap()).unwrap();
    raw.listen(1).unwrap();
    let listener = UnixListener::from(OwnedFd::from(raw));
    let connect = |place: &Place| {
        let path = place.0.clone();
        spawn(move || UnixStream::connect(path).unwrap())
    };
    let clients: Vec<_> = (0..6).map(|_| connect(&place)).collect();
    settle();
    let waiting = clients.iter().filter(|client| !client.ready()).count();
    assert!(waiting >= 3, "{waiting}");
    let killed = connect(&place);
    settle();
    killed.kill();
    assert!(timeout(SHORT, || UnixStream::connect(&place)).is_err());
    let thread = std::thread::spawn({
        let path = place.0.clone();
        move || UnixStream::connect(path).unwrap()
    });
    let served: Vec<_> = listener.incoming().take(7).map(Result::unwrap).collect();
    let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    thread.join().unwrap();
    assert_eq!((served.len(), clients.len()), (7, 6));
}

/// A read stops where descriptors were passed along: a short read, with more behind and no edge.
#[test]
fn passed_descriptors_do_not_hide_what_follows() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let _alive = watchdog();
    let (a, mut b) = UnixStream::pair().unwrap();
    let reader = spawn(move || {
        let mut got = Vec::new();
        let mut reads = 0;
        while got.len() < 6 {
            let mut buf = [0; 64];
            let n = (&a).read(&mut buf).unwrap();
            got.extend_from_slice(&buf[..n]);
            reads += 1;
        }
        (got, reads)
    });
    settle();
    b.write_all(b"aa").unwrap();
    let (fd, part) = ([b.as_raw_fd()], [IoSlice::new(b"bb")]);
    let control = [ControlMessage::ScmRights(&fd)];
    sendmsg::<()>(b.as_raw_fd(), &part, &control, MsgFlags::empty(), None).unwrap();
    b.write_all(b"cc").unwrap();
    let (got, reads) = reader.join().unwrap();
    assert_eq!(got, b"aabbcc");
    assert!(reads > 1, "the kernel does not stop there any more: the test shows nothing");
}

#[test]
fn datagrams_keep_their_bounds_and_tell_their_sender() {
    let _alive = watchdog();
    let (one, other) = (Place::new("one"), Place::new("other"));
    let a = UnixDatagram::bind(&one).unwrap();
    let b = UnixDatagram::bind(&other).unwrap();
    assert_kind(UnixDatagram::bind(&one), ErrorKind::AddrInUse);
    assert_eq!(a.local_addr().unwrap().as_pathname(), Some(one.as_ref()));
    assert_kind(a.send(b"whom?"), ErrorKind::NotConnected);
    let receiver = spawn(move || {
        (0..4)
            .map(|_| {
                let (n, from) = b.recv_from(&mut [0; 16]).unwrap();
                (n, from.as_pathname().map(Path::to_owned))
            })
            .collect::<Vec<_>>()
    });
    settle();
    for len in [3, 0, 40] {
        assert_eq!(a.send_to(&vec![7; len], &other).unwrap(), len);
    }
    UnixDatagram::unbound().unwrap().send_to(b"unnamed", &other).unwrap();
    let from = Some(one.0.clone());
    assert_eq!(receiver.join().unwrap(), [(3, from.clone()), (0, from.clone()), (16, from), (7, None)]);
    assert_kind(a.send_to(b"gone", &other), ErrorKind::ConnectionRefused);
    a.connect(&one).unwrap();
    assert_eq!(a.peer_addr().unwrap().as_pathname(), Some(one.as_ref()));
}

/// To a receiver that the sender is not connected to there is EAGAIN, and no event ever.
#[test]
fn senders_wait_for_a_full_receiver() {
    let _alive = watchdog();
    const COUNT: u32 = 500;
    let place = Place::new("full");
    let run = |how: &'static str, to: Place| {
        let receiver = UnixDatagram::bind(&to).unwrap();
        let path = to.0.clone();
        let send = move || {
            let a = UnixDatagram::unbound().unwrap();
            if how == "connected" {
                a.connect(&path).unwrap();
            }
            for n in 0..COUNT {
                let n = n.to_le_bytes();
                if how == "connected" { a.send(&n) } else { a.send_to(&n, &path) }.unwrap();
            }
        };
        let (mut green, mut thread) = (None, None);
        if how == "thread" {
            thread = Some(std::thread::spawn(send))
        } else {
            green = Some(spawn(send))
        }
        settle();
        sleep(Duration::from_millis(5));
        for n in 0..COUNT {
            let mut buf = [0; 4];
            assert_eq!(receiver.recv(&mut buf).unwrap(), 4);
            assert_eq!(u32::from_le_bytes(buf), n);
        }
        green.into_iter().for_each(|sender| sender.join().unwrap());
        thread.into_iter().for_each(|sender| sender.join().unwrap());
        to
    };
    let place = run("by address", place);
    drop(place);
    drop(run("connected", Place::new("full2")));
    drop(run("thread", Place::new("full3")));
    // The write timeout and kills end it.
    let place = Place::new("full4");
    let _receiver = UnixDatagram::bind(&place).unwrap();
    let a = Arc::new(UnixDatagram::unbound().unwrap());
    a.set_write_timeout(Some(SHORT)).unwrap();
    let begun = Instant::now();
    let error = (0..10_000).find_map(|_| a.send_to(b"x", &place).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= SHORT);
    a.set_write_timeout(None).unwrap();
    assert!(timeout(SHORT, || a.send_to(b"x", &place)).is_err());
    a.set_nonblocking(true).unwrap();
    assert_kind(a.send_to(b"x", &place), ErrorKind::WouldBlock);
}

#[test]
fn datagram_modes_are_stds() {
    let _alive = watchdog();
    let (a, b) = UnixDatagram::pair().unwrap();
    assert_kind(a.set_read_timeout(Some(Duration::ZERO)), ErrorKind::InvalidInput);
    a.set_read_timeout(Some(SHORT)).unwrap();
    a.set_write_timeout(Some(SHORT)).unwrap();
    assert!(a.read_timeout().unwrap() >= Some(SHORT) && a.write_timeout().unwrap() >= Some(SHORT));
    let begun = Instant::now();
    assert_kind(a.recv(&mut [0; 8]), ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= SHORT);
    let error = (0..10_000).find_map(|_| a.send(b"x").err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let copy = a.try_clone().unwrap();
    copy.set_nonblocking(true).unwrap();
    assert_kind(a.recv_from(&mut [0; 8]), ErrorKind::WouldBlock);
    let shown = format!("{a:?}");
    let std: std_net::UnixDatagram = a.into();
    assert_eq!(shown, format!("{std:?}"));
    let a = UnixDatagram::from(std);
    assert_kind(a.recv(&mut [0; 8]), ErrorKind::WouldBlock);
    assert!(a.take_error().unwrap().is_none());
    a.set_nonblocking(false).unwrap();
    a.set_read_timeout(None).unwrap();
    let a = Arc::new(a);
    let receiver = spawn({
        let a = a.clone();
        move || a.recv(&mut [0; 8])
    });
    settle();
    assert!(!receiver.ready());
    a.shutdown(Shutdown::Read).unwrap();
    assert_eq!(receiver.join().unwrap().unwrap(), 0);
    drop(b);
    assert_kind(a.send(b"gone"), ErrorKind::ConnectionRefused);
}
