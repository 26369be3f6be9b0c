//! Commands that clients have sent to a Redis, counted by Redis.

use std::collections::BTreeMap;

use crate::{Redis, Result};

/// Commands that only scripts call here.
const INSIDE: [&str; 26] = [
    "time",
    "set",
    "mget",
    "hmget",
    "hset",
    "hget",
    "hdel",
    "hlen",
    "hkeys",
    "zadd",
    "zrem",
    "zrange",
    "zscore",
    "zcard",
    "zrank",
    "zpopmin",
    "zpopmax",
    "exists",
    "pexpire",
    "persist",
    "unlink",
    "del",
    "publish",
    "pttl",
    "pexpiretime",
    "pexpireat",
];
/// The harness' own, by which the counts are read.
const OURS: [&str; 3] = ["info", "hello", "client|setinfo"];

/// Number of each sent command.
pub type Sent = BTreeMap<String, u64>;

/// Number of each command that clients have sent since the server's start, without the calls of scripts.
pub async fn sent(redis: &Redis) -> Result<Sent> {
    let stats = redis.cli(&["INFO", "commandstats"]).await?;
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (!INSIDE.contains(&name) && !OURS.contains(&name)).then(|| (name.to_owned(), calls))
    };
    Ok(stats.lines().filter_map(line).collect())
}

/// Commands between two counts.
#[must_use]
pub fn difference(before: &Sent, after: &Sent) -> Sent {
    let grown = |(name, calls): (&String, &u64)| {
        let more = calls - before.get(name).unwrap_or(&0);
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}
