//! Rules 15 and 19 to 21, and what else reading is made of: headers, ranges, conditions, redirects, referrers, lists.

use http::Method;

use super::fixture::{FakeSite, assert_oci_error, bearer_of, hub, push_scope};
use crate::harness::fake_member::{FakeMember, answer};
use crate::harness::image::{Blob, Image, digest_of};
use crate::harness::push;

#[tokio::test]
async fn rule_15_headers_that_clients_rely_on_pass_and_those_of_the_connection_do_not() {
    const PASS: [(&str, &str); 14] = [
        ("content-type", "application/vnd.oci.image.manifest.v1+json"),
        ("docker-content-digest", "sha256:0123"),
        ("docker-upload-uuid", "0-1-2"),
        ("range", "0-99"),
        ("etag", "\"sha256:0123\""),
        ("accept-ranges", "bytes"),
        ("content-range", "bytes 0-1/2"),
        ("oci-subject", "sha256:4567"),
        ("oci-filters-applied", "artifactType"),
        ("oci-chunk-min-length", "1048576"),
        ("warning", "299 - \"soon gone\""),
        ("cache-control", "max-age=31536000"),
        ("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT"),
        ("vary", "Cookie"),
    ];
    const STAY: [(&str, &str); 7] = [
        ("www-authenticate", "Basic realm=\"member\""),
        ("set-cookie", "sid=1"),
        ("connection", "x-nominated"),
        ("x-nominated", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("upgrade", "h2c"),
    ];
    let script = |_: &_| Some(answer(200, &[&PASS[..], &STAY[..]].concat(), "{}"));
    let member = FakeMember::start(script).await;
    let site = FakeSite::start(&[&member]).await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    let answer = alice.get("/v2/t/app/manifests/v1").await.is(200);
    for (name, value) in PASS {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    for (name, _) in STAY {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
}

#[tokio::test]
async fn rule_15_real_members_answers_keep_their_headers() {
    let hub = hub().await;
    let image = Image::random(&[3000]);
    let bob = hub.bob(&[&push_scope("bob/headers")]).await;
    push::image(&bob, "bob/headers", "v1", &image).await;
    for method in [Method::GET, Method::HEAD] {
        let bearer = bearer_of(&bob);
        let authorization = [("authorization", bearer.as_str()), ("accept", image.manifest_type())];
        let layer = &image.layers[0];
        for (target, blob, etag) in [
            (format!("/v2/bob/headers/blobs/{}", layer.digest), layer, true),
            ("/v2/bob/headers/manifests/v1".to_owned(), &image.manifest, true),
        ] {
            let answer = hub.send(method.clone(), &target, &authorization).await.is(200);
            assert_eq!(answer.header("content-length"), Some(blob.bytes.len().to_string().as_str()));
            assert_eq!(answer.header("docker-content-digest"), Some(blob.digest.as_str()));
            assert_eq!(answer.header("etag").is_some(), etag, "{target}");
            assert_eq!(answer.body.is_empty(), method == Method::HEAD);
            assert_eq!(answer.headers.get_all("docker-distribution-api-version").iter().count(), 1);
        }
    }
}

#[tokio::test]
async fn ranges_of_a_blob_are_206_and_byte_exact() {
    let hub = hub().await;
    let blob = Blob::random(100_000);
    let bob = hub.bob(&[&push_scope("bob/ranges")]).await;
    push::blob(&bob, "bob/ranges", &blob).await;
    let (target, bearer) = (format!("/v2/bob/ranges/blobs/{}", blob.digest), bearer_of(&bob));
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=100-", 100, 100_000),
        ("bytes=-50", 99_950, 100_000),
        ("bytes=65535-65537", 65_535, 65_538),
        ("bytes=99999-99999", 99_999, 100_000),
        ("bytes=99990-200000", 99_990, 100_000),
    ] {
        // More often than there are members.
        for _ in 0..4 {
            let headers = [("authorization", bearer.as_str()), ("range", range)];
            let answer = hub.send(Method::GET, &target, &headers).await.is(206);
            let content_range = format!("bytes {from}-{}/100000", to - 1);
            assert_eq!(answer.header("content-range"), Some(content_range.as_str()), "{range}");
            assert!(answer.body[..] == blob.bytes[from..to], "{range}: other bytes");
        }
    }
    // docker-registry 2.8 announces the blob's length here, sends nothing and closes. Through the gateway the answer is whole.
    for _ in 0..4 {
        let headers = [("authorization", bearer.as_str()), ("range", "bytes=100000-")];
        let answer = hub.send(Method::GET, &target, &headers).await.is(416);
        assert_eq!(answer.header("content-range"), Some("bytes */100000"));
        assert_eq!((answer.header("content-length"), answer.body.len()), (Some("0"), 0));
    }
}

#[tokio::test]
async fn content_that_the_client_has_already_is_304() {
    let hub = hub().await;
    let image = Image::random(&[100]);
    let bob = hub.bob(&[&push_scope("bob/conditions")]).await;
    push::image(&bob, "bob/conditions", "v1", &image).await;
    let bearer = bearer_of(&bob);
    let layer = format!("/v2/bob/conditions/blobs/{}", image.layers[0].digest);
    for target in ["/v2/bob/conditions/manifests/v1", layer.as_str()] {
        let authorization = [("authorization", bearer.as_str()), ("accept", image.manifest_type())];
        let with = |condition| [&authorization[..], &[("if-none-match", condition)]].concat();
        let first = hub.send(Method::GET, target, &authorization).await.is(200);
        let etag = first.header("etag").expect("an ETag").to_owned();
        for method in [Method::GET, Method::HEAD] {
            let answer = hub.send(method.clone(), target, &with(etag.as_str())).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{method} {target}");
            let answer = hub.send(method.clone(), target, &with("\"sha256:other\"")).await;
            assert_eq!(answer.status, 200, "{method} {target}");
        }
    }
}

#[tokio::test]
async fn rule_19_a_redirect_to_storage_passes_unchanged_and_the_range_with_it() {
    const STORAGE: [&str; 3] = [
        "https://storage.example.com/bucket/docker/registry/v2/blobs/sha256/ab/data?X-Amz-Signature=a%2Fb",
        "https://cdn.example.com:8443/v2/t/app/blobs/sha256:0123?signature=xyz",
        // Storage whose paths look like a registry's, on another host all the same.
        "https://cdn.example.com/v2/t/app/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?signature=xyz",
    ];
    for storage in STORAGE {
        let member = FakeMember::start(move |request: &crate::harness::fake_member::Recorded| {
            (!request.is_probe())
                .then(|| answer(307, &[("location", storage), ("content-type", "text/html")], "x"))
        })
        .await;
        let site = FakeSite::start(&[&member]).await;
        let alice = site.alice(&["repository:t/app:pull"]).await;
        let request = alice.request(Method::GET, &format!("/v2/t/app/blobs/{}", digest_of(b"x")));
        let request = request.header("range", "bytes=5-").empty();
        let answer = alice.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (307, Some(storage)));
        let asked = member.requests();
        assert_eq!((asked.len(), asked[0].header("range").as_deref()), (1, Some("bytes=5-")));
    }
}

#[tokio::test]
async fn rule_20_referrers_are_404_where_members_have_no_such_route() {
    let hub = hub().await;
    let image = Image::random(&[100]);
    let bob = hub.bob(&[&push_scope("bob/referrers")]).await;
    push::image(&bob, "bob/referrers", "v1", &image).await;
    for query in ["", "?artifactType=application/spdx%2Bjson"] {
        for _ in 0..4 {
            let target = format!("/v2/bob/referrers/referrers/{}{query}", image.manifest.digest);
            bob.get(&target).await.is(404);
        }
    }
    let target = format!("/v2/bob/referrers/referrers/{}", image.manifest.digest);
    assert_oci_error(&hub.nobody().get(&target).await, 401, "UNAUTHORIZED");
}

#[tokio::test]
async fn rule_20_head_of_what_is_missing_is_404_also_for_signature_tags() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/missing")]).await;
    let digest = digest_of(b"missing");
    let signature = digest.replace(':', "-");
    for target in [
        "/v2/bob/missing/manifests/latest".to_owned(),
        format!("/v2/bob/missing/manifests/{digest}"),
        format!("/v2/bob/missing/manifests/{signature}.sig"),
        format!("/v2/bob/missing/manifests/{signature}"),
        format!("/v2/bob/missing/blobs/{digest}"),
    ] {
        let answer = bob.head(&target).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (404, 0), "{target}");
        let answer = bob.get(&target).await;
        let code = if target.contains("/blobs/") { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
        assert_eq!((answer.status.as_u16(), answer.error_code().as_deref()), (404, Some(code)), "{target}");
    }
}

#[tokio::test]
async fn rule_21_the_namespace_of_mirror_clients_is_accepted_and_not_passed_on() {
    let hub = hub().await;
    let image = Image::random(&[100]);
    let bob = hub.bob(&[&push_scope("bob/mirror")]).await;
    push::image(&bob, "bob/mirror", "v1", &image).await;
    for target in [
        "/v2/bob/mirror/manifests/v1".to_owned(),
        format!("/v2/bob/mirror/manifests/{}", image.manifest.digest),
        format!("/v2/bob/mirror/blobs/{}", image.layers[0].digest),
        "/v2/bob/mirror/tags/list".to_owned(),
    ] {
        let request = bob.request(Method::GET, &format!("{target}?ns=docker.io"));
        let request = request.header("accept", image.manifest_type()).empty();
        let answer = bob.send(request).await;
        assert_eq!(answer.status, 200, "{target} {}", answer.text());
    }
    bob.get("/v2/?ns=docker.io").await.is(200);
    assert_eq!(hub.members_asked("ns="), []);
}

#[tokio::test]
async fn catalog_needs_its_own_right_and_its_pages_follow_through_the_gateway() {
    let hub = hub().await;
    let alice = hub.alice(&[&push_scope("alice/catalog/a"), &push_scope("alice/catalog/b")]).await;
    for repository in ["alice/catalog/a", "alice/catalog/b"] {
        push::image(&alice, repository, "v1", &Image::random(&[10])).await;
    }
    assert_oci_error(&alice.get("/v2/_catalog").await, 401, "DENIED");
    let bob = hub.bob(&["registry:catalog:*"]).await;
    assert_oci_error(&bob.get("/v2/_catalog").await, 401, "DENIED");
    let alice = hub.alice(&["registry:catalog:*"]).await;
    let (mut target, mut seen, mut ended) = ("/v2/_catalog?n=1".to_owned(), Vec::new(), false);
    for _ in 0..1000 {
        let page = alice.get(&target).await.is(200);
        let names = page.json()["repositories"].as_array().expect("a list").clone();
        assert!(names.len() <= 1, "{names:?}");
        seen.extend(names.iter().filter_map(|name| name.as_str().map(str::to_owned)));
        let Some(link) = page.header("link") else {
            ended = true;
            break;
        };
        let (next, rest) = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("a link");
        assert!(next.starts_with("/v2/_catalog?") && rest == "; rel=\"next\"", "{link}");
        target = next.to_owned();
    }
    assert!(ended, "the pages never end: {target}");
    for repository in ["alice/catalog/a", "alice/catalog/b"] {
        assert!(seen.iter().any(|name| name == repository), "{repository} is not in {seen:?}");
    }
    alice.get("/v2/_catalog?n=99999999").await.is(200);
    let largest = hub.members_asked("/v2/_catalog?n=9");
    assert_eq!(largest, [], "the page size was passed on as it came");
    assert_eq!(hub.members_asked("/v2/_catalog?n=1000").len(), 1);
    for n in ["x", "-1", "1.5", "0x10"] {
        let answer = alice.get(&format!("/v2/_catalog?n={n}")).await;
        assert_oci_error(&answer, 400, "PAGINATION_NUMBER_INVALID");
    }
}

/// docker-registry 2.8 gives all tags at once, later ones and Harbor give pages.
#[tokio::test]
async fn the_next_page_of_tags_is_a_relative_link_that_works() {
    let member =
        FakeMember::start(|request: &crate::harness::fake_member::Recorded| match request.target.as_str() {
            "/v2/t/app/tags/list?n=2" => {
                let next = "<http://10.0.0.9:5000/v2/t/app/tags/list?last=b&n=2>; rel=\"next\"";
                Some(answer(200, &[("link", next)], r#"{"name":"t/app","tags":["a","b"]}"#))
            }
            "/v2/t/app/tags/list?n=2&last=b" => Some(answer(200, &[], r#"{"name":"t/app","tags":["c"]}"#)),
            _ => None,
        })
        .await;
    let site = FakeSite::start(&[&member]).await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    let page = alice.get("/v2/t/app/tags/list?n=2").await.is(200);
    assert_eq!(page.header("link"), Some("</v2/t/app/tags/list?last=b&n=2>; rel=\"next\""));
    let page = alice.get("/v2/t/app/tags/list?last=b&n=2").await.is(200);
    assert_eq!((page.json()["tags"][0].as_str(), page.header("link")), (Some("c"), None));
    alice.get("/v2/t/app/tags/list?n=5000").await.is(404);
    let last = member.requests().pop().expect("a request");
    assert_eq!(last.target, "/v2/t/app/tags/list?n=1000");
}
