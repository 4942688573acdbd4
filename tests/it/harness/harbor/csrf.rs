//! Core's guard against forged requests: gorilla/csrf with the key of this node, in the cookie `_gorilla_csrf` and the header
//! `X-Harbor-CSRF-Token`.

use aws_lc_rs::hmac;
use data_encoding::{BASE64, BASE64URL};
use http::{HeaderValue, Method};

use super::answer::{self, Answer};
use super::core::CoreRequest;
use super::node::Node;

const COOKIE: &str = "_gorilla_csrf";
const MAX_AGE: u64 = 43_200;
const TOKEN_BYTES: usize = 32;

/// What the guard adds to the answer of a request it looked at.
#[derive(Debug)]
pub(super) struct Guard {
    real: Vec<u8>,
    /// Set where the request had no cookie of this node's key.
    new_cookie: Option<String>,
}

/// Whether the guard looks at a request at all: always on `/c/`, elsewhere only when it has a session cookie, valid or not.
pub(super) fn looks_at(request: &CoreRequest) -> bool {
    let path = &request.raw_path;
    let is_api = ["/v2/", "/api/", "/service/"].iter().any(|prefix| path.starts_with(prefix));
    !is_api || request.cookie("sid").is_some()
}

impl Guard {
    pub(super) fn of(node: &Node, request: &CoreRequest) -> Self {
        let known = request.cookie(COOKIE).and_then(|cookie| open(node, &cookie));
        match known {
            Some(real) => Self { real, new_cookie: None },
            None => {
                let real = random(TOKEN_BYTES);
                let cookie = seal(node, &real);
                Self { real, new_cookie: Some(cookie) }
            }
        }
    }

    pub(super) fn refuses(&self, request: &CoreRequest) -> bool {
        let harmless = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE];
        if harmless.contains(&request.method) {
            return false;
        }
        // A new cookie means that no token can belong to it.
        self.new_cookie.is_some()
            || request.header("x-harbor-csrf-token").is_none_or(|token| !self.fits(token))
    }

    fn fits(&self, token: &str) -> bool {
        let Ok(masked) = BASE64.decode(token.as_bytes()) else { return false };
        masked.len() == 2 * TOKEN_BYTES && xor(&masked[..TOKEN_BYTES], &masked[TOKEN_BYTES..]) == self.real
    }

    /// The refusal, which has the token that would have been right.
    pub(super) fn refusal(&self, node: &Node) -> Answer {
        let mut answer = answer::error(403, "FORBIDDEN", "CSRF token invalid");
        self.mark(node, &mut answer);
        answer
    }

    /// Adds the token, and the cookie where there is a new one. Every token of one cookie is another and all of them are right.
    pub(super) fn mark(&self, node: &Node, answer: &mut Answer) {
        let mask = random(TOKEN_BYTES);
        let masked = [mask.clone(), xor(&mask, &self.real)].concat();
        answer::set(answer, "x-harbor-csrf-token", &BASE64.encode(&masked));
        if let Some(cookie) = &self.new_cookie {
            let secure = if node.endpoint.starts_with("http://") { "" } else { " Secure;" };
            let expires = node.http_date(MAX_AGE);
            let cookie = format!(
                "{COOKIE}={cookie}; Path=/; Expires={expires}; Max-Age={MAX_AGE}; HttpOnly;{secure} SameSite=Strict"
            );
            answer.headers_mut().append("set-cookie", HeaderValue::from_str(&cookie).expect("a cookie"));
        }
    }
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

/// A cookie as gorilla/securecookie makes it: time, value and MAC between bars.
fn seal(node: &Node, real: &[u8]) -> String {
    let json = format!("\"{}\"\n", BASE64.encode(real));
    let signed = format!("{}|{}", node.unix_now(), BASE64URL.encode(json.as_bytes()));
    let mac = hmac::sign(&key(node), format!("{COOKIE}|{signed}").as_bytes());
    BASE64URL.encode(&[format!("{signed}|").as_bytes(), mac.as_ref()].concat())
}

fn open(node: &Node, cookie: &str) -> Option<Vec<u8>> {
    let bytes = BASE64URL.decode(cookie.as_bytes()).ok()?;
    let mac_at = bytes.len().checked_sub(TOKEN_BYTES + 1)?;
    let (signed, mac) = (std::str::from_utf8(&bytes[..mac_at]).ok()?, &bytes[mac_at + 1..]);
    hmac::verify(&key(node), format!("{COOKIE}|{signed}").as_bytes(), mac).ok()?;
    let (made, value) = signed.split_once('|')?;
    if made.parse::<u64>().ok()? + MAX_AGE < node.unix_now() {
        return None;
    }
    let json = String::from_utf8(BASE64URL.decode(value.as_bytes()).ok()?).ok()?;
    BASE64.decode(json.trim().trim_matches('"').as_bytes()).ok()
}

fn key(node: &Node) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, node.csrf_key.as_bytes())
}
