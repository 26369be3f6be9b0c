//! `redis.tls`: the rendered pod of Redis with certificates that a real controller has made.

use std::{fs, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tenure_tests::{
    Context, ControlPlane, Controller, Result, ensure, eventually,
    process::{folder, free_port},
};

use super::{mode_file, objects, probes::Pod, render};

const SOON: Duration = Duration::from_secs(20);
const SECRETS: [&str; 2] = ["tenure-redis", "tenure-redis-tls"];

/// Redis and a controller over TLS, from nothing but the empty Secrets of the chart; then the certificate is renewed.
#[tokio::test]
async fn the_controller_makes_and_renews_the_certificate_and_redis_loads_it() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-tls").await?;
    let rendered = objects(&render(&mode_file("tls"), &["--namespace", &namespace]).await?)?;
    for object in rendered.iter().filter(|object| object["kind"] == "Secret") {
        plane.apply(&object.to_string()).await?;
    }
    let port = free_port()?;
    let controller = controller(plane, &rendered, &namespace, port).await?;
    let pod = Pod::of_mode("tls", port).await?;
    let secrets = Api::<Secret>::namespaced(plane.client().await?, &namespace);
    mount(&secrets, &pod)
        .await
        .with_context(|| controller.logs().unwrap_or_default())?;
    let redis = pod.start()?;
    controller.until_ready(SOON).await.with_context(|| redis.tail())?;
    ensure!(
        pod.liveness().await? == Ok(()) && pod.readiness().await? == Ok(()),
        "{}",
        redis.tail()
    );
    let ca = fs::read(pod.folder.join("ca.crt"))?;
    let certificate = fs::read(pod.folder.join("tls.crt"))?;

    // Clear text is refused.
    let plain = format!("redis://127.0.0.1:{port}");
    ensure!(
        tenure::Client::connect(&plain).await.is_err(),
        "clear text is taken"
    );

    // As if its time had come: the certificate is renewed by the same authority, and Redis loads it.
    let past = [
        "annotate",
        "secret",
        SECRETS[1],
        "--overwrite",
        "tenure.dev/certificate-since=2020-01-01T00:00:00Z",
    ];
    plane
        .kubectl(&[&["--namespace", &namespace], &past[..]].concat())
        .await?;
    eventually("another certificate", SOON, async || {
        mount(&secrets, &pod).await?;
        ensure!(
            fs::read(pod.folder.join("tls.crt"))? != certificate,
            "it is the old one"
        );
        Ok(())
    })
    .await
    .with_context(|| controller.logs().unwrap_or_default())?;
    ensure!(fs::read(pod.folder.join("ca.crt"))? == ca, "another authority");
    eventually("Redis to load it", SOON, async || {
        ensure!(
            redis.output()?.contains("loading the renewed certificate: OK"),
            "{}",
            redis.tail()
        );
        Ok(())
    })
    .await?;
    controller.until_ready(SOON).await
}

#[tokio::test]
async fn cert_manager_is_asked_for_a_certificate_that_fits() -> Result {
    let rendered = objects(&render(&mode_file("tls-cert-manager"), &[]).await?)?;
    let certificate = rendered.iter().find(|object| object["kind"] == "Certificate");
    let spec = &certificate.context("no Certificate")?["spec"];
    assert_eq!(spec["secretName"], "tenure-redis-tls");
    let url = "--redis-url=rediss://tenure-redis.default.svc:6379";
    let deployment = rendered
        .iter()
        .find(|object| object["kind"] == "Deployment")
        .context("no Deployment")?;
    ensure!(deployment.to_string().contains(url), "{deployment}");
    let names = spec["dnsNames"].as_array().context("no names")?;
    ensure!(names.contains(&"tenure-redis.default.svc".into()), "{names:?}");
    let secrets = rendered.iter().filter(|object| object["kind"] == "Secret");
    let rendered_secrets: Vec<_> = secrets.map(|secret| &secret["metadata"]["name"]).collect();
    assert_eq!(
        rendered_secrets,
        ["tenure-redis"],
        "cert-manager makes the other one"
    );
    Ok(())
}

/// The Secrets in the folder that stands for the volumes of the pod, as a kubelet writes them.
async fn mount(secrets: &Api<Secret>, pod: &Pod) -> Result {
    for name in SECRETS {
        eventually("the Secrets", SOON, async || {
            let data = secrets
                .get(name)
                .await?
                .data
                .with_context(|| format!("{name} is empty"))?;
            for (key, value) in data {
                fs::write(pod.folder.join(key), value.0)?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The controller with the arguments of the rendered Deployment, but for the address of Redis.
async fn controller(
    plane: &ControlPlane,
    rendered: &[serde_json::Value],
    namespace: &str,
    port: u16,
) -> Result<Controller> {
    let deployment = rendered.iter().find(|object| object["kind"] == "Deployment");
    let container = &deployment.context("no Deployment")?["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<String> = serde_json::from_value(container["args"].clone())?;
    let run = folder("run")?;
    let args: Vec<String> = args
        .iter()
        .filter(|arg| arg.starts_with("--redis"))
        .map(|arg| arg.replace("/run/tenure", &run.display().to_string()))
        .collect();
    let url = format!("--redis-url=rediss://localhost:{port}");
    let more = ["--watch-namespaces", namespace, &url];
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more).collect();
    Controller::start_with(plane, &args).await
}
