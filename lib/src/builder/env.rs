//! The settings of a client in the environment, with the names that the controller uses, too.

use std::env::VarError;

use crate::{Client, ClientBuilder, Error, FileCredentials};

impl Client {
    /// Sets up a client with the settings of the environment. A variable that is set to nothing counts as absent.
    ///
    /// | variable | setting |
    /// |---|---|
    /// | `TENURE_REDIS_URL` | the URL, as of [`Client::builder`]; required |
    /// | `TENURE_REDIS_USERNAME` | the ACL user, if it does not stand in the URL |
    /// | `TENURE_REDIS_PASSWORD_FILE` | a file with the password, such as a mounted Secret: see [`FileCredentials`] |
    /// | `TENURE_REDIS_CA_FILE` | a file with certificate authorities; needs the feature `tls` |
    /// | `TENURE_REDIS_CLIENT_CERT_FILE`, `TENURE_REDIS_CLIENT_KEY_FILE` | files with a client certificate and its key; need the feature `tls` |
    /// | `TENURE_REDIS_KEY_PREFIX` | [`ClientBuilder::key_prefix`] |
    /// | `POD_NAME`, `POD_NAMESPACE`, `POD_UID` | [`Identity::from_env`](crate::Identity::from_env), and the namespace of the objects |
    ///
    /// # Errors
    /// [`Error::InvalidInput`] names the variable.
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
    let url = variable("TENURE_REDIS_URL")?.ok_or_else(|| {
        Error::invalid(
            "TENURE_REDIS_URL",
            "is not set",
            "set it to the URL of Redis, such as redis://redis.tenure:6379",
        )
    })?;
    let mut builder = Client::builder(&url);
    let username = variable("TENURE_REDIS_USERNAME")?;
    if let Some(file) = variable("TENURE_REDIS_PASSWORD_FILE")? {
        let mut credentials = FileCredentials::new(file);
        if let Some(username) = username {
            credentials = credentials.username(&username);
        }
        builder = builder.credentials(credentials);
    } else if let Some(username) = username {
        // A URL without @ has no part for credentials, and so no password.
        if !url.contains('@') {
            let fix = "set TENURE_REDIS_PASSWORD_FILE, too, or put user and password into TENURE_REDIS_URL";
            return Err(Error::invalid(
                "TENURE_REDIS_USERNAME",
                "is set, and there is no password",
                fix,
            ));
        }
        builder = builder.username(username);
    }
    builder = with_tls(builder, &variable)?;
    if let Some(prefix) = variable("TENURE_REDIS_KEY_PREFIX")? {
        builder = builder.key_prefix(prefix);
    }
    Ok(builder)
}

#[cfg(feature = "tls")]
fn with_tls(
    mut builder: ClientBuilder,
    variable: &impl Fn(&'static str) -> Variable,
) -> Result<ClientBuilder, Error> {
    if let Some(file) = variable("TENURE_REDIS_CA_FILE")? {
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
    variable: &impl Fn(&'static str) -> Variable,
) -> Result<ClientBuilder, Error> {
    for name in [
        "TENURE_REDIS_CA_FILE",
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
