//! The machine code of a loaded program, with the lines of C that it comes from.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;

use libbpf_rs::btf::types::Func;
use libbpf_rs::btf::{Btf, TypeId};
use libbpf_rs::query::{LineInfo, ProgInfoIter, ProgInfoQueryOptions, ProgramInfo};
use libbpf_rs::{AsRawLibbpf, libbpf_sys};

use crate::Error;
use crate::inspect::program_name;

/// A function of a program: the entry, or one that it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCode {
    /// Its name in C.
    pub name: String,
    /// Its instructions.
    pub bytes: Vec<u8>,
    /// Where in `bytes` the code of a line of C begins, and that line: `return 1; @ connect.bpf.c:12`.
    pub lines: Vec<(usize, String)>,
}

/// The functions of program `id`; none when it is interpreted.
pub fn machine_code(id: u32) -> Result<Vec<MachineCode>, Error> {
    let error = |e| Error::kernel("cannot read the machine code of program", id.to_string(), e);
    let options = ProgInfoQueryOptions::default()
        .include_func_info(true)
        .include_line_info(true)
        .include_jited_prog_insns(true)
        .include_jited_line_info(true)
        .include_jited_func_lens(true)
        .include_jited_ksyms(true);
    let info = ProgInfoIter::with_query_opts(options).find(|info| info.id == id);
    let info = info.ok_or_else(|| error(io::Error::from(io::ErrorKind::NotFound)))?;
    // Without type information there are no lines; the code is there all the same.
    let btf = Btf::from_prog_id(id).ok();
    let texts: Vec<String> = info.line_info.iter().map(|line| source(btf.as_ref(), line)).collect();
    Ok(functions(&info, btf.as_ref(), &texts))
}

fn functions(info: &ProgramInfo, btf: Option<&Btf<'_>>, texts: &[String]) -> Vec<MachineCode> {
    let mut rest = info.jited_prog_insns.as_slice();
    // A program without functions of its own has no list of their sizes on some kernels.
    let whole = [info.jited_prog_insns.len() as u32];
    let sizes = if info.jited_func_lens.is_empty() { &whole[..] } else { &info.jited_func_lens };
    let mut functions = Vec::new();
    for (index, &size) in sizes.iter().enumerate().filter(|(_, size)| **size > 0) {
        let Some((bytes, after)) = rest.split_at_checked(size as usize) else { break };
        rest = after;
        let named = || {
            let function = btf?.type_by_id::<Func<'_>>(TypeId::from(info.func_info.get(index)?.type_id))?;
            Some(function.name()?.to_string_lossy().into_owned())
        };
        // 0 where the kernel hides its addresses (kernel.kptr_restrict): then no line can be placed.
        let start = info.jited_ksyms.get(index).map_or(0, |address| address.addr());
        let within = |address: usize| {
            let at = address.checked_sub(start).filter(|_| start != 0)?;
            (at < bytes.len()).then_some(at)
        };
        let placed = info.jited_line_info.iter().zip(texts);
        functions.push(MachineCode {
            name: named().unwrap_or_else(|| program_name(info)),
            bytes: bytes.to_vec(),
            lines: placed
                .filter_map(|(address, text)| Some((within(address.addr())?, text.clone())))
                .collect(),
        });
    }
    functions
}

/// `return 1; @ connect.bpf.c:12`.
fn source(btf: Option<&Btf<'_>>, line: &LineInfo) -> String {
    let text = |offset| btf.and_then(|btf| string(btf, offset)).unwrap_or_default();
    let file = text(line.file_name_off);
    let file = file.rsplit('/').next().unwrap_or_default();
    format!("{} @ {file}:{}", text(line.line_off).trim(), line.line_num)
}

fn string(btf: &Btf<'_>, offset: u32) -> Option<String> {
    // SAFETY: the type information is alive; what is returned is NULL or a string that lives as long as it does, and is
    // copied here.
    let text = unsafe {
        let text = libbpf_sys::btf__str_by_offset(btf.as_libbpf_object().as_ptr(), offset);
        (!text.is_null()).then(|| CStr::from_ptr(text))?
    };
    Some(text.to_string_lossy().into_owned())
}
