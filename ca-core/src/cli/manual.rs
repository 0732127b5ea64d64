//! Completion scripts and manual pages, both made from the command's definition.

use std::path::Path;

use clap::Command;

use super::raw;
use crate::error::{Error, Result};

/// Writes the completion script of a command for a shell.
pub fn completions(mut command: Command, shell: clap_complete::Shell) {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    let script = String::from_utf8_lossy(&script);
    raw(with_one_spelling(&script, &name).as_bytes());
}

/// The bash script of clap_complete 4.6 spells a hyphen of the program's name in two
/// ways, and so finds no flag of any subcommand: clap-rs/clap#6421. One spelling does
/// no harm where that is mended.
fn with_one_spelling(script: &str, name: &str) -> String {
    let spelled = |hyphen| format!("{}__subcmd__", name.replace('-', hyphen));
    script.replace(&spelled("__subcmd__"), &spelled("__"))
}

/// Writes a manual page: of one subcommand, or of the whole command; or all of them
/// as files into a directory, which is made if need be.
///
/// # Errors
/// [`Error::Io`] if they cannot be written there.
pub fn man(mut command: Command, page: Option<&str>, out: Option<&Path>) -> Result<()> {
    if let Some(dir) = out {
        let fail = |e| Error::io("write the manual pages to", dir, e);
        std::fs::create_dir_all(dir).map_err(fail)?;
        return clap_mangen::generate_to(command, dir).map_err(fail);
    }
    // Gives the subcommands their full names.
    command.build();
    let wanted = page.and_then(|name| command.find_subcommand(name));
    let mut text = Vec::new();
    clap_mangen::Man::new(wanted.unwrap_or(&command).clone())
        .render(&mut text)
        .map_err(|e| Error::io("write the manual page to", Path::new("standard output"), e))?;
    raw(&text);
    Ok(())
}

/// The name of one of the command's subcommands.
///
/// # Errors
/// Says which there are.
pub fn subcommand_name(command: &Command, input: &str) -> std::result::Result<String, String> {
    let subcommands = command.get_subcommands();
    let names: Vec<&str> = subcommands.map(Command::get_name).collect();
    if names.contains(&input) {
        Ok(input.to_owned())
    } else {
        Err(format!("the commands are {}", names.join(", ")))
    }
}
