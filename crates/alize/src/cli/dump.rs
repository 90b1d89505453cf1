//! `alize programs --dump`: instructions with the lines of C that they come from. Reading them needs a disassembler: bpftool
//! for BPF, objdump for machine code, which bpftool reads only where it was built for it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use alize_datapath::inspect::{MachineCode, ProgramFacts, machine_code};
use anyhow::Context;

use super::args::Dump;
use crate::failure::Failure;
use crate::style::visible;

pub(crate) fn dump(form: Dump, program: &ProgramFacts) -> Result<(), Failure> {
    match form {
        Dump::Xlated => instructions(program),
        Dump::Jited => code(program),
    }
}

fn missing(tool: &str, package: &str) -> Failure {
    Failure::Missing {
        what: format!("{tool} is not installed, which prints the instructions"),
        mend: format!("install the package {package}"),
    }
}

fn started<T>(result: io::Result<T>, tool: &str, package: &str) -> Result<T, Failure> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(tool, package),
        _ => Failure::Other(anyhow::Error::new(error).context(format!("cannot run {tool}"))),
    })
}

fn instructions(program: &ProgramFacts) -> Result<(), Failure> {
    let id = program.id.to_string();
    let status = Command::new("bpftool").args(["prog", "dump", "xlated", "id", &id, "linum"]).status();
    match started(status, "bpftool", "bpftool (Ubuntu: linux-tools-$(uname -r))")? {
        status if status.success() => Ok(()),
        // Killed by a closed pipe, or it has said what went wrong.
        status if status.code().is_none() => Err(Failure::OutputClosed),
        _ => Err(Failure::Other(anyhow::anyhow!(
            "bpftool could not print {}, and said why above",
            program.name
        ))),
    }
}

fn code(program: &ProgramFacts) -> Result<(), Failure> {
    let functions = machine_code(program.id)?;
    if functions.is_empty() {
        return Err(Failure::Other(anyhow::anyhow!(
            "{} has no machine code: it is interpreted (sysctl net.core.bpf_jit_enable=1, then load it anew)",
            program.name
        )));
    }
    let mut out = io::stdout().lock();
    for function in &functions {
        let listing = disassembled(&function.bytes)?;
        out.write_all(annotated(function, &listing).as_bytes()).map_err(Failure::of_output)?;
    }
    Ok(())
}

/// A file for the disassembler, which reads no pipe.
struct Scratch(PathBuf);

impl Scratch {
    fn with(bytes: &[u8]) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("alize-code-{}", std::process::id()));
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let scratch = Self(path);
        file.write_all(bytes)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn disassembled(bytes: &[u8]) -> Result<String, Failure> {
    let scratch = Scratch::with(bytes).context("cannot write the machine code for objdump to a file")?;
    let machine = if cfg!(target_arch = "aarch64") { "aarch64" } else { "i386:x86-64" };
    let output = objdump(&scratch.0, machine);
    let output = started(output, "objdump", "binutils")?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Failure::Other(anyhow::anyhow!(
            "objdump could not read the machine code: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

fn objdump(path: &Path, machine: &str) -> io::Result<std::process::Output> {
    Command::new("objdump")
        .args(["--disassemble-all", "--target=binary", "--no-show-raw-insn"])
        .arg(format!("--architecture={machine}"))
        .arg(path)
        .stdin(Stdio::null())
        .output()
}

/// Instructions as `    12: mov ...`, each line of C above the first of those that it became.
fn annotated(function: &MachineCode, listing: &str) -> String {
    let mut text = format!("{}: {} bytes\n", visible(&function.name), function.bytes.len());
    let mut lines = function.lines.iter().peekable();
    for line in listing.lines() {
        let Some((at, instruction)) = line.trim_start().split_once(":\t") else { continue };
        let Ok(at) = usize::from_str_radix(at, 16) else { continue };
        while let Some((_, source)) = lines.next_if(|(begin, _)| *begin <= at) {
            text.push_str(&format!("; {}\n", visible(source)));
        }
        text.push_str(&format!("{at:>8x}:  {}\n", instruction.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_c_stand_above_their_instructions() {
        let listing = "\n/tmp/x:     file format binary\n\n00000000 <.data>:\n   0:\tpush   %rbp\n   1:\tmov    %rsp,%rbp\n   4:\tret\n";
        let lines = vec![(0, "int f(void) @ f.c:1".into()), (1, "a @ f.c:2".into()), (2, "b @ f.c:3".into())];
        let function = MachineCode { name: "f".into(), bytes: vec![0; 5], lines };
        assert_eq!(
            annotated(&function, listing),
            "f: 5 bytes\n; int f(void) @ f.c:1\n       0:  push   %rbp\n; a @ f.c:2\n       1:  mov    %rsp,%rbp\n\
             ; b @ f.c:3\n       4:  ret\n"
        );
    }

    #[test]
    fn the_machine_code_of_this_machine_is_read() {
        // Of this very architecture: a return.
        let bytes: &[u8] =
            if cfg!(target_arch = "aarch64") { &[0xc0, 0x03, 0x5f, 0xd6] } else { &[0x55, 0xc3] };
        let listing = disassembled(bytes).unwrap_or_else(|failure| panic!("{:?}", failure.message()));
        assert!(listing.lines().any(|line| line.trim_end().ends_with("ret")), "{listing}");
    }
}
