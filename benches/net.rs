//! An echo of 64 bytes over loopback: our blocking code beside a bare epoll loop, in one run.
//!
//! The client is the same for both, a loop of its own on a thread of its own. What is compared is the
//! processor time that the server's thread uses for a request: requests a second say as much about the
//! client.

mod common;

use common::{Case, ratios};
use criterion::{Criterion, criterion_group, criterion_main};
use gevent::net::TcpStream as Cooperative;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::{ClockId, clock_gettime};

const SIZE: usize = 64;

/// What one run took.
#[derive(Clone, Copy)]
struct Took {
    /// The server's processor time.
    cpu: Duration,
    /// From the first request to the last answer.
    wall: Duration,
}

/// A server: serves these connections until they end, having called the second argument first.
type Server = fn(Vec<TcpStream>, &dyn Fn());

/// A greenlet for each connection: plain blocking code.
fn greenlets(streams: Vec<TcpStream>, ready: &dyn Fn()) {
    let serve = |mut stream: Cooperative| {
        let mut buf = [0; 4096];
        while let n @ 1.. = stream.read(&mut buf).unwrap() {
            stream.write_all(&buf[..n]).unwrap();
        }
    };
    let greenlets: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let stream = Cooperative::from(stream);
            gevent::spawn(move || serve(stream))
        })
        .collect();
    gevent::yield_now(); // each waits for its first request, as the loop below does
    ready();
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
}

/// The yardstick: as little as a server on epoll can do. Edge-triggered; a short read has taken all.
fn bare_epoll(mut streams: Vec<TcpStream>, ready: &dyn Fn()) {
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        epoll.add(stream, EpollEvent::new(flags, index as u64)).unwrap();
    }
    let mut events = [EpollEvent::empty(); 256];
    let mut open = vec![true; streams.len()];
    let mut live = streams.len();
    let mut buf = [0; 4096];
    ready();
    while live > 0 {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
        for event in &events[..count] {
            let index = event.data() as usize;
            let stream = &mut streams[index];
            loop {
                match stream.read(&mut buf) {
                    Ok(0) => {
                        live -= usize::from(std::mem::take(&mut open[index]));
                        break;
                    }
                    Ok(n) => {
                        stream.write_all(&buf[..n]).unwrap();
                        // Drained, unless the end came with the data.
                        if n < buf.len() && !event.events().contains(EpollFlags::EPOLLRDHUP) {
                            break;
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// Asks on all connections at once, the next thing on each when it has its answer; `n` in all.
fn ask(mut streams: Vec<TcpStream>, n: u64) -> Duration {
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    for (index, stream) in streams.iter().enumerate() {
        epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).unwrap();
    }
    let mut events = [EpollEvent::empty(); 256];
    let (mut asked, mut answered) = (0, 0);
    let begun = Instant::now();
    for stream in &mut streams {
        if asked < n {
            stream.write_all(&[7; SIZE]).unwrap();
            asked += 1;
        }
    }
    while answered < n {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
        for event in &events[..count] {
            let stream = &mut streams[event.data() as usize];
            let mut buf = [0; SIZE];
            stream.read_exact(&mut buf).unwrap();
            assert_eq!(buf, [7; SIZE]);
            answered += 1;
            if asked < n {
                stream.write_all(&buf).unwrap();
                asked += 1;
            }
        }
    }
    begun.elapsed()
}

fn run(server: Server, connections: usize, n: u64) -> Took {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (clients, served): (Vec<_>, Vec<_>) = (0..connections)
        .map(|_| {
            let client = TcpStream::connect(addr).unwrap();
            client.set_nodelay(true).unwrap();
            let (served, _) = listener.accept().unwrap();
            served.set_nodelay(true).unwrap();
            (client, served)
        })
        .unzip();
    let ready = Arc::new(Barrier::new(2));
    let begins = ready.clone();
    let thread = std::thread::spawn(move || {
        let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let begun = Cell::new(Duration::ZERO);
        server(served, &|| {
            begins.wait();
            begun.set(used());
        });
        used() - begun.get()
    });
    ready.wait();
    let wall = ask(clients, n);
    Took { cpu: thread.join().unwrap(), wall }
}

fn benches(c: &mut Criterion) {
    let servers: [(&str, Server); 2] = [("bare epoll", bare_epoll), ("gevent", greenlets)];
    for connections in [1, 64] {
        let mut group = c.benchmark_group(format!("net/echo/{connections}"));
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(500));
        for (name, server) in servers {
            group.bench_function(name, |b| b.iter_custom(|n| run(server, connections, n).wall));
        }
        group.finish();
        let walls = [Cell::new(Duration::MAX), Cell::new(Duration::MAX)];
        let measured = |at: usize, n: u64| {
            let (_, server): (&str, Server) = servers[at];
            let took = run(server, connections, n);
            walls[at].set(walls[at].get().min(took.wall));
            took.cpu
        };
        const REQUESTS: u64 = 20_000;
        ratios(
            &format!("an echo of {SIZE} bytes, {connections} connections: the server's processor time"),
            REQUESTS,
            &mut [
                Case { name: servers[0].0, run: &mut |n| measured(0, n) },
                Case { name: servers[1].0, run: &mut |n| measured(1, n) },
            ],
        );
        for ((name, _), wall) in servers.iter().zip(&walls) {
            println!("  {name:<44} {:8.0} requests/s", REQUESTS as f64 / wall.get().as_secs_f64());
        }
    }
}

criterion_group!(group, benches);
criterion_main!(group);
