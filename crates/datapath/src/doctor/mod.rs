//! What this machine can and cannot do for the mesh. Nothing is pinned, attached to what is there or changed: programs are
//! loaded on trial and let go, because only the kernel itself knows what it takes; version numbers lie where distributions port back.

mod machine;
mod neighbours;
mod trial;

pub(crate) use trial::efforts;
pub use trial::verify_object;

use crate::conformance::Check;
use crate::{Effort, Options, Refused, environment};

/// Whether something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should.
    On,
    /// With a loss, which the finding names.
    Degraded,
    /// Not at all.
    Off,
    /// It cannot be told, mostly for want of root.
    Unknown,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The kernel and how it is set up.
    Machine,
    /// What the mesh does, by the kernel's own verdict on its programs.
    Feature,
    /// Other people's programs on the same hooks.
    Neighbour,
    /// What is installed around it.
    Surroundings,
}

/// One thing that was looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// What was looked at.
    pub name: String,
    /// Whether it works.
    pub state: State,
    /// Nothing is meshed without it.
    pub essential: bool,
    /// What was found; if it is not on, why.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// What the kernel said, where it refused a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The programs that the kernel took.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Accepted>,
    /// What was tried beyond loading.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// A program that the kernel took on trial.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Accepted {
    /// The name of its C function.
    pub name: String,
    /// Instructions that the verifier walked, where the kernel tells (since Linux 5.16).
    pub verified: Option<u64>,
    /// What the verifier spent on it.
    pub effort: Option<Effort>,
}

impl Finding {
    /// Of something that is not essential.
    pub fn new(area: Area, name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self {
            area,
            name: name.into(),
            state,
            essential: false,
            detail: detail.into(),
            mend: None,
            refused: None,
            programs: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// The same, essential.
    pub fn essential(self) -> Self {
        Self { essential: true, ..self }
    }

    /// The same, with what to do about it.
    pub fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }

    /// Whether nothing can be meshed because of it.
    pub fn prevents(&self) -> bool {
        self.essential && self.state == State::Off
    }
}

/// Looks at everything, for an agent that would be started with `options`. Without root, what needs it is unknown.
pub fn examine(options: &Options) -> Vec<Finding> {
    let mut findings = machine::examine(options);
    let root = environment::check_root().is_ok();
    findings.extend(trial::load_all(root));
    findings.extend(neighbours::examine(options, root));
    findings
}
