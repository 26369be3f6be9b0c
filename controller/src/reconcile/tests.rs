//! The reconciler against a scripted API server, and the in-memory twin of Redis.

use serde_json::json;
use tenure::Lease;
use tokio::time::timeout;

use super::*;
use crate::{
    failure::API_LIMIT,
    first_floor,
    fixtures::{Answer, ApiServer, Call, LEASE, World},
};

const LONG_AGO: &str = "2020-01-01T00:00:00Z";
/// The cache catches up in this time.
const SOON: Duration = Duration::from_millis(100);

fn now() -> String {
    Timestamp::now().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_first_declaration_writes_the_floor_before_redis_has_it() {
    let world = World::new().await;
    world.reconcile().await.unwrap();
    let expected = [
        "redis observe",
        "WriteStatus",
        "redis declare",
        "redis observe",
        "WriteStatus",
    ];
    assert_eq!(world.calls(), expected);
    let snapshot = world.snapshot().await.unwrap();
    assert_eq!(world.status()["fencingFloor"], snapshot.last_fence);
    assert_eq!(world.reason("Ready"), "Synced");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_programs_have_made_is_adopted_with_an_event() {
    let world = World::new().await;
    let client = world.user("worker").await;
    let semaphore = client.semaphore("callers").unwrap().or_permits(7).unwrap();
    let _permit = semaphore.acquire().await.unwrap();
    world.calls();
    world.reconcile().await.unwrap();
    let calls = world.calls();
    assert!(calls.contains(&"PublishEvent Adopted".to_owned()), "{calls:?}");
    let snapshot = world.snapshot().await.unwrap();
    assert_eq!((snapshot.limit, snapshot.held), (4, 1));
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);
}

#[tokio::test(start_paused = true)]
async fn a_declared_object_is_only_observed() {
    let world = World::declared().await;
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);
}

/// A newer controller declares the object, with a digest that this one cannot compare.
fn stamp_newer(world: &World) {
    let set = ["HSET", "tenure:{ml/semaphore/callers}:obj", "declared", "2:ffff"];
    world.redis.command(&set).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_declaration_of_a_newer_digest_scheme_is_left_unless_the_spec_has_changed() {
    let world = World::declared().await;
    stamp_newer(&world);
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);

    let change = |permits: u32| {
        world.api.change(|object| {
            object["spec"]["permits"] = permits.into();
            object["metadata"]["generation"] = permits.into();
        });
    };
    change(9);
    world.reconcile().await.unwrap();
    assert_eq!(world.snapshot().await.unwrap().limit, 9);
    // The newer one declares it once more, and then both are content.
    stamp_newer(&world);
    for _ in 0..3 {
        world.reconcile().await.unwrap();
        assert_eq!(world.calls(), ["redis observe"]);
    }

    // A spec that could not be applied is applied after the outage, if the newer one is gone by then.
    change(7);
    world.redis.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.reconcile().await.unwrap_err();
    world.redis.restart(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    stamp_newer(&world);
    world.reconcile().await.unwrap();
    assert_eq!(world.snapshot().await.unwrap().limit, 7);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_leaves_redis_without_the_declaration_and_is_repeated_soon() {
    let world = World::new().await;
    world.api.before(Call::WriteStatus, |api| {
        api.change(|object| object["spec"]["permits"] = 9.into());
    });
    let outcome = world.reconcile().await;
    assert_eq!(outcome.unwrap(), Action::requeue(SOON));
    assert_eq!(world.calls(), ["redis observe", "WriteStatus"]);
    assert_eq!(world.snapshot().await, None);

    world.reconcile().await.unwrap();
    assert_eq!(world.snapshot().await.unwrap().limit, 9);
}

#[tokio::test(start_paused = true)]
async fn a_floor_is_never_taken_from_an_old_status() {
    let world = World::declared().await;
    let mut old = (*world.cached()).clone();
    world.redis.flush_all();
    world.reconcile().await.unwrap();
    let floor = world.status()["fencingFloor"].clone();

    old.spec.permits = 5;
    let calls = world.calls().len();
    let outcome = world.reconcile_cached(old.clone().into()).await;
    assert_eq!(outcome.unwrap(), Action::requeue(SOON));
    assert_eq!(
        world.calls(),
        Vec::<String>::new(),
        "the cache is behind, after {calls} calls"
    );
    // Its watch may be broken.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let outcome = world.reconcile_cached(old.into()).await;
    assert_eq!(outcome.unwrap(), Action::requeue(SOON));
    assert_eq!(world.status()["fencingFloor"], floor);
    assert_eq!(world.snapshot().await.unwrap().limit, 4);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_removed_is_not_declared_and_awaits_a_change() {
    let world = World::new().await;
    world.api.before(Call::WriteStatus, ApiServer::remove);
    assert_eq!(world.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(world.snapshot().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_data_between_plan_and_declaration_is_planned_again() {
    let world = World::declared().await;
    world.api.change(|object| object["spec"]["permits"] = 9.into());
    let redis = world.redis.clone();
    world.api.before(Call::WriteStatus, move |_| redis.flush_all());
    assert_eq!(world.reconcile().await.unwrap(), Action::requeue(SOON));
    assert_eq!(world.snapshot().await, None, "it was planned for other data");

    world.reconcile().await.unwrap();
    let calls = world.calls();
    assert!(calls.contains(&"PublishEvent Recovering".to_owned()), "{calls:?}");
    assert_eq!(world.reason("Ready"), "Recovering");
}

/// The semaphore as it was applied, without the finalizer.
async fn applied() -> World {
    let world = World::new().await;
    world
        .api
        .change(|object| object["metadata"]["finalizers"] = json!([]));
    world
}

#[tokio::test(start_paused = true)]
async fn a_new_object_costs_two_writes_and_its_floor_is_kept_before_redis_has_it() {
    let world = applied().await;
    let redis = world.redis.clone();
    world.api.before(Call::WriteStatus, move |_| redis.flush_all());
    world.reconcile().await.unwrap();
    let expected = [
        "redis observe",
        "SetFinalizers",
        "redis declare",
        "redis observe",
        "WriteStatus",
    ];
    assert_eq!(world.calls(), expected);
    assert_eq!(world.reason("Ready"), "Synced");
    let annotation = world.api.object().unwrap()["metadata"]["annotations"].clone();
    let text = annotation[first_floor::ANNOTATION].as_str().unwrap();
    let floor = world.status()["fencingFloor"].to_string();
    assert!(text.starts_with(&format!("{floor} ")), "{text}");
    // The data was lost while the status was written.
    world.reconcile().await.unwrap();
    assert_eq!(world.reason("Ready"), "Recovering");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_ends_before_the_first_status_leaves_the_floor_to_the_next_one() {
    for declared in [false, true] {
        let mut world = applied().await;
        if declared {
            world
                .api
                .script(Call::WriteStatus, Answer::Error(500, "InternalError"));
        } else {
            world.redis.stop();
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.redis.restart(false);
            tokio::time::sleep(Duration::from_secs(5)).await;
            let redis = world.redis.clone();
            world.api.before(Call::SetFinalizers, move |_| redis.stop());
        }
        world.reconcile().await.unwrap_err();
        world.api.change(|object| object["status"] = json!(null));
        world.redis.restart(true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.other_controller().await;
        world.reconcile().await.unwrap();
        let text = world.api.object().unwrap()["metadata"]["annotations"][first_floor::ANNOTATION].clone();
        let kept: u64 = text.as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
        let floor = world.status()["fencingFloor"].as_u64().unwrap();
        assert!(floor >= kept, "{floor} after {kept}");
        // Leases that were granted before Redis lost the object, or never had it, may be running.
        assert_eq!(world.reason("Ready"), "Recovering", "declared: {declared}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_status_that_could_not_be_written_follows_without_a_recovery() {
    let world = applied().await;
    world
        .api
        .script(Call::WriteStatus, Answer::Error(500, "InternalError"));
    world.reconcile().await.unwrap_err();
    world.calls();
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe", "WriteStatus"]);
    assert_eq!(world.reason("Ready"), "Synced");
    assert_eq!(
        world.status()["fencingFloor"],
        world.snapshot().await.unwrap().last_fence
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_redis_is_reported_of_an_object_without_the_finalizer() {
    let world = applied().await;
    world.redis.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.reconcile().await.unwrap_err();
    assert_eq!(world.calls(), ["WriteStatus"]);
    assert_eq!(world.reason("Ready"), "BackendUnreachable");
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_of_another_client_is_kept_in_a_race() {
    let world = applied().await;
    world.api.before(Call::SetFinalizers, |api| {
        api.change(|object| object["metadata"]["finalizers"] = json!(["other"]));
    });
    assert_eq!(world.reconcile().await.unwrap(), Action::requeue(SOON));
    assert_eq!(world.cached().metadata.finalizers, Some(vec!["other".to_owned()]));
    assert_eq!(world.calls(), ["redis observe", "SetFinalizers"]);
    assert_eq!(world.snapshot().await, None);

    world.reconcile().await.unwrap();
    let both = vec!["other".to_owned(), finalizer::FINALIZER.to_owned()];
    assert_eq!(world.cached().metadata.finalizers, Some(both));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_removed_before_it_had_the_finalizer_awaits_a_change() {
    let world = applied().await;
    let cached = world.cached();
    world.delete(LONG_AGO);
    assert_eq!(world.api.object(), None);
    let outcome = world.reconcile_cached(cached).await;
    assert_eq!(outcome.unwrap(), Action::await_change());
    assert_eq!(world.snapshot().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_is_not_removed_from_a_version_that_was_not_seen() {
    let world = World::declared().await;
    world.delete(&now());
    world.api.before(Call::SetFinalizers, |api| {
        api.change(|object| object["spec"]["deletionPolicy"] = "Retain".into());
    });
    assert_eq!(world.reconcile().await.unwrap(), Action::requeue(SOON));
    assert!(world.api.object().is_some());

    assert_eq!(world.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(world.api.object(), None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_given_up_in_time_and_redis_is_left_alone() {
    let world = World::new().await;
    world.api.script(Call::WriteStatus, Answer::Silence);
    let started = Instant::now();
    let failure = world.reconcile().await.unwrap_err();
    assert!(matches!(failure, Failure::ApiTimeout), "{failure}");
    assert!(started.elapsed() < API_LIMIT + Duration::from_secs(1));
    assert_eq!(world.snapshot().await, None);

    let action = retry(&*world.cached(), &failure, &world.context);
    assert_ne!(action, Action::await_change());
    world.reconcile().await.unwrap();
    assert_eq!(world.reason("Ready"), "Synced");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_not_taken_does_not_stop_a_reconciliation() {
    let world = World::new().await;
    world.api.script(Call::PublishEvent, Answer::Silence);
    world.reconcile().await.unwrap();
    assert_eq!(world.reason("Ready"), "Synced");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_api_server_fails_and_is_retried() {
    let world = World::new().await;
    world
        .api
        .script(Call::WriteStatus, Answer::Error(500, "InternalError"));
    let failure = world.reconcile().await.unwrap_err();
    assert_eq!(failure.class(), "api");
    world.reconcile().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_redis_is_reported_once_and_retried() {
    let world = World::declared().await;
    world.redis.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for expected in [&["WriteStatus"][..], &[]] {
        let failure = world.reconcile().await.unwrap_err();
        assert_eq!(failure.class(), "redis_unreachable");
        assert_eq!(world.calls(), expected);
        let action = retry(&*world.cached(), &failure, &world.context);
        assert_ne!(action, Action::await_change());
    }
    assert_eq!(world.reason("BackendReachable"), "BackendUnreachable");
    assert_eq!(world.reason("Ready"), "BackendUnreachable");

    world.redis.restart(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.reason("BackendReachable"), "Connected");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_for_the_holders_and_then_leaves_no_key() {
    let world = World::declared().await;
    let client = world.user("worker").await;
    let semaphore = client.semaphore("callers").unwrap();
    let permit = semaphore.acquire().await.unwrap();
    world.delete(&now());
    world.calls();
    let action = world.reconcile().await.unwrap();
    assert_ne!(action, Action::await_change(), "the drain has an end");
    assert_eq!(world.reason("Ready"), "Deleting");
    assert_eq!(world.status()["held"], 1);
    assert!(
        semaphore.try_acquire().await.is_err(),
        "it was granted while draining"
    );

    permit.release().await.unwrap();
    assert_eq!(world.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(world.api.object(), None);
    assert_eq!(world.snapshot().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_too_long_publishes_its_event_before_leases_are_lost() {
    let world = World::declared().await;
    let client = world.user("worker").await;
    let permit = client.semaphore("callers").unwrap().acquire().await.unwrap();
    world.delete(LONG_AGO);
    world.calls();
    assert_eq!(world.reconcile().await.unwrap(), Action::await_change());
    let calls = world.calls();
    let expected = [
        "redis observe",
        "PublishEvent DrainTimedOut",
        "redis withdraw",
        "SetFinalizers",
    ];
    let relevant: Vec<_> = calls
        .iter()
        .filter(|call| expected.contains(&call.as_str()))
        .collect();
    assert_eq!(relevant, expected);
    timeout(SOON, permit.lost()).await.unwrap();
    assert_eq!(world.api.object(), None);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_redis_has_lost_is_not_removed_while_a_holder_may_be_left() {
    let world = World::declared().await;
    world.redis.flush_all();
    world.delete(&now());
    assert_eq!(world.reconcile().await.unwrap(), Action::requeue(LEASE));
    assert!(world.api.object().is_some());

    tokio::time::sleep(LEASE).await;
    assert_eq!(world.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(world.api.object(), None);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_gives_up_when_redis_stays_unreachable_and_names_the_command() {
    let mut world = World::declared().await;
    Arc::get_mut(&mut world.context).unwrap().limits.cleanup = Duration::ZERO;
    world.redis.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.delete(&now());
    let failure = world.reconcile().await.unwrap_err();
    retry(&*world.cached(), &failure, &world.context);
    assert_eq!(world.calls(), ["WriteStatus"]);

    assert_eq!(world.reconcile().await.unwrap(), Action::await_change());
    assert_eq!(world.calls(), ["PublishEvent CleanupSkipped", "SetFinalizers"]);
    assert_eq!(world.api.object(), None);
}

#[tokio::test(start_paused = true)]
async fn leases_of_an_ended_pod_are_reclaimed_and_shown_to_be_free() {
    let world = World::declared().await;
    let client = world.user("worker").await;
    let permit = client.semaphore("callers").unwrap().acquire().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["held"], 1);
    world
        .context
        .ended
        .note("worker".to_owned(), std::time::Instant::now());
    world.calls();
    world.reconcile().await.unwrap();
    timeout(SOON, permit.lost()).await.unwrap();
    assert_eq!(world.status()["held"], 0);
    let calls = world.calls();
    assert!(
        calls.contains(&"PublishEvent ReclaimedFromEndedPod".to_owned()),
        "{calls:?}"
    );
}

/// A world whose semaphore is held by so many leases, the last of them by the pod `last`.
async fn held_by_last(count: usize) -> (World, tenure::Client, Vec<Lease>, Lease) {
    let world = World::new().await;
    world.api.change(|object| object["spec"]["permits"] = 50.into());
    world.reconcile().await.unwrap();
    let (client, last) = (world.user("first").await, world.user("last").await);
    let first = client.semaphore("callers").unwrap();
    let mut permits = Vec::new();
    for _ in 1..count {
        permits.push(first.acquire().await.unwrap());
    }
    let unlisted = last.semaphore("callers").unwrap().acquire().await.unwrap();
    (world, last, permits, unlisted)
}

fn end(world: &World, pod: &str) {
    let ended = &world.context.ended;
    assert!(ended.note(pod.to_owned(), std::time::Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_long_list_is_searched_for_a_pod_that_has_ended_and_only_then() {
    let (world, _last, _permits, unlisted) = held_by_last(40).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["held"], 40);
    let name = world.cached().declares().unwrap();
    let concerned = world.context.holders.of(&["last".to_owned()]);
    assert!(concerned.contains(&name), "the last one is not listed");

    end(&world, "last");
    world.reconcile().await.unwrap();
    timeout(SOON, unlisted.lost()).await.unwrap();
    assert_eq!(world.status()["held"], 39);
    world.calls();
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"], "no pod has ended since");

    end(&world, "unrelated");
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe", "redis observe"], "a search");
    world.reconcile().await.unwrap();
    assert_eq!(world.calls(), ["redis observe"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_while_the_observation_is_out_of_date_is_found_by_the_next_one() {
    let (world, _last, mut permits, unlisted) = held_by_last(10).await;
    let name = world.cached().declares().unwrap();
    unlisted.release().await.unwrap();
    world.reconcile().await.unwrap();
    assert!(world.context.holders.of(&["last".to_owned()]).is_empty());

    // It is granted behind more holders than a status lists, and ends before the object is observed again.
    let first = world.user("first").await.semaphore("callers").unwrap();
    for _ in 0..30 {
        permits.push(first.acquire().await.unwrap());
    }
    let last = world.user("last").await;
    let unlisted = last.semaphore("callers").unwrap().acquire().await.unwrap();
    end(&world, "last");
    assert!(!world.context.holders.of(&["last".to_owned()]).contains(&name));
    world.reconcile().await.unwrap();
    timeout(SOON, unlisted.lost()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_pod_is_not_forgotten_with_a_failed_reconciliation() {
    let (world, _last, _permits, unlisted) = held_by_last(40).await;
    world.reconcile().await.unwrap();
    end(&world, "last");
    world.api.change(|object| object["spec"]["permits"] = 60.into());
    world
        .api
        .script(Call::WriteStatus, Answer::Error(500, "InternalError"));
    world.reconcile().await.unwrap_err();
    world.reconcile().await.unwrap();
    timeout(SOON, unlisted.lost()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_controller_has_shortened_may_still_be_running() {
    let mut world = World::new().await;
    let lease = |seconds: u32| {
        move |object: &mut serde_json::Value| object["spec"]["leaseDurationSeconds"] = seconds.into()
    };
    world.api.change(lease(60));
    world.reconcile().await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    world.reconcile().await.unwrap();

    world.api.change(lease(30));
    let first = world.other_controller().await;
    world.reconcile().await.unwrap();
    world.context = first;
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["leaseDurationSeconds"], 60);

    tokio::time::sleep(Duration::from_secs(60)).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["leaseDurationSeconds"], 30);
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_follows_the_newest_token_starts_no_new_declaration() {
    let world = World::new().await;
    let lease = |seconds: u32| {
        move |object: &mut serde_json::Value| object["spec"]["leaseDurationSeconds"] = seconds.into()
    };
    world.api.change(lease(600));
    world.reconcile().await.unwrap();
    world.api.change(lease(30));
    world.reconcile().await.unwrap();
    assert_eq!(world.status()["leaseDurationSeconds"], 600);
    // In each five minutes, so many permits are granted that the floor in the status is raised.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(300)).await;
        let last = world.snapshot().await.unwrap().last_fence + (1 << 24) + 1;
        let set = [
            "HSET",
            "tenure:{ml/semaphore/callers}:obj",
            "last",
            &last.to_string(),
        ];
        world.redis.command(&set).unwrap();
        world.reconcile().await.unwrap();
    }
    assert_eq!(
        world.status()["leaseDurationSeconds"],
        30,
        "no lease of 600 s is left"
    );
}
