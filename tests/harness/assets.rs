//! The programs of others that the suites run: where they are, and how they are got.
//!
//! Looked for in `TENURE_TEST_ASSETS`, `KUBEBUILDER_ASSETS`, `PATH` and our own cache, in this order, and else got: installed,
//! downloaded, or built if a download fails.
//! A program that is too old is passed over.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use rustix::fs::{Access, access};

use crate::Result;

pub mod envtest;
mod fetch;
pub mod servers;

/// A program that the suites need.
#[derive(Debug)]
pub struct Asset {
    /// The program's name.
    pub name: &'static str,
    /// The oldest version that is good enough.
    minimum: (u32, u32),
    /// Arguments that print its version.
    version: &'static [&'static str],
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A package of Debian and its kin.
    Apt { package: &'static str },
    /// Packages of Debian's backports, unpacked into our cache: the system is left as it is.
    Backports {
        suite: &'static str,
        packages: &'static [&'static str],
    },
    /// A Go package, built in a folder of `tests/assets` that pins the versions of all modules.
    Go {
        folder: &'static str,
        /// That folder's `go.mod`; it also prints the program's version.
        go_mod: &'static str,
        module: &'static str,
        package: &'static str,
        /// Build tags, separated by commas.
        tags: &'static str,
        /// Settings for the linker, with `VERSION`, `MAJOR` and `MINOR` to be filled in.
        ldflags: &'static str,
    },
}

const KUBERNETES: &str = include_str!("../assets/kubernetes/go.mod");
const KUBERNETES_VERSION: &str = "-X k8s.io/component-base/version.gitVersion=vVERSION \
    -X k8s.io/component-base/version.gitMajor=MAJOR -X k8s.io/component-base/version.gitMinor=MINOR";

/// All programs.
pub const ASSETS: [Asset; 9] = [
    Asset {
        name: "redis-server",
        minimum: (7, 0),
        version: &["--version"],
        source: Source::Apt {
            package: "redis-server",
        },
    },
    Asset {
        name: "valkey-server",
        minimum: (7, 2),
        version: &["--version"],
        source: Source::Backports {
            suite: "bookworm-backports",
            packages: &["valkey-server", "valkey-tools"],
        },
    },
    Asset {
        name: "faketime",
        minimum: (0, 9),
        version: &["--version"],
        source: Source::Apt { package: "faketime" },
    },
    Asset {
        name: "etcd",
        minimum: (3, 5),
        version: &["--version"],
        source: Source::Go {
            folder: "etcd",
            go_mod: include_str!("../assets/etcd/go.mod"),
            module: "go.etcd.io/etcd/server/v3",
            package: ".",
            tags: "",
            ldflags: "",
        },
    },
    Asset {
        name: "kube-apiserver",
        minimum: (1, 30),
        version: &["--version"],
        source: Source::Go {
            folder: "kubernetes",
            go_mod: KUBERNETES,
            module: "k8s.io/kubernetes",
            package: "k8s.io/kubernetes/cmd/kube-apiserver",
            tags: "",
            ldflags: KUBERNETES_VERSION,
        },
    },
    Asset {
        name: "kubectl",
        minimum: (1, 30),
        version: &["version", "--client"],
        source: Source::Go {
            folder: "kubernetes",
            go_mod: KUBERNETES,
            module: "k8s.io/kubernetes",
            package: "k8s.io/kubernetes/cmd/kubectl",
            tags: "",
            ldflags: KUBERNETES_VERSION,
        },
    },
    Asset {
        name: "helm",
        minimum: (3, 14),
        version: &["version", "--short"],
        source: Source::Go {
            folder: "helm",
            go_mod: include_str!("../assets/helm/go.mod"),
            module: "helm.sh/helm/v4",
            package: "helm.sh/helm/v4/cmd/helm",
            tags: "",
            ldflags: "-X helm.sh/helm/v4/internal/version.version=vVERSION",
        },
    },
    Asset {
        name: "promtool",
        minimum: (0, 300),
        version: &["--version"],
        source: Source::Go {
            folder: "prometheus",
            go_mod: include_str!("../assets/prometheus/go.mod"),
            module: "github.com/prometheus/prometheus",
            package: "github.com/prometheus/prometheus/cmd/promtool",
            // Discovery of targets needs the libraries of all clouds, and tests of rules need none.
            tags: "remove_all_sd",
            ldflags: "-X github.com/prometheus/common/version.Version=VERSION",
        },
    },
    Asset {
        name: "monitoring-decode",
        minimum: (0, 90),
        version: &["--version"],
        source: Source::Go {
            folder: "monitoring",
            go_mod: include_str!("../assets/monitoring/go.mod"),
            module: "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring",
            package: ".",
            tags: "",
            ldflags: "-X main.version=VERSION",
        },
    },
];

/// A program that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its path.
    pub path: PathBuf,
    /// Its printed version.
    pub version: String,
}

/// Path of the program `name` is. Gets it if it is nowhere, which may take minutes and shows its progress.
pub fn path(name: &str) -> Result<PathBuf> {
    Ok(find(name)?.path)
}

/// The program `name` with its version. Gets it if it is nowhere.
pub fn find(name: &str) -> Result<Found> {
    static FOUND: Mutex<BTreeMap<&str, Found>> = Mutex::new(BTreeMap::new());
    let mut known = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(name) {
        return Ok(found.clone());
    }
    let (name, found) = if let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) {
        (asset.name, asset.find()?)
    } else if let Some(server) = servers::SERVERS.iter().find(|server| server.name == name) {
        (server.name, server.find()?)
    } else {
        bail!("no asset is named {name}");
    };
    known.insert(name, found.clone());
    Ok(found)
}

impl Asset {
    fn find(&self) -> Result<Found> {
        self.look().or_else(|passed_over| {
            self.get()
                .with_context(|| format!("{} is needed and {passed_over:#}", self.name))?;
            self.look()
        })
    }

    fn look(&self) -> Result<Found> {
        let mut passed_over = String::new();
        for path in self.places() {
            if access(&path, Access::EXEC_OK).is_err() {
                continue;
            }
            let (major, minor) = self.minimum;
            match self.ask_version(&path) {
                Ok((number, version)) if number >= self.minimum => return Ok(Found { path, version }),
                Ok((_, version)) => {
                    let path = path.display();
                    write!(passed_over, "; {path} is {version}, older than {major}.{minor}")?;
                }
                Err(error) => write!(passed_over, "; {error:#}")?,
            }
        }
        bail!("is not in TENURE_TEST_ASSETS, KUBEBUILDER_ASSETS, PATH or our cache{passed_over}")
    }

    fn places(&self) -> impl Iterator<Item = PathBuf> {
        let variables = ["TENURE_TEST_ASSETS", "KUBEBUILDER_ASSETS", "PATH"].into_iter();
        let folders: Vec<_> = variables
            .filter_map(env::var_os)
            .flat_map(|value| env::split_paths(&value).collect::<Vec<_>>())
            .collect();
        folders
            .into_iter()
            .map(|folder| folder.join(self.name))
            .chain(self.downloaded())
            .chain(self.cached())
    }

    /// Its place in our cache, if it comes with a release of envtest. It has precedence over what was built, so that the programs
    /// of one release run together.
    fn downloaded(&self) -> Option<PathBuf> {
        let target = envtest::PROGRAMS
            .contains(&self.name)
            .then(|| envtest::target(&cache()?))??;
        Some(target.join(self.name))
    }

    /// Its place in our cache, if it is one that we build. Another version has another folder.
    fn cached(&self) -> Option<PathBuf> {
        match self.source {
            Source::Apt { .. } => None,
            Source::Backports { suite, .. } => {
                let unpacked = cache()?.join(format!("bin-{}-{suite}", self.name));
                Some(unpacked.join("usr/bin").join(self.name))
            }
            Source::Go { folder, .. } => {
                let version = self.source.go_version()?;
                Some(cache()?.join(format!("bin-{folder}-{version}")).join(self.name))
            }
        }
    }

    /// The version's first two numbers, and the version as the program prints it.
    fn ask_version(&self, path: &Path) -> Result<((u32, u32), String)> {
        let output = Command::new(path).args(self.version).output();
        let output = output.with_context(|| format!("running {}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_version(&text).with_context(|| {
            format!(
                "{} {} does not tell a version: {text}",
                path.display(),
                self.version.join(" ")
            )
        })
    }
}

impl Source {
    /// The version that `go.mod` requires, without its `v`.
    fn go_version(&self) -> Option<&'static str> {
        let Source::Go { go_mod, module, .. } = self else {
            return None;
        };
        go_mod.lines().find_map(|line| {
            let mut words = line
                .trim_start()
                .trim_start_matches("require ")
                .split_whitespace();
            (words.next() == Some(*module))
                .then(|| words.next())?
                .and_then(|word| word.strip_prefix('v'))
        })
    }
}

/// The folder for what we build, shared by all checkouts.
fn cache() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("tenure"))
}

fn parse_version(text: &str) -> Option<((u32, u32), String)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some((number, word.to_owned()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_the_output_of_each_program() {
        for (text, number, version) in [
            (
                "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0",
                (7, 0),
                "7.0.15",
            ),
            ("etcd Version: 3.7.3\nGo Version: go1.26.8", (3, 7), "3.7.3"),
            ("Kubernetes v1.36.3", (1, 36), "1.36.3"),
            ("v4.3.1+g0123abc", (4, 3), "4.3.1"),
        ] {
            assert_eq!(parse_version(text), Some((number, version.to_owned())));
        }
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn each_go_module_pins_the_version_of_its_program() {
        for asset in ASSETS
            .iter()
            .filter(|asset| matches!(asset.source, Source::Go { .. }))
        {
            let version = asset.source.go_version().expect(asset.name);
            let (number, _) = parse_version(version).expect(asset.name);
            assert!(number >= asset.minimum, "{}: {version}", asset.name);
        }
    }

    #[test]
    fn the_pinned_release_of_envtest_is_new_enough() {
        let (number, _) = parse_version(envtest::VERSION).unwrap();
        for asset in ASSETS.iter().filter(|asset| asset.name.starts_with("kube")) {
            assert!(envtest::PROGRAMS.contains(&asset.name) && number >= asset.minimum);
        }
    }
}
