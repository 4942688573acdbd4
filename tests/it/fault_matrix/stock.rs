//! The content that all members share, and what a stock registry answers of it: the words of docker-registry 2.8, as its recordings
//! show them. A blob is served by Range (RFC 9110 14), a manifest only as a whole.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::image::digest_of;

pub(super) const REPOSITORY: &str = "fault/matrix";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A request as a member has read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    /// By their names in small letters.
    pub(super) headers: HashMap<String, String>,
}

/// An answer before anything goes wrong with it.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// What `Content-Length` says, which for a HEAD is not what is sent.
    pub(super) length: usize,
}

/// An upload session.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// The member that opened it; the others do not take its sealed state.
    pub(super) member: usize,
    pub(super) bytes: Vec<u8>,
}

/// What is on the disks.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) blobs: HashMap<String, Vec<u8>>,
    /// By tag and by digest.
    pub(super) manifests: HashMap<String, Vec<u8>>,
    pub(super) sessions: HashMap<String, Session>,
}

/// The content behind all members of a case.
#[derive(Debug, Default)]
pub(super) struct Storage(Mutex<Content>);

impl Storage {
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    /// The session of an upload.
    pub(super) fn session(&self) -> Option<&str> {
        let (_, id) = self.path.split_once("/blobs/uploads/")?;
        (!id.is_empty()).then_some(id)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Answer {
    fn new(status: u16, headers: &[(&'static str, String)], body: &[u8]) -> Self {
        Self { status, headers: headers.to_vec(), body: body.to_vec(), length: body.len() }
    }

    /// An error in the words of the specification.
    pub(super) fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"of a member","detail":{{}}}}]}}"#);
        Self::new(status, &[("Content-Type", "application/json".to_owned())], body.as_bytes())
    }

    /// Status line, headers and the empty line.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} x\r\nDocker-Distribution-Api-Version: registry/2.0\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.length);
        head.into_bytes()
    }

    fn without_body(mut self) -> Self {
        self.body.clear();
        self
    }
}

/// What member number `member` answers, once it has the whole request; `body` is a manifest's.
pub(super) fn answer(content: &mut Content, member: usize, request: &Request, body: &[u8]) -> Answer {
    let Some(rest) = request.path.strip_prefix("/v2/") else { return Answer::error(404, "UNSUPPORTED") };
    if rest.is_empty() {
        return Answer::new(200, &[], b"{}");
    }
    let Some(rest) = rest.strip_prefix(REPOSITORY) else { return Answer::error(404, "NAME_UNKNOWN") };
    if rest == "/blobs/uploads/" && request.method == "POST" {
        return open_session(content, member);
    }
    if let Some(id) = rest.strip_prefix("/blobs/uploads/") {
        return upload(content, member, request, id);
    }
    if let Some(digest) = rest.strip_prefix("/blobs/") {
        return blob(content, request, digest);
    }
    match (rest.strip_prefix("/manifests/"), request.method.as_str()) {
        (Some(reference), "PUT") => put_manifest(content, reference, body),
        (Some(reference), _) => manifest(content, request, reference),
        (None, _) => Answer::error(404, "UNSUPPORTED"),
    }
}

fn open_session(content: &mut Content, member: usize) -> Answer {
    let id = format!("00000000-0000-4000-8000-{member:04}{:08}", content.sessions.len());
    content.sessions.insert(id.clone(), Session { member, bytes: Vec::new() });
    Answer::new(202, &session_headers(member, &id, 0), b"")
}

fn session_headers(member: usize, id: &str, len: usize) -> Vec<(&'static str, String)> {
    let location = format!("/v2/{REPOSITORY}/blobs/uploads/{id}?_state=of-member-{member}-at-{len}%3D");
    let range = format!("0-{}", len.saturating_sub(1));
    vec![("Location", location), ("Range", range), ("Docker-Upload-UUID", id.to_owned())]
}

/// A request of a session, whose body is in the session already.
fn upload(content: &mut Content, member: usize, request: &Request, id: &str) -> Answer {
    let state = format!("of-member-{member}-");
    let ours = request.query.get("_state").is_some_and(|sent| sent.starts_with(&state));
    let Some(session) = content.sessions.get(id).filter(|session| ours && session.member == member) else {
        return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    let headers = session_headers(member, id, session.bytes.len());
    match request.method.as_str() {
        "GET" => Answer::new(204, &headers, b""),
        "PATCH" => Answer::new(202, &headers, b""),
        "PUT" => finish(content, request, id),
        _ => Answer::error(405, "UNSUPPORTED"),
    }
}

fn finish(content: &mut Content, request: &Request, id: &str) -> Answer {
    let bytes = content.sessions.get(id).map(|session| session.bytes.clone()).unwrap_or_default();
    let digest = digest_of(&bytes);
    if request.query.get("digest") != Some(&digest) {
        return Answer::error(400, "DIGEST_INVALID");
    }
    store_blob(content, bytes)
}

/// Stores bytes under their own digest, and says so.
pub(super) fn store_blob(content: &mut Content, bytes: Vec<u8>) -> Answer {
    let digest = digest_of(&bytes);
    content.blobs.insert(digest.clone(), bytes);
    let location = format!("/v2/{REPOSITORY}/blobs/{digest}");
    Answer::new(201, &[("Location", location), ("Docker-Content-Digest", digest)], b"")
}

fn put_manifest(content: &mut Content, reference: &str, body: &[u8]) -> Answer {
    let digest = digest_of(body);
    content.manifests.insert(reference.to_owned(), body.to_vec());
    content.manifests.insert(digest.clone(), body.to_vec());
    let location = format!("/v2/{REPOSITORY}/manifests/{digest}");
    Answer::new(201, &[("Location", location), ("Docker-Content-Digest", digest)], b"")
}

fn manifest(content: &Content, request: &Request, reference: &str) -> Answer {
    let Some(bytes) = content.manifests.get(reference) else { return Answer::error(404, "MANIFEST_UNKNOWN") };
    let digest = digest_of(bytes);
    let headers = [
        ("Content-Type", MANIFEST_TYPE.to_owned()),
        ("Etag", format!("\"{digest}\"")),
        ("Docker-Content-Digest", digest),
    ];
    let answer = Answer::new(200, &headers, bytes);
    if request.method == "HEAD" { answer.without_body() } else { answer }
}

fn blob(content: &Content, request: &Request, digest: &str) -> Answer {
    let Some(bytes) = content.blobs.get(digest) else { return Answer::error(404, "BLOB_UNKNOWN") };
    let etag = format!("\"{digest}\"");
    let mut headers = vec![
        ("Accept-Ranges", "bytes".to_owned()),
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Cache-Control", "max-age=31536000".to_owned()),
        ("Docker-Content-Digest", digest.to_owned()),
        ("Etag", etag.clone()),
    ];
    if request.method == "HEAD" {
        return Answer::new(200, &headers, bytes).without_body();
    }
    // Another ETag than ours: the client wants all of what there is now (RFC 9110 13.1.5).
    let wants_part = request.header("if-range").is_none_or(|wanted| wanted == etag);
    match request.header("range").filter(|_| wants_part) {
        None => Answer::new(200, &headers, bytes),
        Some(range) => match parse_range(range, bytes.len()) {
            Some((first, last)) => {
                headers.push(("Content-Range", format!("bytes {first}-{last}/{}", bytes.len())));
                Answer::new(206, &headers, &bytes[first..=last])
            }
            None => Answer::new(416, &[("Content-Range", format!("bytes */{}", bytes.len()))], b""),
        },
    }
}

/// First and last byte of one range; `None` where it cannot be satisfied.
fn parse_range(range: &str, len: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let wanted: usize = last.parse().ok()?;
        return (wanted > 0).then(|| (len.saturating_sub(wanted), len - 1));
    }
    let first: usize = first.parse().ok()?;
    let last = if last.is_empty() { len - 1 } else { last.parse::<usize>().ok()?.min(len - 1) };
    (first <= last && first < len).then_some((first, last))
}

#[test]
fn ranges_are_read_as_a_stock_registry_reads_them() {
    for (range, expected) in [
        ("bytes=0-", Some((0, 9))),
        ("bytes=3-5", Some((3, 5))),
        ("bytes=3-99", Some((3, 9))),
        ("bytes=-4", Some((6, 9))),
        ("bytes=-99", Some((0, 9))),
        ("bytes=10-", None),
        ("bytes=5-3", None),
    ] {
        assert_eq!(parse_range(range, 10), expected, "{range}");
    }
}
