//! Transcripts of the commands, good and bad input: `tests/cmd/*.trycmd`. What
//! needs namespaces or other users is in `tests/job` of the repository.
//!
//! Each runs in a directory of its own with a home of its own.
//! `TRYCMD=overwrite cargo test -p ood-job --test cli` writes the answers anew;
//! look at the difference before you commit it, and put `[..]` back where an
//! answer varies.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_command_answers_as_its_transcript_says() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd");
    let mut transcripts: Vec<PathBuf> = fs::read_dir(&source)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "trycmd"))
        .collect();
    transcripts.sort();
    assert!(transcripts.len() >= 4, "transcripts are missing");
    for transcript in transcripts {
        run(&transcript);
    }
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    let home = tempfile::tempdir().unwrap();
    for words in [
        "sessions",
        "sessions --json",
        "completions bash",
        "man",
        "config nginx --listen 0.0.0.0:8443 --to 127.0.0.1:8888 --certs certs",
    ] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let outcome = std::process::Command::new(env!("CARGO_BIN_EXE_ood-job"))
            .args(words.split(' '))
            .current_dir(home.path())
            .env("HOME", home.path())
            .env("OOD_CA_CONFIG", "")
            .stdout(full)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(1), "{words}: {said}");
        let told = said.matches("error: cannot write the output").count();
        assert_eq!(told, 1, "{words}: {said}");
    }
}

fn run(transcript: &Path) {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join(transcript.file_name().unwrap());
    fs::copy(transcript, &copy).unwrap();
    let work = copy.with_extension("in");
    let home = work.join("home");
    fs::create_dir_all(&home).unwrap();
    trycmd::TestCases::new()
        .register_bin("ood-job", Path::new(env!("CARGO_BIN_EXE_ood-job")))
        .env("HOME", home.to_str().unwrap())
        .env("OOD_CA_CONFIG", "")
        .case(&copy)
        .run();
    if std::env::var_os("TRYCMD").is_some_and(|mode| mode == "overwrite") {
        fs::copy(&copy, transcript).unwrap();
    }
}
