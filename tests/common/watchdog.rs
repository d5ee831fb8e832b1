//! Ends a test that hangs, by name.

use std::sync::mpsc;
use std::time::Duration;

/// Ends the process with a message when the test that holds it takes longer than a minute.
#[must_use]
pub(crate) struct Watchdog {
    /// Dropped with the test; the watching thread sees that.
    _alive: mpsc::Sender<()>,
}

/// Watches the calling test, whose name is its thread's.
pub(crate) fn watchdog() -> Watchdog {
    let name = std::thread::current().name().unwrap_or("a thread without a name").to_owned();
    let (alive, gone) = mpsc::channel();
    std::thread::spawn(move || {
        if gone.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Whoever read standard error may be gone: no reason to panic here, and to abort nothing.
            let text = format!("watchdog: {name} has run for 60 s; the process is aborted\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}
