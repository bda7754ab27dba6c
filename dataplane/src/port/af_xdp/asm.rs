//! A small assembler for eBPF: just the instructions that [`super::program`] and [`super::balancer`] are written in.
//!
//! The program's source is Rust, so building needs no other compiler; [`Program::listing`] prints what was
//! assembled, for people and for the test that compares it with the listing kept in the tree.
//! Encoding: RFC 9669 (BPF Instruction Set Architecture), sections 3 to 5.

use core::fmt::{self, Write as _};

/// One instruction slot, as `struct bpf_insn` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. `R0` is the result, `R1`-`R5` are arguments and lost over a call, `R6`-`R9` survive it, `R10` is the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// Width of a load or store.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Width {
    B8 = 0x10,
    B16 = 0x08,
    B32 = 0x00,
    B64 = 0x18,
}

/// What a conditional jump compares for; unsigned.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x10,
    Greater = 0x20,
    NotEqual = 0x50,
    Less = 0xa0,
}

/// Arithmetic on 64 bits.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Op {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Xor = 0xa0,
    Mov = 0xb0,
}

/// Kernel functions called, with the kernel's numbers.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Call {
    MapLookupElem = 1,
    RedirectMap = 51,
}

/// A place in the program, bound once and jumped to from before it.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

const CLASS_LDX: u8 = 0x01;
const CLASS_ST: u8 = 0x02;
const CLASS_STX: u8 = 0x03;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const MODE_MEM: u8 = 0x60;
const SOURCE_REG: u8 = 0x08;
const LD_IMM64: u8 = 0x18;
const PSEUDO_MAP_FD: u8 = 1;
const JA: u8 = CLASS_JMP;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// A program being written. `M` names its maps.
pub(super) struct Asm<M> {
    code: Vec<Instruction>,
    labels: Vec<(&'static str, Option<usize>)>,
    jumps: Vec<(usize, Label)>,
    maps: Vec<(usize, M)>,
    comments: Vec<(usize, &'static str)>,
}

/// A finished program: jumps resolved, maps still by name.
pub(super) struct Program<M> {
    code: Vec<Instruction>,
    labels: Vec<(&'static str, usize)>,
    maps: Vec<(usize, M)>,
    comments: Vec<(usize, &'static str)>,
}

impl<M: Copy + fmt::Debug> Asm<M> {
    pub(super) fn new() -> Self {
        Asm { code: Vec::new(), labels: Vec::new(), jumps: Vec::new(), maps: Vec::new(), comments: Vec::new() }
    }

    /// Names a place that is yet to come.
    pub(super) fn label(&mut self, name: &'static str) -> Label {
        self.labels.push((name, None));
        Label(self.labels.len() - 1)
    }

    /// Puts the label here.
    ///
    /// # Panics
    /// When it stands somewhere already: a mistake in the program's source.
    pub(super) fn bind(&mut self, label: Label) {
        let place = &mut self.labels[label.0];
        assert!(place.1.is_none(), "label {} is bound twice", place.0);
        place.1 = Some(self.code.len());
    }

    /// A remark in the listing, above the next instruction.
    pub(super) fn comment(&mut self, text: &'static str) {
        self.comments.push((self.code.len(), text));
    }

    fn push(&mut self, code: u8, dst: Reg, src: u8, offset: i16, immediate: i32) {
        let dst = dst as u8;
        // `struct bpf_insn` has two bit-fields here, which C lays out by the machine's byte order.
        let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    pub(super) fn op(&mut self, op: Op, dst: Reg, immediate: i32) {
        self.push(CLASS_ALU64 | op as u8, dst, 0, 0, immediate);
    }

    pub(super) fn op_reg(&mut self, op: Op, dst: Reg, src: Reg) {
        self.push(CLASS_ALU64 | SOURCE_REG | op as u8, dst, src as u8, 0, 0);
    }

    /// `dst = *(base + offset)`, zero-extended, in the machine's byte order.
    pub(super) fn load(&mut self, width: Width, dst: Reg, base: Reg, offset: i16) {
        self.push(CLASS_LDX | MODE_MEM | width as u8, dst, base as u8, offset, 0);
    }

    /// `*(base + offset) = src`.
    pub(super) fn store(&mut self, width: Width, base: Reg, offset: i16, src: Reg) {
        self.push(CLASS_STX | MODE_MEM | width as u8, base, src as u8, offset, 0);
    }

    /// `*(base + offset) = immediate`.
    pub(super) fn store_imm(&mut self, width: Width, base: Reg, offset: i16, immediate: i32) {
        self.push(CLASS_ST | MODE_MEM | width as u8, base, 0, offset, immediate);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JA, Reg::R0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, left: Reg, when: If, right: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(CLASS_JMP | when as u8, left, 0, 0, right);
    }

    pub(super) fn jump_if_reg(&mut self, left: Reg, when: If, right: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(CLASS_JMP | SOURCE_REG | when as u8, left, right as u8, 0, 0);
    }

    /// Puts a map's address into `dst`; the descriptor is filled in by [`Program::link`].
    pub(super) fn map(&mut self, dst: Reg, map: M) {
        self.maps.push((self.code.len(), map));
        self.push(LD_IMM64, dst, PSEUDO_MAP_FD, 0, 0);
        self.push(0, Reg::R0, 0, 0, 0);
    }

    pub(super) fn call(&mut self, function: Call) {
        self.push(CALL, Reg::R0, 0, 0, function as i32);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, Reg::R0, 0, 0, 0);
    }

    /// Resolves the jumps.
    ///
    /// # Panics
    /// When a label was never bound, or a jump goes backward (there is no loop in our program, so it
    /// would be a mistake) or too far: all mistakes in the program's source.
    pub(super) fn finish(mut self) -> Program<M> {
        for (at, label) in &self.jumps {
            let (name, target) = self.labels[label.0];
            let target = target.unwrap_or_else(|| panic!("label {name} is not bound"));
            let distance = target.checked_sub(at + 1).unwrap_or_else(|| panic!("a jump goes back to {name}"));
            self.code[*at].offset = i16::try_from(distance).unwrap_or_else(|_| panic!("{name} is too far"));
        }
        let labels = self.labels.iter().filter_map(|&(name, at)| Some((name, at?))).collect();
        Program { code: self.code, labels, maps: self.maps, comments: self.comments }
    }
}

impl<M: Copy + fmt::Debug> Program<M> {
    /// The instructions with each map's descriptor in place, ready to load.
    pub(super) fn link(&self, descriptor: impl Fn(M) -> i32) -> Vec<Instruction> {
        let mut code = self.code.clone();
        for &(at, map) in &self.maps {
            code[at].immediate = descriptor(map);
        }
        code
    }

    /// The program for a reader: number, encoded bytes, and meaning of each instruction, with labels and remarks.
    pub(super) fn listing(&self) -> String {
        let mut out = String::new();
        let mut at = 0;
        while at < self.code.len() {
            for (_, text) in self.comments.iter().filter(|(place, _)| *place == at) {
                _ = writeln!(out, "\n; {text}");
            }
            for (name, _) in self.labels.iter().filter(|(_, place)| *place == at) {
                _ = writeln!(out, "{name}:");
            }
            let instruction = self.code[at];
            _ = write!(out, "{at:4}  {instruction:x}  ");
            if let Some((_, map)) = self.maps.iter().find(|(place, _)| *place == at) {
                _ = writeln!(out, "r{} = map {map:?}", instruction.dst());
                at += 2;
                continue;
            }
            _ = write!(out, "{instruction}");
            if instruction.is_jump() {
                let target = (at + 1).wrapping_add_signed(instruction.offset.into());
                let name = self.labels.iter().find(|(_, place)| *place == target).map_or("?", |(name, _)| name);
                _ = write!(out, " {name}");
            }
            out.push('\n');
            at += 1;
        }
        out
    }
}

impl Instruction {
    fn dst(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers & 0xf } else { self.registers >> 4 }
    }

    fn src(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers >> 4 } else { self.registers & 0xf }
    }

    fn is_jump(self) -> bool {
        self.code & 7 == CLASS_JMP && self.code != CALL && self.code != EXIT
    }
}

impl fmt::LowerHex for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instruction { code, registers, offset, immediate } = *self;
        write!(f, "{code:02x} {registers:02x} {offset:04x} {immediate:08x}")
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dst, src, offset, immediate) = (self.dst(), self.src(), self.offset, self.immediate);
        let width = match self.code & 0x18 {
            0x10 => "u8",
            0x08 => "u16",
            0x00 => "u32",
            _ => "u64",
        };
        let right = |f: &mut fmt::Formatter<'_>| {
            if self.code & SOURCE_REG != 0 { write!(f, "r{src}") } else { write!(f, "{immediate:#x}") }
        };
        match self.code {
            CALL if immediate == Call::MapLookupElem as i32 => return f.write_str("r0 = map_lookup_elem(r1, r2)"),
            CALL if immediate == Call::RedirectMap as i32 => return f.write_str("r0 = redirect_map(r1, r2, r3)"),
            CALL => return write!(f, "r0 = call {immediate}"),
            EXIT => return f.write_str("return r0"),
            JA => return f.write_str("goto"),
            _ => {}
        }
        match self.code & 7 {
            CLASS_LDX => write!(f, "r{dst} = *({width} *)(r{src} {offset:+})"),
            CLASS_ST => write!(f, "*({width} *)(r{dst} {offset:+}) = {immediate:#x}"),
            CLASS_STX => write!(f, "*({width} *)(r{dst} {offset:+}) = r{src}"),
            CLASS_ALU64 => {
                let operator = match self.code & 0xf0 {
                    0x00 => "+=",
                    0x10 => "-=",
                    0x20 => "*=",
                    0x50 => "&=",
                    0x60 => "<<=",
                    0x70 => ">>=",
                    0xa0 => "^=",
                    _ => "=",
                };
                write!(f, "r{dst} {operator} ")?;
                right(f)
            }
            CLASS_JMP => {
                let comparison = match self.code & 0xf0 {
                    0x10 => "==",
                    0x20 => ">",
                    0xa0 => "<",
                    _ => "!=",
                };
                write!(f, "if r{dst} {comparison} ")?;
                right(f)?;
                f.write_str(" goto")
            }
            _ => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of `struct bpf_insn` as other assemblers encode them (`mov r0, 2`, `exit`, …).
    #[test]
    #[cfg(target_endian = "little")]
    fn encodes_as_the_instruction_set_says() {
        let mut asm = Asm::<()>::new();
        let end = asm.label("end");
        asm.op(Op::Mov, Reg::R0, 2);
        asm.load(Width::B32, Reg::R2, Reg::R6, 16);
        asm.jump_if_reg(Reg::R1, If::Greater, Reg::R8, end);
        asm.store(Width::B16, Reg::R10, -8, Reg::R1);
        asm.call(Call::MapLookupElem);
        asm.bind(end);
        asm.exit();
        let bytes: Vec<String> = asm.finish().link(|()| 0).iter().map(|i| format!("{i:x}")).collect();
        assert_eq!(
            bytes,
            [
                "b7 00 0000 00000002",
                "61 62 0010 00000000",
                "2d 81 0002 00000000",
                "6b 1a fff8 00000000",
                "85 00 0000 00000001",
                "95 00 0000 00000000",
            ]
        );
    }

    #[test]
    fn a_map_takes_two_slots_and_its_descriptor() {
        let mut asm = Asm::<char>::new();
        asm.map(Reg::R1, 'm');
        asm.exit();
        let program = asm.finish();
        let code = program.link(|map| if map == 'm' { 77 } else { 0 });
        assert_eq!(code.len(), 3);
        assert_eq!((code[0].code, code[0].src(), code[0].immediate), (LD_IMM64, PSEUDO_MAP_FD, 77));
        assert_eq!(code[1], Instruction { code: 0, registers: 0, offset: 0, immediate: 0 });
    }

    #[test]
    #[should_panic(expected = "label nowhere is not bound")]
    fn a_missing_label_is_named() {
        let mut asm = Asm::<()>::new();
        let nowhere = asm.label("nowhere");
        asm.jump(nowhere);
        _ = asm.finish();
    }
}
