# SPDX-License-Identifier: MIT OR Apache-2.0
# edu from Python: python3 edu.py LIBUVFIO.SO SOCKET
import ctypes, sys
uvfio, edu, u64 = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(), ctypes.c_uint64
uvfio.uvfio_last_error.restype = ctypes.c_char_p
def check(result):
    assert result >= 0, uvfio.uvfio_last_error().decode()
check(uvfio.uvfio_open(sys.argv[2].encode(), ctypes.byref(edu)))
check(uvfio.uvfio_bar_write(edu, 0, u64(0x04), 4, u64(0x12345678)))
check(uvfio.uvfio_bar_read(edu, 0, u64(0x04), 4, ctypes.byref(value := u64())))
print(f"liveness reads {value.value:#x}")
uvfio.uvfio_close(edu)
