//! Where a probe costs little: found by reading a function's first instructions.
//!
//! A uprobe replaces an instruction by a breakpoint. What the kernel can emulate (`push`, `nop`, direct jumps; see
//! `arch_uprobe_analyze_insn` of arch/x86/kernel/uprobes.c) costs a fraction of a microsecond; everything else runs single-stepped
//! out of line, which costs twenty-five. So a function that begins with something else is followed to where it calls the one
//! that does its work, which as a rule begins with `push`.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind,
    Register,
};

/// Instructions that are looked at.
const LONGEST: usize = 96;
/// Calls and jumps that are followed.
const TRANSFERS: usize = 3;
/// Bytes that one instruction may have.
const LONGEST_INSTRUCTION: usize = 15;
/// The registers of arguments, in the order of the calling convention of Linux on x86-64.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// Where the bytes of a program are; empty where there are none.
pub(super) trait Text {
    /// At most `length` bytes at `address`.
    fn at(&self, address: u64, length: usize) -> Vec<u8>;
}

/// Where a probe goes, and what is in which argument there (from 1 on, as in `enum tls_cookie`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) address: u64,
    pub(super) data: u8,
    /// Argument that points to the count; 0: it is returned.
    pub(super) count: u8,
    /// Argument that has the type of record; 0: none.
    pub(super) kind: u8,
}

/// Why there is no place for a cheap probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Costly {
    /// What the function begins with would be single-stepped.
    #[error(
        "it begins with `{0}`, which the kernel would single-step, and leads to no function that can be probed cheaply"
    )]
    SingleStepped(String),
    /// There are no instructions where the symbol says.
    #[error("its instructions cannot be read")]
    Unreadable,
    /// It is not what is known of it.
    #[error("it is not as Go's compiler has made it so far: {0}")]
    Unlike(&'static str),
}

/// What a function is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signature {
    /// Parameter with the address of the data; 0: there is none.
    pub(super) data: u8,
    /// Parameter that points to where the count is put; 0: the count is returned.
    pub(super) count: u8,
    /// The function that it leads to is meant, because others lead there too.
    pub(super) inner: bool,
    /// Its return is of interest, so that the probe must be where the return address is on top of the stack.
    pub(super) returns: bool,
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Parameter(u8),
    /// The address of something of the caller's.
    Stack,
    Constant(u32),
    Other,
}

/// Instructions that the kernel emulates: what it does at each is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emulated {
    Plain,
    Branch,
}

/// As the kernel decides it, without the forms that only newer kernels know.
pub(super) fn emulated(bytes: &[u8]) -> Option<Emulated> {
    match bytes {
        [0x50..=0x57] | [0x41, 0x50..=0x57] | [0x90] | [0x66, 0x90] => Some(Emulated::Plain),
        [0xeb, _] | [0x70..=0x7f, _] => Some(Emulated::Branch),
        [0xe9 | 0xe8, _, _, _, _] | [0x0f, 0x80..=0x8f, _, _, _, _] => Some(Emulated::Branch),
        _ => None,
    }
}

/// The state of a walk along a function.
struct Walk {
    values: [Value; 16],
    /// Bytes on the stack above the return address; `None`: not known.
    depth: Option<i64>,
}

fn number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

impl Walk {
    fn new() -> Self {
        let mut values = [Value::Other; 16];
        for (place, register) in ARGUMENTS.iter().enumerate() {
            values[register.number()] = Value::Parameter(place as u8 + 1);
        }
        Self { values, depth: Some(0) }
    }

    fn get(&self, register: Register) -> Value {
        match number(register) {
            Some(_) if register.full_register() == Register::RSP => Value::Stack,
            Some(number) => self.values[number],
            None => Value::Other,
        }
    }

    /// The argument (from 1 on) that holds what `wanted` says.
    fn argument(&self, wanted: impl Fn(Value) -> bool) -> Option<u8> {
        let found = ARGUMENTS.iter().position(|register| wanted(self.values[register.number()]));
        found.map(|place| place as u8 + 1)
    }

    /// What is left of the signature here; `None`: it does not have all that it needs.
    fn site(&self, address: u64, signature: Signature, called: bool) -> Option<Site> {
        let has = |parameter: u8| self.argument(|value| value == Value::Parameter(parameter));
        if self.values[Register::RDI.number()] != Value::Parameter(1) {
            return None;
        }
        let data = if signature.data == 0 { 0 } else { has(signature.data)? };
        let count = match signature.count {
            // Who calls a function of its own to have the count gives it an address on its stack.
            0 if called => self.argument(|value| value == Value::Stack)?,
            0 => 0,
            parameter => has(parameter)?,
        };
        // RFC 8446, 5.1: application data.
        let kind = self.argument(|value| value == Value::Constant(23)).unwrap_or(0);
        Some(Site { address, data, count, kind })
    }

    fn step(&mut self, instruction: &Instruction, factory: &mut InstructionInfoFactory) {
        let value = self.moved(instruction);
        let grows = stack_grows(instruction);
        self.depth = self.depth.map(|depth| depth + grows.unwrap_or(0));
        for used in factory.info(instruction).used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            if !writes {
                continue;
            }
            if used.register().full_register() == Register::RSP && grows.is_none() {
                self.depth = None;
            }
            if let Some(number) = number(used.register()) {
                self.values[number] = Value::Other;
            }
        }
        if instruction.op0_kind() == OpKind::Register
            && value != Value::Other
            && let Some(number) = number(instruction.op_register(0))
        {
            self.values[number] = value;
        }
    }

    /// What the instruction puts into its first operand, as far as that matters.
    fn moved(&self, instruction: &Instruction) -> Value {
        match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if instruction.op1_kind() == OpKind::Register => {
                self.get(instruction.op_register(1))
            }
            Code::Lea_r64_m if instruction.memory_base() == Register::RSP => Value::Stack,
            Code::Mov_r32_imm32 => Value::Constant(instruction.immediate32()),
            _ => Value::Other,
        }
    }
}

/// By how many bytes the stack grows; `None`: that cannot be told, or it does not.
pub(super) fn stack_grows(instruction: &Instruction) -> Option<i64> {
    let on_stack = || instruction.op_register(0) == Register::RSP;
    match instruction.code() {
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 if on_stack() => Some(instruction.immediate(1) as i64),
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 if on_stack() => Some(-(instruction.immediate(1) as i64)),
        _ => match instruction.stack_pointer_increment() {
            0 => None,
            increment => Some(-i64::from(increment)),
        },
    }
}

/// Where a probe for this function goes. Conditional jumps are taken as not taken: a function's errors are elsewhere.
pub(super) fn find(text: &impl Text, function: u64, signature: Signature) -> Result<Site, Costly> {
    let mut walk = Walk::new();
    let mut factory = InstructionInfoFactory::new();
    let (mut address, mut transfers, mut called) = (function, 0, false);
    let mut first = None;
    for _ in 0..LONGEST {
        let bytes = text.at(address, LONGEST_INSTRUCTION);
        let mut decoder = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE);
        let instruction = if bytes.is_empty() { Instruction::default() } else { decoder.decode() };
        if instruction.is_invalid() {
            break;
        }
        let shown = || format!("{:?}", instruction.mnemonic()).to_lowercase();
        let first = &*first.get_or_insert_with(shown);
        let here = emulated(&bytes[..instruction.len()]);
        let fits = match here {
            Some(Emulated::Plain) => !signature.returns || walk.depth == Some(0),
            Some(Emulated::Branch) => !signature.returns,
            None => false,
        };
        if fits
            && (transfers > 0 || !signature.inner)
            && let Some(site) = walk.site(address, signature, called)
        {
            return Ok(site);
        }
        let costly = || Costly::SingleStepped(first.clone());
        match instruction.flow_control() {
            FlowControl::Next => walk.step(&instruction, &mut factory),
            FlowControl::ConditionalBranch => {}
            FlowControl::Call | FlowControl::UnconditionalBranch => {
                let call = instruction.flow_control() == FlowControl::Call;
                transfers += 1;
                if transfers > TRANSFERS || !signature.returns || instruction.near_branch_target() == 0 {
                    return Err(costly());
                }
                // A jump out of the function leaves the return address on top, as a call puts one there.
                if call {
                    called = true;
                    walk.depth = Some(0);
                    if walk.site(address, signature, called).is_none() {
                        return Err(costly());
                    }
                }
                address = instruction.near_branch_target();
                continue;
            }
            _ => return Err(costly()),
        }
        address = instruction.next_ip();
    }
    Err(first.map_or(Costly::Unreadable, Costly::SingleStepped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Signature = Signature { data: 2, count: 0, inner: false, returns: true };
    const READ_EX: Signature = Signature { data: 2, count: 4, inner: false, returns: true };

    struct Bytes(Vec<u8>);

    impl Text for Bytes {
        fn at(&self, address: u64, length: usize) -> Vec<u8> {
            let rest = self.0.get(address as usize..).unwrap_or_default();
            rest[..rest.len().min(length)].to_vec()
        }
    }

    fn text(hex: &str) -> Bytes {
        Bytes(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect())
    }

    #[test]
    fn a_push_is_a_place_by_itself_and_behind_endbr64() {
        let site = Site { address: 0, data: 2, count: 0, kind: 0 };
        assert_eq!(find(&text("55 48 89 e5 c3"), 0, READ), Ok(site));
        assert_eq!(find(&text("41 57 c3"), 0, READ), Ok(site));
        assert_eq!(find(&text("f3 0f 1e fa 55 c3"), 0, READ), Ok(Site { address: 4, ..site }));
    }

    #[test]
    fn debian_s_ssl_read_leads_to_what_it_calls() {
        // sub rsp,18; mov rax,fs:28; mov [rsp+8],rax; xor eax,eax; test edx,edx; js; mov rcx,rsp; movsxd rdx,edx; call; push r13
        let code = "48 83 ec 18 64 48 8b 04 25 28 00 00 00 48 89 44 24 08 31 c0 85 d2 78 2f 48 89 e1 48 63 d2 \
                    e8 00 00 00 00 41 55 c3";
        assert_eq!(find(&text(code), 0, READ), Ok(Site { address: 0x23, data: 2, count: 4, kind: 0 }));
        // sub rsp,8; call; push r13: the count is where the caller has said.
        let code = "48 83 ec 08 e8 00 00 00 00 41 55 c3";
        assert_eq!(find(&text(code), 0, READ_EX), Ok(Site { address: 9, data: 2, count: 4, kind: 0 }));
        // With flags between, as OpenSSL 3.3 writes: sub rsp,8; mov r8,rcx; xor ecx,ecx; call; push rbp
        let code = "48 83 ec 08 49 89 c8 31 c9 e8 00 00 00 00 55 c3";
        assert_eq!(find(&text(code), 0, READ_EX), Ok(Site { address: 14, data: 2, count: 5, kind: 0 }));
    }

    #[test]
    fn a_tail_call_that_others_make_too_is_followed() {
        // mov r9d,[rdi+770]; mov r8,rcx; mov rcx,rdx; mov rdx,rsi; mov esi,17; jmp; push r15
        let code = "44 8b 8f 70 07 00 00 49 89 c8 48 89 d1 48 89 f2 be 17 00 00 00 e9 00 00 00 00 41 57 c3";
        let inner = Signature { inner: true, ..READ };
        assert_eq!(find(&text(code), 0, inner), Ok(Site { address: 26, data: 3, count: 0, kind: 2 }));
    }

    #[test]
    fn what_would_be_single_stepped_is_refused_with_what_it_is() {
        let refused = |code: &str, signature| match find(&text(code), 0, signature) {
            Err(Costly::SingleStepped(first)) => first,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused("48 83 ec 08 c3", READ), "sub");
        // The data's address is gone before the call: mov rsi,rax; call
        assert_eq!(refused("48 89 c6 e8 00 00 00 00 55 c3", READ), "mov");
        // A jump to itself, for ever.
        assert_eq!(refused("eb fe", READ), "jmp");
        // Called without a place for the count.
        assert_eq!(refused("48 83 ec 08 e8 00 00 00 00 55 c3", READ), "sub");
        // The stack pointer comes from elsewhere: mov rsp,rax; push rbp
        assert_eq!(refused("48 89 c4 55 c3", READ), "mov");
        assert_eq!(find(&text(""), 0, READ), Err(Costly::Unreadable));
        assert_eq!(find(&text("06"), 0, READ), Err(Costly::Unreadable));
    }

    #[test]
    fn a_function_whose_return_does_not_matter_may_be_probed_at_a_jump() {
        // test rdi,rdi; je
        let free = Signature { data: 0, count: 0, inner: false, returns: false };
        let found = find(&text("48 85 ff 74 16 b8 ff ff ff ff"), 0, free);
        assert_eq!(found, Ok(Site { address: 3, data: 0, count: 0, kind: 0 }));
        // But not where its argument is gone: xor edi,edi; push rbp
        assert!(find(&text("31 ff 55 c3"), 0, free).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fail_or_probe_where_arguments_are_gone(bytes: Vec<u8>, start in 0u64..64) {
            for signature in [READ, READ_EX, Signature { returns: false, ..READ }] {
                if let Ok(site) = find(&Bytes(bytes.clone()), start, signature) {
                    proptest::prop_assert!((site.address as usize) < bytes.len());
                    proptest::prop_assert!((1..=6).contains(&site.data));
                }
            }
        }
    }
}
