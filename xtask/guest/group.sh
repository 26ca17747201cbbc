# Our server of several functions of one IOMMU group, which one user has.

# last_two VENDOR:DEVICE: the last two such functions, which are of one group: in $first and $second, and in $both.
last_two() {
    both=$(pci_all "$1" | tail -n 2 | tr '\n' ' ')
    first=${both%% *}
    second=$(echo "$both" | cut -d ' ' -f 2)
}

# group_stays NAME ADDRESS: a user who has one function of the group, and does nothing with it.
group_stays() {
    in_background "$1" attached su guest -c "exec uvfio-guest-tools stay /tmp/group/$2.sock"
}

# group_serve USER ADDRESSES [OPTIONS]: a server of several functions, whose sockets are in /tmp/group and open to everybody.
group_serve() {
    rm -rf /tmp/group
    mkdir /tmp/group
    chown "$1" /tmp/group
    serve_in_background group su "$1" -c "exec uvfio serve $2 --socket /tmp/group --log info $3"
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
    last_two 1234:11e8
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
    group_serve owner "$both" || return 1
    logged group "it is said at the start that there will be one user" "will have one user only"
    in_background busy busy su guest -c "exec uvfio-guest-tools keep-busy /tmp/group/$first.sock"
    refuses "another user gets no other function of the group" "" \
        su owner -c "timeout 20 uvfio show /tmp/group/$second.sock"
    logged group "and that is said" "is turned away"
    check "the same user does" su guest -c "uvfio show /tmp/group/$second.sock"
    refuses "what can't be reset is had once in a lease" "" \
        su guest -c "timeout 20 uvfio show /tmp/group/$second.sock"
    logged group "and that is said, too" "is had once in a lease"
    check "the first function works on" masters_the_bus "$first"
    ends busy
    logged group "the lease ends when the user has none of them" "it can't be reset for another one"
    server_is_gone group 10 0

    group_serve owner "$both" || return 1
    in_background busy busy su guest -c "exec uvfio-guest-tools siblings /tmp/group/$first.sock /tmp/group/$second.sock"
    logged group "other memory at an address of the group's is refused" "where another function of the IOMMU group has"
    kill -9 "$(worker_of group)"
    check "a worker's death takes both functions" eventually 30 grep -q "note unmapped 2" /tmp/busy.out ||
        cat /tmp/busy.out
    for function in $both; do
        logged group "it is said that $function is gone" "$function: the device is gone for"
        refuses "$function does not master the bus any more" "" masters_the_bus "$function"
    done
    ends busy
    logged group "what can't be reset gets no other user" "it gets no other user"
    server_is_gone group 10 1
}

# Two functions of one group that can be reset: one user after another.
serve_group_again() {
    last_two 1b36:0010
    same "two controllers are of one group" "$(group_of "$first")" "$(group_of "$second")"
    for function in $both; do uvfio bind "$function"; done
    group_serve root "$both" || return 1
    group_stays stay "$first"
    check "its user has the other one, too" su guest -c "uvfio show /tmp/group/$second.sock"
    check "and may leave it, and come again" su guest -c "uvfio show /tmp/group/$second.sock"
    before=$(worker_of group)
    ends stay
    check "the next user is another one, and has the second" eventually 30 su owner -c "uvfio show /tmp/group/$second.sock"
    check "and the first" eventually 30 su owner -c "uvfio show /tmp/group/$first.sock"
    refuses "each lease has a worker of its own" "" kill -0 "$before"
    group_stays stay "$second"
    kill -9 "$(worker_of group)"
    check "a worker's death takes it" eventually 30 grep -q "note unmapped" /tmp/stay.out || cat /tmp/stay.out
    for function in $both; do
        logged group "$function is stopped and reset" "$function: stopped and reset"
    done
    ends stay
    check "there is a next user" eventually 60 su owner -c "uvfio show /tmp/group/$first.sock"
    group_stays stay "$second"
    kill -USR1 "$(cat /tmp/group.pid)"
    check "both are taken away at once" eventually 30 grep -q "note unmapped" /tmp/stay.out || cat /tmp/stay.out
    ends stay
    logged group "the server ends after that" "it was taken away, and its user has left"
    server_is_gone group 10 0
}

# group_writes ADDRESS: the driver for NVMe writes to one of the controllers.
group_writes() {
    drives "the driver for NVMe writes to $1" "the same: true|blocks are as they were written" \
        nvme "/tmp/group/$1.sock" --overwrite --reads=20
}

# Policy: what they store is erased for the next user. One user writes to both; the host looks into the disks meanwhile.
serve_group_to_be_erased() {
    last_two 1b36:0010
    group_serve root "$both" "--between-users format" || return 1
    # Somebody has one of them all the time, so that it is one lease.
    group_stays stay "$second"
    group_writes "$first"
    group_stays stay2 "$first"
    ends stay
    group_writes "$second"
    same "in a lease nothing is erased" "" "$(grep -F "erased" /tmp/group.log)"
}

serve_group_erased() {
    last_two 1b36:0010
    ends stay2
    for function in $both; do
        logged group "$function is erased for the next user" "$function: erased"
        check "who is served $function" eventually 60 uvfio show "/tmp/group/$function.sock"
    done
    serve_end group
}

# Their registers are mapped, by a descriptor of each.
serve_group_mapped() {
    last_two 1b36:0010
    group_serve root "$both" "--bars device-fd" || return 1
    keep_mapped group "/tmp/group/$first.sock"
    runs "the driver for NVMe runs on the other one" \
        su guest -c "nvme /tmp/group/$second.sock --overwrite --reads=20"
    printed "NVMe 1\.4.*, mapped doorbells"
    refuses "which the mapping of the first outlives" "" grep -q "note faults" /tmp/mapped.out
    kill -9 "$(worker_of group)"
    faults "has lost its worker"
    ends mapped
    check "there is a next user" eventually 60 su owner -c "uvfio show /tmp/group/$first.sock"
    serve_end group
}
