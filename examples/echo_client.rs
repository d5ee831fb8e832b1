//! Load for an echo server, and a check of every byte that comes back:
//! `cargo run --release --example echo_client -- ADDR --connections 1000 --messages 100 --size 64`.
//!
//! A greenlet for each connection, all on one thread. Each sends a message, waits for it, and sends the
//! next. All connections are made before the first message is sent and timed.

use gevent::Greenlet;
use gevent::net::TcpStream;
use gevent::server::raise_fd_limit;
use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: echo_client ADDR [--connections N] [--messages M] [--size BYTES] [--seconds S]
       N connections (100) send M messages (100) of so many bytes (64), all within S seconds (60)";

/// More at once could fill the buffers both ways, with both ends waiting to write.
const PART: usize = 64 * 1024;

struct Options {
    addr: String,
    connections: u64,
    messages: u64,
    size: usize,
    seconds: u64,
}

fn options() -> Option<Options> {
    let mut args = std::env::args().skip(1);
    let mut options = Options { addr: args.next()?, connections: 100, messages: 100, size: 64, seconds: 60 };
    while let Some(flag) = args.next() {
        let value = args.next()?.parse().ok().filter(|&value| value > 0)?;
        match flag.as_str() {
            "--connections" => options.connections = value,
            "--messages" => options.messages = value,
            "--size" => options.size = usize::try_from(value).ok()?,
            "--seconds" => options.seconds = value,
            _ => return None,
        }
    }
    (!options.addr.starts_with('-')).then_some(options)
}

/// What the greenlets report to.
#[derive(Default)]
struct Tally {
    connected: Cell<u64>,
    echoed: Cell<u64>,
    /// Microseconds.
    latencies: RefCell<Vec<u32>>,
}

/// Fills a message with bytes of its own (xorshift), so that one cannot be taken for another.
fn fill(message: &mut [u8], seed: &mut u64) {
    for word in message.chunks_mut(8) {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        word.copy_from_slice(&seed.to_le_bytes()[..word.len()]);
    }
}

fn converse(mut stream: TcpStream, number: u64, options: &Options, tally: &Tally) -> io::Result<()> {
    let mut seed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut message, mut back) = (vec![0; options.size], vec![0; options.size]);
    for _ in 0..options.messages {
        fill(&mut message, &mut seed);
        let begun = Instant::now();
        for (part, back) in message.chunks(PART).zip(back.chunks_mut(PART)) {
            stream.write_all(part)?;
            stream.read_exact(back)?;
        }
        let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        tally.latencies.borrow_mut().push(micros);
        if back != message {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what came back is not what was sent"));
        }
        tally.echoed.set(tally.echoed.get() + 1);
    }
    Ok(())
}

/// Joins them all: the first error, if there is one.
fn all<T>(greenlets: Vec<Greenlet<io::Result<T>>>) -> io::Result<Vec<T>> {
    greenlets
        .into_iter()
        .map(|greenlet| greenlet.join().map_err(|ended| io::Error::other(ended.to_string()))?)
        .collect()
}

/// Returns how long the messages took.
fn load(options: &Rc<Options>, tally: &Rc<Tally>) -> io::Result<Duration> {
    let connect = |_| {
        let (options, tally) = (options.clone(), tally.clone());
        gevent::spawn(move || {
            let stream = TcpStream::connect(&*options.addr)?;
            stream.set_nodelay(true)?;
            tally.connected.set(tally.connected.get() + 1);
            Ok(stream)
        })
    };
    let streams = all((0..options.connections).map(connect).collect())?;
    let talk = |(stream, number)| {
        let (options, tally) = (options.clone(), tally.clone());
        gevent::spawn(move || converse(stream, number, &options, &tally))
    };
    let begun = Instant::now();
    all(streams.into_iter().zip(0..).map(talk).collect())?;
    Ok(begun.elapsed())
}

/// Says every half second how far it is.
fn show(options: &Options, tally: &Tally) {
    let end = if io::stderr().is_terminal() { '\r' } else { '\n' };
    loop {
        gevent::sleep(Duration::from_millis(500));
        let (connected, echoed) = (tally.connected.get(), tally.echoed.get());
        let total = options.connections * options.messages;
        eprint!("{connected} of {} connected, {echoed} of {total} messages{end}", options.connections);
    }
}

fn run(options: &Rc<Options>, tally: &Rc<Tally>) -> io::Result<Duration> {
    let most = raise_fd_limit()?;
    if options.connections + 16 > most {
        let text = format!("no more than {most} descriptors are allowed here: see `ulimit -Hn`");
        return Err(io::Error::other(text));
    }
    gevent::timeout(Duration::from_secs(options.seconds), || load(options, tally))?
}

fn main() -> ExitCode {
    let Some(options) = options().map(Rc::new) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let tally = Rc::new(Tally::default());
    let progress = gevent::spawn({
        let (options, tally) = (options.clone(), tally.clone());
        move || show(&options, &tally)
    });
    let ended = run(&options, &tally);
    progress.kill();
    let took = match ended {
        Ok(took) => took,
        Err(error) => {
            eprintln!("echo_client: {}, after {} messages: {error}", options.addr, tally.echoed.get());
            return ExitCode::FAILURE;
        }
    };
    let mut latencies = tally.latencies.take();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{} messages of {} bytes over {} connections in {:.3} s: {:.0} req/s",
        latencies.len(),
        options.size,
        options.connections,
        took.as_secs_f64(),
        latencies.len() as f64 / took.as_secs_f64()
    );
    println!("latency in µs: p50 {}, p99 {}, p999 {}, most {}", at(0.5), at(0.99), at(0.999), at(1.0));
    ExitCode::SUCCESS
}
