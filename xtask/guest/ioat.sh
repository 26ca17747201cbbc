# Intel's DMA engine with the kernel's own driver, which copies, waits for the interrupt and compares whenever it takes
# a function: a function that fails in that has no channels.

IOAT_ERRORS='ioat.*(rror|fail|alted|eset)|Self-test|self.test|BUG:|WARNING:|Oops'

# ioat_load CHANNELS STYLE: the driver is loaded, for interrupts by msix or intx, and finds the channels good.
ioat_load() {
    check "ioatdma loads" modprobe ioatdma "ioat_interrupt_style=$2"
    ioat_works "$1"
    check "interrupts came by $2" ioat_interrupted "ioat-$2"
}

ioat_works() {
    same "channels that the driver found good" "$1" "$(ls /sys/class/dma | wc -l)"
    kernel_reports_no "error of the DMA engine" "$IOAT_ERRORS"
}

# ioat_interrupted NAME: one of the interrupts of that name has come at least once.
ioat_interrupted() {
    awk -v name="$1" '$NF == name { for (n = 2; n < NF; n++) if ($n ~ /^[0-9]+$/) sum += $n } END { exit !sum }' \
        /proc/interrupts
}

ioat_unload() {
    check "ioatdma is unloaded" rmmod ioatdma
    same "channels without the driver" 0 "$(ls /sys/class/dma | wc -l)"
}

# ioat_returns ROUNDS CHANNELS: the function is unbound and bound, reset, removed and found again.
ioat_returns() {
    for round in $(seq "$1"); do
        address=$(pci_find 8086:2021) || { fail "a function 8086:2021 is there in round $round"; return 1; }
        function=/sys/bus/pci/devices/$address
        echo "$address" >"$function/driver/unbind"
        echo 1 >"$function/reset" || { fail "a reset in round $round"; return 1; }
        echo "$address" >/sys/bus/pci/drivers/ioatdma/bind
        [ "$(ls /sys/class/dma | wc -l)" = "$2" ] || { fail "channels after the reset in round $round"; return 1; }
        echo 1 >"$function/remove"
        [ "$(ls /sys/class/dma | wc -l)" = 0 ] || { fail "no channels once removed in round $round"; return 1; }
        echo 1 >/sys/bus/pci/rescan
        [ "$(ls /sys/class/dma | wc -l)" = "$2" ] || { fail "channels after the rescan in round $round"; return 1; }
    done
    ok "the function comes back $1 times from unbind and reset, and from removal"
    kernel_reports_no "error of the DMA engine" "$IOAT_ERRORS"
}

# ioat_by_vfio CHANNELS ROUNDS: a program of ours owns the function; then the kernel's driver has it again.
ioat_by_vfio() {
    vfio_owns 8086:2021 || return 1
    uvfio-guest-tools ioat "$address" --channels "$1" --rounds "$2" >&3 || return 1
}

# ioat_abuse ACCESSES SEED: random accesses.
ioat_abuse() {
    abuse 0x0880 "$1" "$2"
}

# ioat_comes_home CHANNELS: from vfio-pci to the kernel's driver.
ioat_comes_home() {
    address=$(pci_find 8086:2021) || { fail "a function 8086:2021 is there"; return 1; }
    driver_has "$address" ioatdma
    ioat_works "$1"
}
