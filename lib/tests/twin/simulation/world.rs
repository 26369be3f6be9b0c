//! The state that all processes of a run share: the twin and the faults between it and its clients.

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

use super::invariants::InvariantChecker;
use crate::{Result, client, lock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultProfile {
    /// No faults: all messages arrive within milliseconds.
    None,
    /// Calls, replies and pushes are late, lost and cut; clients crash.
    Network,
    /// Network faults, and a server that restarts, with its data and without.
    DataLoss,
}

pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) profile: FaultProfile,
    /// A client without faults.
    pub(super) observer: Client,
    invariants: Mutex<InvariantChecker>,
    injector: Arc<Mutex<FaultInjector>>,
    random: Mutex<Rng>,
}

/// Chooses the fault of each message.
struct FaultInjector {
    profile: FaultProfile,
    random: Rng,
    silent: HashSet<String>,
    /// Largest usual delay of a message in milliseconds.
    slowest: u64,
    /// The same of pushes.
    slowest_push: u64,
    /// The error reply to all calls.
    refusal: Option<&'static str>,
    /// Number of calls that received it.
    refused: u64,
    passed: DefaultHasher,
    trace: Option<Instant>,
}

impl FaultInjector {
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
        if self.profile == FaultProfile::None {
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
    pub(super) async fn new(seed: u64, profile: FaultProfile, trace: bool) -> Result<Arc<Self>> {
        let mut random = Rng::with_seed(seed);
        let memory = Memory::seeded(random.u64(..));
        let observer = client(&memory, "observer").await?;
        let injector = Arc::new(Mutex::new(FaultInjector {
            profile,
            random: random.fork(),
            silent: HashSet::new(),
            slowest: 4,
            slowest_push: 4,
            refusal: None,
            refused: 0,
            passed: DefaultHasher::new(),
            trace: trace.then(Instant::now),
        }));
        let decides = injector.clone();
        memory.set_faults(move |process, message| lock(&decides).decide(process, message));
        Ok(Arc::new(Self {
            memory,
            profile,
            observer,
            invariants: Mutex::default(),
            injector,
            random: Mutex::new(random),
        }))
    }

    /// A source of chance of its own, for one who acts.
    pub(super) fn random(&self) -> Rng {
        lock(&self.random).fork()
    }

    /// Nothing passes to or from this process any more: it has crashed.
    pub(super) fn silence(&self, process: &str) {
        lock(&self.injector).silent.insert(process.to_owned());
        self.log(|| format!("{process} crashes"));
    }

    /// Sets the largest usual delay of a message in milliseconds.
    pub(super) fn slow_down(&self, slowest: u64) {
        let mut injector = lock(&self.injector);
        (injector.slowest, injector.slowest_push) = (slowest, slowest);
    }

    /// The same of pushes alone, and of what follows them.
    pub(super) fn delay_pushes(&self, slowest: u64) {
        lock(&self.injector).slowest_push = slowest;
    }

    /// Sets or clears the error reply to all calls. Returns the number of calls that received the last one.
    pub(super) fn refuse(&self, reply: Option<&'static str>) -> u64 {
        let refused = {
            let mut injector = lock(&self.injector);
            injector.refusal = reply;
            std::mem::take(&mut injector.refused)
        };
        self.log(|| format!("the server refuses: {reply:?}"));
        refused
    }

    pub(super) fn stop_faults(&self) {
        {
            let mut injector = lock(&self.injector);
            (injector.profile, injector.slowest, injector.slowest_push) = (FaultProfile::None, 4, 4);
        }
        self.log(|| "the faults end".to_owned());
    }

    pub(super) fn log(&self, what: impl Fn() -> String) {
        if let Some(start) = lock(&self.injector).trace {
            println!("{:>10.3} {}", start.elapsed().as_secs_f64(), what());
        }
    }

    pub(super) fn violation(&self, what: impl Into<String>) {
        self.check(|invariants| invariants.violations.push(what.into()));
    }

    /// Updates or reads the invariant checker.
    pub(super) fn check<T>(&self, with: impl FnOnce(&mut InvariantChecker) -> T) -> T {
        let mut invariants = lock(&self.invariants);
        let known = invariants.violations.len();
        let answer = with(&mut invariants);
        for what in &invariants.violations[known..] {
            self.log(|| format!("VIOLATION: {what}"));
        }
        answer
    }

    pub(super) fn verdict(&self) -> Result<u64> {
        let invariants = lock(&self.invariants);
        match invariants.violations.first() {
            Some(first) => Err(format!("{first} (the first of {})", invariants.violations.len()).into()),
            None => Ok(lock(&self.injector).passed.finish()),
        }
    }
}
