//! Child processes of the tests: daemons with their output in files, and commands that run to their end. None outlives the test
//! process: every child is in its own process group, which is killed on drop, and the kernel kills it when its parent dies.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

use super::{Result, wait};

/// Debian keeps daemons in sbin, which a user's PATH may lack.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// A command that the kernel kills together with whoever started it.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command.env("PATH", search_path()).stdin(Stdio::null()).process_group(0);
    command
}

/// A daemon command in its own process and mount namespace: when its first process ends, the kernel kills everything it started and
/// undoes everything it mounted. `own_network` adds a network namespace, empty but for a loopback device that is down.
pub(crate) fn isolated_command(program: &str, own_network: bool) -> Command {
    let mut command = command("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
    if own_network {
        command.arg("--net");
    }
    command.args(["--", program]);
    command
}

type SpawnRequest = (Command, mpsc::Sender<std::io::Result<Child>>);

/// "Parent death" in Linux is the death of the *thread* that made the child. Daemons are shared between tests, each of which has
/// its own thread, so one thread that lives as long as the process starts them all.
static SPAWNER: LazyLock<mpsc::Sender<SpawnRequest>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<SpawnRequest>();
    std::thread::spawn(move || {
        for (mut command, reply) in inbox {
            // A requester that is gone drops the child's handle; the child itself then ends with the process.
            let _ = reply.send(command.spawn());
        }
    });
    requests
});

fn spawn_for_process_lifetime(command: Command) -> std::io::Result<Child> {
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).expect("the spawner thread lives as long as the process");
    answer.recv().expect("the spawner thread answers every request")
}

/// A running daemon. Dropping it kills its process group and waits until it is gone.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    /// Whether processes that it started may outlive it.
    has_successors: bool,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    /// Starts `command` (from [`command`]) with its output in `NAME.stdout` and `NAME.stderr` below `log_dir`.
    pub(crate) fn start(name: &str, mut command: Command, log_dir: &Path) -> Self {
        let stdout = log_dir.join(format!("{name}.stdout"));
        let stderr = log_dir.join(format!("{name}.stderr"));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        command.stdout(append(&stdout).expect("a log file")).stderr(append(&stderr).expect("a log file"));
        let child = spawn_for_process_lifetime(command)
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, has_successors: false, stdout, stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The end of both outputs, for the message of a failure.
    pub(crate) fn output_tail(&self) -> String {
        format!(
            "--- {0} stdout\n{1}\n--- {0} stderr\n{2}",
            self.name,
            tail(&self.stdout()),
            tail(&self.stderr())
        )
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended already; what matters then is its exit status.
        let _ = kill_process_group(self.group(), signal);
    }

    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Waits for the end of the process; panics with its output when it does not come.
    pub(crate) async fn wait_exit(&mut self) -> ExitStatus {
        let status = wait::try_until(async || self.exit_status()).await;
        status.unwrap_or_else(|| {
            panic!("{} did not end within {:?}\n{}", self.name, wait::HANG, self.output_tail())
        })
    }

    /// Waits until `condition` holds; panics with the output when the process ends first, or it hangs.
    pub(crate) async fn wait_ready(&mut self, mut condition: impl AsyncFnMut() -> bool) {
        let ready = wait::try_until(async || match self.exit_status() {
            Some(_) => Some(false),
            None => condition().await.then_some(true),
        });
        let ready = ready.await;
        assert_eq!(ready, Some(true), "{} did not get ready\n{}", self.name, self.output_tail());
    }

    /// From now on its process group counts, not the first process alone.
    pub(crate) fn expect_successors(&mut self) {
        self.has_successors = true;
    }

    /// Waits until the whole process group is gone; panics with its output when that does not come.
    pub(crate) async fn wait_group_gone(&mut self) {
        let gone = wait::try_until(async || {
            // A child that has ended and was not waited for is still there.
            let _ = self.exit_status();
            test_kill_process_group(self.group()).is_err().then_some(())
        });
        assert!(gone.await.is_some(), "{} did not end\n{}", self.name, self.output_tail());
        self.has_successors = false;
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Ends a daemon made by [`isolated_command`]. `unshare` returns only when the first process of the namespace is gone, and that
    /// is gone only when all the others are, so afterwards nothing holds a file open any more.
    pub(crate) fn kill_isolated(&mut self) {
        let pid = self.pid();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let first =
            children.split_whitespace().next().and_then(|child| child.parse().ok()).and_then(Pid::from_raw);
        match first {
            Some(first) if kill_process(first, Signal::KILL).is_ok() => {
                let _ = self.child.wait();
            }
            _ => self.kill(),
        }
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.exit_status().is_none() || self.has_successors {
            self.kill();
        }
    }
}

/// What a command that ran to its end left.
#[derive(Debug)]
pub(crate) struct Finished {
    text: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
}

impl Finished {
    /// Fails with all it said unless its exit status is 0.
    pub(crate) fn success(self) -> Result<Self> {
        ensure!(
            self.status.success(),
            "`{}`: {}\n{}{}",
            self.text,
            self.status,
            tail(&self.stdout),
            tail(&self.stderr)
        );
        Ok(self)
    }
}

/// Runs `command` (from [`command`]) to its end, whatever its exit status is.
pub(crate) async fn finish(mut command: Command, limit: Duration) -> Result<Finished> {
    command.stdout(Stdio::piped());
    run_to_files(command, limit).await
}

/// As [`finish`], with standard output going where the caller has sent it.
pub(crate) async fn run_to_files(command: Command, limit: Duration) -> Result<Finished> {
    let text = describe(&command);
    let mut command = tokio::process::Command::from(command);
    let child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let child = child.with_context(|| format!("cannot start `{text}`"))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let Ok(output) = tokio::time::timeout(limit, child.wait_with_output()).await else {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        bail!("`{text}` did not end within {limit:?}");
    };
    let output = output.with_context(|| format!("cannot wait for `{text}`"))?;
    Ok(Finished {
        text,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status,
    })
}

/// Runs `command` to its end and returns its standard output; a failure's error holds all it said.
pub(crate) async fn run(command: Command, limit: Duration) -> Result<String> {
    Ok(finish(command, limit).await?.success()?.stdout)
}

fn describe(command: &Command) -> String {
    let words = command.get_args().skip_while(|word| *word != "--").skip(1);
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].iter().map(|line| format!("{line}\n")).collect()
}
