//! Identify (section 5.15).

use std::sync::atomic::Ordering;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::doorbell_page::DoorbellPage;
use crate::errors;
use crate::events;
use crate::features::{CRITICAL_TEMPERATURE, WARNING_TEMPERATURE};
use crate::identity::{self, Identifiers, padded, uuid_text};
use crate::io::MDTS;
use crate::prp::Failure;
use crate::spec::command::NSID_ALL;
use crate::spec::identify as id;
use crate::spec::registers::{CQ_ENTRY_SIZE, SQ_ENTRY_SIZE, VERSION_1_4};
use crate::spec::status::Status;

use super::Admin;

/// Abort commands that may be outstanding, 0's based.
const ACL: u8 = 3;
/// Maximum power in centiwatts, of a controller that takes none.
const POWER: u16 = 1;

impl Admin<'_> {
    /// Identify.
    pub(super) fn identify(&self) -> Result<(), Failure> {
        let nsid = self.sqe().nsid.get();
        match self.sqe().cdw10() as u8 {
            id::CNS_NAMESPACE => self.send(self.identify_namespace(nsid)?.as_bytes()),
            id::CNS_CONTROLLER => self.send(self.identify_controller()?.as_bytes()),
            id::CNS_ACTIVE_NAMESPACES => self.send(&self.active_namespaces(nsid)?),
            id::CNS_NAMESPACE_DESCRIPTORS => {
                let data = namespace_descriptors(self.shared.namespace(nsid)?.identifiers);
                self.send(&data)
            }
            _ => Err(Status::INVALID_FIELD.into()),
        }
    }

    fn identify_controller(&self) -> Result<id::IdentifyController, Failure> {
        let mut data = id::IdentifyController::new_zeroed();
        data.vid = U16::new(identity::VENDOR);
        data.ssvid = U16::new(identity::VENDOR);
        data.serial = padded(&self.shared.serial);
        data.model = padded(identity::MODEL);
        data.firmware = padded(identity::FIRMWARE);
        data.mdts = MDTS;
        data.ver = U32::new(VERSION_1_4);
        data.cntrltype = id::CNTRLTYPE_IO;
        // Polling a page that is reached by message would cost more than doorbells do, and doorbells that are memory
        // need no shadow.
        let direct = self
            .shared
            .session
            .enter(self.fetched.ticket)?
            .host()?
            .dma()
            .mostly_direct();
        let mapped = self.shared.page.as_ref().is_some_and(DoorbellPage::exists);
        let offered = direct && !mapped;
        self.shared.shadow_offered.store(offered, Ordering::SeqCst);
        data.oacs = U16::new(if offered { id::OACS_DOORBELL_BUFFER } else { 0 });
        data.acl = ACL;
        data.aerl = (events::REQUESTS - 1) as u8;
        data.frmw = id::FRMW_ONE_READ_ONLY_SLOT;
        data.lpa = id::LPA_EFFECTS_AND_OFFSET;
        data.elpe = (errors::ENTRIES - 1) as u8;
        data.wctemp = U16::new(WARNING_TEMPERATURE);
        data.cctemp = U16::new(CRITICAL_TEMPERATURE);
        data.sqes = (SQ_ENTRY_SIZE << 4 | SQ_ENTRY_SIZE) as u8;
        data.cqes = (CQ_ENTRY_SIZE << 4 | CQ_ENTRY_SIZE) as u8;
        data.nn = U32::new(self.shared.namespaces.len() as u32);
        data.oncs = U16::new(id::ONCS);
        data.vwc = id::VWC_FLUSH_ALL;
        let uuid = uuid_text(Identifiers::new(&self.shared.serial, 0).uuid);
        let name = format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}");
        for (to, from) in data.subnqn.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        data.psd0_mp = U16::new(POWER);
        Ok(data)
    }

    fn identify_namespace(&self, nsid: u32) -> Result<id::IdentifyNamespace, Status> {
        let namespace = self.shared.namespace(nsid)?;
        let mut data = id::IdentifyNamespace::new_zeroed();
        data.nsze = U64::new(namespace.blocks);
        data.ncap = U64::new(namespace.blocks);
        data.nuse = U64::new(namespace.blocks);
        data.dlfeat = id::DLFEAT_ZEROES;
        data.nsattr = if namespace.read_only {
            id::NSATTR_WRITE_PROTECTED
        } else {
            0
        };
        data.nguid = namespace.identifiers.nguid;
        data.eui64 = namespace.identifiers.eui64;
        data.lbaf0.lbads = namespace.block_shift;
        Ok(data)
    }

    /// Namespaces above `nsid`, in order; all of them are active.
    fn active_namespaces(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        // FFFFFFFEh and FFFFFFFFh are refused (5.15.2.3).
        if nsid >= NSID_ALL - 1 {
            return Err(Status::INVALID_NAMESPACE);
        }
        let last = self.shared.namespaces.len() as u32;
        let list = (nsid + 1..=last).take(id::NAMESPACE_LIST_ENTRIES);
        let mut data: Vec<u8> = list.flat_map(u32::to_le_bytes).collect();
        data.resize(id::IDENTIFY_BYTES, 0);
        Ok(data)
    }
}

fn namespace_descriptors(identifiers: Identifiers) -> Vec<u8> {
    let descriptors: [(u8, &[u8]); 3] = [
        (id::NIDT_EUI64, &identifiers.eui64),
        (id::NIDT_NGUID, &identifiers.nguid),
        (id::NIDT_UUID, &identifiers.uuid),
    ];
    let mut data = Vec::with_capacity(id::IDENTIFY_BYTES);
    for (kind, value) in descriptors {
        data.extend([kind, value.len() as u8, 0, 0]);
        data.extend(value);
    }
    data.resize(id::IDENTIFY_BYTES, 0);
    data
}
