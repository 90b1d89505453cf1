use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use super::dial::Dial;
use super::{Speech, tell};
use crate::Tally;

#[derive(Debug, clap::Args)]
pub struct Connect {
    target: SocketAddr,
    /// Connections, one after the other
    #[arg(long, default_value_t = 1)]
    count: u64,
    #[arg(long, default_value = "line")]
    speech: Speech,
    /// Bind to this many addresses in turn, from 127.1.0.0 upwards
    #[arg(long)]
    sources: Option<u32>,
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
}

impl Connect {
    pub(super) fn run(self) -> Result<()> {
        let dial =
            Dial { target: self.target, speech: self.speech, limit: Duration::from_secs_f64(self.timeout) };
        let mut tally = Tally::default();
        for index in 0..self.count {
            dial.ask(self.source(index), &mut tally);
        }
        tell(&tally)
    }

    fn source(&self, index: u64) -> Option<IpAddr> {
        let sources = u64::from(self.sources?);
        let number = u32::try_from(index % sources).ok()?;
        Some(Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number).into())
    }
}
