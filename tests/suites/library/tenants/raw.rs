//! Commands and scripts without the library, as a user of another namespace.

use redis::aio::MultiplexedConnection;
use tenure::control::acl;
use tenure_tests::{Context, Result, bail, ensure};

use super::{SCRIPTS, Tenants, is_denied, key, loaded};

/// The commands that a user may have, on a key, with another key that is the user's own.
pub(crate) fn on_key<'a>(key: &'a str, own: &'a str) -> Vec<Vec<&'a str>> {
    let with = |words: &'a str| -> Vec<&'a str> {
        let words = words.split(' ');
        words
            .map(|word| match word {
                "KEY" => key,
                "OWN" => own,
                word => word,
            })
            .collect()
    };
    let commands = "GET KEY,MGET KEY,MGET OWN KEY,SET KEY v,GETDEL KEY,APPEND KEY v,HGET KEY f,HMGET KEY f,HSET KEY f v,HDEL KEY f,\
        HLEN KEY,HKEYS KEY,HGETALL KEY,HEXISTS KEY f,HSCAN KEY 0,ZADD KEY 1 m,ZREM KEY m,ZSCORE KEY m,ZRANGE KEY 0 -1,ZCARD KEY,ZCOUNT KEY 0 1,\
        ZRANK KEY m,ZPOPMIN KEY,ZPOPMAX KEY,ZRANDMEMBER KEY,EXISTS KEY,EXISTS OWN KEY,PERSIST KEY,PEXPIRE KEY 1,PEXPIREAT KEY 1,\
        PEXPIRETIME KEY,PTTL KEY,RENAME KEY OWN,RENAME OWN KEY,UNLINK KEY,UNLINK OWN KEY,DEL KEY,DUMP KEY,TYPE KEY,\
        COPY KEY OWN,OBJECT ENCODING KEY,SORT OWN BY KEY GET KEY,WATCH KEY";
    commands.split(',').map(|command| with(command.trim())).collect()
}

/// Of the server, and of all namespaces. A tenant has none of them.
pub(crate) const SERVER: &str = "KEYS *,SCAN 0,RANDOMKEY,DBSIZE,FLUSHALL,FLUSHDB,SWAPDB 0 1,SELECT 1,MULTI,PING,ECHO x,EVAL return 0,\
    EVAL_RO return 0,FUNCTION LIST,FUNCTION FLUSH,FCALL f 0,SCRIPT FLUSH,SCRIPT KILL,SCRIPT EXISTS x,CONFIG GET *,CONFIG SET save x,\
    ACL LIST,ACL WHOAMI,ACL SETUSER a allkeys,ACL LOG,CLIENT LIST,CLIENT ID,CLIENT KILL ID 1,CLIENT PAUSE 1,CLIENT NO-EVICT on,\
    MONITOR,SAVE,BGSAVE,LASTSAVE,SHUTDOWN NOSAVE,REPLICAOF NO ONE,PSYNC x 1,ROLE,PUBSUB CHANNELS,SLOWLOG GET,\
    LATENCY LATEST,MEMORY STATS,MODULE LIST,COMMAND COUNT,PSUBSCRIBE *,SSUBSCRIBE x,SPUBLISH x y";

async fn send(connection: &mut MultiplexedConnection, command: &[&str]) -> redis::RedisResult<redis::Value> {
    redis::cmd(command[0])
        .arg(&command[1..])
        .query_async(connection)
        .await
}

/// Checks that Redis refuses a command because of the user's rights.
pub(crate) async fn check_denied(connection: &mut MultiplexedConnection, command: &[&str]) -> Result {
    match send(connection, command).await {
        Err(error) if is_denied(&error.to_string()) => Ok(()),
        other => bail!("{command:?}: {other:?}"),
    }
}

#[tokio::test]
async fn no_command_and_no_script_reaches_a_key_or_a_channel_of_another_namespace() -> Result {
    let tenants = Tenants::start().await?;
    tenants.fill_b().await?;
    let before = tenants.data_of_b().await?;
    // Five keys of the lock, four of the read-write lock and of the semaphore, seven of the pool, two of the register.
    ensure!(before.len() == 22, "not all keys are there: {:?}", before.keys());
    let (mut a, mut loads) = (tenants.raw("a").await?, tenants.raw("a").await?);
    let mut denied = async |command: &[&str]| check_denied(&mut a, command).await;
    let own = key(&tenants.a, "lock/x", "obj");

    // Of what the user has, everything that takes a key is tried.
    let tried = on_key("k", "o");
    for rule in acl::tenant_rules("tenure", &tenants.a.namespace)? {
        let Some(command) = rule.strip_prefix('+') else {
            continue;
        };
        let is_tried = tried.iter().any(|words| words[0].eq_ignore_ascii_case(command));
        let takes_no_key = [
            "info",
            "subscribe",
            "publish",
            "time",
            "evalsha",
            "script|load",
            "wait",
        ];
        ensure!(
            is_tried || takes_no_key.contains(&command),
            "{command} is not tried"
        );
    }
    for key in before.keys() {
        for command in on_key(key, &own) {
            denied(&command).await?;
        }
    }
    for command in SERVER.split(',') {
        let words: Vec<&str> = command.split_whitespace().collect();
        denied(&words).await?;
    }
    let client = key(&tenants.b, "client", "");
    for channel in [
        client.trim_end_matches(':').replace('}', "/1}"),
        format!("tenure:{{{}/events}}", tenants.b.namespace),
        "tenure:client:1".to_owned(),
        "other".to_owned(),
    ] {
        denied(&["SUBSCRIBE", &channel]).await?;
        denied(&["PUBLISH", &channel, "x"]).await?;
        let publish = format!("return redis.call('PUBLISH', '{channel}', 'x')");
        denied(&["EVALSHA", &loaded(&mut loads, &publish).await?, "0"]).await?;
    }
    for pattern in ["*", "tenure:*", "tenure:{*/events}", "tenure:{*"] {
        denied(&["PSUBSCRIBE", pattern]).await?;
    }

    // The scripts, and scripts of the user's own, which may hide the key.
    let run = format!("2 {}", tenants.redis.info("run_id").await?);
    for (name, text) in SCRIPTS {
        let hash = loaded(&mut loads, text).await?;
        for key in before.keys() {
            denied(&["EVALSHA", &hash, "1", key, &run, "l1", "owner"])
                .await
                .context(*name)?;
            denied(&["EVALSHA", &hash, "2", &own, key, &run, "l1", "l1"]).await?;
        }
    }
    let any = loaded(&mut loads, "return redis.call(unpack(ARGV))").await?;
    for key in before.keys() {
        for command in on_key(key, &own) {
            if ["WATCH", "SORT"].contains(&command[0]) {
                continue; // a script cannot call them with any rights
            }
            let words = [&["EVALSHA", &any, "0"][..], &command].concat();
            denied(&words).await?;
        }
    }
    ensure!(
        before == tenants.data_of_b().await?,
        "the data of the other namespace has changed"
    );
    Ok(())
}
