//! Transcripts of a command, `tests/cmd/*.trycmd` of its crate, for a test of that
//! crate to take in with `#[path]`: a program's path is known to its own crate alone.
//!
//! Each runs in a directory of its own that holds copies of `cmd/files`, with a home
//! of its own. `TRYCMD=overwrite cargo test -p CRATE --test cli` writes the answers
//! anew; look at the difference before you commit it, and put `[..]` back where an
//! answer varies.

use std::fs;
use std::path::{Path, PathBuf};

/// Runs all transcripts of a crate, which has at least so many.
pub fn run_all(crate_dir: &str, at_least: usize, program: &str) {
    let source = Path::new(crate_dir).join("tests/cmd");
    let mut transcripts: Vec<PathBuf> = fs::read_dir(&source)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "trycmd"))
        .collect();
    transcripts.sort();
    assert!(transcripts.len() >= at_least, "transcripts are missing");
    for transcript in transcripts {
        run(&transcript, &source.join("files"), Path::new(program));
    }
}

fn run(transcript: &Path, files: &Path, program: &Path) {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join(transcript.file_name().unwrap());
    fs::copy(transcript, &copy).unwrap();
    let work = copy.with_extension("in");
    let home = work.join("home");
    fs::create_dir_all(&home).unwrap();
    if files.exists() {
        for file in fs::read_dir(files).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), work.join(file.file_name())).unwrap();
        }
    }
    let name = program.file_name().unwrap().to_str().unwrap();
    trycmd::TestCases::new()
        .register_bin(name, program)
        .env("HOME", home.to_str().unwrap())
        .env("OOD_CA_CONFIG", "")
        .case(&copy)
        .run();
    if std::env::var_os("TRYCMD").is_some_and(|mode| mode == "overwrite") {
        fs::copy(&copy, transcript).unwrap();
    }
}
