//! Runs one case: members, a gateway of its own, and the client.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use tidegate::config::Config;

use super::case::{Case, Operation, TAG};
use super::client::{Ask, Client, Connection, Ending, Seen};
use super::faulty_member::FaultyMember;
use super::judge::{Subject, Trial, classify};
use super::oracle::breaks_max;
use super::settings;
use super::stock::{MANIFEST_TYPE, REPOSITORY, Storage};
use crate::harness::certs::Certificates;
use crate::harness::client::TestClient;
use crate::harness::config::ConfigBuilder;
use crate::harness::image::digest_of;
use crate::harness::inline_gateway::{InlineGateway, load_config};
use crate::harness::random_secret;

/// What all cases share: keys, a certificate and a token. None of it has a state that one case could leave to the next.
pub(super) struct World {
    dir: TempDir,
    config: ConfigBuilder,
    client: Client,
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = TempDir::with_prefix("tidegate-matrix-").expect("a temporary directory");
        let certificates = Certificates::new(dir.path());
        let leaf = certificates.leaf("hub", &["127.0.0.1"]);
        let password = random_secret();
        let config = ConfigBuilder::new(dir.path())
            .tls_listener("127.0.0.1:0", &leaf)
            .user("alice", &password)
            .extra(&settings());
        let text = config.clone().member_at("nobody", "http://127.0.0.1:9", "none").render();
        let gateway = InlineGateway::start(&load_config(&text, &dir.path().join("token.yaml"))).await;
        let scope = format!("repository:{REPOSITORY}:pull,push");
        let client = TestClient::tls(gateway.address(), &certificates.authority());
        let token = client.token("alice", &password, &[&scope]).await;
        gateway.stop().await.expect("nothing is left over");
        Self { dir, config, client: Client::new(&certificates.authority(), &token) }
    }

    fn config(&self, case: &Case, members: &[FaultyMember]) -> Config {
        let add = |config: ConfigBuilder, (at, member): (usize, &FaultyMember)| {
            config.member_at(&format!("m{at}"), &member.url(), "none")
        };
        let text = members.iter().enumerate().fold(self.config.clone(), add).render();
        load_config(&text, &self.dir.path().join(format!("case{}.yaml", case.number)))
    }
}

/// A case while it runs.
struct Running {
    case: Case,
    world: Arc<World>,
    subject: Subject,
    storage: Arc<Storage>,
    members: Vec<FaultyMember>,
    gateway: InlineGateway,
}

/// Runs a case to its end and tells what happened.
pub(super) async fn run(world: Arc<World>, case: Case) -> Trial {
    let subject = subject_of(&case);
    let storage = Arc::new(Storage::default());
    if case.operation.reads() {
        let mut content = storage.lock();
        content.blobs.insert(subject.digest.clone(), subject.bytes.clone());
        content.manifests.insert(subject.digest.clone(), subject.bytes.clone());
        content.manifests.insert(TAG.to_owned(), subject.bytes.clone());
    }
    let request_len = if case.operation.sends_body() { case.size } else { 0 };
    let mut members = Vec::new();
    for (number, fault) in case.members.iter().enumerate() {
        let what = (case.operation, request_len);
        members.push(FaultyMember::start(number, what, *fault, &storage).await);
    }
    let gateway = InlineGateway::start(&world.config(&case, &members)).await;
    let mut running = Running { case, world, subject, storage, members, gateway };
    let (seen, upload_end, pinned) = running.act().await;
    running.tell(seen, upload_end, pinned).await
}

impl Running {
    async fn connect(&self) -> Connection {
        let connected = self.world.client.connect(self.case.protocol, self.gateway.address()).await;
        connected.expect("a connection to the gateway")
    }

    async fn arm(&mut self) {
        for member in &mut self.members {
            member.arm().await;
        }
    }

    /// What the client does: first all that must go well, then the operation under test, then what shows whether it went well.
    async fn act(&mut self) -> (Vec<Seen>, Option<Seen>, Option<usize>) {
        let mut connection = self.connect().await;
        let operation = self.case.operation;
        if !operation.is_pinned() {
            self.arm().await;
            let ask = self.ask();
            let mut seen = vec![connection.exchange(&ask).await];
            drop(connection);
            while operation.reads() && self.was_broken_off(&seen) && seen.len() <= breaks_max(&self.case) {
                seen.push(self.connect().await.exchange(&ask).await);
            }
            self.members.iter().for_each(FaultyMember::disarm);
            let is_start = operation == Operation::UploadStart;
            let location = seen[0].header("location").filter(|_| is_start).map(str::to_owned);
            let Some(location) = location else { return (seen, None, None) };
            let pinned = self.session_of(&location);
            let mut connection = self.connect().await;
            let patched = connection.exchange(&self.patch(&location)).await;
            let location = patched.header("location").unwrap_or_default().to_owned();
            let end = connection.exchange(&self.put(&location, Bytes::new())).await;
            return (seen, Some(end), pinned);
        }
        let start = Ask { method: Method::POST, target: uploads(), ..Ask::default() };
        let mut location = location_after(202, &connection.exchange(&start).await);
        if operation == Operation::PutLast {
            location = location_after(202, &connection.exchange(&self.patch(&location)).await);
        }
        let pinned = self.session_of(&location);
        self.arm().await;
        let ask = match operation {
            Operation::Patch => self.patch(&location),
            Operation::PutWhole => self.put(&location, Bytes::from(self.subject.bytes.clone())),
            _ => self.put(&location, Bytes::new()),
        };
        let seen = connection.exchange(&ask).await;
        drop(connection);
        self.members.iter().for_each(FaultyMember::disarm);
        let next = seen.header("location").filter(|_| seen.status() == Some(202)).map(str::to_owned);
        let end = match next {
            Some(location) => Some(self.connect().await.exchange(&self.put(&location, Bytes::new())).await),
            None => None,
        };
        (vec![seen], end, pinned)
    }

    fn was_broken_off(&self, seen: &[Seen]) -> bool {
        seen.last().is_some_and(|seen| classify(&self.case, &self.subject, seen).is_broken_off())
    }

    /// The operation under test, where it belongs to no session.
    fn ask(&self) -> Ask {
        let digest = &self.subject.digest;
        let blob = || format!("/v2/{REPOSITORY}/blobs/{digest}");
        let manifest = |reference: &str| format!("/v2/{REPOSITORY}/manifests/{reference}");
        let accept = vec![("accept", MANIFEST_TYPE.to_owned())];
        match self.case.operation {
            Operation::GetBlob => Ask { target: blob(), ..Ask::default() },
            Operation::GetRange(span) => {
                let headers = vec![("range", span.header(self.subject.bytes.len()))];
                Ask { target: blob(), headers, ..Ask::default() }
            }
            Operation::HeadBlob => Ask { method: Method::HEAD, target: blob(), ..Ask::default() },
            Operation::GetByDigest => Ask { target: manifest(digest), headers: accept, ..Ask::default() },
            Operation::GetByTag => Ask { target: manifest(TAG), headers: accept, ..Ask::default() },
            Operation::HeadManifest => {
                Ask { method: Method::HEAD, target: manifest(TAG), headers: accept, ..Ask::default() }
            }
            Operation::PutManifest => Ask {
                method: Method::PUT,
                target: manifest(TAG),
                headers: vec![("content-type", MANIFEST_TYPE.to_owned())],
                body: Bytes::from(self.subject.bytes.clone()),
                streamed: !self.case.length_known,
            },
            Operation::UploadStart | Operation::Patch | Operation::PutWhole | Operation::PutLast => {
                Ask { method: Method::POST, target: uploads(), ..Ask::default() }
            }
        }
    }

    fn patch(&self, location: &str) -> Ask {
        Ask {
            method: Method::PATCH,
            target: location.to_owned(),
            headers: vec![("content-type", "application/octet-stream".to_owned())],
            body: Bytes::from(self.subject.bytes.clone()),
            streamed: !self.case.length_known,
        }
    }

    fn put(&self, location: &str, body: Bytes) -> Ask {
        let streamed = !self.case.length_known && !body.is_empty();
        Ask {
            method: Method::PUT,
            target: format!("{location}&digest={}", self.subject.digest),
            headers: vec![("content-type", "application/octet-stream".to_owned())],
            body,
            streamed,
        }
    }

    /// The member of the session that a `Location` names.
    fn session_of(&self, location: &str) -> Option<usize> {
        let (path, _) = location.split_once('?')?;
        let (_, id) = path.rsplit_once('/')?;
        self.storage.lock().sessions.get(id).map(|session| session.member)
    }

    async fn tell(self, seen: Vec<Seen>, upload_end: Option<Seen>, pinned: Option<usize>) -> Trial {
        let leftovers = self.gateway.stop().await.err();
        let content = self.storage.lock();
        let held = if self.case.operation == Operation::PutManifest {
            content.manifests.get(&self.subject.digest)
        } else {
            content.blobs.get(&self.subject.digest)
        };
        let in_session = content.sessions.values().filter(|session| Some(session.member) == pinned);
        let in_session = in_session.map(|session| session.bytes.clone()).max_by_key(Vec::len);
        let stored = held.is_some_and(|held| *held == self.subject.bytes);
        drop(content);
        Trial {
            subject: self.subject,
            pinned,
            seen,
            upload_end,
            logs: self.members.iter().map(FaultyMember::log).collect(),
            in_session,
            stored,
            leftovers,
        }
    }
}

fn uploads() -> String {
    format!("/v2/{REPOSITORY}/blobs/uploads/")
}

fn location_after(status: u16, seen: &Seen) -> String {
    let Seen::Answer { ending: Ending::Complete, .. } = seen else {
        panic!("preparing: {}", seen.describe())
    };
    assert_eq!(seen.status(), Some(status), "preparing: {}", seen.describe());
    seen.header("location").expect("a Location").to_owned()
}

/// Bytes that nobody has seen before, and the same ones for the same case.
fn subject_of(case: &Case) -> Subject {
    let mut bytes = vec![0; case.size];
    StdRng::seed_from_u64(case.seed).fill(&mut bytes[..]);
    let manifest = matches!(
        case.operation,
        Operation::GetByDigest | Operation::GetByTag | Operation::HeadManifest | Operation::PutManifest
    );
    if manifest {
        let start = format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST_TYPE}\",\"filler\":\"");
        bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
        if bytes.len() >= start.len() + 2 {
            bytes[..start.len()].copy_from_slice(start.as_bytes());
            let end = bytes.len() - 2;
            bytes[end..].copy_from_slice(b"\"}");
        }
    }
    Subject { digest: digest_of(&bytes), bytes }
}
