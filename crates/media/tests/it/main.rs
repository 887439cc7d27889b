//! The media store on a real database and a real process: what was acknowledged survives its sudden end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use media::{Door, Job, Label, Media, Mxc, Options};
use store::tables::media::{MediaRow, MediaUsageRow};
use store::{Clock, Entropy, Read, Store};

/// Names the directory to the process that is to be killed.
const DIRECTORY: &str = "MEDIA_TEST_DIRECTORY";

/// How often a process is killed.
const KILLS: usize = 4;

/// Uploads that go on at the same time.
const WRITERS: u64 = 4;

struct Machine(AtomicU64);

impl Machine {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(AtomicU64::new(u64::try_from(since.as_nanos()).unwrap() ^ u64::from(std::process::id())))
    }
}

impl Clock for Machine {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(since.as_millis()).unwrap()
    }
}

impl Entropy for Machine {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let count = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            let mixed = (count ^ (count >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

async fn open(directory: &Path) -> (Store, Media) {
    let engine = sqlite::Sqlite::open(&directory.join("test.db"), sqlite::Options::default()).unwrap();
    let store = Store::new(Arc::new(engine)).await.unwrap();
    let machine = Arc::new(Machine::new());
    let options = Options::new("example.org", directory.join("media"));
    let threads = Arc::new(|job: Job| drop(tokio::task::spawn_blocking(job)));
    let media = Media::open(options, store.clone(), machine.clone(), machine, threads, None).await.unwrap();
    (store, media)
}

/// Content of which the reader can tell whether it is whole: a few bytes up to some hundred thousand.
fn content(number: u64) -> Vec<u8> {
    let length = usize::try_from(number * 7919 % 600_000).unwrap();
    number.to_le_bytes().into_iter().cycle().take(length + 8).collect()
}

async fn upload(media: &Media, number: u64) -> Mxc {
    let user = format!("@user{}:example.org", number % 2).into();
    let mut upload = media.begin_upload(&user, Label::default(), None).await.unwrap();
    for chunk in content(number).chunks(50_000) {
        upload.push(chunk.to_vec().into()).await.unwrap();
    }
    upload.finish().await.unwrap()
}

async fn download(media: &Media, mxc: &Mxc) -> Vec<u8> {
    let mut reader = media.content(mxc, Door::Authenticated).await.unwrap().open(None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        bytes.extend(chunk);
    }
    bytes
}

/// The process that is killed: it uploads for ever and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as the child of the test below"]
async fn uploads_without_end() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let (_, media) = open(Path::new(&directory)).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let media = media.clone();
            tokio::spawn(async move {
                for number in (writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                    let mxc = upload(&media, number).await;
                    println!("acknowledged {number} {mxc}");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Runs the process above until it has acknowledged `count` uploads, kills it and returns them.
fn killed_after(directory: &Path, count: usize) -> Vec<(u64, Mxc)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "uploads_without_end", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines {
        let line = line.unwrap();
        let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
        let (number, uri) = rest.split_once(' ').unwrap();
        acknowledged.push((number.parse().unwrap(), Mxc::parse(uri).unwrap()));
        if acknowledged.len() == count {
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    acknowledged
}

fn count_files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cm1_a_killed_process_loses_no_acknowledged_upload_and_leaves_no_file_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        let fresh = killed_after(directory.path(), 5 + 7 * kill);
        assert_eq!(fresh.len(), 5 + 7 * kill, "the process ended by itself");
        acknowledged.extend(fresh);
        let (store, media) = open(directory.path()).await;
        for (number, mxc) in &acknowledged {
            assert!(download(&media, mxc).await == content(*number), "{number} {mxc}");
        }
        let rows: Vec<MediaRow> = store.all(Read::prefix::<MediaRow>(Vec::new())).await.unwrap();
        assert!(rows.len() >= acknowledged.len());
        for row in &rows {
            download(&media, &Mxc::new(&row.server_name, &row.media_id).unwrap()).await;
        }
        assert_eq!(count_files(&directory.path().join("media")), rows.len(), "files and rows agree");
        let usages: Vec<MediaUsageRow> = store.all(Read::prefix::<MediaUsageRow>(Vec::new())).await.unwrap();
        let of = |usage: fn(&MediaUsageRow) -> i64| usages.iter().map(usage).sum::<i64>();
        assert_eq!(of(|usage| usage.files), i64::try_from(rows.len()).unwrap());
        assert_eq!(of(|usage| usage.bytes), rows.iter().map(|row| row.size).sum::<i64>());
        store.engine().close().await;
    }
}
