# Measurements of functions that exist, through our server and beside it.

# Three controllers: one for the kernel's VFIO as it is, one for each grant of ours.
rates_serve() {
    serve_users
    targets=
    for nvme in $(lspci -Dn -d 1b36:0010 | cut -d ' ' -f 1); do
        uvfio bind "$nvme"
        case $(echo "$targets" | wc -w) in
            0) targets=$nvme ;;
            1) serve_as root device-fd "$nvme" "" --bars device-fd && targets="$targets /tmp/device-fd.sock" ;;
            2) serve_as root trapped "$nvme" && targets="$targets /tmp/trapped.sock" ;;
        esac
    done
    text echo "targets $targets"
}

# rates_count WORK NAME N: how many system calls the worker of this server makes while its user does something N times.
rates_count() {
    tracing=/sys/kernel/tracing
    [ -d $tracing/events ] || mount -t tracefs tracefs $tracing
    event=$tracing/events/raw_syscalls/sys_enter
    rm -f /tmp/go
    mkfifo /tmp/go
    compare count "$1" "$3" "/tmp/$2.sock" </tmp/go >/tmp/counted 2>&1 &
    exec 5>/tmp/go
    if ! eventually 60 grep -qx ready /tmp/counted; then
        text cat /tmp/counted
        exec 5>&-
        return 1
    fi
    # What it still had to do for the setup.
    sleep 1
    worker=$(worker_of "$2")
    echo 'hist:keys=common_pid:size=4096' >$event/trigger
    echo go >&5
    eventually 60 grep -qx done /tmp/counted
    cat $event/hist >/tmp/hist
    echo '!hist:keys=common_pid:size=4096' >$event/trigger
    calls=0
    for thread in /proc/"$worker"/task/*; do
        hits=$(sed -n "s/.*common_pid: *${thread##*/} *}.*hitcount: *\([0-9]*\).*/\1/p" /tmp/hist)
        calls=$((calls + ${hits:-0}))
    done
    text echo "calls $calls"
    exec 5>&-
    wait $!
}
