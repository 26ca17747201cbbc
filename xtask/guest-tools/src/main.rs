//! What scenarios run inside a virtual machine: users of the kernel's VFIO and of our own server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod abuse;
mod edu;
mod events;
mod face;
mod ioat;
mod kvm;
mod mapped;
mod nvme;
mod qtest;
mod report;
mod served;
mod siblings;
mod vfio;

use report::Report;

#[derive(Debug, Parser)]
#[command(about = "Checks a device from inside a virtual machine")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// An edu device that vfio-pci owns
    Edu {
        /// PCI address, such as 0000:00:03.0
        address: String,
        /// How many MSI messages it must offer
        #[arg(long, default_value_t = 1)]
        messages: u32,
    },
    /// Intel's DMA engine that vfio-pci owns
    Ioat {
        /// PCI address, such as 0000:00:03.0
        address: String,
        /// How many channels it must have
        #[arg(long)]
        channels: u8,
        /// Chains on each of them
        #[arg(long)]
        rounds: u32,
    },
    /// Accesses a device that vfio-pci owns at random
    Abuse {
        /// PCI address, such as 0000:00:03.0
        address: String,
        #[arg(long)]
        accesses: u32,
        /// What the accesses are drawn from
        #[arg(long)]
        seed: u64,
    },
    /// Says whether the kernel would give a function's IOMMU group to a user
    Viability {
        /// PCI address, such as 0000:00:03.0
        address: String,
    },
    /// Holds a function by its descriptor alone, until it is killed
    Hold {
        /// PCI address, such as 0000:00:03.0
        address: String,
    },
    /// Writes numbered blocks to an NVMe that a vfio-user server serves, flushing each
    NvmeWrite {
        /// The server's socket
        socket: PathBuf,
        #[arg(long)]
        records: u64,
    },
    /// Keeps an edu that a vfio-user server serves busy with DMA, until it is killed
    KeepBusy {
        /// The server's socket
        socket: PathBuf,
        /// Has it interrupt its user after each transfer, and counts
        #[arg(long)]
        interrupts: bool,
    },
    /// Uses an edu that a vfio-user server serves, and looks for what its former user had
    NextUser {
        /// The server's socket
        socket: PathBuf,
    },
    /// Has an edu that a process serves by vfio-user interrupt its user, and looks for what that costs the process
    Interrupts {
        /// The server's socket
        socket: PathBuf,
        /// The server's process, of which the one that serves is a child
        server: u32,
    },
    /// Resets an edu that is served, and that takes longer for it than its user waits
    SlowReset {
        /// The server's socket
        socket: PathBuf,
    },
    /// Uses a function that is served, and notes what it is told; until it is killed
    Listen {
        /// The server's socket
        socket: PathBuf,
        /// Leaves when it is asked for the function
        #[arg(long)]
        obliging: bool,
        /// Resets the function when it has reported an error
        #[arg(long)]
        resets: bool,
        /// The BAR that it looks at
        #[arg(long, default_value_t = 0)]
        bar: u32,
    },
    /// Prints what a user finds in a function's header
    Face {
        /// A server's socket, from the root on, or the PCI address of a function that vfio-pci has
        target: String,
    },
    /// Raises each MSI message of an edu that is served
    Messages {
        /// The server's socket
        socket: PathBuf,
        /// How many it must offer
        count: u32,
    },
    /// Sets more and more MSI messages of an edu that is served, while it raises those that are set
    Growing {
        /// The server's socket
        socket: PathBuf,
        /// How many it offers
        count: u32,
    },
    /// Two users of two edus that are served try each other's memory
    Neighbours {
        /// The one's socket
        first: PathBuf,
        /// The other's socket
        second: PathBuf,
    },
    /// One user of two edus of one IOMMU group that are served has each look for what the other's socket has mapped; then
    /// keeps both busy, until it is killed
    Siblings {
        /// The one's socket
        first: PathBuf,
        /// The other's socket
        second: PathBuf,
    },
    /// Has a function that is served, until it is killed
    Stay {
        /// The server's socket
        socket: PathBuf,
    },
    /// Keeps hold of the VFIO device that a process has, until it is killed
    HoldOf {
        /// The process
        pid: u32,
    },
    /// Maps the registers of an NVMe that a vfio-user server serves, and keeps them until it is killed
    KeepMapped {
        /// The server's socket
        socket: PathBuf,
        /// Disconnects once they are mapped
        #[arg(long)]
        leave: bool,
    },
    /// Runs a machine of KVM's with a device of one doorbell that a vfio-user server serves
    KvmDoorbell {
        /// The server's socket
        socket: PathBuf,
    },
    /// Runs a machine of KVM's with an edu that a vfio-user server serves, by its level interrupt
    KvmLevel {
        /// The server's socket
        socket: PathBuf,
    },
    /// Identifies an NVMe that is served to a QEMU, which this program drives in its processor's place
    QtestIdentify {
        /// Where that QEMU listens (`-qtest`)
        socket: PathBuf,
        /// The controller's slot on the machine's first bus
        #[arg(long)]
        slot: u8,
        /// What it must say is its serial number
        #[arg(long)]
        serial: String,
    },
    /// Finds numbered blocks in an image
    NvmeFind {
        image: PathBuf,
        #[arg(long)]
        records: u64,
    },
}

fn main() -> ExitCode {
    let mut report = Report::new(Box::new(std::io::stdout()));
    let result = match Cli::parse().task {
        Task::Edu { address, messages } => edu::run(&address, messages, &mut report),
        Task::Ioat {
            address,
            channels,
            rounds,
        } => ioat::run(&address, channels, rounds, &mut report),
        Task::Abuse {
            address,
            accesses,
            seed,
        } => abuse::run(&address, accesses, seed, &mut report),
        Task::Viability { address } => vfio::is_viable(&address)
            .map(|viable| println!("{}", if viable { "viable" } else { "not viable" })),
        Task::Hold { address } => vfio::Device::open(&address).map(|device| {
            let _held = device.into_descriptor();
            loop {
                std::thread::park();
            }
        }),
        Task::NvmeWrite { socket, records } => nvme::write_records(&socket, records, &mut report),
        Task::KeepBusy { socket, interrupts } => served::keep_busy(&socket, interrupts, &mut report),
        Task::NextUser { socket } => served::next_user(&socket, &mut report),
        Task::Interrupts { socket, server } => served::interrupts(&socket, server, &mut report),
        Task::SlowReset { socket } => served::slow_reset(&socket, &mut report),
        Task::Listen {
            socket,
            obliging,
            resets,
            bar,
        } => events::listen(&socket, bar, [obliging, resets], &mut report),
        Task::Face { target } => face::of(&target).map(|line| println!("{line}")),
        Task::Messages { socket, count } => served::messages(&socket, count, &mut report),
        Task::Growing { socket, count } => served::growing(&socket, count, &mut report),
        Task::Neighbours { first, second } => served::neighbours([&first, &second], &mut report),
        Task::Siblings { first, second } => siblings::try_them([&first, &second], &mut report),
        Task::Stay { socket } => siblings::stay(&socket, &mut report),
        Task::HoldOf { pid } => served::hold(pid, &mut report),
        Task::KeepMapped { socket, leave } => mapped::keep(&socket, leave, &mut report),
        Task::KvmDoorbell { socket } => kvm::doorbell(&socket, &mut report),
        Task::KvmLevel { socket } => kvm::level(&socket, &mut report),
        Task::QtestIdentify { socket, slot, serial } => qtest::identify(&socket, slot, &serial, &mut report),
        Task::NvmeFind { image, records } => nvme::find_records(&image, records, &mut report),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let _ = report.fail(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
