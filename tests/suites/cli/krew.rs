//! The manifest of `kubectl tenure` for krew.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tenure_tests::{Result, ensure, process::folder};

use super::{code, output, text};

#[tokio::test]
async fn the_manifest_names_the_archive_of_each_platform() -> Result {
    let archives = folder("krew")?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/krew");
    let command = || {
        let mut command = Command::new(&program);
        command
            .args(["0.1.0", "https://example.com/releases/v0.1.0/"])
            .arg(&archives);
        command
    };
    let none = output(command()).await?;
    ensure!(
        code(&none)? == 1 && text(&none.stderr).contains("has no"),
        "{none:?}"
    );
    for platform in ["linux-amd64", "darwin-arm64"] {
        fs::write(archives.join(format!("tenure-{platform}.tar.gz")), "abc")?;
    }
    let ended = output(command()).await?;
    let manifest: Value = serde_saphyr::from_str(&text(&ended.stdout))?;
    ensure!(
        manifest["kind"] == "Plugin" && manifest["metadata"]["name"] == "tenure",
        "{manifest}"
    );
    let spec = &manifest["spec"];
    ensure!(spec["version"] == "v0.1.0", "{spec}");
    // The longest that krew accepts.
    let short = spec["shortDescription"].as_str().unwrap_or_default();
    ensure!((1..=50).contains(&short.len()), "{short}");
    let linux = &spec["platforms"][1];
    ensure!(
        linux["selector"]["matchLabels"] == serde_json::json!({"os": "linux", "arch": "amd64"}),
        "{linux}"
    );
    ensure!(
        linux["uri"] == "https://example.com/releases/v0.1.0/tenure-linux-amd64.tar.gz",
        "{linux}"
    );
    // That of "abc".
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    ensure!(
        linux["sha256"] == sum && linux["bin"] == "kubectl-tenure",
        "{linux}"
    );
    Ok(())
}
