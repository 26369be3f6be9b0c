//! The calls of a scenario, written with the types of `lib/src/protocol/calls`, so that a change of a script's
//! arguments changes them, too.

use crate::memory::tests::conformance::vectors::{Clock, Step};
use crate::protocol::{
    calls::{Acquire, Call, Declare, Ending, Object, Observe, Release, Renew},
    object::{Kind, ObjectRef},
    script::{PROTOCOL, Script},
};

/// The namespace of a run, until it is a placeholder.
const NAMESPACE: &str = "namespace-of-the-run";
/// Fencing tokens of a run, until they are placeholders.
const FENCES: u64 = 9_000_000_000_000_000;

pub(super) const HOLDER: &str = r#"{"process":"worker/1"}"#;

pub(super) type Topics = Vec<(&'static str, &'static str, Vec<Plan>)>;

pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) shows: Vec<&'static str>,
    pub(super) clock: Clock,
    pub(super) steps: Vec<Step>,
    wait_ms: u64,
    run: &'static str,
}

/// The nth fencing token that was granted of the objects that their first users made.
pub(super) fn fence(nth: u64) -> u64 {
    FENCES + nth
}

pub(super) fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, NAMESPACE, name).unwrap()
}

pub(super) fn lock() -> ObjectRef {
    object(Kind::Lock, "x")
}

pub(super) fn semaphore() -> ObjectRef {
    object(Kind::Semaphore, "gpus")
}

pub(super) fn pool() -> ObjectRef {
    object(Kind::Pool, "seats")
}

/// A placeholder for each value that belongs to a run.
fn general(text: &str) -> String {
    let text = text.replace(NAMESPACE, "${NS}");
    (1..10).fold(text, |text, nth| {
        text.replace(&fence(nth).to_string(), &format!("${{fence-{nth}}}"))
    })
}

impl Plan {
    /// `shows`: anchors of sentences in docs/protocol.md, with spaces in between.
    pub(super) fn new(name: &'static str, shows: &'static str) -> Self {
        Self {
            name,
            shows: shows.split_whitespace().collect(),
            clock: Clock::Real,
            steps: Vec::new(),
            wait_ms: 0,
            run: "RUN",
        }
    }

    pub(super) fn in_virtual_time(mut self) -> Self {
        self.clock = Clock::Virtual;
        self
    }

    /// Lets time pass before the next step.
    pub(super) fn wait(mut self, ms: u64) -> Self {
        self.wait_ms = ms;
        self
    }

    /// From here on, the server has another run id: it was restarted, or another one is the master.
    pub(super) fn in_another_life(mut self) -> Self {
        self.run = "OTHER_RUN";
        self
    }

    pub(super) fn call<C: Call>(self, object: &ObjectRef, call: &C) -> Self {
        self.call_on(&[object], call)
    }

    pub(super) fn call_on<C: Call>(self, objects: &[&ObjectRef], call: &C) -> Self {
        let arguments: Vec<_> = call.arguments().iter().map(ToString::to_string).collect();
        let version = format!("{PROTOCOL} ${{{}}}", self.run);
        self.raw(C::script(), objects, &version, &arguments)
    }

    /// A call that no client of this version makes.
    pub(super) fn raw(
        mut self,
        script: &'static Script,
        objects: &[&ObjectRef],
        version: &str,
        arguments: &[String],
    ) -> Self {
        let args = std::iter::once(version.to_owned()).chain(arguments.iter().map(|arg| general(arg)));
        self.steps.push(Step {
            wait_ms: std::mem::take(&mut self.wait_ms),
            script: Some(script.name.to_owned()),
            keys: objects
                .iter()
                .map(|object| general(&object.keys("tenure")[0]))
                .collect(),
            args: args.collect(),
            ..Step::default()
        });
        self
    }

    /// The same, with all keys of an object.
    pub(super) fn raw_of_all_keys(
        self,
        script: &'static Script,
        object: &ObjectRef,
        version: &str,
        arguments: &[String],
    ) -> Self {
        let mut plan = self.raw(script, &[], version, arguments);
        let keys = object.keys("tenure");
        if let Some(step) = plan.steps.last_mut() {
            step.keys = keys.iter().map(|key| general(key)).collect();
        }
        plan
    }

    /// Changes keys of an object as no script does: `SET` of the first one, or `UNLINK` of all.
    pub(super) fn overwrite(mut self, object: &ObjectRef, text: &str) -> Self {
        let command = ["SET", &general(&object.keys("tenure")[0]), text].map(str::to_owned);
        self.steps.push(Step {
            command: command.to_vec(),
            ..Step::default()
        });
        self
    }

    pub(super) fn lose(mut self, object: &ObjectRef) -> Self {
        let keys = object.keys("tenure");
        let keys = keys.iter().map(|key| general(key));
        self.steps.push(Step {
            command: std::iter::once("UNLINK".to_owned()).chain(keys).collect(),
            ..Step::default()
        });
        self
    }

    pub(super) fn release(self, object: &ObjectRef, token: &str) -> Self {
        let call = Release {
            how: Ending::Owner,
            tokens: vec![token],
        };
        self.call(object, &call)
    }

    pub(super) fn renew(self, object: &ObjectRef, token: &str) -> Self {
        self.renew_all(&[(object, 0, &[token])])
    }

    /// Objects, with the newest fencing token that was seen of each, and tokens.
    pub(super) fn renew_all(self, objects: &[(&ObjectRef, u64, &[&str])]) -> Self {
        let of = |(_, seen, tokens): &(_, u64, &[_])| Object {
            seen: *seen,
            tokens: tokens.to_vec(),
        };
        let call = Renew {
            objects: objects.iter().map(of).collect(),
        };
        let keys: Vec<_> = objects.iter().map(|(object, ..)| *object).collect();
        self.call_on(&keys, &call)
    }

    pub(super) fn observe(self, object: &ObjectRef) -> Self {
        let call = Observe {
            count: 10,
            watch: false,
            skip: 0,
        };
        self.call(object, &call)
    }
}

/// A request of client `a` for one permit for 30 s, of an object that its first user makes, which does not wait.
pub(super) fn acquire(token: &str) -> Acquire<'_> {
    Acquire {
        token,
        permits: 1,
        lease_ms: 30_000,
        max_hold_ms: 0,
        first_limit: 1,
        entry_ms: 0,
        client: "a",
        holder: HOLDER,
        grace_ms: 0,
        priority: 0,
        selector: "-",
        takeover: None,
        seen: 0,
    }
}

/// The same, of client `b`, which waits.
pub(super) fn queue(token: &str) -> Acquire<'_> {
    Acquire {
        entry_ms: 10_000,
        client: "b",
        ..acquire(token)
    }
}

/// A request of a declared object, for as long as declared.
pub(super) fn declared(token: &str) -> Acquire<'_> {
    Acquire {
        lease_ms: 0,
        first_limit: 0,
        ..acquire(token)
    }
}

/// A first declaration with a floor of 1000 and a lease of 30 s.
pub(super) fn declaration(limit: u64) -> Declare<'static> {
    Declare {
        digest: "digest-1".to_owned(),
        floor: 1000,
        recovery_ms: 0,
        lease_ms: 30_000,
        max_hold_ms: 0,
        limit,
        life: None,
        pool: None,
    }
}
