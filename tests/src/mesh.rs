//! Text of the agent's file.

use std::fmt::Display;

/// A file of these services.
pub fn file(services: &[String]) -> String {
    format!("services:\n{}", services.concat())
}

/// A service at one address; `settings` are lines of the file such as `balance: maglev`.
pub fn service(name: &str, address: impl Display, settings: &[&str], endpoints: &[String]) -> String {
    let mut text = format!("  - name: {name}\n    address: \"{address}\"\n");
    settings.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    text.push_str("    endpoints:");
    if endpoints.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    endpoints.iter().for_each(|endpoint| text.push_str(&format!("      - {endpoint}\n")));
    text
}

/// A file of one service called `web`.
pub fn web(address: impl Display, settings: &[&str], endpoints: &[String]) -> String {
    file(&[service("web", address, settings, endpoints)])
}

/// An endpoint; `settings` are keys and values such as `weight: 9`.
pub fn endpoint(address: impl Display, settings: &[&str]) -> String {
    let settings: String = settings.iter().map(|setting| format!(", {setting}")).collect();
    format!("{{address: \"{address}\"{settings}}}")
}

/// Endpoints without settings.
pub fn endpoints(addresses: impl IntoIterator<Item = impl Display>) -> Vec<String> {
    addresses.into_iter().map(|address| endpoint(address, &[])).collect()
}
