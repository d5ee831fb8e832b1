//! [`StreamServer`].

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Outcome;
use super::control::{Control, Stopper};
use super::lane::{self, Held, Source};
use crate::greenlet::AnyGreenlet;
use crate::greenlet::block::WaitsFor;
use crate::greenlet::exit::report;
use crate::greenlet::stack::StackError;
use crate::hub::{Hub, SignalHandle, signal};
use crate::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream};
use crate::os::unix::net::SocketAddr as UnixAddr;
use crate::task::{Builder, Greenlet};
use crate::thread::parker::Parker;

/// How many connections may wait to be accepted, unless `backlog` says otherwise.
const BACKLOG: i32 = 1024;

/// What a [`StreamServer`] can listen on: a [`TcpListener`], whose handlers are given a [`TcpStream`] and
/// a [`SocketAddr`]; or a [`UnixListener`], with [`UnixStream`] and
/// [`os::unix::net::SocketAddr`](UnixAddr). Nothing else can be one.
pub trait Listener: sealed::Listener {}
impl<L: sealed::Listener> Listener for L {}

mod sealed {
    use std::io;
    use std::os::fd::AsFd;

    pub trait Listener: AsFd + Sized + 'static {
        type Stream: 'static;
        type Addr: 'static;
        fn accept_now(&self) -> io::Result<(Self::Stream, Self::Addr)>;
        fn addr(&self) -> io::Result<Self::Addr>;
        /// What to call a connection, in lists and reports.
        fn name(stream: &Self::Stream, peer: &Self::Addr) -> String;
        /// What to call the server.
        fn own_name(addr: &Self::Addr) -> String;
    }
}

impl sealed::Listener for TcpListener {
    type Stream = TcpStream;
    type Addr = SocketAddr;

    fn accept_now(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept_now(self)
    }

    fn addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn name(_: &TcpStream, peer: &SocketAddr) -> String {
        peer.to_string()
    }

    fn own_name(addr: &SocketAddr) -> String {
        addr.to_string()
    }
}

impl sealed::Listener for UnixListener {
    type Stream = UnixStream;
    type Addr = UnixAddr;

    fn accept_now(&self) -> io::Result<(UnixStream, UnixAddr)> {
        UnixListener::accept_now(self)
    }

    fn addr(&self) -> io::Result<UnixAddr> {
        self.local_addr()
    }

    /// Peers seldom have an address: the process that connected says more.
    fn name(stream: &UnixStream, peer: &UnixAddr) -> String {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        match getsockopt(stream, PeerCredentials) {
            Ok(peer) => format!("process {}", peer.pid()),
            Err(_) => format!("{peer:?}"),
        }
    }

    fn own_name(addr: &UnixAddr) -> String {
        addr.as_pathname().map_or_else(|| format!("{addr:?}"), |path| path.display().to_string())
    }
}

/// A server that runs a greenlet for each connection. Mirrors `gevent.server.StreamServer`.
///
/// It listens from `bind` on; it accepts while [`serve`](StreamServer::serve) runs. See
/// [`server`](crate::server) for how it stops, and for what it does when accepting fails.
///
/// ```
/// use std::io::Write;
/// use gevent::net::TcpStream;
/// use gevent::server::StreamServer;
///
/// let server = StreamServer::bind("127.0.0.1:0")?;
/// let (addr, stopper) = (server.local_addr()?, server.stopper());
/// gevent::spawn(move || {
///     let stream = TcpStream::connect(addr).unwrap();
///     assert_eq!(std::io::read_to_string(stream).unwrap(), "hi");
///     stopper.stop();
/// });
/// server.serve(|mut stream, _peer| stream.write_all(b"hi"))?;
/// # std::io::Result::Ok(())
/// ```
///
/// On a unix socket:
///
/// ```
/// use gevent::net::UnixListener;
/// use gevent::server::StreamServer;
///
/// let path = std::env::temp_dir().join(format!("gevent-doc-server-{}", std::process::id()));
/// let server = StreamServer::from(UnixListener::bind(&path)?);
/// assert_eq!(server.local_addr()?.as_pathname(), Some(&*path));
/// # std::fs::remove_file(path)?;
/// # std::io::Result::Ok(())
/// ```
#[must_use = "a server accepts nothing until `serve`"]
pub struct StreamServer<L: Listener = TcpListener> {
    listener: L,
    settings: Settings,
}

/// What the servers have in common: how much at once, and when to stop.
pub(super) struct Settings {
    pub(super) control: Arc<Control>,
    signals: Vec<SignalHandle>,
    /// What went wrong in a setting, for `serve` to return.
    failed: Option<io::Error>,
}

impl Settings {
    pub(super) fn new(most: usize) -> Self {
        Settings { control: Arc::new(Control::new(most)), signals: Vec::new(), failed: None }
    }

    pub(super) fn stop_on(&mut self, signals: &[i32], grace: Duration) {
        self.control.set_grace(grace);
        for &number in signals {
            let control = self.control.clone();
            let caught = signal(number, move |_| {
                // The second one: somebody has waited long enough.
                if control.stops() > 0 { control.stop_within(Duration::ZERO) } else { control.stop() }
            });
            match caught {
                Ok(handle) => self.signals.push(handle),
                Err(error) => self.note(Err(error)),
            }
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    pub(super) fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for signal in self.signals.drain(..) {
            signal.cancel();
        }
    }
}

impl StreamServer<TcpListener> {
    /// A server that listens on this address; on the first that works, if it is several. Port 0 is one
    /// that the system chooses: see [`local_addr`](StreamServer::local_addr). `SO_REUSEADDR` is set, as
    /// by std.
    ///
    /// # Errors
    /// As for [`TcpListener::bind`]: in use, not of this machine, not allowed; no address; no
    /// descriptor is left.
    ///
    /// ```
    /// use gevent::server::StreamServer;
    ///
    /// let server = StreamServer::bind(("127.0.0.1", 0))?;
    /// let taken = StreamServer::bind(server.local_addr()?).unwrap_err();
    /// assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        SockRef::from(&listener).listen(BACKLOG)?; // std asks for fewer
        Ok(Self::from(listener))
    }

    /// [`serve`](StreamServer::serve), on this many hubs: on this thread, and on one more thread for
    /// each hub after the first. The kernel shares connections out among them (`SO_REUSEPORT`); a
    /// connection stays on its hub. All stop together; the bound of
    /// [`max_connections`](StreamServer::max_connections) is for all of them. Zero hubs are one.
    ///
    /// While it serves, other programs of the same user may listen on the address too, if they ask for
    /// `SO_REUSEPORT`.
    ///
    /// # Errors
    /// As for [`serve`](StreamServer::serve); no thread, hub, or descriptor is left for another hub. If
    /// one hub fails, all stop.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed: the connections of the other hubs are killed then, those of
    /// this one go on.
    ///
    /// ```
    /// use std::io::Write;
    /// use gevent::net::TcpStream;
    /// use gevent::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0")?;
    /// let (addr, stopper) = (server.local_addr()?, server.stopper());
    /// gevent::spawn(move || {
    ///     for _ in 0..10 {
    ///         let stream = TcpStream::connect(addr).unwrap();
    ///         assert_eq!(std::io::read_to_string(stream).unwrap(), "hi");
    ///     }
    ///     stopper.stop();
    /// });
    /// server.serve_on(2, |mut stream, _peer| stream.write_all(b"hi"))?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn serve_on<F, R>(mut self, hubs: usize, f: F) -> io::Result<()>
    where
        F: Fn(TcpStream, SocketAddr) -> R + Send + Sync + 'static,
        R: Outcome,
    {
        self.settings.check()?;
        let addr = self.local_addr()?;
        let f = Arc::new(f);
        let handler = |f: Arc<F>| move |stream, peer| f(stream, peer);
        let others: Vec<TcpListener> =
            (1..hubs).map(|_| listen_beside(&self.listener, addr)).collect::<io::Result<_>>()?;
        let mut crew = Crew::new(self.settings.control.clone());
        for (other, number) in others.into_iter().zip(2..) {
            let (control, f) = (crew.control.clone(), f.clone());
            crew.hire(format!("hub {number} of {addr}"), move |name| {
                Hub::builder().install()?;
                serve(&control, name, other, handler(f))
            })?;
        }
        let ended = serve(&crew.control, &own_name(&self.listener), self.listener, handler(f));
        // However it ended: the others are told, if they have not been.
        if ended.is_err() {
            crew.control.stop();
        }
        crew.retire().and(ended)
    }
}

/// One more listener on the address of `first`, which is one of several from now on.
fn listen_beside(first: &TcpListener, addr: SocketAddr) -> io::Result<TcpListener> {
    SockRef::from(first).set_reuse_port(true)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(SockRef::from(first).only_v6()?)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(std::net::TcpListener::from(socket)))
}

/// The threads of a server's further hubs.
struct Crew {
    control: Arc<Control>,
    /// How many still work; each rings when it is done.
    working: Arc<(AtomicUsize, Parker)>,
    threads: Vec<std::thread::JoinHandle<io::Result<()>>>,
}

impl Crew {
    fn new(control: Arc<Control>) -> Self {
        Crew { control, working: Arc::new((AtomicUsize::new(0), Parker::new())), threads: Vec::new() }
    }

    fn hire(
        &mut self,
        name: String,
        work: impl FnOnce(&str) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (control, working) = (self.control.clone(), self.working.clone());
        let builder = std::thread::Builder::new().name(name.clone());
        self.working.0.fetch_add(1, Ordering::SeqCst);
        let thread = builder.spawn(move || {
            let _done = Done { control: control.clone(), working };
            let ended = work(&name);
            if ended.is_err() {
                control.stop();
            }
            // Before the thread is said to be done, so that joining it takes no time.
            Hub::current().shutdown();
            ended
        });
        match thread {
            Ok(thread) => {
                self.threads.push(thread);
                Ok(())
            }
            Err(error) => {
                self.working.0.fetch_sub(1, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    /// Waits until all have ended: the first error, if there is one.
    fn retire(mut self) -> io::Result<()> {
        while self.working.0.load(Ordering::SeqCst) > 0 {
            let waits_for = WaitsFor::Other("the other hubs of a server to stop");
            match self.working.1.park(waits_for, None) {
                Ok(_) => {}
                Err(cut) => return Err(cut.into_io()),
            }
        }
        let mut ended = Ok(());
        for thread in self.threads.drain(..) {
            let one = thread.join().unwrap_or_else(|_| Err(io::Error::other("a hub of the server panicked")));
            ended = ended.and(one);
        }
        ended
    }
}

/// An unwind, or an error before all were hired: they are not left alone.
impl Drop for Crew {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.control.stop_within(Duration::ZERO);
        }
    }
}

struct Done {
    control: Arc<Control>,
    working: Arc<(AtomicUsize, Parker)>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.control.stop_within(Duration::ZERO);
        }
        self.working.0.fetch_sub(1, Ordering::SeqCst);
        self.working.1.unpark();
    }
}

impl<L: Listener> StreamServer<L> {
    /// The address that it listens on.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.addr()
    }

    /// Bounds how many connections are handled at once; the others wait in the kernel's queue, which has
    /// a bound of its own: [`backlog`](StreamServer::backlog). Default: no bound; at least 1. Mirrors
    /// `spawn=Pool(n)`.
    pub fn max_connections(self, n: usize) -> Self {
        self.settings.control.set_most(n);
        self
    }

    /// How many connections may wait to be accepted. Default: 1,024, or what a listener that the server
    /// was made `from` has; the kernel allows `net.core.somaxconn` at most. Mirrors `backlog` (128
    /// there).
    ///
    /// The error that this may have comes out of [`serve`](StreamServer::serve).
    pub fn backlog(mut self, n: u32) -> Self {
        let listens = SockRef::from(&self.listener).listen(i32::try_from(n).unwrap_or(i32::MAX));
        self.settings.note(listens);
        self
    }

    /// Stops it when one of these signals comes, with this grace; a second one ends the grace. Mirrors
    /// `gevent.signal_handler(sig, server.stop)` and `stop_timeout`.
    ///
    /// The signals are caught from here on, and no longer end the process, even after the server. The
    /// error that this may have comes out of [`serve`](StreamServer::serve).
    ///
    /// ```
    /// use std::time::Duration;
    /// use gevent::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0")?.stop_on(&[libc::SIGTERM], Duration::from_secs(1));
    /// nix::sys::signal::raise(nix::sys::signal::SIGTERM)?;
    /// server.serve(|_stream, _peer| ())?; // returns
    /// # std::io::Result::Ok(())
    /// ```
    pub fn stop_on(mut self, signals: &[i32], grace: Duration) -> Self {
        self.settings.stop_on(signals, grace);
        self
    }

    /// What stops it from elsewhere, and tells how busy it is.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(self.settings.control.clone())
    }

    /// Accepts connections, and runs `f` for each in a greenlet that is named after the peer, until the
    /// server is stopped. Mirrors `serve_forever`.
    ///
    /// A connection is closed when `f` drops it: at its end, if not sooner. `f` may return nothing, or a
    /// `Result`, whose error is written to standard error with the peer. If it panics, its connection
    /// ends, a line names it, and the server goes on. What `f` captures need not be `Send`: it stays
    /// on this thread.
    ///
    /// # Errors
    /// The socket cannot accept any more (it was closed or shut down behind the server's back); a signal
    /// of [`stop_on`](StreamServer::stop_on) cannot be caught. What is being handled is drained first.
    ///
    /// # Panics
    /// Unwinds when the greenlet is killed: the socket is closed then, connections go on.
    pub fn serve<F, R>(mut self, f: F) -> io::Result<()>
    where
        F: Fn(L::Stream, L::Addr) -> R + 'static,
        R: Outcome,
    {
        self.settings.check()?;
        let name = format!("server {}", own_name(&self.listener));
        serve(&self.settings.control, &name, self.listener, f)
    }

    /// [`serve`](StreamServer::serve) in a greenlet of its own. Mirrors `start`.
    ///
    /// # Panics
    /// When no stack can be had.
    #[track_caller]
    pub fn start<F, R>(self, f: F) -> Greenlet<io::Result<()>>
    where
        F: Fn(L::Stream, L::Addr) -> R + 'static,
        R: Outcome,
    {
        let name = format!("server {}", own_name(&self.listener));
        match Builder::new().name(name).spawn(move || self.serve(f)) {
            Ok(greenlet) => greenlet,
            Err(error) => panic!("cannot start a server: {error}"),
        }
    }
}

fn own_name<L: Listener>(listener: &L) -> String {
    listener.addr().map_or_else(|_| "at an unknown address".to_owned(), |addr| L::own_name(&addr))
}

fn serve<L, F, R>(control: &Arc<Control>, name: &str, listener: L, f: F) -> io::Result<()>
where
    L: Listener,
    F: Fn(L::Stream, L::Addr) -> R + 'static,
    R: Outcome,
{
    lane::run(control, name, Accepting { listener, f: Rc::new(f) })
}

struct Accepting<L, F> {
    listener: L,
    f: Rc<F>,
}

impl<L: AsFd, F> AsFd for Accepting<L, F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl<L, F, R> Source for Accepting<L, F>
where
    L: sealed::Listener,
    F: Fn(L::Stream, L::Addr) -> R + 'static,
    R: Outcome,
{
    type Work = (L::Stream, L::Addr);

    fn take(&self) -> io::Result<Self::Work> {
        self.listener.accept_now()
    }

    fn begin(&self, (stream, peer): Self::Work, held: Held) -> Result<AnyGreenlet, StackError> {
        let name = L::name(&stream, &peer);
        let f = self.f.clone();
        held.run(name, move |name| {
            if let Some(error) = f(stream, peer).error() {
                report(&format!("the connection of {name} failed: {error}"));
            }
        })
    }
}

impl<L: Listener> From<L> for StreamServer<L> {
    /// A server on a socket that listens already: inherited, say, or set up in a way of its own.
    fn from(listener: L) -> Self {
        StreamServer { listener, settings: Settings::new(usize::MAX) }
    }
}

impl<L: Listener> fmt::Debug for StreamServer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServer")
            .field("addr", &own_name(&self.listener))
            .field("stopper", &self.stopper())
            .finish()
    }
}
