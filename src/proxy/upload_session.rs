//! Upload sessions: which member a request of one goes to, and the URL the client goes on with.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use super::error::GatewayError;
use super::plan::Route;
use super::{Admitted, Gateway, local};
use crate::attempt::MemberError;
use crate::auth::subject::Subject;
use crate::balance::health::Status;
use crate::content::received;
use crate::handover::State;
use crate::pin::{Pin, PinContext, PinError};
use crate::random::{nonce, unix_now};
use crate::registry::{
    PIN_PARAMETER, RegistryRequest, RepositoryName, Tag, UploadId, UploadMethod, with_query,
};
use crate::snapshot::Snapshot;
use crate::telemetry::PinEvent;
use crate::upstream::{Member, Placed, Topology};

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

impl Gateway {
    /// Goes on with what a process before knew of members and upload sessions.
    pub fn take_over(&self, state: &State) {
        let topology = self.topology.load_full();
        let member = |name: &str| topology.pools.member(name).map(|placed| placed.member);
        state.draining.iter().filter_map(|name| member(name)).for_each(|member| member.set_draining(true));
        for (upload, at, deadline) in &state.uploads {
            if let (Ok(upload), Some(member)) = (UploadId::try_from(upload.as_str()), member(at)) {
                self.uploads.seen(&upload, *deadline, member);
            }
        }
        state.returned.iter().filter_map(|name| member(name)).for_each(|member| member.has_returned());
        for (pool, repository, at, tags) in &state.stand_ins {
            let pool = topology.pools.all().iter().find(|it| it.name.as_str() == pool);
            let repository = RepositoryName::try_from(repository.as_str());
            let (Some(pool), Ok(repository), Some(at)) = (pool, repository, member(at)) else { continue };
            let stand_ins = &pool.memory.stand_ins;
            stand_ins.note(&repository, &at.name, None);
            for tag in tags.iter().filter_map(|tag| Tag::try_from(tag.as_str()).ok()) {
                stand_ins.note(&repository, &at.name, Some(&tag));
            }
        }
    }

    /// Homes whose word on tags has to be compared with that of others, for the next process.
    #[must_use]
    pub fn returned_homes(&self) -> Vec<String> {
        let topology = self.topology.load();
        let returned = topology.pools.members().filter(|member| member.returns() > 0);
        returned.map(|member| member.name.as_str().to_owned()).collect()
    }

    /// What others took in place of homes, for the next process: pool, repository, who, tags.
    #[must_use]
    pub fn stand_ins(&self) -> Vec<(String, String, String, Vec<String>)> {
        let topology = self.topology.load();
        let records = topology.pools.all().iter().flat_map(|pool| {
            let records = pool.memory.stand_ins.some(usize::MAX);
            records
                .into_iter()
                .map(|(repository, record)| (pool.name.as_str().to_owned(), repository, record))
        });
        records
            .map(|(pool, repository, record)| {
                let tags = record.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
                (pool, repository.as_str().to_owned(), record.member.as_str().to_owned(), tags)
            })
            .collect()
    }

    /// The pinned member, if the pin is this subject's and the member serves.
    pub(super) fn pinned_plan(
        &self,
        pin: Result<Pin, PinError>,
        subject: &Subject,
        topology: &Topology,
    ) -> Result<Route, GatewayError> {
        let pin = pin.and_then(|pin| pin.check_subject(subject).map(|()| pin)).map_err(|error| {
            self.metrics.count_pins(PinEvent::Refused, 1);
            GatewayError::Pin(error)
        })?;
        let gone = || GatewayError::PinnedMemberGone { member: pin.member.clone() };
        let Placed { pool, member, retired } = topology.pools.member(&pin.member).ok_or_else(gone)?;
        // Nobody probes a member that was removed: its sessions find out by themselves. One that is
        // out because other requests failed there is the only one that can finish them.
        let may_serve = member.status().serves() || member.status() == Status::Ejected || retired;
        if !may_serve {
            return Err(gone());
        }
        Ok(Route {
            pool: Arc::clone(pool),
            candidates: vec![Arc::clone(member)],
            confirmations: 0,
            pin: Some(pin),
        })
    }

    /// The pin of an upload's request; `None` for every other request.
    pub(super) fn open_pin(
        &self,
        state: &Snapshot,
        target: &RegistryRequest,
        now: u64,
    ) -> Option<Result<Pin, PinError>> {
        let RegistryRequest::Upload { repository, id, pin, .. } = target else { return None };
        let context = PinContext { host: self.hosts.primary(), repository };
        Some(Pin::open(&state.seals, context, pin.as_deref(), id, now))
    }

    /// `/v2/<name>/blobs/uploads/<id>?<the member's own>&_tg=<pin>`, relative, so that neither
    /// scheme nor port can be wrong. `pin` is the one the request came with; without, the session
    /// was just opened.
    pub(super) fn sealed_location(
        &self,
        admitted: &Admitted,
        upload: &RegistryRequest,
        pin: Option<Pin>,
        (member, headers): (&Member, &HeaderMap),
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
                let deadline = unix_now().saturating_add(self.limits.upload_grace.as_secs());
                self.uploads.opened(id, deadline, member);
                let (member, subject) = (member.name.as_str().to_owned(), admitted.client.subject.clone());
                Pin { member, upload: id.clone(), subject, deadline, offset: Some(0) }
            }
        };
        let context = PinContext { host: self.hosts.primary(), repository };
        let sealed = pin
            .seal(&admitted.state.seals, context, unix_now(), nonce())
            .ok_or(GatewayError::Internal("there is no seal key"))?;
        let own = member_query.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let parameters: Vec<(&str, &str)> = own.chain([(PIN_PARAMETER, sealed.as_str())]).collect();
        HeaderValue::try_from(with_query(format!("/v2/{repository}/blobs/uploads/{id}"), &parameters))
            .map_err(|_| no_session_here(member).into())
    }

    /// Counts the end of a session.
    pub(super) fn note_upload_end(&self, target: &RegistryRequest, status: StatusCode) {
        let RegistryRequest::Upload { id, method, .. } = target else { return };
        let event = match method {
            UploadMethod::Put { .. } if status == StatusCode::CREATED => PinEvent::Finished,
            UploadMethod::Cancel if status.is_success() => PinEvent::Cancelled,
            // The member knows it no longer: nobody can go on with it.
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
    pub(super) fn forget_session(&self, target: &RegistryRequest) -> Response<ResponseBody> {
        self.note_upload_end(target, StatusCode::NO_CONTENT);
        local::no_content()
    }
}
