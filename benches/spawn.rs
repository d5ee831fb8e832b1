//! Spawn and join of empty greenlets, in batches of 1,000: ours beside corosensei with a boxed
//! closure and a shared result on a pooled stack, in one run.

mod common;

use common::{Case, ratios, timed};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const BATCH: u64 = 1_000;

fn ours(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n / BATCH {
            let batch: Vec<_> = (0..BATCH).map(|i| gevent::spawn(move || i)).collect();
            for (i, greenlet) in batch.into_iter().enumerate() {
                assert_eq!(greenlet.join().unwrap(), i as u64);
            }
        }
    })
}

type Boxed = Box<dyn FnOnce()>;
type Unit = (Boxed, Rc<Cell<Option<u64>>>);

fn by_hand(n: u64) -> Duration {
    let mut stack = Some(DefaultStack::new(256 * 1024).unwrap());
    timed(|| {
        for _ in 0..n / BATCH {
            let batch: Vec<Unit> = (0..BATCH)
                .map(|i| {
                    let result = Rc::new(Cell::new(None));
                    let shared = result.clone();
                    (Box::new(move || shared.set(Some(i))) as Boxed, result)
                })
                .collect();
            for (i, (body, result)) in batch.into_iter().enumerate() {
                let mut coroutine =
                    Coroutine::<(), (), ()>::with_stack(stack.take().unwrap(), move |_, ()| body());
                assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
                stack = Some(coroutine.into_stack());
                assert_eq!(result.take(), Some(i as u64));
            }
        }
    })
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("spawn and join");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let rounds = |n: u64| n.div_ceil(BATCH) * BATCH;
    group.bench_function("gevent", |b| b.iter_custom(|n| ours(rounds(n)) * n as u32 / rounds(n) as u32));
    group.bench_function("by hand on corosensei", |b| {
        b.iter_custom(|n| by_hand(rounds(n)) * n as u32 / rounds(n) as u32)
    });
    group.finish();
    ratios(
        "spawn and join, batches of 1,000",
        200_000,
        &mut [
            Case { name: "by hand on corosensei", run: &mut by_hand },
            Case { name: "gevent::spawn, join", run: &mut ours },
        ],
    );
}

criterion_group!(group, benches);
criterion_main!(group);
