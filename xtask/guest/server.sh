# Our server inside the guest: users, started, asked, ended.

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

# serve_as USER NAME WORDS [BEFORE]: a server, run by the user with these words behind `uvfio serve`, and open to everybody.
# BEFORE is a command that the user's shell runs first.
serve_as() {
    rm -f "/tmp/$2.sock"
    serve_in_background "$2" su "$1" -c "${4:+$4; }exec uvfio serve $3 --socket /tmp/$2.sock --log info"
    if eventually 60 test -S "/tmp/$2.sock"; then
        ok "$1 serves $3"
        chmod 666 "/tmp/$2.sock"
    else
        fail "$1 serves $3: expected a socket got $(tail -n 1 "/tmp/$2.log")"
        return 1
    fi
}

# serve_in_background NAME COMMAND...: starts a server; how it ends is kept.
serve_in_background() {
    name=$1
    shift
    rm -f "/tmp/$name.status"
    (
        "$@" >"/tmp/$name.log" 2>&1 &
        echo $! >"/tmp/$name.pid"
        wait $!
        echo $? >"/tmp/$name.status"
    ) &
}

# serve_end NAME: ends a server, which must end in order.
serve_end() {
    kill -TERM "$(cat "/tmp/$1.pid")"
    logged "$1" "the server of $1 ends when told to" "has ended"
    server_is_gone "$1" 30 0
}

# server_is_gone NAME SECONDS STATUS: a server ends, with this status.
server_is_gone() {
    check "the server of $1 ends" eventually "$2" test -s "/tmp/$1.status" || tail -n 3 "/tmp/$1.log"
    same "the server's status" "$3" "$(cat "/tmp/$1.status")"
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

nobody_holds() {
    ! uvfio list "$1" | grep -q "held by"
}

# identity_of SOCKET: class, vendor:device and revision, as our command shows them.
identity_of() {
    uvfio show "$1" | sed -n '1s/.*: \([0-9a-f]\{4\}:[0-9a-f]\{4\}\) .*\[\(....\)..\], revision \(..\),.*/\2: \1 (rev \3)/p'
}

# server_gives_back NAME SECONDS SENTENCE: a server that has lost its function ends, with a status of its own, and says why.
server_gives_back() {
    server_is_gone "$1" "$2" 3
    logged "$1" "and says why" "$3"
}

server_serves() {
    refuses "the server of $1 serves on" "" test -e "/tmp/$1.status"
}
