//! The account of the probes: refused by one node it is the node's fault, refused by all of them it is the account's.

use futures_util::future::join_all;

use super::fixture::{CREDENTIAL_KINDS, HarborSite};
use crate::harness::image::Image;
use crate::harness::{pull, push, random_secret, wait};

const SCOPE: &str = "repository:team/app:pull,push";

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_all_nodes_refuse_stops_nothing_and_is_an_alarm() {
    // Side by side: most of it is waiting.
    join_all(CREDENTIAL_KINDS.map(|kind| async move {
        let site = HarborSite::start(2, kind).await;
        let image = Image::random(&[30_000]);
        let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
        push::image_by_patch(&client, "team/app", "v1", &image).await;
        let refused = async || {
            let metrics = site.gateway.metrics().await;
            metrics.sum("tidegate_pool_account_refused", &["pool=\"main\""]) > 0.5
        };
        site.wait_for_health(&[true, true]).await;
        site.accounts.database.set_robot_secret("robot$probe", &random_secret());
        wait::until("the alarm", async || refused().await.then_some(())).await;
        let alarm = |line: &serde_json::Value| {
            line["level"] == "ERROR"
                && line["message"].as_str().is_some_and(|it| it.contains("`harbor.account`"))
        };
        site.gateway.wait_for_log("the alarm", alarm).await;
        site.wait_for_health(&[true, true]).await;
        // Longer than a node's word on its own health may be old.
        for round in 0..3 {
            let tag = format!("v1-{round}");
            push::image_by_patch(&client, "team/app", &tag, &image).await;
            pull::image(&client, "team/app", &tag, &image).await;
            let page = site.client().get("/harbor/projects").await;
            assert_eq!(page.status, 200, "{kind:?}: {}", page.text());
        }
        let fresh = site.authorized("robot$team+ci", &site.accounts.robot, &[SCOPE]).await;
        pull::image(&fresh, "team/app", "v1", &image).await;
        let status = site.gateway.control(&["status", "--once"]).await;
        assert!(status.stdout.contains("harbor.account is refused"), "{}", status.stdout);
        assert_eq!(site.health().await, [true, true], "{kind:?}: a node went out meanwhile");
        // Mended, the alarm ends; refused by one node alone, that node is out.
        site.accounts.database.set_robot_secret("robot$probe", &site.accounts.probe);
        wait::until("the end of the alarm", async || (!refused().await).then_some(())).await;
        site.wait_for_health(&[true, true]).await;
    }))
    .await;
}
