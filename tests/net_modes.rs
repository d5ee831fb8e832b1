//! Sockets and the limits of the process: no descriptors left, SIGPIPE, what a kill leaves open.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::time::Duration;

use common::sockets::{assert_kind, in_child, open_descriptors, settle, tcp_pair, watchdog};
use gevent::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use gevent::{sleep, spawn, timeout, yield_now};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Each type is `Send + Sync`, and as safe to unwind past, as std's.
#[test]
fn auto_traits_are_stds() {
    fn all<T: Send + Sync + Unpin + std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    all::<(TcpListener, TcpStream, UdpSocket)>();
    all::<(UnixListener, UnixStream, UnixDatagram)>();
    all::<(gevent::net::Incoming<'_>, gevent::os::unix::net::Incoming<'_>)>();
}

#[test]
fn without_descriptors_calls_fail_and_the_hub_runs_on() {
    in_child("without_descriptors_calls_fail_and_the_hub_runs_on", || {
        let _alive = watchdog();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        yield_now();
        let waiting = std::net::TcpStream::connect(addr).unwrap();
        // The hub has its own descriptors, and knows which stack guards work: trying that takes some.
        spawn(|| sleep(Duration::from_millis(1))).join().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // The next number is one too many: the limit is on numbers.
        let next = nix::unistd::dup(&listener).unwrap().into_raw_fd();
        nix::unistd::close(next).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, next as u64, hard).unwrap();
        let emfile = |error: std::io::Error| {
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error:?}");
            assert!(error.to_string().contains("open files"), "{error}");
        };
        emfile(TcpStream::connect(addr).unwrap_err());
        emfile(TcpListener::bind("127.0.0.1:0").unwrap_err());
        emfile(UdpSocket::bind("127.0.0.1:0").unwrap_err());
        emfile(UnixStream::pair().unwrap_err());
        emfile(UnixDatagram::unbound().unwrap_err());
        emfile(listener.try_clone().unwrap_err());
        emfile(listener.accept().unwrap_err());
        // A loop that tries until it works lets those run who can make it work.
        let freeing = spawn(move || {
            yield_now();
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        });
        let (mut served, _) = listener.incoming().find_map(Result::ok).map(|s| (s, ())).unwrap();
        freeing.join().unwrap();
        (&waiting).write_all(b"still there").unwrap();
        assert_eq!(served.read(&mut [0; 64]).unwrap(), 11);
    });
}

#[test]
fn no_write_raises_sigpipe() {
    in_child("no_write_raises_sigpipe", || {
        let _alive = watchdog();
        // SAFETY: the default action, which is to end the process.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
        let (mut a, b) = tcp_pair();
        drop(b);
        while a.write(&[0; 1000]).is_ok() {}
        assert_kind(a.write_vectored(&[std::io::IoSlice::new(b"x")]), ErrorKind::BrokenPipe);
        let (mut a, b) = UnixStream::pair().unwrap();
        drop(b);
        assert_kind(a.write(b"x"), ErrorKind::BrokenPipe);
        assert_kind(a.write_vectored(&[std::io::IoSlice::new(b"x")]), ErrorKind::BrokenPipe);
        let (a, b) = UnixDatagram::pair().unwrap();
        a.shutdown(std::net::Shutdown::Write).unwrap();
        assert_kind(a.send(b"x"), ErrorKind::BrokenPipe);
        drop(b);
        let a = UdpSocket::bind("127.0.0.1:0").unwrap();
        a.connect(a.local_addr().unwrap()).unwrap();
        drop(a.send(b"x"));
    });
}

/// A listener that takes one connection and drops the rest: the next `connect` waits.
fn full_listener() -> (socket2::Socket, SocketAddr, Vec<TcpStream>) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut made = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(50)) {
        made.push(stream);
    }
    (listener, addr, made)
}

#[test]
fn a_killed_call_leaves_nothing_open() {
    in_child("a_killed_call_leaves_nothing_open", || {
        let _alive = watchdog();
        let (_listener, full, _made) = full_listener();
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = open.local_addr().unwrap();
        sleep(Duration::from_millis(1)); // the hub's own are there
        let before = open_descriptors();
        for _ in 0..20 {
            let connecting = spawn(move || TcpStream::connect(full));
            settle();
            connecting.kill();
            assert!(timeout(Duration::from_millis(1), || TcpStream::connect(full)).is_err());
            assert_kind(TcpStream::connect_timeout(&full, Duration::from_millis(1)), ErrorKind::TimedOut);
            let copy = open.try_clone().unwrap();
            let accepting = spawn(move || copy.accept());
            settle();
            accepting.kill();
            // Killed in the moment in which a connection is there: it is accepted, or left queued.
            let copy = open.try_clone().unwrap();
            let accepting = spawn(move || copy.accept().map(drop));
            settle();
            let client = std::net::TcpStream::connect(addr).unwrap();
            accepting.kill();
            drop(client);
        }
        open.set_nonblocking(true).unwrap();
        while open.accept().is_ok() {}
        assert_eq!(open_descriptors(), before);
        // The hub knows none of the numbers any more: they serve again.
        for _ in 0..20 {
            let (a, mut b) = tcp_pair();
            let reader = spawn(move || (&a).read(&mut [0; 8]).unwrap());
            settle();
            b.write_all(b"1").unwrap();
            assert_eq!(reader.join().unwrap(), 1);
        }
    });
}

/// Destructors run while a kill unwinds: there a call tries once, and never parks.
#[test]
fn while_unwinding_calls_try_once() {
    let _alive = watchdog();
    struct Bye(TcpStream, std::rc::Rc<std::cell::RefCell<Vec<String>>>);
    impl Drop for Bye {
        fn drop(&mut self) {
            let wrote = self.0.write(b"bye").map_err(|error| error.kind());
            let read = self.0.read(&mut [0; 8]).map_err(|error| error.kind());
            let connected = TcpStream::connect(self.0.peer_addr().unwrap());
            self.1.borrow_mut().push(format!("{wrote:?} {read:?} {}", connected.is_err()));
        }
    }
    let (a, mut b) = tcp_pair();
    let said = std::rc::Rc::default();
    let greenlet = spawn({
        let bye = Bye(a, std::rc::Rc::clone(&said));
        move || (&bye.0).read(&mut [0; 8]).map(drop)
    });
    settle();
    greenlet.kill();
    assert_eq!(*said.borrow(), ["Ok(3) Err(WouldBlock) true"]);
    assert_eq!(b.read(&mut [0; 8]).unwrap(), 3);
}

#[test]
fn inside_no_unwind_a_kill_is_an_error() {
    let _alive = watchdog();
    let (a, _b) = tcp_pair();
    let greenlet = spawn(move || gevent::no_unwind(|| (&a).read(&mut [0; 8]).unwrap_err().raw_os_error()));
    settle();
    greenlet.kill();
    assert_eq!(greenlet.join().unwrap(), Some(libc::ECANCELED));
}

#[test]
fn raw_descriptors_go_and_come() {
    let _alive = watchdog();
    let (a, mut b) = tcp_pair();
    let fd = a.as_raw_fd();
    let raw = a.into_raw_fd();
    assert_eq!(raw, fd);
    // SAFETY: the line above gave it to us.
    let mut a = unsafe { TcpStream::from_raw_fd(raw) };
    b.write_all(b"raw").unwrap();
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 3);
    // What is no socket gives errors, not panics.
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut odd = TcpStream::from(std::os::fd::OwnedFd::from(file));
    assert_eq!(odd.read(&mut [0; 8]).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    assert!(format!("{odd:?}").starts_with("TcpStream"));
}

/// The budget: a peer that is always ready starves nobody.
#[test]
fn a_busy_socket_lets_others_run() {
    let _alive = watchdog();
    let (mut a, mut b) = tcp_pair();
    let turns = std::rc::Rc::new(std::cell::Cell::new(0));
    let other = spawn({
        let turns = turns.clone();
        move || loop {
            turns.set(turns.get() + 1);
            yield_now();
        }
    });
    for _ in 0..10_000 {
        a.write_all(b"x").unwrap();
        b.read_exact(&mut [0; 1]).unwrap();
    }
    assert!(turns.get() >= 100, "{}", turns.get());
    other.kill();
}
