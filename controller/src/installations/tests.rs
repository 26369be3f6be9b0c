//! Two installations on one scripted API server, each with a Redis of its own.

use std::time::Duration;

use kube::runtime::controller::Action;

use super::*;
use crate::fixtures::{Answer, Call, World};

const OURS: &str = "tenure/ours";

async fn declared() -> World {
    let world = World::of_installation("ours").await;
    world.reconcile().await.unwrap();
    world.calls();
    world
}

#[tokio::test(start_paused = true)]
async fn a_first_declaration_records_the_installation_without_a_further_write() {
    let world = World::of_installation("ours").await;
    world.reconcile().await.unwrap();
    let expected = [
        "redis observe",
        "WriteStatus",
        "redis declare",
        "redis observe",
        "WriteStatus",
    ];
    assert_eq!(world.calls(), expected);
    assert_eq!(world.status()["controller"], OURS);
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);
}

#[tokio::test(start_paused = true)]
async fn another_installation_does_nothing_and_publishes_one_event() {
    let world = declared().await;
    let theirs = world.other_installation("theirs").await;
    assert_eq!(theirs.reconcile().await.unwrap(), Action::requeue(LOOK_AGAIN));
    assert_eq!(theirs.calls(), ["ReadLease", "PublishEvent ManagedByAnother"]);
    // Also after a change of the spec, and in a deletion.
    world.api.change(|object| object["spec"]["permits"] = 9.into());
    theirs.reconcile().await.unwrap();
    world.delete("2020-01-01T00:00:00Z");
    theirs.reconcile().await.unwrap();
    assert_eq!(theirs.calls(), Vec::<String>::new());
    assert_eq!(theirs.snapshot().await, None);
    assert_eq!(world.status()["controller"], OURS);
}

#[tokio::test(start_paused = true)]
async fn of_two_first_writes_one_wins() {
    let world = World::of_installation("ours").await;
    let theirs = world.other_installation("theirs").await;
    let cached = world.cached();
    world.reconcile_cached(cached.clone()).await.unwrap();
    // The cache of the other one lags behind.
    let outcome = theirs.reconcile_cached(cached).await.unwrap();
    assert_eq!(outcome, Action::requeue(Duration::from_millis(100)));
    theirs.reconcile().await.unwrap();
    assert_eq!(theirs.snapshot().await, None, "it was declared by both");
    assert!(world.snapshot().await.is_some());
}

/// The first write of a new object is that of the finalizer and the first floor.
#[tokio::test(start_paused = true)]
async fn of_two_first_writes_of_a_new_object_one_wins_before_there_is_a_status() {
    let world = World::of_installation("ours").await;
    let theirs = world.other_installation("theirs").await;
    world
        .api
        .change(|object| object["metadata"]["finalizers"] = serde_json::json!([]));
    let cached = world.cached();
    world
        .api
        .script(Call::WriteStatus, Answer::Error(500, "InternalError"));
    world.reconcile_cached(cached.clone()).await.unwrap_err();
    assert_eq!(world.status(), serde_json::Value::Null);
    let outcome = theirs.reconcile_cached(cached).await.unwrap();
    assert_eq!(outcome, Action::requeue(Duration::from_millis(100)));
    theirs.calls();
    theirs.reconcile().await.unwrap();
    assert_eq!(theirs.calls(), ["ReadLease", "PublishEvent ManagedByAnother"]);
    assert_eq!(theirs.snapshot().await, None, "it was declared by both");
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["controller"], OURS);
}

#[tokio::test(start_paused = true)]
async fn the_objects_of_an_installation_that_is_gone_are_taken_over_and_recover() {
    let world = declared().await;
    let theirs = world.other_installation("theirs").await;
    theirs.reconcile().await.unwrap();
    world.api.remove_named("ours");
    tokio::time::sleep(READ_EVERY).await;
    theirs.calls();
    theirs.reconcile().await.unwrap();
    let calls = theirs.calls();
    let expected = ["ReadLease", "ReadLease", "WriteStatus", "PublishEvent TakenOver"];
    assert_eq!(calls[..4], expected, "{calls:?}");
    assert_eq!(world.status()["controller"], "tenure/theirs");
    assert_eq!(theirs.reason("Ready"), "Recovering");
    // The one that was uninstalled may still be running.
    assert_eq!(world.reconcile().await.unwrap(), Action::requeue(LOOK_AGAIN));
}

#[tokio::test(start_paused = true)]
async fn an_installation_that_cannot_be_looked_up_keeps_its_objects_and_the_event_has_the_way_out() {
    let world = declared().await;
    let theirs = world.other_installation("theirs").await;
    world.api.script(Call::ReadLease, Answer::Error(403, "Forbidden"));
    theirs.reconcile().await.unwrap();
    assert_eq!(theirs.calls(), ["ReadLease", "PublishEvent ManagedByAnother"]);
    world
        .api
        .change(|object| object["status"]["controller"] = serde_json::Value::Null);
    theirs.reconcile().await.unwrap();
    assert_eq!(world.status()["controller"], "tenure/theirs");
}

#[tokio::test(start_paused = true)]
async fn an_installation_without_a_lease_takes_nothing_over() {
    let world = declared().await;
    let theirs = world.other_installation("theirs").await;
    world.api.remove_named("ours");
    world.api.remove_named("theirs");
    theirs.reconcile().await.unwrap();
    assert_eq!(world.status()["controller"], OURS);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_before_an_upgrade_gets_its_installation_with_one_write() {
    let mut world = World::of_installation("ours").await;
    let upgraded = world.context.clone();
    world.other_controller().await;
    world.reconcile().await.unwrap();
    assert!(world.status()["controller"].is_null());
    world.context = upgraded;
    world.calls();
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["WriteStatus", "redis observe"]);
    assert_eq!(world.status()["controller"], OURS);
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);
}

#[tokio::test(start_paused = true)]
async fn with_old_definitions_nothing_is_recorded_and_nothing_is_written_for_it_again() {
    let world = World::of_installation("ours").await;
    world.api.drop_installations();
    world.reconcile().await.unwrap();
    assert_eq!(world.reason("Ready"), "Synced");
    world.calls();
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);
}

#[tokio::test(start_paused = true)]
async fn the_own_lease_is_made_if_it_is_missing() {
    let world = World::of_installation("ours").await;
    world.context.installations.start().await;
    assert_eq!(world.calls(), ["ReadLease"]);
    world.api.remove_named("ours");
    tokio::time::sleep(READ_EVERY).await;
    world.calls();
    world.context.installations.start().await;
    assert_eq!(world.calls(), ["ReadLease", "MakeLease"]);
    assert!(world.api.named("ours").is_some());
}
