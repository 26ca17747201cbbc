# PCI functions of the guest, through sysfs.

# pci_find VENDOR:DEVICE: the address of the first such function.
pci_find() {
    for dir in /sys/bus/pci/devices/*; do
        if [ "$(cat "$dir/vendor"):$(cat "$dir/device")" = "0x${1%:*}:0x${1#*:}" ]; then
            basename "$dir"
            return 0
        fi
    done
    return 1
}

iommu_groups_exist() {
    check "the guest has IOMMU groups" test -d /sys/kernel/iommu_groups/0
}

# vfio_owns VENDOR:DEVICE: gives the function to vfio-pci, whose group must then appear.
vfio_owns() {
    modprobe vfio_iommu_type1
    modprobe vfio-pci
    address=$(pci_find "$1") || { fail "a function $1 is there"; return 1; }
    echo vfio-pci >"/sys/bus/pci/devices/$address/driver_override"
    [ ! -e "/sys/bus/pci/devices/$address/driver" ] ||
        echo "$address" >"/sys/bus/pci/devices/$address/driver/unbind"
    echo "$address" >/sys/bus/pci/drivers_probe
    group=$(basename "$(readlink -f "/sys/bus/pci/devices/$address/iommu_group")")
    check "vfio-pci owns $1" test -e "/dev/vfio/$group"
}

# virtual_function VENDOR:DEVICE: the physical function goes from vfio-pci to its own driver, which makes a virtual one.
virtual_function() {
    physical=$(pci_find "$1") || { fail "a function $1 is there"; return 1; }
    echo >"/sys/bus/pci/devices/$physical/driver_override"
    echo "$physical" >"/sys/bus/pci/devices/$physical/driver/unbind"
    modprobe igb
    echo "$physical" >/sys/bus/pci/drivers_probe
    check "$1 has a virtual function" sh -c "echo 1 >/sys/bus/pci/devices/$physical/sriov_numvfs"
}

# unbind_all DRIVER: takes every function away from a driver.
unbind_all() {
    for function in "/sys/bus/pci/drivers/$1"/0*; do
        [ ! -e "$function" ] || basename "$function" >"/sys/bus/pci/drivers/$1/unbind"
    done
}

# edu_by_vfio MESSAGES: an edu device, owned by a program through vfio-pci.
edu_by_vfio() {
    vfio_owns 1234:11e8 || return 1
    uvfio-guest-tools edu "$address" --messages "$1" >&3
}

# pci_class CLASS: the addresses of the functions of a class, by its upper 16 bits (such as 0x0108).
pci_class() {
    grep -l "^$1" /sys/bus/pci/devices/*/class 2>/dev/null
}

# pci_none_or_ones CLASS: each function of the class that the kernel still knows reads all ones.
pci_none_or_ones() {
    for file in $(pci_class "$1"); do
        [ "$(hexdump -n 4 -e '1/4 "%08x"' "${file%/class}/config")" = ffffffff ] || return 1
    done
}

# abuse CLASS ACCESSES SEED: random accesses to the function of a class, owned by vfio-pci.
abuse() {
    class=$(pci_class "$1" | head -n 1)
    [ -n "$class" ] || { fail "a function of class $1 is there"; return 1; }
    dir=${class%/class}
    vfio_owns "$(cut -c 3- "$dir/vendor"):$(cut -c 3- "$dir/device")" || return 1
    uvfio-guest-tools abuse "$address" --accesses "$2" --seed "$3" >&3
}

# parity_with_the_kernel: sends what the program of that comparison prints on the kernel's VFIO.
parity_with_the_kernel() {
    vfio_owns 1234:11e8 || return 1
    text parity "/dev/vfio/$group" "$address"
}
