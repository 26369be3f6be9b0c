//! Seeded worlds in virtual time: clients acquire, try, give up, drop, release and crash, while what passes between them
//! and the twin is delayed, lost and cut, and the server loses its data. What must always hold is checked all along.
//!
//! | module | what is in it |
//! |---|---|
//! | [`world`] | what all share: the twin, its weather, and the violations |
//! | [`witness`] | what must hold, checked against what holders believe and what the server says |
//! | [`people`] | what clients and the controller do |
//!
//! `TENURE_SIMULATION_SEED=7` runs that one alone and prints what happens; `TENURE_SIMULATION_SEEDS=10000` runs as many.

mod people;
mod witness;
mod world;

use std::time::Duration;

use self::world::{Weather, World};
use super::Result;

/// What passed, as a number: the same seed has to give the same one.
async fn live(seed: u64, weather: Weather, trace: bool) -> Result<u64> {
    let world = World::new(seed, weather, trace).await?;
    // Nobody waits for ever: a day is far more than all need together.
    let lived = tokio::time::timeout(Duration::from_secs(86_400), people::live(&world)).await;
    if lived.is_err() {
        world.violation("somebody hangs");
    }
    world.verdict()
}

fn run(seed: u64, weather: Weather, trace: bool) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let outcome = runtime.block_on(live(seed, weather, trace));
    outcome.map_err(|error| format!("{weather:?}, TENURE_SIMULATION_SEED={seed}: {error}").into())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn worlds(weather: Weather) -> Result {
    if let Some(seed) = number("TENURE_SIMULATION_SEED") {
        return run(seed, weather, true).map(drop);
    }
    let seeds = number("TENURE_SIMULATION_SEEDS").unwrap_or(5);
    (0..seeds).try_for_each(|seed| run(seed, weather, false).map(drop))
}

#[test]
fn in_calm_weather_no_lease_is_lost() -> Result {
    worlds(Weather::Calm)
}

#[test]
fn in_a_storm_nobody_holds_too_much_and_nothing_is_left() -> Result {
    worlds(Weather::Storm)
}

#[test]
fn while_the_server_loses_its_data_declared_objects_stay_exclusive() -> Result {
    worlds(Weather::Flood)
}

#[test]
fn the_same_seed_lives_the_same_life() -> Result {
    for weather in [Weather::Calm, Weather::Storm, Weather::Flood] {
        assert_eq!(
            run(4711, weather, false)?,
            run(4711, weather, false)?,
            "{weather:?}"
        );
    }
    Ok(())
}
