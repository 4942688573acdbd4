//! Tokens that end every few seconds, with uploads that go on for longer than any of them, and pulls and pushes meanwhile.
//!
//! `TIDEGATE_TEST_MINUTES=10` makes it ten minutes long, with tokens that end every minute.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use data_encoding::BASE64URL_NOPAD;
use http::Method;
use tokio::time::Instant;

use super::fixture::{CredentialKind, HarborSite};
use crate::harness::client::{TestClient, chunked};
use crate::harness::clients::docker::{Docker, Dockerd};
use crate::harness::clients::skopeo::Skopeo;
use crate::harness::clients::{Endpoint, RealClient};
use crate::harness::config::without_control_socket;
use crate::harness::gateway::Gateway;
use crate::harness::image::{Blob, Image};
use crate::harness::port::ReservedPort;
use crate::harness::{Result, pull, push, random_secret, wait};

/// The lifetime in the short form: a token ends within every chunk of every upload.
const SHORT: &str = "lifetime: 2s";
/// docker and skopeo keep every token for 60 s, whatever it says; in the long form everybody's live that long.
const LONG: &str = "lifetime: 60s";
const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 50_000;
/// What trickles while a chunk waits for the end of its token.
const TRICKLE: Duration = Duration::from_millis(100);
/// How often a client begins anew at most.
const BEAT: Duration = Duration::from_millis(500);
/// In the short form.
const UPLOADS_EACH: usize = 2;

/// When it is enough.
#[derive(Debug, Clone, Copy)]
enum Form {
    Short,
    Until(Instant),
}

impl Form {
    fn chosen() -> Self {
        let minutes = std::env::var("TIDEGATE_TEST_MINUTES").ok();
        let minutes = minutes.map(|minutes| minutes.parse::<u64>().expect("a number of minutes"));
        minutes.map_or(Self::Short, |minutes| Self::Until(Instant::now() + Duration::from_secs(60 * minutes)))
    }

    fn goes_on(self, uploads: usize) -> bool {
        match self {
            Self::Short => uploads < UPLOADS_EACH,
            Self::Until(end) => Instant::now() < end,
        }
    }
}

/// What was done, to be told at the end.
#[derive(Debug, Default)]
struct Done {
    /// Those still at work.
    uploaders: AtomicUsize,
    uploads: AtomicUsize,
    crossed: AtomicUsize,
    by_test_client: AtomicUsize,
    renewals: AtomicUsize,
    by_docker: AtomicUsize,
    by_skopeo: AtomicUsize,
}

impl Done {
    fn add(count: &AtomicUsize) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.uploaders.load(Ordering::Relaxed) == 0
    }
}

/// Whether a token has ended by its own words.
fn has_ended(token: &str) -> Result<bool> {
    let claims = token.split('.').nth(1).context("a token has three parts")?;
    let claims: serde_json::Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes())?)?;
    let ends = claims["exp"].as_u64().context("an end")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok(ends <= now)
}

/// A client that does what the specification says: its token is refused for its age alone, and then it gets another and asks again.
struct Renewing<'a> {
    site: &'a HarborSite,
    scope: String,
    token: String,
}

impl<'a> Renewing<'a> {
    async fn new(site: &'a HarborSite, repository: &str) -> Result<Self> {
        let scope = format!("repository:{repository}:pull,push");
        let token = site.client().try_token("alice", &site.accounts.alice, &[&scope]).await?;
        Ok(Self { site, scope, token })
    }

    async fn renew(&mut self) -> Result<()> {
        self.token = self.site.client().try_token("alice", &self.site.accounts.alice, &[&self.scope]).await?;
        Ok(())
    }

    fn client(&self) -> TestClient {
        self.site.client().with_bearer(&self.token)
    }

    /// Does `work`, again with a new token where the old one has ended, and only then.
    async fn go_on<T>(&mut self, done: &Done, work: impl AsyncFn(TestClient) -> Result<T>) -> Result<T> {
        loop {
            match work(self.client()).await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    let told = format!("{error:#}");
                    ensure!(told.contains("invalid_token") && has_ended(&self.token)?, "{told}");
                    Done::add(&done.renewals);
                    self.renew().await?;
                }
            }
        }
    }
}

/// One upload of several slow chunks. Each begins with a good token that ends before the chunk does; the last one and the end of the
/// upload have nothing but a token that has ended.
async fn upload(site: &HarborSite, repository: &str, done: &Done) -> Result<()> {
    let blob = Blob::random(CHUNKS * CHUNK_BYTES);
    let mut renewing = Renewing::new(site, repository).await?;
    let mut target = renewing.go_on(done, async |client| push::try_start(&client, repository).await).await?;
    for (number, chunk) in blob.bytes.chunks(CHUNK_BYTES).enumerate() {
        let is_last = number + 1 == CHUNKS;
        if !is_last {
            renewing.renew().await?;
        }
        target = slow_chunk(&renewing.client(), &target, chunk)
            .await
            .with_context(|| format!("chunk {number} of an upload to {repository}"))?;
        ensure!(has_ended(&renewing.token)?, "the chunk was too quick");
        Done::add(&done.crossed);
    }
    push::try_finish(&renewing.client(), &target, &blob.digest, "").await.context("the end of an upload")?;
    renewing.renew().await?;
    let blob_url = format!("/v2/{repository}/blobs/{}", blob.digest);
    let read = renewing.go_on(done, async |client| client.try_get(&blob_url).await?.ensure(200)).await?;
    ensure!(read.body == blob.bytes, "other bytes came back");
    Done::add(&done.uploads);
    Ok(())
}

/// Sends a chunk byte by byte until the token has ended, and then the rest of it. Gives where the next one goes.
async fn slow_chunk(client: &TestClient, target: &str, chunk: &[u8]) -> Result<String> {
    let (parts, body) = chunked();
    let request = client.request(Method::PATCH, target).header("content-type", "application/octet-stream");
    let feed = async {
        let mut sent = 0;
        let mut beat = tokio::time::interval(TRICKLE);
        wait::until("the token to end", async || {
            beat.tick().await;
            if sent + 1 < chunk.len() && parts.send(chunk[sent..=sent].to_vec().into()).await.is_ok() {
                sent += 1;
            }
            let answer = client.get("/v2/").await;
            (answer.status == 401).then_some(())
        })
        .await;
        // The other end may be gone; then the answer tells why.
        let _ = parts.send(chunk[sent..].to_vec().into()).await;
        drop(parts);
    };
    let (answer, ()) = tokio::join!(client.try_send(request.body(body)), feed);
    let answer = answer?.ensure(202)?;
    answer.header("location").map(str::to_owned).context("no Location")
}

async fn uploads(site: &HarborSite, repository: &str, form: Form, done: &Done) -> Result<()> {
    let mut own = 0;
    let ended = loop {
        if !form.goes_on(own) {
            break Ok(());
        }
        match upload(site, repository, done).await {
            Ok(()) => own += 1,
            Err(error) => break Err(error),
        }
    };
    done.uploaders.fetch_sub(1, Ordering::Relaxed);
    ended
}

/// Pushes and pulls of a client that renews its token when it is told to.
async fn renewing_images(site: &HarborSite, repository: &str, done: &Done) -> Result<()> {
    let mut renewing = Renewing::new(site, repository).await?;
    let mut beat = tokio::time::interval(BEAT);
    while !done.is_over() {
        beat.tick().await;
        let image = Image::random(&[4_000]);
        let tag = random_secret();
        for blob in image.blobs() {
            renewing
                .go_on(done, async |client| push::try_blob_by_patch(&client, repository, blob).await)
                .await?;
        }
        let put = async |client: TestClient| push::try_manifest(&client, repository, &tag, &image).await;
        renewing.go_on(done, put).await?;
        renewing.go_on(done, async |client| pull::try_image(&client, repository, &tag, &image).await).await?;
        Done::add(&done.by_test_client);
    }
    Ok(())
}

async fn images<C: RealClient>(
    mut client: C,
    repository: &str,
    done: &Done,
    count: &AtomicUsize,
) -> Result<()> {
    let mut beat = tokio::time::interval(BEAT);
    while !done.is_over() {
        beat.tick().await;
        let image = Image::random(&[4_000]);
        let tag = random_secret();
        client.login().await?;
        client.push(&image, repository, &tag).await?;
        client.pull(&image, repository, &tag).await?;
        Done::add(count);
    }
    Ok(())
}

/// A second gateway before the same nodes, with the same keys and longer tokens.
async fn patient_gateway(site: &HarborSite) -> (Gateway, Endpoint, (ReservedPort, tempfile::TempDir)) {
    let port = ReservedPort::on_loopback();
    let authority = format!("127.0.0.1:{}", port.number());
    let config = site.config.render().replace(&site.endpoint.authority, &authority).replace(SHORT, LONG);
    let dir = tempfile::TempDir::with_prefix("tidegate-patient-").expect("a temporary directory");
    let gateway = Gateway::start(&without_control_socket(&config), dir.path()).await;
    (gateway, Endpoint { authority, ..site.endpoint.clone() }, (port, dir))
}

#[expect(clippy::print_stderr, reason = "the long form is run for its numbers")]
fn report(kind: CredentialKind, form: Form, done: &Done) {
    eprintln!("{kind:?} {form:?}: {done:?}");
}

async fn goes_on(kind: CredentialKind) {
    let form = Form::chosen();
    let lifetime = if matches!(form, Form::Short) { SHORT } else { LONG };
    let tokens = format!("{lifetime}, expiry_margin: 0s");
    let mut site = HarborSite::start_with(3, kind, |node| node, |config| config.tokens(&tokens)).await;
    let (mut patient, endpoint, _kept) = patient_gateway(&site).await;
    let (dockerd, done) = (Dockerd::shared().await, Done::default());
    done.uploaders.store(3, Ordering::Relaxed);
    let ended = tokio::try_join!(
        uploads(&site, "team/slow0", form, &done),
        uploads(&site, "team/slow1", form, &done),
        uploads(&site, "team2/slow2", form, &done),
        renewing_images(&site, "team/renewing", &done),
        images(Docker::new(&endpoint, &dockerd), "team/docker", &done, &done.by_docker),
        images(Skopeo::new(&endpoint), "team2/skopeo", &done, &done.by_skopeo),
    );
    ended.unwrap_or_else(|error| panic!("{kind:?}: {error:#}"));
    report(kind, form, &done);
    let crossed = done.crossed.load(Ordering::Relaxed);
    assert_eq!(
        crossed,
        CHUNKS * done.uploads.load(Ordering::Relaxed),
        "{kind:?}: every chunk outlived its token"
    );
    for count in [&done.by_test_client, &done.renewals, &done.by_docker, &done.by_skopeo] {
        assert!(count.load(Ordering::Relaxed) > 0, "{kind:?}: {done:?}");
    }
    assert_eq!(site.refusals_at_nodes(), Vec::<String>::new(), "{kind:?}");
    for gateway in [&mut site.gateway, &mut patient] {
        gateway.stop().await;
        let faults: Vec<_> = gateway.access_log().into_iter().filter(|line| line.status() >= 500).collect();
        assert!(faults.is_empty(), "{kind:?}: {faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn minted_tokens_end_and_nobody_notices() {
    Box::pin(goes_on(CredentialKind::Token)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanged_tokens_end_and_nobody_notices() {
    Box::pin(goes_on(CredentialKind::Exchange)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_passwords_go_on_when_tokens_end() {
    Box::pin(goes_on(CredentialKind::Relay)).await;
}
