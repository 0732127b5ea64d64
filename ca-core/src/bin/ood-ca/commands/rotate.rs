use ca_core::cli;
use ca_core::{Phase, Result, Rotation, now};
use serde_json::json;

use super::{Context, strings};
use crate::args::Rotate;
use crate::json;

pub(super) fn run(context: &Context, args: &Rotate) -> Result<u8> {
    let now = now();
    let rotation = Rotation::new(&context.location, &context.site);
    let step = &args.step;
    let report = if step.prepare {
        rotation.prepare(now)?
    } else if step.activate {
        rotation.activate(args.force, now)?
    } else if step.retire {
        rotation.retire(args.force, now)?
    } else {
        rotation.emergency(now)?
    };
    if context.json {
        cli::json(&json!({
            "phase": report.phase.to_string(),
            "changed": report.changed,
            "signer": json::certificate(&report.signer, now),
            "trust": json::trust(&report.trust, now),
            "notices": strings(&report.notices),
        }));
        return Ok(0);
    }
    let done = match (report.phase, report.changed) {
        (Phase::Prepared, true) => {
            "a new authority is trusted from now on; the old one still signs"
        }
        (Phase::Prepared, false) => "a new authority is prepared already",
        (Phase::Activated, true) => {
            "the new authority signs from now on; the old one is still trusted"
        }
        (Phase::Activated, false) => "the new authority signs already",
        (Phase::Settled, true) => "the old authority is no longer trusted",
        (Phase::Settled, false) => "there is no old authority to retire",
    };
    cli::line(done);
    for notice in &report.notices {
        cli::line(&format!("  {notice}"));
    }
    Ok(0)
}
