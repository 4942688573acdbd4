//! What a client's request to a node is sent with: a token of the node, or the client's password.

use http::HeaderValue;
use tokio::time::Instant;

use super::at::NodeAt;
use super::exchanged::{Fetching, TokenKey};
use super::gate::PasswordTurn;
use super::login::{Login, Password};
use super::secret::ClientSecret;
use super::token::{NodeToken, token_of_account};
use crate::auth::subject::Subject;
use crate::registry::{Actions, ResourceAccess};
use crate::upstream::credential::{Asking, Authorization, CredentialError, MemberAccess};
use crate::upstream::settings::HarborVersion;

impl<'a> NodeAt<'a> {
    /// The account that lists all repositories: by password, or where the registry of Harbor 1.x
    /// takes none, by a token.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub(in crate::upstream) async fn catalog_authorization(
        &self,
        access: &MemberAccess,
        deadline: Instant,
    ) -> Result<Authorization<'a>, CredentialError> {
        let account = self.node.catalog_account.clone();
        if self.node.version() == HarborVersion::Two {
            return Ok(account.into());
        }
        let wanted: Vec<ResourceAccess> = access.entries().cloned().collect();
        let asked = Box::pin(token_of_account(&self.member.door, account, &wanted, deadline)).await;
        asked.map_err(CredentialError::Member)?.map(Into::into).ok_or(CredentialError::NotGranted)
    }

    /// The node's own token for this client and access.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub(in crate::upstream) async fn exchanged(
        &self,
        asking: Asking<'_>,
        deadline: Instant,
    ) -> Result<HeaderValue, CredentialError> {
        let node = *self;
        let fetch = || -> Fetching<'_, NodeToken> { Box::pin(node.fetch(asking, deadline)) };
        self.node.exchanged.token(&self.key(asking), deadline, &fetch).await
    }

    /// The client's own password, or the node's token for clients without one.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub(in crate::upstream) async fn relayed(
        &self,
        asking: Asking<'_>,
        deadline: Instant,
    ) -> Result<Authorization<'a>, CredentialError> {
        if asking.subject.is_anonymous() {
            return Ok(self.exchanged(asking, deadline).await?.into());
        }
        let secret = asking.secret.ok_or_else(|| CredentialError::NoPassword(asking.subject.clone()))?;
        let turn = self.turn_in_time(secret, deadline).await?;
        if asking.streams {
            // A body can be sent only once: whether the password is taken is asked before.
            Box::pin(self.check(secret, deadline)).await.map_err(|login| failed(&login))?;
        }
        let header = secret.basic().ok_or(CredentialError::WrongPassword)?;
        Ok(Authorization::in_turn(header, turn))
    }

    /// Whether the node takes a client's password now.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn check_in_turn(
        &self,
        secret: &ClientSecret,
        deadline: Instant,
    ) -> Result<(), CredentialError> {
        let _turn = self.turn_in_time(secret, deadline).await?;
        Box::pin(self.check(secret, deadline)).await.map_err(|login| failed(&login))
    }

    /// Forgets the token for this client and access.
    pub(in crate::upstream) async fn forget(&self, asking: Asking<'_>) {
        self.node.exchanged.forget(&self.key(asking)).await;
    }

    async fn fetch(&self, asking: Asking<'_>, deadline: Instant) -> Result<NodeToken, CredentialError> {
        let wanted: Vec<ResourceAccess> = asking.access.entries().cloned().collect();
        let token = if asking.subject.is_anonymous() {
            let token = self.anonymous_token(&wanted, deadline).await;
            token.map_err(CredentialError::Member)?
        } else {
            let secret = asking.secret.ok_or_else(|| CredentialError::NoPassword(asking.subject.clone()))?;
            let _turn = self.turn_in_time(secret, deadline).await?;
            match self.login(Password { secret, was_right: true }, &wanted, deadline).await {
                Login::Right(token) if is_of(&token, asking.subject) => token,
                Login::Right(_) => return Err(CredentialError::WrongPassword),
                login => return Err(failed(&login)),
            }
        };
        if wanted.iter().all(|wanted| covers(token.granted(wanted), wanted.actions)) {
            Ok(token)
        } else {
            Err(CredentialError::NotGranted)
        }
    }

    fn key(&self, asking: Asking<'_>) -> TokenKey {
        let mut scopes = String::new();
        for access in asking.access.entries() {
            let project = access.project().filter(|_| self.node.version() == HarborVersion::Two);
            scopes.push_str(project.unwrap_or_else(|| access.name()));
            scopes.push_str(if project.is_some() { "/:" } else { ":" });
            scopes.push_str(&access.actions.to_string());
            scopes.push(' ');
        }
        let password = asking.secret.map(ClientSecret::fingerprint);
        TokenKey { subject: asking.subject.clone(), password, scopes }
    }

    async fn turn_in_time(
        &self,
        secret: &ClientSecret,
        deadline: Instant,
    ) -> Result<PasswordTurn<'a>, CredentialError> {
        let turn = tokio::time::timeout_at(deadline, self.node.password_turn(secret)).await;
        turn.map_err(|_| CredentialError::NotNow("others are trying passwords of this name".to_owned()))
    }
}

/// Names of Harbor and of directories differ by case only where they are the same.
fn is_of(token: &NodeToken, subject: &Subject) -> bool {
    token.subject.as_deref().is_some_and(|name| name.to_lowercase() == subject.name().to_lowercase())
}

/// Whether a token will do. Cancelling an upload asks for `delete` because registries want it, and
/// goes on without it: what the node then refuses is a session that we can forget.
fn covers(granted: Actions, wanted: Actions) -> bool {
    let cancel = Actions::PULL_PUSH.union(Actions::DELETE);
    granted.covers(wanted) || (wanted == cancel && granted.covers(Actions::PULL_PUSH))
}

fn failed(login: &Login) -> CredentialError {
    match login {
        Login::Right(_) | Login::Wrong => CredentialError::WrongPassword,
        Login::NotNow(reason) => CredentialError::NotNow(reason.clone()),
        Login::NodeFault(problem) => CredentialError::Member(problem.clone()),
        Login::Silent => CredentialError::Member("no answer in time".to_owned()),
    }
}
