//! Replays the conformance vectors on a real server: `conformance/README.md` describes how.

// The twin replays the same files, and makes them.
#[allow(dead_code)]
#[path = "../../lib/src/memory/tests/conformance/vectors.rs"]
mod vectors;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use redis::{Client, Connection, Value, cmd};

use self::vectors::{Clock, Found, Moment, Run, Scenario, Step, Topic};
use crate::{Result, process::unique};

/// The wait for a push, or for a reply.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A scenario that took longer than its waits and this much is repeated: leases may have expired in between.
const SLOW: Duration = Duration::from_millis(150);
/// The number of repetitions, on a machine that is busy.
const TRIES: usize = 5;

/// The number of scenarios that were replayed, and those that differ, each with its problem.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The number of scenarios that do what they should.
    pub passed: usize,
    /// The number of scenarios that need a virtual clock.
    pub skipped: usize,
    /// File, scenario and difference.
    pub failed: Vec<String>,
}

/// Replays all files of the folder on the server at this URL, each scenario in a namespace of its own. `root` is a checkout, which
/// has the scripts.
pub fn replay(url: &str, folder: &Path, root: &Path) -> Result<Outcome> {
    let mut server = Server::connect(url, root)?;
    let mut outcome = Outcome::default();
    let mut paths: Vec<_> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    for path in paths {
        let read = || -> Result<Topic> { Ok(serde_json::from_str(&fs::read_to_string(&path)?)?) };
        let topic = read().with_context(|| path.display().to_string())?;
        for scenario in &topic.scenarios {
            if scenario.clock == Clock::Virtual {
                outcome.skipped += 1;
                continue;
            }
            match server.scenario(scenario) {
                Ok(()) => outcome.passed += 1,
                Err(problem) => {
                    let file = path.file_name().unwrap_or_default().to_string_lossy();
                    outcome
                        .failed
                        .push(format!("{file}: {}: {problem:#}", scenario.name));
                }
            }
        }
    }
    Ok(outcome)
}

struct Server {
    client: Client,
    connection: Connection,
    run_id: String,
    /// The SHA-1 of each script.
    hashes: BTreeMap<String, String>,
}

impl Server {
    fn connect(url: &str, root: &Path) -> Result<Self> {
        let client = Client::open(url)?;
        let mut connection = client
            .get_connection()
            .with_context(|| format!("connecting to {url}"))?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        let about: String = cmd("INFO").arg("server").query(&mut connection)?;
        let run_id = about.lines().find_map(|line| line.strip_prefix("run_id:"));
        let run_id = run_id.context("INFO server has no run_id")?.trim().to_owned();
        let mut hashes = BTreeMap::new();
        for (folder, prefix) in [("lua/dist", ""), ("lib/testdata/protocol-1", "protocol-1/")] {
            let folder = root.join(folder);
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                let text = fs::read_to_string(&path)?;
                let hash: String = cmd("SCRIPT").arg("LOAD").arg(text).query(&mut connection)?;
                hashes.insert(format!("{prefix}{name}"), hash);
            }
        }
        Ok(Self {
            client,
            connection,
            run_id,
            hashes,
        })
    }

    /// Replays a scenario, and again if that took too long to show anything.
    fn scenario(&mut self, scenario: &Scenario) -> Result {
        let planned: u64 = scenario.steps.iter().map(|step| step.wait_ms).sum();
        for left in (0..TRIES).rev() {
            let begun = Instant::now();
            let outcome = self.attempt(scenario);
            let is_slow = begun.elapsed() > Duration::from_millis(planned) + SLOW;
            if outcome.is_ok() || left == 0 || !is_slow {
                return outcome;
            }
        }
        Ok(())
    }

    fn attempt(&mut self, scenario: &Scenario) -> Result {
        let namespace = unique("conformance");
        let mut run = Run::new(&namespace, &self.run_id);
        let mut listener = self.client.get_connection()?;
        listener.set_read_timeout(Some(TIMEOUT))?;
        let mut listener = listener.as_pubsub();
        // The second one is for clients of protocol 1.
        for pattern in [
            format!("tenure:{{{namespace}/*"),
            format!("tenure:client:{namespace}-*"),
        ] {
            listener.psubscribe(pattern)?;
        }
        let end = format!("tenure:{{{namespace}/end}}");
        let mut keys = BTreeSet::new();
        let mut outcome = Ok(());
        for (at, step) in scenario.steps.iter().enumerate() {
            std::thread::sleep(Duration::from_millis(step.wait_ms));
            keys.extend(run.fill_all(&step.keys).map_err(|problem| anyhow!(problem))?);
            let reply = self.step(step, &mut run)?;
            // Messages arrive in the order in which they were published.
            let _: Value = cmd("PUBLISH").arg(&end).arg(at).query(&mut self.connection)?;
            let mut pushes = Vec::new();
            loop {
                let message = listener.get_message().context("waiting for pushes")?;
                let channel = message.get_channel_name().to_owned();
                if channel == end {
                    break;
                }
                pushes.push((channel, message.get_payload::<String>()?));
            }
            if step.script.is_some()
                && let Err(problem) = run.check(step, &reply, &pushes)
            {
                outcome = Err(anyhow!("step {}: {problem}", at + 1));
                break;
            }
        }
        self.remove(&keys)?;
        outcome
    }

    /// Returns the reply, or the text of an error reply.
    fn step(&mut self, step: &Step, run: &mut Run) -> Result<std::result::Result<Found, String>> {
        let fill = |texts: &[String]| run.fill_all(texts).map_err(|problem| anyhow!(problem));
        let command = match &step.script {
            None => fill(&step.command)?,
            Some(script) => {
                let hash = self.hashes.get(script);
                let hash = hash.with_context(|| format!("there is no script {script}"))?;
                let count = step.keys.len().to_string();
                let mut command = vec!["EVALSHA".to_owned(), hash.clone(), count];
                command.extend(fill(&step.keys)?);
                command.extend(fill(&step.args)?);
                command
            }
        };
        let before = self.time()?;
        let reply = cmd(&command[0])
            .arg(&command[1..])
            .query::<Value>(&mut self.connection);
        let after = self.time()?;
        run.moments.push(Moment { before, after });
        match reply {
            Ok(value) => Ok(Found::reply(&value)),
            Err(error) => match error.code() {
                Some(code) => Ok(Err(format!("{code} {}", error.detail().unwrap_or_default()))),
                None => bail!(error),
            },
        }
    }

    fn time(&mut self) -> Result<i64> {
        let (seconds, micros): (i64, i64) = cmd("TIME").query(&mut self.connection)?;
        Ok(seconds * 1_000_000 + micros)
    }

    /// Removes the objects whose first keys these are.
    fn remove(&mut self, first: &BTreeSet<String>) -> Result {
        let parts = [
            "obj",
            "holders",
            "queue",
            "expiry",
            "waits",
            "resources",
            "free",
            "selectors",
            "value",
            "done",
        ];
        for key in first {
            let stem = key.rsplit_once(':').map_or("", |(stem, _)| stem);
            let keys = parts.map(|part| format!("{stem}:{part}"));
            let _: Value = cmd("UNLINK").arg(&keys).query(&mut self.connection)?;
        }
        Ok(())
    }
}
