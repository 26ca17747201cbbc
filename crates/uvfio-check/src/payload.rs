//! Messages put together by hand: nothing here checks that they make sense.

use uvfio_proto::message::{
    DmaMap, DmaUnmap, Feature, HEADER_BYTES, Header, HeaderFlags, Kind, MultiWrite, RegionAccess, RegionInfo,
    SetIrqs,
};
use zerocopy::{Immutable, IntoBytes};

/// The version data that most cases send: about what QEMU does.
pub(crate) const USUAL_JSON: &str = "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\
     \"max_dma_maps\":65535,\"pgsizes\":4096,\"write_multiple\":true,\
     \"migration\":{\"pgsize\":4096,\"max_bitmap_size\":268435456}}}";

/// A header with whatever size.
pub(crate) fn header(id: u16, command: u16, bytes: u32, flags: u32) -> Vec<u8> {
    bytes_of(&Header {
        id,
        command,
        bytes,
        flags,
        errno: 0,
    })
}

/// A whole message.
pub(crate) fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let bytes = HEADER_BYTES + payload.len();
    let mut message = header(id, command, bytes as u32, flags);
    message.extend_from_slice(payload);
    message
}

/// A reply that says an error and nothing else.
pub(crate) fn refusal(id: u16, command: u16, errno: u32) -> Vec<u8> {
    bytes_of(&Header {
        id,
        command,
        bytes: HEADER_BYTES as u32,
        flags: Kind::REPLY | HeaderFlags::ERROR.bits(),
        errno,
    })
}

/// A structure's bytes.
pub(crate) fn bytes_of(value: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    value.as_bytes().to_vec()
}

/// 32-bit words.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// VERSION with this data, NUL and all, or none.
pub(crate) fn version(major: u16, minor: u16, data: &[u8]) -> Vec<u8> {
    [&major.to_ne_bytes()[..], &minor.to_ne_bytes(), data].concat()
}

/// VERSION 0.1 with JSON, ended as it should be.
pub(crate) fn version_json(json: &str) -> Vec<u8> {
    version(0, 1, format!("{json}\0").as_bytes())
}

/// DEVICE_GET_INFO.
pub(crate) fn info(argsz: u32) -> Vec<u8> {
    words(&[argsz, 0, 0, 0])
}

/// DEVICE_GET_REGION_INFO.
pub(crate) fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    bytes_of(&RegionInfo {
        argsz,
        flags: 0,
        index,
        cap_offset: 0,
        bytes: 0,
        offset: 0,
    })
}

/// DEVICE_GET_IRQ_INFO, DEVICE_GET_REGION_IO_FDS.
pub(crate) fn indexed(argsz: u32, flags: u32, index: u32, count: u32) -> Vec<u8> {
    words(&[argsz, flags, index, count])
}

/// DEVICE_SET_IRQS.
pub(crate) fn set_irqs(flags: u32, index: u32, start: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let argsz = (size_of::<SetIrqs>() + data.len()) as u32;
    let mut payload = bytes_of(&SetIrqs {
        argsz,
        flags,
        index,
        start,
        count,
    });
    payload.extend_from_slice(data);
    payload
}

/// REGION_READ and REGION_WRITE.
pub(crate) fn access(region: u32, offset: u64, count: u32, data: &[u8]) -> Vec<u8> {
    let mut payload = bytes_of(&RegionAccess {
        offset,
        region,
        count,
    });
    payload.extend_from_slice(data);
    payload
}

/// REGION_WRITE_MULTI, with a count that need not be true.
pub(crate) fn multi(count: u64, writes: &[MultiWrite]) -> Vec<u8> {
    let mut payload = count.to_ne_bytes().to_vec();
    payload.extend_from_slice(writes.as_bytes());
    payload
}

/// DMA_MAP of read and write access.
pub(crate) fn dma_map(offset: u64, iova: u64, bytes: u64) -> Vec<u8> {
    dma_map_as(size_of::<DmaMap>() as u32, 3, offset, iova, bytes)
}

/// DMA_MAP.
pub(crate) fn dma_map_as(argsz: u32, flags: u32, offset: u64, iova: u64, bytes: u64) -> Vec<u8> {
    bytes_of(&DmaMap {
        argsz,
        flags,
        offset,
        iova,
        bytes,
    })
}

/// DMA_UNMAP.
pub(crate) fn dma_unmap(iova: u64, bytes: u64) -> Vec<u8> {
    bytes_of(&DmaUnmap {
        argsz: size_of::<DmaUnmap>() as u32,
        flags: 0,
        iova,
        bytes,
    })
}

/// DEVICE_FEATURE.
pub(crate) fn feature(argsz: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let mut payload = bytes_of(&Feature { argsz, flags });
    payload.extend_from_slice(data);
    payload
}
