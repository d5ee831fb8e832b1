//! `gevent::server`: handing out work, bounds, failures of accepting, and the ways to stop.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::sockets::settle;
use common::{Drops, is_child, subprocess, watchdog};
use gevent::net::{SocketAddr, TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use gevent::server::{DatagramServer, Stopper, StreamServer, raise_fd_limit};
use gevent::{Ended, Greenlet, Hub, StackSize, sleep, spawn};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{Signal, raise};
use nix::time::{ClockId, clock_gettime};
use socket2::SockRef;

const LONG: Duration = Duration::from_secs(3600);

/// Waits until something has happened that has no event of its own. The watchdog sees to it that it
/// does.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {
        sleep(Duration::from_millis(1));
    }
}

fn tcp() -> (StreamServer, SocketAddr, Stopper) {
    let server = StreamServer::bind("127.0.0.1:0").unwrap();
    let (addr, stopper) = (server.local_addr().unwrap(), server.stopper());
    (server, addr, stopper)
}

fn echo<S: Read + Write>(mut stream: S) -> io::Result<()> {
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

/// Sends it, and reads as much back.
fn asks<S: Read + Write>(mut stream: S, what: &[u8]) {
    stream.write_all(what).unwrap();
    let mut back = vec![0; what.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, what);
}

/// The connection ends: by its end, or by a reset.
fn ends(mut stream: &TcpStream) {
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("it goes on: {other:?}"),
    }
}

/// A handler that must not be called.
fn never(_: TcpStream, peer: SocketAddr) {
    panic!("{peer} was accepted");
}

fn stopped(serving: Greenlet<io::Result<()>>) {
    serving.join().unwrap().unwrap();
}

/// Three tenths of a second pass, and this thread neither computes nor wakes.
#[track_caller]
fn rests() {
    let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let waits = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches();
    let before = (used(), waits());
    sleep(Duration::from_millis(300));
    let after = (used() - before.0, waits() - before.1);
    assert!(after.0 < Duration::from_millis(50) && after.1 < 5, "{after:?}");
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Uses up all descriptors, and sees to it that there are no more of them than 100.
fn no_descriptor_left() -> Vec<std::fs::File> {
    use std::os::fd::AsRawFd;
    let open = || std::fs::File::open("/dev/null").unwrap();
    let hoard = std::iter::repeat_with(open).take_while(|file| file.as_raw_fd() < 100).collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    hoard
}

/// What a child of this test wrote to standard error; it must have passed.
fn told_by(test: &str) -> String {
    let output = subprocess(test, &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}\n{text}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    text
}

#[test]
fn each_connection_has_a_greenlet_named_after_its_peer() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let names = Rc::new(RefCell::new(Vec::new())); // an `Rc` inside is fine
    let seen = names.clone();
    let serving = server.start(move |stream, peer| {
        assert_eq!(stream.peer_addr().unwrap(), peer);
        seen.borrow_mut().push(gevent::current().name().unwrap());
        echo(stream)
    });
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for (n, client) in clients.iter().enumerate() {
        asks(client, format!("client {n}").as_bytes());
    }
    assert_eq!(stopper.connections(), 3);
    let mut expected: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap().to_string()).collect();
    expected.sort();
    names.borrow_mut().sort();
    assert_eq!(*names.borrow(), expected);
    drop(clients);
    until(|| stopper.connections() == 0);
    stopper.stop();
    stopped(serving);
}

#[test]
fn a_server_with_nothing_to_do_rests() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    rests();
    let client = TcpStream::connect(addr).unwrap();
    asks(&client, b"hi");
    rests();
    // Full, with one that waits.
    stopper.stop();
    drop(client);
    stopped(serving);
    let (server, addr, stopper) = tcp();
    let serving = server.max_connections(1).start(|stream, _| echo(stream));
    let clients = [TcpStream::connect(addr).unwrap(), TcpStream::connect(addr).unwrap()];
    asks(&clients[0], b"hi");
    rests();
    stopper.stop_within(LONG);
    settle();
    rests(); // draining
    drop(clients);
    stopped(serving);
}

#[test]
fn serve_runs_in_the_calling_greenlet_until_stopped_from_another() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    assert!(!stopper.is_stopping());
    let client = spawn(move || {
        asks(&TcpStream::connect(addr).unwrap(), b"from a greenlet");
        stopper.stop();
        assert!(stopper.is_stopping());
    });
    server.serve(|stream, _| echo(stream)).unwrap();
    client.join().unwrap();
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_server_that_was_stopped_before_it_serves_accepts_nothing() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let client = TcpStream::connect(addr).unwrap();
    stopper.stop();
    server.serve(never).unwrap();
    ends(&client);
}

#[test]
fn other_threads_stop_it() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let thread = std::thread::spawn(move || {
        let client = std::net::TcpStream::connect(addr).unwrap();
        asks(&client, b"from a thread");
        assert_eq!(stopper.connections(), 1);
        stopper.stop_within(LONG);
        drop(client); // the server waits for this
    });
    server.serve(|stream, _| echo(stream)).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_stop_lets_connections_end_and_closes_the_listener_at_once() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let client = TcpStream::connect(addr).unwrap();
    asks(&client, b"before");
    stopper.stop_within(LONG);
    until(|| TcpStream::connect(addr).is_err());
    asks(&client, b"after");
    assert!(!serving.ready());
    drop(client);
    stopped(serving);
    assert_eq!(stopper.connections(), 0);
}

#[test]
fn what_outlives_the_grace_is_killed_and_unwinds() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let drops = Drops::new();
    let tokens = drops.clone();
    let serving = server.start(move |stream: TcpStream, _| {
        let _token = tokens.token();
        echo(stream)
    });
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(addr).unwrap()).collect();
    clients.iter().for_each(|client| asks(client, b"hi"));
    let begun = Instant::now();
    let grace = Duration::from_millis(50);
    stopper.stop_within(grace);
    stopped(serving);
    assert!(begun.elapsed() >= grace);
    assert_eq!((drops.count(), stopper.connections()), (10, 0));
    clients.iter().for_each(ends);
}

#[test]
fn a_later_stop_can_end_the_grace_and_never_prolongs_it() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let client = TcpStream::connect(addr).unwrap();
    asks(&client, b"hi");
    stopper.stop_within(LONG);
    settle();
    stopper.stop(); // one second
    stopper.stop_within(Duration::from_millis(20));
    let begun = Instant::now();
    stopper.stop_within(LONG);
    stopped(serving);
    assert!(begun.elapsed() < Duration::from_millis(900));
    ends(&client);
}

#[test]
fn work_that_catches_the_kill_does_not_hold_the_server_up_for_ever() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let caught = Rc::new(Cell::new(false));
    let flag = caught.clone();
    let serving = server.start(move |_, _| {
        let _ = catch_unwind(AssertUnwindSafe(|| sleep(LONG)));
        flag.set(true);
        sleep(LONG);
    });
    let client = TcpStream::connect(addr).unwrap();
    until(|| stopper.connections() == 1);
    stopper.stop_within(Duration::ZERO);
    stopped(serving);
    assert!(caught.get());
    assert_eq!(stopper.connections(), 1);
    drop(client);
}

#[test]
fn connections_beyond_the_bound_wait_in_the_queue() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let most = Rc::new(Cell::new(0));
    let (seen, now) = (most.clone(), stopper.clone());
    let serving = server.max_connections(3).start(move |stream, _| {
        seen.set(now.connections().max(seen.get()));
        echo(stream)
    });
    let clients: Vec<_> = (0..10)
        .map(|n| {
            spawn(move || {
                let client = TcpStream::connect(addr).unwrap();
                (0..5).for_each(|_| asks(&client, &[n; 100]));
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(most.get(), 3);
    stopper.stop();
    stopped(serving);
}

#[test]
fn a_full_server_accepts_nothing_and_can_be_stopped() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.max_connections(1).start(|stream, _| echo(stream));
    let first = TcpStream::connect(addr).unwrap();
    asks(&first, b"first");
    let second = TcpStream::connect(addr).unwrap();
    (&second).write_all(b"second").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!((&second).read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(stopper.connections(), 1);
    stopper.stop_within(Duration::ZERO);
    stopped(serving);
    ends(&first);
    second.set_read_timeout(None).unwrap();
    ends(&second);
}

#[test]
fn a_handler_that_fails_or_panics_ends_its_own_connection_and_is_named() {
    let test = "a_handler_that_fails_or_panics_ends_its_own_connection_and_is_named";
    if !is_child() {
        let told = told_by(test);
        let lines = |of: &str| told.lines().filter(|line| line.contains(of)).collect::<Vec<_>>();
        let [failed] = lines("failed: this one fails")[..] else { panic!("{told}") };
        let [panicked] = lines("panicked: this one panics")[..] else { panic!("{told}") };
        let [fails, panics] = lines("peer of")[..] else { panic!("{told}") };
        let peer = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
        assert!(failed.contains(&format!("connection of {} ", peer(fails))), "{told}");
        assert!(panicked.contains(&peer(panics)), "{told}");
        return;
    }
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|mut stream: TcpStream, _| {
        let mut buf = [0; 1];
        stream.read_exact(&mut buf).unwrap();
        match &buf {
            b"f" => Err("this one fails"),
            b"p" => panic!("this one panics"),
            _ => echo(stream).map_err(|_| "not this"),
        }
    });
    let good = TcpStream::connect(addr).unwrap();
    for (name, what) in [("failure", b"f"), ("panic", b"p")] {
        let mut bad = TcpStream::connect(addr).unwrap();
        eprintln!("peer of the {name}: {}", bad.local_addr().unwrap());
        bad.write_all(what).unwrap();
        ends(&bad);
    }
    (&good).write_all(b"e").unwrap();
    asks(&good, b"still served");
    assert_eq!(stopper.connections(), 1);
    drop(good);
    until(|| stopper.connections() == 0);
    stopper.stop();
    stopped(serving);
}

#[test]
fn unix_sockets_are_served() {
    let _alive = watchdog();
    let path = std::env::temp_dir().join(format!("gevent-server-{}", std::process::id()));
    let server = StreamServer::from(UnixListener::bind(&path).unwrap());
    let stopper = server.stopper();
    assert!(format!("{server:?}").contains(path.to_str().unwrap()));
    let names = Rc::new(RefCell::new(Vec::new()));
    let seen = names.clone();
    let serving = server.start(move |stream: UnixStream, peer| {
        assert!(peer.is_unnamed());
        seen.borrow_mut().push(gevent::current().name().unwrap());
        echo(stream)
    });
    asks(UnixStream::connect(&path).unwrap(), b"over a path");
    assert_eq!(*names.borrow(), [format!("process {}", std::process::id())]);
    stopper.stop();
    stopped(serving);
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_killed_server_closes_its_socket_and_leaves_connections_alone() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let client = TcpStream::connect(addr).unwrap();
    asks(&client, b"before");
    serving.kill();
    assert!(matches!(serving.join(), Err(Ended::Killed)));
    assert!(TcpStream::connect(addr).is_err());
    asks(&client, b"after");
    drop(client);
    until(|| stopper.connections() == 0);
}

#[test]
fn a_socket_that_cannot_accept_ends_the_server_with_the_error() {
    let _alive = watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let copy = listener.try_clone().unwrap();
    let server = StreamServer::from(listener);
    let serving = server.start(|stream, _| echo(stream));
    let client = TcpStream::connect(addr).unwrap();
    asks(&client, b"before");
    SockRef::from(&copy).shutdown(Shutdown::Both).unwrap();
    settle();
    asks(&client, b"drains");
    drop(client);
    let error = serving.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
}

#[test]
fn the_queue_is_as_long_as_asked_for() {
    let _alive = watchdog();
    let (server, addr, _) = tcp();
    let server = server.backlog(1);
    let waiting = |n| -> Vec<_> {
        (0..n)
            .map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50)))
            .take_while(Result::is_ok)
            .collect()
    };
    assert_eq!(waiting(10).len(), 2); // the kernel allows one more
    let server = server.backlog(100);
    assert_eq!(waiting(20).len(), 20);
    drop(server);
}

#[test]
fn a_wish_that_cannot_be_granted_comes_out_of_serve() {
    let _alive = watchdog();
    let (server, ..) = tcp();
    let error = server.stop_on(&[libc::SIGKILL], LONG).serve(|_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(StreamServer::bind("127.0.0.1:1:1").is_err());
    assert!(DatagramServer::bind("nowhere").is_err());
}

#[test]
fn a_signal_drains_and_a_second_one_kills() {
    let test = "a_signal_drains_and_a_second_one_kills";
    if !is_child() {
        told_by(test);
        return;
    }
    let _alive = watchdog();
    for second in [false, true] {
        let (server, addr, stopper) = tcp();
        let serving = server.stop_on(&[libc::SIGINT, libc::SIGTERM], LONG).start(|stream, _| echo(stream));
        let client = TcpStream::connect(addr).unwrap();
        asks(&client, b"before");
        raise(Signal::SIGTERM).unwrap();
        until(|| stopper.is_stopping());
        asks(&client, b"after");
        if second {
            raise(Signal::SIGINT).unwrap();
            ends(&client);
        } else {
            drop(client);
        }
        stopped(serving);
    }
    // Still caught, and of no effect.
    raise(Signal::SIGTERM).unwrap();
}

#[test]
fn out_of_descriptors_it_waits_tells_once_and_goes_on() {
    let test = "out_of_descriptors_it_waits_tells_once_and_goes_on";
    if !is_child() {
        let told = told_by(test);
        let lines: Vec<_> = told
            .lines()
            .filter(|line| line.contains("Too many open files") || line.starts_with("episode"))
            .collect();
        let [one, first, two, second, end] = lines[..] else { panic!("{told}") };
        assert_eq!((one, two, end), ("episode one", "episode two", "episodes over"), "{told}");
        for line in [first, second] {
            assert!(line.starts_with("gevent: server 127.0.0.1:"), "{told}");
        }
        return;
    }
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let kept = TcpStream::connect(addr).unwrap();
    asks(&kept, b"first");
    for episode in ["one", "two"] {
        eprintln!("episode {episode}");
        // A client's descriptor is made, the server's is not to be had.
        let spare = TcpStream::connect(addr).unwrap();
        asks(&spare, b"accepted");
        drop(spare);
        until(|| stopper.connections() == 1);
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let hoard = no_descriptor_left();
        client.connect(&addr.into()).unwrap();
        let client = TcpStream::from(std::net::TcpStream::from(client));
        assert_eq!(std::fs::File::open("/dev/null").unwrap_err().raw_os_error(), Some(libc::EMFILE));
        let asking = spawn(move || asks(&client, b"accepted late"));
        // 10, 20, 40 ms: several tries, and the hub runs on.
        sleep(Duration::from_millis(100));
        asks(&kept, b"meanwhile");
        assert!(!asking.ready());
        assert_eq!(stopper.connections(), 1);
        drop(hoard);
        asking.join().unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        until(|| stopper.connections() == 1);
    }
    eprintln!("episodes over");
    drop(kept);
    stopper.stop();
    stopped(serving);
}

/// `accept` says EMFILE whether or not anybody wants to be accepted: a server that is exactly full
/// must neither complain nor spin.
#[test]
fn at_the_limit_with_nobody_waiting_it_rests() {
    let test = "at_the_limit_with_nobody_waiting_it_rests";
    if !is_child() {
        let told = told_by(test);
        assert!(!told.contains("cannot take"), "{told}");
        return;
    }
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let mut hoard = no_descriptor_left();
    hoard.pop(); // one is left, for this client's connection
    client.connect(&addr.into()).unwrap();
    let client = TcpStream::from(std::net::TcpStream::from(client));
    asks(&client, b"the last one");
    rests();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    drop(hoard);
    asks(&TcpStream::connect(addr).unwrap(), b"and it still hears of the next");
    drop(client);
    stopper.stop();
    stopped(serving);
}

#[test]
fn an_ended_connection_makes_room_at_once() {
    let test = "an_ended_connection_makes_room_at_once";
    if !is_child() {
        told_by(test);
        return;
    }
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let first = TcpStream::connect(addr).unwrap();
    asks(&first, b"first");
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let _hoard = no_descriptor_left();
    client.connect(&addr.into()).unwrap();
    // 10 + 20 + … + 640 ms: the next try is a second away.
    sleep(Duration::from_millis(1400));
    let begun = Instant::now();
    first.shutdown(Shutdown::Both).unwrap();
    asks(TcpStream::from(std::net::TcpStream::from(client)), b"second");
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    stopper.stop();
    stopped(serving);
}

#[test]
fn without_a_stack_a_connection_is_closed_and_the_server_goes_on() {
    let test = "without_a_stack_a_connection_is_closed_and_the_server_goes_on";
    if !is_child() {
        let told = told_by(test);
        assert_eq!(told.matches("cannot take what comes").count(), 1, "{told}");
        return;
    }
    let _alive = watchdog();
    Hub::builder().stack_size(StackSize::MAX).install().unwrap();
    let (server, addr, stopper) = tcp();
    let (asked, ready) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        ready.recv().unwrap();
        for _ in 0..3 {
            let mut client = std::net::TcpStream::connect(addr).unwrap();
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
        stopper.stop();
    });
    // One such stack has 64 MiB.
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
    setrlimit(Resource::RLIMIT_AS, used + (48 << 20), used + (48 << 20)).unwrap();
    asked.send(()).unwrap();
    server.serve(never).unwrap();
    thread.join().unwrap();
}

#[test]
fn the_limit_of_descriptors_is_raised_to_the_hard_one() {
    let test = "the_limit_of_descriptors_is_raised_to_the_hard_one";
    if !is_child() {
        told_by(test);
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    assert_eq!(raise_fd_limit().unwrap(), hard);
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
}

#[test]
fn a_thousand_clients_come_and_go_on_one_thread() {
    let test = "a_thousand_clients_come_and_go_on_one_thread";
    if !is_child() {
        told_by(test);
        return;
    }
    let _alive = watchdog();
    raise_fd_limit().unwrap();
    let before = threads();
    let (server, addr, stopper) = tcp();
    let serving = server.start(|stream, _| echo(stream));
    let most = Rc::new(Cell::new(0));
    // All at once, byte for byte.
    let clients: Vec<_> = (0..1000u32)
        .map(|n| {
            let (stopper, most) = (stopper.clone(), most.clone());
            spawn(move || {
                let client = TcpStream::connect(addr).unwrap();
                for round in 0..5u32 {
                    let text: Vec<u8> = (0..200).flat_map(|i: u32| (n ^ round ^ i).to_le_bytes()).collect();
                    asks(&client, &text);
                    until(|| {
                        most.set(stopper.connections().max(most.get()));
                        most.get() == 1000
                    });
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(most.get(), 1000);
    assert_eq!(threads(), before);
    until(|| stopper.connections() == 0);
    // A storm of connections that say nothing, or break off.
    let storm: Vec<_> = (0..1000)
        .map(|n| {
            spawn(move || {
                let mut client = TcpStream::connect(addr).unwrap();
                if n % 3 == 1 {
                    client.write_all(b"unread").unwrap();
                    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                }
            })
        })
        .collect();
    storm.into_iter().for_each(|client| client.join().unwrap());
    asks(&TcpStream::connect(addr).unwrap(), b"none the worse");
    until(|| stopper.connections() == 0);
    stopper.stop();
    stopped(serving);
}

/// Asks until both hubs of a server have answered; returns a connection to each.
fn both_hubs(addr: SocketAddr) -> [TcpStream; 2] {
    let mut found: Vec<(String, TcpStream)> = Vec::new();
    while found.len() < 2 {
        let client = TcpStream::connect(addr).unwrap();
        let mut len = [0];
        (&client).read_exact(&mut len).unwrap();
        let mut name = vec![0; usize::from(len[0])];
        (&client).read_exact(&mut name).unwrap();
        let name = String::from_utf8(name).unwrap();
        if found.iter().all(|(other, _)| *other != name) {
            found.push((name, client));
        }
    }
    let streams: Vec<_> = found.into_iter().map(|(_, stream)| stream).collect();
    streams.try_into().unwrap()
}

/// Says which thread it is on, then echoes.
fn named_echo(mut stream: TcpStream) -> io::Result<()> {
    let name = format!("{:?}", std::thread::current().id());
    stream.write_all(&[name.len() as u8])?;
    stream.write_all(name.as_bytes())?;
    echo(stream)
}

#[test]
fn two_hubs_share_the_work_and_stop_together() {
    let _alive = watchdog();
    for ip in common::sockets::loopbacks() {
        let server = StreamServer::bind((ip, 0)).unwrap();
        let (addr, stopper) = (server.local_addr().unwrap(), server.stopper());
        let serving = spawn(move || server.serve_on(2, |stream, _| named_echo(stream)));
        let clients = both_hubs(addr);
        clients.iter().for_each(|client| asks(client, b"hi"));
        until(|| stopper.connections() == 2);
        stopper.stop_within(LONG);
        until(|| TcpStream::connect(addr).is_err());
        clients.iter().for_each(|client| asks(client, b"draining"));
        // The caller's hub runs while it waits for the other.
        for client in clients {
            assert!(!serving.ready());
            drop(client);
            sleep(Duration::from_millis(5));
        }
        stopped(serving);
        assert_eq!(stopper.connections(), 0);
    }
}

#[test]
fn the_bound_holds_over_all_hubs() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let server = server.max_connections(2);
    let serving = spawn(move || server.serve_on(2, |stream, _| named_echo(stream)));
    let [one, other] = both_hubs(addr);
    // More on each hub than there is room for.
    let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    sleep(Duration::from_millis(20));
    assert_eq!(stopper.connections(), 2);
    drop((one, other));
    let served: Vec<_> = waiting
        .into_iter()
        .map(|mut client| {
            spawn(move || {
                client.read_exact(&mut [0; 1]).unwrap();
                drop(client);
            })
        })
        .collect();
    served.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    until(|| stopper.connections() == 0);
    stopper.stop();
    stopped(serving);
}

#[test]
fn what_outlives_the_grace_is_killed_on_every_hub() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = spawn(move || server.serve_on(2, |stream, _| named_echo(stream)));
    let clients = both_hubs(addr);
    stopper.stop_within(Duration::from_millis(10));
    stopped(serving);
    clients.iter().for_each(ends);
}

#[test]
fn killing_the_caller_of_serve_on_stops_the_other_hubs() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = spawn(move || server.serve_on(2, |stream, _| named_echo(stream)));
    let clients = both_hubs(addr);
    serving.kill();
    assert!(matches!(serving.join(), Err(Ended::Killed)));
    assert!(stopper.is_stopping());
    until(|| stopper.connections() == 1); // the caller's own goes on
    until(|| TcpStream::connect(addr).is_err());
    drop(clients);
    until(|| stopper.connections() == 0);
}

#[test]
fn no_or_one_hub_is_the_callers() {
    let _alive = watchdog();
    for hubs in [0, 1] {
        let (server, addr, stopper) = tcp();
        let here = std::thread::current().id();
        let serving = spawn(move || {
            server.serve_on(hubs, move |stream, _| {
                assert_eq!(std::thread::current().id(), here);
                echo(stream)
            })
        });
        asks(&TcpStream::connect(addr).unwrap(), b"hi");
        stopper.stop();
        stopped(serving);
    }
}

#[test]
fn the_address_of_several_hubs_is_still_in_use_for_others() {
    let _alive = watchdog();
    let (server, addr, stopper) = tcp();
    let serving = spawn(move || server.serve_on(2, |stream, _| named_echo(stream)));
    drop(both_hubs(addr));
    assert_eq!(StreamServer::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
    stopper.stop();
    stopped(serving);
    drop(StreamServer::bind(addr).unwrap());
}

#[test]
fn datagrams_are_handled_and_answered() {
    let _alive = watchdog();
    let server = DatagramServer::bind("127.0.0.1:0").unwrap();
    let (addr, stopper) = (server.local_addr().unwrap(), server.stopper());
    assert!(format!("{server:?}").contains(&addr.to_string()));
    let serving = server.start(move |data, peer, socket| {
        assert_eq!(gevent::current().name().unwrap(), peer.to_string());
        assert_eq!(socket.local_addr().unwrap(), addr);
        socket.send_to(&data, peer).map(drop)
    });
    let clients: Vec<_> = (0..20u8)
        .map(|n| {
            spawn(move || {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect(addr).unwrap();
                // Long ones from one client only: the kernel drops what it has no room for.
                for len in [0, 1, 1000, if n == 0 { 60_000 } else { 64 }] {
                    let data = vec![n; len];
                    client.send(&data).unwrap();
                    let mut buf = vec![0; 65_536];
                    let got = client.recv(&mut buf).unwrap();
                    assert!(buf[..got] == data[..], "{n} {len} {got}");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    stopper.stop();
    stopped(serving);
}

#[test]
fn datagrams_in_flight_are_bounded_drained_and_killed() {
    let _alive = watchdog();
    let server = DatagramServer::bind("127.0.0.1:0").unwrap().max_in_flight(2);
    let (addr, stopper) = (server.local_addr().unwrap(), server.stopper());
    let (begun, done) = (Rc::new(Cell::new(0)), Drops::new());
    let (count, tokens) = (begun.clone(), done.clone());
    let gate = Rc::new(Cell::new(false));
    let open = gate.clone();
    let serving = server.start(move |data, _, _| {
        let _token = tokens.token();
        count.set(count.get() + 1);
        match &data[..] {
            b"gate" => until(|| open.get()),
            _ => sleep(LONG),
        }
    });
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..4 {
        client.send_to(b"gate", addr).unwrap();
    }
    until(|| begun.get() == 2);
    sleep(Duration::from_millis(10));
    assert_eq!((begun.get(), stopper.connections()), (2, 2));
    gate.set(true);
    until(|| done.count() == 4);
    client.send_to(b"for long", addr).unwrap();
    until(|| begun.get() == 5);
    stopper.stop_within(Duration::from_millis(20));
    stopped(serving);
    assert_eq!((done.count(), stopper.connections()), (5, 0));
}

#[test]
fn stoppers_go_to_other_threads_and_servers_say_what_they_are() {
    fn sendable<T: Send + Sync + Clone>(_: &T) {}
    let (server, addr, stopper) = tcp();
    sendable(&stopper);
    assert_eq!(format!("{stopper:?}"), "Stopper { connections: 0, stopping: false }");
    assert!(format!("{server:?}").starts_with(&format!("StreamServer {{ addr: \"{addr}\"")));
}
