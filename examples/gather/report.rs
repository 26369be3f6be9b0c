//! Measurements, and whether the promises held: computed from the holds, as their holders saw them.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// A hold. Times count from one instant, which all nodes share.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) node: u32,
    /// The resource of a pool; empty where permits have no names.
    pub(crate) resource: String,
    pub(crate) permits: u64,
    pub(crate) fence: u64,
    pub(crate) asked: Duration,
    pub(crate) granted: Duration,
    /// Just before it was given back.
    pub(crate) ended: Duration,
}

/// The history of one object.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The number of permits or resources.
    permits: u64,
    max_concurrency: u64,
    /// Grants of more than there was, or of a resource that was held: must be 0.
    overlaps: usize,
    /// Grants whose fencing token is not larger than that of every grant before: must be 0.
    fences_out_of_order: usize,
    total: Figures,
    nodes: BTreeMap<String, Figures>,
}

#[derive(Debug, Serialize)]
struct Figures {
    acquired: usize,
    errors: usize,
    per_second: f64,
    acquire_ms: Spread,
    hold_ms: Spread,
}

#[derive(Debug, PartialEq, Serialize)]
struct Spread {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Report {
    /// `errors` are the nodes that had one.
    pub(crate) fn new(holds: &[Hold], errors: &[u32], nodes: u32, permits: u64, took: Duration) -> Self {
        let (max_concurrency, mut overlaps) = concurrency(holds, permits);
        let mut resources: BTreeMap<&str, Vec<Hold>> = BTreeMap::new();
        for hold in holds.iter().filter(|hold| !hold.resource.is_empty()) {
            resources.entry(&hold.resource).or_default().push(hold.clone());
        }
        overlaps += resources
            .values()
            .map(|holds| concurrency(holds, 1).1)
            .sum::<usize>();
        let of = |node: Option<u32>| {
            let is = |of: u32| node.is_none_or(|node| node == of);
            let holds: Vec<&Hold> = holds.iter().filter(|hold| is(hold.node)).collect();
            Figures {
                acquired: holds.len(),
                errors: errors.iter().filter(|of| is(**of)).count(),
                per_second: rounded(count(holds.len()) / took.as_secs_f64(), 10.0),
                acquire_ms: spread(holds.iter().map(|hold| hold.granted.saturating_sub(hold.asked))),
                hold_ms: spread(holds.iter().map(|hold| hold.ended.saturating_sub(hold.granted))),
            }
        };
        Self {
            permits,
            max_concurrency,
            overlaps,
            fences_out_of_order: fences_out_of_order(holds, permits == 1),
            total: of(None),
            nodes: (0..nodes)
                .map(|node| (format!("node-{node}"), of(Some(node))))
                .collect(),
        }
    }

    /// Returns whether all promises held, in `expected` holds.
    pub(crate) fn is_good(&self, expected: u64) -> bool {
        self.overlaps == 0
            && self.fences_out_of_order == 0
            && self.max_concurrency <= self.permits
            && self.total.errors == 0
            && self.total.acquired as u64 == expected
    }
}

/// Returns the most that was held at the same time, and how many grants came when less was left of `permits`.
fn concurrency(holds: &[Hold], permits: u64) -> (u64, usize) {
    // Of two events of the same moment, an end comes first.
    let ends = holds.iter().map(|hold| (hold.ended, false, hold.permits));
    let starts = holds.iter().map(|hold| (hold.granted, true, hold.permits));
    let mut moments: Vec<_> = ends.chain(starts).collect();
    moments.sort_unstable();
    let (mut held, mut most, mut overlaps) = (0, 0, 0);
    for (_, starts, permits_of_it) in moments {
        if starts {
            held += permits_of_it;
            most = most.max(held);
            overlaps += usize::from(held > permits);
        } else {
            held -= permits_of_it;
        }
    }
    (most, overlaps)
}

/// Returns how many grants have a fencing token that is not larger than those of all earlier grants. One grant came
/// certainly before another if it was known before the other was requested; and if there is one `holder` at a time, by
/// the order in which they became known.
fn fences_out_of_order(holds: &[Hold], one_holder: bool) -> usize {
    let after = |hold: &Hold| if one_holder { hold.granted } else { hold.asked };
    let mut granted: Vec<&Hold> = holds.iter().collect();
    granted.sort_by_key(|hold| hold.granted);
    let mut later: Vec<&Hold> = holds.iter().collect();
    later.sort_by_key(|hold| after(hold));
    let (mut before, mut newest, mut wrong) = (granted.into_iter().peekable(), 0, 0);
    for hold in later {
        while let Some(earlier) = before.next_if(|earlier| earlier.granted < after(hold)) {
            newest = newest.max(earlier.fence);
        }
        wrong += usize::from(hold.fence <= newest);
    }
    wrong
}

fn spread(spans: impl Iterator<Item = Duration>) -> Spread {
    let mut spans: Vec<Duration> = spans.collect();
    spans.sort_unstable();
    // The nearest rank: the smallest span that so many percent do not exceed.
    let rank = |percent: usize| {
        let at = (spans.len() * percent).div_ceil(100).saturating_sub(1);
        spans
            .get(at)
            .map_or(0.0, |span| rounded(span.as_secs_f64() * 1000.0, 1000.0))
    };
    Spread {
        p50: rank(50),
        p95: rank(95),
        p99: rank(99),
        max: rank(100),
    }
}

/// The most holds of a run, so that it ends in a reasonable time.
fn count(holds: usize) -> f64 {
    u32::try_from(holds).map_or(f64::INFINITY, f64::from)
}

/// To a tenth, a hundredth, ... of one: what is finer is noise.
pub(crate) fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Asked for at 0.
    fn hold(fence: u64, granted: u64, ended: u64) -> Hold {
        Hold {
            node: 0,
            resource: String::new(),
            permits: 1,
            fence,
            asked: ms(0),
            granted: ms(granted),
            ended: ms(ended),
        }
    }

    fn report(holds: &[Hold], permits: u64) -> Report {
        Report::new(holds, &[], 1, permits, ms(1000))
    }

    #[test]
    fn one_after_the_other_is_good() {
        let report = report(&[hold(1, 1, 5), hold(2, 5, 9), hold(3, 9, 10)], 1);
        assert_eq!((report.max_concurrency, report.overlaps), (1, 0));
        assert!(report.is_good(3) && !report.is_good(4));
    }

    #[test]
    fn two_at_a_time_are_an_overlap_where_there_is_one_permit_and_none_where_there_are_two() {
        let holds = [hold(1, 1, 5), hold(2, 4, 9), hold(3, 9, 10)];
        let of_one = report(&holds, 1);
        assert_eq!((of_one.max_concurrency, of_one.overlaps), (2, 1));
        assert!(!of_one.is_good(3));
        let of_two = report(&holds, 2);
        assert_eq!((of_two.max_concurrency, of_two.overlaps), (2, 0));
        assert!(of_two.is_good(3));
    }

    #[test]
    fn permits_count_and_not_holds() {
        let mut holds = [hold(1, 1, 5), hold(2, 2, 6)];
        holds[1].permits = 2;
        assert_eq!(concurrency(&holds, 2), (3, 1));
        assert_eq!(concurrency(&holds, 3), (3, 0));
    }

    #[test]
    fn a_resource_held_twice_is_an_overlap_though_there_are_enough_of_others() {
        let mut holds = [hold(1, 1, 5), hold(2, 4, 9)];
        for hold in &mut holds {
            hold.resource = "seat-0".to_owned();
        }
        assert_eq!(report(&holds, 2).overlaps, 1);
        holds[1].resource = "seat-1".to_owned();
        assert_eq!(report(&holds, 2).overlaps, 0);
    }

    #[test]
    fn a_fencing_token_that_goes_back_or_comes_twice_is_seen() {
        for (fences, wrong) in [([1, 2, 3], 0), ([1, 3, 2], 1), ([1, 1, 2], 1), ([3, 2, 1], 2)] {
            let [a, b, c] = fences;
            let holds = [hold(a, 1, 5), hold(b, 5, 9), hold(c, 9, 10)];
            assert_eq!(fences_out_of_order(&holds, true), wrong, "{fences:?}");
        }
    }

    #[test]
    fn of_several_holders_only_what_is_certain_counts() {
        // Both were asked for at 0: which one was granted first is not known.
        let both = [hold(2, 1, 5), hold(1, 2, 5)];
        assert_eq!(fences_out_of_order(&both, false), 0);
        let mut later = hold(1, 4, 5);
        later.asked = ms(3);
        assert_eq!(fences_out_of_order(&[hold(2, 1, 5), later], false), 1);
    }

    #[test]
    fn percentiles_are_of_what_there_was() {
        let spread = spread((1..=200).rev().map(ms));
        assert_eq!(
            (spread.p50, spread.p95, spread.p99, spread.max),
            (100.0, 190.0, 198.0, 200.0)
        );
        let none = super::spread(std::iter::empty());
        assert_eq!((none.p50, none.max), (0.0, 0.0));
    }

    #[test]
    fn figures_are_told_by_node_and_in_total() {
        let mut holds = [hold(1, 1, 5), hold(2, 5, 9)];
        holds[1].node = 1;
        let report = Report::new(&holds, &[1], 2, 1, ms(500));
        let acquired: Vec<usize> = report.nodes.values().map(|figures| figures.acquired).collect();
        let errors: Vec<usize> = report.nodes.values().map(|figures| figures.errors).collect();
        assert_eq!((acquired, errors), (vec![1, 1], vec![0, 1]));
        assert!((report.total.per_second - 4.0).abs() < 1e-9);
        assert!(!report.is_good(2), "there was an error");
    }
}
