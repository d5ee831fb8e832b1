// A key-value server as one writes it with std: a thread for each connection, blocking calls.
//
//   SET key value -> OK      GET key -> value or NONE      WAIT key -> its value, when it has one
//   SLEEP ms -> OK           WHO -> the thread's name      SERVED -> connections seen by this native thread
//   QUIT -> BYE, and the connection is closed
//
// `tests/both_ways.rs` compiles this file twice: as it is, and after the one line `use gevent::std;`.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

thread_local! {
    static SERVED: Cell<usize> = const { Cell::new(0) };
}

#[derive(Default)]
struct Store {
    values: HashMap<String, String>,
    waiters: Vec<(String, Thread)>,
}

#[derive(Default)]
struct Shared {
    store: Mutex<Store>,
    stopped: AtomicBool,
    connections: AtomicUsize,
}

pub(crate) struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepts: JoinHandle<io::Result<()>>,
}

impl Server {
    pub(crate) fn start(addr: impl ToSocketAddrs) -> io::Result<Server> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let accepts = thread::Builder::new().name("accept".into()).spawn(move || accept(&listener, &theirs))?;
        Ok(Server { addr, shared, accepts })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn stop(self) -> io::Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr)); // has it look at `stopped`
        self.accepts.join().expect("the accepting thread panicked")
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) -> io::Result<()> {
    let mut open: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
    for stream in listener.incoming() {
        let stream = stream?;
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        open.retain(|(_, handler)| !handler.is_finished());
        let (ours, shared) = (stream.try_clone()?, shared.clone());
        let name = format!("client {}", shared.connections.fetch_add(1, Ordering::SeqCst));
        let handler = thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = serve(stream, &shared) {
                eprintln!("{}: {error}", thread::current().name().unwrap_or("?"));
            }
        })?;
        open.push((ours, handler));
    }
    for (stream, handler) in open {
        let _ = stream.shutdown(Shutdown::Both); // ends its read
        if handler.join().is_err() {
            eprintln!("a handler panicked");
        }
    }
    Ok(())
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    SERVED.set(SERVED.get() + 1);
    stream.set_nodelay(true)?;
    let mut out = BufWriter::new(stream.try_clone()?);
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let mut words = line.splitn(3, ' ');
        let answer = match (words.next(), words.next(), words.next()) {
            (Some("SET"), Some(key), Some(value)) => set(shared, key, value),
            (Some("GET"), Some(key), None) => get(shared, key).unwrap_or_else(|| "NONE".into()),
            (Some("WAIT"), Some(key), None) => wait(shared, key),
            (Some("SLEEP"), Some(ms), None) => {
                thread::sleep(Duration::from_millis(ms.parse().map_err(io::Error::other)?));
                "OK".into()
            }
            (Some("WHO"), None, None) => thread::current().name().unwrap_or("?").to_owned(),
            (Some("SERVED"), None, None) => SERVED.get().to_string(),
            (Some("QUIT"), None, None) => "BYE".into(),
            _ => format!("ERROR {line:?}"),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
        if answer == "BYE" {
            break;
        }
    }
    // The accepting thread has a clone, so a drop alone would not close it.
    out.get_ref().shutdown(Shutdown::Both)
}

fn set(shared: &Shared, key: &str, value: &str) -> String {
    let mut store = shared.store.lock().unwrap();
    store.values.insert(key.to_owned(), value.to_owned());
    for (_, waiter) in store.waiters.iter().filter(|(waits_for, _)| waits_for == key) {
        waiter.unpark();
    }
    "OK".into()
}

fn get(shared: &Shared, key: &str) -> Option<String> {
    shared.store.lock().unwrap().values.get(key).cloned()
}

fn wait(shared: &Shared, key: &str) -> String {
    shared.store.lock().unwrap().waiters.push((key.to_owned(), thread::current()));
    let value = loop {
        match get(shared, key) {
            Some(value) => break value,
            None => thread::park(),
        }
    };
    let me = thread::current().id();
    shared.store.lock().unwrap().waiters.retain(|(_, waiter)| waiter.id() != me);
    value
}
