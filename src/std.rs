//! All of `std`, with this crate's cooperative modules in the places of the blocking ones. Mirrors
//! `gevent.monkey`, for a module of source code instead of a process.
//!
//! One new line at the top of a module, and what follows it is cooperative:
//!
//! ```
//! use gevent::std; // the new line
//!
//! use std::collections::HashMap; // std's own
//! use std::thread; // ours
//!
//! let mut ages: HashMap<&str, u32> = HashMap::new();
//! ages.insert("hub", thread::spawn(|| 7).join().unwrap());
//! println!("{ages:?} {:?}", std::thread::current().id()); // a path in the code is ours too
//! ```
//!
//! | in its place | is |
//! |---|---|
//! | `std::net` | [`gevent::net`](crate::net) |
//! | `std::os::unix::net`, `std::os::linux::net` | [`gevent::os`](crate::os) |
//! | `std::thread` | [`gevent::thread`](crate::thread) |
//!
//! Everything else is std's own item, re-exported, and so are its macros and what later versions of
//! std add.
//!
//! # The rules
//!
//! A `use` of a name goes before the crate of that name, in that one module. So, in a module with the
//! line `use gevent::std;`, be it the crate's root or any other:
//!
//! * `use std::…`, before or after it, paths such as `std::thread::spawn` in the code, `self::std::…`,
//!   and macros by path (`std::println!`) go through `gevent::std`.
//! * `println!`, `vec!`, `assert!`, `thread_local!` and all the others, the prelude (`Vec`, `Option`,
//!   ...), `#[derive(…)]` and `#[test]` are std's as ever: they do not go by the name `std`.
//! * `::std::…` is the real one. So is what comes by `core` and `alloc`.
//! * In a function, `use gevent::std;` counts for that block.
//! * Edition 2018 or later.
//!
//! It is *one* module: a nested one (`mod inner { … }`) does not see it and has the real `std`, unless
//! it has the line as well, or `use super::std;`. What a `macro_rules!` of any crate spells as `std::…`
//! goes by the module that *calls* the macro; `::std::…` and `$crate::…` do not.
//!
//! A glob is not enough: `use gevent::*;`, and `use super::*;` from a module that has the line, bring a
//! second `std`, and the compiler calls each `use std::…` there ambiguous (E0659). Such a module, a
//! `mod tests` say, needs the line of its own:
//!
//! ```
//! use gevent::std;
//! # fn main() {}
//!
//! mod tests {
//!     use super::*;
//!     use gevent::std; // without it, the next line is an error
//!     use std::thread;
//! #   pub fn f() -> thread::ThreadId { thread::current().id() }
//! }
//! ```
//!
//! ```compile_fail
//! use gevent::*;
//! use std::thread;
//! # fn main() {}
//! ```
//!
//! Types do not mix: a `std::thread::JoinHandle` of a module with the line is ours, of one without it
//! std's, and the compiler says so where they meet.

#[doc(no_inline)]
pub use ::std::*;

#[doc(no_inline)]
pub use crate::{net, os, thread};
