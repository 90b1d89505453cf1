//! Changes of a service's mode beside the file.

use alize_model::api::ModeChange;
use alize_model::{Mode, Snapshot};

use super::Mesh;
use crate::events::{Kind, event, unix_time};
use crate::modes::{Modes, Override};

/// Why a mode was not set.
#[derive(Debug)]
pub(crate) enum ModeRefused {
    /// The state in force has no such service.
    Unknown,
    /// The kernel did not take it.
    Kernel(alize_datapath::Error),
}

impl Mesh {
    /// Lets `mode` hold for a service in place of the file's, for `seconds` or until it is set again; without `mode` the
    /// file's holds again. In force when this returns.
    pub(crate) fn set_mode(
        &mut self,
        name: &str,
        mode: Option<Mode>,
        seconds: Option<f64>,
    ) -> Result<ModeChange, ModeRefused> {
        let declared = self.declared.get(name).ok_or(ModeRefused::Unknown)?.mode;
        let before = self.snapshot.get(name).map_or(declared, |service| service.mode);
        let mut modes = self.modes.clone();
        let now = unix_time();
        match mode {
            Some(mode) => modes.set(name, Override { mode, since: now, until: seconds.map(|s| now + s) }),
            None => drop(modes.clear(name)),
        }
        self.lay_over(modes).map_err(ModeRefused::Kernel)?;
        let status = self.modes.status(name, declared);
        let now_is = status.as_ref().map_or(declared, |status| status.mode);
        let until = status.as_ref().and_then(|status| status.until);
        self.tell_mode(name, before, now_is, declared, status.is_some());
        Ok(ModeChange { service: name.to_owned(), mode: now_is, before, declared, until })
    }

    /// Ends what has run out. If the kernel does not take the change, it is tried again.
    pub(crate) fn expire_modes(&mut self) {
        let mut modes = self.modes.clone();
        let ended = modes.expire(unix_time());
        if ended.is_empty() {
            return;
        }
        if let Err(error) = self.lay_over(modes) {
            tracing::warn!("a mode that has run out still holds, trying again: {error}");
            return;
        }
        for name in ended {
            if let Some(service) = self.declared.get(&name) {
                let event = alize_model::api::Event {
                    service: Some(name.clone()),
                    ..event(
                        Kind::Config,
                        format!("the mode is what the file says again: {}", word(service.mode)),
                    )
                };
                self.events.publish(Kind::Config, event);
            }
        }
    }

    /// Puts the file's state with `modes` in force, and keeps them.
    fn lay_over(&mut self, modes: Modes) -> Result<(), alize_datapath::Error> {
        let snapshot: Snapshot = modes.laid_over(&self.declared).sharing(&self.snapshot);
        self.put(snapshot)?;
        self.modes = modes;
        if let Err(error) = self.kept_modes.write(&self.modes) {
            let message = format!(
                "modes that were set cannot be kept in {}: {error}; they end with this agent",
                self.options.datapath.run_dir.display()
            );
            self.events.tell(Kind::Agent, message);
        }
        Ok(())
    }

    /// What was set before a restart of the agent. After an unload, or a restart of the host, only the file counts.
    pub(super) fn resume_modes(&mut self, adopted: bool) {
        let read = if adopted {
            self.kept_modes.read()
        } else {
            self.kept_modes.write(&Modes::default()).map(|()| Modes::default())
        };
        match read {
            Ok(modes) => self.modes = modes,
            Err(error) => {
                self.events.tell(Kind::Agent, format!("modes that were set before are lost: {error}"))
            }
        }
    }

    fn tell_mode(&mut self, name: &str, before: Mode, now: Mode, declared: Mode, overrides: bool) {
        let why = match overrides {
            true => format!("by hand; the file says {}", word(declared)),
            false => "as the file says".into(),
        };
        let event = alize_model::api::Event {
            service: Some(name.to_owned()),
            ..event(Kind::Config, format!("the mode is {} now, it was {} ({why})", word(now), word(before)))
        };
        self.events.publish(Kind::Config, event);
    }
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    }
}
