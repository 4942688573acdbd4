//! What the check of a password costs, which is what a clock sees of it.

use crate::harness::site::{MemberKind, Site};

/// Processor time that a process has used, in the kernel's ticks.
fn ticks_of(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let number = |at: usize| fields.split(' ').nth(at).and_then(|field| field.parse::<u64>().ok());
    number(11).zip(number(12)).map(|(user, system)| user + system).expect("two times")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_costs_as_much_whatever_the_hash_and_whether_or_not_the_name_exists() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let costly = bcrypt::hash("costly", 12).expect("a hash");
    let users = format!("identity:\n  - users:\n      - {{ name: carl, password_hash: \"{costly}\" }}\n");
    let config = site.config.render().replace("identity:\n  - users:\n", &users);
    assert_eq!(site.gateway.reload_with(&config).await["message"], "reloaded");
    let client = site.client();
    // Alice's own hash is a cheap one.
    let cost_of_guesses = async |name: &str| {
        let before = ticks_of(site.gateway.pid());
        for guess in ["one", "two", "three"] {
            let answer = client.token_answer(name, guess, &[]).await;
            assert_eq!(answer.status, 401, "{name}");
        }
        ticks_of(site.gateway.pid()) - before
    };
    let costliest = cost_of_guesses("carl").await;
    for name in ["alice", "nobody"] {
        let cost = cost_of_guesses(name).await;
        assert!(cost * 2 > costliest, "{name}: {cost} ticks, and {costliest} for the costliest hash");
        assert!(costliest * 2 > cost, "{name}: {cost} ticks, and {costliest} for the costliest hash");
    }
    let token = client.token(&site.endpoint.user, &site.endpoint.password, &[]).await;
    drop(token);
    site.stop_gateway().await;
}
