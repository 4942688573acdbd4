//! Paths and queries: decoded once, refused where that would matter, and written canonically.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::error::ParseError;

/// Most query parameters in one request.
const QUERY_PARAMETERS_MAX: usize = 16;

/// What must be encoded in a query value that we write.
pub(super) const QUERY_VALUE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'&')
    .add(b'+')
    .add(b'%')
    .add(b'=')
    .add(b'?')
    .add(b';')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Decoded parameters, each name once.
pub(super) type Query<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Appends an encoded query to a path.
pub(crate) fn with_query(mut path: String, parameters: &[(&str, &str)]) -> String {
    for (at, (key, value)) in parameters.iter().enumerate() {
        let separator = if at == 0 { '?' } else { '&' };
        let key = utf8_percent_encode(key, QUERY_VALUE);
        let value = utf8_percent_encode(value, QUERY_VALUE);
        write!(path, "{separator}{key}={value}").expect("writing to a String cannot fail");
    }
    path
}

/// Decodes a path once, refusing whatever two parsers could read differently.
pub(super) fn canonical_path(path: &str) -> Result<Cow<'_, str>, ParseError> {
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| ParseError::Path)?;
    if decoded.len() != path.len() {
        // Something was encoded. Only what needs no encoding at all may be: a digest's colon.
        let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
        if slashes(&decoded) != slashes(path) || decoded.contains('%') {
            return Err(ParseError::Path);
        }
    }
    let plain = decoded.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let segments = decoded.strip_prefix('/').ok_or(ParseError::Path)?;
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    if !plain || segments.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(ParseError::Path);
    }
    Ok(decoded)
}

pub(super) fn parse_query(query: Option<&str>) -> Result<Query<'_>, ParseError> {
    let mut pairs: Query<'_> = Vec::new();
    let Some(query) = query else { return Ok(pairs) };
    // Go drops parameters with a semicolon, other parsers split there.
    if query.contains(';') || percent_decode_str(query).decode_utf8().is_err() {
        return Err(ParseError::Query);
    }
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let repeated = pairs.iter().any(|(earlier, _)| *earlier == key);
        if repeated || pairs.len() == QUERY_PARAMETERS_MAX {
            return Err(ParseError::Query);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

pub(super) fn parameter<'a>(query: &'a Query<'_>, name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
}
