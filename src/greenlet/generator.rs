//! Generators: a function that yields values, and is sent values, with an ordinary call stack.
//!
//! Built on the public greenlet API alone: a generator is a greenlet whose parent is whoever asked
//! it last, so what it raises arrives there. It may yield from any depth of calls, may drive other
//! generators, and may wait in the hub: then its consumer waits with it.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use super::block::Payload;
use super::exit::{GreenletExit, SwitchError};
use super::{Me, RawGreenlet, enter};

/// What a generator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<Y, R> {
    /// It yielded this and waits for the next [`send`](Generator::send).
    Yielded(Y),
    /// It ended with this.
    Returned(R),
}

type Consumer<Y, R> = RawGreenlet<Step<Y, R>>;

/// A generator: sent `S`s, yields `Y`s, returns an `R`. Mirrors Python's generators.
///
/// ```
/// use gevent::{Generator, Step};
///
/// let mut average = Generator::new(|outside, first: f64| {
///     let (mut sum, mut n, mut next) = (0.0, 0.0, first);
///     while next >= 0.0 {
///         sum += next;
///         n += 1.0;
///         next = outside.send(sum / n);
///     }
///     "done"
/// });
/// assert_eq!(average.send(10.0).unwrap(), Step::Yielded(10.0));
/// assert_eq!(average.send(20.0).unwrap(), Step::Yielded(15.0));
/// assert_eq!(average.send(-1.0).unwrap(), Step::Returned("done"));
/// assert!(average.send(1.0).is_err()); // it has ended; the value is given back
/// ```
///
/// One that is sent `()` is an iterator:
///
/// ```
/// use gevent::Generator;
///
/// let squares = Generator::new(|outside, ()| for n in 1..=4 { outside.send(n * n); });
/// assert_eq!(squares.collect::<Vec<u32>>(), [1, 4, 9, 16]);
/// ```
///
/// Dropped before its end, [`GreenletExit`](crate::GreenletExit) is raised at its yield. One that
/// is only looked at never runs.
pub struct Generator<S, Y, R = ()>
where
    S: 'static,
    Y: 'static,
    R: 'static,
{
    greenlet: RawGreenlet<S>,
    shared: Rc<Shared<Y, R>>,
}

struct Shared<Y: 'static, R: 'static> {
    /// Who waits for the next step.
    consumer: RefCell<Option<Consumer<Y, R>>>,
}

/// The generator's own end: yields, and receives what is sent.
pub struct Yielder<'a, S: 'static, Y: 'static, R: 'static> {
    me: &'a Me<'a, S>,
    shared: &'a Shared<Y, R>,
}

impl<S: 'static, Y: 'static, R: 'static> Generator<S, Y, R> {
    /// Makes a generator. `f` runs at the first [`send`](Generator::send), whose value is its
    /// second argument.
    #[track_caller]
    pub fn new(f: impl FnOnce(&Yielder<'_, S, Y, R>, S) -> R + 'static) -> Self {
        let shared = Rc::new(Shared { consumer: RefCell::new(None) });
        let inner = shared.clone();
        let greenlet = enter(|me: &Me<'_, Step<Y, R>>| {
            me.child(move |me: &Me<'_, S>, first| {
                let ended = f(&Yielder { me, shared: &inner }, first);
                Step::Returned(ended)
            })
        });
        let _ = greenlet.set_parent(&super::root());
        Generator { greenlet, shared }
    }

    /// Sends `value` in, as what its pending yield returns, and runs it to its next yield or its
    /// end. Mirrors `generator.send`.
    ///
    /// # Errors
    /// [`SwitchError::Dead`] after its end, with the value; the refusals of
    /// [`Me::switch`](crate::Me::switch); [`SwitchError::Exited`] when it ended by
    /// [`GreenletExit`](crate::GreenletExit).
    ///
    /// # Panics
    /// Raises what the generator panics with.
    pub fn send(&mut self, value: S) -> Result<Step<Y, R>, SwitchError<S>> {
        self.ask(|me, greenlet| me.switch(greenlet, value))
    }

    /// Raises `payload` at its pending yield and runs it to its next yield or its end. Mirrors
    /// `generator.throw`.
    ///
    /// # Errors
    /// As [`send`](Generator::send), giving the payload back.
    ///
    /// # Panics
    /// Raises what the generator panics with: the payload, unless it catches it.
    pub fn throw(&mut self, payload: Payload) -> Result<Step<Y, R>, SwitchError<Payload>> {
        self.ask(|me, greenlet| me.throw(greenlet, payload))
    }

    /// Ends it: raises [`GreenletExit`](crate::GreenletExit) at its pending yield and waits until it
    /// has unwound. Mirrors `generator.close`.
    ///
    /// # Errors
    /// The value that it yields instead of ending; it then goes on. The refusals of
    /// [`Me::switch`](crate::Me::switch) count as ended: it ends when it is dropped.
    ///
    /// # Panics
    /// Raises what the generator panics with.
    pub fn close(&mut self) -> Result<Option<R>, Y> {
        if !self.greenlet.is_started() {
            let _ = self.throw(Box::new(GreenletExit));
            return Ok(None);
        }
        match self.throw(Box::new(GreenletExit)) {
            Ok(Step::Yielded(value)) => Err(value),
            Ok(Step::Returned(value)) => Ok(Some(value)),
            Err(_) => Ok(None),
        }
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.greenlet.is_dead()
    }

    /// Its greenlet, for [`backtrace`](crate::AnyGreenlet::backtrace) and the like.
    pub fn greenlet(&self) -> &RawGreenlet<S> {
        &self.greenlet
    }

    fn ask<E>(
        &mut self,
        ask: impl FnOnce(&Me<'_, Step<Y, R>>, &RawGreenlet<S>) -> Result<Step<Y, R>, SwitchError<E>>,
    ) -> Result<Step<Y, R>, SwitchError<E>> {
        enter(|me: &Me<'_, Step<Y, R>>| {
            let outer = self.shared.consumer.replace(Some(me.handle()));
            drop(outer);
            // What it raises or returns goes to who asked last. It fails only for one that has
            // ended, or that drives this very consumer, and then the switch is refused too.
            let _ = self.greenlet.set_parent(me);
            let answer = catch_unwind(AssertUnwindSafe(|| ask(me, &self.greenlet)));
            self.shared.consumer.replace(None);
            // A suspended generator must not keep its consumer alive: it lies on that one's stack.
            let _ = self.greenlet.set_parent(&super::root());
            answer.unwrap_or_else(|payload| resume_unwind(payload))
        })
    }
}

impl<S: 'static, Y: 'static, R: 'static> Yielder<'_, S, Y, R> {
    /// Yields `value` and returns what is sent next. Mirrors Python's `yield`.
    ///
    /// # Panics
    /// Unwinds when the generator is dropped, closed or thrown at. Panics when the generator
    /// cannot yield: it unwinds already, or no [`Generator::send`] waits.
    pub fn send(&self, value: Y) -> S {
        let consumer = self.shared.consumer.borrow_mut().take();
        let Some(consumer) = consumer else {
            // Dropped, it has no consumer any more: this raises `GreenletExit` again, as often as a
            // switch would.
            let _ = self.me.refusal();
            panic!("a generator was resumed by other than `Generator::send`")
        };
        // No handle of it stays on this stack: a suspended generator must not keep its consumer alive,
        // on whose stack it lies.
        let waiting = consumer.downgrade();
        match self.me.switch_by_value(consumer, Step::Yielded(value)) {
            Ok(sent) => sent,
            Err(error) => {
                let text = error.to_string();
                if error.into_inner().is_some() {
                    // Not sent: the consumer still waits.
                    self.shared.consumer.replace(waiting.upgrade());
                }
                panic!("a generator cannot yield here: {text}")
            }
        }
    }
}

impl<Y: 'static, R: 'static> Iterator for Generator<(), Y, R> {
    type Item = Y;

    /// The next yielded value; `None` once it has ended. Mirrors `next(generator)`.
    fn next(&mut self) -> Option<Y> {
        match self.send(()) {
            Ok(Step::Yielded(value)) => Some(value),
            _ => None,
        }
    }
}

impl<S: 'static, Y: 'static, R: 'static> fmt::Debug for Generator<S, Y, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("greenlet", &self.greenlet).finish()
    }
}

impl<S: 'static, Y: 'static, R: 'static> fmt::Debug for Yielder<'_, S, Y, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Yielder").field("greenlet", self.me).finish()
    }
}
