//! What core does with an allowed request to `/v2`: tags, catalog and which manifest a tag names come from its database, contents
//! from the registry behind it.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::SystemTime;

use super::answer::{self, Answer};
use super::core::CoreRequest;
use super::database::Artifact;
use super::identity::Caller;
use super::node::Node;
use super::v2::{self, Target};

const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The project's limit in the text of a full quota.
const QUOTA: &str = "1000 B";

pub(super) async fn answer(node: &Node, request: CoreRequest, target: Target, caller: &Caller) -> Answer {
    let reads = [Method::GET, Method::HEAD].contains(&request.method);
    match (&target, &request.method) {
        (Target::Catalog, _) => catalog(node, &request),
        (Target::Tags { repository }, _) => tags(node, &request, repository),
        (Target::Referrers { repository, digest }, _) => referrers(node, repository, digest),
        (Target::Manifest { repository, reference }, &Method::PUT) => {
            let (repository, reference) = (repository.clone(), reference.clone());
            put_manifest(node, request, (&repository, &reference), caller).await
        }
        (Target::Manifest { repository, reference }, &Method::DELETE) => {
            delete_manifest(node, (repository, reference), caller)
        }
        (Target::Manifest { repository, reference }, _) if reads => {
            let (repository, reference) = (repository.clone(), reference.clone());
            read_manifest(node, request, (&repository, &reference), caller).await
        }
        (Target::Blob { digest, .. }, &Method::HEAD) if !node.database.blob_is_known(digest) => {
            answer::error(404, "NOT_FOUND", &format!("blob {digest} not found"))
        }
        _ => pass(node, request, &target).await,
    }
}

async fn forward(node: &Node, request: CoreRequest) -> Answer {
    if node.faults().registry_gone {
        return answer::empty(502);
    }
    let target = request.target();
    node.behind.forward_or_502((request.method, &target), request.headers, request.body).await
}

/// Blobs and uploads. Core keeps the size of an upload in redis, and counts it when the blob is complete.
async fn pass(node: &Node, request: CoreRequest, target: &Target) -> Answer {
    let Some(project) = target.repository().map(v2::project_of) else {
        return forward(node, request).await;
    };
    let in_upload = matches!(target, Target::Upload { .. });
    if in_upload && node.faults().redis_gone && [Method::PATCH, Method::PUT].contains(&request.method) {
        return answer::internal_error();
    }
    let committed = request.query("digest").filter(|_| in_upload && request.method == Method::PUT);
    let is_full = node.database.find_project(project).is_some_and(|project| project.quota_full);
    if committed.is_some() && is_full {
        return over_quota(request).await;
    }
    let mounted = match target {
        Target::Uploads { mount: Some(mount), .. } => Some(mount.digest.clone()),
        _ => None,
    };
    let answer = forward(node, request).await;
    if let (201, Some(digest)) = (answer.status().as_u16(), committed.or(mounted)) {
        node.database.add_blob(project, &digest);
    }
    answer
}

async fn over_quota(request: CoreRequest) -> Answer {
    let length = request.header("content-length").and_then(|length| length.parse::<u64>().ok());
    // Core decides when it has it all.
    let read = request.body.read(usize::MAX).await.map_or(0, |bytes| bytes.len() as u64);
    let size = human_size(length.unwrap_or(read));
    let message = format!(
        "adding {size} of storage resource, which when updated to current usage of {QUOTA} will exceed the configured \
         upper limit of {QUOTA}."
    );
    answer::error(403, "DENIED", &message)
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn human_size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

fn catalog(node: &Node, request: &CoreRequest) -> Answer {
    let data = node.database.data();
    let names = data.repositories.iter().filter(|(_, repository)| !repository.artifacts.is_empty());
    let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
    drop(data);
    listed(request, &names, |names| json!({ "repositories": names }).to_string())
}

fn tags(node: &Node, request: &CoreRequest, repository: &str) -> Answer {
    let known = node.database.data().repositories.get(repository).cloned();
    let Some(known) = known else {
        return answer::error(404, "NOT_FOUND", &format!("repository {repository} not found"));
    };
    let mut tags: Vec<String> = known.artifacts.into_values().flat_map(|artifact| artifact.tags).collect();
    tags.sort();
    listed(request, &tags, |tags| format!("{{\"name\":{},\"tags\":{}}}", json!(repository), json!(tags)))
}

/// A page of `names` by `n` and `last`, with a link to the next.
fn listed(request: &CoreRequest, names: &[String], write: impl Fn(&[String]) -> String) -> Answer {
    let after = request.query("last");
    let rest: Vec<String> =
        names.iter().filter(|name| after.as_ref().is_none_or(|last| *name > last)).cloned().collect();
    let most = request.query("n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
    let page = &rest[..rest.len().min(most)];
    let mut answer = answer::content(200, answer::JSON_UTF8, format!("{}\n", write(page)));
    if let Some(last) = page.last().filter(|_| page.len() < rest.len()) {
        let link = format!("<{}?last={last}&n={most}>; rel=\"next\"", request.path);
        answer::set(&mut answer, "link", &link);
    }
    answer
}

fn referrers(_node: &Node, _repository: &str, _digest: &str) -> Answer {
    let body = concat!(
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",",
        "\"manifests\":[]}\n"
    );
    let mut answer = answer::content(200, answer::JSON_UTF8, body);
    answer::set(&mut answer, "x-total-count", "0");
    answer
}

/// How core and its audit log write an artifact.
fn written(repository: &str, reference: &str) -> String {
    let between = if v2::is_digest(reference) { '@' } else { ':' };
    format!("{repository}{between}{reference}")
}

fn not_found(repository: &str, reference: &str) -> Answer {
    answer::error(404, "NOT_FOUND", &format!("artifact {} not found", written(repository, reference)))
}

async fn read_manifest(
    node: &Node,
    mut request: CoreRequest,
    (repository, reference): (&str, &str),
    caller: &Caller,
) -> Answer {
    let Some(digest) = node.database.resolve(repository, reference) else {
        return not_found(repository, reference);
    };
    request.path = format!("/v2/{repository}/manifests/{digest}");
    let is_pull = request.method == Method::GET;
    let answer = forward(node, request).await;
    if is_pull && answer.status() == 200 {
        node.database.log(caller.name().unwrap_or("anonymous"), "pull", written(repository, reference));
    }
    answer
}

fn delete_manifest(node: &Node, (repository, reference): (&str, &str), caller: &Caller) -> Answer {
    if !v2::is_digest(reference) {
        let message = format!("unsupported digest {reference}: invalid checksum digest format");
        return answer::error(400, "UNSUPPORTED", &message);
    }
    if node.database.resolve(repository, reference).is_none() {
        return not_found(repository, reference);
    }
    node.database.remove_artifact(repository, reference);
    node.database.log(caller.name().unwrap_or_default(), "delete", written(repository, reference));
    answer::empty(202)
}

async fn put_manifest(
    node: &Node,
    request: CoreRequest,
    (repository, reference): (&str, &str),
    caller: &Caller,
) -> Answer {
    if node.database.is_immutable(repository, reference) {
        let (_, name) = repository.split_once('/').unwrap_or_default();
        let message =
            format!("Failed to process request due to '{name}:{reference}' configured as immutable.");
        return answer::error(412, "PRECONDITION", &message);
    }
    let headers = request.headers.clone();
    let Some(body) = request.body.read(MANIFEST_BYTES_MAX).await else {
        return answer::error(413, "REQUEST_ENTITY_TOO_LARGE", "the manifest is too large");
    };
    if let Err(problem) = serde_json::from_slice::<Value>(&body) {
        let message = format!("unmarshal manifest failed: {}", json_fault(&body, &problem));
        return answer::error(400, "MANIFEST_INVALID", &message);
    }
    if node.faults().registry_gone {
        return answer::empty(502);
    }
    let digest = format!(
        "sha256:{}",
        data_encoding::HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body).as_ref())
    );
    let tag = (!v2::is_digest(reference)).then_some(reference);
    // The registry behind never hears of tags.
    let to = format!("/v2/{repository}/manifests/{}", if tag.is_some() { &digest } else { reference });
    let answer = store_manifest(node, (&to, headers), body, (repository, &digest, tag)).await;
    if answer.status() == 201 {
        node.database.log(caller.name().unwrap_or_default(), "create", written(repository, reference));
    }
    answer
}

async fn store_manifest(
    node: &Node,
    (to, headers): (&str, HeaderMap),
    body: Bytes,
    (repository, digest, tag): (&str, &str, Option<&str>),
) -> Answer {
    let media_type =
        headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let size = body.len() as u64;
    let (head, body) = node.behind.send_bytes((Method::PUT, to), headers, body).await.into_parts();
    if head.status == 201 {
        let new = Artifact { id: 0, media_type, size, pushed: SystemTime::now(), tags: Vec::new() };
        node.database.add_artifact(repository, digest, tag, new);
    }
    Answer::from_parts(head, body.boxed_unsync())
}

/// The fault in Go's words where they are short, otherwise in ours.
fn json_fault(body: &[u8], problem: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start();
    let Some(first) = text.chars().next() else { return "unexpected end of JSON input".to_owned() };
    for word in ["null", "true", "false"].into_iter().filter(|word| word.starts_with(first)) {
        let wrong = word.chars().zip(text.chars()).find(|(right, given)| right != given);
        if let Some((right, given)) = wrong {
            return format!("invalid character '{given}' in literal {word} (expecting '{right}')");
        }
    }
    if "{[\"-0123456789".contains(first) {
        return problem.to_string();
    }
    format!("invalid character '{first}' looking for beginning of value")
}
