# Measurements of functions that exist, through our server and beside it.

# Three controllers: one for the kernel's VFIO as it is, one for each grant of ours.
rates_serve() {
    serve_users
    targets=
    for nvme in $(pci_all 1b36:0010); do
        uvfio bind "$nvme"
        case $(echo "$targets" | wc -w) in
            0) targets=$nvme ;;
            1) serve_as root device-fd "$nvme --bars device-fd" && targets="$targets /tmp/device-fd.sock" ;;
            2) serve_as root trapped "$nvme" && targets="$targets /tmp/trapped.sock" ;;
        esac
    done
    text echo "targets $targets"
}

# rates_hits TASKS: how many system calls the kernel has counted of these threads of a process (/proc/PID/task).
rates_hits() {
    calls=0
    for thread in "$1"/*; do
        hits=$(sed -n "s/.*common_pid: *${thread##*/} *}.*hitcount: *\([0-9]*\).*/\1/p" /tmp/hist)
        calls=$((calls + ${hits:-0}))
    done
    echo $calls
}

# rates_sleeps WORKER: all of its threads are asleep, and nothing has woken one for a tenth of a second.
rates_sleeps() {
    before=$(cat /proc/"$1"/task/*/status | grep ctxt_switches)
    sleep 0.1
    [ "$(cat /proc/"$1"/task/*/status | grep ctxt_switches)" = "$before" ]
}

# rates_count WORK NAME N: how many system calls the worker of this server makes while its user does something N times.
rates_count() {
    tracing=/sys/kernel/tracing
    [ -d $tracing/events ] || mount -t tracefs tracefs $tracing || return 1
    event=$tracing/events/raw_syscalls/sys_enter
    rm -f /tmp/go
    mkfifo /tmp/go
    compare count "$1" "$3" "/tmp/$2.sock" </tmp/go >/tmp/counted 2>&1 &
    user=$!
    exec 5>/tmp/go
    if ! eventually 60 grep -qx ready /tmp/counted; then
        text cat /tmp/counted
        exec 5>&-
        return 1
    fi
    worker=$(worker_of "$2")
    [ -n "$worker" ] || { text echo "the server of $2 has no worker"; return 1; }
    # What it still has to do for the setup.
    eventually 60 rates_sleeps "$worker"
    echo 'hist:keys=common_pid:size=4096' >$event/trigger || return 1
    echo go >&5
    eventually 60 grep -qx done /tmp/counted || { text tail -n 3 /tmp/counted; return 1; }
    cat $event/hist >/tmp/hist
    echo '!hist:keys=common_pid:size=4096' >$event/trigger
    # Its user has at least read that word and written one: where none is counted, a count of 0 says nothing.
    if [ "$(rates_hits "/proc/$user/task")" = 0 ]; then
        text echo "the kernel has counted no system call of the user's"
        return 1
    fi
    text echo "calls $(rates_hits "/proc/$worker/task")"
    exec 5>&-
    wait $user
}
