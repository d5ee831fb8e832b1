//! A hub yield: ours beside a hub by hand on corosensei, in one run.

mod common;

use common::{Case, bare, ratios, timed};
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

/// `live` greenlets yield `n` times in all.
fn ours(live: u64, n: u64) -> Duration {
    let each = n / live;
    let greenlets: Vec<_> = (0..live)
        .map(|_| {
            gevent::spawn(move || {
                for _ in 0..each {
                    gevent::yield_now();
                }
            })
        })
        .collect();
    timed(|| greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap()))
}

fn by_hand(live: u64, n: u64) -> Duration {
    let each = n / live;
    for _ in 0..live {
        bare::ready(bare::task(move || {
            for _ in 0..each {
                bare::yield_now();
            }
        }));
    }
    timed(bare::run)
}

/// The same hub with its park inlined in the greenlet's own loop: greenlet to hub to greenlet with
/// no call to return from. If the yardstick is over six times this, it is no yardstick, and the run
/// is invalid.
fn inlined(n: u64) -> Duration {
    for _ in 0..2 {
        bare::ready(bare::task(move || {
            for _ in 0..n / 2 {
                bare::yield_inlined();
            }
        }));
    }
    timed(bare::run)
}

fn benches(c: &mut Criterion) {
    for live in [2u64, 1_000] {
        let mut group = c.benchmark_group(format!("yield/{live}"));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(500));
        let rounds = |iterations: u64| iterations.div_ceil(live) * live;
        group.bench_function("gevent", |b| {
            b.iter_custom(|n| ours(live, rounds(n)) * n as u32 / rounds(n) as u32)
        });
        group.bench_function("by hand on corosensei", |b| {
            b.iter_custom(|n| by_hand(live, rounds(n)) * n as u32 / rounds(n) as u32)
        });
        group.finish();
        let least = ratios(
            &format!("a yield, {live} live"),
            400_000,
            &mut [
                Case { name: "by hand on corosensei", run: &mut |n| by_hand(live, n) },
                Case { name: "gevent::yield_now", run: &mut |n| ours(live, n) },
                Case { name: "corosensei inlined, greenlet to hub", run: &mut inlined },
            ],
        );
        if live == 2 {
            let valid = least[0] <= 6.0 * least[2];
            println!(
                "  the yardstick is {:.1} times corosensei inlined: {}",
                least[0] / least[2],
                if valid { "valid" } else { "INVALID RUN" }
            );
        }
    }
}

criterion_group!(group, benches);
criterion_main!(group);
