//! Tests of the decisions about the access of namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt;
use tenure::{
    Error,
    control::{ServerTenants, TenantUser},
};
use tokio::time::Instant;

use crate::access::{
    binding::Binding,
    plan::{Ages, Decision, Facts, Foreign, Reason, SURPLUS_FOR, Surplus, Users, Write, decide},
    secret::{self, ROTATE},
};
use crate::password::Password;

const OVERLAP: i64 = 100;
const MAX_AGE: i64 = 1000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn hash(text: &str) -> String {
    Password(text.to_owned()).hash()
}

fn hashes(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| hash(text)).collect()
}

/// Decides about a namespace with this Secret at this second. A new password is `drawn`.
fn decided(allowed: bool, secret: Option<&Secret>, second: i64, drawn: &str) -> Decision {
    decided_in("tenure/a", &[], allowed, secret, second, drawn)
}

/// The same in this installation, while others are gone.
fn decided_in(
    installation: &str,
    gone: &[&str],
    allowed: bool,
    secret: Option<&Secret>,
    second: i64,
    drawn: &str,
) -> Decision {
    let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    let facts = Facts {
        namespace: "team-a",
        allowed,
        secret,
        now: at(second),
        ages: Ages {
            max_age: Some(seconds(MAX_AGE)),
            overlap: seconds(OVERLAP),
        },
        binding: &Binding::of_controller("redis://redis", "tenure").unwrap(),
        installation: Some(installation),
        gone: &gone.iter().map(|&gone| gone.to_owned()).collect(),
    };
    decide(&facts, || Ok::<_, Infallible>(Password(drawn.to_owned()))).unwrap()
}

/// The Secret that a decision writes, as the API server has it then.
fn applied(decision: &Decision, expected: Reason) -> Secret {
    let Some(Write::Apply(secret, reason, _)) = &decision.write else {
        panic!("{decision:?}");
    };
    assert_eq!(*reason, expected);
    let mut secret = (**secret).clone();
    secret.metadata.resource_version = Some("7".to_owned());
    secret
}

/// A Secret with the password `one`, made at the second 0.
fn made() -> Secret {
    applied(&decided(true, None, 0, "one"), Reason::New)
}

fn annotate(secret: &mut Secret, key: &str, value: &str) {
    secret.annotations_mut().insert(key.to_owned(), value.to_owned());
}

/// A Secret with the password `two` since the second 10.
fn rotated() -> Secret {
    let mut secret = made();
    annotate(&mut secret, ROTATE, "please");
    let mut rotated = applied(&decided(true, Some(&secret), 10, "two"), Reason::Rotated);
    annotate(&mut rotated, ROTATE, "please");
    rotated
}

#[test]
fn a_namespace_that_is_allowed_gets_a_secret_that_only_a_missing_one_makes_room_for() {
    let decision = decided(true, None, 0, "one");
    // Nothing is valid before it is written, and Redis gets the password before.
    assert_eq!(decision.passwords, None);
    let Some(Write::Apply(secret, Reason::New, passwords)) = &decision.write else {
        panic!("{decision:?}");
    };
    assert_eq!(*passwords, hashes(&["one"]));
    assert_eq!(secret.resource_version().as_deref(), Some("1"));
    assert!(secret::is_ours(secret));
    let decision = decided(true, Some(&made()), 5, "never");
    assert_eq!(
        (decision.passwords, decision.write),
        (Some(hashes(&["one"])), None)
    );
    assert_eq!(decision.next, Some(at(MAX_AGE)));
}

#[test]
fn without_permission_only_the_controllers_own_secret_goes() {
    assert_eq!(decided(false, None, 0, "never"), Decision::default());
    let decision = decided(false, Some(&made()), 0, "never");
    assert_eq!((decision.passwords, decision.write), (None, Some(Write::Delete)));
    let mut deleting = made();
    deleting.metadata.deletion_timestamp = Some(Time(at(3)));
    assert_eq!(decided(false, Some(&deleting), 4, "never"), Decision::default());
    assert_eq!(
        decided(false, Some(&Secret::default()), 0, "never"),
        Decision::default()
    );
}

#[test]
fn a_secret_of_another_program_stays_and_opens_nothing() {
    let mut unlabelled = made();
    unlabelled.metadata.labels = None;
    let mut other_type = made();
    other_type.type_ = Some("Opaque".to_owned());
    for foreign in [Secret::default(), unlabelled, other_type] {
        let decision = decided(true, Some(&foreign), 0, "never");
        assert_eq!(decision.foreign, Some(Foreign::Program));
        assert!(decision.passwords.is_none() && decision.write.is_none());
    }
}

#[test]
fn a_request_is_answered_once_and_both_passwords_are_valid_for_the_overlap() {
    let mut secret = made();
    annotate(&mut secret, ROTATE, "please");
    let decision = decided(true, Some(&secret), 10, "two");
    // Until it is written, the old one alone.
    assert_eq!(decision.passwords, Some(hashes(&["one"])));
    let Some(Write::Apply(_, Reason::Rotated, passwords)) = &decision.write else {
        panic!("{decision:?}");
    };
    assert_eq!(*passwords, hashes(&["one", "two"]));
    let secret = rotated();
    let decision = decided(true, Some(&secret), 10 + OVERLAP - 1, "never");
    assert_eq!(
        (decision.passwords, decision.write),
        (Some(hashes(&["one", "two"])), None)
    );
    assert_eq!(decision.next, Some(at(10 + OVERLAP)));
    let decision = decided(true, Some(&secret), 10 + OVERLAP, "never");
    let secret = applied(&decision, Reason::Changed);
    assert_eq!(decision.passwords, Some(hashes(&["two"])));
    let decision = decided(true, Some(&secret), 10 + OVERLAP, "never");
    assert_eq!(
        (decision.passwords, decision.write),
        (Some(hashes(&["two"])), None)
    );
    // A request that is taken back is none.
    assert_eq!(decided(true, Some(&made()), 10, "never").write, None);
}

#[test]
fn a_password_is_replaced_at_its_age() {
    assert_eq!(decided(true, Some(&made()), MAX_AGE - 1, "never").write, None);
    let secret = applied(&decided(true, Some(&made()), MAX_AGE, "two"), Reason::Rotated);
    assert_eq!(decided(true, Some(&secret), MAX_AGE, "never").write, None);
}

#[test]
fn rotations_in_one_overlap_keep_a_bounded_number_of_passwords() {
    let mut secret = made();
    for number in 0..12 {
        annotate(&mut secret, ROTATE, &number.to_string());
        secret = applied(
            &decided(true, Some(&secret), number, &format!("p{number}")),
            Reason::Rotated,
        );
    }
    let valid = decided(true, Some(&secret), 12, "never").passwords.unwrap();
    assert_eq!(valid.len(), 9, "eight, and the current one");
    assert!(valid.contains(&hash("p3")) && !valid.contains(&hash("p2")));
}

#[test]
fn no_annotation_keeps_a_password_valid_beyond_the_overlap() {
    let mut secret = rotated();
    let forged = format!("{} 9999-01-01T00:00:00Z,nonsense,{} soon", hash("one"), hash("x"));
    annotate(&mut secret, "tenure.dev/previous-passwords", &forged);
    let valid = |second| decided(true, Some(&secret), second, "never").passwords;
    assert_eq!(valid(10 + OVERLAP - 1), Some(hashes(&["one", "two"])));
    assert_eq!(valid(10 + OVERLAP), Some(hashes(&["two"])));
}

#[test]
fn a_secret_that_was_changed_is_mended_and_a_lost_password_replaced() {
    let mut secret = made();
    let data = secret.data.as_mut().unwrap();
    data.insert("host".to_owned(), ByteString(b"x".to_vec()));
    data.insert("ca.crt".to_owned(), ByteString(b"old".to_vec()));
    data.insert("theirs".to_owned(), ByteString(b"x".to_vec()));
    let decision = decided(true, Some(&secret), 5, "never");
    let mended = applied(&decision, Reason::Changed);
    assert_eq!(mended.data, made().data);
    assert_eq!(
        decision.passwords,
        Some(hashes(&["one"])),
        "it stays valid meanwhile"
    );
    for broken in [&b""[..], b"one two", b"\xff"] {
        let mut secret = made();
        secret
            .data
            .as_mut()
            .unwrap()
            .insert("password".to_owned(), ByteString(broken.to_vec()));
        let mended = applied(&decided(true, Some(&secret), 5, "two"), Reason::New);
        assert_eq!(mended.data.unwrap()["password"].0, b"two");
    }
}

#[test]
fn a_secret_that_is_being_deleted_is_valid_until_it_is_gone() {
    let mut secret = made();
    secret.metadata.deletion_timestamp = Some(Time(at(3)));
    annotate(&mut secret, ROTATE, "please");
    let decision = decided(true, Some(&secret), MAX_AGE, "never");
    assert_eq!(
        (decision.passwords, decision.write),
        (Some(hashes(&["one"])), None)
    );
}

/// A server with the user of `team-a` and these passwords.
fn server(passwords: &[&str]) -> ServerTenants {
    let user = TenantUser {
        passwords: passwords.iter().map(|&text| text.to_owned()).collect(),
        has_rules: true,
    };
    ServerTenants {
        server: "redis:6379".to_owned(),
        is_replica: false,
        users: Ok(BTreeMap::from([("team-a".to_owned(), user)])),
    }
}

fn wanted(passwords: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let passwords = passwords.iter().map(|&text| text.to_owned()).collect();
    BTreeMap::from([("team-a".to_owned(), passwords)])
}

fn set(passwords: &[&str]) -> Users {
    Users {
        set: wanted(passwords),
        ..Users::default()
    }
}

#[test]
fn a_user_that_a_server_lacks_or_has_otherwise_is_made() {
    let plan = |servers: &[ServerTenants]| {
        Surplus::default().plan(&wanted(&["one"]), servers, |_| false, Instant::now())
    };
    let good = server(&["one"]);
    assert_eq!(plan(std::slice::from_ref(&good)), Users::default());
    let empty = ServerTenants {
        users: Ok(BTreeMap::new()),
        ..good.clone()
    };
    let away = ServerTenants {
        users: Err(Error::Closed),
        ..good.clone()
    };
    let mut changed = good.clone();
    changed
        .users
        .as_mut()
        .unwrap()
        .get_mut("team-a")
        .unwrap()
        .has_rules = false;
    for servers in [
        [good.clone(), empty.clone()],
        [away.clone(), empty],
        [changed, good.clone()],
        [good.clone(), server(&[])],
    ] {
        assert_eq!(plan(&servers), set(&["one"]), "{servers:?}");
    }
    assert_eq!(plan(&[away, good]), Users::default(), "it cannot be written to");
}

#[test]
fn what_another_controller_may_just_have_made_stays_for_a_moment() {
    let (mut surplus, start) = (Surplus::default(), Instant::now());
    let mut plan = |passwords: &[&str], found: &[&str], after| {
        surplus.plan(&wanted(passwords), &[server(found)], |_| false, start + after)
    };
    let waits = Users {
        waits: true,
        ..Users::default()
    };
    assert_eq!(plan(&["one"], &["one", "new"], Duration::ZERO), waits);
    // A write meanwhile keeps it.
    let both = Users {
        waits: true,
        ..set(&["one", "new", "two"])
    };
    assert_eq!(plan(&["one", "two"], &["one", "new"], SURPLUS_FOR / 2), both);
    assert_eq!(plan(&["one"], &["one", "new"], SURPLUS_FOR), set(&["one"]));
    // It counts from the first time in a row.
    assert_eq!(plan(&["one"], &["one"], SURPLUS_FOR * 2), Users::default());
    assert_eq!(plan(&["one"], &["one", "new"], SURPLUS_FOR * 3), waits);
}

#[test]
fn a_user_without_permission_goes_and_one_of_others_stays() {
    let (mut surplus, start) = (Surplus::default(), Instant::now());
    let mut plan = |is_of_others: bool, after| {
        surplus.plan(
            &BTreeMap::new(),
            &[server(&["one"])],
            |_| is_of_others,
            start + after,
        )
    };
    assert_eq!(plan(true, Duration::ZERO), Users::default());
    assert_eq!(plan(true, SURPLUS_FOR), Users::default());
    assert!(plan(false, SURPLUS_FOR).waits);
    let removed = plan(false, SURPLUS_FOR * 2);
    assert_eq!(removed.remove, BTreeSet::from(["team-a".to_owned()]));
    assert!(removed.set.is_empty() && !removed.waits);
}

#[test]
fn a_secret_of_another_installation_is_left_alone_until_that_is_gone() {
    let made = applied(&decided(true, None, 0, "first"), Reason::New);
    assert_eq!(secret::installation(&made), Some("tenure/a"));
    let other = |gone, allowed| decided_in("tenure/b", gone, allowed, Some(&made), 1, "second");
    for allowed in [true, false] {
        let left = other(&[], allowed);
        assert_eq!((left.write, left.passwords), (None, None));
        assert!(left.is_of_another, "its Redis user would be removed");
        let foreign = allowed.then(|| Foreign::Installation("tenure/a".to_owned()));
        assert_eq!(left.foreign, foreign);
    }
    let taken = applied(&other(&["tenure/a"], true), Reason::Changed);
    assert_eq!(secret::installation(&taken), Some("tenure/b"));
    let deleted = other(&["tenure/a"], false);
    assert_eq!(
        (deleted.write, deleted.is_of_another),
        (Some(Write::Delete), false)
    );

    let mut before_an_upgrade = made.clone();
    before_an_upgrade
        .annotations_mut()
        .remove("tenure.dev/installation");
    let recorded = decided(true, Some(&before_an_upgrade), 1, "second");
    let recorded = applied(&recorded, Reason::Changed);
    assert_eq!(secret::installation(&recorded), Some("tenure/a"));
}
