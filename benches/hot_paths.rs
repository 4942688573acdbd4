//! Benches of the pure pieces that every request passes: parsing, tokens, pins, policy, headers and the order of candidates.
//!
//! `cargo bench` runs them all, `cargo bench -- tokens` those whose name has `tokens`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use http::{HeaderMap, Method};
use tidegate::auth::keys::{Algorithm, KidStyle, Ring, RingEntry, SigningKey};
use tidegate::auth::policy::{Client, Pattern, Policy, Rule, SubjectMatch};
use tidegate::auth::seal::SealKey;
use tidegate::auth::subject::Subject;
use tidegate::auth::token::{ClientTokens, MemberTokens, TokenAccess, Validity};
use tidegate::balance::{Choice, Seen, Standing, Tier, key_hash, order};
use tidegate::forwarding::request::{Via, member_headers};
use tidegate::pin::{NONCE_BYTES, Pin, PinContext};
use tidegate::registry::{Actions, RegistryRequest, RepositoryName, ResourceAccess, UploadId, parse_scopes};

/// The time of every bench, in seconds since the epoch.
const NOW: u64 = 1_800_000_000;
/// A digest as paths carry it.
const DIGEST: &str = "sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";
/// Rules of the policy, and members of the pool, that are gone through.
const ENTRIES: usize = 50;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    requests(&mut criterion);
    scopes(&mut criterion);
    tokens(&mut criterion);
    pins(&mut criterion);
    policy(&mut criterion);
    headers(&mut criterion);
    balance(&mut criterion);
    criterion.final_summary();
}

fn repository(name: &str) -> RepositoryName {
    RepositoryName::try_from(name).expect("a repository name")
}

fn subject() -> Subject {
    Subject::new("users", "alice").expect("an account name")
}

fn requests(criterion: &mut Criterion) {
    let blob = format!("/v2/team/project/app/blobs/{DIGEST}");
    let upload = "/v2/team/project/app/blobs/uploads/8d8b6a2e-3b0e-4d4a-9f0c-0a3f5f8d2b11";
    let query = format!("_state={}%3D&_tg={}", "Zm9v".repeat(60), "YmFy".repeat(40));
    for (name, method, path, query) in [
        ("ping", Method::GET, "/v2/", None),
        ("manifest", Method::GET, "/v2/team/project/app/manifests/v1.2.3", None),
        ("blob", Method::GET, blob.as_str(), None),
        ("upload", Method::PATCH, upload, Some(query.as_str())),
    ] {
        criterion.bench_function(&format!("requests/{name}"), |bencher| {
            bencher.iter(|| {
                let parsed = RegistryRequest::parse(&method, black_box(path), black_box(query));
                parsed.expect("a request").member_target()
            });
        });
    }
}

fn scopes(criterion: &mut Criterion) {
    let one = "repository:team/project/app:pull,push".to_owned();
    let many: Vec<String> = (0..64).map(|at| format!("repository:team/app-{at}:pull")).collect();
    for (name, text) in [("one", one), ("64", many.join(" "))] {
        criterion.bench_function(&format!("scopes/{name}"), |bencher| {
            bencher.iter(|| parse_scopes([black_box(text.as_str())], 64).expect("few enough"));
        });
    }
}

fn tokens(criterion: &mut Criterion) {
    let access = [
        ResourceAccess::repository(repository("team/project/app"), Actions::PULL_PUSH),
        ResourceAccess::repository(repository("base/debian"), Actions::PULL),
    ];
    let granted = TokenAccess { by_policy: access.to_vec(), by_harbor: Vec::new() };
    let validity =
        || Validity { issued_at: NOW, expires_at: NOW + 900, jti: "c0ffeec0ffeec0ffeec0ff".to_owned() };
    for (name, algorithm) in [("es256", Algorithm::Es256), ("rs256", Algorithm::Rs256)] {
        let private_key = SigningKey::generate_pem(algorithm).expect("a key");
        let key = SigningKey::from_pem(private_key.as_bytes(), None).expect("readable");
        let ring = Ring::new(vec![RingEntry { key: Arc::new(key), activate_at: 0 }], 900);
        let tokens = ClientTokens::new(ring, "tidegate".to_owned(), "hub.example.com".to_owned());
        let token = tokens.mint(&subject(), &granted, validity(), None).expect("minted");
        criterion.bench_function(&format!("tokens/client_verify_{name}"), |bencher| {
            bencher.iter(|| tokens.verify(black_box(&token), NOW).expect("valid"));
        });
        criterion.bench_function(&format!("tokens/client_mint_{name}"), |bencher| {
            let subject = subject();
            bencher.iter_batched(
                validity,
                |validity| tokens.mint(&subject, black_box(&granted), validity, None).expect("minted"),
                BatchSize::SmallInput,
            );
        });
    }
    let private_key = SigningKey::generate_pem(Algorithm::Rs256).expect("a key");
    // What it certifies does not matter here, only that it goes along.
    let key = SigningKey::from_pem(private_key.as_bytes(), Some(&[0; 700])).expect("readable");
    let tokens = MemberTokens {
        issuer: "tidegate".to_owned(),
        audience: "member".to_owned(),
        kid: KidStyle::Libtrust,
        x5c: true,
    };
    criterion.bench_function("tokens/member_mint_rs256_x5c", |bencher| {
        let subject = subject();
        bencher.iter_batched(
            validity,
            |validity| tokens.mint(&key, &subject, black_box(&access[..1]), validity).expect("minted"),
            BatchSize::SmallInput,
        );
    });
}

fn pins(criterion: &mut Criterion) {
    let ring = Ring::new(vec![RingEntry { key: Arc::new(SealKey::new(&[7; 32])), activate_at: 0 }], 7200);
    let repository = repository("team/project/app");
    let context = PinContext { host: "hub.example.com", repository: &repository };
    let upload = UploadId::try_from("8d8b6a2e-3b0e-4d4a-9f0c-0a3f5f8d2b11").expect("an id");
    let pin = Pin {
        member: "node1".to_owned(),
        upload: upload.clone(),
        subject: subject(),
        deadline: NOW + 7200,
        offset: Some(0),
    };
    let nonce = [9; NONCE_BYTES];
    let sealed = pin.seal(&ring, context, NOW, nonce).expect("a key");
    criterion.bench_function("pins/seal", |bencher| {
        bencher.iter(|| black_box(&pin).seal(&ring, context, NOW, nonce).expect("a key"));
    });
    criterion.bench_function("pins/open", |bencher| {
        bencher.iter(|| Pin::open(&ring, context, Some(black_box(&sealed)), &upload, NOW).expect("open"));
    });
}

/// Rules of which only the last one is about the client and repository that are asked for.
fn long_policy() -> Policy {
    let rule = |at: usize| {
        let user = if at + 1 == ENTRIES { "*".to_owned() } else { format!("robot-{at}-*") };
        Rule {
            subjects: SubjectMatch::Authenticated {
                user: Some(Pattern::account(&user).expect("a pattern")),
                group: None,
                provider: None,
            },
            sources: Vec::new(),
            repository: Pattern::repository("**/${user}-*/app").expect("a pattern"),
            allow: Actions::PULL_PUSH,
            catalog: false,
            label: format!("policy rule {at}"),
        }
    };
    Policy::new((0..ENTRIES).map(rule).collect())
}

fn policy(criterion: &mut Criterion) {
    let policy = long_policy();
    let subject = subject();
    let repository = repository("team/project/alice-dev/app");
    let client = Client { subject: &subject, groups: &[], source: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    assert_eq!(policy.decide(client, &repository).actions, Actions::PULL_PUSH);
    criterion.bench_function("policy/decide_50_rules", |bencher| {
        bencher.iter(|| policy.decide(black_box(client), black_box(&repository)).actions);
    });
}

fn headers(criterion: &mut Criterion) {
    let mut client = HeaderMap::new();
    for (name, value) in [
        ("host", "hub.example.com"),
        ("user-agent", "docker/28.3.2 go/go1.24.5 git-commit/e77ff99 kernel/6.1.0 os/linux arch/amd64"),
        ("authorization", "Bearer x.y.z"),
        ("accept", "application/vnd.oci.image.manifest.v1+json"),
        ("accept", "application/vnd.oci.image.index.v1+json"),
        ("accept", "application/vnd.docker.distribution.manifest.v2+json"),
        ("accept-encoding", "gzip"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        client.append(name, value.parse().expect("a value"));
    }
    let via = Via {
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        https: true,
        authority: "hub.example.com",
        request_id: "6b86cb71bcfb2d53bedc00ea",
    };
    criterion.bench_function("headers/member_headers", |bencher| {
        bencher.iter(|| member_headers(black_box(&client), via));
    });
}

fn balance(criterion: &mut Criterion) {
    let seen: Vec<Seen> = (0..ENTRIES)
        .map(|index| Seen {
            index,
            hash: key_hash(&format!("node{index}")),
            weight: 1.0 + f64::from(u32::from(index % 3 == 0)),
            tier: Tier::Primary,
            standing: Standing::Serves,
            load: (index * 7 % 11) as f64,
            latency: 0.001 * (index % 5) as f64,
            quarantined: false,
        })
        .collect();
    let key = key_hash("sha256:0123");
    for (name, choice) in
        [("order_cheapest_50_members", Choice::Cheapest), ("order_key_50_members", Choice::Key(key))]
    {
        criterion.bench_function(&format!("balance/{name}"), |bencher| {
            bencher.iter(|| order(black_box(&seen), choice, true, 50, black_box(NOW)));
        });
    }
}
