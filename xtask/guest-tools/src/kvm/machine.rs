//! A virtual machine of KVM's with one processor, 64 KiB of memory, and interrupt controllers in the kernel.
//!
//! Its programs run in real mode, with segments that reach all 4 GiB. Memory lies at 0; what a program touches beyond
//! it leaves the machine, unless the kernel knows what to do there.
// The kernel is given memory by address, and programs are written in assembly; Rust has no safe form of either.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::os::fd::{AsFd, FromRawFd as _, IntoRawFd as _};
use std::ptr::null_mut;

use anyhow::{Context as _, Result, bail};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_PIC_MASTER, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as Route, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vmm_sys_util::eventfd::EventFd;

/// Where the device's registers lie in the machine.
pub(super) const REGISTERS: u64 = 0xd000_0000;

const MEMORY_BYTES: usize = 0x1_0000;
/// Where the programs lie, and the top of their stack.
const CODE: usize = 0x1000;
const STACK: u64 = 0x8000;
/// Where they count what their handlers see, and read how often they shall.
const COUNT: usize = 0x2000;
const TIMES: usize = 0x2004;

/// The vector that a message brings; and the first of the first interrupt controller, as the machine's program sets it.
const MESSAGE_VECTOR: u8 = 0x40;
const CONTROLLER_VECTOR: u8 = 0x20;
/// Numbers of interrupts as the kernel knows them: a message, and an input of the first interrupt controller.
const MESSAGE: u32 = 24;
const INPUT: u32 = 5;
/// Where a message goes: to the local APIC of processor 0.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
/// The local APIC's register that switches it on, in the page that it fills; that bit, and all vectors' bits.
const SPURIOUS: usize = 0xf0;
const APIC_ON: u32 = 0x1ff;

global_asm!(
    ".pushsection .rodata.machine, \"a\"",
    ".code16",
    "machine_programs:",
    // Stores to the device's first register, and once more for each message, until there were as many as asked for.
    "machine_messages:",
    "mov ebx, {registers}",
    "sti",
    "mov dword ptr [ebx], 1",
    "2: hlt",
    "jmp 2b",
    "machine_on_message:",
    "inc dword ptr [{count}]",
    "mov edi, {apic_end}",
    "mov dword ptr [edi], 0",
    "mov eax, dword ptr [{count}]",
    "cmp eax, dword ptr [{times}]",
    "je 9f",
    "mov dword ptr [ebx], 1",
    "iret",
    // Has edu raise its interrupt, acknowledges it there and at the controller, until there were as many as asked for.
    "machine_lines:",
    "mov ebx, {registers}",
    // The first controller: in cascade, vectors from 0x20, all but input 5 masked.
    "mov al, 0x11",
    "out 0x20, al",
    "mov al, 0x20",
    "out 0x21, al",
    "mov al, 0x04",
    "out 0x21, al",
    "mov al, 0x01",
    "out 0x21, al",
    "mov al, 0xdf",
    "out 0x21, al",
    // Its input 5 is a level.
    "mov dx, 0x4d0",
    "mov al, 0x20",
    "out dx, al",
    "sti",
    "mov dword ptr [ebx + 0x60], 1",
    "2: hlt",
    "jmp 2b",
    "machine_on_line:",
    "inc dword ptr [{count}]",
    "mov eax, dword ptr [ebx + 0x24]",
    "mov dword ptr [ebx + 0x64], eax",
    "mov al, 0x20",
    "out 0x20, al",
    "mov eax, dword ptr [{count}]",
    "cmp eax, dword ptr [{times}]",
    "je 9f",
    "mov dword ptr [ebx + 0x60], 1",
    "iret",
    "9: out 0xf4, al",
    "hlt",
    "machine_programs_end:",
    ".code64",
    ".popsection",
    registers = const REGISTERS,
    count = const COUNT,
    times = const TIMES,
    apic_end = const 0xfee0_00b0_u32,
);

unsafe extern "C" {
    static machine_programs: u8;
    static machine_messages: u8;
    static machine_on_message: u8;
    static machine_lines: u8;
    static machine_on_line: u8;
    static machine_programs_end: u8;
}

/// What a machine runs.
#[derive(Clone, Copy)]
pub(super) enum Program {
    /// One store to the device's first register, and one more for each message that comes
    Messages,
    /// edu's interrupt by its level: raised, acknowledged, raised again
    Lines,
}

/// Why the processor came back to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// A load from what is not memory; the answer is its bytes
    Load,
    /// A store to what is not memory
    Store,
    /// The program has ended
    End,
}

/// What stands for the device where the kernel does not.
pub(super) trait Registers {
    fn load(&mut self, offset: u64, data: &mut [u8]) -> Result<()>;
    fn store(&mut self, offset: u64, data: &[u8]) -> Result<()>;
}

pub(super) struct Machine {
    // In this order: the memory goes last.
    processor: VcpuFd,
    vm: VmFd,
    memory: Memory,
}

impl Machine {
    /// A machine that is about to run a program until it has seen `times` interrupts.
    pub(super) fn new(program: Program, times: u32) -> Result<Self> {
        let kvm = Kvm::new().context("opening /dev/kvm")?;
        let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
        vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
        let memory = Memory::new()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: memory.start as u64,
        };
        // SAFETY: the memory is there, and nobody else's, until after the machine is gone.
        unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
        let processor = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        let mut machine = Self {
            processor,
            vm,
            memory,
        };
        machine.load(program, times);
        machine.set_up(program).context("setting up the processor")?;
        machine.route().context("KVM_SET_GSI_ROUTING")?;
        Ok(machine)
    }

    /// Puts programs, their handlers and how often they shall run where they belong.
    fn load(&mut self, program: Program, times: u32) {
        let (start, end) = (&raw const machine_programs, &raw const machine_programs_end);
        // SAFETY: the assembly above defines both, the one before the other, with bytes in between.
        let code = unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) };
        self.memory.write(CODE, code);
        let (vector, handler) = match program {
            Program::Messages => (MESSAGE_VECTOR, &raw const machine_on_message),
            Program::Lines => (CONTROLLER_VECTOR + INPUT as u8, &raw const machine_on_line),
        };
        // Real mode's table: offset and segment, both 16 bits.
        self.memory
            .write(usize::from(vector) * 4, &(placed(handler) as u32).to_le_bytes());
        self.memory.write(TIMES, &times.to_le_bytes());
    }

    fn set_up(&self, program: Program) -> Result<()> {
        let mut system = self.processor.get_sregs()?;
        system.cs.base = 0;
        system.cs.selector = 0;
        for segment in [&mut system.ds, &mut system.es, &mut system.ss] {
            segment.base = 0;
            segment.selector = 0;
            segment.limit = u32::MAX;
            segment.g = 1;
        }
        self.processor.set_sregs(&system)?;
        let mut registers = self.processor.get_regs()?;
        registers.rip = placed(match program {
            Program::Messages => &raw const machine_messages,
            Program::Lines => &raw const machine_lines,
        });
        registers.rsp = STACK;
        registers.rflags = 2;
        self.processor.set_regs(&registers)?;
        let mut apic = self.processor.get_lapic()?;
        for (byte, value) in apic.regs[SPURIOUS..].iter_mut().zip(APIC_ON.to_le_bytes()) {
            *byte = value as _;
        }
        Ok(self.processor.set_lapic(&apic)?)
    }

    fn route(&self) -> Result<()> {
        let message = kvm_irq_routing_entry {
            gsi: MESSAGE,
            type_: KVM_IRQ_ROUTING_MSI,
            u: Route {
                msi: kvm_irq_routing_msi {
                    address_lo: MESSAGE_ADDRESS,
                    data: MESSAGE_VECTOR.into(),
                    ..Default::default()
                },
            },
            ..Default::default()
        };
        let input = kvm_irq_routing_entry {
            gsi: INPUT,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            u: Route {
                irqchip: kvm_irq_routing_irqchip {
                    irqchip: KVM_IRQCHIP_PIC_MASTER,
                    pin: INPUT,
                },
            },
            ..Default::default()
        };
        let Ok(routing) = KvmIrqRouting::from_entries(&[message, input]) else {
            bail!("too many routes");
        };
        Ok(self.vm.set_gsi_routing(&routing)?)
    }

    /// Has the kernel write an eventfd for each store at `offset` of the device's registers.
    pub(super) fn ioeventfd(&self, offset: u64, eventfd: impl AsFd) -> Result<()> {
        let address = IoEventAddress::Mmio(REGISTERS + offset);
        self.vm
            .register_ioevent(&another(eventfd)?, &address, NoDatamatch)
            .context("KVM_IOEVENTFD")
    }

    /// Has the kernel send the message when the eventfd is written.
    pub(super) fn irqfd(&self, trigger: impl AsFd) -> Result<()> {
        self.vm
            .register_irqfd(&another(trigger)?, MESSAGE)
            .context("KVM_IRQFD")
    }

    /// Has the kernel assert the input when `trigger` is written, and deassert it and write `resample` when the
    /// program ends the interrupt.
    pub(super) fn irqfd_with_resample(&self, trigger: impl AsFd, resample: impl AsFd) -> Result<()> {
        self.vm
            .register_irqfd_with_resample(&another(trigger)?, &another(resample)?, INPUT)
            .context("KVM_IRQFD with a resample eventfd")
    }

    /// Runs the program to its end; returns each time that the processor came back to us.
    pub(super) fn run(&mut self, device: &mut impl Registers) -> Result<Vec<Exit>> {
        let mut exits = Vec::new();
        loop {
            exits.push(match self.processor.run().context("KVM_RUN")? {
                VcpuExit::MmioRead(address, data) => {
                    device.load(address.wrapping_sub(REGISTERS), data)?;
                    Exit::Load
                }
                VcpuExit::MmioWrite(address, data) => {
                    device.store(address.wrapping_sub(REGISTERS), data)?;
                    Exit::Store
                }
                VcpuExit::IoOut(0xf4, _) => {
                    exits.push(Exit::End);
                    return Ok(exits);
                }
                other => bail!("the program ended in {other:?} after {} exits", exits.len()),
            });
        }
    }

    /// How many interrupts the program's handler has counted, in the machine's memory.
    pub(super) fn interrupts(&self) -> u32 {
        self.memory.read(COUNT)
    }
}

/// The same eventfd, as `kvm_ioctls` takes it.
fn another(eventfd: impl AsFd) -> Result<EventFd> {
    let fd = eventfd.as_fd().try_clone_to_owned()?;
    // SAFETY: the number is an open descriptor's that nobody else has.
    Ok(unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) })
}

/// Where a part of the programs lies in the machine.
fn placed(part: *const u8) -> u64 {
    (CODE + part as usize - &raw const machine_programs as usize) as u64
}

/// The machine's memory, which the processor changes, too.
struct Memory {
    start: *mut u8,
}

impl Memory {
    fn new() -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap_anonymous(null_mut(), MEMORY_BYTES, access, MapFlags::SHARED) };
        Ok(Self {
            start: start.context("mapping memory for the machine")?.cast(),
        })
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY_BYTES);
        let to = self.start.wrapping_add(at);
        // SAFETY: the range lies in the memory, by the line above; the processor does not run meanwhile.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn read(&self, at: usize) -> u32 {
        assert!(at + 4 <= MEMORY_BYTES && at.is_multiple_of(4));
        let from = self.start.wrapping_add(at).cast::<u32>();
        // SAFETY: the range lies in the memory, by the line above, and memory is aligned to a page.
        unsafe { from.read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by us, and nobody keeps an address.
        let _ = unsafe { munmap(self.start.cast(), MEMORY_BYTES) };
    }
}
