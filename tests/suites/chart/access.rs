//! The values under `access`, and what they render.

use std::fs;

use tenure_tests::{Context, ControlPlane, Result, bail, ensure, eventually, process::folder, unique};

use super::{chart, helm, refusals::is_refused};

#[tokio::test]
async fn a_bad_value_is_refused_with_a_message_that_names_it() -> Result {
    for (set, message) in [
        (
            "access.enabled=maybe",
            "at '/access/enabled': value must be one of 'auto', true, false",
        ),
        (
            "access.namespaces[0]=Ml",
            "access.namespaces[0] is \"Ml\": write the name of a namespace",
        ),
        ("access.maxAge=24", "at '/access/maxAge': got number, want string"),
        (
            "access.redisUrl=redis://a:b@c",
            "access.redisUrl is \"redis://a:b@c\": write a URL without credentials",
        ),
        (
            "access.enabled=false,access.redisUrl=redis://c",
            "access.redisUrl is set, but access is off",
        ),
        (
            "access.overlap=soon",
            "access.overlap is \"soon\": write a number and a unit",
        ),
        (
            "access.enabled=true,watchNamespaces[0]=ml",
            "access.enabled is true, but watchNamespaces is set",
        ),
    ] {
        is_refused(set, message).await?;
    }
    Ok(())
}

/// The chart's role allows to make a Secret of one name; the policy allows one type.
#[tokio::test]
async fn the_controller_cannot_make_a_secret_with_the_token_of_a_service_account() -> Result {
    let plane = ControlPlane::shared().await?;
    let (namespace, release) = (plane.namespace("chart-access").await?, unique("r"));
    let show = ["--namespace", &namespace, "--show-only", "templates/access.yaml"];
    let chart = chart();
    let rendered = helm(&[&["template", &release, &chart][..], &show].concat()).await?;
    plane.apply(&rendered.stdout).await?;
    let file = folder("secret")?.join("secret.yaml");
    let user = format!("--as=system:serviceaccount:{namespace}:{release}-tenure-controller");
    let create = async |type_: &str| {
        let annotation = "annotations: {kubernetes.io/service-account.name: default}";
        let meta = format!("metadata: {{name: tenure-access, namespace: {namespace}, {annotation}}}");
        fs::write(
            &file,
            format!("apiVersion: v1\nkind: Secret\n{meta}\ntype: {type_}\n"),
        )?;
        let path = file.to_str().context("an odd folder")?;
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=false",
            "-f",
            path,
            &user,
        ];
        plane.kubectl(&apply).await
    };
    let create = &create;
    create("servicebinding.io/redis").await?;
    // A policy takes a moment to be in force.
    eventually(
        "the policy",
        std::time::Duration::from_secs(60),
        async || match create("kubernetes.io/service-account-token").await {
            Ok(_) => bail!("it is made"),
            Err(error) => {
                let error = format!("{error:#}");
                ensure!(
                    error.contains("of the type servicebinding.io/redis alone"),
                    "{error}"
                );
                Ok(())
            }
        },
    )
    .await
}
