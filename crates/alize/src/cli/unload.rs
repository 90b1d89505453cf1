//! `alize unload`: leave nothing in the kernel.

use std::time::Duration;

use alize_model::Budgets;
use serde::Serialize;

use super::args::{Global, PlaceArgs};
use super::check::plural;
use super::{block_on, proxy};
use crate::failure::Failure;
use crate::output::Output;

/// Removing takes milliseconds, unless the kernel has many maps to free.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was removed.
#[derive(Serialize)]
struct Answer {
    instance: String,
    links: u32,
    maps: u32,
    /// Process of the proxy that was asked to end.
    proxy: Option<u32>,
}

/// How long the connections of the proxy may take to end.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) fn unload(global: &Global, place: PlaceArgs, output: Output) -> Result<(), Failure> {
    let options = alize_datapath::Options {
        instance: global.instance.clone(),
        bpffs: place.bpffs,
        run_dir: place.run_dir.clone(),
        // What is pinned says itself where it is attached and how large it is.
        cgroups: Vec::new(),
        budgets: Budgets::default(),
    };
    let unloaded = block_on(async {
        let mut work = tokio::task::spawn_blocking(move || alize_datapath::unload(&options));
        let ended = match tokio::time::timeout(PATIENCE, &mut work).await {
            Ok(ended) => ended,
            Err(_) => {
                output.remark("removing programs and maps from the kernel ...");
                work.await
            }
        };
        let unloaded = ended.map_err(|error| Failure::Other(error.into()))?;
        unloaded.map_err(in_use)
    })?;
    let instance = global.instance.clone();
    // Not before: until now the kernel sent it new connections.
    let proxy = proxy::drain(&place.run_dir, &instance, DRAIN);
    let answer = Answer { instance, links: unloaded.links, maps: unloaded.maps, proxy };
    output.answer(&answer, || summary(&answer))
}

/// What starting an agent would take for a neighbour in the way is here the one to be stopped.
fn in_use(error: alize_datapath::Error) -> Failure {
    match error {
        alize_datapath::Error::AgentRunning { pid, instance } => Failure::InUse { pid, instance },
        error => error.into(),
    }
}

fn summary(answer: &Answer) -> String {
    let Answer { instance, links, maps, proxy } = answer;
    let proxy = match proxy {
        Some(pid) => {
            format!("the proxy (pid {pid}) ends when its connections have, within {} s\n", DRAIN.as_secs())
        }
        None => String::new(),
    };
    if *links == 0 && *maps == 0 {
        return format!("nothing to remove: no kernel program of instance {instance} is loaded\n{proxy}");
    }
    let links = plural(*links as usize, "link");
    let maps = plural(*maps as usize, "map");
    format!(
        "removed instance {instance}: {links} with their programs, {maps}; running connections go on\n{proxy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_removed() {
        let answer = |links, maps| Answer { instance: "blue".into(), links, maps, proxy: None };
        assert_eq!(
            summary(&answer(9, 1)),
            "removed instance blue: 9 links with their programs, 1 map; running connections go on\n"
        );
        let with_proxy = Answer { proxy: Some(7), ..answer(9, 1) };
        assert!(
            summary(&with_proxy)
                .ends_with("\nthe proxy (pid 7) ends when its connections have, within 30 s\n")
        );
        assert!(summary(&answer(0, 0)).starts_with("nothing to remove"));
    }
}
