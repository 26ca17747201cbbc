//! Another user, after those before: nothing of them is left.

use std::os::unix::fs::FileExt;

use uvfio_core::{Device, region_index::CONFIG};
use uvfio_pci::{Layout, State, View, Window};
use uvfio_soft::edu::{BUFFER_AT, BUFFER_BYTES, COMMAND_FROM_DEVICE, Reg};

use super::{dma::transfer, register};
use crate::demo::function::{COMMAND_BUS_MASTER, COMMAND_MEMORY, command};
use crate::demo::link::Refused;
use crate::demo::page::Section;
use crate::demo::user::{MEMORY_BYTES, MEMORY_IOVA, User};

pub(in crate::demo) fn next_user(
    user: &mut User,
    edu: &dyn Device,
    page: &mut Section,
) -> Result<(), Refused> {
    let layout =
        Layout::compile(&edu.blueprint(), View::Virtual).map_err(|e| Refused::absent(e.to_string()))?;
    let state = State::new(&layout);
    let fresh: Vec<u8> = (0..layout.config_bytes() / 4)
        .flat_map(|dword| uvfio_pci::read(&layout, &state, Window::Config, dword).to_le_bytes())
        .collect();
    let mut found = vec![0; fresh.len()];
    user.link.read(CONFIG, 0, &mut found)?;
    let differ = fresh.iter().zip(&found).filter(|(a, b)| a != b).count();

    // The mappings of those before are gone with them.
    user.link.map(&user.memory, MEMORY_IOVA, MEMORY_BYTES)?;
    command(&mut user.link, COMMAND_MEMORY | COMMAND_BUS_MASTER, true)?;
    let liveness = register(&mut user.link, Reg::Liveness)?;
    transfer(user, BUFFER_AT, MEMORY_IOVA, COMMAND_FROM_DEVICE)?;
    let mut buffer = vec![0xff; BUFFER_BYTES];
    user.memory
        .read_exact_at(&mut buffer, 0)
        .map_err(|e| Refused::absent(e.to_string()))?;
    let left = buffer.iter().filter(|byte| **byte != 0).count();
    page.check(
        "the next user of edu finds",
        format!(
            "{differ} of {} bytes of configuration space not as at power-on, {left} of {BUFFER_BYTES} in its buffer set, \
             and register value {liveness:#x}",
            fresh.len()
        ),
        differ == 0 && left == 0 && liveness == 0,
        "nothing of those before",
    )
    .number("differ_bytes", differ)
    .number("left_bytes", left)
    .number("register", liveness);
    Ok(())
}
