//! Every stable public method and trait of std's sockets and threads is there, with the same types: compares the
//! toolchain's own documentation of std with ours, made by `cargo doc`.
//!
//! It needs the `rust-docs` component. Where that is not installed it is skipped, and says so; with
//! `CI` set it fails.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pages, below `std` and below `gevent`.
const PAGES: [&str; 25] = [
    "net/struct.TcpListener.html",
    "net/struct.TcpStream.html",
    "net/struct.UdpSocket.html",
    "net/struct.Incoming.html",
    "net/trait.ToSocketAddrs.html",
    "os/unix/net/struct.UnixListener.html",
    "os/unix/net/struct.UnixStream.html",
    "os/unix/net/struct.UnixDatagram.html",
    "os/unix/net/struct.Incoming.html",
    "os/linux/net/trait.TcpStreamExt.html",
    "thread/struct.Builder.html",
    "thread/struct.JoinHandle.html",
    "thread/struct.Scope.html",
    "thread/struct.ScopedJoinHandle.html",
    "thread/struct.Thread.html",
    "thread/struct.ThreadId.html",
    "thread/fn.current.html",
    "thread/fn.park.html",
    "thread/fn.park_timeout.html",
    "thread/fn.park_timeout_ms.html",
    "thread/fn.scope.html",
    "thread/fn.sleep.html",
    "thread/fn.sleep_ms.html",
    "thread/fn.spawn.html",
    "thread/fn.yield_now.html",
];

/// Traits that ours cannot have.
const LEFT_OUT: [(&str, &str); 10] = [
    ("AsSocket", "Windows's"),
    ("RawSocket", "Windows's"),
    ("OwnedSocket", "Windows's"),
    ("UnixSocketExt", "unstable as a whole"),
    ("AsHandle", "Windows's"),
    ("RawHandle", "Windows's"),
    ("OwnedHandle", "Windows's"),
    ("JoinHandleExt", "a greenlet has no pthread"),
    ("Send-for-JoinHandle", "ours is so by its fields: see tests/thread.rs"),
    ("Sync-for-JoinHandle", "ours is so by its fields: see tests/thread.rs"),
];

fn sysroot() -> PathBuf {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().expect("rustc runs");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Ours, documented into a folder of this test's own.
fn our_docs() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("std_surface");
    let status = Command::new(env!("CARGO"))
        .args(["doc", "--no-deps", "--lib", "--quiet", "--offline", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo doc fails");
    target.join("doc/gevent")
}

/// The text of a piece of HTML, with single spaces.
fn text(html: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in html.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    for (entity, c) in
        [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&quot;", "\""), ("&nbsp;", " "), ("&amp;", "&")]
    {
        out = out.replace(entity, c);
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A signature without the names of its parameters, which may differ.
fn without_names(signature: &str) -> String {
    let from = ["pub fn ", "fn "].iter().find_map(|start| signature.find(start));
    let signature = signature[from.unwrap_or(0)..].trim_end_matches('ⓘ').trim();
    let Some((head, rest)) = signature.split_once('(') else { return signature.to_owned() };
    let end = rest.rfind(") ->").or(rest.rfind(')')).unwrap_or(rest.len());
    let parameters = rest[..end]
        .split(", ")
        .filter(|parameter| !parameter.trim().is_empty())
        .map(|parameter| parameter.split_once(": ").map_or(parameter, |(_, kind)| kind).trim_end_matches(','))
        .map(str::trim)
        .collect::<Vec<_>>();
    format!("{head}({}{}", parameters.join(", "), &rest[end..]).replace(" where", "where")
}

/// What a page promises: methods with their signatures, and traits. Unstable ones, automatic and blanket implementations are left out.
fn promises(page: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let page = page.split("id=\"synthetic-implementations\"").next().unwrap_or(page);
    let own = page.split("id=\"trait-implementations\"").next().unwrap_or(page);
    for start in ["<section id=\"method.", "<section id=\"tymethod."] {
        for piece in own.split(start).skip(1) {
            let (name, rest) = piece.split_once('"').unwrap();
            let (head, after) = rest.split_once("</section>").unwrap();
            let info = after.split("<section ").next().unwrap_or(after);
            if !info.contains("stab unstable") {
                let head = head.split_once('>').map_or(head, |(_, head)| head);
                all.insert(format!("method {name}"), without_names(&text(head)));
            }
        }
    }
    // A function's page.
    if let Some((_, item)) = page.split_once("item-decl\"><code>pub fn ") {
        let signature = item.split("</code>").next().unwrap_or(item);
        all.insert("function".to_owned(), without_names(&text(&format!("pub fn {signature}"))));
    }
    let traits = page.split("id=\"impl-").skip(1).filter_map(|piece| piece.split('"').next());
    for name in traits.filter(|name| name.contains("-for-")) {
        let name = name
            .replace("%3C", "<")
            .replace("%3E", ">")
            .replace("%26", "&")
            .replace("'a", "'_")
            .replace("'scope", "'_");
        if !LEFT_OUT.iter().any(|(left_out, _)| name.contains(left_out)) {
            all.insert(format!("trait {name}"), String::new());
        }
    }
    all
}

#[test]
fn every_stable_method_and_trait_of_std_is_there() {
    let std_docs = sysroot().join("share/doc/rust/html/std");
    if !std_docs.join(PAGES[0]).exists() {
        let message = format!(
            "std_surface: std's documentation is not installed in {}: `rustup component add rust-docs`\n",
            std_docs.display()
        );
        assert!(std::env::var_os("CI").is_none(), "{message}");
        // Not by a macro, whose output a passing test does not show.
        std::io::stderr().write_all(format!("SKIPPED {message}").as_bytes()).unwrap();
        return;
    }
    let our_docs = our_docs();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for name in PAGES {
        let read = |docs: &Path| {
            std::fs::read_to_string(docs.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let (std, ours) = (promises(&read(&std_docs)), promises(&read(&our_docs)));
        compared += std.len();
        for (what, signature) in std {
            match ours.get(&what) {
                None => wrong.push(format!("{name}: no {what} {signature}")),
                Some(ours) if *ours != signature => {
                    wrong.push(format!("{name}: {what}\n  std's {signature}\n  ours  {ours}"))
                }
                Some(_) => {}
            }
        }
    }
    println!("compared {compared} methods and traits");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 150, "only {compared} found: has the documentation another form?");
}
