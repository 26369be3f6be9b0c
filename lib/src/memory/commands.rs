//! The commands that the scripts call, each as Redis does it. Any other fails with an error that names it.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hasher},
    ops::Bound,
};

use redis::Value;

use crate::memory::store::{Bytes, Hash, SortedSet, Store, Text};

/// The state that a script works on.
pub(super) struct Database {
    pub(super) store: Store,
    /// The server's clock while a script runs, in microseconds: it stands still.
    pub(super) now_us: u64,
    /// The keys that the running script was given. It may touch only keys of the same objects, or it would not work in a cluster.
    pub(super) keys: HashSet<Bytes>,
    /// The number of clients whose own channel it is.
    pub(super) listeners: HashMap<String, usize>,
    /// Messages that the running script has sent: channel and payload.
    pub(super) published: Vec<(String, String)>,
    pub(super) random: fastrand::Rng,
    /// The units of work of the running script, and the most of any: see
    /// [`Memory::most_work`](super::Memory::most_work).
    pub(super) work: u64,
    pub(super) most_work: u64,
}

type Answer = Result<Value, String>;

/// The first key of the object that has this key.
fn first_key_beside(key: &[u8]) -> Bytes {
    let stem = key.iter().rposition(|byte| *byte == b':').map_or(0, |at| at + 1);
    let first: &[u8] = if &key[stem..] == b"done" { b"value" } else { b"obj" };
    [&key[..stem], first].concat()
}

impl Database {
    pub(super) fn execute(&mut self, name: &str, args: &[Bytes]) -> Answer {
        let answer = self.carry_out(name, args);
        let replied = match &answer {
            Ok(Value::Array(values)) => values.len(),
            _ => 0,
        };
        self.work += 1 + ((args.len() + replied) / 10) as u64;
        self.most_work = self.most_work.max(self.work);
        answer
    }

    fn carry_out(&mut self, name: &str, args: &[Bytes]) -> Answer {
        let keys = match name {
            "TIME" | "PUBLISH" => &[][..],
            "DEL" | "UNLINK" | "EXISTS" | "RENAME" => args,
            _ => args.get(..1).unwrap_or_default(),
        };
        let is_given = |key: &Bytes| self.keys.contains(key) || self.keys.contains(&first_key_beside(key));
        if let Some(key) = keys.iter().find(|key| !is_given(key)) {
            let key = String::from_utf8_lossy(key);
            return Err(format!(
                "ERR {name} of {key}, whose object the script was not given in KEYS"
            ));
        }
        let store = &mut self.store;
        match (name, args) {
            ("TIME", []) => Ok(Value::Array(vec![
                text((self.now_us / 1_000_000).to_string()),
                text((self.now_us % 1_000_000).to_string()),
            ])),
            ("PUBLISH", [channel, payload]) => {
                let read = |text: &Bytes| String::from_utf8_lossy(text).into_owned();
                let channel = read(channel);
                let listeners = self.listeners.get(&channel).copied().unwrap_or(0);
                self.published.push((channel, read(payload)));
                Ok(count(listeners))
            }
            ("DEL" | "UNLINK", [_, ..]) => Ok(count(args.iter().filter(|key| store.remove(key)).count())),
            ("EXISTS", [_, ..]) => Ok(count(args.iter().filter(|key| store.has(key)).count())),
            ("RENAME", [from, to]) => {
                let renamed = store.rename(from, to);
                renamed
                    .then_some(Value::Okay)
                    .ok_or_else(|| "ERR no such key".to_owned())
            }
            ("PTTL", [key]) => Ok(Value::Int(match store.end_of(key) {
                Some(ends) => i64::try_from(ends)
                    .unwrap_or(i64::MAX)
                    .saturating_sub_unsigned(self.now_us / 1000),
                None if store.has(key) => -1,
                None => -2,
            })),
            ("PEXPIRETIME", [key]) => Ok(Value::Int(match store.end_of(key) {
                Some(ends) => i64::try_from(ends).unwrap_or(i64::MAX),
                None if store.has(key) => -1,
                None => -2,
            })),
            ("PERSIST", [key]) => Ok(flag(store.set_end(key, None))),
            ("PEXPIRE", [key, ms]) => {
                let ends = integer(ms)?.saturating_add_unsigned(self.now_us / 1000);
                Ok(flag(store.end_at(key, ends, self.now_us / 1000)))
            }
            ("PEXPIREAT", [key, at]) => Ok(flag(store.end_at(key, integer(at)?, self.now_us / 1000))),
            // It finds nothing in a key that holds another type.
            ("MGET", [_, ..]) => {
                let found =
                    |key: &Bytes| maybe(store.read::<Text>(key).ok().flatten().and_then(Option::as_ref));
                Ok(Value::Array(args.iter().map(found).collect()))
            }
            ("GET" | "SET", [key, rest @ ..]) => self.string(name, key, rest),
            (_, [key, rest @ ..]) if name.starts_with('H') => self.hash(name, key, rest),
            (_, [key, rest @ ..]) if name.starts_with('Z') => self.sorted(name, key, rest),
            _ => Err(unknown(name, args.len())),
        }
    }

    fn string(&mut self, name: &str, key: &Bytes, args: &[Bytes]) -> Answer {
        let store = &mut self.store;
        match (name, args) {
            ("GET", []) => Ok(maybe(store.read::<Text>(key)?.and_then(Option::as_ref))),
            ("SET", [value, options @ ..]) => {
                let words: Vec<&[u8]> = options.iter().map(Vec::as_slice).collect();
                let now = self.now_us / 1000;
                let ends = match words[..] {
                    [b"NX", ..] if store.has(key) => return Ok(Value::Nil),
                    [] => None,
                    [b"KEEPTTL"] => store.end_of(key),
                    [b"PX", ms] | [b"NX", b"PX", ms] => {
                        let ms = integer(ms)?;
                        if ms <= 0 {
                            return Err("ERR invalid expire time in 'set' command".to_owned());
                        }
                        Some(now.saturating_add_signed(ms))
                    }
                    _ => return Err(unknown(name, args.len() + 1)),
                };
                store.remove(key);
                store.change(key, |text: &mut Text| *text = Some(value.clone()))?;
                store.set_end(key, ends);
                Ok(Value::Okay)
            }
            _ => Err(unknown(name, args.len() + 1)),
        }
    }

    fn hash(&mut self, name: &str, key: &Bytes, args: &[Bytes]) -> Answer {
        let store = &mut self.store;
        match (name, args) {
            ("HGET", [field]) => {
                let hash = store.read::<Hash>(key)?;
                Ok(maybe(hash.and_then(|hash| hash.get(field))))
            }
            ("HMGET", fields) if !fields.is_empty() => {
                let hash = store.read::<Hash>(key)?;
                let get = |field| maybe(hash.and_then(|hash| hash.get(field)));
                Ok(Value::Array(fields.iter().map(get).collect()))
            }
            ("HSET", pairs) if !pairs.is_empty() && pairs.len().is_multiple_of(2) => {
                let set = |hash: &mut Hash| {
                    let added = |pair: &&[Bytes]| hash.insert(pair[0].clone(), pair[1].clone()).is_none();
                    pairs.chunks(2).filter(added).count()
                };
                store.change(key, set).map(count)
            }
            ("HDEL", fields) if !fields.is_empty() => {
                let remove = |hash: &mut Hash| {
                    fields
                        .iter()
                        .filter(|field| hash.remove(*field).is_some())
                        .count()
                };
                store.change(key, remove).map(count)
            }
            ("HEXISTS", [field]) => {
                let hash = store.read::<Hash>(key)?;
                Ok(flag(hash.is_some_and(|hash| hash.contains_key(field))))
            }
            ("HSCAN", [cursor, option, about]) if option == b"COUNT" => {
                let (cursor, about) = (integer(cursor)?, integer(about)?);
                let hash = store.read::<Hash>(key)?;
                Ok(hash.map_or_else(|| scanned(0, Vec::new()), |hash| scan(hash, cursor, about)))
            }
            ("HLEN", []) => Ok(count(store.read::<Hash>(key)?.map_or(0, Hash::len))),
            ("HKEYS", []) => {
                let fields = store.read::<Hash>(key)?.into_iter().flat_map(Hash::keys);
                Ok(Value::Array(fields.map(bytes).collect()))
            }
            _ => Err(unknown(name, args.len() + 1)),
        }
    }

    fn sorted(&mut self, name: &str, key: &Bytes, args: &[Bytes]) -> Answer {
        let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let none = SortedSet::default();
        if let Some(changed) = self.change_sorted(name, key, &words) {
            return changed;
        }
        let set = self.store.read::<SortedSet>(key)?.unwrap_or(&none);
        match (name, &words[..]) {
            ("ZCARD", []) => Ok(count(set.len())),
            ("ZSCORE", [member]) => Ok(set.score(member).map_or(Value::Nil, |n| text(score_text(n)))),
            ("ZRANK", [member]) => Ok(set.rank(member).map_or(Value::Nil, count)),
            ("ZRANDMEMBER", [most]) => {
                let most = usize::try_from(integer(most)?).unwrap_or_default();
                // The order of Redis is not documented; any distinct members will do.
                let chosen = self.random.choose_multiple(set.iter(), most);
                Ok(members(chosen.into_iter(), false))
            }
            ("ZRANGE", [first, last]) => {
                let (skip, take) = span(set.len(), integer(first)?, integer(last)?);
                Ok(members(set.iter().skip(skip).take(take), false))
            }
            ("ZRANGE", [first, last, b"WITHSCORES"]) => {
                let (skip, take) = span(set.len(), integer(first)?, integer(last)?);
                Ok(members(set.iter().skip(skip).take(take), true))
            }
            ("ZRANGE", [first, last, b"REV"]) => {
                let (skip, take) = span(set.len(), integer(first)?, integer(last)?);
                Ok(members(set.iter().rev().skip(skip).take(take), false))
            }
            ("ZRANGE", [min, max, b"BYLEX", b"LIMIT", b"0", take]) => {
                let take = usize::try_from(integer(take)?).unwrap_or(usize::MAX);
                Ok(members(set.by_bytes(bound(min)?, bound(max)?).take(take), false))
            }
            ("ZRANGE", [min, max, b"BYSCORE"]) => Ok(members(set.between(score(min)?, score(max)?), false)),
            ("ZRANGE", [min, max, b"BYSCORE", b"LIMIT", skip, take]) => {
                let in_range = set.between(score(min)?, score(max)?);
                let positive = |n: &[u8]| integer(n).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                Ok(members(
                    in_range.skip(positive(skip)?).take(positive(take)?),
                    false,
                ))
            }
            _ => Err(unknown(name, args.len() + 1)),
        }
    }

    /// None: it is not a command that changes anything.
    fn change_sorted(&mut self, name: &str, key: &Bytes, words: &[&[u8]]) -> Option<Answer> {
        let store = &mut self.store;
        let mut add = |pairs: &[&[u8]], only_new: bool| {
            let pairs = pairs.chunks(2).map(|pair| Ok((score(pair[0])?, pair[1])));
            let pairs = pairs.collect::<Result<Vec<_>, String>>()?;
            let add = |set: &mut SortedSet| {
                let mut added = 0;
                for (at, member) in pairs {
                    let known = set.score(member).is_some();
                    added += usize::from(!(known && only_new) && set.add(member, at));
                }
                added
            };
            store.change(key, add).map(count)
        };
        let are_pairs = |words: &[&[u8]]| !words.is_empty() && words.len().is_multiple_of(2);
        Some(match (name, words) {
            ("ZADD", [b"NX", pairs @ ..]) if are_pairs(pairs) => add(pairs, true),
            ("ZADD", pairs) if are_pairs(pairs) => add(pairs, false),
            ("ZREM", [_, ..]) => {
                let remove = |set: &mut SortedSet| words.iter().filter(|member| set.remove(member)).count();
                store.change(key, remove).map(count)
            }
            ("ZPOPMIN" | "ZPOPMAX", [] | [_]) => {
                let most = words.first().map_or(Some(1), |most| {
                    let most = integer(most).ok();
                    most.and_then(|most| usize::try_from(most).ok())
                })?;
                let pop = |set: &mut SortedSet| {
                    let end = |(member, score): (&Bytes, f64)| (member.clone(), score);
                    let popped: Vec<_> = if name == "ZPOPMIN" {
                        set.iter().take(most).map(end).collect()
                    } else {
                        set.iter().rev().take(most).map(end).collect()
                    };
                    for (member, _) in &popped {
                        set.remove(member);
                    }
                    popped
                };
                let popped = store.change(key, pop);
                popped.map(|popped| members(popped.iter().map(|(member, score)| (member, *score)), true))
            }
            _ => return None,
        })
    }
}

/// Fields are passed in the order of their hash, and the cursor is where in it to go on: so what is there all the time is
/// passed, whatever comes and goes.
fn scan(hash: &Hash, cursor: i64, about: i64) -> Value {
    let place = |field: &Bytes| {
        let mut hasher = DefaultHasher::new();
        hasher.write(field);
        (hasher.finish() >> 1).cast_signed()
    };
    let with_places = hash.iter().map(|(field, value)| (place(field), field, value));
    let mut left: Vec<_> = with_places.filter(|(at, ..)| *at >= cursor).collect();
    let about = usize::try_from(about).unwrap_or(0).max(1);
    if about >= left.len() {
        return scanned(0, left);
    }
    let next = left.select_nth_unstable_by_key(about, |(at, ..)| *at).1.0;
    left.retain(|(at, ..)| *at < next);
    scanned(next, left)
}

fn scanned(cursor: i64, found: Vec<(i64, &Bytes, &Bytes)>) -> Value {
    let pairs = found
        .into_iter()
        .flat_map(|(_, field, value)| [bytes(field), bytes(value)]);
    Value::Array(vec![text(cursor.to_string()), Value::Array(pairs.collect())])
}

fn unknown(name: &str, args: usize) -> String {
    format!("ERR the in-memory twin has no command {name} with {args} arguments like these")
}

/// Returns how many members to skip and how many to take, for the positions from `first` to `last`: negative ones count
/// from the end.
fn span(len: usize, first: i64, last: i64) -> (usize, usize) {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let from_start = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    let (first, last) = (from_start(first).max(0), from_start(last).min(len - 1));
    let take = (last - first + 1).max(0);
    (
        usize::try_from(first).unwrap_or(0),
        usize::try_from(take).unwrap_or(0),
    )
}

fn members<'a>(found: impl Iterator<Item = (&'a Bytes, f64)>, with_scores: bool) -> Value {
    let mut out = Vec::new();
    for (member, score) in found {
        out.push(bytes(member));
        if with_scores {
            out.push(text(score_text(score)));
        }
    }
    Value::Array(out)
}

fn text(text: String) -> Value {
    Value::BulkString(text.into_bytes())
}

fn bytes(bytes: &Bytes) -> Value {
    Value::BulkString(bytes.clone())
}

fn maybe(found: Option<&Bytes>) -> Value {
    found.map_or(Value::Nil, bytes)
}

fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn flag(done: bool) -> Value {
    Value::Int(done.into())
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn integer(text: &[u8]) -> Result<i64, String> {
    parse(text).ok_or_else(|| "ERR value is not an integer or out of range".to_owned())
}

fn score(text: &[u8]) -> Result<f64, String> {
    parse(text)
        .filter(|n: &f64| !n.is_nan())
        .ok_or_else(|| "ERR value is not a valid float".to_owned())
}

/// A bound of a range by bytes.
fn bound(text: &[u8]) -> Result<Bound<&[u8]>, String> {
    match text.split_first() {
        Some((b'[', bytes)) => Ok(Bound::Included(bytes)),
        Some((b'(', bytes)) => Ok(Bound::Excluded(bytes)),
        _ if text == b"-" || text == b"+" => Ok(Bound::Unbounded),
        _ => Err("ERR min or max not valid string range item".to_owned()),
    }
}

fn score_text(score: f64) -> String {
    general(score)
}

/// As C prints `%.17g`: what Redis makes of scores, and of numbers that scripts give to commands.
pub(super) fn general(n: f64) -> String {
    if !n.is_finite() {
        let text = if n.is_nan() { "nan" } else { "inf" };
        return format!("{}{text}", if n.is_sign_negative() { "-" } else { "" });
    }
    let scientific = format!("{n:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let short = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    match usize::try_from(16 - exponent) {
        Ok(digits) if exponent >= -4 => short(&format!("{n:.digits$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", short(mantissa), exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_c_prints_them() {
        for (n, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (-3.0, "-3"),
            (1_763_717_000_123_456.0, "1763717000123456"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (12_345_678_901_234_567_000.0, "1.2345678901234567e+19"),
            (1e17, "1e+17"),
            (1e16, "10000000000000000"),
            (0.1, "0.10000000000000001"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.000_012_5, "1.2500000000000001e-05"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(general(n), expected);
        }
    }

    #[test]
    fn a_scan_in_pieces_passes_everything_once_also_while_fields_go() {
        let all = 0..1000_u32;
        let mut hash: Hash = all
            .clone()
            .map(|n| (n.to_string().into_bytes(), Bytes::new()))
            .collect();
        let (mut cursor, mut seen) = (0, Vec::new());
        for round in 0.. {
            let Value::Array(reply) = scan(&hash, cursor, 7) else {
                panic!()
            };
            let [Value::BulkString(next), Value::Array(pairs)] = &reply[..] else {
                panic!()
            };
            assert!(!pairs.is_empty() && pairs.len() <= 14, "{}", pairs.len());
            seen.extend(
                pairs
                    .chunks(2)
                    .map(|pair| redis::from_redis_value_ref::<u32>(&pair[0]).unwrap()),
            );
            hash.remove(format!("{}", round * 2).as_bytes());
            cursor = integer(next).unwrap();
            if cursor == 0 {
                break;
            }
        }
        let distinct: HashSet<u32> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len());
        assert!(all.filter(|n| n % 2 == 1).all(|n| distinct.contains(&n)));
    }

    #[test]
    fn places_count_from_both_ends() {
        for (len, first, last, expected) in [
            (3, 0, -1, (0, 3)),
            (3, 0, 0, (0, 1)),
            (3, 1, 9, (1, 2)),
            (3, -2, -1, (1, 2)),
            (3, 2, 1, (2, 0)),
            (0, 0, -1, (0, 0)),
        ] {
            assert_eq!(span(len, first, last), expected, "{len} {first} {last}");
        }
    }
}
