//! `tenure serve`: leases for other programs, over HTTP, as curl sends it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tenure::Kind;
use tenure_tests::{Context, Process, Redis, Result, ensure, eventually, process::free_port, unique};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Bench, SOON, code, output, printed, text};

struct Sidecar {
    bench: Bench,
    process: Process,
    socket: PathBuf,
}

impl Sidecar {
    async fn start(bench: Bench, args: &str) -> Result<Self> {
        let socket = bench.folder.join("tenure.sock");
        let mut command = bench.tenure("serve")?;
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        command.args(args.split_whitespace());
        let process = bench.start(&unique("serve"), &command)?;
        let sidecar = Self {
            bench,
            process,
            socket,
        };
        sidecar.listens().await?;
        Ok(sidecar)
    }

    async fn shared() -> Result<Self> {
        Self::start(Bench::shared().await?, "").await
    }

    async fn listens(&self) -> Result {
        eventually("the notice", SOON, async || {
            let log = self.process.log()?;
            ensure!(log.contains("listens on"), "{log}");
            Ok(())
        })
        .await
    }

    /// curl, with the status of the answer on its last line.
    fn curl(&self, path: &str, body: Option<&Value>) -> Command {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--no-buffer", "--unix-socket"])
            .arg(&self.socket)
            .arg(format!("http://localhost/v1/leases{path}"));
        if let Some(body) = body {
            command.args(["--json", &body.to_string()]);
        }
        command
    }

    async fn ask(&self, command: Command) -> Result<(u16, Value)> {
        let mut command = command;
        command.args(["--write-out", "%{http_code}"]);
        let ended = output(command).await?;
        let shown = text(&ended.stdout);
        let (body, status) = shown
            .split_at_checked(shown.len().saturating_sub(3))
            .context("no answer")?;
        ensure!(code(&ended)? == 0, "{ended:?}");
        Ok((
            status.parse()?,
            serde_json::from_str(body).with_context(|| body.to_owned())?,
        ))
    }

    async fn acquire(&self, body: &Value) -> Result<(u16, Value)> {
        self.ask(self.curl("", Some(body))).await
    }

    /// The same, with a body that may be too long for an argument.
    async fn acquire_from_file(&self, body: &Value) -> Result<(u16, Value)> {
        let file = self.bench.folder.join("body.json");
        fs::write(&file, body.to_string())?;
        let mut command = self.curl("", None);
        command.arg("--json").arg(format!("@{}", file.display()));
        self.ask(command).await
    }

    async fn send(&self, request: &str) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    /// A request for a lease, with bytes after it.
    async fn post(&self, body: &Value, more: &str) -> Result<UnixStream> {
        let body = body.to_string();
        self.send(&format!(
            "POST /v1/leases HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}{more}",
            body.len()
        ))
        .await
    }

    async fn held(&self, name: &str) -> Result<u64> {
        Ok(self
            .bench
            .look(Kind::Lock, name)
            .await?
            .map_or(0, |seen| seen.held))
    }

    async fn free(&self, name: &str) -> Result {
        eventually("the release", SOON, async || {
            let held = self.held(name).await?;
            ensure!(held == 0, "{held} are held");
            Ok(())
        })
        .await
    }
}

async fn read_until(stream: &mut UnixStream, expected: &str) -> Result {
    let mut seen = Vec::new();
    while !text(&seen).contains(expected) {
        ensure!(stream.read_buf(&mut seen).await? > 0, "{}", text(&seen));
    }
    Ok(())
}

fn id(lease: &Value) -> Result<String> {
    Ok(lease["id"]
        .as_str()
        .with_context(|| lease.to_string())?
        .to_owned())
}

#[tokio::test]
async fn a_lease_is_acquired_looked_at_and_released() -> Result {
    let sidecar = Sidecar::shared().await?;
    let seats = [tenure::control::Resource::new("seat-a").property("zone", "a")];
    sidecar.bench.client.lock_pool("seats")?.extend(seats).await?;
    let body = json!({"object": "lp/seats", "matching": {"zone": "a"}, "ttl": "2s"});
    let (status, lease) = sidecar.acquire(&body).await?;
    ensure!(status == 201 && lease["state"] == "held", "{status} {lease}");
    ensure!(lease["object"] == "lockpool/seats", "{lease}");
    ensure!(lease["resources"]["seat-a"]["zone"] == "a", "{lease}");
    let seen = sidecar
        .bench
        .look(Kind::Pool, "seats")
        .await?
        .context("no pool")?;
    ensure!(lease["fencingToken"] == seen.last_fence, "{lease} {seen:?}");
    // It is renewed without a request.
    let before = seen.holders[0].expires;
    eventually("a renewal", SOON, async || {
        let seen = sidecar
            .bench
            .look(Kind::Pool, "seats")
            .await?
            .context("no pool")?;
        ensure!(
            seen.holders.first().is_some_and(|view| view.expires > before),
            "{seen:?}"
        );
        Ok(())
    })
    .await?;
    let path = format!("/{}", id(&lease)?);
    let (status, looked) = sidecar.ask(sidecar.curl(&path, None)).await?;
    ensure!(status == 200 && looked["state"] == "held", "{status} {looked}");
    let mut release = sidecar.curl(&path, None);
    release.args(["--request", "DELETE"]);
    let (status, released) = sidecar.ask(release).await?;
    ensure!(
        status == 200 && released["state"] == "released",
        "{status} {released}"
    );
    let seen = sidecar
        .bench
        .look(Kind::Pool, "seats")
        .await?
        .context("no pool")?;
    ensure!(seen.held == 0, "{seen:?}");
    let (_, all) = sidecar.ask(sidecar.curl("", None)).await?;
    ensure!(
        all[0]["id"] == lease["id"] && all[0]["state"] == "released",
        "{all}"
    );
    Ok(())
}

#[tokio::test]
async fn each_error_has_a_status_and_a_name() -> Result {
    let sidecar = Sidecar::shared().await?;
    let held = sidecar.bench.client.lock("held")?.acquire().await?;
    for (body, status, error) in [
        (json!({"object": "lock/held", "timeout": "0"}), 409, "busy"),
        (json!({"object": "lock/held", "timeout": "100ms"}), 409, "timeout"),
        (json!({"object": "lp/none", "timeout": "0"}), 404, "notDeclared"),
        (json!({"object": "none"}), 400, "usage"),
        (json!({"object": "lock/x", "permits": 2}), 400, "usage"),
        (json!({"object": "lock/x", "time_out": "1s"}), 400, "usage"),
        (json!({"object": "lock/x", "timeout": "5"}), 400, "usage"),
        (json!({"object": "lock/x", "heartbeat": "1ms"}), 400, "usage"),
        (json!({"object": "lock/x", "priority": "high"}), 400, "usage"),
        (
            json!({"object": "lock/x", "reason": "x".repeat(3 << 20)}),
            413,
            "usage",
        ),
        (json!([]), 400, "usage"),
    ] {
        let (found, answer) = sidecar.acquire_from_file(&body).await?;
        let shown = answer.to_string();
        ensure!(
            found == status && answer["error"] == error,
            "{status} {error}: {found} {shown}"
        );
        for of_rust in ["i8", "struct", "LockPool::", "--"] {
            ensure!(!shown.contains(of_rust), "{of_rust}: {shown}");
        }
        ensure!(
            answer["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{answer}"
        );
    }
    let (status, answer) = sidecar.ask(sidecar.curl("/none", None)).await?;
    ensure!(
        status == 404 && answer["error"] == "notDeclared",
        "{status} {answer}"
    );
    for (path, method, status, error) in [
        ("/none?wait=zz", "GET", 400, "usage"),
        ("/none?until=1s", "GET", 400, "usage"),
        ("/none/more", "GET", 404, "notFound"),
        ("", "PUT", 405, "usage"),
    ] {
        let mut command = sidecar.curl(path, None);
        command.args(["--request", method]);
        let (found, answer) = sidecar.ask(command).await?;
        ensure!(
            found == status && answer["error"] == error,
            "{path} {method}: {found} {answer}"
        );
        ensure!(answer["message"].is_string(), "{answer}");
    }
    let mut form = sidecar.curl("", None);
    form.args(["--data", r#"{"object": "lock/x"}"#]);
    let (status, answer) = sidecar.ask(form).await?;
    ensure!(status == 400, "{status} {answer}");
    held.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_program_that_waits_learns_of_the_loss_at_once() -> Result {
    let sidecar = Sidecar::shared().await?;
    let (_, lease) = sidecar.acquire(&json!({"object": "lock/x"})).await?;
    let waiting = sidecar.curl(&format!("/{}?wait=50s", id(&lease)?), None);
    let mut waiting = sidecar.bench.start("wait", &waiting)?;
    sidecar.bench.reclaim("x").await?;
    let shown = printed(&mut waiting, "lost").await?;
    ensure!(shown.contains("reclaimed by the test"), "{shown}");
    ensure!(waiting.wait(SOON).await?.success(), "{}", waiting.tail());
    Ok(())
}

#[tokio::test]
async fn a_lease_that_no_request_names_is_released() -> Result {
    let sidecar = Sidecar::shared().await?;
    let (_, silent) = sidecar
        .acquire(&json!({"object": "lock/silent", "heartbeat": "1s"}))
        .await?;
    let (_, named) = sidecar
        .acquire(&json!({"object": "lock/named", "heartbeat": "1s"}))
        .await?;
    let waiting = sidecar.curl(&format!("/{}?wait=50s", id(&named)?), None);
    let mut waiting = sidecar.bench.start("wait", &waiting)?;
    sidecar.free("silent").await?;
    let (_, ended) = sidecar
        .ask(sidecar.curl(&format!("/{}", id(&silent)?), None))
        .await?;
    ensure!(
        ended["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("heartbeat")),
        "{ended}"
    );
    ensure!(
        sidecar.held("named").await? == 1,
        "a request that waits is a heartbeat"
    );
    waiting.signal(Signal::KILL)?;
    waiting.wait(SOON).await?;
    sidecar.free("named").await
}

#[tokio::test]
async fn a_streamed_lease_ends_with_its_connection_and_its_connection_with_the_lease() -> Result {
    let sidecar = Sidecar::shared().await?;
    let stream = |name: &str| {
        sidecar.curl(
            "",
            Some(&json!({"object": format!("lock/{name}"), "stream": true})),
        )
    };
    let mut killed = sidecar.bench.start("killed", &stream("killed"))?;
    printed(&mut killed, "held").await?;
    ensure!(sidecar.held("killed").await? == 1, "it is not held");
    killed.signal(Signal::KILL)?;
    sidecar.free("killed").await?;

    let mut lost = sidecar.bench.start("lost", &stream("lost"))?;
    printed(&mut lost, "held").await?;
    sidecar.bench.reclaim("lost").await?;
    let shown = printed(&mut lost, "reclaimed by the test").await?;
    ensure!(shown.lines().count() == 2, "{shown}");
    ensure!(lost.wait(SOON).await?.success(), "{}", lost.tail());
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_given_up_leaves_the_queue() -> Result {
    let sidecar = Sidecar::shared().await?;
    let held = sidecar.bench.client.lock("queue")?.acquire().await?;
    let request = sidecar.curl("", Some(&json!({"object": "lock/queue"})));
    let waiting = sidecar.bench.start("waits", &request)?;
    sidecar.bench.waiting("queue", 1).await?;
    waiting.signal(Signal::KILL)?;
    sidecar.bench.waiting("queue", 0).await?;
    held.release().await?;
    Ok(())
}

/// The server has bytes of the next request, and reads nothing more while it answers.
#[tokio::test]
async fn a_connection_that_ends_after_more_bytes_than_its_request_ends_the_request() -> Result {
    const MORE: [&str; 2] = ["\r\n", "GET /v1/leases HTTP/1.1\r\nHost: localhost\r\n\r\n"];
    let sidecar = Sidecar::shared().await?;
    let held = sidecar.bench.client.lock("queue")?.acquire().await?;
    for more in MORE {
        let mut streamed = sidecar
            .post(&json!({"object": "lock/x", "stream": true}), more)
            .await?;
        read_until(&mut streamed, "\"held\"").await?;
        let queued = sidecar.post(&json!({"object": "lock/queue"}), more).await?;
        sidecar.bench.waiting("queue", 1).await?;
        let (_, lease) = sidecar
            .acquire(&json!({"object": "lock/y", "heartbeat": "1s"}))
            .await?;
        let path = format!("/{}?wait=50m", id(&lease)?);
        let waits = sidecar
            .send(&format!(
                "GET /v1/leases{path} HTTP/1.1\r\nHost: localhost\r\n\r\n{more}"
            ))
            .await?;
        // A connection of its own, so that the others were read by now.
        sidecar.ask(sidecar.curl("", None)).await?;
        drop((streamed, queued, waits));
        sidecar.free("x").await?;
        sidecar.free("y").await?;
        sidecar.bench.waiting("queue", 0).await?;
    }
    held.release().await?;
    Ok(())
}

#[tokio::test]
async fn at_sigterm_all_leases_are_released_and_their_owners_are_told() -> Result {
    let mut sidecar = Sidecar::shared().await?;
    sidecar
        .acquire(&json!({"object": "lock/plain", "ttl": "50s"}))
        .await?;
    let stream = sidecar.curl("", Some(&json!({"object": "lock/stream", "stream": true})));
    let mut stream = sidecar.bench.start("stream", &stream)?;
    printed(&mut stream, "held").await?;
    let held = sidecar.bench.client.lock("queue")?.acquire().await?;
    let waits = sidecar.curl("", Some(&json!({"object": "lock/queue"})));
    let mut waits = sidecar.bench.start("waits", &waits)?;
    sidecar.bench.waiting("queue", 1).await?;
    let status = sidecar.process.terminate(SOON).await?;
    ensure!(status.success(), "{status}: {}", sidecar.process.tail());
    for name in ["plain", "stream"] {
        ensure!(sidecar.held(name).await? == 0, "{name} is held");
    }
    sidecar.bench.waiting("queue", 0).await?;
    let released = printed(&mut stream, "released").await?;
    ensure!(released.contains("tenure serve ends"), "{released}");
    printed(&mut waits, "unreachable").await?;
    ensure!(!sidecar.socket.exists(), "the socket is left");
    held.release().await?;
    Ok(())
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_replaces_that_of_a_killed_process() -> Result {
    let mut sidecar = Sidecar::shared().await?;
    let mode = |path: &Path| -> Result<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o777) };
    ensure!(mode(&sidecar.socket)? == 0o600, "{:o}", mode(&sidecar.socket)?);
    let listen = format!("--listen unix:{}", sidecar.socket.display());
    let check = format!("serve --check {listen}");
    ensure!(
        code(&output(sidecar.bench.tenure(&check)?).await?)? == 0,
        "the check"
    );
    let second = output(sidecar.bench.tenure(&format!("serve {listen}"))?).await?;
    ensure!(
        code(&second)? == 70 && text(&second.stderr).contains("another process listens"),
        "{second:?}"
    );
    sidecar.process.signal(Signal::KILL)?;
    sidecar.process.wait(SOON).await?;
    ensure!(
        code(&output(sidecar.bench.tenure(&check)?).await?)? == 70,
        "the check"
    );
    let Sidecar { bench, socket, .. } = sidecar;
    ensure!(socket.exists(), "no socket is left");
    let again = Sidecar::start(bench, "--socket-mode 0660").await?;
    ensure!(mode(&again.socket)? == 0o660, "{:o}", mode(&again.socket)?);
    Ok(())
}

#[tokio::test]
async fn a_web_page_cannot_use_the_port() -> Result {
    let bench = Bench::shared().await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let process = bench.start("serve", &bench.tenure(&format!("serve --listen {address}"))?)?;
    eventually("the notice", SOON, async || {
        let log = process.log()?;
        ensure!(log.contains("listens on"), "{log}");
        Ok(())
    })
    .await?;
    for (header, status) in [
        ("Accept: */*", "200"),
        ("Host: localhost:1", "200"),
        ("Host: evil.example", "403"),
        ("Origin: http://evil.example", "403"),
        ("Origin: null", "403"),
    ] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--write-out", "%{http_code}", "--header", header]);
        command.arg(format!("http://{address}/v1/leases"));
        let ended = output(command).await?;
        let shown = text(&ended.stdout);
        ensure!(shown.ends_with(status), "{header}: {ended:?}");
        ensure!(
            status == "200" || shown.contains(r#""error":"refused""#),
            "{shown}"
        );
    }
    fs::write(bench.folder.join("file"), "")?;
    for (path, problem) in [
        ("none/tenure.sock", "there is no folder none"),
        ("file", "a file that is no socket"),
    ] {
        let refused = output(bench.tenure(&format!("serve --listen unix:{path}"))?).await?;
        ensure!(
            code(&refused)? == 70 && text(&refused.stderr).contains(problem),
            "{refused:?}"
        );
    }
    let refused = output(bench.tenure("serve --listen 0.0.0.0:8377")?).await?;
    ensure!(code(&refused)? == 77, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_lease_that_redis_does_not_renew_is_lost() -> Result {
    let mut redis = Redis::start().await?;
    let sidecar = Sidecar::start(Bench::on(&redis).await?, "").await?;
    let stream = sidecar.curl(
        "",
        Some(&json!({"object": "lock/x", "stream": true, "ttl": "2s"})),
    );
    let mut stream = sidecar.bench.start("stream", &stream)?;
    printed(&mut stream, "held").await?;
    redis.kill9()?;
    printed(&mut stream, "\"lost\"").await?;
    Ok(())
}

/// The blocks of that language on the page, for the socket of the sidecar.
fn blocks(sidecar: &Sidecar, language: &str) -> Result<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sidecar.md"))?;
    let socket = sidecar.socket.display().to_string();
    let begin = format!("```{language}\n");
    let blocks = page.split(&begin).skip(1);
    Ok(blocks
        .filter_map(|block| Some(block.split_once("```")?.0))
        .map(|block| block.replace("/run/tenure/tenure.sock", &socket))
        .collect())
}

#[tokio::test]
async fn a_release_that_redis_does_not_answer_is_told() -> Result {
    let mut redis = Redis::start().await?;
    let sidecar = Sidecar::start(Bench::on(&redis).await?, "").await?;
    let (_, lease) = sidecar
        .acquire(&json!({"object": "lock/x", "ttl": "50s"}))
        .await?;
    redis.kill9()?;
    let mut release = sidecar.curl(&format!("/{}", id(&lease)?), None);
    release.args(["--request", "DELETE"]);
    let (status, answer) = sidecar.ask(release).await?;
    ensure!(
        status == 200 && answer["state"] == "unreleased" && answer["expires"].is_string(),
        "{status} {answer}"
    );
    Ok(())
}

/// A connection that is never answered keeps the one that ends busy while its socket is closed already.
#[tokio::test]
async fn a_process_that_ends_leaves_the_socket_of_the_next_one_alone() -> Result {
    let Sidecar {
        bench,
        mut process,
        socket,
    } = Sidecar::shared().await?;
    let mut partial = UnixStream::connect(&socket).await?;
    partial.write_all(b"POST /v1/leases HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{").await?;
    process.signal(Signal::TERM)?;
    let command = bench.tenure(&format!("serve --listen unix:{}", socket.display()))?;
    let mut next = bench.start("next", &command)?;
    eventually("the next one", SOON, async || {
        if next.exited()?.is_some() {
            next = bench.start("next", &command)?;
        }
        let log = next.log()?;
        ensure!(log.contains("listens on"), "{log}");
        Ok(())
    })
    .await?;
    let status = process.wait(SOON).await?;
    ensure!(status.success(), "{status}: {}", process.tail());
    ensure!(socket.exists(), "its socket was removed");
    Ok(())
}

#[tokio::test]
async fn the_check_fails_if_nothing_is_answered() -> Result {
    let sidecar = Sidecar::shared().await?;
    sidecar.process.signal(Signal::STOP)?;
    let check = format!("serve --check --listen unix:{}", sidecar.socket.display());
    let ended = output(sidecar.bench.tenure(&check)?).await?;
    ensure!(
        code(&ended)? == 70 && text(&ended.stderr).contains("no answer"),
        "{ended:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_commands_of_the_page_work() -> Result {
    let sidecar = Sidecar::shared().await?;
    let blocks = blocks(&sidecar, "sh")?;
    ensure!(blocks.len() == 3, "{} blocks", blocks.len());
    let mut command = Command::new("bash");
    command.args(["-euc", &blocks.concat()]);
    let ended = output(command).await?;
    let shown = text(&ended.stdout);
    ensure!(code(&ended)? == 0, "{ended:?}");
    let states: Vec<_> = shown
        .lines()
        .filter_map(|line| line.split_once("\"state\":\"")?.1.split('"').next())
        .collect();
    ensure!(states == ["held", "released", "held"], "{shown}");
    ensure!(!shown.contains("ended:"), "{shown}");
    sidecar.free("report").await?;

    // The last one, whose lease is lost while it works.
    let script = (blocks[0].clone() + &blocks[2]).replace("-t 0.1", "-t 60");
    let mut command = Command::new("bash");
    command.args(["-euc", &script]);
    let mut process = sidecar.bench.start("script", &command)?;
    printed(&mut process, "granted:").await?;
    sidecar.bench.reclaim("report").await?;
    printed(&mut process, "ended:").await?;
    ensure!(process.wait(SOON).await?.success(), "{}", process.tail());
    ensure!(process.log()?.is_empty(), "{}", process.tail());
    Ok(())
}

#[tokio::test]
async fn the_container_of_the_page_works_under_its_lease() -> Result {
    let sidecar = Sidecar::shared().await?;
    let pipe = sidecar.bench.pipe("work")?;
    let manifest = blocks(&sidecar, "yaml")?;
    let manifest: Value = serde_saphyr::from_str(manifest.first().context("no manifest")?)?;
    let script = manifest["spec"]["template"]["spec"]["containers"][0]["args"][0]
        .as_str()
        .context("no script")?;
    ensure!(script.contains("echo the work"), "{script}");
    // Each look is short, so that the lease ends without the loop.
    let script = script
        .replace("echo the work", &format!("exec cat {}", pipe.display()))
        .replace("\"maxHold\"", "\"heartbeat\": \"2s\", \"maxHold\"");
    let work = |name: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        sidecar.bench.start(name, &command)
    };
    let holding = async || {
        eventually("the lease", SOON, async || {
            let held = sidecar.held("report").await?;
            ensure!(held == 1, "{held} are held");
            Ok(())
        })
        .await
    };

    let mut done = work("done")?;
    holding().await?;
    fs::write(&pipe, "done\n")?;
    ensure!(done.wait(SOON).await?.success(), "{}", done.tail());
    printed(&mut done, "released").await?;
    ensure!(sidecar.held("report").await? == 0, "it is not released");

    let mut lost = work("lost")?;
    holding().await?;
    sidecar.bench.reclaim("report").await?;
    let status = lost.wait(SOON).await?;
    ensure!(status.code() == Some(143), "{status}: {}", lost.tail());
    Ok(())
}
