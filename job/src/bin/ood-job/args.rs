//! The command line, defined once: help, completions and man pages come of it.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ca_core::cli;
use ca_core::{ConfigPath, HostName, PeerName, Ttl};
use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};
use ood_job::Error;
use ood_job::config::Backend;
use ood_job::publish::PublishFile;
use ood_job::target::Target;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage.
`run`: the app's own, 128 and the signal's number if a signal ended it, 125 failed,
126 the command cannot be executed, 127 there is no such command.";

const RUN_AFTER_HELP: &str = "\
The app finds in its environment where it should listen (OOD_JOB_APP_HOST and
OOD_JOB_APP_PORT, or OOD_JOB_APP_SOCKET) and where the portal reaches it
(OOD_JOB_HOST, OOD_JOB_PORT):

  ood-job run --to 127.0.0.1:8888 --publish connection.yml -- sh -c \\
    'exec jupyter lab --port=8888 --ServerApp.base_url=/pun/proxy/$OOD_JOB_HOST/$OOD_JOB_PORT/'";

const COMPLETIONS_AFTER_HELP: &str = "\
  ood-job completions bash > ~/.local/share/bash-completion/completions/ood-job";

/// Runs an app of yours so that only your own Open OnDemand session reaches it.
#[derive(Debug, Parser)]
#[command(name = "ood-job", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Where your authority is kept [default: ~/.ood/pki, or pki_dir of the configuration]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub(crate) pki_dir: Option<PathBuf>,

    /// The site's configuration [default: /etc/ood/config/ood_ca.yml, which may be missing]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) config: Option<PathBuf>,

    /// Print one JSON object for scripts instead of text for people
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an app behind mutual TLS, in a network of its own
    Run(Box<Run>),
    /// List what the processes of this job listen on
    Ports(Ports),
    /// Register a destination of yours, served by another TLS end than `run`
    Register(Register),
    /// Take a registration away
    Unregister(Unregister),
    /// List your registered sessions, and prune those that are gone
    Sessions(Sessions),
    /// Say what this node allows and how to run apps here
    Doctor,
    /// Print a configuration for another program as the TLS end
    Config(Config),
    /// Print a completion script for your shell
    #[command(after_help = COMPLETIONS_AFTER_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// Of this command [default: of all of ood-job]
        #[arg(value_name = "COMMAND", conflicts_with = "out", value_parser = command_name)]
        page: Option<String>,

        /// Write the pages of all commands into this directory instead, which is made if need be
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = RUN_AFTER_HELP)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Run {
    /// Where the portal comes in [default: a free port of all addresses]
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen)]
    pub(crate) listen: Option<SocketAddr>,

    /// Another name or IPv4 address by which the portal reaches this node; the first is published; may
    /// be repeated
    #[arg(long, value_name = "NAME", value_parser = peer_name)]
    pub(crate) host: Vec<PeerName>,

    /// Where the app listens: HOST:PORT, or unix:PATH in a directory of your own [default: 127.0.0.1:8080]
    #[arg(long, value_name = "WHERE", value_parser = target)]
    pub(crate) to: Option<Target>,

    /// Pass on HTTP, with headers that the app may trust (the default)
    #[arg(long, conflicts_with = "tcp")]
    pub(crate) http: bool,

    /// Pass on bytes: VNC, RDP, SSH
    #[arg(long, conflicts_with_all = ["header", "header_file", "header_env", "client_cert_headers"])]
    pub(crate) tcp: bool,

    /// A header that the app may trust; may be repeated. No place for secrets: others see command lines
    #[arg(long, value_name = "'NAME: VALUE'")]
    pub(crate) header: Vec<String>,

    /// Such headers from a file of yours, one a line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) header_file: Vec<PathBuf>,

    /// Such a header, its value from a variable of the environment; may be repeated
    #[arg(long, value_name = "NAME=VARIABLE")]
    pub(crate) header_env: Vec<String>,

    /// Tell the app about the client's certificate, in headers X-Client-Cert-…
    #[arg(long)]
    pub(crate) client_cert_headers: bool,

    /// Which network the app is in [default: private; host for --to unix:PATH]
    #[arg(long, value_enum)]
    pub(crate) network: Option<Network>,

    /// With --network host: I know that every user of this node can reach the app
    #[arg(long)]
    pub(crate) allow_unisolated: bool,

    /// Let the app see this node's processes (and leave those that it forgets to be hunted down)
    #[arg(long)]
    pub(crate) no_pidns: bool,

    /// How the app reaches the world
    #[arg(long, value_enum, default_value_t)]
    pub(crate) outbound: Outbound,

    /// Write host, port and session here once the app answers: a .yml or .json file
    #[arg(long, value_name = "FILE", value_parser = publish_file)]
    pub(crate) publish: Option<PublishFile>,

    /// How long the app may take to answer
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span)]
    pub(crate) ready_timeout: Duration,

    /// What counts as an answer [default: http; tcp with --tcp]
    #[arg(long, value_enum)]
    pub(crate) ready: Option<Ready>,

    /// A line for each connection or request goes here, - for standard error [default: refusals only, there]
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log: Option<PathBuf>,

    /// The app and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Its own
    Private,
    /// The node's, which every user of the node is in
    Host,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Outbound {
    /// By whichever of the two is installed
    #[default]
    Auto,
    /// By pasta (package passt)
    Pasta,
    /// By slirp4netns
    Slirp4netns,
    /// Not at all
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ready {
    /// An answer of HTTP, whatever its status
    Http,
    /// A connection
    Tcp,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ports {
    /// Of this process and those below it, instead of the whole job
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<i32>,

    /// Print `host:port`, a line each, for the TCP ports that others can reach
    #[arg(long, conflicts_with = "json")]
    pub(crate) lines: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Register {
    /// The port of the TLS end; HOST:PORT is the same as PORT --host HOST
    #[arg(value_name = "PORT", value_parser = own_place)]
    pub(crate) place: (Option<String>, u16),

    /// Under this name or IPv4 address only; may be repeated [default: all of this node's]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Vec<String>,

    /// The process that serves it: the registration ends with it
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<i32>,

    /// How long the registration counts [default: as long as the job, or 35d]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) ttl: Option<Ttl>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Unregister {
    /// As `ood-job sessions` shows it
    #[arg(value_name = "HOST:PORT", value_parser = place)]
    pub(crate) place: (String, u16),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sessions {
    /// Ask the batch system too whether the jobs of other nodes still run
    #[arg(long)]
    pub(crate) ask_scheduler: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Config {
    /// Which program
    #[arg(value_enum)]
    pub(crate) program: Program,

    /// Where it listens
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen)]
    pub(crate) listen: SocketAddr,

    /// Where the app listens: HOST:PORT, or unix:PATH in a directory of your own
    #[arg(long, value_name = "WHERE", value_parser = backend)]
    pub(crate) to: Backend,

    /// The directory that `ood-ca issue --out DIR` has written
    #[arg(long, value_name = "DIR", value_parser = config_path)]
    pub(crate) certs: ConfigPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// caddy run --config FILE (2.6 or later)
    Caddy,
    /// stunnel FILE
    Stunnel,
    /// nginx -e stderr -c FILE (an absolute path)
    Nginx,
    /// haproxy -db -f FILE
    Haproxy,
    /// sh FILE
    Ghostunnel,
}

/// What a URL of the portal can call a host.
pub(crate) const HOST_HINT: &str =
    "the portal takes a name such as n001.cluster.example, or an IPv4 address";

fn peer_name(input: &str) -> Result<PeerName, String> {
    match input
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
    {
        Ok(address @ IpAddr::V4(_)) => Ok(PeerName::Ip(address)),
        // nginx cannot verify one that stands in a URL.
        Ok(IpAddr::V6(_)) => Err(with_hint("it is an IPv6 address", HOST_HINT)),
        // Not a reserved one.
        Err(_) => HostName::parse(input)
            .map(PeerName::Host)
            .map_err(|error| match error {
                ca_core::Error::BadName { why, .. } => with_hint(why, HOST_HINT),
                other => other.to_string(),
            }),
    }
}

/// Where to listen: no name, for that may have several addresses.
fn listen(input: &str) -> Result<SocketAddr, String> {
    const HINT: &str =
        "write 0.0.0.0:8443 for all addresses of this node, or 10.0.0.5:8443 for one";
    input.parse().map_err(|_| {
        let bare: Result<IpAddr, _> = input.trim_matches(['[', ']']).parse();
        let why = match input.rsplit_once(':') {
            _ if bare.is_ok() => "there is no port in it",
            None if input.parse::<u16>().is_ok() => "there is no address in it",
            None => "there is no port in it",
            Some((_, port)) if port.parse::<u16>().is_err() => {
                "the port is not a number from 0 to 65535"
            }
            Some(("", _)) => "there is no address in it",
            Some(_) => "what stands before the port is not an address",
        };
        with_hint(why, HINT)
    })
}

fn backend(input: &str) -> Result<Backend, String> {
    let target = Target::parse(input).map_err(explained)?;
    Backend::new(target).map_err(str::to_owned)
}

fn target(input: &str) -> Result<Target, String> {
    Target::parse(input).map_err(explained)
}

fn publish_file(input: &str) -> Result<PublishFile, String> {
    PublishFile::parse(input.as_ref()).map_err(explained)
}

fn ttl(input: &str) -> Result<Ttl, String> {
    Ttl::parse(input).map_err(|e| explained(e.into()))
}

/// A number of seconds or minutes: shorter than a lifetime may be.
fn span(input: &str) -> Result<Duration, String> {
    ca_core::Span::parse(input)
        .map(ca_core::Span::as_duration)
        .map_err(str::to_owned)
}

/// Programs that go into the background change their directory.
fn config_path(input: &str) -> Result<ConfigPath, String> {
    let absolute = std::path::absolute(input).map_err(|e| e.to_string())?;
    let absolute = absolute.to_string_lossy();
    ConfigPath::parse(&absolute).map_err(|why| match *absolute == *input {
        true => why.to_owned(),
        false => format!("{why}; it is {absolute:?}"),
    })
}

fn place(input: &str) -> Result<(String, u16), String> {
    match own_place(input) {
        Ok((Some(host), port)) => Ok((host, port)),
        _ => Err("write it as n001.cluster.example:40123".into()),
    }
}

/// `PORT`, or `HOST:PORT` as `ood-job sessions` shows it.
fn own_place(input: &str) -> Result<(Option<String>, u16), String> {
    let (host, port) = match input.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, input),
    };
    let refuse = |why| Err(with_hint(why, "write 8443, or n001.cluster.example:8443"));
    if host == Some("") {
        return refuse("there is no host in it");
    }
    let plain = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if port > 0 && plain => Ok((host.map(str::to_owned), port)),
        _ => refuse("the port is not a number from 1 to 65535"),
    }
}

fn command_name(input: &str) -> Result<String, String> {
    cli::subcommand_name(&Args::command(), input)
}

fn with_hint(why: &str, hint: &str) -> String {
    format!("{why}\nhint: {hint}")
}

impl Args {
    /// The arguments of this process, or clap's refusal.
    pub(crate) fn of_process() -> Result<Self, clap::Error> {
        let args = Self::try_parse()?;
        if let Command::Run(run) = &args.command {
            run.check()?;
        }
        Ok(args)
    }
}

impl Run {
    /// Whether the app is on the node's network.
    fn shares_network(&self) -> bool {
        match self.network {
            Some(network) => network == Network::Host,
            None => matches!(self.to, Some(Target::Unix(_))),
        }
    }

    /// Who gives a flag that does nothing believes the app to be elsewhere than it is.
    fn check(&self) -> Result<(), clap::Error> {
        let refuse = |why: &str, hint: &str| {
            let mut all = Args::command();
            // Gives the commands their full names.
            all.build();
            let mut run = all.find_subcommand("run").cloned().unwrap_or(all);
            Err(run.error(ErrorKind::ArgumentConflict, with_hint(why, hint)))
        };
        if self.allow_unisolated && !self.shares_network() {
            return refuse(
                "--allow-unisolated does nothing here: the app gets a network of its own",
                "leave it out, or add --network host",
            );
        }
        if self.no_pidns && self.shares_network() {
            return refuse(
                "--no-pidns does nothing here: on the node's network the app sees the node's processes anyway",
                "leave it out",
            );
        }
        Ok(())
    }
}

/// What clap cannot know: what most probably was meant.
pub(crate) fn usage_hint(error: &clap::Error, words: &[OsString]) -> Option<&'static str> {
    let unclear = matches!(
        error.kind(),
        ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument
    );
    let runs = words.iter().skip(1).any(|word| word == "run");
    let separated = words.iter().any(|word| word == "--");
    (unclear && runs && !separated)
        .then_some("put -- before the app's command, as in: ood-job run --to 127.0.0.1:8888 -- python3 -m http.server --bind 127.0.0.1 8888")
}

/// What clap prints behind "invalid value", which has quoted the value already.
fn explained(error: Error) -> String {
    let why = match &error {
        Error::BadArgument { why, .. } => (*why).to_owned(),
        Error::Core(ca_core::Error::BadName { why, .. } | ca_core::Error::BadTtl { why, .. }) => {
            (*why).to_owned()
        }
        other => other.to_string(),
    };
    match error.hint() {
        Some(hint) => with_hint(&why, &hint),
        None => why,
    }
}
