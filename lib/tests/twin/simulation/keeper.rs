//! The controller's part of a workload: its plans, its declarations, and the status that it keeps outside of the server.

use std::time::{Duration, SystemTime};

use tenure::{
    Error, Kind, ObjectRef,
    control::{Backing, Capacity, Declaration, Epoch, Epochs, Kept, Plan, Raised, Withdrawal, plan},
};
use tokio::time::{Instant, sleep};

use super::{process::ms, world::World};
use crate::{Result, object};

/// State of the epochs before a declaration.
struct Before(Option<Raised>);

/// Keeps the semaphore `s`.
pub(super) struct Keeper {
    pub(super) object: ObjectRef,
    pub(super) permits: u64,
    pub(super) lease: Duration,
    started: Instant,
    version: u64,
    /// State that a status keeps.
    kept: Option<Kept>,
    /// The record of epochs, and what the process of the controller knows.
    record: Option<Epoch>,
    epochs: Epochs,
    in_force_since: Option<Instant>,
    adopts: bool,
}

impl Keeper {
    pub(super) fn new(permits: u64, lease: Duration) -> Result<Self> {
        Ok(Self {
            object: object(Kind::Semaphore, "s")?,
            permits,
            lease,
            started: Instant::now(),
            version: 0,
            kept: None,
            record: None,
            epochs: Epochs::default(),
            in_force_since: None,
            adopts: false,
        })
    }

    /// The spec changes.
    pub(super) fn change(&mut self) {
        self.version += 1;
    }

    /// The process of the controller dies, and another one takes over.
    pub(super) fn crash(&mut self) {
        self.epochs = Epochs::default();
        self.epochs.found(self.record);
        self.epochs.abandoned();
        self.in_force_since = None;
    }

    /// The status is gone.
    pub(super) fn forget(&mut self) {
        (self.kept, self.in_force_since) = (None, None);
    }

    pub(super) async fn withdraw(&mut self, world: &World, how: Withdrawal) -> Result {
        world.log(|| format!("it is withdrawn: {how:?}"));
        world.observer.control().withdraw(&self.object, how).await?;
        self.forget();
        Ok(())
    }

    /// Looks at it until it is declared as it should be; each declaration comes up to `slowness` after it was planned.
    pub(super) async fn declare(&mut self, world: &World, slowness: Duration) -> Result {
        while !self.turn(world, slowness).await? {}
        Ok(())
    }

    async fn turn(&mut self, world: &World, slowness: Duration) -> Result<bool> {
        let control = world.observer.control();
        let (clock, asked_at) = (self.clock(), Instant::now());
        let known = self.epochs.kept(&self.object, self.kept, clock);
        let seen = control
            .inspect(&self.object, 32, known.map_or(0, |kept| kept.floor))
            .await?;
        let spec = Declaration {
            lease: self.lease,
            // Longer than any run: it distinguishes the versions of the spec.
            max_hold: Some(Duration::from_secs(86_400 + self.version)),
            ..Declaration::new(Capacity::Permits(self.permits))
        };
        let Some(mut plan) = plan(known.as_ref(), &seen, &spec.digest(), self.lease, clock) else {
            let (Some(kept), Some(snapshot)) = (&mut self.kept, seen.snapshot) else {
                return Err("nothing is planned, and nothing is there".into());
            };
            kept.newest = snapshot
                .holders
                .iter()
                .map(|h| h.fence)
                .max()
                .unwrap_or(kept.newest);
            let lags = known.is_some_and(|known| kept.floor < known.floor);
            if let Some(floor) = kept.refreshed(snapshot.last_fence) {
                (kept.floor, kept.current_at) = (floor, Some(clock));
            }
            if lags {
                (kept.floor, kept.current_at) = (snapshot.last_fence, Some(clock));
                self.epochs.written(&self.object, kept.floor);
            }
            let status = [(self.object.clone(), Some(kept.floor))];
            if let Some(closed) = self.epochs.close(status, clock) {
                self.record = Some(closed);
                self.epochs.closed();
            }
            if std::mem::take(&mut self.adopts) {
                kept.longest_lease = kept.longest_lease.max(snapshot.longest_lease);
            }
            let since = *self.in_force_since.get_or_insert(asked_at);
            if since.elapsed() >= kept.longest_lease {
                kept.longest_lease = self.lease;
            }
            return Ok(true);
        };
        world.log(|| format!("planned: {plan:?}"));
        let before = known.and_then(|known| self.back(&mut plan, &known, seen.now_micros, clock));
        if known.is_none() && plan.beyond.is_some() {
            plan.floor = plan.floor.max(self.epochs.first_floor(clock));
        }
        if before.is_none() {
            self.kept = Some(Kept {
                floor: plan.floor,
                current_at: Some(plan.current_at),
                newest: self.kept.map_or(0, |kept| kept.newest),
                longest_lease: plan.longest_lease,
            });
        }
        (self.in_force_since, self.adopts) = (None, plan.adopts);
        sleep(slowness).await;
        let declaration = Declaration {
            floor: plan.floor,
            recovery: plan.declared_before.then_some(plan.longest_lease),
            ..spec
        };
        match control.declare_in(&seen.life, &self.object, &declaration).await {
            Err(Error::OtherLife { .. }) => {
                if let Some(Before(before)) = before {
                    self.epochs.undo(&self.object, before);
                }
                Ok(false)
            }
            Ok(_) | Err(Error::Unreachable { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Declares under an epoch, if one backs the floor. Returns what was known before.
    fn back(&mut self, plan: &mut Plan, known: &Kept, micros: u64, clock: SystemTime) -> Option<Before> {
        loop {
            let others = self.kept;
            match self.epochs.back(known, plan, micros, others, clock) {
                Backing::NewEpoch(epoch) => {
                    self.record = Some(epoch);
                    self.epochs.opened(epoch);
                }
                Backing::Epoch(floor) => {
                    plan.floor = floor;
                    let before = self.epochs.declares(&self.object, plan, floor, clock);
                    return Some(Before(before));
                }
                Backing::Status(_) | Backing::Wait => return None,
            }
        }
    }

    /// The controller's clock, in whole seconds: that of the server when the world began.
    fn clock(&self) -> SystemTime {
        let new_year_2025 = Duration::from_secs(1_735_689_600);
        SystemTime::UNIX_EPOCH + new_year_2025 + Duration::from_secs(self.started.elapsed().as_secs())
    }
}

/// Loop of the controller.
pub(super) async fn look_now_and_then(world: &World, keeper: &mut Keeper, within: Duration) -> Result {
    let end = Instant::now() + within;
    while Instant::now() < end {
        sleep(ms(250)).await;
        keeper.declare(world, Duration::ZERO).await?;
    }
    Ok(())
}
