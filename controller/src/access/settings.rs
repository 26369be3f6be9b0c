//! Settings: the flags of `--access`.

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    access::{binding::Binding, plan::Ages},
    config::{Config, ConfigError},
};

/// The settings of the access of namespaces.
pub(crate) struct Settings {
    pub(crate) binding: Binding,
    pub(crate) ages: Ages,
    /// The certificate authorities of Redis.
    pub(crate) ca_file: Option<PathBuf>,
    /// Namespaces that need no label.
    pub(crate) named: BTreeSet<String>,
}

impl Settings {
    /// Reads the settings; `None`: the feature is off.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, ConfigError> {
        if !config.access {
            return Ok(None);
        }
        let refused = |flag| move |problem| ConfigError::Access { flag, problem };
        let prefix = &config.redis_key_prefix;
        let binding = match &config.access_redis_url {
            Some(url) => Binding::of_pods(url, prefix).map_err(refused("--access-redis-url"))?,
            None => Binding::of_controller(&config.redis_url, prefix)
                .map_err(refused("--access-redis-url is not set, and --redis-url"))?,
        };
        let max_age = Some(config.access_max_age).filter(|age| !age.is_zero());
        if max_age.is_some_and(|age| age <= config.access_overlap) {
            let problem =
                "is not longer than --access-overlap: use a longer age, or a shorter overlap".to_owned();
            return Err(refused("--access-max-age")(problem));
        }
        let named = config.access_namespaces.iter();
        Ok(Some(Self {
            ca_file: config.redis_ca_file.clone().filter(|_| binding.is_secure()),
            binding,
            ages: Ages {
                max_age,
                overlap: config.access_overlap,
            },
            named: named.filter(|name| !name.is_empty()).cloned().collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn of(args: &[&str]) -> Result<Option<Settings>, String> {
        let args = ["tenure-controller"].iter().chain(args);
        Settings::of(&Config::parse_from(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_unless_asked_for() {
        assert!(of(&["--access-namespaces", "ml"]).unwrap().is_none());
        let settings = of(&[
            "--access",
            "--access-namespaces",
            "ml,web",
            "--access-max-age",
            "0s",
        ])
        .unwrap()
        .unwrap();
        assert!(settings.ages.max_age.is_none() && settings.named.len() == 2);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_flag_and_the_fix() {
        for (args, message) in [
            (
                &["--redis-url", "unix:///run/redis"][..],
                "--access-redis-url is not set, and --redis-url names no host",
            ),
            (
                &["--access-redis-url", "redis://a:hunter2@redis"],
                "--access-redis-url has credentials: leave them out",
            ),
            (
                &["--access-max-age", "24h"],
                "--access-max-age is not longer than --access-overlap",
            ),
        ] {
            let error = of(&[&["--access"], args].concat()).err().unwrap();
            assert!(error.contains(message) && !error.contains("hunter2"), "{error}");
        }
    }
}
