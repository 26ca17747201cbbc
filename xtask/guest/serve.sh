# Our server as the owner of functions that exist: who may, for whom, and what is left of a user.

serve_refusals() {
    edu=$(pci_find 1234:11e8)
    nvme=$(pci_find 1b36:0010)
    refuses "a function without a driver is refused" "$edu has no driver; give it to vfio-pci first, as root: uvfio bind $edu" \
        uvfio serve "$edu" --socket /tmp/no.sock
    modprobe nvme
    check "the driver nvme has it" eventually 30 test -e "/sys/bus/pci/drivers/nvme/$nvme"
    refuses "a function with another driver is refused" "is with the driver nvme; give it to vfio-pci first" \
        uvfio serve "$nvme" --socket /tmp/no.sock
    refuses "a function that is not there is refused" "there is no PCI function 0000:fe:1f.7" \
        uvfio serve fe:1f.7 --socket /tmp/no.sock
    refuses "what is no address is refused" "is no PCI address" uvfio serve 01:00 --socket /tmp/no.sock
    check "nobody made a socket" test ! -e /tmp/no.sock
    says "bind gives nvme to vfio-pci" "to vfio-pci" uvfio bind "$nvme"
    says "bind gives edu to vfio-pci" "to vfio-pci" uvfio bind "$edu"
}

# The group of a function is not viable while another one of it has a driver.
serve_not_viable() {
    test_device=$(pci_find 1b36:0005)
    uvfio bind "$test_device"
    refuses "a function whose group is not viable is refused" "is driven by virtio-pci (\`uvfio bind" \
        uvfio serve "$test_device" --socket /tmp/no.sock
}

serve_edu() {
    edu=$(pci_find 1234:11e8)
    serve_as root edu "$edu" || return 1
    # While nobody has been there yet: from one lease to the next the group is closed for a moment.
    refuses "a function that is served is refused" "is in use: uvfio (process" uvfio serve "$edu" --socket /tmp/no.sock
    same "the user sees what lspci sees" "$(lspci -n -s "$edu" | cut -d ' ' -f 2-)" "$(identity_of /tmp/edu.sock)"
    drives "edu computes for another user" "^10! = 3628800" edu /tmp/edu.sock
    drives "edu copies by DMA, with interrupts" "^the same: true" edu /tmp/edu.sock
    serve_end edu
}

# Its socket is the server's own until somebody gives it away.
serve_given_away() {
    edu=$(pci_find 1234:11e8)
    rm -f /tmp/given.sock
    serve_in_background given uvfio serve "$edu" --socket /tmp/given.sock
    check "edu is served" eventually 60 test -S /tmp/given.sock
    refuses "the socket is nobody else's" "Permission denied" su guest -c "uvfio show /tmp/given.sock"
    chown guest /tmp/given.sock
    check "whom it is given has the device" su guest -c "uvfio show /tmp/given.sock"
    serve_end given
}

# The views that show the function's own registers: who may have which, and a driver in each.
serve_views() {
    edu=$(pci_find 1234:11e8)
    group=$(group_of "$edu")
    bars=$(bars_of "$edu")
    says "diff compares all registers for root" "Base Address: hardware" uvfio diff "$edu"
    for view in filtered raw; do
        serve_as root edu "$edu --view $view" || return 1
        same "$view: the user sees what lspci sees" "$(lspci -n -s "$edu" | cut -d ' ' -f 2-)" "$(identity_of /tmp/edu.sock)"
        drives "$view: edu copies by DMA, with interrupts" "^the same: true" edu /tmp/edu.sock
        drives "$view: and for the next user" "^the same: true" edu /tmp/edu.sock
        serve_end edu
        same "$view: the BARs are where they were" "$bars" "$(bars_of "$edu")"
    done
    logged edu "the log says what who has the raw view may do" "it is inside the trusted base"
    chown owner "/dev/vfio/$group"
    refuses "the raw view is none of an ordinary user's" "$edu has no raw view for its user" \
        su owner -c "uvfio serve $edu --view raw --socket /tmp/no.sock"
    says "diff compares what an ordinary user may read, and says so" "only the first 64 of" su owner -c "uvfio diff $edu"
    serve_as owner edu "$edu --view filtered" || return 1
    drives "filtered: edu copies by DMA for another user of an ordinary one" "^the same: true" edu /tmp/edu.sock
    serve_end edu
    chown root "/dev/vfio/$group"
}

serve_edu_as_owner() {
    edu=$(pci_find 1234:11e8)
    group=$(group_of "$edu")
    chown root "/dev/vfio/$group"
    refuses "the owner of nothing is told what to do" "chown 1005 /dev/vfio/$group" \
        su owner -c "uvfio serve $edu --socket /tmp/no.sock"
    chown owner "/dev/vfio/$group"
    serve_as owner edu "$edu" || return 1
    drives "edu copies by DMA for another user of an ordinary one" "^the same: true" edu /tmp/edu.sock
}

serve_interrupts() {
    su guest -c "exec uvfio-guest-tools interrupts /tmp/edu.sock $(cat /tmp/edu.pid)" >&3
}

# serve_keep_busy [OPTION]: a user of edu whose device does DMA all the time.
serve_keep_busy() {
    in_background busy busy su guest -c "exec uvfio-guest-tools keep-busy $* /tmp/edu.sock"
}

serve_next_user() {
    su guest -c "exec uvfio-guest-tools next-user /tmp/edu.sock" >&3
}

# A user is killed in the midst of DMA: what the function is like before and after, and for the next user.
serve_user_killed() {
    edu=$(pci_find 1234:11e8)
    before=$(header_of "$edu")
    serve_keep_busy
    check "while it has a user, the function masters the bus" masters_the_bus "$edu"
    ends busy
    serve_next_user
    check "COMMAND, class and BARs in the hardware are as before the first user" \
        eventually 30 has_header "$edu" "$before" || echo "before: $before, now: $(header_of "$edu")"
    check "and no vector is left" has_vectors "$edu" 0
}

# Something resets the function behind the back of its server, and takes the BARs of it.
serve_bars_lost() {
    edu=$(pci_find 1234:11e8)
    serve_keep_busy
    before=$(header_of "$edu")
    printf '\0\0\0\0' | dd of="/sys/bus/pci/devices/$edu/config" bs=4 seek=4 conv=notrunc 2>/dev/null
    check "BARs that are lost while it has a user are put back" eventually 30 has_header "$edu" "$before" ||
        echo "before: $before, now: $(header_of "$edu")"
    logged edu "and that is said" "BARs were lost behind our back, and are put back"
    ends busy
    serve_next_user
}

# Somebody keeps a descriptor of the function beyond the lease.
serve_held() {
    serve_keep_busy
    in_background hold held uvfio-guest-tools hold-of "$(worker_of edu)"
    ends busy
    logged edu "a function that somebody keeps is held, and not leased" "held, not leased"
    refuses "nobody gets it" "" timeout 3 su guest -c "uvfio-guest-tools next-user /tmp/edu.sock"
    ends hold
    logged edu "it is free when that has ended" "free again"
    serve_next_user
}

# is_gone_for_its_user WHY: the device of the busy user reads all ones, and takes requests.
is_gone_for_its_user() {
    check "the user whose device $1 reads all ones" \
        eventually 30 grep -q "stopped: the device reads all ones" /tmp/busy.out || cat /tmp/busy.out
    check "the user whose device $1 may unmap" eventually 30 grep -q "note unmapped" /tmp/busy.out
}

# The function is stopped though it stays open: somebody has a descriptor of it.
serve_worker_killed() {
    edu=$(pci_find 1234:11e8)
    serve_keep_busy
    in_background hold held uvfio-guest-tools hold-of "$(worker_of edu)"
    check "the function masters the bus" masters_the_bus "$edu"
    kill -9 "$(worker_of edu)"
    is_gone_for_its_user "has lost its worker"
    logged edu "it is said whose device is gone" "the device is gone for"
    logged edu "the function is stopped and reset" "stopped and reset"
    refuses "it does not master the bus any more" "" masters_the_bus "$edu"
    ends hold busy
    serve_next_user
    serve_keep_busy
    kill -USR1 "$(cat /tmp/edu.pid)"
    is_gone_for_its_user "is taken away"
    ends busy
    logged edu "the server ends after that" "it was taken away, and its user has left"
    server_is_gone edu 30 0
    check "nothing of VFIO is open any more" eventually 10 nobody_holds "$(pci_find 1234:11e8)"
}

# The limit of locked memory is the worker's: the user's device stays without bus mastering.
serve_locked_memory() {
    edu=$(pci_find 1234:11e8)
    serve_as owner edu "$edu" "ulimit -l 0" || return 1
    refuses "no memory is locked beyond the limit" "" su guest -c "timeout 30 edu /tmp/edu.sock"
    logged edu "the refusal says what to do" "ulimit -l"
    same "the worker lives" "" "$(grep died /tmp/edu.log | head -n 1)"
    serve_end edu
}

serve_nvme_as_owner() {
    nvme=$(pci_find 1b36:0010)
    chown owner "/dev/vfio/$(group_of "$nvme")"
    serve_as owner nvme "$nvme" || return 1
    same "the user sees what lspci sees" "$(lspci -n -s "$nvme" | cut -d ' ' -f 2-)" "$(identity_of /tmp/nvme.sock)"
}

serve_nvme_writes() {
    in_background writer "flushed 5" su guest -c "exec uvfio-guest-tools nvme-write /tmp/nvme.sock --records 8192"
}

# Ends in the midst of a write; what it had flushed by then is told to the host.
serve_nvme_killed() {
    ends writer
    # The last line may have been cut short.
    text sh -c "grep -o 'flushed [0-9]*$' /tmp/writer.out | tail -n 2 | head -n 1"
}

serve_nvme_driver() {
    drives "the driver for NVMe reads what it wrote" "the same: true|blocks are as they were written" \
        nvme /tmp/nvme.sock --overwrite --reads=200
    serve_end nvme
}

# Policy: what it stores is erased for the next user. The host looks into the disk meanwhile.
serve_nvme_to_be_erased() {
    nvme=$(pci_find 1b36:0010)
    serve_as root nvme "$nvme --between-users format" || return 1
    drives "the first user finds what was stored before" "the same: true|blocks are as they were written" \
        nvme /tmp/nvme.sock --overwrite --reads=20
}

serve_nvme_erased() {
    logged nvme "the controller is erased for the next user" "erased"
    check "who is served" eventually 60 uvfio show /tmp/nvme.sock
    serve_end nvme
}

# Policy: one user. And what can't be erased.
serve_once() {
    edu=$(pci_find 1234:11e8)
    eventually 30 nobody_holds "$edu"
    refuses "what is no NVMe controller can't be erased" "--between-users format: $edu: this driver can't run the controller" \
        uvfio serve "$edu" --between-users format --socket /tmp/no.sock
    serve_as root edu "$edu --between-users never" || return 1
    check "its only user is served" uvfio show /tmp/edu.sock
    logged edu "it has no other" "policy lets it have no other one"
    server_is_gone edu 10 0
}

# The controller's registers are mapped, by its own descriptor.
serve_nvme_mapped() {
    nvme=$(pci_find 1b36:0010)
    says "the list says that they can be" "BARs trapped device-fd" uvfio list "$nvme"
    refuses "what the kernel can't do is refused, and it is said what it lacks" "can't map a dma-buf of it into a process" \
        uvfio serve "$nvme" --socket /tmp/no.sock --bars dmabuf
    serve_as owner nvme "$nvme --bars device-fd" || return 1
}

# keep_mapped SERVER SOCKET [OPTION]: a user of a controller who has its registers mapped.
keep_mapped() {
    in_background mapped mapped su guest -c "exec uvfio-guest-tools keep-mapped $2 $3"
    logged "$1" "it is in the audit log what the user has" "is given the function's descriptor"
}

faults() {
    check "what is mapped of a function that $1 faults" eventually 30 grep -q "note faults" /tmp/mapped.out
}

# A user who is gone and keeps its mapping keeps the function.
serve_nvme_mapping_kept() {
    keep_mapped nvme /tmp/nvme.sock --leave
    logged nvme "a function that is mapped is held, and not leased" "held, not leased"
    faults "is held"
    refuses "nobody gets it" "" timeout 3 uvfio show /tmp/nvme.sock
    ends mapped
    logged nvme "it is free when the mapping is undone" "free again"
}

serve_nvme_mapped_driver() {
    runs "the driver for NVMe runs as guest" \
        su guest -c "nvme /tmp/nvme.sock --overwrite --reads=200" || return 1
    printed "NVMe 1\.4.*, mapped doorbells"
}

serve_nvme_mapped_gone() {
    keep_mapped nvme /tmp/nvme.sock
    kill -9 "$(worker_of nvme)"
    faults "has lost its worker"
    ends mapped
    keep_mapped nvme /tmp/nvme.sock
    kill -USR1 "$(cat /tmp/nvme.pid)"
    faults "is taken away"
    ends mapped
    logged nvme "the server ends after that" "it was taken away, and its user has left"
}

# The kernel puts them back when the function is opened.
serve_lost_bar() {
    edu=$(pci_find 1234:11e8)
    lose_bar "$edu"
    serve_as root edu "$edu" || return 1
    drives "it is back when the function is served" "^the same: true" edu /tmp/edu.sock
    serve_end edu
}

# A function that nobody can reset has one user.
serve_no_reset() {
    xhci=$(pci_find 1033:0194)
    uvfio bind "$xhci"
    lose_bar "$xhci"
    serve_as root xhci "$xhci" || return 1
    refuses "it is back when the function is served" "" has_lost_bars "$xhci"
    logged xhci "it is said at the start that there will be one user" "can't be reset"
    check "its first user is served" uvfio show /tmp/xhci.sock
    logged xhci "there is no second one" "it can't be reset for another one"
    server_is_gone xhci 10 0
}

# serve_neighbours VENDOR:DEVICE: two functions of the kind, each with a user who tries the other one's memory.
serve_neighbours() {
    number=0
    for edu in $(pci_all "$1"); do
        number=$((number + 1))
        says "bind gives edu $number to vfio-pci" "to vfio-pci" uvfio bind "$edu"
        serve_as root "edu$number" "$edu" || return 1
    done
    same "there are two functions" 2 $number
    uvfio-guest-tools neighbours /tmp/edu1.sock /tmp/edu2.sock >&3
    # Of accesses that come soon after one another the hardware may report one.
    for edu in $(pci_all "$1"); do
        check "the IOMMU has stopped accesses of $edu" eventually 5 sh -c "dmesg | grep -q 'DMAR: .DMA .*${edu#0000:}'"
    done
    serve_end edu1
    serve_end edu2
}

# serve_messages COUNT: an edu that vfio-pci has, by way of our server.
serve_messages() {
    serve_as root edu "$(pci_find 1234:11e8)" || return 1
    uvfio-guest-tools messages /tmp/edu.sock "$1" >&3
    uvfio-guest-tools growing /tmp/edu.sock "$1" >&3
    serve_end edu
}

# serve_face VENDOR:DEVICE: a function's user finds the same in its header by our server as by the kernel.
serve_face() {
    function=$(pci_find "$1")
    uvfio bind "$function"
    kernel=$(uvfio-guest-tools face "$function")
    serve_as root function "$function" || return 1
    same "identity and BARs of $1 by our server and by the kernel" "$kernel" "$(uvfio-guest-tools face /tmp/function.sock)"
    # One that can't be reset has one user, and its server ends by itself.
    kill -TERM "$(cat /tmp/function.pid)" 2>/dev/null
    server_is_gone function 30 0
}

# Without interrupt remapping, on a kernel that insists on it: no option of ours overrides that.
serve_interrupts_not_remapped() {
    edu=$(pci_find 1234:11e8)
    says "bind gives edu to vfio-pci" "to vfio-pci" uvfio bind "$edu"
    refuses "the kernel's refusal is passed on" "does not remap interrupts" \
        uvfio serve "$edu" --unsafe-interrupts --socket /tmp/no.sock
    same "the list says nothing of interrupts that no user gets" "" "$(uvfio list | grep 'interrupts not isolated')"
}

# The same, on a kernel that was told to do without.
serve_unsafe_interrupts() {
    edu=$(pci_find 1234:11e8)
    says "the list says that interrupts are not isolated" "interrupts not isolated" uvfio list "$edu"
    says "and so in its JSON" '"interrupts_not_isolated": true' uvfio list "$edu" --json
    refuses "a function whose interrupts are not isolated is refused" "serve it with --unsafe-interrupts" \
        uvfio serve "$edu" --socket /tmp/no.sock
    serve_as root edu "$edu --unsafe-interrupts" || return 1
    logged edu "the log says what its user can do" "its user can raise any interrupt of this machine"
    uvfio-guest-tools messages /tmp/edu.sock 1 >&3
    serve_end edu
}

# serve_true: a device that does not lie has a user.
serve_true() {
    uvfio bind "$(pci_find 1234:11e8)"
    serve_edu_again || return 1
    serve_next_user
    serve_end edu
}

serve_edu_again() {
    serve_as root edu "$(pci_find 1234:11e8)"
}

# serve_lie SENTENCE: a device that lies is refused with the sentence.
serve_lie() {
    refuses "a device that lies is refused" "$1" uvfio serve "$(pci_find 1234:11e8)" --socket /tmp/no.sock
}

serve_slow_reset() {
    uvfio-guest-tools slow-reset /tmp/edu.sock >&3
}

# The worker dies, and what its supervisor finds after the reset is not what it was.
serve_changed() {
    kill -9 "$(worker_of edu)"
    is_gone_for_its_user "has lost its worker"
    logged edu "the function is compared with what it was" \
        "did not come back from its reset: Revision ID (register 0x08) is 0x99"
    ends busy
    server_is_gone edu 30 1
    logged edu "a function that has changed gets no other user" "it gets no other user"
}

# The user leaves, and what comes back is another function.
serve_exchanged() {
    ends busy
    server_is_gone edu 30 1
    check "a function that has become another one gets no other user, and it is said why" \
        grep -qE "no longer the function that it was|did not come back" /tmp/edu.log || tail -n 3 /tmp/edu.log
}

# A kernel that is locked down lets not even root write to configuration space past it.
serve_locked_down() {
    mount -t securityfs securityfs /sys/kernel/security
    check "the kernel is locked down" grep -qF "[integrity]" /sys/kernel/security/lockdown || return 1
    says "doctor says so" "lockdown: integrity" uvfio doctor
    edu=$(pci_find 1234:11e8)
    says "bind gives edu to vfio-pci" "to vfio-pci" uvfio bind "$edu"
    refuses "configuration space can't be written by /sys" "Operation not permitted" \
        sh -c "printf '\0' | dd of=/sys/bus/pci/devices/$edu/config bs=1 seek=13 conv=notrunc"
    refuses "so there is no raw view" "locked down" uvfio serve "$edu" --view raw --socket /tmp/no.sock
    for view in virtual filtered; do
        serve_as root edu "$edu --view $view" || return 1
        drives "$view: edu copies by DMA, with interrupts" "^the same: true" edu /tmp/edu.sock
        drives "$view: and for the next user" "^the same: true" edu /tmp/edu.sock
        serve_end edu
    done
}
