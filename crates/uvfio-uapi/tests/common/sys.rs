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

pub(crate) const BIND: u32 = 0x3b76;
pub(crate) const ATTACH: u32 = 0x3b77;
pub(crate) const DETACH: u32 = 0x3b78;

pub(crate) const DESTROY: u32 = 0x3b80;
pub(crate) const IOAS_ALLOC: u32 = 0x3b81;
pub(crate) const IOAS_ALLOW: u32 = 0x3b82;
pub(crate) const IOAS_COPY: u32 = 0x3b83;
pub(crate) const IOAS_RANGES: u32 = 0x3b84;
pub(crate) const IOAS_MAP: u32 = 0x3b85;
pub(crate) const IOAS_UNMAP: u32 = 0x3b86;
pub(crate) const OPTION: u32 = 0x3b87;
pub(crate) const VFIO_IOAS: u32 = 0x3b88;
pub(crate) const HWPT_ALLOC: u32 = 0x3b89;
pub(crate) const GET_HW_INFO: u32 = 0x3b8a;

pub(crate) const FIXED: u32 = 1;
pub(crate) const WRITEABLE: u32 = 2;
pub(crate) const READABLE: u32 = 4;

/// Words, and then longer ones.
fn with(first: &[u32], then: &[u64]) -> Vec<u8> {
    let mut argument = words(first);
    argument.extend(then.iter().flat_map(|word| word.to_ne_bytes()));
    argument
}

/// `struct iommu_ioas_map`.
pub(crate) fn ioas_map(flags: u32, ioas: u32, address: u64, bytes: u64, iova: u64) -> Vec<u8> {
    with(&[40, flags, ioas, 0], &[address, bytes, iova])
}

/// `struct iommu_ioas_unmap`.
pub(crate) fn ioas_unmap(ioas: u32, iova: u64, bytes: u64) -> Vec<u8> {
    with(&[24, ioas], &[iova, bytes])
}

/// `struct iommu_ioas_copy`.
pub(crate) fn ioas_copy(flags: u32, to: u32, from: u32, bytes: u64, to_iova: u64, from_iova: u64) -> Vec<u8> {
    with(&[40, flags, to, from], &[bytes, to_iova, from_iova])
}

/// `struct iommu_ioas_iova_ranges`, and that of IOAS_ALLOW_IOVAS with less at its end.
pub(crate) fn ioas_ranges(ioas: u32, count: u32, list: u64) -> Vec<u8> {
    with(&[32, ioas, count, 0], &[list, 0])
}

/// `struct iommu_option`.
pub(crate) fn option(option: u32, op: u32, object: u32, value: u64) -> Vec<u8> {
    with(&[24, option, op, object], &[value])
}

/// `struct vfio_device_bind_iommufd`.
pub(crate) fn bind(flags: u32, iommufd: i32) -> Vec<u8> {
    with(&[24, flags, iommufd as u32, 0], &[0])
}
