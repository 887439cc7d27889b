//! The page for the first account, over HTTP.

use http::{Method, Response};

use crate::program::{Program, ask};

const GOOD: &str = "username=Keeper&password=a+long+pass+phrase";

async fn post(link: &str, form: &str) -> Response<String> {
    ask(Method::POST, link, form).await
}

#[tokio::test]
async fn the_link_makes_one_account_and_names_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &[]);
    let link = program.first_account_link().unwrap().to_owned();
    let page = ask(Method::GET, &link, "").await;
    assert_eq!(page.status(), 200);
    for name in ["name=\"username\"", "name=\"password\"", "name=\"server_name\""] {
        assert!(page.body().contains(name), "{name}");
    }
    let done = post(&link, &format!("{GOOD}&server_name=hearth.test%3A8448")).await;
    assert_eq!(done.status(), 200, "{}", done.body());
    assert!(done.body().contains("@keeper:hearth.test:8448"), "{}", done.body());
    assert!(done.body().contains(&program.url), "{}", done.body());

    let again = post(&link, &format!("{GOOD}2&server_name=other.test")).await;
    assert_eq!(again.status(), 410);
    assert!(!again.body().contains("name=\"password\""));
    assert_eq!(ask(Method::GET, &link, "").await.status(), 410);

    assert!(program.stop().success());
    let program = Program::start(folder.path(), &[]);
    assert_eq!(program.first_account_link(), None);
    assert!(program.printed.contains("hearth.test:8448"), "{}", program.printed);
}

#[tokio::test]
async fn a_wrong_token_shows_no_form_and_makes_no_account() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let link = program.first_account_link().unwrap();
    for wrong in [format!("{link}x"), link.split('?').next().unwrap().to_owned()] {
        let page = ask(Method::GET, &wrong, "").await;
        assert_eq!(page.status(), 410, "{wrong}");
        assert!(!page.body().contains("<form"), "{wrong}");
        assert_eq!(post(&wrong, GOOD).await.status(), 410, "{wrong}");
    }
    assert_eq!(ask(Method::GET, link, "").await.status(), 200);
}

#[tokio::test]
async fn what_is_wrong_is_said_and_the_link_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let link = program.first_account_link().unwrap();
    for (form, says) in [
        ("username=keeper&password=short", "at least 8"),
        ("username=%3Cb%3E&password=a+long+pass+phrase", "value=\"&lt;b&gt;\""),
        ("username=&password=a+long+pass+phrase", "role=\"alert\""),
        ("username=a&password=a+long+pass+phrase&server_name=not+a+name", "server name"),
    ] {
        let page = post(link, form).await;
        assert_eq!(page.status(), 400, "{form}");
        assert!(page.body().contains(says), "{form}: {}", page.body());
        assert!(!page.body().contains("a long pass phrase"), "{form}: the password is sent back");
    }
    assert_eq!(post(link, GOOD).await.status(), 200);
}

#[tokio::test]
async fn a_configured_name_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &["server_name=fixed.test"]);
    let link = program.first_account_link().unwrap();
    assert!(!ask(Method::GET, link, "").await.body().contains("name=\"server_name\""));
    let done = post(link, &format!("{GOOD}&server_name=other.test")).await;
    assert!(done.body().contains("@keeper:fixed.test"), "{}", done.body());
}

#[tokio::test]
async fn the_page_allows_nothing_but_itself() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let link = program.first_account_link().unwrap();
    let page = ask(Method::GET, link, "").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    for part in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(!page.body().contains("<script"));
    assert_eq!(page.headers()["referrer-policy"], "no-referrer");
    assert_eq!(page.headers()["cache-control"], "no-store");
}
