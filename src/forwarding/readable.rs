//! Header values that every parser reads alike (RFC 9110 5.5).
//!
//! A value with bytes outside visible ASCII, blank and tab is opaque: one parser takes it, another takes it for
//! absent. No such value decides anything here or reaches the other side: heads of both directions go through
//! [`keep_readable`] before anything looks at them.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, COOKIE, ETAG, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LINK,
    LOCATION, RANGE, SET_COOKIE, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};

use super::hop::is_hop_by_hop;

/// A header that decides something has a value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of the header {name} has bytes outside visible ASCII, blank and tab")]
pub struct UnreadableHeader {
    /// Which header.
    pub name: HeaderName,
}

/// Whether every byte of a value is visible ASCII, blank or tab.
#[must_use]
pub fn is_readable(value: &HeaderValue) -> bool {
    value.as_bytes().iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

/// The text of a value that went through [`keep_readable`]; empty for one that did not and cannot be read, which
/// is no valid value of any header that is looked at.
#[must_use]
pub fn text(value: &HeaderValue) -> &str {
    if is_readable(value) { str::from_utf8(value.as_bytes()).unwrap_or("") } else { "" }
}

/// Drops the headers whose value cannot be read. Of a `Cookie` only the pairs are dropped that cannot be read.
///
/// # Errors
/// [`UnreadableHeader`] for a header that decides how a message is read, routed or answered: left out, it would
/// mean something else.
pub fn keep_readable(headers: &mut HeaderMap) -> Result<(), UnreadableHeader> {
    if headers.values().all(is_readable) {
        return Ok(());
    }
    let unreadable = headers.iter().filter(|(_, value)| !is_readable(value)).map(|(name, _)| name.clone());
    let mut unreadable: Vec<HeaderName> = unreadable.collect();
    unreadable.dedup();
    for name in unreadable {
        if decides(&name) {
            return Err(UnreadableHeader { name });
        }
        let kept: Vec<HeaderValue> = match name {
            COOKIE => headers.get_all(COOKIE).iter().filter_map(readable_cookies).collect(),
            _ => headers.get_all(&name).iter().filter(|value| is_readable(value)).cloned().collect(),
        };
        headers.remove(&name);
        kept.into_iter().for_each(|value| {
            headers.append(name.clone(), value);
        });
    }
    Ok(())
}

/// Whether a message means something else without this header.
fn decides(name: &HeaderName) -> bool {
    const DECIDING: [HeaderName; 17] = [
        ACCEPT,
        ACCEPT_ENCODING,
        AUTHORIZATION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_LOCATION,
        CONTENT_RANGE,
        CONTENT_TYPE,
        ETAG,
        EXPECT,
        HOST,
        LINK,
        LOCATION,
        RANGE,
        SET_COOKIE,
        TRANSFER_ENCODING,
        WWW_AUTHENTICATE,
    ];
    let text = name.as_str();
    let families = ["docker-", "oci-", "if-"];
    is_hop_by_hop(name) || DECIDING.contains(name) || families.iter().any(|family| text.starts_with(family))
}

fn readable_cookies(value: &HeaderValue) -> Option<HeaderValue> {
    let pairs = value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let readable =
        |pair: &&[u8]| !pair.is_empty() && pair.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let kept: Vec<&[u8]> = pairs.filter(readable).collect();
    if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn what_decides_is_refused_and_what_does_not_is_left_out() {
        for (name, refused) in [
            ("content-type", true),
            ("content-length", true),
            ("content-range", true),
            ("connection", true),
            ("transfer-encoding", true),
            ("te", true),
            ("range", true),
            ("if-range", true),
            ("accept", true),
            ("authorization", true),
            ("location", true),
            ("docker-content-digest", true),
            ("content-disposition", false),
            ("user-agent", false),
            ("referer", false),
            ("x-anything", false),
        ] {
            let mut headers = map(&[("accept-language", b"de"), (name, b"caf\xe9")]);
            let kept = keep_readable(&mut headers);
            assert_eq!(kept.is_err(), refused, "{name}");
            if !refused {
                assert!(!headers.contains_key(name) && headers.contains_key("accept-language"), "{name}");
            }
        }
    }

    #[test]
    fn readable_values_stay_as_they_are() {
        let before =
            map(&[("content-type", b"a/b;\tc=\"d e\""), ("x-a", b"~"), ("x-a", b""), ("cookie", b"a=b;c=d")]);
        let mut after = before.clone();
        assert_eq!(keep_readable(&mut after), Ok(()));
        assert_eq!(after, before);
    }

    #[test]
    fn a_neighbouring_sites_cookie_does_not_log_anybody_out() {
        let mut headers = map(&[
            ("cookie", b"sid=1; name=\xe4; t=2"),
            ("cookie", b"x=\x80"),
            ("x-a", b"1"),
            ("x-a", b"\xff"),
        ]);
        assert_eq!(keep_readable(&mut headers), Ok(()));
        let cookies: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["sid=1; t=2"]);
        assert_eq!(headers.get_all("x-a").iter().count(), 1);
    }
}
