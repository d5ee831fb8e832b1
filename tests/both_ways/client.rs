// The tests of `server.rs`, with clients that are threads of the same kind; compiled twice as it is.

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    fn ask(&mut self, line: &str) -> String {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.stream.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

pub(crate) fn answers_are_right(addr: impl ToSocketAddrs) {
    let server = Server::start(addr).unwrap();
    let mut client = Client::connect(server.addr());
    assert_eq!(client.ask("GET a"), "NONE");
    assert_eq!(client.ask("SET a one two"), "OK");
    assert_eq!(Client::connect(server.addr()).ask("GET a"), "one two");
    assert_eq!(client.ask("WHO"), "client 0");
    assert_eq!(client.ask("NONSENSE"), "ERROR \"NONSENSE\"");
    assert_eq!(client.ask("QUIT"), "BYE");
    assert_eq!(client.ask("GET a"), "", "the server closed it");
    server.stop().unwrap();
}

/// Many clients at once: all sleep at the same time, then one wakes all.
pub(crate) fn clients_are_served_side_by_side(count: usize) {
    let server = Server::start("127.0.0.1:0").unwrap();
    let addr = server.addr();
    let begun = std::time::Instant::now();
    let clients: Vec<JoinHandle<()>> = (0..count)
        .map(|n| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                assert_eq!(client.ask("SLEEP 50"), "OK");
                assert_eq!(client.ask(&format!("SET key{n} value{n}")), "OK");
                assert_eq!(client.ask("WAIT go"), "now");
                let other = (n + 1) % count;
                assert_eq!(client.ask(&format!("WAIT key{other}")), format!("value{other}"));
            })
        })
        .collect();
    while server.connections() < count {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Client::connect(addr).ask("SET go now"), "OK");
    for client in clients {
        client.join().unwrap();
    }
    let one_by_one = Duration::from_millis(50) * u32::try_from(count).unwrap();
    assert!(begun.elapsed() < one_by_one.max(Duration::from_secs(10)), "{:?}", begun.elapsed());
    server.stop().unwrap();
}

/// A stop ends connections that are in the middle of a read.
pub(crate) fn a_stop_ends_open_connections() {
    let server = Server::start("localhost:0").unwrap();
    let mut idle: Vec<Client> = (0..20).map(|_| Client::connect(server.addr())).collect();
    for client in &mut idle {
        assert!(client.ask("WHO").starts_with("client "));
    }
    server.stop().unwrap();
    for client in &mut idle {
        let mut rest = String::new();
        assert_eq!(client.stream.read_line(&mut rest).unwrap_or(0), 0);
    }
}

/// How many connections the native thread of the last handler has seen.
pub(crate) fn served_by_one_native_thread(count: usize) -> String {
    let server = Server::start("127.0.0.1:0").unwrap();
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(server.addr())).collect();
    for client in &mut clients {
        client.ask("WHO");
    }
    let served = clients[0].ask("SERVED");
    server.stop().unwrap();
    served
}

/// Clients of a server that is of either kind.
pub(crate) fn ask_all(addr: SocketAddr, count: usize) {
    let clients: Vec<JoinHandle<()>> = (0..count)
        .map(|n| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                for round in 0..20 {
                    assert_eq!(client.ask(&format!("SET {n} {round}")), "OK");
                    assert_eq!(client.ask(&format!("GET {n}")), round.to_string());
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}
