//! NOTES.txt: what `helm install` prints works when it is pasted.

use std::process::Command;

use serde_json::Value;
use tenure_tests::{Context, ControlPlane, Result, assets, ensure, process::folder};
use tokio::task::spawn_blocking;

use super::{RELEASE, chart, helm_with, mode_file};

/// Renders NOTES.txt for a mode.
async fn notes(plane: &ControlPlane, namespace: &str, mode: &str) -> Result<String> {
    let (chart, file) = (chart(), mode_file(mode));
    let values = file.to_str().context("an odd folder")?;
    let install = [
        "install",
        RELEASE,
        &chart,
        "--namespace",
        namespace,
        "--dry-run=client",
        "--values",
        values,
    ];
    let said = helm_with(plane, &install).await?.stdout;
    let notes = said
        .split_once("\nNOTES:\n")
        .with_context(|| format!("no notes: {said}"))?
        .1;
    Ok(notes.to_owned())
}

/// kubectl up to 1.32 reads standard input as JSON if it begins with a brace.
#[tokio::test]
async fn the_declaration_can_be_pasted_with_its_indentation() -> Result {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("chart-notes").await?;
    let notes = notes(plane, &namespace, "default").await?;
    let mut lines = notes.lines().skip_while(|line| !line.starts_with("  echo '"));
    let pasted = [
        lines.next().context("no echo")?,
        lines.next().context("no apply")?,
    ]
    .join("\n");
    let json = pasted.split('\'').nth(1).context("no object")?;
    serde_json::from_str::<Value>(json).with_context(|| format!("no JSON: {json}"))?;
    let kubectl = spawn_blocking(|| assets::path("kubectl")).await??;
    let path = std::env::join_paths([
        kubectl.parent().context("no folder")?,
        "/usr/bin".as_ref(),
        "/bin".as_ref(),
    ])?;
    let ran = Command::new("sh")
        .args(["-c", &pasted])
        .env("PATH", path)
        .env("KUBECONFIG", plane.kubeconfig())
        .env("HOME", folder("notes")?)
        .output()?;
    let said = String::from_utf8_lossy(&ran.stdout);
    ensure!(
        said.contains("lockpool.tenure.dev/gpu-seats created"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn the_library_reads_each_variable_that_the_notes_name() -> Result {
    let plane = ControlPlane::shared().await?;
    let read = concat!(
        include_str!("../../../lib/src/builder/env.rs"),
        include_str!("../../../lib/src/lease/identity.rs"),
    );
    for mode in ["default", "no-access", "tls-secret", "external-redis-tls"] {
        let notes = notes(plane, "default", mode).await?;
        let named = notes
            .split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
            .filter(|word| word.starts_with("TENURE_") || word.starts_with("POD_"));
        for name in named {
            ensure!(
                read.contains(&format!("\"{name}\"")),
                "{mode}: the library does not read {name}"
            );
        }
    }
    Ok(())
}
