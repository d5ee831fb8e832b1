//! Two greenlets that switch to each other by hand, without a hub: `cargo run --release --example
//! ping_pong -- [ROUNDS]`.

use gevent::{Me, enter};
use std::process::ExitCode;
use std::time::Instant;

/// A ball that is hit `left` times more.
struct Ball {
    left: u64,
    hits: u64,
}

/// Hits to and fro until the ball is down; returns how often it was hit.
fn play(rounds: u64, tell: bool) -> u64 {
    let say = move |what: &str, ball: &Ball| {
        if tell {
            println!("{what}  {} left", ball.left);
        }
    };
    enter(|main: &Me<u64>| {
        let (ping, body) = main.declare::<Ball>(); // its body comes below: it has to know the other
        let back = ping.downgrade(); // two full handles would keep each other alive
        let pong = main.child(move |me: &Me<Ball>, mut ball: Ball| {
            loop {
                say("       pong", &ball);
                if ball.left == 0 {
                    return ball.hits; // to its parent, `main`
                }
                let ping = back.upgrade().expect("it waits for the ball");
                // Gives the ball and the thread away, and goes on here when the ball is back.
                ball = me
                    .switch(&ping, Ball { left: ball.left - 1, hits: ball.hits + 1 })
                    .expect("ping is alive");
            }
        });
        body.run(move |me: &Me<Ball>, mut ball: Ball| {
            loop {
                say("ping       ", &ball);
                ball = me.switch(&pong, Ball { hits: ball.hits + 1, ..ball }).expect("pong is alive");
            }
        });
        main.switch(&ping, Ball { left: rounds - 1, hits: 0 }).expect("pong returns to main")
    })
}

fn main() -> ExitCode {
    let rounds = match std::env::args().nth(1).map_or(Ok(5_000_000), |arg| arg.parse::<u64>()) {
        Ok(rounds @ 1..) => rounds,
        _ => {
            eprintln!("usage: ping_pong [ROUNDS]     (5000000 if it is not given)");
            return ExitCode::from(2);
        }
    };
    play(3, true);
    let begun = Instant::now();
    let hits = play(rounds, false);
    let took = begun.elapsed();
    println!(
        "{hits} switches in {:.3} s: {:.1} ns each",
        took.as_secs_f64(),
        took.as_nanos() as f64 / hits as f64
    );
    ExitCode::SUCCESS
}
