//! The failure that Tidegate is there for, first: two Harbor nodes behind a plain round robin refuse right passwords, as recordings 300
//! and 301 of the real thing have it. Then the same nodes, not restarted, behind the gateway.

use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::Result;
use crate::harness::client::TestClient;
use crate::harness::clients::docker::{Docker, Dockerd};
use crate::harness::clients::skopeo::Skopeo;
use crate::harness::clients::{Endpoint, RealClient};
use crate::harness::gateway::Gateway;
use crate::harness::harbor::{HarborNode, HarborNodeBuilder, PlainRoundRobin};

const LOGINS: usize = 10;
const TOKEN_USES: usize = 20;

/// Gets a token and uses it once; gives the status of the use.
async fn use_token(client: &TestClient, service: &str, password: &str) -> u16 {
    let target = format!("/service/token?service={service}&scope=repository:team/app:pull");
    let answer = client.clone().with_basic("alice", password).get(&target).await.is(200);
    let client = client.clone().with_bearer(&answer.token());
    client.get("/v2/team/app/tags/list").await.status.as_u16()
}

/// What each of the logins came to: nothing, or the words of the client.
async fn logins(client: &mut impl RealClient) -> Vec<Result<(), String>> {
    let mut ended = Vec::new();
    for _ in 0..LOGINS {
        ended.push(client.login().await.map_err(|error| format!("{error:#}")));
    }
    ended
}

/// Insists on the same refusal each time.
fn assert_refused(ended: &[Result<(), String>], words: &str) {
    assert_eq!(ended.len(), LOGINS);
    let refused = |ended: &Result<(), String>| ended.as_ref().is_err_and(|told| told.contains(words));
    assert!(ended.iter().all(refused), "{ended:?}");
}

fn assert_succeeded(ended: &[Result<(), String>]) {
    assert_eq!(ended.len(), LOGINS);
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_a_round_robin_makes_refuse_everybody_refuse_nobody_behind_the_gateway() {
    let mut balancer = PlainRoundRobin::reserve();
    let endpoint_of_both = balancer.url();
    let external = |node: HarborNodeBuilder| node.external_endpoint(&endpoint_of_both);
    let mut site = HarborSite::start_with(2, CredentialKind::Token, external, |config| config).await;
    site.gateway.stop().await;
    balancer.start(&[&site.nodes[0], &site.nodes[1]]);
    let dockerd = Dockerd::shared().await;
    let plain = Endpoint { authority: balancer.address().to_string(), ..site.endpoint.clone() };
    let client = TestClient::plain(balancer.address());

    // Nobody else is there: each token is used where it was not issued.
    let mut docker = Docker::new(&plain, &dockerd);
    let ended = logins(&mut docker).await;
    assert_refused(&ended, "login attempt to http://");
    assert_refused(&ended, "failed with status: 401 Unauthorized");
    let mut skopeo = Skopeo::plain(&plain);
    assert_refused(&logins(&mut skopeo).await, "invalid username/password");
    for _ in 0..TOKEN_USES {
        assert_eq!(use_token(&client, "harbor-registry", &site.accounts.alice).await, 401);
    }

    // Exactly one request of somebody else between a token and its use, and nobody is refused.
    balancer.set_others_come(true);
    assert_succeeded(&logins(&mut docker).await);
    assert_succeeded(&logins(&mut skopeo).await);
    for _ in 0..TOKEN_USES {
        // Alice may pull, and nothing was pushed.
        assert_eq!(use_token(&client, "harbor-registry", &site.accounts.alice).await, 404);
    }
    balancer.set_others_come(false);

    // The same nodes, which still name the balancer as the way to them.
    let passed = balancer.passed();
    site.nodes.iter().for_each(HarborNode::clear_requests);
    let with_keys = site.config.render();
    for kind in CREDENTIAL_KINDS {
        let config = site.nodes.iter().fold(with_keys.clone(), |config, node| {
            config.replace(&CredentialKind::Token.yaml(node), &kind.yaml(node))
        });
        site.gateway = Gateway::start(&config, site.dir()).await;
        assert_succeeded(&logins(&mut Docker::new(&site.endpoint, &dockerd)).await);
        assert_succeeded(&logins(&mut Skopeo::new(&site.endpoint)).await);
        for _ in 0..TOKEN_USES {
            let status = use_token(&site.client(), "tidegate-test", &site.accounts.alice).await;
            assert_eq!(status, 404, "{kind:?}");
        }
        site.gateway.stop().await;
    }
    assert_eq!(balancer.passed(), passed, "somebody was sent to the balancer");
    assert_eq!(site.refusals_at_nodes(), Vec::<String>::new(), "and no node refused even the gateway");
}
