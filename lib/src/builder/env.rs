//! The settings of a client in the environment, with the names that the controller uses, too.

use std::env::VarError;

use crate::{Client, ClientBuilder, Error, FileCredentials, builder::binding::Binding};

impl Client {
    /// Sets up a client with the settings of the environment. A variable that is set to nothing counts as absent.
    ///
    /// In a pod, the Secret `tenure-access` that the controller makes in each allowed namespace has all that is needed. Either
    /// its values are variables (`envFrom`), or it is mounted in a folder below `SERVICE_BINDING_ROOT`, where its password is read again
    /// when it changes.
    ///
    /// | variable | setting |
    /// |---|---|
    /// | `TENURE_REDIS_URL` | the URL, as of [`Client::builder`] |
    /// | `SERVICE_BINDING_ROOT` | without `TENURE_REDIS_URL`: the folder in which the Secret is mounted, as a service binding (servicebinding.io) with the type `redis` and the provider `tenure`. URL, user, password, `ca.crt`, namespace and key prefix are those of its files |
    /// | `TENURE_REDIS_USERNAME` | the ACL user, if it does not stand in the URL |
    /// | `TENURE_REDIS_PASSWORD_FILE` | a file with the password, such as a mounted Secret: see [`FileCredentials`] |
    /// | `TENURE_REDIS_CA_FILE` | a file with certificate authorities; needs the feature `tls` |
    /// | `TENURE_REDIS_CA` | without `TENURE_REDIS_CA_FILE`: the authorities themselves, in PEM; needs the feature `tls` |
    /// | `TENURE_REDIS_CLIENT_CERT_FILE`, `TENURE_REDIS_CLIENT_KEY_FILE` | files with a client certificate and its key; need the feature `tls` |
    /// | `TENURE_REDIS_KEY_PREFIX` | [`ClientBuilder::key_prefix`] |
    /// | `TENURE_NAMESPACE` | the namespace of the objects; if absent, that of the pod |
    /// | `POD_NAME`, `POD_NAMESPACE`, `POD_UID` | [`Identity::from_env`](crate::Identity::from_env) |
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the variable, and the file where there is one.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), tenure::Error> {
    /// let client = tenure::Client::builder_from_env()?.namespace("ml").connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn builder_from_env() -> Result<ClientBuilder, Error> {
        read(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(Error::invalid(name, "is not UTF-8", "use UTF-8 text")),
        })
    }
}

/// A variable; `None`: it is absent or empty.
type Variable = Result<Option<String>, Error>;

fn read(variable: impl Fn(&'static str) -> Variable) -> Result<ClientBuilder, Error> {
    let (mut builder, binding) = match (variable("TENURE_REDIS_URL")?, variable("SERVICE_BINDING_ROOT")?) {
        (Some(url), _) => (with_url(&url, &variable)?, None),
        (None, Some(root)) => {
            let binding = Binding::find(&root)?;
            (with_binding(&binding)?, Some(binding))
        }
        (None, None) => {
            return Err(Error::invalid(
                "TENURE_REDIS_URL",
                "is not set",
                "set it to the URL of Redis, such as redis://redis.tenure:6379; in a pod, by envFrom of the Secret \
                 tenure-access, or mount that Secret below SERVICE_BINDING_ROOT",
            ));
        }
    };
    builder = with_tls(builder, binding.as_ref(), &variable)?;
    let found = |key: &'static str| -> Variable {
        match (variable(key)?, &binding) {
            (None, Some(binding)) => binding.optional(key),
            (value, _) => Ok(value),
        }
    };
    if let Some(prefix) = found("TENURE_REDIS_KEY_PREFIX")? {
        builder = builder.key_prefix(prefix);
    }
    // The Redis user of a Secret reaches the objects of the Secret's namespace, wherever the pod is.
    if let Some(namespace) = found("TENURE_NAMESPACE")? {
        builder = builder.namespace(namespace);
    }
    Ok(builder)
}

fn with_url(url: &str, variable: &impl Fn(&'static str) -> Variable) -> Result<ClientBuilder, Error> {
    let builder = Client::builder(url);
    let username = variable("TENURE_REDIS_USERNAME")?;
    if let Some(file) = variable("TENURE_REDIS_PASSWORD_FILE")? {
        let mut credentials = FileCredentials::new(file);
        if let Some(username) = username {
            credentials = credentials.username(&username);
        }
        return Ok(builder.credentials(credentials));
    }
    let Some(username) = username else {
        return Ok(builder);
    };
    // A URL without @ has no part for credentials, and so no password.
    if url.contains('@') {
        return Ok(builder.username(username));
    }
    let fix = "set TENURE_REDIS_PASSWORD_FILE, too, or put user and password into TENURE_REDIS_URL";
    Err(Error::invalid(
        "TENURE_REDIS_USERNAME",
        "is set, and there is no password",
        fix,
    ))
}

fn with_binding(binding: &Binding) -> Result<ClientBuilder, Error> {
    // The URL has credentials, too, but the files are read again.
    let credentials = FileCredentials::new(binding.file("password")).username_file(binding.file("username"));
    for key in ["username", "password"] {
        binding.value(key)?;
    }
    Ok(Client::builder(binding.value("uri")?).credentials(credentials))
}

#[cfg(feature = "tls")]
fn with_tls(
    mut builder: ClientBuilder,
    binding: Option<&Binding>,
    variable: &impl Fn(&'static str) -> Variable,
) -> Result<ClientBuilder, Error> {
    let in_binding = binding
        .map(|binding| binding.file("ca.crt"))
        .filter(|file| file.exists());
    if let Some(file) = variable("TENURE_REDIS_CA_FILE")? {
        builder = builder.tls_ca_file(file);
    } else if let Some(pem) = variable("TENURE_REDIS_CA")? {
        builder = builder.tls_ca(pem);
    } else if let Some(file) = in_binding {
        builder = builder.tls_ca_file(file);
    }
    let certificate = variable("TENURE_REDIS_CLIENT_CERT_FILE")?;
    let key = variable("TENURE_REDIS_CLIENT_KEY_FILE")?;
    match (certificate, key) {
        (None, None) => Ok(builder),
        (Some(certificate), Some(key)) => Ok(builder.tls_client_certificate_files(certificate, key)),
        (Some(_), None) => Err(pair("TENURE_REDIS_CLIENT_KEY_FILE")),
        (None, Some(_)) => Err(pair("TENURE_REDIS_CLIENT_CERT_FILE")),
    }
}

#[cfg(feature = "tls")]
fn pair(absent: &'static str) -> Error {
    Error::invalid(absent, "is not set", "set it beside the other file, or neither")
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    builder: ClientBuilder,
    // Its URL names the feature.
    _binding: Option<&Binding>,
    variable: &impl Fn(&'static str) -> Variable,
) -> Result<ClientBuilder, Error> {
    for name in [
        "TENURE_REDIS_CA_FILE",
        "TENURE_REDIS_CA",
        "TENURE_REDIS_CLIENT_CERT_FILE",
        "TENURE_REDIS_CLIENT_KEY_FILE",
    ] {
        if variable(name)?.is_some() {
            let fix = "build the crate `tenure` with the feature `tls`";
            return Err(Error::invalid(name, "needs TLS, which is not built in", fix));
        }
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(variables: &[(&str, &str)]) -> Result<ClientBuilder, Error> {
        read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    #[test]
    fn the_url_is_required() {
        let error = read_from(&[]).map(drop).unwrap_err();
        assert!(
            error.to_string().starts_with("TENURE_REDIS_URL is not set"),
            "{error}"
        );
        assert!(read_from(&[("TENURE_REDIS_URL", "redis://localhost")]).is_ok());
    }

    #[test]
    fn a_user_needs_a_password() {
        let user = ("TENURE_REDIS_USERNAME", "worker");
        let error = read_from(&[("TENURE_REDIS_URL", "redis://localhost"), user]);
        let error = error.map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("TENURE_REDIS_USERNAME") && error.contains("TENURE_REDIS_PASSWORD_FILE"),
            "{error}"
        );
        for variables in [
            &[("TENURE_REDIS_URL", "redis://:secret@localhost"), user][..],
            &[
                ("TENURE_REDIS_URL", "redis://localhost"),
                user,
                ("TENURE_REDIS_PASSWORD_FILE", "/run/secret"),
            ],
        ] {
            assert!(read_from(variables).is_ok());
        }
    }

    #[test]
    fn a_variable_that_cannot_be_read_is_an_error() {
        let error = read(|name| match name {
            "TENURE_REDIS_URL" => Ok(Some("redis://localhost".to_owned())),
            name => Err(Error::invalid(name, "is not UTF-8", "use UTF-8 text")),
        });
        assert!(error.is_err());
    }

    /// Mounts a Secret in a folder of that name.
    fn mount(root: &std::path::Path, name: &str, files: &[(&str, &str)]) {
        let folder = root.join(name);
        std::fs::create_dir(&folder).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join(file), text).unwrap();
        }
    }

    const SECRET: [(&str, &str); 7] = [
        ("type", "redis"),
        ("provider", "tenure\n"),
        ("uri", "redis://tenure.team-a:s3@redis:6379"),
        ("username", "tenure.team-a"),
        ("password", "s3"),
        ("TENURE_NAMESPACE", "team-a"),
        ("TENURE_REDIS_KEY_PREFIX", "staging"),
    ];

    #[tokio::test]
    async fn a_mounted_secret_has_all_settings() {
        let root = Folder::new();
        mount(&root.0, "other", &[("type", "redis"), ("provider", "someone")]);
        mount(&root.0, "access", &SECRET);
        let root = root.0.to_str().unwrap();
        let client = read_from(&[("SERVICE_BINDING_ROOT", root)])
            .unwrap()
            .connect_lazily()
            .unwrap();
        assert_eq!(
            (&*client.session.namespace, &*client.session.prefix),
            ("team-a", "staging")
        );
        // The environment has precedence.
        let variables = [
            ("SERVICE_BINDING_ROOT", root),
            ("TENURE_NAMESPACE", "team-b"),
            ("TENURE_REDIS_URL", "redis://localhost"),
        ];
        let client = read_from(&variables).unwrap().connect_lazily().unwrap();
        assert_eq!(
            (&*client.session.namespace, &*client.session.prefix),
            ("team-b", "tenure")
        );
    }

    #[test]
    fn a_binding_that_cannot_be_used_is_named_with_the_fix() {
        let error = |root: &std::path::Path| {
            let variables = [("SERVICE_BINDING_ROOT", root.to_str().unwrap())];
            read_from(&variables).map(drop).unwrap_err().to_string()
        };
        let root = Folder::new();
        let missing = error(&root.0.join("missing"));
        let none = error(&root.0);
        mount(&root.0, "access", &SECRET);
        std::fs::write(root.0.join("access/password"), "").unwrap();
        let empty = error(&root.0);
        std::fs::remove_file(root.0.join("access/uri")).unwrap();
        std::fs::write(root.0.join("access/password"), "s3").unwrap();
        let partly = error(&root.0);
        mount(&root.0, "again", &SECRET);
        let two = error(&root.0);
        for (error, named) in [
            (missing, "cannot be read"),
            (
                none,
                "no binding with the type redis and the provider tenure: mount the Secret tenure-access",
            ),
            (empty, "access/password: mount all keys"),
            (partly, "access/uri that can be read"),
            (two, "two bindings of Tenure"),
        ] {
            assert!(
                error.starts_with("SERVICE_BINDING_ROOT ") && error.contains(named),
                "{named}: {error}"
            );
        }
    }

    /// A folder that goes with the test.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new() -> Self {
            let name = format!("tenure-binding-{}", uuid::Uuid::new_v4());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn authorities_may_be_a_variable() {
        let variables = |pem| {
            [
                ("TENURE_REDIS_URL", "rediss://localhost"),
                ("TENURE_REDIS_CA", pem),
            ]
        };
        let error = read_from(&variables("no PEM"))
            .unwrap()
            .connect_lazily()
            .unwrap_err();
        assert!(error.to_string().contains("tls_ca"), "{error}");
    }

    #[tokio::test]
    async fn the_key_prefix_is_checked_as_that_of_a_builder() {
        let builder = read_from(&[
            ("TENURE_REDIS_URL", "redis://localhost"),
            ("TENURE_REDIS_KEY_PREFIX", "a b"),
        ]);
        let error = builder.unwrap().connect_lazily().unwrap_err();
        assert!(error.to_string().contains("key_prefix"), "{error}");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_client_certificate_needs_both_files() {
        for (set, absent) in [
            ("TENURE_REDIS_CLIENT_CERT_FILE", "TENURE_REDIS_CLIENT_KEY_FILE"),
            ("TENURE_REDIS_CLIENT_KEY_FILE", "TENURE_REDIS_CLIENT_CERT_FILE"),
        ] {
            let variables = [("TENURE_REDIS_URL", "rediss://localhost"), (set, "file.pem")];
            let error = read_from(&variables).map(drop).unwrap_err();
            assert!(error.to_string().starts_with(absent), "{error}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn a_variable_for_tls_names_the_missing_feature() {
        let variables = [
            ("TENURE_REDIS_URL", "redis://localhost"),
            ("TENURE_REDIS_CA_FILE", "ca.pem"),
        ];
        let error = read_from(&variables).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("TENURE_REDIS_CA_FILE") && error.contains("feature `tls`"),
            "{error}"
        );
    }
}
