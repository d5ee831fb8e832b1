//! What a park costs that is called at some depth, by corosensei alone: two coroutines and a loop, as
//! few instructions as can be. The depth is the number of functions between the coroutine's own loop
//! and its suspend that return after each resume. Why it comes out so: `asm-notes/README.md`.

use std::hint::black_box;
use std::time::Instant;

use corosensei::{Coroutine, Yielder};

type Suspend = Yielder<(), ()>;

/// `$name` suspends by way of `$inner`. `SIDE` gives each coroutine functions of its own, if they differ.
macro_rules! called {
    ($($name:ident => $inner:ident),*) => { $(
        #[inline(never)]
        fn $name<const SIDE: usize>(suspend: &Suspend) {
            $inner::<SIDE>(suspend);
            // After the call, so that it is no jump, and different on each side.
            black_box(SIDE);
        }
    )* };
}

#[inline(always)]
fn zero<const SIDE: usize>(suspend: &Suspend) {
    suspend.suspend(());
}

called!(one => zero, two => one, three => two, four => three, five => four, six => five, seven => six, eight => seven);

/// Nanoseconds a switch, from one coroutine through the loop to the other; the least of some rounds.
fn measure(left: fn(&Suspend), right: fn(&Suspend)) -> f64 {
    const SWITCHES: u32 = 2_000_000;
    let mut least = f64::MAX;
    for _ in 0..15 {
        // A pointer's call is one more return: it is balanced, within the coroutine's own loop.
        let mut pair = [left, right].map(|park| {
            Coroutine::<(), (), ()>::new(move |suspend, ()| {
                (0..SWITCHES / 2).for_each(|_| park(suspend));
            })
        });
        let start = Instant::now();
        while !pair[0].done() {
            pair.iter_mut().for_each(|coroutine| {
                coroutine.resume(());
            });
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(SWITCHES));
    }
    least
}

/// The same with the suspend in the coroutine's own loop: nothing returns after a resume.
fn inlined() -> f64 {
    const SWITCHES: u32 = 2_000_000;
    let mut least = f64::MAX;
    for _ in 0..15 {
        let mut pair = [(), ()].map(|()| {
            Coroutine::<(), (), ()>::new(|suspend, ()| {
                (0..SWITCHES / 2).for_each(|_| zero::<0>(suspend));
            })
        });
        let start = Instant::now();
        while !pair[0].done() {
            pair.iter_mut().for_each(|coroutine| {
                coroutine.resume(());
            });
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(SWITCHES));
    }
    least
}

fn main() {
    println!("ns a switch, coroutine to loop to coroutine; the least of 15 rounds");
    println!("functions that return    the same on both sides    others on each side");
    println!("  0 {:>32.1}", inlined());
    type Depth = (u32, [fn(&Suspend); 2]);
    let depths: [Depth; 4] = [
        (1, [one::<0>, one::<1>]),
        (2, [two::<0>, two::<1>]),
        (4, [four::<0>, four::<1>]),
        (8, [eight::<0>, eight::<1>]),
    ];
    for (depth, [left, right]) in depths {
        println!("  {depth} {:>32.1} {:>22.1}", measure(left, left), measure(left, right));
    }
}
