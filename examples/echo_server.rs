//! An echo server: `cargo run --release --example echo_server -- [ADDR] [--quiet]`, then `nc 127.0.0.1 16000`.
//!
//! Plain blocking code, a greenlet for each connection, all on one thread. On SIGINT or SIGTERM it stops
//! listening, gives its connections five seconds to end, and exits.

use gevent::net::{SocketAddr, TcpStream};
use gevent::server::{StreamServer, raise_fd_limit};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buf = [0; 16 * 1024];
    loop {
        let n = stream.read(&mut buf)?; // waits here, while other greenlets run
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buf[..n])?;
    }
}

fn serve(addr: &str, quiet: bool) -> io::Result<()> {
    raise_fd_limit()?; // each connection is a descriptor
    let server = StreamServer::bind(addr)?.stop_on(&[libc::SIGINT, libc::SIGTERM], Duration::from_secs(5));
    println!("listening on {}", server.local_addr()?);
    server.serve(move |stream: TcpStream, peer: SocketAddr| {
        if quiet {
            return echo(stream);
        }
        println!("{peer} connected");
        let ended = echo(stream);
        println!("{peer} disconnected");
        ended
    })
}

fn main() -> ExitCode {
    let (flags, addrs): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with('-'));
    if addrs.len() > 1 || flags.iter().any(|flag| flag != "--quiet") {
        eprintln!("usage: echo_server [ADDR] [--quiet]     (ADDR: 127.0.0.1:16000 if it is not given)");
        return ExitCode::from(2);
    }
    let addr = addrs.first().map_or("127.0.0.1:16000", String::as_str);
    match serve(addr, !flags.is_empty()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: cannot serve on {addr}: {error}");
            ExitCode::FAILURE
        }
    }
}
