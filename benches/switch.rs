//! A switch by name, greenlet to greenlet: ours beside a hub by hand on corosensei, in one run.

mod common;

use common::{Case, bare, ratios, timed};
use criterion::{Criterion, criterion_group, criterion_main};
use gevent::{Me, RawGreenlet, enter};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A ring of `live` greenlets; a number is handed round until it is used up.
fn ours(live: usize, n: u64) -> Duration {
    enter(|root: &Me<'_, u64>| {
        let ring: Rc<RefCell<Vec<RawGreenlet<u64>>>> = Rc::default();
        for place in 0..live {
            let ring_of = ring.clone();
            let greenlet = root.child(move |me: &Me<'_, u64>, mut left| {
                let next = ring_of.borrow()[(place + 1) % live].clone();
                drop(ring_of);
                loop {
                    if left == 0 {
                        return 0;
                    }
                    left = me.switch(&next, left - 1).unwrap();
                }
            });
            ring.borrow_mut().push(greenlet);
        }
        let first = ring.borrow()[0].clone();
        let time = timed(|| assert_eq!(root.switch(&first, n).unwrap(), 0));
        // The ring refers to itself: end it by hand.
        let all = ring.take();
        for greenlet in &all {
            if greenlet.is_active() {
                let _ = root.throw(greenlet, Box::new(gevent::GreenletExit));
            }
        }
        time
    })
}

/// The same on the bare hub, where naming the next is queueing it and parking.
fn by_hand(live: usize, n: u64) -> Duration {
    let ring: Rc<RefCell<Vec<Rc<bare::Task>>>> = Rc::default();
    let left = Rc::new(std::cell::Cell::new(n));
    for place in 0..live {
        let (ring_of, left) = (ring.clone(), left.clone());
        let task = bare::task(move || {
            let next = ring_of.borrow()[(place + 1) % live].clone();
            drop(ring_of);
            while left.get() > 0 {
                left.set(left.get() - 1);
                bare::ready(next.clone());
                bare::park();
            }
            // The next one ends too, if it runs yet.
            if next.is_suspended() {
                bare::ready(next);
            }
        });
        ring.borrow_mut().push(task);
    }
    bare::ready(ring.borrow()[0].clone());
    timed(bare::run)
}

fn benches(c: &mut Criterion) {
    for live in [2usize, 1_000] {
        let mut group = c.benchmark_group(format!("switch/{live}"));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(500));
        group.bench_function("gevent", |b| b.iter_custom(|n| ours(live, n.max(live as u64))));
        group.bench_function("by hand on corosensei", |b| {
            b.iter_custom(|n| by_hand(live, n.max(live as u64)))
        });
        group.finish();
        ratios(
            &format!("a switch, ring of {live}"),
            400_000,
            &mut [
                Case { name: "by hand on corosensei", run: &mut |n| by_hand(live, n) },
                Case { name: "Me::switch", run: &mut |n| ours(live, n) },
            ],
        );
    }
}

criterion_group!(group, benches);
criterion_main!(group);
