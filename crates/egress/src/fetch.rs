//! Fetching a URL, with redirections where they are wanted; each hop is looked up and filtered anew.

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::uri::Scheme;
use http::{HeaderMap, Method, Uri};
use rustls_pki_types::ServerName;

use crate::{Deadline, Egress, Endpoint, Error, Limits, Request, Response, Route};

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2 * 1024;

/// Which URLs are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// `https` alone, also after a redirection.
    Https,
    /// `http` too.
    HttpToo,
}

/// A request to a URL.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The URL.
    pub url: String,
    /// Which schemes will do.
    pub schemes: Schemes,
    /// The method. Only `GET` follows redirections.
    pub method: Method,
    /// Headers but `Host` and `User-Agent`. `Authorization` is not sent on to another host.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
    /// How many redirections are followed; beyond, and with 0, a redirection is the answer or an error.
    pub redirects_max: u32,
    /// Bounds on all hops together.
    pub limits: Limits,
}

impl Fetch {
    /// Fetches with `GET`, over `https`, without redirections.
    pub fn get(url: impl Into<String>, limits: Limits) -> Self {
        Self {
            url: url.into(),
            schemes: Schemes::Https,
            method: Method::GET,
            headers: HeaderMap::new(),
            body: None,
            redirects_max: 0,
            limits,
        }
    }
}

impl Egress {
    /// Sends a request to a URL and waits for the head of the answer.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Redirect`] after more redirections than were allowed, if any were.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Response, Error> {
        let deadline = Deadline::after(fetch.limits.timeout);
        let mut url = parse(&fetch.url, fetch.schemes)?;
        let mut headers = fetch.headers.clone();
        let mut followed = 0;
        loop {
            let route = deadline.bound(self.route(&url)).await?;
            let request = Request {
                route,
                method: fetch.method.clone(),
                path_and_query: url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                headers: headers.clone(),
                body: fetch.body.clone(),
                limits: fetch.limits,
            };
            let response = self.send_until(request, deadline).await?;
            if fetch.redirects_max == 0 || fetch.method != Method::GET || !redirects(&response) {
                return Ok(response);
            }
            if followed == fetch.redirects_max {
                return Err(Error::Redirect("too often"));
            }
            followed += 1;
            let next = target(&url, &response, fetch.schemes)?;
            if next.authority() != url.authority() {
                headers.remove(AUTHORIZATION);
            }
            url = next;
        }
    }

    /// The way to the host of a URL.
    async fn route(&self, url: &Uri) -> Result<Route, Error> {
        let secure = url.scheme() == Some(&Scheme::HTTPS);
        let host = url.host().unwrap_or_default();
        // An IPv6 address stands in brackets.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = self.resolver().addresses(name).await?;
        if addresses.is_empty() {
            return Err(Error::NotFound(name.to_owned()));
        }
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let certificate = ServerName::try_from(name.to_owned());
        let certificate = certificate.map_err(|_| Error::Request(format!("`{name}` is no name of a host")))?;
        let host = url.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Route { endpoints: vec![Endpoint { addresses, port }], certificate: secure.then_some(certificate), host })
    }
}

fn parse(url: &str, schemes: Schemes) -> Result<Uri, Error> {
    let wrong = |why: &str| Error::Request(format!("its URL {why}"));
    if url.len() > URL_BYTES_MAX {
        return Err(wrong("is too long"));
    }
    let uri: Uri = url.parse().map_err(|_| wrong("is malformed"))?;
    let scheme = uri.scheme().ok_or_else(|| wrong("is malformed"))?;
    let permitted = *scheme == Scheme::HTTPS || (schemes == Schemes::HttpToo && *scheme == Scheme::HTTP);
    if !permitted {
        return Err(wrong("has another scheme"));
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.host().is_none_or(str::is_empty) || authority.contains('@') {
        return Err(wrong("names no host"));
    }
    Ok(uri)
}

fn redirects(response: &Response) -> bool {
    matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirection leads.
fn target(from: &Uri, response: &Response, schemes: Schemes) -> Result<Uri, Error> {
    let location = response.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or(Error::Redirect("to nowhere"))?;
    let location = location.split('#').next().unwrap_or_default();
    parse(&join(from, location), schemes).map_err(|_| Error::Redirect("to where none is followed"))
}

/// Resolves a reference against the URL that it came from (RFC 3986, section 5.2); dots in paths are for the server.
fn join(from: &Uri, reference: &str) -> String {
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let has_scheme = reference.split_once(':').is_some_and(|(scheme, _)| !scheme.contains(['/', '?']));
    if has_scheme {
        return reference.to_owned();
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    if reference.starts_with('/') {
        return format!("{scheme}://{authority}{reference}");
    }
    let path = from.path();
    if reference.is_empty() || reference.starts_with('?') {
        return format!("{scheme}://{authority}{path}{reference}");
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{reference}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn references_are_joined_to_where_they_came_from() {
        let from: Uri = "https://a.test:444/one/two?x".parse().unwrap();
        let check = |reference, expected: &str| assert_eq!(join(&from, reference), expected);
        check("https://b.test/c", "https://b.test/c");
        check("http://b.test/c", "http://b.test/c");
        check("//b.test/c", "https://b.test/c");
        check("/c?d", "https://a.test:444/c?d");
        check("c", "https://a.test:444/one/c");
        check("c/d:e", "https://a.test:444/one/c/d:e");
        check("?d", "https://a.test:444/one/two?d");
        check("", "https://a.test:444/one/two");
    }

    #[test]
    fn only_urls_of_hosts_are_fetched() {
        for url in ["https://a.test", "https://a.test:1/x?y", "https://[::1]/"] {
            assert!(parse(url, Schemes::Https).is_ok(), "{url}");
        }
        let long = format!("https://a.test/{}", "x".repeat(URL_BYTES_MAX));
        for url in ["", "/x", "a.test", "http://a.test", "ftp://a.test", "https://u:p@a.test/", "https:///x", &long] {
            assert!(parse(url, Schemes::Https).is_err(), "{url}");
        }
        assert!(parse("http://a.test", Schemes::HttpToo).is_ok());
        assert!(parse("file:///etc/passwd", Schemes::HttpToo).is_err());
    }
}
