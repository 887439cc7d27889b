//! The mails that wait: none is lost, and none is sent by two at once.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use store::tables::mail::MailRow;
use store::{Clock, Read, UserId};

use super::{Bench, FakeEntropy};
use crate::email::sessions::{Purpose, TokenRequest};
use crate::email::{Kind, Mail, Mailer, Options, Undelivered};
use crate::{Error, Users};

/// What the mail server does with a mail.
#[derive(Clone)]
enum Does {
    Takes,
    Fails(Undelivered),
    /// It never answers.
    Hangs,
}

struct MailServer {
    does: Mutex<Does>,
    came: Mutex<Vec<Mail>>,
}

impl MailServer {
    fn new() -> Arc<Self> {
        Arc::new(Self { does: Mutex::new(Does::Takes), came: Mutex::default() })
    }

    fn does(&self, does: Does) {
        *self.does.lock() = does;
    }

    fn came(&self) -> Vec<Mail> {
        std::mem::take(&mut self.came.lock())
    }
}

#[async_trait]
impl Mailer for MailServer {
    async fn send(&self, mail: &Mail) -> Result<(), Undelivered> {
        self.came.lock().push(mail.clone());
        let does = self.does.lock().clone();
        match does {
            Does::Takes => Ok(()),
            Does::Fails(how) => Err(how),
            Does::Hangs => pending().await,
        }
    }
}

async fn bench() -> (Bench, Arc<MailServer>) {
    let server = MailServer::new();
    let email = Options::new(Arc::clone(&server) as _, "https://matrix.example.org");
    let bench = Bench::with(|options| options.email = Some(email)).await;
    (bench, server)
}

/// Another process on the same store.
async fn next_process(bench: &Bench, server: &Arc<MailServer>) -> Arc<Users> {
    let (clock, entropy) = (Arc::clone(&bench.clock) as Arc<dyn Clock>, Arc::new(FakeEntropy(AtomicU64::new(7))));
    let email = Some(Options::new(Arc::clone(server) as _, "https://matrix.example.org"));
    let options = crate::Options { email, ..crate::Options::new("example.org") };
    Users::new(bench.store.clone(), clock, entropy, Arc::new(crate::Inline), options).await.unwrap()
}

/// Asks for a mail; answers the session.
async fn ask(users: &Users, secret: &str) -> Result<String, Error> {
    let user = UserId::from("@alice:example.org");
    let request = TokenRequest {
        purpose: Purpose::Add,
        user: Some(&user),
        email: "alice@example.com",
        client_secret: secret,
        send_attempt: 1,
        next_link: None,
    };
    users.request_email_token(request).await
}

fn token(mail: &Mail) -> String {
    let link = mail.content["link"].as_str().unwrap();
    link.rsplit_once("token=").unwrap().1.to_owned()
}

async fn waiting(bench: &Bench) -> Vec<MailRow> {
    bench.store.all(Read::prefix::<MailRow>(vec![])).await.unwrap()
}

#[tokio::test]
async fn ca15_a_mail_waits_for_its_server_over_a_restart() {
    let (bench, server) = bench().await;
    server.does(Does::Fails(Undelivered::Away("down".to_owned())));
    let sid = ask(&bench.users, "s3cret").await.unwrap();
    bench.users.send_mails().await.unwrap();
    let tried = server.came();
    assert_eq!(tried.len(), 1);
    let next = next_process(&bench, &server).await;
    for _ in 0..120 {
        bench.clock.advance(30_000);
        next.send_mails().await.unwrap();
    }
    let tries = server.came();
    assert!((5..20).contains(&tries.len()), "waits grow, and have an end: {}", tries.len());
    server.does(Does::Takes);
    bench.clock.advance(20 * 60_000);
    next.send_mails().await.unwrap();
    next.send_mails().await.unwrap();
    let came = server.came();
    assert_eq!((came.len(), &came[0].id, came[0].kind), (1, &tried[0].id, Kind::Add));
    assert_eq!(waiting(&bench).await, Vec::new());
    // Of each try the token is another, and only the newest count.
    assert_ne!(token(&came[0]), token(&tried[0]));
    assert_eq!(next.confirm_email(&sid, &token(&tried[0])).await.unwrap(), None);
    assert!(next.confirm_email(&sid, &token(&came[0])).await.unwrap().is_some_and(|found| found.confirmed));
    assert_eq!(next.mail_report().map(|report| (report.waiting, report.sent)), Some((0, 1)));
}

#[tokio::test]
async fn ca15_a_process_that_ends_while_a_mail_is_under_way_loses_nothing() {
    let (bench, server) = bench().await;
    server.does(Does::Hangs);
    let sid = ask(&bench.users, "s3cret").await.unwrap();
    {
        let sending = bench.users.send_mails();
        futures_util::pin_mut!(sending);
        assert!(futures_util::poll!(sending.as_mut()).is_pending());
        server.does(Does::Takes);
        // Another node does not send it at the same time.
        let other = next_process(&bench, &server).await;
        other.send_mails().await.unwrap();
        assert_eq!(server.came().len(), 1);
    }
    let next = next_process(&bench, &server).await;
    bench.clock.advance(10 * 60_000);
    next.send_mails().await.unwrap();
    let came = server.came();
    assert_eq!(came.len(), 1);
    assert!(next.confirm_email(&sid, &token(&came[0])).await.unwrap().is_some());
    assert_eq!(waiting(&bench).await, Vec::new());
}

#[tokio::test]
async fn ca15_a_refused_mail_is_given_up_and_holds_up_no_other() {
    let (bench, server) = bench().await;
    server.does(Does::Fails(Undelivered::Refused("no such mailbox".to_owned())));
    ask(&bench.users, "s3cret").await.unwrap();
    bench.users.send_mails().await.unwrap();
    assert_eq!((server.came().len(), waiting(&bench).await.len()), (1, 0));
    server.does(Does::Fails(Undelivered::Deferred("greylisted".to_owned())));
    ask(&bench.users, "other").await.unwrap();
    bench.users.send_mails().await.unwrap();
    assert_eq!((server.came().len(), waiting(&bench).await.len()), (1, 1));
    // A session that has ended is told to nobody.
    bench.clock.advance(25 * 60 * 60_000);
    server.does(Does::Takes);
    bench.users.send_mails().await.unwrap();
    assert_eq!((server.came().len(), waiting(&bench).await.len()), (0, 0));
}

/// SEC-mail-floods: a queue that is full takes no more, and says so.
#[tokio::test]
async fn ca15_no_more_mails_wait_than_may() {
    let (bench, _) = bench().await;
    bench.users.post.waiting.store(10_000, Ordering::Relaxed);
    assert!(matches!(ask(&bench.users, "s3cret").await, Err(Error::TooManyMails)));
    assert_eq!(waiting(&bench).await, Vec::new());
    bench.users.send_mails().await.unwrap();
    assert!(ask(&bench.users, "s3cret").await.is_ok());
}

/// SEC-account-recovery: no token and no secret is stored, not even of a mail that waits.
#[tokio::test]
async fn ca15_no_token_is_stored() {
    let (bench, server) = bench().await;
    server.does(Does::Fails(Undelivered::Deferred("later".to_owned())));
    ask(&bench.users, "s3cret").await.unwrap();
    bench.users.send_mails().await.unwrap();
    let token = token(&server.came()[0]);
    let sessions: Vec<store::tables::mail::EmailSessionRow> =
        bench.store.all(Read::prefix::<store::tables::mail::EmailSessionRow>(vec![])).await.unwrap();
    let stored = format!("{:?} {sessions:?}", waiting(&bench).await);
    assert!(stored.contains("alice@example.com") && !stored.contains(&token) && !stored.contains("s3cret"), "{stored}");
}

#[tokio::test]
async fn ca15_of_many_requests_at_once_one_mail_comes() {
    let server = MailServer::new();
    let email = Options::new(Arc::clone(&server) as _, "https://matrix.example.org");
    let bench = Bench::racing_with(|options| options.email = Some(email)).await;
    let sids = futures_util::future::join_all((0..5).map(|_| ask(&bench.users, "s3cret"))).await;
    let first = sids[0].as_ref().unwrap();
    assert!(sids.iter().all(|sid| sid.as_ref().unwrap() == first));
    bench.users.send_mails().await.unwrap();
    assert_eq!(server.came().len(), 1);
}
