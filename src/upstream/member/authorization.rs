//! What a client's request to a member is sent with.

use tokio::time::Instant;

use super::Member;
use crate::random::unix_now;
use crate::registry::Resource;
use crate::upstream::credential::{Asking, Authorization, Credential, CredentialError};

impl Member {
    /// The credential of a request.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn authorization(
        &self,
        asking: Asking<'_>,
        deadline: Instant,
    ) -> Result<Authorization<'_>, CredentialError> {
        let catalog =
            asking.access.target.as_ref().is_some_and(|access| access.resource == Resource::Catalog);
        match (&self.credential, self.node()) {
            (_, Some(node)) if catalog => node.catalog_authorization(asking.access, deadline).await,
            (Credential::None, _) => Ok(Authorization::default()),
            (Credential::Basic(value), _) => Ok(value.clone().into()),
            (Credential::Token(token), _) => Ok(token.authorization(asking, unix_now()).await?.into()),
            (Credential::Exchange, Some(node)) => Ok(node.exchanged(asking, deadline).await?.into()),
            (Credential::Relay, Some(node)) => node.relayed(asking, deadline).await,
            (Credential::Exchange | Credential::Relay, None) => {
                Err(CredentialError::Member("it is no Harbor node".to_owned()))
            }
        }
    }

    /// Forgets the token for this subject and access, so that the next one is new.
    pub async fn renew(&self, asking: Asking<'_>) {
        match (&self.credential, self.node()) {
            (Credential::Token(token), _) => token.forget(asking, unix_now()).await,
            (Credential::Exchange | Credential::Relay, Some(node)) => node.forget(asking).await,
            _ => {}
        }
    }
}
