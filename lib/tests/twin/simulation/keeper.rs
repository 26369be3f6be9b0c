//! The controller's part of a workload: its plans, its declarations, and the status that it keeps outside of the server.

use std::time::{Duration, SystemTime};

use tenure::{
    Error, Kind, ObjectRef,
    control::{Capacity, Declaration, Kept, Withdrawal, plan},
};
use tokio::time::{Instant, sleep};

use super::{process::ms, world::World};
use crate::{Result, object};

/// Keeps the semaphore `s`.
pub(super) struct Keeper {
    pub(super) object: ObjectRef,
    pub(super) permits: u64,
    pub(super) lease: Duration,
    started: Instant,
    version: u64,
    /// State that a status keeps.
    kept: Option<Kept>,
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
            in_force_since: None,
            adopts: false,
        })
    }

    /// The spec changes.
    pub(super) fn change(&mut self) {
        self.version += 1;
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
        let seen = control
            .inspect(&self.object, 32, self.kept.map_or(0, |kept| kept.floor))
            .await?;
        let spec = Declaration {
            lease: self.lease,
            // Longer than any run: it distinguishes the versions of the spec.
            max_hold: Some(Duration::from_secs(86_400 + self.version)),
            ..Declaration::new(Capacity::Permits(self.permits))
        };
        let Some(plan) = plan(self.kept.as_ref(), &seen, &spec.digest(), self.lease, clock) else {
            let (Some(kept), Some(snapshot)) = (&mut self.kept, seen.snapshot) else {
                return Err("nothing is planned, and nothing is there".into());
            };
            kept.newest = snapshot
                .holders
                .iter()
                .map(|h| h.fence)
                .max()
                .unwrap_or(kept.newest);
            if let Some(floor) = kept.refreshed(snapshot.last_fence) {
                (kept.floor, kept.current_at) = (floor, Some(clock));
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
        self.kept = Some(Kept {
            floor: plan.floor,
            current_at: Some(plan.current_at),
            newest: self.kept.map_or(0, |kept| kept.newest),
            longest_lease: plan.longest_lease,
        });
        (self.in_force_since, self.adopts) = (None, plan.adopts);
        sleep(slowness).await;
        let declaration = Declaration {
            floor: plan.floor,
            recovery: plan.declared_before.then_some(plan.longest_lease),
            ..spec
        };
        match control.declare_in(&seen.life, &self.object, &declaration).await {
            Ok(_) | Err(Error::OtherLife { .. } | Error::Unreachable { .. }) => Ok(false),
            Err(error) => Err(error.into()),
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
