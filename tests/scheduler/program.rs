//! Programs: what they are made of, their text, and how random ones are drawn.
//!
//! A program is up to sixteen tasks. Task 0 is the root, the thread's own code; it makes some of the
//! others before its first step, the `spawn` steps of any task make the rest. A step is a word, two
//! small numbers and, for a block, steps inside. The text is made of just these, so that a failure
//! can be pasted back:
//!
//! ```text
//! looks 1 budget 2 | 0 root: switch.1.7 timeout.3.0{ await.0.0 } | 1 raw+: sleep.2.0 throw.0.1 | 2 spawned: ...
//! ```
//!
//! `+` marks the tasks that the root makes first.

use std::fmt;
use std::str::FromStr;

use proptest::prelude::*;

/// The most tasks.
pub(crate) const TASKS: usize = 16;
/// The most steps of all tasks together.
pub(crate) const STEPS: usize = 200;
/// How many socket pairs there are.
pub(crate) const PAIRS: usize = 2;
/// How many calls a burst is.
pub(crate) const BURST: usize = 70;
/// How many writes of a pair there may be, so that none of them meets a full buffer.
pub(crate) const WRITES: usize = 200;
/// How many events there are.
pub(crate) const EVENTS: usize = 3;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal $weight:literal,)*) => {
        /// What a step does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            pub(crate) const ALL: &'static [(Kind, &'static str, u32)] = &[$((Kind::$kind, $name, $weight),)*];
        }
    };
}

kinds! {
    /// Makes task `a`.
    Spawn "spawn" 15,
    Yield "yield" 7,
    Idle "idle" 3,
    /// Sleeps `a` ms.
    Sleep "sleep" 8,
    /// Switches to task `a` with the value `b`.
    Switch "switch" 14,
    /// Throws at task `a`: `GreenletExit`, or a payload of the tests' own if `b` is odd.
    Throw "throw" 4,
    /// Joins task `a`, taking its result if that is still there.
    Join "join" 3,
    /// Waits `b` ms at most for the end of task `a`.
    Wait "wait" 5,
    /// Kills task `a` and waits until it has ended.
    Kill "kill" 4,
    /// Kills task `a` and waits `b` ms at most.
    KillFor "killfor" 4,
    /// Kills task `a` and does not wait.
    KillNow "killnow" 4,
    /// Links to task `a`: any end, a value, or a panic, by `b`.
    Link "link" 5,
    /// Takes back one of the links made so far.
    Unlink "unlink" 6,
    /// Sets event `a`.
    Set "set" 8,
    /// Clears event `a`.
    Clear "clear" 3,
    /// Waits for event `a`.
    Await "await" 4,
    /// Waits `b` ms at most for event `a`.
    AwaitFor "awaitfor" 6,
    /// Writes `b % 4 + 1` bytes into pair `a`; it never waits.
    Write "write" 6,
    /// Reads as many at most.
    Read "read" 7,
    /// Writes 70 times a byte into pair `a`, so that a budget runs out.
    Burst "burst" 5,
    /// Gives raw task `a` the parent `b`; both live.
    Reparent "reparent" 9,
    /// Drops the last handle of raw task `a`, if it is that.
    Discard "discard" 14,
    /// Does what is inside, within `a` ms.
    Timeout "timeout" 10,
    /// Does what is inside and catches whatever unwinds.
    Catch "catch" 5,
    /// Does what is inside with kills and timeouts turned into errors.
    Shield "shield" 4,
}

impl Kind {
    pub(crate) fn is_block(self) -> bool {
        matches!(self, Kind::Timeout | Kind::Catch | Kind::Shield)
    }

    pub(crate) fn name(self) -> &'static str {
        Kind::ALL[self as usize].1
    }
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    /// Its number in the program; [`Program::number`] gives it.
    pub(crate) id: usize,
    pub(crate) kind: Kind,
    pub(crate) a: u8,
    pub(crate) b: u8,
    pub(crate) body: Vec<Op>,
}

impl Op {
    fn new(kind: Kind, a: u8, b: u8, body: Vec<Op>) -> Op {
        Op { id: 0, kind, a, b, body }
    }

    fn steps(ops: &[Op]) -> usize {
        ops.iter().map(|op| 1 + Op::steps(&op.body)).sum()
    }

    /// Cuts what is more than `left` steps.
    fn cut(ops: &mut Vec<Op>, left: &mut usize) {
        ops.retain_mut(|op| {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            Op::cut(&mut op.body, left);
            true
        });
    }

    /// Removes the step at a place, counted depth first; or `lift`s what is inside into its place.
    fn remove(ops: &mut Vec<Op>, mut at: usize, lift: bool) {
        for n in 0..ops.len() {
            if at == 0 {
                let body = std::mem::take(&mut ops[n].body);
                if lift && body.is_empty() {
                    return;
                }
                ops.splice(n..=n, if lift { body } else { Vec::new() });
                return;
            }
            let inside = Op::steps(&ops[n].body);
            if at <= inside {
                return Op::remove(&mut ops[n].body, at - 1, lift);
            }
            at -= 1 + inside;
        }
    }

    fn catches(ops: &[Op]) -> bool {
        ops.iter().any(|op| op.kind == Kind::Catch || Op::catches(&op.body))
    }
}

/// How a task is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// It is the thread's own code.
    Root,
    /// By `spawn`.
    Spawned,
    /// By `spawn_later`, after this many ms.
    Later(u8),
    /// By `Me::child`: it runs when it is switched to.
    Raw,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) make: Make,
    /// The root makes it before its first step.
    pub(crate) first: bool,
    pub(crate) ops: Vec<Op>,
}

/// A program.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// After how many switches the hub looks at its timers (`HubBuilder::switches`). With 1 a
    /// duration may be 0 and pairs are used; with more it is at least 1 and they are not, since the model
    /// does not count switches.
    pub(crate) looks: u8,
    /// How many calls that need not wait a task may make before it yields (`HubBuilder::budget`).
    pub(crate) budget: u8,
    pub(crate) tasks: Vec<Task>,
}

impl Program {
    /// The task that a step means.
    pub(crate) fn task(&self, a: u8) -> usize {
        usize::from(a) % self.tasks.len()
    }

    /// The raw task that a step means; the root, which is none, if there is none.
    pub(crate) fn raw(&self, a: u8) -> usize {
        let raw = |&t: &usize| self.tasks[t].make == Make::Raw;
        let count = (0..self.tasks.len()).filter(raw).count().max(1);
        (0..self.tasks.len()).filter(raw).nth(usize::from(a) % count).unwrap_or(0)
    }

    /// The milliseconds that a step means.
    pub(crate) fn millis(&self, d: u8) -> u64 {
        u64::from(d % 8).max(u64::from(self.looks != 1))
    }

    /// Whether a task has a catch block, so that it may outlive its last handle.
    pub(crate) fn catches(&self, task: usize) -> bool {
        Op::catches(&self.tasks[task].ops)
    }

    /// Numbers the steps, after adding the root's last ones: it waits for every task that the hub
    /// runs. Returns how many steps there are.
    pub(crate) fn number(&mut self) -> usize {
        let hubs = |task: &Task| matches!(task.make, Make::Spawned | Make::Later(_));
        let spawned: Vec<usize> = (1..self.tasks.len()).filter(|&t| hubs(&self.tasks[t])).collect();
        for t in spawned {
            self.tasks[0].ops.push(Op::new(Kind::Join, t as u8, 0, Vec::new()));
        }
        fn number(ops: &mut [Op], next: &mut usize) {
            for op in ops {
                op.id = *next;
                *next += 1;
                number(&mut op.body, next);
            }
        }
        let mut next = 0;
        for task in &mut self.tasks {
            number(&mut task.ops, &mut next);
        }
        next
    }

    /// The smallest program that `fails`, as far as leaving out steps goes.
    pub(crate) fn shrunk(mut self, mut fails: impl FnMut(&Program) -> bool) -> Program {
        let mut smaller = |program: &mut Program, change: &dyn Fn(&mut Program)| {
            let mut tried = program.clone();
            change(&mut tried);
            let shrinks = tried != *program && fails(&tried);
            if shrinks {
                *program = tried;
            }
            shrinks
        };
        loop {
            let before = self.clone();
            while self.tasks.len() > 2 && smaller(&mut self, &|program| drop(program.tasks.pop())) {}
            for t in 0..self.tasks.len() {
                smaller(&mut self, &|program| program.tasks[t].ops.clear());
                let mut at = 0;
                while at < Op::steps(&self.tasks[t].ops) {
                    let gone =
                        smaller(&mut self, &|program| Op::remove(&mut program.tasks[t].ops, at, false));
                    if !gone
                        && !smaller(&mut self, &|program| Op::remove(&mut program.tasks[t].ops, at, true))
                    {
                        at += 1;
                    }
                }
                smaller(&mut self, &|program| program.tasks[t].first = false);
            }
            if self == before {
                return self;
            }
        }
    }

    /// The step of that number.
    pub(crate) fn find(&self, id: usize) -> Option<&Op> {
        fn find(ops: &[Op], id: usize) -> Option<&Op> {
            ops.iter().find_map(|op| if op.id == id { Some(op) } else { find(&op.body, id) })
        }
        self.tasks.iter().find_map(|task| find(&task.ops, id))
    }
}

// ---------------------------------------------------------------------------------------------
// Text
// ---------------------------------------------------------------------------------------------

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.kind.name(), self.a, self.b)?;
        if self.kind.is_block() {
            f.write_str("{ ")?;
            for op in &self.body {
                write!(f, "{op} ")?;
            }
            f.write_str("}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "looks {} budget {}", self.looks, self.budget)?;
        for (n, task) in self.tasks.iter().enumerate() {
            let first = if task.first { "+" } else { "" };
            match task.make {
                Make::Root => write!(f, " | {n} root:")?,
                Make::Spawned => write!(f, " | {n} spawned{first}:")?,
                Make::Later(d) => write!(f, " | {n} later.{d}{first}:")?,
                Make::Raw => write!(f, " | {n} raw{first}:")?,
            }
            for op in &task.ops {
                write!(f, " {op}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Program, String> {
        let bad = |what: &str| format!("not a program: {what:?}");
        let mut parts = text.trim().split('|').map(str::trim);
        let head = parts.next().unwrap_or_default();
        let mut words = head.split_whitespace();
        let mut setting = |name: &str| {
            let value = words.next().filter(|&word| word == name).and_then(|_| words.next());
            value.and_then(|value| value.parse().ok()).ok_or_else(|| bad(head))
        };
        let (looks, budget) = (setting("looks")?, setting("budget")?);
        let mut tasks = Vec::new();
        for part in parts {
            let (head, ops) = part.split_once(':').ok_or_else(|| bad(part))?;
            let word = head.split_whitespace().nth(1).ok_or_else(|| bad(head))?;
            let first = word.ends_with('+');
            let make = match word.trim_end_matches('+') {
                "root" => Make::Root,
                "spawned" => Make::Spawned,
                "raw" => Make::Raw,
                later => {
                    let d = later.strip_prefix("later.").and_then(|d| d.parse().ok());
                    Make::Later(d.ok_or_else(|| bad(word))?)
                }
            };
            let mut words = ops.split_whitespace();
            let ops = parse(&mut words, false)?;
            tasks.push(Task { make, first, ops });
        }
        if tasks.first().is_none_or(|task| task.make != Make::Root) {
            return Err("not a program: task 0 is not the root".to_owned());
        }
        Ok(Program { looks, budget, tasks })
    }
}

fn parse<'a>(words: &mut impl Iterator<Item = &'a str>, inside: bool) -> Result<Vec<Op>, String> {
    let mut ops = Vec::new();
    while let Some(word) = words.next() {
        if word == "}" {
            return if inside { Ok(ops) } else { Err("not a program: a } too many".to_owned()) };
        }
        let bad = || format!("not a step: {word:?}");
        let mut fields = word.trim_end_matches('{').split('.');
        let name = fields.next().unwrap_or_default();
        let &(kind, ..) = Kind::ALL.iter().find(|kind| kind.1 == name).ok_or_else(bad)?;
        let mut number = || fields.next().and_then(|field| field.parse().ok()).ok_or_else(bad);
        let (a, b) = (number()?, number()?);
        let body = if kind.is_block() { parse(words, true)? } else { Vec::new() };
        ops.push(Op::new(kind, a, b, body));
    }
    if inside { Err("not a program: a } is missing".to_owned()) } else { Ok(ops) }
}

// ---------------------------------------------------------------------------------------------
// Random programs
// ---------------------------------------------------------------------------------------------

fn ops(depth: u32, most: usize) -> BoxedStrategy<Vec<Op>> {
    let kinds: Vec<_> = Kind::ALL
        .iter()
        .filter(|(kind, ..)| depth > 0 || !kind.is_block())
        .map(|&(kind, _, weight)| (weight, Just(kind)))
        .collect();
    let op = (proptest::strategy::Union::new_weighted(kinds), 0..TASKS as u8, 0..8u8).prop_flat_map(
        move |(kind, a, b)| {
            let body = if kind.is_block() { ops(depth - 1, 4) } else { Just(Vec::new()).boxed() };
            body.prop_map(move |body| Op::new(kind, a, b, body))
        },
    );
    proptest::collection::vec(op, 0..=most).boxed()
}

/// Any program.
pub(crate) fn programs() -> impl Strategy<Value = Program> {
    let make = prop_oneof![
        5 => Just(Make::Spawned),
        1 => (0..8u8).prop_map(Make::Later),
        4 => Just(Make::Raw),
    ];
    let task = (make, prop::bool::weighted(0.7), ops(2, 14));
    let looks = prop_oneof![2 => Just(1u8), 1 => Just(64u8)];
    let budget = prop_oneof![1u8..4, Just(64u8)];
    // Few tasks meet each other more often.
    let tasks = prop_oneof![
        proptest::collection::vec(task.clone(), 1..=4),
        proptest::collection::vec(task, 1..=TASKS - 1),
    ];
    (looks, budget, ops(2, 20), tasks).prop_map(|(looks, budget, root, others)| {
        let root = Task { make: Make::Root, first: false, ops: root };
        let others = others.into_iter().map(|(make, first, ops)| Task { make, first, ops });
        let mut tasks: Vec<Task> = std::iter::once(root).chain(others).collect();
        let mut left = STEPS;
        for task in &mut tasks {
            Op::cut(&mut task.ops, &mut left);
            debug_assert!(Op::steps(&task.ops) <= STEPS);
        }
        Program { looks, budget, tasks }
    })
}
