//! What is asked of the media store, by threads that step back when somebody else needs the processor.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::files;
use crate::bench::http::Connection;
use crate::bench::world::{User, text};

/// Connections of each kind of load.
const CONNECTIONS: usize = 8;

/// Connections that dawdle, of each kind.
const SLOW: usize = 100;

/// How often a slow upload goes on, by one byte.
const DRIP: Duration = Duration::from_millis(100);

/// Bytes of the large file.
const LARGE_BYTES: usize = 32 << 20;

/// Photographs.
const PHOTOGRAPHS: u32 = 4;

/// How far the threads of the load step back.
const NICE: &str = "15";

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Small files, so many as are asked for.
    Uploads,
    /// Those files, one after the other.
    Downloads,
    /// Parts of a large file.
    Ranges,
    /// A large file again and again.
    LargeUploads,
    /// Thumbnails of photographs, each of another size.
    Thumbnails,
    /// Thumbnails of what takes more than it seems.
    Bombs,
    /// Thumbnails of what is none, under the name of an image.
    WrongTypes,
    /// Uploads byte by byte, and downloads that nobody reads.
    SlowClients,
    /// All of it but the first.
    Everything,
}

impl Kind {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 9] = [
        Self::Uploads,
        Self::Downloads,
        Self::Ranges,
        Self::LargeUploads,
        Self::Thumbnails,
        Self::Bombs,
        Self::WrongTypes,
        Self::SlowClients,
        Self::Everything,
    ];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads of small files",
            Self::Downloads => "downloads of small files",
            Self::Ranges => "ranges of a large file",
            Self::LargeUploads => "uploads of a large file",
            Self::Thumbnails => "thumbnails of photographs",
            Self::Bombs => "thumbnails of bombs and of huge dimensions",
            Self::WrongTypes => "thumbnails of wrong types",
            Self::SlowClients => "slow clients",
            Self::Everything => "all of these at once",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub granted: usize,
    pub refused: usize,
}

/// What there is to ask for.
pub struct Load {
    port: u16,
    user: User,
    small: Mutex<Vec<String>>,
    large: String,
    photographs: Vec<String>,
    bombs: Vec<String>,
    wrong: Vec<String>,
}

/// Load that goes on.
pub struct Work(Vec<JoinHandle<Tally>>);

impl Work {
    pub fn is_finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end.
    pub fn join(self) -> Tally {
        let mut sum = Tally::default();
        for tally in self.0.into_iter().filter_map(|handle| handle.join().ok()) {
            sum.granted += tally.granted;
            sum.refused += tally.refused;
        }
        sum
    }
}

impl Load {
    /// Uploads what the kinds need.
    pub fn new(port: u16, user: User) -> Result<Self, String> {
        let mut link = Connection::new(port);
        let mut upload = |content_type: &str, body: &[u8]| upload(&mut link, &user, content_type, body);
        let photographs = (0..PHOTOGRAPHS).map(|n| upload("image/png", &files::photograph(1_600 + n, 1_200)));
        let photographs = photographs.collect::<Result<_, _>>()?;
        let bombs = [
            files::packed_picture(5_600, 5_700),
            files::packed_picture(30_000, 1_000),
            files::packed_picture(20_000, 20_000),
            files::vast_picture(),
            files::restless_animation(5_000, 250),
            files::restless_animation(800, 250),
        ];
        let bombs = bombs.iter().map(|bomb| upload("image/png", bomb)).collect::<Result<_, _>>()?;
        let script = "<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>".repeat(1_000);
        let wrong =
            [script.as_bytes(), b"%PDF-1.7", &[0xFF; 100_000], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP"];
        let wrong = wrong.iter().map(|body| upload("image/png", body)).collect::<Result<_, _>>()?;
        let large = upload("video/mp4", &vec![7; LARGE_BYTES])?;
        let small = Mutex::new(vec![upload("text/plain", b"small")?]);
        Ok(Self { port, user, small, large, photographs, bombs, wrong })
    }

    /// Begins a kind of load that goes on for `limit`, or until so many files are uploaded.
    pub fn begin(self: &Arc<Self>, kind: Kind, files: usize, limit: Duration) -> Work {
        let until = Instant::now() + limit;
        let kinds = match kind {
            Kind::Everything => &Kind::ALL[1..Kind::ALL.len() - 1],
            _ => &[kind],
        };
        let left = Arc::new(AtomicUsize::new(files));
        let mut handles = Vec::new();
        for kind in kinds {
            let threads = if *kind == Kind::SlowClients { 1 } else { CONNECTIONS };
            for n in 0..threads {
                let (load, kind, left) = (Arc::clone(self), *kind, Arc::clone(&left));
                handles.push(std::thread::spawn(move || {
                    step_back();
                    match kind {
                        Kind::Uploads => load.upload_small(&left),
                        Kind::SlowClients => load.dawdle(until),
                        _ => load.repeat(kind, n, until),
                    }
                }));
            }
        }
        Work(handles)
    }

    fn upload_small(&self, left: &AtomicUsize) -> Tally {
        let (mut link, mut tally) = (Connection::new(self.port), Tally::default());
        let take = |left: usize| left.checked_sub(1);
        while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            let body = vec![n as u8; 1_000 + n * 37 % 60_000];
            match upload(&mut link, &self.user, "application/octet-stream", &body) {
                Ok(address) => {
                    tally.granted += 1;
                    self.small.lock().unwrap_or_else(PoisonError::into_inner).push(address);
                }
                Err(_) => tally.refused += 1,
            }
        }
        tally
    }

    /// Asks again and again, each time for something else.
    fn repeat(&self, kind: Kind, thread: usize, until: Instant) -> Tally {
        let (mut link, mut tally) = (Connection::new(self.port), Tally::default());
        let mut count = thread * 7_919;
        while Instant::now() < until {
            count += 1;
            let status = match kind {
                Kind::LargeUploads => {
                    let body = vec![count as u8; LARGE_BYTES];
                    upload(&mut link, &self.user, "video/mp4", &body).map_or(400, |_| 200)
                }
                _ => self.get(&mut link, kind, count),
            };
            match status {
                200..=299 => tally.granted += 1,
                _ => tally.refused += 1,
            }
        }
        tally
    }

    /// The status of one answer.
    fn get(&self, link: &mut Connection, kind: Kind, count: usize) -> u16 {
        let thumbnail = |list: &[String]| {
            let (width, height) = (32 + count * 13 % 700, 32 + count * 17 % 700);
            let address = &list[count % list.len()];
            let animated = count.is_multiple_of(2);
            format!("thumbnail/{address}?width={width}&height={height}&method=scale&animated={animated}")
        };
        let path = match kind {
            Kind::Downloads => {
                let small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
                format!("download/{}", small[count % small.len()])
            }
            Kind::Thumbnails => thumbnail(&self.photographs),
            Kind::Bombs => thumbnail(&self.bombs),
            Kind::WrongTypes => thumbnail(&self.wrong),
            _ => format!("download/{}", self.large),
        };
        let first = count * 7_919 % LARGE_BYTES;
        let range = format!("bytes={first}-{}", first + 500_000);
        let range = if kind == Kind::Ranges { range.as_str() } else { "" };
        let answer = link.part(&format!("/_matrix/client/v1/media/{path}"), &self.user.token, range);
        answer.map_or(0, |answer| answer.status)
    }

    /// Holds connections open of which each uploads a byte now and then, and others that ask for a large file and do not
    /// read it.
    fn dawdle(&self, until: Instant) -> Tally {
        let head = |method: &str, path: &str, length: usize| {
            let Self { port, user: User { token, .. }, .. } = self;
            format!(
                "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\
                 Content-Length: {length}\r\n\r\n"
            )
        };
        let upload = head("POST", "/_matrix/media/v3/upload", LARGE_BYTES);
        let download = head("GET", &format!("/_matrix/client/v1/media/download/{}", self.large), 0);
        let open = |head: &str| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
            stream.write_all(head.as_bytes()).ok()?;
            Some(stream)
        };
        let silent: Vec<TcpStream> = (0..SLOW).filter_map(|_| open(&download)).collect();
        let mut dripping: Vec<TcpStream> = (0..SLOW).filter_map(|_| open(&upload)).collect();
        let granted = silent.len() + dripping.len();
        while Instant::now() < until {
            std::thread::sleep(DRIP);
            dripping.retain_mut(|stream| stream.write_all(b"x").is_ok());
        }
        let refused = SLOW - dripping.len();
        Tally { granted: granted - refused, refused }
    }
}

/// Uploads a file; answers the server and id of its address.
fn upload(link: &mut Connection, user: &User, content_type: &str, body: &[u8]) -> Result<String, String> {
    let answer = link.send("POST", "/_matrix/media/v3/upload", &user.token, content_type, body)?.json()?;
    let uri = text(&answer, "content_uri")?;
    uri.strip_prefix("mxc://").map(str::to_owned).ok_or(uri)
}

/// Lowers the priority of this thread. Without that the load would take the server's time; it is measured all the same.
fn step_back() {
    let Ok(link) = std::fs::read_link("/proc/thread-self") else { return };
    let Some(thread) = link.file_name().and_then(|name| name.to_str()) else { return };
    let mut renice = Command::new("renice");
    renice.args(["-n", NICE, "-p", thread]).stdout(Stdio::null()).stderr(Stdio::null());
    if !renice.status().is_ok_and(|status| status.success()) {
        println!("bench: the load cannot step back");
    }
}
