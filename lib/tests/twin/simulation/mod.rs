//! Seeded worlds in virtual time: clients acquire, try, give up, drop, release and crash, while what passes between them
//! and the twin is delayed, lost and cut, and the server loses its data. What must always hold is checked all along.
//!
//! | module | what is in it |
//! |---|---|
//! | [`world`] | what all share: the twin, its weather, and the violations |
//! | [`witness`] | what must hold, checked against what holders believe and what the server says |
//! | [`process`] | clients that live, crash, and live again |
//! | [`adoptions`] | leases that are handed from one process to another |
//! | [`people`] | a scene: what clients and the controller do with locks, semaphores, pools and read-write locks |
//! | [`buffer`] | a scene: conditions |
//! | [`many`] | a scene: several locks at once, and locks within themselves |
//! | [`reentrant_owners`] | a reentrant lock whose owners have several tasks |
//! | [`registers`] | a scene: registers |
//! | [`refusals`] | a scene: a server that answers with an error reply for a while |
//! | [`resizes`] | a scene: a declared object that changes, and a clock that is set back |
//! | [`members`] | a scene: a pool that programs keep, and change |
//! | [`priorities`] | a scene: requests that stand before others |
//! | [`keeper`] | what the controller plans, declares and keeps, in the next four |
//! | [`failback`] | a scene: two servers' data, there and back |
//! | [`delete_and_apply`] | a scene: a declared object that is made again and again |
//! | [`mixed_declared_and_first_use`] | a scene: what is declared, and made by first users after a loss |
//! | [`long_first_leases`] | a scene: long leases from before a declaration, and a loss |
//! | [`graces`] | a scene: leases that run out, and their grace |
//! | [`short_leases`] | a scene: leases that are as short as a round trip |
//! | [`selectors`] | a scene: requests that wait for certain resources of a pool |
//! | [`reclaims`] | a scene: leases and places that are taken back, for any reason that somebody may write |
//! | [`damaged_values`] | a scene: keys and entries that somebody overwrites |
//! | [`shrinking_limits`] | a scene: objects that only become smaller under requests that wait |
//! | [`clock_jumps`] | a scene: a server's clock that jumps ahead, and late pushes |
//! | [`suspends`] | a scene: clients whose machine is suspended while the server's clock goes on |
//! | [`mass_expiry`] | a scene: many leases that run out together, with many waiting |
//! | [`dead_condition_waiters`] | a scene: a condition for which most who wait have crashed |
//! | [`expiring_holder`] | a scene: a holder that crashes while clients wait |
//! | [`large_requests`] | a scene: thousands of resources at once |
//! | [`takeovers`] | a scene: a lock that is taken from its holder |
//!
//! `TENURE_SIMULATION_SEED=7` runs that one alone and prints what happens; `TENURE_SIMULATION_SEEDS=10000` runs as many.

mod adoptions;
mod buffer;
mod clock_jumps;
mod damaged_values;
mod dead_condition_waiters;
mod delete_and_apply;
mod expiring_holder;
mod failback;
mod graces;
mod keeper;
mod large_requests;
mod long_first_leases;
mod many;
mod mass_expiry;
mod members;
mod mixed_declared_and_first_use;
mod people;
mod priorities;
mod process;
mod reclaims;
mod reentrant_owners;
mod refusals;
mod registers;
mod resizes;
mod selectors;
mod short_leases;
mod shrinking_limits;
mod suspends;
mod takeovers;
mod witness;
mod world;

use std::{sync::Arc, time::Duration};

use self::world::{Weather, World};
use super::Result;

/// What happens in a world.
#[derive(Debug, Clone, Copy)]
enum Scene {
    People,
    Adoptions,
    Failback,
    DeleteAndApply,
    MixedDeclaredAndFirstUse,
    LongFirstLeases,
    Buffer,
    Many,
    ReentrantOwners,
    Registers,
    Refusals,
    Resizes,
    Members,
    Priorities,
    Graces,
    Takeovers,
    ShortLeases,
    Reclaims,
    Selectors,
    DamagedValues,
    ShrinkingLimits,
    Suspends,
    ClockJumps,
    MassExpiry,
    DeadConditionWaiters,
    LargeRequests,
    ExpiringHolder,
}

impl Scene {
    async fn play(self, world: &Arc<World>) -> Result {
        match self {
            Self::People => people::live(world).await,
            Self::Adoptions => adoptions::live(world).await,
            Self::Failback => failback::live(world).await,
            Self::DeleteAndApply => delete_and_apply::live(world).await,
            Self::MixedDeclaredAndFirstUse => mixed_declared_and_first_use::live(world).await,
            Self::LongFirstLeases => long_first_leases::live(world).await,
            Self::Buffer => buffer::live(world).await,
            Self::ReentrantOwners => reentrant_owners::live(world).await,
            Self::Many => many::live(world).await,
            Self::Registers => registers::live(world).await,
            Self::Refusals => refusals::live(world).await,
            Self::Resizes => resizes::live(world).await,
            Self::Members => members::live(world).await,
            Self::Priorities => priorities::live(world).await,
            Self::Graces => graces::live(world).await,
            Self::Takeovers => takeovers::live(world).await,
            Self::ShortLeases => short_leases::live(world).await,
            Self::Selectors => selectors::live(world).await,
            Self::Reclaims => reclaims::live(world).await,
            Self::DamagedValues => damaged_values::live(world).await,
            Self::ShrinkingLimits => shrinking_limits::live(world).await,
            Self::Suspends => suspends::live(world).await,
            Self::ClockJumps => clock_jumps::live(world).await,
            Self::MassExpiry => mass_expiry::live(world).await,
            Self::DeadConditionWaiters => dead_condition_waiters::live(world).await,
            Self::LargeRequests => large_requests::live(world).await,
            Self::ExpiringHolder => expiring_holder::live(world).await,
        }
    }
}

/// That much work of one call takes a server about a millisecond. What asks for thousands of resources does more.
const MOST_WORK: u64 = 900;

/// What passed, as a number: the same seed has to give the same one.
async fn live(seed: u64, scene: Scene, weather: Weather, trace: bool) -> Result<u64> {
    let world = World::new(seed, weather, trace).await?;
    // Nobody waits for ever: a day is far more than all need together.
    match tokio::time::timeout(Duration::from_secs(86_400), scene.play(&world)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => world.violation(format!("it came to a bad end: {error}")),
        Err(_) => world.violation("somebody hangs"),
    }
    let most = world.memory.most_work();
    if most > MOST_WORK && !matches!(scene, Scene::LargeRequests) {
        world.violation(format!("a call has done {most} units of work"));
    }
    world.verdict()
}

fn run(seed: u64, scene: Scene, weather: Weather, trace: bool) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let outcome = runtime.block_on(live(seed, scene, weather, trace));
    outcome
        .map_err(|error| format!("{scene:?} in {weather:?}, TENURE_SIMULATION_SEED={seed}: {error}").into())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn worlds(scene: Scene, weather: Weather) -> Result {
    if let Some(seed) = number("TENURE_SIMULATION_SEED") {
        return run(seed, scene, weather, true).map(drop);
    }
    let seeds = number("TENURE_SIMULATION_SEEDS").unwrap_or(15);
    (0..seeds).try_for_each(|seed| run(seed, scene, weather, false).map(drop))
}

#[test]
fn in_calm_weather_no_lease_is_lost() -> Result {
    worlds(Scene::People, Weather::Calm)
}

#[test]
fn in_a_storm_nobody_holds_too_much_and_nothing_is_left() -> Result {
    worlds(Scene::People, Weather::Storm)
}

#[test]
fn while_the_server_loses_its_data_declared_objects_stay_exclusive() -> Result {
    worlds(Scene::People, Weather::Flood)
}

#[test]
fn in_calm_weather_of_all_who_adopt_a_lease_one_gets_it() -> Result {
    worlds(Scene::Adoptions, Weather::Calm)
}

#[test]
fn in_a_storm_of_all_who_adopt_a_lease_one_gets_it() -> Result {
    worlds(Scene::Adoptions, Weather::Storm)
}

#[test]
fn while_the_server_restarts_of_all_who_adopt_a_lease_one_gets_it() -> Result {
    worlds(Scene::Adoptions, Weather::Flood)
}

#[test]
fn in_calm_weather_everybody_who_is_notified_wakes_up_and_nobody_else() -> Result {
    worlds(Scene::Buffer, Weather::Calm)
}

#[test]
fn in_a_storm_no_wake_up_is_lost() -> Result {
    worlds(Scene::Buffer, Weather::Storm)
}

#[test]
fn in_calm_weather_many_locks_are_taken_at_once_and_within_one_another() -> Result {
    worlds(Scene::Many, Weather::Calm)
}

#[test]
fn in_a_storm_nobody_waits_in_a_circle() -> Result {
    worlds(Scene::Many, Weather::Storm)
}

#[test]
fn in_calm_weather_who_is_in_can_always_come_in_again() -> Result {
    worlds(Scene::ReentrantOwners, Weather::Calm)
}

#[test]
fn in_a_storm_who_is_in_can_always_come_in_again() -> Result {
    worlds(Scene::ReentrantOwners, Weather::Storm)
}

#[test]
fn in_calm_weather_a_register_is_as_if_used_by_one() -> Result {
    worlds(Scene::Registers, Weather::Calm)
}

#[test]
fn in_a_storm_a_register_is_as_if_used_by_one() -> Result {
    worlds(Scene::Registers, Weather::Storm)
}

#[test]
fn while_the_server_refuses_few_calls_are_sent_and_releases_are_tried_on() -> Result {
    worlds(Scene::Refusals, Weather::Calm)
}

#[test]
fn in_calm_weather_permits_become_fewer_without_being_taken_from_anybody() -> Result {
    worlds(Scene::Resizes, Weather::Calm)
}

#[test]
fn in_a_storm_permits_become_fewer_and_more() -> Result {
    worlds(Scene::Resizes, Weather::Storm)
}

#[test]
fn in_calm_weather_no_resource_of_a_pool_that_changes_is_held_twice_or_lost() -> Result {
    worlds(Scene::Members, Weather::Calm)
}

#[test]
fn in_calm_weather_a_larger_priority_never_stands_behind_a_smaller_one() -> Result {
    worlds(Scene::Priorities, Weather::Calm)
}

#[test]
fn in_calm_weather_nobody_is_granted_before_grace_is_over() -> Result {
    worlds(Scene::Graces, Weather::Calm)
}

#[test]
fn in_calm_weather_who_takes_over_has_a_larger_fence_and_the_old_holder_is_told() -> Result {
    worlds(Scene::Takeovers, Weather::Calm)
}

#[test]
fn in_a_storm_no_resource_of_a_pool_that_changes_is_held_twice_or_lost() -> Result {
    worlds(Scene::Members, Weather::Storm)
}

#[test]
fn in_a_storm_a_larger_priority_never_stands_behind_a_smaller_one() -> Result {
    worlds(Scene::Priorities, Weather::Storm)
}

#[test]
fn in_a_storm_nobody_is_granted_before_grace_is_over() -> Result {
    worlds(Scene::Graces, Weather::Storm)
}

#[test]
fn in_a_storm_who_takes_over_has_a_larger_fence() -> Result {
    worlds(Scene::Takeovers, Weather::Storm)
}

#[test]
fn over_slow_links_no_lease_is_returned_that_has_run_out() -> Result {
    worlds(Scene::ShortLeases, Weather::Calm)
}

#[test]
fn in_calm_weather_who_waits_for_certain_resources_is_served() -> Result {
    worlds(Scene::Selectors, Weather::Calm)
}

#[test]
fn in_a_storm_who_waits_for_certain_resources_is_served() -> Result {
    worlds(Scene::Selectors, Weather::Storm)
}

#[test]
fn in_calm_weather_who_is_reclaimed_is_told_whatever_the_reason_says() -> Result {
    worlds(Scene::Reclaims, Weather::Calm)
}

#[test]
fn in_a_storm_who_is_reclaimed_is_told_whatever_the_reason_says() -> Result {
    worlds(Scene::Reclaims, Weather::Storm)
}

#[test]
fn in_calm_weather_an_overwritten_value_costs_nobody_else_a_lease() -> Result {
    worlds(Scene::DamagedValues, Weather::Calm)
}

#[test]
fn in_a_storm_an_overwritten_value_costs_nobody_else_for_ever() -> Result {
    worlds(Scene::DamagedValues, Weather::Storm)
}

#[test]
fn in_calm_weather_a_request_for_what_is_gone_is_refused() -> Result {
    worlds(Scene::ShrinkingLimits, Weather::Calm)
}

#[test]
fn in_a_storm_a_request_for_what_is_gone_is_refused() -> Result {
    worlds(Scene::ShrinkingLimits, Weather::Storm)
}

#[test]
fn after_a_suspend_nobody_goes_on_with_a_lease_that_has_ended() -> Result {
    worlds(Scene::Suspends, Weather::Calm)
}

#[test]
fn what_is_granted_after_a_jump_of_the_clock_is_held_by_one() -> Result {
    worlds(Scene::ClockJumps, Weather::Calm)
}

#[test]
fn in_calm_weather_all_who_live_are_granted_soon_after_a_mass_expiry() -> Result {
    worlds(Scene::MassExpiry, Weather::Calm)
}

#[test]
fn in_a_storm_all_who_live_are_granted_after_a_mass_expiry() -> Result {
    worlds(Scene::MassExpiry, Weather::Storm)
}

#[test]
fn in_calm_weather_dead_condition_waiters_cost_one_lease_together() -> Result {
    worlds(Scene::DeadConditionWaiters, Weather::Calm)
}

#[test]
fn in_a_storm_dead_condition_waiters_keep_nobody_for_ever() -> Result {
    worlds(Scene::DeadConditionWaiters, Weather::Storm)
}

#[test]
fn in_calm_weather_thousands_of_resources_are_acquired_at_once() -> Result {
    worlds(Scene::LargeRequests, Weather::Calm)
}

#[test]
fn in_calm_weather_an_expiry_brings_back_one_client_and_not_all() -> Result {
    worlds(Scene::ExpiringHolder, Weather::Calm)
}

#[test]
fn in_a_storm_thousands_of_resources_are_acquired_at_once() -> Result {
    worlds(Scene::LargeRequests, Weather::Storm)
}

#[test]
fn in_calm_weather_a_failback_lets_nobody_hold_beside_another() -> Result {
    worlds(Scene::Failback, Weather::Calm)
}

#[test]
fn in_calm_weather_fencing_tokens_grow_when_an_object_is_deleted_and_applied_again() -> Result {
    worlds(Scene::DeleteAndApply, Weather::Calm)
}

#[test]
fn in_calm_weather_first_users_do_not_stay_beside_holders_of_what_is_declared() -> Result {
    worlds(Scene::MixedDeclaredAndFirstUse, Weather::Calm)
}

#[test]
fn in_calm_weather_a_loss_after_an_adoption_lets_nobody_hold_beside_a_long_lease() -> Result {
    worlds(Scene::LongFirstLeases, Weather::Calm)
}

#[test]
fn the_same_seed_lives_the_same_life() -> Result {
    for (scene, weather) in [
        (Scene::People, Weather::Calm),
        (Scene::People, Weather::Storm),
        (Scene::People, Weather::Flood),
        (Scene::Buffer, Weather::Storm),
        (Scene::Members, Weather::Storm),
    ] {
        let live = || run(4711, scene, weather, false);
        assert_eq!(live()?, live()?, "{scene:?} in {weather:?}");
    }
    Ok(())
}
