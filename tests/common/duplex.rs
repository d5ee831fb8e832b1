//! What holds for every stream, TCP over IPv4 and IPv6 and unix: one test each, made for each kind
//! by [`suite`](crate::suite).

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gevent::{sleep, spawn, timeout, yield_now};

use super::sockets::{assert_kind, settle};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(30);

/// A stream socket of ours.
pub(crate) trait Duplex:
    Read + Write + Sized + Send + Sync + Debug + AsFd + AsRawFd + Into<OwnedFd> + From<OwnedFd> + 'static
{
    type Std: Debug + Read + Write + Send;
    fn into_std(self) -> Self::Std;
    fn from_std(std: Self::Std) -> Self;
    fn r(&self) -> impl Read + '_;
    fn w(&self) -> impl Write + '_;
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()>;
    fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()>;
    fn read_timeout(&self) -> io::Result<Option<Duration>>;
    fn write_timeout(&self) -> io::Result<Option<Duration>>;
    fn set_nonblocking(&self, on: bool) -> io::Result<()>;
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    fn try_clone(&self) -> io::Result<Self>;
    fn std_nonblocking(std: &Self::Std, on: bool);
}

macro_rules! duplex {
    ($Ours:ty, $Std:ty) => {
        impl Duplex for $Ours {
            type Std = $Std;
            fn into_std(self) -> $Std {
                self.into()
            }
            fn from_std(std: $Std) -> Self {
                std.into()
            }
            fn r(&self) -> impl Read + '_ {
                self
            }
            fn w(&self) -> impl Write + '_ {
                self
            }
            fn shutdown(&self, how: Shutdown) -> io::Result<()> {
                <$Ours>::shutdown(self, how)
            }
            fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
                <$Ours>::set_read_timeout(self, limit)
            }
            fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
                <$Ours>::set_write_timeout(self, limit)
            }
            fn read_timeout(&self) -> io::Result<Option<Duration>> {
                <$Ours>::read_timeout(self)
            }
            fn write_timeout(&self) -> io::Result<Option<Duration>> {
                <$Ours>::write_timeout(self)
            }
            fn set_nonblocking(&self, on: bool) -> io::Result<()> {
                <$Ours>::set_nonblocking(self, on)
            }
            fn take_error(&self) -> io::Result<Option<io::Error>> {
                <$Ours>::take_error(self)
            }
            fn try_clone(&self) -> io::Result<Self> {
                <$Ours>::try_clone(self)
            }
            fn std_nonblocking(std: &$Std, on: bool) {
                std.set_nonblocking(on).unwrap();
            }
        }
    };
}

duplex!(gevent::net::TcpStream, std::net::TcpStream);
duplex!(gevent::net::UnixStream, std::os::unix::net::UnixStream);

/// Makes a module of tests for one kind of stream.
#[macro_export]
macro_rules! suite {
    ($kind:ident, $pair:path: $($test:ident)*) => {
        mod $kind { $(
            #[test]
            fn $test() {
                let _alive = $crate::common::sockets::watchdog();
                $crate::common::duplex::$test($pair);
            }
        )* }
    };
    ($kind:ident, $pair:path) => {
        $crate::suite! { $kind, $pair:
            a_reader_waits_while_others_run
            much_data_goes_both_ways_at_once
            vectored_calls_fill_and_empty_all_parts
            data_and_end_in_one_edge_are_both_read
            half_close_ends_one_direction_only
            shutdown_wakes_who_waits
            timeouts_end_calls_as_stds_do
            non_blocking_mode_never_waits
            clones_share_modes_and_data
            many_readers_each_get_their_own
            a_killed_reader_leaves_the_socket_usable
            a_timeout_leaves_the_socket_usable
            std_gets_it_back_as_it_was_set
            std_types_come_in_as_they_were_set
            threads_without_a_hub_block
            hubs_and_threads_share_one_socket
            numbers_are_used_again
            a_write_to_a_closed_peer_is_an_error
            it_is_shown_as_stds
        }
    };
}

pub(crate) fn a_reader_waits_while_others_run<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, mut b) = pair();
    let turns = Rc::new(Cell::new(0));
    let reader = spawn(move || {
        let mut buf = [0; 5];
        a.r().read_exact(&mut buf).unwrap();
        buf
    });
    let counter = spawn({
        let turns = turns.clone();
        move || (0..100).for_each(|_| (turns.set(turns.get() + 1), yield_now()).1)
    });
    counter.join().unwrap();
    assert!(!reader.ready());
    b.write_all(b"hello").unwrap();
    assert_eq!((&reader.join().unwrap(), turns.get()), (b"hello", 100));
}

pub(crate) fn much_data_goes_both_ways_at_once<D: Duplex>(pair: fn() -> (D, D)) {
    const LEN: usize = 3_000_000;
    let byte = |at: usize, way: usize| (at.wrapping_mul(31) >> 3) as u8 ^ way as u8;
    let (a, b) = pair();
    let ends = [Arc::new(a), Arc::new(b)];
    let mut all = Vec::new();
    for way in 0..2 {
        let (from, to) = (ends[way].clone(), ends[1 - way].clone());
        all.push(spawn(move || {
            let data: Vec<u8> = (0..LEN).map(|at| byte(at, way)).collect();
            from.w().write_all(&data).unwrap();
            from.shutdown(Shutdown::Write).unwrap();
        }));
        all.push(spawn(move || {
            let mut data = Vec::new();
            to.r().read_to_end(&mut data).unwrap();
            assert_eq!(data.len(), LEN);
            assert!(data.iter().enumerate().all(|(at, &is)| is == byte(at, way)));
        }));
    }
    all.into_iter().for_each(|greenlet| greenlet.join().unwrap());
}

pub(crate) fn vectored_calls_fill_and_empty_all_parts<D: Duplex>(pair: fn() -> (D, D)) {
    let (mut a, mut b) = pair();
    // The hub knows it from here on: what a call says of readiness counts.
    assert!(timeout(Duration::from_millis(1), || a.read(&mut [0; 1])).is_err());
    assert_eq!(a.write_vectored(&[]).unwrap(), 0);
    assert_eq!(a.read_vectored(&mut []).unwrap(), 0); // as readv(2): at once
    assert_eq!(a.read_vectored(&mut [IoSliceMut::new(&mut [])]).unwrap(), 0);
    assert_eq!(a.write(&[]).unwrap(), 0);
    let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
    assert_eq!(a.write_vectored(&parts).unwrap(), 5);
    let (mut x, mut y) = ([0; 3], [0; 4]);
    let got = b.read_vectored(&mut [IoSliceMut::new(&mut x), IoSliceMut::new(&mut y)]).unwrap();
    assert_eq!((got, &x, &y[..2]), (5, b"abc", &b"de"[..]));
    // More parts than a call takes: the rest is the next call's, and the writer does not wait.
    let many = vec![IoSlice::new(b"z"); 1500];
    assert_eq!(a.write_vectored(&many).unwrap(), 1024);
    assert_eq!(a.write_vectored(&many[1024..]).unwrap(), 476);
    let mut all = vec![0; 1500];
    b.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|&byte| byte == b'z'));
    // A parked vectored read is woken as a plain one.
    let reader = spawn(move || {
        let mut buf = [0; 8];
        b.read_vectored(&mut [IoSliceMut::new(&mut buf)]).unwrap()
    });
    settle();
    a.write_all(b"end").unwrap();
    assert_eq!(reader.join().unwrap(), 3);
}

/// The kernel reports both at once; nothing comes after the short read that takes the data.
pub(crate) fn data_and_end_in_one_edge_are_both_read<D: Duplex>(pair: fn() -> (D, D)) {
    for _ in 0..20 {
        let (a, mut b) = pair();
        let reader = spawn(move || {
            let mut got = Vec::new();
            loop {
                let mut buf = [0; 64];
                match a.r().read(&mut buf).unwrap() {
                    0 => return got,
                    n => got.push(n),
                }
            }
        });
        settle();
        b.write_all(&[7; 100]).unwrap();
        drop(b);
        assert_eq!(reader.join().unwrap(), [64, 36]);
    }
}

pub(crate) fn half_close_ends_one_direction_only<D: Duplex>(pair: fn() -> (D, D)) {
    let (mut a, mut b) = pair();
    a.write_all(b"question").unwrap();
    a.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    b.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    assert_kind(a.write(b"more"), ErrorKind::BrokenPipe);
    b.write_all(b"answer").unwrap();
    drop(b);
    text.clear();
    a.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 0); // and again
}

/// Fills what the other end can hold.
fn fill<D: Duplex>(a: &D) {
    a.set_nonblocking(true).unwrap();
    while a.w().write(&[0; 65536]).is_ok() {}
    a.set_nonblocking(false).unwrap();
}

pub(crate) fn shutdown_wakes_who_waits<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, b) = pair();
    let a = Arc::new(a);
    let copy = a.try_clone().unwrap();
    let reader = spawn(move || copy.r().read(&mut [0; 8]));
    settle();
    a.shutdown(Shutdown::Read).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), 0);
    fill(&*a);
    let writer = spawn({
        let a = a.clone();
        move || a.w().write(&[0; 65536])
    });
    settle();
    assert!(!writer.ready());
    a.shutdown(Shutdown::Write).unwrap();
    assert_kind(writer.join().unwrap(), ErrorKind::BrokenPipe);
    // From another thread too.
    let b = Arc::new(b);
    b.set_nonblocking(true).unwrap();
    while b.r().read(&mut [0; 65536]).unwrap_or(0) != 0 {}
    let (c, d) = pair();
    let c = Arc::new(c);
    let reader = spawn({
        let c = c.clone();
        move || c.r().read(&mut [0; 8])
    });
    settle();
    std::thread::spawn(move || c.shutdown(Shutdown::Both).unwrap());
    assert_eq!(reader.join().unwrap().unwrap(), 0);
    drop(d);
}

pub(crate) fn timeouts_end_calls_as_stds_do<D: Duplex>(pair: fn() -> (D, D)) {
    let (mut a, mut b) = pair();
    assert_eq!((a.read_timeout().unwrap(), a.write_timeout().unwrap()), (None, None));
    assert_kind(a.set_read_timeout(Some(Duration::ZERO)), ErrorKind::InvalidInput);
    assert_kind(a.set_write_timeout(Some(Duration::ZERO)), ErrorKind::InvalidInput);
    a.set_read_timeout(Some(SHORT)).unwrap();
    assert!(a.read_timeout().unwrap().unwrap() >= SHORT);
    let begun = Instant::now();
    let error = a.read(&mut [0; 8]).unwrap_err();
    assert!(begun.elapsed() >= SHORT);
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::WouldBlock, Some(libc::EAGAIN)));
    b.write_all(b"late").unwrap();
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 4);
    a.set_write_timeout(Some(SHORT)).unwrap();
    let begun = Instant::now();
    assert_kind(a.write_all(&vec![0; 64 << 20]), ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= SHORT);
    a.set_read_timeout(Some(Duration::MAX)).unwrap();
    a.set_write_timeout(None).unwrap();
    assert_eq!(a.write_timeout().unwrap(), None);
    // Those that wait meanwhile are not held up.
    a.set_read_timeout(Some(LONG)).unwrap();
    let reader = spawn(move || a.read(&mut [0; 8]));
    settle();
    b.write_all(b"x").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), 1);
}

pub(crate) fn non_blocking_mode_never_waits<D: Duplex>(pair: fn() -> (D, D)) {
    let (mut a, mut b) = pair();
    a.set_nonblocking(true).unwrap();
    let error = a.read(&mut [0; 8]).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::WouldBlock, Some(libc::EAGAIN)));
    b.write_all(b"now").unwrap();
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 3);
    fill(&b);
    b.set_nonblocking(true).unwrap();
    assert_kind(b.write(&[0; 65536]), ErrorKind::WouldBlock);
    // A loop around it does not hold up the hub.
    let (c, mut d) = pair();
    c.set_nonblocking(true).unwrap();
    let writer = spawn(move || d.write_all(b"!").map(|()| d));
    let mut buf = [0; 1];
    while c.r().read(&mut buf).is_err() {}
    assert_eq!(&buf, b"!");
    let mut d = writer.join().unwrap().unwrap();
    c.set_nonblocking(false).unwrap();
    let reader = spawn(move || c.r().read(&mut [0; 8]).unwrap());
    settle();
    assert!(!reader.ready());
    d.write_all(b"yes").unwrap();
    assert_eq!(reader.join().unwrap(), 3);
}

pub(crate) fn clones_share_modes_and_data<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, mut b) = pair();
    let copy = a.try_clone().unwrap();
    assert_ne!(copy.as_raw_fd(), a.as_raw_fd());
    copy.set_read_timeout(Some(SHORT)).unwrap();
    assert_kind(a.r().read(&mut [0; 8]), ErrorKind::WouldBlock);
    copy.set_read_timeout(None).unwrap();
    copy.set_nonblocking(true).unwrap();
    assert_kind(a.r().read(&mut [0; 8]), ErrorKind::WouldBlock);
    copy.set_nonblocking(false).unwrap();
    let both: Vec<_> = [a, copy]
        .map(|end| {
            spawn(move || {
                let n = end.r().read(&mut [0; 1]).unwrap();
                (n, end)
            })
        })
        .into();
    settle();
    b.write_all(b"12").unwrap();
    let mut ends: Vec<D> = both.into_iter().map(|end| end.join().unwrap().1).collect();
    // One clone's end is not the socket's.
    drop(ends.pop());
    b.write_all(b"3").unwrap();
    assert_eq!(ends[0].r().read(&mut [0; 8]).unwrap(), 1);
    drop(ends);
    assert_eq!(b.read(&mut [0; 8]).unwrap(), 0);
}

pub(crate) fn many_readers_each_get_their_own<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, b) = pair();
    let (a, b) = (Rc::new(a), Rc::new(b));
    let got = Rc::new(RefCell::new(Vec::new()));
    let readers: Vec<_> = (0..20)
        .map(|n| {
            let (got, a, copy) = (got.clone(), a.clone(), a.try_clone().unwrap());
            spawn(move || {
                let mut buf = [0; 1];
                if n % 2 == 0 { a.r().read_exact(&mut buf) } else { copy.r().read_exact(&mut buf) }.unwrap();
                got.borrow_mut().push(buf[0]);
            })
        })
        .collect();
    settle();
    let writers: Vec<_> = (0..20u8)
        .map(|n| {
            let b = b.clone();
            spawn(move || b.w().write_all(&[n]).unwrap())
        })
        .collect();
    readers.into_iter().chain(writers).for_each(|greenlet| greenlet.join().unwrap());
    got.borrow_mut().sort();
    assert_eq!(*got.borrow(), (0..20).collect::<Vec<u8>>());
}

pub(crate) fn a_killed_reader_leaves_the_socket_usable<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, mut b) = pair();
    let a = Arc::new(a);
    let read = |a: &Arc<D>| {
        let a = a.clone();
        spawn(move || {
            let mut buf = [0; 4];
            a.r().read(&mut buf).map(|n| buf[..n].to_vec())
        })
    };
    let (first, second) = (read(&a), read(&a));
    settle();
    first.kill();
    assert!(matches!(first.join(), Err(gevent::Ended::Killed)));
    b.write_all(b"2nd").unwrap();
    assert_eq!(second.join().unwrap().unwrap(), b"2nd");
    fill(&*a);
    let writer = spawn({
        let a = a.clone();
        move || a.w().write_all(&[1; 1 << 20])
    });
    settle();
    writer.kill();
    let drain = spawn(move || io::copy(&mut b, &mut io::sink()).unwrap());
    a.w().write_all(&[2; 1 << 20]).unwrap();
    drop((a, writer));
    assert!(drain.join().unwrap() >= 1 << 20);
}

pub(crate) fn a_timeout_leaves_the_socket_usable<D: Duplex>(pair: fn() -> (D, D)) {
    let (mut a, mut b) = pair();
    assert!(timeout(SHORT, || a.read(&mut [0; 4])).is_err());
    // What came in time is kept; data that races the timeout is not lost.
    let writer = spawn(move || {
        for n in 0..200u8 {
            sleep(Duration::from_micros(100));
            b.write_all(&[n]).unwrap();
        }
    });
    let mut next = 0;
    while next < 200 {
        let mut buf = [0; 1];
        if let Ok(read) = timeout(Duration::from_micros(100), || a.read(&mut buf)) {
            assert_eq!((read.unwrap(), buf[0]), (1, next));
            next += 1;
        }
    }
    writer.join().unwrap();
}

fn flags(fd: &impl AsFd) -> i32 {
    nix::fcntl::fcntl(fd, nix::fcntl::F_GETFL).unwrap()
}

pub(crate) fn std_gets_it_back_as_it_was_set<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, b) = pair();
    assert_ne!(flags(&a) & libc::O_NONBLOCK, 0);
    a.set_read_timeout(Some(SHORT)).unwrap();
    let mut std = a.into_std();
    let begun = Instant::now();
    assert_kind(std.read(&mut [0; 8]), ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= SHORT, "std's socket does not block");
    b.set_nonblocking(true).unwrap();
    let fd: OwnedFd = b.into();
    assert_ne!(flags(&fd) & libc::O_NONBLOCK, 0);
    drop(fd);
    // A clone that stays goes on waiting in the hub, though the other half made the socket block.
    let (a, mut b) = pair();
    let copy = a.try_clone().unwrap();
    let std = a.into_std();
    assert_eq!(flags(&copy) & libc::O_NONBLOCK, 0);
    let reader = spawn(move || copy.r().read(&mut [0; 8]).unwrap());
    settle();
    b.write_all(b"hub").unwrap();
    assert_eq!(reader.join().unwrap(), 3);
    drop(std);
}

pub(crate) fn std_types_come_in_as_they_were_set<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, b) = pair();
    a.set_read_timeout(Some(SHORT)).unwrap();
    let (a, b) = (a.into_std(), b.into_std());
    D::std_nonblocking(&b, true);
    let (mut a, mut b) = (D::from_std(a), D::from_std(b));
    assert_kind(b.read(&mut [0; 8]), ErrorKind::WouldBlock);
    let begun = Instant::now();
    assert_kind(a.read(&mut [0; 8]), ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= SHORT);
    let fd: OwnedFd = a.into();
    let a = D::from(fd);
    a.set_read_timeout(None).unwrap();
    let reader = spawn(move || a.r().read(&mut [0; 8]).unwrap());
    settle();
    b.write_all(b"in").unwrap();
    assert_eq!(reader.join().unwrap(), 2);
}

pub(crate) fn threads_without_a_hub_block<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, mut b) = pair();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let end = a.r().read_to_end(&mut all);
        a.set_read_timeout(Some(SHORT)).unwrap();
        (all.len(), end.unwrap(), a)
    });
    b.write_all(&vec![1; 3 << 20]).unwrap();
    b.shutdown(Shutdown::Write).unwrap();
    let (len, end, a) = reader.join().unwrap();
    assert_eq!((len, end), (3 << 20, 3 << 20));
    // A timeout there, and a killed hub's socket here.
    let (mut c, d) = pair();
    std::thread::spawn(move || {
        c.set_read_timeout(Some(SHORT)).unwrap();
        let begun = Instant::now();
        assert_kind(c.read(&mut [0; 8]), ErrorKind::WouldBlock);
        assert!(begun.elapsed() >= SHORT);
    })
    .join()
    .unwrap();
    drop((a, d));
}

pub(crate) fn hubs_and_threads_share_one_socket<D: Duplex>(pair: fn() -> (D, D)) {
    const EACH: usize = 300;
    let (a, b) = pair();
    let (a, b) = (Arc::new(a), Arc::new(b));
    let read = |a: Arc<D>| {
        move || {
            (0..EACH)
                .map(|_| {
                    let mut buf = [0; 1];
                    a.r().read_exact(&mut buf).unwrap();
                    buf[0] as usize
                })
                .sum::<usize>()
        }
    };
    let hub = |a: Arc<D>| {
        std::thread::spawn(move || {
            let greenlets: Vec<_> = (0..3).map(|_| spawn(read(a.clone()))).collect();
            greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).sum::<usize>()
        })
    };
    let threads = vec![hub(a.clone()), hub(a.clone()), std::thread::spawn(read(a.clone()))];
    let here = spawn(read(a.clone()));
    for n in 0..8 * EACH {
        b.w().write_all(&[(n % 7) as u8]).unwrap();
        if n % 5 == 0 {
            yield_now();
        }
    }
    let sum = here.join().unwrap() + threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>();
    assert_eq!(sum, (0..8 * EACH).map(|n| n % 7).sum::<usize>());
    // It is closed on another thread than the hub's that knows it.
    std::thread::spawn(move || drop(a)).join().unwrap();
    assert_eq!(b.r().read(&mut [0; 8]).unwrap(), 0);
}

pub(crate) fn numbers_are_used_again<D: Duplex>(pair: fn() -> (D, D)) {
    for round in 0..200u32 {
        let (a, mut b) = pair();
        let reader = spawn(move || {
            let mut buf = [0; 4];
            a.r().read_exact(&mut buf).unwrap();
            (u32::from_le_bytes(buf), a)
        });
        settle();
        b.write_all(&round.to_le_bytes()).unwrap();
        let (got, a) = reader.join().unwrap();
        assert_eq!(got, round);
        match round % 3 {
            0 => drop((a, b)),
            1 => std::thread::spawn(move || drop((b, a))).join().unwrap(),
            _ => drop((Into::<OwnedFd>::into(b), a.into_std())),
        }
    }
}

pub(crate) fn a_write_to_a_closed_peer_is_an_error<D: Duplex>(pair: fn() -> (D, D)) {
    let (mut a, b) = pair();
    drop(b);
    let error = (0..1000).find_map(|_| a.write(&[0; 1000]).err()).unwrap();
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error:?}");
    assert!(a.take_error().unwrap().is_none());
}

pub(crate) fn it_is_shown_as_stds<D: Duplex>(pair: fn() -> (D, D)) {
    let (a, _b) = pair();
    let (plain, pretty) = (format!("{a:?}"), format!("{a:#?}"));
    let std = a.into_std();
    assert_eq!((plain, pretty), (format!("{std:?}"), format!("{std:#?}")));
}
