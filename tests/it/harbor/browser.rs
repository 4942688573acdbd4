//! A real browser at the portal through the gateway: it trusts the gateway's authority as it would anybody's, stays at one node while
//! that lives, and goes on at another when it dies.

use super::fixture::{CredentialKind, HarborSite};
use super::web::nodes_asked;
use crate::harness::Result;
use crate::harness::browser::Chromium;
use crate::harness::harbor::{HarborNode, SeenRequest};

async fn log_in(browser: &Chromium, user: &str, password: &str) -> Result<()> {
    browser.fill("login_username", user).await?;
    browser.fill("login_password", password).await?;
    browser.click("log_in").await
}

/// Creates a project and waits until the portal tells that it is there.
async fn create_project(browser: &Chromium, name: &str) {
    browser.fill("project_name", name).await.expect("a field");
    browser.click("create_project").await.expect("a button");
    browser.wait_for_text("result", &format!("201 {name}")).await;
}

/// The writes that nodes refused because the token against forged requests was another node's.
fn refused_writes(site: &HarborSite) -> Vec<String> {
    let refused = |request: &SeenRequest| request.status == 403;
    let requests = site.nodes.iter().flat_map(HarborNode::requests).filter(refused);
    requests.map(|request| format!("{} {}", request.method, request.target)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_works_with_one_node_and_goes_on_with_another_when_it_dies() {
    // Each node has a CSRF key of its own.
    let site = HarborSite::start(3, CredentialKind::Token).await;
    let browser = Chromium::trusting(&site.endpoint.ca_file).await;
    let portal = format!("https://{}/", site.endpoint.authority);
    browser.open(&portal).await.expect("the portal");
    browser.wait_for_text("current_user", "").await;
    log_in(&browser, "alice", "wrong").await.expect("a form");
    browser.wait_for_text("result", "login 401").await;
    browser.wait_for_text("current_user", "").await;
    log_in(&browser, "alice", &site.accounts.alice).await.expect("a form");
    browser.wait_for_text("current_user", "alice").await;
    site.nodes.iter().for_each(HarborNode::clear_requests);
    for number in 0..6 {
        create_project(&browser, &format!("before{number}")).await;
    }
    assert_eq!(refused_writes(&site), Vec::<String>::new(), "at one node its token is always right");
    let asked = nodes_asked(&site);
    assert_eq!(asked.len(), 1, "{asked:?}");

    let node = site.nodes.iter().find(|node| node.name() == asked[0]).expect("one of them");
    node.kill().await;
    // The token in the page is the dead node's. The portal gets another and asks again; nobody has to log in or to load the page.
    create_project(&browser, "after0").await;
    assert_eq!(refused_writes(&site), ["POST /api/v2.0/projects"]);
    for number in 1..6 {
        create_project(&browser, &format!("after{number}")).await;
    }
    browser.open(&portal).await.expect("the portal of another node");
    browser.wait_for_text("current_user", "alice").await;
    assert_eq!(refused_writes(&site), ["POST /api/v2.0/projects"], "once, and never again");
    let after = nodes_asked(&site);
    assert!(after.len() == 1 && after != asked, "{asked:?} {after:?}");

    browser.click("log_out").await.expect("a button");
    browser.wait_for_text("result", "logout 200").await;
    browser.wait_for_text("current_user", "").await;
    browser.open(&portal).await.expect("the portal");
    browser.fill("project_name", "nobodys").await.expect("a field");
    browser.click("create_project").await.expect("a button");
    browser.wait_for_text("result", "401 nobodys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_that_does_not_know_the_authority_stays_away() {
    let site = HarborSite::start(1, CredentialKind::Token).await;
    let browser = Chromium::as_installed().await;
    browser.open(&format!("https://{}/", site.endpoint.authority)).await.expect("a page about the error");
    let page = browser.source().await.expect("a page");
    assert!(page.contains("ERR_CERT_AUTHORITY_INVALID"), "{page}");
    assert!(!page.contains("login_form"), "{page}");
    assert_eq!(nodes_asked(&site), Vec::<String>::new());
}
