//! TLS over a connection: with a server that has to be trusted, or only to see the certificate that it shows.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::probe::{NETWORK_TEXT_LIMIT, clean};

/// Where Debian has the authorities that the system trusts (update-ca-certificates(8)).
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A connection to a server whose certificate is for this name, and vouched for by one of these authorities (a PEM file).
pub(super) async fn trusted(stream: TcpStream, name: &str, authorities: Option<&str>) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    let file = authorities.unwrap_or(SYSTEM);
    let read = CertificateDer::pem_file_iter(file).map_err(|e| format!("no authorities from {file}: {e}"))?;
    roots.add_parsable_certificates(read.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(format!("no authorities from {file}: no certificate is in it"));
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    connect(stream, name, config).await
}

/// The certificate that a server shows, whatever it is worth.
pub(super) async fn shown(stream: TcpStream, name: &str) -> Result<CertificateDer<'static>, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    let stream = connect(stream, name, config).await?;
    let (_, session) = stream.get_ref();
    let first = session.peer_certificates().and_then(<[_]>::first);
    first.map(|shown| shown.clone().into_owned()).ok_or_else(|| "no certificate".to_owned())
}

async fn connect(stream: TcpStream, name: &str, config: ClientConfig) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("`{name}`, which no certificate can be for"))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
            "connection closed in the TLS handshake".to_owned()
        }
        _ => format!("no TLS: {}", clean(&e.to_string(), NETWORK_TEXT_LIMIT)),
    })
}

/// Takes every certificate: it is looked at afterwards, and nothing is said over such a connection.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
