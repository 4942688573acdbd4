//! Mounts, manifests, tags and blobs: recordings 120-154, 360, 362, 371-375.

use serde_json::json;

use super::case::{Case, run_shuffled};
use super::uploads::session_at;
use super::world::{As as _, Login, Pair, bearer, own_node, pull_push};
use crate::harness::harbor::HarborNode;
use crate::harness::image::{Blob, digest_of};
use crate::harness::push;

pub(super) const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image as it was recorded: one manifest, a configuration and a layer.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) manifest: String,
    pub(super) digest: String,
    pub(super) config: String,
    pub(super) layer: String,
}

/// Pushes an image of random blobs.
pub(super) async fn push_image(node: &HarborNode, login: &Login, repository: &str, tag: &str) -> Image {
    let client = node.login(login);
    let (config, layer) = (Blob::random(212), Blob::random(3000));
    for blob in [&config, &layer] {
        push::blob(&client, repository, blob).await;
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": 212 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": 3000 }],
    })
    .to_string();
    let digest = digest_of(manifest.as_bytes());
    Case::put("130", &client, format!("/v2/{repository}/manifests/{tag}"))
        .body(OCI, manifest.clone())
        .status(201)
        .of_registry()
        .says("docker-content-digest", &digest)
        .says("location", format!("{}/v2/{repository}/manifests/{digest}", node.url()))
        .says("content-length", "0")
        .run()
        .await;
    Image { manifest, digest, config: config.digest, layer: layer.digest }
}

fn found(case: Case, image: &Image) -> Case {
    case.with("accept", OCI)
        .status(200)
        .of_registry()
        .text(&image.manifest)
        .says("content-type", OCI)
        .says("docker-content-digest", &image.digest)
        .says("etag", format!("\"{}\"", image.digest))
}

/// 120-125: mounts, with and without the right on both sides.
#[tokio::test]
async fn mounts() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let (admin_a, admin_b) = (pair.a.login(&pair.admin()), pair.b.login(&pair.admin()));
    let blob = Blob::random(5000);
    push::blob(&admin_a, app, &blob).await;
    let (digest, missing) = (blob.digest, digest_of(b"nobody has this"));
    let (copy, copy2) = (format!("{}/copy", names.team2), format!("{}/copy2", names.team2));
    let mount =
        |repository: &str, digest: &str| format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={app}");
    let mounted = |case: Case, base: &str, repository: &str| {
        case.status(201)
            .of_registry()
            .says("docker-content-digest", &digest)
            .says("location", format!("{base}/v2/{repository}/blobs/{digest}"))
    };
    let two = bearer(&pair.a, &names.alice, &[&pull_push(&copy), &format!("repository:{app}:pull")]).await;
    let one = bearer(&pair.a, &names.alice, &[&pull_push(&copy)]).await;
    let cases = vec![
        mounted(Case::post("120", &admin_a, mount(&copy, &digest)), &pair.a.url(), &copy),
        Case::post("121", &admin_a, mount(&copy, &missing)).status(202).of_registry().says("range", "0-0"),
        mounted(Case::post("122", &two, mount(&copy, &digest)), &pair.a.url(), &copy),
        Case::post("123", &one, mount(&copy, &digest)).forbidden(app, "pull"),
        mounted(Case::post("124", &admin_b, mount(&copy2, &digest)), &pair.b.url(), &copy2),
    ];
    run_shuffled(names.seed, cases).await;
    let (c, database) = own_node("c", names).await;
    let admin_c = c.client().with_basic("admin", database.admin_password());
    let case = Case::post("125", &admin_c, mount(&copy, &digest)).status(202).of_registry();
    session_at("125", &c.url(), &copy, &case.run().await);
}

/// 130-147, 360, 362, 371, 372: what was pushed on A, read on both.
#[tokio::test]
async fn reads() {
    let pair = Pair::start().await;
    let (names, app, tag) = (&pair.names, &pair.names.app, &pair.names.tag);
    let image = push_image(&pair.a, &names.alice, app, tag).await;
    let (config, layer) = (&image.config, &image.layer);
    let scope = pull_push(app);
    let a = bearer(&pair.a, &names.alice, &[&scope]).await;
    let b = bearer(&pair.b, &names.alice, &[&scope]).await;
    let (alice, admin) = (pair.a.login(&names.alice), pair.a.login(&pair.admin()));
    let manifest = |reference: &str| format!("/v2/{app}/manifests/{reference}");
    let blob = |digest: &str| format!("/v2/{app}/blobs/{digest}");
    let missing = digest_of(b"nobody has this");
    let bad = json!({
        "schemaVersion": 2, "mediaType": OCI, "layers": [],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": missing, "size": 2 },
    });
    let tags = format!("{{\"name\":\"{app}\",\"tags\":[\"{tag}\"]}}\n");
    let own = "docker-distribution-api-version";
    let none = format!("{}/none", names.team);
    let index =
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}\n";
    let blob_head = |case: Case, digest: &str| {
        case.of_registry()
            .says("accept-ranges", "bytes")
            .says("cache-control", "max-age=31536000")
            .says("docker-content-digest", digest)
            .says("etag", format!("\"{digest}\""))
            .says("content-type", "application/octet-stream")
    };
    let nosuch = format!("project {} not found", names.nosuch);
    let cases = vec![
        found(Case::get("131", &b, manifest(tag)), &image),
        found(Case::head("132", &a, manifest(&image.digest)), &image),
        Case::get("133", &a, manifest("nope"))
            .error(404, "NOT_FOUND", &format!("artifact {app}:nope not found"))
            .lacks(own),
        Case::get("133b", &alice, manifest(tag)).with("accept", "*/*").of_registry().error(
            404,
            "MANIFEST_UNKNOWN",
            "OCI manifest found, but accept header does not support OCI manifests",
        ),
        Case::put("134", &a, manifest("bad"))
            .body(OCI, bad.to_string())
            .of_registry()
            .code(400, "MANIFEST_BLOB_UNKNOWN"),
        Case::put("135", &a, manifest("bad")).body(OCI, "not json").lacks(own).error(
            400,
            "MANIFEST_INVALID",
            "unmarshal manifest failed: invalid character 'o' in literal null (expecting 'u')",
        ),
        Case::get("136", &a, format!("/v2/{app}/tags/list")).status(200).text(&tags).lacks(own),
        Case::get("137", &a, format!("/v2/{app}/tags/list?n=1")).status(200).text(&tags).lacks("link"),
        Case::get("138", &a, format!("/v2/{none}/tags/list"))
            .error(404, "NOT_FOUND", &format!("repository {none} not found"))
            .lacks(own),
        Case::get("139", &admin, "/v2/_catalog")
            .status(200)
            .text(format!("{{\"repositories\":[\"{app}\"]}}\n")),
        blob_head(Case::get("140", &a, blob(config)), config).status(200).says("content-length", "212"),
        blob_head(Case::get("141", &a, blob(config)).with("range", "bytes=0-9"), config)
            .status(206)
            .says("content-range", "bytes 0-9/212")
            .says("content-length", "10"),
        Case::get("142", &a, blob(&missing)).code(404, "BLOB_UNKNOWN").of_registry(),
        Case::head("143", &a, blob(&missing))
            .error(404, "NOT_FOUND", &format!("blob {missing} not found"))
            .lacks(own),
        Case::get("145", &a, format!("/v2/{app}/referrers/{}", image.digest))
            .status(200)
            .text(index)
            .says("x-total-count", "0")
            .lacks(own),
        Case::put("146", &admin, format!("/v2/{}/app/manifests/{tag}", names.nosuch))
            .body(OCI, image.manifest.clone())
            .refused("", &nosuch),
        Case::get("147", &admin, format!("/v2/app/manifests/{tag}"))
            .error(400, "BAD_REQUEST", "bad request: invalid repository name: app")
            .sets_no_sid(),
        found(Case::get("360", &alice, manifest(tag)).with("accept-encoding", "gzip"), &image)
            .lacks("content-encoding"),
        Case::get("362", &admin, format!("/v2/{app}/tags/list"))
            .with("accept-encoding", "gzip")
            .status(200)
            .text(&tags)
            .lacks("content-encoding"),
        blob_head(Case::head("371", &alice, blob(layer)), layer).status(200).says("content-length", "3000"),
        Case::get("372", &alice, blob(layer))
            .with("if-none-match", format!("\"{layer}\""))
            .status(304)
            .of_registry()
            .says("etag", format!("\"{layer}\""))
            .says("cache-control", "max-age=31536000")
            .lacks("content-length")
            .text(""),
    ];
    run_shuffled(names.seed, cases).await;
}

/// 144, 150-154: what is deleted, by whom, and comes again.
#[tokio::test]
async fn deletions() {
    let pair = Pair::start().await;
    let (names, app, tag) = (&pair.names, &pair.names.app, &pair.names.tag);
    let image = push_image(&pair.a, &names.alice, app, tag).await;
    let alice = bearer(&pair.a, &names.alice, &[&pull_push(app)]).await;
    let (admin_a, admin_b) = (pair.a.login(&pair.admin()), pair.b.login(&pair.admin()));
    let manifest = |reference: &str| format!("/v2/{app}/manifests/{reference}");
    let own = "docker-distribution-api-version";
    Case::delete("150", &alice, manifest(tag)).forbidden(app, "delete").run().await;
    let message = format!("unsupported digest {tag}: invalid checksum digest format");
    Case::delete("151", &admin_a, manifest(tag)).error(400, "UNSUPPORTED", &message).lacks(own).run().await;
    let gone = Case::delete("152", &admin_a, manifest(&image.digest)).status(202).text("").lacks(own);
    gone.lacks("content-type").run().await;
    let message = format!("artifact {app}@{} not found", image.digest);
    Case::get("153", &admin_b, manifest(&image.digest))
        .error(404, "NOT_FOUND", &message)
        .lacks(own)
        .run()
        .await;
    Case::put("154", &admin_b, manifest(tag))
        .body(OCI, image.manifest.clone())
        .status(201)
        .of_registry()
        .says("location", format!("{}/v2/{app}/manifests/{}", pair.b.url(), image.digest))
        .run()
        .await;
    found(Case::get("154 and read", &pair.a.login(&names.alice), manifest(tag)), &image).run().await;
    let blob = format!("/v2/{app}/blobs/{}", image.config);
    Case::delete("144", &admin_a, blob).status(202).of_registry().says("content-length", "0").run().await;
}

/// 373-375: a robot's secret and a tag of one node are nothing on another with its own database.
#[tokio::test]
async fn other_databases() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let (c, of_c) = own_node("c", names).await;
    let (d, of_d) = own_node("d", names).await;
    of_d.set_robot_secret(&names.ci.name, "another secret");
    let admin_c = Login { name: "admin".to_owned(), password: of_c.admin_password().to_owned() };
    push_image(&c, &admin_c, app, &names.tag).await;
    let tags = format!("/v2/{app}/tags/list");
    let list = format!("{{\"name\":\"{app}\",\"tags\":[\"{}\"]}}\n", names.tag);
    let admin_d = d.client().with_basic("admin", of_d.admin_password());
    let cases = vec![
        Case::get("373", &c.login(&names.ci), &tags).status(200).text(list),
        Case::get("374", &d.login(&names.ci), &tags).forbidden(app, "pull"),
        Case::get("375", &admin_d, &tags).error(404, "NOT_FOUND", &format!("repository {app} not found")),
    ];
    run_shuffled(names.seed, cases).await;
}
