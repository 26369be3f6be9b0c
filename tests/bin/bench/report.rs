//! The figures: a table on the terminal, and a JSON file.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tenure_tests::{Context, Result};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
    /// No goal: for the comparison of two versions on the same machine.
    None,
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Exactly(wanted) => (value - wanted).abs() < 1e-9,
            Self::None => true,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::Exactly(wanted) => format!("{wanted}"),
            Self::None => "-".to_owned(),
        }
    }
}

#[derive(Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
}

impl Report {
    /// Notes a figure and prints its line: the value, its goal, and its inputs.
    pub(crate) fn figure(&mut self, name: &str, value: f64, goal: Goal, made_of: &str) {
        if self.figures.is_empty() {
            println!("{:<40} {:>8}  {:<8}     made of", "figure", "value", "goal");
        }
        let value = (value * 1000.0).round() / 1000.0;
        let met = if goal.met(value) { "met" } else { "MISSED" };
        println!("{name:<40} {value:>8}  {:<8} {met:<6}  {made_of}", goal.text());
        self.figures.insert(name.to_owned(), json(value));
    }

    /// Writes `target/bench/report.json`.
    pub(crate) fn write(self) -> Result {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench/report.json");
        let folder = path.parent().context("no folder for the report")?;
        fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(&Value::Object(self.figures))?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        Ok(())
    }
}

/// A count is written as one.
#[allow(clippy::cast_possible_truncation)] // it is whole, and small
fn json(value: f64) -> Value {
    if value.fract() == 0.0 {
        (value as i64).into()
    } else {
        value.into()
    }
}

/// Runs on a worker thread, where a program's tasks run, and not on the main one: waking that costs more.
pub(crate) async fn on_worker<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await?
}

/// Duration.
pub(crate) async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn ratio(of: Duration, over: Duration) -> f64 {
    of.as_secs_f64() / over.as_secs_f64()
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
pub(crate) fn each(count: u64, of: u64) -> f64 {
    count as f64 / of as f64
}
