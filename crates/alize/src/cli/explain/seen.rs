//! A request that was seen: what became of it, and how that fits the tables of now.

use alize_datapath::explain::Explanation;
use alize_model::api::ObservedRequest;

use super::Asked;
use crate::cli::caller;
use crate::failure::Failure;
use crate::style::visible;
use crate::units::{bytes, seconds, utc};

/// Asks for the steps of the request again. Its process may have ended: its cgroup is asked then.
pub(super) fn asked(request: ObservedRequest) -> Result<Asked, Failure> {
    let from_elsewhere = || {
        Failure::Other(anyhow::anyhow!(
            "request {} came from {}, which is not a meshed process of this host: no program of the mesh decided about it here",
            request.id,
            request.client_address
        ))
    };
    let client = request.client.as_ref().ok_or_else(from_elsewhere)?;
    let by_pid = client.pid.and_then(|pid| caller::find(&pid.to_string()).ok());
    let caller = match by_pid {
        Some(caller) => caller,
        None => caller::find(&format!("/{}", client.workload.cgroup.trim_start_matches('/')))?,
    };
    let to = request.service.clone().unwrap_or_else(|| request.endpoint.to_string());
    let fields: Vec<String> = request.host.iter().map(|host| format!("Host: {host}")).collect();
    let line = format!("{} {}", request.method, request.target);
    let http = super::http::Request::read(&line, &fields).ok();
    Ok(Asked { caller, to, request: http, seen: Some(request) })
}

/// What happened, and what of it the tables of now would not do.
pub(super) fn report(request: &ObservedRequest, now: &Explanation) -> String {
    let status = request.status.map_or_else(|| "no response".to_owned(), |status| format!("status {status}"));
    let cut = if request.target_cut { "..." } else { "" };
    let mut text = format!(
        "request {}, {}\n  {} {}{cut}\n  from {} to {}\n  {status} after {}, {} in and {} out; path {}\n",
        request.id,
        utc(request.time),
        visible(&request.method),
        visible(&request.target),
        who(request),
        whom(request),
        seconds(request.latency),
        bytes(request.request_bytes),
        bytes(request.response_bytes),
        visible(&request.path_label),
    );
    if let Some(service) = &request.service {
        let known = now.endpoints.iter().any(|endpoint| endpoint.address == request.endpoint);
        if !known {
            text += &format!(
                "  {} is no endpoint of {} any more: the tables have changed since\n",
                request.endpoint,
                visible(service)
            );
        } else if !request.dialled {
            text += "  no dial of the service's own address is known of this connection: the service follows from the endpoint\n";
        }
    }
    text
}

fn who(request: &ObservedRequest) -> String {
    match &request.client {
        Some(client) => {
            let name = client.comm.as_ref().unwrap_or(&client.workload.name);
            let pid = client.pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
            format!("{}{pid} in {}", visible(name), visible(&client.workload.cgroup))
        }
        None => request.client_address.to_string(),
    }
}

fn whom(request: &ObservedRequest) -> String {
    match &request.service {
        Some(service) => format!("{} at {}", visible(service), request.endpoint),
        None => request.endpoint.to_string(),
    }
}
