//! A real browser without a screen: Chromium, driven through its own WebDriver (W3C WebDriver, over plain HTTP). Its processes live in
//! a namespace of their own and end with it.

use std::path::Path;

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{TestClient, whole};
use super::clients::COMMAND_LIMIT;
use super::process::{self, Daemon};
use super::{Result, wait};

const CHROMIUM: &str = "/usr/bin/chromium";
/// The name of an element's id in the answers (WebDriver, section 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// What the driver says when its port is taken at 127.0.0.1.
const PORT_TAKEN: &str = "IPv4 port not available";
/// Of about 28,000 numbers other tests hold some hundreds, so that two attempts are rare and this many do not happen.
const PORT_ATTEMPTS: usize = 10;
/// What keeps it to the page it is told to open. The last one leaves it nobody else's name to look up.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// A running Chromium with a profile and a home of its own.
#[derive(Debug)]
pub(crate) struct Chromium {
    driver: Daemon,
    /// The path of the WebDriver session.
    session: String,
    client: TestClient,
    _dir: TempDir,
}

impl Chromium {
    /// Starts one that trusts the authority in this file besides those it came with.
    pub(crate) async fn trusting(authority_file: &Path) -> Self {
        let dir = home();
        let database = format!("sql:{}", dir.path().join(".pki/nssdb").display());
        let add = ["-A", "-t", "C,,", "-n", "Tidegate test authority", "-i"];
        for arguments in [&["-N", "--empty-password"][..], &add] {
            let mut command = process::command("certutil");
            command.args(["-d", &database]).args(arguments);
            if arguments == add {
                command.arg(authority_file);
            }
            process::run(command, COMMAND_LIMIT).await.unwrap_or_else(|error| panic!("{error:#}"));
        }
        Self::start(dir).await
    }

    /// Starts one that trusts nobody but those it came with.
    pub(crate) async fn as_installed() -> Self {
        Self::start(home()).await
    }

    async fn start(dir: TempDir) -> Self {
        let (driver, port) = start_driver(dir.path()).await;
        let address = ([127, 0, 0, 1], port).into();
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        let mut browser =
            Self { driver, session: String::new(), client: TestClient::plain(address), _dir: dir };
        let arguments: Vec<_> = ARGUMENTS.into_iter().chain([profile.as_str()]).collect();
        let options = json!({ "binary": CHROMIUM, "args": arguments });
        let capabilities =
            json!({ "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } });
        let session = browser.call(Method::POST, "/session", &json!({ "capabilities": capabilities })).await;
        let session = session.unwrap_or_else(|error| panic!("{error:#}\n{}", browser.driver.output_tail()));
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("an id"));
        browser
    }

    /// Opens a page and waits until it, or Chromium's own page about what is wrong with it, has loaded.
    pub(crate) async fn open(&self, url: &str) -> Result<()> {
        self.in_session(Method::POST, "/url", &json!({ "url": url })).await?;
        Ok(())
    }

    /// The page as HTML, with what its scripts made of it.
    pub(crate) async fn source(&self) -> Result<String> {
        let source = self.in_session(Method::GET, "/source", &Value::Null).await?;
        Ok(source.as_str().context("a text")?.to_owned())
    }

    /// Types into a field, in the place of what it has.
    pub(crate) async fn fill(&self, id: &str, text: &str) -> Result<()> {
        let element = self.element(id).await?;
        self.in_session(Method::POST, &format!("{element}/clear"), &json!({})).await?;
        self.in_session(Method::POST, &format!("{element}/value"), &json!({ "text": text })).await?;
        Ok(())
    }

    pub(crate) async fn click(&self, id: &str) -> Result<()> {
        let element = self.element(id).await?;
        self.in_session(Method::POST, &format!("{element}/click"), &json!({})).await?;
        Ok(())
    }

    /// The text of an element, as a user sees it.
    pub(crate) async fn text(&self, id: &str) -> Result<String> {
        let element = self.element(id).await?;
        let text = self.in_session(Method::GET, &format!("{element}/text"), &Value::Null).await?;
        Ok(text.as_str().context("a text")?.to_owned())
    }

    /// Waits until an element says this; panics with what it says instead.
    pub(crate) async fn wait_for_text(&self, id: &str, expected: &str) {
        let mut last = None;
        let seen = wait::try_until(async || {
            let told = self.text(id).await;
            let fits = told.as_ref().is_ok_and(|text| text == expected);
            last = Some(told);
            fits.then_some(())
        });
        let seen = seen.await;
        assert!(seen.is_some(), "#{id} is not {expected:?} but {last:?}");
    }

    async fn element(&self, id: &str) -> Result<String> {
        let selector = json!({ "using": "css selector", "value": format!("#{id}") });
        let found = self.in_session(Method::POST, "/element", &selector).await?;
        Ok(format!("/element/{}", found[ELEMENT].as_str().context("an element")?))
    }

    async fn in_session(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        self.call(method, &format!("{}{path}", self.session), body).await
    }

    /// A command of WebDriver; an error of the browser is the error's message.
    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let text = if method == Method::GET { String::new() } else { body.to_string() };
        let request = self.client.request(method.clone(), path).header("content-type", "application/json");
        let answer = self.client.try_send(request.body(whole(text))).await?;
        let value = answer.try_json()?["value"].take();
        if answer.status != 200 {
            bail!("{method} {path} {body}: {}", value["message"].as_str().unwrap_or("no message"));
        }
        Ok(value)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.driver.kill_isolated();
    }
}

/// Starts the driver at a port that the system chooses for `::1`. The driver takes the same number at 127.0.0.1, and ends if a socket
/// of another test has it there; then the system is asked for another one.
async fn start_driver(dir: &Path) -> (Daemon, u16) {
    for attempt in 0..PORT_ATTEMPTS {
        let mut command = process::isolated_command("chromedriver", false);
        command.arg("--port=0").env("HOME", dir);
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "DISPLAY"] {
            command.env_remove(name);
        }
        let mut driver = Daemon::start(&format!("chromedriver-{attempt}"), command, dir);
        let listening = wait::until("a driver that listens or has ended", async || {
            let ended = driver.exit_status().is_some();
            match port_in(&driver.stdout()) {
                Some(port) => Some(Some(port)),
                None => ended.then_some(None),
            }
        });
        if let Some(port) = listening.await {
            return (driver, port);
        }
        assert!(driver.stdout().contains(PORT_TAKEN), "{}", driver.output_tail());
    }
    panic!("no port is free at both addresses after {PORT_ATTEMPTS} attempts")
}

/// The port that the driver says it listens on.
fn port_in(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("was started successfully on port ")?;
    rest.split_once('.')?.0.parse().ok()
}

/// A home with an empty directory for the certificates that its user trusts.
fn home() -> TempDir {
    let dir = TempDir::with_prefix("tidegate-chromium-").expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join(".pki/nssdb")).expect("a directory");
    dir
}
