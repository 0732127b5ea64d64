//! What a panic says.

use ca_core::cli;

/// Has a panic say what happened in one line, as any other failure. Where threads or
/// files are short while the runtime is made, the process ends with that: it would
/// wait for ever for the threads that it has got.
pub(crate) fn as_errors() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message = message.or(payload.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("for no known reason");
        let message = message.lines().next().unwrap_or_default();
        let place = info.location().map(ToString::to_string);
        let place = place.unwrap_or_default();
        if ood_job::run::is_building_runtime() {
            cli::remark(&format!(
                "error: you have too few processes or open files left: {message}"
            ));
            std::process::exit(i32::from(crate::PANICKED));
        }
        if std::thread::current().name() == Some("main") {
            cli::remark(&format!("error: cannot go on: {message} ({place})"));
        } else {
            cli::warning(&format!("a part of ood-job failed: {message} ({place})"));
        }
    }));
}
