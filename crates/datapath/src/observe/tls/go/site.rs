//! Where probes for Go's `crypto/tls` go. Its functions never get a probe at their return: Go moves stacks, and a return address that
//! the kernel has replaced would be moved with them, or be found where the runtime unwinds. Where plaintext is on its way there is a
//! call with all that is needed in the registers of Go's own calling convention (`src/cmd/compile/abi-internal.md`), and
//! the kernel emulates calls.

use std::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use super::super::site::{Costly, Text, emulated, stack_grows};

/// Functions that are longer are none of Go's `crypto/tls`.
const LONGEST: u64 = 64 << 10;
/// Where a function keeps its first argument, above its return address, if it needs the register for something else.
const SPILLED: i64 = 8;
/// Bits that a cookie has for that.
const MOST_KEPT: u32 = 1 << 24;
/// Instructions of a function's beginning.
const BEGINNING: usize = 32;

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) address: u64,
    /// How far above the stack pointer the connection is kept; 0: it is where the first argument is passed.
    pub(super) kept: u32,
}

/// The instructions of a function, from first to last as they lie there, with their bytes.
fn instructions(bytes: &[u8], address: u64) -> impl Iterator<Item = (Instruction, &[u8])> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let from = decoder.position();
        let instruction = decoder.can_decode().then(|| decoder.decode())?;
        (!instruction.is_invalid()).then(|| (instruction, &bytes[from..decoder.position()]))
    })
}

fn read(text: &impl Text, function: &Range<u64>) -> Result<Vec<u8>, Costly> {
    let length = function.end.saturating_sub(function.start).min(LONGEST);
    let bytes = text.at(function.start, length as usize);
    if bytes.is_empty() { Err(Costly::Unreadable) } else { Ok(bytes) }
}

fn calls(instruction: &Instruction, bytes: &[u8], targets: &[u64]) -> bool {
    instruction.flow_control() == FlowControl::Call
        && emulated(bytes).is_some()
        && targets.contains(&instruction.near_branch_target())
}

/// The calls that `Write` makes with a record's plaintext: `writeRecordLocked(connection, type, data, length, capacity)`. There are
/// two, since CBC in TLS 1.0 needs a record of one byte first.
pub(super) fn of_write(text: &impl Text, function: &Range<u64>, record: &[u64]) -> Result<Vec<Site>, Costly> {
    let bytes = read(text, function)?;
    let found =
        instructions(&bytes, function.start).filter(|(instruction, bytes)| calls(instruction, bytes, record));
    let found: Vec<Site> =
        found.map(|(instruction, _)| Site { address: instruction.ip(), kept: 0 }).collect();
    if found.is_empty() { Err(Costly::Unlike("it does not call writeRecordLocked")) } else { Ok(found) }
}

/// The call by which `Read` copies plaintext to its caller, `memmove(to, from, length)`.
pub(super) fn of_read(text: &impl Text, function: &Range<u64>, copy: &[u64]) -> Result<Site, Costly> {
    let bytes = read(text, function)?;
    let kept = kept(&bytes, function.start)?;
    let mut copies =
        instructions(&bytes, function.start).filter(|(instruction, bytes)| calls(instruction, bytes, copy));
    match (copies.next(), copies.next()) {
        (Some((instruction, _)), None) => Ok(Site { address: instruction.ip(), kept }),
        (None, _) => Err(Costly::Unlike("it does not copy by memmove")),
        (Some(_), Some(_)) => Err(Costly::Unlike("it copies at more than one place")),
    }
}

/// How far above the stack pointer a function keeps its first argument, once it has made its frame: it is made at the
/// beginning, and lasts.
fn kept(bytes: &[u8], address: u64) -> Result<u32, Costly> {
    let mut factory = InstructionInfoFactory::new();
    let (mut depth, mut kept, mut first_is_there) = (0, None, true);
    let mut all = instructions(bytes, address).map(|(instruction, _)| instruction);
    let goes_on = |flow: FlowControl| matches!(flow, FlowControl::Next | FlowControl::ConditionalBranch);
    for instruction in all.by_ref().take_while(|instruction| goes_on(instruction.flow_control())) {
        if first_is_there && keeps_first(&instruction, depth + SPILLED) {
            kept = Some(depth + SPILLED);
        }
        depth += stack_grows(&instruction).unwrap_or(0);
        first_is_there &= !changes_first(&instruction, &mut factory);
    }
    let grows = |instruction: &Instruction| {
        instruction.flow_control() == FlowControl::Next
            && stack_grows(instruction).is_some_and(|bytes| bytes > 0)
    };
    if all.any(|instruction| grows(&instruction)) {
        return Err(Costly::Unlike("its frame grows later on"));
    }
    // Found before the frame was whole, it would be elsewhere now.
    let kept = kept.filter(|&kept| kept == depth + SPILLED).and_then(|kept| u32::try_from(kept).ok());
    kept.filter(|&kept| kept < MOST_KEPT)
        .ok_or(Costly::Unlike("it does not keep its connection where there is room for its arguments"))
}

fn changes_first(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> bool {
    factory.info(instruction).used_registers().iter().any(|used| {
        let only_read = matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
        used.register().full_register() == Register::RAX && !only_read
    })
}

/// Whether it puts the register of the first argument so far above the stack pointer.
fn keeps_first(instruction: &Instruction, place: i64) -> bool {
    instruction.code() == Code::Mov_rm64_r64
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op_register(1) == Register::RAX
        && instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() as i64 == place
}

/// A place at a function's beginning where its first argument is still where it was passed, and which a call meets once: not
/// the jump to where the stack is made larger, since from there the function begins again.
pub(super) fn of_beginning(text: &impl Text, function: &Range<u64>) -> Result<Site, Costly> {
    let bytes = read(text, function)?;
    let mut factory = InstructionInfoFactory::new();
    let (mut first, mut checks_stack) = (None, false);
    for (instruction, bytes) in instructions(&bytes, function.start).take(BEGINNING) {
        first.get_or_insert_with(|| format!("{:?}", instruction.mnemonic()).to_lowercase());
        if emulated(bytes).is_some() && !checks_stack {
            return Ok(Site { address: instruction.ip(), kept: 0 });
        }
        checks_stack = compares_stack(&instruction);
        if changes_first(&instruction, &mut factory)
            || !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch)
        {
            break;
        }
    }
    Err(first.map_or(Costly::Unreadable, Costly::SingleStepped))
}

/// Whether it compares with the end of the stack, which the goroutine knows (`runtime.g`, always in r14).
fn compares_stack(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Cmp && instruction.memory_base() == Register::R14
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Text for Bytes {
        fn at(&self, address: u64, length: usize) -> Vec<u8> {
            let rest = self.0.get(address as usize..).unwrap_or_default();
            rest[..rest.len().min(length)].to_vec()
        }
    }

    fn text(hex: &str) -> (Bytes, Range<u64>) {
        let bytes: Vec<u8> =
            hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let range = 0..bytes.len() as u64;
        (Bytes(bytes), range)
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Costly>) -> String {
        result.unwrap_err().to_string()
    }

    /// cmp rsp,[r14+10]; jbe; push rbp; mov rbp,rsp; sub rsp,58; mov [rsp+68],rax; call (40); call (60)
    const READ: &str =
        "49 3b 66 10 76 1c 55 48 89 e5 48 83 ec 58 48 89 44 24 68 e8 28 00 00 00 e8 43 00 00 00 c3";

    #[test]
    fn read_is_probed_where_it_copies_and_the_connection_is_on_the_stack() {
        let (bytes, range) = text(READ);
        assert_eq!(of_read(&bytes, &range, &[0x60]), Ok(Site { address: 0x18, kept: 0x68 }));
        assert!(refused(of_read(&bytes, &range, &[0x41])).contains("memmove"));
        assert!(refused(of_read(&bytes, &range, &[0x60, 0x40])).contains("more than one"));
        assert_eq!(of_read(&bytes, &(40..90), &[0x60]), Err(Costly::Unreadable));
        // As Go 1.19 writes it, without push: sub rsp,68; mov [rsp+60],rbp; lea rbp,[rsp+60]; mov [rsp+70],rax
        let (bytes, range) =
            text("48 83 ec 68 48 89 6c 24 60 48 8d 6c 24 60 48 89 44 24 70 e8 00 00 00 00 c3");
        assert_eq!(of_read(&bytes, &range, &[0x18]), Ok(Site { address: 0x13, kept: 0x70 }));
    }

    #[test]
    fn read_is_left_alone_if_the_connection_may_be_elsewhere() {
        let refused = |hex| refused(of_read(&text(hex).0, &text(hex).1, &[0x60]));
        // mov [rsp+8],rax; push rbp; call
        assert!(refused("48 89 44 24 08 55 e8 55 00 00 00 c3").contains("keep"));
        // xor eax,eax; mov [rsp+8],rax; call
        assert!(refused("31 c0 48 89 44 24 08 e8 54 00 00 00 c3").contains("keep"));
        // mov [rsp+8],rax; call; push rbp
        assert!(refused("48 89 44 24 08 e8 56 00 00 00 55 c3").contains("grows"));
    }

    #[test]
    fn write_is_probed_at_each_record() {
        let (bytes, range) = text("e8 3b 00 00 00 90 e8 35 00 00 00 e8 00 00 00 00 c3");
        let sites = [0, 6].map(|address| Site { address, kept: 0 });
        assert_eq!(of_write(&bytes, &range, &[0x40]), Ok(sites.to_vec()));
        assert!(refused(of_write(&bytes, &range, &[0x41])).contains("writeRecordLocked"));
    }

    #[test]
    fn a_beginning_is_probed_behind_the_look_at_the_stack() {
        let at = |address| Ok(Site { address, kept: 0 });
        let found = |hex| of_beginning(&text(hex).0, &text(hex).1);
        assert_eq!(found(READ), at(6));
        // sub rsp,68; mov [rsp+70],rax; call
        assert_eq!(found("48 83 ec 68 48 89 44 24 70 e8 00 00 00 00 c3"), at(9));
        // cmp rsp,[r14+10]; jbe; xor eax,eax; push rbp
        assert_eq!(found("49 3b 66 10 76 1c 31 c0 55 c3"), Err(Costly::SingleStepped("cmp".into())));
        assert_eq!(found("48 83 ec 68 c3 55"), Err(Costly::SingleStepped("sub".into())));
        assert_eq!(found(""), Err(Costly::Unreadable));
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_bytes_a_probe_is_at_an_instruction_that_is_emulated(bytes: Vec<u8>, from in 0u64..8) {
            let range = from..bytes.len() as u64;
            let text = Bytes(bytes);
            let targets: Vec<u64> = (0..300).collect();
            let mut sites = of_write(&text, &range, &targets).unwrap_or_default();
            sites.extend(of_read(&text, &range, &targets).ok());
            sites.extend(of_beginning(&text, &range).ok());
            for site in sites {
                proptest::prop_assert!(range.contains(&site.address));
                let begins = text.at(site.address, 6);
                let length = [1, 2, 5, 6].into_iter().any(|length| begins.get(..length).and_then(emulated).is_some());
                proptest::prop_assert!(length, "{begins:x?}");
            }
        }
    }
}
