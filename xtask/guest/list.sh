# `uvfio list`, `bind`, `unbind` and `reset`, judged by what the kernel and lspci show.

list_load_drivers() {
    for driver in nvme virtio-blk igb e1000e xhci-pci; do
        check "the driver $driver is loaded" modprobe "$driver"
    done
    nvme=$(pci_find 1b36:0010)
    check "nvme has its disk" eventually 30 test -b /dev/nvme0n1
    check "the other disk is there" eventually 30 test -b /dev/vda
    refuses "bind without vfio-pci says how to get it" "modprobe vfio-pci" uvfio bind "$nvme"
    same "nvme has its driver still" nvme "$(driver_of "$nvme")"
    modprobe vfio_iommu_type1
    modprobe vfio-pci
}

# Each function's address and reset methods, as /sys has them.
list_reset_methods() {
    for dir in /sys/bus/pci/devices/*; do
        echo "$(basename "$dir") $(cat "$dir/reset_method" 2>/dev/null)"
    done
}

list_bind_twice() {
    nvme=$(pci_find 1b36:0010)
    says "bind gives nvme to vfio-pci" "went from nvme to vfio-pci" uvfio bind "$nvme"
    same "vfio-pci has it" vfio-pci "$(driver_of "$nvme")"
    group=$(group_of "$nvme")
    check "the group's node is there" test -c "/dev/vfio/$group"
    check "the disk is gone" test ! -e /dev/nvme0n1
    says "the second bind finds nothing to do" "is with vfio-pci already" uvfio bind "$nvme"
    same "vfio-pci has it still" vfio-pci "$(driver_of "$nvme")"
    says "list shows who has it" "driver vfio-pci; IOMMU group $group, viable; reset flr bus" uvfio list "$nvme"
}

list_unbind_twice() {
    nvme=$(pci_find 1b36:0010)
    says "unbind gives nvme back" "went back: driver nvme" uvfio unbind "$nvme"
    same "nvme has it" nvme "$(driver_of "$nvme")"
    same "no override is left" "(null)" "$(override_of "$nvme")"
    check "the disk is back" eventually 30 test -b /dev/nvme0n1
    says "the second unbind finds nothing to do" "is not with vfio-pci: driver nvme" uvfio unbind "$nvme"
    uvfio bind "$nvme"
    rm -r /run/uvfio
    says "unbind works without a note of the driver" "went back: driver nvme" uvfio unbind "$nvme"
    check "the disk is back again" eventually 30 test -b /dev/nvme0n1
}

# list_held_by NAME PID: what is said of nvme while that process holds it.
list_held_by() {
    says "list shows that $1 holds the function" "held by $1 (process $2)" uvfio list "$nvme"
    refuses "unbind is refused while $1 holds it" "is held by $1 (process $2)" uvfio unbind "$nvme"
    refuses "reset is refused while $1 holds it" "is held by $1 (process $2)" uvfio reset "$nvme"
    same "vfio-pci has it still" vfio-pci "$(driver_of "$nvme")"
}

# A function that a process has open: the kernel would wait for that process.
list_held() {
    nvme=$(pci_find 1b36:0010)
    uvfio bind "$nvme"
    group=$(group_of "$nvme")
    sleep 1000 4<>"/dev/vfio/$group" &
    holder=$!
    # Until it runs, the process is still a shell.
    eventually 10 grep -q sleep "/proc/$holder/comm"
    list_held_by sleep "$holder"
    kill "$holder"
    wait "$holder"
    says "unbind works once it is free" "went back: driver nvme" uvfio unbind "$nvme"
    eventually 30 test -b /dev/nvme0n1

    uvfio bind "$nvme"
    uvfio-guest-tools hold "$nvme" &
    holder=$!
    eventually 10 sh -c "ls -l /proc/$holder/fd | grep -q vfio-device && ! ls -l /proc/$holder/fd | grep -q /dev/vfio"
    # The name of a process is cut to 15 characters.
    list_held_by uvfio-guest-too "$holder"
    uvfio unbind --wait "$nvme" >/tmp/waited &
    waiter=$!
    check "unbind --wait waits for it, in the kernel" eventually 30 grep -q vfio "/proc/$waiter/wchan"
    same "and has said nothing yet" "" "$(cat /tmp/waited)"
    kill "$holder"
    wait "$waiter"
    same "it is given back when the process ends" "$nvme went back: driver nvme" "$(cat /tmp/waited)"
    eventually 30 test -b /dev/nvme0n1
}

list_virtual_functions() {
    igb=$(pci_find 8086:10c9)
    check "igb makes virtual functions" sh -c "echo 2 >/sys/bus/pci/devices/$igb/sriov_numvfs"
    virtual=$(basename "$(readlink "/sys/bus/pci/devices/$igb/virtfn1")")
    says "list shows them" "2 of 7 virtual functions: " uvfio list "$igb"
    says "and by their addresses" " $virtual" uvfio list "$igb"
    says "each knows where it belongs" "a virtual function of $igb" uvfio list "$virtual"
    refuses "the physical function is not taken from under them" "has 2 virtual functions" uvfio bind "$igb"
    says "one of them is bound" "$virtual went to vfio-pci" uvfio bind "$virtual"
    says "and given back to nobody, who had it" "$virtual went back: no driver" uvfio unbind "$virtual"
    echo 0 >"/sys/bus/pci/devices/$igb/sriov_numvfs"
    refuses "what is gone is not listed" "no PCI function $virtual" uvfio list "$virtual"
}

list_refuses_disks() {
    modprobe ext4
    nvme=$(pci_find 1b36:0010)
    disk=$(basename "$(readlink -f /sys/class/block/vda/device/..)")
    check "mke2fs makes a file system" /usr/sbin/mke2fs -F -q -t ext4 /dev/vda
    check "it is mounted" mount -t ext4 /dev/vda /mnt
    refuses "a disk with a mounted file system is refused" "it carries the file system on /mnt" uvfio bind "$disk"
    refuses "its reset is refused" "$disk" uvfio reset "$disk"
    same "its driver has it still" virtio-pci "$(driver_of "$disk")"
    check "files can be written" sh -c 'echo text >/mnt/file && sync'
    umount /mnt
    says "without the file system it is bound" "to vfio-pci" uvfio bind "$disk"
    says "and given back" "went back: driver virtio-pci" uvfio unbind "$disk"
    eventually 30 test -b /dev/vda
    check "swap is made on the other disk" mkswap /dev/nvme0n1
    check "and used" swapon /dev/nvme0n1
    refuses "a disk with swap is refused" "it carries swap space (/dev/nvme0n1)" uvfio bind "$nvme"
    swapoff /dev/nvme0n1
}

list_refuses_networks() {
    card=$(pci_find 8086:10d3)
    interface=$(ls "/sys/bus/pci/devices/$card/net")
    says "a network card that is down is free" "driver e1000e" uvfio list "$card"
    ip link set "$interface" up
    check "it gets a link" eventually 30 grep -q up "/sys/class/net/$interface/operstate"
    refuses "the only card that is up is refused" "it is the only network interface that is up ($interface)" \
        uvfio bind "$card"
    ip addr add 192.0.2.2/24 dev "$interface"
    ip route add default via 192.0.2.1
    refuses "the card of the default route is refused" "the default route leads over it ($interface)" \
        uvfio bind "$card"
    same "its driver has it still" e1000e "$(driver_of "$card")"
    says "with --force it is bound" "went from e1000e to vfio-pci" uvfio bind --force "$card"
    same "vfio-pci has it" vfio-pci "$(driver_of "$card")"
    says "and given back" "went back: driver e1000e" uvfio unbind "$card"
    same "its driver has it" e1000e "$(driver_of "$card")"
}

# A dword of igb's MSI capability, which the kernel restores only where MSI is on: what is written there is gone after a
# reset, and only then.
igb_msi_address() {
    dd if="/sys/bus/pci/devices/$igb/config" bs=4 skip=21 count=1 2>/dev/null | hexdump -e '1/4 "%08x"'
}

list_resets() {
    igb=$(pci_find 8086:10c9)
    config=/sys/bus/pci/devices/$igb/config
    refuses "reset is refused under a driver" "driven by igb" uvfio reset "$igb"
    says "and done with --force" "was reset by the first that worked of flr, pm" uvfio reset --force "$igb"
    uvfio bind "$igb"
    # Asleep it could lose the register by itself.
    echo on >"/sys/bus/pci/devices/$igb/power/control"
    same "igb has MSI at 0x50" 05 "$(dd if="$config" bs=1 skip=80 count=1 2>/dev/null | hexdump -e '1/1 "%02x"')"
    printf '\x00\x10\xe0\xfe' | dd of="$config" bs=4 seek=21 conv=notrunc 2>/dev/null
    same "a register is written" fee01000 "$(igb_msi_address)"
    says "reset works under vfio-pci" "was reset" uvfio reset "$igb"
    same "the register is as after a reset" 00000000 "$(igb_msi_address)"
    uvfio unbind "$igb"
    same "igb has its driver again" igb "$(driver_of "$igb")"
    usb=$(pci_find 1033:0194)
    refuses "what has no reset method is not reset" "has no reset method" uvfio reset --force "$usb"
}

# Two functions behind one bridge share a group.
list_shared_group() {
    edu=$(pci_find 1234:11e8)
    usb=$(pci_find 1033:0194)
    bridge=$(pci_find 1b36:000e)
    same "the two share a group" "$(group_of "$edu")" "$(group_of "$usb")"
    same "the bridge has a driver that says nothing of its DMA" shpchp "$(driver_of "$bridge")"
    says "list names the other function" "$usb is driven by xhci_hcd" uvfio list "$edu"
    says "so does bind" "can't be opened yet: $usb is driven by xhci_hcd" uvfio bind "$edu"
    same "the kernel agrees" "not viable" "$(uvfio-guest-tools viability "$edu")"
    says "bind takes the other too" "went from xhci_hcd to vfio-pci" uvfio bind "$usb"
    says "list names the bridge" "not viable: $bridge, a bridge, is driven by shpchp" uvfio list "$edu"
    same "the kernel agrees about the bridge" "not viable" "$(uvfio-guest-tools viability "$edu")"
    refuses "the bridge is not for vfio-pci" "is a bridge" uvfio bind "$bridge"
    echo "$bridge" >/sys/bus/pci/drivers/shpchp/unbind
    says "list finds nothing in the way" ", viable;" uvfio list "$edu"
    same "the kernel agrees again" viable "$(uvfio-guest-tools viability "$edu")"
    uvfio unbind "$edu" "$usb"
    same "the other has its driver again" xhci_hcd "$(driver_of "$usb")"
    same "the one had none" "" "$(driver_of "$edu")"
}
