//! Tokens that Tidegate does not mint, with what each version of the registry says of them. They show that the checks check.

use data_encoding::BASE64;
use tidegate::auth::keys::KidStyle;

use super::verifier::Refused;
use super::{ISSUER, SERVICE, Signer, unix_now};

/// A token and what each version says of it.
pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) token: String,
    pub(super) two: Result<(), Refused>,
    pub(super) three: Result<(), Refused>,
}

const BAD_SCOPE: Result<(), Refused> = Err("insufficient scope");

fn case(what: &'static str, token: String, two: Result<(), Refused>, three: Result<(), Refused>) -> Case {
    Case { what, token, two, three }
}

fn same(what: &'static str, token: String, expected: Result<(), Refused>) -> Case {
    case(what, token, expected, expected)
}

/// Claims that are accepted, as text, so that they can be spoiled.
fn good_claims(now: u64) -> String {
    let (exp, nbf) = (now + 300, now - 10);
    let access = r#"[{"type":"repository","name":"t/app","actions":["pull"]}]"#;
    format!(r#"{{"iss":"{ISSUER}","aud":"{SERVICE}","exp":{exp},"nbf":{nbf},"iat":{now},"access":{access}}}"#)
}

fn x5c_of(signer: &Signer) -> String {
    format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{}"]}}"#, BASE64.encode(&signer.certificate))
}

/// The key's name, kind and certificate, and who vouches for it.
pub(super) fn headers(signer: &Signer, stranger: &Signer, expired: &Signer) -> Vec<Case> {
    let claims = good_claims(unix_now());
    let with = |header: &str| signer.sign(header, &claims);
    let named = |style| with(&format!(r#"{{"alg":"RS256","kid":"{}"}}"#, signer.key.kid(style)));
    let jwk = serde_json::to_string(stranger.key.jwk()).expect("JSON");
    let jwk = stranger.sign(&format!(r#"{{"alg":"RS256","jwk":{jwk}}}"#), &claims);
    let own = x5c_of(signer);
    let bundle = Err("x5c does not lead to the bundle");
    vec![
        same("as it should be", with(&own), Ok(())),
        same("no type", with(&own.replace(r#""typ":"JWT","#, "")), Ok(())),
        same("a stranger's x5c", stranger.sign(&x5c_of(stranger), &claims), bundle),
        same("our x5c, a stranger's signature", stranger.sign(&own, &claims), Err("signature")),
        same("an expired certificate", expired.sign(&x5c_of(expired), &claims), bundle),
        same("no key at all", with(r#"{"alg":"RS256"}"#), Err("no key is named")),
        same("a stranger's key in the header", jwk, Err("a key in the header that nobody vouches for")),
        same("no algorithm", with(&own.replace("RS256", "none")), Err("algorithm")),
        same("a shared secret", with(&own.replace("RS256", "HS256")), Err("algorithm")),
        case("kid of 2.8", named(KidStyle::Libtrust), Ok(()), Err("an unknown kid")),
        case("kid of 3", named(KidStyle::Thumbprint), Err("an unknown kid"), Ok(())),
    ]
}

/// Issuer, audience and times.
pub(super) fn claims(signer: &Signer) -> Vec<Case> {
    let now = unix_now();
    let (exp, nbf) = (now + 300, now - 10);
    let of = |from: &str, to: &str| {
        let good = good_claims(now);
        assert!(good.contains(from), "{from} is not in {good}");
        signer.sign(&x5c_of(signer), &good.replacen(from, to, 1))
    };
    let ends = |at: u64| of(&format!("\"exp\":{exp}"), &format!("\"exp\":{at}"));
    let begins = |at: u64| of(&format!("\"nbf\":{nbf}"), &format!("\"nbf\":{at}"));
    let fraction = of(&format!("\"exp\":{exp}"), &format!("\"exp\":{exp}.5"));
    let twice = of(r#""iss":"#, r#""iss":"other","iss":"#);
    let list = of(r#""aud":"member-registry""#, r#""aud":["other","member-registry"]"#);
    vec![
        same("another issuer", of(ISSUER, "other"), Err("issuer")),
        case("the issuer in capitals", of("iss", "ISS"), Ok(()), Err("issuer")),
        case("the issuer twice", twice, Ok(()), Err("JSON")),
        same("another audience", of(SERVICE, "other"), Err("audience")),
        case("a list of audiences", list, Err("audience"), Ok(())),
        same("just expired", ends(now - 30), Ok(())),
        same("expired", ends(now - 90), Err("expired")),
        same("valid in a moment", begins(now + 30), Ok(())),
        same("valid later", begins(now + 90), Err("not valid yet")),
        same("a fraction of a second", fraction, Err("a time that is no integer")),
    ]
}

/// What is granted.
pub(super) fn access(signer: &Signer) -> Vec<Case> {
    let of =
        |from: &str, to: &str| signer.sign(&x5c_of(signer), &good_claims(unix_now()).replacen(from, to, 1));
    let entry = r#"{"type":"repository","name":"t/app","actions":["pull"]}"#;
    vec![
        same("every action", of("pull", "*"), Ok(())),
        same("another action", of("pull", "push"), BAD_SCOPE),
        same("a pattern for a name", of("t/app", "t/*"), BAD_SCOPE),
        same("another type", of("repository", "registry"), BAD_SCOPE),
        same("no access", of(entry, ""), BAD_SCOPE),
        same("no access claim", of("access", "other"), BAD_SCOPE),
        same("no list of actions", of(r#"["pull"]"#, "[]"), BAD_SCOPE),
    ]
}
