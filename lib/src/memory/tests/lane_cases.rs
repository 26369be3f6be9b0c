//! Cases of the fast lanes that random calls hardly meet: long holds, a clock that was set back, and errors.

use crate::memory::tests::{Call, START_US, Trial, keys, objects};
use crate::{
    Kind,
    protocol::script::{self, Script},
    transport::lock,
};

#[test]
fn a_waiter_for_a_condition_is_notified_after_a_hold_that_is_longer_than_its_lease() {
    let [keys, _] = objects();
    let mut case = Trial::on(keys);
    case.call(&script::ACQUIRE, &["a", "1000 1 1 0 c {}"]);
    let wait = ["a", "w", "@full", "1000", "0", "1000", "c", "{}", "0"];
    assert_eq!(case.call(&script::WAIT, &wait)[0], "queued");
    let granted = case.call(&script::ACQUIRE, &["b", "10000 1 1 0 c {}"]);
    assert_eq!(granted[0], "granted");
    for _ in 0..12 {
        assert_eq!(case.after(300).call(&script::RENEW, &["w b"])[1], "waiting");
    }
    assert_eq!(case.call(&script::NOTIFY, &["b", "@full", "1", "n"]), ["1", "0"]);
}

#[test]
fn a_lease_that_a_clock_set_back_has_lengthened_is_cut_for_one_that_does_not_wait() {
    let [keys, _] = objects();
    let mut case = Trial::on(keys);
    case.call(&script::ACQUIRE, &["a", "2000 1 1 0 c {}"]);
    let attempt = ["b", "2000 1 1 0 c {}"];
    assert_eq!(case.call(&script::ACQUIRE, &attempt)[0], "busy");
    let an_hour_later = (START_US / 1000 + 3_600_000).to_string();
    let args = [case.keys[3].as_str(), &an_hour_later, "a"].map(|arg| arg.as_bytes().to_vec());
    lock(&case.side.database).execute("ZADD", &args).unwrap();
    assert_eq!(case.call(&script::ACQUIRE, &attempt)[0], "busy");
    assert_eq!(case.after(2400).call(&script::ACQUIRE, &attempt)[0], "granted");
}

#[test]
fn an_error_about_a_lease_that_lies_alone_leaves_no_key_without_an_end() {
    let calls: [(&'static Script, &[&str], &str); 2] = [
        (&script::ACQUIRE, &["b", "2000 1 1 0 c {}", "5"], "NOTDECLARED"),
        (
            &script::DECLARE,
            &["digest", "1", "0", "1000", "0", "1", "another run", "0"],
            "OTHERLIFE",
        ),
    ];
    for (script, args, error) in calls {
        let [_, keys] = objects();
        let mut case = Trial::on(keys);
        case.call(&script::ACQUIRE, &["a", "2000 1 1 0 c {}"]);
        let reply = case.call(script, args);
        assert!(reply[0].contains(error), "{reply:?}");
        case.side.check_ends(&case.keys);
    }
}

#[test]
fn a_lease_is_handed_off_for_no_longer_than_the_declaration_allows_now() {
    let [_, keys] = objects();
    let mut case = Trial::on(keys);
    let declare = |case: &mut Trial, lease: &str| {
        case.call(&script::DECLARE, &["digest", "1000", "0", lease, "0", "1"]);
    };
    declare(&mut case, "30000");
    case.call(&script::ACQUIRE, &["a", "0 1 0 0 c {}"]);
    case.call(&script::ACQUIRE, &["b", "0 1 0 20000 c {}"]);
    declare(&mut case, "1000");
    assert_eq!(case.call(&script::RELEASE, &["a"]), ["released"]);
    assert_eq!(
        case.after(1500).call(&script::ACQUIRE, &["c", "0 1 0 0 c {}"])[0],
        "granted"
    );
}

#[test]
fn a_request_that_cannot_be_read_takes_no_lease() {
    for request in [
        "30000 1 1",
        "30000 1 1 x c h",
        "30000 1 1 -1 c h",
        "30000 1 1 0 c",
    ] {
        let [keys, _] = objects();
        let mut case = Trial::on(keys);
        let reply = case.call(&script::ACQUIRE, &["a", request]);
        assert_ne!(reply[0], "granted", "{request}");
        let reply = case.call(&script::ACQUIRE, &["b", "30000 1 1 0 c {}"]);
        assert_eq!(reply[0], "granted", "{request}");
    }
}

#[test]
fn a_name_may_contain_the_name_of_a_kind() {
    for name in ["x/register/y", "x/pool/y", "x/lock/y"] {
        let keys = vec![format!("tenure:{{a/semaphore/{name}}}:obj")];
        let mut case = Trial::on(keys);
        case.call(&script::ACQUIRE, &["a", "2000 1 1 0 c {}"]);
        let queued = case.call(&script::ACQUIRE, &["b", "2000 1 1 1000 c {}"]);
        assert_eq!(queued[0], "queued", "{name}");
        assert_eq!(case.call(&script::RELEASE, &["a"]), ["released"], "{name}");
    }
}

#[test]
fn a_pool_is_not_granted_before_it_has_resources() {
    let keys = vec!["tenure:{a/pool/x}:obj".to_owned()];
    let reply = Trial::on(keys).call(&script::ACQUIRE, &["a", "2000 1 1 0 c {}"]);
    assert_eq!(reply[0], "busy");
}

#[test]
fn an_object_of_no_kind_is_refused_by_each_call_and_leaves_no_key() {
    let mut case = Trial::on(vec!["tenure:{a/nokind/x}:obj".to_owned()]);
    let request = ["a", "1000 1 1 0 c {}"];
    for (script, args) in [
        (&script::ACQUIRE, &request[..]),
        (&script::RELEASE, &["a"]),
        (&script::OBSERVE, &["0", "0"]),
    ] {
        let refused = case.call(script, args).join(" ");
        assert!(
            refused.contains("is not the key of an object"),
            "{}: {refused}",
            script.name
        );
    }
    assert!(lock(&case.side.database).store.dump().is_empty());
}

/// The head goes back into a queue that was empty in between: the queue does not outlive the object for that.
#[test]
fn a_writer_that_waited_behind_many_readers_keeps_the_next_one_out_until_its_lease_ends() {
    let mut case = Trial::on(keys(Kind::RwLock, "x"));
    for (token, permits) in [("a", "1"), ("b", "1"), ("h", "9")] {
        case.call(
            &script::ACQUIRE,
            &[token, &format!("30000 {permits} 9 30000 c {{}}")],
        );
    }
    for _ in 0..3 {
        case.after(9900);
        for token in ["a", "b", "h"] {
            case.call(&script::RENEW, &[token]);
        }
    }
    case.after(1200);
    for token in ["b", "h"] {
        case.call(&script::RENEW, &[token]);
    }
    assert_eq!(case.call(&script::RELEASE, &["a"]), ["released"]);
    case.after(18_600);
    assert_eq!(
        case.call(&script::ACQUIRE, &["n", "30000 9 9 30000 c {}"])[0],
        "queued"
    );
    assert_eq!(case.call(&script::RELEASE, &["b"]), ["released"]);
    assert_eq!(case.call(&script::RELEASE, &["h"]), ["released"]);
    // It holds for the rest of its entry's life.
    case.after(29_000);
    assert_eq!(case.call(&script::ACQUIRE, &["z", "30000 1 9 0 c {}"])[0], "busy");
}

#[test]
fn a_grace_keeps_others_out_for_its_whole_length_after_renewals() {
    let [keys, _] = objects();
    let mut case = Trial::on(keys);
    case.call(
        &script::ACQUIRE,
        &["a", "30000 1 1 0 c {}", "0", "0", "30000", "0", "-", "0", ""],
    );
    for _ in 0..3 {
        case.after(10_000).call(&script::RENEW, &["a"]);
    }
    case.after(31_001);
    let attempt = ["b", "30000 1 1 0 c {}"];
    assert_eq!(case.call(&script::ACQUIRE, &attempt)[0], "busy");
    assert_eq!(case.after(28_900).call(&script::ACQUIRE, &attempt)[0], "busy");
    assert_eq!(case.after(1200).call(&script::ACQUIRE, &attempt)[0], "granted");
}

#[test]
fn each_key_of_an_undeclared_pool_ends() {
    let mut case = Trial::on(keys(Kind::Pool, "x"));
    assert_eq!(
        case.call(&script::ACQUIRE, &["a", "1000 1 1 1000 c {}"])[0],
        "queued"
    );
    let mut database = lock(&case.side.database);
    for key in &case.keys {
        let ends = database.store.end_of(key.as_bytes());
        assert!(!database.store.has(key.as_bytes()) || ends.is_some(), "{key}");
    }
    database.store.expire(case.now_us / 1000 + 3_600_000);
    assert!(database.store.dump().is_empty());
}

#[test]
fn what_a_takeover_leaves_is_granted_to_those_that_wait() {
    let mut case = Trial::on(keys(Kind::RwLock, "x"));
    case.call(&script::ACQUIRE, &["w", "30000 9 9 10000 c {}"]);
    for reader in ["r1", "r2"] {
        let request = [reader, "30000 1 9 10000 c {}"];
        assert_eq!(case.call(&script::ACQUIRE, &request)[0], "queued");
    }
    let takeover = ["t", "30000 1 9 0 c {}", "0", "0", "0", "0", "-", "1", "it hangs"];
    let pushes = case.pushes(&script::ACQUIRE, &takeover);
    assert_eq!(pushes.len(), 3, "the loss and two grants: {pushes:?}");
}

#[test]
fn the_first_call_after_a_recovery_grants_the_head_of_the_queue() {
    let mut case = Trial::on(keys(Kind::Semaphore, "x"));
    let declare = |recovery| ["digest", "1000", recovery, "2000", "0", "3"];
    case.call(&script::DECLARE, &declare("0"));
    case.call(&script::ACQUIRE, &["a", "0 1 0 0 c {}"]);
    let lost = Call::new(&script::DECLARE, &case.keys, "another", &declare("5000"));
    case.side.run(&script::DECLARE, &lost, case.now_us);
    case.call(&script::RENEW, &["a"]);
    case.call(&script::DECLARE, &declare("5000"));
    assert_eq!(
        case.call(&script::ACQUIRE, &["h", "0 1 0 2000 c {}"])[0],
        "queued"
    );
    for _ in 0..8 {
        assert_eq!(case.after(600).call(&script::RENEW, &["a h"])[5], "waiting");
    }
    let pushes = case.after(300).pushes(&script::ACQUIRE, &["n", "0 3 0 0 c {}"]);
    assert!(
        pushes.len() == 1 && pushes[0].contains("\nh\n"),
        "no grant: {pushes:?}"
    );
}
