//! What the benches share: the yardstick, and ratios taken in one run.
#![allow(dead_code)] // each bench uses its part

pub(crate) mod bare;

use std::time::{Duration, Instant};

/// One thing measured: its name, and how to run it `n` times.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) run: &'a mut dyn FnMut(u64) -> Duration,
}

/// Times `f`.
pub(crate) fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

/// Runs the cases in turn, round by round, and prints the least time of each and its ratio to the
/// first: the noise of a shared machine hits neighbours alike, and the least is what the code costs.
pub(crate) fn ratios(title: &str, n: u64, cases: &mut [Case<'_>]) -> Vec<f64> {
    let mut least = vec![f64::MAX; cases.len()];
    for _ in 0..25 {
        for (case, least) in cases.iter_mut().zip(&mut least) {
            *least = least.min((case.run)(n).as_nanos() as f64 / n as f64);
        }
    }
    println!("\n{title} (least of 25 rounds, in turn)");
    for (case, nanos) in cases.iter().zip(&least) {
        println!("  {:<44} {nanos:8.1} ns   ratio {:5.2}", case.name, nanos / least[0]);
    }
    least
}
