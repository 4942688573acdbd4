//! Single values of the file that have a form of their own: durations, sizes, secrets.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::fmt::friendly::SpanParser;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::decode::FIX_SEPARATOR;
use crate::secret::SecretString;

/// Longest time that can be written. Sums of a few of these fit wherever times are added.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A length of time, written `5s`, `10m` or `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HumanDuration(pub(super) Duration);

/// A number of bytes, written `64KiB`; a number alone is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A section, or the word `none` in its place.
#[derive(Debug)]
pub(super) enum OrNone<T> {
    /// There is to be no such thing.
    None,
    /// The section.
    Section(T),
}

/// A secret, or where to read it.
#[derive(Debug, Clone)]
pub(super) enum Secret {
    /// In the configuration file itself.
    Plain(SecretString),
    /// In a file of its own; one newline at its end is not part of it.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match SpanParser::new().parse_unsigned_duration(&text) {
            Ok(duration) if duration <= DURATION_MAX => Ok(Self(duration)),
            // A number that is too large for the parser itself is no other mistake.
            Ok(_) => {
                Err(D::Error::custom(format_args!("{text:?} is longer than a year{FIX_SEPARATOR}8760h")))
            }
            Err(_) if is_of_duration_form(&text) => {
                Err(D::Error::custom(format_args!("{text:?} is longer than a year{FIX_SEPARATOR}8760h")))
            }
            Err(_) => {
                let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let (problem, fix) = if number {
                    ("has no unit", format!("{text}s"))
                } else {
                    ("is not a duration", "30s, 10m or 1h30m".to_owned())
                };
                Err(D::Error::custom(format_args!("{text:?} {problem}{FIX_SEPARATOR}{fix}")))
            }
        }
    }
}

/// Whether a text is one number with the unit of a time.
fn is_of_duration_form(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < text.len() && SpanParser::new().parse_unsigned_duration(format!("1{unit}")).is_ok()
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<ByteSize>() {
            Ok(size) => Ok(Self(size.as_u64())),
            Err(_) => Err(D::Error::custom(format_args!(
                "{text:?} is not a size{FIX_SEPARATOR}65536, 64KiB or 1MiB"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the secret in quotes, { file: PATH } or { env: NAME }")
    }

    fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::Plain(SecretString::from(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Secret, A::Error> {
        // An unknown key is not repeated in the message: it may be the secret, written without quotes.
        let unknown = || {
            A::Error::custom(format_args!(
                "a secret has no such form{FIX_SEPARATOR}{{ file: PATH }} or {{ env: NAME }}"
            ))
        };
        let secret = match access.next_key::<String>()?.as_deref() {
            Some("file") => Secret::File(access.next_value()?),
            Some("env") => Secret::Env(access.next_value()?),
            _ => return Err(unknown()),
        };
        if access.next_key::<String>()?.is_some() { Err(unknown()) } else { Ok(secret) }
    }
}
