//! What Alizé is compared with, in the shape that kube-proxy gives it: one chain a service, one chain an endpoint.
//!
//! Both rule sets carry the marking for hairpin and the masquerading that kube-proxy needs in practice; neither marks
//! ordinary traffic.

use std::fmt::Write as _;

use super::layout::{self, ENDPOINT_PORT, ENDPOINTS, SERVICE_PORT};

/// Input of `iptables-restore`: KUBE-SERVICES (a list) to KUBE-SVC (by chance) to KUBE-SEP (DNAT).
pub(crate) fn iptables(services: u32) -> String {
    let mut rules =
        String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    for service in 0..services {
        declare_chains(&mut rules, service);
    }
    rules.push_str(
        "-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n",
    );
    for service in 0..services {
        let address = layout::service(service);
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {}/32 -p tcp -m comment --comment \"bench/s{service}:http cluster IP\" -m tcp --dport \
             {SERVICE_PORT} -j {}",
            address.ip(),
            service_chain(service)
        );
    }
    for service in 0..services {
        fill_chains(&mut rules, service, false);
    }
    rules.push_str("COMMIT\n");
    rules
}

/// Input of `iptables-restore --noflush` that moves the first endpoint of a service: as kube-proxy does, only the
/// chains of that service are given again.
pub(crate) fn iptables_change(service: u32, moved: bool) -> String {
    let mut rules = String::from("*nat\n");
    declare_chains(&mut rules, service);
    fill_chains(&mut rules, service, moved);
    rules.push_str("COMMIT\n");
    rules
}

fn declare_chains(rules: &mut String, service: u32) {
    let _ = writeln!(rules, ":{} - [0:0]", service_chain(service));
    for index in 0..ENDPOINTS {
        let _ = writeln!(rules, ":{} - [0:0]", endpoint_chain(service, index));
    }
}

fn fill_chains(rules: &mut String, service: u32, moved: bool) {
    for index in 0..ENDPOINTS {
        let address = endpoint(service, index, moved);
        let chance = match ENDPOINTS - index {
            1 => String::new(),
            left => format!("-m statistic --mode random --probability {:.10} ", 1.0 / f64::from(left)),
        };
        let _ = writeln!(
            rules,
            "-A {} -m comment --comment \"bench/s{service}:http -> {address}\" {chance}-j {}",
            service_chain(service),
            endpoint_chain(service, index)
        );
        let (chain, ip) = (endpoint_chain(service, index), address.ip());
        let _ = writeln!(
            rules,
            "-A {chain} -s {ip}/32 -m comment --comment \"bench/s{service}:http\" -j KUBE-MARK-MASQ\n\
             -A {chain} -p tcp -m comment --comment \"bench/s{service}:http\" -m tcp -j DNAT --to-destination {address}"
        );
    }
}

fn endpoint(service: u32, index: u32, moved: bool) -> std::net::SocketAddrV4 {
    if moved && index == 0 { layout::moved_endpoint(service) } else { layout::endpoint(service, index) }
}

/// Sixteen characters after the prefix, as kube-proxy's hashes.
fn service_chain(service: u32) -> String {
    format!("KUBE-SVC-{service:016X}")
}

fn endpoint_chain(service: u32, index: u32) -> String {
    format!("KUBE-SEP-{:016X}", service * ENDPOINTS + index)
}

/// Input of `nft -f`: a verdict map from address, protocol and port to a chain that draws an endpoint's chain.
pub(crate) fn nftables(services: u32) -> String {
    let mut rules = String::from(
        "table ip kube-proxy {\n\
         \tmap service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         \tchain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n\
         \tchain masquerading {\n\
         \t\tmeta mark & 0x4000 == 0 return\n\
         \t\tmeta mark set meta mark ^ 0x4000\n\
         \t\tmasquerade fully-random\n\
         \t}\n",
    );
    for service in 0..services {
        for index in 0..ENDPOINTS {
            let _ = writeln!(rules, "\tchain {} {{", nft_endpoint_chain(service, index));
            nft_endpoint_rules(&mut rules, service, index, false);
            rules.push_str("\t}\n");
        }
        let _ = writeln!(rules, "\tchain {} {{ {}; }}", nft_service_chain(service), nft_draw(service));
    }
    rules.push_str(
        "\tchain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n\
         \tchain nat-output { type nat hook output priority -100; policy accept; jump services; }\n\
         \tchain nat-postrouting { type nat hook postrouting priority 100; policy accept; jump masquerading; }\n}\n",
    );
    rules.push_str("add element ip kube-proxy service-ips {\n");
    for service in 0..services {
        let ip = *layout::service(service).ip();
        let _ = writeln!(rules, "\t{ip} . tcp . {SERVICE_PORT} : goto {},", nft_service_chain(service));
    }
    rules.push_str("}\n");
    rules
}

/// Input of `nft -f` that moves the first endpoint of a service: its chain is filled again, in one transaction.
pub(crate) fn nftables_change(service: u32, moved: bool) -> String {
    let chain = nft_endpoint_chain(service, 0);
    let mut rules =
        format!("flush chain ip kube-proxy {chain}\ntable ip kube-proxy {{\n\tchain {chain} {{\n");
    nft_endpoint_rules(&mut rules, service, 0, moved);
    rules.push_str("\t}\n}\n");
    rules
}

fn nft_endpoint_rules(rules: &mut String, service: u32, index: u32, moved: bool) {
    let address = endpoint(service, index, moved);
    let _ = writeln!(
        rules,
        "\t\tip saddr {} jump mark-for-masquerade\n\t\tmeta l4proto tcp dnat to {}:{ENDPOINT_PORT}",
        address.ip(),
        address.ip()
    );
}

fn nft_draw(service: u32) -> String {
    let choices: Vec<String> = (0..ENDPOINTS)
        .map(|index| format!("{index} : goto {}", nft_endpoint_chain(service, index)))
        .collect();
    format!("numgen random mod {ENDPOINTS} vmap {{ {} }}", choices.join(", "))
}

fn nft_service_chain(service: u32) -> String {
    format!("service-{service:08X}")
}

fn nft_endpoint_chain(service: u32, index: u32) -> String {
    format!("endpoint-{:08X}", service * ENDPOINTS + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rules: &str, part: &str) -> usize {
        rules.lines().filter(|line| line.contains(part)).count()
    }

    #[test]
    fn iptables_has_a_chain_for_every_service_and_endpoint() {
        let rules = iptables(5);
        assert_eq!(lines(&rules, ":KUBE-SVC-"), 5);
        assert_eq!(lines(&rules, ":KUBE-SEP-"), 15);
        assert_eq!(lines(&rules, "--to-destination"), 15);
        assert_eq!(lines(&rules, "-A KUBE-SERVICES"), 5);
        assert_eq!(lines(&rules, "-m statistic"), 10, "the last endpoint takes what is left");
        assert!(rules.ends_with("COMMIT\n"));
    }

    #[test]
    fn odds_of_the_random_chain_are_even() {
        let rules = iptables(1);
        assert_eq!(lines(&rules, "--probability 0.3333333333"), 1);
        assert_eq!(lines(&rules, "--probability 0.5000000000"), 1);
    }

    #[test]
    fn a_change_touches_one_service_and_one_endpoint() {
        let (before, after) = (iptables_change(7, false), iptables_change(7, true));
        assert_eq!(lines(&after, ":KUBE-SVC-"), 1);
        let moved = layout::moved_endpoint(7).to_string();
        assert_eq!(lines(&before, &moved), 0);
        assert_eq!(lines(&after, &format!("--to-destination {moved}")), 1);
        assert_eq!(before.lines().count(), after.lines().count());
    }

    #[test]
    fn nftables_has_a_chain_for_every_service_and_endpoint() {
        let rules = nftables(5);
        assert_eq!(lines(&rules, "chain service-"), 5);
        assert_eq!(lines(&rules, "chain endpoint-"), 15);
        assert_eq!(lines(&rules, ". tcp . 80 : goto service-"), 5);
        assert!(nftables_change(4, true).contains(&layout::moved_endpoint(4).ip().to_string()));
    }

    #[test]
    fn chain_names_are_short_enough_for_iptables() {
        assert!(service_chain(u32::MAX).len() <= 28);
    }
}
