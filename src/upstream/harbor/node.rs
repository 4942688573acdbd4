//! What is known of one Harbor node, and the questions that need nothing else.

use std::sync::{Mutex, PoisonError};

use http::HeaderValue;
use http::header::{AUTHORIZATION, COOKIE};
use tokio::time::Instant;

use super::exchanged::Exchanged;
use super::gate::{NameGates, PasswordTurn};
use super::health;
use super::secret::{ClientSecret, basic};
use crate::upstream::door::{Door, Question, QuestionError, Reply};
use crate::upstream::settings::{HarborSettings, HarborVersion};

/// Name of the cookie of Harbor's sessions.
pub const SESSION_COOKIE: &str = "sid";

/// What is known of a Harbor node at run time.
#[derive(Debug)]
pub struct HarborNode {
    version: HarborVersion,
    account: HeaderValue,
    pub(super) catalog_account: HeaderValue,
    names: NameGates,
    /// The session of our own questions: without one, each would leave a new one in the node's
    /// redis for an hour.
    session: Mutex<Option<HeaderValue>>,
    pub(super) exchanged: Exchanged,
}

impl HarborNode {
    /// A node with these settings; `None` when an account cannot stand in a header.
    #[must_use]
    pub fn new(settings: &HarborSettings, entries_max: u64) -> Option<Self> {
        Some(Self {
            version: settings.version,
            account: basic(&settings.account)?,
            catalog_account: basic(&settings.catalog_account)?,
            names: NameGates::default(),
            session: Mutex::new(None),
            exchanged: Exchanged::new(entries_max),
        })
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> HarborVersion {
        self.version
    }

    /// The right to send a password to the node that is known to be right: no other of that name
    /// is tried there meanwhile, and so none locks it.
    pub async fn password_turn(&self, secret: &ClientSecret) -> PasswordTurn<'_> {
        self.names.turn(secret).await
    }

    /// The right to try a password there that may be wrong, if the name is not in use there now.
    #[must_use]
    pub fn try_password_turn(&self, secret: &ClientSecret) -> Option<PasswordTurn<'_>> {
        self.names.try_turn(secret)
    }

    /// A question of our own, in our own session. Only for GET: a session makes the node ask for
    /// a CSRF token on writes.
    pub(in crate::upstream) async fn ask(
        &self,
        door: &Door,
        target: &str,
        authorization: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<Reply, QuestionError> {
        let cookie = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let question = Question::get(target).with(AUTHORIZATION, authorization).with(COOKIE, cookie);
        let reply = door.ask(question, deadline).await?;
        if let Some(session) = session_of(&reply) {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        Ok(reply)
    }

    /// The account of the probes, as `Authorization`.
    pub(in crate::upstream) fn account(&self) -> &HeaderValue {
        &self.account
    }

    /// The components that the node needs and calls unhealthy; `None` when it does not say in time.
    pub(in crate::upstream) async fn unhealthy(
        &self,
        door: &Door,
        deadline: Instant,
    ) -> Option<Vec<&'static str>> {
        let target = format!("{}/health", self.api());
        let reply = self.ask(door, &target, None, deadline).await.ok()?;
        health::unhealthy(&reply.body)
    }

    /// The path of its API.
    pub(super) fn api(&self) -> &'static str {
        match self.version {
            HarborVersion::One => "/api",
            HarborVersion::Two => "/api/v2.0",
        }
    }
}

/// The session that an answer starts, as `Cookie`.
fn session_of(reply: &Reply) -> Option<HeaderValue> {
    let session = reply.cookie(SESSION_COOKIE)?;
    let mut value = HeaderValue::try_from(format!("{SESSION_COOKIE}={session}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
