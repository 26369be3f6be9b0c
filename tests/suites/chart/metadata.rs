//! The packaged chart: its files, and what Artifact Hub shows of it.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use tenure_tests::{Context, ControlPlane, Result, ensure, process::folder};

use super::{chart, dry_run, helm, mode_file, objects, read, render};

#[tokio::test]
async fn the_package_has_what_an_installation_needs_and_no_more() -> Result {
    let folder = folder("package")?;
    // Files that an editor, a merge and an operating system leave behind.
    let copy = folder.join("tenure");
    ensure!(
        Command::new("cp")
            .args(["-r", &chart()])
            .arg(&copy)
            .status()?
            .success(),
        "cp"
    );
    for litter in [
        "values.yaml.orig",
        "templates/.controller.yaml.swp",
        ".DS_Store",
        "old-0.1.0.tgz",
        "values.yaml~",
        ".idea",
    ] {
        fs::write(copy.join(litter), "litter")?;
    }
    let (from, to) = (
        copy.to_str().context("not UTF-8")?,
        folder.to_str().context("not UTF-8")?,
    );
    helm(&["package", from, "--destination", to]).await?;
    let archive = folder.join(format!("tenure-{}.tgz", env!("CARGO_PKG_VERSION")));
    let listed = Command::new("tar").arg("tzf").arg(archive).output()?;
    let packaged: BTreeSet<String> = String::from_utf8(listed.stdout)?
        .lines()
        .map(str::to_owned)
        .collect();
    let mut expected = BTreeSet::new();
    files(Path::new(&chart()), "tenure", &mut expected)?;
    expected.retain(|file| !file.starts_with("tenure/tests/") && !file.ends_with("/.helmignore"));
    // Helm keeps this one.
    expected.insert("tenure/.helmignore".to_owned());
    assert_eq!(packaged, expected);
    Ok(())
}

#[tokio::test]
async fn artifact_hub_shows_the_definitions_the_images_and_examples_that_work() -> Result {
    let metadata: Value = serde_saphyr::from_str(&read("Chart.yaml")?)?;
    let annotation = |name: &str| -> Result<Vec<Value>> {
        let text = metadata["annotations"][format!("artifacthub.io/{name}")].as_str();
        Ok(serde_saphyr::from_str(
            text.with_context(|| format!("no {name}"))?,
        )?)
    };
    let rendered = objects(&render(&mode_file("default"), &[]).await?)?;

    let definitions: BTreeSet<(String, String, String)> = rendered
        .iter()
        .filter(|object| object["kind"] == "CustomResourceDefinition")
        .map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let spec = &object["spec"];
            (
                text(&object["metadata"]["name"]),
                text(&spec["names"]["kind"]),
                text(&spec["versions"][0]["name"]),
            )
        })
        .collect();
    let shown = annotation("crds")?
        .iter()
        .map(|crd| {
            let text = |key: &str| crd[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("kind"), text("version"))
        })
        .collect();
    assert_eq!(definitions, shown);

    let mut used = BTreeSet::new();
    for object in &rendered {
        let pod = object.pointer("/spec/template/spec").unwrap_or(&object["spec"]);
        if let Some(container) = pod.pointer("/containers/0") {
            used.insert(container["image"].to_string());
        }
    }
    let shown = annotation("images")?
        .iter()
        .map(|image| image["image"].to_string())
        .collect();
    assert_eq!(used, shown);

    let plane = ControlPlane::shared().await?;
    for example in annotation("crdsExamples")? {
        let mut example = example;
        example["metadata"]["namespace"] = plane.namespace("chart-example").await?.into();
        dry_run(plane, &example.to_string()).await?;
    }
    Ok(())
}

fn files(folder: &Path, name: &str, found: &mut BTreeSet<String>) -> Result {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = format!(
            "{name}/{}",
            path.file_name().context("no name")?.to_string_lossy()
        );
        if path.is_dir() {
            files(&path, &name, found)?;
        } else {
            found.insert(name);
        }
    }
    Ok(())
}
