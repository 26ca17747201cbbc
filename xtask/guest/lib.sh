# What every scenario uses: reports to the host, on descriptor 3.

ok() { echo "UVFIO ok $*" >&3; }
fail() { echo "UVFIO fail $*" >&3; }
note() { echo "UVFIO note $*" >&3; }

# check WHAT COMMAND...: the command must succeed; otherwise its last words are the failure.
check() {
    what=$1
    shift
    if "$@" >/tmp/check.log 2>&1; then
        cat /tmp/check.log
        ok "$what"
    else
        status=$?
        cat /tmp/check.log
        fail "$what: expected $1 to succeed got status $status, $(tail -n 1 /tmp/check.log)"
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
