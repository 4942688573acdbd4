//! The token service: recordings 020-044, 370.

use serde_json::{Value, json};

use super::case::{Case, run_shuffled, token_parts};
use super::world::{As as _, Login, Pair, token_target};
use crate::harness::client::{Answer, TestClient};

/// What every token has, and what this one is to have.
struct Expected<'a> {
    id: &'a str,
    subject: Option<&'a str>,
    access: Value,
}

impl Expected<'_> {
    fn check(&self, answer: &Answer) {
        let id = self.id;
        let json = answer.json();
        assert_eq!(json["access_token"], "", "[{id}] the access token is there and empty");
        assert_eq!(json["expires_in"], 1800, "[{id}]");
        assert!(
            json["issued_at"].as_str().is_some_and(|at| at.len() == 20 && at.ends_with('Z')),
            "[{id}] {json}"
        );
        assert_eq!(json.as_object().expect("an object").len(), 4, "[{id}] no refresh token: {json}");
        let (header, mut claims) = token_parts(answer);
        assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("RS256"), Some("JWT")), "[{id}]");
        let kid = header["kid"].as_str().expect("a key id");
        assert_eq!((kid.len(), kid.split(':').count()), (59, 12), "[{id}] {kid}");
        assert_eq!(header.as_object().expect("an object").len(), 3, "[{id}] {header}");
        let time = |name: &str| claims[name].as_u64().expect("a time");
        assert_eq!((time("nbf"), time("exp")), (time("iat"), time("iat") + 1800), "[{id}]");
        assert_eq!(claims["jti"].as_str().map(str::len), Some(16), "[{id}]");
        assert_eq!(claims.get("sub").and_then(Value::as_str), self.subject, "[{id}] {claims}");
        assert_eq!(
            (&claims["iss"], &claims["aud"]),
            (&json!("harbor-token-issuer"), &json!("harbor-registry"))
        );
        for entry in claims["access"].as_array_mut().into_iter().flatten() {
            // Their order is random.
            let actions = entry["actions"].as_array_mut().expect("a list, though it be empty");
            actions.sort_by_key(Value::to_string);
        }
        assert_eq!(claims["access"], self.access, "[{id}]");
        assert!(claims.get("access").is_some(), "[{id}] null, but there");
    }
}

fn entry(name: &str, actions: &[&str]) -> Value {
    json!({ "type": "repository", "name": name, "actions": actions })
}

/// 020-029, 033, 034, 036-038, 042-044: everything the account may do on the project, whatever was asked for.
#[tokio::test]
async fn grants() {
    let pair = Pair::start().await;
    let names = &pair.names;
    let (app, other, shown) = (&names.app, &names.other, &names.shown);
    let nosuch = format!("{}/app", names.nosuch);
    let scope = |repository: &str, actions: &str| format!("repository:{repository}:{actions}");
    let both = ["pull", "push"];
    let (alice, admin) = (&names.alice, pair.admin());
    let two = [scope(app, "pull,push"), scope(other, "pull")];
    let in_one = format!("{} {}", two[0], two[1]);
    let team2_app = format!("{}/app", names.team2);
    let catalog = |actions: &[&str]| json!([{ "type": "registry", "name": "catalog", "actions": actions }]);
    let table: Vec<(&str, Option<&Login>, Vec<String>, Value)> = vec![
        ("020", Some(&admin), vec![], Value::Null),
        ("021", Some(alice), vec![scope(app, "pull")], json!([entry(app, &both)])),
        ("022", Some(alice), vec![scope(app, "push")], json!([entry(app, &both)])),
        ("023", Some(alice), vec![scope(app, "pull,push")], json!([entry(app, &both)])),
        ("024", Some(alice), two.to_vec(), json!([entry(app, &both), entry(other, &both)])),
        ("024b", Some(alice), vec![in_one], json!([entry(app, &both), entry(other, &both)])),
        ("025", Some(&admin), vec!["registry:catalog:*".to_owned()], catalog(&["*"])),
        ("026", Some(alice), vec!["registry:catalog:*".to_owned()], catalog(&[])),
        ("027", Some(&names.bob), vec![scope(app, "pull,push")], json!([entry(app, &[])])),
        ("028", Some(alice), vec![scope(&nosuch, "pull")], json!([entry(&nosuch, &[])])),
        ("029", Some(&names.carol), vec![scope(app, "pull,push")], json!([entry(app, &["pull"])])),
        ("033", None, vec![scope(shown, "pull")], json!([entry(shown, &["pull"])])),
        ("034", None, vec![scope(app, "pull")], json!([entry(app, &[])])),
        ("036", Some(&names.ci), vec![scope(app, "pull,push")], json!([entry(app, &both)])),
        ("037", Some(&names.sysci), vec![scope(app, "pull,push")], json!([entry(app, &both)])),
        ("038", Some(&names.ci), vec![scope(&team2_app, "pull,push")], json!([entry(&team2_app, &[])])),
        ("042", Some(alice), vec!["repository:app:pull".to_owned()], json!([entry("app", &[])])),
        ("043", Some(alice), vec![scope(app, "delete")], json!([entry(app, &both)])),
    ];
    let mut seen = Vec::new();
    for (id, login, scopes, access) in table {
        let client = login.map_or_else(|| pair.a.client(), |login| pair.a.login(login));
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        let mut target = token_target(&scopes);
        if id == "020" {
            target.push_str("&account=admin&client_id=docker&offline_token=true");
        }
        let answer = issued(id, &client, &target).await;
        Expected { id, subject: login.map(|login| login.name.as_str()), access }.check(&answer);
        seen.push(token_parts(&answer).0["kid"].clone());
    }
    let answer = issued("044", &pair.b.login(alice), &token_target(&[&scope(app, "pull")])).await;
    Expected { id: "044", subject: Some(&alice.name), access: json!([entry(app, &both)]) }.check(&answer);
    seen.dedup();
    assert_eq!(seen.len(), 1, "one node signs with one key");
    assert_ne!(token_parts(&answer).0["kid"], seen[0], "[044] the other node with another");
}

async fn issued(id: &str, client: &TestClient, target: &str) -> Answer {
    let json = "application/json; charset=utf-8";
    Case::get(id, client, target).status(200).says("content-type", json).lacks("www-authenticate").run().await
}

/// 030, 035, 039-041, 370: what it does not answer with a token.
#[tokio::test]
async fn refusals() {
    let pair = Pair::start().await;
    let names = &pair.names;
    let (alice, wrong) = (pair.a.login(&names.alice), pair.a.client().with_basic(&names.bob.name, "wrong"));
    let scope = format!("scope=repository%3A{}%3Apull", names.app.replace('/', "%2F"));
    let empty = |case: Case| {
        case.status(401).text("").lacks("www-authenticate").lacks("content-type").says("content-length", "0")
    };
    let form = "application/x-www-form-urlencoded";
    let not_allowed = |case: Case| {
        let case = case.body(form, "grant_type=password&service=harbor-registry&client_id=x");
        let case = case.status(405).text("Method Not Allowed\n").says("x-content-type-options", "nosniff");
        case.says("content-type", "text/plain; charset=utf-8")
    };
    let text = |case: Case, text: &str| {
        case.status(400).text(text).says("content-type", "text/plain; charset=utf-8")
    };
    let cases = vec![
        empty(Case::get("030", &wrong, token_target(&[]))),
        empty(Case::get("035", &pair.a.client(), token_target(&[]))),
        text(
            Case::get("039", &alice, format!("/service/token?service=other&{scope}")),
            "Unable to handle service: other",
        ),
        text(Case::get("040", &alice, format!("/service/token?{scope}")), "Unable to handle service: "),
        not_allowed(Case::post("041", &pair.a.client(), "/service/token")),
        not_allowed(Case::post("370", &pair.a.core_client(), "/service/token").at_core()),
    ];
    run_shuffled(names.seed, cases).await;
}

/// 031, 032, 032b: a wrong password is answered late and locks the name meanwhile, on this node.
#[tokio::test]
async fn wrong_passwords_lock() {
    let pair = Pair::start().await;
    let names = &pair.names;
    let scope = format!("repository:{}:pull", names.app);
    let target = token_target(&[&scope]);
    let wrong = pair.a.client().with_basic(&names.alice.name, "wrong");
    let anonymous = |id| Expected { id, subject: None, access: json!([entry(&names.app, &[])]) };
    let started = tokio::time::Instant::now();
    let delayed = async {
        let answer = issued("031", &wrong, &target).await;
        (answer, started.elapsed())
    };
    let meanwhile = async {
        // The wrong one is on its way first; which of the two core sees first is up to the kernel otherwise.
        crate::harness::wait::until("the wrong password arrives", async || {
            (!pair.a.requests().is_empty()).then_some(())
        })
        .await;
        let locked = issued("032", &pair.a.login(&names.alice), &target).await;
        Case::get("032b", &pair.a.login(&names.alice), "/v2/")
            .refused(super::case::BASIC, "unauthorized")
            .run()
            .await;
        Case::get("032 on B", &pair.b.login(&names.alice), "/v2/").status(200).run().await;
        (locked, started.elapsed())
    };
    let ((late, late_at), (locked, locked_at)) = tokio::join!(delayed, meanwhile);
    anonymous("031").check(&late);
    anonymous("032").check(&locked);
    assert!(late_at >= std::time::Duration::from_millis(1500), "[031] after {late_at:?}");
    assert!(
        locked_at < late_at,
        "[032] the locked answer came after {locked_at:?}, the wrong one after {late_at:?}"
    );
}
