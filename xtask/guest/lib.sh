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

# refuses WHAT PART COMMAND...: the command must fail, and say so with this part.
refuses() {
    what=$1
    part=$2
    shift 2
    if said=$("$@" 2>&1); then
        fail "$what: expected a refusal got $said"
        return 1
    fi
    case $said in
    *"$part"*) ok "$what" ;;
    *) fail "$what: expected $part got $said" ;;
    esac
}

# says WHAT PART COMMAND...: the command must succeed, and say this part.
says() {
    what=$1
    part=$2
    shift 2
    said=$("$@" 2>&1) || { fail "$what: expected $* to succeed got status $? $said"; return 1; }
    case $said in
    *"$part"*) ok "$what" ;;
    *) fail "$what: expected $part got $said" ;;
    esac
}

# runs WHAT COMMAND...: the command must succeed; what it prints is kept for `printed`.
runs() {
    what=$1
    shift
    "$@" >/tmp/printed 2>&1
    status=$?
    cat /tmp/printed
    if [ $status = 0 ]; then
        ok "$what"
    else
        fail "$what: expected $* to succeed got status $status $(tail -n 1 /tmp/printed)"
        return 1
    fi
}

# printed LINE: the last command printed such a line, as grep -E reads it.
printed() {
    if grep -qxE "$1" /tmp/printed; then
        ok "it prints: $(grep -xE "$1" /tmp/printed | head -n 1)"
    else
        fail "it prints $1: got $(tr '\n' ';' </tmp/printed)"
    fi
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

# ends NAME...: kills what runs in the background, and reports what each has checked by then.
ends() {
    for name in "$@"; do
        kill -9 "$(cat "/tmp/$name.pid")" 2>/dev/null
        grep -E '^UVFIO (ok|fail)' "/tmp/$name.out" >&3 || true
    done
}
