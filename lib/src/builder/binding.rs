//! Finds the mounted Secret of a service binding (servicebinding.io) that the controller has made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Error;

const ROOT: &str = "SERVICE_BINDING_ROOT";

/// The folder of a binding, with a file for each key of its Secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binding(PathBuf);

impl Binding {
    /// Finds the one with the type `redis` and the provider `tenure` below the root.
    pub(crate) fn find(root: &str) -> Result<Self, Error> {
        let invalid = |problem: String| {
            let fix = "mount the Secret tenure-access in a folder below it, or set TENURE_REDIS_URL";
            Error::invalid(ROOT, problem, fix)
        };
        let entries = fs::read_dir(root)
            .map_err(|error| invalid(format!("is {root}, which cannot be read ({error})")))?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        let is_ours = |folder: &PathBuf| {
            let is = |file: &str, value: &str| read(&folder.join(file)).is_ok_and(|text| text == value);
            is("type", "redis") && is("provider", "tenure")
        };
        let mut found = folders.into_iter().filter(is_ours);
        match (found.next(), found.next()) {
            (Some(folder), None) => Ok(Self(folder)),
            (None, _) => Err(invalid(format!(
                "is {root}, which has no binding with the type redis and the provider tenure"
            ))),
            (Some(one), Some(two)) => Err(Error::invalid(
                ROOT,
                format!(
                    "has two bindings of Tenure, {} and {}",
                    one.display(),
                    two.display()
                ),
                "mount one of them, or set TENURE_REDIS_URL",
            )),
        }
    }

    /// The path of a file that the binding must have.
    pub(crate) fn file(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }

    /// A value that the binding must have.
    pub(crate) fn value(&self, key: &str) -> Result<String, Error> {
        let path = self.file(key);
        let problem = match read(&path) {
            Ok(text) if !text.is_empty() => return Ok(text),
            Ok(_) => format!("has the empty file {}", path.display()),
            Err(error) => format!("has no file {} that can be read ({error})", path.display()),
        };
        Err(Error::invalid(
            ROOT,
            problem,
            "mount all keys of the Secret tenure-access",
        ))
    }

    /// A value that the binding may have.
    pub(crate) fn optional(&self, key: &str) -> Result<Option<String>, Error> {
        if self.file(key).exists() {
            self.value(key).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// A file's text without a line break at its end.
fn read(path: &Path) -> std::io::Result<String> {
    let text = fs::read_to_string(path)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
