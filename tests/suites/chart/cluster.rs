//! Refusals at an installation or an upgrade for what the cluster has.

use tenure_tests::{Context, ControlPlane, Result, ensure};

use super::{RELEASE, chart, helm_with};

/// The error of a rendering with the answers of the cluster, or nothing if it is taken.
async fn refusal(plane: &ControlPlane, namespace: &str, set: &str) -> Result<Option<String>> {
    let chart = chart();
    let args = [
        "template",
        RELEASE,
        &chart,
        "--namespace",
        namespace,
        "--dry-run=server",
        // Objects that are there belong to no release.
        "--is-upgrade",
        "--set",
        set,
    ];
    Ok(helm_with(plane, &args)
        .await
        .err()
        .map(|error| format!("{error:#}")))
}

#[tokio::test]
async fn a_secret_that_lacks_a_key_is_refused_with_the_key_and_the_fix() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-keys").await?;
    let create = [
        "create",
        "secret",
        "generic",
        "mine",
        "--from-literal=ca.crt=x",
        "--namespace",
        &namespace,
    ];
    plane.kubectl(&create).await?;
    let half = [
        "create",
        "secret",
        "generic",
        "without-node",
        "--from-literal=password=x",
    ];
    plane
        .kubectl(&[&half[..], &["--namespace", &namespace]].concat())
        .await?;
    let external = "redis.enabled=false,externalRedis.existingSecret";
    for (set, message) in [
        (
            "redis.auth.existingSecret=mine",
            "that Secret has no key password: add the key to it",
        ),
        (
            "redis.mode=replicated,redis.auth.existingSecret=without-node",
            "that Secret has no key node-password: add the key to it",
        ),
        (
            "redis.tls.enabled=true,redis.tls.existingSecret=mine",
            "has no key tls.crt",
        ),
        (&format!("{external}=mine"), "that Secret has no key url"),
        (
            &format!(
                "{external}=other,externalRedis.tls.existingSecret=mine,externalRedis.tls.certKey=tls.crt,externalRedis.tls.keyKey=tls.key"
            ),
            "has no key tls.crt: correct externalRedis.tls.caKey, certKey and keyKey",
        ),
    ] {
        let error = refusal(plane, &namespace, set)
            .await?
            .with_context(|| format!("{set} is taken"))?;
        ensure!(error.contains(message), "{set}: {error}");
    }
    // A Secret with authorities alone, and one that is made later.
    for set in [
        &format!("{external}=other,externalRedis.tls.existingSecret=mine"),
        "redis.auth.existingSecret=later",
    ] {
        let error = refusal(plane, &namespace, set).await?;
        ensure!(error.is_none(), "{set}: {error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_read_the_file_of_the_running_one_is_refused() -> Result {
    let plane = ControlPlane::shared().await?;
    for (running, cases) in [
        (
            "valkey/valkey:8.1",
            &[
                ("library/redis", "7.0", false),
                ("library/redis", "8.2", true),
                ("valkey/valkey", "9.0", true),
            ][..],
        ),
        (
            "redis:7.0-bookworm",
            &[("valkey/valkey", "8.1.3", true), ("library/redis", "v8.6", true)],
        ),
        (
            "redis:8.2",
            &[
                ("valkey/valkey", "9.1", false),
                ("library/redis", "7.2", false),
                ("library/redis", "8.6", true),
            ],
        ),
        (
            "valkey/valkey:9.0",
            &[
                ("valkey/valkey", "8.1", false),
                ("library/redis", "8.6", false),
                ("valkey/valkey", "9.1", true),
            ],
        ),
        // Nothing is known.
        ("mirror/cache:1.0", &[("valkey/valkey", "8.1", true)]),
        ("valkey/valkey@sha256:0f", &[("library/redis", "7.0", true)]),
    ] {
        let namespace = plane.namespace("chart-moves").await?;
        plane
            .apply(&format!(
                "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: tenure-redis, namespace: {namespace}}}\n\
                 spec:\n  serviceName: x\n  selector: {{matchLabels: {{a: b}}}}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    \
                 spec: {{containers: [{{name: redis, image: \"{running}\"}}]}}\n"
            ))
            .await?;
        for (repository, tag, works) in cases {
            let set = format!("redis.image.repository={repository},redis.image.tag={tag}");
            let error = refusal(plane, &namespace, &set).await?;
            match (works, &error) {
                (true, error) => ensure!(error.is_none(), "{running} to {repository}:{tag}: {error:?}"),
                (false, Some(error)) => {
                    ensure!(error.contains("cannot read the file of the running"), "{error}");
                }
                (false, None) => tenure_tests::bail!("{running} to {repository}:{tag} is taken"),
            }
        }
        let empty = format!(
            "redis.image.repository={},redis.image.tag=7.0,redis.persistence.enabled=false",
            "library/redis"
        );
        ensure!(
            refusal(plane, &namespace, &empty).await?.is_none(),
            "without a volume there is no file"
        );
    }
    Ok(())
}
