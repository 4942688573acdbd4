//! What a member's 401 means, and what becomes of a request that a member gives no credential for.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use tokio::time::Instant;

use super::error::{GatewayError, is_read};
use super::forward::{Failed, Outgoing, Target, is_repeatable};
use super::send::Answer;
use crate::auth::challenge::ChallengeReason;
use crate::upstream::{
    Credential, CredentialError, Member, Phase, RequestBody, UpstreamError, UpstreamFault, prober,
};

/// What a member's 401 means.
pub(super) enum Refusal {
    /// Our credential is refused: the member is at fault.
    Fault,
    /// Our credential is good; once more with a new token.
    TryAgain,
    /// Our credential is good: it is about this user or target.
    AboutTarget,
    /// The client's own password is what is refused.
    Credential(CredentialError),
    /// It is for the client.
    PassOn,
}

/// What becomes of a request that a member gives no credential for.
pub(super) fn without_credential(
    outgoing: &Outgoing<'_>,
    member: &Member,
    why: CredentialError,
    body: Option<RequestBody>,
) -> Box<Failed> {
    let elsewhere = |body: Option<RequestBody>| body.filter(|_| outgoing.copies);
    match why {
        CredentialError::WrongPassword => {
            Failed::of_nobody(outgoing.refused(ChallengeReason::InvalidToken), elsewhere(body))
        }
        CredentialError::NotGranted => {
            Failed::of_nobody(outgoing.refused(ChallengeReason::InsufficientScope), elsewhere(body))
        }
        CredentialError::NoPassword(subject) => {
            let member = member.name.as_str();
            tracing::warn!(member, %subject, "the member needs the client's own password; use `credential: token` for clients that Harbor does not know");
            Failed::of_nobody(outgoing.refused(ChallengeReason::InsufficientScope), elsewhere(body))
        }
        CredentialError::NotNow(_) => Failed::of_nobody(GatewayError::IdentityUnavailable, body),
        CredentialError::Member(_) | CredentialError::Key(_) => {
            member.ask_for_probe();
            let source = UpstreamFault::Credential(why);
            let error = UpstreamError { member: member.name.clone(), phase: Phase::Credential, source };
            Failed::of_nobody(error.into(), body)
        }
    }
}

pub(super) async fn judge_refusal(
    outgoing: &Outgoing<'_>,
    member: &Arc<Member>,
    answer: &Answer,
    renewed: &mut bool,
    deadline: Instant,
) -> Refusal {
    if matches!(outgoing.target, Target::Web(_)) {
        // Harbor refuses clients itself there; a node that has lost its database refuses everybody.
        // Who shows nothing is refused rightly; only a shown credential may be a good one.
        let shown = [AUTHORIZATION, COOKIE].iter().any(|name| outgoing.headers.contains_key(name));
        let is_fault = shown && is_repeatable(outgoing) && !prober::control_passes(member).await;
        return if is_fault { Refusal::Fault } else { Refusal::PassOn };
    }
    if !member.credential.is_configured() {
        // Nobody but the operator can mend that; a client's login cannot.
        member.warn_of_missing_credential();
        return Refusal::Fault;
    }
    let body_unused = answer.progress.as_ref().is_none_or(|progress| !progress.was_polled());
    if let (Credential::Relay, Some(node), Some(secret)) =
        (&member.credential, &member.harbor, outgoing.secret)
    {
        // Harbor says 401 for a locked name, for a wrong password, and for a right one that may
        // not do this: only the password alone tells them apart.
        if let Err(why) = node.check_in_turn(member, secret, deadline).await {
            let is_fault = matches!(why, CredentialError::Member(_));
            return if is_fault { Refusal::Fault } else { Refusal::Credential(why) };
        }
    } else if !prober::control_passes(member).await {
        return Refusal::Fault;
    }
    if member.harbor.is_some() && !outgoing.target.names_repository() {
        let member = member.name.as_str();
        tracing::warn!(
            member,
            "`harbor.catalog_account` may not list the repositories; Harbor grants that to administrators alone"
        );
        return Refusal::AboutTarget;
    }
    let may_be_stale = !matches!(member.credential, Credential::None | Credential::Basic(_));
    if may_be_stale && !*renewed && body_unused {
        *renewed = true;
        member.renew(outgoing.asking(false)).await;
        return Refusal::TryAgain;
    }
    if !body_unused && matches!(member.credential, Credential::Exchange) {
        // The body is gone, so no second try shows whether the node's token was stale or the right
        // is. The token service does.
        member.renew(outgoing.asking(false)).await;
        return match member.authorization(outgoing.asking(false), deadline).await {
            Ok(_) => Refusal::Fault,
            Err(why) => Refusal::Credential(why),
        };
    }
    Refusal::AboutTarget
}

/// The member takes our credential and refuses this target. Where the credential is our own
/// token, the right was in it, so that there is no such thing; else the account lacks the right.
pub(super) fn target_refused(outgoing: &Outgoing<'_>, member: &Member) -> GatewayError {
    let about_content = member.credential.names_target() && outgoing.target.names_repository();
    if about_content && is_read(outgoing.method) {
        return GatewayError::UnknownTarget { member: member.name.clone() };
    }
    outgoing.refused(ChallengeReason::InsufficientScope)
}
