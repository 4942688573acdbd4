//! What can only be seen by writing: uploads begun at one member and looked for at the others, a
//! small blob and manifest, and their removal. Only with `--write-probes`.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Method, StatusCode};

use super::finding::{Check, Checkup, Code};
use super::patient::{Patient, Visit};
use super::verdict::{self, Refusal};
use crate::registry::RepositoryName;
use crate::upstream::Storage;
use crate::upstream::{QuestionError, Reply};

/// The type of the probe's manifest.
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of what a blob consists of.
const BYTES_TYPE: &str = "application/octet-stream";
/// How often a manifest is looked for at another member, whose storage may be a moment late.
const LOOKS: u32 = 4;
const LOOK_PAUSE: std::time::Duration = std::time::Duration::from_millis(300);

/// What a probe writes: an empty image like no other.
struct Probe {
    tag: String,
    blob: Bytes,
    blob_digest: String,
    manifest: Bytes,
    manifest_digest: String,
}

impl Probe {
    fn new() -> Self {
        let id = HEXLOWER.encode(&rand::random::<[u8; 12]>());
        let blob = serde_json::json!({
            "architecture": "amd64", "os": "linux", "author": format!("tidegate doctor {id}"),
            "config": {}, "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let blob = Bytes::from(blob.to_string());
        let blob_digest = digest(&blob);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": blob_digest, "size": blob.len(),
            },
            "layers": [],
        });
        let manifest = Bytes::from(manifest.to_string());
        let manifest_digest = digest(&manifest);
        Self { tag: format!("tidegate-doctor-{id}"), blob, blob_digest, manifest, manifest_digest }
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    format!("sha256:{}", HEXLOWER.encode(hash.as_ref()))
}

/// The probes of one pool.
struct Writing<'a, 'b> {
    patients: &'a [Patient<'b>],
    visits: &'a mut [Visit],
    repository: &'a RepositoryName,
    probe: Probe,
}

/// Writes at the members of one pool that take our credential.
pub(super) async fn write(patients: &[Patient<'_>], visits: &mut [Visit], repository: &RepositoryName) {
    let mut writing = Writing { patients, visits, repository, probe: Probe::new() };
    let mut able = Vec::new();
    for at in 0..patients.len() {
        if !writing.visits[at].usable {
            let because = "the member does not take our credential, so nothing can be written there";
            writing.checkup(at).skip(Check::Content, because);
        } else if writing.begin_and_cancel(at).await {
            able.push(at);
        }
    }
    if patients.first().is_some_and(|patient| patient.pool.storage == Storage::Replicated) {
        // Members of their own: each is looked at alone, and nothing that would be copied is left.
        for at in able {
            if writing.put_blob(at, &[]).await {
                writing.look_for_redirect(at).await;
                writing.remove_blob(at).await;
            }
        }
    } else if let Some((first, others)) = able.split_first() {
        writing.share(*first, others).await;
    }
}

impl Writing<'_, '_> {
    fn checkup(&mut self, at: usize) -> &mut Checkup {
        &mut self.visits[at].checkup
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    async fn ask(&self, at: usize, method: Method, target: &str) -> Result<Reply, QuestionError> {
        self.patients[at].ask(self.patients[at].write(method, target, self.repository)).await
    }

    async fn send(
        &self,
        at: usize,
        method: Method,
        target: &str,
        body: (&'static str, Bytes),
    ) -> Result<Reply, QuestionError> {
        let question = self.patients[at].write(method, target, self.repository).body(body.0, body.1);
        self.patients[at].ask(question).await
    }

    /// Starts an upload. Its path, or nothing where that failed, which is said.
    async fn begin(&mut self, at: usize) -> Option<String> {
        let answer = self.ask(at, Method::POST, &self.path("blobs/uploads/")).await;
        match verdict::begun(&answer) {
            Ok(location) => Some(location),
            Err(refusal) => {
                let is_harbor = self.patients[at].harbor().is_some();
                let finding = verdict::refused(&refusal, self.repository, is_harbor);
                if matches!(refusal, Refusal::ReadOnly)
                    && self.checkup(at).findings.iter().any(|f| f.code == Code::ReadOnly)
                {
                    return None;
                }
                self.checkup(at).find(finding);
                None
            }
        }
    }

    /// Whether the member takes writes.
    async fn begin_and_cancel(&mut self, at: usize) -> bool {
        let Some(location) = self.begin(at).await else { return false };
        self.checkup(at).pass(Check::Writable);
        self.cancel(at, &location).await;
        true
    }

    async fn cancel(&mut self, at: usize, location: &str) {
        let answer = self.ask(at, Method::DELETE, location).await;
        let gone =
            answer.is_ok_and(|answer| answer.status.is_success() || answer.status == StatusCode::NOT_FOUND);
        if !gone {
            let what = format!("an empty upload session in {}", self.repository);
            self.checkup(at).find(verdict::leftover(
                &what,
                "nothing has to be done: registries remove upload sessions after a week (uploadpurging), Harbor at its garbage collection",
            ));
        }
    }

    /// One blob at the first member, looked for at the others.
    async fn share(&mut self, first: usize, others: &[usize]) {
        if !self.put_blob(first, others).await {
            return;
        }
        self.look_for_redirect(first).await;
        if others.is_empty() {
            self.remove_blob(first).await;
            return;
        }
        let manifest = (MANIFEST_TYPE, self.probe.manifest.clone());
        let put = self
            .send(first, Method::PUT, &self.path(&format!("manifests/{}", self.probe.tag)), manifest)
            .await;
        match put {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                for at in others {
                    self.look_for_content(first, *at).await;
                }
                self.remove_manifest(first).await;
            }
            other => {
                let finding = verdict::failed("the manifest of a probe was not taken", &other);
                self.checkup(first).find(finding);
            }
        }
        self.remove_blob(first).await;
    }

    /// Uploads the probe's blob in one piece, and asks `others` for the session in between.
    async fn put_blob(&mut self, at: usize, others: &[usize]) -> bool {
        let Some(location) = self.begin(at).await else { return false };
        let body = (BYTES_TYPE, self.probe.blob.clone());
        let patched = self.send(at, Method::PATCH, &location, body).await;
        let Ok(location) = verdict::begun(&patched) else {
            let finding = verdict::failed("the bytes of a probe were not taken", &patched);
            self.checkup(at).find(finding);
            self.cancel(at, &location).await;
            return false;
        };
        for other in others {
            self.look_for_session(at, *other, &location).await;
        }
        let between = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{between}digest={}", self.probe.blob_digest);
        let put = self.send(at, Method::PUT, &target, (BYTES_TYPE, Bytes::new())).await;
        if put.as_ref().is_ok_and(|answer| answer.status == StatusCode::CREATED) {
            return true;
        }
        let finding = verdict::failed("the blob of a probe could not be finished", &put);
        self.checkup(at).find(finding);
        self.cancel(at, &location).await;
        false
    }

    /// Asks one member for an upload that was begun at another.
    async fn look_for_session(&mut self, first: usize, at: usize, location: &str) {
        let answer = self.ask(at, Method::GET, location).await;
        let name = self.patients[first].name().to_owned();
        match answer {
            Ok(answer) => match verdict::session(answer.status, &answer.error_code(), &name) {
                Ok(finding) => {
                    let storage_differs =
                        finding.as_ref().is_some_and(|finding| finding.code == Code::Storage);
                    if storage_differs {
                        // It could read what the other had sealed.
                        self.checkup(at).pass(Check::HttpSecret);
                        self.checkup(at).findings.extend(finding);
                    } else {
                        self.checkup(at).judge(Check::HttpSecret, finding);
                    }
                }
                Err(because) => self.checkup(at).skip(Check::HttpSecret, because),
            },
            Err(_) => self.checkup(at).skip(Check::HttpSecret, "the member did not answer"),
        }
    }

    /// Looks for the probe's image at another member.
    async fn look_for_content(&mut self, first: usize, at: usize) {
        let name = self.patients[first].name().to_owned();
        let (by_tag, by_digest) = (
            self.path(&format!("manifests/{}", self.probe.tag)),
            self.path(&format!("blobs/{}", self.probe.blob_digest)),
        );
        let mut manifest = self.ask(at, Method::GET, &by_tag).await;
        for _ in 1..LOOKS {
            if manifest.as_ref().is_ok_and(|answer| answer.status.is_success()) {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            manifest = self.ask(at, Method::GET, &by_tag).await;
        }
        let blob = self.ask(at, Method::GET, &by_digest).await;
        let (Ok(manifest), Ok(blob)) = (manifest, blob) else {
            return self.checkup(at).skip(Check::Content, "the member did not answer");
        };
        let is_harbor = self.patients[at].harbor().is_some();
        let known = self.checkup(at).findings.iter().any(|finding| finding.code == Code::Storage);
        match verdict::content(manifest.status, blob.status, &name, is_harbor) {
            None => self.checkup(at).pass(Check::Content),
            // Its upload has shown that already.
            Some(finding) if known && finding.code == Code::Storage => {}
            Some(finding) => self.checkup(at).find(finding),
        }
        self.judge_redirect(at, &blob);
    }

    async fn look_for_redirect(&mut self, at: usize) {
        let target = self.path(&format!("blobs/{}", self.probe.blob_digest));
        if let Ok(answer) = self.ask(at, Method::GET, &target).await {
            self.judge_redirect(at, &answer);
        }
    }

    fn judge_redirect(&mut self, at: usize, blob: &Reply) {
        let location = blob.header("location").filter(|_| blob.status.is_redirection());
        match location {
            None if blob.status.is_success() => self.checkup(at).pass(Check::Redirects),
            None => {}
            Some(location) => {
                let finding = verdict::redirect(location, &self.patients[at].url());
                self.checkup(at).judge(Check::Redirects, finding);
            }
        }
    }

    async fn remove_manifest(&mut self, at: usize) {
        let answer = self
            .ask(at, Method::DELETE, &self.path(&format!("manifests/{}", self.probe.manifest_digest)))
            .await;
        if answer.as_ref().is_ok_and(|answer| answer.status.is_success()) {
            return;
        }
        let what = format!("the image {}:{}", self.repository, self.probe.tag);
        let is_harbor = self.patients[at].harbor().is_some();
        let fix = verdict::how_to_remove(&answer, is_harbor);
        self.checkup(at).find(verdict::leftover(&what, fix));
    }

    /// Registries remove a blob when they are asked to; in Harbor the garbage collection does it.
    async fn remove_blob(&mut self, at: usize) {
        if self.patients[at].harbor().is_none() {
            let target = self.path(&format!("blobs/{}", self.probe.blob_digest));
            // Where deletion is off this has been said of the manifest, and some bytes are no harm.
            drop(self.ask(at, Method::DELETE, &target).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_an_image_of_its_own() {
        let (one, other) = (Probe::new(), Probe::new());
        assert!(one.tag.starts_with("tidegate-doctor-") && one.tag != other.tag);
        assert_ne!(one.blob_digest, other.blob_digest);
        assert!(String::from_utf8_lossy(&one.manifest).contains(&one.blob_digest));
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
