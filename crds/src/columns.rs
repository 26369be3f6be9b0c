//! Columns of `kubectl get` for both kinds.
//!
//! The narrow columns fit 120 characters if the name has 24 at most; `-o wide` has the rest.
//!
//! The kinds share most columns, and kube's derive accepts only literals, so the columns are not declared at the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition,
};

const READY: &str = r#".status.conditions[?(@.type=="Ready")]"#;

/// `crd` with the columns of a pool.
pub(crate) fn of_a_pool(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let total = column(
        "Total",
        "integer",
        ".status.total",
        "Resources of the pool, disabled ones included",
    );
    let order = column(
        "Order",
        "string",
        ".spec.order",
        "Order in which free resources are granted",
    );
    with(crd, "Resources", total, vec![order])
}

/// `crd` with the columns of a semaphore.
pub(crate) fn of_a_semaphore(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let total = column("Permits", "integer", ".status.total", "Permits in force");
    with(crd, "Permits", total, Vec::new())
}

/// Adds the columns: `things` names resources or permits; `own` are the wide columns of this kind alone.
fn with(
    mut crd: CustomResourceDefinition,
    things: &str,
    total: CustomResourceColumnDefinition,
    own: Vec<CustomResourceColumnDefinition>,
) -> CustomResourceDefinition {
    let held = format!("{things} that are held; more than the total while a smaller spec drains");
    let free = format!("{things} that can be granted now");
    let ready = |field| format!("{READY}.{field}");
    let narrow = [
        column("Held", "integer", ".status.held", &held),
        column("Waiting", "integer", ".status.waiting", "Requests in the queue"),
        column(
            "Held by",
            "string",
            ".status.heldBy",
            "Holders, the longest hold first, and the number of further holders",
        ),
        column(
            "Oldest",
            "date",
            ".status.holders[0].acquiredAt",
            "Age of the longest hold",
        ),
        column(
            "Ready",
            "string",
            &ready("status"),
            "True when the spec is in force in Redis and is granted",
        ),
        column("Age", "date", ".metadata.creationTimestamp", "Age of this object"),
    ];
    let details = [
        column(
            "Until",
            "string",
            ".status.holders[0].renewableUntil",
            "Time beyond which the longest hold is not renewed; empty if its renewals have no end",
        ),
        column(
            "First holder",
            "string",
            ".status.holders[0].pod",
            "Pod of the longest hold",
        ),
        column(
            "Second holder",
            "string",
            ".status.holders[1].pod",
            "Pod of the second longest hold",
        ),
        column("Free", "integer", ".status.free", &free),
        column(
            "Next",
            "string",
            ".status.waiters[0].pod",
            "Waiter that is granted next",
        ),
        column(
            "Lease seconds",
            "integer",
            ".spec.leaseDurationSeconds",
            "Length of a lease in seconds",
        ),
        column(
            "Max hold seconds",
            "integer",
            ".spec.maxHoldSeconds",
            "Longest hold in seconds",
        ),
    ];
    let rest = [
        column(
            "Reason",
            "string",
            &ready("reason"),
            "Reason of the condition Ready",
        ),
        column(
            "Message",
            "string",
            &ready("message"),
            "Problem and action, from the condition Ready",
        ),
    ];
    let wide = details
        .into_iter()
        .chain(own)
        .chain(rest)
        .map(|column| CustomResourceColumnDefinition {
            priority: Some(1),
            ..column
        });
    let columns: Vec<_> = [total].into_iter().chain(narrow).chain(wide).collect();
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns.clone());
    }
    crd
}

fn column(name: &str, type_: &str, path: &str, description: &str) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: path.to_owned(),
        description: Some(description.to_owned()),
        ..CustomResourceColumnDefinition::default()
    }
}
