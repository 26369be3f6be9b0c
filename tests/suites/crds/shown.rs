//! Stored fields of an object, and the output of kubectl.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::json;
use tenure_crds::{
    Assessment, CommonStatus, Condition, ConditionReason, ConditionStatus, ConditionType, Generate, Holder,
    LeasePolicy, LockPool, LockPoolSpec, LockPoolStatus, MAX_HELD_BY, MAX_LISTED, MAX_MESSAGE, MAX_POD,
    MAX_REASON, Order, PermitHolder, Resource, ResourceHolder, Semaphore, SemaphoreSpec, SemaphoreStatus,
    Time, Waiter, merge,
};
use tenure_tests::{Context, ControlPlane, Result, ensure, eventually};

#[tokio::test]
async fn the_samples_apply_and_get_the_defaults() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("samples").await?;
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/samples");
    plane.kubectl(&["-n", &namespace, "apply", "-f", samples]).await?;

    let client = plane.client().await?;
    let pool = Api::<LockPool>::namespaced(client.clone(), &namespace)
        .get("gpu-seats")
        .await?;
    let seat = |name: &str, host: &str| Resource {
        name: name.to_owned(),
        properties: BTreeMap::from([("host".to_owned(), host.to_owned())]),
        disabled: false,
    };
    assert_eq!(
        pool.spec,
        LockPoolSpec {
            resources: vec![seat("seat-a", "gpu-1"), seat("seat-b", "gpu-2")],
            generate: None,
            order: Order::LeastRecentlyUsed,
            lease: LeasePolicy {
                max_hold_seconds: Some(3600),
                ..LeasePolicy::default()
            },
        }
    );
    let semaphore = Api::<Semaphore>::namespaced(client, &namespace)
        .get("api-callers")
        .await?;
    assert_eq!(
        semaphore.spec,
        SemaphoreSpec {
            permits: 3,
            lease: LeasePolicy::default()
        }
    );
    Ok(())
}

const ACQUIRED: Timestamp = Timestamp::constant(1_767_323_045, 0); // 2026-01-02T03:04:05Z
const RENEWABLE_UNTIL: Timestamp = Timestamp::constant(1_767_323_075, 0); // 2026-01-02T03:04:35Z

fn conditions(message: &str) -> Vec<Condition> {
    let found = ConditionType::ALL.map(|type_| Assessment {
        type_,
        status: ConditionStatus::from(matches!(
            type_,
            ConditionType::Ready | ConditionType::BackendReachable
        )),
        reason: ConditionReason::Synced,
        message: message.to_owned(),
    });
    merge(&[], &found, Some(1), ACQUIRED)
}

fn holder(token: usize, pod: &str, reason: &str) -> Holder {
    Holder {
        token: format!("token-{token}"),
        pod: pod.to_owned(),
        namespace: None,
        reason: reason.to_owned(),
        fencing_token: 1_795_251_942_000_001,
        acquired_at: Time(ACQUIRED),
        renewable_until: Some(Time(RENEWABLE_UNTIL)),
    }
}

/// A status in which everything is as long as it may be.
fn largest() -> (CommonStatus, Vec<Holder>) {
    let (pod, reason) = ("p".repeat(MAX_POD), "ß".repeat(MAX_REASON));
    let common = CommonStatus {
        conditions: conditions(&"m".repeat(MAX_MESSAGE)),
        observed_generation: Some(1),
        controller: Some("c".repeat(317)),
        total: 1_000_000,
        held: u32::MAX,
        free: 1_000_000,
        waiting: u32::MAX,
        held_by: "h".repeat(MAX_HELD_BY),
        waiters: (1..)
            .take(MAX_LISTED)
            .map(|position| Waiter {
                position,
                pod: pod.clone(),
                namespace: Some("n".repeat(63)),
                reason: reason.clone(),
                permits: 1_000_000,
                since: Time(ACQUIRED),
            })
            .collect(),
        truncated: true,
        lease_duration_seconds: Some(30),
        fencing_floor: Some(i64::MAX.unsigned_abs()),
        fencing_floor_time: Some(Time(ACQUIRED)),
    };
    let holders = (0..MAX_LISTED)
        .map(|token| holder(token, &pod, &reason))
        .collect();
    (common, holders)
}

fn on_resources(holders: Vec<Holder>) -> Vec<ResourceHolder> {
    let names = (0..).map(|number| format!("seat-{number}"));
    names
        .zip(holders)
        .map(|(resource, holder)| ResourceHolder { resource, holder })
        .collect()
}

fn pool(name: &str) -> LockPool {
    let generate = Generate {
        prefix: "seat-".to_owned(),
        count: 64,
    };
    LockPool::new(
        name,
        LockPoolSpec {
            generate: Some(generate),
            ..LockPoolSpec::default()
        },
    )
}

async fn report<K>(api: &Api<K>, object: &mut K, change: impl FnOnce(&mut K)) -> Result<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::Serialize
        + for<'de> Deserialize<'de>
        + std::fmt::Debug,
{
    change(object);
    let name = object.meta().name.clone().context("no name")?;
    Ok(api.replace_status(&name, &PostParams::default(), object).await?)
}

#[tokio::test]
async fn the_largest_status_is_stored_as_it_is_and_a_larger_one_is_refused() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("largest").await?;
    let client = plane.client().await?;
    let (common, holders) = largest();

    let pools = Api::<LockPool>::namespaced(client.clone(), &namespace);
    let status = LockPoolStatus {
        common: common.clone(),
        holders: on_resources(holders.clone()),
    };
    let mut object = pools.create(&PostParams::default(), &pool("largest")).await?;
    let mut stored = report(&pools, &mut object, |pool| pool.status = Some(status.clone())).await?;
    assert_eq!(stored.status, Some(status.clone()));
    let more = ResourceHolder {
        resource: "one-more".to_owned(),
        holder: holder(99, "p", ""),
    };
    let refused = report(&pools, &mut stored, |pool| {
        let mut status = status;
        status.holders.push(more);
        pool.status = Some(status);
    });
    let message = format!("{:#}", refused.await.unwrap_err());
    // Kubernetes 1.30 names fields of the status without `status`.
    let field = if plane.minor_version().await? < 31 {
        "invalid: [holders:"
    } else {
        "status.holders"
    };
    assert!(
        message.contains(field) && message.contains("at most 32 items"),
        "{message}"
    );

    let semaphores = Api::<Semaphore>::namespaced(client, &namespace);
    let holders = holders
        .into_iter()
        .map(|holder| PermitHolder {
            permits: 1_000_000,
            holder,
        })
        .collect();
    let status = SemaphoreStatus { common, holders };
    let semaphore = Semaphore::new(
        "largest",
        SemaphoreSpec {
            permits: 1,
            ..SemaphoreSpec::default()
        },
    );
    let mut object = semaphores.create(&PostParams::default(), &semaphore).await?;
    let stored = report(&semaphores, &mut object, |semaphore| {
        semaphore.status = Some(status.clone());
    })
    .await?;
    assert_eq!(stored.status, Some(status));
    Ok(())
}

/// The columns show the first holder and the first waiter, so the order of the lists matters.
#[tokio::test]
async fn holders_stay_in_the_order_in_which_they_are_applied() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("order").await?;
    let pools = Api::<LockPool>::namespaced(plane.client().await?, &namespace);
    pools.create(&PostParams::default(), &pool("order")).await?;
    for order in [
        vec!["b", "c", "a"],
        vec!["d", "c", "a", "b"],
        vec!["a", "d"],
        vec![],
        vec!["z", "a", "d"],
    ] {
        let holders: Vec<_> = order
            .iter()
            .enumerate()
            .map(|(token, resource)| ResourceHolder {
                resource: (*resource).to_owned(),
                holder: holder(token, "p", ""),
            })
            .collect();
        let patch = json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool",
            "status": LockPoolStatus { holders, ..LockPoolStatus::default() },
        });
        let params = PatchParams::apply("tenure-controller").force();
        let stored = pools.patch_status("order", &params, &Patch::Apply(patch)).await?;
        let found: Vec<_> = stored
            .status
            .iter()
            .flat_map(|status| &status.holders)
            .map(|one| &*one.resource)
            .collect();
        assert_eq!(found, order);
    }
    Ok(())
}

/// The column titles of the first line, each with its value in the line of `name`.
fn table(output: &str, name: &str) -> Result<Vec<(String, String)>> {
    let head = output.lines().next().context("no output")?;
    let row = output
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name));
    let row = row.with_context(|| format!("no {name} in\n{output}"))?;
    let starts: Vec<_> = (0..head.len())
        .filter(|at| !head[*at..].starts_with(' ') && (*at == 0 || head[..*at].ends_with("   ")))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
    let cell = |line: &str, from: usize, to: usize| {
        line.get(from..to.min(line.len()))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Ok(starts
        .iter()
        .zip(ends)
        .map(|(from, to)| (cell(head, *from, to), cell(row, *from, to)))
        .collect())
}

fn some_status() -> (CommonStatus, Vec<Holder>) {
    let waiter = Waiter {
        position: 1,
        pod: "gpu-worker-9".to_owned(),
        namespace: None,
        reason: String::new(),
        permits: 1,
        since: Time(ACQUIRED),
    };
    let common = CommonStatus {
        conditions: conditions("2 of 64 are held, 4 requests wait"),
        observed_generation: Some(1),
        controller: Some("tenure/tenure".to_owned()),
        total: 64,
        held: 2,
        free: 62,
        waiting: 4,
        held_by: "gpu-worker-1 (seat-0) +1".to_owned(),
        waiters: vec![waiter],
        truncated: true,
        lease_duration_seconds: Some(30),
        fencing_floor: Some(1_795_251_942_000_000),
        fencing_floor_time: Some(Time(ACQUIRED)),
    };
    (
        common,
        vec![
            holder(0, "gpu-worker-1", "nightly"),
            holder(1, "gpu-worker-2", ""),
        ],
    )
}

#[tokio::test]
async fn a_line_of_kubectl_get_fits_120_columns() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("narrow").await?;
    let pools = Api::<LockPool>::namespaced(plane.client().await?, &namespace);
    let (common, holders) = largest();
    let name = "n".repeat(24);
    let mut object = pools.create(&PostParams::default(), &pool(&name)).await?;
    let status = LockPoolStatus {
        common: CommonStatus {
            held: 1_000_000,
            waiting: 1_000_000,
            ..common
        },
        holders: on_resources(holders),
    };
    report(&pools, &mut object, |pool| pool.status = Some(status)).await?;
    let output = plane.kubectl(&["-n", &namespace, "get", "lp"]).await?;
    for line in output.lines() {
        ensure!(line.trim_end().len() <= 120, "{} columns: {line}", line.len());
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_get_shows_holders_resources_and_expiry() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("columns").await?;
    let client = plane.client().await?;
    let (common, holders) = some_status();
    let get = async |what: &str, more: &[&str]| {
        let args: Vec<_> = ["-n", &*namespace, "get", what]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        plane.kubectl(&args).await
    };

    let pools = Api::<LockPool>::namespaced(client.clone(), &namespace);
    let mut object = pools.create(&PostParams::default(), &pool("gpu-seats")).await?;
    let status = LockPoolStatus {
        common: common.clone(),
        holders: on_resources(holders.clone()),
    };
    report(&pools, &mut object, |pool| pool.status = Some(status)).await?;
    let semaphores = Api::<Semaphore>::namespaced(client, &namespace);
    let semaphore = Semaphore::new(
        "api-callers",
        SemaphoreSpec {
            permits: 64,
            ..SemaphoreSpec::default()
        },
    );
    let mut object = semaphores.create(&PostParams::default(), &semaphore).await?;
    let holders = holders
        .into_iter()
        .map(|holder| PermitHolder { permits: 1, holder })
        .collect();
    report(&semaphores, &mut object, |semaphore| {
        semaphore.status = Some(SemaphoreStatus { common, holders });
    })
    .await?;

    let pool = [
        ("TOTAL", "64"),
        ("HELD", "2"),
        ("WAITING", "4"),
        ("HELD BY", "gpu-worker-1 (seat-0) +1"),
        ("READY", "True"),
    ];
    let mut semaphore = pool;
    semaphore[0].0 = "PERMITS";
    let wide = [
        ("UNTIL", "2026-01-02T03:04:35Z"),
        ("FIRST HOLDER", "gpu-worker-1"),
        ("SECOND HOLDER", "gpu-worker-2"),
        ("FREE", "62"),
        ("NEXT", "gpu-worker-9"),
        ("LEASE SECONDS", "30"),
        ("MAX HOLD SECONDS", ""),
        ("REASON", "Synced"),
        ("MESSAGE", "2 of 64 are held, 4 requests wait"),
    ];
    for (what, name, cells) in [("lp", "gpu-seats", pool), ("sem", "api-callers", semaphore)] {
        let output = get(what, &[]).await?;
        let mut shown = table(&output, name)?;
        // Values that change with the clock appear only there.
        for column in ["OLDEST", "AGE"] {
            let at = shown
                .iter()
                .position(|(head, _)| head == column)
                .context(column)?;
            ensure!(!shown.remove(at).1.is_empty(), "{column} is empty in\n{output}");
        }
        let shown: Vec<_> = shown
            .iter()
            .map(|(head, cell)| (head.as_str(), cell.as_str()))
            .collect();
        assert_eq!(shown[0], ("NAME", name));
        assert_eq!(shown[1..], cells, "{output}");

        let output = get(what, &["-o", "wide"]).await?;
        let shown = table(&output, name)?;
        for (head, cell) in wide {
            assert!(
                shown.contains(&(head.to_owned(), cell.to_owned())),
                "no {head} {cell} in\n{output}"
            );
        }
    }
    let all = get("tenure", &["-o", "name"]).await?;
    assert_eq!(
        all,
        "lockpool.tenure.dev/gpu-seats\nsemaphore.tenure.dev/api-callers\n"
    );
    let ready = [
        "-n",
        &namespace,
        "wait",
        "--for=condition=Ready",
        "--timeout=5s",
        "lp/gpu-seats",
        "sem/api-callers",
    ];
    plane.kubectl(&ready).await?;
    Ok(())
}

#[tokio::test]
async fn kubectl_explain_describes_every_field() -> Result {
    let plane = ControlPlane::shared().await?;
    for (path, words) in [
        ("lockpool", "each held by one holder at a time"),
        (
            "lockpool.spec",
            "leaseDurationSeconds <integer> Length of a lease in seconds, 1 to 86400",
        ),
        (
            "lockpool.spec",
            "enum: OnPodEnd, OnExpiry Event that ends a lease early",
        ),
        (
            "lockpool.spec.resources",
            "disabled <boolean> Takes the resource out of service",
        ),
        (
            "lockpool.status.holders",
            "fencingToken <integer> -required- Fencing token: a number that grows with each grant, and no secret",
        ),
        (
            "lockpool.status.holders",
            "token <string> -required- Id of the lease: a random text, and no secret",
        ),
        (
            "semaphore.spec",
            "permits <integer> -required- Number of permits, 0 to 1000000",
        ),
        (
            "semaphore.status.conditions",
            "reason <string> -required- The reason for the last change, in CamelCase: Synced,",
        ),
    ] {
        // The API server publishes the schemas a moment after it has established the definitions.
        let explained = eventually("the schemas", Duration::from_secs(30), async || {
            plane.kubectl(&["explain", path]).await
        });
        let output = explained.await?;
        let joined = output.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            joined.contains(words),
            "{words:?} is not in kubectl explain {path}:\n{output}"
        );
        assert!(
            !joined.contains("<no description>"),
            "kubectl explain {path}:\n{output}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_scale_changes_the_permits_of_a_semaphore() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("scale").await?;
    let semaphores = Api::<Semaphore>::namespaced(plane.client().await?, &namespace);
    let semaphore = Semaphore::new(
        "api-callers",
        SemaphoreSpec {
            permits: 3,
            ..SemaphoreSpec::default()
        },
    );
    let mut object = semaphores.create(&PostParams::default(), &semaphore).await?;
    let common = CommonStatus {
        total: 3,
        ..CommonStatus::default()
    };
    let status = SemaphoreStatus {
        common,
        ..SemaphoreStatus::default()
    };
    report(&semaphores, &mut object, |semaphore| {
        semaphore.status = Some(status);
    })
    .await?;

    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        plane
            .kubectl(&["-n", &namespace, "scale", "semaphore", "api-callers", &replicas])
            .await
    };
    scale("8").await?;
    assert_eq!(semaphores.get("api-callers").await?.spec.permits, 8);
    let in_force = semaphores.get_scale("api-callers").await?;
    assert_eq!(in_force.spec.and_then(|spec| spec.replicas), Some(8), "wanted");
    assert_eq!(in_force.status.map(|status| status.replicas), Some(3), "in force");

    let message = format!("{:#}", scale("1000001").await.unwrap_err());
    assert!(
        message.contains("spec.permits") && message.contains("less than or equal to 1000000"),
        "{message}"
    );
    assert_eq!(semaphores.get("api-callers").await?.spec.permits, 8);
    Ok(())
}
