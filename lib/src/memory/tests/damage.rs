//! Objects with missing or additional parts: after an eviction, by another program, from an old snapshot.

use redis::Value;

use crate::memory::tests::{Trial, keys, objects};
use crate::{
    Kind,
    protocol::script::{self, Script},
    transport::lock,
};

impl Trial {
    /// Takes a lease of thirty seconds, or a queue entry of ten.
    fn acquire(&mut self, token: &str, limit: &str) -> String {
        let request = format!("30000 1 {limit} 10000 c1 {{}}");
        self.call(&script::ACQUIRE, &[token, &request])[0].clone()
    }

    /// Stands for another program.
    fn remove_value(&self, token: &str) {
        let args = [
            self.keys[0].clone().into_bytes(),
            format!("t:{token}").into_bytes(),
        ];
        let removed = lock(&self.side.database).execute("HDEL", &args).unwrap();
        assert_eq!(removed, Value::Int(1));
    }

    fn has(&self, word: &str) -> bool {
        let dump = lock(&self.side.database).store.dump();
        dump.iter().any(|line| line.contains(word))
    }
}

#[test]
fn a_notification_passes_over_a_waiter_whose_value_is_gone() {
    let [keys, _] = objects();
    let mut trial = Trial::on(keys);
    for (lease, waiter) in [("a", "w1"), ("b", "w2"), ("c", "")] {
        assert_eq!(trial.acquire(lease, "1"), "granted");
        if !waiter.is_empty() {
            let args = [lease, waiter, "@full", "30000", "0", "10000", "c1", "{}", "0"];
            assert_eq!(trial.call(&script::WAIT, &args)[0], "queued");
        }
    }
    trial.remove_value("w1");
    assert_eq!(trial.call(&script::NOTIFY, &["c", "@full", "2", "n"]), ["1", "0"]);
    assert!(!trial.has("\"w1\""), "something is left of it");
    assert_eq!(trial.call(&script::RELEASE, &["c"]), ["released"]);
    assert_eq!(trial.acquire("w2", "1"), "granted");
}

#[test]
fn a_pool_is_declared_and_its_holders_let_in_beside_a_lease_whose_value_is_gone() {
    let mut trial = Trial::on(keys(Kind::Pool, "x"));
    let declare = |trial: &mut Trial, floor: &str| {
        let resources = [
            "",
            "0",
            "LeastRecentlyUsed",
            "",
            "0",
            "seat-a",
            "1",
            "seat-b",
            "1",
        ];
        let args = [&["digest", floor, "1", "30000", "0", "2"][..], &resources].concat();
        trial.call(&script::DECLARE, &args)
    };
    declare(&mut trial, "1000");
    trial.now_us += 31_000_000; // it had been declared before, so it recovers at first
    assert_eq!(trial.acquire("a", "0"), "granted");
    trial.remove_value("a");
    trial.run = "another run";
    assert_eq!(declare(&mut trial, "2000"), ["1"]);
    let args = [
        "b",
        "1500",
        "1",
        "30000",
        "0",
        "1763717030000",
        "c1",
        "seat-b",
        "{}",
        "0",
    ];
    assert_eq!(trial.call(&script::READMIT, &args)[0], "held");
}

#[test]
fn permits_of_an_old_snapshot_keep_nobody_out_who_knows_the_fencing_token_and_are_free_after_one_lease() {
    let [_, keys] = objects();
    let mut trial = Trial::on(keys);
    let declare = ["digest", "1000", "1", "30000", "0", "2"];
    trial.call(&script::DECLARE, &declare);
    trial.now_us += 31_000_000;
    // The state of the snapshot. Since then, b has been given back, and c was granted under the fencing token 1003.
    assert_eq!(trial.acquire("a", "0"), "granted");
    assert_eq!(trial.acquire("b", "0"), "granted");
    trial.run = "another run";
    trial.call(&script::DECLARE, &["digest", "2000", "1", "30000", "0", "2"]);
    let args = [
        "c",
        "1003",
        "1",
        "30000",
        "0",
        "1763717031000",
        "c1",
        "-",
        "{}",
        "0",
    ];
    assert_eq!(trial.call(&script::READMIT, &args)[0], "held");
    let held_and_free = |trial: &mut Trial| {
        let seen = trial.call(&script::OBSERVE, &["0", "0"]);
        (seen[4].clone(), seen[5].clone())
    };
    assert_eq!(held_and_free(&mut trial), ("3".to_owned(), "0".to_owned()));

    // Live holders renew, and b's permit stays taken for as long as b would have held it.
    trial.now_us += 20_000_000;
    assert_eq!(trial.acquire("d", "0"), "queued");
    let renewed = trial.call(&script::RENEW, &["a c d"]);
    assert_eq!(
        (&*renewed[1], &*renewed[5], &*renewed[9]),
        ("held", "held", "waiting")
    );
    trial.now_us += 9_000_000;
    assert_eq!(trial.acquire("d", "0"), "queued");
    trial.now_us += 2_000_000;
    assert_eq!(held_and_free(&mut trial), ("2".to_owned(), "0".to_owned()));
    assert_eq!(trial.acquire("d", "0"), "queued");
    assert_eq!(trial.call(&script::RELEASE, &["a"]), ["released"]);
    assert_eq!(trial.acquire("d", "0"), "granted");
}

#[test]
fn a_lease_whose_holders_were_evicted_keeps_others_out_for_no_longer_than_it_would_have_run() {
    let [_, keys] = objects();
    let mut trial = Trial::on(keys);
    assert_eq!(trial.acquire("a", "2"), "granted");
    assert_eq!(trial.acquire("b", "2"), "granted");
    assert_eq!(trial.acquire("c", "2"), "queued");
    let holders = trial.keys[1].clone().into_bytes();
    lock(&trial.side.database).execute("UNLINK", &[holders]).unwrap();
    trial.now_us += 9_000_000;
    assert_eq!(trial.acquire("c", "2"), "queued");
    assert_eq!(trial.call(&script::RELEASE, &["a"]), ["left"]);
    // Both have no queue entry any more; what counts is who can still be seen to hold.
    assert_eq!(trial.acquire("c", "2"), "granted");
    assert_eq!(trial.call(&script::RELEASE, &["c"]), ["released"]);
    trial.now_us += 31_000_000;
    assert_eq!(trial.call(&script::OBSERVE, &["0", "0"]), ["nil"]);
}

#[test]
fn what_is_held_without_a_holder_keeps_no_withdrawal_waiting() {
    let [_, keys] = objects();
    let mut trial = Trial::on(keys);
    trial.call(&script::DECLARE, &["digest", "1000", "0", "30000", "0", "2"]);
    assert_eq!(trial.acquire("a", "0"), "granted");
    let args = [trial.keys[1].clone().into_bytes(), b"a".to_vec()];
    lock(&trial.side.database).execute("ZREM", &args).unwrap();
    trial.remove_value("a");
    assert_eq!(trial.call(&script::WITHDRAW, &["drain", "0"]), ["nil"]);
    assert!(!trial.has("semaphore"));
}

#[test]
fn what_is_held_without_a_holder_keeps_a_waiter_for_one_life_of_its_entry() {
    let [_, keys] = objects();
    let mut trial = Trial::on(keys);
    assert_eq!(trial.acquire("a", "1"), "granted");
    assert_eq!(trial.acquire("b", "1"), "queued");
    for key in [1, 3] {
        let args = [trial.keys[key].clone().into_bytes(), b"a".to_vec()];
        lock(&trial.side.database).execute("ZREM", &args).unwrap();
    }
    trial.remove_value("a");
    for _ in 0..3 {
        assert_eq!(trial.call(&script::RENEW, &["b"])[1], "waiting");
        trial.now_us += 3_500_000;
    }
    assert_eq!(trial.acquire("b", "1"), "granted");
}

#[test]
fn a_number_that_is_too_large_damages_no_object() {
    const HUGE: &str = "99999999999999999999";
    let declaration = ["digest", "1000", "0", "30000", "60000", "2", "run", "0"];
    let lease = ["a", "30000 1 2 1000 c {}"];
    let request = ["a", "30000 1 2 1000 c {}", "0", "60000", "1000", "7", "-", "0"];
    let wait = [
        "h", "a", "@full", "30000", "60000", "1000", "c", "{}", "1000", "7",
    ];
    let readmit = [
        "a",
        "1001",
        "1",
        "30000",
        "60000",
        "1763717000000",
        "c",
        "-",
        "{}",
        "1000",
    ];
    let calls: [(&'static Script, &[&str]); 5] = [
        (&script::DECLARE, &declaration),
        (&script::ACQUIRE, &lease),
        (&script::ACQUIRE, &request),
        (&script::WAIT, &wait),
        (&script::READMIT, &readmit),
    ];
    for (script, args) in calls {
        let words: Vec<&str> = args.iter().flat_map(|arg| arg.split(' ')).collect();
        for (at, word) in words.iter().enumerate() {
            // The library checks a floor, and a holder knows its fencing token.
            let is_token = ["1000", "1001"].contains(word) && at == 1;
            if is_token || word.is_empty() || !word.bytes().all(|c| c.is_ascii_digit()) {
                continue;
            }
            let mut trial = Trial::on(keys(Kind::Lock, "x"));
            if script.name == "readmit" {
                trial.call(&script::DECLARE, &declaration);
                trial.run = "another run";
                let again = [
                    "digest",
                    "2000",
                    "30000",
                    "30000",
                    "60000",
                    "2",
                    "another run",
                    "0",
                ];
                trial.call(&script::DECLARE, &again);
            } else if script.name == "wait" {
                trial.call(&script::ACQUIRE, &["h", "30000 1 1 0 c {}"]);
            }
            let mut rest = words.iter().enumerate();
            let mut word = |_| {
                let (index, word) = rest.next().unwrap();
                if index == at { HUGE } else { *word }
            };
            let args: Vec<String> = args
                .iter()
                .map(|arg| arg.split(' ').map(&mut word).collect::<Vec<_>>().join(" "))
                .collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let reply = trial.call(script, &args);
            // The second client unfolds what lies alone.
            let other = trial.call(&script::ACQUIRE, &["z", "30000 1 2 0 c {}"]);
            let seen = trial.call(&script::OBSERVE, &["10", "10"]);
            let what = format!("{} {args:?}: {reply:?}, {other:?}, {seen:?}", script.name);
            for reply in [&reply, &other, &seen] {
                assert!(
                    !reply[0].contains("DAMAGED") && !reply[0].contains("script"),
                    "{what}"
                );
            }
        }
    }
}
