"""What the kernel promises of open files, told of VFIO's."""
import array, errno, fcntl, mmap, os, socket, struct, sys

API_VERSION, STATUS, SET_CONTAINER, GET_DEVICE = 0x3B64, 0x3B67, 0x3B68, 0x3B6A
CONFIG = 7 << 40


def refused(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(f"{call} of {arguments} was not refused")


def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Opened by whatever name.
os.chdir("/dev")
folder = os.open("vfio", os.O_RDONLY)
for name, inside in [("/dev/vfio/vfio", None), ("vfio/vfio", None), ("vfio", folder), ("/dev/../dev/vfio/./vfio", None)]:
    container = os.open(name, os.O_RDWR, dir_fd=inside)
    assert fcntl.ioctl(container, API_VERSION) == 0, name
    os.close(container)

# The lowest free number, and closed on exec only where that was asked for.
container = os.open("/dev/vfio/vfio", os.O_RDWR)
assert container == folder + 1, container
assert os.get_inheritable(container) is False
group = os.open("/dev/vfio/1", os.O_RDWR)
fcntl.ioctl(group, SET_CONTAINER, struct.pack("i", container))
fcntl.ioctl(container, 0x3B66, 1)
device = fcntl.ioctl(group, GET_DEVICE, bytearray(b"0000:01:00.0\0"))
assert fcntl.fcntl(device, fcntl.F_GETFD) & fcntl.FD_CLOEXEC

# What is open is what the name leads to.
for name, number in [("/dev/vfio/vfio", container), ("/dev/vfio/1", group)]:
    by_name, opened = os.stat(name), os.fstat(number)
    for field in ["st_mode", "st_rdev", "st_dev", "st_ino"]:
        assert getattr(by_name, field) == getattr(opened, field), (name, field)
ours, other = socket.socketpair()
assert os.fstat(ours.fileno()).st_mode & 0o170000 == 0o140000

# What is not done: seeking, and reads of files that have nothing to read.
refused(errno.ESPIPE, os.lseek, device, CONFIG, os.SEEK_SET)
refused(errno.EINVAL, os.pread, group, 4, 0)
refused(errno.ENOENT, os.open, "/dev/vfio/2", os.O_RDWR)
refused(errno.EBUSY, os.open, "/dev/vfio/1", os.O_RDWR)
refused(errno.EFAULT, fcntl.ioctl, device, 0x3B6B, 8)


def works(number):
    assert os.pread(number, 4, CONFIG) == b"\x34\x12\xe8\x11"


# A duplicate is the same file, and it is open until the last is closed.
duplicate = os.dup(device)
os.close(device)
works(duplicate)

# Also in a child, and one that does something else by exec.
in_child(lambda: works(duplicate))
os.set_inheritable(duplicate, True)
script = f"import os; assert os.pread({duplicate}, 4, {CONFIG}) == bytes.fromhex('3412e811')"
in_child(lambda: os.execv(sys.executable, [sys.executable, "-c", script]))

# In one that closes everything that it does not know, and has files of its own by these numbers.
def closes_what_is_not_its_own():
    os.closerange(duplicate + 1, 1000)
    reader, writer = os.pipe()
    for number in range(duplicate + 3, 300):
        os.dup2(writer, number)
    works(duplicate)
    os.set_blocking(reader, False)
    refused(errno.EAGAIN, os.read, reader, 1)


in_child(closes_what_is_not_its_own)

# Sent to a process that has nothing of it.
ours, theirs = socket.socketpair()


def receive():
    os.closerange(3, theirs.fileno())
    _, control, _, _ = theirs.recvmsg(1, 64)
    works(array.array("i", control[0][2])[0])


ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [duplicate]))])
in_child(receive)

# Other files are none of ours: requests of the same number, other offsets, other sockets.
refused(errno.ENOTTY, fcntl.ioctl, sys.stdin.fileno(), API_VERSION)
refused(errno.ENOTTY, fcntl.ioctl, ours.fileno(), API_VERSION)
refused(errno.ESPIPE, os.pread, ours.fileno(), 1, 0)
refused(errno.EBADF, fcntl.ioctl, 1000, API_VERSION)
refused(errno.EBADF, os.pread, 1000, 1, 0)
refused(errno.ENODEV, mmap.mmap, ours.fileno(), 4096)

# The group is free when the last file of it is closed, at once.
theirs.close()
ours.close()
for _ in range(100):
    os.close(group)
    refused(errno.EBUSY, os.open, "/dev/vfio/1", os.O_RDWR)
    os.close(duplicate)
    group = os.open("/dev/vfio/1", os.O_RDWR)
    fcntl.ioctl(group, SET_CONTAINER, struct.pack("i", container))
    fcntl.ioctl(container, 0x3B66, 1)
    duplicate = fcntl.ioctl(group, GET_DEVICE, bytearray(b"0000:01:00.0\0"))

# A program that dies gives all back.
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), 9)
os.waitpid(pid, 0)
works(duplicate)
print("as the kernel's")
