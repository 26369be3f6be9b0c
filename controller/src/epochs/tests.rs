//! The record of epochs on a scripted API server, with the in-memory twin of Redis.

use std::sync::Arc;

use kube::runtime::controller::Action;
use tokio::time::sleep;

use super::*;
use crate::{
    fixtures::{Answer, Call, LEASE, World},
    reconcile::{self, Context},
};

const NAMES: usize = 12;

/// Several semaphores that are declared.
async fn declared() -> (World, Vec<String>) {
    let world = World::with_epochs().await;
    let names: Vec<_> = (0..NAMES).map(|number| format!("s{number}")).collect();
    for name in &names {
        world.add(name);
        world.reconcile_named(name).await.unwrap();
    }
    world.calls();
    (world, names)
}

/// Reconciles all, as the queue does.
async fn reconcile_all(world: &World, names: &[String]) {
    for name in names {
        world.reconcile_named(name).await.unwrap();
    }
}

fn status_of(world: &World, name: &str) -> serde_json::Value {
    world.api.named(name).unwrap()["status"].clone()
}

fn reason(world: &World, name: &str, type_: &str) -> String {
    let status = status_of(world, name);
    let conditions = status["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|c| c["type"] == type_).unwrap();
    condition["reason"].as_str().unwrap().to_owned()
}

fn count(calls: &[String], call: &str) -> usize {
    calls.iter().filter(|made| made.starts_with(call)).count()
}

/// The calls that change something in the API server.
fn writes(calls: &[String]) -> Vec<&String> {
    let is_write = |call: &&String| !call.starts_with("redis ") && *call != "ReadEpoch";
    calls.iter().filter(is_write).collect()
}

/// A client asks for the object, after the time that looks are apart.
async fn ask(world: &World, name: &str) {
    ask_of(world, &world.context, name).await;
}

async fn ask_of(world: &World, context: &Arc<Context>, name: &str) {
    sleep(Duration::from_millis(250)).await;
    reconcile::asked_for(world.cached_named(name), context.clone())
        .await
        .unwrap();
}

async fn fence(world: &World, name: &str) -> u64 {
    let object = world.cached_named(name).declares().unwrap();
    let snapshot = world.context.control.look(&object, 0).await.unwrap();
    world.calls();
    snapshot.unwrap().last_fence
}

fn floor(world: &World, name: &str) -> u64 {
    status_of(world, name)["fencingFloor"].as_u64().unwrap()
}

async fn quiet() {
    sleep(CLOSE_AFTER).await;
}

#[tokio::test(start_paused = true)]
async fn many_lost_objects_are_declared_after_one_write() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    for name in &names {
        ask(&world, name).await;
    }
    let calls = world.calls();
    assert_eq!(writes(&calls), ["WriteEpoch"], "{calls:?}");
    assert_eq!(count(&calls, "redis declare"), NAMES);
    let first = calls.iter().position(|call| call == "redis declare").unwrap();
    let written = calls.iter().position(|call| call == "WriteEpoch").unwrap();
    assert!(written < first, "{calls:?}");
    assert_eq!(world.epoch()["open"], "true");
}

#[tokio::test(start_paused = true)]
async fn statuses_follow_and_then_the_record_is_closed() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    reconcile_all(&world, &names).await;
    world.calls();
    sleep(STATUSES_AFTER).await;
    world.context.epochs.tick().await.unwrap();
    assert_eq!(world.epoch()["open"], "true", "the statuses are missing");
    reconcile_all(&world, &names).await;
    let calls = world.calls();
    assert_eq!(count(&calls, "WriteStatus"), NAMES);
    assert_eq!(count(&calls, "PublishEvent Recovering"), NAMES);
    for name in &names {
        assert_eq!(reason(&world, name, "Ready"), "Recovering");
        assert_eq!(floor(&world, name), fence(&world, name).await);
    }
    quiet().await;
    world.context.epochs.tick().await.unwrap();
    assert_eq!(world.epoch()["open"], "false");
    assert_eq!(writes(&world.calls()), ["WriteEpoch"]);
    sleep(LEASE).await;
    reconcile_all(&world, &names).await;
    for name in &names {
        assert_eq!(reason(&world, name, "Ready"), "Synced");
    }
}

#[tokio::test(start_paused = true)]
async fn no_status_is_written_while_others_are_declared() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    ask(&world, &names[0]).await;
    world.calls();
    for name in &names[1..4] {
        sleep(STATUSES_AFTER / 2).await;
        ask(&world, name).await;
        reconcile::reconcile(world.cached_named(&names[0]), world.context.clone())
            .await
            .unwrap();
    }
    assert_eq!(count(&world.calls(), "WriteStatus"), 0);
    sleep(STATUSES_AFTER).await;
    world.reconcile_named(&names[0]).await.unwrap();
    assert_eq!(world.calls()[..2], ["redis observe", "WriteStatus"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_loss_before_the_statuses_are_written_takes_one_more_write() {
    let (world, names) = declared().await;
    let mut newest = 0;
    for _ in 0..3 {
        world.redis.flush_all();
        for name in &names {
            ask(&world, name).await;
        }
        let calls = world.calls();
        assert_eq!(writes(&calls), ["WriteEpoch"], "{calls:?}");
        for name in &names {
            assert!(fence(&world, name).await > newest, "{name}");
        }
        newest = fence(&world, names.last().unwrap()).await;
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_takes_over_knows_which_data_is_old() {
    let (mut world, names) = declared().await;
    let old = world.redis.save();
    world.redis.flush_all();
    ask(&world, &names[0]).await;
    let granted = fence(&world, &names[0]).await;
    // It dies before the status is written, and a master comes back that was cut off before.
    assert!(floor(&world, &names[0]) < granted);
    world.other_controller().await;
    world.redis.restore(&old);
    world.redis.disconnect_all();
    sleep(Duration::from_secs(1)).await;
    world.reconcile_named(&names[0]).await.unwrap();
    let snapshot = fence(&world, &names[0]).await;
    assert!(snapshot > granted, "{snapshot} after {granted}");
    let object = world.cached_named(&names[0]).declares().unwrap();
    let seen = world.context.control.look(&object, 0).await.unwrap().unwrap();
    assert!(seen.recovering_until.is_some(), "its newest leases are missing");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_takes_over_writes_the_floors_that_are_missing_and_declares_nothing_again() {
    let (mut world, names) = declared().await;
    world.redis.flush_all();
    reconcile_all(&world, &names).await;
    world.other_controller().await;
    world.calls();
    sleep(STATUSES_AFTER).await;
    reconcile_all(&world, &names).await;
    let calls = world.calls();
    assert_eq!(count(&calls, "redis declare"), 0, "{calls:?}");
    assert_eq!(count(&calls, "WriteStatus"), NAMES);
    for name in &names {
        assert_eq!(floor(&world, name), fence(&world, name).await);
    }
    world.context.epochs.tick().await.unwrap();
    assert_eq!(world.epoch()["open"], "false");
}

#[tokio::test(start_paused = true)]
async fn of_two_controllers_one_has_the_epoch_and_the_other_waits_until_it_has_ended() {
    let (mut world, names) = declared().await;
    let first = world.other_controller().await;
    world.redis.flush_all();
    ask_of(&world, &first, &names[0]).await;
    let epoch = world.epoch();
    world.calls();
    let waits = world.reconcile_named(&names[1]).await.unwrap();
    assert_eq!(waits, Action::requeue(WAIT_FOR_ANOTHER));
    assert_eq!(world.calls(), ["redis observe", "WriteEpoch", "ReadEpoch"]);
    assert_eq!(world.epoch(), epoch);
    ask_of(&world, &first, &names[2]).await;
    assert_eq!(world.calls(), ["redis observe", "ReadEpoch", "redis declare"]);

    // As long as the first one lives, the other one leaves it the record.
    for _ in 0..10 {
        sleep(RENEW_EVERY).await;
        first.epochs.tick().await.unwrap();
        world.context.epochs.tick().await.unwrap();
    }
    assert_eq!(count(&world.calls(), "WriteEpoch"), 10, "it is renewed");
    let waits = world.reconcile_named(&names[1]).await.unwrap();
    assert_eq!(waits, Action::requeue(WAIT_FOR_ANOTHER));
    // It dies.
    sleep(LEFT_AFTER).await;
    world.context.epochs.tick().await.unwrap();
    world.calls();
    world.reconcile_named(&names[1]).await.unwrap();
    assert_eq!(world.calls(), ["redis observe", "WriteEpoch", "redis declare"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_declared_under_an_epoch_that_was_replaced() {
    let (mut world, names) = declared().await;
    world.redis.flush_all();
    ask(&world, &names[0]).await;
    // It takes the first one for dead, and its epoch is above the first one's.
    let first = world.other_controller().await;
    world.reconcile_named(&names[1]).await.unwrap();
    let from: u64 = world.epoch()["from"].as_str().unwrap().parse().unwrap();
    let newest = fence(&world, &names[1]).await;
    assert!(newest >= from);

    ask_of(&world, &first, &names[2]).await;
    assert_eq!(world.calls(), ["redis observe", "ReadEpoch"]);
    assert_eq!(world.epoch()["from"], from.to_string(), "it is not overwritten");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_record_is_made_again() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    world.reconcile_named(&names[0]).await.unwrap();
    let first = world.epoch();
    world.api.remove_named("tenure-epoch");
    world.calls();
    world.reconcile_named(&names[1]).await.unwrap();
    let expected = ["redis observe", "ReadEpoch", "WriteEpoch", "redis declare"];
    assert_eq!(world.calls(), expected);
    let from = |record: &serde_json::Value| record["from"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(from(&world.epoch()) > from(&first));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_an_older_backup_is_not_used() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    world.reconcile_named(&names[0]).await.unwrap();
    let backup = world.epoch();
    world.redis.flush_all();
    ask(&world, &names[0]).await;
    world
        .api
        .change_named("tenure-epoch", |object| object["data"] = backup.clone());
    world.calls();
    world.reconcile_named(&names[1]).await.unwrap();
    assert_eq!(count(&world.calls(), "WriteEpoch"), 1);
    let from = |record: &serde_json::Value| record["from"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(from(&world.epoch()) > from(&backup));
}

#[tokio::test(start_paused = true)]
async fn without_the_permission_each_status_is_written_first() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    world
        .api
        .script(Call::WriteEpoch, Answer::Error(403, "Forbidden"));
    world.reconcile_named(&names[0]).await.unwrap();
    let calls = world.calls();
    let expected = ["redis observe", "WriteEpoch", "WriteStatus", "redis declare"];
    assert_eq!(calls[..4], expected);
    assert_eq!(reason(&world, &names[0], "Ready"), "Recovering");
    // Later it is allowed.
    sleep(READ_EVERY).await;
    world.context.epochs.tick().await.unwrap();
    world.reconcile_named(&names[1]).await.unwrap();
    assert_eq!(count(&world.calls(), "WriteStatus"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_found_again() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    world.api.script(Call::WriteEpoch, Answer::Lost);
    let failure = world.reconcile_named(&names[0]).await.unwrap_err();
    assert!(matches!(failure, Failure::ApiTimeout), "{failure}");
    world.calls();
    ask(&world, &names[0]).await;
    assert_eq!(world.calls(), ["redis observe", "ReadEpoch", "redis declare"]);
}

#[tokio::test(start_paused = true)]
async fn a_longer_lease_is_kept_in_the_status_before_redis_has_it() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    world.api.change_named(&names[0], |object| {
        object["spec"]["leaseDurationSeconds"] = 600.into();
    });
    world.reconcile_named(&names[0]).await.unwrap();
    let calls = world.calls();
    assert_eq!(calls[..3], ["redis observe", "WriteStatus", "redis declare"]);
    assert_eq!(status_of(&world, &names[0])["leaseDurationSeconds"], 600);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_deleted_and_applied_again_during_a_recovery_grows_on() {
    let (world, names) = declared().await;
    world.redis.flush_all();
    reconcile_all(&world, &names[..2]).await;
    let before = fence(&world, &names[0]).await;
    world.api.change_named(&names[0], |object| {
        object["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
    });
    world.reconcile_named(&names[0]).await.unwrap();
    assert_eq!(world.api.named(&names[0]), None);
    world.add(&names[0]);
    world.reconcile_named(&names[0]).await.unwrap();
    assert!(fence(&world, &names[0]).await > before);
    assert!(floor(&world, &names[0]) > before);
    assert_eq!(reason(&world, &names[0], "Ready"), "Synced");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_waited_for_and_one_that_is_damaged_is_made_anew() {
    let world = World::with_epochs().await;
    world.api.add(serde_json::json!({
        "kind": "ConfigMap", "metadata": { "name": "tenure-epoch" }, "data": { "from": "soon" },
    }));
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
    let name = ("tenure".to_owned(), "tenure-epoch".to_owned());
    let record = EpochRecord::new(&world.api.client(), Some(&name), None, metrics);
    world
        .api
        .script(Call::ReadEpoch, Answer::Error(500, "InternalError"));
    record.start().await;
    assert_eq!(world.calls(), ["ReadEpoch", "ReadEpoch"]);
    assert!(lock(&record.state).epochs.own().is_none());
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let epoch = Epoch {
        from: 1_795_257_448_000_000,
        to: 1 << 52,
        at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_257_448_123_456_789),
        open: true,
    };
    let config_map = ConfigMap {
        data: Some(data(&epoch, "p")),
        ..ConfigMap::default()
    };
    assert_eq!(parse(&config_map), Some((epoch, "p".to_owned())));
    for broken in ["from", "to", "time", "open"] {
        let mut config_map = config_map.clone();
        config_map.data.as_mut().unwrap().remove(broken);
        assert_eq!(parse(&config_map), None, "{broken}");
    }
    assert_eq!(parse(&ConfigMap::default()), None);
}
