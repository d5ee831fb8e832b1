//! Which public types may cross threads, and which may not: checked when this file is compiled.

use gevent::{
    AnyGreenlet, Body, Generator, GreenletExit, LoopExit, Me, Orphan, ParentError, Payload, RawGreenlet,
    StackError, StackSize, Step, SwitchError, TraceEvent, Tracer, WaitsFor, WeakGreenlet, Yielder,
};

/// `SEND` and `SYNC` are false for every type, but an inherent constant of a type that is comes first.
trait Otherwise {
    const SEND: bool = false;
    const SYNC: bool = false;
}
impl<T: ?Sized> Otherwise for T {}

struct IsSend<T: ?Sized>(*const T);
impl<T: ?Sized + Send> IsSend<T> {
    const SEND: bool = true;
}

struct IsSync<T: ?Sized>(*const T);
impl<T: ?Sized + Sync> IsSync<T> {
    const SYNC: bool = true;
}

macro_rules! neither {
    ($($type:ty),* $(,)?) => { $(
        const _: () = assert!(!IsSend::<$type>::SEND, concat!(stringify!($type), " is Send"));
        const _: () = assert!(!IsSync::<$type>::SYNC, concat!(stringify!($type), " is Sync"));
    )* };
}

macro_rules! both {
    ($($type:ty),* $(,)?) => { $(
        const _: () = assert!(IsSend::<$type>::SEND, concat!(stringify!($type), " is not Send"));
        const _: () = assert!(IsSync::<$type>::SYNC, concat!(stringify!($type), " is not Sync"));
    )* };
}

// A greenlet never leaves its thread, whatever it takes.
neither![
    AnyGreenlet,
    RawGreenlet<()>,
    RawGreenlet<u64>,
    WeakGreenlet<()>,
    Me<'static, ()>,
    Body<(), ()>,
    Generator<(), ()>,
    Generator<u8, u8, u8>,
    Yielder<'static, (), (), ()>,
    Tracer,
    // The function that it names is its thread's.
    gevent::hub::SignalHandle,
    &'static RawGreenlet<()>,
];

// An orphan holds a value that was never meant to leave the thread.
neither![Orphan, SwitchError<()>];

// Plain facts.
both![
    GreenletExit,
    LoopExit,
    ParentError,
    StackError,
    StackSize,
    TraceEvent,
    WaitsFor,
    Step<u8, u8>,
];
const _: () = assert!(IsSend::<Payload>::SEND);

// The check itself tells them apart.
both![u8, &'static str];
neither![std::rc::Rc<u8>];
const _: () = assert!(IsSend::<std::cell::Cell<u8>>::SEND && !IsSync::<std::cell::Cell<u8>>::SYNC);
