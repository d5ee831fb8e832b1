//! Every example does what it says.
//!
//! `cargo test` builds the examples, beside the tests' own folder; `cargo test --test examples` alone does
//! not, and would try what was built before: run `cargo build --examples` first then.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use common::watchdog;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `target/PROFILE/deps/this-test` → `target/PROFILE/examples/NAME`.
fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(name: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = example(name).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// An echo server, ended with the test.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    addr: String,
}

impl Server {
    fn start(flags: &[&str]) -> Server {
        let mut child = example("echo_server").arg("127.0.0.1:0").args(flags).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("listening on ").expect(&line).to_owned();
        assert!(!addr.ends_with(":0"), "{addr}");
        Server { child, out, addr }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Its status, and what else it said.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn echo_server_echoes_logs_drains_and_ends_on_either_signal() {
    let _alive = watchdog();
    for (signal, quiet) in [(Signal::SIGINT, false), (Signal::SIGTERM, true)] {
        let server = Server::start(if quiet { &["--quiet"] } else { &[] });
        let mut client = TcpStream::connect(&server.addr).unwrap();
        let peer = client.local_addr().unwrap();
        let mut buf = [0; 5];
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        server.signal(signal);
        while TcpStream::connect(&server.addr).is_ok() {}
        client.write_all(b"after").unwrap(); // it drains: this one is served to its end
        client.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"after");
        drop(client);
        let (status, out, err) = server.end();
        assert_eq!((status, &*err), (Some(0), ""));
        let logged = [format!("{peer} connected"), format!("{peer} disconnected")];
        for line in logged {
            assert_eq!(out.lines().any(|it| it == line), !quiet, "{out}");
        }
        assert!(!quiet || out.is_empty(), "{out}");
    }
}

#[test]
fn echo_server_refuses_with_a_clear_word() {
    let _alive = watchdog();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let held = Server::start(&[]);
    let (status, _, err) = run("echo_server", &[&held.addr]);
    assert_eq!(status, Some(1));
    assert!(err.contains(&held.addr) && err.contains("Address already in use"), "{err}");
    for args in [&["--loud"][..], &[&taken, &taken], &["--quiet", "a", "b"]] {
        let (status, out, err) = run("echo_server", args);
        assert_eq!((status, &*out), (Some(2), ""));
        assert!(err.starts_with("usage: echo_server"), "{err}");
    }
    for addr in ["nonsense", "127.0.0.1:99999", "192.0.2.1:1"] {
        let (status, _, err) = run("echo_server", &[addr]);
        assert_eq!(status, Some(1));
        assert!(err.starts_with(&format!("echo_server: cannot serve on {addr}: ")), "{err}");
    }
}

#[test]
fn echo_client_checks_and_measures() {
    let _alive = watchdog();
    let server = Server::start(&["--quiet"]);
    // More bytes than the buffers hold, and fewer; many connections on one thread.
    for (connections, messages, size) in [("200", "20", "64"), ("3", "2", "3000001")] {
        let args = [&*server.addr, "--connections", connections, "--messages", messages, "--size", size];
        let (status, out, err) = run("echo_client", &args);
        assert_eq!(status, Some(0), "{err}");
        let total = connections.parse::<u64>().unwrap() * messages.parse::<u64>().unwrap();
        let begins = format!("{total} messages of {size} bytes over {connections} connections in ");
        assert!(out.starts_with(&begins), "{out}");
        for word in [" req/s", "p50 ", "p99 ", "p999 "] {
            assert!(out.contains(word), "{out}");
        }
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().0, Some(0));
}

/// A server that answers `answer` of what it is sent.
fn bad_server(answer: impl Fn(&mut TcpStream, &mut [u8]) + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut buf) = (stream.unwrap(), [0; 64]);
            while stream.read_exact(&mut buf).is_ok() {
                answer(&mut stream, &mut buf);
            }
        }
    });
    addr
}

#[test]
fn echo_client_fails_on_a_wrong_byte_a_lost_server_or_a_late_one() {
    let _alive = watchdog();
    let wrong = bad_server(|stream, buf| {
        buf[63] ^= 1;
        stream.write_all(buf).unwrap();
    });
    let silent = bad_server(|_, _| ());
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for (addr, word) in [
        (&wrong, "what came back is not what was sent"),
        (&silent, "not done within 1s"),
        (&closed, "Connection refused"),
    ] {
        let (status, out, err) =
            run("echo_client", &[addr, "--connections", "1", "--messages", "3", "--seconds", "1"]);
        assert_eq!((status, &*out), (Some(1), ""));
        assert!(err.contains(word), "{err}");
    }
    for args in [&[][..], &["--connections"], &["a:1", "--connections", "0"], &["a:1", "--loud", "1"]] {
        let (status, _, err) = run("echo_client", args);
        assert_eq!(status, Some(2));
        assert!(err.starts_with("usage: echo_client"), "{err}");
    }
}

#[test]
fn echo_client_shows_how_far_it_is() {
    let _alive = watchdog();
    let slow = bad_server(|stream, buf| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        stream.write_all(buf).unwrap();
    });
    let (status, _, err) = run("echo_client", &[&slow, "--connections", "1", "--messages", "4"]);
    assert_eq!(status, Some(0), "{err}");
    assert!(err.contains("1 of 1 connected, 2 of 4 messages"), "{err}");
}

#[test]
fn ping_pong_plays() {
    let _alive = watchdog();
    let (status, out, err) = run("ping_pong", &["1000"]);
    assert_eq!((status, &*err), (Some(0), ""));
    let lines: Vec<_> = out.lines().map(str::trim_end).collect();
    let [rally @ .., last] = &lines[..] else { panic!("{out}") };
    let [ping, pong] = ["ping         ", "       pong  "];
    let expected: Vec<_> =
        [2, 1, 0].iter().flat_map(|n| [format!("{ping}{n} left"), format!("{pong}{n} left")]).collect();
    assert_eq!(rally, expected);
    assert!(last.starts_with("1999 switches in "), "{last}");
    assert_eq!(run("ping_pong", &["0"]).0, Some(2));
}

#[test]
fn producer_consumer_compares() {
    let _alive = watchdog();
    let (status, out, err) = run("producer_consumer", &["10000"]);
    assert_eq!((status, &*err), (Some(0), ""));
    let begins: Vec<_> = out.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(begins, ["10000 values", "serially", "by Generator::send"], "{out}");
    assert_eq!(run("producer_consumer", &["many"]).0, Some(2));
}
