//! Helpers that the tests of threads share: a watchdog, and events to meet at.

// Each test file is a crate of its own and uses some of these only.
#![allow(dead_code, unused_imports)]

use std::sync::mpsc;

pub(crate) use super::watchdog;

/// A hub on a thread of its own, which runs what it is sent until it is ended.
pub(crate) struct OtherHub {
    pub(crate) handle: gevent::HubHandle,
    /// Of the thread's own code.
    pub(crate) root: gevent::thread::Thread,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OtherHub {
    pub(crate) fn new(name: &str) -> Self {
        let (tx, rx) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let hub = gevent::Hub::current().handle();
                tx.send((hub, gevent::thread::current())).unwrap();
                gevent::thread::park();
            })
            .unwrap();
        let (handle, root) = rx.recv().unwrap();
        OtherHub { handle, root, thread: Some(thread) }
    }

    /// Ends the thread, and waits until it has.
    pub(crate) fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.root.unpark();
            thread.join().unwrap();
        }
    }
}

impl Drop for OtherHub {
    fn drop(&mut self) {
        self.end();
    }
}

/// A flag that a thread without a hub waits for.
#[derive(Clone, Default)]
pub(crate) struct Flag(std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>);

impl Flag {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn set(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.0.lock().unwrap()
    }

    /// Blocks the native thread.
    pub(crate) fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |set| !*set).unwrap());
    }

    /// Gives way to other greenlets until it is set.
    pub(crate) fn spin(&self) {
        while !self.is_set() {
            gevent::thread::yield_now();
        }
    }
}

/// The text of a panic's payload.
pub(crate) fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(not text)")
}

/// Runs one test of this very file in a process of its own, with `GEVENT_TEST_CHILD` set there.
pub(crate) fn in_child(test: &str) -> std::process::Output {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("GEVENT_TEST_CHILD", test)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// Whether this process is the one that [`in_child`] made for that test.
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var("GEVENT_TEST_CHILD").is_ok_and(|name| name == test)
}
