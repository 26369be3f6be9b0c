//! Upgrades that fail, and one that needs a step by hand. The licence is held meanwhile.

use std::time::Instant;

use tenure_tests::{Context, Result, ensure, eventually};

use crate::{E2e, Holder, SOON, done, say, seconds};

const REDIS: &str = "tenure-redis-0";
const CONTROLLERS: [&str; 5] = [
    "get",
    "pods",
    "-l",
    "app.kubernetes.io/component=controller",
    "-o",
];

impl E2e {
    /// One of two controllers is killed, and the other one reports and reclaims.
    pub(crate) async fn lose_a_controller(&self, held: &Holder) -> Result<Holder> {
        say("5. One of the two controllers is killed, and then the pod that holds.");
        // A Job makes its next pod after a while.
        eventually("the next pod to wait", SOON, async || {
            let pool = self.pool().await?;
            ensure!(pool["status"]["waiting"] == 1, "{}", pool["status"]);
            Ok(())
        })
        .await?;
        let names = self.controllers("jsonpath={.items[*].metadata.name}").await?;
        let names: Vec<&str> = names.split_whitespace().collect();
        ensure!(names.len() == 2, "controllers: {names:?}");
        let delete = ["delete", "pod", names[0], "--grace-period=1", "--wait=false"];
        self.cluster.kubectl(&delete).await?;
        let killed = Instant::now();
        let next = self.hand_over(held, SOON).await?;
        done(&format!("{} holds after {:.1} s.", next.pod, seconds(killed)));
        eventually("two controllers again", SOON, async || {
            let ready = self
                .controllers("jsonpath={.items[*].status.containerStatuses[0].ready}")
                .await?;
            ensure!(ready == "true true", "{ready}");
            Ok(())
        })
        .await?;
        Ok(next)
    }

    /// Settings with which the controller does not become ready.
    pub(crate) async fn upgrade_wrongly(&self, held: &Holder) -> Result {
        say("7. `helm upgrade` with a user that Redis does not have.");
        let before = self.ready_controllers().await?;
        let wrong = [
            "--set",
            "controller.extraArgs={--redis-username=nobody}",
            "--wait",
            "--timeout",
            "20s",
        ];
        let upgrade = [
            &["upgrade", "tenure", "charts/tenure", "--reuse-values"],
            &wrong[..],
        ]
        .concat();
        let error = self
            .cluster
            .helm(&upgrade)
            .await
            .err()
            .context("the upgrade is green")?;
        let after = self.ready_controllers().await?;
        ensure!(
            before == after,
            "controllers that were ready: {before}; now: {after}; {error:#}"
        );
        self.still(held).await?;
        self.cluster
            .helm(&["rollback", "tenure", "--wait", "--timeout", "60s"])
            .await?;
        done("It fails, both controllers go on, and `helm rollback` is green.");
        Ok(())
    }

    /// "Changing the volume" in the README of the chart.
    pub(crate) async fn change_the_volume(&self, held: &Holder) -> Result {
        say("9. The size of the volume is changed as the README of the chart describes.");
        let larger = [
            "--set",
            "redis.persistence.size=2Gi",
            "--wait",
            "--timeout",
            "60s",
        ];
        let upgrade = [
            &["upgrade", "tenure", "charts/tenure", "--reuse-values"],
            &larger[..],
        ]
        .concat();
        let error = self
            .cluster
            .helm(&upgrade)
            .await
            .err()
            .context("Helm changes it")?;
        let error = format!("{error:#}");
        ensure!(
            error.contains("updates to statefulset spec for fields other than"),
            "{error}"
        );
        let pod = self.uid(REDIS).await?;
        let orphan = ["delete", "statefulset", "tenure-redis", "--cascade=orphan"];
        self.cluster.kubectl(&orphan).await?;
        self.cluster.helm(&upgrade).await?;
        ensure!(self.uid(REDIS).await? == pod, "Redis was restarted");
        let size = "jsonpath={.spec.volumeClaimTemplates[0].spec.resources.requests.storage}";
        let size = self
            .cluster
            .kubectl(&["get", "statefulset", "tenure-redis", "-o", size])
            .await?;
        ensure!(size == "2Gi", "{size}");
        self.still(held).await?;
        done("The new StatefulSet has the same pod, and the licence is held on.");
        Ok(())
    }

    /// Names of the controllers that are ready.
    pub(crate) async fn ready_controllers(&self) -> Result<String> {
        let ready = "jsonpath={.items[?(@.status.containerStatuses[0].ready==true)].metadata.name}";
        self.controllers(ready).await
    }

    async fn controllers(&self, output: &str) -> Result<String> {
        self.cluster
            .kubectl(&[&CONTROLLERS[..], &[output]].concat())
            .await
    }
}
