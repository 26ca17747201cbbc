# PCI functions of the guest, through sysfs.

# pci_all VENDOR:DEVICE: the addresses of all such functions, one a line.
pci_all() {
    lspci -Dn -d "$1" | cut -d ' ' -f 1
}

# pci_find VENDOR:DEVICE: the address of the first such function. It asks the kernel, which knows a virtual function's, too.
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

# vfio_owns VENDOR:DEVICE: gives the first such function to vfio-pci; it is in $address.
vfio_owns() {
    address=$(pci_find "$1") || { fail "a function $1 is there"; return 1; }
    vfio_has "$address"
}

# virtual_function VENDOR:DEVICE: the physical function goes from vfio-pci to its own driver, which makes a virtual one.
virtual_function() {
    physical=$(pci_find "$1") || { fail "a function $1 is there"; return 1; }
    modprobe igb
    driver_has "$physical" igb || return 1
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

# The driver that has a function, as the kernel links it; nothing where there is none.
driver_of() {
    basename "$(readlink "/sys/bus/pci/devices/$1/driver")" 2>/dev/null
}

override_of() {
    cat "/sys/bus/pci/devices/$1/driver_override"
}

group_of() {
    basename "$(readlink -f "/sys/bus/pci/devices/$1/iommu_group")"
}

bars_of() {
    hexdump -s 16 -n 24 -e '6/4 "%08x "' "/sys/bus/pci/devices/$1/config"
}

# header_of ADDRESS: COMMAND, class and BARs as the hardware has them.
header_of() {
    for part in "4 2" "8 4" "16 24"; do
        od -An -tx1 -j "${part% *}" -N "${part#* }" "/sys/bus/pci/devices/$1/config"
    done | tr -d '\n'
}

has_header() {
    [ "$(header_of "$1")" = "$2" ]
}

# has_vectors ADDRESS COUNT: so many interrupts by message are the function's.
has_vectors() {
    [ "$(ls "/sys/bus/pci/devices/$1/msi_irqs" 2>/dev/null | wc -l)" = "$2" ]
}

masters_the_bus() {
    lspci -vv -s "$1" | grep -q "BusMaster+"
}

# lose_bar ADDRESS: takes BAR 0 from a function that nobody has.
lose_bar() {
    printf '\0\0\0\0' | dd of="/sys/bus/pci/devices/$1/config" bs=4 seek=4 conv=notrunc 2>/dev/null
    says "list shows that BAR 0 of $1 is lost" "! BAR 0 has lost its address" uvfio list "$1"
}

has_lost_bars() {
    uvfio list "$1" | grep "has lost its address"
}

# in_slot NUMBER: the address of the function below the root port of that slot.
in_slot() {
    echo "$(cat "/sys/bus/pci/slots/$1/address").0"
}

# vfio_has ADDRESS: gives the function to vfio-pci, wherever it is now; its group is in $group.
vfio_has() {
    modprobe vfio_iommu_type1
    modprobe vfio-pci
    echo vfio-pci >"/sys/bus/pci/devices/$1/driver_override"
    [ ! -e "/sys/bus/pci/devices/$1/driver" ] || echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind"
    echo "$1" >/sys/bus/pci/drivers_probe
    same "vfio-pci has $1" vfio-pci "$(driver_of "$1")" || return 1
    group=$(group_of "$1")
    check "its group has a file" test -e "/dev/vfio/$group"
}

# driver_has ADDRESS DRIVER: takes the function from vfio-pci, and lets the kernel find its own driver for it.
driver_has() {
    echo >"/sys/bus/pci/devices/$1/driver_override"
    echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind"
    echo "$1" >/sys/bus/pci/drivers_probe
    same "$2 has $1" "$2" "$(driver_of "$1")"
}

# port_powers_off SLOT: one write to the slot's control register, in PCI Express' structure at 0x54.
port_powers_off() {
    port=$(basename "$(readlink -f "/sys/bus/pci/devices/$(in_slot "$1")/..")")
    printf '\371\007' | dd of="/sys/bus/pci/devices/$port/config" bs=2 seek=54 conv=notrunc 2>/dev/null
}
