//! pciutils' lspci reads our configuration pages: an oracle that shares nothing with the tables.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;

use common::{Device, EDU, EVERYTHING, NVME, PLAIN};
use uvfio_pci::{Input, Interrupt};

/// What `lspci -n -vvv` says of a page, line by line without indentation.
fn lspci(page: &[u8]) -> Vec<String> {
    let mut dump = String::from("00:01.0 a function\n");
    for (n, row) in page.chunks(16).enumerate() {
        write!(dump, "{:02x}:", n * 16).expect("memory");
        for byte in row {
            write!(dump, " {byte:02x}").expect("memory");
        }
        dump.push('\n');
    }
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(dump.as_bytes()).expect("a temporary file");
    let output = Command::new("lspci")
        .args(["-n", "-vvv", "-F"])
        .arg(file.path())
        .output()
        .unwrap_or_else(|error| {
            panic!("this test needs lspci, which did not start ({error}): apt-get install pciutils")
        });
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "lspci fails: {complaints}");
    // It also looks for kernel modules, which are not there everywhere.
    let ours = complaints.lines().find(|line| !line.contains("libkmod"));
    assert_eq!(ours, None, "lspci complains");
    let text = String::from_utf8(output.stdout).expect("lspci writes text");
    text.lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// Each of `wanted` is a line of what lspci says (or, ending in `..`, how one begins), in this order.
fn says(device: &Device, wanted: &[&str]) {
    let said = lspci(&device.page());
    let mut rest = said.iter();
    for line in wanted {
        let found = match line.strip_suffix("..") {
            Some(start) => rest.any(|said| said.starts_with(start)),
            None => rest.any(|said| said == line),
        };
        assert!(
            found,
            "lspci does not say (there, or at all)\n  {line}\nbut\n  {}",
            said.join("\n  ")
        );
    }
}

#[test]
fn lspci_decodes_a_conventional_function() {
    let mut device = Device::new(&EDU);
    says(
        &device,
        &[
            "00:01.0 00ff: 1234:11e8 (rev 10)..",
            "Subsystem: 1af4:1100",
            "Control: I/O- Mem- BusMaster- SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- FastB2B- DisINTx-",
            "Status: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-",
            "Interrupt: pin A routed to IRQ 0",
            "Capabilities: [40] MSI: Enable- Count=1/1 Maskable- 64bit+",
            "Address: 0000000000000000  Data: 0000",
        ],
    );
    device.w32(0x10, 0xfeb0_0000);
    device.w16(0x04, 0x0506);
    device.w8(0x3c, 11);
    device.w32(0x44, 0xfee0_1004);
    device.w32(0x48, 0x0000_0001);
    device.w16(0x4c, 0x4022);
    device.w16(0x42, 1);
    device.input(Input::IntxLevel { asserted: true });
    says(
        &device,
        &[
            "Control: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR+ FastB2B- DisINTx+",
            "Status: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx+",
            "Interrupt: pin A routed to IRQ 11",
            "Region 0: Memory at feb00000 (32-bit, non-prefetchable)",
            "Capabilities: [40] MSI: Enable+ Count=1/1 Maskable- 64bit+",
            "Address: 00000001fee01004  Data: 4022",
        ],
    );
}

#[test]
fn lspci_decodes_an_nvme_controller() {
    let mut device = Device::new(&NVME);
    device.w32(0x14, 0x0000_0001);
    device.w32(0x10, 0xe000_0000);
    device.w16(0x04, 0x0006);
    device.input(Input::Enable {
        kind: Interrupt::MsiX,
        vectors: 33,
    });
    says(
        &device,
        &[
            "00:01.0 0108: 1b36:0010 (rev 02) (prog-if 02 [NVM Express])",
            "Region 0: Memory at 1e0000000 (64-bit, non-prefetchable)",
            "Capabilities: [40] Power Management version 3",
            "Flags: PMEClk- DSI- D1- D2- AuxCurrent=0mA PME(D0-,D1-,D2-,D3hot-,D3cold-)",
            "Status: D0 NoSoftRst+ PME-Enable- DSel=0 DScale=0 PME-",
            "Capabilities: [48] MSI-X: Enable+ Count=33 Masked-",
            "Vector table: BAR=0 offset=00002000",
            "PBA: BAR=0 offset=00003000",
            "Capabilities: [54] Express (v2) Endpoint..",
            "DevCap:	MaxPayload 128 bytes, PhantFunc 0..",
            "ExtTag+ AttnBtn- AttnInd- PwrInd- RBE+ FLReset+..",
            "DevCtl:	CorrErr- NonFatalErr- FatalErr- UnsupReq-",
            "RlxdOrd+ ExtTag- PhantFunc- AuxPwr- NoSnoop+ FLReset-",
            "MaxPayload 128 bytes, MaxReadReq 512 bytes",
            "DevSta:	CorrErr- NonFatalErr- FatalErr- UnsupReq- AuxPwr- TransPend-",
            "LnkCap:	Port #0, Speed 2.5GT/s, Width x1..",
            "LnkSta:	Speed 2.5GT/s, Width x1..",
            "DevCap2: Completion Timeout: Not Supported, TimeoutDis+..",
            "Capabilities: [100 v2] Advanced Error Reporting",
            "UESta:	DLP- SDES- TLP- FCP- CmpltTO- CmpltAbrt- UnxCmplt- RxOF- MalfTLP-..",
            "UESvrt:	DLP+ SDES+ TLP- FCP+ CmpltTO- CmpltAbrt- UnxCmplt- RxOF+ MalfTLP+..",
            "CEMsk:	RxErr- BadTLP- BadDLLP- Rollover- Timeout- AdvNonFatalErr+..",
            "Capabilities: [12c v1] Device Serial Number 01-23-45-67-89-ab-cd-ef",
        ],
    );
}

#[test]
fn lspci_decodes_errors_that_the_function_reports() {
    let mut device = Device::new(&NVME);
    device.input(Input::Error {
        correctable: false,
        bit: 20,
        header: [0x1234_5678, 2, 3, 0xffff_ffff],
    });
    device.input(Input::Error {
        correctable: true,
        bit: 6,
        header: [0; 4],
    });
    says(
        &device,
        &[
            "DevSta:	CorrErr+ NonFatalErr+ FatalErr- UnsupReq+ AuxPwr- TransPend-",
            "CESta:	RxErr- BadTLP+ BadDLLP-..",
            "AERCap:	First Error Pointer: 14,..",
            "HeaderLog: 12345678 00000002 00000003 ffffffff",
        ],
    );
}

#[test]
fn lspci_decodes_a_function_with_one_of_everything() {
    let mut device = Device::new(&EVERYTHING);
    for (offset, value) in [
        (0x10, 0xe000_0000),
        (0x14, 0xc000),
        (0x1c, 4),
        (0x20, 0xfeb0_0000),
        (0x30, 0xfea0_0001),
    ] {
        device.w32(offset, value);
    }
    device.w16(0x04, 0x0003);
    device.w32(0x60, 0x0000_00f0);
    device.input(Input::Enable {
        kind: Interrupt::Msi,
        vectors: 8,
    });
    device.input(Input::VectorFired { vector: 5 });
    says(
        &device,
        &[
            "Region 0: Memory at e0000000 (32-bit, prefetchable)",
            "Region 1: I/O ports at c000",
            "Region 2: Memory at 400000000 (64-bit, prefetchable)",
            "Region 4: Memory at feb00000 (32-bit, non-prefetchable)",
            "Expansion ROM at fea00000",
            "Capabilities: [40] Power Management version 3",
            "Status: D0 NoSoftRst- PME-Enable- DSel=0 DScale=0 PME-",
            "Capabilities: [48] Vital Product Data",
            "Capabilities: [50] MSI: Enable+ Count=8/32 Maskable+ 64bit+",
            "Address: 0000000000000000  Data: 0000",
            "Masking: 000000f0  Pending: 00000020",
            "Capabilities: [68] MSI-X: Enable- Count=100 Masked-",
            "Vector table: BAR=0 offset=00000000",
            "PBA: BAR=0 offset=00008000",
            "Capabilities: [74] PCI Advanced Features",
            "AFCap: TP+ FLR+",
            "AFCtrl: FLR-",
            "AFStatus: TP-",
            "Capabilities: [7c] Vendor Specific Information: Len=08 <?>",
            "Capabilities: [84] Express (v2) Root Complex Integrated Endpoint..",
            "Capabilities: [100 v2] Advanced Error Reporting",
            "Capabilities: [12c v1] Vendor Specific Information: ID=1234 Rev=3 Len=010 <?>",
            "Capabilities: [13c v1] Designated Vendor-Specific: Vendor=8086 ID=0042 Rev=1 Len=12 <?>",
            "Capabilities: [148 v1] Device Serial Number ff-ff-ff-ff-ff-ff-ff-ff",
        ],
    );
}

#[test]
fn lspci_decodes_a_function_without_bars_in_d3hot() {
    let mut device = Device::new(&PLAIN);
    device.w8(0x60, 3);
    says(
        &device,
        &[
            "Capabilities: [40] MSI: Enable- Count=1/4 Maskable+ 64bit-",
            "Address: 00000000  Data: 0000",
            "Masking: 00000000  Pending: 00000000",
            "Capabilities: [54] Subsystem: aaaa:5555",
            "Capabilities: [5c] Power Management version 3",
            "Status: D3 NoSoftRst+ PME-Enable- DSel=0 DScale=0 PME-",
        ],
    );
}
