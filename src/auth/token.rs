//! Client and member tokens: claims, minting, and the checks a client's token has to pass.
//!
//! A client token is ours alone (`use: client`, no `x5c`); what a member gets is another token
//! under another key (`use: member`). The header of a client token may hold `typ`, `alg` and
//! `kid` and nothing else: keys named in headers are never looked at (RFC 8725 3.5, 3.10).

use std::collections::HashSet;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Validation, decode};
use serde::{Deserialize, Serialize};

use super::keys::{KeyError, KidStyle, Ring, SigningKey};
use super::subject::{ANONYMOUS_PROVIDER, Subject};
use crate::registry::ResourceAccess;

/// How far clocks of replicas may be apart, in seconds.
const CLOCK_LEEWAY: u64 = 60;
/// How long before now a token begins to be valid, in seconds, for members whose clock is behind.
const NOT_BEFORE_MARGIN: u64 = 10;
/// Bytes of a signature with ES256.
const ES256_BYTES: usize = 64;
/// Fewest and most bytes of a signature with RS256: keys of 2048 to 8192 bits.
const RS256_BYTES_MIN: usize = 256;
const RS256_BYTES_MAX: usize = 1024;
/// `use` of client tokens.
const USE_CLIENT: &str = "client";
/// `use` of member tokens.
const USE_MEMBER: &str = "member";

/// Claims of both kinds of token. Times are whole seconds, as docker-registry 2.x demands.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    #[serde(rename = "use")]
    purpose: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    access: Vec<AccessClaim>,
}

impl Claims {
    /// The claims of a member token; a client token differs in `use` and names the provider.
    fn new(
        issuer: &str,
        audience: &str,
        subject: &Subject,
        access: &[ResourceAccess],
        validity: Validity,
    ) -> Self {
        Self {
            iss: issuer.to_owned(),
            sub: subject.name().to_owned(),
            aud: audience.to_owned(),
            exp: validity.expires_at,
            nbf: validity.issued_at.saturating_sub(NOT_BEFORE_MARGIN),
            iat: validity.issued_at,
            jti: validity.jti,
            purpose: USE_MEMBER.to_owned(),
            provider: None,
            secret: None,
            access: access.iter().map(AccessClaim::new).collect(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct AccessClaim {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
    /// Who granted it, where that was not the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// Granted by Harbor.
const BY_HARBOR: &str = "harbor";

impl AccessClaim {
    fn new(access: &ResourceAccess) -> Self {
        Self {
            by: None,
            kind: access.type_word().to_owned(),
            name: access.name().to_owned(),
            actions: access.action_words().into_iter().map(str::to_owned).collect(),
        }
    }
}

/// The only header a client token may have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictHeader {
    alg: String,
    kid: String,
    typ: String,
}

/// When a token is made and ends, in seconds since the epoch, and its unique name.
#[derive(Debug, Clone)]
pub struct Validity {
    /// Now.
    pub issued_at: u64,
    /// The real end.
    pub expires_at: u64,
    /// 128 random bits, encoded.
    pub jti: String,
}

/// What a client token grants, by who granted it: what a policy rule grants in one pool is nothing
/// where Harbor decides, and the other way round, also where the same name leads to both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenAccess {
    /// Granted by the policy.
    pub by_policy: Vec<ResourceAccess>,
    /// Granted by Harbor.
    pub by_harbor: Vec<ResourceAccess>,
}

impl TokenAccess {
    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = &ResourceAccess> {
        self.by_policy.iter().chain(&self.by_harbor)
    }
}

/// A client token that passed every check but its end, which the caller looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Whose it is.
    pub subject: Subject,
    /// What was granted when it was issued.
    pub access: TokenAccess,
    /// When it was issued, in seconds since the epoch.
    pub issued_at: u64,
    /// When it ends, in seconds since the epoch.
    pub expires_at: u64,
    /// Its unique name, for the audit log.
    pub jti: String,
    /// The client's own name and password, sealed, where members need them.
    pub sealed_secret: Option<String>,
}

/// Why a client token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of the right form.
    #[error("the token is malformed")]
    Malformed,
    /// Our issuer, but a key that is not in the ring.
    #[error("the token names our issuer but key {kid}, which is not in the key ring")]
    ForeignKey {
        /// The unknown key's id.
        kid: String,
    },
    /// Another issuer's key.
    #[error("the token was not issued here")]
    UnknownKey,
    /// The signature, issuer or audience is wrong.
    #[error("the token's signature, issuer or audience is wrong")]
    Invalid,
    /// A token for a member, or for another purpose.
    #[error("the token is not for clients")]
    Purpose,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
}

/// Makes and checks the tokens of clients.
#[derive(Debug, Clone)]
pub struct ClientTokens {
    ring: Ring<SigningKey>,
    issuer: String,
    audience: String,
}

impl ClientTokens {
    /// Tokens of `issuer` for `audience`, under the keys of a ring.
    #[must_use]
    pub fn new(ring: Ring<SigningKey>, issuer: String, audience: String) -> Self {
        Self { ring, issuer, audience }
    }

    /// The keys.
    #[must_use]
    pub fn ring(&self) -> &Ring<SigningKey> {
        &self.ring
    }

    /// Mints a client token, with the client's sealed name and password where members need them.
    ///
    /// # Errors
    /// [`KeyError`] when there is no key or it fails.
    pub fn mint(
        &self,
        subject: &Subject,
        access: &TokenAccess,
        validity: Validity,
        sealed_secret: Option<String>,
    ) -> Result<String, KeyError> {
        let key = self.ring.active(validity.issued_at).ok_or(KeyError::Unsupported)?;
        let mut claims = Claims::new(&self.issuer, &self.audience, subject, &access.by_policy, validity);
        claims.access.extend(
            access
                .by_harbor
                .iter()
                .map(|access| AccessClaim { by: Some(BY_HARBOR.to_owned()), ..AccessClaim::new(access) }),
        );
        claims.purpose = USE_CLIENT.to_owned();
        claims.provider = Some(subject.provider().to_owned());
        claims.secret = sealed_secret;
        let header = serde_json::json!({
            "typ": "JWT", "alg": key.algorithm().as_str(), "kid": key.kid(KidStyle::Thumbprint),
        });
        compact(key, &header, &claims)
    }

    /// Checks everything but the end of a token.
    ///
    /// # Errors
    /// [`TokenError`], whose text is for the log.
    pub fn verify(&self, token: &str, now: u64) -> Result<VerifiedToken, TokenError> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let header: StrictHeader = decode_part(header)?;
        let key = self.ring.verifying(now).find(|key| key.thumbprint() == header.kid);
        let Some(key) = key else { return Err(self.foreign(&header, payload, signature, now)) };
        if header.alg != key.algorithm().as_str() || header.typ != "JWT" {
            return Err(TokenError::Malformed);
        }
        let claims = decode::<Claims>(token, key.decoding(), &self.validation(key))
            .map_err(|_| TokenError::Invalid)?;
        let claims = claims.claims;
        if claims.purpose != USE_CLIENT {
            return Err(TokenError::Purpose);
        }
        if claims.nbf > now.saturating_add(CLOCK_LEEWAY) {
            return Err(TokenError::NotYetValid);
        }
        let subject = match claims.provider.as_deref() {
            Some(ANONYMOUS_PROVIDER) if claims.sub.is_empty() => Subject::anonymous(),
            Some(provider) => Subject::new(provider, &claims.sub).map_err(|_| TokenError::Malformed)?,
            None => return Err(TokenError::Malformed),
        };
        Ok(VerifiedToken {
            subject,
            access: {
                let (by_harbor, by_policy): (Vec<_>, Vec<_>) =
                    claims.access.iter().partition(|claim| claim.by.as_deref() == Some(BY_HARBOR));
                let read = |claims: Vec<&AccessClaim>| claims.into_iter().filter_map(read_access).collect();
                TokenAccess { by_policy: read(by_policy), by_harbor: read(by_harbor) }
            },
            issued_at: claims.iat,
            expires_at: claims.exp,
            jti: claims.jti,
            sealed_secret: claims.secret,
        })
    }

    fn validation(&self, key: &SigningKey) -> Validation {
        let mut validation = Validation::new(key.algorithm().jose());
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.required_spec_claims = HashSet::from(["exp", "aud", "iss"].map(str::to_owned));
        // The end is the caller's to judge: an open upload session outlives it.
        validation.validate_exp = false;
        validation
    }

    /// A token under an unknown key. Only what is a client token of ours in every way but the key is
    /// told apart from what any client can make up: the form of the key's id, the algorithm, the length
    /// of the signature, and every claim.
    fn foreign(&self, header: &StrictHeader, payload: &str, signature: &str, now: u64) -> TokenError {
        let signature_bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).map_or(0, |bytes| bytes.len());
        let is_signed = match header.alg.as_str() {
            "ES256" => signature_bytes == ES256_BYTES,
            "RS256" => (RS256_BYTES_MIN..=RS256_BYTES_MAX).contains(&signature_bytes),
            _ => false,
        };
        let is_thumbprint = BASE64URL_NOPAD.decode(header.kid.as_bytes()).is_ok_and(|id| id.len() == 32);
        if header.typ != "JWT" || !is_signed || !is_thumbprint {
            return TokenError::UnknownKey;
        }
        match decode_part::<Claims>(payload) {
            Ok(claims)
                if claims.iss == self.issuer
                    && claims.aud == self.audience
                    && claims.purpose == USE_CLIENT
                    && claims.exp > now =>
            {
                TokenError::ForeignKey { kid: header.kid.clone() }
            }
            Ok(_) | Err(_) => TokenError::UnknownKey,
        }
    }
}

/// What one member wants its tokens to look like.
#[derive(Debug, Clone)]
pub struct MemberTokens {
    /// The `iss` that it expects.
    pub issuer: String,
    /// The `aud` that it expects.
    pub audience: String,
    /// How the `kid` is made.
    pub kid: KidStyle,
    /// Whether the certificate goes along.
    pub x5c: bool,
}

impl MemberTokens {
    /// Mints a token for the member, under `key`.
    ///
    /// # Errors
    /// [`KeyError`] when signing fails.
    pub fn mint(
        &self,
        key: &SigningKey,
        subject: &Subject,
        access: &[ResourceAccess],
        validity: Validity,
    ) -> Result<String, KeyError> {
        let mut header = serde_json::json!({
            "typ": "JWT", "alg": key.algorithm().as_str(), "kid": key.kid(self.kid),
        });
        if let (true, Some(certificate)) = (self.x5c, key.certificate()) {
            header["x5c"] = serde_json::json!([certificate]);
        }
        let claims = Claims::new(&self.issuer, &self.audience, subject, access, validity);
        compact(key, &header, &claims)
    }
}

fn read_access(claim: &AccessClaim) -> Option<ResourceAccess> {
    ResourceAccess::from_claim(&claim.kind, &claim.name, claim.actions.iter().map(String::as_str))
}

fn compact(key: &SigningKey, header: &serde_json::Value, claims: &Claims) -> Result<String, KeyError> {
    let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Crypto)?;
    let mut token = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(&claims, &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    Ok(token)
}

fn decode_part<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let json = BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests;
