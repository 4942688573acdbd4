//! What the gateway's own questions to a member are sent with.

use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::Member;
use crate::random::unix_now;
use crate::registry::{Actions, ManifestMethod, Reference, RegistryRequest, RepositoryName, ResourceAccess};
use crate::upstream::credential::{Asking, Credential, MemberAccess, probe_subject};
use crate::upstream::door::{Question, Reply};
use crate::upstream::harbor::token_of_account;

/// What a manifest may be.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, */*";

impl Member {
    /// The credential of a question of our own that reads `access`.
    ///
    /// # Errors
    /// Why there is none, in words.
    async fn own_authorization(
        &self,
        access: &ResourceAccess,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, String> {
        if let (Credential::Exchange | Credential::Relay, Some(node)) = (&self.credential, &self.harbor) {
            let access = std::slice::from_ref(access);
            return token_of_account(&self.door, node.account().clone(), access, deadline).await;
        }
        match &self.credential {
            Credential::Basic(value) => Ok(Some(value.clone())),
            Credential::Token(token) => {
                let subject = probe_subject().map_err(|error| error.to_string())?;
                let access = MemberAccess { target: Some(access.clone()), source: None };
                let asking = Asking { subject: &subject, secret: None, access: &access, streams: false };
                token.authorization(asking, unix_now()).await.map(Some).map_err(|error| error.to_string())
            }
            Credential::None | Credential::Exchange | Credential::Relay => Ok(None),
        }
    }

    /// Asks for the head of a manifest, with our own credential.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(in crate::upstream) async fn head_of_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<Reply, String> {
        let access = ResourceAccess::repository(repository.clone(), Actions::PULL);
        let authorization = self.own_authorization(&access, deadline).await?;
        let request = RegistryRequest::Manifest {
            repository: repository.clone(),
            reference: reference.clone(),
            method: ManifestMethod::Head,
        };
        let question = Question::new(Method::HEAD, request.member_target())
            .with(AUTHORIZATION, authorization)
            .with(ACCEPT, Some(HeaderValue::from_static(MANIFEST_TYPES)));
        self.door.ask(question, deadline).await.map_err(|error| error.to_string())
    }
}
