//! Plaintext of TLS: follows what services ask for, and tells what that comes to.

use std::net::SocketAddr;
use std::time::Instant;

use alize_datapath::observe::Observer;
use alize_datapath::observe::tls::{Change, Probed, told};
use tracing::{info, warn};

use super::{LOOK, Watcher};

/// What was looked for last.
#[derive(Default)]
pub(super) struct Looking {
    at: Option<Instant>,
    /// Whether probes are in place.
    on: bool,
    /// What is wrong, so that it is told once.
    problem: Option<String>,
}

impl Watcher {
    /// Every second: services may have changed, and processes have come and gone.
    pub(super) fn look_for_tls(&mut self, observer: &mut Observer) {
        if self.tls.at.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.tls.at = Some(Instant::now());
        self.renew_names();
        let servers: Vec<SocketAddr> = self.names.tls().iter().copied().collect();
        match observer.watch_tls(&servers) {
            Ok(changes) => {
                changes.iter().for_each(tell);
                self.tls.problem = None;
            }
            Err(error) => {
                let problem = error.to_string();
                if self.tls.problem.as_ref() != Some(&problem) {
                    warn!("requests within TLS are not seen: {problem}");
                    self.tls.problem = Some(problem);
                }
            }
        }
        let cost = observer.tls_cost();
        if cost.is_some() != self.tls.on {
            self.tls.on = cost.is_some();
            match cost {
                Some(cost) => info!(
                    "looking at requests within TLS to {} addresses; {}, in every process that uses such a file",
                    servers.len(),
                    told(cost)
                ),
                None => info!("requests within TLS are not looked at any more; all probes are out"),
            }
        }
    }
}

fn tell(change: &Change) {
    match change {
        Change::Found(Probed { name, library, refused: Some(why) }) => {
            warn!("{}: {} is not probed: {why}", library.family.as_str(), name.escape_debug());
        }
        Change::Found(Probed { name, library, refused: None }) => {
            info!("probes within TLS: {}", library.told(name));
        }
        Change::Left(name) => info!("{} is not in use any more; its probes are out", name.escape_debug()),
    }
}
