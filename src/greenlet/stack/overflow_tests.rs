//! The report of an overflow, and who gets the other faults: each in a process that dies of it.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use corosensei::{Coroutine, CoroutineResult};
use libc::{SIGABRT, SIGBUS, SIGSEGV, c_int};

use crate::sys::fault;

use super::guard::probe;
use super::tests::{child, in_child, untested};
use super::{GuardKind, GuardedStack, StackSize, arm_thread};

const HINT: &str =
    "set a larger one with Builder::stack_size, Hub::builder().stack_size or GEVENT_STACK_SIZE\n";

/// Uses up any stack, a little at a time.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 32]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + frame[(depth % 32) as usize] }
}

/// Runs `f` as a greenlet would be, on a stack with this label.
fn on_stack(size: StackSize, id: u64, name: &str, f: impl FnOnce() + 'static) {
    arm_thread();
    let stack = GuardedStack::take(size).unwrap();
    stack.set_label(id, name);
    let mut coroutine = Coroutine::<(), (), (), _>::with_stack(stack, |_, ()| f());
    assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
}

fn overflow(size: StackSize, id: u64, name: &str) {
    on_stack(size, id, name, || {
        recurse(0);
    });
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_dies(output: &Output, signal: c_int, text: &str) {
    let errors = errors(output);
    assert_eq!(output.status.signal(), Some(signal), "{}\n{errors}", output.status);
    assert!(errors.contains(text), "{errors}");
}

#[track_caller]
fn assert_silent(output: &Output) {
    let errors = errors(output);
    assert!(!errors.contains("greenlet") || !errors.contains("has overflowed its stack"), "{errors}");
}

#[test]
fn an_overflow_on_the_first_thread_names_the_greenlet_and_aborts() {
    let test =
        "greenlet::stack::overflow_tests::an_overflow_on_the_first_thread_names_the_greenlet_and_aborts";
    if in_child(test) {
        // The harness runs tests on threads of their own. After a fork, this one is the first.
        // SAFETY: the forked process uses nothing that another thread may have locked.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: both ask for numbers.
            assert!(unsafe { libc::gettid() == libc::getpid() });
            return overflow(StackSize::DEFAULT, 7, "echo");
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        eprintln!("the forked process: {}", std::process::ExitStatus::from_raw(status));
        return;
    }
    let errors = errors(&child(test, &[], "1"));
    let kib = StackSize::DEFAULT.usable() / 1024;
    let report = format!("\ngreenlet 'echo' (id 7) has overflowed its stack of {kib} KiB\n{HINT}");
    assert!(errors.contains(&report), "{errors}");
    assert!(errors.contains("the forked process: signal: 6 (SIGABRT)"), "{errors}");
}

#[test]
fn an_overflow_is_reported_with_every_kind_of_guard() {
    let test = "greenlet::stack::overflow_tests::an_overflow_is_reported_with_every_kind_of_guard";
    if in_child(test) {
        return overflow(StackSize::new(128 << 10).unwrap(), 12, "greedy");
    }
    for (kind, value) in [
        (GuardKind::Install, "install"),
        (GuardKind::UserFault, "userfault"),
        (GuardKind::Mprotect, "mprotect"),
    ] {
        if let Err(why) = probe(kind).unwrap() {
            untested(&format!("the report of an overflow with guards by {kind}"), &why);
            continue;
        }
        let output = child(test, &[("GEVENT_STACK_GUARD", value)], "2");
        let kib = StackSize::new(128 << 10).unwrap().usable() / 1024;
        let report = format!("\ngreenlet 'greedy' (id 12) has overflowed its stack of {kib} KiB\n");
        assert_dies(&output, SIGABRT, &report);
    }
}

#[test]
fn poisoned_guards_raise_sigbus_and_the_others_sigsegv() {
    let test = "greenlet::stack::overflow_tests::poisoned_guards_raise_sigbus_and_the_others_sigsegv";
    if in_child(test) {
        // The handlers do not stand in the way: they are not installed.
        let stack = GuardedStack::take(StackSize::DEFAULT).unwrap();
        fault::set_default(SIGSEGV);
        fault::set_default(SIGBUS);
        let mut coroutine = Coroutine::<(), (), (), _>::with_stack(stack, |_, ()| {
            recurse(0);
        });
        coroutine.resume(());
        return;
    }
    for (kind, value, signal) in [
        (GuardKind::Install, "install", SIGSEGV),
        (GuardKind::UserFault, "userfault", SIGBUS),
        (GuardKind::Mprotect, "mprotect", SIGSEGV),
    ] {
        if let Err(why) = probe(kind).unwrap() {
            untested(&format!("the signal of guards by {kind}"), &why);
            continue;
        }
        assert_dies(&child(test, &[("GEVENT_STACK_GUARD", value)], "2"), signal, "");
    }
}

#[test]
fn a_greenlet_without_a_name_is_reported_by_its_id() {
    let test = "greenlet::stack::overflow_tests::a_greenlet_without_a_name_is_reported_by_its_id";
    if in_child(test) {
        return overflow(StackSize::DEFAULT, u64::MAX, "");
    }
    let report = "\ngreenlet (id 18446744073709551615) has overflowed its stack of ";
    assert_dies(&child(test, &[], "2"), SIGABRT, report);
}

#[test]
fn the_label_of_an_earlier_greenlet_is_not_shown() {
    let test = "greenlet::stack::overflow_tests::the_label_of_an_earlier_greenlet_is_not_shown";
    if in_child(test) {
        on_stack(StackSize::DEFAULT, 1, "earlier", || {});
        let stack = GuardedStack::take(StackSize::DEFAULT).unwrap();
        let mut coroutine = Coroutine::<(), (), (), _>::with_stack(stack, |_, ()| {
            recurse(0);
        });
        coroutine.resume(());
        return;
    }
    assert_dies(&child(test, &[], "2"), SIGABRT, "\ngreenlet (id 0) has overflowed its stack of ");
}

#[test]
fn a_long_name_is_cut_between_characters() {
    let test = "greenlet::stack::overflow_tests::a_long_name_is_cut_between_characters";
    if in_child(test) {
        let name = std::env::var("NAME").unwrap();
        return overflow(StackSize::DEFAULT, 3, &name);
    }
    for (name, shown) in [
        ("größere Straße zu allen Verbindungen", "größere Straße zu allen Ver…"),
        ("größere Straßen zur großen Österreicherin", "größere Straßen zur großen…"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaäöü", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"),
        ("thirty-three bytes are not cut off", "thirty-three bytes are not cut…"),
        ("thirty-three bytes, not cut off!!", "thirty-three bytes, not cut off!!"),
    ] {
        let report = format!("\ngreenlet '{shown}' (id 3) has overflowed its stack of ");
        assert_dies(&child(test, &[("NAME", name)], "2"), SIGABRT, &report);
    }
}

#[test]
fn a_frame_larger_than_the_stack_is_an_overflow() {
    #[inline(never)]
    fn large_frame() -> u8 {
        let frame = std::hint::black_box([1u8; 1 << 20]);
        frame[std::hint::black_box(5)]
    }
    let test = "greenlet::stack::overflow_tests::a_frame_larger_than_the_stack_is_an_overflow";
    if in_child(test) {
        return on_stack(StackSize::DEFAULT, 4, "large", || {
            std::hint::black_box(large_frame());
        });
    }
    assert_dies(&child(test, &[], "2"), SIGABRT, "\ngreenlet 'large' (id 4) has overflowed its stack of ");
}

#[test]
fn a_thread_without_a_signal_stack_gets_one() {
    let test = "greenlet::stack::overflow_tests::a_thread_without_a_signal_stack_gets_one";
    extern "C" fn thread(_: *mut libc::c_void) -> *mut libc::c_void {
        assert!(signal_stack_disabled(), "the C library gives threads none");
        overflow(StackSize::DEFAULT, 9, "foreign");
        std::ptr::null_mut()
    }
    if in_child(test) {
        run_c_thread(thread);
        return;
    }
    assert_dies(&child(test, &[], "1"), SIGABRT, "\ngreenlet 'foreign' (id 9) has overflowed its stack of ");
}

#[test]
fn the_signal_stack_of_a_thread_is_given_back_when_it_ends() {
    extern "C" fn thread(_: *mut libc::c_void) -> *mut libc::c_void {
        arm_thread();
        assert!(!signal_stack_disabled());
        arm_thread();
        std::ptr::null_mut()
    }
    let test = "greenlet::stack::overflow_tests::the_signal_stack_of_a_thread_is_given_back_when_it_ends";
    if !in_child(test) {
        let output = child(test, &[], "1");
        assert!(output.status.success(), "{}\n{}", output.status, errors(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    run_c_thread(thread);
    let before = crate::sys::memory::mappings().unwrap();
    for _ in 0..50 {
        run_c_thread(thread);
    }
    let after = crate::sys::memory::mappings().unwrap();
    assert!(after < before + 10, "{before} mappings, then {after}");
}

fn signal_stack_disabled() -> bool {
    let mut now = std::mem::MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: only asks, with room for the answer, which is there on success.
    unsafe {
        assert_eq!(libc::sigaltstack(std::ptr::null(), now.as_mut_ptr()), 0);
        now.assume_init().ss_flags & libc::SS_DISABLE != 0
    }
}

fn run_c_thread(thread: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void) {
    let mut handle = 0;
    // SAFETY: the thread's function takes nothing and is joined at once.
    unsafe {
        assert_eq!(libc::pthread_create(&mut handle, std::ptr::null(), thread, std::ptr::null_mut()), 0);
        libc::pthread_join(handle, std::ptr::null_mut());
    }
}

/// A handler of the program's own.
unsafe extern "C" fn earlier(signal: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    fault::write_stderr(if signal == SIGSEGV {
        b"earlier handler: SEGV\n"
    } else {
        b"earlier handler: BUS\n"
    });
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(42) }
}

extern "C" fn earlier_plain(_: c_int) {
    fault::write_stderr(b"earlier plain handler\n");
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(43) }
}

fn handle(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: all zeroes are a sigaction; the handler is a function of the type that the flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

/// Reads where nothing is mapped.
fn fault_at(address: usize) {
    // SAFETY: none: the process is to die of it.
    unsafe { std::ptr::read_volatile(address as *const u8) };
}

#[test]
fn other_faults_reach_the_handler_that_was_there_before() {
    let test = "greenlet::stack::overflow_tests::other_faults_reach_the_handler_that_was_there_before";
    if !in_child(test) {
        for (case, code, text) in [
            ("segv", 42, "earlier handler: SEGV\n"),
            ("bus", 42, "earlier handler: BUS\n"),
            ("greenlet", 42, "earlier handler: SEGV\n"),
            ("guard of another", 42, "earlier handler: SEGV\n"),
            ("sent", 42, "earlier handler: SEGV\n"),
            ("plain", 43, "earlier plain handler\n"),
        ] {
            let output = child(test, &[("CASE", case)], "2");
            assert_eq!(output.status.code(), Some(code), "{case}: {}\n{}", output.status, errors(&output));
            assert!(errors(&output).contains(text), "{case}: {}", errors(&output));
            assert_silent(&output);
        }
        return;
    }
    let case = std::env::var("CASE").unwrap();
    if case == "plain" {
        handle(SIGSEGV, earlier_plain as *const () as usize, 0);
    } else {
        handle(SIGSEGV, earlier as *const () as usize, libc::SA_SIGINFO);
    }
    if case == "bus" {
        // Each signal has an earlier handler of its own.
        handle(SIGSEGV, earlier_plain as *const () as usize, 0);
        handle(SIGBUS, earlier as *const () as usize, libc::SA_SIGINFO);
    }
    arm_thread();
    match &*case {
        "segv" | "plain" => fault_at(16),
        "bus" => {
            // SAFETY: sends a signal to this thread.
            unsafe { libc::raise(SIGBUS) };
        }
        "greenlet" => on_stack(StackSize::DEFAULT, 5, "stray", || fault_at(16)),
        "guard of another" => {
            use corosensei::stack::Stack;
            let other = GuardedStack::take(StackSize::DEFAULT).unwrap();
            let guard = other.limit().get() + 100;
            on_stack(StackSize::DEFAULT, 5, "stray", move || fault_at(guard));
        }
        "sent" => {
            // SAFETY: sends a signal to this thread.
            unsafe { libc::raise(SIGSEGV) };
        }
        _ => unreachable!("{case}"),
    }
}

#[test]
fn without_an_earlier_handler_other_faults_kill_as_ever() {
    let test = "greenlet::stack::overflow_tests::without_an_earlier_handler_other_faults_kill_as_ever";
    if !in_child(test) {
        for (case, signal) in
            [("fault", SIGSEGV), ("sent", SIGSEGV), ("ignored fault", SIGSEGV), ("bus", SIGBUS)]
        {
            let output = child(test, &[("CASE", case)], "2");
            assert_dies(&output, signal, "");
            assert_silent(&output);
        }
        let output = child(test, &[("CASE", "ignored")], "2");
        assert!(output.status.success(), "{}\n{}", output.status, errors(&output));
        return;
    }
    let case = std::env::var("CASE").unwrap();
    let before = if case.starts_with("ignored") { libc::SIG_IGN } else { libc::SIG_DFL };
    handle(SIGSEGV, before, 0);
    handle(SIGBUS, before, 0);
    arm_thread();
    // SAFETY: sends a signal to this thread.
    let send = |signal| unsafe { libc::raise(signal) };
    match &*case {
        "fault" | "ignored fault" => fault_at(16),
        "bus" => assert_eq!(send(SIGBUS), 0),
        _ => assert_eq!(send(SIGSEGV), 0),
    }
}

#[test]
fn an_overflow_of_a_thread_is_still_reported_by_std() {
    let test = "greenlet::stack::overflow_tests::an_overflow_of_a_thread_is_still_reported_by_std";
    if in_child(test) {
        on_stack(StackSize::DEFAULT, 1, "fine", || {});
        let small = std::thread::Builder::new().name("small".into()).stack_size(64 << 10);
        small.spawn(|| recurse(0)).unwrap().join().unwrap();
        return;
    }
    let output = child(test, &[], "2");
    assert_dies(&output, SIGABRT, "thread 'small'");
    assert_dies(&output, SIGABRT, "has overflowed its stack");
    assert!(!errors(&output).contains("greenlet 'fine'"), "{}", errors(&output));
}

#[test]
fn a_handler_installed_later_replaces_ours() {
    let test = "greenlet::stack::overflow_tests::a_handler_installed_later_replaces_ours";
    if in_child(test) {
        arm_thread();
        handle(SIGSEGV, earlier as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        handle(SIGBUS, earlier as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        return overflow(StackSize::DEFAULT, 1, "theirs");
    }
    let output = child(test, &[], "2");
    assert_eq!(output.status.code(), Some(42), "{}\n{}", output.status, errors(&output));
    assert_silent(&output);
}
