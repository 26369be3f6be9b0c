//! A script's fast lane has the same outcome as its slow way: the same calls, at the same times, by the scripts as they
//! are and by the scripts without their lanes, get the same replies, send the same messages and leave the same keys.

use std::collections::HashMap;

use fastrand::Rng;
use redis::Value;

use crate::memory::tests::{Call, Keys, Side, objects, texts};
use crate::protocol::script::{self, Script};

const LANES: [(&str, &str); 3] = [
    ("acquire", "if not ARGV[7] and "),
    ("release", "if not ARGV[3] and "),
    ("renew", "if string.sub(ARGV[1], 1, 2) == '2 ' and #ARGV"),
];

/// The same script with a lane that is never taken.
fn without_lane(script: &'static Script) -> &'static Script {
    let Some((_, lane)) = LANES.iter().find(|(name, _)| *name == script.name) else {
        return script;
    };
    assert_eq!(script.text().matches(lane).count(), 1, "{lane}");
    let closed = format!("if false and {}", &lane["if ".len()..]);
    Box::leak(Box::new(Script::new(
        script.name,
        script.text().replace(lane, &closed),
    )))
}

fn pick(random: &mut Rng, from: &[&'static str]) -> &'static str {
    from[random.usize(..from.len())]
}

fn call(random: &mut Rng, objects: &[Keys], last: &mut (usize, &'static str)) -> Call {
    // Few tokens: most of the time they are those of before, and calls are repeated.
    let mut on = (random.usize(..objects.len()), pick(random, &["a", "b", "c", "d"]));
    let what = random.u8(..24);
    match what {
        0..8 => *last = on,
        8..12 => on = *last,
        _ => {}
    }
    let (at, token) = on;
    let is_lock = at == 0;
    let mut keys = objects[at].clone();
    let mut args: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| args.extend(more.iter().map(|one| (*one).to_owned()));
    let script: &'static Script = match what {
        0..8 => {
            let limit = match (is_lock, random.u8(..10)) {
                (_, 0) => "0",
                (true, _) => "1",
                (false, _) => "2",
            };
            let ttl = pick(random, &["0", "10", "100"]);
            let permits = pick(random, &["1", "1", "1", "2"]);
            let lease = pick(random, &["1", "7", "50", "1000", "0"]);
            let entry = format!(r#"{ttl} c1 {{"process":"p 1", "reason":"1 2 3"}}"#);
            add(&[token, permits, lease, limit, &entry]);
            if random.u8(..3) == 0 {
                add(&["0"]); // seen
                if random.bool() {
                    add(&[
                        pick(random, &["0", "20"]),
                        pick(random, &["0", "15"]),
                        pick(random, &["0", "-3", "5"]),
                        "-",
                        pick(random, &["0", "0", "1"]),
                        pick(random, &["", "it hangs"]),
                    ]);
                }
            }
            &script::ACQUIRE
        }
        8..14 => {
            match random.u8(..6) {
                0 => add(&[&format!("{token} {}", pick(random, &["a", "b"]))]),
                _ => add(&[token]),
            }
            let how = pick(random, &["", "", "", "owner", "reclaimed", "dropped"]);
            if !how.is_empty() {
                add(&[how, pick(random, &["", "", "expired"])]);
            }
            &script::RELEASE
        }
        14..20 => {
            // Leases of one object after another: mostly one of each, and mostly the last that was taken.
            keys.clear();
            for at in [last.0, 1 - last.0].into_iter().take(random.usize(1..=2)) {
                keys.push(objects[at][0].clone());
                let all = ["a", "b", "c", "d"];
                let one = [if random.bool() { last.1 } else { pick(random, &all) }];
                let tokens = match random.u8(..10) {
                    0 => &all[..2],
                    1 => &all[..],
                    _ => &one[..],
                };
                add(&[&tokens.join(" ")]);
            }
            &script::RENEW
        }
        20 if is_lock => {
            add(&[token, "w", "@full", "50", "0", "100", "c1", "{}", "0"]);
            &script::WAIT
        }
        21 if is_lock => {
            add(&[token, "@full", "1", pick(random, &["n1", "n2"])]);
            &script::NOTIFY
        }
        21 if !is_lock => {
            add(&[token, "1"]);
            &script::DOWNGRADE
        }
        22 if !is_lock && random.u8(..4) == 0 => {
            add(&[pick(random, &["drain", "delete"]), "0"]);
            &script::WITHDRAW
        }
        _ => {
            add(&["10", "0"]);
            &script::OBSERVE
        }
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Call::new(script, &keys, "run", &args)
}

/// A reply with all of its values: those of a grant that repeat the request are optional.
fn whole(reply: &Value) -> Vec<String> {
    let mut values = texts(reply);
    if values.len() == 4 && values[0] == "granted" {
        let number = |at: usize| values[at].parse::<u64>().unwrap_or_default();
        let lease = (number(3) - number(2)).to_string();
        let now = values[2].clone();
        values.extend([lease, now, "0".to_owned()]);
    } else if values.len() == 8 && values[0] == "granted" {
        values.pop(); // the permits that were asked for
    }
    values
}

#[test]
fn nobody_can_tell_a_fast_lane_from_the_slow_way() {
    let objects = objects();
    let slow: HashMap<_, _> = [
        &script::ACQUIRE,
        &script::RELEASE,
        &script::RENEW,
        &script::WAIT,
        &script::NOTIFY,
        &script::DOWNGRADE,
        &script::WITHDRAW,
        &script::OBSERVE,
    ]
    .map(|script| (script.name, without_lane(script)))
    .into();
    let (mut alone, mut released, mut renewed, mut kept) = (0, 0, 0, 0);
    for seed in 0..80 {
        let mut random = Rng::with_seed(seed);
        let (mut fast_side, mut slow_side) = (Side::new(), Side::new());
        let mut last = (0, "a");
        let mut now_us = 1_763_717_000_000_000;
        for step in 0..150 {
            let at_most = [1, 900, 30_000][random.usize(..3)];
            now_us += random.u64(..=at_most);
            let call = call(&mut random, &objects, &mut last);
            let before = fast_side.alone();
            let fast = fast_side.run(call.script, &call, now_us);
            let slowly = slow_side.run(slow[call.script.name], &call, now_us);
            let saved = fast_side.work() < slow_side.work();
            let what = format!("seed {seed}, step {step}: {} {:?}", call.script.name, call.args);
            assert_eq!(whole(&fast.0), whole(&slowly.0), "{what}");
            assert_eq!(fast.1, slowly.1, "{what}");
            assert_eq!(
                fast_side.keys(&objects, now_us),
                slow_side.keys(&objects, now_us),
                "{what}"
            );
            assert_eq!(slow_side.alone(), 0, "{what}");
            alone += usize::from(fast_side.alone() > before);
            if call.script.name == "renew" {
                let said = texts(&fast.0);
                renewed += usize::from(saved && said.len() < 4 && fast_side.alone() > 0);
                kept +=
                    usize::from(saved && said.iter().any(|word| word == "waiting") && fast_side.alone() == 0);
            }
            let gone = call.script.name == "release" && fast_side.alone() < before;
            released +=
                usize::from(gone && fast.0 == Value::Array(vec![Value::BulkString(b"released".to_vec())]));
        }
    }
    // Otherwise it has shown nothing.
    assert!(alone > 500 && released > 100, "{alone} {released}");
    assert!(renewed > 30 && kept > 30, "{renewed} {kept}");
}
