//! From a blueprint to a layout: every structure the device declares at its place, with its values.

use crate::tables::{self, advanced, aer, express, header, msi, msix, other, power, vendor, vpd};
use crate::{
    Bar, BarSpan, Blueprint, BlueprintError, Capability, Extended, Field, Identity, Layout, ResetKind, View,
    Window, layout,
};

/// Byte offset of the first capability.
pub(crate) const FIRST_CAPABILITY: u16 = 0x40;
/// Byte offset of the first extended capability (PCI Express Base 5.0, 7.6).
pub(crate) const FIRST_EXTENDED: u16 = 0x100;

impl Layout {
    /// Lays out a software device's configuration space for one view.
    ///
    /// # Errors
    /// Where the blueprint breaks a rule of the specification; the error names it.
    pub fn compile(blueprint: &Blueprint<'_>, view: View) -> Result<Self, BlueprintError> {
        let express = blueprint
            .capabilities
            .iter()
            .any(|c| matches!(c, Capability::Express { .. }));
        let config_bytes = if express || !blueprint.extended.is_empty() {
            4096
        } else {
            256
        };
        let mut layout = Self::empty(view, config_bytes);
        layout.compile_header(&blueprint.identity)?;
        layout.compile_bars(&blueprint.bars, blueprint.rom_bytes)?;
        layout.compile_capabilities(blueprint.capabilities)?;
        layout.compile_extended(blueprint.extended)?;
        layout.check_msix()?;
        Ok(layout)
    }

    fn compile_header(&mut self, identity: &Identity) -> Result<(), BlueprintError> {
        if identity.interrupt_pin > 4 {
            return Err(BlueprintError::OutOfRange {
                what: "the interrupt pin (0 to 4)",
            });
        }
        self.place(0, 0, &header::HEADER, 1)?;
        let [base, sub, interface] = identity.class;
        for (field, value) in [
            (&header::VENDOR, u32::from(identity.vendor)),
            (&header::DEVICE, u32::from(identity.device)),
            (&header::REVISION, u32::from(identity.revision)),
            (&header::BASE_CLASS, u32::from(base)),
            (&header::SUBCLASS, u32::from(sub)),
            (&header::INTERFACE, u32::from(interface)),
            (&header::SUBSYSTEM_VENDOR, u32::from(identity.subsystem_vendor)),
            (&header::SUBSYSTEM, u32::from(identity.subsystem)),
            (&header::INTERRUPT_PIN, u32::from(identity.interrupt_pin)),
        ] {
            self.set(0, field, value);
        }
        Ok(())
    }

    fn compile_bars(&mut self, bars: &[Bar; 6], rom_bytes: u32) -> Result<(), BlueprintError> {
        self.bars = *bars;
        self.rom_bytes = rom_bytes;
        let mut upper_half = false;
        for (bar, offset) in (0_u8..).zip((header::BAR0..).step_by(4)).take(bars.len()) {
            let kind = self.bar(bar);
            if core::mem::take(&mut upper_half) {
                if kind != Bar::None {
                    return Err(BlueprintError::BarPair { bar: bar - 1 });
                }
                continue;
            }
            match kind {
                Bar::None => self.place(0, offset, &header::BAR_NONE, 1)?,
                Bar::Memory32 { bytes, prefetchable } => {
                    in_range(bar, u64::from(bytes), 16, 1 << 31)?;
                    self.place(0, offset, &header::BAR_MEMORY32, 1)?;
                    self.set(offset, &header::PREFETCHABLE, u32::from(prefetchable));
                    self.limit(offset, &header::MEMORY_BASE, !(bytes - 1));
                }
                Bar::Memory64 { bytes, prefetchable } => {
                    if bar == 5 {
                        return Err(BlueprintError::BarPair { bar });
                    }
                    in_range(bar, bytes, 16, 1 << 63)?;
                    let bits = !(bytes - 1);
                    self.place(0, offset, &header::BAR_MEMORY64, 1)?;
                    self.set(offset, &header::BAR_TYPE, 2);
                    self.set(offset, &header::PREFETCHABLE, u32::from(prefetchable));
                    self.limit(offset, &header::MEMORY_BASE, bits as u32);
                    self.place(0, offset + 4, &header::BAR_MEMORY64_HIGH, 1)?;
                    self.limit(offset + 4, &header::MEMORY_BASE_HIGH, (bits >> 32) as u32);
                    upper_half = true;
                }
                Bar::Io { bytes } => {
                    in_range(bar, u64::from(bytes), 4, 256)?;
                    self.place(0, offset, &header::BAR_IO, 1)?;
                    self.set(offset, &header::SPACE, 1);
                    self.limit(offset, &header::IO_BASE, !(bytes - 1));
                }
            }
        }
        if rom_bytes == 0 {
            self.place(0, header::ROM_BAR, &header::ROM_NONE, 1)?;
        } else {
            in_range(6, u64::from(rom_bytes), 2 << 10, 16 << 20)?;
            self.place(0, header::ROM_BAR, &header::ROM, 1)?;
            self.limit(header::ROM_BAR, &header::ROM_BASE, !(rom_bytes - 1));
        }
        let memory = rom_bytes != 0
            || bars
                .iter()
                .any(|bar| matches!(bar, Bar::Memory32 { .. } | Bar::Memory64 { .. }));
        if !memory {
            self.limit(0, &header::MEMORY, 0);
        }
        if !bars.iter().any(|bar| matches!(bar, Bar::Io { .. })) {
            self.limit(0, &header::IO, 0);
        }
        Ok(())
    }

    fn compile_capabilities(&mut self, capabilities: &[Capability<'_>]) -> Result<(), BlueprintError> {
        let mut at = FIRST_CAPABILITY;
        let mut pointer = (0, &header::CAPABILITIES);
        for (n, capability) in capabilities.iter().enumerate() {
            let (id, bytes) = self.compile_capability(at, capability)?;
            let earlier = capabilities.iter().take(n);
            if !matches!(capability, Capability::Vendor { .. })
                && earlier
                    .into_iter()
                    .any(|c| core::mem::discriminant(c) == core::mem::discriminant(capability))
            {
                return Err(BlueprintError::Twice { what: "a capability" });
            }
            let end = at.saturating_add(bytes);
            if end > FIRST_EXTENDED {
                return Err(BlueprintError::NoRoom);
            }
            self.set(at, &tables::CAPABILITY_ID, u32::from(id));
            self.set(0, &header::CAPABILITIES_LIST, 1);
            self.set(pointer.0, pointer.1, u32::from(at));
            pointer = (at, &tables::NEXT);
            at = end.next_multiple_of(4);
        }
        Ok(())
    }

    /// Places one capability; gives its ID and length.
    fn compile_capability(
        &mut self,
        at: u16,
        capability: &Capability<'_>,
    ) -> Result<(u8, u16), BlueprintError> {
        match *capability {
            Capability::PowerManagement { no_soft_reset } => {
                self.place(at, at, &power::POWER, 1)?;
                self.set(at, &power::VERSION, 3);
                self.set(at, &power::NO_SOFT_RESET, u32::from(no_soft_reset));
                self.structures.power = Some(at);
                Ok((power::ID, power::POWER.bytes()))
            }
            Capability::Vpd { writable } => {
                self.place(at, at, &vpd::VPD, 1)?;
                self.structures.vpd = Some(layout::Vpd { at, writable });
                Ok((vpd::ID, vpd::VPD.bytes()))
            }
            Capability::Msi {
                messages,
                wide,
                maskable,
            } => self.compile_msi(at, messages, wide, maskable),
            Capability::MsiX { vectors, table, pba } => {
                if !(1..=2048).contains(&vectors) {
                    return Err(BlueprintError::OutOfRange {
                        what: "the number of MSI-X vectors (1 to 2048)",
                    });
                }
                self.place(at, at, &msix::MSIX, 1)?;
                self.set(at, &msix::SIZE, u32::from(vectors) - 1);
                self.set(at, &msix::TABLE_BAR, u32::from(table.bar));
                self.set(at, &msix::TABLE_OFFSET, table.offset >> msix::TABLE_OFFSET.lsb);
                self.set(at, &msix::PBA_BAR, u32::from(pba.bar));
                self.set(at, &msix::PBA_OFFSET, pba.offset >> msix::PBA_OFFSET.lsb);
                self.structures.msix = Some(layout::Msix {
                    at,
                    vectors,
                    table,
                    pba,
                });
                Ok((msix::ID, msix::MSIX.bytes()))
            }
            Capability::Express { flr, integrated } => {
                self.compile_express(at, flr, integrated)?;
                Ok((express::ID, express::BYTES))
            }
            Capability::AdvancedFeatures => {
                self.place(at, at, &advanced::ADVANCED, 1)?;
                self.set(at, &advanced::LENGTH, u32::from(advanced::BYTES));
                self.set(at, &advanced::PENDING_CAPABLE, 1);
                self.set(at, &advanced::FLR_CAPABLE, 1);
                self.structures.advanced = Some(at);
                Ok((advanced::ID, u16::from(advanced::BYTES)))
            }
            Capability::Vendor { body, writable } => {
                self.place(at, at, &vendor::VENDOR, 1)?;
                let bytes = self.compile_body(at, vendor::VENDOR.bytes(), body, writable)?;
                self.set(at, &vendor::LENGTH, u32::from(bytes));
                Ok((vendor::ID, bytes))
            }
            Capability::Subsystem { vendor, device } => {
                self.place(at, at, &other::SUBSYSTEM, 1)?;
                self.set(at, &other::VENDOR, u32::from(vendor));
                self.set(at, &other::DEVICE, u32::from(device));
                Ok((other::SUBSYSTEM_ID, other::SUBSYSTEM.bytes()))
            }
        }
    }

    fn compile_msi(
        &mut self,
        at: u16,
        messages: u8,
        wide: bool,
        maskable: bool,
    ) -> Result<(u8, u16), BlueprintError> {
        if !messages.is_power_of_two() || messages > 32 {
            return Err(BlueprintError::OutOfRange {
                what: "the number of MSI messages (1, 2, 4, 8, 16 or 32)",
            });
        }
        let capable = messages.trailing_zeros();
        let mut end = at;
        let mut masks = None;
        for table in msi::parts(wide, maskable) {
            self.place(at, end, table, 1)?;
            if core::ptr::eq(table, &raw const msi::MASKS) {
                masks = Some(end);
                self.limit(end, &msi::MASK, u32::MAX >> (32 - u32::from(messages)));
            }
            end += table.bytes();
        }
        self.set(at, &msi::CAPABLE, capable);
        self.set(at, &msi::WIDE, u32::from(wide));
        self.set(at, &msi::MASKABLE, u32::from(maskable));
        self.structures.msi = Some(layout::Msi { at, capable, masks });
        Ok((msi::ID, end - at))
    }

    fn compile_express(&mut self, at: u16, flr: bool, integrated: bool) -> Result<(), BlueprintError> {
        self.place(at, at, &express::EXPRESS, 1)?;
        self.set(at, &express::VERSION, 2);
        self.set(at, &express::TYPE, if integrated { 9 } else { 0 });
        self.set(at, &express::EXTENDED_TAG, 1);
        self.set(at, &express::ROLE_BASED, 1);
        self.set(at, &express::FLR_CAPABLE, u32::from(flr));
        self.set(at, &express::RELAXED, 1);
        self.set(at, &express::NO_SNOOP, 1);
        self.set(at, &express::READ_REQUEST, 2);
        if !flr {
            self.drop_action(at, &express::INITIATE_FLR);
        }
        if !integrated {
            let link = at + express::LINK_AT;
            self.place(at, link, &express::LINK, 1)?;
            for field in [
                &express::MAX_SPEED,
                &express::MAX_WIDTH,
                &express::SPEED,
                &express::WIDTH,
            ] {
                self.set(link, field, 1);
            }
        }
        let second = at + express::SECOND_AT;
        self.place(at, second, &express::EXPRESS2, 1)?;
        self.set(second, &express::TIMEOUT_DISABLE_SUPPORTED, 1);
        if !integrated {
            let link = at + express::LINK2_AT;
            self.place(at, link, &express::LINK2, 1)?;
            self.set(link, &express::SPEEDS, 1);
            self.set(link, &express::TARGET_SPEED, 1);
        }
        self.structures.express = Some(at);
        Ok(())
    }

    fn compile_extended(&mut self, extended: &[Extended<'_>]) -> Result<(), BlueprintError> {
        let mut at = FIRST_EXTENDED;
        let mut before = None;
        for (n, capability) in extended.iter().enumerate() {
            let (id, version, bytes) = self.compile_extended_one(at, capability)?;
            let once = matches!(capability, Extended::Aer | Extended::SerialNumber(_));
            let twice = |c: &Extended<'_>| core::mem::discriminant(c) == core::mem::discriminant(capability);
            if once && extended.iter().take(n).any(twice) {
                return Err(BlueprintError::Twice {
                    what: "an extended capability",
                });
            }
            self.set(at, &tables::EXTENDED_ID, u32::from(id));
            self.set(at, &tables::EXTENDED_VERSION, version);
            if let Some(before) = before.replace(at) {
                self.set(before, &tables::EXTENDED_NEXT, u32::from(at));
            }
            at = at.saturating_add(bytes).next_multiple_of(4);
        }
        Ok(())
    }

    /// Places one extended capability; gives its ID, version and length.
    fn compile_extended_one(
        &mut self,
        at: u16,
        extended: &Extended<'_>,
    ) -> Result<(u16, u32, u16), BlueprintError> {
        match *extended {
            Extended::Aer => {
                self.place(at, at, &aer::AER, 1)?;
                for field in &aer::FATAL_AT_POWER_ON {
                    self.set(at, field, 1);
                }
                for field in [
                    &aer::ADVISORY_MASK,
                    &aer::CORRECTED_INTERNAL_MASK,
                    &aer::INTERNAL_MASK,
                ] {
                    self.set(at, field, 1);
                }
                self.structures.aer = Some(at);
                Ok((aer::ID, 2, aer::BYTES))
            }
            Extended::SerialNumber(number) => {
                self.place(at, at, &other::SERIAL, 1)?;
                self.set(at, &other::SERIAL_LOW, number as u32);
                self.set(at, &other::SERIAL_HIGH, (number >> 32) as u32);
                Ok((other::SERIAL_ID, 1, other::SERIAL.bytes()))
            }
            Extended::Vendor {
                id,
                revision,
                body,
                writable,
            } => {
                self.place(at, at, &vendor::VSEC, 1)?;
                let bytes = self.compile_body(at, vendor::VSEC.bytes(), body, writable)?;
                self.set(at, &vendor::VSEC_KIND, u32::from(id));
                self.set(at, &vendor::VSEC_REVISION, u32::from(revision));
                self.set(at, &vendor::VSEC_LENGTH, u32::from(bytes));
                Ok((vendor::VSEC_ID, 1, bytes))
            }
            Extended::Designated {
                vendor,
                revision,
                id,
                body,
                writable,
            } => {
                self.place(at, at, &vendor::DVSEC, 1)?;
                let bytes = self.compile_body(at, vendor::DVSEC.bytes(), body, writable)?;
                self.set(at, &vendor::DVSEC_VENDOR, u32::from(vendor));
                self.set(at, &vendor::DVSEC_REVISION, u32::from(revision));
                self.set(at, &vendor::DVSEC_LENGTH, u32::from(bytes));
                self.set(at, &vendor::DVSEC_KIND, u32::from(id));
                Ok((vendor::DVSEC_ID, 1, bytes))
            }
        }
    }

    /// Places a vendor's body after `header` bytes; gives the structure's length.
    fn compile_body(
        &mut self,
        at: u16,
        header: u16,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, BlueprintError> {
        let bytes = u16::try_from(body.len()).map_err(|_| BlueprintError::NoRoom)?;
        if body.len() != writable.len() {
            return Err(BlueprintError::OutOfRange {
                what: "the length of a vendor body's writable bits",
            });
        }
        let start = at.saturating_add(header);
        if bytes > 0 {
            self.place(at, start, &vendor::BODY, bytes)?;
        }
        for (offset, (value, bits)) in (start..).zip(body.iter().zip(writable)) {
            self.set(offset, &vendor::BYTE, u32::from(*value));
            self.limit(offset, &vendor::BYTE, u32::from(*bits));
        }
        Ok(header.saturating_add(bytes))
    }

    /// A field's action is not offered by this function.
    pub(crate) fn drop_action(&mut self, at: u16, field: &Field) {
        let place = field.place(at);
        self.words[usize::from(place.word) % layout::WORDS].actions &= !(1 << field.action as u16);
    }

    fn check_msix(&self) -> Result<(), BlueprintError> {
        let Some(msix) = self.structures.msix else {
            return Ok(());
        };
        let table = self.span(msix.table, self.window_bytes(Window::MsixTable))?;
        let pba = self.span(msix.pba, self.window_bytes(Window::MsixPba))?;
        let apart = msix.table.bar != msix.pba.bar || table.1 <= pba.0 || pba.1 <= table.0;
        apart.then_some(()).ok_or(BlueprintError::MsixSpan)
    }

    /// First and past-the-last byte of `bytes` at `span`, which must lie within a memory BAR.
    fn span(&self, span: BarSpan, bytes: u32) -> Result<(u64, u64), BlueprintError> {
        let have = match self.bar(span.bar) {
            Bar::Memory32 { bytes, .. } => u64::from(bytes),
            Bar::Memory64 { bytes, .. } => bytes,
            Bar::None | Bar::Io { .. } => 0,
        };
        let start = u64::from(span.offset);
        let end = start + u64::from(bytes);
        if !span.offset.is_multiple_of(8) || end > have {
            return Err(BlueprintError::MsixSpan);
        }
        Ok((start, end))
    }
}

impl ResetKind {
    /// Its place in [`layout::Word::keep`].
    pub(crate) const fn column(self) -> usize {
        match self {
            Self::FunctionLevel => 0,
            Self::Conventional => 1,
            Self::D3hot => 2,
        }
    }
}

fn in_range(bar: u8, bytes: u64, least: u64, most: u64) -> Result<(), BlueprintError> {
    if bytes.is_power_of_two() && (least..=most).contains(&bytes) {
        Ok(())
    } else {
        Err(BlueprintError::BarSize { bar })
    }
}
