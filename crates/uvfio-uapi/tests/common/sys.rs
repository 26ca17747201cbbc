//! The kernel's numbers and structures, written down once more from its header and documentation.

pub(crate) const GET_API_VERSION: u32 = 0x3b64;
pub(crate) const CHECK_EXTENSION: u32 = 0x3b65;
pub(crate) const SET_IOMMU: u32 = 0x3b66;
pub(crate) const GROUP_GET_STATUS: u32 = 0x3b67;
pub(crate) const GROUP_SET_CONTAINER: u32 = 0x3b68;
pub(crate) const GROUP_UNSET_CONTAINER: u32 = 0x3b69;
pub(crate) const GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
pub(crate) const GET_INFO: u32 = 0x3b6b;
pub(crate) const GET_REGION_INFO: u32 = 0x3b6c;
pub(crate) const GET_IRQ_INFO: u32 = 0x3b6d;
pub(crate) const SET_IRQS: u32 = 0x3b6e;
pub(crate) const RESET: u32 = 0x3b6f;
pub(crate) const IOMMU_GET_INFO: u32 = 0x3b70;
pub(crate) const HOT_RESET_INFO: u32 = 0x3b70;
pub(crate) const MAP_DMA: u32 = 0x3b71;
pub(crate) const HOT_RESET: u32 = 0x3b71;
pub(crate) const UNMAP_DMA: u32 = 0x3b72;
pub(crate) const IOEVENTFD: u32 = 0x3b74;
pub(crate) const DIRTY_PAGES: u32 = 0x3b75;
pub(crate) const FEATURE: u32 = 0x3b75;

pub(crate) const TYPE1: u64 = 1;
pub(crate) const TYPE1V2: u64 = 3;

pub(crate) const READ: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const VADDR: u32 = 4;
pub(crate) const UNMAP_BITMAP: u32 = 1;
pub(crate) const UNMAP_ALL: u32 = 2;

pub(crate) const NONE: u32 = 1;
pub(crate) const BOOL: u32 = 2;
pub(crate) const EVENTFD: u32 = 4;
pub(crate) const MASK: u32 = 8;
pub(crate) const UNMASK: u32 = 16;
pub(crate) const TRIGGER: u32 = 32;

pub(crate) const FEATURE_GET: u32 = 1 << 16;
pub(crate) const FEATURE_SET: u32 = 1 << 17;
pub(crate) const FEATURE_PROBE: u32 = 1 << 18;

/// Words, one after another.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Says in the first word how long it is.
pub(crate) fn seal(argument: &mut [u8]) {
    let bytes = argument.len() as u32;
    argument[..4].copy_from_slice(&bytes.to_ne_bytes());
}

pub(crate) fn sealed(mut argument: Vec<u8>) -> Vec<u8> {
    seal(&mut argument);
    argument
}

/// `struct vfio_iommu_type1_dma_map`.
pub(crate) fn map(flags: u32, address: u64, iova: u64, bytes: u64) -> Vec<u8> {
    let mut argument = words(&[32, flags]);
    for word in [address, iova, bytes] {
        argument.extend(word.to_ne_bytes());
    }
    argument
}

/// `struct vfio_iommu_type1_dma_unmap`.
pub(crate) fn unmap(flags: u32, iova: u64, bytes: u64) -> Vec<u8> {
    let mut argument = words(&[24, flags]);
    argument.extend(iova.to_ne_bytes());
    argument.extend(bytes.to_ne_bytes());
    argument
}

/// `struct vfio_irq_set` without data.
pub(crate) fn irq_set(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    words(&[20, flags, index, start, count])
}

/// `struct vfio_device_ioeventfd`.
pub(crate) fn ioeventfd(width: u32, offset: u64, data: u64, descriptor: i32) -> Vec<u8> {
    let mut argument = words(&[32, width]);
    argument.extend(offset.to_ne_bytes());
    argument.extend(data.to_ne_bytes());
    argument.extend(descriptor.to_ne_bytes());
    argument.extend([0; 4]);
    argument
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
