//! Client tokens and upload sessions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auth::keys::Algorithm;
use crate::config::convert::{Context, describe};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{TokenAlgorithm, Tokens, Uploads};
use crate::token_service::{TokenSettings, UploadSettings};

/// Clients use a token for as long, whatever is announced (token specification: `expires_in`).
const LIFETIME_LEAST: Duration = Duration::from_secs(60);
const LIFETIME_MOST: Duration = Duration::from_hours(24);

/// Client tokens. `service` is what clients type.
pub(in crate::config) fn token_settings(
    cx: &mut Context<'_>,
    path: &KeyPath,
    tokens: &Tokens,
    service: &str,
) -> TokenSettings {
    let lifetime = lifetime(cx, &path.key("lifetime"), tokens);
    let expiry_margin = tokens.expiry_margin.map_or(Duration::from_mins(5), |margin| margin.0);
    if expiry_margin > LIFETIME_MOST {
        cx.error(
            &path.key("expiry_margin"),
            "a token must not outlive what is announced by more than a day",
            Fix::write("5m"),
        );
    }
    TokenSettings {
        service: word(cx, &path.key("service"), tokens.service.as_deref(), service),
        issuer: word(cx, &path.key("issuer"), tokens.issuer.as_deref(), "tidegate"),
        algorithm: match tokens.algorithm {
            Some(TokenAlgorithm::Es256) | None => Algorithm::Es256,
            Some(TokenAlgorithm::Rs256) => Algorithm::Rs256,
        },
        lifetime,
        expiry_margin,
        keys: directory(cx, &path.key("keys"), tokens.keys.as_deref(), "/var/lib/tidegate/keys"),
        activate_after: tokens.activate_after.map_or(Duration::from_mins(10), |time| time.0),
        replicas: cx.count(&path.key("replicas"), tokens.replicas, 1),
        cache_entries_max: u64::from(cx.count(
            &path.key("cache_entries_max"),
            tokens.cache_entries_max,
            10_000,
        )),
    }
}

fn lifetime(cx: &mut Context<'_>, path: &KeyPath, tokens: &Tokens) -> Duration {
    let lifetime = cx.duration(path, tokens.lifetime, Duration::from_mins(10));
    if lifetime < Duration::from_secs(1) {
        cx.error(path, "lifetimes are whole seconds, at least one", Fix::write("1s"));
    } else if lifetime > LIFETIME_MOST {
        let problem =
            format!("{} is too long: a stolen token would be of use for more than a day", describe(lifetime));
        cx.error(path, problem, Fix::write("24h or less; 10m is the default"));
    } else if lifetime < LIFETIME_LEAST {
        let problem = format!(
            "{} is shorter than clients believe: they use every token for at least 60 seconds, and are refused after its end",
            describe(lifetime)
        );
        cx.warn(path, problem, Fix::write("60s or more; 10m is the default"));
    }
    lifetime
}

/// Text that ends up in headers and claims.
fn word(cx: &mut Context<'_>, path: &KeyPath, value: Option<&str>, default: &str) -> String {
    let text = value.unwrap_or(default);
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',');
    if value.is_some() && (text.is_empty() || text.len() > 255 || !text.bytes().all(allowed)) {
        let problem = format!(
            "{text:?} cannot stand in a challenge: 1 to 255 ASCII characters without spaces, quotes, commas and backslashes"
        );
        cx.error(path, problem, Fix::write(default));
    }
    text.to_owned()
}

/// A directory that is made when it is first needed.
fn directory(cx: &mut Context<'_>, path: &KeyPath, value: Option<&Path>, default: &str) -> PathBuf {
    let directory = cx.resolve(value.unwrap_or_else(|| Path::new(default)));
    if value.is_some_and(|value| value.as_os_str().is_empty()) {
        cx.error(path, "the name of the directory is empty", Fix::write(default));
    } else if directory.exists() && !directory.is_dir() {
        cx.error(path, format!("{} is not a directory", directory.display()), Fix::write(default));
    }
    directory
}

/// Upload sessions.
pub(in crate::config) fn upload_settings(
    cx: &mut Context<'_>,
    path: &KeyPath,
    uploads: &Uploads,
) -> UploadSettings {
    UploadSettings {
        seal_keys: directory(
            cx,
            &path.key("seal_keys"),
            uploads.seal_keys.as_deref(),
            "/var/lib/tidegate/seal",
        ),
        grace: cx.duration(&path.key("grace"), uploads.grace, Duration::from_hours(2)),
        tracked_max: cx.count(&path.key("tracked_max"), uploads.tracked_max, 100_000) as usize,
    }
}
