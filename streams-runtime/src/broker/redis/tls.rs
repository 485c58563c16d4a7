//! TLS to the server (feature `tls`): trusted authorities, the client's certificate, and the meaning of errors;
//! `connection` logs in.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redis::RedisError;
use streams_core::broker::{BrokerError, BrokerErrorKind};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::call::io_error;
use super::line::{Line, in_time};

use crate::sync::lock;

/// The largest certificate file that is read. The whole list of a system's authorities has a quarter of it.
const MAX_FILE: u64 = 1024 * 1024;

const CLIENT_REMEDY: &str = "give one with STREAMS_TLS_CERT and STREAMS_TLS_KEY, or `Tls::client_files`";
const CA_REMEDY: &str = "name the authority that signed it with STREAMS_TLS_CA, or `Tls::ca_file`";

/// Trust in a `rediss://` server, and the program's own certificate; for [`Redis::open_with`](super::Redis::open_with).
///
/// By default the server must show a certificate of an authority that this machine's system trusts. It must be valid
/// now, for the host in the URL. On Linux the authorities are OpenSSL's files, or those that `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name. TLS 1.2 and 1.3 come from rustls with ring; other TLS libraries of the program play no part.
///
/// ```no_run
/// use std::sync::Arc;
/// use streams_runtime::{App, Publisher, broker::{Redis, Tls}};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::new().ca_file("/etc/redis/ca.pem").client_files("/etc/redis/me.pem", "/etc/redis/me.key");
/// let broker = Arc::new(Redis::open_with("rediss://redis.internal:6380/", &tls)?);
/// let publisher = Publisher::new(broker.clone());
/// let stopped = App::linked().broker(broker).run().await?;
/// # Ok(()) }
/// ```
///
/// # Files that are renewed
///
/// The broker reads the files when it is opened, and checks them at each new connection, so a rewritten file renews a
/// short-lived client certificate. While the files cannot be used, the last good ones stay in use, and a warning gives
/// the reason.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    ca: Option<Source>,
    /// The certificate with its chain, and its key.
    client: Option<(Source, Source)>,
    insecure: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    /// With the option that named it, for messages.
    File(PathBuf, &'static str),
    Pem(Vec<u8>, &'static str),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca)
            .field("client", &self.client)
            .field("insecure", &self.insecure)
            .finish()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => path.fmt(f),
            Self::Pem(..) => f.write_str("PEM, not shown"),
        }
    }
}

impl Tls {
    /// Trusts what the system trusts, and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this PEM file, and no others.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Source::File(path.into(), "Tls::ca_file"));
        self
    }

    /// Trusts the authorities in this PEM text, and no others.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Source::Pem(pem.into(), "Tls::ca_pem"));
        self
    }

    /// Shows the certificate in the first PEM file, with the authorities between it and the server's if there are any.
    /// The second file holds its key, without a passphrase.
    #[must_use]
    pub fn client_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let named = "Tls::client_files";
        self.client = Some((Source::File(certificate.into(), named), Source::File(key.into(), named)));
        self
    }

    /// As [`client_files`](Self::client_files), from PEM texts.
    #[must_use]
    pub fn client_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let named = "Tls::client_pem";
        self.client = Some((Source::Pem(certificate.into(), named), Source::Pem(key.into(), named)));
        self
    }

    /// Lets a URL that ends in `#insecure` turn off every check of the server's certificate. An attacker on the network
    /// can then read and change everything, the password included. Use it on your own machine; no variable can set it.
    #[must_use]
    pub fn allow_insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// The options from `STREAMS_TLS_CA`, `STREAMS_TLS_CERT` and `STREAMS_TLS_KEY`.
    pub(crate) fn from_variables(ca: Option<&Path>, client: Option<(&Path, &Path)>) -> Self {
        let file = |path: &Path, named| Source::File(path.to_owned(), named);
        Self {
            ca: ca.map(|path| file(path, "STREAMS_TLS_CA")),
            client: client.map(|(cert, key)| (file(cert, "STREAMS_TLS_CERT"), file(key, "STREAMS_TLS_KEY"))),
            insecure: false,
        }
    }

    fn read(&self) -> Result<Material, BrokerError> {
        let client = self.client.as_ref().map(|(certificate, key)| Ok((certificate.read()?, key.read()?)));
        Ok(Material { ca: self.ca.as_ref().map(Source::read).transpose()?, client: client.transpose()? })
    }

    /// A configuration from the files. It names ring rather than the process-wide default, which is the program's own
    /// choice. Asking for the default panics if two providers are linked and none was chosen.
    fn config(&self, material: &Material, checked: bool) -> Result<ClientConfig, BrokerError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused("TLS cannot be used".to_owned()).caused_by(error))?;
        let builder = if checked {
            let roots = match (&self.ca, &material.ca) {
                (Some(source), Some(pem)) => source.authorities(pem)?,
                _ => system_roots()?,
            };
            builder.with_root_certificates(roots)
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider.signature_verification_algorithms)))
        };
        match (&self.client, &material.client) {
            (Some((certificate, key)), Some((chain_pem, key_pem))) => {
                let (chain, private) = (certificate.chain(chain_pem)?, key.key(key_pem)?);
                // The error may be about the certificate or the key, and shows nothing of the key.
                builder.with_client_auth_cert(chain, private).map_err(|error| {
                    refused(format!("the key of {key} does not serve the certificate of {certificate}"))
                        .caused_by(error)
                })
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

/// The contents of the files.
#[derive(PartialEq, Eq)]
struct Material {
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, named) => write!(f, "{named} (`{}`)", path.display()),
            Self::Pem(_, named) => f.write_str(named),
        }
    }
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, BrokerError> {
        let path = match self {
            Self::Pem(pem, _) => return Ok(pem.clone()),
            Self::File(path, _) => path,
        };
        let mut pem = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut pem));
        match read {
            Ok(_) if pem.len() as u64 > MAX_FILE => Err(refused(format!("{self} is larger than 1 MiB; is it PEM?"))),
            Ok(_) => Ok(pem),
            Err(error) => Err(refused(format!("{self} cannot be read: {error}")).caused_by(error)),
        }
    }

    /// The certificates in it, at least one.
    fn chain(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| {
            refused(format!("{self} holds a certificate that is damaged")).caused_by(error.to_string())
        })?;
        if chain.is_empty() {
            return Err(refused(format!("{self} holds no certificate; expected PEM (`-----BEGIN CERTIFICATE-----`)")));
        }
        Ok(chain)
    }

    fn authorities(&self, pem: &[u8]) -> Result<RootCertStore, BrokerError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.chain(pem)? {
            roots
                .add(certificate)
                .map_err(|error| refused(format!("{self} holds a certificate that is damaged")).caused_by(error))?;
        }
        Ok(roots)
    }

    fn key(&self, pem: &[u8]) -> Result<PrivateKeyDer<'static>, BrokerError> {
        // The message leaves the error out, which might repeat a line of the file.
        PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
            refused(format!("{self} holds no private key; expected PEM (PKCS#8, PKCS#1 or SEC1) without a passphrase"))
        })
    }
}

/// The system's authorities. Those that rustls cannot read are left out, as there are always some.
fn system_roots() -> Result<RootCertStore, BrokerError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let error = refused(format!(
            "this system has no authorities to trust (on Linux the package ca-certificates brings them); {CA_REMEDY}"
        ));
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.caused_by(cause),
            None => error,
        });
    }
    Ok(roots)
}

/// Accepts any certificate: the connection is private, but the peer is unknown.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// A TLS URL in the crate's form, without its TLS parts, and whether it ends in `#insecure`.
pub(super) fn split(url: &str) -> Option<(String, bool)> {
    let (scheme, rest) = match url.split_once("://")? {
        ("rediss", rest) => ("redis", rest),
        ("valkeys", rest) => ("valkey", rest),
        _ => return None,
    };
    let (rest, insecure) = match rest.strip_suffix("#insecure") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    Some((format!("{scheme}://{rest}"), insecure))
}

/// Makes the TLS handshakes with one server.
pub(super) struct Shaker {
    tls: Tls,
    checked: bool,
    host: String,
    name: ServerName<'static>,
    made: Mutex<(Material, Arc<ClientConfig>)>,
}

impl Shaker {
    pub(super) fn new(tls: &Tls, insecure: bool, host: &str, port: u16) -> Result<Self, BrokerError> {
        if insecure && !tls.insecure {
            return Err(refused(
                "the Redis URL ends in #insecure, which would let anybody read the conversation; remove it, or let the \
                 program say `Tls::allow_insecure`"
                    .to_owned(),
            ));
        }
        if insecure {
            tracing::warn!(
                host,
                port,
                "the server's certificate is not checked (#insecure): an attacker can read everything"
            );
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused(format!("`{host}` in the Redis URL is no host name that a certificate can hold")))?;
        let material = tls.read()?;
        let config = Arc::new(tls.config(&material, !insecure)?);
        let made = Mutex::new((material, config));
        Ok(Self { tls: tls.clone(), checked: !insecure, host: host.to_owned(), name, made })
    }

    /// The configuration, read anew when the files have changed.
    fn config(&self) -> Arc<ClientConfig> {
        let mut made = lock(&self.made);
        let renewed = self.tls.read().and_then(|material| {
            if material == made.0 {
                return Ok(None);
            }
            let config = self.tls.config(&material, self.checked)?;
            Ok(Some((material, Arc::new(config))))
        });
        match renewed {
            Ok(None) => {}
            Ok(Some(renewed)) => {
                tracing::info!(host = self.host, "certificates were renewed");
                *made = renewed;
            }
            Err(error) => {
                tracing::warn!(host = self.host, %error, "certificates cannot be renewed; those read before are used")
            }
        }
        Arc::clone(&made.1)
    }

    /// Makes a handshake over a line.
    pub(super) async fn shake(&self, line: Line, deadline: Instant) -> io::Result<TlsStream<Line>> {
        in_time(deadline, TlsConnector::from(self.config()).connect(self.name.clone(), line)).await
    }

    /// The meaning of a failed handshake, with the remedy. Each cause may pass when somebody repairs the server, so it
    /// halts nothing that runs.
    pub(super) fn explain(&self, error: &io::Error) -> String {
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
        if error.kind() == io::ErrorKind::TimedOut {
            return "the server did not answer in TLS in time; is it the TLS port? A plain one is written redis://"
                .to_owned();
        }
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return format!(
                "the server ended the connection in the TLS handshake; is it the TLS port (a plain one is written \
                 redis://), and does its maxclients leave room; {}",
                self.about_client()
            );
        };
        let host = &self.host;
        match error {
            InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "the server's certificate has expired; renew it there, or set the clock of this machine".to_owned()
            }
            InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                "the server's certificate is not valid yet; set the clock of this machine, or of the one that made it"
                    .to_owned()
            }
            InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                format!(
                    "the server's certificate is not for `{host}`; write a name in REDIS_URL that it holds as \
                     subjectAltName, or have one made for this name"
                )
            }
            // An authority may have the name of another one; then its signature is wrong.
            InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                format!("the server's certificate is signed by itself, or by an authority that is not trusted; {CA_REMEDY}")
            }
            InvalidCertificate(_) => {
                "the server's certificate cannot be used; have another one made, or see the cause".to_owned()
            }
            InvalidMessage(_) => {
                "what answers there does not speak TLS; name the TLS port in REDIS_URL (a plain one is written redis://)"
                    .to_owned()
            }
            AlertReceived(alert) => self.alert(*alert),
            _ => "the TLS handshake failed; see the cause".to_owned(),
        }
    }

    /// The server's complaint.
    fn alert(&self, alert: AlertDescription) -> String {
        match (self.tls.client.is_some(), alert) {
            (false, AlertDescription::CertificateRequired) => {
                format!("the server demands a client certificate; {CLIENT_REMEDY}")
            }
            (false, _) => format!(
                "the server refused the TLS handshake ({alert:?}); if it demands a client certificate, {CLIENT_REMEDY}"
            ),
            (true, _) => format!(
                "the server refused the TLS handshake ({alert:?}); is the client certificate still valid, and signed by \
                 an authority that the server trusts?"
            ),
        }
    }

    /// The meaning of a connection that ended after the handshake before the server sent anything. In TLS 1.3 the
    /// client ends its handshake before the server checks the client's certificate.
    pub(super) fn ended(&self, error: &RedisError) -> String {
        let inner =
            io_error(error).and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return self.alert(*alert);
        }
        format!("the server ended the connection after the TLS handshake; {}", self.about_client())
    }

    /// The doubt about the client's certificate when a server gives no reason.
    fn about_client(&self) -> String {
        match self.tls.client {
            None => format!("if it demands a client certificate, {CLIENT_REMEDY}"),
            Some(_) => {
                "is the client certificate still valid, and signed by an authority that the server trusts?".to_owned()
            }
        }
    }
}

fn refused(message: String) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Refused, message)
}
