//! The scripts by themselves, without a client: call by call, with the clock in hand.

mod adoption;
mod budget;
mod conformance;
mod damage;
mod lane_cases;
mod lanes;
mod versions;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use redis::Value;

use crate::memory::{
    commands::Database,
    scripts::Interpreter,
    store::{Hash, SortedSet, Store},
};
use crate::{
    Kind, ObjectRef,
    protocol::script::{self, PROTOCOL, Script},
    transport::lock,
};

type Keys = Vec<String>;

struct Side {
    database: Arc<Mutex<Database>>,
    interpreter: Interpreter,
}

impl Side {
    fn new() -> Self {
        let database = Arc::new(Mutex::new(Database {
            work: 0,
            most_work: 0,
            store: Store::default(),
            now_us: 0,
            keys: HashSet::new(),
            listeners: HashMap::new(),
            published: Vec::new(),
            random: Rng::with_seed(1),
        }));
        let interpreter = Interpreter::new(database.clone()).unwrap();
        Self {
            database,
            interpreter,
        }
    }

    fn run(&mut self, script: &'static Script, call: &Call, now_us: u64) -> (Value, Vec<(String, String)>) {
        self.interpreter.run(script, &call.keys, &call.args, now_us)
    }

    /// All keys, with what every other script would find in them. That leaves no trace. Both sides may end keys at different
    /// times, after all that is in them.
    fn keys(&mut self, objects: &[Keys], now_us: u64) -> Vec<String> {
        let before = lock(&self.database).store.clone();
        for keys in objects {
            self.check_ends(keys);
            let look = Call::new(&script::OBSERVE, keys, "run", &["0", "0"]);
            self.run(look.script, &look, now_us);
        }
        let mut database = lock(&self.database);
        let seen = std::mem::replace(&mut database.store, before);
        seen.dump()
    }

    /// Checks that nothing of an object ends before the time that its state has for that, and that the keys of an undeclared one end
    /// after all that is in them, and removes their ends.
    fn check_ends(&self, keys: &Keys) {
        let mut database = lock(&self.database);
        let store = &mut database.store;
        let obj = store.read::<Hash>(keys[0].as_bytes()).ok().flatten();
        let lasting = obj.is_none_or(|obj| {
            [&b"drained"[..], b"retained"]
                .iter()
                .any(|field| obj.contains_key(*field))
        });
        if lasting {
            return;
        }
        let declared = obj.is_some_and(|obj| obj.contains_key(&b"declared"[..]));
        let expiry = store.read::<SortedSet>(keys[3].as_bytes()).ok().flatten();
        let latest = expiry.and_then(|set| set.iter().last().map(|(_, ends)| ends));
        let first = expiry.and_then(|set| set.iter().next().map(|(_, ends)| ends));
        let state = obj.and_then(|obj| obj.get(&b"state"[..]));
        if let (Some(first), Some(state)) = (first, state) {
            let state = String::from_utf8_lossy(state);
            let next: f64 = state.split(' ').nth(6).unwrap().parse().unwrap();
            assert!(
                next <= first,
                "{}: {state}, but the first end is {first}",
                keys[0]
            );
        }
        for key in keys {
            let is_kept = store.has(key.as_bytes()) && store.end_of(key.as_bytes()).is_none();
            assert!(declared || !is_kept, "{key} never ends");
            if let (Some(ends), Some(latest)) = (store.end_of(key.as_bytes()), latest) {
                #[allow(clippy::cast_precision_loss)] // milliseconds of our time
                let ends = ends as f64;
                assert!(ends >= latest, "{key} ends before a lease in it");
            }
            store.set_end(key.as_bytes(), None);
        }
    }

    /// Returns the number of objects that lie in one string.
    fn alone(&self) -> usize {
        let dump = lock(&self.database).store.dump();
        dump.iter().filter(|line| line.contains("Text(")).count()
    }
}

struct Call {
    script: &'static Script,
    keys: Keys,
    args: Vec<String>,
}

impl Call {
    /// A call of this protocol's version.
    fn new(script: &'static Script, keys: &[String], run: &str, args: &[&str]) -> Self {
        Self::of_version(script, keys, (run, PROTOCOL), args)
    }

    fn of_version(
        script: &'static Script,
        keys: &[String],
        (run, version): (&str, u32),
        args: &[&str],
    ) -> Self {
        let version = format!("{version} {run}");
        let all = [&[&*version], args].concat();
        Self {
            script,
            keys: keys.to_vec(),
            args: all.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Splits a reply into texts: a list into its values, and a single text at its spaces.
fn texts(reply: &Value) -> Vec<String> {
    fn text(value: &Value) -> Vec<String> {
        match value {
            Value::Array(values) => values.iter().flat_map(text).collect(),
            Value::Int(number) => vec![number.to_string()],
            Value::BulkString(text) => vec![String::from_utf8_lossy(text).into_owned()],
            other => vec![format!("{other:?}")],
        }
    }
    match reply {
        Value::BulkString(words) => String::from_utf8_lossy(words)
            .split(' ')
            .map(str::to_owned)
            .collect(),
        other => text(other),
    }
}

/// The keys of an object.
fn keys(kind: Kind, name: &str) -> Keys {
    let object = ObjectRef::new(kind, "a", name).unwrap();
    object.keys("tenure").iter().map(ToString::to_string).collect()
}

/// A lock, and a semaphore that its first user makes.
fn objects() -> [Keys; 2] {
    [keys(Kind::Lock, "x"), keys(Kind::Semaphore, "x")]
}

const START_US: u64 = 1_763_717_000_000_000;

/// One object, called at times that the test chooses.
struct Trial {
    side: Side,
    keys: Keys,
    run: &'static str,
    now_us: u64,
}

impl Trial {
    fn on(keys: Keys) -> Self {
        Self {
            side: Side::new(),
            keys,
            run: "run",
            now_us: START_US,
        }
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now_us += ms * 1000;
        self
    }

    /// The reply, each value of it as text.
    fn call(&mut self, script: &'static Script, args: &[&str]) -> Vec<String> {
        self.reply_and_pushes(script, args).0
    }

    /// The messages that a call publishes.
    fn pushes(&mut self, script: &'static Script, args: &[&str]) -> Vec<String> {
        self.reply_and_pushes(script, args).1
    }

    fn reply_and_pushes(&mut self, script: &'static Script, args: &[&str]) -> (Vec<String>, Vec<String>) {
        let call = Call::new(script, &self.keys, self.run, args);
        let (reply, published) = self.side.run(script, &call, self.now_us);
        let messages = published.into_iter().map(|(_, message)| message);
        (texts(&reply), messages.collect())
    }
}
