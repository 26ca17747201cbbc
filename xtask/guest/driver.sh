# Our drivers for programs (the examples of uvfio-driver), on the kernel's VFIO.

# An ordinary user: its only right is what it is given of /dev/vfio.
driver_user() {
    mkdir -p /etc
    printf '%s\n' 'root:x:0:0::/:/bin/sh' 'driver:x:1000:1000::/:/bin/sh' >/etc/passwd
    printf '%s\n' 'root:x:0:' 'driver:x:1000:' >/etc/group
    same "there is an ordinary user" 1000 "$(su driver -c 'id -u')"
}

# driver_edu USER: the driver of the tutorial, as it is.
driver_edu() {
    vfio_owns 1234:11e8 || return 1
    driver_may_open "$1" || return 1
    runs "edu's driver runs as $1" su "$1" -c "edu $address" || return 1
    printed "edu, version 1\.0"
    printed "10! = 3628800"
    printed "the same: true"
    printed "after a reset, 5! = 120"
}

# driver_nvme USER: the driver for NVMe, as it is. Writes to the disk.
driver_nvme() {
    vfio_owns 1b36:0010 || return 1
    driver_may_open "$1" || return 1
    runs "the driver for NVMe runs as $1" su "$1" -c "nvme $address --overwrite --reads=300" || return 1
    printed "NVMe 1\.4.*, mapped doorbells"
    printed "131072 blocks of 512 bytes"
    for waiting in Interrupt Polled; do
        printed "$waiting: [0-9]+ blocks written at random places and flushed"
        printed "$waiting: [0-9]+ blocks are as they were written"
        printed "$waiting: [0-9]+ blocks are as they were written, after a reset"
        printed "$waiting, depth  1: .* reads of 4 KiB a second"
        printed "$waiting, depth 32: .* reads of 4 KiB a second"
    done
}

# Root may open a group's file anyway; anybody else only what was given away.
driver_may_open() {
    chown root "/dev/vfio/$group"
    if [ "$1" != root ]; then
        refuses "$1 may not open what is root's, and is told what to do" "udev rule" \
            su "$1" -c "edu $address"
        chown "$1" "/dev/vfio/$group"
        same "the group's file is $1's" "$1" "$(stat -c %U "/dev/vfio/$group")"
    fi
}

# What is refused, and how.
driver_refusals() {
    address=$(pci_find 1b36:0010)
    refuses "what another driver has is refused, with what to do" "has no driver" \
        edu "$(pci_find 1234:11e8)"
    refuses "a function that is not there is refused" "no PCI function 0000:ff:1f.7" nvme 0000:ff:1f.7
    vfio_owns 1b36:0010 || return 1
    chown driver "/dev/vfio/$group"
    refuses "the limit of locked memory is named" "ulimit -l" su driver -c "ulimit -l 64; nvme $address"
    refuses "another device's driver refuses it" "is not an edu" su driver -c "edu $address"
}

# A driver that is killed in the middle of its work leaves a function that the next one can use.
driver_killed() {
    vfio_owns 1b36:0010 || return 1
    nvme "$address" --reads=100000000 >/tmp/printed 2>&1 &
    check "the driver works" eventually 30 grep -q "131072 blocks" /tmp/printed || return 1
    refuses "a function that is in use is refused" "somebody has it open" nvme "$address"
    kill -9 $!
    wait $!
    runs "the next driver can use what a killed one had" nvme "$address" --reads=10
    printed "Interrupt, depth  1: .* reads of 4 KiB a second"
}

# driver_promises VENDOR:DEVICE WHAT...: what the library promises of any function, tried on this one.
driver_promises() {
    vfio_owns "$1" || return 1
    shift
    for promise in "$@"; do
        promises "$address" "$promise" >/tmp/printed 2>&1
        status=$?
        cat /tmp/printed
        sed 's/^/UVFIO /' /tmp/printed >&3
        # A program that a signal has ended has printed no failure.
        same "the checks of $promise end with success" 0 "$status"
    done
}

# driver_events VENDOR:DEVICE: a driver hears of an error, which the host has the function report, and of the wish to
# have the function back, which an unbind is.
driver_events() {
    vfio_owns "$1" || return 1
    promises "$address" events >/tmp/printed 2>&1 &
    check "errors can be told" eventually 30 grep -qx "note waiting, errors told" /tmp/printed
    note inject
    check "the driver hears of an error" eventually 30 grep -qx "note error" /tmp/printed
    check "the function is taken back" sh -c "echo $address >/sys/bus/pci/drivers/vfio-pci/unbind"
    wait $!
    same "the driver ends with success" 0 $?
    printed "ok the function is wanted back, and given back"
    same "the function has no driver" "" "$(driver_of "$address")"
}
