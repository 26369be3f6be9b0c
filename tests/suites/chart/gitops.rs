//! docs/gitops.md: the chart takes the values of its examples.

use std::fs;

use serde_json::Value;
use tenure_tests::{Context, Result, ensure, process::folder};

use super::render;

#[tokio::test]
async fn the_chart_takes_the_values_of_the_examples() -> Result {
    let page = include_str!("../../../docs/gitops.md");
    let blocks = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut kinds = Vec::new();
    for block in blocks {
        let object: Value = serde_saphyr::from_str(block)?;
        let values = ["/spec/source/helm/valuesObject", "/spec/values"];
        let values = values.iter().find_map(|path| object.pointer(path));
        let file = folder("gitops")?.join("values.yaml");
        fs::write(&file, values.context("no values")?.to_string())?;
        let rendered = render(&file, &[]).await?;
        ensure!(
            rendered.contains("appendfsync always") && rendered.contains("--access-namespaces=default,ml"),
            "the values have no effect"
        );
        kinds.push(object["kind"].to_string());
    }
    assert_eq!(kinds, ["\"Application\"", "\"HelmRelease\""]);
    Ok(())
}

/// Argo CD does not read the annotation of Helm.
#[tokio::test]
async fn each_object_that_helm_keeps_is_kept_by_argo_cd() -> Result {
    let manifest = render(&super::mode_file("tls"), &[]).await?;
    let mut kept = 0;
    for object in super::objects(&manifest)? {
        let annotations = &object["metadata"]["annotations"];
        if annotations["helm.sh/resource-policy"] == "keep" {
            let options = &annotations["argocd.argoproj.io/sync-options"];
            ensure!(options == "Delete=false,Prune=false", "{}", object["metadata"]);
            kept += 1;
        }
    }
    assert_eq!(kept, 5, "two definitions, two Secrets and the record of epochs");
    Ok(())
}
