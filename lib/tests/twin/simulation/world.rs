//! What all share: the twin and the weather between it and its clients.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use tenure::{
    Client, Memory,
    memory::{Fault, Message},
};
use tokio::time::Instant;

use super::witness::Witness;
use crate::{Result, client, lock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// All arrives, within milliseconds.
    Calm,
    /// Calls, replies and pushes are late, lost and cut; clients crash.
    Storm,
    /// A storm in which the server restarts, with its data and without.
    Flood,
}

pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) weather: Weather,
    /// A client that no weather touches.
    pub(super) observer: Client,
    witness: Mutex<Witness>,
    sky: Arc<Mutex<Sky>>,
    random: Mutex<Rng>,
}

/// Decides what becomes of what passes.
struct Sky {
    weather: Weather,
    random: Rng,
    silent: HashSet<String>,
    /// What usually arrives takes less than so many milliseconds.
    slowest: u64,
    /// The same of pushes.
    slowest_push: u64,
    /// The error reply to all calls.
    refusal: Option<&'static str>,
    /// How many calls have got it.
    refused: u64,
    passed: DefaultHasher,
    trace: Option<Instant>,
}

impl Sky {
    fn decide(&mut self, process: &str, message: Message<'_>) -> Fault {
        let fault = self.fault(process, message);
        let what = format!("{process} {message:?} {fault:?}");
        what.hash(&mut self.passed);
        if let Some(start) = self.trace {
            println!("{:>10.3} {what}", start.elapsed().as_secs_f64());
        }
        fault
    }

    fn fault(&mut self, process: &str, message: Message<'_>) -> Fault {
        if self.silent.contains(process) {
            return Fault::Drop;
        }
        let random = &mut self.random;
        let ms = Duration::from_millis;
        if process == "observer" {
            return Fault::Deliver;
        }
        if let (Message::Call { .. }, Some(reply)) = (message, self.refusal) {
            self.refused += 1;
            return Fault::Refuse(reply);
        }
        let slowest = match message {
            Message::Push { .. } => self.slowest_push,
            _ => self.slowest,
        };
        let usual = Fault::Delay(ms(random.u64(..slowest)));
        if self.weather == Weather::Calm {
            return usual;
        }
        match (message, random.u32(..1000)) {
            (Message::Push { .. }, 0..50) | (_, 0..3) => Fault::Drop,
            (_, 50..65) => Fault::Cut,
            (_, 65..90) => Fault::Delay(ms(random.u64(..2500))),
            _ => usual,
        }
    }
}

impl World {
    pub(super) async fn new(seed: u64, weather: Weather, trace: bool) -> Result<Arc<Self>> {
        let mut random = Rng::with_seed(seed);
        let memory = Memory::seeded(random.u64(..));
        let observer = client(&memory, "observer").await?;
        let sky = Arc::new(Mutex::new(Sky {
            weather,
            random: random.fork(),
            silent: HashSet::new(),
            slowest: 4,
            slowest_push: 4,
            refusal: None,
            refused: 0,
            passed: DefaultHasher::new(),
            trace: trace.then(Instant::now),
        }));
        let decides = sky.clone();
        memory.set_faults(move |process, message| lock(&decides).decide(process, message));
        Ok(Arc::new(Self {
            memory,
            weather,
            observer,
            witness: Mutex::default(),
            sky,
            random: Mutex::new(random),
        }))
    }

    /// A source of chance of its own, for one who acts.
    pub(super) fn chance(&self) -> Rng {
        lock(&self.random).fork()
    }

    /// Nothing passes to or from this process any more: it has crashed.
    pub(super) fn silence(&self, process: &str) {
        lock(&self.sky).silent.insert(process.to_owned());
        self.say(|| format!("{process} crashes"));
    }

    /// From now on, what usually arrives takes up to so many milliseconds.
    pub(super) fn slow_down(&self, slowest: u64) {
        let mut sky = lock(&self.sky);
        (sky.slowest, sky.slowest_push) = (slowest, slowest);
    }

    /// The same of pushes alone, and of what follows them.
    pub(super) fn delay_pushes(&self, slowest: u64) {
        lock(&self.sky).slowest_push = slowest;
    }

    /// From now on the server answers with this error reply, or with none. Returns how many calls have got the last one.
    pub(super) fn refuse(&self, reply: Option<&'static str>) -> u64 {
        let refused = {
            let mut sky = lock(&self.sky);
            sky.refusal = reply;
            std::mem::take(&mut sky.refused)
        };
        self.say(|| format!("the server refuses: {reply:?}"));
        refused
    }

    pub(super) fn calm_down(&self) {
        {
            let mut sky = lock(&self.sky);
            (sky.weather, sky.slowest, sky.slowest_push) = (Weather::Calm, 4, 4);
        }
        self.say(|| "all is calm".to_owned());
    }

    pub(super) fn say(&self, what: impl Fn() -> String) {
        if let Some(start) = lock(&self.sky).trace {
            println!("{:>10.3} {}", start.elapsed().as_secs_f64(), what());
        }
    }

    pub(super) fn violation(&self, what: impl Into<String>) {
        self.witness(|witness| witness.violations.push(what.into()));
    }

    /// Tells the witness something, or asks it.
    pub(super) fn witness<T>(&self, tell: impl FnOnce(&mut Witness) -> T) -> T {
        let mut witness = lock(&self.witness);
        let known = witness.violations.len();
        let answer = tell(&mut witness);
        for what in &witness.violations[known..] {
            self.say(|| format!("VIOLATION: {what}"));
        }
        answer
    }

    pub(super) fn verdict(&self) -> Result<u64> {
        let witness = lock(&self.witness);
        match witness.violations.first() {
            Some(first) => Err(format!("{first} (the first of {})", witness.violations.len()).into()),
            None => Ok(lock(&self.sky).passed.finish()),
        }
    }
}
