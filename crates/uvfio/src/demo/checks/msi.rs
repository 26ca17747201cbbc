//! Eight messages, each to an eventfd of its own.

use uvfio_core::{Device, IrqIndex};
use uvfio_soft::edu::{MESSAGES, Reg};

use super::{register, set_register, until};
use crate::demo::function::{
    CAP_MSI, MSI_CAPABLE_SHIFT, MSI_ENABLE, MSI_GRANTED_SHIFT, capability, config_u16,
};
use crate::demo::link::{Counters, Refused};
use crate::demo::page::Section;
use crate::demo::user::User;

pub(in crate::demo) fn msi(user: &mut User, _edu: &dyn Device, page: &mut Section) -> Result<(), Refused> {
    let link = &mut user.link;
    let at = capability(link, CAP_MSI)?;
    let capable = 1 << ((config_u16(link, at + 2)? >> MSI_CAPABLE_SHIFT) & 7);
    let count = link.irq_count(IrqIndex::Msi)?;
    let counters = Counters::new(count)?;
    link.enable(IrqIndex::Msi, &counters)?;
    let control = config_u16(link, at + 2)?;
    let granted = 1 << ((control >> MSI_GRANTED_SHIFT) & 7);
    let on = control & MSI_ENABLE != 0;
    let all = u32::from(MESSAGES);
    page.check(
        "MSI messages declared, asked for, had",
        format!(
            "{capable}, {count}, {granted}; the register says {}",
            if on { "enabled" } else { "disabled" }
        ),
        [capable, count, granted] == [all; 3] && on,
        format!("{all}, {all}, {all}; enabled"),
    )
    .number("declared", capable)
    .number("requested", count)
    .number("granted", granted);

    let mut arrived = vec![0; count as usize];
    for message in 0..count {
        set_register(link, Reg::InterruptRaise, 1 << message)?;
        until(|| {
            counters.add_to(&mut arrived);
            Ok(arrived.get(message as usize).is_some_and(|n| *n > 0))
        })?;
    }
    counters.add_to(&mut arrived);
    let raised = register(link, Reg::InterruptStatus)?;
    set_register(link, Reg::InterruptAcknowledge, u64::from(raised))?;
    let after = register(link, Reg::InterruptStatus)?;
    let seen: Vec<String> = arrived.iter().map(ToString::to_string).collect();
    page.check(
        "each raised once; arrived",
        format!("{}; status {raised:#x}, acknowledged {after:#x}", seen.join(" ")),
        arrived.iter().all(|n| *n == 1) && raised == 0xff && after == 0,
        "1 each; status 0xff, acknowledged 0x0",
    )
    .number("arrived", arrived)
    .number("status", raised)
    .number("status_acknowledged", after);
    user.messages = Some(counters);
    Ok(())
}
