//! TLS for tests: [`Ca`] makes certificates of every kind, and [`TlsProxy`] speaks TLS in front of a server that does not.
//! The proxy can fall silent or end its connections.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// An authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

fn params(names: &[&str], years: (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .expect("names of a certificate");
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("authority"));
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

/// When a certificate holds that is good.
const ALWAYS: (i32, i32) = (2020, 2100);

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

impl Ca {
    /// A new authority.
    ///
    /// # Panics
    /// When its key cannot be made.
    pub fn new() -> Self {
        let mut params = params(&[], ALWAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these hosts.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_for(names, ALWAYS)
    }

    /// A certificate for these hosts between two years.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn sign_for(&self, names: &[&str], years: (i32, i32)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, years).signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

impl Identity {
    /// A certificate that nobody else signed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, ALWAYS).self_signed(&key).expect("a certificate").pem();
        Self { certificate, key: key.serialize_pem() }
    }

    /// Writes both into a folder: the paths of the certificate and of the key.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&certificate, &self.certificate).expect("a file for the certificate");
        std::fs::write(&key, &self.key).expect("a file for the key");
        (certificate, key)
    }

    /// A server with this certificate, which demands one of this authority from its clients if there is one.
    ///
    /// # Panics
    /// When the certificate cannot be used.
    pub fn serve(&self, clients: Option<&Ca>, only_tls12: bool) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = if only_tls12 { &[&TLS12] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
        let builder = builder.expect("versions of TLS");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("PEM")).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM");
        builder.with_single_cert(chain, key).expect("a certificate that fits its key")
    }
}

/// The fate of the connections.
#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    /// Those of an earlier one end.
    generation: u64,
    silent: bool,
}

/// Speaks TLS in front of a plain port, on a thread of its own.
#[derive(Debug)]
pub struct TlsProxy {
    port: u16,
    mode: Option<watch::Sender<Mode>>,
    carried: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TlsProxy {
    /// A proxy in front of this port.
    ///
    /// # Panics
    /// When there is no port for it.
    pub fn start(config: ServerConfig, upstream: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let port = listener.local_addr().expect("its address").port();
        let (mode, modes) = watch::channel(Mode::default());
        let carried = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&carried);
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
        let thread = thread::spawn(move || {
            executor.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let acceptor = TlsAcceptor::from(Arc::new(config));
                let mut ended = modes.clone();
                loop {
                    let client = tokio::select! {
                        client = listener.accept() => client,
                        changed = ended.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    };
                    let Ok((client, _)) = client else { continue };
                    tokio::spawn(carry(client, upstream, acceptor.clone(), modes.clone(), Arc::clone(&count)));
                }
            });
        });
        Self { port, mode: Some(mode), carried, thread: Some(thread) }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections came through the handshake.
    pub fn carried(&self) -> usize {
        self.carried.load(Ordering::Acquire)
    }

    /// Ends every connection that there is.
    pub fn cut(&self) {
        self.change(|mode| mode.generation += 1);
    }

    /// Lets nothing through any more, in either direction, without a word; or again.
    pub fn silence(&self, silent: bool) {
        self.change(|mode| mode.silent = silent);
    }

    fn change(&self, change: impl FnOnce(&mut Mode)) {
        if let Some(mode) = &self.mode {
            mode.send_modify(change);
        }
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.mode = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn carry(
    client: TcpStream,
    upstream: u16,
    acceptor: TlsAcceptor,
    mut modes: watch::Receiver<Mode>,
    carried: Arc<AtomicUsize>,
) -> io::Result<()> {
    let born = modes.borrow_and_update().generation;
    let _ = modes.wait_for(|mode| !mode.silent || mode.generation != born).await;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await?;
    carried.fetch_add(1, Ordering::AcqRel);
    loop {
        let Mode { generation, silent } = *modes.borrow_and_update();
        if generation != born {
            return Ok(());
        }
        tokio::select! {
            changed = modes.changed() => if changed.is_err() {
                return Ok(());
            },
            ended = copy_bidirectional(&mut client, &mut server), if !silent => return ended.map(drop),
        }
    }
}
