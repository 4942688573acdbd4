//! The request as it goes to members.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, IF_RANGE, RANGE};

use super::admission::Admitted;
use super::error::GatewayError;
use crate::attempt::{MemberRequest, Target};
use crate::forwarding::content_type::member_content_type;
use crate::forwarding::readable::text;
use crate::forwarding::request::member_headers;
use crate::random::unix_now;
use crate::registry::{Actions, RegistryRequest, ResourceAccess, UploadMethod};
use crate::secret::ExposeSecret as _;
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{MemberAccess, Pool};

/// The request of a registry as it goes to the members of `pool`. `has_content` says whether its body has any.
///
/// # Errors
/// When its content type is none that a member may see.
pub(super) fn member_request(
    admitted: &Admitted<'_>,
    target: RegistryRequest,
    pool: &Arc<Pool>,
    has_content: bool,
) -> Result<MemberRequest, GatewayError> {
    let arrival = admitted.arrival;
    Ok(MemberRequest {
        id: Arc::clone(&arrival.id),
        worker: arrival.connection.worker,
        method: arrival.head.method.clone(),
        headers: headers(admitted, &target, has_content)?,
        subject: admitted.client.subject.clone(),
        client: admitted.key,
        access: member_access(&target),
        secret: secret_for(admitted, pool),
        pool: Arc::clone(pool),
        target: Target::Registry(target),
    })
}

fn headers(
    admitted: &Admitted<'_>,
    target: &RegistryRequest,
    has_content: bool,
) -> Result<HeaderMap, GatewayError> {
    let arrival = admitted.arrival;
    let mut headers = member_headers(&arrival.head.headers, arrival.via());
    if headers.get(RANGE).is_some_and(|range| text(range).contains(',')) {
        // An answer in several parts could be neither verified nor gone on with; the whole may be sent instead
        // (RFC 9110 14.2).
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
    }
    if let Some(value) = member_content_type(target, &arrival.head.headers, has_content)? {
        headers.insert(CONTENT_TYPE, value);
    }
    Ok(headers)
}

/// The client's own name and password, where a member of the pool needs them.
fn secret_for(admitted: &Admitted<'_>, pool: &Pool) -> Option<ClientSecret> {
    if !pool.needs_passwords {
        return None;
    }
    let pair = admitted.arrival.state.pair_of(&admitted.client, unix_now())?;
    ClientSecret::from_pair(pair.expose_secret().to_owned())
}

/// The access that a member's token gets for a request: what the request needs, and for a cancel
/// the `delete` that registries ask for.
fn member_access(target: &RegistryRequest) -> MemberAccess {
    let mut required = target.required_access();
    if let (RegistryRequest::Upload { method: UploadMethod::Cancel, .. }, Some(access)) =
        (target, &mut required)
    {
        access.actions = access.actions.union(Actions::DELETE);
    }
    let source = target.mount_source().map(|from| ResourceAccess::repository(from.clone(), Actions::PULL));
    MemberAccess { target: required, source }
}
