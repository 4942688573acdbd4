//! What the answers to write probes mean. Pure.

use http::StatusCode;

use super::facts::origin;
use super::finding::{Code, Finding};
use crate::registry::RepositoryName;
use crate::upstream::{QuestionError, Reply};

/// Why an upload did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    ReadOnly,
    /// No right, or no project.
    Denied,
    /// There is no such project.
    NoProject,
    Other(String),
}

/// Where an upload goes on: path and query.
pub(super) fn begun(answer: &Result<Reply, QuestionError>) -> Result<String, Refusal> {
    let Ok(answer) = answer else { return Err(Refusal::Other("it did not answer".to_owned())) };
    if answer.status == StatusCode::ACCEPTED
        && let Some(path) = answer.header("location").and_then(path_of)
    {
        return Ok(path.to_owned());
    }
    Err(refusal(answer.status, &String::from_utf8_lossy(&answer.body)))
}

fn path_of(location: &str) -> Option<&str> {
    match origin(location) {
        Some(origin) => Some(&location[origin.len()..]).filter(|path| path.starts_with('/')),
        None => Some(location).filter(|path| path.starts_with('/')),
    }
}

fn refusal(status: StatusCode, body: &str) -> Refusal {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => Refusal::ReadOnly,
        StatusCode::FORBIDDEN if body.contains("read only mode") => Refusal::ReadOnly,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
            let no_project = body.contains("project") && body.contains("not found");
            if no_project { Refusal::NoProject } else { Refusal::Denied }
        }
        status => Refusal::Other(format!("it answered {status}")),
    }
}

/// What a refused upload means.
pub(super) fn refused(refusal: &Refusal, repository: &RepositoryName, is_harbor: bool) -> Finding {
    let effect = "nothing by itself: what only writing shows was not checked here";
    let project = repository.as_str().split('/').next().unwrap_or_default();
    match refusal {
        Refusal::ReadOnly => Finding::error(
            Code::ReadOnly,
            "the member is read-only: it refuses to start an upload",
            "pushes that reach it fail; pulls work",
            if is_harbor {
                "end it in Harbor: Configuration, System Settings, Repository Read Only"
            } else {
                "set `storage.maintenance.readonly.enabled: false` in the registry's configuration, or take it out of `members` meanwhile"
            },
        ),
        Refusal::NoProject => Finding::error(
            Code::ProbeRefused,
            format!(
                "the probe may not write in {repository}: there is no project {project:?}, and Harbor makes none by a push"
            ),
            effect,
            format!(
                "make a project {project:?} for it, or name a repository of one that there is: --repository PROJECT/tidegate-doctor"
            ),
        ),
        Refusal::Denied => {
            let fix = if is_harbor {
                format!(
                    "give `harbor.account` the rights to push, pull and delete in the project {project:?}, or name a repository where it has them: --repository PROJECT/tidegate-doctor"
                )
            } else {
                "name a repository where the member's `credential` may push: --repository NAME".to_owned()
            };
            Finding::error(
                Code::ProbeRefused,
                format!("the probe may not write in {repository}"),
                effect,
                fix,
            )
        }
        Refusal::Other(why) => Finding::error(
            Code::ProbeFailed,
            format!("an upload did not start in {repository}: {why}"),
            "pushes that reach this member fail",
            "see the member's own log; a full or missing disk is the usual cause",
        ),
    }
}

/// A step that has to work where the one before it did.
pub(super) fn failed(what: &str, answer: &Result<Reply, QuestionError>) -> Finding {
    let why = match answer {
        Ok(answer) => {
            let code = answer.error_code();
            if code.is_empty() {
                format!("it answered {}", answer.status)
            } else {
                format!("it answered {} {code}", answer.status)
            }
        }
        Err(_) => "it did not answer in time".to_owned(),
    };
    Finding::error(
        Code::ProbeFailed,
        format!("{what}: {why}"),
        "pushes that reach this member fail",
        "see the member's own log; a full disk, a quota of the project, or a redis that is down are usual causes",
    )
}

/// What a member says of an upload that was begun at `other`; `Err` where that says nothing.
pub(super) fn session(status: StatusCode, code: &str, other: &str) -> Result<Option<Finding>, String> {
    if status.is_success() {
        return Ok(None);
    }
    match code {
        "BLOB_UPLOAD_INVALID" => Ok(Some(Finding::warning(
            Code::HttpSecret,
            format!("the registry has another `http.secret` than that of {other}"),
            "nothing through Tidegate, which keeps each upload at the member where it began; any other balancer in front of these members breaks uploads",
            "set one `http.secret` in the configuration of all registries (REGISTRY_HTTP_SECRET); in Harbor: common/config/registry/config.yml",
        ))),
        "BLOB_UPLOAD_UNKNOWN" => Ok(Some(storage(other))),
        _ => Err(format!("the question for an upload of another member was answered {status}")),
    }
}

fn storage(other: &str) -> Finding {
    Finding::error(
        Code::Storage,
        format!("the member does not see the storage of {other}"),
        "what is pushed by one member cannot be pulled by the other: \"manifest unknown\" and \"blob unknown\" now and then",
        "mount the same storage on all members of the pool (and see whether it is mounted at all), or write `storage: replicated` where they copy each other",
    )
}

/// What a member shows of an image that was pushed at `other`.
pub(super) fn content(
    manifest: StatusCode,
    blob: StatusCode,
    other: &str,
    is_harbor: bool,
) -> Option<Finding> {
    let seen = |status: StatusCode| status.is_success() || status.is_redirection();
    match (seen(manifest), seen(blob)) {
        (true, true) => None,
        (false, true) if is_harbor => Some(Finding::error(
            Code::Database,
            format!(
                "the node does not see the database of {other}: it has the blobs of an image that was pushed there, and not the image"
            ),
            "what is pushed by one node cannot be pulled by the other: \"manifest unknown\" now and then; users, robots and projects differ too",
            "give all nodes of a pool with `storage: shared` one database (`external_database` in harbor.yml), or write `storage: replicated`",
        )),
        (false, false) if is_harbor => Some(Finding::error(
            Code::Storage,
            format!("the node sees neither the database nor the storage of {other}"),
            "what is pushed by one node cannot be pulled by the other: \"manifest unknown\" now and then",
            "write `storage: replicated` where the nodes are independent; else give them one database, redis and storage",
        )),
        _ => Some(storage(other)),
    }
}

/// What a redirect of a blob means. Only its host is shown: the rest may be a signature.
pub(super) fn redirect(location: &str, url: &str) -> Option<Finding> {
    let to = origin(location)?;
    (!to.eq_ignore_ascii_case(url)).then(|| {
        Finding::warning(
            Code::StorageRedirect,
            format!("the member answers blobs with a redirect to {to}"),
            "clients download from there, past Tidegate: they must reach that host and trust its certificate, and nothing is retried or counted here",
            "let clients reach it, or switch redirects off: `storage.redirect.disable: true` in the registry's configuration (`storage_service.redirect` in harbor.yml)",
        )
    })
}

/// What could not be removed.
pub(super) fn leftover(what: &str, fix: impl Into<String>) -> Finding {
    let effect = "nothing; it takes a few hundred bytes";
    Finding::warning(Code::Leftover, format!("{what} could not be removed"), effect, fix)
}

/// How an image is removed that the probe could not remove.
pub(super) fn how_to_remove(answer: &Result<Reply, QuestionError>, is_harbor: bool) -> String {
    let status = answer.as_ref().ok().map(|answer| answer.status);
    match (status, is_harbor) {
        (_, true) => "remove it in Harbor's web pages; to have it removed by itself, give `harbor.account` the right to delete there".to_owned(),
        (Some(StatusCode::METHOD_NOT_ALLOWED), false) => {
            "the registry does not allow deletion (`storage.delete.enabled`); leave it, or remove its directory from the storage".to_owned()
        }
        _ => "delete the manifest by its digest at the member".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn uploads_go_on_at_the_path_of_their_location() {
        for (location, expected) in [
            ("http://a:1/v2/x/blobs/uploads/u?_state=s", Some("/v2/x/blobs/uploads/u?_state=s")),
            ("/v2/x/blobs/uploads/u", Some("/v2/x/blobs/uploads/u")),
            ("http://a:1", None),
            ("v2/x", None),
        ] {
            assert_eq!(path_of(location), expected, "{location}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let repository = RepositoryName::try_from("team/probe").expect("a name");
        let denied =
            r#"{"errors":[{"code":"DENIED","message":"The system is in read only mode. Any modification"}]}"#;
        for (status, body, is_harbor, code, words) in [
            (405, "", false, Code::ReadOnly, "maintenance"),
            (403, denied, true, Code::ReadOnly, "Repository Read Only"),
            (
                401,
                "project team not found: project team not found",
                true,
                Code::ProbeRefused,
                "make a project \"team\"",
            ),
            (401, "unauthorized to access", true, Code::ProbeRefused, "rights to push"),
            (401, "", false, Code::ProbeRefused, "--repository"),
            (500, "", false, Code::ProbeFailed, "disk"),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let finding = refused(&refusal(status, body), &repository, is_harbor);
            assert_eq!((finding.code, finding.level), (code, Level::Error), "{status} {body}");
            assert!(finding.fix.contains(words), "{}", finding.fix);
        }
    }

    #[test]
    fn sessions_and_content_of_other_members_are_judged() {
        let (ok, unknown) = (StatusCode::NO_CONTENT, StatusCode::NOT_FOUND);
        assert_eq!(session(ok, "", "a"), Ok(None));
        for (code, expected) in
            [("BLOB_UPLOAD_INVALID", Code::HttpSecret), ("BLOB_UPLOAD_UNKNOWN", Code::Storage)]
        {
            let finding = session(unknown, code, "a").expect("said").expect("a finding");
            assert_eq!(finding.code, expected);
        }
        assert!(session(StatusCode::BAD_GATEWAY, "", "a").is_err());
        let found = StatusCode::OK;
        for (manifest, blob, is_harbor, expected) in [
            (found, found, true, None),
            (found, StatusCode::TEMPORARY_REDIRECT, false, None),
            (unknown, found, true, Some(Code::Database)),
            (unknown, unknown, true, Some(Code::Storage)),
            (found, unknown, true, Some(Code::Storage)),
            (unknown, unknown, false, Some(Code::Storage)),
            (unknown, found, false, Some(Code::Storage)),
        ] {
            assert_eq!(content(manifest, blob, "a", is_harbor).map(|finding| finding.code), expected);
        }
    }

    #[test]
    fn redirects_show_their_host_and_nothing_secret() {
        let finding =
            redirect("https://s3.example/bucket?X-Amz-Signature=abc", "http://a:1").expect("elsewhere");
        assert!(finding.problem.ends_with("https://s3.example"), "{}", finding.problem);
        assert!(redirect("http://a:1/x", "http://a:1").is_none() && redirect("/x", "http://a:1").is_none());
    }
}
