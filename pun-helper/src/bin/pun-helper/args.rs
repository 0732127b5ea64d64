//! The command line, defined once: help comes of it.

use std::path::PathBuf;

use ca_core::cli;
use ca_core::{Error, UserName};
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};
use pun_helper::names::NginxVersion;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed or something is wrong, 2 wrong usage.

Called by the name ood-ca-hook, this program is `pun-helper hook`: that is what
pun_pre_hook_root_cmd in ood_portal.yml names, as no arguments are possible there.";

const COMPLETIONS_AFTER_HELP: &str = "\
  pun-helper completions bash > /etc/bash_completion.d/pun-helper";

/// The web host's side of per-user mutual TLS for Open OnDemand.
#[derive(Debug, Parser)]
#[command(name = "pun-helper", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Args {
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
    /// Print the nginx locations of a user
    Render(Render),
    /// Say what host names will become, and why
    Resolver(Resolver),
    /// Get everything ready for a user's PUN; what nginx_stage runs as root before it starts one
    Hook(Hook),
    /// Check an installed setup and say what to do about what is wrong
    Check(Check),
    /// Stop idle PUNs by nginx_stage, but none with an open connection to a job
    Clean(Clean),
    /// Print a completion script for your shell
    #[command(after_help = COMPLETIONS_AFTER_HELP)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// Of this command [default: of all of pun-helper]
        #[arg(value_name = "COMMAND", conflicts_with = "out", value_parser = command_name)]
        page: Option<String>,

        /// Write the pages of all commands into this directory instead, which is made if need be
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Render {
    /// Whose locations
    #[arg(long, value_name = "USER", value_parser = user_name)]
    pub(crate) user: UserName,

    /// Read the name servers from here [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) resolv_conf: Option<PathBuf>,

    /// For this nginx [default: what the installed one says]
    #[arg(long, value_name = "VERSION", value_parser = nginx_version)]
    pub(crate) nginx_version: Option<NginxVersion>,

    /// How nginx reaches the jobs
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// By itself
    #[default]
    Nginx,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Resolver {
    /// Hosts as they would stand in a URL
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// Read the name servers from here [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) resolv_conf: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Hook {
    /// Whose PUN is about to start
    #[arg(long, value_name = "USER", value_parser = user_name)]
    pub(crate) user: UserName,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    /// Look at this user's certificates and locations too
    #[arg(long, value_name = "USER", value_parser = user_name)]
    pub(crate) user: Option<UserName>,

    /// The configuration of nginx_stage
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/ood/config/nginx_stage.yml"
    )]
    pub(crate) nginx_stage_config: PathBuf,

    /// The directory of the system's cron jobs
    #[arg(long, value_name = "DIR", default_value = "/etc/cron.d")]
    pub(crate) cron_dir: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Clean {
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn command_name(input: &str) -> Result<String, String> {
    cli::subcommand_name(&Args::command(), input)
}

fn user_name(input: &str) -> Result<UserName, String> {
    UserName::parse(input).map_err(|error| match error {
        Error::BadName { why, hint, .. } => format!("{why}\nhint: {hint}"),
        other => other.to_string(),
    })
}

fn nginx_version(input: &str) -> Result<NginxVersion, String> {
    NginxVersion::parse(input).map_err(|error| match error {
        pun_helper::Error::Unsafe { why, hint, .. } => format!("{why}\nhint: {hint}"),
        other => other.to_string(),
    })
}
