//! The end of the process with greenlets alive, and what ends it. Each case is a process of its own,
//! whose status and output are checked. It has a `main` of its own (`harness = false`), since the test
//! harness never runs a test on the main thread.

mod common;

use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::rc::Rc;

use common::{CHILD, OnDrop};
use gevent::{Generator, Me, RawGreenlet, SwitchError, current, enter, gettrace, root, settrace};

/// How a case must end.
#[derive(Debug, PartialEq)]
enum End {
    Status(i32),
    Signal(i32),
}
use End::{Signal, Status};

struct Case {
    name: &'static str,
    run: fn(),
    end: End,
    /// Standard output, whole.
    out: &'static str,
    /// What standard error contains; empty: nothing is asked.
    err: &'static str,
}

macro_rules! cases {
    ($($name:ident => $end:expr, $out:expr, $err:expr;)*) => {
        &[$(Case { name: stringify!($name), run: $name, end: $end, out: $out, err: $err }),*]
    };
}

const CASES: &[Case] = cases! {
    main_returns_with_a_live_greenlet => Status(0), "main ends\n", "";
    main_returns_with_nested_live_greenlets => Status(0), "main ends\n", "";
    main_returns_with_a_thousand_live_greenlets => Status(0), "main ends\n", "";
    main_returns_with_an_unstarted_greenlet => Status(0), "main ends\n", "";
    // A handle in a user's own thread-local is dropped as such, by std, and like any last handle.
    main_returns_with_handles_in_thread_locals => Status(0), "main ends\nunwound\nunwound\n", "";
    main_returns_with_a_live_generator => Status(0), "main ends\n", "";
    main_returns_with_a_tracer => Status(0), "main ends\n", "";
    main_returns_while_another_thread_has_greenlets => Status(0), "main ends\n", "";
    main_panics_with_a_live_greenlet => Status(101), "", "main's own";
    exit_from_the_root => Status(3), "", "";
    exit_from_a_greenlet => Status(4), "", "";
    exit_from_a_nested_greenlet => Status(5), "", "";
    exit_from_a_greenlet_with_handles_in_thread_locals => Status(6), "unwound\nunwound\n", "";
    exit_from_a_destructor_of_an_unwinding_greenlet => Status(7), "", "";
    exit_from_a_generator => Status(8), "", "";
    exit_from_a_greenlet_of_another_thread => Status(9), "", "";
    exit_while_other_threads_have_greenlets => Status(10), "", "";
    exit_in_a_tracer => Status(11), "", "";
    the_api_in_thread_local_destructors => Status(0), "main ends\ndestroyed\n", "";
    a_panic_in_a_drop_while_unwinding => Signal(libc::SIGABRT), "", "panic in a destructor";
    a_panic_in_a_drop_of_a_dropped_greenlet => Signal(libc::SIGABRT), "", "panic in a destructor";
    a_switch_in_a_panic_hook => Status(0), "refused 1\ncaught\n5\n", "";
    a_throw_nobody_catches_ends_main => Status(101), "", "";
    a_panic_in_a_greenlet_ends_main => Status(101), "", "in the greenlet";
    abort_in_a_greenlet => Signal(libc::SIGABRT), "", "";
};

fn main() {
    if let Ok(name) = std::env::var(CHILD) {
        let case = CASES.iter().find(|case| case.name == name).expect("a case of that name");
        // A hang is a failure: the parent sees the signal.
        // SAFETY: `alarm` has no preconditions.
        unsafe { libc::alarm(60) };
        return (case.run)();
    }
    // As the test harness has them: names to run, `--skip NAME`, `--exact`, `--list`.
    let (mut filters, mut skips, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match &*arg {
            "--skip" => skips.extend(args.next()),
            "--test-threads" | "--format" | "--color" | "-Z" => drop(args.next()),
            _ if arg.starts_with('-') => options.push(arg),
            _ => filters.push(arg),
        }
    }
    let exact = options.iter().any(|option| option == "--exact");
    let names = |name: &str, filter: &String| if exact { name == filter } else { name.contains(&**filter) };
    let wanted = |name: &str| {
        (filters.is_empty() || filters.iter().any(|filter| names(name, filter)))
            && !skips.iter().any(|skip| names(name, skip))
    };
    let chosen: Vec<&Case> = CASES.iter().filter(|case| wanted(case.name)).collect();
    if options.iter().any(|option| option == "--list") {
        chosen.iter().for_each(|case| println!("{}: test", case.name));
        return;
    }
    println!("\nrunning {} tests", chosen.len());
    let failed: Vec<&&Case> = chosen.iter().filter(|case| !passes(case)).collect();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    let skipped = CASES.len() - chosen.len();
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {skipped} filtered out\n",
        chosen.len() - failed.len(),
        failed.len()
    );
    exit(if failed.is_empty() { 0 } else { 101 });
}

fn passes(case: &Case) -> bool {
    let output = common::subprocess(case.name, &[]);
    let end = match (output.status.code(), output.status.signal()) {
        (Some(status), _) => Status(status),
        (None, signal) => Signal(signal.unwrap_or(0)),
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = end == case.end && out == case.out && err.contains(case.err);
    println!("test {} ... {}", case.name, if passed { "ok" } else { "FAILED" });
    if !passed {
        println!("  expected {:?}, output {:?}, error containing {:?}", case.end, case.out, case.err);
        println!("  but got  {end:?}, output {out:?}, error {err:?}");
    }
    passed
}

// ------------------------------------------------------------------------------------ the cases

/// Says on standard output when it is dropped: but two cases expect that it never is.
struct Loud;

impl Drop for Loud {
    fn drop(&mut self) {
        println!("unwound");
    }
}

/// A greenlet that is suspended with something loud on its stack.
fn suspended(me: &Me<()>) -> RawGreenlet<()> {
    let home = me.handle();
    let child = me.child(move |me: &Me<()>, ()| {
        let _loud = Loud;
        me.switch(&home, ()).unwrap();
    });
    me.switch(&child, ()).unwrap();
    child
}

thread_local! {
    static FIRST: RefCell<Vec<RawGreenlet<()>>> = const { RefCell::new(Vec::new()) };
    static SECOND: RefCell<Vec<RawGreenlet<()>>> = const { RefCell::new(Vec::new()) };
}

/// Handles in thread-locals that are destroyed after, and before, those of the library.
fn fill_thread_locals(me: &Me<()>) {
    FIRST.with_borrow(|handles| assert!(handles.is_empty()));
    let greenlets = [suspended(me), suspended(me)];
    let [a, b] = greenlets;
    FIRST.with_borrow_mut(|handles| handles.push(a));
    SECOND.with_borrow_mut(|handles| handles.push(b));
}

fn main_returns_with_a_live_greenlet() {
    enter(|me: &Me<()>| std::mem::forget(suspended(me)));
    println!("main ends");
}

fn main_returns_with_nested_live_greenlets() {
    enter(|me: &Me<()>| {
        let home = me.handle();
        let outer = me.child(move |me: &Me<()>, ()| {
            let inner = me.child(move |me: &Me<()>, ()| {
                let _loud = Loud;
                me.switch(&home, ()).unwrap();
            });
            let _loud = Loud;
            me.switch(&inner, ()).unwrap();
        });
        me.switch(&outer, ()).unwrap();
        std::mem::forget(outer);
    });
    println!("main ends");
}

fn main_returns_with_a_thousand_live_greenlets() {
    enter(|me: &Me<()>| std::mem::forget((0..1_000).map(|_| suspended(me)).collect::<Vec<_>>()));
    println!("main ends");
}

fn main_returns_with_an_unstarted_greenlet() {
    enter(|me: &Me<()>| std::mem::forget(me.child(|_, ()| drop(Loud))));
    println!("main ends");
}

fn main_returns_with_handles_in_thread_locals() {
    enter(fill_thread_locals);
    println!("main ends");
}

fn main_returns_with_a_live_generator() {
    let mut generator = Generator::<(), u8>::new(|outside, ()| {
        let _loud = Loud;
        outside.send(1);
    });
    generator.next();
    std::mem::forget(generator);
    println!("main ends");
}

fn main_returns_with_a_tracer() {
    let kept = OnDrop::new(|| println!("the tracer was dropped"));
    settrace(Some(Rc::new(move |_, _, _| {
        let _ = &kept;
    })));
    enter(|me: &Me<()>| std::mem::forget(suspended(me)));
    println!("main ends");
}

fn main_returns_while_another_thread_has_greenlets() {
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        enter(|me: &Me<()>| {
            let _held = suspended(me);
            ready.send(()).unwrap();
            loop {
                std::thread::park();
            }
        });
    });
    wait.recv().unwrap();
    println!("main ends");
}

fn main_panics_with_a_live_greenlet() {
    enter(|me: &Me<()>| std::mem::forget(suspended(me)));
    panic!("main's own");
}

fn exit_from_the_root() {
    enter(|me: &Me<()>| {
        let _held = suspended(me);
        exit(3);
    });
}

fn exit_from_a_greenlet() {
    enter(|me: &Me<()>| {
        let _held = suspended(me);
        let child = me.child(|_, ()| {
            let _loud = Loud;
            exit(4)
        });
        me.switch(&child, ()).unwrap();
    });
}

fn exit_from_a_nested_greenlet() {
    enter(|me: &Me<()>| {
        let child = me.child(|me: &Me<()>, ()| {
            let _held = suspended(me);
            let inner = me.child(|_, ()| exit(5));
            me.switch(&inner, ()).unwrap();
        });
        me.switch(&child, ()).unwrap();
    });
}

fn exit_from_a_greenlet_with_handles_in_thread_locals() {
    enter(|me: &Me<()>| {
        fill_thread_locals(me);
        let child = me.child(|_, ()| exit(6));
        me.switch(&child, ()).unwrap();
    });
}

fn exit_from_a_destructor_of_an_unwinding_greenlet() {
    enter(|me: &Me<()>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            let _guard = OnDrop::new(|| exit(7));
            me.switch(&home, ()).unwrap();
        });
        me.switch(&child, ()).unwrap();
        let _other = suspended(me);
        drop(child);
    });
}

fn exit_from_a_generator() {
    let mut generator = Generator::<(), u8>::new(|outside, ()| {
        outside.send(1);
        exit(8);
    });
    generator.next();
    generator.next();
}

fn exit_from_a_greenlet_of_another_thread() {
    std::thread::spawn(|| {
        enter(|me: &Me<()>| {
            let _held = suspended(me);
            let child = me.child(|_, ()| exit(9));
            me.switch(&child, ()).unwrap();
        });
    })
    .join()
    .unwrap();
}

fn exit_while_other_threads_have_greenlets() {
    let (ready, wait) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let ready = ready.clone();
        std::thread::spawn(move || {
            enter(|me: &Me<()>| {
                let _held = suspended(me);
                ready.send(()).unwrap();
                loop {
                    std::thread::park();
                }
            });
        });
    }
    (0..3).for_each(|_| wait.recv().unwrap());
    exit(10);
}

fn exit_in_a_tracer() {
    enter(|me: &Me<()>| {
        let held = suspended(me);
        settrace(Some(Rc::new(|_, _, _| exit(11))));
        me.switch(&held, ()).unwrap();
    });
}

fn the_api_in_thread_local_destructors() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            assert!(current().is_root() && root().is_root() && gettrace().is_none());
            assert!(settrace(None).is_none());
            enter(|me: &Me<()>| {
                let child = me.child(|_, ()| ());
                assert!(!child.is_started());
                me.switch(&child, ()).unwrap();
                assert!(child.is_dead());
            });
            println!("destroyed");
        }
    }
    thread_local! { static LATE: Late = const { Late } }
    LATE.with(|_| ());
    enter(|me: &Me<()>| std::mem::forget(suspended(me)));
    println!("main ends");
}

fn a_panic_in_a_drop_while_unwinding() {
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| {
            let _guard = OnDrop::new(|| panic!("the second"));
            panic!("the first");
        });
        me.switch(&child, ()).unwrap();
    });
}

fn a_panic_in_a_drop_of_a_dropped_greenlet() {
    enter(|me: &Me<()>| {
        let home = me.handle();
        let child = me.child(move |me: &Me<()>, ()| {
            let _guard = OnDrop::new(|| panic!("while it unwinds"));
            me.switch(&home, ()).unwrap();
        });
        me.switch(&child, ()).unwrap();
        drop(child);
    });
}

fn a_switch_in_a_panic_hook() {
    enter(|me: &Me<u8>| {
        let child = me.child(|_, n: u8| n);
        thread_local! { static TARGET: RefCell<Option<RawGreenlet<u8>>> = const { RefCell::new(None) } }
        TARGET.with_borrow_mut(|target| *target = Some(child.clone()));
        std::panic::set_hook(Box::new(|_| {
            let refused = Cell::new(0);
            enter(|me: &Me<u8>| {
                let target = TARGET.with_borrow(|target| target.clone().unwrap());
                if let Err(SwitchError::Unwinding(1)) = me.switch(&target, 1) {
                    refused.set(refused.get() + 1);
                }
            });
            println!("refused {}", refused.get());
        }));
        if catch_unwind(AssertUnwindSafe(|| panic!("runs the hook"))).is_err() {
            println!("caught");
        }
        TARGET.with_borrow_mut(|target| *target = None);
        println!("{}", me.switch(&child, 5).unwrap());
    });
}

fn a_throw_nobody_catches_ends_main() {
    enter(|me: &Me<()>| {
        let child = me.child(|me: &Me<()>, ()| {
            let _ = me.throw(&root(), Box::new("for main"));
        });
        me.switch(&child, ()).unwrap();
        println!("unreachable");
    });
}

fn a_panic_in_a_greenlet_ends_main() {
    enter(|me: &Me<()>| {
        let child = me.child(|_, ()| panic!("in the greenlet"));
        me.switch(&child, ()).unwrap();
        println!("unreachable");
    });
}

fn abort_in_a_greenlet() {
    enter(|me: &Me<()>| {
        let _held = suspended(me);
        let child = me.child(|_, ()| std::process::abort());
        me.switch(&child, ()).unwrap();
    });
}
