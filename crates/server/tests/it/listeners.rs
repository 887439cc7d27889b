//! Listeners: TLS with HTTP/1.1 and 2, parts of the server, Unix sockets, addresses that are taken.

use std::path::Path;
use std::sync::Arc;

use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::program::{Program, ask, run};

const VERSIONS: &str = "/_matrix/client/versions";

fn certificate(folder: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["hearth.test".to_owned()]).unwrap();
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate.display().to_string(), key.display().to_string())
}

async fn connect(
    certificate: &str,
    address: &str,
    alpn: &[u8],
) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("hearth.test").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    stream
}

#[tokio::test]
async fn tls_speaks_both_versions_of_http() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let listeners =
        format!("listeners=[{{ address = '127.0.0.1:0', tls = {{ certificate = '{certificate}', key = '{key}' }} }}]");
    let program = Program::start_with(folder.path(), &[&listeners]);
    let address = program.url.strip_prefix("https://").unwrap();

    let mut plain = connect(&certificate, address, b"http/1.1").await;
    let request = format!("GET {VERSIONS} HTTP/1.1\r\nHost: hearth.test\r\nConnection: close\r\n\r\n");
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The peer may close without a farewell of TLS: what counts is what it said.
    drop(plain.read_to_string(&mut answer).await);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let stream = TokioIo::new(connect(&certificate, address, b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://hearth.test{VERSIONS}")).body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("v1.11"));
}

#[tokio::test]
async fn a_wrong_certificate_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, _) = certificate(folder.path());
    let listeners = format!(
        "listeners=[{{ address = '127.0.0.1:0', tls = {{ certificate = '{certificate}', key = '{certificate}' }} }}]"
    );
    let (code, said) = run(folder.path(), &["serve"], &[&listeners]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("certificate.pem"), "{said}");
}

#[tokio::test]
async fn a_listener_serves_its_own_parts_alone() {
    let folder = tempfile::tempdir().unwrap();
    let program =
        Program::start_with(folder.path(), &["listeners=[{ address = '127.0.0.1:0', resources = ['client'] }]"]);
    assert_eq!(program.get(VERSIONS).await.0, 200);
    assert_eq!(program.get("/health").await.0, 200);
    for path in ["/metrics", "/_synapse/admin/v1/register", "/_matrix/media/v3/config", "/_hearth/first-account"] {
        let (status, body) = program.get(path).await;
        assert_eq!((status, body["errcode"].as_str()), (404, Some("M_UNRECOGNIZED")), "{path}");
    }
    assert_eq!(program.first_account_link(), None);
    assert!(program.printed.contains("hearth user create"), "{}", program.printed);
}

#[tokio::test]
async fn a_unix_socket_serves_and_a_stale_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    // A socket file that nobody listens on, as a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listeners = format!("listeners=[{{ address = 'unix:{}' }}]", socket.display());
    let mut program = Program::start_with(folder.path(), &[&listeners]);
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let request = format!("GET {VERSIONS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(program.stop().success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn an_address_that_is_taken_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let address = program.url.strip_prefix("http://").unwrap();
    let (code, said) = run(other.path(), &["serve"], &[&format!("listeners=[{{ address = '{address}' }}]")]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains(address), "{said}");
}

#[tokio::test]
async fn cb1_cb2_hold_for_the_whole_server() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let check = async |method: Method, path: &str, status: u16| {
        let response = ask(method.clone(), &format!("{}{path}", program.url), "").await;
        assert_eq!(response.status(), status, "{method} {path}: {}", response.body());
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "{method} {path}");
        let json: serde_json::Value = serde_json::from_str(response.body()).unwrap_or_default();
        let unrecognized = json["errcode"] == "M_UNRECOGNIZED";
        assert_eq!(unrecognized, [404, 405].contains(&status), "{method} {path}: {json}");
    };
    for path in [
        "none",
        "client/v3/none",
        "client/none",
        "key/v2/none",
        "key/v2",
        "media/v3/none",
        "media/none",
        "policy/v1/none",
        "policy/none",
        "federation/v1/none",
        "federation/none",
        "app/v1/none",
        "identity/v2/none",
        "push/v1/none",
    ] {
        for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE] {
            check(method, &format!("/_matrix/{path}"), 404).await;
        }
    }
    for (method, path) in [
        (Method::POST, VERSIONS),
        (Method::POST, "/_matrix/client/v3/sync"),
        (Method::GET, "/_matrix/media/v3/upload"),
        (Method::POST, "/_matrix/media/v3/config"),
        (Method::POST, "/_matrix/key/v2/server"),
        (Method::POST, "/_matrix/federation/v1/version"),
        (Method::GET, "/_matrix/federation/v1/send/1"),
    ] {
        check(method, path, 405).await;
    }
    check(Method::OPTIONS, "/_matrix/client/v3/none", 200).await;
    check(Method::OPTIONS, "/_matrix/client/v3/sync", 200).await;
    check(Method::HEAD, VERSIONS, 200).await;
    check(Method::GET, "/_matrix/client/v3/capabilities", 401).await;
}

#[tokio::test]
async fn a_refusal_is_heard_also_by_who_still_sends() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let address = program.url.strip_prefix("http://").unwrap();
    // Far more than the buffers between the two hold.
    let body = vec![b'x'; 24 * 1024 * 1024];
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PUT /_matrix/client/v3/profile/x/displayname HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
}

#[tokio::test]
async fn cb12_versions_need_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let (status, body) = program.get(VERSIONS).await;
    assert_eq!(status, 200);
    let versions: Vec<&str> = body["versions"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
    assert!(versions.contains(&"v1.11"), "{body}");
    assert!(body["unstable_features"].as_object().unwrap().values().all(|flag| flag.is_boolean()), "{body}");
    // A token that is not known changes nothing.
    assert_eq!(program.get(&format!("{VERSIONS}?access_token=nobody")).await, (200, body));
}
