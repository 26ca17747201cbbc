//! Numbers of ioctl requests. They mean different things for files of different kinds: whoever looks one up says which.

use vfio_bindings::bindings::vfio as sys;

/// The number of VFIO's request `n`: without size and direction, as VFIO defines all of its.
const fn vfio(n: u32) -> u32 {
    ((sys::VFIO_TYPE as u32) << 8) | (sys::VFIO_BASE + n)
}

/// Declares requests, and what each is called in the log.
macro_rules! requests {
    ($module:ident, $doc:literal, $($name:ident = $number:expr),* $(,)?) => {
        #[doc = $doc]
        pub(crate) mod $module {
            use super::vfio;
            $( pub(crate) const $name: u32 = vfio($number); )*

            /// The name in the kernel's header.
            pub(crate) fn name(request: u32) -> &'static str {
                match request {
                    $( $name => concat!("VFIO_", stringify!($name)), )*
                    _ => "an ioctl",
                }
            }
        }
    };
}

requests!(
    container,
    "Of `/dev/vfio/vfio`.",
    GET_API_VERSION = 0,
    CHECK_EXTENSION = 1,
    SET_IOMMU = 2,
    IOMMU_GET_INFO = 12,
    IOMMU_MAP_DMA = 13,
    IOMMU_UNMAP_DMA = 14,
    IOMMU_DIRTY_PAGES = 17,
);

requests!(
    group,
    "Of `/dev/vfio/N`.",
    GROUP_GET_STATUS = 3,
    GROUP_SET_CONTAINER = 4,
    GROUP_UNSET_CONTAINER = 5,
    GROUP_GET_DEVICE_FD = 6,
);

requests!(
    device,
    "Of a device.",
    DEVICE_GET_INFO = 7,
    DEVICE_GET_REGION_INFO = 8,
    DEVICE_GET_IRQ_INFO = 9,
    DEVICE_SET_IRQS = 10,
    DEVICE_RESET = 11,
    DEVICE_GET_PCI_HOT_RESET_INFO = 12,
    DEVICE_PCI_HOT_RESET = 13,
    DEVICE_IOEVENTFD = 16,
    DEVICE_FEATURE = 17,
    DEVICE_BIND_IOMMUFD = 18,
    DEVICE_ATTACH_IOMMUFD_PT = 19,
    DEVICE_DETACH_IOMMUFD_PT = 20,
);

/// Of `/dev/iommu`.
pub(crate) mod iommufd {
    use iommufd_bindings::iommufd as sys;

    const fn number(command: u32) -> u32 {
        ((sys::IOMMUFD_TYPE as u32) << 8) | command
    }

    pub(crate) const DESTROY: u32 = number(sys::IOMMUFD_CMD_DESTROY);
    pub(crate) const IOAS_ALLOC: u32 = number(sys::IOMMUFD_CMD_IOAS_ALLOC);
    pub(crate) const IOAS_ALLOW_IOVAS: u32 = number(sys::IOMMUFD_CMD_IOAS_ALLOW_IOVAS);
    pub(crate) const IOAS_COPY: u32 = number(sys::IOMMUFD_CMD_IOAS_COPY);
    pub(crate) const IOAS_IOVA_RANGES: u32 = number(sys::IOMMUFD_CMD_IOAS_IOVA_RANGES);
    pub(crate) const IOAS_MAP: u32 = number(sys::IOMMUFD_CMD_IOAS_MAP);
    pub(crate) const IOAS_UNMAP: u32 = number(sys::IOMMUFD_CMD_IOAS_UNMAP);
    pub(crate) const OPTION: u32 = number(sys::IOMMUFD_CMD_OPTION);
    pub(crate) const VFIO_IOAS: u32 = number(sys::IOMMUFD_CMD_VFIO_IOAS);
    pub(crate) const HWPT_ALLOC: u32 = number(sys::IOMMUFD_CMD_HWPT_ALLOC);
    pub(crate) const GET_HW_INFO: u32 = number(sys::IOMMUFD_CMD_GET_HW_INFO);

    /// The name in the kernel's header; of VFIO's requests, which it answers too, VFIO's.
    pub(crate) fn name(request: u32) -> &'static str {
        match request {
            DESTROY => "IOMMU_DESTROY",
            IOAS_ALLOC => "IOMMU_IOAS_ALLOC",
            IOAS_ALLOW_IOVAS => "IOMMU_IOAS_ALLOW_IOVAS",
            IOAS_COPY => "IOMMU_IOAS_COPY",
            IOAS_IOVA_RANGES => "IOMMU_IOAS_IOVA_RANGES",
            IOAS_MAP => "IOMMU_IOAS_MAP",
            IOAS_UNMAP => "IOMMU_IOAS_UNMAP",
            OPTION => "IOMMU_OPTION",
            VFIO_IOAS => "IOMMU_VFIO_IOAS",
            HWPT_ALLOC => "IOMMU_HWPT_ALLOC",
            GET_HW_INFO => "IOMMU_GET_HW_INFO",
            other => super::container::name(other),
        }
    }
}
