//! The twin's data: hashes and sorted sets under keys that may end by themselves, as Redis has them.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

pub(super) type Bytes = Vec<u8>;
pub(super) type Hash = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Default)]
pub(super) struct Store {
    keys: HashMap<Bytes, Entry>,
    /// When keys end, in the server's milliseconds: the same as in their entries, nearest first.
    endings: BTreeSet<(u64, Bytes)>,
}

#[derive(Clone)]
struct Entry {
    data: Data,
    ends: Option<u64>,
}

#[derive(Clone)]
pub(super) enum Data {
    Text(Text),
    Hash(Hash),
    Sorted(SortedSet),
}

/// A string; none is like an empty collection.
pub(super) type Text = Option<Bytes>;

/// A type of data that a key can have.
pub(super) trait Kind: Default {
    fn of(data: &Data) -> Option<&Self>;
    fn of_mut(data: &mut Data) -> Option<&mut Self>;
    fn wrap(self) -> Data;
    fn is_empty(&self) -> bool;
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl Store {
    /// Returns the value of the key; a missing key is like an empty value.
    pub(super) fn read<K: Kind>(&self, key: &[u8]) -> Result<Option<&K>, String> {
        self.keys
            .get(key)
            .map(|entry| K::of(&entry.data).ok_or_else(|| WRONG_TYPE.to_owned()))
            .transpose()
    }

    /// Changes what is under the key, which is made when it is not there, and goes when nothing is left in it.
    pub(super) fn change<K: Kind, T>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&mut K) -> T,
    ) -> Result<T, String> {
        let entry = self.keys.entry(key.to_vec()).or_insert_with(|| Entry {
            data: K::default().wrap(),
            ends: None,
        });
        let data = K::of_mut(&mut entry.data).ok_or(WRONG_TYPE)?;
        let result = change(data);
        if data.is_empty() {
            self.remove(key);
        }
        Ok(result)
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        self.set_end(key, None);
        self.keys.remove(key).is_some()
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// False: there is no such key.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(ends) = self.keys.get(from).map(|entry| entry.ends) else {
            return false;
        };
        self.remove(to);
        self.set_end(from, None);
        if let Some(entry) = self.keys.remove(from) {
            self.keys.insert(to.to_vec(), entry);
        }
        self.set_end(to, ends);
        true
    }

    /// Milliseconds; none: it does not end.
    pub(super) fn end_of(&self, key: &[u8]) -> Option<u64> {
        self.keys.get(key)?.ends
    }

    /// The key ends at `at`; a time that is over ends it now. False: there is no such key.
    pub(super) fn end_at(&mut self, key: &[u8], at: i64, now: u64) -> bool {
        match u64::try_from(at).ok().filter(|at| *at > now) {
            Some(at) => self.set_end(key, Some(at)),
            None => self.remove(key),
        }
    }

    /// False: there is no such key, or no end to take away.
    pub(super) fn set_end(&mut self, key: &[u8], ends: Option<u64>) -> bool {
        let Some(entry) = self.keys.get_mut(key) else {
            return false;
        };
        let before = std::mem::replace(&mut entry.ends, ends);
        if let Some(before) = before {
            self.endings.remove(&(before, key.to_vec()));
        }
        if let Some(ends) = ends {
            self.endings.insert((ends, key.to_vec()));
        }
        before.is_some() || ends.is_some()
    }

    /// Removes what has ended before `now`.
    pub(super) fn expire(&mut self, now: u64) {
        while let Some((ends, key)) = self.endings.first()
            && *ends < now
        {
            let key = key.clone();
            self.remove(&key);
        }
    }

    /// Every key with all that is in it and when it ends, in order.
    #[cfg(test)]
    pub(super) fn dump(&self) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let data = |data: &Data| match data {
            Data::Text(found) => format!("Text({:?})", found.as_ref().map(text)),
            Data::Hash(hash) => {
                let fields = hash.iter().map(|(field, value)| (text(field), text(value)));
                format!("{:?}", fields.collect::<Vec<_>>())
            }
            Data::Sorted(set) => {
                let members = set.iter().map(|(member, score)| (text(member), score));
                format!("{:?}", members.collect::<Vec<_>>())
            }
        };
        let line = |(key, entry): (&Bytes, &Entry)| {
            format!("{} {} until {:?}", text(key), data(&entry.data), entry.ends)
        };
        let mut lines: Vec<_> = self.keys.iter().map(line).collect();
        lines.sort_unstable();
        lines
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }
}

macro_rules! kind {
    ($type:ty, $variant:ident, $is_empty:expr) => {
        impl Kind for $type {
            fn of(data: &Data) -> Option<&Self> {
                match data {
                    Data::$variant(data) => Some(data),
                    _ => None,
                }
            }

            fn of_mut(data: &mut Data) -> Option<&mut Self> {
                match data {
                    Data::$variant(data) => Some(data),
                    _ => None,
                }
            }

            fn wrap(self) -> Data {
                Data::$variant(self)
            }

            fn is_empty(&self) -> bool {
                $is_empty(self)
            }
        }
    };
}

kind!(Text, Text, Text::is_none);
kind!(Hash, Hash, Hash::is_empty);
kind!(SortedSet, Sorted, |set: &SortedSet| set.scores.is_empty());

/// Members by score, and by their bytes where scores are equal.
#[derive(Clone, Default)]
pub(super) struct SortedSet {
    scores: HashMap<Bytes, Score>,
    order: BTreeSet<(Score, Bytes)>,
}

#[derive(Debug, Clone, Copy)]
struct Score(f64);

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

impl SortedSet {
    /// True: it is a new member.
    pub(super) fn add(&mut self, member: &[u8], score: f64) -> bool {
        let score = Score(score + 0.0); // -0 is 0
        let before = self.scores.insert(member.to_vec(), score);
        if let Some(before) = before {
            self.order.remove(&(before, member.to_vec()));
        }
        self.order.insert((score, member.to_vec()));
        before.is_none()
    }

    pub(super) fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.scores.remove(member) else {
            return false;
        };
        self.order.remove(&(score, member.to_vec()))
    }

    pub(super) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).map(|score| score.0)
    }

    pub(super) fn len(&self) -> usize {
        self.scores.len()
    }

    /// Returns the number of members before this one. Linear, unlike in Redis.
    pub(super) fn rank(&self, member: &[u8]) -> Option<usize> {
        let score = *self.scores.get(member)?;
        self.order.iter().position(|at| at.0 == score && at.1 == member)
    }

    /// Members with their scores, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Bytes, f64)> {
        self.order.iter().map(|(score, member)| (member, score.0))
    }

    /// Those between two bounds by their bytes, in order. All members have to have the same score, as in Redis.
    pub(super) fn by_bytes<'a>(
        &'a self,
        min: Bound<&'a [u8]>,
        max: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Bytes, f64)> {
        let score = self.order.first().map_or(Score(0.0), |(score, _)| *score);
        let from = match min {
            Bound::Included(bytes) | Bound::Excluded(bytes) => bytes.to_vec(),
            Bound::Unbounded => Bytes::new(),
        };
        self.order
            .range((score, from)..)
            .map(|(score, member)| (member, score.0))
            .skip_while(
                move |(member, _)| matches!(min, Bound::Excluded(bytes) if bytes == member.as_slice()),
            )
            .take_while(move |(member, _)| match max {
                Bound::Included(bytes) => member.as_slice() <= bytes,
                Bound::Excluded(bytes) => member.as_slice() < bytes,
                Bound::Unbounded => true,
            })
    }

    /// Those whose score is neither below `min` nor above `max`, in order.
    pub(super) fn between(&self, min: f64, max: f64) -> impl Iterator<Item = (&Bytes, f64)> {
        self.order
            .range((Score(min + 0.0), Bytes::new())..)
            .map(|(score, member)| (member, score.0))
            .take_while(move |(_, score)| *score <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_in_order_of_score_and_then_of_bytes() {
        let mut set = SortedSet::default();
        for (member, score) in [("b", 1.0), ("a", 1.0), ("c", -5.0), ("d", 1.0), ("d", 0.0)] {
            set.add(member.as_bytes(), score);
        }
        let order: Vec<_> = set.iter().map(|(member, _)| member[0] as char).collect();
        assert_eq!(order, ['c', 'd', 'a', 'b']);
        assert_eq!((set.rank(b"a"), set.rank(b"x"), set.len()), (Some(2), None, 4));
        assert_eq!(set.between(f64::NEG_INFINITY, 0.0).count(), 2);
        assert!(set.remove(b"a") && !set.remove(b"a"));
    }

    #[test]
    fn a_key_ends_after_its_time_and_an_empty_one_at_once() {
        let mut store = Store::default();
        store
            .change(b"k", |set: &mut SortedSet| set.add(b"m", 1.0))
            .unwrap();
        assert!(store.set_end(b"k", Some(10)));
        store.expire(10);
        assert!(store.read::<SortedSet>(b"k").unwrap().is_some());
        store.expire(11);
        assert!(store.read::<SortedSet>(b"k").unwrap().is_none());
        store
            .change(b"k", |set: &mut SortedSet| set.add(b"m", 1.0))
            .unwrap();
        assert!(store.read::<Hash>(b"k").unwrap_err().starts_with("WRONGTYPE"));
        store
            .change(b"k", |set: &mut SortedSet| set.remove(b"m"))
            .unwrap();
        assert_eq!(store.keys().count(), 0);
    }
}
