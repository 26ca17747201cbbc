"""A device by a file of its own, with its memory in an address space of /dev/iommu: edu copies a page."""
import ctypes, errno, fcntl, mmap, os, struct

BIND, ATTACH, IOAS_ALLOC, IOAS_MAP = 0x3B76, 0x3B77, 0x3B81, 0x3B85
CONFIG, BUFFER, IOVA, PAGE = 7 << 40, 0x40000, 0x100000, 4096


def call(file, request, layout, *values):
    argument = bytearray(struct.pack(layout, *values))
    assert fcntl.ioctl(file, request, argument) == 0
    return struct.unpack(layout, argument)


name = os.listdir("/sys/bus/pci/devices/0000:01:00.0/vfio-dev")[0]
device = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
iommu = os.open("/dev/iommu", os.O_RDWR)
try:
    os.pread(device, 4, CONFIG)
except OSError as error:
    assert error.errno == errno.EINVAL, error
else:
    raise AssertionError("a device that is not bound")
call(device, BIND, "IIiI", 16, 0, iommu, 0)
_, _, space = call(iommu, IOAS_ALLOC, "III", 12, 0, 0)
call(device, ATTACH, "III", 12, 0, space)
memory = mmap.mmap(-1, 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
call(iommu, IOAS_MAP, "IIIIQQQ", 40, 7, space, 0, address, 2 * PAGE, IOVA)

os.pwrite(device, struct.pack("H", 6), CONFIG + 4)
memory[:PAGE] = bytes(range(256)) * (PAGE // 256)
for source, destination, command in [(IOVA, BUFFER, 1), (BUFFER, IOVA + PAGE, 3)]:
    for at, value in zip((0x80, 0x88, 0x90, 0x98), (source, destination, PAGE, command)):
        os.pwrite(device, struct.pack("Q", value), at)
    while os.pread(device, 8, 0x98)[0] & 1:
        pass
assert memory[PAGE:] == memory[:PAGE]

# The device's group is in use by that file.
try:
    os.open("/dev/vfio/1", os.O_RDWR)
except OSError as error:
    assert error.errno == errno.EBUSY, error
else:
    raise AssertionError("a group whose device is bound")
os.close(device)
os.close(os.open("/dev/vfio/1", os.O_RDWR))
print("by /dev/iommu")
