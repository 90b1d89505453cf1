use std::collections::HashMap;

use alize_model::{Budgets, HostFacts, Snapshot, Source};
use proptest::prelude::*;

use super::*;
use crate::abi::Slot;
use crate::apply;

const BUDGETS: Budgets = Budgets { services: 4, endpoints: 8, slots: 16, affinity: 1 };

/// Maps without a kernel: what the writes of plans make of them.
struct Kernel {
    picture: Picture,
    slots: Vec<u64>,
    frontends: HashMap<Dialled, u32>,
    /// Phases written so far.
    phases: usize,
}

impl Kernel {
    fn new(budgets: &Budgets) -> Self {
        Self {
            picture: Picture::new(budgets, budgets.services * 2),
            slots: vec![0; budgets.slots as usize],
            frontends: HashMap::new(),
            phases: 0,
        }
    }

    fn plan(&self, services: &str) -> Result<Plan, Error> {
        self.plan_with(services, &Availability::new())
    }

    fn plan_with(&self, services: &str, unavailable: &Availability) -> Result<Plan, Error> {
        let snapshot = snapshot(services);
        let mut read = |run: Run| Ok(self.slots[run.base as usize..run.end() as usize].to_vec());
        plan(&self.picture, Desired { snapshot: &snapshot, unavailable }, &mut read)
    }

    /// Carries a plan out as [`apply::apply`] does; checks that no slot in use is overwritten.
    fn write(&mut self, plan: Plan) {
        let mut in_use: Vec<Run> = self.picture.services.values().flat_map(LiveService::runs).collect();
        in_use.extend(&self.picture.garbage.runs);
        for (index, phase) in plan.phases.iter().enumerate() {
            self.phases += 1;
            let mut written = Vec::new();
            for change in &phase.changes {
                for (run, words) in &change.slot_writes {
                    let touches = |other: &Run| run.base < other.end() && other.base < run.end();
                    assert!(!in_use.iter().any(touches), "{run:?} is in use: {in_use:?}");
                    assert_eq!(run.length as usize, words.len());
                    self.slots[run.base as usize..run.end() as usize].copy_from_slice(words);
                    written.push(*run);
                }
                for dialled in &change.frontends_added {
                    self.frontends.insert(*dialled, change.after.number);
                }
            }
            let changed = phase.changes.iter().flat_map(|change| &change.frontends_dropped);
            for dialled in changed.chain(phase.retired.iter().flat_map(|retired| &retired.frontends_dropped))
            {
                assert!(self.frontends.remove(dialled).is_some(), "{dialled:?} is removed once");
            }
            // A grace period: what this phase and changes before the plan took out of use is not read any more.
            if index == 0 {
                in_use.retain(|run| !self.picture.garbage.runs.contains(run));
            }
            in_use.extend(written);
            let changed = phase.changes.iter().map(|change| (&change.name, change.after.runs().collect()));
            let retired = phase.retired.iter().map(|retired| (&retired.name, Vec::new()));
            for (name, kept) in changed.chain(retired) {
                let old = self.picture.services.get(name).into_iter().flat_map(LiveService::runs);
                let freed: Vec<Run> = old.filter(|run| !kept.contains(run)).collect();
                in_use.retain(|run| !freed.contains(run));
            }
        }
        apply::remember(&mut self.picture, plan);
        assert_eq!(self.frontends.len() as u32, self.picture.frontends);
    }

    fn apply(&mut self, services: &str) -> Result<(), Error> {
        let plan = self.plan(services)?;
        self.write(plan);
        Ok(())
    }

    /// What [`apply::settle`] does to the picture when nothing is connected.
    fn settle(&mut self) {
        let picture = &mut self.picture;
        picture.garbage.runs.drain(..).for_each(|run| picture.runs.give_back(run));
        picture.garbage.leaving.clear();
        for service in picture.services.values_mut() {
            for endpoint in service.endpoints.iter().filter(|endpoint| endpoint.stage.is_removed()) {
                picture.endpoint_numbers.give_back(endpoint.number);
            }
            service.endpoints.retain(|endpoint| !endpoint.stage.is_removed());
            if service.removed {
                picture.service_numbers.give_back(service.number);
                picture.names.remove(&service.number);
            }
        }
        picture.services.retain(|_, service| !service.removed);
    }

    fn service(&self, name: &str) -> &LiveService {
        &self.picture.services[&ServiceName::new(name).unwrap()]
    }

    /// Addresses of the endpoints in the table of IPv4 callers, in the order of the slots.
    fn table(&self, name: &str) -> Vec<String> {
        let service = self.service(name);
        let run = run_of(service.words[0]);
        let address = |word: &u64| {
            let number = Slot::unpack(*word).endpoint;
            let endpoint = service.endpoints.iter().find(|endpoint| endpoint.number == number).unwrap();
            endpoint.address.to_string()
        };
        self.slots[run.base as usize..run.end() as usize].iter().map(address).collect()
    }
}

fn snapshot(services: &str) -> Snapshot {
    let budgets = Budgets { services: u32::MAX, endpoints: u32::MAX, slots: u32::MAX, affinity: u32::MAX };
    let text = if services.is_empty() { "services: []\n".into() } else { format!("services:\n{services}") };
    let source = Source { name: "test.yaml", text: &text };
    alize_model::parse(source, &budgets, &HostFacts::default()).expect("the test's file is valid").0
}

fn service(name: &str, address: &str, endpoints: &[&str]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "- {{name: {name}, address: \"{address}\", balance: round-robin, endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

/// `count` endpoints of a network of their own.
fn many(network: u8, count: u8) -> Vec<String> {
    (1..=count).map(|host| format!("10.0.{network}.{host}:80")).collect()
}

fn service_of(name: &str, address: &str, network: u8, count: u8) -> String {
    let endpoints = many(network, count);
    service(name, address, &endpoints.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn what_is_in_force_needs_no_writes() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("web", "10.96.0.1:80", &["10.0.0.1:80", "10.0.0.2:80"]);
    kernel.apply(&text).unwrap();
    let plan = kernel.plan(&text).unwrap();
    assert_eq!((plan.unchanged, plan.changed, plan.phases[0].changes.len()), (1, 0, 0));
    assert_eq!(plan.refreshed.len(), 1, "an equal value replaces the one that is held");
}

#[test]
fn what_was_adopted_and_is_equal_needs_no_writes() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("web", "10.96.0.1:80", &["10.0.0.1:80", "10.0.0.2:80"]);
    kernel.apply(&text).unwrap();
    kernel.picture.services.values_mut().for_each(|service| service.definition = None);
    let plan = kernel.plan(&text).unwrap();
    assert_eq!((plan.unchanged, plan.changed), (1, 0));
    let change = &plan.phases[0].changes[0];
    assert!(change.endpoint_writes.is_empty() && change.slot_writes.is_empty() && !change.word_writes);
    assert!(change.frontends_added.is_empty() && change.frontends_dropped.is_empty() && !change.is_new);
}

#[test]
fn a_new_endpoint_writes_one_entry_and_a_new_run() {
    let mut kernel = Kernel::new(&BUDGETS);
    kernel.apply(&service("web", "10.96.0.1:80", &["10.0.0.1:80"])).unwrap();
    let before = kernel.service("web").endpoints[0];
    let plan = kernel.plan(&service("web", "10.96.0.1:80", &["10.0.0.1:80", "10.0.0.2:80"])).unwrap();
    let change = &plan.phases[0].changes[0];
    assert_eq!((change.endpoint_writes.len(), change.slot_writes.len(), change.word_writes), (1, 1, true));
    kernel.write(plan);
    assert_eq!(kernel.service("web").endpoints[0], before, "who stays keeps the number");
    assert_eq!(kernel.table("web"), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[test]
fn a_change_of_mode_writes_words_only() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("web", "10.96.0.1:80", &["10.0.0.1:80"]);
    kernel.apply(&text).unwrap();
    let plan = kernel.plan(&text.replace("balance:", "mode: shadow, balance:")).unwrap();
    let change = &plan.phases[0].changes[0];
    assert!(change.word_writes && change.slot_writes.is_empty() && change.endpoint_writes.is_empty());
    assert_eq!(plan.freed, []);
}

#[test]
fn a_removed_endpoint_drains_first_and_comes_back_under_its_number() {
    let mut kernel = Kernel::new(&BUDGETS);
    let both = service("web", "10.96.0.1:80", &["10.0.0.1:80", "10.0.0.2:80"]);
    kernel.apply(&both).unwrap();
    let number = kernel.service("web").endpoints[1].number;
    kernel.apply(&service("web", "10.96.0.1:80", &["10.0.0.1:80"])).unwrap();
    let left = kernel.service("web").endpoints[1];
    assert_eq!((left.number, left.stage), (number, Stage::Leaving));
    let draining = crate::abi::endpoint_state::ENDPOINT_DRAINING.0;
    assert_eq!(u32::from(left.stage.border()), draining, "who has read the old table may still choose it");
    assert_eq!(kernel.table("web"), ["10.0.0.1:80"]);
    assert!(kernel.picture.garbage.leaving.contains(&kernel.service("web").number));

    kernel.apply(&both).unwrap();
    let back = kernel.service("web").endpoints[1];
    assert_eq!((back.number, back.stage), (number, Stage::Active));
}

#[test]
fn an_unavailable_endpoint_leaves_the_table_and_keeps_its_number() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("web", "10.96.0.1:80", &["10.0.0.1:80", "10.0.0.2:80"]);
    kernel.apply(&text).unwrap();
    let sick = (ServiceName::new("web").unwrap(), "10.0.0.2:80".parse().unwrap());
    let plan = kernel.plan_with(&text, &HashMap::from([(sick, Unavailable::Ejected)])).unwrap();
    assert_eq!((plan.changed, plan.phases[0].changes[0].endpoint_writes.len()), (1, 1));
    kernel.write(plan);
    assert_eq!(kernel.table("web"), ["10.0.0.1:80"]);
    assert_eq!(kernel.service("web").endpoints[1].stage, Stage::Unavailable(Unavailable::Ejected));
    kernel.apply(&text).unwrap();
    assert_eq!(kernel.table("web").len(), 2);
}

#[test]
fn an_address_moves_with_one_write() {
    let mut kernel = Kernel::new(&BUDGETS);
    kernel.apply(&service("old", "10.96.0.1:80", &["10.0.0.1:80"])).unwrap();
    let plan = kernel.plan(&service("new", "10.96.0.1:80", &["10.0.0.2:80"])).unwrap();
    assert_eq!((plan.added, plan.removed, plan.frontends), (1, 1, 1));
    assert!(plan.phases[0].retired[0].frontends_dropped.is_empty(), "the new owner's write replaces the old");
    kernel.write(plan);
    assert_eq!(kernel.frontends.len(), 1);
    assert_eq!(kernel.frontends.values().copied().collect::<Vec<_>>(), [kernel.service("new").number]);
}

#[test]
fn a_removed_service_comes_back_under_its_number() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("web", "10.96.0.1:80", &["10.0.0.1:80"]);
    kernel.apply(&text).unwrap();
    let number = kernel.service("web").number;
    kernel.apply("").unwrap();
    assert!(kernel.service("web").removed);
    let plan = kernel.plan(&text).unwrap();
    assert_eq!((plan.added, plan.changed), (1, 0));
    kernel.write(plan);
    assert_eq!((kernel.service("web").number, kernel.service("web").removed), (number, false));
    assert_eq!(kernel.frontends.len(), 1);
}

#[test]
fn a_service_that_comes_back_writes_its_words_even_when_they_are_empty() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("web", "10.96.0.1:80", &["10.0.0.1:80"]);
    kernel.apply(&text).unwrap();
    kernel.apply("").unwrap();
    // The kernel's words are the old ones until the grace period is over.
    let observed = text.replace("balance: round-robin", "mode: observe");
    let plan = kernel.plan(&observed).unwrap();
    let change = &plan.phases[0].changes[0];
    assert_eq!((change.after.words, change.word_writes), ([0, 0], true));
}

#[test]
fn tcp_and_udp_endpoints_of_one_address_are_two() {
    let mut kernel = Kernel::new(&BUDGETS);
    let text = service("dns", "10.96.0.1:53", &["10.0.0.1:53"]);
    kernel.apply(&text).unwrap();
    let tcp = kernel.service("dns").endpoints[0].number;
    kernel.apply(&text.replace("balance:", "protocol: udp, balance:")).unwrap();
    let endpoints = &kernel.service("dns").endpoints;
    assert_eq!(
        endpoints.iter().map(|endpoint| endpoint.stage).collect::<Vec<_>>(),
        [Stage::Leaving, Stage::Active]
    );
    assert_eq!(endpoints[0].number, tcp);
    assert_eq!(kernel.frontends.len(), 1);
}

/// The error of a plan, as text.
fn refusal(kernel: &Kernel, services: &str) -> String {
    kernel.plan(services).expect_err("it does not fit").to_string()
}

#[test]
fn refusals_name_what_did_not_fit() {
    let mut kernel = Kernel::new(&BUDGETS);
    kernel.apply(&service_of("first", "10.96.0.1:80", 1, 6)).unwrap();
    let first = service_of("first", "10.96.0.1:80", 1, 6);

    let endpoints = refusal(&kernel, &format!("{first}{}", service_of("second", "10.96.0.2:80", 2, 3)));
    assert!(
        endpoints.starts_with("endpoints do not fit: second needs 3 more, 2 of 8 are free"),
        "{endpoints}"
    );
    assert!(endpoints.contains("--max-endpoints"), "{endpoints}");

    let more: String =
        (2..=5).map(|at| service(&format!("s{at}"), &format!("10.96.0.{at}:80"), &[])).collect();
    let services = refusal(&kernel, &format!("{first}{more}"));
    assert!(services.starts_with("services do not fit: s5 needs 1 more, 0 of 4 are free"), "{services}");

    let addresses: Vec<String> = (1..=9).map(|port| format!("10.96.1.1:{port}")).collect();
    let wide = format!("- {{name: wide, addresses: [{}], endpoints: []}}\n", addresses.join(", "));
    let frontends = refusal(&kernel, &format!("{first}{wide}"));
    assert!(
        frontends.starts_with("service addresses do not fit: wide needs 9 more, 7 of 8 are free"),
        "{frontends}"
    );

    let maglev = "- {name: many, address: 10.96.0.3:80, balance: {maglev: {table-size: 17}}, endpoints: [10.0.0.1:80]}\n";
    let slots = refusal(&kernel, &format!("{first}{maglev}"));
    assert!(
        slots.starts_with("balancing slots do not fit: many needs 17 more, 10 of 16 are free"),
        "{slots}"
    );
    assert!(slots.contains("--max-slots"), "{slots}");
}

#[test]
fn tables_that_do_not_fit_beside_the_old_ones_go_in_phases() {
    let budgets = Budgets { endpoints: 64, slots: 10, ..BUDGETS };
    let mut kernel = Kernel::new(&budgets);
    let text = |network: u8| {
        let services = [("a", 1u8), ("b", 2)]
            .map(|(name, host)| service_of(name, &format!("10.96.0.{host}:80"), network + host, 3));
        services.concat()
    };
    kernel.apply(&text(0)).unwrap();
    kernel.settle();
    kernel.apply(&text(10)).unwrap();
    assert!(kernel.phases > 2, "{} phases", kernel.phases);
    assert_eq!(kernel.table("a"), many(11, 3));
    assert_eq!(kernel.table("b"), many(12, 3));
}

#[test]
fn a_service_that_goes_makes_room_for_the_one_that_takes_its_address() {
    let budgets = Budgets { endpoints: 64, slots: 10, ..BUDGETS };
    let mut kernel = Kernel::new(&budgets);
    kernel.apply(&service_of("old", "10.96.0.1:80", 1, 10)).unwrap();
    kernel.settle();
    // In the order of names `new` would come first, and find no slots.
    let text = [service_of("new", "10.96.0.3:80", 4, 10), service_of("taker", "10.96.0.1:80", 3, 0)].concat();
    kernel.apply(&text).unwrap();
    assert_eq!(kernel.table("new"), many(4, 10));
    assert_eq!(kernel.frontends.len(), 2);
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut kernel = Kernel::new(&BUDGETS);
    kernel.apply(&service_of("first", "10.96.0.1:80", 1, 6)).unwrap();
    let before = format!("{:?}", kernel.picture);
    refusal(&kernel, &service_of("second", "10.96.0.2:80", 2, 9));
    assert_eq!(format!("{:?}", kernel.picture), before);
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u8, u8, u8)>),
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Name, address and endpoints of up to four services.
    let services = prop::collection::vec((0u8..6, 0u8..6, 0u8..7), 0..5);
    let step = prop_oneof![4 => services.prop_map(Step::Apply), 1 => Just(Step::Settle)];
    prop::collection::vec(step, 1..30)
}

fn text_of(services: &[(u8, u8, u8)]) -> String {
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    let mut text = String::new();
    for &(name, address, endpoints) in services {
        if names.insert(name) && addresses.insert(address) {
            text += &service_of(&format!("s{name}"), &format!("10.96.0.{address}:80"), name, endpoints);
        }
    }
    text
}

proptest! {
    /// Whatever is applied in whatever order: the tables are right, no slot in use is overwritten (Kernel::write),
    /// numbers are unique, and in the end nothing leaks.
    #[test]
    fn any_history_ends_in_what_was_asked_for(steps in steps()) {
        let budgets = Budgets { services: 6, endpoints: 24, slots: 24, affinity: 1 };
        let mut kernel = Kernel::new(&budgets);
        for step in &steps {
            let Step::Apply(services) = step else {
                kernel.settle();
                continue;
            };
            let text = text_of(services);
            if kernel.apply(&text).is_err() {
                kernel.settle();
                if kernel.apply(&text).is_err() {
                    continue;
                }
            }
            let wanted = snapshot(&text);
            for service in wanted.services() {
                let endpoints: Vec<String> =
                    service.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
                prop_assert_eq!(kernel.table(service.name.as_str()), endpoints);
                let number = kernel.service(service.name.as_str()).number;
                for frontend in &service.frontends {
                    let key = (frontend.socket_addr(), service.protocol.transport());
                    prop_assert_eq!(kernel.frontends.get(&key), Some(&number));
                }
            }
            prop_assert_eq!(kernel.frontends.len(), wanted.services().len());
            let mut numbers: Vec<u32> = kernel
                .picture
                .services
                .values()
                .flat_map(|service| service.endpoints.iter().map(|endpoint| endpoint.number))
                .collect();
            let count = numbers.len();
            numbers.sort();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), count);
            prop_assert_eq!(kernel.picture.endpoint_numbers.used() as usize, count);
        }
        kernel.apply("").unwrap();
        kernel.settle();
        let picture = &kernel.picture;
        prop_assert_eq!((picture.runs.used(), picture.endpoint_numbers.used()), (0, 0));
        prop_assert_eq!((picture.service_numbers.used(), picture.frontends), (0, 0));
        prop_assert!(picture.services.is_empty() && picture.names.is_empty() && kernel.frontends.is_empty());
    }
}
