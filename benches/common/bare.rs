//! The yardstick: a hub by hand on corosensei, as small as one can be. Greenlets park in a called
//! function, as in any library; stacks are pooled; queues hold pointers.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::ptr::null;
use std::rc::Rc;

/// A coroutine and, once it runs, what suspends it.
pub(crate) struct Task {
    coroutine: UnsafeCell<Option<Coroutine<(), (), ()>>>,
    yielder: Cell<*const Yielder<(), ()>>,
}

thread_local! {
    static READY: RefCell<VecDeque<Rc<Task>>> = const { RefCell::new(VecDeque::new()) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    static CURRENT: Cell<*const Task> = const { Cell::new(null()) };
}

impl Task {
    /// Whether it has started and not ended.
    pub(crate) fn is_suspended(&self) -> bool {
        // SAFETY: looked at by the running task, which is not this one.
        unsafe { (*self.coroutine.get()).as_ref() }.is_some_and(|c| c.started() && !c.done())
    }
}

/// Makes a task on a pooled stack.
pub(crate) fn task(f: impl FnOnce() + 'static) -> Rc<Task> {
    let stack = STACKS.with_borrow_mut(Vec::pop).unwrap_or_else(|| DefaultStack::new(256 * 1024).unwrap());
    let task = Rc::new(Task { coroutine: UnsafeCell::new(None), yielder: Cell::new(null()) });
    let raw = Rc::as_ptr(&task);
    let body: Box<dyn FnOnce()> = Box::new(f);
    // SAFETY: the task runs only while `run` holds it, on this thread.
    let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| unsafe {
        (*raw).yielder.set(yielder);
        body()
    });
    // SAFETY: nobody else looks before it is in the queue.
    unsafe { *task.coroutine.get() = Some(coroutine) };
    task
}

/// Puts a task at the end of the queue.
pub(crate) fn ready(task: Rc<Task>) {
    READY.with_borrow_mut(|ready| ready.push_back(task));
}

/// Suspends the running task; somebody has queued it.
#[inline(never)]
pub(crate) fn park() {
    park_inlined();
}

#[inline(always)]
fn park_inlined() {
    // SAFETY: called by the running task, on its own stack.
    unsafe { (*(*CURRENT.get()).yielder.get()).suspend(()) }
}

/// Lets the others run first, in a called function, as any library does.
#[inline(never)]
pub(crate) fn yield_now() {
    yield_inlined();
}

/// The same in the greenlet's own loop: what corosensei is at its best, and no library can be.
#[inline(always)]
pub(crate) fn yield_inlined() {
    let current = CURRENT.get();
    // SAFETY: `run` holds a count of the current task; this adds one for the queue.
    unsafe { Rc::increment_strong_count(current) };
    // SAFETY: the count just added.
    ready(unsafe { Rc::from_raw(current) });
    park_inlined();
}

/// Runs until nobody is ready.
pub(crate) fn run() {
    while let Some(task) = READY.with_borrow_mut(VecDeque::pop_front) {
        CURRENT.set(Rc::as_ptr(&task));
        // SAFETY: only this loop resumes, one task at a time.
        let coroutine = unsafe { &mut *task.coroutine.get() };
        if let CoroutineResult::Return(()) = coroutine.as_mut().unwrap().resume(()) {
            STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.take().unwrap().into_stack()));
        }
    }
}
