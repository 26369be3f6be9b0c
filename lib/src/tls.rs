//! TLS: whom to trust, and how to show who we are.

use redis::{ClientTlsConfig, ConnectionInfo, TlsCertificates};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::Error;

/// What the builder was told, all in PEM.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// In place of the system's authorities.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Itself, where the URL asks for TLS.
    pub(crate) fn wanted(&self, secure: bool) -> Result<Option<Self>, Error> {
        if secure {
            return Ok(Some(self.clone()));
        }
        if self.ca.is_some() || self.client.is_some() {
            let problem = "is not one for TLS, but certificates are given";
            return Err(crate::wire::address::unusable(problem));
        }
        Ok(None)
    }

    /// Checks everything here, as the driver would take an empty file for no authority at all.
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
        if let Some(ca) = &self.ca {
            certificates(CA, ca)?;
        }
        if let Some((certificate, key)) = &self.client {
            certificates(CLIENT, certificate)?;
            PrivateKeyDer::from_pem_slice(key).map_err(|error| {
                Error::invalid(CLIENT, format!("has no usable private key ({error})"), fix)
            })?;
        }
        // An error means that the program has chosen one itself.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = TlsCertificates {
            client_tls: self
                .client
                .clone()
                .map(|(client_cert, client_key)| ClientTlsConfig {
                    client_cert,
                    client_key,
                }),
            root_cert: self.ca.clone(),
        };
        redis::Client::build_with_tls(info, certificates)
            .map_err(|error| Error::invalid(CA, format!("is not usable ({})", error.category()), fix))
    }
}
