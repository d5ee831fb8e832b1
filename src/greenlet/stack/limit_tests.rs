//! The pool at its limits: every kind of guard, locked memory, forks, and each limit that a process can have.

use std::os::unix::process::ExitStatusExt;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::sys::memory::{self, FaultProbe};

use super::tests::{
    assert_guarded, in_child, is_child_or_run, status, take, top, touch, untested, working_kinds,
};
use super::{Claim, GuardKind, GuardedStack, StackError, StackSize, stack_stats, trim};

#[test]
fn every_kind_of_guard_that_the_kernel_has_guards() {
    let working: Vec<_> = working_kinds().collect();
    assert!(working.contains(&(GuardKind::Mprotect, "mprotect")), "mprotect works everywhere");
    let chosen = GuardKind::probed().unwrap();
    if std::env::var_os("GEVENT_STACK_GUARD").is_none() {
        assert_eq!(chosen, working[0].0, "the first that works");
    }
}

#[test]
fn stacks_of_every_kind_of_guard_are_guarded() {
    let test = "greenlet::stack::limit_tests::stacks_of_every_kind_of_guard_are_guarded";
    if !in_child(test) {
        for (kind, value) in working_kinds() {
            is_child_or_run(test, &[("GEVENT_STACK_GUARD", value), ("EXPECTED", &format!("{kind:?}"))]);
        }
        return;
    }
    let kind = GuardKind::probed().unwrap();
    assert_eq!(format!("{kind:?}"), std::env::var("EXPECTED").unwrap());
    let probe = FaultProbe::new().unwrap();
    let mut taken: Vec<_> = (0..3000).map(|_| take(StackSize::DEFAULT)).collect();
    taken.extend((0..500).map(|_| take(StackSize::min())));
    taken.extend((0..5).map(|_| take(StackSize::MAX)));
    taken.iter().for_each(|stack| assert_guarded(&probe, stack));
    let stats = stack_stats();
    assert_eq!((stats.guard, stats.slots_in_use), (Some(kind), 3505));
    assert_eq!(stats.slots_mprotected, if kind == GuardKind::Mprotect { stats.slots } else { 0 });
    // And they still are when their memory was given back, and in a child.
    let watched: Vec<_> = taken.drain(..10).collect();
    drop(taken);
    while let Some(wait) = trim() {
        std::thread::sleep(wait);
    }
    let taken: Vec<_> = (0..2000).map(|_| take(StackSize::DEFAULT)).collect();
    taken.iter().chain(&watched).for_each(|stack| assert_guarded(&probe, stack));
    in_fork(|| taken.iter().chain(&watched).for_each(|stack| assert_guarded(&probe, stack)));
}

/// Runs `f` in a forked child, and panics unless it returns there within ten seconds.
fn in_fork(f: impl FnOnce()) {
    // SAFETY: the children of these tests take no lock that another thread may hold, but the
    // allocator's, which the C library keeps usable, and the pool's, which is what is tested.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: ends the child should it hang.
            unsafe { libc::alarm(10) };
            let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
                Ok(()) => 0,
                Err(_) => 1,
            };
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: our own child.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0, "{:?}", std::process::ExitStatus::from_raw(status));
        }
    }
}

#[test]
fn a_forked_child_can_grow_the_pool_whatever_other_threads_do() {
    let test = "greenlet::stack::limit_tests::a_forked_child_can_grow_the_pool_whatever_other_threads_do";
    if !is_child_or_run(test, &[]) {
        return;
    }
    let size = StackSize::new(8 << 20).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let pool = super::slab::Pool::lock();
                std::thread::yield_now();
                drop(pool);
            }
        });
        let mine = take(size);
        for _ in 0..200 {
            in_fork(|| {
                let taken: Vec<_> = (0..40).map(|_| take(size)).collect();
                let probe = FaultProbe::new().unwrap();
                taken.iter().chain([&mine]).for_each(|stack| assert_guarded(&probe, stack));
            });
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_guard_that_is_demanded_but_unknown_is_a_clear_error() {
    let test = "greenlet::stack::limit_tests::a_guard_that_is_demanded_but_unknown_is_a_clear_error";
    if !is_child_or_run(test, &[("GEVENT_STACK_GUARD", "none")]) {
        return;
    }
    let error = GuardedStack::take(StackSize::DEFAULT).unwrap_err();
    assert_eq!(error, StackError::GuardSetting { value: "none".into() });
    assert_eq!(error.to_string(), "GEVENT_STACK_GUARD is \"none\"; it can be install, userfault or mprotect");
    assert_eq!(GuardKind::probed().unwrap_err(), error);
}

#[test]
fn a_guard_that_is_demanded_but_does_not_work_is_a_clear_error() {
    let test = "greenlet::stack::limit_tests::a_guard_that_is_demanded_but_does_not_work_is_a_clear_error";
    if !is_child_or_run(test, &[("GEVENT_STACK_GUARD", "install")]) {
        return;
    }
    // Markers are refused in locked memory; on older kernels, everywhere.
    if !lock_all_memory(libc::MCL_FUTURE) {
        return;
    }
    let error = GuardedStack::take(StackSize::DEFAULT).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StackError::NoGuard { forced: true, .. }), "{error:?}");
    assert!(text.contains("GEVENT_STACK_GUARD demands") && text.contains("MADV_GUARD_INSTALL"), "{text}");
    assert!(text.contains("Invalid argument"), "{text}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::Unsupported);
}

fn lock_all_memory(flags: libc::c_int) -> bool {
    // SAFETY: pins memory of this process, a child made for that.
    if unsafe { libc::mlockall(flags) } == 0 {
        return true;
    }
    untested("mlockall", &std::io::Error::last_os_error().to_string());
    false
}

#[test]
fn programs_that_lock_their_memory_get_guards_and_no_gigabyte() {
    let test = "greenlet::stack::limit_tests::programs_that_lock_their_memory_get_guards_and_no_gigabyte";
    for when in ["before", "after"] {
        if !is_child_or_run(test, &[("WHEN", when)]) {
            continue;
        }
        let after = std::env::var("WHEN").unwrap() == "after";
        let early: Vec<_> =
            if after { (0..20).map(|_| take(StackSize::DEFAULT)).collect() } else { Vec::new() };
        if !lock_all_memory(libc::MCL_CURRENT | libc::MCL_FUTURE) {
            return;
        }
        let before = status("VmRSS:");
        let taken: Vec<_> = (0..500).map(|_| take(StackSize::DEFAULT)).collect();
        let probe = FaultProbe::new().unwrap();
        taken.iter().chain(&early).for_each(|stack| assert_guarded(&probe, stack));
        let grown = status("VmRSS:") - before;
        eprintln!(
            "mlockall {}: {} KiB more, {:?}",
            if after { "after" } else { "before" },
            grown,
            stack_stats()
        );
        assert!(grown < 500 * 192, "{grown} KiB for 500 stacks");
        drop(taken);
        while let Some(wait) = trim() {
            std::thread::sleep(wait); // Refused in locked memory; must end all the same.
        }
        return;
    }
}

#[test]
fn no_descriptors_left_is_a_clear_error_and_passes() {
    let test = "greenlet::stack::limit_tests::no_descriptors_left_is_a_clear_error_and_passes";
    if !is_child_or_run(test, &[]) {
        return;
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let error = GuardedStack::take(StackSize::DEFAULT).unwrap_err();
    assert_eq!(error, StackError::Probe { os_error: libc::EMFILE });
    assert!(error.to_string().contains("Too many open files"), "{error}");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let first = take(StackSize::DEFAULT);
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let taken: Vec<_> = (0..200).map(|_| take(StackSize::DEFAULT)).collect();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let probe = FaultProbe::new().unwrap();
    taken.iter().chain([&first]).for_each(|stack| assert_guarded(&probe, stack));
}

#[test]
fn under_a_limit_of_address_space_segments_shrink_and_then_the_error_names_it() {
    let test = "greenlet::stack::limit_tests::under_a_limit_of_address_space_segments_shrink_and_then_the_error_names_it";
    if !is_child_or_run(test, &[]) {
        return;
    }
    let limit = (status("VmSize:") as u64 + (100 << 10)) << 10;
    setrlimit(Resource::RLIMIT_AS, limit, limit).unwrap();
    let mut taken = Vec::with_capacity(1000);
    let error = loop {
        match GuardedStack::take(StackSize::DEFAULT) {
            Ok(stack) => taken.push(stack),
            Err(error) => break error,
        }
        assert!(taken.len() < 401, "100 MiB hold 400 stacks at most");
    };
    assert!(taken.len() > 300, "{} stacks in 100 MiB", taken.len());
    let text = error.to_string();
    assert!(text.contains(&format!("RLIMIT_AS is {} KiB", limit >> 10)), "{text}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::OutOfMemory);
    let address = top(&taken[5]);
    drop(taken.remove(5));
    assert_eq!(top(&take(StackSize::DEFAULT)), address, "it goes on with what it has");
}

#[test]
fn under_a_limit_of_data_chunks_shrink_and_then_the_error_names_it() {
    let test =
        "greenlet::stack::limit_tests::under_a_limit_of_data_chunks_shrink_and_then_the_error_names_it";
    if !is_child_or_run(test, &[]) {
        return;
    }
    let limit = (status("VmData:") as u64 + (100 << 10)) << 10;
    setrlimit(Resource::RLIMIT_DATA, limit, limit).unwrap();
    let mut taken = Vec::with_capacity(1000);
    let error = loop {
        match GuardedStack::take(StackSize::DEFAULT) {
            Ok(stack) => taken.push(stack),
            Err(error) => break error,
        }
        assert!(taken.len() < 401, "100 MiB hold 400 stacks at most");
    };
    assert!(taken.len() > 300, "{} stacks in 100 MiB", taken.len());
    let text = error.to_string();
    assert!(text.contains(&format!("RLIMIT_DATA is {} KiB", limit >> 10)), "{text}");
    let probe = FaultProbe::new().unwrap();
    taken.iter().for_each(|stack| assert_guarded(&probe, stack));
}

#[test]
fn a_hundred_thousand_stacks_need_few_mappings_or_the_error_names_max_map_count() {
    let test = "greenlet::stack::limit_tests::a_hundred_thousand_stacks_need_few_mappings_or_the_error_names_max_map_count";
    if !in_child(test) {
        for (_, value) in working_kinds() {
            is_child_or_run(test, &[("GEVENT_STACK_GUARD", value)]);
        }
        return;
    }
    let before = (memory::mappings().unwrap(), status("VmRSS:"));
    let mut taken = Vec::with_capacity(100_000);
    let outcome = (0..100_000).try_for_each(|_| {
        let stack = GuardedStack::take(StackSize::DEFAULT)?;
        touch(&stack, 400);
        taken.push(stack);
        Ok::<_, StackError>(())
    });
    if GuardKind::probed().unwrap() == GuardKind::Mprotect && memory::max_map_count() < 200_000 {
        let error = outcome.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StackError::Mappings { .. }), "{error:?}");
        assert!(text.contains(&format!("vm.max_map_count is {}", memory::max_map_count())), "{text}");
        assert!(taken.len() > memory::max_map_count() / 2 - 1200, "{} stacks", taken.len());
        // The rest of the program still gets what it needs.
        std::thread::spawn(|| vec![1u8; 1 << 20].len()).join().unwrap();
        return;
    }
    outcome.unwrap();
    let mappings = memory::mappings().unwrap() - before.0;
    assert!(mappings <= 4 * stack_stats().segments, "{mappings} more mappings");
    let kib = status("VmRSS:") - before.1;
    assert!(kib * 1024 / 100_000 <= 5 * 1024, "{kib} KiB for 100,000 stacks");
}

#[test]
fn unprivileged_programs_get_guards_by_userfaultfd_too() {
    let test = "greenlet::stack::limit_tests::unprivileged_programs_get_guards_by_userfaultfd_too";
    if !in_child(test) {
        if working_kinds().any(|(kind, _)| kind == GuardKind::UserFault) {
            is_child_or_run(test, &[("GEVENT_STACK_GUARD", "userfault")]);
        }
        return;
    }
    const NOBODY: libc::uid_t = 65_534;
    // SAFETY: gives up the privileges of this child.
    if unsafe { libc::setuid(NOBODY) } != 0 {
        // SAFETY: asks for a number.
        let user = unsafe { libc::geteuid() };
        assert_ne!(user, 0, "a program without privileges has none to give up");
    }
    let stack = take(StackSize::DEFAULT);
    assert_guarded(&FaultProbe::new().unwrap(), &stack);
}

#[test]
#[ignore = "measurements, read by a person: run with --release -- --ignored --nocapture --test-threads 1"]
fn measure() {
    use std::hint::black_box;
    use std::time::Instant;
    let per = |start: Instant, count: u32| start.elapsed().as_secs_f64() * 1e9 / f64::from(count);
    let size = black_box(StackSize::DEFAULT);
    drop(take(size));
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..10_000_000 {
            drop(black_box(GuardedStack::take(black_box(size)).unwrap()));
        }
        let take_drop = per(start, 10_000_000);
        let start = Instant::now();
        for _ in 0..10_000_000 {
            drop(black_box(Claim::new(black_box(size)).unwrap()));
        }
        let claim = per(start, 10_000_000);
        let start = Instant::now();
        for _ in 0..10_000_000 {
            drop(black_box(GuardedStack::take_claimed(Claim::new(black_box(size)).unwrap())));
        }
        let claimed = per(start, 10_000_000);
        let stack = take(size);
        let start = Instant::now();
        for id in 0..10_000_000 {
            stack.set_label(id, black_box("connection 12345"));
        }
        let label = per(start, 10_000_000);
        println!(
            "take+drop {take_drop:.2} ns, claim+drop {claim:.2}, claim+take_claimed+drop {claimed:.2}, label {label:.2}"
        );
    }
    for (stride, count) in [(256 << 10, 100_000), (64 << 10, 1_000_000), (256 << 10, 1_000_000)] {
        let mprotect = GuardKind::probed() == Ok(GuardKind::Mprotect);
        let count = if mprotect { 10_000 } else { count };
        let size = StackSize::new(stride).unwrap();
        let before = (status("VmRSS:"), status("VmPTE:"), memory::mappings().unwrap());
        let mut taken = Vec::with_capacity(count);
        let start = Instant::now();
        taken.extend((0..count).map(|_| take(size)));
        let grow = per(start, count as u32);
        let tables = status("VmPTE:");
        let start = Instant::now();
        taken.iter().for_each(|stack| touch(stack, 400));
        let touched = per(start, count as u32);
        println!(
            "{count} x {size:?} by {:?}: grow {grow:.0} ns, first touch {touched:.0} ns each; RSS {} B, page tables {} B each ({} B before the touch), {} mappings",
            GuardKind::probed().unwrap(),
            (status("VmRSS:") - before.0) * 1024 / count,
            (status("VmPTE:") - before.1) * 1024 / count,
            (tables - before.1) * 1024 / count,
            memory::mappings().unwrap() - before.2,
        );
        let start = Instant::now();
        drop(taken);
        println!("  dropped in {:.1} ns each", per(start, count as u32));
        let (mut busy, mut calls, mut longest) = (0.0, 0, 0.0f64);
        loop {
            let start = Instant::now();
            let next = trim();
            let took = start.elapsed().as_secs_f64();
            (busy, calls, longest) = (busy + took, calls + 1, longest.max(took));
            let Some(wait) = next else { break };
            std::thread::sleep(wait);
        }
        println!(
            "  trimmed in {:.0} ns each, {calls} calls, the longest {:.0} µs",
            busy * 1e9 / count as f64,
            longest * 1e6
        );
    }
}
