//! Applied objects.

use std::path::Path;

use serde_json::{Value, json};
use tenure::control::acl;
use tenure_tests::Result;

pub(crate) const NAMESPACE: &str = "tenure-e2e";
/// The namespace of an application that is there before the installation.
pub(crate) const APPLICATION: &str = "tenure-e2e-application";
pub(crate) const POOL: &str = "licence";
/// Length of a lease, and the time for which nothing new is granted after a restart of Redis.
pub(crate) const LEASE_SECONDS: u64 = 15;
/// The selector of our volumes.
pub(crate) const VOLUMES: &str = "app=tenure-e2e";
/// The password of [`other_redis`].
pub(crate) const OTHER_PASSWORD: &str = "sesame";

/// Our namespace, in which pods may do as little as can be.
pub(crate) fn namespace() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted",
        }},
    })
}

/// The volume for the chart's Redis.
pub(crate) fn volume(path: &Path) -> Value {
    claimed(NAMESPACE, path, "data-tenure-redis-0")
}

/// The volume for one of three pods of Redis.
pub(crate) fn volume_of_node(path: &Path, number: u32) -> Value {
    let (name, claim) = (
        format!("{NAMESPACE}-{number}"),
        format!("data-tenure-redis-node-{number}"),
    );
    claimed(&name, &path.join(format!("node-{number}")), &claim)
}

fn claimed(name: &str, path: &Path, claim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": {"app": NAMESPACE}},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path, "type": "Directory"},
            "claimRef": {"namespace": NAMESPACE, "name": claim},
        },
    })
}

/// The pool of one licence.
pub(crate) fn pool() -> Value {
    json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool", "metadata": {"name": POOL, "namespace": NAMESPACE},
        "spec": {"resources": [{"name": "only"}], "leaseDurationSeconds": LEASE_SECONDS},
    })
}

/// The namespace of the application.
pub(crate) fn application_namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": APPLICATION}})
}

/// A pool and a Job that holds a seat of it, as the README of the chart shows.
pub(crate) fn application() -> Value {
    let metadata = json!({"name": "gpu-seats", "namespace": APPLICATION});
    let mut job = job("train", &["pool", "gpu-seats"]);
    job["metadata"]["namespace"] = APPLICATION.into();
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "tenure.dev/v1alpha1", "kind": "LockPool", "metadata": metadata,
         "spec": {"resources": [{"name": "seat-a"}, {"name": "seat-b"}]}},
        job,
    ]})
}

/// A Job that holds what these arguments of the worker name, until it is killed.
pub(crate) fn job(name: &str, what: &[&str]) -> Value {
    let command = [
        &["tenure-worker"],
        what,
        &["--hold-ms", "3600000", "--reason", name],
    ]
    .concat();
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"backoffLimit": 20, "template": {
            "metadata": {"labels": {"tenure.dev/redis-client": "true"}},
            "spec": restricted(65532, &json!({
                "name": "worker", "image": concat!("tenure-worker:", env!("CARGO_PKG_VERSION")),
                "command": command,
                "envFrom": [{"secretRef": {"name": "tenure-access"}}],
                "env": [
                    field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
                    field("POD_UID", "metadata.uid"),
                ],
            })),
        }},
    })
}

/// A Redis that the chart knows nothing of: a pod with the users that docs/redis.md describes, its service, and Secrets for the controller
/// and for pods of our namespace.
pub(crate) fn other_redis(image: &str) -> Result<Value> {
    let metadata = json!({"name": "other", "namespace": NAMESPACE, "labels": {"app": "other"}});
    let password = format!(">{OTHER_PASSWORD}");
    let user = |name: &str, rules: Vec<String>| {
        let head = ["--user", name, "on", &password].map(str::to_owned);
        [&head[..], &rules].concat()
    };
    let server = [
        "redis-server",
        "--save",
        "",
        "--user",
        "default",
        "off",
        "~*",
        "&*",
        "+@all",
    ]
    .map(str::to_owned);
    let command = [
        &server[..],
        &user("controller", acl::controller_rules("e2e")?),
        &user("pods", acl::tenant_rules("e2e", NAMESPACE)?),
    ]
    .concat();
    let host = format!("other.{NAMESPACE}.svc:6379");
    let pods = json!({"name": "other-pods", "namespace": NAMESPACE});
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": restricted(999, &json!({
            "name": "redis", "image": image, "command": command,
        }))},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata,
         "spec": {"selector": {"app": "other"}, "ports": [{"port": 6379}]}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
         "stringData": {"url": format!("redis://{host}"), "password": OTHER_PASSWORD}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": pods,
         "stringData": {"url": format!("redis://pods:{OTHER_PASSWORD}@{host}")}},
    ]}))
}

/// A pod of one container that may do as little as can be.
fn restricted(user: u32, container: &Value) -> Value {
    let mut container = container.clone();
    container["securityContext"] = json!({
        "runAsUser": user, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    json!({
        "restartPolicy": "Never", "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    })
}
