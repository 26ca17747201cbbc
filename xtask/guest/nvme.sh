# The stock nvme driver, and file systems on what it drives.

NVME_ERRORS='I/O error|nvme.*timeout|nvme.*[Ff]ail|nvme.*not ready'

nvme_appears() {
    modprobe nvme
    check "the nvme driver finds a namespace" eventually 60 test -b /dev/nvme0n1
}

nvme_mount() {
    modprobe ext4
    check "the file system is mounted" mount -t ext4 /dev/nvme0n1 /mnt
}

nvme_unmount() {
    check "the file system is unmounted" umount /mnt
}

# The controller's place in sysfs.
nvme_function() {
    readlink -f /sys/class/nvme/nvme0/device
}

# Makes a file system with files on the first namespace, and leaves it unmounted.
nvme_make_files() {
    nvme_appears || return 1
    check "mke2fs makes an ext4 file system" /usr/sbin/mke2fs -F -q -t ext4 /dev/nvme0n1 || return 1
    nvme_mount || return 1
    mkdir /mnt/dir
    dd if=/dev/urandom of=/mnt/dir/random bs=64k count=64 2>/dev/null
    echo "some text" >/mnt/text
    ( cd /mnt && md5sum dir/random text >sums )
    check "the files reach the disk" sync
    nvme_unmount
}

# Finds what nvme_make_files wrote.
nvme_find_files() {
    nvme_appears || return 1
    check "the file system is clean" /usr/sbin/e2fsck -f -n /dev/nvme0n1
    nvme_mount || return 1
    check "the files are as written" nvme_verify
    nvme_unmount
}

nvme_verify() {
    ( cd /mnt && md5sum -c sums )
}

# Resets the function through sysfs while files are written.
nvme_reset_under_load() {
    nvme_mount || return 1
    dd if=/dev/urandom of=/tmp/load bs=64k count=16 2>/dev/null
    rm -f /tmp/stop /tmp/writes
    ( while [ ! -e /tmp/stop ]; do
        dd if=/tmp/load of=/mnt/load bs=64k conv=fsync && echo >>/tmp/writes
    done ) &
    for round in 1 2 3; do
        writes=$(wc -l 2>/dev/null </tmp/writes)
        eventually 60 nvme_wrote_more_than "${writes:-0}" ||
            { fail "files are written before reset $round"; break; }
        check "reset $round while files are written" sh -c "echo 1 >$(nvme_function)/reset" || break
    done
    writes=$(wc -l </tmp/writes)
    check "files are written after the resets" eventually 60 nvme_wrote_more_than "$writes"
    touch /tmp/stop
    wait
    sync
    echo 3 >/proc/sys/vm/drop_caches
    check "the file written last is as it was sent" cmp /tmp/load /mnt/load
    check "the other files are as written" nvme_verify
    nvme_unmount
    kernel_reports_no "error of the disk" "$NVME_ERRORS"
}

nvme_wrote_more_than() {
    [ "$(wc -l </tmp/writes)" -gt "$1" ]
}

# Removes the function from the kernel's tree, and lets the kernel find it again.
nvme_remove_and_rescan() {
    function=$(nvme_function)
    check "the kernel lets go of the function" sh -c "echo 1 >$function/remove"
    check "its namespace is gone" test ! -e /dev/nvme0n1
    echo 1 >/sys/bus/pci/rescan
    nvme_appears
}

# Many writes at once, each read back and compared by fio.
nvme_fio() {
    nvme_appears || return 1
    check "fio finds every block as it wrote it ($*)" fio --name=verify --filename=/dev/nvme0n1 \
        --direct=1 --ioengine=libaio --verify=md5 --verify_fatal=1 --randseed=1 --minimal "$@"
    kernel_reports_no "error of the disk" "$NVME_ERRORS"
}

# Writes numbered blocks, says of each when it has been flushed, and never ends.
nvme_write_records() {
    nvme_appears || return 1
    # Other writes are under way all the time, in the second half of the disk.
    ( while :; do dd if=/dev/zero of=/dev/nvme0n1 bs=64k seek=512 count=256 conv=notrunc; done ) 2>/dev/null &
    number=0
    while [ $number -lt 8192 ]; do
        printf 'record %08d\n%4080s' $number '' |
            dd of=/dev/nvme0n1 bs=4096 seek=$number conv=notrunc,fsync 2>/dev/null || break
        note "flushed $number"
        number=$((number + 1))
    done
    fail "records are written until the machine is killed: expected no end got one at $number"
}

# Has the driver give up a controller that answers no more after 8 seconds, not after 30 and 60.
nvme_is_impatient() {
    modprobe nvme_core io_timeout=8 admin_timeout=8
}

# Leaves a process behind that writes to the first namespace until that fails.
nvme_write_until_failure() {
    ( while dd if=/dev/zero of=/dev/nvme0n1 bs=64k count=64 conv=notrunc,fsync; do echo >>/tmp/writes; done
    touch /tmp/failed ) 2>/dev/null &
    check "the disk is written to" eventually 30 test -s /tmp/writes
}

nvme_is_dead() {
    [ ! -e /sys/class/nvme/nvme0 ] || [ "$(cat /sys/class/nvme/nvme0/state)" = dead ]
}

# After the device was taken away: it reads all ones, and the driver lets go of it.
nvme_is_gone() {
    check "writing to the disk fails" eventually 100 test -e /tmp/failed
    check "the driver has given the controller up" eventually 100 nvme_is_dead
    check "the kernel has no function, or one that reads all ones" pci_none_or_ones 0x0108
    check "the guest works" mkdir /tmp/works
}

# Sleeps with a mounted file system; someone has to wake the machine.
nvme_sleep_mounted() {
    nvme_mount || return 1
    check "the machine wakes" sh -c 'echo mem >/sys/power/state' || return 1
    check "files can be written" dd if=/dev/urandom of=/mnt/after bs=64k count=16 conv=fsync
    echo 3 >/proc/sys/vm/drop_caches
    check "the files are as written" nvme_verify
    nvme_unmount
    kernel_reports_no "error of the disk" "$NVME_ERRORS"
}

server_make_disk() {
    modprobe virtio-blk
    check "the machine has a disk" eventually 30 test -b /dev/vda || return 1
    check "mke2fs makes an ext4 file system" /usr/sbin/mke2fs -F -q -t ext4 /dev/vda || return 1
    server_mount_disk
}

server_mount_disk() {
    modprobe virtio-blk
    modprobe ext4
    eventually 30 test -b /dev/vda
    check "the machine's disk is mounted" mount -t ext4 /dev/vda /mnt
}

# The kernel keeps what it need not write to itself: only a flush brings data to the disk.
server_start() {
    echo 0 >/proc/sys/vm/dirty_writeback_centisecs
    uvfio serve nvme,file=/mnt/nvme.img,size=64M --socket /run/nvme.sock &
    check "the server listens" eventually 30 test -S /run/nvme.sock
}
