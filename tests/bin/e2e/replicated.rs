//! Three pods of Redis, whose master stops and fails while the licence is held and waited for.

use std::time::{Duration, Instant};

use tenure_tests::{Context, Result, ensure, eventually};

use crate::{
    E2e, Holder, LICENCE, SOON, condition, done, holder, objects, objects::LEASE_SECONDS, say, seconds,
};

/// The names of the pods begin so.
const NODE: &str = "tenure-redis-node-";
const PODS: [&str; 3] = [
    "tenure-redis-node-0",
    "tenure-redis-node-1",
    "tenure-redis-node-2",
];
/// Kills Redis, which is not the first process of its container, a moment after the command has ended.
const KILL: &str = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" != redis-server ] || \
                    (sleep 0.3; kill -9 ${p#/proc/}) >/dev/null 2>&1 </dev/null & done";
/// A lock that is not declared, so that nothing but the files of Redis bring it back.
const LOCK: [&str; 4] = ["lock", "kept", "--lease-ms", "120000"];

impl E2e {
    pub(crate) async fn replicate(&self) -> Result {
        say("16. Install with three pods of Redis and a Sentinel in each, and test.");
        // A Job of the earlier steps that has lost its lease tries again, and would take the licence.
        self.cluster
            .kubectl(&["delete", "jobs", "--all", "--timeout=60s"])
            .await?;
        let started = Instant::now();
        if let Some(path) = &self.volume {
            for number in 0..3 {
                self.cluster.apply(&objects::volume_of_node(path, number)).await?;
            }
        }
        self.install_more(&["--set", "redis.mode=replicated"]).await?;
        done(&format!("Installed after {:.1} s.", seconds(started)));
        self.cluster.helm(&["test", "tenure"]).await?;
        self.use_kubeconfig().await?;
        ensure!(
            self.master(PODS[2]).await? == PODS[0],
            "the first pod is not the first master"
        );
        self.cluster.apply(&objects::pool()).await?;
        self.cluster.apply(&objects::job("turn-0", &LICENCE)).await?;
        let mut held = self.granted_to("turn-0").await?;

        say("17. The master fails in each way, with a holder and a waiter.");
        let stop: &[&str] = &["delete", "pod", "MASTER", "--wait=false"];
        let force: &[&str] = &["delete", "pod", "MASTER", "--force", "--grace-period=0"];
        let kill: &[&str] = &["exec", "MASTER", "-c", "redis", "--", "sh", "-c", KILL];
        for (turn, (name, command)) in (1..).zip([
            ("Its pod is deleted", stop),
            ("Its pod is deleted by force", force),
            ("Its process is killed", kill),
        ]) {
            held = self.fail(&held, turn, name, command).await?;
        }
        self.restart_all(&held).await?;
        // Without a controller, its finalizer would stay.
        self.cluster
            .kubectl(&["delete", "lockpools", "--all", "--timeout=60s"])
            .await?;
        let took = self.uninstall().await?;
        done(&format!("The release is gone after {took:.1} s."));
        Ok(())
    }

    /// Lets the master fail, and then hands over to the next holder.
    async fn fail(&self, held: &Holder, turn: u32, name: &str, command: &[&str]) -> Result<Holder> {
        let next = format!("turn-{turn}");
        self.cluster.apply(&objects::job(&next, &LICENCE)).await?;
        eventually("a waiter", SOON, async || {
            let pool = self.pool().await?;
            ensure!(pool["status"]["waiting"] == 1, "{}", pool["status"]);
            Ok(())
        })
        .await?;
        self.all_pods_ready().await?;
        let master = self.master(PODS[0]).await?;
        let witness = PODS
            .into_iter()
            .find(|pod| *pod != master)
            .context("no witness")?;
        let command: Vec<&str> = command
            .iter()
            .map(|part| if *part == "MASTER" { &*master } else { part })
            .collect();
        let failed = Instant::now();
        self.cluster.kubectl(&command).await?;
        eventually("another master", SOON, async || {
            let named = self.master(witness).await?;
            ensure!(named != master, "{named} is named");
            Ok(())
        })
        .await?;
        let named = seconds(failed);
        self.all_granting_again(failed).await?;
        done(&format!(
            "{name}: another master after {named:.1} s, all objects grant again after {:.1} s (a lease has {LEASE_SECONDS} s).",
            seconds(failed)
        ));
        self.still(held).await?;
        let log = self.cluster.kubectl(&["logs", &format!("job/{next}")]).await?;
        ensure!(!log.contains("granted"), "held by two: {log}");
        let job = held.pod.rsplit_once('-').context("no name of a Job's pod")?.0;
        self.cluster.kubectl(&["delete", "job", job]).await?;
        let after = self.granted_to(&next).await?;
        ensure!(
            after.token > held.token,
            "the fencing token did not grow: {held:?}, {after:?}"
        );
        Ok(after)
    }

    /// The addresses of all pods change, and each has its file.
    async fn restart_all(&self, held: &Holder) -> Result {
        self.cluster.apply(&objects::job("lock-kept", &LOCK)).await?;
        self.log_has("lock-kept", "granted").await?;
        self.all_pods_ready().await?;
        let failed = Instant::now();
        self.cluster
            .kubectl(&[&["delete", "pod", "--grace-period=1"], &PODS[..]].concat())
            .await?;
        self.all_pods_ready().await?;
        let ready = seconds(failed);
        self.all_granting_again(failed).await?;
        done(&format!(
            "All pods are deleted: ready after {ready:.1} s, all objects grant again after {:.1} s.",
            seconds(failed)
        ));
        let other = [&LOCK[..], &["--timeout-ms", "1000"]].concat();
        self.cluster.apply(&objects::job("lock-other", &other)).await?;
        self.log_has("lock-other", "busy").await?;
        done("A lock that is not declared is held on.");
        let job = held.pod.rsplit_once('-').context("no name of a Job's pod")?.0;
        self.cluster.kubectl(&["delete", "job", job]).await?;
        self.cluster.apply(&objects::job("turn-last", &LICENCE)).await?;
        let after = self.granted_to("turn-last").await?;
        ensure!(
            after.token > held.token,
            "the fencing token did not grow: {held:?}, {after:?}"
        );
        self.cluster.kubectl(&["delete", "jobs", "--all"]).await.map(drop)
    }

    async fn log_has(&self, job: &str, event: &str) -> Result {
        eventually(&format!("{job}: {event}"), SOON, async || {
            let log = self.cluster.kubectl(&["logs", &format!("job/{job}")]).await?;
            ensure!(log.contains(event), "{log}");
            Ok(())
        })
        .await
    }

    /// The pod that the Sentinel of this pod names.
    async fn master(&self, pod: &str) -> Result<String> {
        let ask = [
            "redis-cli",
            "-p",
            "26379",
            "sentinel",
            "get-master-addr-by-name",
            "tenure",
        ];
        let exec = [&["exec", pod, "-c", "sentinel", "--"], &ask[..]].concat();
        let answer = self.cluster.kubectl(&exec).await?;
        let name = answer.split('.').next().filter(|name| name.starts_with(NODE));
        Ok(name.with_context(|| format!("no master: {answer}"))?.to_owned())
    }

    async fn all_pods_ready(&self) -> Result {
        eventually("three pods that are ready", SOON, async || {
            let ready = "jsonpath={.status.readyReplicas}";
            let ready = self
                .cluster
                .kubectl(&["get", "statefulset", "tenure-redis-node", "-o", ready])
                .await?;
            ensure!(ready == "3", "{ready} are");
            let all = [
                &["wait", "--for=condition=Ready", "pod", "--timeout=1s"],
                &PODS[..],
            ]
            .concat();
            self.cluster.kubectl(&all).await.map(drop)
        })
        .await
    }

    /// Waits until the controllers are ready, and the pool has recovered from what happened then.
    async fn all_granting_again(&self, then: Instant) -> Result {
        let lease = Duration::from_secs(LEASE_SECONDS);
        eventually("the pool to be ready", SOON, async || {
            ensure!(then.elapsed() > lease, "a lease has not passed");
            let pool = self.pool().await?;
            let ready = condition(&pool, "Ready").context("no condition Ready")?;
            ensure!(ready["status"] == "True", "{ready}");
            let ready = self.ready_controllers().await?;
            ensure!(ready.split_whitespace().count() == 2, "{ready}");
            Ok(())
        })
        .await
    }

    async fn granted_to(&self, job: &str) -> Result<Holder> {
        eventually(&format!("{job} to hold"), SOON, async || {
            let held = holder(&self.pool().await?)?;
            ensure!(held.pod.starts_with(&format!("{job}-")), "{}", held.pod);
            Ok(held)
        })
        .await
    }
}
