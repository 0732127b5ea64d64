//! Transcripts of every command, good and bad input: `tests/cmd/*.trycmd`.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../../tests/support/transcripts.rs"]
mod transcripts;

#[test]
fn every_command_answers_as_its_transcript_says() {
    let program = env!("CARGO_BIN_EXE_pun-helper");
    transcripts::run_all(env!("CARGO_MANIFEST_DIR"), 2, program);
}
