//! That AddressSanitizer sees what greenlets do: `ci/asan.sh` is worth nothing if it is blind on their
//! stacks. Each fault here is made in a child, which must die of the report that names it.

mod common;

use std::hint::black_box;

use common::{is_child, subprocess, watchdog};
use gevent::{Me, RawGreenlet, enter};

/// Runs `fault` in a greenlet of a child process, whose report must say what it was.
fn reported(test: &str, report: &str, fault: fn(&Me<'_, ()>)) {
    if is_child() {
        return enter(|me: &Me<()>| {
            let home = me.handle();
            let greenlet = me.child(move |me: &Me<()>, ()| {
                // Suspended once and looked at: the bounds of its stack must be known afterwards too.
                me.switch(&home, ()).unwrap();
                fault(me);
            });
            me.switch(&greenlet, ()).unwrap();
            assert!(greenlet.backtrace().is_some());
            me.switch(&greenlet, ()).unwrap();
        });
    }
    let output = subprocess(test, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was not noticed\n{text}");
    assert!(text.contains(&format!("ERROR: AddressSanitizer: {report}")), "{text}");
}

#[test]
fn a_use_of_freed_memory_in_a_greenlet_is_reported() {
    reported("a_use_of_freed_memory_in_a_greenlet_is_reported", "heap-use-after-free", |_| {
        let freed = Box::into_raw(Box::new(1u64));
        // SAFETY: made by a box just now.
        drop(unsafe { Box::from_raw(freed) });
        // SAFETY: none: the sanitizer is to see it.
        black_box(unsafe { *freed });
    });
}

#[test]
fn an_access_past_a_variable_on_a_greenlets_stack_is_reported() {
    let test = "an_access_past_a_variable_on_a_greenlets_stack_is_reported";
    reported(test, "stack-buffer-overflow", |_| {
        let variable = black_box([1u8; 32]);
        // SAFETY: none: the sanitizer is to see it.
        black_box(unsafe { *variable.as_ptr().add(black_box(33)) });
    });
}

#[test]
fn a_use_of_a_frame_that_has_returned_is_reported() {
    #[inline(never)]
    fn local() -> *const u64 {
        let local = black_box(7u64);
        black_box(&raw const local)
    }
    reported("a_use_of_a_frame_that_has_returned_is_reported", "stack-use-after-return", |me| {
        let gone = local();
        // Across a switch: the frames of each greenlet are its own.
        let home = me.handle();
        let other = me.child(move |me: &Me<()>, ()| drop(me.switch(&home, ())));
        me.switch(&other, ()).unwrap();
        // SAFETY: none: the sanitizer is to see it.
        black_box(unsafe { *gone });
    });
}

/// Frames with poison between their variables, as deep as told; the innermost calls `then`.
#[inline(never)]
fn deep(left: usize, then: &dyn Fn()) -> u64 {
    let variables = black_box([left as u64; 24]);
    match left {
        0 => then(),
        _ => drop(black_box(deep(left - 1, then))),
    }
    variables[black_box(left % 24)]
}

#[test]
fn a_stack_that_was_unwound_is_clean_when_it_is_used_again() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        for round in 0..300usize {
            let home = me.handle();
            let depth = 5 + round % 40;
            let body = move |me: &Me<()>, ()| {
                deep(depth, &|| drop(me.switch(&home, ())));
            };
            let greenlet: RawGreenlet<()> = me.child(body);
            me.switch(&greenlet, ()).unwrap();
            match round % 3 {
                // Unwound by its drop, ended by a throw of its own, or left to return.
                0 => drop(greenlet),
                1 => drop(me.throw(&greenlet, Box::new(gevent::GreenletExit))),
                _ => me.switch(&greenlet, ()).unwrap(),
            }
        }
        // Threads end with greenlets alive; the next one gets their stacks.
        for _ in 0..20 {
            std::thread::spawn(|| {
                enter(|me: &Me<()>| {
                    let home = me.handle();
                    let left = me.child(move |me: &Me<()>, ()| {
                        deep(30, &|| drop(me.switch(&home, ())));
                    });
                    me.switch(&left, ()).unwrap();
                    std::mem::forget(left);
                });
            })
            .join()
            .unwrap();
        }
    });
}
