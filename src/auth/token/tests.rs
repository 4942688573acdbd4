//! Client and member tokens: what is taken, and everything that is not.

use std::sync::{Arc, LazyLock};

use super::*;
use crate::auth::keys::{Algorithm, RingEntry};
use crate::registry::parse_scopes;

static KEYS: LazyLock<[Arc<SigningKey>; 2]> = LazyLock::new(|| {
    [Algorithm::Es256, Algorithm::Rs256].map(|algorithm| {
        let pem = SigningKey::generate_pem(algorithm).expect("a key");
        Arc::new(SigningKey::from_pem(pem.as_bytes(), Some(b"certificate")).expect("readable"))
    })
});

fn tokens(key: &Arc<SigningKey>) -> ClientTokens {
    let entry = RingEntry { key: Arc::clone(key), activate_at: 0 };
    ClientTokens::new(Ring::new(vec![entry], 100), "tidegate".to_owned(), "hub".to_owned())
}

fn eve() -> Subject {
    Subject::new("users", "eve").expect("a name")
}

fn validity() -> Validity {
    Validity { issued_at: 1000, expires_at: 1600, jti: "j".to_owned() }
}

fn access() -> Vec<ResourceAccess> {
    parse_scopes(["repository:a/b:pull,push registry:catalog:*"], 9).expect("within the limit")
}

fn granted() -> TokenAccess {
    let by_harbor = parse_scopes(["repository:team/app:pull"], 9).expect("within the limit");
    TokenAccess { by_policy: access(), by_harbor }
}

#[test]
fn a_minted_token_is_read_back_under_both_algorithms() {
    for key in KEYS.iter() {
        let tokens = tokens(key);
        let token = tokens.mint(&eve(), &granted(), validity(), None).expect("minted");
        let verified = tokens.verify(&token, 1000).expect("valid");
        assert_eq!(verified.subject, eve());
        assert_eq!(verified.access, granted(), "who granted what is kept apart");
        assert_eq!((verified.issued_at, verified.expires_at), (1000, 1600));
        assert!(tokens.verify(&token, 99_999).is_ok(), "the end is the caller's to judge");
        assert_eq!(tokens.verify(&token, 900), Err(TokenError::NotYetValid));
        let anonymous =
            tokens.mint(&Subject::anonymous(), &TokenAccess::default(), validity(), None).expect("minted");
        assert!(tokens.verify(&anonymous, 1000).expect("valid").subject.is_anonymous());
    }
}

#[test]
fn every_changed_character_is_noticed() {
    let tokens = tokens(&KEYS[0]);
    let token = tokens.mint(&eve(), &granted(), validity(), None).expect("minted");
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = match changed[at] {
            b'A' => b'Q',
            _ => b'A',
        };
        if changed == token.as_bytes() {
            continue;
        }
        let changed = String::from_utf8(changed).expect("ASCII");
        assert!(tokens.verify(&changed, 1000).is_err(), "character {at}");
    }
}

#[test]
fn tokens_of_others_are_told_apart() {
    let ours = tokens(&KEYS[0]);
    let other_key = tokens(&KEYS[1]).mint(&eve(), &TokenAccess::default(), validity(), None).expect("minted");
    assert!(matches!(ours.verify(&other_key, 1000), Err(TokenError::ForeignKey { .. })));
    let entry = || vec![RingEntry { key: Arc::clone(&KEYS[1]), activate_at: 0 }];
    let foreign = ClientTokens::new(Ring::new(entry(), 1), "else".to_owned(), "hub".to_owned());
    let foreign = foreign.mint(&eve(), &TokenAccess::default(), validity(), None).expect("minted");
    assert_eq!(ours.verify(&foreign, 1000), Err(TokenError::UnknownKey));
    for (issuer, audience) in [("else", "hub"), ("tidegate", "other")] {
        let entry = vec![RingEntry { key: Arc::clone(&KEYS[0]), activate_at: 0 }];
        let same_key = ClientTokens::new(Ring::new(entry, 1), issuer.to_owned(), audience.to_owned());
        let token = same_key.mint(&eve(), &TokenAccess::default(), validity(), None).expect("minted");
        assert_eq!(ours.verify(&token, 1000), Err(TokenError::Invalid), "{issuer} {audience}");
    }
}

#[test]
fn a_member_token_is_never_a_client_token() {
    let member = MemberTokens {
        issuer: "tidegate".to_owned(),
        audience: "hub".to_owned(),
        kid: KidStyle::Thumbprint,
        x5c: false,
    };
    let token = member.mint(&KEYS[0], &eve(), &access(), validity()).expect("minted");
    assert_eq!(tokens(&KEYS[0]).verify(&token, 1000), Err(TokenError::Purpose));
    let with_certificate = MemberTokens { x5c: true, ..member };
    let token = with_certificate.mint(&KEYS[0], &eve(), &access(), validity()).expect("minted");
    assert_eq!(tokens(&KEYS[0]).verify(&token, 1000), Err(TokenError::Malformed));
}

#[test]
fn headers_that_bring_their_own_key_or_algorithm_are_refused() {
    let tokens = tokens(&KEYS[0]);
    let token = tokens.mint(&eve(), &TokenAccess::default(), validity(), None).expect("minted");
    let (_, rest) = token.split_once('.').expect("three parts");
    let kid = KEYS[0].thumbprint();
    for header in [
        format!(r#"{{"typ":"JWT","alg":"none","kid":"{kid}"}}"#),
        format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{kid}"}}"#),
        format!(r#"{{"typ":"JWT","alg":"RS256","kid":"{kid}"}}"#),
        format!(r#"{{"typ":"JWT","alg":"ES256","kid":"{kid}","jwk":{{}}}}"#),
        format!(r#"{{"typ":"JWT","alg":"ES256","kid":"{kid}","crit":["x"]}}"#),
        format!(r#"{{"typ":"JWT","alg":"ES256","kid":"{kid}","x5c":["x"]}}"#),
        format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#),
        r#"{"typ":"JWT","alg":"ES256"}"#.to_owned(),
    ] {
        let forged = format!("{}.{rest}", BASE64URL_NOPAD.encode(header.as_bytes()));
        assert_eq!(tokens.verify(&forged, 1000), Err(TokenError::Malformed), "{header}");
    }
    for junk in ["", "a.b", "a.b.c.d", "..", "a.b.c", &".".repeat(10_000)] {
        assert_eq!(tokens.verify(junk, 1000), Err(TokenError::Malformed));
    }
}

#[test]
fn claims_have_the_form_that_every_registry_reads() {
    let member =
        MemberTokens { issuer: "i".to_owned(), audience: "a".to_owned(), kid: KidStyle::Libtrust, x5c: true };
    let token = member.mint(&KEYS[1], &eve(), &access(), validity()).expect("minted");
    let part = |at: usize| -> serde_json::Value {
        let part = token.split('.').nth(at).expect("three parts");
        serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url")).expect("JSON")
    };
    assert_eq!(part(0)["kid"], KEYS[1].kid(KidStyle::Libtrust));
    assert_eq!(part(0)["x5c"][0], "Y2VydGlmaWNhdGU=");
    let claims = part(1);
    assert_eq!(claims["aud"], "a", "docker-registry 2.x refuses a list");
    assert!(claims["exp"].is_u64() && claims["nbf"].is_u64() && claims["iat"].is_u64());
    assert_eq!(claims["access"][0]["actions"], serde_json::json!(["pull", "push"]));
    assert_eq!(
        claims["access"][1],
        serde_json::json!({"type": "registry", "name": "catalog", "actions": ["*"]})
    );
    assert!(claims.get("provider").is_none());
}
