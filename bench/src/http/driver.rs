//! The load generator as the bench sees it: a child in some namespace and cgroup.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::load::order::{Answer, Loaded, Order};
use super::place::{Own, Start};
use crate::process::{self, Kept};

pub(crate) struct Driver(Kept);

impl Driver {
    pub(crate) fn start(own: &Own, namespace: u32, cgroup: &Path, log: &Path) -> Result<Self> {
        let words = own.part("generate", &[]);
        let start =
            Start { namespace: Some(namespace), cgroup: Some(cgroup), user: None, signal: false, words };
        Ok(Self(start.start(log)?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Carries out an order; `at` is called when the measured time begins and when it ends.
    pub(crate) fn load<T>(
        &mut self,
        order: &Order,
        mut at: impl FnMut() -> Result<T>,
    ) -> Result<(Loaded, T, T)> {
        process::check_interrupt()?;
        self.0.tell(&serde_json::to_string(order)?)?;
        ensure!(matches!(self.hear()?, Answer::Begun), "the load generator did not begin");
        let before = at()?;
        ensure!(matches!(self.hear()?, Answer::Ended), "the load generator did not end");
        let after = at()?;
        match self.hear()? {
            Answer::Loaded(loaded) => Ok((loaded, before, after)),
            _ => bail!("the load generator answered out of turn"),
        }
    }

    fn hear(&mut self) -> Result<Answer> {
        match serde_json::from_str(&self.0.hear()?)? {
            Answer::Failed(reason) => bail!("the load generator failed: {reason}"),
            answer => Ok(answer),
        }
    }
}
