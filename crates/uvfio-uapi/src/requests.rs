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
);
