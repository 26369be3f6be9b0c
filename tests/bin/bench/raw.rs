//! Calls that the library is compared with, over a connection like the client's: a script that does nothing, the lock that users write
//! by hand (SET NX, and a script that compares and deletes), and the library's own two scripts without the library.

use std::{sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, aio::MultiplexedConnection};
use tenure_tests::{Redis, Result};

const ACQUIRE: &str = include_str!("../../../lua/dist/acquire.lua");
const RELEASE: &str = include_str!("../../../lua/dist/release.lua");
pub(crate) const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

#[derive(Clone)]
pub(crate) struct Raw {
    connection: MultiplexedConnection,
    nothing: Arc<str>,
    compare_and_delete: Arc<str>,
    acquire: Arc<str>,
    release: Arc<str>,
}

impl Raw {
    pub(crate) async fn connect(redis: &Redis) -> Result<Self> {
        let info = redis.url().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let timeout = Some(Duration::from_secs(3));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(timeout)
            .set_response_timeout(timeout)
            .set_push_sender(|_| Ok::<(), redis::aio::SendError>(()));
        let connection = Client::open(info.set_redis_settings(settings))?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let load = async |text: &str| -> Result<Arc<str>> {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(text);
            let hash: String = load.query_async(&mut connection.clone()).await?;
            Ok(hash.into())
        };
        Ok(Self {
            nothing: load("return 1").await?,
            compare_and_delete: load(COMPARE_AND_DELETE).await?,
            acquire: load(ACQUIRE).await?,
            release: load(RELEASE).await?,
            connection,
        })
    }

    pub(crate) async fn round_trip(&self) -> Result {
        self.call(&self.nothing, "x", &[]).await
    }

    /// Makes as many round trips as an acquire and a release.
    pub(crate) async fn pair(&self) -> Result {
        self.round_trip().await?;
        self.round_trip().await
    }

    /// The lock that users write by hand.
    pub(crate) async fn set_nx_pair(&self, name: &str) -> Result {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let mut set = redis::cmd("SET");
        set.arg(name).arg(&token).arg("NX").arg("PX").arg(30_000);
        let reply = self.connection.clone().send_packed_command(&set).await?;
        reply.extract_error()?;
        self.call(&self.compare_and_delete, name, &[&token]).await
    }

    /// The scripts of acquire and release, on keys of no other use.
    pub(crate) async fn script_pair(&self, name: &str) -> Result {
        self.pair_of(&self.acquire, &self.release, name).await
    }

    async fn pair_of(&self, acquire: &str, release: &str, name: &str) -> Result {
        let key = format!("tenure:{{bench/lock/{name}}}:obj");
        let token = uuid::Uuid::new_v4().simple().to_string();
        let version_and_run = format!("2 {}", "0".repeat(40));
        let request =
            format!(r#"30000 1 1 10000 {token} {{"namespace":"default","process":"some-host/12345"}}"#);
        let wanted = [&*version_and_run, &token, &request];
        self.call(acquire, &key, &wanted).await?;
        self.call(release, &key, &[&version_and_run, &token]).await
    }

    async fn call(&self, hash: &str, key: &str, args: &[&str]) -> Result {
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash).arg(1).arg(key).arg(args);
        let reply = self.connection.clone().send_packed_command(&command).await?;
        reply.extract_error()?;
        Ok(())
    }
}
