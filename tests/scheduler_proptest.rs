//! Random programs of greenlets, run beside a plain model of what the scheduler promises.
//!
//! ```text
//!   program ──> model ──────────────> trace ─┐
//!      │                                     ├─ equal, event by event, to the millisecond
//!      ├─────> the library, Fifo ───> trace ─┘
//!      └─────> the library, Seeded ─> trace ──> what holds in any order
//! ```
//!
//! `PROPTEST_CASES` sets how many programs are run; `-- --nocapture` shows what they did. A failure
//! prints the program, shrunk, and how to run it again: `GEVENT_PROGRAM='...'` runs that program
//! alone, `PROPTEST_RNG_SEED=...` the same random ones. What the library says on standard error (a
//! line for each panic of a greenlet) goes to `target/tmp/scheduler_proptest.stderr` meanwhile; if the
//! whole process dies, the program that it died of is beside that, in `scheduler_proptest.program`.

mod scheduler;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use scheduler::program::{Kind, Program, programs};
use scheduler::runner::{self, CASE_THREAD, Order};
use scheduler::{Event, Out, Trace, model};

/// How many programs are run unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 256;
/// How long a case may take before it is called hung.
const LIMIT: Duration = Duration::from_secs(30);
/// How many smaller programs are tried once one fails.
const SHRINKS: usize = 3000;
/// From this many cases on the shares of the histogram must be right.
const ENOUGH: u32 = 200;

/// What all programs together did.
#[derive(Default)]
struct Histogram {
    begun: Vec<usize>,
    programs: usize,
    deadlocked: usize,
}

impl Histogram {
    fn add(&mut self, ran: &model::Ran) {
        self.begun.resize(Kind::ALL.len(), 0);
        for (all, begun) in self.begun.iter_mut().zip(&ran.begun) {
            *all += begun;
        }
        self.programs += 1;
        self.deadlocked += usize::from(ran.deadlocks > 0);
    }

    fn show(&self) -> String {
        let steps: usize = self.begun.iter().sum();
        let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
        let mut text = format!(
            "{} programs, {} deadlocked ({:.1} %), {steps} steps:\n",
            self.programs,
            self.deadlocked,
            share(self.deadlocked, self.programs)
        );
        for (&(_, name, _), &begun) in Kind::ALL.iter().zip(&self.begun) {
            let share = share(begun, steps);
            let _ =
                writeln!(text, "  {name:9} {begun:7} {share:5.1} % {}", "#".repeat((share * 2.0) as usize));
        }
        text
    }

    fn check(&self) {
        let steps: usize = self.begun.iter().sum();
        for (&(_, name, _), &begun) in Kind::ALL.iter().zip(&self.begun) {
            assert!(begun * 100 >= steps, "only {begun} of {steps} steps are {name}: less than 1 %");
        }
        assert!(
            self.deadlocked * 20 >= self.programs,
            "only {} of {} programs deadlock: less than 5 %",
            self.deadlocked,
            self.programs
        );
    }
}

/// A few traces' lines around the first that differs.
fn difference(expected: &Trace, found: &Trace, program: &Program) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).position(|(e, f)| e != f).unwrap_or(expected.len().min(found.len()));
    let mut text = format!("the library and the model differ at event {at}:\n");
    for (e, f) in expected
        .iter()
        .zip(found)
        .take(at)
        .skip(at.saturating_sub(6))
        .map(|(e, f)| (Some(e), Some(f)))
        .chain((at..at + 3).map(|n| (expected.get(n), found.get(n))))
    {
        let show = |event: Option<&(u64, Event)>| match event {
            None => "nothing".to_owned(),
            Some((time, Event::Done(t, id, out))) => {
                let op = program.find(*id).map_or(String::new(), ToString::to_string);
                format!("{time} ms: task {t} step {id} {op}: {out:?}")
            }
            Some((time, event)) => format!("{time} ms: {event:?}"),
        };
        if e == f {
            let _ = writeln!(text, "    both:    {}", show(e));
        } else {
            let _ = writeln!(text, "    model:   {}\n    library: {}", show(e), show(f));
        }
    }
    Some(text)
}

/// What holds of a run in whatever order.
fn invariants(program: &Program, trace: &Trace) -> Vec<String> {
    let mut wrong = Vec::new();
    let tasks = program.tasks.len();
    let (mut began, mut ended, mut dropped) = (vec![0; tasks], vec![0; tasks], vec![0; tasks]);
    let mut done = std::collections::HashSet::new();
    let mut links = std::collections::HashSet::new();
    let mut before = 0;
    for &(time, event) in trace {
        if time < before {
            wrong.push(format!("the clock went back from {before} to {time} ms"));
        }
        before = time;
        match event {
            Event::Began(t, _) => began[t] += 1,
            Event::Ended(t, _) => ended[t] += 1,
            Event::Dropped(t) => dropped[t] += 1,
            Event::Linked(n, _) => {
                if !links.insert(n) {
                    wrong.push(format!("link {n} was called twice"));
                }
            }
            Event::Done(t, id, out) => {
                if !done.insert(id) {
                    wrong.push(format!("step {id} was done twice"));
                }
                if t != 0 && (began[t] != 1 || ended[t] != 0) {
                    wrong.push(format!("step {id} was done while task {t} did not run"));
                }
                let op = program.find(id);
                let of_task = op.filter(|op| matches!(op.kind, Kind::Join | Kind::Wait | Kind::Kill));
                if let (Out::Is(true) | Out::Joined(_), Some(op)) = (out, of_task) {
                    let target = program.task(op.a);
                    if dropped[target] != 1 {
                        wrong.push(format!("step {id}: {op} ended before its task"));
                    }
                }
            }
        }
    }
    for t in 0..tasks {
        if began[t] > 1 || ended[t] > began[t] || dropped[t] > 1 || ended[t] > dropped[t] {
            wrong.push(format!(
                "task {t} began {} times, ended {} times and was dropped {} times",
                began[t], ended[t], dropped[t]
            ));
        }
    }
    wrong
}

/// Runs one program three times; the error says what is wrong with the library.
fn check(mut program: Program, histogram: &Mutex<Histogram>) -> Result<(), String> {
    let text = program.to_string();
    program.number();
    let expected = model::run(&program);
    histogram.lock().unwrap().add(&expected);
    // For when the process dies.
    let _ = std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/scheduler_proptest.program"), &text);
    let ran = runner::run(&program, Order::Fifo, LIMIT)?;
    let mut wrong = ran.wrong;
    wrong.extend(difference(&expected.trace, &ran.trace, &program));
    let seed = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let order = Order::Seeded(seed);
    let ran = runner::run(&program, order, LIMIT)?;
    let in_any_order = ran.wrong.into_iter().chain(invariants(&program, &ran.trace));
    wrong.extend(in_any_order.map(|what| format!("under {order:?}: {what}")));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Expected panics are not worth a line: those on the threads of cases, and those while shrinking.
fn quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(CASE_THREAD) {
            before(info);
        }
    }));
}

/// Shrinks a program that fails, and fails.
fn fail(program: &Program, reason: &str, stderr: Stderr, seed: u64, cases: u32) -> ! {
    let mut reason = reason.to_owned();
    let unused = Mutex::new(Histogram::default());
    let mut tries = 0;
    // A hang is not shrunk: each try would take as long.
    let shrunk = program.clone().shrunk(|program| {
        tries += 1;
        !reason.starts_with("hangs")
            && tries < SHRINKS
            && match check(program.clone(), &unused) {
                Err(wrong) => {
                    reason = wrong;
                    true
                }
                Ok(()) => false,
            }
    });
    drop(stderr);
    panic!(
        "scheduler_proptest: {reason}\nreplay:\n  GEVENT_PROGRAM='{shrunk}' cargo test --test scheduler_proptest\n  \
         PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} cargo test --test scheduler_proptest"
    );
}

/// Sends standard error to a file until it is dropped: panics are part of the programs.
struct Stderr(std::os::fd::OwnedFd);

impl Stderr {
    fn to_a_file() -> Stderr {
        let file = std::fs::File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/scheduler_proptest.stderr"));
        let before = nix::unistd::dup(std::io::stderr()).expect("standard error is open");
        nix::unistd::dup2_stderr(file.expect("a file in target/tmp")).expect("two open files");
        Stderr(before)
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        let _ = nix::unistd::dup2_stderr(&self.0);
    }
}

#[test]
fn random_programs_do_what_the_model_says() {
    quiet();
    let histogram = Mutex::new(Histogram::default());
    if let Ok(text) = std::env::var("GEVENT_PROGRAM") {
        let program: Program = text.parse().expect("GEVENT_PROGRAM");
        if let Err(wrong) = check(program, &histogram) {
            panic!("scheduler_proptest: {wrong}\nprogram: {text}");
        }
        return;
    }
    let stderr = Stderr::to_a_file();
    let mut config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let cases = config.cases;
    let result = TestRunner::new(config)
        .run(&programs(), |program| check(program, &histogram).map_err(TestCaseError::fail));
    let histogram = histogram.into_inner().unwrap();
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, program)) => fail(&program, reason.message(), stderr, seed, cases),
        Err(TestError::Abort(reason)) => panic!("scheduler_proptest: proptest gave up: {reason}"),
    }
    drop(stderr);
    println!("seed {seed}: {}", histogram.show());
    if cases >= ENOUGH {
        histogram.check();
    }
}

#[test]
fn a_printed_program_is_read_back() {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = TestRunner::deterministic();
    for _ in 0..64 {
        let program = programs().new_tree(&mut runner).unwrap().current();
        assert_eq!(program.to_string().parse::<Program>().unwrap(), program);
    }
}
