//! Violations: a password that can be read, and people who may do too much or too little.

use serde_json::json;
use tenure_tests::{Result, ensure, eventually};

use crate::{SOON, cluster::Cluster, objects::NAMESPACE};

/// The password is random, and stands in its Secret alone: in no other object, and in no log.
pub(crate) async fn password(cluster: &Cluster) -> Result {
    let encoded = cluster.password().await?;
    let decoded = "go-template={{.data.password | base64decode}}";
    let password = cluster
        .kubectl(&["get", "secret", "tenure-redis", "-o", decoded])
        .await?;
    ensure!(password.len() >= 32, "the password is short: {password}");
    let mut public = cluster
        .kubectl(&["get", "pods,configmaps,statefulsets,deployments", "-o", "yaml"])
        .await?;
    for pod in ["tenure-redis-0", "deployment/tenure-controller", "tenure-test"] {
        public += &cluster.kubectl(&["logs", pod]).await?;
    }
    for secret in [encoded, password] {
        ensure!(
            !public.contains(&secret),
            "the password stands in an object or in a log"
        );
    }
    Ok(())
}

/// A user that may see and change objects in a namespace may see and change ours, and no user may write a status.
pub(crate) async fn roles(cluster: &Cluster) -> Result {
    for (role, user) in [("view", "--user=viewer"), ("edit", "--user=editor")] {
        cluster
            .kubectl(&[
                "create",
                "rolebinding",
                role,
                &format!("--clusterrole={role}"),
                user,
            ])
            .await?;
    }
    // Roles are aggregated a moment after they were made.
    eventually("the roles to be as they should", SOON, async || {
        for (user, verb, resource, expected) in [
            ("viewer", "list", "lockpools", true),
            ("viewer", "watch", "semaphores", true),
            ("viewer", "create", "lockpools", false),
            ("viewer", "update", "semaphores/scale", false),
            ("editor", "list", "semaphores", true),
            ("editor", "create", "lockpools", true),
            ("editor", "delete", "semaphores", true),
            ("editor", "patch", "semaphores/scale", true),
            ("editor", "patch", "lockpools/status", false),
            ("stranger", "list", "lockpools", false),
        ] {
            let may = may(cluster, user, verb, resource).await?;
            ensure!(may == expected, "may {user} {verb} {resource}? {may}");
        }
        Ok(())
    })
    .await
}

async fn may(cluster: &Cluster, user: &str, verb: &str, resource: &str) -> Result<bool> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": {
            "namespace": NAMESPACE, "group": "tenure.dev", "verb": verb, "resource": resource,
            "subresource": subresource,
        }},
    });
    let answer = cluster.create(&review, "jsonpath={.status.allowed}").await?;
    Ok(answer == "true")
}
