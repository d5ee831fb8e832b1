//! What the case's thread shows to the thread that watches it: how far it is, and the ends of the pairs.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::program::{PAIRS, Program};

/// Counters that the case's thread sets.
pub(super) struct Outside {
    /// The step that each task is at, plus one; 0 before its first.
    pub(super) at: Vec<AtomicUsize>,
    /// Guards of each task made and dropped.
    pub(super) made: Vec<AtomicUsize>,
    pub(super) dropped: Vec<AtomicUsize>,
    pub(super) frames_made: AtomicUsize,
    pub(super) frames_dropped: AtomicUsize,
    /// The case's thread, and how many events it has written down.
    pub(super) thread: AtomicI32,
    pub(super) events: AtomicUsize,
    /// How many tasks are in a read of each pair.
    pub(super) reading: [AtomicUsize; PAIRS],
}

impl Outside {
    pub(super) fn new(tasks: usize) -> Outside {
        let counters = || (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        Outside {
            at: counters(),
            made: counters(),
            dropped: counters(),
            frames_made: AtomicUsize::new(0),
            frames_dropped: AtomicUsize::new(0),
            thread: AtomicI32::new(0),
            events: AtomicUsize::new(0),
            reading: std::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }

    /// Waits until the case has ended, which drops the sender. When its thread sleeps and nothing goes
    /// on, while tasks read, the first pair that they read is shut down: that is not a deadlock, but
    /// nothing else will happen. False: the limit has passed.
    pub(super) fn watch(
        &self,
        ended: &mpsc::Receiver<()>,
        writers: &[UnixStream; PAIRS],
        limit: Duration,
    ) -> bool {
        let begun = Instant::now();
        let mut before = None;
        loop {
            match ended.recv_timeout(Duration::from_micros(300)) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return true,
            }
            if begun.elapsed() > limit {
                return false;
            }
            let read = self.reading.iter().position(|reading| reading.load(Relaxed) > 0);
            let events = self.events.load(Relaxed);
            let stalls = read.filter(|_| self.sleeps() && self.events.load(Relaxed) == events);
            let Some(pair) = stalls else {
                before = None;
                continue;
            };
            // Twice the same, so that it is not about to run.
            if before.replace((pair, events)) == Some((pair, events)) {
                let _ = writers[pair].shutdown(Shutdown::Write);
                before = None;
            }
        }
    }

    /// Whether the kernel says that the case's thread sleeps.
    fn sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.thread.load(Relaxed)));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')))
    }

    /// What each greenlet does, for a case that hangs.
    pub(super) fn what_each_does(&self, program: &Program) -> String {
        let mut lines = String::new();
        for (t, at) in self.at.iter().enumerate() {
            let doing = match at.load(Relaxed).checked_sub(1) {
                None => "has not begun".to_owned(),
                Some(id) => {
                    program.find(id).map_or("has ended".to_owned(), |op| format!("is at step {id}: {op}"))
                }
            };
            lines.push_str(&format!("  task {t} {doing}\n"));
        }
        lines
    }
}
