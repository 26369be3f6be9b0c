//! `tenure acquire`, `renew` and `release`: leases that scripts keep.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use serde_json::Value;
use tenure::{Kind, control::Resource};
use tenure_tests::{Context, Result, ensure, eventually};

use super::{Bench, SOON, code, output, printed, text};

async fn json(bench: &Bench, args: &str) -> Result<Value> {
    let ended = output(bench.tenure(args)?).await?;
    ensure!(code(&ended)? == 0, "{args}: {ended:?}");
    Ok(serde_json::from_slice(&ended.stdout)?)
}

fn secret(lease: &Value) -> Result<&str> {
    lease["lease"].as_str().with_context(|| lease.to_string())
}

#[tokio::test]
async fn a_script_acquires_renews_and_releases() -> Result {
    let bench = Bench::shared().await?;
    let seat = Resource::new("seat-a").property("host", "gpu-1");
    bench.client.lock_pool("seats")?.extend([seat]).await?;
    for (object, kind, name) in [
        ("lock/x", Kind::Lock, "x"),
        ("sem/x --or-permits 2", Kind::Semaphore, "x"),
        ("lp/seats", Kind::Pool, "seats"),
    ] {
        let first = json(&bench, &format!("acquire {object} --ttl 20s --timeout 0")).await?;
        let name_only = object.split(' ').next().context("no name")?;
        let second = json(&bench, &format!("renew {name_only} --lease {}", secret(&first)?)).await?;
        ensure!(secret(&first)? != secret(&second)?, "{second}");
        ensure!(first["fencingToken"] == second["fencingToken"], "{second}");
        ensure!(first["resources"] == second["resources"], "{second}");
        if kind == Kind::Pool {
            ensure!(second["resources"]["seat-a"]["host"] == "gpu-1", "{second}");
        }
        let seen = bench.look(kind, name).await?.context("it is gone")?;
        ensure!(seen.held == 1, "{seen:?}");
        // Of two that have one secret, one has the lease.
        let late = output(bench.tenure(&format!("renew {name_only} --lease {}", secret(&first)?))?).await?;
        ensure!(code(&late)? == 73, "{late:?}");
        let released = format!("release {name_only} --lease {}", secret(&second)?);
        ensure!(code(&output(bench.tenure(&released)?).await?)? == 0, "{released}");
        let held = bench.look(kind, name).await?.map_or(0, |seen| seen.held);
        ensure!(held == 0, "{held} held");
        ensure!(
            code(&output(bench.tenure(&released)?).await?)? == 73,
            "released twice"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_file_is_private_and_follows_the_renewals() -> Result {
    let bench = Bench::shared().await?;
    let run = async |args: &str| code(&output(bench.tenure(args)?).await?);
    ensure!(
        run("acquire lock/x --ttl 20s --lease-file lease.json").await? == 0,
        "acquire"
    );
    let file = bench.folder.join("lease.json");
    ensure!(
        fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600,
        "others can read it"
    );
    let first = fs::read_to_string(&file)?;
    ensure!(run("renew --lease-file lease.json").await? == 0, "renew");
    ensure!(fs::read_to_string(&file)? != first, "the secret is the same");
    ensure!(run("release --lease-file lease.json").await? == 0, "release");
    ensure!(
        run("renew --lease-file lease.json").await? == 73,
        "renew after the release"
    );
    ensure!(run("renew --lease-file none.json").await? == 77, "no file");
    ensure!(run("acquire lock/x").await? == 77, "no length");
    ensure!(
        run("acquire lock/x --ttl 20s --lease-file no/folder").await? == 70,
        "no folder"
    );
    ensure!(
        bench.look(Kind::Lock, "x").await?.is_none(),
        "a lease without its secret was left"
    );
    Ok(())
}

#[tokio::test]
async fn a_lease_is_written_through_what_is_no_file_and_is_released_where_that_fails() -> Result {
    let bench = Bench::shared().await?;
    let acquire = |name: &str, file: &str| {
        bench.tenure(&format!(
            "acquire lock/{name} --ttl 20s --timeout 0 --lease-file {file}"
        ))
    };
    let path = |name: &str| bench.folder.join(name);
    // A link stays, and leads to the file.
    fs::write(path("target"), "old")?;
    symlink("target", path("link"))?;
    ensure!(code(&output(acquire("link", "link")?).await?)? == 0, "a link");
    ensure!(fs::symlink_metadata(path("link"))?.is_symlink(), "it is replaced");
    ensure!(
        fs::read_to_string(path("target"))?.contains("fencingToken"),
        "no lease"
    );
    // A descriptor, and a pipe with a reader.
    let shown = output(acquire("stdout", "/dev/stdout")?).await?;
    ensure!(text(&shown.stdout).contains("fencingToken"), "{shown:?}");
    let pipe = bench.pipe("pipe")?;
    let reader = std::thread::spawn(move || fs::read_to_string(pipe));
    eventually("the reader", SOON, async || {
        let ended = output(acquire("pipe", "pipe")?).await?;
        ensure!(code(&ended)? == 0, "{ended:?}");
        Ok(())
    })
    .await?;
    let read = reader.join().ok().context("the reader")??;
    ensure!(read.contains("fencingToken"), "{read}");

    fs::create_dir(path("folder"))?;
    fs::write(path("fixed"), "old")?;
    fs::set_permissions(path("fixed"), fs::Permissions::from_mode(0o444))?;
    symlink("none", path("dangling"))?;
    for file in ["folder", "fixed", "dangling", "pipe"] {
        let failed = output(acquire("failed", file)?).await?;
        ensure!(
            code(&failed)? == 70 && text(&failed.stderr).contains("is released"),
            "{file}: {failed:?}"
        );
        ensure!(bench.look(Kind::Lock, "failed").await?.is_none(), "{file}: held");
    }
    ensure!(fs::read_to_string(path("fixed"))? == "old", "it is replaced");
    let names = fs::read_dir(&bench.folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let left: Vec<_> = names.collect::<Result<Vec<_>>>()?;
    let pid = |name: &&Option<String>| {
        name.as_ref()
            .and_then(|name| name.rsplit('.').next()?.parse::<u32>().ok())
            .is_some()
    };
    ensure!(!left.iter().any(|name| pid(&name)), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn a_secret_that_nobody_would_read_is_not_made() -> Result {
    let bench = Bench::shared().await?;
    let mut command = std::process::Command::new("sh");
    let tenure = bench.tenure("")?;
    command
        .args(["-c", "exec \"$0\" acquire lock/x --ttl 20s >&-"])
        .arg(tenure.get_program())
        .env("TENURE_REDIS_URL", &bench.url)
        .env("TENURE_NAMESPACE", &bench.namespace);
    let ended = output(command).await?;
    ensure!(
        code(&ended)? == 77 && text(&ended.stderr).contains("is closed"),
        "{ended:?}"
    );
    ensure!(bench.look(Kind::Lock, "x").await?.is_none(), "it is held");
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_runs_out() -> Result {
    let bench = Bench::shared().await?;
    // Granted from the queue, where a lease is short at first.
    let held = bench.client.lock("x")?.acquire().await?;
    let mut acquire = bench.start("acquire", &bench.tenure("acquire lock/x --ttl 20s")?)?;
    bench.waiting("x", 1).await?;
    held.release().await?;
    let shown = printed(&mut acquire, "fencingToken").await?;
    ensure!(acquire.wait(SOON).await?.success(), "{}", acquire.tail());
    let seen = bench.look(Kind::Lock, "x").await?.context("it is free")?;
    let left = seen.holders[0].expires.duration_since(seen.now)?;
    ensure!(left > Duration::from_secs(15), "{left:?} left: {shown}");

    let short = json(&bench, "acquire lock/short --ttl 300ms").await?;
    let next = bench.client.lock("short")?.acquire().await?;
    let late = output(bench.tenure(&format!("renew lock/short --lease {}", secret(&short)?))?).await?;
    ensure!(
        code(&late)? == 73 && text(&late.stderr).contains("ran out"),
        "{late:?}"
    );
    next.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_release_by_force_is_asked_for_and_reaches_the_holder() -> Result {
    let bench = Bench::shared().await?;
    let lease = bench.client.lock("x")?.acquire().await?;
    let refused = output(bench.tenure("release lock/x --force --reason hangs")?).await?;
    ensure!(
        code(&refused)? == 77 && text(&refused.stderr).contains("--yes"),
        "{refused:?}"
    );
    lease.check()?;
    let other = output(bench.tenure("release lock/x --force --reason hangs --yes --holder other")?).await?;
    ensure!(code(&other)? == 75, "{other:?}");
    let mut command = bench.tenure("release lock/x --force --reason hangs --yes")?;
    command.env("USER", "ada");
    let taken = output(command).await?;
    ensure!(code(&taken)? == 0, "{taken:?}");
    let cause = lease.lost().await;
    ensure!(cause.contains("released by force by ada: hangs"), "{cause}");
    Ok(())
}
