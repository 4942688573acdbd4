//! Which registry takes which of the tokens that Tidegate mints for members: every profile against the checks of distribution 3 and
//! of docker-registry 2.8 written anew, and against the real docker-registry 2.8, which also shows that the rewritten checks are
//! right. Distribution 3 itself is not packaged.

mod odd;
mod verifier;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::auth::keys::{Algorithm, KidStyle, SigningKey, pem};
use tidegate::auth::subject::Subject;
use tidegate::auth::token::{MemberTokens, Validity};
use tidegate::key_store::{self, KeyUse, Retention};
use tidegate::registry::ResourceAccess;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::harness::certs::Certificates;
use crate::harness::client::TestClient;
use crate::harness::config::ConfigBuilder;
use crate::harness::gateway::Gateway;
use crate::harness::random_secret;
use crate::harness::registry::{Access, StockRegistry};
use crate::harness::site::export_member_bundle;
use odd::Case;
use verifier::{Verifier, Version, libtrust_id, rsa_thumbprint, thumbprint};

const ISSUER: &str = "tidegate";
const SERVICE: &str = "member-registry";
/// What the minted tokens grant and the requests need.
const PULL: [(&str, &str, &str); 1] = [("repository", "t/app", "pull")];

/// Every way in which a member's tokens can be made.
const PROFILES: [(KidStyle, bool); 4] = [
    (KidStyle::Libtrust, true),
    (KidStyle::Libtrust, false),
    (KidStyle::Thumbprint, true),
    (KidStyle::Thumbprint, false),
];

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

/// A signing key with its certificate.
struct Signer {
    key: SigningKey,
    certificate: Vec<u8>,
}

impl Signer {
    /// As `tidegate keys generate` makes it and the gateway loads it.
    fn from_key_store(dir: &Path) -> Self {
        key_store::generate(dir, KeyUse::Member, Algorithm::Es256, unix_now(), 0).expect("a member key");
        let keys = key_store::load(dir, dir, Retention { client: 1, seal: 1 }).expect("the key ring");
        let key = keys.member.active(unix_now()).expect("an active key");
        let bundle = key_store::export_bundle(dir).expect("a bundle");
        let certificate = CertificateDer::from_pem_slice(bundle.as_bytes()).expect("a certificate").to_vec();
        assert_eq!(key.certificate(), Some(data_encoding::BASE64.encode(&certificate).as_str()));
        let file =
            std::fs::read_dir(dir).expect("the directory").next().expect("a key file").expect("readable");
        let file: Value =
            serde_json::from_slice(&std::fs::read(file.path()).expect("readable")).expect("JSON");
        let private = file["private_key"].as_str().expect("a private key").as_bytes();
        Self { key: SigningKey::from_pem(private, Some(&certificate)).expect("a key"), certificate }
    }

    /// As an operator brings it: any key, with a certificate of `days` around now.
    fn of(algorithm: Algorithm, days: std::ops::Range<i64>) -> Self {
        let private = SigningKey::generate_pem(algorithm).expect("a key");
        let pair = KeyPair::from_pem(&private).expect("a key pair");
        let mut params = CertificateParams::default();
        let date = |days: i64| {
            let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
            let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
            let month = date.month().unsigned_abs();
            rcgen::date_time_ymd(date.year().into(), month, date.day().unsigned_abs())
        };
        (params.not_before, params.not_after) = (date(days.start), date(days.end));
        let certificate = params.self_signed(&pair).expect("a certificate").der().to_vec();
        let key = SigningKey::from_pem(private.as_bytes(), Some(&certificate)).expect("a key");
        Self { key, certificate }
    }

    /// What Tidegate mints for a member with this profile.
    fn mint(&self, (kid, x5c): (KidStyle, bool)) -> String {
        let tokens = MemberTokens { issuer: ISSUER.to_owned(), audience: SERVICE.to_owned(), kid, x5c };
        let access = ResourceAccess::parse_scope("repository:t/app:pull,push").expect("a scope");
        let now = unix_now();
        let validity = Validity { issued_at: now, expires_at: now + 300, jti: random_secret() };
        let subject = Subject::new("users", "alice").expect("a subject");
        tokens.mint(&self.key, &subject, &[access], validity).expect("a token")
    }

    /// A token of any header and claims, signed by this key whatever they say.
    fn sign(&self, header: &str, claims: &str) -> String {
        let part = |json: &str| data_encoding::BASE64URL_NOPAD.encode(json.as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(input.as_bytes()).expect("a signature");
        format!("{input}.{}", data_encoding::BASE64URL_NOPAD.encode(&signature))
    }

    fn with_certificate<T>(&self, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
        look(&X509Certificate::from_der(&self.certificate).expect("a certificate").1)
    }

    /// The key as an entry of a `jwks` file, with this `kid`.
    fn jwk(&self, kid: KidStyle) -> Value {
        let mut jwk = serde_json::to_value(self.key.jwk()).expect("JSON");
        jwk["kid"] = self.key.kid(kid).into();
        jwk
    }

    /// A registry of this version that trusts this key by its bundle.
    fn trusted_by(&self, version: Version) -> Verifier {
        Verifier {
            version,
            issuer: ISSUER.to_owned(),
            service: SERVICE.to_owned(),
            bundle: vec![self.certificate.clone()],
            jwks: Vec::new(),
            now: i64::try_from(unix_now()).expect("a time"),
        }
    }
}

#[test]
fn key_ids_are_the_ones_that_each_registry_computes() {
    // The example of RFC 7638 3.1.
    let modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let modulus = data_encoding::BASE64URL_NOPAD.decode(modulus.as_bytes()).expect("base64url");
    assert_eq!(rsa_thumbprint(&modulus, &[1, 0, 1]), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");

    let dir = TempDir::new().expect("a directory");
    let signer = Signer::from_key_store(dir.path());
    assert_eq!(signer.key.algorithm(), Algorithm::Rs256, "every stock registry takes RS256");
    let (libtrust, thumbprint) = signer.with_certificate(|cert| (libtrust_id(cert), thumbprint(cert)));
    assert_eq!(signer.key.kid(KidStyle::Libtrust), libtrust);
    assert_eq!(signer.key.kid(KidStyle::Thumbprint), thumbprint);
}

#[test]
fn a_minted_token_has_the_form_that_every_registry_reads() {
    let dir = TempDir::new().expect("a directory");
    let signer = Signer::from_key_store(dir.path());
    for (kid, x5c) in PROFILES {
        let token = signer.mint((kid, x5c));
        let part = |at: usize| -> Value {
            let part = token.split('.').nth(at).expect("three parts").as_bytes();
            let json = data_encoding::BASE64URL_NOPAD.decode(part).expect("base64url");
            serde_json::from_slice(&json).expect("JSON")
        };
        let (header, claims) = (part(0), part(1));
        let mut expected = json!({ "typ": "JWT", "alg": "RS256", "kid": signer.key.kid(kid) });
        if x5c {
            expected["x5c"] = json!([data_encoding::BASE64.encode(&signer.certificate)]);
        }
        assert_eq!(header, expected);
        let access = json!([{ "type": "repository", "name": "t/app", "actions": ["pull", "push"] }]);
        assert_eq!((&claims["access"], &claims["aud"]), (&access, &json!(SERVICE)));
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(ISSUER), &json!("alice")));
        let time = |name: &str| claims[name].as_u64().expect("an integer");
        assert_eq!((time("exp"), time("nbf")), (time("iat") + 300, time("iat") - 10));
        assert!(claims["jti"].as_str().is_some_and(|jti| jti.len() >= 16), "{claims}");
        assert!(token.len() < 6 * 1024, "{} bytes", token.len());
    }
}

#[test]
fn every_profile_is_accepted_exactly_where_the_registries_checks_say() {
    let dir = TempDir::new().expect("a directory");
    let signer = Signer::from_key_store(dir.path());
    let two = signer.trusted_by(Version::Two);
    let three = signer.trusted_by(Version::Three);
    let jwks = |kid| Verifier { bundle: Vec::new(), jwks: vec![signer.jwk(kid)], ..three.clone() };
    let both = Verifier { jwks: vec![signer.jwk(KidStyle::Libtrust)], ..three.clone() };
    let (ok, kid, x5c) = (Ok(()), Err("an unknown kid"), Err("x5c does not lead to the bundle"));
    for (what, verifier, expected) in [
        // In the order of PROFILES: libtrust+x5c, libtrust, thumbprint+x5c, thumbprint.
        ("2.8, rootcertbundle", &two, [ok, ok, ok, kid]),
        ("3, rootcertbundle", &three, [ok, kid, ok, ok]),
        ("3, jwks named by thumbprint", &jwks(KidStyle::Thumbprint), [x5c, kid, x5c, ok]),
        ("3, jwks named by libtrust id", &jwks(KidStyle::Libtrust), [x5c, ok, x5c, kid]),
        ("3, rootcertbundle and jwks named by libtrust id", &both, [ok, ok, ok, ok]),
    ] {
        let seen = PROFILES.map(|profile| verifier.check(&signer.mint(profile), &PULL));
        assert_eq!(seen, expected, "{what}");
    }
}

/// When a token says that it was issued, so that times are told from there and not from when the test gets to it.
fn issued_at(token: &str) -> i64 {
    let claims = token.split('.').nth(1).expect("three parts").as_bytes();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["iat"].as_i64().expect("an integer")
}

#[test]
fn a_minted_token_grants_its_access_to_its_audience_for_its_time_and_nothing_else() {
    let dir = TempDir::new().expect("a directory");
    let signer = Signer::from_key_store(dir.path());
    let token = signer.mint((KidStyle::Libtrust, true));
    for version in [Version::Two, Version::Three] {
        let verifier = Verifier { now: issued_at(&token), ..signer.trusted_by(version) };
        let at = |seconds: i64| Verifier { now: verifier.now + seconds, ..verifier.clone() };
        let push = ("repository", "t/app", "push");
        for (what, verifier, needed, expected) in [
            ("no access is needed for /v2/", verifier.clone(), vec![], Ok(())),
            ("what was granted", verifier.clone(), vec![PULL[0], push], Ok(())),
            (
                "deleting was not",
                verifier.clone(),
                vec![("repository", "t/app", "delete")],
                Err("insufficient scope"),
            ),
            (
                "nor another name",
                verifier.clone(),
                vec![("repository", "t/app2", "pull")],
                Err("insufficient scope"),
            ),
            (
                "nor the catalog",
                verifier.clone(),
                vec![("registry", "catalog", "*")],
                Err("insufficient scope"),
            ),
            ("a member whose clock is behind", at(-65), vec![], Ok(())),
            ("a member whose clock is far behind", at(-75), vec![], Err("not valid yet")),
            ("a member whose clock is ahead", at(355), vec![], Ok(())),
            ("after its time", at(365), vec![], Err("expired")),
            (
                "another audience",
                Verifier { service: "other".to_owned(), ..verifier.clone() },
                vec![],
                Err("audience"),
            ),
            (
                "another issuer",
                Verifier { issuer: "other".to_owned(), ..verifier.clone() },
                vec![],
                Err("issuer"),
            ),
        ] {
            assert_eq!(verifier.check(&token, &needed), expected, "{version:?}: {what}");
        }
    }
}

/// The registries' checks on tokens of every kind; the real 2.8 must judge each of them as the rewritten checks do.
#[tokio::test]
async fn the_rewritten_checks_judge_as_the_real_registry_does() {
    let dir = TempDir::new().expect("a directory");
    let signer = Signer::from_key_store(&dir.path().join("keys"));
    let stranger = Signer::of(Algorithm::Rs256, -1..30);
    let expired = Signer::of(Algorithm::Rs256, -30..-2);
    let bundle = [&signer.certificate, &expired.certificate];
    let registry = registry_trusting(dir.path(), "one", &bundle.map(Vec::as_slice)).await;
    let cases = odd::headers(&signer, &stranger, &expired).into_iter();
    let cases = cases.chain(odd::claims(&signer)).chain(odd::access(&signer));
    for Case { what, token, two, three } in cases {
        for (version, expected) in [(Version::Two, two), (Version::Three, three)] {
            let bundle = bundle.map(Vec::clone).to_vec();
            let verifier = Verifier { bundle, ..signer.trusted_by(version) };
            assert_eq!(verifier.check(&token, &PULL), expected, "{version:?}: {what}");
        }
        // 404: the token is good, and there is no such repository.
        let status = pull_status(&registry, &token).await;
        assert_eq!(
            status,
            if two.is_ok() { 404 } else { 401 },
            "the real registry: {what}\n{}",
            registry.log()
        );
    }
}

#[tokio::test]
async fn the_real_registry_takes_minted_tokens_of_every_profile_but_a_bare_thumbprint() {
    let dir = TempDir::new().expect("a directory");
    for signer in [Signer::from_key_store(&dir.path().join("keys")), Signer::of(Algorithm::Es256, -1..30)] {
        let registry = registry_trusting(dir.path(), "one", &[&signer.certificate]).await;
        for (profile, expected) in PROFILES.into_iter().zip([404, 404, 404, 401]) {
            let status = pull_status(&registry, &signer.mint(profile)).await;
            assert_eq!(status, expected, "{profile:?} {:?}\n{}", signer.key, registry.log());
        }
    }
}

/// Distribution 3 hashes EC coordinates without their leading zeros, so that it gives one key of 128 another name than everybody else.
#[test]
fn an_ec_key_with_a_short_coordinate_needs_its_certificate_along_for_version_3() {
    let signers = (0..).map(|_| Signer::of(Algorithm::Es256, -1..30));
    let differs = |signer: &Signer| signer.with_certificate(thumbprint) != signer.key.thumbprint();
    let mut usual = 0;
    for signer in signers.take(5000) {
        let three = signer.trusted_by(Version::Three);
        let without = three.check(&signer.mint((KidStyle::Thumbprint, false)), &PULL);
        assert_eq!(three.check(&signer.mint((KidStyle::Thumbprint, true)), &PULL), Ok(()));
        if differs(&signer) {
            assert_eq!(without, Err("an unknown kid"));
            return;
        }
        assert_eq!(without, Ok(()));
        usual += 1;
    }
    panic!("{usual} keys and none with a leading zero");
}

/// Two real members, each with its own profile, behind the real gateway.
#[tokio::test]
async fn a_pool_may_mix_profiles_and_every_member_accepts_its_own() {
    let dir = TempDir::new().expect("a directory");
    let certificates = Certificates::new(dir.path());
    let leaf = certificates.leaf("hub", &["127.0.0.1"]);
    let password = random_secret();
    let mut config =
        ConfigBuilder::new(dir.path()).tls_listener("127.0.0.1:0", &leaf).user("alice", &password);
    let bundle = export_member_bundle(dir.path(), &config.keys_dir()).await;
    let bundle = CertificateDer::from_pem_file(bundle).expect("a certificate").to_vec();
    let mut members = Vec::new();
    for (name, profile) in [
        ("one", "kid: libtrust, x5c: true"),
        ("two", "kid: libtrust, x5c: false"),
        ("three", "kid: thumbprint, x5c: true"),
    ] {
        let member = registry_trusting(dir.path(), name, &[&bundle]).await;
        let credential = format!("{{ token: {{ audience: {SERVICE}, {profile} }} }}");
        config = config.member_at(name, &member.url(), &credential);
        members.push(member);
    }
    let gateway = Gateway::start(&config.render(), dir.path()).await;
    let client =
        gateway.client(&certificates.authority()).with_host("127.0.0.1").with_basic("alice", &password);
    for number in 0..80 {
        let target = format!("/v2/t/app{number}/blobs/uploads/");
        client.post(&target, "").await.is(202);
    }
    for member in &members {
        let asked = member.requests().into_iter().filter(|request| request.target.contains("/t/app"));
        let statuses: Vec<_> = asked.map(|request| request.status).collect();
        assert!(!statuses.is_empty() && !statuses.contains(&401), "{} {statuses:?}", member.name());
    }
    assert_eq!(gateway.find_log(|line| line["message"] == "member is out"), None);
}

/// A real docker-registry that trusts these certificates.
async fn registry_trusting(dir: &Path, name: &str, certificates: &[&[u8]]) -> StockRegistry {
    let path = dir.join(format!("bundle-{name}.pem"));
    let bundle: String = certificates.iter().map(|der| pem("CERTIFICATE", der)).collect();
    std::fs::write(&path, bundle).expect("a bundle on disk");
    let access = Access::Token {
        realm: "https://nobody.invalid/token".to_owned(),
        service: SERVICE.to_owned(),
        issuer: ISSUER.to_owned(),
        root_cert_bundle: path,
    };
    StockRegistry::builder(name).storage(&dir.join("storage")).access(access).start().await
}

/// What the registry answers to a pull with this token.
async fn pull_status(registry: &StockRegistry, token: &str) -> u16 {
    let client = TestClient::plain(registry.address()).with_bearer(token);
    client.get("/v2/t/app/tags/list").await.status.as_u16()
}
