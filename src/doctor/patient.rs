//! A member as the doctor has it: how to ask it, and how it is to be authenticated to.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, COOKIE};
use http::{HeaderValue, Method};

use super::call::{Answer, Door, Failure, Question};
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

/// One member, and what is known of it from the configuration.
pub(super) struct Patient<'a> {
    pub(super) pool: &'a PoolSettings,
    pub(super) settings: &'a MemberSettings,
    pub(super) member: &'a Member,
    pub(super) hosts: &'a Hosts,
    pub(super) door: Door,
    /// The session of the questions to a Harbor node, so that not each of them starts one.
    session: Mutex<Option<String>>,
}

impl<'a> Patient<'a> {
    pub(super) fn new(
        (pool, settings, member): (&'a PoolSettings, &'a MemberSettings, &'a Member),
        hosts: &'a Hosts,
        timeout: Duration,
    ) -> Self {
        let door = Door::of(member, timeout);
        Self { pool, settings, member, hosts, door, session: Mutex::new(None) }
    }

    pub(super) fn name(&self) -> &str {
        self.settings.name.as_str()
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.settings.address.https { "https" } else { "http" };
        format!("{scheme}://{}", text(&self.member.host))
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

    pub(super) async fn ask(&self, question: Question) -> Result<Answer, Failure> {
        self.door.ask(question).await
    }

    /// A GET, at a Harbor node in the one session of our own. Not for questions whose answer must
    /// be about a password alone, and never for writes: a session makes a node ask for more then.
    pub(super) async fn get(
        &self,
        target: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
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
