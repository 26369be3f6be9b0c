//! Errors for servers that refuse, and proxies that cannot: at once, with the cause, once, and without a secret. The
//! servers here are scripted, for a proxy without RESP3 cannot be had.

#![allow(clippy::unwrap_used)] // in helpers of tests, too

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tenure::{Client, ClientBuilder, Error, Kind, ObjectRef};

/// The reply to a command in upper case; none: the connection is closed.
type Script = fn(&str) -> Option<String>;

/// Serves until the test ends. Returns host and port.
fn serve(script: Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || serve_one(&stream, script));
        }
    });
    address
}

fn serve_one(stream: &TcpStream, script: Script) {
    let mut commands = BufReader::new(stream);
    while let Some(command) = command(&mut commands) {
        let Some(answer) = script(&command) else { return };
        let mut stream = stream;
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The arguments of a command, which come as an array of bulk strings.
fn command(from: &mut impl BufRead) -> Option<String> {
    let number = |from: &mut dyn BufRead| {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.trim().get(1..)?.parse::<usize>().ok()
    };
    let words = number(from)?;
    let mut command = Vec::new();
    for _ in 0..words {
        let length = number(from)?;
        let mut word = vec![0; length + 2];
        from.read_exact(&mut word).ok()?;
        command.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Some(command.join(" ").to_uppercase())
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn refusal(builder: ClientBuilder) -> (Error, Duration) {
    let started = Instant::now();
    let error = builder.connect_timeout(PATIENCE).connect().await.unwrap_err();
    (error, started.elapsed())
}

fn greets(command: &str) -> bool {
    command.starts_with("HELLO 3")
}

#[allow(clippy::unnecessary_wraps)] // answers of a script are options
fn hello() -> Option<String> {
    Some("%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_owned())
}

#[allow(clippy::unnecessary_wraps)]
fn reply(line: &str) -> Option<String> {
    Some(format!("{line}\r\n"))
}

#[allow(clippy::unnecessary_wraps)]
fn info(text: &str) -> Option<String> {
    Some(format!("${}\r\n{text}\r\n", text.len()))
}

#[tokio::test]
async fn a_proxy_without_resp3_is_named_at_once() {
    let scripts: [Script; 6] = [
        // Closes the connection at what it does not know.
        |command| if greets(command) { None } else { reply("+PONG") },
        // The same, and it asks for a password.
        |command| {
            if greets(command) {
                None
            } else {
                reply("-NOAUTH Authentication required.")
            }
        },
        |_| reply("-ERR unknown command 'HELLO'"),
        |_| reply("-ERR unknown command `HELLO`, with args beginning with: `3`, "),
        |_| reply("-ERR Hello command is not supported"),
        |_| reply("-NOPROTO unsupported protocol version"),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let (error, after) = refusal(Client::builder(format!("redis://{}", serve(script)))).await;
        assert!(
            matches!(error, Error::UnsupportedServer { .. }),
            "{number}: {error}"
        );
        assert!(
            error.to_string().contains("does not speak RESP3"),
            "{number}: {error}"
        );
        assert!(after < PATIENCE / 4, "{number}: after {after:?}");
    }
}

/// It may be about to come up.
#[tokio::test]
async fn a_server_that_closes_every_connection_is_tried_again() {
    let builder = Client::builder(format!("redis://{}", serve(|_| None)));
    let short = builder.connect_timeout(Duration::from_millis(300));
    let error = short.connect().await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_answered_in_redis_own_words_once_with_the_user() {
    let script: Script = |command| {
        if greets(command) {
            reply("-WRONGPASS invalid username-password pair or user is disabled.")
        } else {
            reply("-NOAUTH Authentication required.")
        }
    };
    for (user, shown) in [("", "default"), ("worker", "worker")] {
        let url = format!("redis://{user}:hunter2@{}", serve(script));
        let (error, after) = refusal(Client::builder(&url)).await;
        let text = error.to_string();
        assert!(matches!(error, Error::Authentication { .. }), "{text}");
        assert_eq!(text.matches("WRONGPASS").count(), 1, "{text}");
        assert!(
            text.contains("invalid username-password pair or user is disabled."),
            "{text}"
        );
        assert!(text.contains(&format!("{shown:?}")), "{text}");
        for never in ["NOAUTH", "HELLO", "hunter2"] {
            assert!(!text.contains(never), "{never}: {text}");
        }
        assert!(after < PATIENCE / 4, "after {after:?}");
    }
}

#[tokio::test]
async fn a_missing_password_is_called_missing() {
    let script: Script = |_| {
        reply(
            "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        )
    };
    let (error, _) = refusal(Client::builder(format!("redis://{}", serve(script)))).await;
    let text = error.to_string();
    assert!(text.contains("asks for a password, and none was given"), "{text}");
    assert!(!text.contains("HELLO"), "{text}");
}

#[tokio::test]
async fn a_server_without_a_run_id_is_not_called_old() {
    let script: Script = |command| match command {
        _ if greets(command) => hello(),
        _ if command.starts_with("INFO") => info("redis_version:7.0.15\r\nredis_mode:standalone\r\n"),
        _ => reply("+OK"),
    };
    let (error, _) = refusal(Client::builder(format!("redis://{}", serve(script)))).await;
    let text = error.to_string();
    assert!(text.contains("run_id") && !text.contains("or newer"), "{text}");
}

#[tokio::test]
async fn no_cause_is_said_twice() {
    let closed = serve(|_| None);
    for url in [
        format!("redis://{closed}"),
        format!("redis+sentinel://{closed},127.0.0.1:1/main"),
    ] {
        let builder = Client::builder(&url).connect_timeout(Duration::from_millis(300));
        let text = builder.connect().await.unwrap_err().to_string();
        assert_eq!(text.matches("cannot be reached").count(), 1, "{text}");
    }
    let lazy = Client::builder(format!("redis://{closed}"))
        .connect_lazily()
        .unwrap();
    if let tenure::control::Server::Disconnected { error, .. } = lazy.control().server() {
        let again = Error::Unreachable { reason: error };
        assert_eq!(
            again.to_string().matches("cannot be reached").count(),
            1,
            "{again}"
        );
    }
}

/// Nothing declares them: what no resource can mend asks for none.
#[test]
fn an_undeclared_object_is_not_applied() {
    for kind in [Kind::Lock, Kind::RwLock, Kind::Register] {
        let object = ObjectRef::new(kind, "ml", "z").unwrap();
        let text = Error::NotDeclared { object }.to_string();
        assert!(!text.contains("apply") && text.contains("first user"), "{text}");
    }
    let object = ObjectRef::new(Kind::Pool, "ml", "z").unwrap();
    let text = Error::NotDeclared { object }.to_string();
    assert!(
        text.contains("apply a LockPool named z in namespace ml"),
        "{text}"
    );
}
