//! A physical function and a virtual one of it, whose users must share a token.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use uvfio_linux::vfio::{Container, DeviceFile, Group, Rule, VfioError};

use crate::owned::{Function, eventually};
use crate::report::Report;

const TOKEN: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x11\x22\x33\x44\x55\x66\x77";

/// Opens the physical function, makes a virtual one, and opens that with and without the token.
pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    fs::write("/sys/module/vfio_pci/parameters/enable_sriov", "1")?;
    let physical = Function::new(address);
    let one = place(&physical)?;
    let held = one.1.device_with_token(address, TOKEN)?;
    report.ok("the physical function opens with a token, which is then its own")?;

    let count = physical.path("sriov_numvfs");
    fs::write(&count, "1").context("making a virtual function")?;
    let result = virtual_function(&physical, report);
    // Also after a failure: the function is checked in other ways later.
    fs::write(&count, "0").context("removing the virtual function")?;
    drop((held, one));
    result
}

fn virtual_function(physical: &Function, report: &mut Report) -> Result<()> {
    let link = fs::read_link(physical.path("virtfn0"))?;
    let address = link
        .file_name()
        .context("a virtual function")?
        .to_string_lossy()
        .into_owned();
    let function = Function::new(&address);
    eventually("binding the virtual function", || {
        function.path("driver").exists()
    })?;
    let (_container, group) = place(&function)?;
    let mut other = TOKEN;
    other[15] ^= 1;
    let rule = |rule: &Rule| *rule == Rule::Token;
    let refused = (Errno::ACCESS, &rule as &dyn Fn(&Rule) -> bool);
    report.refused(
        "a virtual function without a token",
        group.device(&address),
        refused,
        &["token"],
    )?;
    let wrong = group.device_with_token(&address, other);
    report.refused(
        "a virtual function with another token",
        wrong,
        refused,
        &["token"],
    )?;
    let right: Result<DeviceFile, VfioError> = group.device_with_token(&address, TOKEN);
    report.same("with the token it opens", &true, &right?.info()?.pci)
}

/// A function's group, in a container of its own.
fn place(function: &Function) -> Result<(Container, Group)> {
    let container = Container::open()?;
    let group = Group::open(function.group()?)?;
    group.set_container(&container)?;
    container.set_iommu()?;
    Ok((container, group))
}
