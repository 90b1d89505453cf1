//! `alize unload`: leave nothing in the kernel.

use std::time::Duration;

use alize_model::Budgets;
use serde::Serialize;

use super::args::{Global, UnloadArgs};
use super::check::plural;
use super::proxy::{self, Drained};
use crate::failure::Failure;
use crate::output::Output;

/// What was removed.
#[derive(Serialize)]
struct Answer {
    instance: String,
    links: u32,
    maps: u32,
    /// The proxy that has ended, and its connections.
    proxy: Option<Drained>,
}

pub(crate) fn unload(global: &Global, args: UnloadArgs, output: Output) -> Result<(), Failure> {
    let options = alize_datapath::Options {
        instance: global.instance.clone(),
        bpffs: args.place.bpffs,
        run_dir: args.place.run_dir,
        // What is pinned says itself where it is attached and how large it is.
        cgroups: Vec::new(),
        budgets: Budgets::default(),
    };
    let within = if args.force { Duration::ZERO } else { args.timeout };
    let mut proxy = None;
    // First: requests that the kernel has routed are still carried to their end, and new connections are balanced.
    let unloaded = alize_datapath::unload_after(&options, || {
        let begun = std::time::Instant::now();
        let mut each = |left, all| {
            output.progress(&bar(left, all, within.saturating_sub(begun.elapsed())));
        };
        proxy = proxy::drain(&options.run_dir, &options.instance, within, &mut each);
        output.progress("");
    });
    let unloaded = unloaded.map_err(in_use)?;
    let answer =
        Answer { instance: global.instance.clone(), links: unloaded.links, maps: unloaded.maps, proxy };
    output.answer(&answer, || summary(&answer))
}

/// How far the proxy is.
fn bar(left: u64, all: u64, time: Duration) -> String {
    const WIDTH: u64 = 30;
    let done = (all.saturating_sub(left) * WIDTH).checked_div(all).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|at| if at < done { '#' } else { '.' }).collect();
    let seconds = time.as_secs_f64().ceil();
    format!(
        "[{bar}] {left} of {} left with the proxy, cut in {seconds} s",
        plural(all as usize, "connection")
    )
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
        None => String::new(),
        Some(Drained { pid, connections, cut: 0 }) => {
            let connections = plural(*connections as usize, "connection");
            format!("the proxy (pid {pid}) has ended; {connections} of it came to their end\n")
        }
        Some(Drained { pid, cut, .. }) => {
            let connections = plural(*cut as usize, "connection");
            format!(
                "the proxy (pid {pid}) has ended; {connections} of it had not come to an end and were cut\n"
            )
        }
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
    fn the_bar_shows_what_is_left() {
        let text = bar(10, 40, Duration::from_millis(17_200));
        assert_eq!(
            text,
            "[######################........] 10 of 40 connections left with the proxy, cut in 18 s"
        );
        assert!(bar(0, 0, Duration::ZERO).starts_with("[##############################] 0 of 0"));
    }

    #[test]
    fn it_says_what_was_removed() {
        let answer = |links, maps| Answer { instance: "blue".into(), links, maps, proxy: None };
        assert_eq!(
            summary(&answer(9, 1)),
            "removed instance blue: 9 links with their programs, 1 map; running connections go on\n"
        );
        let with_proxy = |cut| {
            let proxy = Some(Drained { pid: 7, connections: 12, cut });
            summary(&Answer { proxy, ..answer(9, 1) })
        };
        assert!(
            with_proxy(0)
                .ends_with("\nthe proxy (pid 7) has ended; 12 connections of it came to their end\n")
        );
        assert!(with_proxy(1).ends_with("1 connection of it had not come to an end and were cut\n"));
        assert!(summary(&answer(0, 0)).starts_with("nothing to remove"));
    }
}
