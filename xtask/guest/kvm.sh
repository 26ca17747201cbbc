# Virtual machines of KVM's in the guest, with devices of our own server.

kvm_is_there() {
    modprobe kvm-amd
    check "the guest has KVM" test -c /dev/kvm
}

# kvm_serve DEVICE: our server of a software device, at /tmp/DEVICE.sock.
kvm_serve() {
    uvfio serve "$1" --socket "/tmp/$1.sock" >"/tmp/$1.log" 2>&1 &
    check "$1 is served" eventually 30 test -S "/tmp/$1.sock"
}

kvm_doorbell() {
    kvm_serve notify && uvfio-guest-tools kvm-doorbell /tmp/notify.sock >&3
}

kvm_level() {
    kvm_serve edu && uvfio-guest-tools kvm-level /tmp/edu.sock >&3
}
