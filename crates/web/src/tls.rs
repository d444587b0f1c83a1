//! The certificate of a listener: TLS 1.2 and 1.3 by rustls with aws-lc-rs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain in PEM form, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key in PEM form.
    pub key: PathBuf,
}

/// A certificate that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot use {}: {why}", path.display())]
pub struct CertificateFault {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// The certificate of listeners, which another one can take the place of while they serve.
#[derive(Clone)]
pub struct Certificate {
    files: TlsFiles,
    acceptor: Arc<RwLock<TlsAcceptor>>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, holds something else, or key and certificate do not belong together.
    pub fn read(files: TlsFiles) -> Result<Self, CertificateFault> {
        let acceptor = Arc::new(RwLock::new(acceptor(&files)?));
        Ok(Self { files, acceptor })
    }

    /// Reads the files again, as after a renewal. Connections that are open stay as they are.
    ///
    /// # Errors
    /// As [`Certificate::read`]; then the certificate before stays.
    pub fn read_again(&self) -> Result<(), CertificateFault> {
        let new = acceptor(&self.files)?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// For the next handshake.
    pub(crate) fn current(&self) -> TlsAcceptor {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS with what is in the files.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, CertificateFault> {
    let fault = |path: &PathBuf, why: String| CertificateFault { path: path.clone(), why };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| fault(&files.certificate, why.to_string()))?;
    if chain.is_empty() {
        return Err(fault(&files.certificate, "it holds no certificate in PEM form".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|why| fault(&files.key, why.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|why| fault(&files.certificate, why.to_string()))?;
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(configuration)))
}
