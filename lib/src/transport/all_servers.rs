//! Commands about the servers themselves, such as those of their users, which go to each server: masters and replicas.
//!
//! The client has a connection to each master. Replicas are known from the map of a cluster, and elsewhere from the master, and
//! are connected to by the first command that they get.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};

use crate::{
    Error,
    transport::{
        connection::{Endpoint, ServerConnection, State},
        endpoint::{self, Access},
        error_text,
        explain::explain_at,
        lock,
        redis_connection::send,
        routing_table::RoutingTable,
        unreachable,
    },
};

/// The answer of one server.
pub(crate) struct ServerAnswer {
    /// Host and port; of a master behind Sentinels, the name of their service.
    pub(crate) server: String,
    pub(crate) is_replica: bool,
    pub(crate) reply: Result<Value, Error>,
}

/// The way to all servers of a client.
pub(crate) struct AllServers {
    /// The settings for replicas; the twin has none.
    access: Option<Arc<Access>>,
    response_timeout: Duration,
    /// Connections to replicas, by their addresses.
    replicas: std::sync::Mutex<HashMap<String, MultiplexedConnection>>,
}

impl AllServers {
    pub(crate) fn new(endpoint: &Endpoint, response_timeout: Duration) -> Self {
        let access = match endpoint {
            Endpoint::At(_, access) => Some(access.clone()),
            Endpoint::Sentinels(sentinels) => Some(sentinels.access.clone()),
            Endpoint::Local(_) => None,
        };
        Self {
            access,
            response_timeout,
            replicas: std::sync::Mutex::default(),
        }
    }

    /// The number of the database in the URL.
    pub(crate) fn database(&self) -> i64 {
        self.access.as_ref().map_or(0, |access| access.database())
    }

    /// Sends a command to each server, to all at once.
    pub(crate) async fn send(
        &self,
        routes: &RoutingTable,
        command: &Cmd,
    ) -> Result<Vec<ServerAnswer>, Error> {
        let masters = routes.masters()?;
        let answers = masters.iter().map(|master| self.send_to_master(master, command));
        let (mut all, mut replicas) = (Vec::new(), Vec::new());
        for (answer, of_master) in join_all(answers).await {
            all.push(answer);
            replicas.extend(of_master);
        }
        let in_map = routes.cluster(|cluster| {
            // Replicas come and go without an error of any call.
            cluster.look_again();
            cluster.replicas().to_vec()
        });
        let mut replicas = in_map.unwrap_or(replicas);
        replicas.sort();
        replicas.dedup();
        lock(&self.replicas).retain(|address, _| replicas.contains(address));
        let answers = replicas
            .into_iter()
            .map(|address| self.send_to_replica(address, command));
        all.extend(join_all(answers).await);
        Ok(all)
    }

    /// Returns the keys of all masters that match a pattern. One command for each thousand keys that a master has.
    pub(crate) async fn scan(&self, routes: &RoutingTable, pattern: &str) -> Result<Vec<String>, Error> {
        let mut keys = Vec::new();
        for master in routes.masters()? {
            let session = match master.state() {
                State::Up(session) => session,
                State::Down { error } => return Err(error),
            };
            let mut cursor = "0".to_owned();
            loop {
                let mut command = redis::cmd("SCAN");
                command
                    .arg(&cursor)
                    .arg("MATCH")
                    .arg(pattern)
                    .arg("COUNT")
                    .arg(1000);
                let page = session.ask::<(String, Vec<Vec<u8>>)>(&command).await;
                let (next, page) = page.map_err(|error| explain(&master.address, &error))?;
                keys.extend(page.iter().map(|key| String::from_utf8_lossy(key).into_owned()));
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(keys)
    }

    /// Returns the answer of a master, and the addresses of its replicas.
    async fn send_to_master(&self, master: &ServerConnection, command: &Cmd) -> (ServerAnswer, Vec<String>) {
        let answer = |reply| ServerAnswer {
            server: master.address.clone(),
            is_replica: false,
            reply,
        };
        let session = match master.state() {
            State::Up(session) => session,
            State::Down { error } => return (answer(Err(error)), Vec::new()),
        };
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let replicas = session.ask::<String>(&info).await;
        let reply = session.ask::<Value>(command).await;
        (
            answer(reply.map_err(|error| explain(&master.address, &error))),
            replicas.map_or_else(|_| Vec::new(), |text| replicas_in(&text)),
        )
    }

    async fn send_to_replica(&self, server: String, command: &Cmd) -> ServerAnswer {
        let reply = async {
            let known = lock(&self.replicas).get(&server).cloned();
            let mut connection = match known {
                Some(connection) => connection,
                None => self.connect(&server).await?,
            };
            let reply = send(&mut connection, command, false).await;
            if reply.as_ref().is_err_and(|error| error.code().is_none()) {
                lock(&self.replicas).remove(&server);
            }
            reply.map_err(|error| explain(&server, &error))
        };
        ServerAnswer {
            reply: reply.await,
            server,
            is_replica: true,
        }
    }

    async fn connect(&self, address: &str) -> Result<MultiplexedConnection, Error> {
        let named = address
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (Some(access), Some((host, port))) = (&self.access, named) else {
            return Err(unreachable(address, "it is no address of a server"));
        };
        let client = access.client_at(host, port)?;
        let (client, _) = access.current(&client, self.response_timeout).await?;
        let config = access.connection(self.response_timeout);
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| explain(address, &error))?;
        lock(&self.replicas).insert(address.to_owned(), connection.clone());
        Ok(connection)
    }
}

/// An error reply is a refusal: the server does answer.
fn explain(address: &str, error: &RedisError) -> Error {
    match explain_at(address.to_owned(), None, error) {
        Error::Refused { reason } => Error::Refused {
            reason: format!("{address}: {reason}"),
        },
        Error::Unreachable { .. } if error.code().is_some() => Error::Refused {
            reason: format!("{address}: {}", error_text(error)),
        },
        other => other,
    }
}

/// The addresses in the section `replication` of `INFO`, such as `slave0:ip=10.0.0.7,port=6379,state=online,...`.
fn replicas_in(info: &str) -> Vec<String> {
    let replica = |line: &str| {
        let (name, fields) = line.trim_end().split_once(':')?;
        let number = name.strip_prefix("slave")?;
        number.parse::<u32>().ok()?;
        let field = |name| {
            fields
                .split(',')
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        Some(endpoint::join(field("ip")?, field("port")?.parse().ok()?))
    };
    info.lines().filter_map(replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_those_that_the_master_names() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=10.0.0.7,port=6379,state=online,offset=3,lag=1\r\nslave_repl_offset:0\r\n\
                    slave1:ip=fd00::7,port=6380,state=wait_bgsave,offset=0,lag=0\r\nslave2:ip=x\r\n";
        assert_eq!(replicas_in(info), ["10.0.0.7:6379", "fd00::7:6380"]);
    }
}
