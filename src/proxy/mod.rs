//! The life of a request: [`Gateway::handle`] and, below it, one line a step.

mod admission;
mod answer;
mod arrival;
mod body;
mod build;
mod client_body;
mod error;
mod local;
mod member_request;
mod merge;
mod pins;
mod realm;
mod record;
mod route;
mod send;
mod session;
mod trail;
mod uploads;
mod web;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

pub use arrival::ConnectionInfo;
pub use body::ResponseBody;
pub use build::{GatewaySettings, GatewayState};
pub use error::GatewayError;
pub use realm::Realm;
pub use record::{Observers, RequestRecord};
pub use trail::Trail;
pub use uploads::OpenUploads;

use crate::content::Joined;
use crate::registry::RegistryRequest;
use crate::upstream::client_key;
use admission::{Admission, Admitted};
use answer::Answers;
use arrival::{Arrival, Arrivals};
use client_body::{ClientBody, ReadAway};
use local::{Endpoints, pong};
use member_request::member_request;
use merge::{Merged, MergedList};
use route::{Router, note_write};
use send::{Sender, Sent};
use web::Portal;

/// Answers every request, by its components.
pub struct Gateway {
    /// Lets requests arrive.
    arrivals: Arrivals,
    /// Decides whose request it is, and whether it may go on.
    admission: Admission,
    /// Finds the members of a request.
    router: Router,
    /// Sends requests to members.
    sender: Arc<Sender>,
    /// Turns what members answer into what clients get.
    answers: Answers,
    /// The gateway's own endpoints.
    endpoints: Endpoints,
    /// Harbor's web pages and API.
    portal: Portal,
    /// What becomes of refused bodies.
    read_away: ReadAway,
    /// Where requests are counted and logged.
    observers: Observers,
    /// The `service` of client tokens.
    service: String,
}

impl Gateway {
    /// Answers one request, whatever comes.
    pub async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: ConnectionInfo,
    ) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let mut record = RequestRecord::new(connection.peer, &head, &self.observers);
        let mut body = ClientBody::new(&head, body);
        let arrival = self.arrivals.arrive(Arc::clone(&record.id), record.started, head, connection);
        let response = match arrival {
            Ok(arrival) => match self.serve(&arrival, &mut body, &mut record).await {
                Ok(response) => response,
                Err(error) => error.into_response(Some(arrival.realm(&self.service)), &mut record),
            },
            Err(error) => error.into_response(None, &mut record),
        };
        let progress = Arc::clone(body.progress());
        body.read_away(&self.read_away);
        ResponseBody::observe(response, Box::new(record), progress)
    }

    async fn serve(
        &self,
        arrival: &Arrival,
        body: &mut ClientBody,
        record: &mut RequestRecord,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let (method, uri) = (&arrival.head.method, &arrival.head.uri);
        if !uri.path().starts_with("/v2") {
            return Box::pin(self.serve_other(arrival, body, record)).await;
        }
        let target = RegistryRequest::parse(method, uri.path(), uri.query())?;
        record.note_target(&target);
        let client = self.admission.authenticate(arrival, &target, record).await?;
        let target = self.admission.authorize(arrival, &client, target)?;
        record.note_authorized();
        if target == RegistryRequest::Ping {
            return Ok(pong());
        }
        let key = client_key(client.source, &client.subject);
        let admitted = Admitted { arrival, client, key };
        let route = self.router.route(&admitted, &target).await?;
        let request = Arc::new(member_request(&admitted, target, &route.pool, body.has_content())?);
        if let Some(list) = MergedList::of(&request) {
            let Merged { outcome, trail } = Box::pin(list.answer(arrival.at, &self.sender.checks)).await;
            record.note_trail(trail);
            return outcome;
        }
        let leader = match self.sender.join(&request, arrival).await {
            Joined::Asks(leader) => leader,
            Joined::Shared(outcome) => match self.answers.shared(&request, outcome, record) {
                Some(answered) => {
                    request.pool.metrics.coalesced.inc();
                    request.pool.count_request();
                    return self.answers.client_response(&admitted, &request, route.pin, answered);
                }
                None => None,
            },
        };
        let Sent { outcome, trail } = self.sender.send(&request, &route, body, arrival.at).await?;
        record.note_trail(trail);
        match outcome {
            Ok(settled) => {
                note_write(&request, &settled.member, settled.head.status);
                let answered = self.answers.answered(&request, settled, leader, record);
                self.answers.client_response(&admitted, &request, route.pin, answered)
            }
            Err(error) => {
                if let Some(leader) = leader {
                    leader.share_nothing();
                }
                self.answers.failed(&request, route.pin.as_ref(), error)
            }
        }
    }

    /// Everything that is not under `/v2`.
    async fn serve_other(
        &self,
        arrival: &Arrival,
        body: &mut ClientBody,
        record: &mut RequestRecord,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        match self.endpoints.answer(arrival, body, record).await {
            Some(answer) => answer,
            None => self.portal.answer(arrival, body, record).await,
        }
    }
}
