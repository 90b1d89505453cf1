//! What older kernels lack and the programs can do without, at a price: which build of an object this kernel gets, and
//! what the price is.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

use libbpf_rs::{OpenObject, libbpf_sys};

use crate::load::{File, object};

/// The bytes of `file` that this kernel can take.
pub(crate) fn bytes(file: &File) -> &'static [u8] {
    match without_fetch(file.name) {
        Some(bytes) if !has_fetch() => bytes,
        _ => file.bytes,
    }
}

/// Sets what the programs of `object` leave to be chosen at load: `choices` of observe/choices.h, two numbers of four
/// bytes, and `asks` of http/note.h, one.
pub(crate) fn choose(object: &mut OpenObject) {
    let asks = object.maps_mut().find(|map| map.name().to_string_lossy().ends_with(".rodata.asks"));
    if let Some(mut asks) = asks
        && let Some(value) = asks.initial_value_mut().and_then(|value| value.first_chunk_mut::<4>())
    {
        *value = u32::from(message_may_ask_comm()).to_ne_bytes();
    }
    let choices = object.maps_mut().find(|map| map.name().to_string_lossy().ends_with(".rodata.choices"));
    if let Some(mut choices) = choices
        && let Some(value) = choices.initial_value_mut().and_then(|value| value.first_chunk_mut::<8>())
    {
        value[..4].copy_from_slice(&u32::from(may_ask_pid()).to_ne_bytes());
        value[4..].copy_from_slice(&u32::from(may_ask_comm()).to_ne_bytes());
    }
}

/// What an object does less well on this kernel than on newer ones; each with the kernel that mends it.
pub(crate) fn losses(object: &str) -> Vec<&'static str> {
    let mut losses = Vec::new();
    if without_fetch(object).is_some() && !has_fetch() {
        losses.push(match object {
            "connect" | "sendmsg" => {
                "two connects at the same moment may take the same turn of round-robin (mended by Linux 5.12)"
            }
            _ => "bytes may be counted twice when a connection ends while it is read (mended by Linux 5.12)",
        });
    }
    if matches!(object, "connect" | "sendmsg") && !has_set_retval() {
        losses.push("who is refused hears EPERM, not ECONNREFUSED (mended by Linux 5.18)");
    }
    if matches!(object, "http_client" | "http_told") && !message_may_ask_comm() {
        losses.push("names of processes whose requests the kernel routes are read from /proc, when they may be gone (mended by Linux 6.16)");
    }
    let asks = matches!(object, "observe" | "observe_dns" | "observe_tcp");
    if asks && !may_ask_pid() {
        losses.push("processes are not told, only their cgroups (mended by Linux 6.10)");
    } else if asks && !may_ask_comm() {
        losses.push("names of processes are read from /proc, when they may be gone (mended by Linux 6.16)");
    }
    losses
}

fn without_fetch(object: &str) -> Option<&'static [u8]> {
    match object {
        "connect" => Some(object!("without_fetch_connect")),
        "sendmsg" => Some(object!("without_fetch_sendmsg")),
        "sockops" => Some(object!("without_fetch_sockops")),
        "sweep" => Some(object!("without_fetch_sweep")),
        _ => None,
    }
}

/// Whether atomics may return the old value (Linux 5.12): asked of the verifier, since distributions port back.
fn has_fetch() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        // r1 = 0; *(u64 *)(r10 - 8) = r1; r1 = fetch_add(r10 - 8, r1); r0 = 0; exit (RFC 9669, section 5)
        let stack = |mut instruction: libbpf_sys::bpf_insn| {
            instruction.set_dst_reg(10);
            instruction.set_src_reg(1);
            instruction.off = -8;
            instruction
        };
        let mut zero = libbpf_sys::bpf_insn { code: 0xb7, ..Default::default() };
        zero.set_dst_reg(1);
        takes(&[
            zero,
            stack(libbpf_sys::bpf_insn { code: 0x7b, ..Default::default() }),
            stack(libbpf_sys::bpf_insn { code: 0xdb, imm: 0x01, ..Default::default() }),
            libbpf_sys::bpf_insn { code: 0xb7, ..Default::default() },
            libbpf_sys::bpf_insn { code: 0x95, ..Default::default() },
        ])
    })
}

/// Whether the kernel takes these instructions. Without the right to load anything, newer ones are assumed.
fn takes(instructions: &[libbpf_sys::bpf_insn]) -> bool {
    // SAFETY: name and license end with NUL, the length is that of the slice, no options are passed, and all of it
    // outlives the call.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER,
            c"alize_trial".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            std::ptr::null_mut(),
        )
    };
    if fd < 0 {
        return std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL);
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

/// Whether a program may choose the error that its caller hears (Linux 5.18).
fn has_set_retval() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| may_call(libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, libbpf_sys::BPF_FUNC_set_retval))
}

/// Whether the hook of packets, and that of TCP's events, may ask whose thread runs.
pub(crate) fn may_ask_pid() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    let ask = || may_call(libbpf_sys::BPF_PROG_TYPE_CGROUP_SKB, libbpf_sys::BPF_FUNC_get_current_pid_tgid);
    *MAY.get_or_init(ask)
}

/// Whether it may ask what that thread is called.
fn may_ask_comm() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    let ask = || may_call(libbpf_sys::BPF_PROG_TYPE_CGROUP_SKB, libbpf_sys::BPF_FUNC_get_current_comm);
    *MAY.get_or_init(ask)
}

/// Whether the hook of messages may ask what the sending thread is called.
fn message_may_ask_comm() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    let ask = || may_call(libbpf_sys::BPF_PROG_TYPE_SK_MSG, libbpf_sys::BPF_FUNC_get_current_comm);
    *MAY.get_or_init(ask)
}

/// Whether programs of this type may call the helper. What cannot be asked is assumed.
fn may_call(program: libbpf_sys::bpf_prog_type, helper: libbpf_sys::bpf_func_id) -> bool {
    // SAFETY: no pointer but the null that stands for no options.
    unsafe { libbpf_sys::libbpf_probe_bpf_helper(program, helper, std::ptr::null()) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{FILES, load_object};
    use crate::log::Log;

    /// The build for old kernels is one that this kernel takes too; needs root.
    #[test]
    fn the_builds_for_old_kernels_load() {
        let budgets = alize_model::Budgets { services: 1, endpoints: 1, slots: 1, affinity: 1 };
        let mut tried = 0;
        for file in &FILES {
            let Some(bytes) = without_fetch(file.name) else { continue };
            assert!(bytes != file.bytes, "{} is built the same", file.name);
            let old = File { bytes, ..*file };
            load_object(&old, &budgets, &Log::begin(40)).unwrap_or_else(|log| panic!("{log:#?}"));
            tried += 1;
        }
        assert_eq!(tried, 4);
    }
}
