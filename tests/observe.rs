//! `observe`: the tree of greenlets, and the signal that prints it.

mod common;

use std::io::{BufRead, Read};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{virtual_time, watchdog};
use gevent::observe::{Node, summary, tree};
use gevent::os::unix::net::UnixStream;
use gevent::{Builder, Me, StackSize, State, WaitsFor, enter, root, sleep, spawn, spawn_later, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

#[inline(never)]
fn sleeps_in_a_function_of_the_users() {
    sleep(HOUR);
    std::hint::black_box(());
}

fn node(nodes: &[Node], id: u64) -> &Node {
    nodes.iter().find(|node| node.id == id).expect("it is listed")
}

#[test]
fn a_thread_without_a_hub_has_its_root() {
    let _watched = watchdog();
    let tree = tree();
    assert_eq!(tree.nodes().len(), 1);
    let node = &tree.nodes()[0];
    assert!(node.is_root && node.state == State::Running && node.id == root().id());
    let said = tree.to_string();
    assert!(said.starts_with("thread a_thread_without_a_hub_has_its_root, no hub: 1 greenlet\n"), "{said}");
}

#[test]
fn it_lists_every_greenlet_with_what_it_waits_for() {
    let _watched = watchdog();
    let clock = virtual_time();
    let (mut here, _there) = UnixStream::pair().unwrap();
    let fd = here.as_raw_fd();
    let sleeper = Builder::new().name("sleeper").spawn(sleeps_in_a_function_of_the_users).unwrap();
    let handle = sleeper.handle();
    let joiner = spawn(move || handle.wait(None));
    let reader = spawn(move || here.read(&mut [0]));
    let late = Builder::new().name("late").delay(2 * HOUR).spawn(|| ()).unwrap();
    yield_now();
    let fresh = spawn(|| ());
    let tree = tree();
    let nodes = tree.nodes();
    assert_eq!(nodes.len(), 6);
    assert!(nodes[0].is_root);
    let at = |id| node(nodes, id);
    assert_eq!(at(sleeper.id()).name.as_deref(), Some("sleeper"));
    assert_eq!(at(sleeper.id()).state, State::Blocked(WaitsFor::Sleep));
    assert_eq!(at(joiner.id()).state, State::Blocked(WaitsFor::Join(sleeper.id())));
    assert_eq!(at(reader.id()).state, State::Blocked(WaitsFor::Read(fd)));
    assert_eq!(at(late.id()).state, State::Ready);
    assert_eq!((at(fresh.id()).state, at(fresh.id()).since), (State::Ready, None));
    for greenlet in [sleeper.handle(), joiner.handle(), reader.handle()] {
        let node = at(greenlet.id());
        assert_eq!(
            (node.spawner, node.site, node.since),
            (root().id(), greenlet.site(), Some(Duration::ZERO))
        );
        assert!(node.stack.unwrap() > 0 && node.stack.unwrap() < 256 * 1024, "{:?}", node.stack);
        let own = if node.id == sleeper.id() { "sleeps_in_a_function" } else { "it_lists_every_greenlet" };
        assert!(node.backtrace.contains(own), "{}", node.backtrace);
    }
    assert_eq!((at(fresh.id()).stack, at(fresh.id()).backtrace.as_str()), (None, ""));
    assert_eq!(at(root().id()).state, State::Running);
    // Since when, by the hub's clock.
    sleep(HOUR / 2);
    assert_eq!(clock.now(), HOUR / 2);
    let later = summary();
    assert_eq!(node(later.nodes(), sleeper.id()).since, Some(HOUR / 2));
    assert!(later.nodes().iter().all(|node| node.backtrace.is_empty()));
    assert!(later.to_string().contains(&format!(
        "greenlet {} 'sleeper' blocked on sleep for 1800.0 s, spawned at tests/observe.rs:{}, stack ",
        sleeper.id(),
        sleeper.site().line()
    )));
    late.kill();
}

#[test]
fn a_backtrace_names_the_users_functions_and_not_ours() {
    let _watched = watchdog();
    let sleeper = spawn(sleeps_in_a_function_of_the_users);
    yield_now();
    let tree = tree();
    let trace = &node(tree.nodes(), sleeper.id()).backtrace;
    assert!(trace.contains("sleeps_in_a_function_of_the_users"), "{trace}");
    assert!(trace.contains("gevent::task::sleep"), "{trace}");
    assert!(trace.contains("observe.rs:"), "where in the source: {trace}");
    for ours in ["corosensei", "greenlet::driver", "catch_unwind", "backtrace_of"] {
        assert!(!trace.contains(ours), "{ours} is in\n{trace}");
    }
    // Looking does not disturb.
    assert_eq!(sleeper.state(), State::Blocked(WaitsFor::Sleep));
    sleeper.kill();
}

#[test]
fn from_a_greenlet_it_shows_the_root_too() {
    let _watched = watchdog();
    #[inline(never)]
    fn the_root_waits_here(greenlet: gevent::Greenlet<String>) -> String {
        std::hint::black_box(greenlet.join().unwrap())
    }
    let asks = spawn(|| {
        let tree = tree();
        assert_eq!(node(tree.nodes(), gevent::current().id()).state, State::Running);
        node(tree.nodes(), root().id()).backtrace.clone()
    });
    let trace = the_root_waits_here(asks);
    assert!(trace.contains("the_root_waits_here"), "{trace}");
    assert!(!trace.contains("observe::tree"), "its own, not the asking greenlet's: {trace}");
}

#[test]
fn it_prints_as_a_tree_by_who_made_whom() {
    let _watched = watchdog();
    let parent = Builder::new()
        .name("parent")
        .spawn(|| {
            let child = Builder::new()
                .name("child")
                .spawn(|| {
                    drop(Builder::new().name("grandchild").spawn(|| sleep(HOUR)).unwrap());
                    sleep(HOUR);
                })
                .unwrap();
            child.join()
        })
        .unwrap();
    for _ in 0..3 {
        yield_now();
    }
    let said = summary().to_string();
    let indent = |name: &str| {
        let line = said.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {said}"));
        line.len() - line.trim_start().len()
    };
    assert_eq!(["(root)", "'parent'", "'child'", "'grandchild'"].map(indent), [0, 2, 4, 6], "{said}");
    // The parent ends: its children stand at the left.
    parent.kill();
    let said = summary().to_string();
    let line = said.lines().find(|line| line.contains("'child'")).unwrap();
    assert!(line.starts_with("greenlet "), "{said}");
}

#[test]
fn raw_greenlets_are_listed_too() {
    let _watched = watchdog();
    enter(|me: &Me<()>| {
        let parent = me.handle();
        let raw = me.child(move |me: &Me<()>, ()| drop(me.switch(&parent, ())));
        me.switch(&raw, ()).unwrap();
        let tree = tree();
        let node = node(tree.nodes(), raw.id());
        assert_eq!((node.state, node.since), (State::Blocked(WaitsFor::Other("a switch")), None));
        assert!(node.backtrace.contains("raw_greenlets_are_listed_too"), "{}", node.backtrace);
    });
}

#[test]
fn a_greenlet_on_the_smallest_stack_is_looked_at_unharmed() {
    let _watched = watchdog();
    let small = Builder::new().stack_size(StackSize::new(1).unwrap()).spawn(|| sleep(HOUR)).unwrap();
    yield_now();
    let said = tree().to_string();
    assert!(said.contains("blocked on sleep"), "{said}");
    small.kill();
}

#[test]
fn what_was_seen_stays_as_it_was() {
    let _watched = watchdog();
    let late = spawn_later(HOUR, || ());
    let seen = tree();
    late.kill();
    assert!(seen.nodes().iter().any(|node| node.id == late.id() && node.state == State::Ready));
    assert!(!tree().nodes().iter().any(|node| node.id == late.id()));
}

#[test]
fn a_thousand_are_listed() {
    let _watched = watchdog();
    let all: Vec<_> = (0..1000).map(|_| spawn(|| sleep(HOUR))).collect();
    yield_now();
    let tree = summary();
    assert_eq!(tree.nodes().len(), 1001);
    assert!(tree.to_string().contains(": 1001 greenlets\n"));
    all.iter().for_each(|greenlet| greenlet.kill());
}

/// `kill -QUIT` on a program that hangs in its hub says why.
#[test]
fn sigquit_prints_the_tree_of_a_hub_that_waits() {
    let test = "sigquit_prints_the_tree_of_a_hub_that_waits";
    if common::is_child() {
        let _watched = watchdog();
        gevent::observe::dump_on(libc::SIGQUIT).unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let stuck = Builder::new().name("stuck").spawn(move || (&here).read(&mut [0]).unwrap()).unwrap();
        drop(Builder::new().name("dozer").spawn(sleeps_in_a_function_of_the_users).unwrap());
        drop(Builder::new().name("ready").spawn(|| println!("it is ready")).unwrap());
        // Twice, and the program goes on.
        stuck.join().unwrap();
        drop(there);
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(common::CHILD, test)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().any(|line| line.unwrap().contains("is ready")), "{test} was not run");
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    for _ in 0..2 {
        // SAFETY: plain system call, on a child that was not waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGQUIT) }, 0);
        let mut said = String::new();
        // The greenlets are listed by who made them: these two last.
        while !(said.contains("'stuck'") && said.contains("sleeps_in_a_function_of_the_users")) {
            assert_ne!(err.read_line(&mut said).unwrap(), 0, "{said}");
        }
        assert!(said.contains(&format!("thread {test}, hub 1: ")), "{said}");
        assert!(said.contains("(root) blocked on the end of greenlet "), "{said}");
        assert!(said.contains("'stuck' blocked on read fd "), "{said}");
        assert!(said.contains("'dozer' blocked on sleep for "), "{said}");
        assert!(said.contains("spawned at tests/observe.rs:"), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
