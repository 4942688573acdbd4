//! Whether a node takes a password, and whether its no can be believed.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::at::NodeAt;
use super::secret::ClientSecret;
use super::token::{NodeToken, TokenAnswer, request_token};
use crate::registry::ResourceAccess;
use crate::upstream::door;
use crate::upstream::probe::control_passes;

/// Harbor refuses a password after this long, and the name is locked for as long.
pub const LOCK: Duration = Duration::from_millis(1500);

/// A refusal that comes faster than this was not about the password: a refused one takes 1.5 s.
const HASTY: Duration = Duration::from_secs(1);
/// A refusal that comes later than this was not the lock alone: a directory that cannot be reached
/// takes its time too, and then Harbor refuses every client.
const LATE: Duration = Duration::from_millis(2800);
/// How long to let a lock pass.
const LOCK_MARGIN: Duration = Duration::from_millis(100);

/// A client's password on its way to a node.
#[derive(Clone, Copy)]
pub struct Password<'a> {
    /// With its name.
    pub secret: &'a ClientSecret,
    /// Whether it was right a moment ago; else it never was yet.
    pub was_right: bool,
}

/// What a node says of a password.
#[derive(Debug)]
pub enum Login {
    /// It is right.
    Right(NodeToken),
    /// It is wrong: the node took its time to say so, and takes our own account.
    Wrong,
    /// The node refuses our own account too, or fails: ask another.
    NodeFault(String),
    /// No answer in time, from the node or from a directory that hangs behind it.
    Silent,
    /// The node refuses this name at once, again and again, and takes our own account: the
    /// directory behind it is down, or another client keeps the name locked.
    NotNow(String),
}

/// A refusal, and what is to be made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Wrong,
    WaitForLock,
    Persistent,
    NodeFault,
}

/// Judges a refusal that took `took`, the node having taken our own account or not.
fn judge(took: Duration, account_passes: bool, waited: bool) -> Refusal {
    if !account_passes {
        Refusal::NodeFault
    } else if (HASTY..LATE).contains(&took) {
        Refusal::Wrong
    } else if waited {
        Refusal::Persistent
    } else {
        Refusal::WaitForLock
    }
}

/// How a password is tried.
#[derive(Clone, Copy)]
enum Trial<'a> {
    /// A token with this access.
    Token(&'a [ResourceAccess]),
    /// `GET /v2/`.
    Ping,
}

/// What came of a trial.
enum TrialOutcome {
    Taken(Option<NodeToken>),
    /// With the time that the node took to say so.
    Refused(Duration),
}

#[derive(Deserialize)]
struct SystemInfo {
    #[serde(default)]
    auth_mode: String,
}

impl NodeAt<'_> {
    /// Asks the node for a token with a client's password. The caller holds the turn of the name.
    pub async fn login(&self, password: Password<'_>, wanted: &[ResourceAccess], deadline: Instant) -> Login {
        match self.try_password(password, Trial::Token(wanted), deadline).await {
            Ok(Some(token)) => Login::Right(token),
            Ok(None) => Login::NodeFault("its token service gave no token".to_owned()),
            Err(login) => login,
        }
    }

    /// Asks the node whether it takes a client's password on `/v2/` now. The caller holds the turn
    /// of the name.
    ///
    /// # Errors
    /// A [`Login`] that is not `Right`.
    pub async fn check(&self, secret: &ClientSecret, deadline: Instant) -> Result<(), Login> {
        let password = Password { secret, was_right: true };
        self.try_password(password, Trial::Ping, deadline).await.map(drop)
    }

    /// A token for clients without credentials.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn anonymous_token(
        &self,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Result<NodeToken, String> {
        match request_token(&self.member.door, None, wanted, deadline).await? {
            (TokenAnswer::Token(token), _) => Ok(token),
            (TokenAnswer::Refused, _) => {
                Err("its token service refuses clients without credentials".to_owned())
            }
        }
    }

    async fn try_password(
        &self,
        password: Password<'_>,
        trial: Trial<'_>,
        deadline: Instant,
    ) -> Result<Option<NodeToken>, Login> {
        let Some(authorization) = password.secret.basic() else { return Err(Login::Wrong) };
        for waited in [false, true] {
            let outcome = self.ask_once(&authorization, trial, deadline).await;
            let outcome = outcome.map_err(|problem| {
                if Instant::now() >= deadline { Login::Silent } else { Login::NodeFault(problem) }
            });
            let took = match outcome? {
                TrialOutcome::Taken(token) => return Ok(token),
                TrialOutcome::Refused(took) => took,
            };
            let control = timeout_at(deadline, control_passes(self.member)).await;
            match judge(took, control.map_err(|_| Login::Silent)?, waited) {
                Refusal::Wrong => return Err(Login::Wrong),
                Refusal::NodeFault => {
                    return Err(Login::NodeFault(
                        "it refuses the account of `harbor.account` too".to_owned(),
                    ));
                }
                Refusal::Persistent => break,
                Refusal::WaitForLock if Instant::now() + LOCK + LOCK_MARGIN >= deadline => break,
                Refusal::WaitForLock => tokio::time::sleep(LOCK + LOCK_MARGIN).await,
            }
        }
        Err(self.explain(password, deadline).await)
    }

    async fn ask_once(
        &self,
        authorization: &HeaderValue,
        trial: Trial<'_>,
        deadline: Instant,
    ) -> Result<TrialOutcome, String> {
        let (door, authorization) = (&self.member.door, Some(authorization.clone()));
        match trial {
            Trial::Token(wanted) => Ok(match request_token(door, authorization, wanted, deadline).await? {
                (TokenAnswer::Token(token), _) if token.subject.is_some() => TrialOutcome::Taken(Some(token)),
                (TokenAnswer::Token(_) | TokenAnswer::Refused, took) => TrialOutcome::Refused(took),
            }),
            Trial::Ping => {
                let question = door::Question::get("/v2/").with(AUTHORIZATION, authorization);
                let reply = door.ask(question, deadline).await.map_err(|error| error.to_string())?;
                match reply.status {
                    StatusCode::OK => Ok(TrialOutcome::Taken(None)),
                    StatusCode::UNAUTHORIZED => Ok(TrialOutcome::Refused(reply.took)),
                    status => Err(format!("GET /v2/ was answered {status}")),
                }
            }
        }
    }

    /// A name was refused at once, twice, with the lock waited out in between. With a directory or
    /// a database that means that it is not there; with OIDC, where the node compares a secret of
    /// its own and locks nothing, that the secret is wrong.
    async fn explain(&self, password: Password<'_>, deadline: Instant) -> Login {
        let Password { secret, was_right } = password;
        let target = format!("{}/systeminfo", self.node.api());
        let info = self.node.ask(&self.member.door, &target, None, deadline).await;
        let mode = info.ok().and_then(|reply| serde_json::from_slice::<SystemInfo>(&reply.body).ok());
        match mode.as_ref().map(|info| info.auth_mode.as_str()) {
            // Not for a secret that was right a moment ago, nor for the one local account.
            Some("oidc_auth") if !was_right && secret.name() != "admin" => Login::Wrong,
            Some("db_auth") => {
                Login::NotNow("the name is locked there by wrong passwords of somebody else".to_owned())
            }
            mode => {
                let mode = mode.filter(|mode| !mode.is_empty()).unwrap_or("directory");
                Login::NotNow(format!(
                    "it refuses names at once: the directory behind it ({mode}) does not answer"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_counts_only_when_it_is_slow_and_our_own_account_passes() {
        let (fast, slow) = (Duration::from_millis(3), Duration::from_millis(1502));
        let late = Duration::from_millis(3100);
        for (took, passes, waited, expected) in [
            (slow, true, false, Refusal::Wrong),
            (slow, true, true, Refusal::Wrong),
            (slow, false, false, Refusal::NodeFault),
            (fast, false, false, Refusal::NodeFault),
            (fast, true, false, Refusal::WaitForLock),
            (fast, true, true, Refusal::Persistent),
            (late, true, false, Refusal::WaitForLock),
            (late, true, true, Refusal::Persistent),
            (late, false, true, Refusal::NodeFault),
        ] {
            assert_eq!(judge(took, passes, waited), expected, "{took:?} {passes} {waited}");
        }
    }
}
