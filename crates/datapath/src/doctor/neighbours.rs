//! Programs of others on the hooks that ours attach to, in the meshed cgroups, above them and below.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, ProgramAttachType as Hook};

use super::{Area, Finding, State};
use crate::attach::foreign::{self, Sharing};
use crate::environment::{self, Cgroup};
use crate::inspect::hook_name;
use crate::pin::entries;
use crate::{Error, Options};

/// Where the programs of `bpf/` attach.
const HOOKS: [Hook; 12] = [
    Hook::CgroupInet4Connect,
    Hook::CgroupInet6Connect,
    Hook::CgroupUdp4Sendmsg,
    Hook::CgroupUdp6Sendmsg,
    Hook::CgroupUdp4Recvmsg,
    Hook::CgroupUdp6Recvmsg,
    Hook::CgroupInet4Getpeername,
    Hook::CgroupInet6Getpeername,
    Hook::CgroupInetSockRelease,
    Hook::CgroupSockOps,
    Hook::CgroupInetIngress,
    Hook::CgroupInetEgress,
];

/// Folders looked at below a meshed cgroup, so that a host with very many ends too.
const MOST_FOLDERS: usize = 20_000;

/// Where a cgroup lies, seen from a meshed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Above,
    Same,
    Below,
}

/// What somebody else's program is to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// Both run.
    Beside,
    /// Ours, which only look at packets, cannot be attached.
    Blinds,
    /// Both run, and both redirect connects.
    Redirects,
    /// Ours runs, theirs no longer does for the meshed processes.
    Displaced,
    /// Ours cannot be attached.
    Excludes,
}

/// All that one owner has on our hooks.
#[derive(Debug, Default)]
struct Holding {
    programs: BTreeSet<String>,
    places: BTreeSet<PathBuf>,
    effect: Option<Effect>,
}

pub(super) fn examine(options: &Options, root: bool) -> Vec<Finding> {
    if !root {
        return vec![finding("programs on the hooks", State::Unknown, "asking for them needs root")];
    }
    match holdings(options) {
        Err(error) => vec![finding("programs on the hooks", State::Unknown, error.to_string())],
        Ok(holdings) if holdings.is_empty() => {
            vec![finding("programs on the hooks", State::On, "no other program is attached where ours go")]
        }
        Ok(holdings) => holdings.into_iter().map(|(owner, holding)| told(&owner, &holding)).collect(),
    }
}

fn finding(name: &str, state: State, detail: impl Into<String>) -> Finding {
    Finding::new(Area::Neighbour, name, state, detail)
}

fn holdings(options: &Options) -> Result<BTreeMap<String, Holding>, Error> {
    let instances = instances(&options.bpffs)?;
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut holdings: BTreeMap<String, Holding> = BTreeMap::new();
    for path in &options.cgroups {
        // That it is none is a finding of its own.
        let Ok(cgroup) = environment::open_cgroup(path) else { continue };
        for (place, cgroup) in around(cgroup) {
            for hook in &HOOKS {
                let (sharing, programs) = foreign::attached(cgroup.fd.as_fd(), hook);
                for id in programs {
                    let instance = instances.get(&id);
                    if instance.is_some_and(|instance| *instance == options.instance) {
                        continue;
                    }
                    let name = names.entry(id).or_insert_with(|| {
                        foreign::program_name(id).unwrap_or_else(|| format!("program {id}"))
                    });
                    let owner = match instance {
                        Some(instance) => format!("alize, instance {instance}"),
                        None => owner(name).unwrap_or("unknown owner").to_owned(),
                    };
                    let effect = effect(place, sharing, hook, &owner);
                    let holding = holdings.entry(owner).or_default();
                    holding.programs.insert(format!("{name} on {}", hook_name(hook)));
                    holding.places.insert(cgroup.path.clone());
                    holding.effect = holding.effect.max(Some(effect));
                }
            }
        }
    }
    Ok(holdings)
}

/// A meshed cgroup, those above it and those below.
fn around(cgroup: Cgroup) -> Vec<(Place, Cgroup)> {
    let open = |path: &Path| environment::open_cgroup(path).ok();
    let above = environment::ancestors(&cgroup).into_iter().skip(1).filter_map(|(_, path)| open(&path));
    let mut around: Vec<(Place, Cgroup)> = above.map(|cgroup| (Place::Above, cgroup)).collect();
    let mut waiting = folders(&cgroup.path);
    around.push((Place::Same, cgroup));
    while let Some(path) = waiting.pop() {
        if around.len() >= MOST_FOLDERS {
            break;
        }
        waiting.extend(folders(&path));
        around.extend(open(&path).map(|cgroup| (Place::Below, cgroup)));
    }
    around
}

/// Cgroups come and go while one looks: one that has gone has no folders.
fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(path) else { return Vec::new() };
    let folders = listing.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// The instance of each attached program of ours, by its number.
fn instances(bpffs: &Path) -> Result<HashMap<u32, String>, Error> {
    let mut instances = HashMap::new();
    for instance in entries(&bpffs.join("alize"))? {
        let name = instance.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for version in entries(&instance)? {
            for path in entries(&version.join("links"))? {
                if let Ok(info) = Link::open(&path).and_then(|link| link.info()) {
                    instances.insert(info.prog_id, name.clone());
                }
            }
        }
    }
    Ok(instances)
}

/// Whose program this is, by the beginning of its name; the kernel keeps 15 characters of it.
fn owner(program: &str) -> Option<&'static str> {
    const OWNERS: [(&str, &str); 15] = [
        ("alize_", "alize, pinned elsewhere"),
        ("cil_", "Cilium"),
        ("sd_", "systemd"),
        ("calico_", "Calico"),
        ("cali_", "Calico"),
        ("cgroup_connect4", "Kmesh"),
        ("cgroup_connect6", "Kmesh"),
        ("sockops_prog", "Kmesh"),
        ("kmesh_", "Kmesh"),
        ("obi_", "OpenTelemetry eBPF instrumentation (OBI)"),
        ("beyla_", "Grafana Beyla"),
        ("mb_", "Merbridge"),
        ("tetragon_", "Tetragon"),
        ("generic_", "Tetragon"),
        ("tg_", "Tetragon"),
    ];
    OWNERS.iter().find(|(start, _)| program.starts_with(start)).map(|(_, owner)| *owner)
}

/// As kernel/bpf/cgroup.c decides: a program that is attached without BPF_F_ALLOW_MULTI keeps others from its own cgroup,
/// and without BPF_F_ALLOW_OVERRIDE from all below; ours allow others everywhere.
fn effect(place: Place, sharing: Sharing, hook: &Hook, owner: &str) -> Effect {
    let redirects = matches!(
        hook,
        Hook::CgroupInet4Connect
            | Hook::CgroupInet6Connect
            | Hook::CgroupUdp4Sendmsg
            | Hook::CgroupUdp6Sendmsg
    );
    let packets = matches!(hook, Hook::CgroupInetIngress | Hook::CgroupInetEgress);
    let balances = ["Cilium", "Calico", "Kmesh", "Merbridge"].contains(&owner);
    match (place, sharing) {
        _ if owner.starts_with("alize") => Effect::Excludes,
        (Place::Same, Sharing::Override | Sharing::Nobody) | (Place::Above, Sharing::Nobody) => {
            if packets {
                Effect::Blinds
            } else {
                Effect::Excludes
            }
        }
        (Place::Above, Sharing::Override) => Effect::Displaced,
        _ if redirects && balances => Effect::Redirects,
        _ => Effect::Beside,
    }
}

fn told(owner: &str, holding: &Holding) -> Finding {
    let programs: Vec<&str> = holding.programs.iter().map(String::as_str).collect();
    let first = holding.places.first().map(|path| path.display().to_string()).unwrap_or_default();
    let more = match holding.places.len() {
        0 | 1 => String::new(),
        number => format!(" and {} more", number - 1),
    };
    let at = format!("at {first}{more}");
    let what = format!("{}, {at}", programs.join(", "));
    match holding.effect.unwrap_or(Effect::Beside) {
        Effect::Beside => finding(owner, State::On, format!("runs beside ours: {what}")),
        Effect::Blinds => finding(owner, State::Degraded, format!("keeps HTTP from being observed: {what}"))
            .mend("it must attach with BPF_F_ALLOW_MULTI, or as a link"),
        Effect::Redirects => finding(owner, State::Degraded, format!("redirects connects too: {what}"))
            .mend("give a service address to one of the two only: whichever runs first redirects it"),
        Effect::Displaced => finding(owner, State::Degraded, format!("would no longer run below our cgroup: {what}"))
            .mend("it must attach with BPF_F_ALLOW_MULTI, or as a link"),
        Effect::Excludes if owner.starts_with("alize") => {
            finding(owner, State::Off, format!("meshes these processes already, {at}")).essential().mend(
                "choose a cgroup that does not contain its cgroup, nor lies in it (--cgroup), or unload that instance",
            )
        }
        Effect::Excludes => finding(owner, State::Off, format!("shares the hook with nobody: {what}"))
            .essential()
            .mend(format!("it must attach with BPF_F_ALLOW_MULTI, or as a link, or go; see bpftool cgroup tree {first}")),
    }
}

#[cfg(test)]
mod tests {
    use libbpf_rs::ProgramType;

    use super::*;
    use crate::doctor::trial::files;
    use crate::load::load_object;
    use crate::log::Log;

    /// Needs root: only a loaded program tells its hook.
    #[test]
    fn every_hook_of_ours_is_looked_at() {
        let budgets = alize_model::Budgets { services: 1, endpoints: 1, slots: 1, affinity: 1 };
        let looked_at: Vec<u32> = HOOKS.iter().map(|hook| hook.clone() as u32).collect();
        for file in files() {
            let object =
                load_object(file, &budgets, &Log::begin(40)).unwrap_or_else(|log| panic!("{log:#?}"));
            // Sockets are ours to choose: who else has a program on one is seen when it is put into a map. Probes take
            // nobody's place.
            let on_hooks = |program: &libbpf_rs::Program<'_>| {
                let kind = program.prog_type();
                let elsewhere =
                    [ProgramType::Tracing, ProgramType::SkMsg, ProgramType::SkSkb, ProgramType::Kprobe];
                !elsewhere.contains(&kind)
            };
            for program in object.progs().filter(on_hooks) {
                let hook = program.attach_type();
                assert!(looked_at.contains(&(hook.clone() as u32)), "{hook:?} of {:?}", program.name());
            }
        }
    }

    #[test]
    fn owners_are_known_by_the_names_of_their_programs() {
        let owners = [
            "cil_sock4_connect",
            "sd_bind4",
            "calico_connect_",
            "obi_sockmap_tra",
            "cgroup_connect4",
            "mine",
            "alize_connect4",
        ]
        .map(owner);
        let expected = [
            Some("Cilium"),
            Some("systemd"),
            Some("Calico"),
            Some("OpenTelemetry eBPF instrumentation (OBI)"),
            Some("Kmesh"),
            None,
            Some("alize, pinned elsewhere"),
        ];
        assert_eq!(owners, expected);
    }

    #[test]
    fn what_a_neighbour_means_depends_on_place_and_flags() {
        let connect = &Hook::CgroupInet4Connect;
        let of = |place, sharing| effect(place, sharing, connect, "unknown owner");
        assert_eq!(of(Place::Same, Sharing::Everybody), Effect::Beside);
        assert_eq!(of(Place::Same, Sharing::Override), Effect::Excludes);
        assert_eq!(of(Place::Above, Sharing::Nobody), Effect::Excludes);
        assert_eq!(of(Place::Above, Sharing::Override), Effect::Displaced);
        assert_eq!(of(Place::Below, Sharing::Nobody), Effect::Beside);
        let firewall = effect(Place::Same, Sharing::Nobody, &Hook::CgroupInetIngress, "systemd");
        assert_eq!(firewall, Effect::Blinds);
        assert_eq!(effect(Place::Above, Sharing::Everybody, connect, "Cilium"), Effect::Redirects);
        assert_eq!(effect(Place::Above, Sharing::Everybody, &Hook::CgroupSockOps, "Cilium"), Effect::Beside);
        assert_eq!(effect(Place::Below, Sharing::Everybody, connect, "alize, instance x"), Effect::Excludes);
    }

    #[test]
    fn a_holding_is_told_with_its_mend() {
        let mut holding = Holding { effect: Some(Effect::Excludes), ..Holding::default() };
        holding.programs.insert("x on connect4".into());
        holding.places.extend(["/a".into(), "/b".into()]);
        let finding = told("unknown owner", &holding);
        assert!(finding.prevents());
        assert_eq!(finding.detail, "shares the hook with nobody: x on connect4, at /a and 1 more");
        assert!(finding.mend.unwrap().contains("bpftool cgroup tree /a"));
        holding.effect = Some(Effect::Beside);
        assert_eq!(told("systemd", &holding).state, State::On);
    }
}
