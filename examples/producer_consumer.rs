//! A producer hands ten million values to a consumer that keeps its own stack, by `Generator::send`,
//! beside the same work done serially: `cargo run --release --example producer_consumer -- [VALUES]`.

use gevent::{Generator, Step};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The work on one value.
fn mix(sum: u64, value: u64) -> u64 {
    (sum ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

fn serially(values: u64) -> u64 {
    (0..values).fold(0, |sum, value| mix(sum, black_box(value)))
}

fn by_sending(values: u64) -> u64 {
    // Runs up to each `send`, gives the sum so far, and goes on there with the next value.
    let mut consumer = Generator::new(|producer, first: u64| {
        let (mut sum, mut value) = (0, first);
        loop {
            sum = mix(sum, value);
            value = producer.send(sum);
        }
    });
    let mut last = 0;
    for value in 0..values {
        match consumer.send(black_box(value)) {
            Ok(Step::Yielded(sum)) => last = sum,
            Ok(Step::Returned(never)) => never,
            Err(error) => panic!("the consumer takes no more: {error}"),
        }
    }
    last
}

fn timed(work: impl FnOnce() -> u64) -> (u64, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}

fn main() -> ExitCode {
    let values = match std::env::args().nth(1).map_or(Ok(10_000_000), |arg| arg.parse()) {
        Ok(values @ 1..) => values,
        _ => {
            eprintln!("usage: producer_consumer [VALUES]     (10000000 if it is not given)");
            return ExitCode::from(2);
        }
    };
    let (expected, alone) = timed(|| serially(values));
    let (sum, sent) = timed(|| by_sending(values));
    println!("{:<22}{:>12}{:>12}", format!("{values} values"), "seconds", "ns each");
    for (name, took) in [("serially", alone), ("by Generator::send", sent)] {
        let each = took.as_nanos() as f64 / values as f64;
        println!("{name:<22}{:>12.3}{each:>12.1}", took.as_secs_f64());
    }
    if sum != expected {
        eprintln!("the two differ: {expected:#x} serially, {sum:#x} by sending");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
