//! JupyterLab, as users have it in a job.

use std::fs;
use std::os::unix::fs::chown;

use ood_ca_tests::job::Job;
use ood_ca_tests::{ood_ca, require_tool};
use serde_json::json;

use crate::portal::Portal;
use crate::webdriver::Browser;

/// What Jupyter asks for, and `ood-job` adds: no user ever sees it.
const TOKEN: &str = "b1f0c2a1e7d94c5f";

/// Keys, as WebDriver §17.4.2 has them.
const ENTER: char = '\u{e007}';
const SHIFT: char = '\u{e008}';

/// Runs with the path of its Python as `$0`.
const JUPYTER: &str = r#"
exec "$0" -m jupyterlab --port="$OOD_JOB_APP_PORT" --no-browser \
    --ServerApp.base_url="/pun/proxy/$OOD_JOB_HOST/$OOD_JOB_PORT/" \
    --ServerApp.allow_remote_access=True --LabApp.expose_app_in_browser=True"#;

/// What a terminal shows: it is drawn, so the page itself does not say.
const SHOWN: &str = "
    const lines = jupyterapp.shell.currentWidget.content._term.buffer.active;
    const line = (_, at) => lines.getLine(at).translateToString(true);
    return Array.from({ length: lines.length }, line).join('\\n');";

/// What the node does so that alice sees the environment in the target directory,
/// which may be closed to her, and the Python of it.
fn jupyter(portal: &Portal) -> (String, String) {
    // <target>/<profile>/ood-ca
    let venv = ood_ca().ancestors().nth(2).unwrap().join("jupyter");
    assert!(
        venv.join("bin/jupyter-lab").exists(),
        "this test needs JupyterLab in {venv}; make it with: \
         /usr/bin/python3 -m venv {venv} && {venv}/bin/pip install jupyterlab ipykernel \
         (scripts/test does that)",
        venv = venv.display()
    );
    require_tool("mount");
    let seen = portal.world.path("jupyter");
    fs::create_dir(&seen).unwrap();
    let (venv, seen) = (venv.display(), seen.display());
    let bind = format!("mount --bind -o ro '{venv}' '{seen}'");
    (bind, format!("{seen}/bin/python3"))
}

/// A notebook with one empty cell.
fn write_notebook(portal: &Portal) {
    let notebook = json!({
        "nbformat": 4, "nbformat_minor": 5,
        "metadata": { "kernelspec": { "name": "python3", "display_name": "Python 3" } },
        "cells": [{
            "id": "only", "cell_type": "code", "source": "", "metadata": {},
            "execution_count": null, "outputs": [],
        }],
    });
    let path = portal.alice.home.join("answer.ipynb");
    let uid = portal.alice.home.uid();
    fs::write(&path, notebook.to_string()).unwrap();
    chown(&path, Some(uid), Some(uid)).unwrap();
}

#[test]
fn a_notebook_cell_runs_in_jupyterlab_and_a_terminal_echoes() {
    let portal = Portal::start();
    write_notebook(&portal);
    let (bind, python) = jupyter(&portal);
    let authorization = format!("token {TOKEN}");
    let job = Job::start(
        &portal.world,
        &portal.alice,
        &bind,
        &[("JUPYTER_TOKEN", TOKEN), ("AUTHORIZATION", &authorization)],
        &[
            "--to", "127.0.0.1:8888", "--header-env", "Authorization=AUTHORIZATION",
        ],
        &["sh", "-c", JUPYTER, &python],
    );
    let browser = Browser::start();
    let session = portal.origin.clone() + &job.path("proxy");
    browser.open(&format!("{session}lab/tree/answer.ipynb"));
    run_a_cell(&browser);
    use_a_terminal(&browser);
    let troubles = ["network:", "security:", "javascript:"];
    let console = browser.console();
    assert!(
        !console
            .iter()
            .any(|line| troubles.iter().any(|source| line.starts_with(source))),
        "{console:#?}"
    );
}

#[track_caller]
fn run_a_cell(browser: &Browser) {
    // What is run before the kernel is connected is forgotten.
    browser
        .wait_until("document.getElementById('jp-main-statusbar').textContent.includes('| Idle')");
    browser.click_when_possible(".jp-Notebook .cm-content");
    browser.type_keys("6*7");
    browser.chord(SHIFT, ENTER);
    browser.wait_until(
        "document.querySelector('.jp-Notebook .jp-OutputArea-output').textContent.trim() === '42'",
    );
    browser.screenshot("jupyter-notebook");
}

#[track_caller]
fn use_a_terminal(browser: &Browser) {
    browser.click_when_possible("[data-command='launcher:create']");
    browser.click_when_possible(".jp-LauncherCard[title*=terminal]");
    let shows = |pattern: &str| {
        let shown = format!("(function () {{ {SHOWN} }}())");
        browser.wait_until(&format!("/{pattern}/m.test({shown})"));
    };
    shows(r"^\$ ");
    browser.click_when_possible(".jp-Terminal .xterm-screen");
    browser.type_keys("echo $((6*7)) is the answer");
    shows(r"^\$ echo \$\(\(6\*7\)\) is the answer$");
    browser.type_keys(&ENTER.to_string());
    shows("^42 is the answer$");
    browser.screenshot("jupyter-terminal");
}
