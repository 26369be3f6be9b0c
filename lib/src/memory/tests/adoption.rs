//! An old snapshot has a lease as it was before its adoption, or as it expired before a renewal: the same fencing token
//! shows that it belongs to the holder that comes back.

use redis::Value;

use crate::memory::tests::{Call, Keys, Side, keys};
use crate::{
    Kind,
    protocol::{
        calls,
        script::{self, Script},
        secret::Secret,
    },
    transport::lock,
};

const START_US: u64 = 1_700_000_000_000_000;

struct Object {
    side: Side,
    keys: Keys,
    now_us: u64,
    run: &'static str,
}

impl Object {
    fn new(kind: Kind) -> Self {
        Self {
            side: Side::new(),
            keys: keys(kind, "x"),
            now_us: START_US,
            run: "first",
        }
    }

    fn call(&mut self, script: &'static Script, args: &[&str]) -> Value {
        let call = Call::new(script, &self.keys, self.run, args);
        self.now_us += 1000;
        self.side.run(script, &call, self.now_us).0
    }

    fn declare(&mut self, recovery: &str) {
        let mut args = vec!["1", "1000", recovery, "30000", "0", "2"];
        if self.keys.len() == 7 {
            args.extend(["", "0", "LeastRecentlyUsed", "", "0", "m", "1", "n", "1"]);
        }
        self.call(&script::DECLARE, &args);
    }

    fn texts(&mut self, script: &'static Script, args: &[&str]) -> Vec<String> {
        let reply = self.call(script, args);
        redis::from_redis_value(reply).unwrap_or_else(|error| panic!("{}: {error}", script.name))
    }

    /// The leases, and their tokens.
    fn held(&mut self) -> (u64, Vec<String>) {
        let observe = calls::Observe {
            count: 10,
            watch: false,
            skip: 0,
        };
        let reply = self.call(&script::OBSERVE, &["10", "0"]);
        let observed = calls::read(&observe, &reply).unwrap().unwrap();
        let tokens = observed.holders.into_iter().map(|holder| holder.token);
        (observed.held, tokens.collect())
    }
}

fn secret(number: u128) -> Secret {
    Secret::new(uuid::Uuid::from_u128(number))
}

#[test]
fn an_adopter_takes_the_place_of_the_lease_that_an_old_snapshot_has() {
    for kind in [Kind::Semaphore, Kind::Pool] {
        let mut object = Object::new(kind);
        object.declare("0");
        let (first, second, third) = (secret(1), secret(2), secret(3));
        let acquired = object.texts(&script::ACQUIRE, &[&first.token(), "30000 1 0 0 a {}"]);
        let fence = acquired[1].clone();
        let names = acquired.get(8).cloned().unwrap_or_else(|| "-".to_owned());
        let snapshot = lock(&object.side.database).store.clone();
        let adopt = |new: &Secret| {
            let (old, new) = (first.reveal().to_owned(), new.token().to_string());
            [
                old,
                new,
                "b".to_owned(),
                "{}".to_owned(),
                "adopted by b".to_owned(),
            ]
        };
        let by_second = adopt(&second);
        let by_second: Vec<&str> = by_second.iter().map(String::as_str).collect();
        let adopted = object.texts(&script::ADOPT, &by_second);
        assert_eq!((&*adopted[0], &adopted[3]), ("adopted", &fence), "{kind}");
        assert_eq!(
            object.texts(&script::ADOPT, &by_second)[3],
            fence,
            "{kind}: repeated"
        );

        lock(&object.side.database).store = snapshot;
        object.run = "second";
        object.declare("30000");
        assert_eq!(object.held(), (1, vec![first.token().to_string()]), "{kind}");
        let by_third = adopt(&third);
        let by_third: Vec<&str> = by_third.iter().map(String::as_str).collect();
        assert_eq!(
            object.texts(&script::ADOPT, &by_third)[0],
            "gone",
            "{kind}: in the recovery"
        );
        let since = (START_US / 1000).to_string();
        let token = second.token();
        let readmit = [&*token, &fence, "1", "30000", "0", &since, "b", &names, "{}", "0"];
        assert_eq!(object.texts(&script::READMIT, &readmit)[0], "held", "{kind}");
        assert_eq!(object.held(), (1, vec![token.to_string()]), "{kind}");
        assert_eq!(
            object.texts(&script::READMIT, &readmit)[0],
            "held",
            "{kind}: repeated"
        );
    }
}

#[test]
fn a_holder_takes_the_place_of_its_own_grace() {
    for kind in [Kind::Semaphore, Kind::Pool] {
        let mut object = Object::new(kind);
        object.declare("0");
        let token = secret(1).token();
        let acquired = object.texts(
            &script::ACQUIRE,
            &[&token, "30000 1 0 0 a {}", "0", "0", "60000", "0", "-", "0", ""],
        );
        let fence = acquired[1].clone();
        let names = acquired.get(8).cloned().unwrap_or_else(|| "-".to_owned());
        // The snapshot knows of none of the renewals that went on.
        object.now_us += 31_000_000;
        object.run = "second";
        object.declare("30000");
        assert_eq!(object.held(), (1, vec![format!("grace-{token}")]), "{kind}");
        let since = (START_US / 1000).to_string();
        let readmit = [
            &*token, &fence, "1", "30000", "0", &since, "a", &names, "{}", "60000",
        ];
        assert_eq!(object.texts(&script::READMIT, &readmit)[0], "held", "{kind}");
        assert_eq!(object.held(), (1, vec![token.to_string()]), "{kind}");
    }
}
