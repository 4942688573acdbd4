//! How Tidegate authenticates itself to a member.

use std::path::Path;
use std::time::Duration;

use crate::auth::keys::{Algorithm, KidStyle, SigningKey};
use crate::config::convert::{Context, harbor, listeners, policy};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{Credential, Kid, Kind, Member, Pool, TokenCredential};
use crate::token_service::TokenSettings;
use crate::upstream::{AccountSettings, CredentialSettings, MemberKeySource, MemberTokenSettings};

/// `iss` and `aud` of the tokens that Harbor trusts.
const HARBOR_ISSUER: &str = "harbor-token-issuer";
const HARBOR_SERVICE: &str = "harbor-registry";

/// The credential of a member, its own or the pool's; `None` when it cannot be used, which is reported.
pub(super) fn member(
    cx: &mut Context<'_>,
    pool_path: &KeyPath,
    pool: &Pool,
    path: &KeyPath,
    member: &Member,
    tokens: &TokenSettings,
) -> Option<CredentialSettings> {
    let kind = harbor::kind_of(pool, member);
    let (place, given) = match (&member.credential, &pool.credential) {
        (Some(own), _) => (path.key("credential"), own),
        (None, Some(shared)) => (pool_path.key("credential"), shared),
        (None, None) => {
            if kind == Kind::Harbor {
                let fix = "add `credential: exchange`, or `credential: { token: { key: PATH } }` with the node's private_key.pem";
                cx.error(path, "a Harbor node serves nobody without a credential", Fix::advice(fix));
                return None;
            }
            return Some(CredentialSettings::None);
        }
    };
    match (given, kind) {
        (Credential::None, Kind::Registry) => Some(CredentialSettings::None),
        (Credential::None | Credential::Basic(_), Kind::Harbor) => {
            let problem =
                "a Harbor node wants to know who the client is, and would take everybody for one account";
            cx.error(&place, problem, Fix::write("exchange, relay or { token: { key: PATH } }"));
            None
        }
        (Credential::Basic(basic), Kind::Registry) => {
            let path = place.key("basic");
            if !policy::is_basic_user(&basic.user) {
                let fix = "the account's name, 1 to 255 printable characters without colon";
                cx.error(&path.key("user"), "not an account name", Fix::write(fix));
            }
            let password = cx.secret(&path.key("password"), &basic.password)?;
            Some(CredentialSettings::Basic(AccountSettings { user: basic.user.clone(), password }))
        }
        (Credential::Token(token), Kind::Registry) => {
            let default = Profile { issuer: &tokens.issuer, audience: &tokens.service };
            member_token(cx, &place.key("token"), token, default)
        }
        (Credential::Token(token), Kind::Harbor) => {
            if token.key.is_none() {
                let fix = "add `credential: { token: { key: PATH } }` to the member, with a copy of the node's private_key.pem";
                cx.error(path, "Harbor trusts nothing but the key of this node", Fix::advice(fix));
                return None;
            }
            check_node_key(cx, &place.key("token").key("key"), token.key.as_deref());
            let default = Profile { issuer: HARBOR_ISSUER, audience: HARBOR_SERVICE };
            member_token(cx, &place.key("token"), token, default)
        }
        (Credential::Exchange, Kind::Harbor) => Some(CredentialSettings::Exchange),
        (Credential::Relay, Kind::Harbor)
            if pool.harbor.as_ref().is_some_and(|keys| keys.version == Some(1)) =>
        {
            let problem = "the registry of a Harbor 1.x node takes no passwords";
            cx.error(&place, problem, Fix::write("exchange or { token: { key: PATH } }"));
            None
        }
        (Credential::Relay, Kind::Harbor) => Some(CredentialSettings::Relay),
        (Credential::Exchange | Credential::Relay, Kind::Registry) => {
            let problem = "only a Harbor node takes the clients' own passwords";
            let fix = "none, { basic: { user: NAME, password: { file: PATH } } } or { token: { key: PATH } }, or `kind: harbor` for the member";
            cx.error(&place, problem, Fix::write(fix));
            None
        }
    }
}

/// What tokens say where the file does not.
#[derive(Clone, Copy)]
struct Profile<'a> {
    issuer: &'a str,
    audience: &'a str,
}

fn member_token(
    cx: &mut Context<'_>,
    path: &KeyPath,
    token: &TokenCredential,
    default: Profile<'_>,
) -> Option<CredentialSettings> {
    let key = match (&token.key, &token.certificate) {
        (None, None) => MemberKeySource::Ring,
        (None, Some(_)) => {
            let fix = "add `key: PATH`, or remove `certificate` to use Tidegate's own member keys";
            cx.error(&path.key("certificate"), "a certificate without its key", Fix::advice(fix));
            return None;
        }
        (Some(key), certificate) => {
            key_file(cx, path, key, certificate.as_deref());
            MemberKeySource::File {
                key: cx.resolve(key),
                certificate: certificate.as_ref().map(|file| cx.resolve(file)),
            }
        }
    };
    let has_certificate = key == MemberKeySource::Ring || token.certificate.is_some();
    let x5c = token.x5c.unwrap_or(has_certificate);
    if x5c && !has_certificate {
        cx.error(
            &path.key("x5c"),
            "there is no certificate to send along",
            Fix::advice("add `certificate: PATH`, or write `x5c: false`"),
        );
    }
    Some(CredentialSettings::Token(MemberTokenSettings {
        key,
        issuer: token.issuer.clone().unwrap_or_else(|| default.issuer.to_owned()),
        audience: token.audience.clone().unwrap_or_else(|| default.audience.to_owned()),
        kid: match token.kid {
            Some(Kid::Libtrust) | None => KidStyle::Libtrust,
            Some(Kid::Thumbprint) => KidStyle::Thumbprint,
        },
        x5c,
        lifetime: cx.duration(&path.key("lifetime"), token.lifetime, Duration::from_mins(5)),
    }))
}

/// Harbor takes RS256 and nothing else.
fn check_node_key(cx: &mut Context<'_>, path: &KeyPath, key: Option<&Path>) {
    let pem = key.and_then(|key| cx.read(path, key));
    let parsed = pem.and_then(|pem| SigningKey::from_pem(&pem, None).ok());
    if parsed.is_some_and(|key| key.algorithm() != Algorithm::Rs256) {
        let fix = "name a copy of the node's private_key.pem";
        cx.error(path, "Harbor trusts RSA keys only, and this is none", Fix::advice(fix));
    }
}

fn key_file(cx: &mut Context<'_>, path: &KeyPath, key: &Path, certificate: Option<&Path>) {
    let (key_path, certificate_path) = (path.key("key"), path.key("certificate"));
    let private = cx.read(&key_path, key).and_then(|pem| listeners::private_key(cx, &key_path, &pem));
    let Some(certificate) = certificate else {
        return;
    };
    let chain = cx
        .read(&certificate_path, certificate)
        .and_then(|pem| listeners::certificates(cx, &certificate_path, &pem));
    if let (Some(chain), Some(private)) = (chain, private) {
        listeners::check_match(cx, &key_path, chain, private, certificate);
    }
}
