//! `LockPool`: named resources, each held by one holder at a time.

use std::collections::BTreeMap;

use kube::{CustomResource, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    lease::LeasePolicy,
    schema,
    status::{CommonStatus, Holder},
};

/// Desired state of the pool.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "LockPool",
    plural = "lockpools",
    shortname = "lp",
    category = "tenure",
    namespaced,
    doc = "LockPool is a set of named resources, each held by one holder at a time and handed on first come, first served.",
    derive = "PartialEq",
    status = "LockPoolStatus",
    validation = schema::name_rule(),
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [source_rule(), schema::max_hold_rule()]))]
pub struct LockPoolSpec {
    /// Resources of the pool by name, 1 to 1024; excludes `generate`. A resource that is removed while it is held drains: its
    /// holder keeps it, and it is not granted again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 1024),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub resources: Vec<Resource>,

    /// Resources that are generated as `prefix` and a number from 0; excludes `resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<Generate>,

    /// Order in which free resources are granted, default `LeastRecentlyUsed`: it spreads the load; `MostRecentlyUsed` keeps
    /// caches warm; `Random` picks any.
    #[serde(default)]
    pub order: Order,

    /// Length and end of leases.
    #[serde(flatten)]
    pub lease: LeasePolicy,
}

/// A resource of a pool.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Name of the resource, unique in the pool, at most 63 characters.
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = [resource_name_rule()]))]
    pub name: String,

    /// Properties that a holder can read, at most 16 entries with keys of 1 to 63 and values of up to 256 characters,
    /// like `host: gpu-1`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::properties")]
    pub properties: BTreeMap<String, String>,

    /// Takes the resource out of service, default false: its holder keeps it, and it is not granted again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(schema_with = "schema::flag")]
    pub disabled: bool,
}

/// A recipe for the names of a pool's resources.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generate {
    /// Beginning of every name, 1 to 56 characters; `seat-` generates seat-0, seat-1 and so on. A changed prefix generates other
    /// resources, and held ones drain.
    #[schemars(length(min = 1, max = 56), extend("x-kubernetes-validations" = [prefix_rule()]))]
    pub prefix: String,

    /// Number of resources, 1 to 1000000. A smaller number drains the resources with the highest numbers.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: u32,
}

/// Order in which the free resources of a pool are granted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Order {
    /// The one that has been free the longest.
    #[default]
    LeastRecentlyUsed,
    /// The one that was freed last.
    MostRecentlyUsed,
    /// Any.
    Random,
}

/// Observed state of the pool.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockPoolStatus {
    /// Conditions, counts and waiters.
    #[serde(flatten)]
    pub common: CommonStatus,

    /// Held resources and their holders, at most 32 resources, the longest hold first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub holders: Vec<ResourceHolder>,
}

/// A resource and its holder; a lease over several resources is listed once for each.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceHolder {
    /// Name of the resource.
    #[schemars(length(min = 1, max = 63))]
    pub resource: String,

    /// Holder of the lease.
    #[serde(flatten)]
    pub holder: Holder,
}

fn source_rule() -> Rule {
    Rule::new("has(self.resources) != has(self.generate)").message(
        "set exactly one of spec.resources and spec.generate: list the resources by name, or have count of them generated from prefix",
    )
}

fn resource_name_rule() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')").message(
        "name must begin and end with a letter or digit and have only letters, digits, '.', '_' and '-' in between, like seat-a: rename the resource",
    )
}

fn prefix_rule() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')").message(
        "prefix must begin with a letter or digit and have only letters, digits, '.', '_' and '-' after it, like seat-: change the prefix",
    )
}
