# Our server inside the guest, its image on the guest's own disk.

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
