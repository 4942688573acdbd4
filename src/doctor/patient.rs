//! A member as the doctor has it: how to ask it, and how it is to be authenticated to.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, COOKIE, USER_AGENT};
use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::finding::Checkup;
use crate::auth::keys::KidStyle;
use crate::forwarding::hosts::Hosts;
use crate::forwarding::readable::text;
use crate::random::unix_now;
use crate::registry::{Actions, RepositoryName, ResourceAccess};
use crate::upstream::harbor::{SESSION_COOKIE, basic};
use crate::upstream::{
    Credential, CredentialSettings, HarborSettings, Member, MemberAccess, MemberKind, MemberSettings,
    PoolSettings,
};
use crate::upstream::{Door, Question, QuestionError, Reply};

/// How the doctor names itself to members.
const DOCTOR: &str = concat!("tidegate-doctor/", env!("CARGO_PKG_VERSION"));

/// What the first visit has shown.
pub(super) struct Visit {
    pub(super) checkup: Checkup,
    /// The clock's distance to ours, where the member says the time.
    pub(super) skew: Option<i64>,
    /// The version of a Harbor node, in its own words.
    pub(super) version: Option<String>,
    /// Whether it takes our credential, so that more can be asked.
    pub(super) usable: bool,
}

/// One member, and what is known of it from the configuration.
pub(super) struct Patient<'a> {
    pub(super) pool: &'a PoolSettings,
    pub(super) settings: &'a MemberSettings,
    pub(super) member: &'a Member,
    pub(super) hosts: &'a Hosts,
    /// How long a question may take.
    timeout: Duration,
    /// The session of the questions to a Harbor node, so that not each of them starts one.
    session: Mutex<Option<String>>,
}

impl<'a> Patient<'a> {
    pub(super) fn new(
        pool: &'a PoolSettings,
        settings: &'a MemberSettings,
        member: &'a Member,
        hosts: &'a Hosts,
        timeout: Duration,
    ) -> Self {
        Self { pool, settings, member, hosts, timeout, session: Mutex::new(None) }
    }

    pub(super) fn name(&self) -> &str {
        self.settings.name.as_str()
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.settings.address.https { "https" } else { "http" };
        format!("{scheme}://{}", text(&self.member.door.host))
    }

    pub(super) fn checkup(&self) -> Checkup {
        Checkup {
            pool: self.pool.name.as_str().to_owned(),
            member: self.name().to_owned(),
            url: self.url(),
            checked: Vec::new(),
            not_checked: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// What is configured of it where it is a Harbor node.
    pub(super) fn harbor(&self) -> Option<&'a HarborSettings> {
        match &self.settings.kind {
            MemberKind::Registry => None,
            MemberKind::Harbor(harbor) => Some(harbor),
        }
    }

    pub(super) async fn ask(&self, question: Question) -> Result<Reply, QuestionError> {
        let question = question.with(USER_AGENT, Some(HeaderValue::from_static(DOCTOR)));
        self.door().ask(question, self.deadline()).await
    }

    pub(super) fn door(&self) -> &'a Door {
        &self.member.door
    }

    /// By when a question that begins now is answered.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The name that the member's certificate has to carry.
    pub(super) fn expected_name(&self) -> String {
        let Door { address, tls, .. } = self.door();
        tls.as_ref().map_or_else(|| address.host.clone(), |(_, name)| name.to_str().into_owned())
    }

    /// A GET, at a Harbor node in the one session of our own. Not for questions whose answer must
    /// be about a password alone, and never for writes: a session makes a node ask for more then.
    pub(super) async fn get(
        &self,
        target: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, QuestionError> {
        let cookie = self.session().map(|sid| format!("{SESSION_COOKIE}={sid}"));
        let cookie = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok());
        let question = Question::get(target)
            .with(AUTHORIZATION, authorization.cloned())
            .with(COOKIE, cookie.filter(|_| self.harbor().is_some()));
        let answer = self.ask(question).await?;
        if let Some(sid) = answer.cookie(SESSION_COOKIE) {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(sid.to_owned());
        }
        Ok(answer)
    }

    /// The session so far.
    pub(super) fn session(&self) -> Option<String> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The `kid` of the key that signs, as Harbor writes it.
    pub(super) fn own_kid(&self) -> Option<String> {
        let Credential::Token(token) = &self.member.credential else { return None };
        token.signing_key(unix_now()).map(|key| key.kid(KidStyle::Libtrust).to_owned())
    }

    /// The credential for writing, reading and removing in a repository.
    pub(super) fn writer(&self, repository: &RepositoryName) -> Option<HeaderValue> {
        if let Credential::Token(token) = &self.member.credential {
            let key = token.signing_key(unix_now())?;
            let target = Some(ResourceAccess::repository(repository.clone(), Actions::ALL));
            let access = MemberAccess { target, source: None };
            return token.authorization_here(&key, &access, unix_now()).ok();
        }
        match (&self.settings.credential, self.harbor()) {
            (CredentialSettings::Basic(account), _) => basic(account),
            (_, Some(harbor)) => basic(&harbor.account),
            _ => None,
        }
    }

    /// A question about a repository, with the credential for it.
    pub(super) fn write(
        &self,
        method: Method,
        target: impl Into<String>,
        repository: &RepositoryName,
    ) -> Question {
        let accept = "application/vnd.oci.image.manifest.v1+json, */*";
        Question::new(method, target)
            .with(AUTHORIZATION, self.writer(repository))
            .with(ACCEPT, Some(HeaderValue::from_static(accept)))
    }
}
