# A QEMU inside the guest as the user of our server. It has no processor: a program of ours makes its accesses.

# qemu_without_processor SOCKET...: starts it, with the devices behind these sockets in slots from 4 on.
qemu_without_processor() {
    rm -f /tmp/qtest.sock
    # It wants firmware, which nothing will run.
    dd if=/dev/zero of=/tmp/firmware bs=65536 count=1 2>/dev/null
    devices=
    slot=4
    for socket in "$@"; do
        # Two words each, without a space in them.
        devices="$devices -device {\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"$socket\"},\"addr\":\"$slot\"}"
        slot=$((slot + 1))
    done
    # shellcheck disable=SC2086
    qemu-system-x86_64 -bios /tmp/firmware -accel qtest -qtest unix:/tmp/qtest.sock,server=on,wait=off -nodefaults -display none -nic none \
        -m 64M -object memory-backend-memfd,id=m,size=64M,share=on -machine q35,memory-backend=m $devices >/tmp/qemu.log 2>&1 &
    echo $! >/tmp/qemu.pid
}

# qemu_identifies SLOT SERIAL SERVER: the controller in that slot is driven, and says its serial number into QEMU's memory.
qemu_identifies() {
    eventually 60 test -S /tmp/qtest.sock
    uvfio-guest-tools qtest-identify /tmp/qtest.sock --slot "$1" --serial "$2" >&3 ||
        fail "QEMU runs: expected no words got $(tail -n 3 /tmp/qemu.log "/tmp/$3.log" | tr '\n' ';')"
}

# qemu_maps GRANT COUNT: QEMU has mapped so many functions where that is granted, and else none.
qemu_maps() {
    count=0
    [ "$1" != device-fd ] || count=$2
    # Each page that may be mapped is a line; another file is another inode.
    mapped=$(grep -F 'anon_inode:[vfio-device]' "/proc/$(cat /tmp/qemu.pid)/maps" | wc -l)
    same "functions that QEMU has mapped, granted $1" "$count" "$mapped"
}

# serve_to_qemu VENDOR:DEVICE SERIAL GRANT: the first controller is in a QEMU.
serve_to_qemu() {
    nvme=$(pci_find "$1")
    says "bind gives the controller to vfio-pci" "vfio-pci" uvfio bind "$nvme"
    serve_as root nvme "$nvme --bars $3" || return 1
    qemu_without_processor /tmp/nvme.sock
    logged nvme "a QEMU attaches to the function" "attached"
    qemu_identifies 4 "$2" nvme
    qemu_maps "$3" 1
    kill "$(cat /tmp/qemu.pid)"
    serve_end nvme
}

# serve_group_to_qemu VENDOR:DEVICE SERIAL SERIAL GRANT: the last two controllers, of one group, are in one QEMU, which maps
# its memory by the socket of each.
serve_group_to_qemu() {
    last_two "$1"
    for function in $both; do uvfio bind "$function"; done
    group_serve root "$both" "--bars $4" || return 1
    # shellcheck disable=SC2046
    qemu_without_processor $(for function in $both; do echo "/tmp/group/$function.sock"; done)
    for function in $both; do logged group "a QEMU attaches to $function" "$function: attached"; done
    qemu_identifies 4 "$2" group
    qemu_identifies 5 "$3" group
    qemu_maps "$4" 2
    same "no mapping of either is refused" "" "$(grep -E 'DMA map|held back' /tmp/group.log | head -n 1)"
    kill "$(cat /tmp/qemu.pid)"
    serve_end group
}

# serve_taken_from_qemu VENDOR:DEVICE SERIAL: the kernel wants the controller back. QEMU attaches nothing to REQ, and goes on
# with a device that is gone.
serve_taken_from_qemu() {
    nvme=$(pci_find "$1")
    serve_as root nvme "$nvme --release-within 1" || return 1
    qemu_without_processor /tmp/nvme.sock
    logged nvme "a QEMU attaches to the function" "attached"
    qemu_identifies 4 "$2" nvme
    remover nvme "$(unbinding "$nvme")"
    logged nvme "it is taken from the QEMU when the time is up" "it was not given back in time"
    removed nvme "whoever takes it goes on" 30
    check "QEMU goes on" kill -0 "$(cat /tmp/qemu.pid)"
    refuses "with a device that is gone" "" \
        uvfio-guest-tools qtest-identify /tmp/qtest.sock --slot 4 --serial "$2"
    kill "$(cat /tmp/qemu.pid)"
    server_gives_back nvme 30 "the kernel wanted the function back"
}
