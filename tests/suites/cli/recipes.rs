//! The recipes in `docs/jobs.md` and `docs/sidecar.md`, on a real API server, and their arguments on a real Redis.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tenure::control::Resource;
use tenure_tests::{Context, ControlPlane, Result, ensure};

use super::{Bench, code, output};

/// The manifests of both pages.
fn manifests() -> Result<Vec<String>> {
    let read = |page| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page));
    let page = read("jobs.md")? + &read("sidecar.md")?;
    let blocks = page.split("```yaml\n").skip(1);
    let text = blocks.filter_map(|block| Some(block.split_once("```")?.0.to_owned()));
    Ok(text.collect())
}

/// The commands of all containers of a manifest, wherever they stand.
fn commands(value: &Value, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| commands(value, found)),
        Value::Object(fields) => {
            let texts = |value: &Value| -> Vec<String> {
                let values = value.as_array().into_iter().flatten();
                values
                    .filter_map(|value| value.as_str().map(str::to_owned))
                    .collect()
            };
            if let Some(command) = fields.get("command") {
                found.push(texts(command));
            }
            fields.values().for_each(|value| commands(value, found));
        }
        _ => {}
    }
}

/// A pod of the containers in a manifest of a workflow engine, whose definitions are not available here: it takes containers
/// and volumes as a pod does. `None`: the manifest is for Kubernetes alone.
fn as_pod(manifest: &str) -> Result<Option<String>> {
    let value = || serde_saphyr::from_str::<Value>(manifest).with_context(|| manifest.to_owned());
    let (mut init, container, volumes) = if manifest.starts_with("apiVersion: argoproj.io/") {
        let template = value()?["spec"]["templates"][0].clone();
        (
            template["initContainers"].clone(),
            template["container"].clone(),
            template["volumes"].clone(),
        )
    } else if manifest.starts_with("apiVersion: tekton.dev/") {
        let mut spec = value()?["spec"].clone();
        let last = spec["steps"]
            .as_array_mut()
            .and_then(Vec::pop)
            .context("no step")?;
        (spec["steps"].clone(), last, spec["volumes"].clone())
    } else {
        return Ok(None);
    };
    ensure!(init.as_array_mut().is_some_and(|init| init.len() == 1), "{init}");
    let mut container = container;
    container["name"] = "main".into();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step"},
        "spec": {"initContainers": init, "containers": [container], "volumes": volumes},
    });
    Ok(Some(pod.to_string()))
}

#[tokio::test]
async fn the_api_server_accepts_each_recipe() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("recipes").await?;
    let manifests = manifests()?;
    ensure!(manifests.len() == 7, "{} manifests", manifests.len());
    let folder = tenure_tests::process::folder("recipes")?;
    for (number, manifest) in manifests.iter().enumerate() {
        let file = folder.join(format!("{number}.yaml"));
        fs::write(&file, as_pod(manifest)?.as_ref().unwrap_or(manifest))?;
        let file = file.to_str().context("the path")?;
        let args = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--namespace",
            &namespace,
            "--filename",
            file,
        ];
        plane.kubectl(&args).await.with_context(|| manifest.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn the_arguments_of_each_recipe_work() -> Result {
    let bench = Bench::shared().await?;
    let seat = Resource::new("seat-a").property("zone", "a");
    bench.client.lock_pool("gpu-seats")?.extend([seat]).await?;
    let mut found = Vec::new();
    for manifest in manifests()? {
        for document in manifest.split("\n---\n") {
            commands(&serde_saphyr::from_str::<Value>(document)?, &mut found);
        }
    }
    let mut run = 0;
    for command in found {
        let words = match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sh", "-c", line] => line
                .split(" -- ")
                .next()
                .context("no arguments")?
                .split(' ')
                .map(str::to_owned)
                .collect(),
            _ => command.clone(),
        };
        if !words[0].ends_with("tenure") || words[1] == "serve" {
            // The page of the sidecar has a test of its own.
            continue;
        }
        let mut tenure = bench.tenure("")?;
        tenure.args(words[1..].iter().take_while(|word| *word != "--"));
        if words[1] == "install" {
            tenure = bench.tenure(&format!("install {}", bench.folder.display()))?;
        } else {
            tenure.args(["--", "true"]);
        }
        let ended = output(tenure).await?;
        ensure!(code(&ended)? == 0, "{words:?}: {ended:?}");
        run += 1;
    }
    ensure!(run == 10, "{run} commands");
    ensure!(bench.folder.join("tenure").is_file(), "it is not installed");
    Ok(())
}
