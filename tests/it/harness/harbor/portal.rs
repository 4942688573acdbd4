//! The portal: static files, and its first page for every path it does not have.

use http::Method;

use super::answer::{self, Answer};
use super::node::Node;

const HTML: &str = "text/html";

/// Enough of the portal for a browser: it logs in and out, shows who is logged in and creates a project. The token against forged requests
/// is kept as the real one keeps it: the last one of any answer, in the local storage; after a 403 the call is made once more.
const SCRIPT: &str = r"'use strict';
const CSRF_HEADER = 'X-Harbor-CSRF-Token', CSRF_KEY = '__csrf';
async function call(method, path, body, type, again = true) {
  const headers = {};
  if (type) { headers['Content-Type'] = type; }
  const token = localStorage.getItem(CSRF_KEY);
  if (token && method !== 'GET') { headers[CSRF_HEADER] = token; }
  const answer = await fetch(path, { method, headers, body, credentials: 'same-origin' });
  const next = answer.headers.get(CSRF_HEADER);
  if (next) { localStorage.setItem(CSRF_KEY, next); }
  if (answer.status === 403 && next && again) { return call(method, path, body, type, false); }
  return answer;
}
function show(id, text) { document.getElementById(id).textContent = text; }
async function showUser() {
  const answer = await call('GET', '/api/v2.0/users/current');
  show('current_user', answer.ok ? (await answer.json()).username : '');
}
async function logIn(event) {
  event.preventDefault();
  const form = new URLSearchParams();
  form.set('principal', document.getElementById('login_username').value);
  form.set('password', document.getElementById('login_password').value);
  const answer = await call('POST', '/c/login', form.toString(), 'application/x-www-form-urlencoded');
  show('result', 'login ' + answer.status);
  await showUser();
}
async function createProject() {
  const name = document.getElementById('project_name').value || 'p' + Date.now();
  const body = JSON.stringify({ project_name: name, metadata: { public: 'false' } });
  const answer = await call('POST', '/api/v2.0/projects', body, 'application/json');
  show('result', answer.status + ' ' + name);
}
async function logOut() {
  const answer = await call('GET', '/c/log_out');
  show('result', 'logout ' + answer.status);
  await showUser();
}
document.getElementById('login_form').addEventListener('submit', logIn);
document.getElementById('create_project').addEventListener('click', createProject);
document.getElementById('log_out').addEventListener('click', logOut);
showUser();
";

fn index(build: &str) -> String {
    format!(
        r#"<!doctype html>
<html>
<head>
<meta charset="utf-8">
<title>Harbor</title>
<base href="/">
<link rel="icon" type="image/x-icon" href="favicon.ico?v=2">
<link rel="stylesheet" href="styles.{build}.css">
</head>
<body>
<form id="login_form">
<input id="login_username" name="login_username" autocomplete="off">
<input id="login_password" name="login_password" type="password" autocomplete="off">
<button id="log_in" type="submit">LOG IN</button>
</form>
<p>User: <span id="current_user"></span> <button id="log_out" type="button">LOG OUT</button></p>
<p><input id="project_name"><button id="create_project" type="button">NEW PROJECT</button></p>
<p id="result"></p>
<script src="runtime.{build}.js" defer></script>
<script src="main.{build}.js" defer></script>
</body>
</html>
"#
    )
}

/// Answers `GET` and `HEAD`. The names of scripts and styles hold the build, so those of another version are the first page.
pub(super) fn answer(node: &Node, method: &Method, path: &str) -> Answer {
    if *method != Method::GET && *method != Method::HEAD {
        return answer::nginx_page(405, "Not Allowed");
    }
    let build = &node.portal_build;
    if let Some(file) = path.strip_prefix('/').and_then(|path| path.strip_suffix(".js")) {
        if file == format!("main.{build}") {
            return file_of("application/javascript", SCRIPT);
        }
        if file == format!("runtime.{build}") {
            return file_of("application/javascript", "'use strict';\n");
        }
    }
    if path == format!("/styles.{build}.css") {
        return file_of("text/css", "body { font-family: sans-serif }\n");
    }
    match path {
        "/setting.json" => file_of(answer::JSON, "{\"headerBgColor\":\"\",\"product\":{\"name\":\"\"}}\n"),
        "/i18n/lang/en-us-lang.json" => {
            file_of(answer::JSON, "{\"APP_TITLE\":{\"VMW_HARBOR\":\"Harbor\"}}\n")
        }
        "/favicon.ico" => file_of("image/x-icon", "\0\0\u{1}\0"),
        "/images/harbor-logo.svg" => {
            file_of("image/svg+xml", "<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>\n")
        }
        "/LICENSE" => file_of("text/plain", "Apache License\nVersion 2.0, January 2004\n"),
        "/swagger.json" => {
            file_of(answer::JSON, "{\"swagger\":\"2.0\",\"info\":{\"title\":\"Harbor API\"}}\n")
        }
        "/devcenter-api-2.0" => file_of(HTML, "<!doctype html>\n<title>Harbor Swagger</title>\n"),
        _ => {
            let mut answer = answer::content(200, HTML, index(build));
            answer::set(&mut answer, "cache-control", "no-store, no-cache, must-revalidate");
            answer
        }
    }
}

fn file_of(content_type: &str, body: &'static str) -> Answer {
    answer::content(200, content_type, body)
}
