//! What the socket tests share: pairs of streams, and children of the test program.
#![allow(dead_code, unused_imports)] // each test file uses its part

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use super::watchdog;
use gevent::net::{TcpListener, TcpStream, UnixStream};

/// The loopback addresses of this machine: IPv4, and IPv6 where it has it.
pub(crate) fn loopbacks() -> Vec<IpAddr> {
    let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    match std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => all.push(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        Err(error) => eprintln!("no IPv6 here, not tested: {error}"),
    }
    all
}

/// Two ends of a connection.
pub(crate) fn tcp_pair_of(ip: IpAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, peer) = listener.accept().unwrap();
    assert_eq!(peer, one.local_addr().unwrap());
    (one, other)
}

pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    tcp_pair_of(loopbacks()[0])
}

/// Over IPv6; over IPv4 again where there is none.
pub(crate) fn tcp6_pair() -> (TcpStream, TcpStream) {
    tcp_pair_of(*loopbacks().last().unwrap())
}

pub(crate) fn unix_pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

/// Lets every other greenlet run until it waits.
pub(crate) fn settle() {
    for _ in 0..3 {
        gevent::yield_now();
    }
}

#[track_caller]
pub(crate) fn assert_kind<T: std::fmt::Debug>(result: io::Result<T>, kind: io::ErrorKind) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
}

/// Runs `body` in a process of its own, which runs this one test: for limits and signals, which are
/// the process's.
pub(crate) fn in_child(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "GEVENT_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let output = super::this_program()
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(text.contains("1 passed"), "no such test?\n{text}");
}

/// How many descriptors the process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
