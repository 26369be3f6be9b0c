//! Commands that clients send to a Redis, as its `MONITOR` shows them: every one of them, and none that a script calls.

use std::collections::BTreeMap;

use anyhow::Context;
use futures_util::StreamExt;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{Redis, Result};

/// Number of each sent command.
pub type Sent = BTreeMap<String, u64>;

/// Counts the commands that are sent from its start on.
#[derive(Debug)]
pub struct Counter<'a> {
    redis: &'a Redis,
    lines: mpsc::UnboundedReceiver<String>,
    reader: JoinHandle<()>,
}

impl<'a> Counter<'a> {
    /// Counts from now on.
    pub async fn start(redis: &'a Redis) -> Result<Self> {
        let mut monitor = redis.monitor().await?;
        let (lines_in, lines) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            let mut shown = monitor.on_message::<String>();
            while let Some(line) = shown.next().await {
                if lines_in.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { redis, lines, reader })
    }

    /// Returns the number of each command that was sent since the start or the last call.
    pub async fn take(&mut self) -> Result<Sent> {
        let end = uuid::Uuid::new_v4().to_string();
        self.redis.cli(&["ECHO", &end]).await?;
        let mut commands = Vec::new();
        let own = loop {
            let line = self.lines.recv().await.context("MONITOR has ended")?;
            let (client, command) = shown(&line).with_context(|| format!("MONITOR shows {line:?}"))?;
            let is_end = command.contains(&end);
            let client = client.to_owned();
            if is_end {
                break client;
            }
            let mut parts = command
                .split(' ')
                .map(|part| part.trim_matches('"').to_ascii_lowercase());
            let mut name = parts.next().unwrap_or_default();
            if ["script", "client", "config"].contains(&&*name) {
                name = format!("{name}|{}", parts.next().unwrap_or_default());
            }
            commands.push((client, name));
        };
        let mut sent = Sent::new();
        for (client, name) in commands {
            // The counter's own connection is not one of a client; "lua" is a script.
            if client != own && client != "lua" {
                *sent.entry(name).or_default() += 1;
            }
        }
        Ok(sent)
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The client and the command of `1763717000.123456 [0 127.0.0.1:50000] "GET" "x"`.
fn shown(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(" [")?;
    let (client, command) = rest.split_once("] ")?;
    Some((client.split_once(' ')?.1, command))
}

/// The number of all commands.
#[must_use]
pub fn total(sent: &Sent) -> u64 {
    sent.values().sum()
}
