# DPDK as it is installed where the scenario was started, under `uvfio run` with huge pages.

pages_of_2_mib=/sys/kernel/mm/hugepages/hugepages-2048kB

# dpdk_reserves COUNT: root reserves pages of 2 MiB, and has them mounted where the ordinary user may have files.
dpdk_reserves() {
    echo "$1" >$pages_of_2_mib/nr_hugepages
    same "pages of 2 MiB that are reserved" "$1" "$(cat $pages_of_2_mib/free_hugepages)"
    mkdir -p /dev/hugepages
    check "they are mounted" mount -t hugetlbfs -o pagesize=2M,mode=1777 hugetlbfs /dev/hugepages
    mkdir -p /etc /var/run /tmp/guest
    printf '%s\n' 'root:x:0:0::/:/bin/sh' 'guest:x:1000:1000::/tmp:/bin/sh' >/etc/passwd
    chmod 1777 /tmp
    chown guest /tmp/guest
    # DPDK takes no plug-ins from where everybody could have put them.
    chmod 755 /
    same "there is an ordinary user" 1000 "$(su guest -c 'id -u')"
}

# dpdk_run USER WHAT DEVICE... -- COMMAND...: the command ends well; what it prints is kept, and on the console.
dpdk_run() {
    user=$1 what=$2
    shift 2
    options=
    while [ "$1" != -- ]; do
        options="$options --device $1"
        shift
    done
    shift
    # The guest's `env` takes no libraries, which is why the way is named; what it starts takes those of its own place.
    runs "$what ends with success" su "$user" -c "XDG_RUNTIME_DIR=/tmp/$user uvfio run --via preload $options -- \
        env LD_LIBRARY_PATH=/lib/installed DPDK_TEST=$DPDK_TEST $* </dev/null"
}

# dpdk_printed WHAT LINE: it is one of the lines printed.
dpdk_printed() {
    check "$1" grep -q -- "$2" /tmp/printed
}

# DPDK's own test of DMA engines, in huge pages.
dpdk_tests() {
    DPDK_TEST=dmadev_autotest dpdk_run "$1" "DPDK's test of DMA engines" ioat -- \
        dpdk-test --iova-mode=va -l 0 --no-telemetry -a 0000:01:00.0
    dpdk_printed "the engine is tested" "Test dmadev instance 0 \[0000:01:00.0\]"
    for part in copy "burst capacity" fill; do
        dpdk_printed "DPDK's test of $part is run" "DMA Dev 0: Running $part Tests"
    done
    dpdk_printed "DPDK is content" "^Test OK"
    dpdk_leaves_nothing
}

# Several devices at once, of which it is not told.
dpdk_finds() {
    dpdk_run "$1" "a program of DPDK's with several devices" ioat ioat,channels=2 nvme,mem=1M edu -- \
        dpdk --iova-mode=va -l 0 --no-telemetry
    same "DPDK finds these devices, drives its engines, and copies from and to huge pages" \
        "0000:01:00.0: dmadev_ioat 0000:01:01.0: dmadev_ioat 0000:01:02.0: no driver 0000:01:03.0: no driver \
0000:01:00.0: copied, pages of 2048 KiB 0000:01:01.0: copied, pages of 2048 KiB" \
        "$(grep '^0000:' /tmp/printed | xargs)"
    dpdk_leaves_nothing
}

# Every page is free again once DPDK's files are removed.
dpdk_leaves_nothing() {
    rm -f /dev/hugepages/*
    same "pages that are free afterwards" "$(cat $pages_of_2_mib/nr_hugepages)" "$(cat $pages_of_2_mib/free_hugepages)"
}
