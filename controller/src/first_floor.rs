//! First floor: the floor of fencing tokens of a first declaration, which an annotation keeps until the status has one.
//!
//! A floor has to be in etcd before Redis gets it. The finalizer has to be there before, too, so one write adds both. The status, which is
//! another resource of the API server, follows with the first conditions.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tenure_crds::{CommonStatus, whole_seconds};

/// The name of the annotation.
pub(crate) const ANNOTATION: &str = "tenure.dev/first-fencing-floor";

/// Returns the annotation that keeps the floor of a status: the floor, its time, the longest lease in seconds, and the uid of the custom
/// resource, because an annotation is copied with a manifest. `None`: the status has no floor.
pub(crate) fn annotation(status: &CommonStatus, uid: &str) -> Option<BTreeMap<&'static str, String>> {
    let Time(at) = status.fencing_floor_time.as_ref()?;
    let (floor, lease) = (status.fencing_floor?, status.lease_duration_seconds?);
    Some(BTreeMap::from([(
        ANNOTATION,
        format!("{floor} {at} {lease} {uid}"),
    )]))
}

/// Adds the floor in the annotation to a status that has none.
pub(crate) fn add(status: &mut CommonStatus, meta: &ObjectMeta) {
    if status.fencing_floor.is_some() {
        return;
    }
    let annotations = meta.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(ANNOTATION));
    if let Some((floor, at, lease)) = text.and_then(|text| parse(text, meta.uid.as_deref()?)) {
        status.fencing_floor = Some(floor);
        status.fencing_floor_time = Some(at);
        status.lease_duration_seconds = Some(lease);
    }
}

fn parse(text: &str, uid: &str) -> Option<(u64, Time, u32)> {
    let [floor, at, lease, of] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let lease = lease.parse().ok().filter(|lease| (1..=86_400).contains(lease))?;
    (of == uid).then_some((floor.parse().ok()?, whole_seconds(at.parse().ok()?), lease))
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
        assert_eq!(text, "1795257448000000 1970-01-01T00:16:40Z 30 a");
        let mut status = CommonStatus::default();
        add(&mut status, &meta(&text, "a"));
        assert_eq!(status, kept());
        let mut copied = CommonStatus::default();
        add(&mut copied, &meta(&text, "b"));
        assert_eq!(copied, CommonStatus::default(), "it is of another object");
        assert_eq!(annotation(&CommonStatus::default(), "a"), None);
    }

    #[test]
    fn the_floor_of_the_status_comes_first_and_a_text_that_is_none_is_ignored() {
        let mut status = kept();
        add(&mut status, &meta("1 1970-01-01T00:00:00Z 30 a", "a"));
        assert_eq!(status, kept());
        for text in [
            "",
            "1",
            "x 1970-01-01T00:00:00Z 30 a",
            "1 then 30 a",
            "1 1970-01-01T00:00:00Z 0 a",
        ] {
            let mut status = CommonStatus::default();
            add(&mut status, &meta(text, "a"));
            assert_eq!(status, CommonStatus::default(), "{text}");
        }
    }
}
