//! The controller, as a process of its own, with a real API server, etcd and Redis. Only by its name: it takes minutes.
//!
//! `TENURE_BENCH_OBJECTS` is the number of objects (2,000 without it), half of them pools and half semaphores, in 50 namespaces;
//! `TENURE_BENCH_OUTAGES` is the number of losses of Redis' data (3 without it). Memory is that of this build of the controller: build it
//! with `--release` for the figures of an image. `TENURE_BENCH_PARTS` names the parts that run, such as `writes,pods`.
//!
//! | part | figures |
//! |---|---|
//! | [`many`] | memory, new objects, losses of data, a restart |
//! | [`busy`] | writes of statuses, growth of etcd, the size of an object |
//! | [`pods`] | the end of pods, and the memory for large ones |

mod busy;
mod many;
mod pods;
mod world;

use tenure_tests::Result;

use crate::report::Report;

/// Measures all of it.
pub(crate) async fn at_scale(report: &mut Report) -> Result {
    let parts = std::env::var("TENURE_BENCH_PARTS").unwrap_or_default();
    let wanted = |part: &str| parts.is_empty() || parts.split(',').any(|wanted| wanted == part);
    if wanted("many") {
        many::objects(report).await?;
    }
    if wanted("writes") {
        busy::renewals(report).await?;
        busy::churn(report).await?;
    }
    if wanted("size") {
        busy::size(report).await?;
    }
    if wanted("pods") {
        pods::ends(report).await?;
        pods::memory(report).await?;
    }
    Ok(())
}

/// A number of the environment.
fn setting(name: &str, default: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}
