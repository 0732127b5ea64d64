//! Transcripts of every command, good and bad input: `tests/cmd/*.trycmd`. What
//! needs namespaces or other users is in `tests/job` of the repository.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../../tests/support/transcripts.rs"]
mod transcripts;

#[test]
fn every_command_answers_as_its_transcript_says() {
    let program = env!("CARGO_BIN_EXE_ood-job");
    transcripts::run_all(env!("CARGO_MANIFEST_DIR"), 4, program);
}
