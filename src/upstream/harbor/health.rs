//! What a node's health answer says about serving images.

use serde::Deserialize;

/// The components without which nothing can be pulled or pushed. The others (jobservice, portal,
/// registryctl, trivy, ...) may be down.
const NEEDED: [&str; 4] = ["core", "database", "redis", "registry"];

#[derive(Deserialize)]
struct HealthAnswer {
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    status: String,
}

/// The needed components that are not healthy; `None` when the answer says nothing. Harbor answers
/// 200 whatever the state.
pub(super) fn unhealthy(body: &[u8]) -> Option<Vec<&'static str>> {
    let answer: HealthAnswer = serde_json::from_slice(body).ok()?;
    let sick = |name: &&str| {
        answer.components.iter().any(|component| component.name == **name && component.status != "healthy")
    };
    Some(NEEDED.into_iter().filter(|name| sick(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(sick: &[&str]) -> Vec<u8> {
        let names = ["core", "database", "jobservice", "portal", "redis", "registry", "registryctl"];
        let status = |name: &&str| if sick.contains(name) { "unhealthy" } else { "healthy" };
        let components: Vec<_> =
            names.iter().map(|name| serde_json::json!({ "name": name, "status": status(name) })).collect();
        let all = if sick.is_empty() { "healthy" } else { "unhealthy" };
        serde_json::json!({ "components": components, "status": all }).to_string().into_bytes()
    }

    #[test]
    fn only_what_pulling_and_pushing_needs_is_judged() {
        assert_eq!(unhealthy(&body(&[])), Some(vec![]));
        assert_eq!(unhealthy(&body(&["jobservice", "portal", "registryctl"])), Some(vec![]));
        assert_eq!(unhealthy(&body(&["redis", "database", "portal"])), Some(vec!["database", "redis"]));
        assert_eq!(unhealthy(b"<html>"), None);
        assert_eq!(unhealthy(br#"{"errors":[]}"#), None);
    }
}
