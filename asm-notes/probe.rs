//! What `asm-notes/listing.sh` disassembles: one switch by name, and one yield to the hub, each in a
//! function that the optimiser must keep. Run, it shows that both work, and where a backtrace goes on
//! that was taken on a greenlet's stack.

use std::backtrace::Backtrace;

use gevent::{Me, RawGreenlet, enter};

/// The smallest function that switches by name.
#[inline(never)]
pub fn probe_switch(me: &Me<'_, u64>, to: &RawGreenlet<u64>, value: u64) -> u64 {
    match me.switch(to, value) {
        Ok(value) => value,
        Err(_) => std::process::abort(),
    }
}

/// The smallest function that parks in the hub.
#[inline(never)]
pub fn probe_yield() {
    gevent::yield_now();
}

/// The names of a backtrace, as far as they are ours.
fn names(trace: &Backtrace) -> String {
    let text = trace.to_string();
    let name = |line: &str| line.trim().split_once(": ").map(|(_, name)| name.to_owned());
    let names = text.lines().filter_map(name);
    names
        .filter(|name| !name.starts_with("std::") && !name.contains("backtrace_rs"))
        .fold(String::new(), |all, name| all + "  " + &name + "\n")
}

#[inline(never)]
fn main() {
    let sum = enter(|me: &Me<'_, u64>| {
        let home = me.handle();
        let other = me.child(move |me: &Me<'_, u64>, mut value| {
            loop {
                value = probe_switch(me, &home, value + 1);
                if value > 100 {
                    return value;
                }
            }
        });
        let mut value = probe_switch(me, &other, 0);
        let looked_at = other.backtrace().expect("it is suspended");
        println!("suspended, looked at from the root:\n{}", names(&looked_at));
        let home = me.handle();
        let running = me.child(move |me: &Me<'_, u64>, _| {
            println!("running, resumed by the root:\n{}", names(&Backtrace::force_capture()));
            probe_switch(me, &home, 0)
        });
        probe_switch(me, &running, 0);
        while !other.is_dead() {
            value = probe_switch(me, &other, value);
        }
        value
    });
    let greenlets: Vec<_> = (0..2).map(|_| gevent::spawn(|| (0..10).for_each(|_| probe_yield()))).collect();
    greenlets.into_iter().for_each(|greenlet| greenlet.join().expect("it only yields"));
    println!("handed {sum} to and fro");
}
