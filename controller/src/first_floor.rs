//! First floor: the floor of fencing tokens of a first declaration, which an annotation keeps until the status has one.
//!
//! A floor has to be in etcd before Redis gets it. The finalizer has to be there before, too, so one write adds both. The status, which is
//! another resource of the API server, follows with the first conditions.
//!
//! The annotation also names the installation that manages the object, so that another one leaves it alone from then on.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tenure_crds::{CommonStatus, whole_seconds};

/// The name of the annotation.
pub(crate) const ANNOTATION: &str = "tenure.dev/first-fencing-floor";

/// In place of an installation: there is none.
const NONE: &str = "-";

/// Returns the annotation that keeps the floor of a status: the floor, its time, the longest lease in seconds, the uid of the custom
/// resource, because an annotation is copied with a manifest, and the installation. `None`: the status has no floor.
pub(crate) fn annotation(status: &CommonStatus, uid: &str) -> Option<BTreeMap<&'static str, String>> {
    let Time(at) = status.fencing_floor_time.as_ref()?;
    let (floor, lease) = (status.fencing_floor?, status.lease_duration_seconds?);
    let installation = status.controller.as_deref().unwrap_or(NONE);
    let text = format!("{floor} {at} {lease} {uid} {installation}");
    Some(BTreeMap::from([(ANNOTATION, text)]))
}

/// Adds the floor in the annotation to a status that has none.
pub(crate) fn add(status: &mut CommonStatus, meta: &ObjectMeta) {
    if status.fencing_floor.is_some() {
        return;
    }
    let annotations = meta.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(ANNOTATION));
    if let Some(first) = text.and_then(|text| parse(text, meta.uid.as_deref()?)) {
        status.fencing_floor = first.fencing_floor;
        status.fencing_floor_time = first.fencing_floor_time;
        status.lease_duration_seconds = first.lease_duration_seconds;
        status.controller = status.controller.take().or(first.controller);
    }
}

/// The fields of a status that an annotation keeps.
fn parse(text: &str, uid: &str) -> Option<CommonStatus> {
    let [floor, at, lease, of, installation] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
    if of != uid {
        return None;
    }
    Some(CommonStatus {
        fencing_floor: Some(floor.parse().ok()?),
        fencing_floor_time: Some(whole_seconds(at.parse().ok()?)),
        lease_duration_seconds: Some(lease.parse().ok().filter(|lease| (1..=86_400).contains(lease))?),
        controller: (installation != NONE).then(|| installation.to_owned()),
        ..CommonStatus::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{START, time};

    fn kept() -> CommonStatus {
        CommonStatus {
            fencing_floor: Some(1_795_257_448_000_000),
            fencing_floor_time: Some(whole_seconds(time(START))),
            lease_duration_seconds: Some(30),
            controller: Some("tenure/first".to_owned()),
            ..CommonStatus::default()
        }
    }

    fn meta(text: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            annotations: Some(BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())])),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_floor_comes_back_from_the_annotation_as_it_was() {
        let text = annotation(&kept(), "a").unwrap()[ANNOTATION].clone();
        assert_eq!(text, "1795257448000000 1970-01-01T00:16:40Z 30 a tenure/first");
        let mut status = CommonStatus::default();
        add(&mut status, &meta(&text, "a"));
        assert_eq!(status, kept());
        let mut copied = CommonStatus::default();
        add(&mut copied, &meta(&text, "b"));
        assert_eq!(copied, CommonStatus::default(), "it is of another object");
        assert_eq!(annotation(&CommonStatus::default(), "a"), None);

        let without = CommonStatus {
            controller: None,
            ..kept()
        };
        let text = annotation(&without, "a").unwrap()[ANNOTATION].clone();
        let mut status = CommonStatus::default();
        add(&mut status, &meta(&text, "a"));
        assert_eq!(status, without);
    }

    #[test]
    fn the_floor_of_the_status_comes_first_and_a_text_that_is_none_is_ignored() {
        let mut status = kept();
        add(&mut status, &meta("1 1970-01-01T00:00:00Z 30 a b/b", "a"));
        assert_eq!(status, kept());
        for text in [
            "",
            "1",
            "x 1970-01-01T00:00:00Z 30 a -",
            "1 then 30 a -",
            "1 1970-01-01T00:00:00Z 0 a -",
        ] {
            let mut status = CommonStatus::default();
            add(&mut status, &meta(text, "a"));
            assert_eq!(status, CommonStatus::default(), "{text}");
        }
    }
}
