//! The ways that a request can go from the client to the server.

use serde::{Deserialize, Serialize};

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// The client dials the server; no mesh.
    Direct,
    /// The same once more, in a world of its own: what noise does between equals.
    DirectAgain,
    /// The client dials the server, and Alizé watches all HTTP.
    Observed,
    /// Alizé balances the connection; no request is looked at.
    AlizeL4,
    /// Alizé routes each request in the kernel, and hands it to the server's socket.
    AlizeLocal,
    /// Alizé routes each request in the kernel, to a server that it treats as one on another host.
    AlizeRemote,
    /// Alizé's user-space proxy routes each request.
    AlizeProxy,
    Iptables,
    Nftables,
    HaproxyOne,
    HaproxyTwo,
    NginxOne,
    NginxTwo,
    EnvoyOne,
    EnvoyTwo,
}

/// What is needed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    Alize(Mesh),
    /// Address translation by rules of that tool.
    Rules(Tool),
    /// A proxy beside the client, and with `both` one beside the server.
    Sidecars {
        peer: Peer,
        both: bool,
    },
}

/// What Alizé is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mesh {
    Observe,
    Connections,
    Requests { local: bool },
    Proxy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Iptables,
    Nftables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Haproxy,
    Nginx,
    Envoy,
}

impl Peer {
    pub(crate) const ALL: [Peer; 3] = [Peer::Haproxy, Peer::Nginx, Peer::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Haproxy => "haproxy",
            Peer::Nginx => "nginx",
            Peer::Envoy => "envoy",
        }
    }
}

impl Subject {
    pub(crate) const ALL: [Subject; 15] = [
        Subject::Direct,
        Subject::DirectAgain,
        Subject::Observed,
        Subject::AlizeL4,
        Subject::AlizeLocal,
        Subject::AlizeRemote,
        Subject::AlizeProxy,
        Subject::Iptables,
        Subject::Nftables,
        Subject::HaproxyOne,
        Subject::HaproxyTwo,
        Subject::NginxOne,
        Subject::NginxTwo,
        Subject::EnvoyOne,
        Subject::EnvoyTwo,
    ];

    /// Two proxies in series, as with a sidecar on either side.
    pub(crate) const CHAINS: [Subject; 3] = [Subject::EnvoyTwo, Subject::HaproxyTwo, Subject::NginxTwo];

    pub(crate) fn way(self) -> Way {
        let sidecars = |peer, both| Way::Sidecars { peer, both };
        match self {
            Subject::Direct | Subject::DirectAgain => Way::Plain,
            Subject::Observed => Way::Alize(Mesh::Observe),
            Subject::AlizeL4 => Way::Alize(Mesh::Connections),
            Subject::AlizeLocal => Way::Alize(Mesh::Requests { local: true }),
            Subject::AlizeRemote => Way::Alize(Mesh::Requests { local: false }),
            Subject::AlizeProxy => Way::Alize(Mesh::Proxy),
            Subject::Iptables => Way::Rules(Tool::Iptables),
            Subject::Nftables => Way::Rules(Tool::Nftables),
            Subject::HaproxyOne => sidecars(Peer::Haproxy, false),
            Subject::HaproxyTwo => sidecars(Peer::Haproxy, true),
            Subject::NginxOne => sidecars(Peer::Nginx, false),
            Subject::NginxTwo => sidecars(Peer::Nginx, true),
            Subject::EnvoyOne => sidecars(Peer::Envoy, false),
            Subject::EnvoyTwo => sidecars(Peer::Envoy, true),
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::DirectAgain => "direct again",
            Subject::Observed => "Alizé observing",
            Subject::AlizeL4 => "Alizé L4",
            Subject::AlizeLocal => "Alizé kernel, same host",
            Subject::AlizeRemote => "Alizé kernel, remote",
            Subject::AlizeProxy => "Alizé proxy",
            Subject::Iptables => "iptables",
            Subject::Nftables => "nftables",
            Subject::HaproxyOne => "HAProxy",
            Subject::HaproxyTwo => "HAProxy, two in series",
            Subject::NginxOne => "nginx",
            Subject::NginxTwo => "nginx, two in series",
            Subject::EnvoyOne => "Envoy",
            Subject::EnvoyTwo => "Envoy, two in series",
        }
    }

    /// For names of files and cgroups, and for the command line.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::DirectAgain => "direct-again",
            Subject::Observed => "observed",
            Subject::AlizeL4 => "alize-l4",
            Subject::AlizeLocal => "alize-local",
            Subject::AlizeRemote => "alize-remote",
            Subject::AlizeProxy => "alize-proxy",
            Subject::Iptables => "iptables",
            Subject::Nftables => "nftables",
            Subject::HaproxyOne => "haproxy-1",
            Subject::HaproxyTwo => "haproxy-2",
            Subject::NginxOne => "nginx-1",
            Subject::NginxTwo => "nginx-2",
            Subject::EnvoyOne => "envoy-1",
            Subject::EnvoyTwo => "envoy-2",
        }
    }

    /// For the name of an instance of Alizé, which has room for 32 bytes only.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Subject::Observed => "seen",
            Subject::AlizeL4 => "l4",
            Subject::AlizeLocal => "local",
            Subject::AlizeRemote => "remote",
            Subject::AlizeProxy => "proxy",
            other => other.key(),
        }
    }

    pub(crate) fn is_alize(self) -> bool {
        matches!(self.way(), Way::Alize(_))
    }
}

impl clap::ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        &Subject::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.key()).help(self.label()))
    }
}
