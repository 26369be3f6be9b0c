//! TLS: whom to trust, and how to show who we are.

use std::{
    borrow::Cow,
    panic::{UnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{ClientTlsConfig, ConnectionInfo, TlsCertificates};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::Error;

/// Certificates or a private key, in PEM.
#[derive(Clone)]
pub(crate) enum Pem {
    Is(Arc<[u8]>),
    /// Is read at each connect.
    In(Arc<Path>),
}

impl Pem {
    pub(crate) fn file(path: impl Into<PathBuf>) -> Self {
        Self::In(path.into().into())
    }

    fn read(&self, field: &'static str) -> Result<Cow<'_, [u8]>, Error> {
        match self {
            Self::Is(pem) => Ok(Cow::Borrowed(pem)),
            Self::In(path) => std::fs::read(path).map(Cow::Owned).map_err(|error| {
                let problem = format!("is in {}, which cannot be read ({error})", path.display());
                Error::invalid(field, problem, "check the path and that this user may read it")
            }),
        }
    }
}

/// The settings of the builder.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// In place of the system's authorities.
    pub(crate) ca: Option<Pem>,
    pub(crate) client: Option<(Pem, Pem)>,
}

impl Tls {
    /// Returns whether certificates are given, which need a URL with TLS.
    pub(crate) fn is_given(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }

    /// Returns whether another connect may find other certificates.
    pub(crate) fn changes(&self) -> bool {
        let client = self
            .client
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        client.chain(&self.ca).any(|pem| matches!(pem, Pem::In(_)))
    }

    /// Reads files, and checks everything here, as the driver would take an empty file for no authority at all.
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<redis::Client, Error> {
        const CA: &str = "tls_ca";
        const CLIENT: &str = "tls_client_certificate";
        let fix = "use PEM, as in a file that begins with -----BEGIN";
        let certificates = |field, pem: &[u8]| {
            let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            match read {
                Ok(found) if !found.is_empty() => Ok(()),
                Ok(_) => Err(Error::invalid(field, "has no certificate", fix)),
                Err(error) => Err(Error::invalid(
                    field,
                    format!("has a bad certificate ({error})"),
                    fix,
                )),
            }
        };
        let root_cert = match &self.ca {
            Some(ca) => {
                let ca = ca.read(CA)?;
                certificates(CA, &ca)?;
                Some(ca.into_owned())
            }
            None => None,
        };
        let client_tls = match &self.client {
            Some((certificate, key)) => {
                let (certificate, key) = (certificate.read(CLIENT)?, key.read(CLIENT)?);
                certificates(CLIENT, &certificate)?;
                PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
                    Error::invalid(CLIENT, format!("has no usable private key ({error})"), fix)
                })?;
                Some(ClientTlsConfig {
                    client_cert: certificate.into_owned(),
                    client_key: key.into_owned(),
                })
            }
            None => None,
        };
        if CryptoProvider::get_default().is_none() {
            provided(|| drop(rustls::ClientConfig::builder()))?;
        }
        let certificates = TlsCertificates {
            client_tls,
            root_cert,
        };
        redis::Client::build_with_tls(info, certificates)
            .map_err(|error| Error::invalid(CA, format!("is not usable ({})", error.category()), fix))
    }
}

/// Checks that rustls has a provider of cryptography. `build` starts a configuration of rustls, as the driver does at each
/// connect: rustls selects the only provider that is compiled in, and panics if there are several or none. rustls has no
/// function that returns an error instead, so that the panic hook of the program still prints the panic.
fn provided(build: impl FnOnce() + UnwindSafe) -> Result<(), Error> {
    catch_unwind(build).map_err(|_panic| {
        Error::invalid(
            "url",
            "uses TLS, for which rustls has no default provider of cryptography",
            "install one in main, before the client connects: \
             rustls::crypto::ring::default_provider().install_default()",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_provider_is_selected_without_a_call_of_the_program() {
        let info = redis::IntoConnectionInfo::into_connection_info("rediss://127.0.0.1").unwrap();
        Tls::default().client(info).unwrap();
        assert!(CryptoProvider::get_default().is_some());
    }

    #[test]
    fn without_a_provider_the_error_names_the_call_to_make() {
        let error = provided(|| panic!("no process-level CryptoProvider")).unwrap_err();
        assert!(matches!(error, Error::InvalidInput { .. }), "{error:?}");
        assert!(
            error.to_string().contains("default_provider().install_default()"),
            "{error}"
        );
    }
}
