//! The users of namespaces that a controller makes on each server, by [`Control::set_tenant`].

use tenure::{
    Control, Error,
    control::{ServerTenants, acl},
};
use tenure_tests::{Cluster, Redis, Result, Sentinel, bail, ensure, eventually, unique};

use super::{super::support::SOON, Tenants};

/// The SHA-256 of `secret`.
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const NAMESPACE: &str = "team-a";

/// A controller with a key prefix of the test's own, and that prefix.
async fn controller(url: &str) -> Result<(Control, String)> {
    let prefix = unique("users");
    let client = tenure::Client::builder(url).key_prefix(&prefix).connect().await?;
    Ok((client.control(), prefix))
}

/// Checks that a user can authenticate at a server, or cannot.
async fn authenticates(server: &Redis, user: &str, expected: bool) -> Result {
    let mut connection = server.connection().await?;
    let mut auth = redis::cmd("AUTH");
    let answer = auth.arg(user).arg("secret").exec_async(&mut connection).await;
    ensure!(answer.is_ok() == expected, "port {}: {answer:?}", server.port());
    Ok(())
}

/// Makes, reads and removes a user; `servers` are all that have to have it.
async fn every_server_has_it(url: &str, servers: &[&Redis]) -> Result {
    let (control, prefix) = controller(url).await?;
    let user = acl::tenant_user(&prefix, NAMESPACE)?;
    // Each node of a new cluster knows the replicas soon, not at once.
    eventually("each server to have it", SOON, async || {
        control.set_tenant(NAMESPACE, [HASH]).await?;
        let seen = control.tenants().await?;
        ensure!(seen.len() == servers.len(), "{seen:?}");
        for ServerTenants { server, users, .. } in seen {
            let users = users?;
            let found = users.get(NAMESPACE);
            ensure!(
                found.is_some_and(|user| user.has_rules && user.passwords.iter().eq([HASH])),
                "{server}: {users:?}"
            );
        }
        for server in servers {
            authenticates(server, &user, true).await?;
        }
        Ok(())
    })
    .await?;
    eventually("no server to have it", SOON, async || {
        control.remove_tenant(NAMESPACE).await?;
        for ServerTenants { server, users, .. } in control.tenants().await? {
            ensure!(users?.is_empty(), "{server} still has it");
        }
        for server in servers {
            authenticates(server, &user, false).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_master_and_its_replica_have_the_user_of_a_namespace() -> Result {
    let master = Redis::start().await?;
    let replica = Redis::builder().replica_of(&master).start().await?;
    every_server_has_it(&master.url(), &[&master, &replica]).await
}

#[tokio::test]
async fn servers_behind_sentinels_have_the_user_of_a_namespace() -> Result {
    let sentinel = Sentinel::shared().await?;
    every_server_has_it(&sentinel.url(), &[sentinel.server(0), sentinel.server(1)]).await
}

#[tokio::test]
async fn masters_and_replicas_of_a_cluster_have_the_user_of_a_namespace() -> Result {
    let cluster = Cluster::shared().await?;
    let nodes: Vec<&Redis> = cluster.nodes().iter().collect();
    every_server_has_it(&cluster.url(), &nodes).await
}

#[tokio::test]
async fn a_changed_user_is_told_from_a_whole_one() -> Result {
    let redis = Redis::start().await?;
    let (control, prefix) = controller(&redis.url()).await?;
    let user = acl::tenant_user(&prefix, NAMESPACE)?;
    control.set_tenant(NAMESPACE, [HASH]).await?;
    let has_rules = async || -> Result<bool> {
        let seen = control.tenants().await?.swap_remove(0);
        Ok(seen.users?.get(NAMESPACE).is_some_and(|user| user.has_rules))
    };
    for change in [
        "+keys",
        "-hget",
        "off",
        "nopass",
        "allkeys",
        "allchannels",
        "(~x +get)",
    ] {
        redis.cli(&["ACL", "SETUSER", &user, change]).await?;
        ensure!(!has_rules().await?, "{change} is not seen");
        control.set_tenant(NAMESPACE, [HASH]).await?;
        ensure!(has_rules().await?, "{change} stays");
    }
    for bad in ["", "secret", &HASH.to_uppercase(), &HASH[1..]] {
        let error = control.set_tenant(NAMESPACE, [bad]).await.unwrap_err();
        ensure!(
            matches!(
                error,
                Error::InvalidInput {
                    field: "passwords",
                    ..
                }
            ),
            "{error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_rules_of_access_suffice_and_each_of_them_is_needed() -> Result {
    let tenants = Tenants::start().await?;
    let rules = [acl::controller_rules("tenure")?, acl::access_rules()].concat();
    let run = async || -> std::result::Result<(), Error> {
        let control = tenants.client("controller", &tenants.a).await?.control();
        control.set_tenant(NAMESPACE, [HASH]).await?;
        control.tenants().await?.swap_remove(0).users?;
        control.remove_tenant(NAMESPACE).await
    };
    tenants.set_user("controller", &rules).await?;
    run().await?;
    for missing in acl::access_rules() {
        let fewer: Vec<String> = rules.iter().filter(|rule| **rule != missing).cloned().collect();
        tenants.set_user("controller", &fewer).await?;
        let Err(Error::Refused { reason }) = run().await else {
            bail!("it works without {missing}");
        };
        for named in ["NOPERM", &missing[1..], "docs/redis.md"] {
            ensure!(reason.contains(named), "{missing}: {reason}");
        }
    }
    Ok(())
}
