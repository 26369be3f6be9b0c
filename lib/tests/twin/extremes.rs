//! Every parameter of every public function with the extremes of its type: the outcome is a value, or an error that names
//! what is wrong and how to mend it. Nothing panics, hangs, is cut silently, or fails with a raw script error.

mod functions;

use std::{any::Any, fmt::Debug, future::Future, time::Duration};

use tenure::{
    Client, Error, Kind, Memory,
    control::{Capacity, Declaration, Order, Resource},
};

use super::{Result, client, declare_semaphore, object, semaphore};

/// Initial state of every attempt: a semaphore of 3 permits, a pool of 2 resources, and no other client.
#[derive(Clone)]
struct World {
    memory: Memory,
    client: Client,
}

impl World {
    async fn new() -> Result<Self> {
        let memory = Memory::seeded(1);
        let client = client(&memory, "a").await?;
        declare_semaphore(&client, "s", 3).await?;
        let pool = Declaration {
            capacity: Capacity::Resources {
                order: Order::LeastRecentlyUsed,
                resources: ["m", "n"]
                    .map(|name| Resource::new(name).property("zone", "b"))
                    .into(),
            },
            ..semaphore(1)
        };
        client.control().declare(&object(Kind::Pool, "p")?, &pool).await?;
        Ok(Self { memory, client })
    }
}

/// Timeout for calls that must end.
const LONG: Duration = Duration::from_secs(3600);
/// An error with a mebibyte of input is useless.
const LONGEST_TEXT: usize = 1000;

/// The beginning, on one line.
fn shown(value: &impl Debug) -> String {
    format!("{value:?}").chars().take(60).collect()
}

/// Calls a function with each value, in a world of its own.
async fn each<T, F>(
    problems: &mut Vec<String>,
    function: &str,
    values: impl IntoIterator<Item = T>,
    act: impl Fn(World, T) -> F,
) -> Result
where
    T: Debug + Clone,
    F: Future<Output = std::result::Result<(), Error>> + Send + 'static,
{
    for value in values {
        let call = format!("{function}({})", shown(&value));
        let acting = tokio::spawn(act(World::new().await?, value));
        match tokio::time::timeout(LONG, acting).await {
            Err(_) => problems.push(format!("{call}: it hangs")),
            Ok(Err(panicked)) => problems.push(format!("{call}: {}", panic_of(panicked))),
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => problems.extend(judged(&error).map(|problem| format!("{call}: {problem}"))),
        }
    }
    Ok(())
}

fn panic_of(panicked: tokio::task::JoinError) -> String {
    let payload: Box<dyn Any + Send> = match panicked.try_into_panic() {
        Ok(payload) => payload,
        Err(error) => return error.to_string(),
    };
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    format!("it panics: {}", text.unwrap_or("with no text"))
}

/// Problem of an error as a reaction to extreme input.
fn judged(error: &Error) -> Option<String> {
    let text = error.to_string();
    if text.len() > LONGEST_TEXT {
        return Some(format!("its error has {} bytes: {}", text.len(), shown(&text)));
    }
    if text.chars().any(char::is_control) {
        return Some(format!("its error has control characters: {text:?}"));
    }
    match error {
        // A raw message of a script, of the server, or of this test.
        Error::Refused { .. } | Error::Protocol { .. } | Error::Damaged { .. } => Some(text),
        Error::InvalidInput { field, problem, fix } if [*field, problem, fix].contains(&"") => {
            Some(format!("its error names no field, problem or fix: {text}"))
        }
        _ => None,
    }
}

fn durations() -> Vec<Duration> {
    vec![
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        Duration::from_millis(1),
        Duration::from_secs(u64::from(u32::MAX)),
        Duration::from_millis(u64::MAX),
        Duration::from_secs(i64::MAX.unsigned_abs()),
        Duration::MAX,
    ]
}

fn texts() -> Vec<String> {
    let mut texts = [
        "",
        " ",
        "\0",
        "\n",
        "\r\n",
        "a\nb",
        "\u{1b}[31m",
        "ä",
        "\u{1f512}",
        "{",
        "}",
        "a b",
        "-",
        ",",
        "@",
        "#",
        "%",
        "\"",
        "null",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("x".repeat(1 << 20));
    texts.push("\n".repeat(1 << 20));
    texts
}

fn numbers() -> Vec<u64> {
    vec![
        0,
        1,
        u64::from(u32::MAX),
        (1 << 53) - 1,
        1 << 53,
        (1 << 53) + 1,
        i64::MAX.unsigned_abs(),
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ]
}

fn small_numbers() -> Vec<u32> {
    vec![0, 1, 2, 1000, 1 << 20, 1 << 31, u32::MAX]
}

fn floats() -> Vec<f64> {
    vec![
        0.0,
        -0.0,
        1.0,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        f64::MAX,
        f64::MIN,
        f64::EPSILON,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        9_007_199_254_740_993.0,
    ]
}
