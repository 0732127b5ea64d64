//! What the three commands have in common: output that cannot be written or that
//! nobody reads, completions and manual pages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ood_ca_tests::{Outcome, Run, ood_ca, ood_job, pun_helper};

fn programs() -> [&'static Path; 3] {
    [ood_ca(), ood_job(), pun_helper()]
}

fn name(program: &Path) -> &str {
    program.file_name().unwrap().to_str().unwrap()
}

/// Runs it in a home of its own, with its standard output led elsewhere by a shell.
fn to(redirection: &str, program: &Path, line: &str) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let script = format!("\"$0\" {line} {redirection}");
    Run::new("/bin/sh")
        .args(["-c".as_ref(), script.as_ref(), program.as_os_str()])
        .env("HOME", home.path())
        .env("OOD_CA_CONFIG", "")
        .output()
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    for (program, line, code) in [
        (ood_ca(), "init", 1),
        (ood_ca(), "doctor --json", 1),
        // For systemd only 255 is a failure.
        (
            ood_ca(),
            r#"init >/dev/null; "$0" needs-renewal --json"#,
            255,
        ),
        (ood_job(), "ports --json", 1),
        (ood_job(), "sessions", 1),
        (
            ood_job(),
            "config caddy --listen 127.0.0.1:1 --to 127.0.0.1:2 --certs /nowhere",
            1,
        ),
        (pun_helper(), "resolver --json", 1),
        (pun_helper(), "check", 1),
    ] {
        to(">/dev/full", program, line).assert_failed(code, "cannot write the output");
    }
    for program in programs() {
        for line in ["man", "completions zsh"] {
            to(">/dev/full", program, line).assert_failed(1, "cannot write the output");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for program in programs() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = Command::new(program)
            .arg("man")
            .stdin(Stdio::null())
            .stdout(writer)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0), "{}", program.display());
    }
}

#[test]
fn bash_completes_the_commands_and_their_flags() {
    for (program, words, expected) in [
        (ood_ca(), "rot", "rotate"),
        (ood_ca(), "issue --any", "--any-host"),
        (ood_job(), "sess", "sessions"),
        (ood_job(), "run --allow", "--allow-unisolated"),
        (pun_helper(), "res", "resolver"),
        (pun_helper(), "clean --dry", "--dry-run"),
    ] {
        let script = to("", program, "completions bash").assert_ok().stdout;
        let name = name(program);
        let command = format!(
            "{script}\nCOMP_WORDS=({name} {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             last=$COMP_CWORD; before=$((last - 1))\n\
             spec=$(complete -p {name}); function=${{spec##* -F }}; function=${{function%% *}}\n\
             $function {name} \"${{COMP_WORDS[last]}}\" \"${{COMP_WORDS[before]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let answer = Run::new("bash")
            .args(["--norc", "-c", &command])
            .output()
            .assert_ok();
        let offered: Vec<&str> = answer.stdout.lines().collect();
        assert_eq!(offered, [expected], "{name} {words}");
    }
}

#[test]
fn each_command_has_its_manual_page() {
    for program in programs() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("man/man1");
        let line = format!("man --out {}", place.display());
        to("", program, &line).assert_ok();
        let help = to("", program, "--help").assert_ok().stdout;
        let listed = help.split("Commands:\n").nth(1).unwrap();
        let listed = listed.split("\n\n").next().unwrap();
        // A command stands at the begin of its line; what it does may go on below.
        let commands = listed.lines().filter_map(|line| line.strip_prefix("  "));
        let commands: Vec<&str> = commands
            .filter(|rest| !rest.starts_with(' '))
            .filter_map(|rest| rest.split_whitespace().next())
            .collect();
        assert!(commands.len() > 5, "{help}");
        for command in &commands {
            let file = place.join(format!("{}-{command}.1", name(program)));
            let page = fs::read_to_string(&file).unwrap();
            assert!(page.contains(".SH NAME"), "{}", file.display());
            let printed = to("", program, &format!("man {command}")).assert_ok();
            assert_eq!(printed.stdout, page, "{}", file.display());
        }
        let pages = fs::read_dir(&place).unwrap().count();
        assert_eq!(pages, commands.len() + 1, "and one of all");
    }
}
