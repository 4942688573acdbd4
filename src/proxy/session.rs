//! Upload sessions on their way to the client: the URL that it goes on with, and how they end.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::admission::Admitted;
use super::body::ResponseBody;
use super::error::GatewayError;
use super::local;
use super::pins::Pins;
use super::uploads::OpenUploads;
use crate::attempt::MemberError;
use crate::content::{UploadChecks, received};
use crate::pin::Pin;
use crate::random::unix_now;
use crate::registry::{PIN_PARAMETER, RegistryRequest, UploadMethod, with_query};
use crate::telemetry::PinEvent;
use crate::upstream::Member;

/// Whether a cancel is refused by the member for want of the `delete` right. It is done as far as the client is
/// concerned: the member's own purging removes the session.
pub(super) fn is_refused_cancel(target: &RegistryRequest, status: StatusCode) -> bool {
    let cancel = matches!(target, RegistryRequest::Upload { method: UploadMethod::Cancel, .. });
    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED];
    cancel && refused.contains(&status)
}

/// A `Location` of a member that leads to no upload session of the repository that was asked for.
pub(super) fn no_session_here(member: &Member) -> MemberError {
    MemberError::BadAnswer {
        member: member.name.clone(),
        problem: "its Location is no upload session of this repository",
    }
}

/// What is known of upload sessions.
pub(super) struct Sessions {
    pub pins: Pins,
    pub uploads: Arc<OpenUploads>,
    pub upload_checks: Arc<UploadChecks>,
    /// How long an upload session may go on after its start.
    pub grace: Duration,
}

impl Sessions {
    /// `/v2/<name>/blobs/uploads/<id>?<the member's own>&_tg=<pin>`, relative, so that neither
    /// scheme nor port can be wrong. `pin` is the one the request came with; without, the session
    /// was just opened.
    pub(super) fn sealed_location(
        &self,
        admitted: &Admitted<'_>,
        upload: &RegistryRequest,
        pin: Option<Pin>,
        member: &Member,
        headers: &HeaderMap,
    ) -> Result<HeaderValue, GatewayError> {
        let RegistryRequest::Upload { repository, id, member_query, .. } = upload else {
            return Err(no_session_here(member).into());
        };
        let pin = match pin {
            Some(pin) => {
                self.uploads.seen(id, pin.deadline, member);
                Pin { upload: id.clone(), offset: received(headers), ..pin }
            }
            None => {
                let deadline = unix_now().saturating_add(self.grace.as_secs());
                self.uploads.opened(id, deadline, member);
                let (member, subject) = (member.name.as_str().to_owned(), admitted.client.subject.clone());
                Pin { member, upload: id.clone(), subject, deadline, offset: Some(0) }
            }
        };
        let sealed = self.pins.seal(&admitted.arrival.state, repository, &pin);
        let sealed = sealed.ok_or(GatewayError::Internal("there is no seal key"))?;
        let own = member_query.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let parameters: Vec<(&str, &str)> = own.chain([(PIN_PARAMETER, sealed.as_str())]).collect();
        HeaderValue::try_from(with_query(format!("/v2/{repository}/blobs/uploads/{id}"), &parameters))
            .map_err(|_| no_session_here(member).into())
    }

    /// Counts the end of a session.
    pub(super) fn note_end(&self, target: &RegistryRequest, status: StatusCode) {
        let RegistryRequest::Upload { id, method, .. } = target else { return };
        let event = match method {
            UploadMethod::Put { .. } if status == StatusCode::CREATED => PinEvent::Finished,
            UploadMethod::Cancel if status.is_success() => PinEvent::Cancelled,
            // The member knows it no longer: it cannot go on.
            _ if status == StatusCode::NOT_FOUND || status == StatusCode::GONE => {
                self.uploads.gone(id);
                return self.upload_checks.ended(id);
            }
            UploadMethod::Put { .. } | UploadMethod::Cancel | UploadMethod::Patch | UploadMethod::Status => {
                return;
            }
        };
        self.uploads.ended(id, event);
        self.upload_checks.ended(id);
    }

    /// Forgets a session that the member would not remove: 204.
    pub(super) fn forget(&self, target: &RegistryRequest) -> Response<ResponseBody> {
        self.note_end(target, StatusCode::NO_CONTENT);
        local::no_content()
    }
}
