//! The conformance vectors in `conformance/`: made by the scripts, and replayed on them. With `TENURE_GENERATE=1`, which
//! `make generate` sets, the files are written; otherwise a difference fails.

#![allow(clippy::too_many_lines)] // lists of scenarios

mod leases;
mod locks;
mod objects;
mod plan;
mod pools;
mod upgrades;
mod vectors;

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::{Value as Json, json};

use crate::memory::tests::{
    Call, Side,
    conformance::{
        plan::Plan,
        vectors::{Found, Moment, Push, Run, Scenario, Step, Topic},
    },
};
use crate::{
    protocol::{
        channel::ClientChannels,
        script::{self, PROTOCOL, Script},
    },
    transport::lock,
};

/// Names of clients in the scenarios: someone listens on the channel of each.
const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];

type Outcome = (Result<Found, String>, Vec<(String, String)>);

/// A twin with a clock, on which a scenario is played.
struct Stage {
    side: Side,
    run: Run,
    now_us: i64,
    /// The time from one step to the next.
    pace_us: i64,
}

impl Stage {
    fn new(number: u32, start_us: i64, pace_us: i64) -> Self {
        let (side, namespace) = (Side::new(), format!("space-{number}"));
        for client in CLIENTS {
            let channel = ClientChannels::new("tenure", &namespace, client).channel(None);
            lock(&side.database).listeners.insert(channel.to_string(), 1);
        }
        Self {
            side,
            run: Run::new(&namespace, &format!("{number}run{number}")),
            now_us: start_us,
            pace_us,
        }
    }

    fn play(&mut self, step: &Step) -> Result<Outcome, String> {
        self.now_us += i64::try_from(step.wait_ms).unwrap() * 1000 + self.pace_us;
        self.run.moments.push(Moment {
            before: self.now_us,
            after: self.now_us,
        });
        let now_us = u64::try_from(self.now_us).unwrap();
        let Some(name) = &step.script else {
            let command = self.run.fill_all(&step.command)?;
            let mut args = command.iter().map(|word| word.clone().into_bytes());
            args.next();
            let args: Vec<_> = args.collect();
            let mut database = lock(&self.side.database);
            database.now_us = now_us;
            database.keys = args.iter().cloned().collect();
            database.execute(&command[0], &args)?;
            return Ok((Ok(Found::Nil), Vec::new()));
        };
        let call = Call {
            script: named(name),
            keys: self.run.fill_all(&step.keys)?,
            args: self.run.fill_all(&step.args)?,
        };
        let (reply, mut pushes) = self.side.run(call.script, &call, now_us);
        // Controllers of protocol 1 shared one channel.
        pushes.retain(|(channel, _)| channel.contains(&self.run.values["NS"]));
        Ok((Found::reply(&reply), pushes))
    }
}

fn named(name: &str) -> &'static Script {
    let today = script::ALL.iter().find(|script| script.name == name);
    today
        .map(|script| &***script)
        .or_else(|| upgrades::script(name))
        .unwrap_or_else(|| panic!("there is no script {name}"))
}

/// Plays a scenario on two twins, whose clocks, run ids and namespaces differ: what differs in their outcomes depends on these.
struct Recorder {
    stages: [Stage; 2],
    fences: usize,
}

impl Recorder {
    fn new() -> Self {
        let stages = [
            Stage::new(1, 1_763_717_000_000_000, 1_007),
            Stage::new(2, 1_785_111_000_000_000, 2_011),
        ];
        Self { stages, fences: 0 }
    }

    fn record(plan: &Plan) -> Scenario {
        let mut recorder = Self::new();
        let steps = plan.steps.iter().map(|step| recorder.step(step));
        Scenario {
            name: plan.name.to_owned(),
            shows: plan.shows.iter().map(ToString::to_string).collect(),
            clock: plan.clock,
            steps: steps
                .collect::<Result<_, _>>()
                .unwrap_or_else(|problem| panic!("{}: {problem}", plan.name)),
        }
    }

    fn step(&mut self, input: &Step) -> Result<Step, String> {
        let [one, other] = &mut self.stages;
        let outcomes = [one.play(input)?, other.play(input)?];
        let mut step = Step {
            wait_ms: input.wait_ms,
            script: input.script.clone(),
            keys: input.keys.clone(),
            args: input.args.clone(),
            command: input.command.clone(),
            ..Step::default()
        };
        let [(one, pushes), (other, other_pushes)] = outcomes;
        match (one, other) {
            _ if input.script.is_none() => {}
            (Ok(one), Ok(other)) => {
                let reads = input.script.as_deref() == Some("observe");
                step.reply = Some(self.pattern(&one, &other, !reads)?);
            }
            (Err(one), Err(other)) => step.error = Some(self.text(&one, &other).ok_or(one)?),
            (one, other) => return Err(format!("{one:?} and {other:?}")),
        }
        if pushes.len() != other_pushes.len() {
            return Err(format!("{pushes:?} and {other_pushes:?}"));
        }
        for ((channel, message), (other_channel, other)) in pushes.into_iter().zip(other_pushes) {
            let lines = |text: &str| Found::List(text.split('\n').map(Found::text).collect());
            let lines = self.pattern(&lines(&message), &lines(&other), true)?;
            step.pushes.push(Push {
                channel: self.text(&channel, &other_channel).ok_or(channel)?,
                lines: lines.as_array().cloned().unwrap_or_default(),
            });
        }
        Ok(step)
    }

    fn pattern(&mut self, one: &Found, other: &Found, grants: bool) -> Result<Json, String> {
        Ok(match (one, other) {
            (Found::Nil, Found::Nil) => Json::Null,
            (Found::List(one), Found::List(other)) if one.len() == other.len() => {
                let pairs = one.iter().zip(other);
                let patterns = pairs.map(|(one, other)| self.pattern(one, other, grants));
                patterns.collect::<Result<_, _>>()?
            }
            (Found::Number(one), Found::Number(other)) if one == other => json!(one),
            (Found::Number(one), Found::Number(other)) => self
                .number(*one, *other, grants)
                .ok_or_else(|| format!("{one} and {other}: no step explains the difference"))?,
            (Found::Text(value), Found::Text(_)) if !grants && is_entry(value) => json!({ "any": "text" }),
            (Found::Text(one), Found::Text(other)) => {
                let text = self.text(one, other).map(Json::String);
                text.or_else(|| self.parts(one, other))
                    .ok_or_else(|| format!("{one} and {other}"))?
            }
            (one, other) => return Err(format!("{one:?} and {other:?}")),
        })
    }

    /// The parts of a text, some of which are a time in seconds and microseconds.
    fn parts(&mut self, one: &str, other: &str) -> Option<Json> {
        let mut pairs = one.split(' ').zip(other.split(' '));
        let mut patterns = Vec::new();
        while let Some((one, other)) = pairs.next() {
            if one == other {
                patterns.push(json!(one));
                continue;
            }
            let (micros, other_micros) = pairs.next()?;
            let time = |seconds: &str, micros: &str| {
                Some(seconds.parse::<i64>().ok()? * 1_000_000 + micros.parse::<i64>().ok()?)
            };
            let mut clock = self.number(time(one, micros)?, time(other, other_micros)?, true)?;
            let by = clock.as_object_mut()?.remove("micros")?;
            clock["clock"] = by;
            patterns.push(clock);
        }
        Some(json!({ "parts": patterns }))
    }

    /// The text with placeholders, if that explains all differences.
    fn text(&self, one: &str, other: &str) -> Option<String> {
        let general = |stage: &Stage, text: &str| {
            let names = ["OTHER_RUN", "RUN", "NS"];
            names.iter().fold(text.to_owned(), |text, name| {
                text.replace(&stage.run.values[*name], &format!("${{{name}}}"))
            })
        };
        let [one, other] = [general(&self.stages[0], one), general(&self.stages[1], other)];
        (one == other).then_some(one)
    }

    fn number(&mut self, one: i64, other: i64, grants: bool) -> Option<Json> {
        let [a, b] = [&self.stages[0].run, &self.stages[1].run];
        let last = a.moments.len();
        let here = [a.moments[last - 1].before, b.moments[last - 1].before];
        let relation = |step: usize| {
            let at = [a.moments[step - 1].before, b.moments[step - 1].before];
            let differs = |by: [i64; 2]| (one - by[0] == other - by[1]).then_some(one - by[0]);
            let time = differs(at.map(|at| at / 1000)).map(|by| ("time", by));
            let micros = || differs(at).map(|by| ("micros", by));
            let left = || {
                let passed = [0, 1].map(|side| at[side] / 1000 - here[side] / 1000);
                differs(passed).map(|by| ("left", by))
            };
            time.or_else(micros).or_else(left)
        };
        if let Some((kind, by)) = relation(last) {
            let mut pattern = json!({ kind: by });
            if kind == "micros" && grants {
                self.fences += 1;
                let name = format!("fence-{}", self.fences);
                for (stage, value) in self.stages.iter_mut().zip([one, other]) {
                    stage.run.values.insert(name.clone(), value.to_string());
                }
                pattern["save"] = json!(name);
            }
            return Some(pattern);
        }
        let is_saved = |name: &&String| {
            let same = |run: &Run, value: i64| run.values.get(*name) == Some(&value.to_string());
            same(a, one) && same(b, other)
        };
        if let Some(name) = a.values.keys().find(is_saved) {
            return Some(json!({ "same": name }));
        }
        let (step, (kind, by)) = (1..last).find_map(|step| Some((step, relation(step)?)))?;
        Some(json!({ kind: by, "of_step": step }))
    }
}

/// True for the value of a token, which `observe` replies as it is stored.
fn is_entry(text: &str) -> bool {
    let numbers = text
        .split(' ')
        .take_while(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.count() >= 6
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance"))
}

fn topics() -> impl Iterator<Item = (&'static str, Topic)> {
    [
        locks::topics(),
        leases::topics(),
        pools::topics(),
        objects::topics(),
        upgrades::topics(),
    ]
    .into_iter()
    .flatten()
    .map(|(name, about, plans)| {
        let topic = Topic {
            protocol: PROTOCOL,
            about: about.to_owned(),
            scenarios: plans.iter().map(Recorder::record).collect(),
        };
        (name, topic)
    })
}

/// The files as they are, unless this is the published crate alone.
fn stored() -> Vec<(String, Topic)> {
    let Ok(entries) = fs::read_dir(folder()) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let vectors = paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let topic = serde_json::from_str(&fs::read_to_string(&path).unwrap());
        (
            name,
            topic.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        )
    };
    vectors.map(read).collect()
}

#[test]
fn the_vectors_are_what_the_scripts_do() {
    if !folder().exists() {
        return; // the published crate alone, without its repository
    }
    let mut names = Vec::new();
    for (name, topic) in topics() {
        let scenarios: BTreeSet<_> = topic.scenarios.iter().map(|scenario| &scenario.name).collect();
        assert_eq!(
            scenarios.len(),
            topic.scenarios.len(),
            "{name}: two scenarios have one name"
        );
        let (path, text) = (folder().join(format!("{name}.json")), topic.text());
        if std::env::var_os("TENURE_GENERATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        let line = there
            .lines()
            .zip(text.lines())
            .position(|(there, text)| there != text);
        assert!(
            there == text,
            "{} differs from what the scripts do, from line {} on: run `make generate` and look at the difference",
            path.display(),
            line.unwrap_or_else(|| there.lines().count().min(text.lines().count())) + 1
        );
        names.push(name.to_owned());
    }
    let others: Vec<_> = stored()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !names.contains(name))
        .collect();
    assert!(others.is_empty(), "no scenario makes {others:?}");
}

/// Replays a scenario on a twin whose clock goes at another pace.
fn replay(scenario: &Scenario) -> Result<(), String> {
    let mut stage = Stage::new(3, 1_801_222_000_000_000, 1_511);
    for (at, step) in scenario.steps.iter().enumerate() {
        let (reply, pushes) = stage.play(step)?;
        if step.script.is_some() {
            stage
                .run
                .check(step, &reply, &pushes)
                .map_err(|problem| format!("step {}: {problem}", at + 1))?;
        }
    }
    Ok(())
}

#[test]
fn the_vectors_replay_on_the_twin() {
    for (name, topic) in stored() {
        assert_eq!(topic.protocol, PROTOCOL, "{name}");
        for scenario in &topic.scenarios {
            replay(scenario).unwrap_or_else(|problem| panic!("{name}, {}: {problem}", scenario.name));
        }
    }
}

/// Changes the nth value, and returns whether there is one.
fn change(json: &mut Json, nth: &mut usize) -> bool {
    match json {
        Json::Array(values) => return values.iter_mut().any(|value| change(value, nth)),
        Json::Object(pattern) if pattern.contains_key("any") => return false,
        Json::Object(pattern) if pattern.contains_key("parts") => return change(&mut pattern["parts"], nth),
        _ => {}
    }
    if *nth > 0 {
        *nth -= 1;
        return false;
    }
    match json {
        Json::Object(pattern) => {
            for (kind, value) in pattern {
                match (kind.as_str(), value.as_i64()) {
                    ("same", _) => *value = json!("NS"),
                    ("time" | "micros" | "left" | "clock", Some(by)) => *value = json!(by + 1),
                    _ => {}
                }
            }
        }
        Json::Number(number) => *json = json!(number.as_i64().unwrap() + 1),
        Json::String(text) => text.push('x'),
        other => *other = json!(1),
    }
    true
}

#[test]
fn a_replay_finds_every_value_that_differs() {
    let mut count = 0;
    for (name, mut topic) in stored()
        .into_iter()
        .filter(|(name, _)| name == "lock" || name == "errors")
    {
        for scenario in &mut topic.scenarios {
            for step in 0..scenario.steps.len() {
                for at in 0.. {
                    let mut nth = at;
                    let Some(reply) = &mut scenario.steps[step].reply else {
                        break;
                    };
                    let before = reply.clone();
                    if !change(reply, &mut nth) {
                        break;
                    }
                    let changed = reply.clone();
                    let found = replay(scenario).is_err();
                    assert!(found, "{name}, {}, step {}: {changed}", scenario.name, step + 1);
                    scenario.steps[step].reply = Some(before);
                    count += 1;
                }
                for part in 0..scenario.steps[step].pushes.len() {
                    let push = scenario.steps[step].pushes.remove(part);
                    assert!(
                        replay(scenario).is_err(),
                        "{name}, {}: a push is too much",
                        scenario.name
                    );
                    scenario.steps[step].pushes.insert(part, push);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 100 || !folder().exists(), "{count} changes show nothing");
}
