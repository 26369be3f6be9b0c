//! The password and the certificate of the bundled Redis.

use std::time::Instant;

use tenure_tests::{Context, Result, ensure, eventually};

use crate::{E2e, Holder, SOON, done, say, seconds};

impl E2e {
    /// "Rotating the controller's password" in the README of the chart. The licence is held meanwhile.
    pub(crate) async fn rotate_the_password(&self, held: &Holder) -> Result {
        say("8. The controller's password is rotated, and then the controllers are restarted.");
        let (before, redis) = (self.cluster.password().await?, self.uid("tenure-redis-0").await?);
        let annotate = [
            "annotate",
            "secret",
            "tenure-redis",
            "--overwrite",
            "tenure.dev/rotate=e2e",
        ];
        let started = Instant::now();
        self.cluster.show_kubectl(&annotate).await?;
        eventually("another password", SOON, async || {
            ensure!(self.cluster.password().await? != before, "it is the old one");
            Ok(())
        })
        .await?;
        done(&format!(
            "Redis and the Secret have another one after {:.1} s.",
            seconds(started)
        ));
        let controller = "deployment/tenure-controller";
        self.cluster.kubectl(&["rollout", "restart", controller]).await?;
        self.cluster
            .kubectl(&["rollout", "status", controller, "--timeout=120s"])
            .await?;
        ensure!(self.uid("tenure-redis-0").await? == redis, "Redis was restarted");
        self.still(held).await?;
        done("New controllers are ready, Redis was not restarted, and the licence is held on.");
        Ok(())
    }

    /// The program `tenure` with a kubeconfig alone, through a port-forward.
    pub(crate) async fn use_kubeconfig(&self) -> Result {
        let started = Instant::now();
        let run = ["exec", "lock/by-kubeconfig", "--", "echo", "under a lease"];
        let said = self.cluster.tenure(&run).await?;
        ensure!(said.contains("under a lease"), "{said}");
        let took = seconds(started);
        let shown = self.cluster.tenure(&["doctor"]).await?;
        ensure!(shown.contains("may acquire, renew and release"), "{shown}");
        done(&format!(
            "`kubectl tenure exec` over a port-forward takes {took:.1} s, and `doctor` finds no problem."
        ));
        Ok(())
    }

    /// TLS with certificates by the controller; and an image that does not start, which `helm rollback` undoes.
    pub(crate) async fn use_tls(&self) -> Result {
        say(
            "15. Install with TLS, and test; then upgrade to an image of Redis that is not there, and roll back.",
        );
        let started = Instant::now();
        self.install_more(&["--set", "redis.tls.enabled=true"]).await?;
        self.cluster.helm(&["test", "tenure"]).await?;
        let url = "go-template={{.data.uri | base64decode}}";
        let url = self
            .cluster
            .kubectl(&["get", "secret", "tenure-access", "-o", url])
            .await?;
        ensure!(url.starts_with("rediss://"), "no TLS");
        done(&format!(
            "`helm test` is green over TLS after {:.1} s.",
            seconds(started)
        ));
        self.use_kubeconfig().await?;
        let upgrade = [
            "upgrade",
            "tenure",
            "charts/tenure",
            "--reuse-values",
            "--set",
            "redis.image.tag=missing,redis.image.pullPolicy=Never",
            "--wait",
            "--timeout",
            "15s",
        ];
        self.cluster
            .helm(&upgrade)
            .await
            .err()
            .context("the upgrade is green")?;
        self.cluster
            .helm(&["rollback", "tenure", "--wait", "--timeout", "120s"])
            .await?;
        self.cluster.helm(&["test", "tenure"]).await?;
        done("The upgrade fails, `helm rollback` is green, and so is `helm test`.");
        self.uninstall().await.map(drop)
    }
}
