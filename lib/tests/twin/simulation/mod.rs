//! Deterministic simulation in virtual time. Clients acquire, try, give up, drop, release and crash, while messages between
//! them and the twin are delayed, lost and cut, and the server loses its data. The invariants are checked all along.
//!
//! | module | contents |
//! |---|---|
//! | [`world`] | state that all processes share: the twin, the fault injector, the violations |
//! | [`invariants`] | checks of each grant against the other holders, and of the server's view |
//! | [`process`] | clients that run, crash, and start again |
//! | [`keeper`] | the controller's plans, declarations and status, for the workloads with a controller |
//!
//! | workload | contents |
//! |---|---|
//! | [`mixed_primitives`] | locks, semaphores, pools and read-write locks, with a controller |
//! | [`adoptions`] | leases that are handed from one process to another |
//! | [`buffer`] | conditions |
//! | [`many`] | several locks at once, and nested locks |
//! | [`reentrant_owners`] | a reentrant lock whose owners have several tasks |
//! | [`registers`] | registers |
//! | [`refusals`] | a server that answers with an error reply for a while |
//! | [`resizes`] | a declared object that changes, and a clock that is set back |
//! | [`members`] | a pool that programs keep and change |
//! | [`priorities`] | requests with different priorities |
//! | [`extreme_numbers`] | the smallest and largest counts and times |
//! | [`failback`] | a failover to another server's data, and back |
//! | [`epochs`] | several declared objects whose data is lost, with two controllers that die at any moment |
//! | [`delete_and_apply`] | a declared object that is deleted and applied repeatedly |
//! | [`mixed_declared_and_first_use`] | objects that are declared, and made by first users after a loss of data |
//! | [`long_first_leases`] | long leases from before a declaration, and a loss of data |
//! | [`generated_counts`] | a pool of generated resources whose count and prefix change |
//! | [`graces`] | leases that expire, and their grace periods |
//! | [`short_leases`] | leases that are as short as a round trip |
//! | [`selectors`] | requests that wait for certain resources of a pool |
//! | [`reclaims`] | leases and queue entries that are reclaimed, with arbitrary reasons |
//! | [`damaged_values`] | keys and entries that are overwritten |
//! | [`shrinking_limits`] | objects that shrink while requests wait |
//! | [`clock_jumps`] | a server clock that jumps ahead, and late pushes |
//! | [`suspends`] | clients whose machine is suspended while the server's clock keeps running |
//! | [`mass_expiry`] | many leases that expire together, with many waiters |
//! | [`dead_condition_waiters`] | a condition whose waiters have mostly crashed |
//! | [`expiring_holder`] | a holder that crashes while clients wait |
//! | [`large_requests`] | requests for thousands of resources |
//! | [`takeovers`] | a lock that is taken from its holder |
//!
//! `TENURE_SIMULATION_SEED=7` runs one seed and prints its messages; `TENURE_SIMULATION_SEEDS=10000` sets the number of seeds,
//! and `TENURE_SIMULATION_SEEDS=10000..20000` runs the next ones.

mod adoptions;
mod buffer;
mod clock_jumps;
mod damaged_values;
mod dead_condition_waiters;
mod delete_and_apply;
mod epochs;
mod expiring_holder;
mod extreme_numbers;
mod failback;
mod generated_counts;
mod graces;
mod invariants;
mod keeper;
mod large_requests;
mod long_first_leases;
mod many;
mod mass_expiry;
mod members;
mod mixed_declared_and_first_use;
mod mixed_primitives;
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
mod world;

use std::{ops::Range, sync::Arc, time::Duration};

use self::world::{FaultProfile, World};
use super::Result;

/// Behaviour of the clients in a run.
#[derive(Debug, Clone, Copy)]
enum Workload {
    MixedPrimitives,
    Adoptions,
    Failback,
    DeleteAndApply,
    Epochs,
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
    GeneratedCounts,
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
    ExtremeNumbers,
}

impl Workload {
    async fn run(self, world: &Arc<World>) -> Result {
        match self {
            Self::MixedPrimitives => mixed_primitives::run(world).await,
            Self::Adoptions => adoptions::run(world).await,
            Self::Failback => failback::run(world).await,
            Self::DeleteAndApply => delete_and_apply::run(world).await,
            Self::Epochs => epochs::run(world).await,
            Self::MixedDeclaredAndFirstUse => mixed_declared_and_first_use::run(world).await,
            Self::LongFirstLeases => long_first_leases::run(world).await,
            Self::Buffer => buffer::run(world).await,
            Self::ReentrantOwners => reentrant_owners::run(world).await,
            Self::Many => many::run(world).await,
            Self::Registers => registers::run(world).await,
            Self::Refusals => refusals::run(world).await,
            Self::Resizes => resizes::run(world).await,
            Self::Members => members::run(world).await,
            Self::Priorities => priorities::run(world).await,
            Self::Graces => graces::run(world).await,
            Self::GeneratedCounts => generated_counts::run(world).await,
            Self::Takeovers => takeovers::run(world).await,
            Self::ShortLeases => short_leases::run(world).await,
            Self::Selectors => selectors::run(world).await,
            Self::Reclaims => reclaims::run(world).await,
            Self::DamagedValues => damaged_values::run(world).await,
            Self::ShrinkingLimits => shrinking_limits::run(world).await,
            Self::Suspends => suspends::run(world).await,
            Self::ClockJumps => clock_jumps::run(world).await,
            Self::MassExpiry => mass_expiry::run(world).await,
            Self::DeadConditionWaiters => dead_condition_waiters::run(world).await,
            Self::LargeRequests => large_requests::run(world).await,
            Self::ExpiringHolder => expiring_holder::run(world).await,
            Self::ExtremeNumbers => extreme_numbers::run(world).await,
        }
    }
}

/// Most work of one call: a server needs about a millisecond for it. Requests for thousands of resources do more.
const MOST_WORK: u64 = 900;

/// Runs one seed and returns a hash of all messages, which depends on the seed alone.
async fn run_one(seed: u64, workload: Workload, profile: FaultProfile, trace: bool) -> Result<u64> {
    let world = World::new(seed, profile, trace).await?;
    // A day is far more than all clients need together.
    match tokio::time::timeout(Duration::from_secs(86_400), workload.run(&world)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => world.violation(format!("the workload failed: {error}")),
        Err(_) => world.violation("a client hangs"),
    }
    let most = world.memory.most_work();
    if most > MOST_WORK && !matches!(workload, Workload::LargeRequests | Workload::ExtremeNumbers) {
        world.violation(format!("a call has done {most} units of work"));
    }
    world.verdict()
}

fn run(seed: u64, workload: Workload, profile: FaultProfile, trace: bool) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let outcome = runtime.block_on(run_one(seed, workload, profile, trace));
    outcome.map_err(|error| {
        format!("{workload:?} with faults {profile:?}, TENURE_SIMULATION_SEED={seed}: {error}").into()
    })
}

/// `1000`: that many, from 0 on; `500..1000`: these.
fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..").unwrap_or(("0", text));
    Some(from.parse().ok()?..to.parse().ok()?)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run_seeds(workload: Workload, profile: FaultProfile) -> Result {
    if let Some(seed) = number("TENURE_SIMULATION_SEED") {
        return run(seed, workload, profile, true).map(drop);
    }
    let mut seeds = match std::env::var("TENURE_SIMULATION_SEEDS") {
        Ok(text) => range(&text).ok_or("TENURE_SIMULATION_SEEDS is a number, or two as in 500..1000")?,
        Err(_) => 0..15,
    };
    seeds.try_for_each(|seed| run(seed, workload, profile, false).map(drop))
}

#[test]
fn without_faults_no_lease_is_lost() -> Result {
    run_seeds(Workload::MixedPrimitives, FaultProfile::None)
}

#[test]
fn with_network_faults_the_limit_holds_and_nothing_is_left() -> Result {
    run_seeds(Workload::MixedPrimitives, FaultProfile::Network)
}

#[test]
fn with_data_loss_declared_objects_stay_exclusive() -> Result {
    run_seeds(Workload::MixedPrimitives, FaultProfile::DataLoss)
}

#[test]
fn without_faults_one_of_several_adopters_gets_the_lease() -> Result {
    run_seeds(Workload::Adoptions, FaultProfile::None)
}

#[test]
fn with_network_faults_one_of_several_adopters_gets_the_lease() -> Result {
    run_seeds(Workload::Adoptions, FaultProfile::Network)
}

#[test]
fn with_data_loss_one_of_several_adopters_gets_the_lease() -> Result {
    run_seeds(Workload::Adoptions, FaultProfile::DataLoss)
}

#[test]
fn without_faults_exactly_the_notified_waiters_wake_up() -> Result {
    run_seeds(Workload::Buffer, FaultProfile::None)
}

#[test]
fn with_network_faults_no_wake_up_is_lost() -> Result {
    run_seeds(Workload::Buffer, FaultProfile::Network)
}

#[test]
fn without_faults_many_locks_are_taken_at_once_and_within_one_another() -> Result {
    run_seeds(Workload::Many, FaultProfile::None)
}

#[test]
fn with_network_faults_several_locks_never_deadlock() -> Result {
    run_seeds(Workload::Many, FaultProfile::Network)
}

#[test]
fn without_faults_an_owner_can_always_reenter() -> Result {
    run_seeds(Workload::ReentrantOwners, FaultProfile::None)
}

#[test]
fn with_network_faults_an_owner_can_always_reenter() -> Result {
    run_seeds(Workload::ReentrantOwners, FaultProfile::Network)
}

#[test]
fn without_faults_registers_are_linearizable() -> Result {
    run_seeds(Workload::Registers, FaultProfile::None)
}

#[test]
fn with_network_faults_registers_are_linearizable() -> Result {
    run_seeds(Workload::Registers, FaultProfile::Network)
}

#[test]
fn while_the_server_refuses_few_calls_are_sent_and_releases_are_retried() -> Result {
    run_seeds(Workload::Refusals, FaultProfile::None)
}

#[test]
fn without_faults_a_smaller_limit_takes_no_permit_from_a_holder() -> Result {
    run_seeds(Workload::Resizes, FaultProfile::None)
}

#[test]
fn with_network_faults_limits_shrink_and_grow() -> Result {
    run_seeds(Workload::Resizes, FaultProfile::Network)
}

#[test]
fn without_faults_no_resource_of_a_pool_that_changes_is_held_twice_or_lost() -> Result {
    run_seeds(Workload::Members, FaultProfile::None)
}

#[test]
fn without_faults_a_generated_resource_out_of_service_is_not_granted() -> Result {
    run_seeds(Workload::GeneratedCounts, FaultProfile::None)
}

#[test]
fn with_network_faults_a_generated_resource_out_of_service_is_not_granted() -> Result {
    run_seeds(Workload::GeneratedCounts, FaultProfile::Network)
}

#[test]
fn without_faults_a_larger_priority_never_stands_behind_a_smaller_one() -> Result {
    run_seeds(Workload::Priorities, FaultProfile::None)
}

#[test]
fn without_faults_a_grace_period_delays_the_next_grant() -> Result {
    run_seeds(Workload::Graces, FaultProfile::None)
}

#[test]
fn without_faults_a_takeover_has_a_larger_token_and_the_old_holder_is_notified() -> Result {
    run_seeds(Workload::Takeovers, FaultProfile::None)
}

#[test]
fn with_network_faults_no_resource_of_a_pool_that_changes_is_held_twice_or_lost() -> Result {
    run_seeds(Workload::Members, FaultProfile::Network)
}

#[test]
fn with_network_faults_a_larger_priority_never_stands_behind_a_smaller_one() -> Result {
    run_seeds(Workload::Priorities, FaultProfile::Network)
}

#[test]
fn with_network_faults_a_grace_period_delays_the_next_grant() -> Result {
    run_seeds(Workload::Graces, FaultProfile::Network)
}

#[test]
fn with_network_faults_a_takeover_has_a_larger_token() -> Result {
    run_seeds(Workload::Takeovers, FaultProfile::Network)
}

#[test]
fn over_slow_links_no_expired_lease_is_returned() -> Result {
    run_seeds(Workload::ShortLeases, FaultProfile::None)
}

#[test]
fn without_faults_requests_with_selectors_are_served() -> Result {
    run_seeds(Workload::Selectors, FaultProfile::None)
}

#[test]
fn with_network_faults_requests_with_selectors_are_served() -> Result {
    run_seeds(Workload::Selectors, FaultProfile::Network)
}

#[test]
fn without_faults_a_reclaimed_holder_is_notified_for_any_reason() -> Result {
    run_seeds(Workload::Reclaims, FaultProfile::None)
}

#[test]
fn with_network_faults_a_reclaimed_holder_is_notified_for_any_reason() -> Result {
    run_seeds(Workload::Reclaims, FaultProfile::Network)
}

#[test]
fn without_faults_an_overwritten_value_costs_no_other_lease() -> Result {
    run_seeds(Workload::DamagedValues, FaultProfile::None)
}

#[test]
fn with_network_faults_an_overwritten_value_blocks_no_other_object() -> Result {
    run_seeds(Workload::DamagedValues, FaultProfile::Network)
}

#[test]
fn without_faults_a_request_beyond_the_limit_is_refused() -> Result {
    run_seeds(Workload::ShrinkingLimits, FaultProfile::None)
}

#[test]
fn with_network_faults_a_request_beyond_the_limit_is_refused() -> Result {
    run_seeds(Workload::ShrinkingLimits, FaultProfile::Network)
}

#[test]
fn without_faults_extreme_numbers_break_no_limit_and_leave_nothing() -> Result {
    run_seeds(Workload::ExtremeNumbers, FaultProfile::None)
}

#[test]
fn after_a_suspend_ended_leases_are_lost() -> Result {
    run_seeds(Workload::Suspends, FaultProfile::None)
}

#[test]
fn leases_granted_after_a_clock_jump_are_exclusive() -> Result {
    run_seeds(Workload::ClockJumps, FaultProfile::None)
}

#[test]
fn without_faults_live_waiters_are_granted_soon_after_a_mass_expiry() -> Result {
    run_seeds(Workload::MassExpiry, FaultProfile::None)
}

#[test]
fn with_network_faults_live_waiters_are_granted_after_a_mass_expiry() -> Result {
    run_seeds(Workload::MassExpiry, FaultProfile::Network)
}

#[test]
fn without_faults_dead_condition_waiters_cost_one_lease_together() -> Result {
    run_seeds(Workload::DeadConditionWaiters, FaultProfile::None)
}

#[test]
fn with_network_faults_dead_condition_waiters_block_no_live_one() -> Result {
    run_seeds(Workload::DeadConditionWaiters, FaultProfile::Network)
}

#[test]
fn without_faults_thousands_of_resources_are_acquired_at_once() -> Result {
    run_seeds(Workload::LargeRequests, FaultProfile::None)
}

#[test]
fn without_faults_an_expiry_brings_back_one_client_and_not_all() -> Result {
    run_seeds(Workload::ExpiringHolder, FaultProfile::None)
}

#[test]
fn with_network_faults_thousands_of_resources_are_acquired_at_once() -> Result {
    run_seeds(Workload::LargeRequests, FaultProfile::Network)
}

#[test]
fn without_faults_a_failback_keeps_leases_exclusive() -> Result {
    run_seeds(Workload::Failback, FaultProfile::None)
}

#[test]
fn without_faults_fencing_tokens_grow_when_an_object_is_deleted_and_applied_again() -> Result {
    run_seeds(Workload::DeleteAndApply, FaultProfile::None)
}

#[test]
fn over_losses_of_data_the_epochs_of_two_controllers_keep_tokens_growing_and_leases_exclusive() -> Result {
    run_seeds(Workload::Epochs, FaultProfile::None)
}

#[test]
fn without_faults_first_users_do_not_stay_beside_declared_holders() -> Result {
    run_seeds(Workload::MixedDeclaredAndFirstUse, FaultProfile::None)
}

#[test]
fn without_faults_a_loss_after_an_adoption_keeps_long_leases_exclusive() -> Result {
    run_seeds(Workload::LongFirstLeases, FaultProfile::None)
}

#[test]
fn the_same_seed_gives_the_same_run() -> Result {
    for (workload, profile) in [
        (Workload::MixedPrimitives, FaultProfile::None),
        (Workload::MixedPrimitives, FaultProfile::Network),
        (Workload::MixedPrimitives, FaultProfile::DataLoss),
        (Workload::Buffer, FaultProfile::Network),
        (Workload::Members, FaultProfile::Network),
    ] {
        let run = || run(4711, workload, profile, false);
        assert_eq!(run()?, run()?, "{workload:?} with faults {profile:?}");
    }
    Ok(())
}
