# The stock nvme driver and file systems on what it drives.

nvme_appears() {
    modprobe nvme
    check "the nvme driver finds a namespace" eventually 30 test -b /dev/nvme0n1
}

nvme_mount() {
    modprobe ext4
    check "the file system is mounted" mount -t ext4 /dev/nvme0n1 /mnt
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
    check "the file system is unmounted" umount /mnt
}

# Finds what nvme_make_files wrote.
nvme_find_files() {
    nvme_appears || return 1
    check "the file system is clean" /usr/sbin/e2fsck -f -n /dev/nvme0n1
    nvme_mount || return 1
    check "the files are as written" nvme_verify
    check "the file system is unmounted" umount /mnt
}

nvme_verify() {
    ( cd /mnt && md5sum -c sums )
}
