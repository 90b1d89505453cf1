//! The kernel programs, from the bytes in this binary into the kernel, sharing their pinned maps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::PathBuf;

use alize_model::Budgets;
use libbpf_rs::{Link, MapCore, MapHandle, Object, ObjectBuilder, OpenObject};

use crate::bundle::Part;
use crate::effort::Statistics;
use crate::error::io_error;
use crate::http;
use crate::http::tables::RouteMaps;
use crate::layout::Words;
use crate::log::Log;
use crate::maps::{Map, Maps};
use crate::observe::{self, Limits};
use crate::pin::Pins;
use crate::rejection::{LINES_KEPT, Rejection};
use crate::upgrade::{Changed, entries_of, pin_path};
use crate::{Error, ProgramStatus, canary, variant};

/// One object file of `bpf/`: what the verifier refuses of it costs one feature only.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) bytes: &'static [u8],
    /// What is lost without it; `None`: nothing works without it.
    pub(crate) feature: Option<&'static str>,
    /// An object that this one makes no sense without.
    pub(crate) needs: Option<&'static str>,
    pub(crate) role: Role,
}

/// When an object is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Always: it is the data path.
    DataPath,
    /// While HTTP is observed.
    Observer,
    /// While a trace or a service asks for it.
    Asked,
}

/// libelf reads words in place, so the bytes must be aligned.
#[repr(C, align(16))]
pub(crate) struct Aligned<Bytes: ?Sized>(pub(crate) Bytes);

macro_rules! object {
    ($name:literal) => {{
        const BYTES: &$crate::load::Aligned<[u8]> =
            &$crate::load::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.o")));
        &BYTES.0
    }};
}
pub(crate) use object;

/// In the order in which they are attached: what observes comes before what acts, so that no connection is balanced
/// and then not counted, and replies are translated before the first datagram is.
pub(crate) const FILES: [File; 22] = [
    File { name: "names", bytes: object!("names"), feature: None, needs: None, role: Role::DataPath },
    File {
        name: "sockops",
        bytes: object!("sockops"),
        feature: Some("TCP connections are not followed: no established, open, failed, bytes or RTT"),
        needs: None,
        role: Role::DataPath,
    },
    File {
        name: "release",
        bytes: object!("release"),
        feature: Some("the end of connected UDP sockets is not seen: they count as open"),
        // It would take every TCP connection that sockops has not seen opening for one that failed.
        needs: Some("sockops"),
        role: Role::DataPath,
    },
    File {
        name: "getpeername",
        bytes: object!("getpeername"),
        feature: Some("getpeername() shows the endpoint's address, not the service's"),
        needs: None,
        role: Role::DataPath,
    },
    File {
        name: "recvmsg",
        bytes: object!("recvmsg"),
        feature: Some("UDP sockets that are not connected are not balanced"),
        needs: None,
        role: Role::DataPath,
    },
    File {
        name: "sendmsg",
        bytes: object!("sendmsg"),
        feature: Some("UDP sockets that are not connected are not balanced"),
        // Replies would come from an address that the client never heard of.
        needs: Some("recvmsg"),
        role: Role::DataPath,
    },
    File {
        name: "http_entry",
        bytes: object!("http_entry"),
        feature: Some(http::programs::LOST),
        needs: None,
        role: Role::DataPath,
    },
    File {
        name: "http_far",
        bytes: object!("http_far"),
        feature: Some(http::programs::LOST),
        needs: Some("http_entry"),
        role: Role::DataPath,
    },
    // Before http_client: sockets that it sends out of get their program when they come into the map.
    File {
        name: "http_back_entry",
        bytes: object!("http_back_entry"),
        feature: Some(http::programs::LOST_REMOTE),
        needs: Some("http_far"),
        role: Role::DataPath,
    },
    File {
        name: "http_back",
        bytes: object!("http_back"),
        feature: Some(http::programs::LOST_REMOTE),
        needs: Some("http_back_entry"),
        role: Role::DataPath,
    },
    // Before http_client: what it draws from the proxy must be able to draw from.
    File {
        name: "http_limit",
        bytes: object!("http_limit"),
        feature: Some(http::programs::LOST),
        needs: Some("http_far"),
        role: Role::DataPath,
    },
    File {
        name: "http_client",
        bytes: object!("http_client"),
        feature: Some(http::programs::LOST),
        needs: Some("http_limit"),
        role: Role::DataPath,
    },
    File {
        name: "http_sockops",
        bytes: object!("http_sockops"),
        feature: Some(http::programs::LOST),
        needs: Some("http_client"),
        role: Role::DataPath,
    },
    File { name: "connect", bytes: object!("connect"), feature: None, needs: None, role: Role::DataPath },
    File {
        name: "sweep",
        bytes: object!("sweep"),
        feature: Some("bytes and RTT of a connection are counted when it ends, not before"),
        needs: None,
        role: Role::DataPath,
    },
    File {
        name: "terminate",
        bytes: object!("terminate"),
        feature: Some(
            "`removal: terminate` closes no connection; it takes Linux 6.5, for bpf_sock_destroy()",
        ),
        needs: None,
        role: Role::DataPath,
    },
    observing("observe", object!("observe"), None, Role::Observer),
    observing("observe_release", object!("observe_release"), Some("observe"), Role::Observer),
    observing("observe_tcp", object!("observe_tcp"), Some("observe"), Role::Observer),
    observing("observe_dns", object!("observe_dns"), Some("observe"), Role::Asked),
    observing("observe_tls", object!("observe_tls"), Some("observe"), Role::Asked),
    observing("http_told", object!("http_told"), Some("http_far"), Role::Observer),
];

const fn observing(
    name: &'static str,
    bytes: &'static [u8],
    needs: Option<&'static str>,
    role: Role,
) -> File {
    File { name, bytes, feature: Some(crate::observe::lost(name)), needs, role }
}

/// Endpoints whose sockets one run of `terminate` closes: its map is not sized by a budget, because a hash pays for
/// every entry that it might hold.
pub(crate) const TERMINATING: u32 = 4096;

/// Endpoints with traffic counters, at most. They are per CPU: at 262,144 endpoints a machine with 64 CPUs would give
/// 2 GB. More endpoints in use at once are balanced but not counted, and that is an anomaly with a counter.
const COUNTED_ENDPOINTS: u32 = 65_536;

/// What is kept of the loaded objects; the rest (text, BTF, relocations) is freed.
pub(crate) struct Loaded {
    pub(crate) maps: Maps,
    pub(crate) events: MapHandle,
    /// Every map, for counting memory.
    pub(crate) every_map: Vec<MapHandle>,
    pub(crate) programs: Vec<ProgramStatus>,
    pub(crate) sweep: Option<Link>,
    pub(crate) terminate: Option<Terminate>,
    /// Where routes of HTTP services are kept; `None`: the programs that route are off.
    pub(crate) http: Option<RouteMaps>,
}

/// The iterators that close sockets, and their map.
pub(crate) struct Terminate {
    pub(crate) terminating: Map<u32, u64>,
    pub(crate) iterators: Vec<Link>,
}

/// Entries of the map called `name`; `None` for those whose size the C source gives.
fn size_of_map(name: &str, budgets: &Budgets) -> Option<u32> {
    match name {
        // One address of IPv4 and one of IPv6 each; services with more live on those with fewer.
        "frontends" => Some(budgets.services.saturating_mul(2)),
        "services" | "service_names" | "turns" | "service_traffic" | "service_decisions"
        | "shadow_outcomes" => Some(budgets.services),
        "endpoints" | "endpoint_load" => Some(budgets.endpoints),
        "endpoint_traffic" | "shadow_would" => Some(budgets.endpoints.min(COUNTED_ENDPOINTS)),
        "slots" => Some(budgets.slots),
        "affinity" => Some(budgets.affinity),
        "terminating" => Some(TERMINATING),
        _ => http::programs::size_of_map(name, budgets),
    }
}

/// Maps of one object alone; all others are pinned and shared. Those of TLS are worth nothing without the probes, which are
/// not pinned either.
pub(crate) fn is_private(name: &str) -> bool {
    name == "terminating" || name.contains('.') || name.starts_with("tls_")
}

/// Whether the C source says how many entries the map has.
pub(crate) fn is_sized_by_source(name: &str) -> bool {
    let (budgets, limits) = (Budgets::default(), Limits::default());
    size_of_map(name, &budgets).or_else(|| observe::size_of_map(name, &limits)).is_none()
}

/// Where the maps of objects are pinned, and how large those become that are not there yet.
pub(crate) struct Ground<'a> {
    pub(crate) pins: &'a Pins,
    pub(crate) budgets: &'a Budgets,
    pub(crate) limits: &'a Limits,
    pub(crate) changed: &'a Changed,
    /// Beside another version, which counts for itself.
    pub(crate) on_trial: bool,
}

impl Ground<'_> {
    /// `None`: the map is the object's own.
    fn pin(&self, name: &str, role: Role) -> Option<PathBuf> {
        let path = match self.on_trial && name == canary::VERSION_COUNTS {
            true => canary::own_counts(self.pins),
            false => pin_path(self.pins, self.changed, name),
        };
        // Who observes where no data path is has empty maps of its own in their place.
        let is_absent = || role != Role::DataPath && observe::is_of_the_data_path(name) && !path.exists();
        (!is_private(name) && !is_absent()).then_some(path)
    }

    /// A pinned map keeps the size that it was made with.
    fn entries(&self, name: &str) -> Option<u32> {
        let pinned = || {
            let path = self.pins.map(name);
            let map = path.exists().then(|| MapHandle::from_pinned_path(path).ok());
            map.flatten().map(|map| map.max_entries())
        };
        let made = || size_of_map(name, self.budgets).or_else(|| observe::size_of_map(name, self.limits));
        entries_of(self.changed, name).or_else(pinned).or_else(made)
    }
}

/// The sizes that the pinned maps were made with, `asked` where one is missing; `None` when all are.
pub(crate) fn pinned_budgets(pins: &Pins, asked: &Budgets) -> Result<Option<Budgets>, Error> {
    let mut pinned = *asked;
    let mut found = false;
    let sizes = [
        ("services", &mut pinned.services),
        ("endpoints", &mut pinned.endpoints),
        ("slots", &mut pinned.slots),
        ("affinity", &mut pinned.affinity),
    ];
    for (name, size) in sizes {
        let path = pins.map(name);
        if path.exists() {
            let map = MapHandle::from_pinned_path(&path);
            *size = map.map_err(|e| Error::path("cannot open map", path, io_error(e)))?.max_entries();
            found = true;
        }
    }
    Ok(found.then_some(pinned))
}

/// Maps whose entries this process reads or writes; all others are the programs' alone.
pub(crate) fn is_read_here(name: &str) -> bool {
    !matches!(name, "turns" | "affinity" | "connections" | "flows")
        && !observe::is_of_the_programs(name)
        && !is_private(name)
}

/// Objects that the kernel has verified and that do not work yet.
pub(crate) struct Loading {
    objects: HashMap<&'static str, Object>,
    programs: Vec<(Role, ProgramStatus)>,
}

impl Loading {
    /// In the order in which they are to be put to work.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Object> {
        FILES.iter().filter_map(|file| self.objects.get(file.name))
    }

    /// How many programs there are.
    pub(crate) fn programs(&self) -> usize {
        self.programs.iter().filter(|(_, program)| program.off.is_none()).count()
    }

    /// Programs of the data path, or those that observe.
    pub(crate) fn statuses(&self, of_the_data_path: bool) -> impl Iterator<Item = &ProgramStatus> {
        let wanted = move |role: &Role| (*role == Role::DataPath) == of_the_data_path;
        self.programs.iter().filter(move |(role, _)| wanted(role)).map(|(_, status)| status)
    }

    /// An object, unless it is off.
    pub(crate) fn object(&self, name: &str) -> Option<&Object> {
        self.objects.get(name)
    }

    /// An object, for good.
    pub(crate) fn into_object(mut self, name: &str) -> Option<Object> {
        self.objects.remove(name)
    }

    /// Lets go of all but what is used later.
    pub(crate) fn keep(self) -> Result<Loaded, Error> {
        let programs = self.statuses(true).cloned().collect();
        let objects = self.objects.into_iter().filter(|(name, _)| role_of(name) == Role::DataPath);
        keep(&objects.collect(), programs)
    }
}

fn role_of(object: &str) -> Role {
    FILES.iter().find(|file| file.name == object).map_or(Role::Asked, |file| file.role)
}

/// Loads `parts`. One that the kernel refuses is off, unless that `loses` something: then it is an error.
pub(crate) fn load(
    ground: &Ground<'_>,
    parts: &[&Part],
    loses: &dyn Fn(&Part) -> bool,
) -> Result<Loading, Error> {
    let mut objects: HashMap<&'static str, Object> = HashMap::new();
    let mut programs = Vec::new();
    let log = Log::begin(LINES_KEPT);
    let mut off = |part: &Part, why: String| {
        programs.push((part.role, ProgramStatus { name: part.name.into(), id: 0, off: Some(why) }));
    };
    for part in parts {
        let missing = part.needs.filter(|needed| {
            // What is of another role is there already, or comes with these.
            let is_meant = role_of(needed) == part.role || parts.iter().any(|other| other.name == *needed);
            is_meant && !objects.contains_key(needed)
        });
        if let (Some(needed), Some(feature)) = (missing, part.feature) {
            let reason = format!("{feature} (it needs {needed}, which is off)");
            tracing::warn!("object {} is off: {reason}", part.name);
            off(part, reason);
            continue;
        }
        match load_part(part, ground, &log) {
            Ok(object) => drop(objects.insert(part.name, object)),
            Err(said) => {
                let rejection = Rejection::new(part.name, part.feature, said, ground.pins);
                if part.feature.is_none() || loses(part) {
                    return Err(Error::Verifier(Box::new(rejection)));
                }
                tracing::warn!("{rejection}");
                off(part, rejection.in_short());
            }
        }
    }
    for part in parts {
        for program in objects.get(part.name).into_iter().flat_map(Object::progs) {
            programs.push((part.role, status(&program)?));
        }
    }
    Ok(Loading { objects, programs })
}

/// Whether the kernel takes an object, which is let go again.
pub(crate) fn is_taken(part: &Part, budgets: &Budgets) -> bool {
    let entries = |name: &str| size_of_map(name, budgets);
    load_bytes(part.name, Words::of(bytes_of(part)).as_bytes(), &nowhere, &entries, &Log::begin(0)).is_ok()
}

/// Of this binary's own objects there are builds for old kernels.
fn bytes_of(part: &Part) -> &[u8] {
    match FILES.iter().find(|file| file.name == part.name && *file.bytes == *part.bytes) {
        Some(file) => variant::bytes(file),
        None => &part.bytes,
    }
}

fn load_part(part: &Part, ground: &Ground<'_>, log: &Log) -> Result<Object, Vec<String>> {
    let pin = |name: &str| ground.pin(name, part.role);
    let entries = |name: &str| {
        let is_own = is_private(name) || pin(name).is_some();
        is_own.then(|| ground.entries(name)).flatten()
    };
    let bytes = Words::of(bytes_of(part));
    load_bytes(part.name, bytes.as_bytes(), &pin, &entries, log)
}

/// The object gets maps of its own, which go with it. What was said when it was refused is returned.
#[cfg(test)]
pub(crate) fn load_object(file: &File, budgets: &Budgets, log: &Log) -> Result<Object, Vec<String>> {
    load_bytes(file.name, variant::bytes(file), &nowhere, &|name| size_of_map(name, budgets), log)
}

/// The gates between two versions, whose maps are pinned at `pin`.
pub(crate) fn load_gates(pin: Pin<'_>, log: &Log) -> Result<Object, Vec<String>> {
    load_bytes("canary", object!("canary"), pin, &|_| None, log)
}

/// The same with what the verifier spent on the programs.
pub(crate) fn load_and_ask(
    file: &File,
    budgets: &Budgets,
    log: &Log,
) -> Result<(Object, Statistics), Vec<String>> {
    load_bytes_and_ask(file.name, variant::bytes(file), budgets, log)
}

pub(crate) fn load_bytes_and_ask(
    name: &str,
    bytes: &[u8],
    budgets: &Budgets,
    log: &Log,
) -> Result<(Object, Statistics), Vec<String>> {
    let entries = |map: &str| size_of_map(map, budgets);
    let loaded = || {
        let mut object = open_object(name, bytes, &nowhere, &entries)?;
        let statistics = Statistics::ask(&mut object);
        object.load().map(|object| (object, statistics))
    };
    // A refusal's log does not fit in the room for statistics: the kernel is asked again, without.
    let again =
        |_| load_bytes(name, bytes, &nowhere, &entries, log).map(|object| (object, Statistics::none()));
    loaded().or_else(again)
}

/// Where a map is pinned; `None`: it is the object's own.
type Pin<'a> = &'a dyn Fn(&str) -> Option<PathBuf>;

/// All maps are the object's own, and go with it.
fn nowhere(_: &str) -> Option<PathBuf> {
    None
}

fn load_bytes(
    name: &str,
    bytes: &[u8],
    pin: Pin<'_>,
    entries: &dyn Fn(&str) -> Option<u32>,
    log: &Log,
) -> Result<Object, Vec<String>> {
    log.take();
    let say = |error: libbpf_rs::Error| log.take_with(&error);
    open_object(name, bytes, pin, entries).and_then(OpenObject::load).map_err(say)
}

fn open_object(
    name: &str,
    bytes: &[u8],
    pin: Pin<'_>,
    entries: &dyn Fn(&str) -> Option<u32>,
) -> libbpf_rs::Result<OpenObject> {
    let mut object = ObjectBuilder::default().name(name).and_then(|builder| builder.open_memory(bytes))?;
    variant::choose(&mut object);
    prepare_maps(&mut object, pin, entries)?;
    Ok(object)
}

/// libbpf makes and pins a map whose pin does not exist, and otherwise takes the pinned one if it is compatible.
fn prepare_maps(
    object: &mut OpenObject,
    pin: Pin<'_>,
    entries: &dyn Fn(&str) -> Option<u32>,
) -> libbpf_rs::Result<()> {
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        // Maps of sockets have no number of entries.
        if let Some(entries) = entries(&name).filter(|entries| *entries > 0) {
            map.set_max_entries(entries)?;
        }
        if let Some(path) = pin(&name) {
            map.set_pin_path(path)?;
        }
    }
    Ok(())
}

pub(crate) fn status(program: &libbpf_rs::Program<'_>) -> Result<ProgramStatus, Error> {
    use std::os::fd::AsFd;
    let name = program.name().to_string_lossy().into_owned();
    let id = libbpf_rs::Program::id_from_fd(program.as_fd())
        .map_err(|e| Error::kernel("cannot ask the number of program", &name, io_error(e)))?;
    Ok(ProgramStatus { name, id, off: None })
}

/// Handles to what is used later; everything else goes with the objects.
fn keep(objects: &HashMap<&'static str, Object>, programs: Vec<ProgramStatus>) -> Result<Loaded, Error> {
    let mut handles: HashMap<String, MapHandle> = HashMap::new();
    let mut every_map = Vec::new();
    for object in objects.values() {
        for map in object.maps() {
            let name = map.name().to_string_lossy().into_owned();
            let handle = handle(&map)?;
            if is_private(&name) {
                every_map.push(handle);
            } else if let Entry::Vacant(place) = handles.entry(name) {
                every_map.push(self::handle(&map)?);
                place.insert(handle);
            }
        }
    }
    let mut take = |name: &str| {
        let missing = || Error::kernel("cannot find map", name, io::Error::other("no program uses it"));
        handles.remove(name).ok_or_else(missing)
    };
    let http = objects.contains_key("http_sockops").then(|| RouteMaps::new(&mut take)).transpose()?;
    Ok(Loaded {
        http,
        maps: Maps {
            frontends: Map::new(take("frontends")?)?,
            services: Map::new(take("services")?)?,
            service_names: Map::new(take("service_names")?)?,
            endpoints: Map::new(take("endpoints")?)?,
            endpoint_load: Map::new(take("endpoint_load")?)?,
            slots: Map::new(take("slots")?)?,
            service_traffic: Map::new(take("service_traffic")?)?,
            service_decisions: Map::new(take("service_decisions")?)?,
            endpoint_traffic: Map::new(take("endpoint_traffic")?)?,
            shadow_outcomes: Map::new(take("shadow_outcomes")?)?,
            shadow_would: Map::new(take("shadow_would")?)?,
            anomalies: Map::new(take("anomalies")?)?,
        },
        events: take("events")?,
        every_map,
        programs,
        sweep: objects.get("sweep").map(sweep).transpose()?,
        terminate: objects.get("terminate").map(terminate).transpose()?,
    })
}

fn handle(map: &libbpf_rs::Map<'_>) -> Result<MapHandle, Error> {
    MapHandle::try_from(map)
        .map_err(|e| Error::kernel("cannot keep map", map.name().to_string_lossy(), io_error(e)))
}

fn sweep(object: &Object) -> Result<Link, Error> {
    let error = |e| Error::kernel("cannot make an iterator of", "sweep", e);
    let program = object.progs_mut().next();
    let program = program.ok_or_else(|| error(io::Error::other("the object holds no program")))?;
    program.attach().map_err(|e| error(io_error(e)))
}

fn terminate(object: &Object) -> Result<Terminate, Error> {
    let error = |e| Error::kernel("cannot make an iterator of", "terminate", e);
    let map = object.maps().find(|map| map.name() == "terminating");
    let map = map.ok_or_else(|| error(io::Error::other("the object holds no map `terminating`")))?;
    let iterators = object.progs_mut().map(|program| program.attach().map_err(|e| error(io_error(e))));
    Ok(Terminate { terminating: Map::new(handle(&map)?)?, iterators: iterators.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refused;

    /// What the kernel says of `object` in which each `from` is a `to`; needs root.
    fn refusal(object: &'static [u8], from: &[u8], to: &[u8]) -> Refused {
        let mut bytes = object.to_vec();
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from) {
                bytes[at..at + from.len()].copy_from_slice(to);
            }
        }
        let bytes = bytes.leak();
        let file = File { name: "changed", bytes, feature: None, needs: None, role: Role::DataPath };
        let budgets = Budgets { services: 1, endpoints: 1, slots: 1, affinity: 1 };
        match load_object(&file, &budgets, &Log::begin(usize::MAX)) {
            Ok(_) => panic!("the kernel takes it"),
            Err(lines) => Refused::from_log(lines),
        }
    }

    /// As Linux before 6.5 refuses `terminate`.
    #[test]
    fn a_kernel_function_that_is_missing_is_named() {
        let refused = refusal(object!("terminate"), b"bpf_sock_destroy\0", b"bpf_sock_destroX\0");
        assert_eq!(refused.rule, "this kernel has no function bpf_sock_destroX()", "{refused:?}");
    }

    /// As Linux before 5.18 refuses `connect`: each call of helper 187, bpf_set_retval(), is one of 9999.
    #[test]
    fn the_verifier_is_understood() {
        let refused =
            refusal(object!("connect"), &[0x85, 0, 0, 0, 187, 0, 0, 0], &[0x85, 0, 0, 0, 0x0f, 0x27, 0, 0]);
        assert_eq!(refused.rule, "this kernel has no helper number 9999", "{refused:?}");
        assert_eq!(refused.program.as_deref(), Some("alize_connect4"));
        assert!(refused.source.as_ref().is_some_and(|line| line.contains("bpf_set_retval")), "{refused:?}");
        assert!(refused.lines.last().is_some_and(|line| line.contains("unknown#9999")), "{refused:?}");
    }
}
