//! The `Content-Type` of a body on its way to a member.
//!
//! Registries take parameters from a form in the body before they look at the query, so an upload that one parser
//! takes for a form and another does not would say one thing to the gateway and another to the member. The member
//! therefore never sees the client's own words: uploads are bytes, and the media type of a manifest is written anew.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::readable::text;
use crate::registry::{ManifestMethod, RegistryRequest, UploadMethod};

/// Longest media type in bytes (RFC 6838 4.2: 127 for each of type and subtype).
const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// Why a body is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentTypeError {
    /// The body says that it is a form.
    #[error("the body is a form")]
    Form,
    /// The media type of a manifest is repeated or breaks the grammar of RFC 9110 8.3.1.
    #[error("the Content-Type of the manifest is repeated or no media type")]
    Malformed,
}

/// The `Content-Type` that a member gets with a request; `None` for requests whose body means nothing.
/// `sends_body` says whether the client sends one.
///
/// # Errors
/// [`ContentTypeError`] for a form, and for a manifest whose media type cannot be read.
pub fn member_content_type(
    target: &RegistryRequest,
    client: &HeaderMap,
    sends_body: bool,
) -> Result<Option<HeaderValue>, ContentTypeError> {
    if sends_body && is_form(client) {
        return Err(ContentTypeError::Form);
    }
    match target {
        RegistryRequest::UploadStart { .. }
        | RegistryRequest::Upload { method: UploadMethod::Patch | UploadMethod::Put { .. }, .. } => {
            Ok(Some(HeaderValue::from_static("application/octet-stream")))
        }
        RegistryRequest::Manifest { method: ManifestMethod::Put, .. } => {
            let mut values = client.get_all(CONTENT_TYPE).iter();
            let Some(value) = values.next() else { return Ok(None) };
            let media_type = media_type(text(value)).filter(|_| values.next().is_none());
            let value = media_type.and_then(|media_type| HeaderValue::try_from(media_type).ok());
            value.map(Some).ok_or(ContentTypeError::Malformed)
        }
        _ => Ok(None),
    }
}

/// Whether a body would be read as a form.
fn is_form(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|value| {
        let value = value.as_bytes().trim_ascii_start();
        let starts_with = |form: &str| {
            value.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form.as_bytes()))
        };
        starts_with("application/x-www-form-urlencoded") || starts_with("multipart/")
    })
}

/// `type/subtype` in lower case, without parameters (RFC 9110 8.3.1).
fn media_type(text: &str) -> Option<String> {
    let essence = text.split(';').next().unwrap_or("").trim_matches([' ', '\t']);
    let (kind, subtype) = essence.split_once('/')?;
    let is_token = |part: &str| {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(token)
    };
    let valid = essence.len() <= MEDIA_TYPE_BYTES_MAX && is_token(kind) && is_token(subtype);
    valid.then(|| essence.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn request(method: &Method, path: &str, query: Option<&str>) -> RegistryRequest {
        RegistryRequest::parse(method, path, query).expect("a request")
    }

    #[test]
    fn members_get_a_content_type_of_ours() {
        let digest = format!("digest=sha256:{:064}", 0);
        let start = request(&Method::POST, "/v2/a/blobs/uploads/", None);
        let patch = request(&Method::PATCH, "/v2/a/blobs/uploads/u-1", None);
        let put = request(&Method::PUT, "/v2/a/blobs/uploads/u-1", Some(&digest));
        let manifest = request(&Method::PUT, "/v2/a/manifests/v1", None);
        let read = request(&Method::GET, "/v2/a/manifests/v1", None);
        let (bytes, form) = (Ok(Some("application/octet-stream")), Err(ContentTypeError::Form));
        let malformed = Err(ContentTypeError::Malformed);
        for (target, sent, sends_body, expected) in [
            (&start, &[][..], false, bytes),
            (&start, &[&b"application/json"[..]], true, bytes),
            (&start, &[b"application/x-www-form-urlencoded"], false, bytes),
            (&start, &[b"application/x-www-form-urlencoded"], true, form),
            (&start, &[b"application/x-www-form-urlencoded; \xe9"], true, form),
            (&patch, &[b" \tApplication/X-WWW-Form-Urlencoded;charset=x"], true, form),
            (&put, &[b"text/plain", b"multipart/form-data; boundary=x"], true, form),
            (&put, &[b"MULTIPART/mixed"], true, form),
            (&put, &[b"x"], true, bytes),
            (&manifest, &[], true, Ok(None)),
            (
                &manifest,
                &[b"application/vnd.oci.image.manifest.v1+json"],
                true,
                Ok(Some("application/vnd.oci.image.manifest.v1+json")),
            ),
            (&manifest, &[b"Application/JSON ; charset=\"x\", y=z"], true, Ok(Some("application/json"))),
            (&manifest, &[b"multipart/form-data"], true, form),
            (&manifest, &[b"a/b", b"a/b"], true, malformed),
            (&manifest, &[b"application"], true, malformed),
            (&manifest, &[b"a/b c"], true, malformed),
            (&manifest, &[b"a/b/c"], true, malformed),
            (&manifest, &[b"a/\xe9"], true, malformed),
            (&manifest, &[b""], true, malformed),
            (&read, &[b"a/b"], false, Ok(None)),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(CONTENT_TYPE, HeaderValue::from_bytes(value).expect("a value"));
            }
            let written = member_content_type(target, &headers, sends_body);
            let expected = expected.map(|value| value.map(HeaderValue::from_static));
            assert_eq!(written, expected, "{target:?} {headers:?}");
        }
    }
}
