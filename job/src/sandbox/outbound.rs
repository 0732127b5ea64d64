//! Bringing the app's own connections out of its network: pasta or slirp4netns,
//! both without root's help, and both told to leave the node's loopback alone.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};

use super::kernel::{self, Fork};
use super::wire::Failure;
use crate::error::OTHER_WAYS;
use crate::processes;

/// Either is ready in some 30 ms.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much of what the program says is kept, in bytes: its first words are those
/// that tell why it cannot begin.
const MOST_SAID: u64 = 16 * 1024;

const TUN: &str = "/dev/net/tun";

/// How the app reaches the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outbound {
    /// By whichever program is installed, pasta first.
    #[default]
    Auto,
    /// By pasta, of the package passt.
    Pasta,
    /// By slirp4netns.
    Slirp4netns,
    /// Not at all.
    None,
}

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// pasta.
    Pasta,
    /// slirp4netns.
    Slirp4netns,
}

impl Tool {
    /// Both, in the order in which they are tried.
    pub const ALL: [Tool; 2] = [Tool::Pasta, Tool::Slirp4netns];

    /// The program's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tool::Pasta => "pasta",
            Tool::Slirp4netns => "slirp4netns",
        }
    }

    /// The package that brings it, on Debian and on RHEL.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Tool::Pasta => "passt",
            Tool::Slirp4netns => "slirp4netns",
        }
    }

    /// Where it is installed.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from);
        let mut places = std::env::split_paths(&path).chain(system);
        places.find_map(|dir| {
            let file = dir.join(self.name());
            (dir.is_absolute() && file.is_file()).then_some(file)
        })
    }

    /// Where it answers DNS in the app's network, whatever name server the node
    /// itself asks, on its loopback or not.
    pub(super) fn dns(self) -> Ipv4Addr {
        match self {
            // No host of the site's has a link-local address.
            Tool::Pasta => Ipv4Addr::new(169, 254, 1, 1),
            Tool::Slirp4netns => Ipv4Addr::new(10, 0, 2, 3),
        }
    }
}

/// Which programs to try, or why there are none.
pub(crate) fn tools(wanted: Outbound) -> Result<Vec<(Tool, PathBuf)>, Failure> {
    let candidates = match wanted {
        Outbound::None => return Ok(Vec::new()),
        Outbound::Auto => Tool::ALL.to_vec(),
        Outbound::Pasta => vec![Tool::Pasta],
        Outbound::Slirp4netns => vec![Tool::Slirp4netns],
    };
    let found: Vec<_> = candidates
        .iter()
        .filter_map(|tool| Some((*tool, tool.find()?)))
        .collect();
    if found.is_empty() {
        let names: Vec<_> = candidates.iter().map(|tool| tool.name()).collect();
        let packages: Vec<_> = candidates.iter().map(|tool| tool.package()).collect();
        return Err(Failure {
            what: "reach the network from the app".into(),
            why: format!("{} is not installed", names.join(" or ")),
            hint: format!(
                "have the package {} installed, or run with --outbound none, {OTHER_WAYS}",
                packages.join(" or ")
            ),
        });
    }
    tun().map(|()| found)
}

/// Whether a user may make a network device, which either program does.
pub(crate) fn tun() -> Result<(), Failure> {
    let opened = File::options().read(true).write(true).open(TUN);
    let Err(error) = opened else { return Ok(()) };
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it is root's alone here: an administrator can allow it with chmod 0666 /dev/net/tun, as distributions do"
        }
        io::ErrorKind::NotFound => "an administrator can bring it with: modprobe tun",
        _ => "ask your administrator about the kernel module tun",
    };
    Err(Failure {
        what: "reach the network from the app".into(),
        why: format!("{TUN}: {error}"),
        hint: format!("{fix}; or run with --outbound none, {OTHER_WAYS}"),
    })
}

/// A copy of this process that waits outside the new network, to become the
/// program once that network is there.
pub(super) struct Waiting {
    tool: Tool,
    pid: Pid,
    go: OwnedFd,
    ready: OwnedFd,
    said: File,
    /// slirp4netns ends when this is closed.
    alive: OwnedFd,
}

/// What brings traffic out, at work.
pub(super) struct Running {
    pub(super) tool: Tool,
    /// A child of this process's, by birth or adopted. `None` if pasta's, which goes
    /// on in a process of its own making, cannot be known: if the kernel lists no
    /// children and `/proc` hides them.
    pub(super) pid: Option<Pid>,
    _alive: OwnedFd,
}

impl Waiting {
    /// Prepares the program for the network that this process will be in.
    pub(super) fn prepare(tool: Tool, program: &Path) -> io::Result<Self> {
        let (go_read, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (ready, ready_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (alive_read, alive) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // A pipe that nobody empties would stall it, a closed one kill it. This is
        // full at some point, as it may have something to say for a month.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let said = rustix::fs::memfd_create("outbound", flags)?;
        rustix::fs::ftruncate(&said, MOST_SAID)?;
        rustix::fs::fcntl_add_seals(&said, SealFlags::GROW)?;
        let said = File::from(said);
        let target = rustix::process::getpid();
        match kernel::fork()? {
            Fork::Parent(pid) => Ok(Waiting {
                tool,
                pid,
                go,
                ready,
                said,
                alive,
            }),
            Fork::Child => {
                drop((go, ready, alive));
                let mut byte = [0];
                // End of file: the keeper has given up.
                if !matches!(rustix::io::read(&go_read, &mut byte), Ok(1)) {
                    kernel::exit_now(0);
                }
                let _ = become_tool(tool, program, target, ready_write, alive_read, &said);
                kernel::exit_now(127)
            }
        }
    }

    /// Lets it begin, and waits until the network works, or nobody is at the other end of
    /// `control` any more.
    pub(super) fn begin(self, control: &OwnedFd) -> Result<Running, Failure> {
        let before = processes::children();
        let begun = rustix::io::write(&self.go, b"g").map_err(io::Error::from);
        let ready = begun.and_then(|_| match self.tool {
            // It goes on in the background once all is ready.
            Tool::Pasta => wait_for_end(self.pid, control),
            Tool::Slirp4netns => wait_for_byte(&self.ready, control),
        });
        match ready {
            Ok(true) => Ok(Running {
                tool: self.tool,
                pid: match self.tool {
                    Tool::Pasta => adopted_since(&before),
                    Tool::Slirp4netns => Some(self.pid),
                },
                _alive: self.alive,
            }),
            Ok(false) => Err(self.failed("")),
            Err(error) => {
                // It is still trying. Whoever waits for children takes leave of it.
                let _ = kill_process(self.pid, Signal::KILL);
                Err(self.failed(&error.to_string()))
            }
        }
    }

    fn failed(mut self, why: &str) -> Failure {
        let mut said = String::new();
        let _ = self.said.rewind();
        let _ = (&self.said).take(MOST_SAID).read_to_string(&mut said);
        let name = self.tool.name();
        let lines = said.trim_end_matches('\0').lines().map(str::trim);
        let mut telling = lines.filter(|l| !l.is_empty() && !l.contains("to syslog"));
        let last = telling.next_back().unwrap_or(why).to_owned();
        Failure {
            what: "reach the network from the app".into(),
            why: format!("{name}: {last}"),
            hint: format!("try another way with --outbound, or --outbound none, {OTHER_WAYS}"),
        }
    }
}

/// Becomes the program. Returns only if that fails.
fn become_tool(
    tool: Tool,
    program: &Path,
    target: Pid,
    ready: OwnedFd,
    alive: OwnedFd,
    said: &File,
) -> io::Result<()> {
    // Ours are blocked; it may want to hear them.
    SigSet::empty().thread_set_mask()?;
    let mut command = Command::new(program);
    let target = target.as_raw_nonzero().to_string();
    match tool {
        Tool::Pasta => {
            // Without the first five, pasta forwards ports in both directions
            // and shows the node's loopback as the gateway.
            command.args([
                "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw",
                "--config-net", "--quiet", "--dns-forward",
            ]);
            command.arg(tool.dns().to_string()).arg(target);
        }
        Tool::Slirp4netns => {
            for fd in [&ready, &alive] {
                rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            }
            use std::os::fd::AsRawFd;
            command.args(["--configure", "--mtu=65520", "--disable-host-loopback"]);
            command.arg(format!("--ready-fd={}", ready.as_raw_fd()));
            command.arg(format!("--exit-fd={}", alive.as_raw_fd()));
            command.args([&target, "tap0"]);
        }
    }
    let error = command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .exec();
    Err(error)
}

/// The child that this process has now and had not before: the orphan of one that
/// went to the background, which by now is ours. No file is asked for its number, as
/// a security policy need not let pasta write one anywhere.
fn adopted_since(before: &[i32]) -> Option<Pid> {
    let mut new = processes::children().into_iter();
    new.find(|pid| !before.contains(pid))
        .and_then(Pid::from_raw)
}

fn wait_for_end(pid: Pid, control: &OwnedFd) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended: Option<(Pid, WaitStatus)> =
            rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)?;
        if let Some((_, status)) = ended {
            return Ok(status.exit_status() == Some(0));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut ended = [PollFd::new(control, PollFlags::empty())];
        // Its end is told whatever is asked for (poll(2)).
        if poll(&mut ended, Some(&Timespec::default()))? > 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn wait_for_byte(from: impl AsFd, control: &OwnedFd) -> io::Result<bool> {
    let limit = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    let mut fds = [
        PollFd::new(&from, PollFlags::IN),
        PollFd::new(control, PollFlags::empty()),
    ];
    if poll(&mut fds, Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if !fds[1].revents().is_empty() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let mut byte = [0];
    Ok(rustix::io::read(&from, &mut byte)? == 1)
}
