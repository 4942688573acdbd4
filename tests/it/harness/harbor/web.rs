//! `/c/` of core: what browsers log in and out with.

use http::Method;

use super::answer::{self, Answer};
use super::core::{CoreRequest, SessionSlot, uuid};
use super::database::AuthMode;
use super::identity::{self, Caller};
use super::node::Node;

const FORM_BYTES_MAX: usize = 64 << 10;
/// Where the provider of OpenID logins would be. Tests follow the redirect themselves.
const PROVIDER: &str = "http://oidc.invalid/authorize";

pub(super) async fn answer(
    node: &Node,
    request: CoreRequest,
    caller: &Caller,
    session: &mut SessionSlot,
) -> Answer {
    match (&request.method, request.path.as_str()) {
        (&Method::POST, "/c/login") => log_in(node, request, session).await,
        (&Method::GET, "/c/log_out") => {
            session.log_out(node);
            answer::empty(200)
        }
        (&Method::POST, "/c/userExists") => user_exists(node, request, caller).await,
        (&Method::GET, "/c/oidc/login") => oidc_login(node, session),
        (&Method::GET, "/c/oidc/callback") => oidc_callback(node, &request, session),
        (&Method::GET, "/c/authproxy/redirect") => {
            let mode = node.database.data().auth_mode.name();
            let message = format!("the auth mode {mode} does not support this flow");
            answer::error(412, "PRECONDITION_FAILED", &message)
        }
        _ => answer::page_not_found(),
    }
}

async fn form(request: CoreRequest) -> Vec<(String, String)> {
    let body = request.body.read(FORM_BYTES_MAX).await.unwrap_or_default();
    form_urlencoded::parse(&body).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

async fn log_in(node: &Node, request: CoreRequest, session: &mut SessionSlot) -> Answer {
    let form = form(request).await;
    if node.faults().database_gone {
        return answer::empty(401);
    }
    match identity::log_in(node, field(&form, "principal"), field(&form, "password")).await {
        Some(name) => {
            session.log_in(node, &name);
            answer::empty(200)
        }
        None => answer::empty(401),
    }
}

/// Tells whether a name or address is taken, as `true` or `false`.
async fn user_exists(node: &Node, request: CoreRequest, caller: &Caller) -> Answer {
    if !caller.is_admin() && node.database.data().auth_mode != AuthMode::Database {
        return answer::error(412, "PRECONDITION_FAILED", "self registration deactivated");
    }
    let form = form(request).await;
    let value = field(&form, "value");
    let taken = match field(&form, "target") {
        "username" => node.database.find_user(value).is_some(),
        _ => false,
    };
    answer::content(200, answer::JSON_UTF8, taken.to_string())
}

fn oidc_login(node: &Node, session: &SessionSlot) -> Answer {
    let mode = node.database.data().auth_mode;
    if mode != AuthMode::Oidc {
        let message = format!("auth mode: {} is not OIDC based", mode.name());
        return answer::error(412, "PRECONDITION_FAILED", &message);
    }
    let state = uuid();
    node.redis.update(&session.sid, |session| session.oidc_state = Some(state.clone()));
    let back = format!("{}/c/oidc/callback", node.endpoint);
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("client_id", "harbor")
        .append_pair("redirect_uri", &back)
        .append_pair("response_type", "code")
        .append_pair("scope", "openid")
        .append_pair("state", &state)
        .finish();
    redirect(&format!("{PROVIDER}?{query}"))
}

/// The way back from the provider. Only the node, or the redis, that has the session knows the state. The code that a real provider
/// would exchange for a name is the name itself.
fn oidc_callback(node: &Node, request: &CoreRequest, session: &mut SessionSlot) -> Answer {
    let expected = node.redis.session(&session.sid).and_then(|session| session.oidc_state);
    if expected.is_none() || request.query("state") != expected {
        return answer::error(400, "BAD_REQUEST", "State mismatch.");
    }
    let name = request.query("code").unwrap_or_default();
    match node.database.find_user(&name) {
        Some(user) => {
            session.log_in(node, &user.name);
            redirect("/")
        }
        None => redirect(&format!("/oidc-onboard?username={name}&redirect_url=/")),
    }
}

fn redirect(to: &str) -> Answer {
    let mut answer = answer::empty(302);
    answer::set(&mut answer, "location", to);
    answer
}
