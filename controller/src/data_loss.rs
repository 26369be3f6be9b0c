//! Data loss: observes all objects of a server that has lost its data, or has other data, while its connections stay.

use std::{sync::Arc, time::Duration};

use tenure::{Control, control::DataLoss};
use tokio::sync::broadcast;

/// Each master of Redis is checked this often.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Losses that a receiver may lag behind.
const CAPACITY: usize = 16;

/// The losses of data that this controller notices.
#[derive(Clone, Debug)]
pub(crate) struct DataLosses(broadcast::Sender<Arc<[DataLoss]>>);

impl Default for DataLosses {
    fn default() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }
}

impl DataLosses {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<[DataLoss]>> {
        self.0.subscribe()
    }

    /// Checks all masters, again and again. Never ends.
    pub(crate) async fn watch(self, control: Control) -> &'static str {
        let mut watch = control.data_watch();
        let mut refused = false;
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            match watch.check().await {
                Ok(losses) => {
                    refused = false;
                    for loss in &losses {
                        tracing::warn!(
                            server = loss.server(),
                            "Redis has lost data, or has other data: all objects of this server are observed"
                        );
                    }
                    if !losses.is_empty() {
                        // An error means that nothing is watched yet.
                        let _ = self.0.send(losses.into());
                    }
                }
                // The connection reports this.
                Err(error) if error.is_unreachable() => {}
                Err(error) => {
                    if !refused {
                        tracing::warn!(%error, "a loss of data may be noticed late, because the servers cannot be checked");
                    }
                    refused = true;
                }
            }
        }
    }
}
