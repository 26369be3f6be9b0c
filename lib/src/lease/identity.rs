//! The identity of a holder or waiter.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, protocol::name::LONGEST_NAME};

/// The identity of this process, as shown in `kubectl get lockpools` and in [`crate::control`].
///
/// By default it is read from the environment, as the downward API sets it: `POD_NAME`, `POD_NAMESPACE`, `POD_UID`.
/// Outside of a pod it is the host name and process id. Each text has at most 253 bytes, which connecting checks.
///
/// ```
/// let me = tenure::Identity::from_env();
/// println!("{me}"); // ml/import-7, or host/process id outside of a pod
/// assert!(me.process.contains('/'), "host name/process id: {}", me.process);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Identity {
    /// The pod's name, if in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's namespace; `default` if not known.
    #[serde(default)]
    pub namespace: String,
    /// The pod's uid. With it, the controller gives back what an ended pod still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Host name and process id, `host/pid`.
    #[serde(default)]
    pub process: String,
}

impl Identity {
    /// Reads `POD_NAME`, `POD_NAMESPACE`, `POD_UID`, the host's name and the process id.
    ///
    /// ```
    /// let mut me = tenure::Identity::from_env();
    /// me.pod = Some("import-7".into()); // what the environment does not say
    /// ```
    #[must_use]
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = var("HOSTNAME")
            .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
            .map_or_else(|| "unknown-host".to_owned(), |name| name.trim().to_owned());
        Self {
            pod: var("POD_NAME"),
            namespace: var("POD_NAMESPACE").unwrap_or_else(|| "default".to_owned()),
            uid: var("POD_UID"),
            process: format!("{host}/{}", std::process::id()),
        }
    }
}

/// The pod as `namespace/name`, or the process outside of a pod.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "{}/{pod}", self.namespace),
            None => f.write_str(&self.process),
        }
    }
}

impl Identity {
    /// It stands in Redis with each lease and each queue entry, and in the status of resources.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (field, text) in [
            ("identity.pod", self.pod.as_ref()),
            ("identity.namespace", Some(&self.namespace)),
            ("identity.uid", self.uid.as_ref()),
            ("identity.process", Some(&self.process)),
        ] {
            if let Some(text) = text.filter(|text| text.len() > LONGEST_NAME) {
                let fix = format!("use at most {LONGEST_NAME}");
                return Err(Error::invalid(field, format!("has {} bytes", text.len()), fix));
            }
        }
        Ok(())
    }

    /// The JSON that is stored in Redis about this holder or waiter.
    pub(crate) fn holder(&self, reason: &str) -> Result<Arc<str>, Error> {
        let holder = Holder {
            identity: self.clone(),
            reason: reason.to_owned(),
        };
        serde_json::to_string(&holder)
            .map(Arc::from)
            .map_err(|error| Error::invalid("identity", error.to_string(), "use plain text"))
    }
}

/// The JSON that is stored in Redis about a holder or waiter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_shown_as_its_pod_or_process() {
        let mut me = Identity {
            namespace: "ml".to_owned(),
            process: "host/7".to_owned(),
            ..Identity::default()
        };
        assert_eq!(me.to_string(), "host/7");
        me.pod = Some("import-7".to_owned());
        assert_eq!(me.to_string(), "ml/import-7");
    }
}
