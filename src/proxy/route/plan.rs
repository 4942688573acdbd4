//! What a request wants of the members of its pool. Pure: a request in, a decision out.

use std::time::Duration;

use http::Method;

use crate::registry::{
    BlobMethod, Digest, ManifestMethod, Reference, RegistryRequest, RepositoryName, UploadMethod, is_read,
};

/// Whether only the home of a repository will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NeedsHome {
    Always,
    WhileItServes,
    Never,
}

/// Where members copy each other, late: what writes, and what a push looks for first, is the home's alone; tags are read
/// there while it serves; digests anywhere. `pushes` says whether the client may push to the repository.
pub(super) fn needs_home(
    target: &RegistryRequest,
    method: &Method,
    pushes: impl FnOnce() -> bool,
) -> NeedsHome {
    let by_digest = match target {
        RegistryRequest::Blob { .. } | RegistryRequest::Referrers { .. } => true,
        RegistryRequest::Manifest { reference, .. } => matches!(reference, Reference::Digest(_)),
        _ => false,
    };
    if !is_read(method)
        || matches!(target, RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. })
    {
        return NeedsHome::Always;
    }
    match (by_digest, *method == Method::HEAD && pushes()) {
        (true, true) | (false, _) => NeedsHome::WhileItServes,
        (true, false) => NeedsHome::Never,
    }
}

/// How many other members are asked beside one that says 404, where all see the same storage, perhaps a
/// moment late.
pub(super) fn confirmations(target: &RegistryRequest) -> usize {
    match target {
        RegistryRequest::Blob { method: BlobMethod::Get, .. }
        | RegistryRequest::Manifest {
            method: ManifestMethod::Get | ManifestMethod::Head | ManifestMethod::Put,
            ..
        } => 1,
        // Every push looks for its blobs first, and expects not to find them.
        _ => 0,
    }
}

/// What keeps requests of one kind at one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key<'a> {
    Digest(&'a Digest),
    Repository(&'a RepositoryName),
    None,
}

/// What decides on the order of members that have the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByLoad<'a> {
    pub key: Key<'a>,
    /// Whether it changes nothing.
    pub reads: bool,
    /// The content that is wanted: members that have it broken come last.
    pub content: Option<&'a Digest>,
    /// The repository of which the last writer comes first.
    pub written_in: Option<&'a RepositoryName>,
}

/// The order of members that have the same content.
pub(super) fn by_load<'a>(target: &'a RegistryRequest, method: &Method) -> ByLoad<'a> {
    let reads = is_read(method);
    let blob = match target {
        RegistryRequest::Blob { digest, method: BlobMethod::Get, .. } => Some(digest),
        _ => None,
    };
    let content = match target {
        RegistryRequest::Manifest { reference: Reference::Digest(digest), .. } if reads => Some(digest),
        _ => blob,
    };
    let key = match (blob, target.repository()) {
        (Some(digest), _) => Key::Digest(digest),
        (None, Some(repository)) if !reads => Key::Repository(repository),
        (None, _) => Key::None,
    };
    // A blob that many clients want must not come from one member only because it is new.
    let written_in = target.repository().filter(|_| blob.is_none());
    ByLoad { key, reads, content, written_in }
}

/// Which members of a pool with Harbor nodes and plain registries will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeRule {
    Any,
    NodesFirst,
    NodesOnly,
}

/// Harbor keeps a list of its own of what is pushed: what a plain registry of the pool took, Harbor
/// would not know. So writes go to Harbor nodes alone, and what a push looks for first; other reads
/// go to a plain registry when no node can serve, and blobs are the same everywhere.
pub(super) fn node_rule(target: &RegistryRequest, method: &Method) -> NodeRule {
    match target {
        RegistryRequest::Blob { .. } if *method == Method::GET => NodeRule::Any,
        RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. } => NodeRule::NodesOnly,
        _ if is_read(method) => NodeRule::NodesFirst,
        _ => NodeRule::NodesOnly,
    }
}

/// What is known of a repository's home before it is decided which members are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct HomeView {
    pub needs: NeedsHome,
    /// Whether the home serves.
    pub serves: bool,
    /// Whether the home, though ejected, may be asked last.
    pub is_last_choice: bool,
    /// Whether another member took writes in its place that it is not known to have.
    pub has_stand_in: bool,
    /// Whether the request is about a tag that was written at the home a moment ago.
    pub is_newest_at_home: bool,
}

/// Which members are asked about a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HomePlan {
    /// The member that takes its writes.
    Writer,
    /// Those whose word on a tag counts.
    TagReaders,
    /// The member that took the writes, then the others.
    StandInFirst,
    /// The home, although it is ejected.
    HomeAlone,
    /// None: the newest state of the tag is at the home, which is out.
    NewestDown,
    /// The home and the others, in order.
    Anyone,
}

/// Which members are asked about a repository.
pub(super) fn home_plan(view: HomeView) -> HomePlan {
    let HomeView { needs, serves, is_last_choice, has_stand_in, is_newest_at_home } = view;
    match needs {
        NeedsHome::Always => HomePlan::Writer,
        NeedsHome::WhileItServes if serves => HomePlan::TagReaders,
        NeedsHome::WhileItServes if has_stand_in => HomePlan::StandInFirst,
        // A tag that was moved through this gateway a moment ago must not move back.
        NeedsHome::WhileItServes if is_newest_at_home && is_last_choice => HomePlan::HomeAlone,
        NeedsHome::WhileItServes if is_newest_at_home => HomePlan::NewestDown,
        NeedsHome::WhileItServes | NeedsHome::Never => HomePlan::Anyone,
    }
}

/// Whether a write adds something, which another member can take in the home's place.
pub(super) fn adds_content(target: &RegistryRequest) -> bool {
    matches!(
        target,
        RegistryRequest::UploadStart { .. }
            | RegistryRequest::Upload { method: UploadMethod::Patch | UploadMethod::Put { .. }, .. }
            | RegistryRequest::Manifest { method: ManifestMethod::Put, .. }
            | RegistryRequest::Blob { .. }
    )
}

/// What is known before it is decided which member takes a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteView {
    /// Whether it adds something.
    pub adds: bool,
    /// Whether another member took writes in the home's place, and whether that one can be used.
    pub stand_in: Option<StandInState>,
    /// Whether one more write elsewhere than at the home can be remembered.
    pub has_room: bool,
    /// Whether the home serves.
    pub home_serves: bool,
    /// Whether the home, though ejected, may be asked last.
    pub is_last_choice: bool,
    /// For how long the home has been out.
    pub out_for: Option<Duration>,
    /// After so long another member takes its writes; `None` where none ever does.
    pub failover_after: Option<Duration>,
}

/// A member that took writes in a home's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StandInState {
    Usable,
    Out,
}

/// Which member takes a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Home,
    /// The member that took the writes before.
    StandIn,
    /// The next member in the repository's own order.
    Next,
    /// None: the home is out.
    HomeDown,
    /// None: the home is back and lacks what was written meanwhile.
    HomeReturning,
}

/// Which member takes a write: the home, or the member that stands in for it.
pub(super) fn writer(view: WriteView) -> Writer {
    match view.stand_in {
        // What was begun there goes on there, until the home has it all.
        Some(StandInState::Usable) if view.adds && view.has_room => Writer::StandIn,
        Some(_) if view.home_serves => Writer::HomeReturning,
        Some(_) => Writer::HomeDown,
        None => {
            let Some(out_for) = view.out_for else { return Writer::Home };
            let after = view.failover_after.filter(|_| view.adds && view.has_room);
            match after {
                Some(after) if out_for >= after => Writer::Next,
                Some(_) | None if view.is_last_choice => Writer::Home,
                Some(_) | None => Writer::HomeDown,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: &str, path: &str) -> (RegistryRequest, Method) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        (RegistryRequest::parse(&method, path, query).expect("a request of a registry"), method)
    }

    fn digest() -> String {
        format!("sha256:{}", "a".repeat(64))
    }

    #[test]
    fn what_each_request_wants_of_its_members() {
        use NeedsHome::{Always, Never, WhileItServes};
        use NodeRule::{Any, NodesFirst, NodesOnly};
        let blob = format!("/v2/a/b/blobs/{}", digest());
        let by_digest = format!("/v2/a/b/manifests/{}", digest());
        for (method, path, may_push, home, asked_beside, nodes) in [
            ("GET", blob.as_str(), true, Never, 1, Any),
            ("HEAD", blob.as_str(), false, Never, 0, NodesFirst),
            ("HEAD", blob.as_str(), true, WhileItServes, 0, NodesFirst),
            ("DELETE", blob.as_str(), true, Always, 0, NodesOnly),
            ("GET", by_digest.as_str(), true, Never, 1, NodesFirst),
            ("HEAD", by_digest.as_str(), true, WhileItServes, 1, NodesFirst),
            ("GET", "/v2/a/b/manifests/v1", false, WhileItServes, 1, NodesFirst),
            ("PUT", "/v2/a/b/manifests/v1", true, Always, 1, NodesOnly),
            ("GET", "/v2/a/b/tags/list", false, WhileItServes, 0, NodesFirst),
            ("POST", "/v2/a/b/blobs/uploads/", true, Always, 0, NodesOnly),
            ("GET", "/v2/a/b/blobs/uploads/u", true, Always, 0, NodesOnly),
        ] {
            let (target, verb) = parsed(method, path);
            let what = format!("{method} {path} {may_push}");
            assert_eq!(needs_home(&target, &verb, || may_push), home, "{what}");
            assert_eq!(confirmations(&target), asked_beside, "{what}");
            assert_eq!(node_rule(&target, &verb), nodes, "{what}");
        }
    }

    #[test]
    fn what_keeps_requests_at_one_member() {
        let blob = format!("/v2/a/b/blobs/{}", digest());
        let by_digest = format!("/v2/a/b/manifests/{}", digest());
        for (method, path, key, content, after_writer) in [
            ("GET", blob.as_str(), "digest", true, false),
            ("HEAD", blob.as_str(), "none", false, true),
            ("GET", by_digest.as_str(), "none", true, true),
            ("GET", "/v2/a/b/manifests/v1", "none", false, true),
            ("PUT", "/v2/a/b/manifests/v1", "repository", false, true),
            ("POST", "/v2/a/b/blobs/uploads/", "repository", false, true),
            ("GET", "/v2/_catalog", "none", false, false),
        ] {
            let (target, verb) = parsed(method, path);
            let plan = by_load(&target, &verb);
            let seen = match plan.key {
                Key::Digest(_) => "digest",
                Key::Repository(_) => "repository",
                Key::None => "none",
            };
            let seen = (seen, plan.content.is_some(), plan.written_in.is_some());
            assert_eq!(seen, (key, content, after_writer), "{method} {path}");
        }
    }

    #[test]
    fn who_is_asked_about_a_repository() {
        use NeedsHome::{Always, Never, WhileItServes};
        for (needs, serves, last_choice, has_stand_in, newest, expected) in [
            (Always, true, false, false, false, HomePlan::Writer),
            (Always, false, false, true, true, HomePlan::Writer),
            (WhileItServes, true, false, true, true, HomePlan::TagReaders),
            (WhileItServes, false, false, true, true, HomePlan::StandInFirst),
            (WhileItServes, false, false, false, true, HomePlan::NewestDown),
            (WhileItServes, false, true, false, true, HomePlan::HomeAlone),
            (WhileItServes, false, true, false, false, HomePlan::Anyone),
            (Never, false, false, false, false, HomePlan::Anyone),
            (Never, true, false, true, true, HomePlan::Anyone),
        ] {
            let view = HomeView {
                needs,
                serves,
                is_last_choice: last_choice,
                has_stand_in,
                is_newest_at_home: newest,
            };
            assert_eq!(home_plan(view), expected, "{view:?}");
        }
    }

    #[test]
    fn who_takes_a_write() {
        use StandInState::{Out, Usable};
        let second = Duration::from_secs(1);
        let base = WriteView {
            adds: true,
            stand_in: None,
            has_room: true,
            home_serves: false,
            is_last_choice: false,
            out_for: Some(second * 30),
            failover_after: Some(second * 20),
        };
        for (view, expected) in [
            (WriteView { out_for: None, home_serves: true, ..base }, Writer::Home),
            (base, Writer::Next),
            (WriteView { out_for: Some(second * 10), ..base }, Writer::HomeDown),
            (WriteView { out_for: Some(second * 20), ..base }, Writer::Next),
            (WriteView { out_for: Some(second * 10), is_last_choice: true, ..base }, Writer::Home),
            (WriteView { failover_after: None, ..base }, Writer::HomeDown),
            (WriteView { failover_after: None, is_last_choice: true, ..base }, Writer::Home),
            (WriteView { adds: false, ..base }, Writer::HomeDown),
            (WriteView { has_room: false, ..base }, Writer::HomeDown),
            (WriteView { stand_in: Some(Usable), ..base }, Writer::StandIn),
            (WriteView { stand_in: Some(Usable), has_room: false, ..base }, Writer::HomeDown),
            (
                WriteView { stand_in: Some(Usable), adds: false, home_serves: true, ..base },
                Writer::HomeReturning,
            ),
            (WriteView { stand_in: Some(Out), ..base }, Writer::HomeDown),
            (
                WriteView { stand_in: Some(Out), home_serves: true, out_for: None, ..base },
                Writer::HomeReturning,
            ),
        ] {
            assert_eq!(writer(view), expected, "{view:?}");
        }
    }
}
