//! The digest of a declaration: Redis keeps it, so that an unchanged spec is not declared again.

use std::collections::BTreeMap;

use serde::Serialize;
use tenure::control::{Capacity, Order};
use tenure_crds::LeasePolicy;
use uuid::Uuid;

/// A name for the part of a spec that Redis has to know: equal parts have equal names, over any number of restarts and
/// versions of this program.
pub(crate) fn digest(lease: &LeasePolicy, capacity: &Capacity) -> String {
    /// The state and the properties of a resource.
    type Member<'a> = (bool, &'a BTreeMap<String, String>);

    #[derive(Serialize)]
    struct Canonical<'a> {
        lease_seconds: u32,
        max_hold_seconds: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        permits: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        order: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        generated: Option<(&'a str, u64)>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<BTreeMap<&'a str, Member<'a>>>,
    }
    let mut canonical = Canonical {
        lease_seconds: lease.lease_duration_seconds,
        max_hold_seconds: lease.max_hold_seconds,
        permits: None,
        order: None,
        generated: None,
        resources: None,
    };
    match capacity {
        Capacity::Permits(permits) => canonical.permits = Some(*permits),
        Capacity::Generated { order, prefix, count } => {
            canonical.order = Some(order_name(*order));
            canonical.generated = Some((prefix, *count));
        }
        Capacity::Resources { order, resources } => {
            canonical.order = Some(order_name(*order));
            canonical.resources = Some(
                resources
                    .iter()
                    .map(|r| (r.name.as_str(), (r.disabled, &r.properties)))
                    .collect(),
            );
        }
    }
    let text = serde_json::to_vec(&canonical).unwrap_or_default();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &text).simple().to_string()
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::LeastRecentlyUsed => "LeastRecentlyUsed",
        Order::MostRecentlyUsed => "MostRecentlyUsed",
        Order::Random => "Random",
    }
}

#[cfg(test)]
mod tests {
    use tenure::control::Resource;

    use super::*;

    fn resources(names: &[(&str, bool)]) -> Capacity {
        let resources = names
            .iter()
            .map(|(name, disabled)| Resource {
                name: (*name).to_owned(),
                properties: BTreeMap::new(),
                disabled: *disabled,
            })
            .collect();
        Capacity::Resources {
            order: Order::Random,
            resources,
        }
    }

    #[test]
    fn the_digest_is_the_same_in_every_version_of_this_program() {
        let lease = LeasePolicy::default();
        assert_eq!(
            digest(&lease, &Capacity::Permits(3)),
            "394e882911d557349dd662c065d9bc5d"
        );
    }

    #[test]
    fn the_digest_differs_with_each_thing_that_redis_has_to_know() {
        let lease = LeasePolicy::default();
        let longer = LeasePolicy {
            lease_duration_seconds: 31,
            ..lease.clone()
        };
        let capped = LeasePolicy {
            max_hold_seconds: Some(60),
            ..lease.clone()
        };
        let generated = |prefix: &str, count| Capacity::Generated {
            order: Order::Random,
            prefix: prefix.to_owned(),
            count,
        };
        let mut digests = vec![
            digest(&lease, &Capacity::Permits(3)),
            digest(&longer, &Capacity::Permits(3)),
            digest(&capped, &Capacity::Permits(3)),
            digest(&lease, &Capacity::Permits(4)),
            digest(&lease, &resources(&[("a", false)])),
            digest(&lease, &resources(&[("a", true)])),
            digest(&lease, &resources(&[("b", false)])),
            digest(&lease, &generated("a", 1)),
            digest(&lease, &generated("b", 1)),
            digest(&lease, &generated("a", 2)),
        ];
        let all = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), all);
    }

    #[test]
    fn the_digest_does_not_mind_the_order_of_resources_nor_what_redis_need_not_know() {
        let lease = LeasePolicy::default();
        let retained = LeasePolicy {
            deletion_policy: tenure_crds::DeletionPolicy::Retain,
            reclaim_policy: tenure_crds::ReclaimPolicy::OnExpiry,
            ..lease.clone()
        };
        let (ab, ba) = (
            resources(&[("a", false), ("b", false)]),
            resources(&[("b", false), ("a", false)]),
        );
        assert_eq!(digest(&lease, &ab), digest(&lease, &ba));
        assert_eq!(digest(&lease, &ab), digest(&retained, &ab));
    }
}
