# Functions that are served while something happens to them: the kernel wants them back, they are unplugged, they report
# errors, the machine sleeps.

# vfio_serves NAME ADDRESS [OPTIONS]: the function goes to vfio-pci, and to a server of root's.
vfio_serves() {
    vfio_has "$2" && serve_as root "$1" "$2 $3"
}

# events_user NAME [OPTION...]: a user of that server who listens, and is on its own account.
events_user() {
    name=$1
    shift
    in_background "$name.user" listens su guest -c "exec uvfio-guest-tools listen /tmp/$name.sock $*"
}

# heard NAME WHAT SECONDS NOTE: the user of that server has noted this, now or soon.
heard() {
    check "$2" eventually "$3" grep -q "UVFIO note $4" "/tmp/$1.user.out" || tail -n 3 "/tmp/$1.user.out"
}

# unheard NAME WHAT NOTE: so far it has not.
unheard() {
    same "$2" "" "$(grep "UVFIO note $3" "/tmp/$1.user.out")"
}

# remover NAME COMMAND: somebody takes the function from vfio-pci, which waits until nobody has it.
remover() {
    rm -f "/tmp/$1.removed"
    (
        sh -c "$2"
        touch "/tmp/$1.removed"
    ) &
}

# removed NAME WHAT SECONDS
removed() {
    check "$2" eventually "$3" test -e "/tmp/$1.removed"
}

unbinding() {
    echo "echo $1 >/sys/bus/pci/drivers/vfio-pci/unbind"
}

# Nobody uses it, and it is removed; the kernel finds it again.
events_idle() {
    edu=$(in_slot 1)
    vfio_serves edu "$edu" || return 1
    remover edu "echo 1 >/sys/bus/pci/devices/$edu/remove"
    removed edu "a function that nobody uses is removed at once" 10
    server_gives_back edu 10 "the kernel wanted the function back"
    logged edu "the log says that nobody had it" "the kernel wants the function back, and nobody uses it"
    refuses "it is not there any more" "" test -e "/sys/bus/pci/devices/$edu"
    echo 1 >/sys/bus/pci/rescan
    check "it is found again" eventually 30 test -e "/sys/bus/pci/devices/$edu"
}

# Its user is asked, and leaves.
events_obliging() {
    edu=$(in_slot 1)
    vfio_serves edu "$edu" "--release-within 600" || return 1
    events_user edu --obliging
    remover edu "$(unbinding "$edu")"
    heard edu "the user is asked for the function by REQ" 10 "REQ"
    heard edu "and leaves" 10 "leaves"
    removed edu "whoever takes it goes on as soon as its user has left" 20
    server_gives_back edu 10 "the kernel wanted the function back"
    logged edu "the log says who was asked" "is asked for it by REQ, and has 600 s"
    logged edu "the function was reset and closed in order" "nothing of it is open here"
    unheard edu "the user saw no device that is gone" "gone"
    ends edu.user
}

# Its user does not listen; the function is taken.
events_stubborn() {
    edu=$(in_slot 1)
    vfio_serves edu "$edu" "--release-within 3" || return 1
    events_user edu
    remover edu "$(unbinding "$edu")"
    heard edu "the user is asked for the function by REQ" 10 "REQ"
    refuses "until its time is up it has the function" "" test -e /tmp/edu.removed
    removed edu "then the function is taken, and whoever takes it goes on" 20
    heard edu "its user sees a device that is gone" 10 "gone"
    heard edu "whose requests are acknowledged" 10 "acknowledged"
    logged edu "the log says from whom it was taken" "it was not given back in time"
    logged edu "the log says when nobody is in the way any more" "nobody has anything of it any more"
    server_serves edu
    same "the function has no driver" "" "$(driver_of "$edu")"
    ends edu.user
    server_gives_back edu 10 "the kernel wanted the function back"
}

# Its user keeps a mapping of its registers.
events_mapped() {
    nvme=$(in_slot 4)
    vfio_serves nvme "$nvme" "--bars device-fd --release-within 1" || return 1
    in_background nvme.user mapped su guest -c "exec uvfio-guest-tools keep-mapped /tmp/nvme.sock"
    remover nvme "$(unbinding "$nvme")"
    logged nvme "the function is taken from a user who maps its registers" "it was not given back in time"
    heard nvme "whose mapping answers no more" 20 "faults"
    logged nvme "it is said who keeps it by a mapping" "held: uvfio-guest-too"
    refuses "and whoever takes it waits" "" test -e /tmp/nvme.removed
    ends nvme.user
    removed nvme "until that user has ended" 20
    server_gives_back nvme 10 "the kernel wanted the function back"
}

rounds() {
    grep -c "note round" /tmp/busy.out
}

is_beyond() {
    [ "$(rounds)" -gt "$1" ]
}

# It works on while the machine sleeps and wakes; the user's device does DMA all the time, and interrupts.
events_sleep() {
    edu=$(in_slot 1)
    vfio_serves edu "$edu" || return 1
    serve_keep_busy --interrupts
    check "it does DMA and interrupts its user" eventually 20 is_beyond 3
    check "the machine wakes" sh -c 'echo mem >/sys/power/state' || return 1
    check "so it does after that" eventually 20 is_beyond $(($(rounds) + 5))
    same "the user's device goes on with its DMA" "" "$(grep -E "stopped|fail" /tmp/busy.out)"
    check "it masters the bus" masters_the_bus "$edu"
    refuses "its server has not lost it" "" grep -qE "taken from|does not answer|wants the function back" /tmp/edu.log
    ends busy
    serve_next_user
    serve_end edu
}

# Before the host has it report an error.
events_erring_begins() {
    rng=$(in_slot 2)
    vfio_serves rng "$rng" || return 1
    events_user rng --resets --bar 4
}

# events_erred NAME NUMBER: the user has been told of so many errors, and has reset the function after each.
events_erred() {
    heard "$1" "the user is told of the error by ERR" 10 "ERR $2"
    heard "$1" "it resets the function" 20 "reset $2"
    same "the log says so of each" "$2" "$(grep -c "the kernel reports an error of the function; process" "/tmp/$1.log")"
    server_serves "$1"
}

# The user leaves; the next one has a function that works.
events_erring_ends() {
    unheard "$1" "the user saw no device that is gone" "gone"
    ends "$1.user"
    server=$1
    shift
    events_user "$server" "$@"
    ends "$server.user"
    serve_end "$server"
}

# Errors that the kernel is told of, as if the function had reported them: one that is not fatal, and one that is, after
# which the kernel resets the link.
events_injected() {
    igb=$(in_slot 3)
    vfio_has "$igb" || return 1
    modprobe aer_inject
    check "the kernel takes errors" eventually 10 test -e /dev/aer_inject || return 1
    serve_as root igb "$igb" || return 1
    events_user igb --resets
    bus=$(printf '%o' "0x$(echo "$igb" | cut -d : -f 2)")
    number=0
    for uncorrectable in '\000\100\000\000' '\000\000\004\000'; do
        number=$((number + 1))
        # Bus, device, function, a gap; the two kinds of errors; what was on the link; the domain.
        { printf "\\$bus\\000\\000\\000$uncorrectable"; head -c 24 /dev/zero; } >/tmp/error
        dd if=/tmp/error of=/dev/aer_inject bs=32 2>/dev/null
        events_erred igb $number
    done
    events_erring_ends igb
}

# Before the host takes it out.
events_unplug_begins() {
    igb=$(in_slot 3)
    vfio_serves igb "$igb" "--release-within 14" || return 1
    events_user igb
}

events_unplugged() {
    igb=$(in_slot 3)
    heard igb "the user is asked again, as the kernel asks again" 40 "REQ 2"
    heard igb "and has a device that is gone when its time is up" 20 "gone"
    heard igb "whose requests are acknowledged" 10 "acknowledged"
    logged igb "the log says from whom it was taken" "it was not given back in time"
    check "the function has left the guest" eventually 20 test ! -e "/sys/bus/pci/devices/$igb"
    server_serves igb
    ends igb.user
    server_gives_back igb 10 "the kernel wanted the function back"
}

# It is pulled out, without a word before.
events_pulled_out() {
    igb=$(in_slot 9)
    vfio_serves pulled "$igb" "--release-within 600" || return 1
    events_user pulled
    port_powers_off 9
    is_pulled_out pulled "$igb"
}

# is_pulled_out NAME ADDRESS: the user of that server has a device that is gone, though it would have time, and nothing hangs.
is_pulled_out() {
    heard "$1" "the device of its user is gone at once" 10 "gone"
    heard "$1" "whose requests are acknowledged" 10 "acknowledged"
    logged "$1" "the log says why" "the function does not answer any more"
    logged "$1" "all of it is closed" "nothing of it is open here"
    check "the kernel has removed it" eventually 20 test ! -e "/sys/bus/pci/devices/$2"
    logged "$1" "and the log says so" "it is no longer in the machine"
    server_serves "$1"
    ends "$1.user"
    server_gives_back "$1" 10 "the function is unplugged, or does not answer"
}

# The same of one that nobody uses.
events_pulled_out_idle() {
    igb=$(in_slot 10)
    vfio_serves idle "$igb" || return 1
    port_powers_off 10
    server_gives_back idle 10 "the function is unplugged, or does not answer"
    logged idle "all of it is closed" "nothing of it is open here"
    check "the kernel has removed it" eventually 20 test ! -e "/sys/bus/pci/devices/$igb"
}

# Somebody switches the slot off by the kernel's file for it.
events_powered_off() {
    edu=$(in_slot 5)
    vfio_serves off "$edu" "--release-within 3" || return 1
    events_user off
    remover off "echo 0 >/sys/bus/pci/slots/5/power"
    is_taken off "$edu"
}

# is_taken NAME ADDRESS: the user of that server is asked, does not leave, and has a device that is gone; whoever takes it
# goes on.
is_taken() {
    heard "$1" "the user is asked for the function by REQ" 10 "REQ"
    heard "$1" "it sees a device that is gone when its time is up" 20 "gone"
    heard "$1" "whose requests are acknowledged" 10 "acknowledged"
    removed "$1" "whoever takes it goes on" 20
    check "the kernel has removed it" eventually 20 test ! -e "/sys/bus/pci/devices/$2"
    server_serves "$1"
    ends "$1.user"
    server_gives_back "$1" 10 "the kernel wanted the function back"
}

# The physical function of slot 11 makes a virtual one for vfio-pci: $physical, $virtual.
events_virtual() {
    physical=$(in_slot 11)
    modprobe igb
    check "its own driver has the physical function" eventually 30 test -e "/sys/bus/pci/drivers/igb/$physical"
    check "it makes a virtual function" sh -c "echo 1 >/sys/bus/pci/devices/$physical/sriov_numvfs" || return 1
    virtual=$(basename "$(readlink "/sys/bus/pci/devices/$physical/virtfn0")")
    vfio_has "$virtual"
}

# The physical function's driver takes its virtual one away.
events_virtual_taken() {
    events_virtual || return 1
    serve_as root virtual "$virtual --release-within 3" || return 1
    events_user virtual
    remover virtual "echo 0 >/sys/bus/pci/devices/$physical/sriov_numvfs"
    is_taken virtual "$virtual"
    same "the physical function has its driver still" igb "$(driver_of "$physical")"
}

# The physical function is pulled out, and its virtual one with it.
events_virtual_pulled_out() {
    events_virtual || return 1
    serve_as root virtual "$virtual --release-within 600" || return 1
    events_user virtual
    port_powers_off 11
    is_pulled_out virtual "$virtual"
    check "the physical function is gone, too" eventually 20 test ! -e "/sys/bus/pci/devices/$physical"
}

# The slot's power goes, and the kernel keeps the function: it waits for it to answer, in each reset and in each closing.
events_stuck() {
    igb=$(in_slot 1)
    vfio_serves igb "$igb" || return 1
    events_user igb
    port=$(basename "$(readlink -f "/sys/bus/pci/devices/$igb/..")")
    for byte in '\371 108' '\007 109'; do
        printf "${byte% *}" | dd of="/sys/bus/pci/devices/$port/config" bs=1 seek="${byte#* }" conv=notrunc 2>/dev/null
    done
    heard igb "the device of its user is gone at once" 20 "gone"
    heard igb "whose requests are acknowledged" 10 "acknowledged"
    logged igb "the log says why" "the function does not answer any more"
    logged igb "and that closing it takes long" "still being closed after"
    refuses "while it is not closed" "" grep -q "nothing of it is open here" /tmp/igb.log
    ends igb.user
    server_gives_back igb 400 "the function is unplugged, or does not answer"
    logged igb "which is when all of it is closed" "nothing of it is open here"
}
