//! Calls scripts over a connection to Redis.

use futures_util::{FutureExt, future::BoxFuture};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection};

use crate::transport::backend::{ScriptCall, ScriptConnection};

impl ScriptConnection for MultiplexedConnection {
    fn call<'a>(&'a self, call: ScriptCall<'a>) -> BoxFuture<'a, Result<Value, RedisError>> {
        let mut connection = self.clone();
        async move {
            let mut command = room_for(&call);
            command
                .arg("EVALSHA")
                .arg(call.script.hash())
                .arg(call.keys.len());
            for key in call.keys {
                command.arg(&**key);
            }
            command.arg(call.version_and_run);
            for arg in call.args {
                command.arg(&**arg);
            }
            match send(&mut connection, &command, call.asking).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    redis::cmd("SCRIPT")
                        .arg("LOAD")
                        .arg(call.script.text())
                        .exec_async(&mut connection)
                        .await?;
                    *call.sent = call.uptime.now();
                    send(&mut connection, &command, call.asking).await
                }
                result => result,
            }
        }
        .boxed()
    }

    fn time(&self) -> BoxFuture<'_, Result<(u64, u64), RedisError>> {
        let mut connection = self.clone();
        async move { redis::cmd("TIME").query_async(&mut connection).await }.boxed()
    }
}

/// A command that does not grow while its arguments are added.
fn room_for(call: &ScriptCall<'_>) -> redis::Cmd {
    const EVALSHA: usize = 7;
    const HASH: usize = 40;
    const NUMBER: usize = 20;
    let keys: usize = call.keys.iter().map(|key| key.len()).sum();
    let args: usize = call.args.iter().map(|arg| arg.len()).sum();
    let size = EVALSHA + HASH + NUMBER + keys + call.version_and_run.len() + args;
    redis::Cmd::with_capacity(4 + call.keys.len() + call.args.len(), size)
}

/// Sends a command. `asking`: to a server that is about to take the slot of its keys over.
pub(crate) async fn send(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
    asking: bool,
) -> Result<Value, RedisError> {
    if !asking {
        return connection
            .send_packed_command(command)
            .await
            .and_then(Value::extract_error);
    }
    let mut both = redis::pipe();
    both.cmd("ASKING").add_command(command.clone());
    let replies = connection.send_packed_commands(&both, 0, 2).await?;
    replies.into_iter().nth(1).unwrap_or(Value::Nil).extract_error()
}
