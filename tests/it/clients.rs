//! The acceptance suite: every real client against stock members with one shared storage and different `http.secret`s, through the
//! gateway with TLS. What a client is refused on the way is compared with what one stock registry alone refuses it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio::sync::OnceCell;

use crate::harness::certs::Certificates;
use crate::harness::clients::containers::Containers;
use crate::harness::clients::ctr::Ctr;
use crate::harness::clients::curl_h2::CurlH2;
use crate::harness::clients::docker::{Docker, Dockerd, Network};
use crate::harness::clients::dxf::Dxf;
use crate::harness::clients::skopeo::Skopeo;
use crate::harness::clients::{Endpoint, Ran, RealClient, exercise};
use crate::harness::gateway::AccessLine;
use crate::harness::image::Image;
use crate::harness::network::Cable;
use crate::harness::port::ReservedPort;
use crate::harness::registry::{Access, LoggedRequest, StockRegistry};
use crate::harness::site::{MemberKind, Site};
use crate::harness::token_server::TokenServer;
use crate::harness::{Result, random_secret};

const CYCLES_PER_CLIENT: usize = 25;

/// Every client and what it has to have done; a client that cannot run is a failure, not a gap in this list.
const SCENARIOS: [(&str, [&str; 6]); 7] = [
    (
        "curl-h2",
        [
            "login: a token without scope, and /v2/ with it",
            "push: every blob in three PATCHes",
            "pull: manifest and blobs by GET",
            "list: GET tags/list",
            "delete: DELETE by digest",
            "logout: nothing is stored, a call without credentials is refused",
        ],
    ),
    (
        "skopeo",
        [
            "login",
            "push: copy from an OCI layout",
            "pull: copy to a directory",
            "list: list-tags",
            "delete",
            "logout",
        ],
    ),
    (
        "podman",
        [
            "login",
            "push",
            "pull",
            "list: search --list-tags",
            "delete: skopeo with podman's login (podman has no command for it)",
            "logout",
        ],
    ),
    (
        "buildah",
        [
            "login",
            "push",
            "pull",
            "list: skopeo with buildah's login (buildah has no command for it)",
            "delete: skopeo with buildah's login (buildah has no command for it)",
            "logout",
        ],
    ),
    (
        "dxf",
        [
            "login: auth",
            "push: push-blob for each layer, set-alias",
            "pull: get-alias, pull-blob for each layer",
            "list: list-aliases",
            "delete: del-alias",
            "logout: nothing is stored, a call without credentials is refused",
        ],
    ),
    (
        "ctr",
        [
            "login: curl (ctr has none, it takes --user with every call)",
            "push: images push --user",
            "pull: images pull --user",
            "list: curl (ctr has no command for it)",
            "delete: curl (ctr has no command for it)",
            "logout: nothing is stored, a call without credentials is refused",
        ],
    ),
    (
        "docker",
        [
            "login",
            "push",
            "pull",
            "list: curl (docker has no command for it)",
            "delete: curl (docker has no command for it)",
            "logout",
        ],
    ),
];

#[tokio::test]
async fn every_client_works_through_the_gateway_with_open_members() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Open, MemberKind::Open]).await;
    acceptance(&mut site, "open-members").await;
}

#[tokio::test]
async fn every_client_works_with_a_different_credential_for_each_member() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Basic, MemberKind::Token]).await;
    acceptance(&mut site, "one-of-each-credential").await;
}

#[tokio::test]
async fn fifty_push_and_pull_cycles_meet_no_refusal_of_the_gateway() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Basic, MemberKind::Token]).await;
    let dockerd = Dockerd::shared().await;
    let mut skopeo = Skopeo::new(&site.endpoint);
    let mut docker = Docker::new(&site.endpoint, &dockerd);
    let (by_skopeo, by_docker) = tokio::join!(cycles(&mut skopeo), cycles(&mut docker));
    by_skopeo.unwrap_or_else(|error| panic!("{error:#}"));
    by_docker.unwrap_or_else(|error| panic!("{error:#}"));
    assert_only_ordinary_refusals(&mut site, lone_registry().await).await;
}

/// docker takes any certificate from 127.0.0.0/8, so here its daemon lives on another host, as far as it can tell.
#[tokio::test]
async fn docker_on_another_host_needs_the_authority_of_the_gateway() {
    const HOST: &str = "hub.tidegate.test";
    let cable = Cable::choose().await;
    let dockerd = Arc::new(Dockerd::start(Network::Own, &format!("{} {HOST}", cable.here())).await);
    cable.connect_to_namespace_of(dockerd.namespace_pid()).await;
    let port = ReservedPort::on(IpAddr::V4(cable.here()));
    let site = Site::start_at(port, HOST, &[MemberKind::Open, MemberKind::Open], |config| config).await;
    let mut docker = Docker::new(&site.endpoint, &dockerd);

    let refused = docker.login().await.expect_err("docker logged in to a host it has no reason to trust");
    assert!(
        format!("{refused:#}").contains("certificate signed by unknown authority"),
        "another failure: {refused:#}"
    );

    dockerd.trust(&site.endpoint.authority, &site.endpoint.ca_file);
    let image = Image::random(&[200_000, 3_000]);
    docker.login().await.unwrap_or_else(|error| panic!("{error:#}"));
    docker.push(&image, "t/remote", "v1").await.unwrap_or_else(|error| panic!("{error:#}"));
    docker.pull(&image, "t/remote", "v1").await.unwrap_or_else(|error| panic!("{error:#}"));
    docker.logout().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn acceptance(site: &mut Site, name: &str) {
    let lone = lone_registry().await;
    let ran = every_client(&site.endpoint).await.unwrap_or_else(|error| panic!("{error:#}"));
    write_report(name, &ran);
    assert_eq!(without_versions(&ran), expected(), "another list of scenarios ran");
    assert_eq!(ran, lone.ran, "a client has another version here than against one registry");
    assert_only_ordinary_refusals(site, lone).await;
    for member in &site.members {
        let served =
            member.requests().iter().filter(|request| repository_of(&request.target).is_some()).count();
        assert!(served > 0, "member {} served nothing", member.name());
    }
}

async fn every_client(endpoint: &Endpoint) -> Result<Vec<Ran>> {
    let dockerd = Dockerd::shared().await;
    let mut ran = exercise(&mut CurlH2::new(endpoint), "t/curl-h2").await?;
    ran.extend(exercise(&mut Skopeo::new(endpoint), "t/skopeo").await?);
    ran.extend(exercise(&mut Containers::podman(endpoint), "t/podman").await?);
    ran.extend(exercise(&mut Containers::buildah(endpoint), "t/buildah").await?);
    ran.extend(exercise(&mut Dxf::new(endpoint), "t/dxf").await?);
    ran.extend(exercise(&mut Ctr::start(endpoint).await, "t/ctr").await?);
    ran.extend(exercise(&mut Docker::new(endpoint, &dockerd), "t/docker").await?);
    Ok(ran)
}

async fn cycles<C: RealClient>(client: &mut C) -> Result<()> {
    let repository = format!("t/{}", client.name());
    client.login().await?;
    for number in 0..CYCLES_PER_CLIENT {
        let (image, tag) = (Image::random(&[150_000, 2_000]), format!("cycle{number}"));
        client.push(&image, &repository, &tag).await.with_context(|| format!("push {number}"))?;
        client.pull(&image, &repository, &tag).await.with_context(|| format!("pull {number}"))?;
    }
    let tags = client.list(&repository).await?;
    ensure!(tags.len() == CYCLES_PER_CLIENT, "{} tags of {CYCLES_PER_CLIENT}: {tags:?}", tags.len());
    Ok(())
}

/// A request that was answered with an error: to whom, for what, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    /// Names the client too, since each has a repository of its own; empty where the request is about none.
    repository: String,
    method: String,
    /// The kind of the route, by the names of the gateway's access log.
    route: String,
    status: u16,
}

impl Refusal {
    fn by_registry(request: &LoggedRequest) -> Option<Self> {
        let path = request.target.split('?').next().unwrap_or_default();
        let (method, route) = (request.method.clone(), route_of(path).to_owned());
        let repository = repository_of(path).unwrap_or_default().to_owned();
        (request.status >= 400).then_some(Self { repository, method, route, status: request.status })
    }

    fn by_gateway(line: &AccessLine) -> Option<Self> {
        let (repository, method, route) =
            (line.repository().to_owned(), line.method().to_owned(), line.route().to_owned());
        (line.status() >= 400).then_some(Self { repository, method, route, status: line.status() })
    }
}

/// What one stock registry alone does when the same clients do the same: the measure for the gateway. It stands alone but for the
/// token service that a registry with tokens needs.
#[derive(Debug)]
struct LoneRegistry {
    ran: Vec<Ran>,
    /// With distribution 2.8 these are, and only these: 401 with a challenge for `GET /v2/`, and for ctr and dxf, which ask for a token
    /// when they are told to, for the first try of other calls; 404 for the HEAD of a blob or manifest that is not there before a
    /// push or after a delete.
    refusals: BTreeSet<Refusal>,
}

async fn lone_registry() -> &'static LoneRegistry {
    static LONE: OnceCell<LoneRegistry> = OnceCell::const_new();
    LONE.get_or_init(run_lone_registry).await
}

async fn run_lone_registry() -> LoneRegistry {
    let dir = tempfile::TempDir::with_prefix("tidegate-lone-").expect("a temporary directory");
    let certificates = Certificates::new(dir.path());
    let leaf = certificates.leaf("lone", &["127.0.0.1"]);
    let (user, password) = ("alice".to_owned(), random_secret());
    let tokens = TokenServer::start(&leaf, &user, &password).await;
    let root_cert_bundle = dir.path().join("bundle.pem");
    std::fs::write(&root_cert_bundle, tokens.certificate()).expect("a bundle on disk");
    let (service, issuer) = (TokenServer::SERVICE.to_owned(), TokenServer::ISSUER.to_owned());
    let access = Access::Token { realm: tokens.realm().to_owned(), service, issuer, root_cert_bundle };
    let registry = StockRegistry::builder("lone").tls(leaf).access(access).start().await;
    let (ca_file, ca_dir) = (certificates.authority(), certificates.authority_dir());
    let authority = registry.address().to_string();
    let ran = every_client(&Endpoint { authority, ca_file, ca_dir, user, password }).await;
    let ran = ran.unwrap_or_else(|error| panic!("against one registry alone: {error:#}\n{}", registry.log()));
    LoneRegistry { ran, refusals: registry.requests().iter().filter_map(Refusal::by_registry).collect() }
}

/// Stops the gateway first, since only then the whole access log is written.
async fn assert_only_ordinary_refusals(site: &mut Site, lone: &LoneRegistry) {
    site.stop_gateway().await;
    let log = site.gateway.access_log();
    assert!(!log.is_empty(), "the access log is empty");
    for line in &log {
        let refusal = Refusal::by_gateway(line);
        let ordinary = refusal.as_ref().is_none_or(|refusal| lone.refusals.contains(refusal));
        assert!(ordinary, "one registry alone would not do this: {refusal:?}\n{}", line.0);
    }
    // A member that refuses the gateway's own credential, or breaks, was hidden from the client, but is a fault all the same.
    for member in &site.members {
        for request in member.requests() {
            let fault = repository_of(&request.target).is_some()
                && (matches!(request.status, 401 | 403) || request.status >= 500);
            assert!(!fault, "member {} answered {request:?}\n{}", member.name(), member.log());
        }
    }
}

fn repository_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let end = ["/blobs/", "/manifests/", "/tags/"].iter().filter_map(|route| rest.find(route)).min()?;
    Some(&rest[..end])
}

fn route_of(path: &str) -> &'static str {
    let routes =
        [("/blobs/uploads/", "upload"), ("/blobs/", "blob"), ("/manifests/", "manifest"), ("/tags/", "tags")];
    match path {
        "/v2/" => "ping",
        _ if path.ends_with("/blobs/uploads/") => "upload_start",
        _ => routes.iter().find(|(part, _)| path.contains(part)).map_or("other", |(_, route)| route),
    }
}

fn expected() -> Vec<(&'static str, &'static str)> {
    SCENARIOS
        .iter()
        .flat_map(|(client, scenarios)| scenarios.iter().map(|scenario| (*client, *scenario)))
        .collect()
}

fn without_versions(ran: &[Ran]) -> Vec<(&'static str, &'static str)> {
    ran.iter().map(|ran| (ran.client, ran.scenario)).collect()
}

/// Leaves the list of what ran, with versions, beside the other results of the build.
fn write_report(name: &str, ran: &[Ran]) {
    let lines: String =
        ran.iter().map(|ran| format!("{}\t{}\t{}\n", ran.client, ran.version, ran.scenario)).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{name}.tsv"));
    std::fs::write(file, lines).expect("a report on disk");
}
