# What every scenario uses: reports to the host, on descriptor 3.

ok() { echo "UVFIO ok $*" >&3; }
fail() {
    echo "UVFIO fail $*" >&3
    # What the kernel said last goes to the console, which is kept.
    dmesg | tail -n 30
}
note() { echo "UVFIO note $*" >&3; }

# text COMMAND...: sends what the command prints.
text() { "$@" 2>&1 | sed 's/^/UVFIO text /' >&3; }

# check WHAT COMMAND...: the command must succeed; otherwise its last words are the failure.
check() {
    what=$1
    shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        cat "$log"
        ok "$what"
    else
        status=$?
        cat "$log"
        fail "$what: expected $* to succeed got status $status $(tail -n 1 "$log")"
        return 1
    fi
}

# same WHAT EXPECTED GOT
same() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        fail "$1: expected $2 got $3"
        return 1
    fi
}

# eventually SECONDS COMMAND...: repeats the command until it succeeds.
eventually() {
    tries=$(($1 * 10))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

# kernel_reports_no WHAT PATTERN: the kernel's log has no line that matches.
kernel_reports_no() {
    same "the kernel reports no $1" "" "$(dmesg | grep -E "$2" | head -n 1)"
}
