//! What a person looks at when a program does not do what it should: every greenlet of a thread,
//! what it waits for and since when, where it was spawned, and where it is.
//!
//! What may come in: looking. What never comes in: changing anything; and other threads' greenlets,
//! which only their own thread may look at (have it do so: [`dump_on`], or
//! [`HubHandle::spawn`](crate::HubHandle::spawn)).

use std::fmt::{self, Write as _};
use std::io;
use std::panic::Location;
use std::time::Duration;

use crate::greenlet::block::{BlockRef, State as Life};
use crate::greenlet::{AnyGreenlet, driver};
use crate::hub;
use crate::task::handle::State;

/// One greenlet, as [`tree`] saw it.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The id of the greenlet that made it; 0 for the root.
    pub spawner: u64,
    /// Where it was made.
    pub site: &'static Location<'static>,
    /// Whether it is the thread's own code.
    pub is_root: bool,
    /// What it is doing.
    pub state: State,
    /// For how long it has been waiting, to the hub's last look; `None` when it is not.
    pub since: Option<Duration>,
    /// How much of its stack is in memory, in bytes; `None` when it has no stack of ours.
    pub stack: Option<usize>,
    /// Where it is, innermost frame first; empty when it has no stack.
    pub backtrace: String,
}

/// Every greenlet of one thread: see [`tree`]. Prints as a tree by who made whom.
#[derive(Debug)]
pub struct Tree {
    thread: String,
    hub: Option<u32>,
    nodes: Vec<Node>,
}

/// Every greenlet of this thread that has begun, or waits to begin, with its backtrace. Mirrors
/// `gevent.util.GreenletTree` and `print_run_info`.
///
/// Takes some tens of microseconds a greenlet, and milliseconds to print: symbols are looked up then.
/// Suspended greenlets do not notice.
///
/// ```
/// use std::time::Duration;
///
/// let _worker = gevent::Builder::new().name("worker").spawn(|| gevent::sleep(Duration::from_secs(60))).unwrap();
/// gevent::yield_now();
/// let tree = gevent::observe::tree();
/// assert!(tree.to_string().contains("'worker' blocked on sleep"));
/// # _worker.kill();
/// ```
pub fn tree() -> Tree {
    look(true)
}

/// [`tree`], without backtraces: a microsecond a greenlet.
pub fn summary() -> Tree {
    look(false)
}

fn look(backtraces: bool) -> Tree {
    let hub = hub::existing();
    let mut blocks = vec![driver::root()];
    blocks.extend(driver::live());
    if let Some(hub) = hub {
        blocks.extend(hub.unstarted());
    }
    Tree {
        thread: std::thread::current().name().unwrap_or("(unnamed)").to_owned(),
        hub: hub.map(|hub| hub.shared.id),
        nodes: blocks.iter().map(|block| node(block, backtraces)).collect(),
    }
}

fn node(block: &BlockRef, backtraces: bool) -> Node {
    let any = AnyGreenlet::from_block(block.clone());
    let waits = block.state.get() == Life::Parked && !block.queued.get();
    let since = match hub::existing() {
        Some(hub) if waits => {
            Some(Duration::from_nanos(hub.clock_now().saturating_sub(block.sched.since.get())))
        }
        _ => None,
    };
    let below = block.is_root && block.state.get() != Life::Current;
    let trace = if backtraces { any.backtrace() } else { None };
    let backtrace = trace.map(|trace| own_frames(&trace.to_string(), below));
    Node {
        id: block.id,
        name: any.name(),
        spawner: block.spawner,
        site: block.site,
        is_root: block.is_root,
        state: any.state(),
        since,
        stack: driver::stack_used(block),
        backtrace: backtrace.unwrap_or_default(),
    }
}

/// The frames of the greenlet itself: those of this crate at either end, and of whoever resumed it
/// last, say nothing.
///
/// `below`: the greenlet is the root, suspended in the loop, and the trace is of one that runs above.
fn own_frames(trace: &str, below: bool) -> String {
    let mut frames: Vec<(&str, &str)> = Vec::new();
    let mut lines = trace.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((number, function)) = line.trim_start().split_once(": ") else { continue };
        if number.parse::<u32>().is_ok() {
            let place = lines.next_if(|next| next.trim_start().starts_with("at ")).unwrap_or("");
            frames.push((function, place.trim()));
        }
    }
    let has = |part: &'static str| move |(function, _): &(&str, &str)| function.contains(part);
    let inner = match below {
        true => frames.iter().rposition(has("greenlet::driver::drive")),
        false => frames.iter().rposition(has("gevent::observe::")),
    };
    let mut own = &frames[inner.map_or(0, |inner| inner + 1)..];
    for end in
        ["gevent::hub::spawn::run", "gevent::greenlet::Body", "std::sys::backtrace::__rust_begin_short"]
    {
        if let Some(outer) = own.iter().position(has(end)) {
            own = &own[..outer];
        }
    }
    const DULL: [&str; 8] = [
        "std::backtrace",
        "std::thread::local::LocalKey",
        "corosensei::",
        "gevent::greenlet::driver",
        "gevent::greenlet::transfer",
        "core::ops::function::FnOnce",
        "panicking::catch_unwind",
        "AssertUnwindSafe",
    ];
    let mut out = String::new();
    for (function, place) in
        own.iter().filter(|(function, _)| !DULL.iter().any(|dull| function.contains(dull)))
    {
        let _ = writeln!(out, "{function}");
        if !place.is_empty() {
            let _ = writeln!(out, "    {place}");
        }
    }
    out
}

impl Tree {
    /// The greenlets: the root first, then those that have a stack, then those that wait to begin.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        node: &Node,
        depth: usize,
        seen: &mut Vec<u64>,
    ) -> fmt::Result {
        if seen.contains(&node.id) {
            return Ok(());
        }
        seen.push(node.id);
        let indent = "  ".repeat(depth);
        write!(f, "{indent}greenlet {}", node.id)?;
        if node.is_root {
            f.write_str(" (root)")?;
        }
        if let Some(name) = &node.name {
            write!(f, " '{name}'")?;
        }
        write!(f, " {}", node.state)?;
        if let Some(since) = node.since {
            write!(f, " for {:.1} s", since.as_secs_f64())?;
        }
        if !node.is_root {
            write!(f, ", spawned at {}:{}", node.site.file(), node.site.line())?;
        }
        if let Some(stack) = node.stack {
            write!(f, ", stack {} KiB", stack / 1024)?;
        }
        writeln!(f)?;
        for line in node.backtrace.lines() {
            writeln!(f, "{indent}    {line}")?;
        }
        for child in self.nodes.iter().filter(|child| child.spawner == node.id && !child.is_root) {
            self.write(f, child, depth + 1, seen)?;
        }
        Ok(())
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.thread)?;
        match self.hub {
            Some(id) => write!(f, ", hub {id}")?,
            None => f.write_str(", no hub")?,
        }
        let count = self.nodes.len();
        writeln!(f, ": {count} greenlet{}", if count == 1 { "" } else { "s" })?;
        let mut seen = Vec::new();
        for node in &self.nodes {
            // Those whose maker has ended stand at the left.
            if node.is_root || !self.nodes.iter().any(|other| other.id == node.spawner) {
                self.write(f, node, 0, &mut seen)?;
            }
        }
        Ok(())
    }
}

/// Prints [`tree`] of this thread to standard error whenever the signal comes.
///
/// With `SIGQUIT`, `kill -QUIT PID` (or Ctrl-\ at the terminal) on a program that hangs in its hub
/// says why. It needs the hub to come round: a greenlet that computes and never waits holds it up.
/// It does not count as something that may happen: a deadlock is still reported.
///
/// # Errors
/// As [`signal`](fn@crate::signal).
///
/// ```
/// gevent::observe::dump_on(libc::SIGQUIT).unwrap();
/// ```
pub fn dump_on(signal: i32) -> io::Result<crate::hub::SignalHandle> {
    hub::signal::listen(
        signal,
        std::rc::Rc::new(|_| {
            let text = tree().to_string();
            // A closed standard error is no reason to fail.
            let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
        }),
        false,
    )
}
