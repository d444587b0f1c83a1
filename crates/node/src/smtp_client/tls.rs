//! TLS towards mail exchangers.
//!
//! **Promise.** TLS 1.2 and 1.3 only (RFC 8996), by the aws-lc-rs provider given explicitly, so no
//! process-wide default is needed. Two shared configurations: one takes any certificate, as
//! opportunistic TLS must (the signature of the handshake is still checked); the other checks it
//! against the system's roots (or those of the configuration) and the MX host's name. Each remembers TLS sessions by MX host name,
//! so that further connections to a host resume.

use core::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How many hosts' TLS sessions are remembered.
const REMEMBERED_HOSTS: usize = 4_096;

/// What was negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Protocol version, for example `TLSv1_3`.
    pub version: String,
    /// Cipher suite, for example `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether the certificate was checked against roots and name.
    pub verified: bool,
}

/// The shared TLS configurations.
#[derive(Clone, Debug)]
pub struct TlsClients {
    provider: Arc<CryptoProvider>,
    any: Arc<ClientConfig>,
    /// Certificates that are trusted in place of the system's.
    roots: Option<PathBuf>,
    /// Made when first needed: it reads the roots.
    verified: Arc<OnceLock<Result<Arc<ClientConfig>, String>>>,
}

impl TlsClients {
    /// Configurations with the aws-lc-rs provider.
    ///
    /// # Errors
    /// When the provider does not support the protocol versions.
    pub fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyCertificate { provider: Arc::clone(&provider) });
        let any = Arc::new(configuration(&provider, verifier)?);
        Ok(Self { provider, any, roots: None, verified: Arc::default() })
    }

    /// Trusts the certificates of this PEM file in place of the system's.
    #[must_use]
    pub fn with_roots(mut self, roots: Option<PathBuf>) -> Self {
        self.roots = roots;
        self
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// What failed, for people.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        host: &str,
        address: IpAddr,
        verify: bool,
    ) -> Result<(TlsStream<TcpStream>, TlsFacts), String> {
        let configuration = if verify { self.verifying()? } else { Arc::clone(&self.any) };
        // A relay may be given by its address, or a host may have a name that TLS cannot ask for.
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .unwrap_or(ServerName::IpAddress(address.into()));
        let stream = TlsConnector::from(configuration)
            .connect(name, stream)
            .await
            .map_err(|fault| fault.to_string())?;
        let (_, connection) = stream.get_ref();
        let facts = TlsFacts {
            version: connection.protocol_version().map_or(String::new(), |v| format!("{v:?}")),
            cipher: connection
                .negotiated_cipher_suite()
                .map_or(String::new(), |suite| format!("{:?}", suite.suite())),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            verified: verify,
        };
        Ok((stream, facts))
    }

    /// The configuration that checks certificates.
    fn verifying(&self) -> Result<Arc<ClientConfig>, String> {
        let made = self.verified.get_or_init(|| {
            let verifier: Arc<dyn ServerCertVerifier> = match &self.roots {
                Some(file) => self.verifier_of(file)?,
                None => {
                    let verifier =
                        rustls_platform_verifier::Verifier::new(Arc::clone(&self.provider));
                    Arc::new(verifier.map_err(|fault| {
                        format!("cannot read the system's root certificates: {fault}")
                    })?)
                }
            };
            configuration(&self.provider, verifier).map(Arc::new).map_err(|fault| fault.to_string())
        });
        made.clone()
    }
}

impl TlsClients {
    /// A verifier that trusts the certificates of a PEM file.
    fn verifier_of(&self, file: &Path) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let place = file.display();
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(file)
            .map_err(|fault| format!("cannot read {place}: {fault}"))?;
        for certificate in certificates {
            let certificate =
                certificate.map_err(|fault| format!("{place} holds no certificate: {fault}"))?;
            roots.add(certificate).map_err(|fault| format!("{place}: {fault}"))?;
        }
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|fault| format!("{place}: {fault}"))?;
        Ok(verifier)
    }
}

/// A client configuration around a verifier.
fn configuration(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    let mut configuration = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    configuration.resumption = Resumption::in_memory_sessions(REMEMBERED_HOSTS);
    Ok(configuration)
}

/// Takes any certificate, but not a handshake that its key did not sign.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
