//! One function for each command: call the library, print the outcome.

use std::path::{Path, PathBuf};

use ca_core::SiteConfig;
use ca_core::cli;
use ca_core::doctor::Verdict;
use clap::CommandFactory;
use pun_helper::facts::{HostFacts, UserPaths};
use pun_helper::hook::{self, HookRequest};
use pun_helper::names::NginxVersion;
use pun_helper::{Error, Result, check, clean, log, nginx, resolver, root};
use serde_json::json;

use crate::args::{self, Args, Command};

/// Runs the command and returns its exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    match &args.command {
        Command::Render(options) => render(args, options),
        Command::Resolver(options) => resolver(args, options),
        Command::Hook(options) => Ok(hook(args, options)),
        Command::Check(options) => Ok(check(args, options)),
        Command::Clean(options) => clean(args, options),
        Command::Completions { shell } => {
            cli::completions(Args::command(), *shell);
            Ok(0)
        }
        Command::Man { page, out } => {
            cli::man(Args::command(), page.as_deref(), out.as_deref())?;
            Ok(0)
        }
    }
}

fn facts(args: &Args, resolv_conf: Option<&Path>) -> Result<HostFacts> {
    HostFacts::gather(SiteConfig::load(args.config.as_deref())?, resolv_conf)
}

fn render(args: &Args, options: &args::Render) -> Result<u8> {
    let facts = facts(args, options.resolv_conf.as_deref())?;
    let home = root::home_of(&options.user)?;
    let paths = UserPaths::new(&facts.site, &options.user, &home)?;
    let version = match options.nginx_version {
        Some(version) => version,
        None => installed_version(&facts.site)?,
    };
    let args::Mode::Nginx = options.mode;
    let snippet = facts.render(&paths, version)?;
    for warning in facts.resolver.iter().flat_map(|plan| &plan.warnings) {
        cli::warning(warning);
    }
    if args.json {
        cli::json(&json!({
            "user": options.user.as_str(),
            "path": paths.snippet_file.as_str(),
            "nginx": version.to_string(),
            "snippet": snippet.as_str(),
        }));
    } else {
        cli::raw(snippet.as_str().as_bytes());
    }
    Ok(0)
}

fn installed_version(site: &SiteConfig) -> Result<NginxVersion> {
    let binary = nginx::find(site).ok_or_else(|| {
        let named = site.nginx.as_ref().map(|p| p.as_str());
        Error::io(
            "find",
            Path::new(named.unwrap_or("nginx")),
            std::io::ErrorKind::NotFound,
        )
    })?;
    let output = std::process::Command::new(&binary)
        .arg("-v")
        .output()
        .map_err(|e| Error::io("run", &binary, e))?;
    NginxVersion::from_binary_output(&String::from_utf8_lossy(&output.stderr))
}

fn resolver(args: &Args, options: &args::Resolver) -> Result<u8> {
    let facts = facts(args, options.resolv_conf.as_deref())?;
    let rules = facts.rules()?;
    let plan = facts.resolver?;
    let explained: Vec<_> = options
        .names
        .iter()
        .map(|name| resolver::explain(name, &plan, &rules))
        .collect();
    let servers: Vec<String> = plan.nameservers.iter().map(ToString::to_string).collect();
    if args.json {
        let names: Vec<_> = explained
            .iter()
            .map(|e| {
                json!({
                    "given": e.given,
                    "becomes": e.becomes,
                    "verified_as": e.verified_as,
                    "address": e.address,
                    "why": e.why,
                })
            })
            .collect();
        cli::json(&json!({
            "nameservers": servers,
            "domain": plan.domain.as_ref().map(ToString::to_string),
            "static_hosts": plan.hosts.len(),
            "warnings": plan.warnings,
            "names": names,
        }));
    } else {
        for warning in &plan.warnings {
            cli::warning(warning);
        }
        if options.names.is_empty() {
            let domain = plan
                .domain
                .as_ref()
                .map_or("none".into(), ToString::to_string);
            let none = "none".to_owned();
            cli::table(
                &[
                    vec![
                        "name servers".into(),
                        if servers.is_empty() {
                            none
                        } else {
                            servers.join(" ")
                        },
                    ],
                    vec!["domain of short names".into(), domain],
                    vec!["names from /etc/hosts".into(), plan.hosts.len().to_string()],
                ],
                "",
            );
        }
        let rows: Vec<_> = explained
            .iter()
            .map(|e| {
                let becomes = e.becomes.clone().unwrap_or_else(|| "refused".into());
                vec![e.given.clone(), becomes, e.why.clone()]
            })
            .collect();
        cli::table(&rows, "");
    }
    Ok(u8::from(explained.iter().any(|e| e.becomes.is_none())))
}

/// stdout is thrown away by nginx_stage; stderr goes to its log if the exit
/// code is not 0. The PUN starts in any case.
fn hook(args: &Args, options: &args::Hook) -> u8 {
    let report = hook::hook(&HookRequest {
        user: options.user.clone(),
        config: absolute(args),
    });
    let _ = log::send(Path::new(log::SOCKET), report.severity(), &report.line());
    for problem in &report.problems {
        cli::problem(&problem.message, problem.hint.as_deref());
    }
    if args.json {
        let problems: Vec<_> = report
            .problems
            .iter()
            .map(|p| json!({ "code": p.code, "message": p.message, "hint": p.hint }))
            .collect();
        cli::json(&json!({
            "user": report.user.as_str(),
            "outcome": report.outcome.word(),
            "written": report.written,
            "authorities": report.authorities,
            "problems": problems,
            "notices": report.notices,
            "milliseconds": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        }));
    }
    u8::from(!report.is_good())
}

/// The configuration's path from `/` on: the user's part starts there.
fn absolute(args: &Args) -> Option<PathBuf> {
    let path = args.config.as_ref()?;
    Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()))
}

fn check(args: &Args, options: &args::Check) -> u8 {
    let checks = check::examine(&check::CheckRequest {
        config: absolute(args),
        user: options.user.clone(),
        nginx_stage_config: options.nginx_stage_config.clone(),
        cron_dir: options.cron_dir.clone(),
    });
    let worst = cli::worst(&checks);
    if args.json {
        cli::json(&json!({
            "verdict": worst.to_string(),
            "checks": cli::checks_json(&checks),
        }));
    } else {
        cli::write_checks(&checks);
    }
    u8::from(worst == Verdict::Failed)
}

fn clean(args: &Args, options: &args::Clean) -> Result<u8> {
    let site = SiteConfig::load(args.config.as_deref())?;
    let report = clean::clean(&site, options.dry_run)?;
    if args.json {
        let rows: Vec<_> = report
            .iter()
            .map(|one| {
                json!({
                    "user": one.user,
                    "connections": one.connections,
                    "stopped": one.stopped,
                    "problem": one.problem,
                })
            })
            .collect();
        cli::json(&json!({ "dry_run": options.dry_run, "puns": rows }));
    } else {
        // As nginx_clean does: the users whose PUNs are stopped, a line each.
        for one in report.iter().filter(|one| one.stopped) {
            cli::line(&one.user);
        }
        for one in &report {
            if let Some(problem) = &one.problem {
                cli::problem(&format!("{}: {problem}", one.user), None);
            }
        }
    }
    Ok(u8::from(report.iter().any(|one| one.problem.is_some())))
}
