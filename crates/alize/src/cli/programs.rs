//! `alize programs`: the instance's kernel programs and maps, and what they cost. Asks the kernel, not the agent.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::inspect::{self, Attachment, Inspection, MapFacts, ProgramFacts, VERIFIER_LIMIT};
use alize_model::Budgets;
use serde::Serialize;

use super::args::{Global, ProgramsArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::{Paint, Tone, visible};
use crate::table::Align::{Left, Right};
use crate::table::{Cell, Table};
use crate::units::{bytes, count, percent, rate};

/// Above these a program or a map deserves a look.
const SLOW: Duration = Duration::from_micros(5);
const BUSY: f64 = 0.05;
const FULL: f64 = 0.9;
const COMPLEX: f64 = 0.25;
const CHAIN: u32 = 12;

/// MAX_BPF_STACK of linux/filter.h.
const STACK_LIMIT: u32 = 512;

#[derive(Serialize)]
struct Answer {
    instance: String,
    programs: Vec<Row>,
    maps: Vec<MapFacts>,
    /// What should never happen, and how often it did.
    anomalies: std::collections::BTreeMap<&'static str, u64>,
    memory: u64,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    facts: ProgramFacts,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
}

/// What a program cost while it was watched.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    runs_per_second: f64,
    /// Of one run, in nanoseconds; 0 when it did not run.
    average_ns: f64,
    /// Share of one CPU.
    cpu: f64,
}

pub(crate) fn programs(global: &Global, args: ProgramsArgs, output: Output) -> Result<(), Failure> {
    let options = alize_datapath::Options {
        instance: global.instance.clone(),
        bpffs: args.bpffs,
        run_dir: "/run/alize".into(),
        cgroups: Vec::new(),
        budgets: Budgets::default(),
    };
    if args.versions {
        return super::versions::versions(&options, &args.bundles, output);
    }
    let mut inspection = inspect::inspect(&options)?;
    if let Some(name) = &args.program {
        keep_only(&mut inspection, name)?;
    }
    if let (Some(form), Some(program)) = (args.dump, inspection.programs.first()) {
        return super::dump::dump(form, program);
    }
    if args.stats.is_none() {
        inspection.add_efforts();
    }
    let costs = args.stats.map(|interval| watch(&inspection.programs, interval)).transpose()?;
    let answer = answer(inspection, costs.as_ref(), args.program.is_none());
    output.answer(&answer, || report(&answer, args.stats, output.paint, output.width()))
}

/// Leaves one program and no map.
fn keep_only(inspection: &mut Inspection, name: &str) -> Result<(), Failure> {
    let all: Vec<String> = inspection.programs.iter().map(|program| program.name.clone()).collect();
    let is_meant =
        |program: &ProgramFacts| program.name == name || program.name.strip_prefix("alize_") == Some(name);
    inspection.programs.retain(is_meant);
    if !inspection.programs.is_empty() {
        return Ok(());
    }
    let instance = &inspection.instance;
    Err(Failure::Other(match all.is_empty() {
        true => anyhow::anyhow!("no kernel program of instance {instance} is loaded"),
        false => anyhow::anyhow!("instance {instance} has no program {name:?}; it has {}", all.join(", ")),
    }))
}

/// Counts runs for `interval`; the kernel does not count them else.
fn watch(programs: &[ProgramFacts], interval: Duration) -> Result<HashMap<u32, Cost>, Failure> {
    let ids: Vec<u32> = programs.iter().map(|program| program.id).collect();
    let _statistics = inspect::Statistics::start()?;
    let (before, begun) = (inspect::runs(&ids), Instant::now());
    thread::sleep(interval);
    let (after, seconds) = (inspect::runs(&ids), begun.elapsed().as_secs_f64());
    let cost = |(id, (runs, time)): (u32, (u64, u64))| {
        let (runs_before, time_before) = before.get(&id).copied().unwrap_or_default();
        (id, Cost::new(runs.saturating_sub(runs_before), time.saturating_sub(time_before), seconds))
    };
    Ok(after.into_iter().map(cost).collect())
}

impl Cost {
    fn new(runs: u64, nanoseconds: u64, seconds: f64) -> Self {
        Self {
            runs_per_second: runs as f64 / seconds,
            average_ns: nanoseconds as f64 / runs.max(1) as f64,
            cpu: nanoseconds as f64 / 1e9 / seconds,
        }
    }
}

fn answer(inspection: Inspection, costs: Option<&HashMap<u32, Cost>>, with_maps: bool) -> Answer {
    let Inspection { instance, programs, maps, anomalies, memory } = inspection;
    let row =
        |facts: ProgramFacts| Row { cost: costs.and_then(|costs| costs.get(&facts.id).copied()), facts };
    let programs: Vec<Row> = programs.into_iter().map(row).collect();
    let maps = if with_maps { maps } else { Vec::new() };
    let mut warnings: Vec<String> = programs.iter().flat_map(hot_program).collect();
    warnings.extend(maps.iter().flat_map(hot_map));
    if with_maps {
        warnings.extend(anomalies.iter().map(|(name, number)| {
            format!("anomaly {name} happened {} times; see the guide, Troubleshooting", count(*number))
        }));
    }
    Answer { instance, programs, maps, anomalies, memory, warnings }
}

fn hot_program(row: &Row) -> Vec<String> {
    let ProgramFacts { name, recursion_misses, .. } = &row.facts;
    let mut warnings = Vec::new();
    if let Some(cost) = row.cost {
        if cost.average_ns > SLOW.as_nanos() as f64 && cost.runs_per_second >= 1.0 {
            warnings.push(format!(
                "{name} takes {} a run; below {} is usual",
                nanoseconds(cost.average_ns),
                nanoseconds(SLOW.as_nanos() as f64)
            ));
        }
        if cost.cpu > BUSY {
            warnings.push(format!(
                "{name} takes {} of a CPU, at {} runs a second",
                percent(cost.cpu),
                rate(cost.runs_per_second)
            ));
        }
    }
    let complex = part_of_limit(verified(&row.facts));
    if complex > COMPLEX {
        warnings.push(format!(
            "{name} takes {} of what the verifier walks at most: another kernel may refuse it",
            percent(complex)
        ));
    }
    if *recursion_misses > 0 {
        warnings.push(format!(
            "{name} was skipped {} times, because it ran on that CPU already",
            count(*recursion_misses)
        ));
    }
    warnings
}

fn hot_map(map: &MapFacts) -> Vec<String> {
    let name = &map.name;
    let flag = match name.as_str() {
        "services" | "service_names" | "frontends" | "service_traffic" | "service_decisions" => {
            "--max-services"
        }
        "endpoints" | "endpoint_load" | "endpoint_traffic" => "--max-endpoints",
        "slots" => "--max-slots",
        "affinity" => "--max-affinity",
        _ => "",
    };
    let mend = if flag.is_empty() { String::new() } else { format!("; raise {flag}") };
    let mut warnings = Vec::new();
    // What is remembered of clients makes room for itself.
    if let Some(full) = fill(map).filter(|full| *full > FULL && map.kind != "LRU hash") {
        warnings.push(format!("map {name} is {} full{mend}", percent(full)));
    }
    if let Some(failed) = map.failed.filter(|failed| *failed > 0) {
        warnings.push(format!("map {name} had no place {} times{mend}", count(failed)));
    }
    if let Some(longest) = map.longest_bucket.filter(|longest| *longest > CHAIN) {
        warnings
            .push(format!("map {name} has a bucket of about {longest} entries, which a look-up walks{mend}"));
    }
    warnings
}

/// The part of its entries that is in use.
fn fill(map: &MapFacts) -> Option<f64> {
    (map.limit > 0).then_some(map.used? as f64 / f64::from(map.limit))
}

/// Instructions that the verifier walked: as the kernel keeps it, or as it said on trial.
fn verified(facts: &ProgramFacts) -> u64 {
    match (facts.verified, &facts.effort) {
        (0, Some(effort)) => effort.walked,
        (verified, _) => verified.into(),
    }
}

/// At most this much stack: of the program and all its functions, of which not all need be on it at once.
fn deepest(stack: &[u32]) -> u32 {
    stack.iter().sum::<u32>().min(STACK_LIMIT)
}

fn part_of_limit(verified: u64) -> f64 {
    verified as f64 / f64::from(VERIFIER_LIMIT)
}

fn report(answer: &Answer, stats: Option<Duration>, paint: Paint, width: Option<usize>) -> String {
    if answer.programs.is_empty() && answer.maps.is_empty() {
        return format!("no kernel program of instance {} is loaded\n", answer.instance);
    }
    let mut text = match stats {
        None => programs_table(&answer.programs).render(paint, width),
        Some(_) => costs_table(&answer.programs).render(paint, width),
    };
    if !answer.maps.is_empty() {
        text.push_str(&format!("\n{}", maps_table(&answer.maps).render(paint, width)));
        text.push_str(&format!("\nkernel memory of all: {}\n", bytes(answer.memory)));
    }
    for warning in &answer.warnings {
        text.push_str(&format!("{} {}\n", paint.tone(Tone::Caution, "warning:"), visible(warning)));
    }
    text
}

fn programs_table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("PROGRAM", Left),
        ("ID", Right),
        ("VERSION", Left),
        ("TAG", Left),
        ("INSTRUCTIONS", Right),
        ("VERIFIED", Right),
        ("STATES", Right),
        ("STACK", Right),
        ("JITED", Right),
        ("MEMORY", Right),
        ("HOOK", Left),
        ("ATTACHED TO", Left),
    ]);
    for Row { facts, .. } in rows {
        let verified = match verified(facts) {
            0 => String::new(),
            verified => format!("{} ({})", count(verified), percent(part_of_limit(verified))),
        };
        let effort = facts.effort.as_ref();
        table.row(vec![
            facts.name.clone().into(),
            facts.id.to_string().into(),
            facts.version.clone().into(),
            facts.tag.clone().into(),
            count(facts.instructions.into()).into(),
            verified.into(),
            effort.map_or("".into(), |effort| count(effort.states).into()),
            effort.map_or("".into(), |effort| bytes(deepest(&effort.stack).into()).into()),
            match facts.jited {
                0 => Cell::new("interpreted", Tone::Caution),
                size => bytes(size.into()).into(),
            },
            bytes(facts.memory).into(),
            hook(&facts.attached),
            places(&facts.attached).into(),
        ]);
    }
    table
}

fn costs_table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("PROGRAM", Left),
        ("ID", Right),
        ("RUNS/S", Right),
        ("AVERAGE", Right),
        ("CPU", Right),
        ("HOOK", Left),
    ]);
    for Row { facts, cost } in rows {
        let ran = cost.filter(|cost| cost.runs_per_second > 0.0);
        let hot = |is_hot: bool| if is_hot { Tone::Caution } else { Tone::Plain };
        table.row(vec![
            facts.name.clone().into(),
            facts.id.to_string().into(),
            rate(ran.map_or(0.0, |cost| cost.runs_per_second)).into(),
            ran.map_or("".into(), |cost| {
                Cell::new(nanoseconds(cost.average_ns), hot(cost.average_ns > SLOW.as_nanos() as f64))
            }),
            ran.map_or("".into(), |cost| Cell::new(percent(cost.cpu), hot(cost.cpu > BUSY))),
            hook(&facts.attached),
        ]);
    }
    table
}

/// The hooks; a program that is nowhere does nothing.
fn hook(attached: &[Attachment]) -> Cell {
    let mut hooks: Vec<&str> = attached.iter().map(|place| place.hook.as_str()).collect();
    hooks.dedup();
    match hooks.is_empty() {
        true => Cell::new("not attached", Tone::Caution),
        false => hooks.join(", ").into(),
    }
}

fn places(attached: &[Attachment]) -> String {
    let places: Vec<String> =
        attached.iter().filter_map(|place| Some(place.cgroup.as_ref()?.display().to_string())).collect();
    places.join(", ")
}

fn maps_table(maps: &[MapFacts]) -> Table {
    let mut table = Table::new(&[
        ("MAP", Left),
        ("ID", Right),
        ("KIND", Left),
        ("KEY", Right),
        ("VALUE", Right),
        ("USED", Right),
        ("LIMIT", Right),
        ("FULL", Right),
        ("BUCKET", Right),
        ("FAILED", Right),
        ("MEMORY", Right),
    ]);
    for map in maps {
        let full = fill(map);
        let tone = if !hot_map(map).is_empty() { Tone::Caution } else { Tone::Plain };
        table.row(vec![
            map.name.clone().into(),
            map.id.to_string().into(),
            map.kind.clone().into(),
            bytes(map.key_size.into()).into(),
            bytes(map.value_size.into()).into(),
            map.used.map_or("".into(), |used| Cell::new(count(used), tone)),
            match (map.limit, map.kind.as_str()) {
                (0, _) => "".into(),
                (limit, "ring buffer") => bytes(limit.into()).into(),
                (limit, _) => count(limit.into()).into(),
            },
            full.map_or("".into(), |full| Cell::new(percent(full), tone)),
            map.longest_bucket.map_or("".into(), |longest| longest.to_string().into()),
            map.failed.map_or("".into(), |failed| Cell::new(count(failed), tone)),
            bytes(map.memory).into(),
        ]);
    }
    table
}

/// Time of a run: `430 ns`, `1.2 us`.
fn nanoseconds(value: f64) -> String {
    match value {
        v if v < 999.5 => format!("{v:.0} ns"),
        v if v < 99_950.0 => format!("{:.1} us", v / 1e3),
        v => crate::units::seconds(v / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use alize_datapath::Effort;

    use super::*;

    fn program(name: &str) -> ProgramFacts {
        let attached =
            vec![Attachment { hook: "connect4".into(), cgroup: Some("/sys/fs/cgroup/a b".into()) }];
        ProgramFacts {
            name: name.into(),
            attached,
            id: 7,
            tag: "00ff00ff00ff00ff".into(),
            instructions: 1_234,
            verified: 12_345,
            jited: 4_096,
            memory: 8_192,
            version: "v1".into(),
            effort: Some(Effort { walked: 12_345, states: 678, peak_states: 90, stack: vec![104, 32] }),
            runs: 0,
            run_time: 0,
            recursion_misses: 0,
        }
    }

    fn map(name: &str, kind: &str, used: Option<u64>, limit: u32) -> MapFacts {
        let kind = kind.to_owned();
        MapFacts {
            name: name.into(),
            id: 3,
            kind,
            key_size: 4,
            value_size: 16,
            used,
            longest_bucket: None,
            failed: None,
            limit,
            memory: 1_024,
        }
    }

    fn inspection() -> Inspection {
        let loose = ProgramFacts {
            attached: Vec::new(),
            verified: 0,
            effort: None,
            jited: 0,
            ..program("alize_sweep")
        };
        Inspection {
            instance: "blue".into(),
            programs: vec![program("alize_connect4"), loose],
            maps: vec![
                map("services", "array", Some(5), 10),
                MapFacts { longest_bucket: Some(2), ..map("frontends", "hash", Some(5), 20) },
                MapFacts { failed: Some(3), ..map("events", "ring buffer", None, 262_144) },
            ],
            anomalies: [("event-lost", 3)].into(),
            memory: 18_432,
        }
    }

    #[test]
    fn the_table_shows_what_is_loaded() {
        let answer = answer(inspection(), None, true);
        assert_eq!(
            report(&answer, None, Paint::PLAIN, None),
            "\
PROGRAM         ID  VERSION  TAG               INSTRUCTIONS       VERIFIED  STATES  STACK        JITED    MEMORY  HOOK          ATTACHED TO
alize_connect4   7  v1       00ff00ff00ff00ff         1.23k  12.3k (1.2 %)     678  136 B     4.00 KiB  8.00 KiB  connect4      /sys/fs/cgroup/a b
alize_sweep      7  v1       00ff00ff00ff00ff         1.23k              -       -      -  interpreted  8.00 KiB  not attached  -

MAP        ID  KIND         KEY  VALUE  USED    LIMIT    FULL  BUCKET  FAILED    MEMORY
services    3  array        4 B   16 B     5       10  50.0 %       -       -  1.00 KiB
frontends   3  hash         4 B   16 B     5       20  25.0 %       2       -  1.00 KiB
events      3  ring buffer  4 B   16 B     -  256 KiB       -       -       3  1.00 KiB

kernel memory of all: 18.0 KiB
warning: map events had no place 3 times
warning: anomaly event-lost happened 3 times; see the guide, Troubleshooting
"
        );
    }

    #[test]
    fn costs_are_rates_of_the_interval() {
        let costs = HashMap::from([(7, Cost::new(3_000, 1_290_000, 1.5))]);
        let inspection = Inspection { anomalies: Default::default(), maps: Vec::new(), ..inspection() };
        let answer = answer(inspection, Some(&costs), true);
        let table = report(&answer, Some(Duration::from_secs(1)), Paint::PLAIN, None);
        let first = table.lines().nth(1).unwrap();
        assert_eq!(first, "alize_connect4   7   2.00k   430 ns  0.1 %  connect4");
        assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    }

    #[test]
    fn hot_spots_are_told() {
        let row = |runs, time, seconds| Row {
            facts: program("alize_x"),
            cost: Some(Cost::new(runs, time, seconds)),
        };
        assert_eq!(hot_program(&row(100, 490_000, 1.0)), [""; 0]);
        assert_eq!(
            hot_program(&row(100, 510_000, 1.0)),
            ["alize_x takes 5.1 us a run; below 5.0 us is usual"]
        );
        let busy = "alize_x takes 6.0 % of a CPU, at 100k runs a second";
        assert_eq!(hot_program(&row(100_000, 60_000_000, 1.0)), [busy]);
        let facts = ProgramFacts { verified: 600_000, recursion_misses: 2, ..program("alize_x") };
        let warnings = hot_program(&Row { facts, cost: None });
        assert!(warnings[0].contains("60.0 %") && warnings[1].contains("skipped 2 times"), "{warnings:?}");

        assert_eq!(hot_map(&map("slots", "array", Some(90), 100)), [""; 0]);
        let full = "map slots is 91.0 % full; raise --max-slots";
        assert_eq!(hot_map(&map("slots", "array", Some(91), 100)), [full]);
        assert_eq!(hot_map(&map("affinity", "LRU hash", Some(100), 100)), [""; 0]);
        assert_eq!(hot_map(&map("connections", "socket storage", None, 0)), [""; 0]);
        let failed =
            MapFacts { failed: Some(3), longest_bucket: Some(13), ..map("frontends", "hash", Some(1), 100) };
        let warnings = [
            "map frontends had no place 3 times; raise --max-services",
            "map frontends has a bucket of about 13 entries, which a look-up walks; raise --max-services",
        ];
        assert_eq!(hot_map(&failed), warnings);
    }

    #[test]
    fn a_program_is_found_by_its_short_name_too() {
        for name in ["connect4", "alize_connect4"] {
            let mut inspection = inspection();
            keep_only(&mut inspection, name).unwrap();
            assert_eq!(inspection.programs.len(), 1);
        }
        let (what, _) = keep_only(&mut inspection(), "connect").unwrap_err().message().unwrap();
        assert!(what.contains("alize_connect4, alize_sweep"), "{what}");
    }

    #[test]
    fn times_of_a_run() {
        let shown = [0.0, 430.4, 999.4, 999.6, 5_100.0, 123_456.0].map(nanoseconds);
        assert_eq!(shown, ["0 ns", "430 ns", "999 ns", "1.0 us", "5.1 us", "123 us"]);
    }
}
