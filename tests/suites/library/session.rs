//! The session in `docs/protocol.md` runs as it is printed.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tenure_tests::{Context, Redis, Result, assets, ensure, process::folder};
use tokio::task::spawn_blocking;

/// Separates the output of a command from that of the next one.
const MARK: &str = "-- end of the command --";

/// In a pipe, redis-cli prints replies without their types unless `--no-raw` is given. The replies that the session itself reads
/// stay raw. The subscription writes into a file, because its lines come at any time.
const REDIS_CLI: &str = r#"
redis-cli() {
  case $1 in
    --csv) exec "$CLI" -p "$PORT" "$@" > "$PUSHES" ;;
    -x | INFO) "$CLI" -p "$PORT" "$@" ;;
    *) "$CLI" -p "$PORT" --no-raw "$@" ;;
  esac
}
has_pushes() {
  for _ in {1..1000}; do
    [ "$(grep -c "^\"$1\"" "$PUSHES")" -ge "$2" ] && return
    sleep 0.01
  done
}
"#;

/// A command of the session, and the lines that are printed below it.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The commands in the console blocks of the section.
fn steps(page: &str) -> Vec<Step> {
    let section = page.split("\n## ").find(|part| part.starts_with("A session\n"));
    let blocks = section.unwrap_or_default().split("```console\n").skip(1);
    let mut steps: Vec<Step> = Vec::new();
    for line in blocks.flat_map(|block| block.split("\n```").next().unwrap_or_default().lines()) {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                printed: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) => step.command = format!("{}\n{more}", step.command),
                None => step.printed.push(line.to_owned()),
            }
        }
    }
    steps
}

/// The line with a placeholder for each time, each fencing token that is a time, and each run id.
fn comparable(line: &str) -> String {
    // The time of a grant, in seconds and microseconds.
    if line.trim().starts_with("\"granted ") {
        return "\"granted TIME\"".to_owned();
    }
    let mut text = String::new();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '…';
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        // `\n` in a push is a line break: a number may follow it at once.
        let length = match first {
            '\\' => 2.min(rest.len()),
            _ => rest
                .find(|c| !is_word(c))
                .unwrap_or(rest.len())
                .max(first.len_utf8()),
        };
        let (word, after) = rest.split_at(length);
        let is_time = word.len() >= 13 && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_run_id = word.ends_with('…') || word.len() == 40;
        text.push_str(match (is_time, is_run_id) {
            (true, _) => "TIME",
            (_, true) => "RUN",
            _ => word,
        });
        rest = after;
    }
    text
}

fn is_push(line: &str) -> bool {
    line.starts_with("\"message\"")
}

/// Lines that are compared; some errors of redis-cli end with an empty line.
fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines.filter(|line| !line.is_empty()).map(comparable).collect()
}

#[tokio::test]
async fn the_session_of_the_protocol_runs_as_it_is_printed() -> Result {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let steps = steps(&fs::read_to_string(root.join("docs/protocol.md"))?);
    ensure!(
        steps.len() > 20,
        "the session is not found any more: {} commands",
        steps.len()
    );
    let pushes: Vec<&str> = steps
        .iter()
        .flat_map(|step| &step.printed)
        .map(String::as_str)
        .filter(|line| is_push(line))
        .collect();

    let mut script = REDIS_CLI.to_owned();
    for step in &steps {
        script.push_str(&step.command);
        // The subscription has to be there before the next command.
        if step.command.ends_with('&') {
            script.push_str("\nhas_pushes subscribe 1");
        }
        writeln!(script, "\necho '{MARK}'")?;
    }
    writeln!(
        script,
        "has_pushes message {}\nkill $(jobs -p)\nwait",
        pushes.len()
    )?;

    let redis = Redis::start().await?;
    let cli: PathBuf = spawn_blocking(|| assets::path("redis-server"))
        .await??
        .with_file_name("redis-cli");
    ensure!(cli.exists(), "there is no {}: install redis-tools", cli.display());
    let received = folder("session")?.join("pushes");
    fs::write(&received, "")?;
    let mut bash = Command::new("bash");
    bash.args(["-c", &script])
        .current_dir(root)
        .env("CLI", cli)
        .env("PORT", redis.port().to_string())
        .env("PUSHES", &received)
        .stdin(Stdio::null());
    let output = spawn_blocking(move || bash.output()).await??;
    let (printed, errors) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8_lossy(&output.stderr),
    );
    let mut replies = printed.split(MARK);

    let mut differences = Vec::new();
    for Step { command, printed } in &steps {
        let reply = replies.next().with_context(|| format!("{command}: {errors}"))?;
        let expected = lines(printed.iter().map(String::as_str).filter(|line| !is_push(line)));
        let found = lines(reply.lines());
        if found != expected {
            let (found, expected) = (found.join("\n"), expected.join("\n"));
            differences.push(format!(
                "{command}\nprints\n{found}\nand the page has\n{expected}\n"
            ));
        }
    }
    ensure!(differences.is_empty(), "{}\n{errors}", differences.join("\n"));
    let received = fs::read_to_string(received)?;
    assert_eq!(
        lines(received.lines().filter(|line| is_push(line))),
        lines(pushes.into_iter())
    );
    Ok(())
}
