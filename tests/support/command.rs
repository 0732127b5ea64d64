//! Running a command with a time limit, and what it answered.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::tools::{require_root, require_tool};

/// Longer than any command here takes, even on a busy machine; short enough
/// that a hang is noticed.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// A command about to run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    user: Option<u32>,
    limit: Duration,
    input: Vec<u8>,
}

impl Run {
    /// Prepares to run this program in an environment of its own.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LC_ALL", "C.UTF-8");
        Run {
            command,
            user: None,
            limit: DEFAULT_LIMIT,
            input: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts in this directory.
    #[must_use]
    pub fn within(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs as this user, with no other groups.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Self {
        let own = rustix::process::geteuid();
        self.user = (uid != own.as_raw()).then_some(uid);
        if self.user.is_some() {
            require_root();
        }
        self
    }

    /// Fails the test if the command takes longer than this.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// What the command reads from its standard input.
    #[must_use]
    pub fn input(mut self, input: &[u8]) -> Self {
        self.input = input.to_vec();
        self
    }

    /// Starts the command and lets it run.
    pub fn start(mut self) -> Running {
        let line = line_of(&self.command);
        if let Some(uid) = self.user {
            self.command = with_user(&self.command, uid);
        }
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        // Input is small; a command that closes it early is its own affair.
        drop(stdin.write_all(&self.input));
        drop(stdin);
        let stdout = collect(child.stdout.take().expect("standard output is a pipe"));
        let stderr = collect(child.stderr.take().expect("standard error is a pipe"));
        Running {
            child,
            stdout: Some(stdout),
            stderr: Some(stderr),
            line,
            deadline: Instant::now() + self.limit,
            limit: self.limit,
        }
    }

    /// Runs the command to its end.
    pub fn output(self) -> Outcome {
        self.start().wait()
    }
}

/// The same command through setpriv. The standard library could change the
/// user itself, but then copies this whole process first; mounts make it big.
fn with_user(command: &Command, uid: u32) -> Command {
    let mut wrapped = Command::new(require_tool("setpriv"));
    wrapped
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={uid}"))
        .args(["--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // What arrived before an error is what there is to show.
        drop(from.read_to_end(&mut all));
        all
    })
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    line: String,
    deadline: Instant,
    limit: Duration,
}

impl Running {
    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child of ours can be killed");
    }

    /// Sends SIGTERM and waits for the end, so that what it has started ends too.
    pub fn terminate(self) -> Outcome {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.wait()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("a child of ours can be waited for")
            {
                break status;
            }
            if Instant::now() > self.deadline {
                panic!("{} hangs: no end within {:?}", self.line, self.limit);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // A process that it left behind may hold its output open for ever.
        let ends = |reader: &JoinHandle<Vec<u8>>| {
            while !reader.is_finished() {
                if Instant::now() > self.deadline {
                    panic!(
                        "{} has ended, and its output has not within {:?}: it left a process behind",
                        self.line, self.limit
                    );
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        self.stdout.iter().chain(&self.stderr).for_each(ends);
        let text = |reader: Option<JoinHandle<Vec<u8>>>| {
            let bytes = reader.and_then(|r| r.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Outcome {
            status,
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
            line: std::mem::take(&mut self.line),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is just as good.
        drop(self.child.kill());
        // It ends at once, unless a file server holds it up.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    line: String,
}

impl Outcome {
    /// The exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether SIGKILL ended it.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// The command must have succeeded.
    #[track_caller]
    pub fn assert_ok(self) -> Self {
        assert!(self.status.success(), "should have succeeded: {self}");
        self
    }

    /// The command must have succeeded with a warning that says `part`.
    #[track_caller]
    pub fn assert_warned(self, part: &str) -> Self {
        let outcome = self.assert_ok();
        let warned = outcome
            .stderr
            .lines()
            .any(|l| l.starts_with("warning: ") && l.contains(part));
        assert!(warned, "should have warned of {part:?}: {outcome}");
        outcome
    }

    /// The command must have failed with this exit code, one `error:` line
    /// that says `part`, and no panic.
    #[track_caller]
    pub fn assert_failed(self, code: i32, part: &str) -> Self {
        assert_eq!(
            self.code(),
            Some(code),
            "should have failed with {code}: {self}"
        );
        let errors: Vec<_> = self
            .stderr
            .lines()
            .filter(|l| l.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "should have given one error: {self}");
        assert!(
            errors[0].contains(part),
            "should have named {part:?} in the error: {self}"
        );
        self
    }

    /// The command must have failed as [`Outcome::assert_failed`] says, and
    /// told the user what to do in a `hint:` line.
    #[track_caller]
    pub fn assert_refused(self, code: i32, part: &str) -> Self {
        let outcome = self.assert_failed(code, part);
        let hinted = outcome
            .stderr
            .lines()
            .any(|l| l.starts_with("hint: ") && l.len() > 12);
        assert!(hinted, "should have given a hint: {outcome}");
        outcome
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("should have printed JSON ({error}): {self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            status,
            stdout,
            stderr,
            line,
        } = self;
        write!(
            f,
            "\n$ {line}\n{status}\nstdout:\n{stdout}\nstderr:\n{stderr}"
        )
    }
}

impl Outcome {
    /// The words of the command, for messages of one's own.
    #[must_use]
    pub fn command(&self) -> OsString {
        OsString::from(&self.line)
    }
}
