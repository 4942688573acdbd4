//! The real gateway: the `tidegate` binary of this build with a configuration from a test, its logs and its admin listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::client::{Answer, TestClient, sure};
use super::clients::COMMAND_LIMIT;
use super::process::{self, Daemon, Finished};
use super::{Result, wait};

/// What a listener is for, as the `listening` log line calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    Tls,
    Plain,
    Redirect,
    Admin,
}

impl ListenerKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Plain => "plain",
            Self::Redirect => "redirect",
            Self::Admin => "admin",
        }
    }
}

/// One finished request as the access log tells it.
#[derive(Debug, Clone)]
pub(crate) struct AccessLine(pub(crate) Value);

impl AccessLine {
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.text("method")
    }

    /// The kind of the route: `ping`, `manifest`, `blob`, `tags`, `upload_start`, `upload`, `token`, ...
    pub(crate) fn route(&self) -> &str {
        self.text("route")
    }

    /// Empty where the request is about no repository.
    pub(crate) fn repository(&self) -> &str {
        self.text("repository")
    }

    pub(crate) fn member(&self) -> &str {
        self.text("member")
    }

    pub(crate) fn status(&self) -> u16 {
        self.0["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or_default()
    }
}

/// A running gateway; killed on drop unless [`Self::stop`] ended it properly.
#[derive(Debug)]
pub(crate) struct Gateway {
    daemon: Daemon,
    config: PathBuf,
}

/// The `tidegate` binary of this build with `arguments`, for its subcommands that end by themselves.
pub(crate) fn tidegate(arguments: &[&str]) -> Command {
    let mut command = process::command(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments);
    command
}

/// Writes a file as a careful operator does: beside it first, so that a gateway that looks at it by itself never finds half of it.
pub(crate) fn replace_file(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content).expect("a file on disk");
    std::fs::rename(&beside, path).expect("the file in its place");
}

impl Gateway {
    /// Writes `config` to `dir/tidegate.yaml`, starts the gateway and waits until it is ready.
    pub(crate) async fn start(config: &str, dir: &Path) -> Self {
        let mut gateway = Self::spawn(config, dir);
        let ready = wait::try_until(async || {
            let ended = gateway.daemon.exit_status().is_some();
            (ended || gateway.find_log(|line| line["message"] == "ready").is_some()).then_some(!ended)
        });
        let ready = ready.await;
        assert_eq!(
            ready,
            Some(true),
            "the gateway did not get ready\n{config}\n{}",
            gateway.daemon.output_tail()
        );
        gateway
    }

    /// Starts the gateway and waits for nothing, for configurations it must refuse.
    pub(crate) fn spawn(config: &str, dir: &Path) -> Self {
        let path = dir.join("tidegate.yaml");
        std::fs::write(&path, config).expect("a configuration file");
        Self::spawn_with(&["serve", "--config", path.to_str().expect("a readable path")], dir)
    }

    /// Starts the program with any arguments of `serve`.
    pub(crate) fn spawn_with(arguments: &[&str], dir: &Path) -> Self {
        Self::adopt(tidegate(arguments), dir)
    }

    /// Starts any command that ends up as a gateway with `dir/tidegate.yaml`.
    pub(crate) fn adopt(command: Command, dir: &Path) -> Self {
        // Each start has logs of its own, so that nothing in them is of an earlier one.
        let logs = (1..).map(|run| dir.join(format!("run{run}"))).find(|logs| !logs.exists());
        let logs = logs.expect("fewer starts than numbers");
        std::fs::create_dir(&logs).expect("a directory for the logs");
        let daemon = Daemon::start("tidegate", command, &logs);
        Self { daemon, config: dir.join("tidegate.yaml") }
    }

    /// The address of the first listener of this kind.
    pub(crate) fn address(&self, kind: ListenerKind) -> SocketAddr {
        let listening = |line: &Value| line["message"] == "listening" && line["kind"] == kind.as_str();
        let line = self
            .find_log(listening)
            .unwrap_or_else(|| panic!("no {kind:?} listener\n{}", self.daemon.output_tail()));
        line["address"]
            .as_str()
            .and_then(|address| address.parse().ok())
            .expect("an address in the `listening` line")
    }

    /// A client of the TLS listener.
    pub(crate) fn client(&self, authority_file: &Path) -> TestClient {
        TestClient::tls(self.address(ListenerKind::Tls), authority_file)
    }

    pub(crate) fn plain_client(&self) -> TestClient {
        TestClient::plain(self.address(ListenerKind::Plain))
    }

    pub(crate) fn admin(&self) -> TestClient {
        TestClient::plain(self.address(ListenerKind::Admin))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A figure of the process in KiB: `VmRSS` is its resident memory, `VmHWM` the most that it ever had.
    pub(crate) fn memory_kib(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).expect("the field");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Every log line so far, oldest first. A line that is not JSON (a panic's text) is kept as its `message`.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|_| serde_json::json!({ "message": line }))
        };
        self.daemon.stderr().lines().map(parse).collect()
    }

    pub(crate) fn find_log(&self, predicate: impl Fn(&Value) -> bool) -> Option<Value> {
        self.log_lines().into_iter().find(predicate)
    }

    /// Waits for a log line; panics with the end of the log when it does not come.
    pub(crate) async fn wait_for_log(&self, what: &str, predicate: impl Fn(&Value) -> bool) -> Value {
        let line = wait::try_until(async || self.find_log(&predicate)).await;
        line.unwrap_or_else(|| panic!("no log line: {what}\n{}", self.daemon.output_tail()))
    }

    /// The access log so far. A line is written when the answer's body has ended.
    pub(crate) fn access_log(&self) -> Vec<AccessLine> {
        self.daemon
            .stdout()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .map(AccessLine)
            .collect()
    }

    /// The member that served the request of this answer, once its line is written.
    pub(crate) async fn served_by(&self, answer: &Answer) -> String {
        let id = answer.header("x-request-id").expect("an id").to_owned();
        wait::until("the line of the request", async || {
            let line = self.access_log().into_iter().find(|line| line.text("request_id") == id);
            line.map(|line| line.member().to_owned())
        })
        .await
    }

    /// Replaces the configuration file, reloads, and returns the line that tells how it went.
    pub(crate) async fn reload_with(&self, config: &str) -> Value {
        replace_file(&self.config, config);
        self.reload().await
    }

    /// Sends SIGHUP and waits for the line that begins with `reloaded` or `reload refused`.
    pub(crate) async fn reload(&self) -> Value {
        let outcome = |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            message == "reloaded" || message.starts_with("reload refused")
        };
        let before = self.log_lines().into_iter().filter(outcome).count();
        self.daemon.signal(Signal::HUP);
        let line = wait::try_until(async || self.log_lines().into_iter().filter(outcome).nth(before)).await;
        line.unwrap_or_else(|| panic!("no outcome of the reload\n{}", self.daemon.output_tail()))
    }

    /// Every sample of `/metrics`, with its labels as they stand there.
    #[track_caller]
    pub(crate) fn metrics(&self) -> impl Future<Output = Metrics> {
        sure(self.try_metrics())
    }

    /// As [`Self::metrics`], where the gateway may be gone.
    pub(crate) async fn try_metrics(&self) -> Result<Metrics> {
        let answer = self.admin().try_get("/metrics").await?.ensure(200)?;
        Ok(Metrics::parse(&answer.text()))
    }

    /// Waits until the sum of a metric is at least this much.
    pub(crate) async fn wait_for_metric(&self, name: &str, labels: &[&str], least: f64) {
        wait::until(&format!("{name} {labels:?} to be {least}"), async || {
            (self.metrics().await.sum(name, labels) >= least).then_some(())
        })
        .await;
    }

    /// Waits until the metrics tell this state of a member.
    pub(crate) async fn wait_for_state(&self, member: &str, state: &str) {
        let labels = [format!("member=\"{member}\""), format!("state=\"{state}\"")];
        self.wait_for_metric("tidegate_member_state", &labels.each_ref().map(String::as_str), 1.0).await;
    }

    /// What `/status` says.
    #[track_caller]
    pub(crate) fn status(&self) -> impl Future<Output = Value> {
        let admin = self.admin();
        sure(async move { admin.try_get("/status").await?.ensure(200)?.try_json() })
    }

    /// Runs a subcommand that talks to this gateway by its control socket.
    pub(crate) async fn control(&self, arguments: &[&str]) -> Finished {
        let mut command = tidegate(arguments);
        command.arg("--config").arg(&self.config);
        process::finish(command, COMMAND_LIMIT).await.expect("it runs")
    }

    /// Begins the drain without waiting for its end.
    pub(crate) fn terminate(&self) {
        self.daemon.signal(Signal::TERM);
    }

    /// Ends it as an operator would, and insists on a clean end.
    pub(crate) async fn stop(&mut self) {
        self.terminate();
        let status = self.daemon.wait_exit().await;
        assert!(status.success(), "the gateway ended with {status}\n{}", self.daemon.output_tail());
    }

    /// Lets it hand over to a new process.
    pub(crate) async fn upgrade(&mut self) -> Finished {
        self.daemon.expect_successors();
        self.control(&["upgrade"]).await
    }

    /// Ends whichever process serves now, and waits until none is left.
    pub(crate) async fn stop_upgraded(&mut self) {
        self.terminate();
        self.daemon.wait_group_gone().await;
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// The end of its logs, for the message of a failure.
    pub(crate) fn log_tail(&self) -> String {
        self.daemon.output_tail()
    }
}

/// The samples of one scrape: `name{labels}` and value.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of all series of `name` whose labels contain each of `labels` (`member="a"`).
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let matches = |series: &str| {
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            series_name == name && labels.iter().all(|label| series_labels.contains(label))
        };
        self.0.iter().filter(|(series, _)| matches(series)).map(|(_, value)| value).sum()
    }
}
