//! Who a request is from, as core's security middlewares find out: one after the other, and the first that knows the caller wins.

use data_encoding::BASE64;
use http::header::AUTHORIZATION;
use tokio::time::{Duration, Instant};

use super::core::CoreRequest;
use super::database::{Account, Action, HarborDatabase};
use super::node::Node;
use super::tokens::{self, TokenAccess};

/// How long a wrong password is waited for, and the typed name locked.
const FROZEN: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone)]
pub(super) enum Caller {
    Anonymous,
    User {
        name: String,
        admin: bool,
    },
    Robot {
        name: String,
    },
    /// Somebody with a token of this node. Who it is does not matter, only what the token says.
    Token(TokenAccess),
    /// One of Harbor's own services, by the secret they share.
    Service,
}

impl Caller {
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User { name, .. } | Self::Robot { name } => Some(name),
            Self::Token(access) => access.subject.as_deref(),
            Self::Service => Some("harbor-jobservice"),
        }
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.name().is_some()
    }

    pub(super) fn is_admin(&self) -> bool {
        matches!(self, Self::User { admin: true, .. } | Self::Service)
    }

    pub(super) fn may(&self, database: &HarborDatabase, project: &str, action: Action) -> bool {
        match self {
            Self::Anonymous => {
                action == Action::Pull && database.find_project(project).is_some_and(|project| project.public)
            }
            Self::User { name, .. } => database.user_may(name, project, action),
            Self::Robot { name } => database.robot_may(name, project, action),
            Self::Token(access) => access.allows(project, action),
            Self::Service => true,
        }
    }
}

/// The caller of `request`. Takes as long as core takes: 1.5 s for a wrong password, for ever while the directory hangs.
pub(super) async fn caller_of(node: &Node, request: &CoreRequest) -> Caller {
    let authorization = request.header(AUTHORIZATION.as_str()).unwrap_or_default();
    if let Some(secret) = authorization.strip_prefix("Harbor-Secret ")
        && secret == node.harbor_secret
    {
        return Caller::Service;
    }
    // The scheme's name is matched letter by letter, unlike that of Basic.
    if let Some(token) = authorization.strip_prefix("Bearer ")
        && request.path.starts_with("/v2")
        && let Some(access) = tokens::verify(node, token.trim())
    {
        return Caller::Token(access);
    }
    if let Some((name, password)) = basic_credentials(authorization)
        && let Some(caller) = by_password(node, &name, &password).await
    {
        return caller;
    }
    by_session(node, request).unwrap_or(Caller::Anonymous)
}

fn basic_credentials(authorization: &str) -> Option<(String, String)> {
    let (scheme, value) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(value.trim().as_bytes()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

async fn by_password(node: &Node, name: &str, password: &str) -> Option<Caller> {
    if node.faults().database_gone {
        // Not a wrong password, so nobody waits and nothing is locked.
        return None;
    }
    if node.database.cli_secret_fits(name, password) {
        return Some(user(node, name));
    }
    if name.starts_with("robot$") && node.database.robot_secret_fits(name, password) {
        return Some(Caller::Robot { name: name.to_owned() });
    }
    log_in(node, name, password).await.map(|name| user(node, &name))
}

fn user(node: &Node, name: &str) -> Caller {
    let admin = node.database.find_user(name).is_some_and(|user| user.admin);
    Caller::User { name: name.to_owned(), admin }
}

/// The login that Basic and the portal share, with the lock that is this node's own. The name is the one the account has.
pub(super) async fn log_in(node: &Node, typed: &str, password: &str) -> Option<String> {
    if node.is_locked(typed) {
        return None;
    }
    let fits = match node.database.account(typed, password) {
        Account::Local { name, fits } => fits.then_some(name),
        Account::InDirectory { name, fits } => {
            if !node.directory.reach().await {
                return None;
            }
            fits.then_some(name)
        }
        Account::Unknown => None,
    };
    if fits.is_none() {
        node.lock(typed, Instant::now() + FROZEN);
        tokio::time::sleep(FROZEN).await;
    }
    fits
}

fn by_session(node: &Node, request: &CoreRequest) -> Option<Caller> {
    if node.faults().redis_gone {
        return None;
    }
    let name = node.redis.session(&request.cookie("sid")?)?.user?;
    Some(user(node, &name))
}
