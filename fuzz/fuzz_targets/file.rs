//! The parser of the native file takes any text without a panic; what it refuses has an error, what it accepts is what
//! the model's types promise.
#![no_main]

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use alize_model::http::{Action, Head, Http, KernelVerdict, Method, PathMatch, Reason, RouteTable};
use alize_model::{
    Balance, Budgets, Diagnostics, HostFacts, Mode, Probe, Protocol, Service, Severity, Snapshot, Source,
    parse,
};
use libfuzzer_sys::fuzz_target;

const BUDGETS: Budgets = Budgets { services: 64, endpoints: 64, slots: 1 << 20, affinity: 64 };

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let local = IpAddr::from([192, 0, 2, 7]);
    let host = HostFacts { local_addresses: vec![(local, "eth0".into())] };
    match parse(Source { name: "file.yaml", text }, &BUDGETS, &host) {
        Ok((snapshot, warnings)) => {
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
            check(&snapshot, local);
        }
        Err(Diagnostics(all)) => {
            assert!(all.iter().any(|diagnostic| diagnostic.severity == Severity::Error));
            assert!(all.len() <= 202);
            assert!(all.is_sorted_by_key(|diagnostic| diagnostic.position));
            let lines = text.split(['\n', '\r']).count() as u32;
            assert!(all.iter().all(|diagnostic| (1..=lines).contains(&diagnostic.position.line)));
        }
    }
});

fn check(snapshot: &Snapshot, local: IpAddr) {
    let services = snapshot.services();
    assert!(services.is_sorted_by(|a, b| a.name < b.name));
    assert!(services.len() <= BUDGETS.services as usize);
    assert!(
        services.iter().map(|service| service.endpoints.len()).sum::<usize>() <= BUDGETS.endpoints as usize
    );
    let mut addresses = HashSet::new();
    for service in services {
        assert_eq!(snapshot.get(service.name.as_str()), Some(service));
        assert!(!service.frontends.is_empty() && service.frontends.is_sorted_by(|a, b| a < b));
        for frontend in &service.frontends {
            assert!(addresses.insert((service.protocol.transport(), *frontend)));
            assert!(!frontend.address.is_unspecified() && !frontend.address.is_multicast());
            assert!(service.mode == Mode::Observe || frontend.address != local);
        }
        check_service(service);
        check_http(snapshot, service);
    }
}

/// Routes are there exactly for HTTP, compile, and are lowered to a table that has a verdict for every request and never
/// one that the table contradicts.
fn check_http(snapshot: &Snapshot, service: &Service) {
    assert_eq!(service.http.is_some(), service.protocol == Protocol::Http);
    let Some(http) = &service.http else { return };
    assert!((1..=Http::MOST_ROUTES).contains(&http.routes.len()));
    let table = RouteTable::compile(http);
    let kernel = snapshot.kernel_table(service).expect("it speaks HTTP");
    let mut names = HashSet::new();
    let mut paths = vec!["/".to_owned(), "/a/b".to_owned()];
    for route in &http.routes {
        assert!(names.insert(Arc::clone(&route.name)) && !route.matches.is_empty());
        if let Action::Forward(forward) = &route.action {
            assert!(forward.backends.iter().any(|backend| backend.weight > 0));
        }
        for condition in &route.matches {
            if let PathMatch::Exact(path) | PathMatch::Prefix(path) = &condition.path {
                assert!(
                    path.starts_with('/')
                        && (path.len() == 1
                            || matches!(condition.path, PathMatch::Exact(_))
                            || !path.ends_with('/'))
                );
                paths.extend([path.to_string(), format!("{path}/x")]);
            }
        }
    }
    let headers: &[(&str, &str)] = &[("host", "a")];
    for path in &paths {
        for method in Method::ALL {
            let found = table.find(&Head { method: method.as_str(), path, query: None, headers });
            match kernel.decide(method, path, headers) {
                KernelVerdict::Rule(rule) => assert_eq!(found.map(|found| found.rule), Some(rule), "{path}"),
                KernelVerdict::Proxy(Reason::NoRoute) => assert_eq!(found, None, "{path}"),
                KernelVerdict::Headers(_) => unreachable!("it is decided"),
                KernelVerdict::Proxy(_) => {}
            }
        }
    }
}

fn check_service(service: &Service) {
    assert!(service.endpoints.is_sorted_by(|a, b| a.address < b.address));
    for endpoint in &service.endpoints {
        let ip = endpoint.address.ip();
        assert!(endpoint.address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast());
        assert!(ip.to_canonical() == ip, "v4-mapped");
    }
    if let Balance::Maglev { table_size } = service.balance {
        assert!(table_size.get() < 1 << 20 && table_size.get() as usize >= service.endpoints.len());
        assert!(
            (2..table_size.get())
                .take_while(|d| d * d <= table_size.get())
                .all(|d| table_size.get() % d != 0)
        );
    }
    if let Some(affinity) = service.affinity {
        assert!((1..=65_535).contains(&affinity.timeout.as_secs()) && affinity.timeout.subsec_nanos() == 0);
    }
    if let Some(health) = &service.health {
        assert!(!health.timeout.is_zero() && health.timeout < health.interval && health.jitter <= 100);
        if let Probe::Http { path, status: (low, high), .. } = &health.probe {
            assert!(path.starts_with('/') && (100..600).contains(low) && (*low..600).contains(high));
            assert!(service.protocol != Protocol::Udp || health.port.is_some());
        }
    }
    if let Some(ejection) = service.ejection {
        assert!(!ejection.base.is_zero() && ejection.base <= ejection.max && ejection.max_ejected <= 100);
    }
    if let Some(split) = &service.split {
        assert!(split.shares.values().any(|share| *share > 0));
    }
}
