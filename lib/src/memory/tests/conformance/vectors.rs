//! The form of the conformance vectors, and the comparison of what a server does with them. `conformance/README.md` describes
//! both for authors of clients. The runner on a real server, `tests/bin/conformance.rs`, includes this file.

use std::collections::BTreeMap;

use redis::Value;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value as Json};

/// A file of vectors.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topic {
    /// The version of the protocol.
    pub(crate) protocol: u32,
    pub(crate) about: String,
    pub(crate) scenarios: Vec<Scenario>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Anchors of sentences in docs/protocol.md.
    pub(crate) shows: Vec<String>,
    #[serde(default, skip_serializing_if = "Clock::is_real")]
    pub(crate) clock: Clock,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Clock {
    /// Short enough to wait for.
    #[default]
    Real,
    /// It waits for minutes or hours.
    Virtual,
}

impl Clock {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's
    fn is_real(&self) -> bool {
        *self == Self::Real
    }
}

/// A call of a script, or a command that changes keys behind its back.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// Waits before the call.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) wait_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) script: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    #[serde(
        default,
        deserialize_with = "also_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) reply: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pushes: Vec<Push>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Push {
    pub(crate) channel: String,
    pub(crate) lines: Vec<Json>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `null` is a reply.
fn also_null<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(source).map(Some)
}

impl Topic {
    /// Its text: each list and each object stands in one line if it fits.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        write(&serde_json::to_value(self).unwrap_or_default(), 0, &mut text);
        text.push('\n');
        text
    }
}

/// The order of the fields in a file.
const ORDER: [&str; 18] = [
    "protocol",
    "about",
    "scenarios",
    "name",
    "shows",
    "clock",
    "steps",
    "wait_ms",
    "script",
    "keys",
    "args",
    "command",
    "reply",
    "error",
    "pushes",
    "channel",
    "time",
    "micros",
];

fn write(json: &Json, indent: usize, text: &mut String) {
    const WIDTH: usize = 120;
    let short = json.to_string();
    let (brackets, parts): (_, Vec<(String, &Json)>) = match json {
        Json::Array(values) => ("[]", values.iter().map(|value| (String::new(), value)).collect()),
        Json::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| ORDER.iter().position(|field| field == name));
            let named = |(name, value): (&String, _)| (format!("\"{name}\": "), value);
            ("{}", fields.into_iter().map(named).collect())
        }
        _ => return text.push_str(&short),
    };
    let fits = indent + short.len() < WIDTH && !short.contains("\"args\"");
    let (open, close) = brackets.split_at(1);
    text.push_str(open);
    for (at, (name, value)) in parts.iter().enumerate() {
        if at > 0 {
            text.push_str(if fits { ", " } else { "," });
        }
        if !fits {
            text.push('\n');
            text.push_str(&" ".repeat(indent + 2));
        }
        text.push_str(name);
        write(value, indent + 2, text);
    }
    if !fits && !parts.is_empty() {
        text.push('\n');
        text.push_str(&" ".repeat(indent));
    }
    text.push_str(close);
}

/// A value of a reply, or a line of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Nil,
    /// An integer, or a text of digits: clients read both.
    Number(i64),
    Text(String),
    List(Vec<Found>),
}

impl Found {
    pub(crate) fn text(text: &str) -> Self {
        let is_number =
            text.len() <= 16 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_number && (text == "0" || !text.starts_with('0')) => Self::Number(number),
            _ => Self::Text(text.to_owned()),
        }
    }

    /// A reply, or the text of an error reply.
    pub(crate) fn reply(value: &Value) -> Result<Self, String> {
        Ok(match value {
            Value::Nil => Self::Nil,
            Value::Int(number) => Self::Number(*number),
            Value::BulkString(bytes) => Self::text(&String::from_utf8_lossy(bytes)),
            Value::SimpleString(text) => Self::text(text),
            Value::Okay => Self::Text("OK".to_owned()),
            Value::Array(values) => Self::List(values.iter().map(Self::reply).collect::<Result<_, _>>()?),
            Value::ServerError(error) => {
                return Err(match error.details() {
                    Some(details) => format!("{} {details}", error.code()),
                    None => error.code().to_owned(),
                });
            }
            other => return Err(format!("ERR a reply of another type: {other:?}")),
        })
    }

    fn plain(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            other => format!("{other:?}"),
        }
    }
}

/// The server's clock before and after a call, in microseconds: the script ran in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) before: i64,
    pub(crate) after: i64,
}

impl Moment {
    fn millis(self) -> (i64, i64) {
        (self.before / 1000, self.after / 1000)
    }
}

/// One run of a scenario: values of placeholders, and the steps so far.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) moments: Vec<Moment>,
}

impl Run {
    /// A run in a namespace of its own, on the server of this run id.
    pub(crate) fn new(namespace: &str, run_id: &str) -> Self {
        let other: String = run_id.chars().rev().collect();
        let values = [
            ("NS", namespace),
            ("RUN", run_id),
            ("OTHER_RUN", &format!("{other}0")),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            values: values.into(),
            moments: Vec::new(),
        }
    }

    /// Replaces `${name}`.
    pub(crate) fn fill(&self, text: &str) -> Result<String, String> {
        let mut parts = text.split("${");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part
                .split_once('}')
                .ok_or_else(|| format!("no end of ${{ in {text}"))?;
            let value = self.values.get(name);
            filled.push_str(value.ok_or_else(|| format!("nothing is saved as {name}, for {text}"))?);
            filled.push_str(rest);
        }
        Ok(filled)
    }

    pub(crate) fn fill_all(&self, texts: &[String]) -> Result<Vec<String>, String> {
        texts.iter().map(|text| self.fill(text)).collect()
    }

    /// Compares the outcome of a step, whose moment is the last one.
    pub(crate) fn check(
        &mut self,
        step: &Step,
        reply: &Result<Found, String>,
        pushes: &[(String, String)],
    ) -> Result<(), String> {
        match (&step.error, reply) {
            (Some(expected), Err(error)) => {
                let expected = self.fill(expected)?;
                let rest = error.strip_prefix(&expected);
                // Servers add where in the script an error was raised.
                if rest.is_none_or(|rest| !rest.is_empty() && !rest.starts_with([' ', ','])) {
                    return Err(format!("the error {error}, expected {expected}"));
                }
            }
            (Some(expected), Ok(found)) => return Err(format!("{found:?}, expected the error {expected}")),
            (None, Err(error)) => return Err(format!("the error {error}")),
            (None, Ok(found)) => {
                let expected = step.reply.as_ref().unwrap_or(&Json::Null);
                self.check_value(expected, found)
                    .map_err(|problem| format!("{problem} in the reply {found:?}"))?;
            }
        }
        if step.pushes.len() != pushes.len() {
            return Err(format!("{} pushes: {pushes:?}", pushes.len()));
        }
        for (expected, (channel, message)) in step.pushes.iter().zip(pushes) {
            let filled = self.fill(&expected.channel)?;
            if filled != *channel {
                return Err(format!("a push on {channel}, expected on {filled}"));
            }
            let lines: Vec<Found> = message.split('\n').map(Found::text).collect();
            let expected = Json::Array(expected.lines.clone());
            self.check_value(&expected, &Found::List(lines))
                .map_err(|problem| format!("{problem} in the push {message:?}"))?;
        }
        Ok(())
    }

    fn check_value(&mut self, expected: &Json, found: &Found) -> Result<(), String> {
        let is_met = match (expected, found) {
            (Json::Null, Found::Nil) => true,
            (Json::Number(number), Found::Number(found)) => number.as_i64() == Some(*found),
            (Json::String(text), Found::Text(_) | Found::Number(_)) => self.fill(text)? == found.plain(),
            (Json::Array(expected), Found::List(values)) if expected.len() == values.len() => {
                return expected
                    .iter()
                    .zip(values)
                    .try_for_each(|(expected, value)| self.check_value(expected, value));
            }
            (Json::Object(pattern), found) => self.meets(pattern, found)?,
            _ => false,
        };
        if is_met {
            Ok(())
        } else {
            Err(format!("{}, expected {expected}", found.plain()))
        }
    }

    /// The parts of a text; `clock` stands for two of them, seconds and microseconds.
    fn meets_parts(&mut self, patterns: &[Json], text: &str) -> Result<bool, String> {
        let mut parts = text.split(' ');
        for pattern in patterns {
            let mut part = || parts.next().ok_or_else(|| format!("{text} is too short"));
            let found = match pattern.get("clock") {
                Some(_) => {
                    let (seconds, micros) = (part()?, part()?);
                    let number = |text: &str| text.parse::<i64>().map_err(|_| format!("{text} is no number"));
                    Found::Number(number(seconds)? * 1_000_000 + number(micros)?)
                }
                None => Found::text(part()?),
            };
            self.check_value(pattern, &found)?;
        }
        Ok(parts.next().is_none())
    }

    fn meets(&mut self, pattern: &Map<String, Json>, found: &Found) -> Result<bool, String> {
        let number = |name: &str| pattern.get(name).and_then(Json::as_i64);
        let last = self.moments.len();
        let step = number("of_step").map_or(Ok(last), |step| usize::try_from(step).map_err(|_| "of_step"))?;
        let moment = *step
            .checked_sub(1)
            .and_then(|at| self.moments.get(at))
            .ok_or("there is no such step")?;
        let here = self.moments[last - 1].millis();
        let within = |from: i64, to: i64| matches!(found, Found::Number(n) if (from..=to).contains(n));
        let (before, after) = moment.millis();
        let is_met = if let Some(ms) = number("time") {
            within(before + ms, after + ms)
        } else if let Some(parts) = pattern.get("parts").and_then(Json::as_array) {
            self.meets_parts(parts, &found.plain())?
        } else if let Some(micros) = number("micros").or_else(|| number("clock")) {
            within(moment.before + micros, moment.after + micros)
        } else if let Some(ms) = number("left") {
            within(before + ms - here.1, after + ms - here.0)
        } else if let Some(name) = pattern.get("same").and_then(Json::as_str) {
            self.values.get(name).ok_or("nothing is saved under this name")? == &found.plain()
        } else if pattern.get("any").is_some() {
            true
        } else {
            return Err(format!("an unknown pattern {pattern:?}"));
        };
        if let Some(name) = pattern.get("save").and_then(Json::as_str) {
            self.values.insert(name.to_owned(), found.plain());
        }
        Ok(is_met)
    }
}
