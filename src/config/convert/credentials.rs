//! How Tidegate authenticates itself to a member.

use std::path::Path;
use std::time::Duration;

use crate::auth::keys::KidStyle;
use crate::config::convert::{Context, listeners, policy};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{Credential, Kid, TokenCredential};
use crate::token_service::TokenSettings;
use crate::upstream::{CredentialSettings, MemberKeySource, MemberTokenSettings};

/// The credential of a pool or member; `None` when it cannot be used, which is reported.
pub(super) fn credential(
    cx: &mut Context<'_>,
    path: &KeyPath,
    credential: &Credential,
    tokens: &TokenSettings,
) -> Option<CredentialSettings> {
    match credential {
        Credential::None => Some(CredentialSettings::None),
        Credential::Basic(basic) => {
            let path = path.key("basic");
            if !policy::is_basic_user(&basic.user) {
                let fix = "the account's name, 1 to 255 printable characters without colon";
                cx.error(&path.key("user"), "not an account name", Fix::write(fix));
            }
            let password = cx.secret(&path.key("password"), &basic.password)?;
            Some(CredentialSettings::Basic { user: basic.user.clone(), password })
        }
        Credential::Token(token) => member_token(cx, &path.key("token"), token, tokens),
        Credential::Exchange(_) => unsupported(cx, path, "exchange"),
        Credential::Relay(_) => unsupported(cx, path, "relay"),
    }
}

fn unsupported(cx: &mut Context<'_>, path: &KeyPath, kind: &str) -> Option<CredentialSettings> {
    let problem = format!("the credential kind `{kind}` is not supported by this version");
    cx.error(
        path,
        problem,
        Fix::write("none, { basic: { user: NAME, password: { file: PATH } } } or { token: { key: PATH } }"),
    );
    None
}

fn member_token(
    cx: &mut Context<'_>,
    path: &KeyPath,
    token: &TokenCredential,
    tokens: &TokenSettings,
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
        issuer: token.issuer.clone().unwrap_or_else(|| tokens.issuer.clone()),
        audience: token.audience.clone().unwrap_or_else(|| tokens.service.clone()),
        kid: match token.kid {
            Some(Kid::Libtrust) | None => KidStyle::Libtrust,
            Some(Kid::Thumbprint) => KidStyle::Thumbprint,
        },
        x5c,
        lifetime: cx.duration(&path.key("lifetime"), token.lifetime, Duration::from_mins(5)),
    }))
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
