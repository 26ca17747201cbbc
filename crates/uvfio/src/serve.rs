//! `uvfio serve`: a device for one user at a time.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use uvfio_driver::Function;
use uvfio_driver::drivers::nvme;
use uvfio_linux::device::BarGrant;
use uvfio_linux::sysfs::Address;
use uvfio_worker::{
    BetweenUsers, DeviceSpec, Ended, Job, KINDS, Leases, LogError, Orders, SocketFile, Source,
    SupervisorError, Terms, say,
};

use crate::exit::Failure;
use crate::{BarsArg, ViewArg, inherited};

/// How long the user of a function has when the kernel wants it back.
pub(crate) const RELEASE_WITHIN: Duration = Duration::from_secs(30);

/// Serve a device to one user after another.
///
/// Several PCI functions of one IOMMU group have one address space between them, and go to one user: each has a socket, and
/// while a user has one of them, nobody of another uid gets another one.
///
/// SIGTERM ends it in order. SIGUSR1 takes the device away from its user: it then reads all ones, as after a surprise
/// removal, and the server ends when that user leaves.
///
/// It ends with status 3 where a PCI function of this machine is no longer its own: the kernel wanted it back, or it was
/// unplugged.
#[derive(Debug, clap::Args)]
#[command(after_help = devices_help())]
pub(crate) struct Args {
    /// The device: NAME[,OPTION[=VALUE]]..., or the address of a PCI function of this machine that vfio-pci has, such
    /// as 0000:01:00.0; or of several of one IOMMU group.
    #[arg(required = true)]
    device: Vec<String>,
    /// Listen on a UNIX socket at this path (mode 0600; a stale socket is replaced, anything else is not). For several
    /// functions once for each, in their order; or once a folder, in which each has a socket ADDRESS.sock.
    #[arg(
        long,
        alias = "socket-path",
        value_name = "PATH",
        required_unless_present = "fd",
        conflicts_with = "fd"
    )]
    socket: Vec<PathBuf>,
    /// Serve on this open descriptor: a listening UNIX socket, or one that is already connected to the only user.
    #[arg(long, value_name = "N")]
    fd: Option<u16>,
    /// What the user sees of the device. Over a function that exists `raw` lets it disturb others: only for users who are
    /// trusted; it takes root.
    #[arg(long, value_enum, default_value = "virtual")]
    view: ViewArg,
    /// What happens to a PCI function of this machine between two users, beyond its reset.
    #[arg(long, value_enum, default_value = "reset", value_name = "WHAT")]
    between_users: BetweenUsersArg,
    /// How the user of a PCI function of this machine reaches its BARs [default: trapped]
    #[arg(long, value_enum)]
    bars: Option<BarsArg>,
    /// How many seconds the user of a PCI function of this machine has to give it back when the kernel wants it (unbind,
    /// removal, unplug); then it is taken, and is gone for its user [default: 30]
    #[arg(long, value_name = "SECONDS")]
    release_within: Option<u32>,
    /// Serve a PCI function of this machine though nothing keeps it from raising any interrupt of the machine: where
    /// interrupt remapping is missing, and the kernel was told to do without (allow_unsafe_interrupts). Its users are
    /// then inside the trusted base.
    #[arg(long)]
    unsafe_interrupts: bool,
    /// What is logged to stderr: a level, or a filter such as `info,uvfio_proto=debug`. Refusals and users coming and
    /// going are the target `audit`. Of each kind of line 64 are logged at once, and then one a second; lines that
    /// nobody reads in time are dropped, and counted.
    #[arg(long, value_name = "LEVEL", default_value = "warn,audit=info")]
    log: String,
}

impl Args {
    /// Refuses what is for PCI functions of this machine only, where the device is none.
    fn check_fit(&self, spec: &DeviceSpec) -> Result<(), Failure> {
        if !spec.addresses().is_empty() {
            return Ok(());
        }
        let given = [
            (
                self.bars.is_some(),
                "--bars",
                "which of its BARs can be mapped is its own affair",
            ),
            (
                self.release_within.is_some(),
                "--release-within",
                "the kernel wants nothing of it",
            ),
            (
                self.unsafe_interrupts,
                "--unsafe-interrupts",
                "it raises no interrupt but its user's",
            ),
            (
                self.between_users != BetweenUsersArg::Reset,
                "--between-users",
                "it is as new for each user, but for its images",
            ),
        ];
        match given.into_iter().find(|(is_given, ..)| *is_given) {
            None => Ok(()),
            Some((_, option, why)) => Err(Failure::usage(format_args!(
                "{option} is for PCI functions of this machine, and {spec} is a device in software: {why}"
            ))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum BetweenUsersArg {
    /// Nothing more: what it stores is the next user's.
    Reset,
    /// What it stores is erased: NVMe controllers with Format NVM.
    Format,
    /// There is no second user.
    Never,
}

impl BetweenUsersArg {
    /// The policy, where this device can be served under it.
    fn policy(self, spec: &DeviceSpec) -> Result<BetweenUsers, Failure> {
        let policy = match self {
            Self::Reset => return Ok(BetweenUsers::Reset),
            Self::Format => BetweenUsers::Erase(erase),
            Self::Never => BetweenUsers::Never,
        };
        for &address in spec.addresses().iter().filter(|_| self == Self::Format) {
            let unfit =
                |why: String| Failure::usage(format_args!("--between-users format: {address}: {why}"));
            let function = Function::open_vfio(&address.to_string()).map_err(|why| unfit(why.to_string()))?;
            nvme::check_erasable(function).map_err(|why| unfit(why.to_string()))?;
        }
        Ok(policy)
    }
}

/// Erases what a function stores.
fn erase(address: Address) -> Result<(), String> {
    let function = Function::open_vfio(&address.to_string()).map_err(|error| error.to_string())?;
    nvme::erase(function).map_err(|error| error.to_string())?;
    Ok(())
}

pub(crate) fn devices_help() -> String {
    let mut text = String::from("Devices:\n");
    for kind in KINDS {
        text += &format!("  {:<6} {}\n        {}\n", kind.name, kind.summary, kind.usage);
    }
    text + "\nA comma in a value is written twice."
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let ansi = std::io::stderr().is_terminal();
    log_to_stderr(&args.log, ansi)?;

    let spec = spec(&args.device)?;
    args.check_fit(&spec)?;
    // Before anything is opened.
    let wanted = Wanted::of(args, &spec)?;
    let orders = Orders::new().map_err(Failure::running)?;
    orders.follow_signals().map_err(Failure::running)?;
    let job = Job {
        spec: &spec,
        terms: Terms {
            view: args.view.into(),
            unsafe_interrupts: args.unsafe_interrupts,
        },
        bars: args.bars.map(BarGrant::from).unwrap_or_default(),
        log: &args.log,
        ansi,
        between_users: args.between_users.policy(&spec)?,
        release_within: args
            .release_within
            .map_or(RELEASE_WITHIN, |seconds| Duration::from_secs(seconds.into())),
    };
    let Some(leases) = Leases::start(job, &orders).map_err(not_started)? else {
        return Ok(());
    };
    // Last, so that who finds the socket finds the device.
    let place = wanted.open()?;

    place.announce(&spec);
    let ended = match &place {
        Place::Files(files) => {
            let listeners: Vec<_> = files.iter().map(SocketFile::listener).collect();
            match &listeners[..] {
                [listener] => leases.run(Source::Listener(listener)),
                listeners => leases.run_group(listeners),
            }
        }
        Place::Listener(listener) => leases.run(Source::Listener(listener)),
        Place::Connected(stream) => {
            leases.run(Source::Connected(stream.try_clone().map_err(Failure::running)?))
        }
    };
    match ended.map_err(Failure::running)? {
        Ended::Stopped => say(format_args!("uvfio: {spec} has ended")),
        Ended::UserLeft => say(format_args!("uvfio: {spec} has ended: its user has left")),
        Ended::NoReset => say(format_args!(
            "uvfio: {spec} has ended: its user has left, and it can't be reset for another one; start it again if \
             the next user may have what the last one left in it"
        )),
        Ended::OneUser => say(format_args!(
            "uvfio: {spec} has ended: its user has left, and policy lets it have no other one (--between-users never)"
        )),
        Ended::Gone => say(format_args!(
            "uvfio: {spec} has ended: it was taken away, and its user has left"
        )),
        Ended::Wanted => {
            return Err(Failure::taken(format_args!(
                "{spec} has ended: the kernel wanted the function back, and nothing of it is open here any more; start it \
                 again when vfio-pci has the function again"
            )));
        }
        Ended::Unplugged => {
            return Err(Failure::taken(format_args!(
                "{spec} has ended: the function is unplugged, or does not answer; start it again when it is there again"
            )));
        }
    }
    Ok(())
}

/// Starts the log that `--log` asks for.
pub(crate) fn log_to_stderr(filter: &str, ansi: bool) -> Result<(), Failure> {
    uvfio_worker::log_to_stderr(filter, ansi).map_err(|error| match error {
        LogError::Filter { .. } => Failure::usage(format_args!("--log: {error}")),
        _ => Failure::running(error),
    })
}

fn not_started(error: SupervisorError) -> Failure {
    match error {
        SupervisorError::Build(_) | SupervisorError::Refused(_) => Failure::usage(error),
        _ => Failure::running(error),
    }
}

/// What the words on the command line stand for.
fn spec(words: &[String]) -> Result<DeviceSpec, Failure> {
    let specs: Result<Vec<DeviceSpec>, _> = words.iter().map(|word| word.parse()).collect();
    let mut specs = specs.map_err(Failure::usage)?;
    match specs.len() {
        1 => Ok(specs.remove(0)),
        _ => DeviceSpec::together(&specs).map_err(Failure::usage),
    }
}

/// Where users are to come from, as the command line has it.
enum Wanted {
    Files(Vec<PathBuf>),
    Descriptor(u16),
}

impl Wanted {
    /// A socket for each function.
    fn of(args: &Args, spec: &DeviceSpec) -> Result<Self, Failure> {
        let functions = spec.addresses();
        let count = functions.len().max(1);
        match (&args.socket[..], args.fd) {
            ([], Some(number)) if count == 1 => Ok(Self::Descriptor(number)),
            ([], _) => Err(Failure::usage(format_args!(
                "give --socket PATH for each of {spec}; a descriptor (--fd) is for one"
            ))),
            ([folder], _) if count > 1 && folder.is_dir() => Ok(Self::Files(
                functions
                    .iter()
                    .map(|address| folder.join(format!("{address}.sock")))
                    .collect(),
            )),
            (paths, _) if paths.len() == count => Ok(Self::Files(paths.to_vec())),
            (paths, _) => Err(Failure::usage(format_args!(
                "{} of --socket for {count} of {spec}: give one for each, or for several functions one folder that is \
                 there",
                paths.len()
            ))),
        }
    }

    fn open(&self) -> Result<Place, Failure> {
        match self {
            Self::Files(paths) => {
                let files: Result<Vec<_>, _> = paths.iter().map(|path| SocketFile::listen(path)).collect();
                files.map(Place::Files).map_err(Failure::usage)
            }
            Self::Descriptor(number) => Place::from_descriptor(*number),
        }
    }
}

/// Where users come from.
enum Place {
    /// One for each function.
    Files(Vec<SocketFile>),
    Listener(UnixListener),
    Connected(UnixStream),
}

impl Place {
    fn from_descriptor(number: u16) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::usage(format_args!("--fd {number} {why}"));
        let fd: OwnedFd = inherited::duplicate(number).map_err(|_| bad("is not an open descriptor"))?;
        let stream = sockopt::socket_domain(&fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
        if !stream {
            return Err(bad("is not a UNIX stream socket"));
        }
        if sockopt::socket_acceptconn(&fd).unwrap_or(false) {
            return Ok(Self::Listener(fd.into()));
        }
        if rustix::net::getpeername(&fd).is_err() {
            return Err(bad("is a socket that neither listens nor is connected"));
        }
        Ok(Self::Connected(fd.into()))
    }

    /// Says that the device can be attached to, and how.
    fn announce(&self, spec: &DeviceSpec) {
        match self {
            Self::Files(files) => {
                let mut functions = spec.addresses().iter();
                for file in files {
                    let name = functions
                        .next()
                        .map_or_else(|| spec.to_string(), ToString::to_string);
                    let device = serde_json::json!({
                        "driver": "vfio-user-pci",
                        "socket": { "type": "unix", "path": file.path() },
                    });
                    say(format_args!(
                        "uvfio: {name} listens on {}; attach with: qemu-system-x86_64 -m 1G \
                         -object memory-backend-memfd,id=m,size=1G,share=on -machine q35,memory-backend=m -device '{device}'",
                        file.path().display(),
                    ));
                }
            }
            Self::Listener(_) => say(format_args!("uvfio: {spec} listens on the socket it was given")),
            Self::Connected(_) => say(format_args!("uvfio: {spec} serves the user it was given")),
        }
    }
}
