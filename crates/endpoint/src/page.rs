//! Pages for people: plain HTML that runs nothing, takes nothing from elsewhere, and stands in no frame.

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

/// How pages look: readable in light and dark, on a phone and on a desk.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;margin:0;display:grid;place-items:center;min-height:100vh}\
main{width:min(26rem,90vw);padding:1rem;overflow-wrap:anywhere}\
label{display:block;margin-top:1rem}\
input{display:block;box-sizing:border-box;width:100%;font:inherit;padding:.5rem;margin-top:.25rem}\
button{margin-top:1.5rem;padding:.6rem 1rem;font:inherit}\
.hint{font-size:.9rem;opacity:.8;margin:.25rem 0 0}\
.wrong{border-left:.25rem solid #c00;padding-left:.75rem}\
dt{font-weight:600;margin-top:.5rem}dd{margin:0;overflow-wrap:anywhere}";

/// A page with this body, which is HTML. Its forms lead to this server, and from there on to `form_target` at most, the
/// origin of another.
pub fn page(status: StatusCode, body: &str, form_target: Option<&str>) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>Hearth</title><style>{STYLE}</style></head>\
         <body><main>{body}</main></body></html>"
    );
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = |target: &str| {
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'{target}; frame-ancestors 'none'; \
             base-uri 'none'"
        );
        HeaderValue::from_str(&policy).ok()
    };
    let target = form_target.map(|origin| format!(" {origin}")).unwrap_or_default();
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    if let Some(policy) = policy(&target).or_else(|| policy("")) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Text that is safe within HTML and its quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_typed_in_cannot_become_markup() {
        assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    }

    #[test]
    fn a_page_allows_nothing_but_its_own_style_and_forms() {
        let policy = |target: Option<&str>| {
            let page = page(StatusCode::OK, "", target);
            page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned()
        };
        assert!(policy(None).starts_with("default-src 'none'; style-src 'sha256-"), "{}", policy(None));
        assert!(policy(None).contains("form-action 'self'; frame-ancestors 'none'"), "{}", policy(None));
        let further = policy(Some("https://app.example.org"));
        assert!(further.contains("form-action 'self' https://app.example.org; frame-ancestors"), "{further}");
        assert_eq!(policy(Some("https://bad\n")), policy(None));
    }
}
