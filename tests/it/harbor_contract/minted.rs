//! Tokens minted outside with a node's private key, and whom the audit log shows: recordings 320, 331, 332, 420, 421.

use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{self, EcdsaKeyPair, RsaEncoding};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::case::{BASIC, Case};
use super::contents::{OCI, push_image};
use super::world::{As as _, Pair, bearer};
use crate::harness::client::TestClient;
use crate::harness::harbor::AuditEntry;
use crate::harness::image::digest_of;
use crate::harness::random_secret;

/// An operator's copy of a node's key.
pub(super) struct Mint {
    pair: KeyPair,
    pem: String,
}

pub(super) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_secs()
}

/// An entry of the access list.
pub(super) fn entry(repository: &str, actions: &[&str]) -> Value {
    json!({ "type": "repository", "name": repository, "actions": actions })
}

/// Claims that a node takes; `changes` sets others, and null removes.
pub(super) fn claims(access: &Value, changes: &Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": "harbor-token-issuer", "aud": "harbor-registry", "sub": "somebody", "exp": now + 600, "nbf": now - 5,
        "iat": now - 5, "jti": random_secret(), "access": access,
    });
    for (key, value) in changes.as_object().into_iter().flatten() {
        claims[key] = value.clone();
    }
    claims
}

impl Mint {
    pub(super) fn of(private_key: &Path) -> Self {
        let pem = std::fs::read_to_string(private_key).expect("a key file");
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64.decode(base64.as_bytes()).expect("base64");
        let pair = KeyPair::from_der(&der).or_else(|_| KeyPair::from_pkcs8(&der)).expect("an RSA key");
        Self { pair, pem }
    }

    fn rsa(&self, encoding: &'static dyn RsaEncoding, signed: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(encoding, &SystemRandom::new(), signed, &mut signature).expect("a signature");
        signature
    }

    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let bytes = signed.as_bytes();
        let signature = match header["alg"].as_str().unwrap_or_default() {
            "RS256" => self.rsa(&signature::RSA_PKCS1_SHA256, bytes),
            "RS384" => self.rsa(&signature::RSA_PKCS1_SHA384, bytes),
            "RS512" => self.rsa(&signature::RSA_PKCS1_SHA512, bytes),
            "PS256" => self.rsa(&signature::RSA_PSS_SHA256, bytes),
            "ES256" => {
                let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
                key.sign(&SystemRandom::new(), bytes).expect("a signature").as_ref().to_vec()
            }
            "HS256" => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.pem.as_bytes());
                hmac::sign(&key, bytes).as_ref().to_vec()
            }
            _ => Vec::new(),
        };
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    /// RS256 with nothing unusual in its header.
    pub(super) fn plain(&self, claims: &Value) -> String {
        self.token(&json!({ "alg": "RS256", "typ": "JWT" }), claims)
    }
}

/// Where a minted token is shown.
#[derive(Debug, Clone, Copy)]
enum At {
    Manifest,
    Base,
    Upload,
    Public,
}

async fn ask(id: &str, client: &TestClient, pair: &Pair, at: At) -> u16 {
    let names = &pair.names;
    let case = match at {
        At::Manifest => Case::get(id, client, format!("/v2/{}/manifests/{}", names.app, names.tag)),
        At::Public => Case::get(id, client, format!("/v2/{}/manifests/{}", names.shown, names.tag)),
        At::Base => Case::get(id, client, "/v2/"),
        At::Upload => Case::post(id, client, format!("/v2/{}/blobs/uploads/", names.app)),
    };
    let answer = case.with("accept", OCI).run().await;
    if answer.status == 401 {
        // Whatever is wrong with a token, a password is asked for.
        assert_eq!(answer.header("www-authenticate"), Some(BASIC), "[{id}]");
    }
    answer.status.as_u16()
}

/// Headers that are refused: every algorithm but one.
#[tokio::test]
async fn headers() {
    let pair = Pair::start().await;
    let (names, mint) = (&pair.names, Mint::of(pair.a.private_key_file()));
    push_image(&pair.a, &names.alice, &names.app, &names.tag).await;
    let plain = claims(&json!([entry(&names.app, &["pull"])]), &Value::Null);
    let rs256 = |more: Value| {
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        for (key, value) in more.as_object().expect("an object") {
            header[key] = value.clone();
        }
        header
    };
    let certificate = std::fs::read_to_string(pair.a.root_certificate_file()).expect("a certificate");
    let table = vec![
        ("420 plain", rs256(json!({})), 200),
        ("320 kid garbage", rs256(json!({ "kid": "garbage" })), 200),
        ("320 no typ", json!({ "alg": "RS256" }), 200),
        ("420 x5c of its own, no kid", rs256(json!({ "x5c": [certificate] })), 200),
        ("420 x5c garbage", rs256(json!({ "x5c": ["garbage"] })), 200),
        ("420 jwk, x5t, custom", rs256(json!({ "jwk": {}, "x5t": "a", "own": 1 })), 200),
        ("420 crit", rs256(json!({ "crit": ["tg"] })), 200),
        ("420 kid of 2000", rs256(json!({ "kid": "k".repeat(2000) })), 200),
        ("420 typ", json!({ "alg": "RS256", "typ": "at+jwt" }), 200),
        ("420 RS384", json!({ "alg": "RS384", "typ": "JWT" }), 401),
        ("420 RS512", json!({ "alg": "RS512", "typ": "JWT" }), 401),
        ("420 PS256", json!({ "alg": "PS256", "typ": "JWT" }), 401),
        ("420 ES256", json!({ "alg": "ES256", "typ": "JWT" }), 401),
        ("420 HS256", json!({ "alg": "HS256", "typ": "JWT" }), 401),
        ("420 none", json!({ "alg": "none", "typ": "JWT" }), 401),
    ];
    for (id, header, wanted) in table {
        let client = pair.a.client().with_bearer(&mint.token(&header, &plain));
        assert_eq!(ask(id, &client, &pair, At::Manifest).await, wanted, "[{id}]");
    }
    for alg in ["RS384", "RS512", "PS256", "none", "rs256"] {
        // The header names one algorithm, the signature is of the other.
        let part = |json: &Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
        let signed = format!("{}.{}", part(&json!({ "alg": alg, "typ": "JWT" })), part(&plain));
        let signature = mint.rsa(&signature::RSA_PKCS1_SHA256, signed.as_bytes());
        let client = pair.a.client().with_bearer(&format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)));
        assert_eq!(
            ask("63. a name that is not the signature's", &client, &pair, At::Manifest).await,
            401,
            "{alg}"
        );
    }
    let of_b = Mint::of(pair.b.private_key_file()).plain(&plain);
    assert_eq!(ask("320 key of B", &pair.a.client().with_bearer(&of_b), &pair, At::Manifest).await, 401);
}

/// Claims: which may be absent, which must be strings, and that no clock may differ.
#[tokio::test]
async fn claim_rules() {
    let pair = Pair::start().await;
    let (names, mint, now) = (&pair.names, Mint::of(pair.b.private_key_file()), now());
    push_image(&pair.b, &names.alice, &names.app, &names.tag).await;
    let absent = json!({ "exp": null, "nbf": null, "iat": null, "jti": null, "sub": null });
    let table = vec![
        ("320 nothing optional", absent.clone(), At::Manifest, 200),
        ("320 no sub", absent, At::Base, 401),
        ("320 wrong iss", json!({ "iss": "other" }), At::Manifest, 401),
        ("320 wrong aud", json!({ "aud": "other" }), At::Manifest, 401),
        ("320 aud as list", json!({ "aud": ["harbor-registry"] }), At::Manifest, 200),
        ("420 aud list, another first", json!({ "aud": ["x", "harbor-registry"] }), At::Manifest, 200),
        ("320 expired", json!({ "exp": now - 1 }), At::Manifest, 401),
        ("320 exp in 10 years", json!({ "exp": now + 315_360_000 }), At::Manifest, 200),
        ("420 exp in 60 years", json!({ "exp": now + 1_892_160_000 }), At::Manifest, 200),
        ("420 exp as float", json!({ "exp": 4_000_000_000.5 }), At::Manifest, 200),
        ("320 nbf 5 s ahead", json!({ "nbf": now + 5 }), At::Manifest, 401),
        ("320 iat 5 s ahead", json!({ "iat": now + 5 }), At::Manifest, 401),
        ("420 sub a number", json!({ "sub": 5 }), At::Manifest, 401),
        ("420 jti a number", json!({ "jti": 5 }), At::Manifest, 401),
        ("420 sub empty", json!({ "sub": "" }), At::Manifest, 200),
        (
            "420 extra claims",
            json!({ "use": "member", "tg": { "a": [1] }, "groups": ["g"] }),
            At::Manifest,
            200,
        ),
    ];
    let access = json!([entry(&names.app, &["pull"])]);
    for (id, changes, at, wanted) in table {
        let client = pair.b.client().with_bearer(&mint.plain(&claims(&access, &changes)));
        assert_eq!(ask(id, &client, &pair, at).await, wanted, "[{id}]");
    }
}

/// Access: by project, the last entry of a project counts, and being public is not looked at.
#[tokio::test]
async fn access_rules() {
    let pair = Pair::start().await;
    let (names, mint) = (&pair.names, Mint::of(pair.a.private_key_file()));
    for repository in [&names.app, &names.shown] {
        push_image(&pair.a, &names.alice, repository, &names.tag).await;
    }
    let (app, other) = (&names.app, &format!("{}/bs1", names.team));
    let (pull, push) = (["pull"], ["push"]);
    let both = ["pull", "push"];
    let catalog = json!({ "type": "registry", "name": "catalog", "actions": ["*"] });
    let classed = json!({ "type": "repository", "class": "image", "name": app, "actions": ["pull"] });
    let union = json!([entry(app, &both), entry(other, &both)]);
    let replaced = json!([entry(app, &pull), entry(app, &push)]);
    let table = vec![
        ("320 star", json!([entry(app, &["*"])]), At::Manifest, 200),
        ("320 pull only", json!([entry(app, &pull)]), At::Upload, 401),
        ("320 push only", json!([entry(app, &push)]), At::Upload, 202),
        ("320 push only, GET", json!([entry(app, &push)]), At::Manifest, 401),
        ("320 push, then pull of a sister", json!([entry(app, &both), entry(other, &pull)]), At::Upload, 401),
        ("320 pull of a sister, then push", json!([entry(other, &pull), entry(app, &both)]), At::Upload, 202),
        ("320 bare project", json!([entry(&names.team, &both)]), At::Upload, 202),
        ("320 sister opens this one", json!([entry(other, &pull)]), At::Manifest, 200),
        ("420 pull + push, POST", replaced.clone(), At::Upload, 202),
        ("420 pull + push, GET", replaced, At::Manifest, 401),
        ("420 union, POST", union.clone(), At::Upload, 202),
        ("420 union, GET", union, At::Manifest, 200),
        ("420 unknown action", json!([entry(app, &["pull", "unknown-action"])]), At::Manifest, 200),
        ("420 class", json!([classed]), At::Manifest, 200),
        ("420 registry entry", json!([catalog]), At::Manifest, 401),
        ("420 empty", json!([]), At::Manifest, 401),
        ("420 empty, GET /v2/", json!([]), At::Base, 200),
        ("420 null, GET /v2/", Value::Null, At::Base, 200),
        ("420 empty, public", json!([]), At::Public, 401),
        ("420 public by name", json!([entry(&names.shown, &pull)]), At::Public, 200),
    ];
    for (id, access, at, wanted) in table {
        let client = pair.a.client().with_bearer(&mint.plain(&claims(&access, &Value::Null)));
        assert_eq!(ask(id, &client, &pair, at).await, wanted, "[{id}]");
        // Who the token is for changes nothing, except for `/v2/` itself.
        if !matches!(at, At::Base) {
            let nobody = mint.plain(&claims(&access, &json!({ "sub": null })));
            let client = pair.a.client().with_bearer(&nobody);
            assert_eq!(ask(id, &client, &pair, at).await, wanted, "[{id}] without a sub");
        }
    }
    for (id, actions) in
        [("420 star deletes", vec!["*"]), ("420 delete deletes", vec!["pull", "push", "delete"])]
    {
        let token = mint.plain(&claims(&json!([entry(app, &actions)]), &Value::Null));
        let client = pair.a.client().with_bearer(&token);
        let message = "unsupported digest nosuchtag: invalid checksum digest format";
        let case = Case::delete(id, &client, format!("/v2/{app}/manifests/nosuchtag"));
        case.error(400, "UNSUPPORTED", message).run().await;
        let digest = digest_of(id.as_bytes());
        let case = Case::delete("320 delete", &client, format!("/v2/{app}/manifests/{digest}"));
        case.error(404, "NOT_FOUND", &format!("artifact {app}@{digest} not found")).run().await;
    }
}

/// 320: other places, other words before the token, and a secret that should never come from outside.
#[tokio::test]
async fn around_tokens() {
    let pair = Pair::start().await;
    let (names, mint, a) = (&pair.names, Mint::of(pair.a.private_key_file()), pair.a.client());
    let app = &names.app;
    let catalog = json!([{ "type": "registry", "name": "catalog", "actions": ["*"] }]);
    let cataloguer = a.clone().with_bearer(&mint.plain(&claims(&catalog, &Value::Null)));
    Case::get("320 catalog", &cataloguer, "/v2/_catalog")
        .refused(BASIC, "unauthorized to list catalog")
        .run()
        .await;
    let stranger = format!("{}/app", names.nosuch);
    let token = mint.plain(&claims(&json!([entry(&stranger, &["pull"])]), &Value::Null));
    let client = a.clone().with_bearer(&token);
    for path in ["/api/v2.0/users/current", "/api/v2.0/projects"] {
        Case::get("320 api", &client, path).error(401, "UNAUTHORIZED", "unauthorized").run().await;
    }
    let message = format!("project {} not found", names.nosuch);
    Case::get("320 no project", &client, format!("/v2/{stranger}/tags/list"))
        .refused("", &message)
        .run()
        .await;
    for (scheme, wanted) in [("bearer", 401), ("BEARER", 401), ("Bearer", 200), ("Bearer ", 200)] {
        let case =
            Case::get(format!("320 {scheme}"), &a, "/v2/").with("authorization", format!("{scheme} {token}"));
        case.status(wanted).run().await;
    }
    let basic = crate::harness::client::basic(&names.alice.name, &names.alice.password);
    for scheme in ["basic", "BASIC"] {
        let value = basic.replace("Basic", scheme);
        Case::get(format!("320 {scheme}"), &a, "/v2/").with("authorization", value).status(200).run().await;
    }
    let secret = format!("Harbor-Secret {}", pair.a.harbor_secret());
    Case::get("320 secret", &a, "/v2/_catalog").with("authorization", secret).status(200).run().await;
    let wrong = Case::get("320 wrong secret", &a, format!("/v2/{app}/tags/list"));
    wrong.with("authorization", "Harbor-Secret no").forbidden(app, "pull").run().await;
}

/// 331: a replaced key file counts at once. 332: a token outlives its user, a password does not.
#[tokio::test]
async fn keys_and_users_that_go() {
    let pair = Pair::start().await;
    let names = &pair.names;
    let scope = format!("repository:{}:pull", names.app);
    let token = super::world::token_answer(&pair.a.login(&names.carol), &[&scope]).await.token();
    let on_b = pair.b.client().with_bearer(&token);
    let own = std::fs::read_to_string(pair.b.private_key_file()).expect("a key file");
    let of_a = std::fs::read_to_string(pair.a.private_key_file()).expect("a key file");
    Case::get("331 before", &on_b, "/v2/").status(401).run().await;
    pair.b.replace_private_key(&of_a);
    Case::get("331 after", &on_b, "/v2/").status(200).run().await;
    pair.b.replace_private_key(&own);
    Case::get("331 own key back", &on_b, "/v2/").status(401).run().await;

    let carol = pair.a.client().with_bearer(&token);
    Case::get("332 before", &carol, "/v2/").status(200).run().await;
    pair.database.remove_user(&names.carol.name);
    Case::get("332 after", &carol, "/v2/").status(200).run().await;
    Case::get("332 Basic", &pair.a.login(&names.carol), "/v2/").refused(BASIC, "unauthorized").run().await;
}

/// 421: the log has the `sub`, known or not; HEAD is no pull, and nobody is `anonymous` only when pulling.
#[tokio::test]
async fn audit_log() {
    let pair = Pair::start().await;
    let (names, mint) = (&pair.names, Mint::of(pair.a.private_key_file()));
    let image = push_image(&pair.a, &names.alice, &names.app, &names.tag).await;
    let path = format!("/v2/{}/manifests/{}", names.app, names.tag);
    let resource = format!("{}:{}", names.app, names.tag);
    let mut wanted = vec![("create", names.alice.name.clone(), resource.clone())];
    let long = "x".repeat(3000);
    let subjects: [&str; 7] =
        ["ghost", "robot$team+x", "alice@corp.example", "李雷-ü", "a b\"c", "admin", &long];
    for subject in subjects.into_iter().map(Some).chain([None]) {
        let access = json!([entry(&names.app, &["pull", "push"])]);
        let client = pair.a.client().with_bearer(&mint.plain(&claims(&access, &json!({ "sub": subject }))));
        let cut: String = subject.unwrap_or_default().chars().take(255).collect();
        Case::put("421 push", &client, &path).body(OCI, image.manifest.clone()).status(201).run().await;
        wanted.push(("create", cut.clone(), resource.clone()));
        Case::head("421 HEAD", &client, &path).with("accept", OCI).status(200).run().await;
        Case::get("421 pull", &client, &path).with("accept", OCI).status(200).run().await;
        wanted.push(("pull", subject.map_or_else(|| "anonymous".to_owned(), |_| cut), resource.clone()));
    }
    for login in [&names.alice, &names.ci] {
        Case::get("421 Basic", &pair.a.login(login), &path).with("accept", OCI).status(200).run().await;
        wanted.push(("pull", login.name.clone(), resource.clone()));
    }
    push_image(&pair.a, &names.alice, &names.shown, &names.tag).await;
    let shown = format!("{}:{}", names.shown, names.tag);
    wanted.push(("create", names.alice.name.clone(), shown.clone()));
    let scope = format!("repository:{}:pull", names.shown);
    let token = super::world::token_answer(&pair.a.client(), &[&scope]).await.token();
    let client = pair.a.client().with_bearer(&token);
    let public = format!("/v2/{}/manifests/{}", names.shown, names.tag);
    Case::get("421 anonymous", &client, public).with("accept", OCI).status(200).run().await;
    wanted.push(("pull", "anonymous".to_owned(), shown));
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|(operation, username, resource)| AuditEntry {
            username,
            operation: operation.to_owned(),
            resource,
        })
        .collect();
    assert_eq!(pair.database.audit(), wanted, "[421]");
    let logs = Case::get("421", &pair.a.login(&pair.admin()), "/api/v2.0/audit-logs?page_size=2").status(200);
    let logs = logs.says("x-total-count", wanted.len().to_string()).run().await.json();
    assert_eq!(
        (&logs[0]["username"], &logs[0]["operation"]),
        (&json!("anonymous"), &json!("pull")),
        "newest first"
    );
    let bob = bearer(&pair.a, &names.bob, &[]).await;
    Case::get("421 by token", &bob, "/api/v2.0/audit-logs")
        .error(401, "UNAUTHORIZED", "unauthorized")
        .run()
        .await;
}
