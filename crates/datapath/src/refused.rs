//! What the kernel or libbpf said when it refused an object, put into words for people.

use std::fmt;

/// Why an object was not loaded.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Refused {
    /// The program that was refused, where one was.
    pub program: Option<String>,
    /// Line of its C source that the verifier stood at, where it says so.
    pub source: Option<String>,
    /// The rule that was broken, in plain words; what was said, where the rule is not known here.
    pub rule: String,
    /// What to do about it, where that is known.
    pub mend: Option<String>,
    /// The last lines that were said, without those that only repeat that it failed.
    pub lines: Vec<String>,
    /// All that was said.
    #[serde(skip)]
    pub log: Vec<String>,
}

/// Lines of a log that are shown.
const SHOWN: usize = 12;

/// A line of a log: the rule it tells of, and the mend.
type Reading = fn(&str) -> Option<(String, Option<String>)>;

/// The first that knows a line reads it.
const READINGS: [Reading; 10] = [
    missing_function,
    forbidden_function,
    callbacks,
    type_information,
    field,
    too_complex,
    loops,
    memory,
    instruction,
    map,
];

impl Refused {
    /// Reads what was said, of which the last line is the error itself.
    pub(crate) fn from_log(log: Vec<String>) -> Self {
        // The verifier ends with what it stumbled over; what libbpf says it says last too.
        let read = log.iter().rev().find_map(|line| READINGS.iter().find_map(|reading| reading(line)));
        let said = log.iter().rposition(|line| tells(line));
        let read = read.or_else(|| log.last().and_then(|error| errno(error)));
        let (rule, mend) = read.unwrap_or_else(|| {
            let line = said.and_then(|at| log.get(at)).or(log.last());
            (line.map_or("no reason was given", |line| spoken(line)).to_owned(), None)
        });
        let lines: Vec<&String> =
            log[..said.map_or(0, |at| at + 1)].iter().filter(|line| tells(line) || is_source(line)).collect();
        Self {
            program: log.iter().rev().find_map(|line| quoted_after(line, "libbpf: prog ")).map(str::to_owned),
            source: log[..said.unwrap_or(0)]
                .iter()
                .rev()
                .find(|line| is_source(line))
                .map(|line| line[2..].to_owned()),
            rule,
            mend,
            lines: lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| (*line).clone()).collect(),
            log,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        match self.lines.last().map(|line| spoken(line)) {
            Some(said) if said != self.rule => write!(f, "; it was said: {said}"),
            _ => Ok(()),
        }
    }
}

/// Whether a line is more than a frame around the others.
fn tells(line: &str) -> bool {
    const FRAME: [&str; 9] = [
        "failed to load object",
        ": failed to load: ",
        "BPF program load failed",
        "BEGIN PROG LOAD LOG",
        "END PROG LOAD LOG",
        "processed ",
        "verification time ",
        "stack depth ",
        "(os error ",
    ];
    !line.trim().is_empty() && !is_source(line) && !FRAME.iter().any(|frame| line.contains(frame))
}

/// The verifier shows the C source as `; if (!sk) @ sockops.bpf.c:55`.
fn is_source(line: &str) -> bool {
    line.starts_with("; ")
}

fn spoken(line: &str) -> &str {
    line.trim().trim_start_matches("libbpf: ")
}

/// Functions that a kernel may lack: name, number as a helper (0: it is none), the Linux that brought it.
const FUNCTIONS: [(&str, u32, &str); 22] = [
    ("bpf_get_socket_cookie", 46, "4.12"),
    ("bpf_get_current_cgroup_id", 80, "4.18"),
    ("bpf_sk_storage_get", 107, "5.2"),
    ("bpf_get_netns_cookie", 122, "5.7"),
    ("bpf_ktime_get_boot_ns", 125, "5.8"),
    ("bpf_ringbuf_output", 130, "5.8"),
    ("bpf_ringbuf_reserve", 131, "5.8"),
    ("bpf_ringbuf_submit", 132, "5.8"),
    ("bpf_skc_to_tcp_sock", 137, "5.9"),
    ("bpf_loop", 181, "5.17"),
    ("bpf_strncmp", 182, "5.17"),
    ("bpf_get_retval", 186, "5.18"),
    ("bpf_set_retval", 187, "5.18"),
    ("bpf_map_lookup_percpu_elem", 195, "5.19"),
    ("bpf_dynptr_from_mem", 197, "5.19"),
    ("bpf_ktime_get_tai_ns", 208, "6.1"),
    ("bpf_user_ringbuf_drain", 209, "6.1"),
    ("bpf_cgrp_storage_get", 210, "6.2"),
    ("bpf_iter_num_new", 0, "6.4"),
    ("bpf_iter_num_next", 0, "6.4"),
    ("bpf_dynptr_from_skb", 0, "6.4"),
    ("bpf_sock_destroy", 0, "6.5"),
];

fn brought(name: &str) -> Option<String> {
    let (_, _, version) = FUNCTIONS.iter().find(|function| function.0 == name)?;
    Some(format!("Linux {version} brought it: run that or a newer kernel"))
}

/// `extern (func ksym) 'NAME': not found in kernel`, `kfunc 'NAME' is referenced but wasn't resolved`,
/// `invalid func unknown#187`.
fn missing_function(line: &str) -> Option<(String, Option<String>)> {
    let kernel_function = quoted_after(line, "extern (func ksym) ").filter(|_| line.contains("not found"));
    let unresolved = || quoted_after(line, "kfunc ").filter(|_| line.contains("wasn't resolved"));
    if let Some(name) = kernel_function.or_else(unresolved) {
        return Some((format!("this kernel has no function {name}()"), brought(name)));
    }
    let number: u32 = number_after(line, "unknown#").or_else(|| number_after(line, "unknown func "))?;
    let known = FUNCTIONS.iter().find(|function| function.1 == number);
    let name = known
        .map_or_else(|| format!("helper number {number}"), |function| format!("function {}()", function.0));
    Some((format!("this kernel has no {name}"), known.and_then(|function| brought(function.0))))
}

/// `program of this type cannot use helper bpf_x#187`, in older kernels `unknown func bpf_x#187`;
/// `calling kernel function bpf_x is not allowed`.
fn forbidden_function(line: &str) -> Option<(String, Option<String>)> {
    let after = |start: &str| line.split_once(start).map(|(_, rest)| rest);
    let rest = after("cannot use helper ")
        .or_else(|| after("unknown func "))
        .or_else(|| after("calling kernel function "))?;
    let name = rest.split(['#', ' ', '(']).next().filter(|name| !name.is_empty())?;
    let rule = format!("this kernel does not let a program on this hook call {name}()");
    Some((rule, Some("a newer kernel may: 6.1 is the oldest that is tested".into())))
}

/// A verifier before Linux 5.13 does not take the address of a function for one, and counts a function too few.
fn callbacks(line: &str) -> Option<(String, Option<String>)> {
    let miscounted = line.contains("number of funcs in func_info doesn't match number of subprogs");
    let rule = "this kernel knows no function that is handed to another, which loops are made of";
    let mend = "Linux 5.13 brought them, and Linux 5.17 the loop bpf_loop(): run that or a newer kernel";
    miscounted.then(|| (rule.into(), Some(mend.into())))
}

fn type_information(line: &str) -> Option<(String, Option<String>)> {
    let missing = ["kernel BTF is missing", "failed to find valid kernel BTF", "Error loading vmlinux BTF"];
    if missing.iter().any(|text| line.contains(text)) {
        let mend = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, which shows as /sys/kernel/btf/vmlinux";
        return Some(("the kernel tells nothing of its own types (BTF)".into(), Some(mend.into())));
    }
    let name = quoted_after(line, "failed to find kernel BTF type ID of ")?;
    Some((format!("this kernel has no hook or type {name:?}"), None))
}

/// `failed to resolve CO-RE relocation <byte_off> [15] struct tcp_sock.bytes_acked (0:3 @ offset 4)`.
fn field(line: &str) -> Option<(String, Option<String>)> {
    if let Some((_, rest)) = line.split_once("failed to resolve CO-RE relocation ") {
        let name = rest.split_once("] ").map_or(rest, |(_, name)| name);
        let name = name.split(" (").next().unwrap_or(name);
        return Some((format!("the types of this kernel have no `{name}`"), None));
    }
    let rest = line.split_once("invalid bpf_context access ")?.1;
    let mend = "a newer kernel may show it: 6.1 is the oldest that is tested";
    Some((
        format!("this kernel does not show a program on this hook the context's field at {rest}"),
        Some(mend.into()),
    ))
}

fn too_complex(line: &str) -> Option<(String, Option<String>)> {
    let too_complex = line.contains("program is too large") || line.contains("jumps is too complex");
    let mend =
        "a newer kernel's verifier sees sooner that two paths are alike; please report it with the log";
    too_complex.then(|| {
        (
            "too complex: the verifier gave up before it had walked every path of the program".into(),
            Some(mend.into()),
        )
    })
}

fn loops(line: &str) -> Option<(String, Option<String>)> {
    let endless = line.contains("infinite loop detected") || line.contains("back-edge from insn");
    endless.then(|| ("the verifier could not see that a loop ends".into(), None))
}

fn memory(line: &str) -> Option<(String, Option<String>)> {
    const OUTSIDE: [&str; 8] = [
        "unbounded memory access",
        "invalid mem access",
        "invalid access to map value",
        "invalid access to packet",
        "invalid read from stack",
        "invalid write to stack",
        "min value is negative",
        "misaligned",
    ];
    if line.contains("invalid mem access") && line.contains("_or_null'") {
        return Some(("what may be absent (NULL) is used without asking whether it is there".into(), None));
    }
    if line.contains("combined stack size") {
        return Some(("the program and what it calls use more than 512 bytes of stack".into(), None));
    }
    if line.contains("!read_ok") {
        return Some(("a register is read that was never written".into(), None));
    }
    let outside = OUTSIDE.iter().any(|text| line.contains(text));
    outside.then(|| ("the verifier could not see that a read or write stays within its memory".into(), None))
}

fn instruction(line: &str) -> Option<(String, Option<String>)> {
    const UNKNOWN: [&str; 4] = [
        "invalid atomic opcode",
        "BPF_STX uses reserved fields",
        "BPF_XADD uses reserved fields",
        "unknown opcode",
    ];
    let unknown = UNKNOWN.iter().any(|text| line.contains(text));
    let mend =
        "Linux 5.12 brought atomics that return the old value (CPU version 3): run that or a newer kernel";
    unknown.then(|| ("this kernel does not know an instruction of the program".into(), Some(mend.into())))
}

/// `map 'flows': failed to create: -EPERM`.
fn map(line: &str) -> Option<(String, Option<String>)> {
    let name = quoted_after(line, "map ").filter(|_| line.contains("failed to create"))?;
    let (why, mend) =
        errno(line).unwrap_or_else(|| ("this kernel does not know its kind or size".into(), None));
    Some((format!("map {name} cannot be made: {why}"), mend))
}

/// What an error code means when loading.
fn errno(line: &str) -> Option<(String, Option<String>)> {
    let is = |texts: [&str; 3]| texts.iter().any(|text| line.contains(text));
    if is(["-EPERM", "(-1)", "(os error 1)"]) {
        let mend = "run as root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN; in a container also check seccomp, and \
                    /sys/kernel/security/lockdown";
        return Some(("it is not permitted".into(), Some(mend.into())));
    }
    if is(["-ENOMEM", "(-12)", "(os error 12)"]) {
        let mend =
            "raise the memory limit of the cgroup that loads (memory.max), or lower the --max-* budgets";
        return Some(("there is not enough memory".into(), Some(mend.into())));
    }
    None
}

/// What stands in the quotes that follow `start`.
fn quoted_after<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    let rest = line.split_once(start)?.1.strip_prefix('\'')?;
    rest.split_once('\'').map(|(name, _)| name)
}

fn number_after(line: &str, start: &str) -> Option<u32> {
    let rest = line.split_once(start)?.1;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use libbpf_rs::libbpf_sys;

    use super::*;

    fn read(log: &str) -> Refused {
        Refused::from_log(log.lines().map(str::to_owned).collect())
    }

    /// As the verifier of Linux 6.18 and libbpf 1.6 say it.
    const OUT_OF_BOUNDS: &str = "\
libbpf: prog 'alize_sockops': BPF program load failed: -EACCES
libbpf: prog 'alize_sockops': -- BEGIN PROG LOAD LOG --
0: R1=ctx() R10=fp0
; if (!ctx->sk) @ sockops.bpf.c:55
0: (79) r2 = *(u64 *)(r1 +184)        ; R1=ctx() R2_w=sock_or_null(id=1)
; return ctx->sk->state; @ sockops.bpf.c:57
1: (61) r0 = *(u32 *)(r2 +72)
R2 invalid mem access 'sock_or_null'
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
libbpf: prog 'alize_sockops': failed to load: -EACCES
libbpf: failed to load object 'sockops'
Permission denied (os error 13)";

    #[test]
    fn a_verifier_log_is_read_from_its_end() {
        let refused = read(OUT_OF_BOUNDS);
        assert_eq!(refused.program.as_deref(), Some("alize_sockops"));
        assert_eq!(refused.source.as_deref(), Some("return ctx->sk->state; @ sockops.bpf.c:57"));
        assert_eq!(refused.rule, "what may be absent (NULL) is used without asking whether it is there");
        assert_eq!(refused.lines.last().unwrap(), "R2 invalid mem access 'sock_or_null'");
        assert_eq!(refused.log.len(), 13);
        let shown = refused.to_string();
        assert!(shown.ends_with("; it was said: R2 invalid mem access 'sock_or_null'"), "{shown}");
    }

    #[test]
    fn rules_are_told_in_plain_words() {
        let cases = [
            (
                "libbpf: extern (func ksym) 'bpf_sock_destroy': not found in kernel or module BTFs\n\
                 Invalid argument (os error 22)",
                "this kernel has no function bpf_sock_destroy()",
                "Linux 6.5",
            ),
            (
                "invalid func unknown#187\nx (os error 22)",
                "this kernel has no function bpf_set_retval()",
                "Linux 5.18",
            ),
            (
                "unknown func 187\nx (os error 22)",
                "this kernel has no function bpf_set_retval()",
                "Linux 5.18",
            ),
            ("invalid func unknown#9999\nx (os error 22)", "this kernel has no helper number 9999", ""),
            (
                "program of this type cannot use helper bpf_sk_storage_get#107\nx (os error 22)",
                "this kernel does not let a program on this hook call bpf_sk_storage_get()",
                "newer kernel",
            ),
            (
                "calling kernel function bpf_sock_destroy is not allowed\nx (os error 13)",
                "this kernel does not let a program on this hook call bpf_sock_destroy()",
                "newer kernel",
            ),
            (
                "BPF program is too large. Processed 1000001 insn\nprocessed 1000001 insns\nx (os error 7)",
                "too complex: the verifier gave up before it had walked every path of the program",
                "report",
            ),
            (
                "R0 unbounded memory access, make sure to bounds check any such access\nx (os error 13)",
                "the verifier could not see that a read or write stays within its memory",
                "",
            ),
            (
                "number of funcs in func_info doesn't match number of subprogs\nx (os error 22)",
                "this kernel knows no function that is handed to another, which loops are made of",
                "Linux 5.17",
            ),
            (
                "failed to resolve CO-RE relocation <byte_off> [15] struct tcp_sock.bytes_acked (0:3 @ offset 4)\nx",
                "the types of this kernel have no `struct tcp_sock.bytes_acked`",
                "",
            ),
            (
                "libbpf: kernel BTF is missing at '/sys/kernel/btf/vmlinux', was CONFIG_DEBUG_INFO_BTF enabled?\nx",
                "the kernel tells nothing of its own types (BTF)",
                "CONFIG_DEBUG_INFO_BTF",
            ),
            (
                "libbpf: prog 'alize_x': failed to find kernel BTF type ID of 'udp': -ESRCH\nx",
                "this kernel has no hook or type \"udp\"",
                "",
            ),
            (
                "libbpf: map 'flows': failed to create: -ENOMEM\nlibbpf: failed to load object 'sendmsg'\nx (os error 12)",
                "map flows cannot be made: there is not enough memory",
                "memory.max",
            ),
            (
                "libbpf: map 'flows': failed to create: -EINVAL\nx (os error 22)",
                "map flows cannot be made: this kernel does not know its kind or size",
                "",
            ),
            ("Operation not permitted (os error 1)", "it is not permitted", "CAP_BPF"),
            ("it needs sockops, which is off", "it needs sockops, which is off", ""),
            (
                "libbpf: a sentence of the future\nlibbpf: failed to load object 'x'\nx (os error 22)",
                "a sentence of the future",
                "",
            ),
            ("Invalid argument (os error 22)", "Invalid argument (os error 22)", ""),
            ("", "no reason was given", ""),
        ];
        for (log, rule, mend) in cases {
            let refused = read(log);
            assert_eq!(refused.rule, rule, "{log}");
            assert!(refused.mend.as_deref().unwrap_or("").contains(mend), "{log}: {:?}", refused.mend);
            assert_eq!(refused.mend.is_none(), mend.is_empty(), "{log}: {:?}", refused.mend);
        }
    }

    #[test]
    fn helper_numbers_are_those_of_the_kernel() {
        let number = |name: &str| FUNCTIONS.iter().find(|function| function.0 == name).unwrap().1;
        assert_eq!(number("bpf_set_retval"), libbpf_sys::BPF_FUNC_set_retval);
        assert_eq!(number("bpf_get_retval"), libbpf_sys::BPF_FUNC_get_retval);
        assert_eq!(number("bpf_sk_storage_get"), libbpf_sys::BPF_FUNC_sk_storage_get);
        assert_eq!(number("bpf_skc_to_tcp_sock"), libbpf_sys::BPF_FUNC_skc_to_tcp_sock);
        assert_eq!(number("bpf_get_netns_cookie"), libbpf_sys::BPF_FUNC_get_netns_cookie);
        assert_eq!(number("bpf_get_current_cgroup_id"), libbpf_sys::BPF_FUNC_get_current_cgroup_id);
        assert_eq!(number("bpf_get_socket_cookie"), libbpf_sys::BPF_FUNC_get_socket_cookie);
        assert_eq!(number("bpf_ktime_get_boot_ns"), libbpf_sys::BPF_FUNC_ktime_get_boot_ns);
        assert_eq!(number("bpf_ringbuf_output"), libbpf_sys::BPF_FUNC_ringbuf_output);
        assert_eq!(number("bpf_ringbuf_reserve"), libbpf_sys::BPF_FUNC_ringbuf_reserve);
        assert_eq!(number("bpf_ringbuf_submit"), libbpf_sys::BPF_FUNC_ringbuf_submit);
        assert_eq!(number("bpf_loop"), libbpf_sys::BPF_FUNC_loop);
        assert_eq!(number("bpf_strncmp"), libbpf_sys::BPF_FUNC_strncmp);
        assert_eq!(number("bpf_map_lookup_percpu_elem"), libbpf_sys::BPF_FUNC_map_lookup_percpu_elem);
        assert_eq!(number("bpf_dynptr_from_mem"), libbpf_sys::BPF_FUNC_dynptr_from_mem);
        assert_eq!(number("bpf_ktime_get_tai_ns"), libbpf_sys::BPF_FUNC_ktime_get_tai_ns);
        assert_eq!(number("bpf_user_ringbuf_drain"), libbpf_sys::BPF_FUNC_user_ringbuf_drain);
        assert_eq!(number("bpf_cgrp_storage_get"), libbpf_sys::BPF_FUNC_cgrp_storage_get);
    }
}
