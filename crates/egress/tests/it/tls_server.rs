//! Servers with certificates of an authority of the test, on loopback addresses; they say what they saw.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Its certificate, as a PEM file.
    pub fn file(&self) -> &Path {
        self.file.path()
    }

    /// What a server with these names and addresses needs.
    fn server_config(&self, names: &[&str], alpn: &[&str]) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The address that was connected to.
    pub address: SocketAddr,
    /// The name in the TLS handshake.
    pub sni: Option<String>,
    /// The `Host` header, or the authority of HTTP/2.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// 2 or 1.
    pub http: u8,
    /// The number of the connection, counted from 1.
    pub connection: u64,
}

/// What a server answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// Never answers.
    pub hangs: bool,
}

impl Reply {
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn redirect(to: impl Into<String>) -> Self {
        Self { status: 302, headers: vec![("location", to.into())], ..Self::default() }
    }
}

type Answers = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A running server; it ends when this is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Server {
    /// A server at an address, with a certificate for these names, that speaks these protocols (`h2`, `http/1.1`).
    pub async fn start(
        address: &str,
        authority: &Authority,
        names: &[&str],
        alpn: &[&str],
        answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(names, alpn)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (answers, writes): (Answers, _) = (Arc::new(answers), Arc::clone(&seen));
        let tasks = Arc::clone(&connections);
        let count = AtomicU64::new(0);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let serving = serve(tcp, acceptor.clone(), Arc::clone(&answers), Arc::clone(&writes), number);
                tasks.lock().push(tokio::spawn(serving));
            }
        });
        Self { address, seen, task, connections }
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut(&self) {
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.seen.lock().last().cloned().unwrap()
    }

    /// The URL of a path, by a name.
    pub fn url(&self, name: &str, path: &str) -> String {
        format!("https://{name}:{}{path}", self.address.port())
    }
}

/// What a server answers to a request: bytes, whatever they are.
#[derive(Clone, Default)]
pub struct Script {
    /// What comes first.
    pub begin: Vec<u8>,
    /// What comes then, over and over, as long as the other side takes it.
    pub more: Vec<u8>,
    /// Time between the pieces.
    pub pause: Duration,
    /// Whether the connection is left open at the end of it, for the next request.
    pub stays: bool,
}

/// A running server that does not speak HTTP as it should; it ends when this is dropped.
pub struct RawServer {
    pub address: SocketAddr,
    /// Bytes that were taken of what comes over and over.
    pub taken: Arc<AtomicU64>,
    open: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawServer {
    /// A server at an address, with a certificate for these names; it chooses what it does after the head of a request.
    pub async fn start(
        address: &str,
        authority: &Authority,
        names: &[&str],
        script: impl Fn(&str) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(names, &["http/1.1"])));
        let (script, taken) = (Arc::new(script), Arc::new(AtomicU64::new(0)));
        let (open, _) = watch::channel(0);
        let (count, opened) = (Arc::clone(&taken), open.clone());
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, script, count) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&count));
                let open = opened.clone();
                open.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    if let Ok(mut tls) = acceptor.accept(tcp).await {
                        drop(play(&mut tls, script.as_ref(), &count).await);
                    }
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, taken, open, task }
    }

    /// Waits until the other side has let go of all connections.
    pub async fn left(&self) {
        self.open.subscribe().wait_for(|open| *open == 0).await.unwrap();
    }

    /// The URL of a path, by a name.
    pub fn url(&self, name: &str, path: &str) -> String {
        format!("https://{name}:{}{path}", self.address.port())
    }
}

async fn play(
    tls: &mut TlsStream<TcpStream>,
    script: &(impl Fn(&str) -> Script + Sync),
    taken: &AtomicU64,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            if tls.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let Script { begin, more, pause, stays } = script(&String::from_utf8_lossy(&head));
        tls.write_all(&begin).await?;
        while !more.is_empty() {
            tls.write_all(&more).await?;
            tls.flush().await?;
            taken.fetch_add(more.len() as u64, Ordering::SeqCst);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        tls.flush().await?;
        if !stays {
            return tls.shutdown().await;
        }
    }
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, answers: Answers, seen: Arc<Mutex<Vec<Seen>>>, number: u64) {
    let address = tcp.local_addr().unwrap();
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let sni = tls.get_ref().1.server_name().map(str::to_owned);
    let two = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let one = look(&request, address, sni.clone(), two, number);
        let reply = answers(&one);
        seen.lock().push(one);
        respond(reply)
    });
    if two {
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(served.serve_connection(TokioIo::new(tls), service).await);
    } else {
        let served = hyper::server::conn::http1::Builder::new();
        drop(served.serve_connection(TokioIo::new(tls), service).await);
    }
}

fn look(request: &Request<Incoming>, address: SocketAddr, sni: Option<String>, two: bool, number: u64) -> Seen {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
    let authority = request.uri().authority().map(ToString::to_string);
    Seen {
        address,
        sni,
        host: host.or(authority).unwrap_or_default(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: request.headers().clone(),
        http: if two { 2 } else { 1 },
        connection: number,
    }
}

async fn respond(reply: Reply) -> Result<Response<Full<Bytes>>, Infallible> {
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(reply.body)).unwrap())
}
