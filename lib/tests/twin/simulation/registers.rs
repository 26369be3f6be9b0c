//! A register that several write and read at once: what each of them sees is what could be seen if all had been done one
//! after another, in an order in which what had ended before something else began stands before it. An operation without an
//! answer may have taken effect, once, at any time since.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use tenure::{Compare, Error, Outcome, Register, RegisterValue};
use tokio::time::sleep;

use super::{
    mixed_primitives,
    process::{self, Worker, ms},
    world::{FaultProfile, World},
};
use crate::{Result, lock};

const ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Test {
    Missing,
    Gt,
    Lt,
    Ge,
    Le,
    Eq,
    Ne,
}

/// A test, what it compares with, and whether it also holds where there is nothing.
#[derive(Debug, Clone, Copy)]
struct Condition(Test, i64, bool);

#[derive(Debug, Clone, Copy)]
enum Operation {
    Get,
    Set(i64),
    Delete,
    SetIf(Condition, i64),
    DeleteIf(Condition),
}

/// Result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    Kept(Option<i64>),
}

#[derive(Debug)]
struct Event {
    what: Operation,
    began: usize,
    /// Absent: without an answer.
    ended: Option<(usize, Answer)>,
}

/// History of operations, and the number of starts and ends.
#[derive(Default)]
struct History {
    events: Vec<Event>,
    moments: usize,
}

impl History {
    fn moment(&mut self) -> usize {
        self.moments += 1;
        self.moments
    }

    fn began(&mut self, what: Operation) -> usize {
        let began = self.moment();
        self.events.push(Event {
            what,
            began,
            ended: None,
        });
        self.events.len() - 1
    }

    fn ended(&mut self, event: usize, answer: Answer) {
        let moment = self.moment();
        self.events[event].ended = Some((moment, answer));
    }
}

impl Condition {
    fn any(random: &mut Rng) -> Self {
        use Test::{Eq, Ge, Gt, Le, Lt, Missing, Ne};
        let test = [Missing, Gt, Lt, Ge, Le, Eq, Ne][random.usize(..7)];
        Self(test, random.i64(..4), random.bool())
    }

    fn holds(self, stored: Option<i64>) -> bool {
        let Self(test, argument, or_missing) = self;
        match (stored, test) {
            (None, Test::Missing) => true,
            (None, _) => or_missing,
            (Some(_), Test::Missing) => false,
            (Some(stored), Test::Gt) => argument > stored,
            (Some(stored), Test::Lt) => argument < stored,
            (Some(stored), Test::Ge) => argument >= stored,
            (Some(stored), Test::Le) => argument <= stored,
            (Some(stored), Test::Eq) => argument == stored,
            (Some(stored), Test::Ne) => argument != stored,
        }
    }

    fn compare(self) -> Compare {
        let Self(test, argument, or_missing) = self;
        let compare = match test {
            Test::Missing => Compare::missing(),
            Test::Gt => Compare::gt(argument),
            Test::Lt => Compare::lt(argument),
            Test::Ge => Compare::ge(argument),
            Test::Le => Compare::le(argument),
            Test::Eq => Compare::eq(argument),
            Test::Ne => Compare::ne(argument),
        };
        if or_missing { compare.or_missing() } else { compare }
    }
}

impl Operation {
    fn any(random: &mut Rng) -> Self {
        match random.u8(..8) {
            0 | 1 => Self::Get,
            2 => Self::Set(random.i64(..4)),
            3 => Self::Delete,
            4 => Self::DeleteIf(Condition::any(random)),
            _ => Self::SetIf(Condition::any(random), random.i64(..4)),
        }
    }

    /// The model.
    fn apply(self, stored: Option<i64>) -> (Option<i64>, Answer) {
        match self {
            Self::Set(new) => (Some(new), Answer::Done),
            Self::SetIf(condition, new) if condition.holds(stored) => (Some(new), Answer::Done),
            Self::Delete if stored.is_some() => (None, Answer::Done),
            Self::DeleteIf(condition) if stored.is_some() && condition.holds(stored) => (None, Answer::Done),
            _ => (stored, Answer::Kept(stored)),
        }
    }

    async fn carry_out(self, register: &Register) -> std::result::Result<Answer, Error> {
        let outcome = match self {
            Self::Get => Outcome::Kept {
                stored: register.get().await?,
            },
            Self::Set(new) => {
                register.set(new).await?;
                Outcome::Applied
            }
            Self::Delete if register.delete().await? => Outcome::Applied,
            Self::Delete => Outcome::Kept { stored: None },
            Self::SetIf(condition, new) => register.set_if(condition.compare(), new).await?,
            Self::DeleteIf(condition) => register.delete_if(condition.compare()).await?,
        };
        Ok(match outcome {
            Outcome::Applied => Answer::Done,
            Outcome::Kept { stored } => Answer::Kept(stored.and_then(|stored| match stored {
                RegisterValue::Int(n) => Some(n),
                _ => None,
            })),
        })
    }
}

pub(super) async fn run(world: &Arc<World>) -> Result {
    let history = Arc::new(Mutex::new(History::default()));
    let shared = history.clone();
    process::run(world, 3, 2, move |worker| work(worker, shared.clone())).await?;
    let history = std::mem::take(&mut *lock(&history));
    if !explained(&history.events, 0, None, &mut HashSet::new()) {
        world.violation(format!("no order explains {:#?}", history.events));
    }
    // An operation without an answer may still be in flight.
    sleep(ms(5000)).await;
    world.observer.register("v")?.delete().await?;
    mixed_primitives::nothing_is_left(world).await;
    Ok(())
}

async fn work(mut worker: Worker, history: Arc<Mutex<History>>) -> Result {
    let register = worker.client.register("v")?;
    for _ in 0..ROUNDS {
        sleep(ms(worker.random.u64(..5))).await;
        let what = Operation::any(&mut worker.random);
        let event = lock(&history).began(what);
        let answer = what.carry_out(&register).await;
        worker.world.log(|| format!("{event}: {what:?}: {answer:?}"));
        match answer {
            Ok(answer) => lock(&history).ended(event, answer),
            Err(Error::Unreachable { .. }) if worker.world.profile != FaultProfile::None => {}
            Err(error) => worker.world.violation(format!("{what:?}: {error}")),
        }
    }
    Ok(())
}

/// True if there is an order for the operations that are not in `placed`, beginning with this value.
fn explained(
    events: &[Event],
    placed: u64,
    stored: Option<i64>,
    tried: &mut HashSet<(u64, Option<i64>)>,
) -> bool {
    let left = || (0..events.len()).filter(|n| placed & (1 << n) == 0);
    let Some(first_end) = left().filter_map(|n| events[n].ended).map(|(end, _)| end).min() else {
        return true; // what had no answer may be left out
    };
    if !tried.insert((placed, stored)) {
        return false;
    }
    left().filter(|n| events[*n].began < first_end).any(|n| {
        let (after, answer) = events[n].what.apply(stored);
        let fits = events[n].ended.is_none_or(|(_, seen)| seen == answer);
        fits && explained(events, placed | 1 << n, after, tried)
    })
}

#[test]
fn a_history_that_no_order_explains_is_found_out() {
    let event = |what, began, ended, answer| Event {
        what,
        began,
        ended: Some((ended, answer)),
    };
    let get = |began, ended, seen| event(Operation::Get, began, ended, Answer::Kept(seen));
    let set = event(Operation::Set(1), 1, 4, Answer::Done);
    let explained = |events: &[Event]| explained(events, 0, None, &mut HashSet::new());
    assert!(explained(&[set, get(2, 3, None), get(5, 6, Some(1))]));
    let set = event(Operation::Set(1), 1, 6, Answer::Done);
    assert!(!explained(&[set, get(2, 3, Some(1)), get(4, 5, None)]));
}
