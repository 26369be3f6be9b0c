//! More entries have expired at once than one call ends: an entry that is not ended yet has no holder all the same.

use crate::memory::tests::{Call, Side, texts};
use crate::protocol::script::{self, Script};

const HOLDERS: u64 = 200;

struct Crowd {
    side: Side,
    now_us: u64,
}

impl Crowd {
    fn call(&mut self, script: &'static Script, args: &[&str]) -> Vec<String> {
        let keys =
            ["obj", "holders", "queue", "expiry"].map(|part| format!("tenure:{{a/semaphore/x}}:{part}"));
        let call = Call::new(script, &keys, "run", args);
        let (reply, _) = self.side.run(script, &call, self.now_us);
        texts(&reply)
    }

    fn acquire(&mut self, token: &str, permits: &str, ttl: &str) -> Vec<String> {
        let request = format!("30000 {permits} 200 {ttl} c1 {{}}");
        let args = [token, &*request];
        self.call(&script::ACQUIRE, &args)
    }
}

/// All hold one permit of 200, and all their leases have run out.
fn all_run_out() -> Crowd {
    let mut crowd = Crowd {
        side: Side::new(),
        now_us: 1_763_717_000_000_000,
    };
    for holder in 0..HOLDERS {
        assert_eq!(crowd.acquire(&format!("t{holder}"), "1", "0")[0], "granted");
    }
    crowd.now_us += 31_000_000;
    crowd
}

/// docs/protocol.md#budget-2: no renewal.
#[test]
fn what_has_run_out_cannot_be_renewed_before_it_is_ended() {
    let mut crowd = all_run_out();
    assert_eq!(crowd.call(&script::RENEW, &["t199"])[1], "gone");
    let seen = crowd.call(&script::OBSERVE, &["0", "0"]);
    assert_ne!(seen[4], "0", "one call has ended all: this shows nothing");
    assert_eq!(seen[10], "1", "look again");
}

/// docs/protocol.md#budget-2: no release, no repetition.
#[test]
fn what_has_run_out_cannot_be_released_or_repeated_before_it_is_ended() {
    let mut crowd = all_run_out();
    assert_eq!(crowd.call(&script::RELEASE, &["t199"]), ["gone"]);
    let fence: u64 = crowd.acquire("t198", "1", "0")[1].parse().unwrap();
    assert!(fence >= crowd.now_us, "it is the old lease");
    assert_eq!(crowd.call(&script::DOWNGRADE, &["t197", "1"]), ["gone"]);
}

/// docs/protocol.md#acq-again: a request without a queue entry is repeated.
#[test]
fn one_that_does_not_wait_is_told_to_ask_again_until_all_is_ended() {
    let mut crowd = all_run_out();
    let mut calls = 1;
    while crowd.acquire("all", "200", "0")[0] == "again" {
        calls += 1;
    }
    assert!(calls > 2, "{calls}");
    assert_eq!(crowd.acquire("all", "200", "0")[0], "granted");
    assert_eq!(crowd.acquire("another", "1", "0")[0], "busy");
}

/// docs/protocol.md#push-again: the head of the queue does the rest.
#[test]
fn the_head_of_the_queue_is_told_to_come_at_once_until_all_is_ended() {
    let mut crowd = all_run_out();
    let queued = crowd.acquire("all", "200", "10000");
    assert_eq!((queued[0].as_str(), queued[3].as_str()), ("queued", "0"));
    loop {
        let renewed = crowd.call(&script::RENEW, &["all"]);
        // A number is the end of a lease.
        if renewed[1] != "waiting" {
            break assert!(renewed[1].parse::<u64>().is_ok(), "{renewed:?}");
        }
        assert_eq!(renewed[3], "0");
    }
}
