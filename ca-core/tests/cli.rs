//! Transcripts of every command, good and bad input: `tests/cmd/*.trycmd`.
//!
//! Each runs in a directory of its own that holds copies of `cmd/files`, with a
//! home of its own. `TRYCMD=overwrite cargo test -p ca-core --test cli` writes
//! the answers anew; look at the difference before you commit it, and put
//! `[..]` back where an answer varies.
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
    assert!(transcripts.len() >= 10, "transcripts are missing");
    for transcript in transcripts {
        run(&transcript, &source.join("files"));
    }
}

fn run(transcript: &Path, files: &Path) {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join(transcript.file_name().unwrap());
    fs::copy(transcript, &copy).unwrap();
    let work = copy.with_extension("in");
    let home = work.join("home");
    fs::create_dir(&work).unwrap();
    fs::create_dir(&home).unwrap();
    for file in fs::read_dir(files).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), work.join(file.file_name())).unwrap();
    }
    trycmd::TestCases::new()
        .register_bin("ood-ca", Path::new(env!("CARGO_BIN_EXE_ood-ca")))
        .env("HOME", home.to_str().unwrap())
        .env("OOD_CA_CONFIG", "")
        .case(&copy)
        .run();
    if std::env::var_os("TRYCMD").is_some_and(|mode| mode == "overwrite") {
        fs::copy(&copy, transcript).unwrap();
    }
}
