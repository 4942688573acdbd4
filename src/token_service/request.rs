//! The parameters of a token request: the query of a GET, the form of a POST. Pure.

use secrecy::SecretString;

use crate::auth::credentials::Credentials;
use crate::auth::keys::KeyError;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct TokenParameters {
    /// Who asks.
    pub credentials: Credentials,
    /// The user's name, as the client states it beside the credentials.
    pub account: Option<String>,
    /// For which service.
    pub service: Option<String>,
    /// The scopes, one parameter each, each a space-separated list.
    pub scopes: Vec<String>,
    /// Whether it came as a POST, whose answer names the granted scope.
    pub by_post: bool,
}

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenRequestError {
    /// The request cannot be understood.
    #[error("{0}")]
    Malformed(&'static str),
    /// Another service than ours.
    #[error("unknown service; this gateway issues tokens for service \"{0}\"")]
    UnknownService(String),
    /// More scopes than are allowed.
    #[error("more than {0} scopes; ask for fewer repositories at once")]
    TooManyScopes(usize),
    /// The token would be larger than is allowed.
    #[error("the token would be larger than {0} bytes; ask for fewer repositories at once")]
    TooLarge(usize),
    /// A grant type that is not served, such as `refresh_token`.
    #[error("this grant type is not supported; use grant_type=password, or GET with Basic credentials")]
    UnsupportedGrant,
    /// The body is larger than is allowed, or did not come in time.
    #[error("the body is too large or too slow")]
    Body,
    /// Unknown user or wrong password.
    #[error("unknown user or wrong password")]
    WrongPassword,
    /// A login without credentials.
    #[error("credentials are required")]
    NoCredentials,
    /// Credentials on a connection without TLS.
    #[error("credentials are refused on a connection without TLS; use https")]
    Plaintext,
    /// Passwords cannot be checked now.
    #[error("logins cannot be checked now: too many at once, or the directory does not answer; try again")]
    Unavailable,
    /// The token cannot be signed.
    #[error("the token cannot be signed")]
    Key(#[from] KeyError),
}

impl TokenParameters {
    /// Reads the query of a GET.
    #[must_use]
    pub fn from_query(query: &str, header: Credentials) -> Self {
        let mut parameters =
            Self { credentials: header, account: None, service: None, scopes: Vec::new(), by_post: false };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            parameters.take(&key, &value);
        }
        parameters
    }

    /// Reads the form of a POST. Credentials in an `Authorization` header stand for the form's.
    ///
    /// # Errors
    /// [`TokenRequestError`] for a grant that is not served.
    pub fn from_form(form: &[u8], header: Credentials) -> Result<Self, TokenRequestError> {
        let mut parameters =
            Self { credentials: header, account: None, service: None, scopes: Vec::new(), by_post: true };
        let (mut grant, mut user, mut password) = (None, None, None);
        for (key, value) in form_urlencoded::parse(form) {
            match key.as_ref() {
                "grant_type" => grant = Some(value.into_owned()),
                "username" => user = Some(value.into_owned()),
                "password" => password = Some(SecretString::from(value.into_owned())),
                _ => parameters.take(&key, &value),
            }
        }
        let by_header = matches!(parameters.credentials, Credentials::Basic { .. });
        match grant.as_deref() {
            Some("password") => {}
            None if by_header => {}
            None => return Err(TokenRequestError::Malformed("`grant_type` is missing")),
            Some(_) => return Err(TokenRequestError::UnsupportedGrant),
        }
        if !by_header {
            let (Some(user), Some(password)) = (user, password) else {
                return Err(TokenRequestError::Malformed("`username` or `password` is missing"));
            };
            parameters.credentials = Credentials::Basic { user, password };
        }
        Ok(parameters)
    }

    fn take(&mut self, key: &str, value: &str) {
        match key {
            "scope" => self.scopes.push(value.to_owned()),
            "service" if !value.is_empty() => self.service = Some(value.to_owned()),
            "account" if !value.is_empty() => self.account = Some(value.to_owned()),
            // `client_id`, `offline_token` and `access_type` change nothing here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_come_repeated_and_joined_by_get_and_post() {
        let get = TokenParameters::from_query(
            "service=hub&scope=repository:a:pull&scope=repository:b:pull%20repository:c:pull&account=eve&offline_token=true",
            Credentials::None,
        );
        assert_eq!(get.scopes, ["repository:a:pull", "repository:b:pull repository:c:pull"]);
        assert_eq!((get.service.as_deref(), get.account.as_deref()), (Some("hub"), Some("eve")));
        let form = b"grant_type=password&username=eve&password=p%26w&scope=x&scope=y&service=&client_id=c&access_type=offline";
        let post = TokenParameters::from_form(form, Credentials::None).expect("valid");
        assert_eq!(post.scopes, ["x", "y"]);
        assert_eq!(post.service, None);
        assert!(matches!(post.credentials, Credentials::Basic { user, .. } if user == "eve"));
    }

    #[test]
    fn grants_that_are_not_served_are_named() {
        let parse = |form: &str| TokenParameters::from_form(form.as_bytes(), Credentials::None);
        assert!(matches!(
            parse("grant_type=refresh_token&refresh_token=x"),
            Err(TokenRequestError::UnsupportedGrant)
        ));
        assert!(matches!(parse("username=a&password=b"), Err(TokenRequestError::Malformed(_))));
        assert!(matches!(parse("grant_type=password&username=a"), Err(TokenRequestError::Malformed(_))));
        let basic = Credentials::Basic { user: "eve".to_owned(), password: SecretString::from("x") };
        assert!(TokenParameters::from_form(b"scope=x", basic).is_ok(), "a POST with a Basic header");
    }
}
