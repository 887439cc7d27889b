//! User-interactive authentication.

use serde_json::{Map, Value as Json, json};
use store::tables::users::CrossSigningResetRow;
use store::{Read, UserId};

use super::{Bench, user};
use crate::registration::NewAccount;
use crate::uia::{
    Challenge, DUMMY, Failure, Flow, OAUTH, OAUTH_UNSTABLE, Operation, PASSWORD, Proof, REGISTRATION_TOKEN, Verdict,
};
use crate::{Error, SessionKind};

const BY_PASSWORD: &[Flow] = &[&[PASSWORD]];
const BY_TOKEN: &[Flow] = &[&[REGISTRATION_TOKEN, DUMMY]];

fn body(json: Json) -> Map<String, Json> {
    json.as_object().unwrap().clone()
}

async fn ask(bench: &Bench, flows: &[Flow], path: &str, user: Option<&UserId>, json: Json) -> Result<Verdict, Error> {
    ask_by("POST", bench, flows, path, user, json).await
}

async fn ask_by(
    method: &str,
    bench: &Bench,
    flows: &[Flow],
    path: &str,
    user: Option<&UserId>,
    json: Json,
) -> Result<Verdict, Error> {
    let body = &body(json);
    bench.users.interactive(flows, Operation { method, path, body, user, kind: SessionKind::Legacy, email: None }).await
}

fn challenge(verdict: Result<Verdict, Error>) -> Challenge {
    match verdict.unwrap() {
        Verdict::Challenge(challenge) => challenge,
        Verdict::Proven(_) => panic!("proven without proof"),
    }
}

fn proof(verdict: Result<Verdict, Error>) -> Proof {
    match verdict.unwrap() {
        Verdict::Proven(proof) => proof,
        Verdict::Challenge(challenge) => panic!("not proven: {challenge:?}"),
    }
}

#[tokio::test]
async fn ca1_flows_first_then_a_wrong_and_a_right_password() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let alice = user("alice");
    let first = challenge(ask(&bench, BY_PASSWORD, "/d", Some(&alice), json!({ "devices": ["A"] })).await);
    assert_eq!(first.failure, None);
    let members = Json::Object(first.members());
    assert_eq!(members["flows"], json!([{ "stages": ["m.login.password"] }]));
    assert_eq!((&members["params"], &members["completed"]), (&json!({}), &json!([])));
    let auth = |password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        json!({ "devices": ["A"], "auth": {
            "type": PASSWORD, "session": first.session, "identifier": identifier, "password": password,
        } })
    };
    let wrong = challenge(ask(&bench, BY_PASSWORD, "/d", Some(&alice), auth("wrong")).await);
    assert_eq!((wrong.failure, wrong.session), (Some(Failure::WrongPassword), first.session.clone()));
    proof(ask(&bench, BY_PASSWORD, "/d", Some(&alice), auth("secret")).await);
    let replay = ask(&bench, BY_PASSWORD, "/d", Some(&alice), auth("secret")).await;
    assert!(matches!(replay, Err(Error::UnknownToken)), "a session is good for one operation");
}

#[tokio::test]
async fn ca1_a_session_is_bound_to_method_path_body_and_account() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    bench.join("bob").await;
    let (alice, bob) = (user("alice"), user("bob"));
    let first = challenge(ask(&bench, BY_PASSWORD, "/d", Some(&alice), json!({ "devices": ["A"] })).await);
    let auth = json!({ "type": PASSWORD, "session": first.session, "password": "secret", "user": "alice" });
    let changed = [
        ("DELETE", "/d", Some(&alice), json!({ "devices": ["A"], "auth": auth })),
        ("POST", "/other", Some(&alice), json!({ "devices": ["A"], "auth": auth })),
        ("POST", "/d", Some(&alice), json!({ "devices": ["B"], "auth": auth })),
        ("POST", "/d", Some(&bob), json!({ "devices": ["A"], "auth": auth })),
        ("POST", "/d", None, json!({ "devices": ["A"], "auth": auth })),
    ];
    for (method, path, who, json) in changed {
        let refused = ask_by(method, &bench, BY_PASSWORD, path, who, json.clone()).await;
        assert!(matches!(refused, Err(Error::NotYourIdentity)), "{method} {path} {json}");
    }
    proof(ask(&bench, BY_PASSWORD, "/d", Some(&alice), json!({ "devices": ["A"], "auth": auth })).await);
}

#[tokio::test]
async fn ca1_the_first_completed_stage_binds_the_body_of_a_registration() {
    const TWO_STAGES: &[Flow] = &[&[REGISTRATION_TOKEN, DUMMY]];
    let bench = Bench::new().await;
    bench.users.set_registration_token(Some("abc".to_owned()), None, None).await.unwrap();
    let first = challenge(ask(&bench, TWO_STAGES, "/register", None, json!({})).await);
    let step = |name: &str, stage: &str, token: &str| {
        let auth = json!({ "type": stage, "session": first.session, "token": token });
        ask(&bench, TWO_STAGES, "/register", None, json!({ "username": name, "auth": auth }))
    };
    let failed = challenge(step("anna", REGISTRATION_TOKEN, "wrong").await);
    assert_eq!(failed.failure, Some(Failure::WrongToken));
    let half = challenge(step("alice", REGISTRATION_TOKEN, "abc").await);
    assert_eq!(half.failure, None, "a failed stage binds nothing");
    assert!(matches!(step("bob", DUMMY, "").await, Err(Error::NotYourIdentity)));
    proof(step("alice", DUMMY, "").await);
    assert!(matches!(step("bob", DUMMY, "").await, Err(Error::NotYourIdentity)), "also when all is proven");
}

#[tokio::test]
async fn ca1_a_session_expires() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let alice = user("alice");
    let first = challenge(ask(&bench, BY_PASSWORD, "/d", Some(&alice), json!({})).await);
    bench.clock.advance(15 * 60_000);
    let auth = json!({ "auth": { "type": PASSWORD, "session": first.session, "password": "secret" } });
    assert!(matches!(ask(&bench, BY_PASSWORD, "/d", Some(&alice), auth).await, Err(Error::UnknownToken)));
}

#[tokio::test]
async fn ca2_anothers_password_proves_nothing() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    bench.join("bob").await;
    let auth = json!({ "auth": { "type": PASSWORD, "user": "bob", "password": "secret" } });
    let refused = ask(&bench, BY_PASSWORD, "/d", Some(&user("alice")), auth).await;
    assert!(matches!(refused, Err(Error::NotYourIdentity)));
}

#[tokio::test]
async fn ca17_a_registration_counts_its_token_pending_and_then_completed() {
    let bench = Bench::new().await;
    bench.users.set_registration_token(Some("abc".to_owned()), Some(1), None).await.unwrap();
    let first = challenge(ask(&bench, BY_TOKEN, "/register", None, json!({})).await);
    let request = |auth: Json| json!({ "username": "alice", "auth": auth });
    let session = first.session;
    let step = |stage: &str| json!({ "type": stage, "session": session, "token": "abc" });
    let early = challenge(ask(&bench, BY_TOKEN, "/register", None, request(step(DUMMY))).await);
    assert_eq!(early.failure, Some(Failure::WrongStage), "stages come in order");
    let bad = json!({ "type": REGISTRATION_TOKEN, "session": session, "token": "nope" });
    assert_eq!(
        challenge(ask(&bench, BY_TOKEN, "/register", None, request(bad)).await).failure,
        Some(Failure::WrongToken)
    );
    let half = challenge(ask(&bench, BY_TOKEN, "/register", None, request(step(REGISTRATION_TOKEN))).await);
    assert_eq!((half.completed, half.failure), (vec![REGISTRATION_TOKEN.to_owned()], None));
    let row = bench.users.registration_token("abc").await.unwrap().unwrap();
    assert_eq!((row.pending, row.completed), (1, 0));
    assert!(!bench.users.registration_token_is_valid("abc").await.unwrap());
    let proof = proof(ask(&bench, BY_TOKEN, "/register", None, request(step(DUMMY))).await);
    let new = NewAccount { localpart: Some("alice".to_owned()), proof: Some(proof.clone()), ..NewAccount::default() };
    bench.users.register(new).await.unwrap();
    let row = bench.users.registration_token("abc").await.unwrap().unwrap();
    assert_eq!((row.pending, row.completed), (0, 1));
    let again = NewAccount { localpart: Some("bob".to_owned()), proof: Some(proof), ..NewAccount::default() };
    assert!(bench.users.register(again).await.is_err(), "a proof is good for one account");
}

#[tokio::test]
async fn ca17_an_abandoned_registration_gives_its_token_back() {
    let bench = Bench::new().await;
    bench.users.set_registration_token(Some("abc".to_owned()), Some(1), None).await.unwrap();
    let auth = json!({ "auth": { "type": REGISTRATION_TOKEN, "token": "abc" } });
    challenge(ask(&bench, BY_TOKEN, "/register", None, auth).await);
    assert!(!bench.users.registration_token_is_valid("abc").await.unwrap());
    bench.clock.advance(15 * 60_000);
    bench.users.prune().await.unwrap();
    assert!(bench.users.registration_token_is_valid("abc").await.unwrap());
}

#[tokio::test]
async fn dummy_alone_needs_no_session() {
    let bench = Bench::new().await;
    let auth = json!({ "username": "alice", "auth": { "type": DUMMY } });
    proof(ask(&bench, &[&[DUMMY]], "/register", None, auth).await);
}

#[tokio::test]
async fn ca12_a_session_of_the_oauth_api_goes_by_the_account_page() {
    const BY_PAGE: &[Flow] = &[&[OAUTH], &[OAUTH_UNSTABLE]];
    let bench = Bench::with(|options| options.account_management_url = Some("https://x.org/account?a=b".into())).await;
    bench.join("alice").await;
    let alice = user("alice");
    let ask = async |flows: &[Flow], json: Json| {
        let (method, path, kind) = ("POST", "/k", SessionKind::OAuth);
        bench
            .users
            .interactive(flows, Operation { method, path, body: &body(json), user: Some(&alice), kind, email: None })
            .await
    };
    let password = json!({ "auth": { "type": PASSWORD, "password": "secret", "user": "alice" } });
    assert!(matches!(ask(BY_PASSWORD, password).await, Err(Error::AccountPageOnly)));
    let first = challenge(ask(BY_PAGE, json!({ "key": 1 })).await);
    let members = Json::Object(first.members());
    assert_eq!(members["flows"], json!([{ "stages": [OAUTH] }, { "stages": [OAUTH_UNSTABLE] }]));
    let url = "https://x.org/account?a=b&action=org.matrix.cross_signing_reset";
    assert_eq!(members["params"][OAUTH], json!({ "url": url }));
    let named = |key: i64| json!({ "key": key, "auth": { "session": first.session } });
    let early = challenge(ask(BY_PAGE, named(1)).await);
    assert_eq!((early.failure, &early.session), (Some(Failure::NotAllowedYet), &first.session));
    bench.users.allow_cross_signing_reset(&alice).await.unwrap();
    assert!(matches!(ask(BY_PAGE, named(2)).await, Err(Error::NotYourIdentity)), "bound to the body");
    proof(ask(BY_PAGE, named(1)).await);
    let second = challenge(ask(BY_PAGE, json!({ "key": 1 })).await);
    let again = json!({ "key": 1, "auth": { "type": OAUTH, "session": second.session } });
    let used = challenge(ask(BY_PAGE, again.clone()).await);
    assert_eq!(used.failure, Some(Failure::NotAllowedYet), "leave is for one time");
    bench.users.allow_cross_signing_reset(&alice).await.unwrap();
    bench.clock.advance(10 * 60 * 1_000);
    let late = challenge(ask(BY_PAGE, again.clone()).await);
    assert_eq!(late.failure, Some(Failure::NotAllowedYet), "leave is for some minutes");
    bench.users.prune().await.unwrap();
    assert_eq!(
        bench.store.all::<CrossSigningResetRow>(Read::prefix::<CrossSigningResetRow>(vec![])).await.unwrap(),
        []
    );
    bench.users.allow_cross_signing_reset(&alice).await.unwrap();
    proof(ask(BY_PAGE, again).await);
}

#[tokio::test]
async fn ca12_without_an_account_page_nothing_is_offered() {
    let bench = Bench::new().await;
    bench.join("alice").await;
    let alice = user("alice");
    let operation = Operation {
        method: "POST",
        path: "/k",
        body: &Map::new(),
        user: Some(&alice),
        kind: SessionKind::OAuth,
        email: None,
    };
    assert!(matches!(bench.users.interactive(&[&[OAUTH]], operation).await, Err(Error::AccountPageOnly)));
}
