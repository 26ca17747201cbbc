# Our server as the owner of functions that exist: who may, for whom, and what is left of a user.

# Two ordinary users: one serves, the other is served.
serve_users() {
    mkdir -p /etc
    grep -q ^root: /etc/passwd 2>/dev/null || echo 'root:x:0:0::/:/bin/sh' >>/etc/passwd
    for name in owner guest; do
        id=$((1000 + ${#name}))
        [ $name = guest ] && id=$((id + 100))
        echo "$name:x:$id:$id::/tmp:/bin/sh" >>/etc/passwd
        echo "$name:x:$id:" >>/etc/group
        same "there is the user $name" $id "$(su $name -c 'id -u')"
    done
    chmod 1777 /tmp
    modprobe vfio_iommu_type1
    modprobe vfio-pci
}

# serve_as USER NAME ADDRESS [LIMIT [OPTION...]]: a server of the function, run by the user, open to everybody.
serve_as() {
    rm -f "/tmp/$2.sock"
    limit=${4:+"ulimit -l $4;"}
    su "$1" -c "$limit exec uvfio serve $3 --socket /tmp/$2.sock --log info $5 $6" >"/tmp/$2.log" 2>&1 &
    echo $! >"/tmp/$2.pid"
    if eventually 30 test -S "/tmp/$2.sock"; then
        ok "$1 serves $3"
        chmod 666 "/tmp/$2.sock"
    else
        fail "$1 serves $3: expected a socket got $(tail -n 1 "/tmp/$2.log")"
        return 1
    fi
}

# serve_end NAME: ends a server, which must end in order.
serve_end() {
    kill -TERM "$(cat "/tmp/$1.pid")"
    logged "$1" "the server of $1 ends when told to" "has ended"
    eventually 30 server_is_gone "$1"
}

server_is_gone() {
    ! kill -0 "$(cat "/tmp/$1.pid")"
}

# logged NAME WHAT PART: a server says this, now or soon.
logged() {
    if eventually 30 grep -qF "$3" "/tmp/$1.log"; then
        ok "$2"
    else
        fail "$2: expected $3 got $(tail -n 3 "/tmp/$1.log" | tr '\n' ';')"
    fi
}

# The process that serves: the server's only child.
worker_of() {
    server=$(cat "/tmp/$1.pid")
    for stat in /proc/[0-9]*/stat; do
        # After the name in parentheses: state, parent.
        parent=$(sed 's/.*) [A-Z] \([0-9]*\) .*/\1/' "$stat" 2>/dev/null)
        [ "$parent" != "$server" ] || basename "${stat%/stat}"
    done | head -n 1
}

# drives WHAT PATTERN COMMAND...: a driver, run by the user `guest`, succeeds and prints such a line.
drives() {
    what=$1
    pattern=$2
    shift 2
    if su guest -c "$*" >/tmp/driven 2>&1 && grep -qE "$pattern" /tmp/driven; then
        ok "$what"
    else
        fail "$what: expected $pattern got $(tail -n 2 /tmp/driven | tr '\n' ';')"
    fi
}

group_of() {
    basename "$(readlink -f "/sys/bus/pci/devices/$1/iommu_group")"
}

serve_refusals() {
    edu=$(pci_find 1234:11e8)
    nvme=$(pci_find 1b36:0010)
    refuses "a function without a driver is refused" "$edu has no driver; give it to vfio-pci first, as root: uvfio bind $edu" \
        uvfio serve "$edu" --socket /tmp/no.sock
    modprobe nvme
    eventually 30 sh -c 'test -b /dev/nvme?n1'
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

# identity_of SOCKET: class, vendor:device and revision, as our command shows them.
identity_of() {
    uvfio show "$1" | sed -n '1s/.*: \([0-9a-f]\{4\}:[0-9a-f]\{4\}\) .*\[\(....\)..\], revision \(..\),.*/\2: \1 (rev \3)/p'
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

bars_of() {
    hexdump -s 16 -n 24 -e '6/4 "%08x "' "/sys/bus/pci/devices/$1/config"
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

# in_background NAME NOTE COMMAND...: starts what runs until it is killed, and waits until it has said its note.
in_background() {
    name=$1
    said=$2
    shift 2
    "$@" >"/tmp/$name.out" 2>&1 &
    echo $! >"/tmp/$name.pid"
    check "$name runs" eventually 60 grep -q "UVFIO note $said" "/tmp/$name.out" || cat "/tmp/$name.out"
}

serve_keep_busy() {
    in_background busy busy su guest -c "exec uvfio-guest-tools keep-busy /tmp/edu.sock"
}

serve_next_user() {
    su guest -c "exec uvfio-guest-tools next-user /tmp/edu.sock" >&3
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

# A user is killed in the midst of DMA: what the function is like before and after, and for the next user.
serve_user_killed() {
    edu=$(pci_find 1234:11e8)
    before=$(header_of "$edu")
    serve_keep_busy
    check "while it has a user, the function masters the bus" masters_the_bus "$edu"
    kill -9 "$(cat /tmp/busy.pid)"
    serve_next_user
    check "COMMAND, class and BARs in the hardware are as before the first user" \
        eventually 30 has_header "$edu" "$before" || echo "before: $before, now: $(header_of "$edu")"
    check "and no vector is left" has_vectors "$edu" 0
}

# Something resets the function behind the back of its server, and takes the BARs of it.
serve_bars_lost() {
    edu=$(pci_find 1234:11e8)
    in_background busy busy su guest -c "exec uvfio-guest-tools keep-busy /tmp/edu.sock"
    before=$(header_of "$edu")
    printf '\0\0\0\0' | dd of="/sys/bus/pci/devices/$edu/config" bs=4 seek=4 conv=notrunc 2>/dev/null
    check "BARs that are lost while it has a user are put back" eventually 30 has_header "$edu" "$before" ||
        echo "before: $before, now: $(header_of "$edu")"
    logged edu "and that is said" "BARs were lost behind our back, and are put back"
    kill -9 "$(cat /tmp/busy.pid)"
    serve_next_user
}

# Somebody keeps a descriptor of the function beyond the lease.
serve_held() {
    serve_keep_busy
    in_background hold held uvfio-guest-tools hold-of "$(worker_of edu)"
    kill -9 "$(cat /tmp/busy.pid)"
    logged edu "a function that somebody keeps is held, and not leased" "held, not leased"
    if timeout 3 su guest -c "uvfio-guest-tools next-user /tmp/edu.sock" >/dev/null 2>&1; then
        fail "nobody gets it: expected no service got a lease"
    else
        ok "nobody gets it"
    fi
    kill -9 "$(cat /tmp/hold.pid)"
    logged edu "it is free when that has ended" "free again"
    serve_next_user
}

masters_the_bus() {
    lspci -vv -s "$1" | grep -q "BusMaster+"
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
    kill -9 "$(cat /tmp/hold.pid)" "$(cat /tmp/busy.pid)"
    serve_next_user
    serve_keep_busy
    kill -USR1 "$(cat /tmp/edu.pid)"
    is_gone_for_its_user "is taken away"
    kill -9 "$(cat /tmp/busy.pid)"
    logged edu "the server ends after that" "it was taken away, and its user has left"
    eventually 30 server_is_gone edu
    check "nothing of VFIO is open any more" eventually 10 nobody_holds "$(pci_find 1234:11e8)"
}

nobody_holds() {
    ! uvfio list "$1" | grep -q "held by"
}

# The limit of locked memory is the worker's: the user's device stays without bus mastering.
serve_locked_memory() {
    edu=$(pci_find 1234:11e8)
    serve_as owner edu "$edu" 0 || return 1
    if su guest -c "timeout 30 edu /tmp/edu.sock" >/tmp/driven 2>&1; then
        fail "no memory is locked beyond the limit: expected a failure got $(tail -n 1 /tmp/driven)"
    else
        ok "no memory is locked beyond the limit"
    fi
    logged edu "the refusal says what to do" "ulimit -l"
    if grep -q "died" /tmp/edu.log; then
        fail "the worker lives: expected no death got $(grep died /tmp/edu.log | head -n 1)"
    else
        ok "the worker lives"
    fi
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
    kill -9 "$(cat /tmp/writer.pid)"
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
    check "and the server has ended" eventually 10 server_is_gone edu
}

# The controller's registers are mapped, by its own descriptor.
serve_nvme_mapped() {
    nvme=$(pci_find 1b36:0010)
    says "the list says that they can be" "BARs trapped device-fd" uvfio list "$nvme"
    refuses "what the kernel can't do is refused, and it is said what it lacks" "can't map a dma-buf of it into a process" \
        uvfio serve "$nvme" --socket /tmp/no.sock --bars dmabuf
    serve_as owner nvme "$nvme" "" --bars device-fd || return 1
}

keep_mapped() {
    in_background mapped mapped su guest -c "exec uvfio-guest-tools keep-mapped /tmp/nvme.sock $1"
    grep -E '^UVFIO (ok|fail)' /tmp/mapped.out >&3
    logged nvme "it is in the audit log what the user has" "is given the function's descriptor"
}

faults() {
    check "what is mapped of a function that $1 faults" eventually 30 grep -q "note faults" /tmp/mapped.out
}

# A user who is gone and keeps its mapping keeps the function.
serve_nvme_mapping_kept() {
    keep_mapped --leave
    logged nvme "a function that is mapped is held, and not leased" "held, not leased"
    faults "is held"
    if timeout 3 uvfio show /tmp/nvme.sock >/dev/null 2>&1; then
        fail "nobody gets it: expected no service got a lease"
    else
        ok "nobody gets it"
    fi
    kill -9 "$(cat /tmp/mapped.pid)"
    logged nvme "it is free when the mapping is undone" "free again"
}

serve_nvme_mapped_driver() {
    runs "the driver for NVMe runs as guest" \
        su guest -c "nvme /tmp/nvme.sock --overwrite --reads=200" || return 1
    printed "NVMe 1\.4.*, mapped doorbells"
}

serve_nvme_mapped_gone() {
    keep_mapped
    kill -9 "$(worker_of nvme)"
    faults "has lost its worker"
    kill -9 "$(cat /tmp/mapped.pid)"
    keep_mapped
    kill -USR1 "$(cat /tmp/nvme.pid)"
    faults "is taken away"
    kill -9 "$(cat /tmp/mapped.pid)"
    logged nvme "the server ends after that" "it was taken away, and its user has left"
}

# lose_bar ADDRESS: takes BAR 0 from a function that nobody has.
lose_bar() {
    printf '\0\0\0\0' | dd of="/sys/bus/pci/devices/$1/config" bs=4 seek=4 conv=notrunc 2>/dev/null
    says "list shows that BAR 0 of $1 is lost" "! BAR 0 has lost its address" uvfio list "$1"
}

has_lost_bars() {
    uvfio list "$1" | grep "has lost its address"
}

# The kernel puts them back when the function is opened.
serve_lost_bar() {
    edu=$(pci_find 1234:11e8)
    lose_bar "$edu"
    serve_as root edu "$edu" || return 1
    drives "it is back when the function is served" "^the same: true" edu /tmp/edu.sock
    serve_end edu
}

# group_serve USER ADDRESSES [OPTION]: a server of several functions, whose sockets are in /tmp/group and open to everybody.
group_serve() {
    rm -rf /tmp/group
    mkdir /tmp/group
    chown "$1" /tmp/group
    su "$1" -c "exec uvfio serve $2 --socket /tmp/group --log info $3" >/tmp/group.log 2>&1 &
    echo $! >/tmp/group.pid
    for address in $2; do
        check "$1 serves $address with others of its group" eventually 30 test -S "/tmp/group/$address.sock" || {
            tail -n 3 /tmp/group.log
            return 1
        }
        chmod 666 "/tmp/group/$address.sock"
    done
}

# Two functions behind a bridge, which nothing can reset: one address space, one user, one lease.
serve_group() {
    edus=$(lspci -Dn -d 1234:11e8 | cut -d ' ' -f 1 | tail -n 2 | tr '\n' ' ')
    first=${edus%% *}
    second=$(echo "$edus" | cut -d ' ' -f 2)
    group=$(group_of "$first")
    same "two functions are of one group" "$group" "$(group_of "$second")"
    for member in "/sys/bus/pci/devices/$first/iommu_group/devices"/*; do
        uvfio bind "$(basename "$member")"
    done
    refuses "functions of two groups are refused" "serve each group by itself" \
        uvfio serve "$first" "$(pci_find 1b36:0010)" --socket /tmp/no.sock --socket /tmp/no2.sock
    refuses "a function is served once" "is named twice" uvfio serve "$first" "$first" --socket /tmp
    refuses "two functions have two sockets" "give one for each" uvfio serve "$first" "$second" --socket /tmp/no.sock
    refuses "only functions are served together" "is no PCI function of this machine" uvfio serve "$first" edu --socket /tmp

    chown owner "/dev/vfio/$group"
    group_serve owner "$edus" || return 1
    logged group "it is said at the start that there will be one user" "will have one user only"
    in_background busy busy su guest -c "exec uvfio-guest-tools keep-busy /tmp/group/$first.sock"
    if timeout 20 su owner -c "uvfio show /tmp/group/$second.sock" >/dev/null 2>&1; then
        fail "another user gets no other function of the group: expected no service got a lease"
    else
        ok "another user gets no other function of the group"
    fi
    logged group "and that is said" "is turned away"
    check "the same user does" su guest -c "uvfio show /tmp/group/$second.sock"
    if su guest -c "timeout 20 uvfio show /tmp/group/$second.sock" >/dev/null 2>&1; then
        fail "what can't be reset is had once in a lease: expected no service got it again"
    else
        ok "what can't be reset is had once in a lease"
    fi
    logged group "and that is said, too" "is had once in a lease"
    check "the first function works on" masters_the_bus "$first"
    kill -9 "$(cat /tmp/busy.pid)"
    logged group "the lease ends when the user has none of them" "it can't be reset for another one"
    check "the server has ended" eventually 10 server_is_gone group

    group_serve owner "$edus" || return 1
    in_background busy busy su guest -c "exec uvfio-guest-tools siblings /tmp/group/$first.sock /tmp/group/$second.sock"
    grep -E '^UVFIO (ok|fail)' /tmp/busy.out >&3
    logged group "other memory at an address of the group's is refused" "where another function of the IOMMU group has"
    kill -9 "$(worker_of group)"
    check "a worker's death takes both functions" eventually 30 grep -q "note unmapped 2" /tmp/busy.out ||
        cat /tmp/busy.out
    for function in $edus; do
        logged group "it is said that $function is gone" "$function: the device is gone for"
        refuses "$function does not master the bus any more" "" masters_the_bus "$function"
    done
    kill -9 "$(cat /tmp/busy.pid)"
    logged group "what can't be reset gets no other user" "it gets no other user"
    check "the server has ended" eventually 10 server_is_gone group
}

# Two functions of one group that can be reset: one user after another.
serve_group_again() {
    nvmes=$(lspci -Dn -d 1b36:0010 | cut -d ' ' -f 1 | tail -n 2 | tr '\n' ' ')
    first=${nvmes%% *}
    second=$(echo "$nvmes" | cut -d ' ' -f 2)
    same "two controllers are of one group" "$(group_of "$first")" "$(group_of "$second")"
    for function in $nvmes; do uvfio bind "$function"; done
    group_serve root "$nvmes" || return 1
    in_background stay attached su guest -c "exec uvfio-guest-tools stay /tmp/group/$first.sock"
    check "its user has the other one, too" su guest -c "uvfio show /tmp/group/$second.sock"
    check "and may leave it, and come again" su guest -c "uvfio show /tmp/group/$second.sock"
    before=$(worker_of group)
    kill -9 "$(cat /tmp/stay.pid)"
    check "the next user is another one, and has the second" eventually 30 su owner -c "uvfio show /tmp/group/$second.sock"
    check "and the first" eventually 30 su owner -c "uvfio show /tmp/group/$first.sock"
    refuses "each lease has a worker of its own" "" kill -0 "$before"
    in_background stay attached su guest -c "exec uvfio-guest-tools stay /tmp/group/$second.sock"
    kill -9 "$(worker_of group)"
    check "a worker's death takes it" eventually 30 grep -q "note unmapped" /tmp/stay.out || cat /tmp/stay.out
    for function in $nvmes; do
        logged group "$function is stopped and reset" "$function: stopped and reset"
    done
    kill -9 "$(cat /tmp/stay.pid)"
    check "there is a next user" eventually 60 su owner -c "uvfio show /tmp/group/$first.sock"
    in_background stay attached su guest -c "exec uvfio-guest-tools stay /tmp/group/$second.sock"
    kill -USR1 "$(cat /tmp/group.pid)"
    check "both are taken away at once" eventually 30 grep -q "note unmapped" /tmp/stay.out || cat /tmp/stay.out
    kill -9 "$(cat /tmp/stay.pid)"
    logged group "the server ends after that" "it was taken away, and its user has left"
    check "and has ended" eventually 10 server_is_gone group
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
    check "the server has ended" eventually 10 server_is_gone xhci
}

# serve_to_qemu VENDOR:DEVICE SERIAL GRANT: a QEMU without a processor is the controller's user, who reaches BARs by that.
serve_to_qemu() {
    nvme=$(pci_find "$1")
    says "bind gives the controller to vfio-pci" "vfio-pci" uvfio bind "$nvme"
    serve_as root nvme "$nvme" "" --bars "$3" || return 1
    rm -f /tmp/qtest.sock
    # It wants firmware, which nothing will run.
    dd if=/dev/zero of=/tmp/firmware bs=65536 count=1 2>/dev/null
    qemu-system-x86_64 -bios /tmp/firmware -accel qtest -qtest unix:/tmp/qtest.sock,server=on,wait=off -nodefaults -display none -nic none \
        -m 64M -object memory-backend-memfd,id=m,size=64M,share=on -machine q35,memory-backend=m \
        -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/nvme.sock"},"addr":"4"}' \
        >/tmp/qemu.log 2>&1 &
    echo $! >/tmp/qemu.pid
    logged nvme "a QEMU attaches to the function" "attached"
    eventually 60 test -S /tmp/qtest.sock
    uvfio-guest-tools qtest-identify /tmp/qtest.sock --slot 4 --serial "$2" >&3 ||
        fail "QEMU runs: expected no words got $(tail -n 3 /tmp/qemu.log /tmp/nvme.log | tr '\n' ';')"
    mapped=no
    if grep -qF 'anon_inode:[vfio-device]' "/proc/$(cat /tmp/qemu.pid)/maps"; then mapped=yes; fi
    expected=no
    [ "$3" != device-fd ] || expected=yes
    same "QEMU has mapped the function where that is granted: $3" $expected $mapped
    kill "$(cat /tmp/qemu.pid)"
    serve_end nvme
}

# serve_group_to_qemu VENDOR:DEVICE SERIAL SERIAL: the last two controllers, of one group, are in one QEMU, which maps its
# memory by the socket of each.
serve_group_to_qemu() {
    nvmes=$(lspci -Dn -d "$1" | cut -d ' ' -f 1 | tail -n 2 | tr '\n' ' ')
    for function in $nvmes; do uvfio bind "$function"; done
    group_serve root "$nvmes" || return 1
    rm -f /tmp/qtest.sock
    dd if=/dev/zero of=/tmp/firmware bs=65536 count=1 2>/dev/null
    slot=3
    set -- "$2" "$3"
    devices=
    for function in $nvmes; do
        slot=$((slot + 1))
        # Two words each, without a space in them.
        devices="$devices -device {\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/group/$function.sock\"},\"addr\":\"$slot\"}"
    done
    # shellcheck disable=SC2086
    qemu-system-x86_64 -bios /tmp/firmware -accel qtest -qtest unix:/tmp/qtest.sock,server=on,wait=off -nodefaults -display none -nic none \
        -m 64M -object memory-backend-memfd,id=m,size=64M,share=on -machine q35,memory-backend=m $devices >/tmp/qemu.log 2>&1 &
    echo $! >/tmp/qemu.pid
    for function in $nvmes; do logged group "a QEMU attaches to $function" "$function: attached"; done
    eventually 60 test -S /tmp/qtest.sock
    for slot in 4 5; do
        uvfio-guest-tools qtest-identify /tmp/qtest.sock --slot $slot --serial "$1" >&3 ||
            fail "QEMU runs: expected no words got $(tail -n 3 /tmp/qemu.log /tmp/group.log | tr '\n' ';')"
        shift
    done
    same "no mapping of either is refused" "" "$(grep -E 'DMA map|held back' /tmp/group.log | head -n 1)"
    kill "$(cat /tmp/qemu.pid)"
    serve_end group
}

# serve_neighbours VENDOR:DEVICE: two functions of the kind, each with a user who tries the other one's memory.
serve_neighbours() {
    number=0
    for edu in $(lspci -Dn -d "$1" | cut -d ' ' -f 1); do
        number=$((number + 1))
        says "bind gives edu $number to vfio-pci" "to vfio-pci" uvfio bind "$edu"
        serve_as root "edu$number" "$edu" || return 1
    done
    same "there are two functions" 2 $number
    uvfio-guest-tools neighbours /tmp/edu1.sock /tmp/edu2.sock >&3
    # Of accesses that come soon after one another the hardware may report one.
    for edu in $(lspci -Dn -d "$1" | cut -d ' ' -f 1); do
        check "the IOMMU has stopped accesses of $edu" eventually 5 sh -c "dmesg | grep -q 'DMAR: .DMA .*${edu#0000:}'"
    done
    serve_end edu1
    serve_end edu2
}

# serve_messages COUNT: an edu that vfio-pci has, by way of our server.
serve_messages() {
    serve_as root edu "$(pci_find 1234:11e8)" || return 1
    uvfio-guest-tools messages /tmp/edu.sock "$1" >&3
    serve_end edu
}

# serve_face VENDOR:DEVICE: a function's user finds the same in its header by our server as by the kernel.
serve_face() {
    function=$(pci_find "$1")
    uvfio bind "$function"
    kernel=$(uvfio-guest-tools face "$function")
    serve_as root function "$function" || return 1
    same "identity and BARs of $1 by our server and by the kernel" "$kernel" "$(uvfio-guest-tools face /tmp/function.sock)"
    # One that can't be reset has one user.
    kill -TERM "$(cat /tmp/function.pid)" 2>/dev/null
    check "the server of $1 ends" eventually 30 server_is_gone function
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
    drives "a device that does not lie is served" "" uvfio-guest-tools next-user /tmp/edu.sock
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
    kill -9 "$(cat /tmp/busy.pid)"
    check "a function that has changed gets no other user" eventually 30 server_is_gone edu ||
        kill -9 "$(cat /tmp/edu.pid)"
    logged edu "and that is said" "it gets no other user"
}

# The user leaves, and what comes back is another function.
serve_exchanged() {
    kill -9 "$(cat /tmp/busy.pid)"
    check "a function that has become another one gets no other user" eventually 30 server_is_gone edu
    check "it is said why" grep -qE "no longer the function that it was|did not come back" /tmp/edu.log ||
        tail -n 3 /tmp/edu.log
}
