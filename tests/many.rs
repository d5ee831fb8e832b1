//! A hundred thousand greenlets alive at once, each of which has run and waits: what they cost.

mod common;

use std::time::Duration;

use common::{in_child, watchdog};
use gevent::{GuardKind, Hub, StackError, sleep, stack_stats, try_spawn};

const MANY: usize = 100_000;
const FAR: Duration = Duration::from_secs(3600);

/// Memory of this process that is in RAM, in bytes, and that of its page tables.
fn resident() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("it is in every status");
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    };
    (value("VmRSS:"), value("VmPTE:"))
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// Runs where nothing else does. Says what they cost, or that they cannot be had.
fn measure() {
    let _watched = watchdog();
    let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    gevent::spawn(|| ()).join().unwrap();
    let (memory, maps) = (resident(), mappings());
    let mut error = None;
    for _ in 0..MANY {
        match try_spawn(|| sleep(FAR)) {
            Ok(greenlet) => drop(greenlet),
            Err(refused) => {
                error = Some(refused);
                break;
            }
        }
    }
    sleep(Duration::from_millis(1));
    let count = Hub::current().live_count();
    assert_eq!(Hub::current().timer_count(), count, "each has run, and sleeps");
    let (each, maps) = ((resident().0 - memory.0) / count, mappings() - maps);
    let tables = (resident().1 - memory.1) / count;
    println!("{count} alive: {each} bytes resident each, {tables} of page tables; {maps} mappings more");
    match (stack_stats().guard.unwrap(), error) {
        (GuardKind::Mprotect, Some(StackError::Mappings { max_map_count, .. })) => {
            // Two mappings each.
            assert_eq!(max_map_count, limit);
            assert!(count > limit / 2 - 2_000, "{count}");
        }
        (_, Some(error)) => panic!("{error}"),
        (guard, None) => {
            assert_eq!(count, MANY);
            // Frames are larger without optimization: most take a second page.
            let most = if cfg!(debug_assertions) { 9_500 } else { 5_000 };
            assert!(each <= most && tables <= 600, "{each} bytes each, {tables} of page tables");
            if guard == GuardKind::Install {
                assert!(maps <= 300, "{maps} mappings");
            }
        }
    }
    // They end, and others come in their places.
    Hub::current().shutdown();
    assert_eq!(Hub::current().live_count(), 0);
    assert_eq!(gevent::spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn a_hundred_thousand_alive_at_once_cost_little() {
    let Some(printed) = in_child("a_hundred_thousand_alive_at_once_cost_little") else { return measure() };
    println!("{}", printed.lines().find(|line| line.contains(" alive: ")).unwrap());
}

/// Where guards are made by mprotect the kernel's limit of mappings is met: an error that names it.
#[test]
fn with_guards_by_mprotect_the_limit_is_named() {
    let test = "with_guards_by_mprotect_the_limit_is_named";
    if common::is_child() {
        return measure();
    }
    let output = common::subprocess(test, &[("GEVENT_STACK_GUARD", "mprotect")]);
    let printed = common::printed(&output);
    assert!(output.status.success(), "{printed}");
    println!("{}", printed.lines().find(|line| line.contains(" alive: ")).unwrap());
}
