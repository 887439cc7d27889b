//! Previews of URLs over HTTP: a whole server, and sites that listen on loopback addresses (behaviour CM11).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as Asked;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use http::{Method, Request};
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::encoded;
use tokio::net::TcpListener;

use super::in_process::{Here, start};

/// What a site answers to a path.
type Answers = Arc<dyn Fn(&str) -> Response + Send + Sync>;

/// A site. What it was asked for, and with which headers, is shown to the test.
struct Site {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Site {
    /// One at an address of this machine.
    async fn at(ip: &str, answers: impl Fn(&str) -> Response + Send + Sync + 'static) -> Self {
        let (asked, answers) = (Arc::<Mutex<Vec<(String, HeaderMap)>>>::default(), Arc::new(answers) as Answers);
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::clone(&asked);
        let routes = Router::new().fallback(move |request: Asked| {
            let path = request.uri().path().to_owned();
            heard.lock().push((path.clone(), request.headers().clone()));
            let answer = answers(&path);
            async move { answer }
        });
        let served = axum::serve(listener, routes);
        tokio::spawn(async move { served.await.unwrap() });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock()).into_iter().map(|(path, _)| path).collect()
    }
}

fn html(body: impl Into<String>) -> Response {
    ([("content-type", "text/html")], body.into()).into_response()
}

fn redirect(to: &str) -> Response {
    (axum::http::StatusCode::FOUND, [("location", to)]).into_response()
}

/// A picture of one pixel.
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// A server that may look at sites on 127.0.0.1, and on no other address of this machine.
async fn server(settings: &[&str]) -> (Here, String) {
    let reachable = "url_previews.allowed_private_ranges=[\"127.0.0.1\"]";
    let here = start(&[&[reachable], settings].concat()).await;
    let token = here.person("alice").await;
    (here, token)
}

async fn look(here: &Here, token: &str, url: &str) -> (u16, Value) {
    get(here, token, &format!("/_matrix/client/v1/media/preview_url?url={}", encoded(url))).await
}

async fn get(here: &Here, token: &str, path: &str) -> (u16, Value) {
    let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
    let answer = here.raw(request.body(Body::empty()).unwrap()).await;
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
}

fn refused(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn cm11_a_link_is_previewed_with_its_image() {
    let site = Site::at("127.0.0.1", |path| match path {
        "/" => html("<meta charset=utf-8><title>Grüße</title><meta property=og:image content=/i.gif>"),
        "/i.gif" => ([("content-type", "image/gif")], GIF).into_response(),
        _ => redirect("/"),
    })
    .await;
    let (here, token) = server(&["url_previews.languages=[\"de\", \"en;q=0.5\"]"]).await;
    let (status, preview) = look(&here, &token, &site.url("/elsewhere")).await;
    assert_eq!((status, preview["og:title"].as_str()), (200, Some("Grüße")), "{preview}");
    assert_eq!((&preview["og:image:width"], &preview["matrix:image:size"]), (&json!(1), &json!(GIF.len())));
    {
        let asked = site.asked.lock();
        let (path, headers) = &asked[0];
        assert_eq!((asked.len(), path.as_str()), (3, "/elsewhere"));
        assert!(headers["user-agent"].to_str().unwrap().starts_with("Hearth/"), "who asks is told");
        assert_eq!(headers["accept-language"], "de,en;q=0.5");
        assert!(
            !headers.contains_key("authorization")
                && !headers.contains_key("cookie")
                && !headers.contains_key("referer")
        );
    }
    site.asked();
    let image = preview["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap();
    let request = Request::builder().uri(format!("/_matrix/client/v1/media/download/{image}"));
    let request = request.header("authorization", format!("Bearer {token}"));
    assert_eq!(here.raw(request.body(Body::empty()).unwrap()).await.body(), GIF);
    for old in ["v3", "r0", "v1"] {
        let path = format!("/_matrix/media/{old}/preview_url?ts=1&url={}", encoded(&site.url("/elsewhere")));
        assert_eq!(get(&here, &token, &path).await, (200, preview.clone()), "{old}");
    }
    assert_eq!(site.asked(), [""; 0], "it is kept");
    here.pass(8 * 24 * 60 * 60 * 1000).await;
    here.keep_house().await;
    let gone = get(&here, &token, &format!("/_matrix/client/v1/media/download/{image}")).await;
    assert_eq!(refused(&gone), (404, "M_NOT_FOUND"));
}

/// SEC-ssrf: no way of writing an address of the inside leads there.
#[tokio::test]
async fn cm11_nothing_inside_is_looked_at() {
    let site = Site::at("127.0.0.1", |_| html("<title>Inside</title>")).await;
    let (here, token) = (start(&[]).await, "alice");
    let token = &here.person(token).await;
    let port = site.address.port();
    let hosts = "127.0.0.1 localhost LOCALHOST. a.localhost [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] 2130706433 \
                 0x7f000001 0177.0.0.1 127.1 0 0.0.0.0 127.0.0.1. 169.254.169.254 10.0.0.1 192.168.0.1 172.16.0.1 100.64.0.1 \
                 [fe80::1] [fd00::1] [64:ff9b::7f00:1] [2002:7f00:1::] [::] １２７.０.０.１";
    for host in hosts.split_whitespace() {
        let answer = look(&here, token, &format!("http://{host}:{port}/")).await;
        assert_eq!(refused(&answer), (502, "M_UNKNOWN"), "{host}: {}", answer.1);
    }
    assert_eq!(site.asked(), [""; 0]);
}

/// SEC-ssrf: nor does a redirection, an image, or a description that a page names.
#[tokio::test]
async fn cm11_pages_lead_nowhere_inside() {
    let inside = Site::at("127.0.0.2", |_| html("<title>Inside</title>")).await;
    let (to, by_name) = (inside.url("/"), format!("http://localhost:{}/", inside.address.port()));
    let site = Site::at("127.0.0.1", move |path| match path {
        "/redirect" => redirect(&to),
        "/name" => redirect(&by_name),
        "/image" => html(format!("<title>T</title><meta property=og:image content='{to}'>")),
        "/image-by-redirect" => html("<title>T</title><meta property=og:image content='/redirect'>"),
        "/embed" => html(format!("<title>T</title><link rel=alternate type=application/json+oembed href='{to}'>")),
        _ => html("<title>T</title><link rel=alternate type=application/json+oembed href='/redirect'>"),
    })
    .await;
    let (here, token) = server(&[]).await;
    assert_eq!(refused(&look(&here, &token, &inside.url("/")).await), (502, "M_UNKNOWN"));
    assert_eq!(refused(&look(&here, &token, &site.url("/redirect")).await), (502, "M_UNKNOWN"));
    assert_eq!(refused(&look(&here, &token, &site.url("/name")).await), (502, "M_UNKNOWN"));
    for path in ["/image", "/image-by-redirect", "/embed", "/embed-by-redirect"] {
        assert_eq!(look(&here, &token, &site.url(path)).await, (200, json!({ "og:title": "T" })), "{path}");
    }
    assert_eq!(inside.asked(), [""; 0]);
    assert_eq!(site.asked().len(), 8);
}

/// SEC-preview-rules: the administrator's lists hold.
#[tokio::test]
async fn cm11_the_administrator_says_what_is_previewed() {
    let site = Site::at("127.0.0.1", |_| html("<title>T</title>")).await;
    for (list, refused_path, fine_path) in [
        ("url_previews.deny=[\"*/private*\"]".to_owned(), "/private", "/public"),
        (format!("url_previews.deny=[\"{}\"]", site.url("/private/")), "/private/x", "/public"),
        (format!("url_previews.allow=[\"{}\"]", site.url("/public")), "/private", "/public"),
    ] {
        let (here, token) = server(&[&list]).await;
        assert_eq!(refused(&look(&here, &token, &site.url(refused_path)).await), (403, "M_FORBIDDEN"), "{list}");
        assert_eq!(site.asked(), [""; 0]);
        assert_eq!(look(&here, &token, &site.url(fine_path)).await.0, 200, "{list}");
        assert_eq!(site.asked(), [fine_path]);
    }
    let (here, token) = server(&["url_previews.deny=[\"127.0.0.1\"]"]).await;
    assert_eq!(refused(&look(&here, &token, &site.url("/")).await), (403, "M_FORBIDDEN"));
    assert_eq!(site.asked(), [""; 0]);
}

#[tokio::test]
async fn cm11_previews_can_be_switched_off() {
    let site = Site::at("127.0.0.1", |_| html("<title>T</title>")).await;
    for (setting, enabled) in [("url_previews.enabled=true", true), ("url_previews.enabled=false", false)] {
        let (here, token) = server(&[setting]).await;
        let (_, answer) = here.ask_as(&token, Method::GET, "capabilities", Value::Null).await;
        assert_eq!(answer["capabilities"]["io.element.msc4452.preview_url"], json!({ "enabled": enabled }));
        let answer = look(&here, &token, &site.url("/")).await;
        assert_eq!(refused(&answer), if enabled { (200, "") } else { (403, "M_FORBIDDEN") });
        assert_eq!(site.asked().len(), usize::from(enabled));
    }
}

#[tokio::test]
async fn cm11_who_may_ask_and_for_what() {
    let site = Site::at("127.0.0.1", |_| html("<title>T</title>")).await;
    let (here, token) = server(&["rate_limits.previews.burst=4", "rate_limits.previews.per_second=0.001"]).await;
    let path = "/_matrix/client/v1/media/preview_url";
    let nobody = Request::builder().uri(format!("{path}?url=http://a.example/")).body(Body::empty()).unwrap();
    assert_eq!(here.raw(nobody).await.status(), 401);
    assert_eq!(refused(&get(&here, &token, path).await), (400, "M_MISSING_PARAM"));
    assert_eq!(
        refused(&get(&here, &token, &format!("{path}?url=http://a.example/&ts=now")).await),
        (400, "M_INVALID_PARAM")
    );
    for url in ["ftp://a.example/", "a.example", "http://u:p@a.example/"] {
        assert_eq!(refused(&look(&here, &token, url).await), (400, "M_INVALID_PARAM"), "{url}");
    }
    assert_eq!(look(&here, &token, &site.url("/")).await.0, 200);
    assert_eq!(refused(&look(&here, &token, &site.url("/")).await), (429, "M_LIMIT_EXCEEDED"));
}

/// SEC-outbound-bounds: nothing is unpacked, and of what has no end the beginning is read.
#[tokio::test]
async fn cm11_answers_are_bounded() {
    let site = Site::at("127.0.0.1", |path| match path {
        "/packed" => {
            ([("content-type", "text/html"), ("content-encoding", "gzip")], vec![0x1f, 0x8b, 8]).into_response()
        }
        _ => {
            let begin = futures_util::stream::iter([Ok::<_, std::io::Error>("<title>T</title>".to_owned())]);
            let rest = futures_util::stream::repeat_with(|| Ok("<p>".repeat(10_000)));
            let body = Body::from_stream(futures_util::StreamExt::chain(begin, rest));
            ([("content-type", "text/html")], body).into_response()
        }
    })
    .await;
    let (here, token) = server(&[]).await;
    assert_eq!(refused(&look(&here, &token, &site.url("/packed")).await), (502, "M_UNKNOWN"));
    assert_eq!(look(&here, &token, &site.url("/endless")).await, (200, json!({ "og:title": "T" })));
}

#[test]
fn wrong_settings_of_previews_are_named() {
    for (setting, key) in [
        ("url_previews.deny=[\"ftp://x/\"]", "url_previews.deny"),
        ("url_previews.allow=[\"a b\"]", "url_previews.allow"),
        ("url_previews.languages=[]", "url_previews.languages"),
        ("url_previews.languages=[\"a\\r\\nb\"]", "url_previews.languages"),
        ("url_previews.kept=\"soon\"", "url_previews.kept"),
    ] {
        let error = server::config::Config::of(&[setting]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{setting}: {error}");
    }
}
