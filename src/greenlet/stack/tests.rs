//! The pool: sizes, reuse, claims, colours, high-water marks, memory given back, threads.
//!
//! Tests that need a process to themselves run again as a child: see [`in_child`].

use std::collections::HashSet;
use std::ffi::OsStr;
use std::process::{Command, Output};

use corosensei::stack::Stack;

use crate::sys::memory::{self, FaultProbe, page_size};

use super::guard::probe;
use super::shelf::thread_exit;
use super::{Claim, GuardKind, GuardedStack, StackError, StackSize, stack_stats, trim};

pub(super) const KINDS: [(GuardKind, &str); 3] =
    [(GuardKind::Install, "install"), (GuardKind::UserFault, "userfault"), (GuardKind::Mprotect, "mprotect")];

/// Runs the test of this name again in a process of its own, where [`in_child`] says so.
pub(super) fn child(test: &str, settings: &[(&str, &str)], threads: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    // For machines that cannot run it by themselves: see `this_program` in `tests/common`.
    let runner = std::env::var("GEVENT_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().expect("the program at least"));
    command.args(words);
    command.args([test, "--exact", "--nocapture", "--test-threads", threads]);
    command.env("GEVENT_STACK_CHILD", test).env_remove("GEVENT_STACK_GUARD").env_remove("RUST_BACKTRACE");
    command.envs(settings.iter().copied());
    command.output().unwrap()
}

/// Whether this process is the child of the test of this name.
pub(super) fn in_child(test: &str) -> bool {
    std::env::var("GEVENT_STACK_CHILD").is_ok_and(|name| name == test)
}

/// Runs the test again as a child that must pass, and has run. Returns whether this *is* the child.
pub(super) fn is_child_or_run(test: &str, settings: &[(&str, &str)]) -> bool {
    if in_child(test) {
        return true;
    }
    let output = child(test, settings, "1");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{settings:?}: {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{test} did not run in its child:\n{out}\n{err}");
    false
}

/// Says past the capture of output what could not be tested. With `GEVENT_TEST_ALL_GUARDS` set that fails.
pub(super) fn untested(what: &str, why: &str) {
    crate::sys::fault::write_stderr(format!("\nNOT TESTED HERE: {what}: {why}\n").as_bytes());
    assert!(std::env::var_os("GEVENT_TEST_ALL_GUARDS").is_none(), "{what} cannot be tested: {why}");
}

/// The kinds that work here; the others are named loudly.
pub(super) fn working_kinds() -> impl Iterator<Item = (GuardKind, &'static str)> {
    KINDS.into_iter().filter(|(kind, _)| match probe(*kind).unwrap() {
        Ok(()) => true,
        Err(why) => {
            untested(&format!("stack guards by {kind}"), &why);
            false
        }
    })
}

pub(super) fn take(size: StackSize) -> GuardedStack {
    GuardedStack::take(size).unwrap()
}

pub(super) fn top(stack: &GuardedStack) -> usize {
    stack.base().get()
}

/// Writes one byte, `depth` bytes below the upper end.
pub(super) fn touch(stack: &GuardedStack, depth: usize) {
    assert!(depth <= stack.usable());
    let end = stack.limit().get() + stack.size().bytes();
    // SAFETY: the byte lies in the body of a stack that is ours and that nothing runs on.
    unsafe { std::ptr::write_volatile((end - depth) as *mut u8, 1) };
}

/// Whether the kernel faults at both ends of the guard, and nowhere in the body.
#[track_caller]
pub(super) fn assert_guarded(probe: &FaultProbe, stack: &GuardedStack) {
    let (low, guard) = (stack.limit().get(), stack.size().guard());
    for (address, guarded) in
        [(low, true), (low + guard - 1, true), (low + guard, false), (top(stack) - 1, false)]
    {
        assert_eq!(probe.read_faults(address).unwrap(), guarded, "read at low + {:#x}", address - low);
        // SAFETY: a byte of our own stack, which nothing runs on, or of its guard.
        let faults = unsafe { probe.write_faults(address).unwrap() };
        assert_eq!(faults, guarded, "write at low + {:#x}", address - low);
    }
}

fn resident_pages(stack: &GuardedStack) -> usize {
    let low = stack.limit().get() + stack.size().guard();
    let mut pages = vec![0; stack.usable() / page_size()];
    memory::resident(low, &mut pages).unwrap();
    pages.iter().filter(|&&page| page & 1 == 1).count()
}

pub(super) fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Slots this thread has, free or in use.
fn owned() -> usize {
    let stats = stack_stats();
    stats.slots_free + stats.slots_in_use
}

#[test]
fn sizes_round_up_to_a_power_of_two_with_the_guard_inside() {
    let min = StackSize::min().bytes();
    assert_eq!(StackSize::new(1).unwrap().bytes(), min);
    assert_eq!(StackSize::new(min).unwrap().bytes(), min);
    assert_eq!(StackSize::new(min + 1).unwrap().bytes(), 2 * min);
    assert_eq!(StackSize::new(256 << 10).unwrap(), StackSize::DEFAULT);
    assert_eq!(StackSize::new(64 << 20).unwrap(), StackSize::MAX);
    for log2 in min.trailing_zeros()..=26 {
        let size = StackSize::new(1 << log2).unwrap();
        assert_eq!(size.bytes(), 1 << log2);
        assert_eq!(size.guard() + size.usable(), size.bytes());
        assert_eq!(size.guard() % page_size(), 0);
        assert!(size.guard() >= page_size() && size.usable() >= 16 << 10, "{size:?}");
    }
    assert_eq!(StackSize::DEFAULT.guard(), (16 * page_size()).min(64 << 10));
    assert_eq!(format!("{:?}", StackSize::DEFAULT), "StackSize(256 KiB)");
}

#[test]
fn sizes_out_of_range_are_errors_that_name_value_and_range() {
    for bytes in [0, (64 << 20) + 1, usize::MAX] {
        let error = StackSize::new(bytes).unwrap_err();
        assert_eq!(error, StackError::Size { bytes });
        let text = error.to_string();
        assert!(text.contains(&format!("{bytes} bytes")) && text.contains("64 MiB"), "{text}");
        let error = std::io::Error::from(error);
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn the_newest_free_stack_is_used_first() {
    let (first, second) = (take(StackSize::DEFAULT), take(StackSize::DEFAULT));
    let tops = [top(&first), top(&second)];
    assert_ne!(tops[0], tops[1]);
    drop(first);
    drop(second);
    let (second, first) = (take(StackSize::DEFAULT), take(StackSize::DEFAULT));
    assert_eq!([top(&first), top(&second)], tops);
}

#[test]
fn no_two_stacks_share_a_byte() {
    let mut taken: Vec<_> = (0..300).map(|_| take(StackSize::min())).collect();
    taken.extend((0..50).map(|_| take(StackSize::DEFAULT)));
    let mut spans: Vec<_> = taken.iter().map(|stack| (stack.limit().get(), top(stack))).collect();
    spans.sort_unstable();
    for (stack, (low, top)) in taken.iter().zip(taken.iter().map(|stack| (stack.limit().get(), top(stack)))) {
        assert!(top > low && top - low <= stack.size().bytes() && top - low > stack.size().bytes() - 512);
    }
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:x?}");
}

#[test]
fn a_leaked_stack_is_never_used_again() {
    let leaked = take(StackSize::DEFAULT);
    let address = top(&leaked);
    std::mem::forget(leaked);
    let taken: Vec<_> = (0..100).map(|_| take(StackSize::DEFAULT)).collect();
    assert!(taken.iter().all(|stack| top(stack) != address));
}

#[test]
fn a_claimed_stack_is_not_given_to_others() {
    let size = StackSize::DEFAULT;
    drop(take(size));
    let free = stack_stats().slots_free;
    let claims: Vec<_> = (0..free).map(|_| Claim::new(size).unwrap()).collect();
    assert_eq!(stack_stats().slots_claimed, free);
    let before = owned();
    let other = take(size);
    assert!(owned() > before, "a plain take must not use up what was promised");
    let before = owned();
    let taken: Vec<_> = claims.into_iter().map(GuardedStack::take_claimed).collect();
    assert_eq!((owned(), taken.len()), (before, free), "claimed takes never grow the pool");
    assert_eq!(stack_stats().slots_claimed, 0);
    let tops: HashSet<_> = taken.iter().chain([&other]).map(top).collect();
    assert_eq!(tops.len(), free + 1);
}

#[test]
fn claims_beyond_what_is_free_grow_the_pool_and_dropped_ones_are_released() {
    let size = StackSize::DEFAULT;
    let claims: Vec<_> = (0..1000).map(|_| Claim::new(size).unwrap()).collect();
    let stats = stack_stats();
    assert!(stats.slots_claimed == 1000 && stats.slots_free >= 1000, "{stats:?}");
    drop(claims);
    assert_eq!(stack_stats().slots_claimed, 0);
    let before = owned();
    let taken: Vec<_> = (0..1000).map(|_| take(size)).collect();
    assert_eq!((owned(), taken.len()), (before, 1000));
}

#[test]
fn tops_have_four_colours_128_bytes_apart_within_the_first_page() {
    let taken: Vec<_> = (0..64).map(|_| take(StackSize::DEFAULT)).collect();
    let colour = |stack: &GuardedStack| stack.limit().get() + stack.size().bytes() - top(stack);
    let colours: HashSet<_> = taken.iter().map(colour).collect();
    assert_eq!(colours, HashSet::from([0, 128, 256, 384]));
    assert!(taken.iter().all(|stack| stack.limit().get() % page_size() == 0));
}

#[test]
fn taking_and_labelling_touches_no_page_of_the_stack() {
    let size = StackSize::new(16 << 20).unwrap();
    let stack = take(size);
    stack.set_label(7, "a name");
    assert_eq!(resident_pages(&stack), 0);
    assert_eq!(stack.high_water(), 0);
}

#[test]
fn the_high_water_mark_is_the_deepest_page_touched() {
    let page = page_size();
    let size = StackSize::new(8 << 20).unwrap();
    let stack = take(size);
    assert_eq!(stack.high_water(), 0);
    touch(&stack, 1);
    assert_eq!(stack.high_water(), page);
    touch(&stack, 5 * page + 1);
    assert_eq!(stack.high_water(), 6 * page, "a page skipped over counts");
    touch(&stack, size.usable());
    assert_eq!(stack.high_water(), size.usable());
}

#[test]
fn free_stacks_that_were_used_deep_are_trimmed_later_and_those_in_use_never() {
    let size = StackSize::new(2 << 20).unwrap(); // used by no other test
    assert_eq!(trim(), None, "nothing to do on a fresh thread");
    let in_use = take(size);
    touch(&in_use, 20 * page_size());
    let deep: Vec<_> = (0..10).map(|_| take(size)).collect();
    for stack in &deep {
        (1..=30).for_each(|page| touch(stack, page * page_size()));
        assert_eq!(resident_pages(stack), 30);
    }
    let tops: Vec<_> = deep.iter().map(top).collect();
    drop(deep);
    let wait = trim().expect("they wait for the next pass");
    let again = take(size);
    assert_eq!(resident_pages(&again), 30, "what was just used is left alone");
    drop(again);
    let mut next = Some(wait);
    for _ in 0..10 {
        let Some(wait) = next else { break };
        std::thread::sleep(wait);
        next = trim();
    }
    assert_eq!(next, None, "then nothing is left to do");
    let probe = FaultProbe::new().unwrap();
    let deep: Vec<_> = (0..10).map(|_| take(size)).collect();
    assert_eq!(deep.iter().map(top).collect::<HashSet<_>>(), tops.into_iter().collect());
    for stack in &deep {
        assert_eq!(resident_pages(stack), 1, "the topmost page stays");
        assert_guarded(&probe, stack);
    }
    assert_eq!(resident_pages(&in_use), 1, "the stack in use has kept its page");
    assert_eq!(in_use.high_water(), 20 * page_size());
}

#[test]
fn a_crowd_that_is_gone_gives_back_its_first_pages_too() {
    let test = "greenlet::stack::tests::a_crowd_that_is_gone_gives_back_its_first_pages_too";
    if !is_child_or_run(test, &[]) {
        return;
    }
    let crowd: Vec<_> = (0..20_000).map(|_| take(StackSize::DEFAULT)).collect();
    let before = status("RssAnon:");
    crowd.iter().for_each(|stack| touch(stack, 1));
    assert!(status("RssAnon:") - before >= 19_000 * page_size() / 1024);
    drop(crowd);
    let mut calls = 0;
    while let Some(wait) = trim() {
        std::thread::sleep(wait);
        calls += 1;
        assert!(calls < 1000);
    }
    assert!(calls >= 20_000 / 64, "the work of one call is bounded");
    let left = status("RssAnon:").saturating_sub(before);
    let kept = super::trim::KEEP_WARM * page_size() / 1024;
    assert!(left > kept / 2 && left < kept + 2048, "{left} KiB left");
}

#[test]
fn a_thread_that_ends_leaves_its_stacks_to_others() {
    let size = StackSize::new(4 << 20).unwrap(); // used by no other test
    let on_thread = |count: usize| {
        std::thread::spawn(move || {
            let taken: Vec<_> = (0..count).map(|_| take(size)).collect();
            let left: usize = taken.iter().map(resident_pages).sum();
            taken.iter().for_each(|stack| touch(stack, 10 * page_size()));
            (taken.iter().map(top).collect::<HashSet<_>>(), left)
        })
        .join()
        .unwrap()
    };
    let (first, _) = on_thread(16);
    assert_eq!(first.len(), 16);
    let (second, left) = on_thread(16);
    assert_eq!(first, second);
    assert_eq!(left, 0, "pages left behind by the thread that ended");
}

#[test]
fn stacks_dropped_by_late_destructors_of_a_thread_come_back() {
    struct Late(GuardedStack);
    impl Drop for Late {
        fn drop(&mut self) {
            drop((0..3).map(|_| take(self.0.size())).collect::<Vec<_>>());
        }
    }
    thread_local!(static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) });
    /// Runs after the pool's own hook: its key is the older one.
    extern "C" fn later_still(late: *mut libc::c_void) {
        // SAFETY: the thread below has stored this box.
        drop(unsafe { Box::from_raw(late.cast::<Late>()) });
    }
    let size = StackSize::new(32 << 20).unwrap(); // used by no other test
    drop(take(size)); // the pool's key is made
    thread_exit();
    let mut key = 0;
    // SAFETY: the key is written before it is used.
    let made = unsafe { libc::pthread_key_create(&mut key, Some(later_still)) };
    assert_eq!(made, 0);
    let run = |after_hook: bool| {
        std::thread::spawn(move || {
            let late = Late(take(size));
            if after_hook {
                let late = Box::into_raw(Box::new(late));
                // SAFETY: the key was made above.
                let set = unsafe { libc::pthread_setspecific(key, late.cast()) };
                assert_eq!(set, 0);
            } else {
                LATE.with(|cell| *cell.borrow_mut() = Some(late));
            }
        })
        .join()
        .unwrap();
        let pool = super::slab::Pool::lock();
        let here = &pool.sizes[size.class()];
        (here.opened, here.returned_count)
    };
    let (opened, returned) = run(false);
    assert!(opened >= 4 && opened == returned, "{opened} opened, {returned} came back");
    for turn in 0..20 {
        assert_eq!(run(turn % 2 == 0), (opened, returned));
    }
}

#[test]
fn a_thread_may_go_on_after_giving_its_stacks_away() {
    std::thread::spawn(|| {
        let size = StackSize::DEFAULT;
        drop((0..100).map(|_| take(size)).collect::<Vec<_>>());
        let claim = Claim::new(size).unwrap();
        thread_exit();
        let stats = stack_stats();
        assert_eq!((stats.slots_free, stats.slots_claimed), (1, 1), "the claimed one stays");
        drop(GuardedStack::take_claimed(claim));
        assert_eq!(stack_stats().slots_free, 1);
        let mine = (0..100).map(|_| take(size)).collect::<Vec<_>>();
        drop(mine);
        assert!(stack_stats().slots_free >= 100);
    })
    .join()
    .unwrap();
}

#[test]
fn a_configured_size_is_bytes_or_has_a_unit() {
    let kib = |text| StackSize::parse(text).map(|size| size.bytes() / 1024);
    assert_eq!(kib("262144"), Some(256));
    assert_eq!(kib(" 300k "), Some(512));
    assert_eq!(kib("1 M"), Some(1024));
    for bad in ["", "k", "0", "-1", "1g", "lots", "1.5m", "65M", "99999999999999999999"] {
        assert_eq!(kib(bad), None, "{bad:?}");
    }
}
