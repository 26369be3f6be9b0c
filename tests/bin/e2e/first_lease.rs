//! The way of a user from `helm install` to the first lease of an application's pod.

use std::time::{Duration, Instant};

use tenure_tests::{Result, ensure};

use crate::{
    E2e, done,
    objects::{self, APPLICATION},
    seconds,
};

const LIMIT: Duration = Duration::from_secs(60);

impl E2e {
    /// The commands after `helm install`, in a namespace that was there before. `started` is the start of the installation.
    pub(crate) async fn first_lease(&self, started: Instant) -> Result {
        let label = ["label", "namespace", APPLICATION, "tenure.dev/access=true"];
        self.cluster.kubectl_everywhere(&label).await?;
        self.cluster.apply(&objects::application()).await?;
        let held = [
            "wait",
            "--namespace",
            APPLICATION,
            "--for=jsonpath={.status.held}=1",
            "lockpool/gpu-seats",
            "--timeout=60s",
        ];
        self.cluster.kubectl_everywhere(&held).await?;
        let took = started.elapsed();
        for command in [
            "helm install tenure charts/tenure --namespace tenure --create-namespace --wait",
            "kubectl label namespace my-namespace tenure.dev/access=true",
            "kubectl apply --namespace my-namespace --filename application.yaml",
            "kubectl wait --namespace my-namespace --for=jsonpath='{.status.held}'=1 lockpool/gpu-seats",
        ] {
            println!("   $ {command}");
        }
        done(&format!(
            "From `helm install` to the first lease of an application's pod: 4 commands, {:.1} s.",
            seconds(started)
        ));
        ensure!(took <= LIMIT, "it took {took:?}");
        let delete = ["delete", "namespace", APPLICATION, "--timeout=120s"];
        self.cluster.kubectl_everywhere(&delete).await.map(drop)
    }
}
