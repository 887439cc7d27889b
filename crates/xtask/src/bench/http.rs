//! A small HTTP/1.1 client that keeps its connection: enough to load a server on loopback, and cheap
//! enough not to be what is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// How long an answer may take: longer than any sync waits.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// The largest answer that is read.
const BODY_BYTES_MAX: usize = 256 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON, if the request was granted.
    pub fn json(&self) -> Result<serde_json::Value, String> {
        if self.status != 200 {
            let end = self.body.len().min(300);
            return Err(format!("{}: {}", self.status, String::from_utf8_lossy(&self.body[..end])));
        }
        serde_json::from_slice(&self.body).map_err(|e| e.to_string())
    }
}

/// One connection that is used again for each request.
#[derive(Debug)]
pub struct Connection {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// A connection to a port of loopback; it is opened by the first request.
    pub fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Sends a request with a JSON body, or none where `body` is empty.
    pub fn request(&mut self, method: &str, path: &str, token: &str, body: &str) -> Result<Answer, String> {
        self.send(method, path, token, "application/json", body.as_bytes())
    }

    /// Asks for a part of a file, or for all of it where `range` is empty.
    pub fn part(&mut self, path: &str, token: &str, range: &str) -> Result<Answer, String> {
        let range = if range.is_empty() { String::new() } else { format!("\r\nRange: {range}") };
        self.send("GET", path, &format!("{token}{range}"), "", b"")
    }

    /// Sends a request with a body of any type.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Answer, String> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", self.port);
        if !token.is_empty() {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        if !body.is_empty() || method != "GET" {
            head += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.exchange(&bytes).map_err(|error| {
            self.stream = None;
            format!("{method} {path}: {error}")
        })
    }

    fn exchange(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        if self.stream.is_none() {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(reader) = self.stream.as_mut() else {
            return Err(std::io::Error::other("no connection"));
        };
        reader.get_mut().write_all(request)?;
        let (answer, keep) = read_answer(reader)?;
        if !keep {
            self.stream = None;
        }
        Ok(answer)
    }
}

/// Reads one answer; beside it, whether the connection stays.
fn read_answer(reader: &mut impl BufRead) -> std::io::Result<(Answer, bool)> {
    let mut line = String::new();
    read_line(reader, &mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.trim().parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no answer: `{line}`")))?;
    let (mut length, mut chunked, mut keep) = (0, false, true);
    loop {
        read_line(reader, &mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(std::io::Error::other)?,
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            "connection" => keep = !value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let body = if chunked { read_chunks(reader)? } else { read_exactly(reader, length)? };
    Ok((Answer { status, body }, keep))
}

fn read_line(reader: &mut impl BufRead, line: &mut String) -> std::io::Result<()> {
    line.clear();
    match reader.read_line(line)? {
        0 => Err(std::io::Error::other("the server closed the connection")),
        _ => Ok(()),
    }
}

fn read_exactly(reader: &mut impl Read, length: usize) -> std::io::Result<Vec<u8>> {
    if length > BODY_BYTES_MAX {
        return Err(std::io::Error::other("the answer is too large"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let (mut body, mut line) = (Vec::new(), String::new());
    loop {
        read_line(reader, &mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let chunk = read_exactly(reader, length)?;
        read_line(reader, &mut line)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk);
        if body.len() > BODY_BYTES_MAX {
            return Err(std::io::Error::other("the answer is too large"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> std::io::Result<(u16, String, bool)> {
        let (answer, keep) = read_answer(&mut text.as_bytes())?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned(), keep))
    }

    #[test]
    fn answers_are_read_in_both_framings() {
        let plain = answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}rest").expect("an answer");
        assert_eq!(plain, (200, "{}".to_owned(), true));
        let chunked = "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                       3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(answer(chunked).expect("an answer"), (403, "abcd".to_owned(), false));
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        assert!(answer("").is_err());
        assert!(answer("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}").is_err());
        assert!(answer("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").is_err());
    }
}
