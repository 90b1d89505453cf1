//! Faults on purpose, for tests: `ALIZE_FAULT=STEP=kill` or `STEP=error`, where STEP is a step of a start or an upgrade
//! (such as `load`), or one with its object (`switch:alize_connect4`). Builds without debug assertions have none, unless
//! the feature `faults` is on.

use crate::Error;

/// Does what `ALIZE_FAULT` says for `step`.
#[cfg(any(debug_assertions, feature = "faults"))]
pub(crate) fn point(step: &str) -> Result<(), Error> {
    let Ok(fault) = std::env::var("ALIZE_FAULT") else { return Ok(()) };
    match fault.rsplit_once('=') {
        Some((at, "kill")) if at == step => {
            // As hard as it gets: no destructor, no flush.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Ok(())
        }
        Some((at, "error")) if at == step => {
            Err(Error::kernel("cannot go on", step, std::io::Error::other("ALIZE_FAULT says so")))
        }
        _ => Ok(()),
    }
}

#[cfg(not(any(debug_assertions, feature = "faults")))]
pub(crate) fn point(_step: &str) -> Result<(), Error> {
    Ok(())
}
