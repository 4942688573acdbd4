//! What a member's 401 means, and what becomes of a request that a member gives no credential for.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use tokio::time::Instant;

use super::answer::Answer;
use super::error::{AttemptError, ClientFault, Failure, MemberError};
use super::request::{MemberRequest, Target};
use crate::registry::is_read;
use crate::upstream::{
    Credential, CredentialError, Member, Phase, RequestBody, UpstreamError, UpstreamFault,
    probe::control_passes,
};

/// What a member's 401 means.
pub(super) enum Verdict {
    /// Our credential is refused: the member is at fault.
    Fault,
    /// Our credential is good; once more with a new token.
    TryAgain,
    /// Our credential is good: it is about this user or target.
    AboutTarget,
    /// The client's own password is what is refused.
    Credential(CredentialError),
    /// The client's own credential is judged there: the client gets the 401 as it is.
    PassOn,
}

/// What becomes of a request that a member gives no credential for.
pub(super) fn without_credential(
    request: &MemberRequest,
    member: &Member,
    why: CredentialError,
    body: Option<RequestBody>,
) -> Box<Failure> {
    let elsewhere = |body: Option<RequestBody>| body.filter(|_| request.members_differ());
    match why {
        CredentialError::WrongPassword => {
            Failure::of_nobody(ClientFault::WrongPassword.into(), elsewhere(body))
        }
        CredentialError::NotGranted => Failure::of_nobody(ClientFault::NotGranted.into(), elsewhere(body)),
        CredentialError::NoPassword(subject) => {
            let member = member.name.as_str();
            tracing::warn!(member, %subject, "the member needs the client's own password; use `credential: token` for clients that Harbor does not know");
            Failure::of_nobody(ClientFault::NotGranted.into(), elsewhere(body))
        }
        CredentialError::NotNow(_) => Failure::of_nobody(ClientFault::LoginUnavailable.into(), body),
        CredentialError::Member(_) | CredentialError::Key(_) => {
            member.ask_for_probe();
            let source = UpstreamFault::Credential(why);
            let error = UpstreamError { member: member.name.clone(), phase: Phase::Credential, source };
            Failure::of_nobody(error.into(), body)
        }
    }
}

pub(super) async fn judge_refusal(
    request: &MemberRequest,
    member: &Arc<Member>,
    answer: &Answer,
    renewed: &mut bool,
    deadline: Instant,
) -> Verdict {
    if matches!(request.target, Target::Web(_)) {
        // Harbor refuses clients itself there; a node that has lost its database refuses every client.
        // A client that shows nothing is refused rightly; only a shown credential may be a good one.
        let shown = [AUTHORIZATION, COOKIE].iter().any(|name| request.headers.contains_key(name));
        let is_fault = shown && request.is_repeatable() && !control_passes(member).await;
        return if is_fault { Verdict::Fault } else { Verdict::PassOn };
    }
    if !member.credential.is_configured() {
        // Only the operator can mend that; a client's login cannot.
        member.warn_of_missing_credential();
        return Verdict::Fault;
    }
    let body_unused = answer.progress.as_ref().is_none_or(|progress| !progress.was_polled());
    if let (Credential::Relay, Some(node), Some(secret)) =
        (&member.credential, member.node(), &request.secret)
    {
        // Harbor says 401 for a locked name, for a wrong password, and for a right one that may
        // not do this: only the password alone tells them apart.
        if let Err(why) = node.check_in_turn(secret, deadline).await {
            let is_fault = matches!(why, CredentialError::Member(_));
            return if is_fault { Verdict::Fault } else { Verdict::Credential(why) };
        }
    } else if !control_passes(member).await {
        return Verdict::Fault;
    }
    if member.harbor.is_some() && !request.names_repository() {
        let member = member.name.as_str();
        tracing::warn!(
            member,
            "`harbor.catalog_account` may not list the repositories; Harbor grants that to administrators alone"
        );
        return Verdict::AboutTarget;
    }
    let may_be_stale = !matches!(member.credential, Credential::None | Credential::Basic(_));
    if may_be_stale && !*renewed && body_unused {
        *renewed = true;
        member.renew(request.asking(false)).await;
        return Verdict::TryAgain;
    }
    if !body_unused && matches!(member.credential, Credential::Exchange) {
        // The body is gone, so no second try shows whether the node's token was stale or the right
        // is. The token service does.
        member.renew(request.asking(false)).await;
        return match member.authorization(request.asking(false), deadline).await {
            Ok(_) => Verdict::Fault,
            Err(why) => Verdict::Credential(why),
        };
    }
    Verdict::AboutTarget
}

/// The member takes our credential and refuses this target. Where the credential is our own
/// token, the right was in it, so that there is no such thing; else the account lacks the right.
pub(super) fn target_refused(request: &MemberRequest, member: &Member) -> AttemptError {
    let about_content = member.credential.names_target() && request.names_repository();
    if about_content && is_read(&request.method) {
        return MemberError::UnknownTarget { member: member.name.clone() }.into();
    }
    ClientFault::NotGranted.into()
}
