//! The command line, defined once: help, completions and man pages come of it.

use std::net::IpAddr;
use std::path::PathBuf;

use ca_core::cli;
use ca_core::{Error, HostName, PeerName, Ttl};
use clap::{ArgAction, Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage.
`needs-renewal`: 0 due, 1 not due, 255 failed.

Your authority is kept in ~/.ood/pki. The first command that needs it creates it.";

const COMPLETIONS_AFTER_HELP: &str = "\
  ood-ca completions bash > ~/.local/share/bash-completion/completions/ood-ca";

/// Your own certificate authority for apps behind Open OnDemand.
#[derive(Debug, Parser)]
#[command(name = "ood-ca", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Where the authority is kept [default: ~/.ood/pki, or pki_dir of the configuration]
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
    /// Create the authority, if there is none
    Init,
    /// Issue a certificate and its key (a leaf)
    Issue(Issue),
    /// Renew the client certificate of your web server, if it is due
    Renew(Renew),
    /// Say by the exit code whether a renewal is due: 0 yes, 1 no, 255 failed
    NeedsRenewal(NeedsRenewal),
    /// Replace the authority, in phases or at once
    Rotate(Rotate),
    /// Show the authority, what it trusts and what it issued
    Show,
    /// Verify a certificate as the other end of a connection would
    Verify(Verify),
    /// Check everything and say what to do about what is wrong
    Doctor,
    /// Print a completion script for your shell
    #[command(after_help = COMPLETIONS_AFTER_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// Of this command [default: of all of ood-ca]
        #[arg(value_name = "COMMAND", conflicts_with = "out", value_parser = command_name)]
        page: Option<String>,

        /// Write the pages of all commands into this directory instead, which is made if need be
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Issue {
    /// A server leaf: answers connections (the default)
    #[arg(long, conflicts_with = "client")]
    pub(crate) server: bool,

    /// A client leaf: makes connections
    #[arg(long, conflicts_with_all = ["host", "ip", "any_host"])]
    pub(crate) client: bool,

    /// A DNS name to be valid for; may be repeated [default: this node's names]
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) host: Vec<HostName>,

    /// An IPv4 or IPv6 address to be valid for; may be repeated
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) ip: Vec<IpAddr>,

    /// Name no host: valid only at sites that set `verify_host: user`
    #[arg(long)]
    pub(crate) any_host: bool,

    /// How long it lives: 90m, 12h, 35d [default: the site's, 35d]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) ttl: Option<Ttl>,

    /// Certify the key of this signing request (PEM or DER, - for standard input); names and times in it are ignored
    #[arg(long, value_name = "FILE")]
    pub(crate) csr: Option<PathBuf>,

    /// Where to write [default: the current directory]
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        hide_default_value = true
    )]
    pub(crate) out: PathBuf,

    /// First part of the file names [default: `server` or `client`]
    #[arg(long, value_name = "BASE")]
    pub(crate) name: Option<String>,

    /// How to write key and certificate
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Which set of files to write
    #[arg(long, value_enum, default_value_t)]
    pub(crate) layout: LayoutName,
}

/// A wildcard may be asked for; the authority decides whether it is granted.
fn host_name(input: &str) -> Result<HostName, String> {
    HostName::parse_with_wildcard(input).map_err(explained)
}

fn address(input: &str) -> Result<IpAddr, String> {
    ca_core::parse_ip(input).map_err(explained)
}

fn ttl(input: &str) -> Result<Ttl, String> {
    Ttl::parse(input).map_err(explained)
}

/// What clap prints behind "invalid value", which has quoted the value already.
fn explained(error: Error) -> String {
    let why = match &error {
        Error::BadName { why, .. } | Error::BadTtl { why, .. } => (*why).to_owned(),
        other => other.to_string(),
    };
    match error.hint() {
        Some(hint) => format!("{why}\nhint: {hint}"),
        None => why,
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// BASE.key and BASE.crt
    #[default]
    Pem,
    /// BASE.pem with both
    Bundle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutName {
    /// The leaf and trust.crt
    #[default]
    Plain,
    /// ca.crt server.crt server.key client.crt ca+client.crt, as BYU's oodproxy lays them out for stunnel
    Oodproxy,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Renew {
    /// A certificate that `ood-ca issue` wrote: renew that one in place, for the same key and names
    #[arg(value_name = "CERT")]
    pub(crate) certificate: Option<PathBuf>,

    /// Renew even if it is not due
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NeedsRenewal {
    /// The certificate to look at [default: the client certificate of your web server]
    #[arg(value_name = "CERT")]
    pub(crate) certificate: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[group(required = false, multiple = true)]
pub(crate) struct Rotate {
    #[command(flatten)]
    pub(crate) step: RotateStep,

    /// With --activate or --retire: go on although something still needs the old authority
    #[arg(long, conflicts_with_all = ["prepare", "emergency"])]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct RotateStep {
    /// Let a new authority be trusted beside the old one
    #[arg(long)]
    pub(crate) prepare: bool,

    /// Let the new authority sign
    #[arg(long)]
    pub(crate) activate: bool,

    /// End trust in the old authority
    #[arg(long)]
    pub(crate) retire: bool,

    /// A key may be known to others: replace the authority and end trust in the old one at once
    #[arg(long)]
    pub(crate) emergency: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// The certificate to verify
    #[arg(value_name = "CERT")]
    pub(crate) certificate: PathBuf,

    /// As a server (the default)
    #[arg(long, conflicts_with = "client")]
    pub(crate) server: bool,

    /// As a client
    #[arg(long, conflicts_with_all = ["host", "ip"])]
    pub(crate) client: bool,

    /// For this host name
    #[arg(long, value_name = "NAME", conflicts_with = "ip", value_parser = peer_name)]
    pub(crate) host: Option<PeerName>,

    /// For this address
    #[arg(long, value_name = "ADDR", action = ArgAction::Set)]
    pub(crate) ip: Option<IpAddr>,

    /// Trust these authorities [default: trust.crt of the authority's directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) trust: Option<PathBuf>,

    /// Check too that this private key belongs to the certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

fn peer_name(input: &str) -> Result<PeerName, String> {
    PeerName::parse(input).map_err(explained)
}

fn command_name(input: &str) -> Result<String, String> {
    cli::subcommand_name(&Args::command(), input)
}
