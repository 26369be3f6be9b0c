//! Registers. R9 to R11 are what redis-allocator's conditional operations do; the module's head in `lib/src/register.rs`
//! describes Tenure's behaviour.

use std::{cmp::Ordering, time::Duration};

use tenure::{Client, Compare, Error, Expiry, Kind, Options, Outcome, Register, RegisterValue};
use tenure_tests::{Redis, Result, ensure, eventually};

use super::cutter::Cutter;
use super::support::{SOON, World, got, on_both, scripts_called};

type Make = fn(RegisterValue) -> Compare;

/// Each condition, and for which orders of argument to stored value it holds.
const CONDITIONS: [(&str, Make, &[Ordering]); 6] = [
    ("gt", Compare::gt, &[Ordering::Greater]),
    ("lt", Compare::lt, &[Ordering::Less]),
    ("ge", Compare::ge, &[Ordering::Greater, Ordering::Equal]),
    ("le", Compare::le, &[Ordering::Less, Ordering::Equal]),
    ("eq", Compare::eq, &[Ordering::Equal]),
    ("ne", Compare::ne, &[Ordering::Less, Ordering::Greater]),
];

async fn register(world: &World) -> Result<Register> {
    Ok(world.client().await?.register("x")?)
}

fn kept(stored: impl Into<RegisterValue>) -> Outcome {
    Outcome::Kept {
        stored: Some(stored.into()),
    }
}

const NOTHING: Outcome = Outcome::Kept { stored: None };

async fn a_set_value_is_read_back_and_deleted_once(world: World) -> Result {
    let x = register(&world).await?;
    assert_eq!(x.get().await?, None);
    assert!(!x.delete().await?);
    for value in [
        RegisterValue::Int(i64::MIN),
        RegisterValue::Float(0.1),
        RegisterValue::Float(f64::INFINITY),
        RegisterValue::from("a text\nwith lines, Grüße and \0"),
        RegisterValue::from(""),
    ] {
        x.set(value.clone()).await?;
        assert_eq!(x.get_with_expiry().await?, Some((value, None)));
    }
    assert!(x.delete().await?);
    assert!(!x.delete().await?);
    assert_eq!(x.get().await?, None);
    Ok(())
}

async fn r9_every_condition_compares_the_argument_with_the_stored_value(world: World) -> Result {
    let x = register(&world).await?;
    for (name, condition, holds) in CONDITIONS {
        for argument in [49, 50, 51] {
            let holds = holds.contains(&argument.cmp(&50));
            let case = format!("{argument} {name} 50");
            let of = || condition(RegisterValue::Int(argument));
            x.set(50).await?;
            // The written value need not be the compared one; zero is as good as any.
            let outcome = x.set_if(of(), 0).await?;
            assert_eq!(
                outcome,
                if holds { Outcome::Applied } else { kept(50) },
                "set_if {case}"
            );
            assert_eq!(
                x.get().await?,
                Some(RegisterValue::Int(if holds { 0 } else { 50 })),
                "{case}"
            );
            x.set(50).await?;
            let outcome = x.delete_if(of()).await?;
            assert_eq!(
                outcome,
                if holds { Outcome::Applied } else { kept(50) },
                "delete_if {case}"
            );
            assert_eq!(x.get().await?.is_none(), holds, "{case}");
        }
    }
    Ok(())
}

async fn r9_a_missing_value_meets_no_condition_unless_requested(world: World) -> Result {
    let x = register(&world).await?;
    for (name, condition, _) in CONDITIONS {
        let of = || condition(RegisterValue::Int(5));
        assert_eq!(x.set_if(of(), 5).await?, NOTHING, "{name}");
        assert_eq!(x.delete_if(of()).await?, NOTHING, "{name}");
        assert_eq!(x.delete_if(of().or_missing()).await?, NOTHING, "{name}");
        assert_eq!(x.set_if(of().or_missing(), 7).await?, Outcome::Applied, "{name}");
        assert_eq!(x.get().await?, Some(RegisterValue::Int(7)), "{name}");
        assert!(x.delete().await?, "{name}");
    }
    assert_eq!(x.delete_if(Compare::missing()).await?, NOTHING);
    assert_eq!(x.set_if(Compare::missing(), 1).await?, Outcome::Applied);
    assert_eq!(x.set_if(Compare::missing(), 2).await?, kept(1));
    assert_eq!(x.delete_if(Compare::missing()).await?, kept(1));
    Ok(())
}

async fn r9_texts_are_equal_or_not_and_have_no_order(world: World) -> Result {
    let x = register(&world).await?;
    let values = [
        RegisterValue::from("5"),
        RegisterValue::from("six"),
        RegisterValue::Int(5),
    ];
    for stored in &values {
        for argument in &values {
            if matches!((stored, argument), (RegisterValue::Int(_), RegisterValue::Int(_))) {
                continue;
            }
            for (name, condition, _) in CONDITIONS {
                x.set(stored.clone()).await?;
                let holds = match name {
                    "eq" => argument == stored,
                    "ne" => argument != stored,
                    _ => false,
                };
                let outcome = x.set_if(condition(argument.clone()), "new").await?;
                let expected = if holds {
                    Outcome::Applied
                } else {
                    kept(stored.clone())
                };
                assert_eq!(outcome, expected, "{argument:?} {name} {stored:?}");
            }
        }
    }
    Ok(())
}

async fn r10_equality_is_exact(world: World) -> Result {
    let x = register(&world).await?;
    x.set(0.3).await?;
    let nearly = 0.1 + 0.2; // 0.30000000000000004
    assert_eq!(x.set_if(Compare::eq(nearly), 1).await?, kept(0.3));
    assert_eq!(x.set_if(Compare::le(nearly), 1).await?, kept(0.3));
    assert_eq!(x.set_if(Compare::gt(nearly), 0.3).await?, Outcome::Applied);
    assert_eq!(x.set_if(Compare::ne(nearly), 0.3).await?, Outcome::Applied);
    x.set(-0.0).await?;
    assert_eq!(x.set_if(Compare::eq(0), 1).await?, Outcome::Applied);
    Ok(())
}

async fn r10_nan_is_refused_with_the_fields_name(world: World) -> Result {
    let x = register(&world).await?;
    let refused = [
        ("value", x.set(f64::NAN).await.unwrap_err()),
        (
            "value",
            x.set_if(Compare::eq(1).or_missing(), f64::NAN).await.unwrap_err(),
        ),
        (
            "argument",
            x.set_if(Compare::gt(f64::NAN).or_missing(), 1).await.unwrap_err(),
        ),
        ("argument", x.delete_if(Compare::eq(f64::NAN)).await.unwrap_err()),
        (
            "expiry",
            x.clone()
                .with(Expiry::After(Duration::ZERO))
                .set(1)
                .await
                .unwrap_err(),
        ),
        ("fencing_token", x.advance(u64::MAX).await.unwrap_err()),
    ];
    for (field, error) in refused {
        assert!(error.to_string().starts_with(field), "{error}");
    }
    assert_eq!(x.get().await?, None);
    Ok(())
}

/// Comparison of an integer with a floating-point number, in exact arithmetic.
fn exact(int: i64, float: f64) -> Ordering {
    if float.abs() > 1e30 {
        return 0.0_f64.total_cmp(&float);
    }
    #[allow(clippy::cast_possible_truncation)] // it is whole, and below 2^127
    let whole = float.floor() as i128;
    i128::from(int).cmp(&whole).then(if float.fract() == 0.0 {
        Ordering::Equal
    } else {
        Ordering::Less
    })
}

async fn r11_numbers_are_exact(world: World) -> Result {
    let x = register(&world).await?;
    let ints = [
        0,
        1,
        -1,
        9_007_199_254_740_991,
        9_007_199_254_740_992,
        9_007_199_254_740_993, // no double
        -9_007_199_254_740_993,
        9_999_999_999_999_999,
        10_000_000_000_000_000,
        123_456_789_012_345_678,
        123_456_789_012_345_679,
        i64::MAX - 1,
        i64::MAX,
        i64::MIN,
        i64::MIN + 1,
    ];
    let floats = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.0,
        9_007_199_254_740_991.0,
        9_007_199_254_740_992.0,
        9_007_199_254_740_994.0,
        -9_007_199_254_740_992.0,
        4_503_599_627_370_496.5,
        1e16,
        123_456_789_012_345_680.0,
        9_223_372_036_854_775_808.0, // 2^63
        -9_223_372_036_854_775_808.0,
        5e-324,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let ints = ints.map(RegisterValue::Int);
    let floats = floats.map(RegisterValue::Float);
    let values: Vec<_> = ints.iter().chain(&floats).cloned().collect();
    let expected = |one: &RegisterValue, other: &RegisterValue| match (one, other) {
        (RegisterValue::Int(one), RegisterValue::Int(other)) => one.cmp(other),
        (RegisterValue::Int(one), RegisterValue::Float(other)) => exact(*one, *other),
        (RegisterValue::Float(one), RegisterValue::Int(other)) => exact(*other, *one).reverse(),
        (RegisterValue::Float(one), RegisterValue::Float(other)) => one.partial_cmp(other).unwrap(),
        _ => unreachable!(),
    };
    for stored in &values {
        x.set(stored.clone()).await?;
        for argument in &values {
            for (name, condition, holds) in CONDITIONS {
                let holds = holds.contains(&expected(argument, stored));
                let outcome = x.set_if(condition(argument.clone()), stored.clone()).await?;
                let expected = if holds {
                    Outcome::Applied
                } else {
                    kept(stored.clone())
                };
                assert_eq!(outcome, expected, "{argument:?} {name} {stored:?}");
            }
        }
    }
    Ok(())
}

async fn r11_a_write_keeps_the_time_to_live_by_default(world: World) -> Result {
    let x = register(&world).await?;
    let left = async || {
        x.get_with_expiry()
            .await
            .map(|stored| stored.and_then(|(_, left)| left))
    };
    let minute = Duration::from_millis(60_500);
    let short = x.clone().with(Expiry::After(minute));
    short.set(1).await?;
    let first = got(left().await?)?;
    assert!(first <= minute && first > minute / 2, "{first:?}");
    x.set(2).await?;
    assert_eq!(x.set_if(Compare::gt(3), 3).await?, Outcome::Applied);
    x.advance(4).await?;
    let second = got(left().await?)?;
    assert!(second <= first, "{second:?} after {first:?}");
    // A write that does not apply does not change it either.
    let never = x.clone().with(Expiry::Never);
    assert_eq!(never.set_if(Compare::gt(1), 5).await?, kept(4));
    assert!(left().await?.is_some());
    // The same value again, but forever, and for a while again.
    assert_eq!(never.set_if(Compare::eq(4), 4).await?, Outcome::Applied);
    assert_eq!(left().await?, None);
    short.set(4).await?;
    assert!(left().await?.is_some());
    // A value that is deleted takes its time with it.
    assert!(x.delete().await?);
    x.set(5).await?;
    assert_eq!(left().await?, None);
    // Milliseconds count.
    x.clone()
        .with(Expiry::After(Duration::from_millis(30)))
        .set(6)
        .await?;
    eventually("the value to be gone", SOON, async || {
        ensure!(x.get().await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    assert_eq!(x.set_if(Compare::missing(), 7).await?, Outcome::Applied);
    Ok(())
}

async fn a_fence_refuses_a_holder_whose_lease_is_lost(world: World) -> Result {
    let (one, other) = (world.client().await?, world.client().await?);
    let options = Options::new().max_hold(Duration::from_millis(300));
    let stale = one
        .lock("ledger")?
        .with(options.lease(Duration::from_millis(300)))
        .acquire()
        .await?;
    let fence = one.register("ledger-fence")?;
    fence.advance(stale.fencing_token()).await?;
    fence.advance(stale.fencing_token()).await?;
    let next = got(other.lock("ledger")?.acquire_timeout(SOON).await?)?;
    other
        .register("ledger-fence")?
        .advance(next.fencing_token())
        .await?;
    match fence.advance(stale.fencing_token()).await.unwrap_err() {
        Error::Fenced {
            object,
            token,
            newest,
        } => {
            assert_eq!(object, world.object(Kind::Register, "ledger-fence")?);
            assert_eq!((token, newest), (stale.fencing_token(), next.fencing_token()));
        }
        other => panic!("{other}"),
    }
    fence.advance(next.fencing_token()).await?;
    fence.set("no token").await?;
    let error = fence.advance(1).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { reason } if reason.contains("no token")),
        "{error}"
    );
    Ok(())
}

async fn concurrent_counts_and_comparisons_are_exact(world: World) -> Result {
    let mut tasks = Vec::new();
    for id in 0..4 {
        let client = world.client().await?;
        tasks.push(tokio::spawn(async move {
            let (count, largest) = (client.register("count")?, client.register("largest")?);
            for round in 0_i64..25 {
                let seen = (round * 7 + id * 31) % 97;
                let _ = largest.set_if(Compare::gt(seen).or_missing(), seen).await?;
                loop {
                    let outcome = match count.get().await? {
                        Some(RegisterValue::Int(n)) => count.set_if(Compare::eq(n), n + 1).await?,
                        _ => count.set_if(Compare::missing(), 1).await?,
                    };
                    if outcome.is_applied() {
                        break;
                    }
                }
            }
            Ok::<_, Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let client = world.client().await?;
    let largest = (0..4)
        .flat_map(|id| (0..25).map(move |round| (round * 7 + id * 31) % 97))
        .max();
    assert_eq!(
        client.register("count")?.get().await?,
        Some(RegisterValue::Int(100))
    );
    assert_eq!(
        client.register("largest")?.get().await?,
        largest.map(RegisterValue::Int)
    );
    Ok(())
}

#[tokio::test]
async fn every_operation_is_one_command_and_leaves_nothing_but_the_value() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "register-cost");
    let client = Client::builder(world.url()?)
        .namespace(&world.namespace)
        .response_timeout(Duration::from_millis(500))
        .connect()
        .await?;
    let x = client.register("x")?;
    x.get().await?; // loads the script
    let before = scripts_called(&redis).await?;
    x.get().await?;
    x.set(1).await?;
    let _ = x.set_if(Compare::eq(1), 2).await?;
    let _ = x.set_if(Compare::eq(1), 2).await?;
    let _ = x.delete_if(Compare::eq(1)).await?;
    x.advance(5).await?;
    x.delete().await?;
    assert_eq!(scripts_called(&redis).await? - before, 7);
    // A write is remembered for 10 s and two timeouts, with an end from the start.
    let done = format!("tenure:{{{}}}:done", x.object());
    assert_eq!(redis.cli(&["KEYS", "*"]).await?.trim(), done);
    let left: i64 = redis.cli(&["PTTL", &done]).await?.trim().parse()?;
    assert!((1..=11_000).contains(&left), "{left}");
    // Written, written, raised, deleted; what did not apply is not remembered, nor are the same value and the same token.
    assert_eq!(redis.cli(&["ZCARD", &done]).await?.trim(), "4");
    x.advance(9).await?;
    x.advance(9).await?;
    assert_eq!(redis.cli(&["ZCARD", &done]).await?.trim(), "5");
    // Old entries are removed at the next write, though the key stays.
    redis.cli(&["ZADD", &done, "1", "an-old-token"]).await?;
    x.set(1).await?;
    assert_eq!(redis.cli(&["ZCARD", &done]).await?.trim(), "6");
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_not_a_register_is_refused() -> Result {
    let redis = Redis::start().await?;
    let world = World::on(&redis, "foreign");
    let client = world.client().await?;
    let x = client.register("x")?;
    let key = format!("tenure:{{{}}}:value", x.object());
    redis.cli(&["SADD", &key, "a"]).await?;
    let error = x.set(1).await.unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { reason, .. } if reason.contains(&key) && reason.contains("redis-cli")),
        "{error}"
    );
    redis.cli(&["SET", &key, "5"]).await?;
    let error = x.get().await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    // It compares with nothing, and can be written over.
    assert_eq!(x.set_if(Compare::ne(5), 1).await?, Outcome::Applied);

    let error = client.control().look(x.object(), 1).await.unwrap_err();
    assert!(error.to_string().starts_with("object "), "{error}");
    Ok(())
}

#[tokio::test]
async fn without_memory_nothing_is_written_but_reading_and_deleting_go_on() -> Result {
    let redis = Redis::start().await?;
    let x = World::on(&redis, "no-memory").client().await?.register("x")?;
    x.set(1).await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    let error = x.set(2).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { reason } if reason.contains("OOM")),
        "{error}"
    );
    assert_eq!(x.get().await?, Some(RegisterValue::Int(1)));
    assert!(x.delete().await?);
    assert_eq!(x.get().await?, None);
    Ok(())
}

#[tokio::test]
async fn an_outage_is_reported() -> Result {
    let mut redis = Redis::start().await?;
    let client = Client::builder(redis.url())
        .response_timeout(Duration::from_millis(300))
        .connect()
        .await?;
    let x = client.register("x")?;
    redis.kill9()?;
    assert!(x.get().await.unwrap_err().is_unreachable());
    assert!(x.set(1).await.unwrap_err().is_unreachable());
    assert!(x.set_if(Compare::eq(1), 2).await.unwrap_err().is_unreachable());
    Ok(())
}

#[tokio::test]
async fn a_repeat_after_a_lost_reply_returns_the_first_result_and_changes_nothing() -> Result {
    let redis = Redis::start().await?;
    let cutter = Cutter::start(&redis).await?;
    let world = World::on(&redis, "repeat");
    let there = world.client().await?.register("x")?;
    let client = Client::builder(&cutter.url)
        .namespace(&world.namespace)
        .response_timeout(SOON)
        .connect()
        .await?;
    let here = client.register("x")?;
    here.get().await?; // loads the script

    // Another client writes between the first and its repeat.
    let found = async |expected: Option<RegisterValue>| {
        let found = there.get().await?;
        ensure!(found == expected, "{found:?} in place of {expected:?}");
        there.set("theirs").await?;
        Ok(())
    };
    there.set("old").await?;
    let set_if = here.set_if(Compare::eq("old"), "new");
    let outcome = cutter
        .lose_reply_of(set_if, async || found(Some("new".into())).await)
        .await?;
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(there.get().await?, Some("theirs".into()));

    cutter
        .lose_reply_of(here.set("mine"), async || found(Some("mine".into())).await)
        .await?;
    assert_eq!(there.get().await?, Some("theirs".into()));

    let existed = cutter
        .lose_reply_of(here.delete(), async || found(None).await)
        .await?;
    assert!(existed);
    assert_eq!(there.get().await?, Some("theirs".into()));

    let delete_if = here.delete_if(Compare::eq("theirs"));
    let outcome = cutter
        .lose_reply_of(delete_if, async || found(None).await)
        .await?;
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(there.get().await?, Some("theirs".into()));

    // Alone, too: the value that the first wrote does not meet the condition any more.
    let set_if = here.set_if(Compare::eq("theirs"), "new");
    assert_eq!(
        cutter.lose_reply_of(set_if, async || Ok(())).await?,
        Outcome::Applied
    );

    // A token that passed has passed; one that did not is looked at again.
    there.delete().await?;
    there.advance(5).await?;
    cutter
        .lose_reply_of(here.advance(7), async || Ok(there.advance(9).await?))
        .await?;
    assert_eq!(there.get().await?, Some(RegisterValue::Int(9)));
    let refused = cutter
        .lose_reply_of(here.advance(8), async || Ok(there.advance(11).await?))
        .await
        .unwrap_err()
        .downcast()?;
    assert!(
        matches!(
            refused,
            Error::Fenced {
                token: 8,
                newest: 11,
                ..
            }
        ),
        "{refused}"
    );

    // A write that did not apply reads again: its answer is one of its own time.
    let set_if = here.set_if(Compare::eq(0), 1);
    let outcome = cutter
        .lose_reply_of(set_if, async || Ok(there.set(0).await?))
        .await?;
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(there.get().await?, Some(RegisterValue::Int(1)));
    Ok(())
}

on_both! {
    a_fence_refuses_a_holder_whose_lease_is_lost,
    concurrent_counts_and_comparisons_are_exact,
    a_set_value_is_read_back_and_deleted_once,
    r9_every_condition_compares_the_argument_with_the_stored_value,
    r9_a_missing_value_meets_no_condition_unless_requested,
    r9_texts_are_equal_or_not_and_have_no_order,
    r10_equality_is_exact,
    r10_nan_is_refused_with_the_fields_name,
    r11_numbers_are_exact,
    r11_a_write_keeps_the_time_to_live_by_default,
}
