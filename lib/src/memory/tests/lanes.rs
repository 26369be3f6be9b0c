//! A script's fast lane has the same outcome as its slow way: the same calls, at the same times, by the scripts as they
//! are and by the scripts without their lanes, get the same replies, send the same messages and leave the same keys.

use std::collections::HashMap;

use fastrand::Rng;
use redis::Value;

use crate::memory::tests::{Call, Keys, Side, objects, texts};
use crate::{
    protocol::script::{self, Script},
    transport::lock,
};

const LANES: [(&str, &str); 3] = [
    ("acquire", "if not ARGV[5] and "),
    ("release", "if not ARGV[3] and "),
    ("renew", "if string.sub(ARGV[1], 1, 2) == '2 ' and #ARGV > 1"),
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

/// The same script with the fast lanes alone.
fn lanes_alone(script: &'static Script) -> &'static Script {
    let (lanes, _) = script.text().split_once("local format = string.format").unwrap();
    // The interpreter knows scripts by their names.
    let name = format!("the lanes of {}", script.name).leak();
    Box::leak(Box::new(Script::new(name, format!("{lanes}\nreturn 'slow way'"))))
}

/// Returns whether a fast lane answers a call.
fn is_quick(lanes: &'static Script, side: &mut Side, call: &Call, now_us: u64) -> bool {
    let before = lock(&side.database).store.clone();
    let (reply, _) = side.run(lanes, call, now_us);
    lock(&side.database).store = before;
    texts(&reply).join(" ") != "slow way"
}

fn pick(random: &mut Rng, from: &[&'static str]) -> &'static str {
    from[random.usize(..from.len())]
}

/// The arguments of an acquisition.
fn request(random: &mut Rng, token: &str, is_lock: bool, is_declared: bool) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| args.extend(more.iter().map(|one| (*one).to_owned()));
    let limit = match (is_lock, random.u8(..10)) {
        _ if is_declared => "0",
        (_, 0) => "0",
        (true, _) => "1",
        (false, _) => "2",
    };
    let ttl = pick(random, &["0", "10", "100", "2000"]);
    let permits = pick(random, &["1", "1", "1", "2"]);
    let lease = pick(random, &["1", "50", "1000", "9000", "9000", "0"]);
    let who = r#"c1 {"process":"p 1", "reason":"1 2 3"}"#;
    add(&[token, &format!("{lease} {permits} {limit} {ttl} {who}")]);
    if random.u8(..3) == 0 {
        let seen = if is_declared { "1000" } else { "5" };
        add(&[pick(random, &["0", "0", seen])]);
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
    args
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
    let (is_lock, is_declared) = (at == 0, at == 2);
    let mut keys = objects[at].clone();
    let mut args: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| args.extend(more.iter().map(|one| (*one).to_owned()));
    let script: &'static Script = match what {
        0..8 => {
            let args = request(random, token, is_lock, is_declared);
            add(&args.iter().map(String::as_str).collect::<Vec<_>>());
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
            for at in [last.0, (last.0 + 1) % 3].into_iter().take(random.usize(1..=2)) {
                keys.push(objects[at][0].clone());
                let all = ["a", "b", "c", "d"];
                let one = [if random.bool() { last.1 } else { pick(random, &all) }];
                let tokens = match random.u8(..10) {
                    0 => &all[..2],
                    1 => &all[..],
                    _ => &one[..],
                };
                let seen = if at == 2 && random.bool() { "1000>" } else { "" };
                add(&[&format!("{seen}{}", tokens.join(" "))]);
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
        22 if is_declared => {
            let lease = pick(random, &["30", "500", "500"]);
            let max_hold = pick(random, &["0", "0", "0", "700"]);
            add(&[
                "digest",
                "1000",
                "0",
                lease,
                max_hold,
                pick(random, &["2", "3", "1"]),
            ]);
            &script::DECLARE
        }
        22 if !is_lock && random.u8(..4) == 0 => {
            add(&[pick(random, &["drain", "delete"]), "0"]);
            &script::WITHDRAW
        }
        _ => {
            add(&["10", pick(random, &["0", "0", "1"])]);
            &script::OBSERVE
        }
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Call::new(script, &keys, "run", &args)
}

/// A reply with all of its values: the short one of a grant leaves out those of the request.
fn whole(reply: &Value, args: &[String]) -> Vec<String> {
    let values = texts(reply);
    if values[0] != "granted" || values.len() != 3 {
        return values;
    }
    let number = |text: &str| text.parse::<u64>().unwrap();
    let mut request = args[2].split(' ');
    let (lease, permits) = (request.next().unwrap(), request.next().unwrap());
    let fence = number(&values[1]) * 1_000_000 + number(&values[2]);
    let now = fence / 1000;
    let numbers = [
        fence,
        now,
        now + number(lease),
        number(lease),
        now,
        0,
        number(permits),
    ];
    let numbers = numbers.map(|number| number.to_string());
    [&["granted".to_owned()], &numbers[..]].concat()
}

/// The keys, without what may differ: the times at which they end, which the slow way sets anew in each call that changes the object
/// and the fast lane only where it has to; and the time before which nothing of the object ends, which is a lower bound.
fn without_ends(keys: Vec<String>) -> Vec<String> {
    let cut = |line: String| {
        let line = line.split(" until ").next().unwrap_or_default();
        let Some((before, state)) = line.split_once(r#"("state", "2 "#) else {
            return line.to_owned();
        };
        let mut parts: Vec<&str> = state.split(' ').collect();
        parts[5] = "next";
        format!("{before}{}", parts.join(" "))
    };
    keys.into_iter().map(cut).collect()
}

/// Ends what has expired of objects that the fast side has no more: a lease that lies alone ends with its key.
fn end_expired(fast: &Side, slow: &mut Side, objects: &[Keys], now_us: u64) {
    for keys in objects {
        let is_there = |side: &Side| {
            let mut database = lock(&side.database);
            // A key is there until the millisecond after its end, and a lease until its end.
            database.store.expire(now_us / 1000 + 1);
            database.store.has(keys[0].as_bytes())
        };
        if !is_there(fast) && is_there(slow) {
            let look = Call::new(&script::OBSERVE, keys, "run", &["0", "0"]);
            slow.run(look.script, &look, now_us);
        }
    }
}

/// docs/protocol.md#alone-1: the outcomes are the same.
#[test]
fn nobody_can_tell_a_fast_lane_from_the_slow_way() {
    let declared = "tenure:{a/semaphore/d}";
    let declared = ["obj", "holders", "queue", "expiry"].map(|part| format!("{declared}:{part}"));
    let [lock, semaphore] = objects();
    let objects = [lock, semaphore, declared.to_vec()];
    let slow: HashMap<_, _> = [
        &script::ACQUIRE,
        &script::RELEASE,
        &script::RENEW,
        &script::WAIT,
        &script::NOTIFY,
        &script::DOWNGRADE,
        &script::WITHDRAW,
        &script::OBSERVE,
        &script::DECLARE,
    ]
    .map(|script| (script.name, without_lane(script)))
    .into();
    let lanes: HashMap<_, _> = [&script::ACQUIRE, &script::RELEASE, &script::RENEW]
        .map(|script| (script.name, lanes_alone(script)))
        .into();
    let (mut alone, mut released, mut renewed, mut kept) = (0, 0, 0, 0);
    let (mut quick_acquires, mut quick_releases, mut held) = (0, 0, 0);
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let (mut fast_side, mut slow_side) = (Side::new(), Side::new());
        let mut last = (0, "a");
        let declare = ["digest", "1000", "0", "500", "0", "2"];
        let declare = Call::new(&script::DECLARE, &objects[2], "run", &declare);
        for side in [&mut fast_side, &mut slow_side] {
            side.run(declare.script, &declare, 1_763_716_990_000_000);
        }
        let mut now_us = 1_763_717_000_000_000;
        for step in 0..150 {
            let at_most = [1, 900, 30_000][random.usize(..3)];
            now_us += random.u64(..=at_most);
            let call = call(&mut random, &objects, &mut last);
            end_expired(&fast_side, &mut slow_side, &objects, now_us);
            let before = fast_side.alone();
            let saved = lanes
                .get(call.script.name)
                .is_some_and(|lanes| is_quick(lanes, &mut fast_side, &call, now_us));
            let fast = fast_side.run(call.script, &call, now_us);
            let slowly = slow_side.run(slow[call.script.name], &call, now_us);
            let what = format!("seed {seed}, step {step}: {} {:?}", call.script.name, call.args);
            let (mut quick, mut slow_reply) = (whole(&fast.0, &call.args), whole(&slowly.0, &call.args));
            if quick[0] == "queued" && slow_reply[0] == "queued" {
                // An entry behind the head learns from its renewal when to come again.
                let [now, expires] = [1, 2].map(|at| quick[at].parse::<u64>().unwrap());
                let [wake, exact] = [quick.remove(3), slow_reply.remove(3)];
                assert!(
                    wake == exact || wake == (expires - now).to_string(),
                    "{what}: {wake} {exact}"
                );
            }
            assert_eq!(quick, slow_reply, "{what}");
            assert_eq!(fast.1, slowly.1, "{what}");
            assert_eq!(
                without_ends(fast_side.keys(&objects, now_us)),
                without_ends(slow_side.keys(&objects, now_us)),
                "{what}"
            );
            assert_eq!(slow_side.alone(), 0, "{what}");
            alone += usize::from(fast_side.alone() > before);
            if saved && call.keys[0].contains("semaphore") {
                quick_acquires += usize::from(call.script.name == "acquire");
                quick_releases += usize::from(call.script.name == "release");
            }
            if call.script.name == "renew" {
                let values = texts(&fast.0);
                renewed += usize::from(saved && values.len() < 4 && fast_side.alone() > 0);
                held += usize::from(saved && values.iter().any(|value| value == "held"));
                kept += usize::from(
                    saved && values.iter().any(|value| value == "waiting") && fast_side.alone() == 0,
                );
            }
            let gone = call.script.name == "release" && fast_side.alone() < before;
            released += usize::from(gone && fast.0 == Value::BulkString(b"released".to_vec()));
        }
    }
    // Otherwise it has shown nothing.
    assert!(
        quick_acquires > 500 && quick_releases > 100,
        "{quick_acquires} {quick_releases}"
    );
    assert!(alone > 500 && released > 100, "{alone} {released}");
    assert!(renewed > 30 && kept > 30 && held > 30, "{renewed} {kept} {held}");
}
