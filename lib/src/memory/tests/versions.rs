//! Scripts and data of different versions of the protocol, on one server.

use redis::Value;

use crate::memory::tests::{Call, Keys, Side, objects, texts};
use crate::{
    protocol::script::{self, PROTOCOL, Script},
    transport::lock,
};

const NOW: u64 = 1_763_717_000_000_000;
/// When a lease of 30 seconds ends that is renewed now.
const ENDS: &str = " 1763717030000";

/// The same script, of another version of the protocol.
fn of_version(script: &Script, version: u32) -> &'static Script {
    let mut text = script.text().to_owned();
    for (from, to) in [
        (
            format!("local PROTOCOL = {PROTOCOL}\n"),
            format!("local PROTOCOL = {version}\n"),
        ),
        (format!("== '{PROTOCOL} '"), format!("== '{version} '")),
        (format!("'v{PROTOCOL}"), format!("'v{version}")),
        (format!("'^v{PROTOCOL} "), format!("'^v{version} ")),
    ] {
        text = text.replace(&from, &to);
    }
    // The interpreter keeps scripts by name.
    let name: &'static str = Box::leak(format!("{}-{version}", script.name).into_boxed_str());
    Box::leak(Box::new(Script::new(name, text)))
}

fn call(side: &mut Side, script: &'static Script, keys: &[String], version: u32, args: &[&str]) -> String {
    let call = Call::of_version(script, keys, ("run", version), args);
    match side.run(script, &call, NOW).0 {
        reply @ (Value::Array(_) | Value::BulkString(_)) => texts(&reply).join(" "),
        Value::ServerError(error) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        other => format!("{other:?}"),
    }
}

fn acquire(token: &str) -> [&str; 2] {
    [token, "30000 1 1 10000 c1 {}"]
}

fn by_hand(side: &Side, command: &str, args: &[&str]) {
    let args: Vec<_> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    lock(&side.database).execute(command, &args).unwrap();
}

/// One whose first lease lies alone, and one that lies in a hash.
fn made_by(version: u32) -> (Side, [Keys; 2]) {
    let (mut side, keys) = (Side::new(), objects());
    let script = of_version(&script::ACQUIRE, version);
    for keys in &keys {
        let reply = call(&mut side, script, keys, version, &acquire("a"));
        assert!(reply.starts_with("granted"), "{reply}");
    }
    let reply = call(&mut side, script, &keys[1], version, &acquire("b"));
    assert!(reply.starts_with("queued"), "{reply}");
    (side, keys)
}

#[test]
fn what_a_newer_protocol_has_written_is_neither_read_nor_changed_and_the_side_to_upgrade_is_named() {
    let (mut side, objects) = made_by(PROTOCOL + 1);
    let before = lock(&side.database).store.dump();
    for keys in &objects {
        let newer = format!("VERSION {} {} {PROTOCOL}", keys[0], PROTOCOL + 1);
        let calls: [(&'static Script, &[&str]); 9] = [
            (&script::ACQUIRE, &acquire("c")),
            (&script::ADOPT, &["secret", "c", "c1", "{}", ""]),
            (&script::DECLARE, &["digest", "1", "0", "30000", "0", "1"]),
            (&script::DOWNGRADE, &["a", "1"]),
            (&script::OBSERVE, &["10", "1"]),
            (
                &script::READMIT,
                &["a", "1", "1", "30000", "0", "1", "c", "-", "{}", "0"],
            ),
            (&script::RELEASE, &["a"]),
            (&script::WITHDRAW, &["delete", "0"]),
            (&script::RENEW, &["a"]),
        ];
        for (script, args) in calls {
            let reply = call(&mut side, script, keys, PROTOCOL, args);
            assert!(reply.contains(&newer), "{}: {reply}", script.name);
            assert_eq!(lock(&side.database).store.dump(), before, "{}", script.name);
        }
    }
}

#[test]
fn in_a_renewal_of_many_objects_only_those_of_a_newer_protocol_fail() {
    let (mut side, [newer, _]) = made_by(PROTOCOL + 1);
    let ours: Keys = newer.iter().map(|key| key.replace("lock/x", "lock/y")).collect();
    let reply = call(&mut side, &script::ACQUIRE, &ours, PROTOCOL, &acquire("b"));
    assert!(reply.starts_with("granted"), "{reply}");
    let keys = [newer[0].clone(), ours[0].clone()];
    let reply = call(&mut side, &script::RENEW, &keys, PROTOCOL, &["a", "b"]);
    assert!(
        reply.contains(" failed VERSION ") && reply.ends_with(ENDS),
        "{reply}"
    );
}

#[test]
fn a_call_of_another_version_is_refused_by_name() {
    let (mut side, [lock, _]) = made_by(PROTOCOL);
    for version in [0, PROTOCOL + 1] {
        let reply = call(&mut side, &script::RELEASE, &lock, version, &["a"]);
        assert!(
            reply.contains(&format!("VERSION - {version} {PROTOCOL}")),
            "{reply}"
        );
        let reply = call(&mut side, &script::ACQUIRE, &lock, version, &acquire("c"));
        assert!(
            reply.contains(&format!("VERSION - {version} {PROTOCOL}")),
            "{reply}"
        );
    }
}

/// Writes an object with one lease in the form of before there were versions.
fn held_before_versions(side: &Side, keys: &Keys, ends: &str, ticket: &str) {
    let fields = [
        "limit",
        "1",
        "held",
        "1",
        "last",
        "1763716990000000",
        "ticket",
        ticket,
        "ttl",
        "30000",
        "t:a",
        "1 30000 10000 0 0 1763716990000 c1 - {}",
    ];
    by_hand(side, "HSET", &[&[keys[0].as_str()], &fields[..]].concat());
    by_hand(side, "ZADD", &[&keys[1], "1763716990000000", "a"]);
    by_hand(side, "ZADD", &[&keys[3], ends, "a"]);
}

#[test]
fn what_was_written_before_there_were_versions_goes_on() {
    let (mut side, [lone, hash]) = (Side::new(), objects());
    lock(&side.database).keys = lone
        .iter()
        .chain(&hash)
        .map(|key| key.clone().into_bytes())
        .collect();
    let ends = (NOW / 1000 + 20_000).to_string();
    let alone = format!("{ends} 1763716990000000 a 1 30000 0 1 10000 c1 {{}}");
    by_hand(&side, "SET", &[&lone[0], &alone]);
    held_before_versions(&side, &hash, &ends, "0");
    for keys in [&lone, &hash] {
        let reply = call(&mut side, &script::ACQUIRE, keys, PROTOCOL, &acquire("b"));
        assert!(reply.starts_with("queued"), "{reply}");
        let reply = call(&mut side, &script::RENEW, keys, PROTOCOL, &["a"]);
        assert!(reply.ends_with(ENDS), "{reply}");
        let reply = call(&mut side, &script::RELEASE, keys, PROTOCOL, &["a"]);
        assert_eq!(reply, "released");
        let reply = call(&mut side, &script::ACQUIRE, keys, PROTOCOL, &acquire("b"));
        assert!(reply.starts_with("granted"), "{reply}");
    }
}

#[test]
fn who_waited_for_a_condition_before_there_were_versions_is_notified() {
    let (mut side, [keys, _]) = (Side::new(), objects());
    lock(&side.database).keys = keys.iter().map(|key| key.clone().into_bytes()).collect();
    let ends = (NOW / 1000 + 10_000).to_string();
    held_before_versions(&side, &keys, &ends, "3");
    by_hand(
        &side,
        "HSET",
        &[&keys[0], "t:w", "1 30000 10000 0 0 1763716990000 c1 @full {}"],
    );
    by_hand(&side, "ZADD", &[&keys[4], "3", "w"]);
    by_hand(&side, "ZADD", &[&keys[3], &ends, "w"]);
    let notified = call(
        &mut side,
        &script::NOTIFY,
        &keys,
        PROTOCOL,
        &["a", "@full", "1", "n"],
    );
    assert!(notified.contains('1'), "{notified}");
    call(&mut side, &script::RELEASE, &keys, PROTOCOL, &["a"]);
    let granted = call(&mut side, &script::ACQUIRE, &keys, PROTOCOL, &acquire("w"));
    assert!(granted.starts_with("granted"), "{granted}");
}
