# shellcheck shell=bash disable=SC2317 # handlers of traps look unreachable to it
# Mutual TLS in front of an app in a batch job. Source this file in bash (4.4 or
# later; no other shell will do), or have a template of the Ruby gem put it into the
# job script. Then:
#
#   add_caddy_header NAME VALUE           a header that the app can trust; before the start.
#                                         (So named as Caddy was the first to set it.)
#   start_mtls_caddy OUTER INNER CMD…     runs CMD, which listens on 127.0.0.1:INNER, and
#                                         serves it at port OUTER of this node to the owner
#                                         of this job alone; ends with CMD and its exit code.
#                                         Ended by a signal, also in the background, it ends
#                                         when nothing of it is left and OUTER is free
#   start_mtls OUTER INNER CMD…           the same, by ood-job where that is on this node; the
#                                         name to use in job scripts
#   mtls_free_port [MIN [MAX]]            a port nobody on this node listens on
#
#   client leaf ──TLS──▶ Caddy ──socket in a 0700 directory──▶ Caddy ──127.0.0.1──▶ CMD
#                      OUTER, this node │ inside: namespaces of users, network, processes
#
# No byte that comes in crosses user-mode networking; pasta or slirp4netns is for what
# CMD itself connects to. The node's loopback is out of its reach, and its own is out
# of everybody else's. What CMD starts ends with it.
#
# Needs ood-job, and pasta or slirp4netns unless MTLS_OUTBOUND is none. Without ood-job:
# ood-ca, caddy (2.6 or later), util-linux 2.36 or later, slirp4netns, iproute2.
#
#   MTLS_OOD_JOB, MTLS_OOD_CA, MTLS_CADDY   where these are, if not in PATH
#   MTLS_HOSTS                names and IPv4 addresses that the certificate is for, with
#                             spaces between; unset: this node's names
#   MTLS_OUTBOUND             auto (default): by pasta or slirp4netns, whichever is there;
#                             pasta (by ood-job only); slirp4netns; none: CMD can connect
#                             to nothing
#   MTLS_READY_TIMEOUT        seconds until CMD must listen on INNER (300)
#   MTLS_GRACE                seconds between SIGTERM and SIGKILL at the end (5)
#   MTLS_READY_FD             a file descriptor that gets a line when CMD can be reached

MTLS_HEADER_NAMES=()
MTLS_HEADER_VALUES=()

# mtls_error MESSAGE HINT
mtls_error() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    return 1
}

# Whether these functions can use their variables: a read-only one of the job script's
# would stop them half-way, with the app running. It has none itself for that reason.
mtls_can_assign() {
    # `set -x` in the job script must not write its values into the job's output.
    local -
    { set +xv; } 2>/dev/null
    set -- "$(readonly -p)" all app args attempt base birth body caddy certificate code \
        config dir dropped ending fd fields folded go grace headers host i init init_birth \
        inner job key limit line list main max min mtls_functions name needed network never next ood_ca \
        other others outbound outer over own part plain port process program proxy ready \
        rest server server_birth space spelling status taken text timeout told top traps \
        trusted usage value watch watched which word IFS LC_ALL MTLS_HEADER_COUNT \
        MTLS_HEADER_NAMES MTLS_HEADER_VALUES SECONDS
    while [ $# -gt 1 ]; do
        if [[ $1 =~ (^|$'\n')(declare|readonly)(\ -[A-Za-z]+)?\ "$2"(=|$'\n'|$) ]]; then
            mtls_error "the variable $2 of this script is read-only" "give it another name, or leave it as it was"
            return 2
        fi
        set -- "$1" "${@:3}"
    done
}

# The value never becomes part of a configuration: Caddy takes it from its
# environment, so no character in it has a meaning.
add_caddy_header() {
    mtls_can_assign || return
    # `set -x` in the job script must not write the value into the job's output.
    local -
    { set +xv; } 2>/dev/null
    local LC_ALL=C name=${1-} value=${2-} other folded i
    if [ -n "${MTLS_INSIDE-}" ]; then
        mtls_error "the header $name comes too late: what serves this app has started already" \
            "call add_caddy_header before start_mtls, where the job starts"
        return 1
    fi
    if ! [[ $name =~ ^[A-Za-z][A-Za-z0-9_-]*$ ]]; then
        mtls_error "the header name ${name@Q} is not made of letters, digits, - and _" \
            "add_caddy_header NAME VALUE"
        return 1
    fi
    # In any spelling, as apps may read them.
    folded=$(mtls_folded "$name")
    case $folded in
        connection | content-length | expect | keep-alive | proxy-connection | te | trailer | transfer-encoding | upgrade)
            mtls_error "the header $name belongs to the connection and cannot be set" \
                "leave it to the proxy"
            return 1
            ;;
        host)
            mtls_error "the header $name cannot be set: it says by which name the client came" \
                "an app that insists on its own name is the site's to help: host_header in ood_ca.yml"
            return 1
            ;;
    esac
    # An app would take it for a password that everybody knows, or for none.
    if ! [[ $value == *[!\ $'\t']* ]]; then
        mtls_error "the header $name has no value" \
            "add_caddy_header NAME VALUE; is the variable set that VALUE comes from?"
        return 1
    fi
    # Tabs are fine in a value; a line break would begin another header.
    if [[ $value == *[$'\001'-$'\010'$'\012'-$'\037'$'\177']* ]]; then
        mtls_error "the value of the header $name has a control character in it" \
            "a header is one line of text; encode it (base64) if it must hold more"
        return 1
    fi
    if [[ $name == *[-_]*[-_]*[-_]*[-_]*[-_]*[-_]*[-_]* ]]; then
        mtls_error "the header $name has more than six dashes" "choose a shorter name"
        return 1
    fi
    # The last value of a name counts; two spellings of one name cannot be told apart.
    for i in "${!MTLS_HEADER_NAMES[@]}"; do
        other=${MTLS_HEADER_NAMES[i]}
        if [ "${other,,}" = "${name,,}" ]; then
            MTLS_HEADER_VALUES[i]=$value
            return 0
        fi
        if [ "$(mtls_folded "$other")" = "$folded" ]; then
            mtls_error "the headers $other and $name are one to many apps" "choose one spelling"
            return 1
        fi
    done
    MTLS_HEADER_NAMES+=("$name")
    MTLS_HEADER_VALUES+=("$value")
    # Functions can be exported, their lists cannot.
    export MTLS_HEADER_COUNT=${#MTLS_HEADER_NAMES[@]}
}

# mtls_folded NAME: as an app reads it that takes - for _ and capitals for small ones.
mtls_folded() {
    local name=${1,,}
    printf '%s\n' "${name//_/-}"
}

# mtls_other_spellings NAME: each mixture of - and _ but this one, a line each.
mtls_other_spellings() {
    local all=('') next spelling rest=$1 part
    while [[ $rest == *[-_]* ]]; do
        part=${rest%%[-_]*}
        rest=${rest#*[-_]}
        next=()
        for spelling in "${all[@]}"; do
            next+=("$spelling$part-" "$spelling${part}_")
        done
        all=("${next[@]}")
    done
    for spelling in "${all[@]}"; do
        [ "$spelling$rest" = "$1" ] || printf '%s\n' "$spelling$rest"
    done
}

mtls_is_port() {
    [[ ${1-} =~ ^[1-9][0-9]{0,4}$ ]] && [ "$1" -le 65535 ]
}

# mtls_arguments NAME OUTER INNER CMD…: whether NAME can start with these; else the exit
# code is what it ends with.
mtls_arguments() {
    local name=$1 usage="$1 OUTER INNER CMD…" which
    shift
    if [ $# -lt 2 ]; then
        mtls_error "two ports and a command are needed" "$usage"
        return 2
    fi
    for which in OUTER INNER; do
        if ! mtls_is_port "$1"; then
            mtls_error "$which is ${1@Q}, which is no port from 1 to 65535" "$usage"
            return 2
        fi
        shift
    done
    if [ -z "${1-}" ]; then
        mtls_error "there is no command behind the two ports" \
            "$usage, as in: $name 8443 8888 python3 -m http.server --bind 127.0.0.1 8888"
        return 2
    fi
    if ! type -P -- "$1" >/dev/null; then
        if [ -e "$1" ] && [[ $1 == */* ]]; then
            mtls_error "${1@Q} cannot be executed" "is it a program, and executable? try: ls -l ${1@Q}"
            return 126
        fi
        which="check the spelling, and whether its module is loaded"
        [ "$(type -t -- "$1")" != function ] ||
            which="it is a function: export -f $1, and then: $name OUTER INNER bash -c $1"
        mtls_error "there is no program ${1@Q} on this node" "$which"
        return 127
    fi
}

# mtls_apart FUNCTION ARG…: in a shell of its own, as it changes much of it. Whoever ends
# `start_mtls … &` ends the shell above that one, and waits for no other: so it hands the
# signal on, and ends last.
mtls_apart() {
    # `sh` of some systems is bash in this mode, in which `wait` forgets who has ended.
    local -
    set +o posix
    local part='' told='' code=0 traps name
    if [ "$BASHPID" = "$$" ]; then
        ("$@")
        return
    fi
    traps=$(trap -p TERM INT HUP)
    for name in TERM INT HUP; do
        # shellcheck disable=SC2064 # this one's name
        trap "told=$name;"' mtls_tell "$part"' "$name"
    done
    "$@" <&0 &
    part=$!
    [ -z "$told" ] || mtls_tell "$part"
    mtls_wait "$part" || code=$?
    trap - TERM INT HUP
    eval "$traps"
    case "$told $traps" in
        \ *) return "$code" ;;
        *"SIG$told"*)
            kill -s "$told" "$BASHPID"
            return "$code"
            ;;
        *) exit "$code" ;;
    esac
}

# mtls_tell PID: that it shall end, if it has begun.
mtls_tell() {
    [ -z "$1" ] || kill -TERM "$1" 2>/dev/null || true
}

# mtls_wait PID: for the end of a child; its exit code. A signal ends `wait`, not what
# is waited for.
mtls_wait() {
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" || true
    done
    wait "$1"
}

# mtls_listeners PORT: how many sockets of this node listen on it. Two programs
# of one user can share a port (SO_REUSEPORT, which Caddy sets) without an error.
mtls_listeners() {
    local port
    printf -v port '%04X' "$1"
    # `cat`, because the kernel starts anew with each small read of these files; 0A:
    # listening. A busy node has thousands of lines.
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        grep -cE "^ *[0-9]+: [0-9A-F]+:$port [0-9A-F]+:[0-9A-F]+ 0A " || true
}

mtls_free_port() {
    mtls_can_assign || return
    local min=${1:-2000} max=${2:-65535} port attempt
    if ! mtls_is_port "$min" || ! mtls_is_port "$max" || [ "$min" -gt "$max" ]; then
        mtls_error "$min to $max is no range of ports" "mtls_free_port MIN MAX, from 1 to 65535"
        return 1
    fi
    for ((attempt = 0; attempt < 200; attempt++)); do
        port=$((min + (RANDOM * 32768 + RANDOM) % (max - min + 1)))
        if [ "$(mtls_listeners "$port")" = 0 ]; then
            printf '%s\n' "$port"
            return 0
        fi
    done
    mtls_error "no free port found from $min to $max" "give a wider range"
}

# mtls_connects PORT: whether somebody answers on this loopback.
mtls_connects() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# mtls_birth PID: when it was born; empty if it is dead, or dead and not buried.
mtls_birth() {
    local line fields
    { read -r line; } 2>/dev/null <"/proc/$1/stat" || return 0
    # The name in parentheses may hold anything.
    read -ra fields <<<"${line##*) }"
    case ${fields[0]} in
        Z | X) ;;
        *) printf '%s\n' "${fields[19]}" ;;
    esac
}

# mtls_json TEXT: as a JSON string.
mtls_json() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    printf '"%s"' "$text"
}

# mtls_trusted FILE: its certificates as a JSON list of base64.
mtls_trusted() {
    local line body='' list=''
    while IFS= read -r line; do
        case $line in
            *BEGIN\ CERTIFICATE*) body='' ;;
            *END\ CERTIFICATE*) list+="${list:+,}\"$body\"" ;;
            *) body+=$line ;;
        esac
    done <"$1"
    [ -n "$list" ] || mtls_error "there is no certificate in $1" "run: ood-ca doctor" || return
    printf '[%s]' "$list"
}

# mtls_caddy_config DIR SERVER: what both configurations have around the server.
# Nothing is kept, nothing is administered, no certificate is fetched.
mtls_caddy_config() {
    printf '{"admin":{"disabled":true,"config":{"persist":false}},'
    printf '"storage":{"module":"file_system","root":%s},' "$(mtls_json "$1/caddy")"
    printf '"logging":{"logs":{"default":{"level":"ERROR"}}},'
    printf '"apps":{%s"http":{"servers":{"mtls":%s}}}}' "${3-}" "$2"
}

# mtls_outer_config DIR PORT CERTIFICATE KEY TRUSTED. Host and SNI may differ: the
# portal's proxy sends its own Host and checks our name itself. Who has the
# owner's client leaf is the owner's PUN, so its X-Forwarded-* count.
mtls_outer_config() {
    local dir=$1 port=$2 certificate=$3 key=$4 trusted=$5 headers='' dropped='' i name spelling
    for i in "${!MTLS_HEADER_NAMES[@]}"; do
        name=${MTLS_HEADER_NAMES[i]}
        headers+="${headers:+,}\"$name\":[\"{env.MTLS_HEADER_$i}\"]"
        # Many apps read all spellings as one.
        while read -r spelling; do
            [ -z "$spelling" ] || dropped+="${dropped:+,}\"$spelling\""
        done <<<"$(mtls_other_spellings "$name")"
    done
    mtls_caddy_config "$dir" "$(
        # Whoever begins no TLS, or no request, is not waited for.
        printf '{"listen":[":%s"],"protocols":["h1"],"read_header_timeout":"10s","strict_sni_host":false,' "$port"
        printf '"automatic_https":{"disable":true},"tls_connection_policies":[{'
        printf '"alpn":["http/1.1"],"protocol_min":"tls1.3","certificate_selection":{"any_tag":["mtls"]},'
        printf '"client_authentication":{"mode":"require_and_verify","trusted_ca_certs":%s}}],' "$trusted"
        printf '"routes":[{"handle":[{"handler":"reverse_proxy","flush_interval":-1,"transport":{"protocol":"http","compression":false},'
        printf '"trusted_proxies":["0.0.0.0/0","::/0"],'
        printf '"headers":{"request":{"delete":[%s],"set":{%s}}},' "$dropped" "$headers"
        printf '"upstreams":[{"dial":%s}]}]}]}' "$(mtls_json "unix/$dir/app")"
    )" "$(
        printf '"tls":{"certificates":{"load_pem":[{"certificate":%s,"key":%s,"tags":["mtls"]}]}},' \
            "$(mtls_json "$certificate")" "$(mtls_json "$key")"
    )"
}

# mtls_inner_config DIR PORT. Caddy trusts no X-Forwarded-* that comes through a
# socket; these are the outer one's.
mtls_inner_config() {
    local name headers=''
    for name in For Proto Host; do
        headers+="${headers:+,}\"X-Forwarded-$name\":[\"{http.request.header.X-Forwarded-$name}\"]"
    done
    mtls_caddy_config "$1" "$(
        printf '{"listen":[%s],"protocols":["h1"],"automatic_https":{"disable":true},' \
            "$(mtls_json "unix/$1/app")"
        printf '"routes":[{"handle":[{"handler":"reverse_proxy","flush_interval":-1,"transport":{"protocol":"http","compression":false},'
        printf '"headers":{"request":{"set":{%s}}},' "$headers"
        printf '"upstreams":[{"dial":"127.0.0.1:%s"}]}]}]}' "$2"
    )"
}

# mtls_run_caddy CADDY DIR PREFIX…: becomes Caddy. Its configuration has the key in
# it and comes through a pipe, so it is in no file and no argument.
mtls_run_caddy() {
    local caddy=$1 dir=$2
    shift 2
    export HOME=$dir XDG_CONFIG_HOME=$dir/caddy XDG_DATA_HOME=$dir/caddy
    exec "$@" "$caddy" run --config -
}

# mtls_pause SECONDS FD: without a process for it. Nothing is ever written there.
mtls_pause() {
    read -r -t "$1" -u "$2" _ || true
}

# mtls_linger SECONDS FD COMMAND…: as long as COMMAND succeeds, and about SECONDS at most.
mtls_linger() {
    local limit=$1 fd=$2
    shift 2
    SECONDS=0
    while "$@" 2>/dev/null && [ "$SECONDS" -le "$limit" ]; do
        mtls_pause 0.02 "$fd"
    done
}

# mtls_inside DIR INNER CADDY GO STATUS TIMEOUT GRACE CMD…: process 1 of the
# namespaces; when it ends, the kernel ends the rest. GO and STATUS are file
# descriptors, standard input is CMD's.
mtls_inside() {
    local dir=$1 inner=$2 caddy=$3 go=$4 status=$5 timeout=$6 grace=$7
    local line own config proxy app code ready=no
    # And none from files: a Caddy that may bind low ports has them.
    local plain=(setpriv --inh-caps=-all --ambient-caps=-all --no-new-privs --)
    shift 7
    set +eu
    # Below, everything that there is gets a signal.
    [ "$$" = 1 ] || exit 1
    export MTLS_INSIDE=1

    mtls_stop() {
        trap '' TERM
        # In here, -1 is what was started in here.
        kill -TERM -1 2>/dev/null
        mtls_linger $((grace - 1)) "$go" kill -0 "$app"
        exit 143
    }
    trap mtls_stop TERM

    # As /proc is still that of the node, this is the node's number of us.
    read -r own _ </proc/self/stat
    printf 'pid %s\n' "$own" >&"$status"
    mount -t proc proc /proc 2>/dev/null ||
        printf 'warning: /proc shows all processes of this node: a new one cannot be mounted here\n' >&2
    ip link set lo up 2>/dev/null
    read -r -u "$go" line
    [ "$line" = go ] || exit 1
    if [ -e "$dir/resolv.conf" ]; then
        mount --bind "$dir/resolv.conf" /etc/resolv.conf 2>/dev/null ||
            printf 'warning: names cannot be resolved in here: /etc/resolv.conf cannot be replaced\n' >&2
    fi

    exec {config}< <(mtls_inner_config "$dir" "$inner")
    mtls_run_caddy "$caddy" "$dir" "${plain[@]}" <&"$config" {config}<&- {go}<&- {status}>&- &
    proxy=$!
    exec {config}<&-
    # A session of its own, whose number exists in here.
    unset MTLS_TOP
    setsid "${plain[@]}" "$@" {go}<&- {status}>&- <&0 &
    app=$!

    SECONDS=0
    while kill -0 "$app" 2>/dev/null && kill -0 "$proxy" 2>/dev/null; do
        if [ "$ready" = yes ]; then
            wait -n "$app" "$proxy"
        elif [ -S "$dir/app" ] && mtls_connects "$inner"; then
            ready=yes
            printf 'ready\n' >&"$status"
        elif [ "$SECONDS" -ge "$timeout" ]; then
            mtls_error "the app does not listen on 127.0.0.1:$inner after $timeout seconds" \
                "tell it the port, or give it more time with MTLS_READY_TIMEOUT"
            exit 1
        else
            mtls_pause 0.03 "$go"
        fi
    done
    if kill -0 "$app" 2>/dev/null; then
        mtls_error "the Caddy in front of the app has ended" "what it said is above"
        exit 1
    fi
    wait "$app"
    code=$?
    exit "$code"
}

# mtls_alive PID BIRTH: whether it is still that process.
mtls_alive() {
    [ -n "$2" ] && [ "$(mtls_birth "$1")" = "$2" ]
}

# mtls_watch DIR GRACE MAIN BIRTH [PID BIRTH]…: when one of those behind MAIN is gone,
# ends MAIN; when MAIN is gone, removes what it could not remove itself.
mtls_watch() {
    local dir=$1 grace=$2 main=$3 birth=$4 i never over=no server server_birth
    shift 4
    local others=("$@")
    trap '' TERM INT HUP
    set +eu
    exec {never}<> <(:)
    while [ "$over" = no ] && mtls_alive "$main" "$birth"; do
        for ((i = 0; i < ${#others[@]}; i += 2)); do
            mtls_alive "${others[i]}" "${others[i + 1]}" || over=yes
        done
        [ "$over" = yes ] || mtls_pause 0.3 "$never"
    done
    ! mtls_alive "$main" "$birth" || kill -TERM "$main" 2>/dev/null
    mtls_linger $((grace + 1)) "$never" mtls_alive "$main" "$birth"
    ! mtls_alive "$main" "$birth" || kill -KILL "$main" 2>/dev/null
    # A Caddy with capabilities of its own does not end with whoever started it.
    if read -r server server_birth 2>/dev/null <"$dir/server" && mtls_alive "$server" "$server_birth"; then
        kill -KILL "$server" 2>/dev/null
    fi
    rm -rf -- "$dir"
}

# mtls_guard DIR GRACE: watches over the shell that calls this, which has {never} open,
# and over those above it. Sets `watch` to the process that does.
mtls_guard() {
    local main=$BASHPID line fields watched top birth
    watched=("$main" "$(mtls_birth "$main")" "$$" "$(mtls_birth "$$")")
    # Who killed `start_mtls … &` has killed the one above this one.
    read -r line <"/proc/$main/stat"
    read -ra fields <<<"${line##*) }"
    watched+=("${fields[1]}" "$(mtls_birth "${fields[1]}")")
    read -r top birth <<<"${MTLS_TOP-}"
    ! mtls_alive "$top" "$birth" || watched+=("$top" "$birth")
    setsid bash -c 'mtls_watch "$@"' mtls "$1" "$2" "${watched[@]}" \
        </dev/null >/dev/null 2>&1 {never}>&- &
    watch=$!
}

# mtls_private_directory: in memory where there is such a place. A socket's path
# may have 107 characters, and Caddy's own syntax none that are special.
mtls_private_directory() {
    local base
    for base in /dev/shm "${TMPDIR:-/tmp}" /tmp; do
        if [[ $base =~ ^/[A-Za-z0-9/._-]{1,70}$ ]] && [ -d "$base" ] && [ -w "$base" ] &&
            { [ -O "$base" ] || [ -k "$base" ]; }; then
            # Nobody else can rename what is in there.
            mktemp -d "$base/mtls.XXXXXXXXXX" && return 0
        fi
    done
    mtls_error "there is no place for a private directory" "set TMPDIR to a directory that you can write"
}

# mtls_requirements CADDY OOD_CA OUTBOUND
mtls_requirements() {
    local program
    for program in "$1" "$2" setpriv unshare setsid mktemp; do
        if ! command -v "$program" >/dev/null; then
            mtls_error "$program is not on this node" \
                "install it, load its module, or say where it is with MTLS_CADDY or MTLS_OOD_CA"
            return 1
        fi
    done
    if ! [[ $(unshare --help) == *--map-current-user*--keep-caps* ]]; then
        mtls_error "unshare of this node is too old" "util-linux 2.36 or later is needed"
        return 1
    fi
    case $3 in
        none)
            # Without it nobody raises the loopback.
            if ! command -v ip >/dev/null; then
                mtls_error "ip is not on this node" "install iproute2 (iproute)"
                return 1
            fi
            ;;
        auto | slirp4netns)
            if ! command -v slirp4netns >/dev/null; then
                mtls_error "slirp4netns is not on this node" \
                    "install it, or set MTLS_OUTBOUND=none for an app that connects to nothing"
                return 1
            fi
            if ! [ -r /dev/net/tun ] || ! [ -w /dev/net/tun ]; then
                mtls_error "/dev/net/tun cannot be opened by this user, so slirp4netns cannot work" \
                    "its mode should be 0666, as udev makes it; or set MTLS_OUTBOUND=none for an app that connects to nothing"
                return 1
            fi
            ;;
        *)
            mtls_error "MTLS_OUTBOUND is ${3@Q}" \
                "auto, slirp4netns or none; pasta where ood-job is on the node"
            return 1
            ;;
    esac
}

# mtls_leaf OOD_CA DIR: issues the server's leaf.
mtls_leaf() {
    local host args=()
    for host in ${MTLS_HOSTS-}; do
        if [[ $host =~ ^[0-9]+(\.[0-9]+){3}$ ]]; then
            args+=(--ip "$host")
        else
            args+=(--host "$host")
        fi
    done
    "$1" issue --out "$2" "${args[@]}" >/dev/null
}

# mtls_nameserver DIR: where the node asks itself, the namespace has to ask
# slirp4netns.
mtls_nameserver() {
    local key value other='' needed=no
    { while read -r key value; do
        case $key in
            nameserver) case $value in 127.* | ::1) needed=yes ;; esac ;;
            search | domain | options) other+="$key $value"$'\n' ;;
        esac
    done; } 2>/dev/null </etc/resolv.conf
    [ "$needed" = no ] || printf 'nameserver 10.0.2.3\n%s' "$other" >"$1/resolv.conf"
}

start_mtls_caddy() {
    mtls_can_assign || return
    mtls_apart mtls_by_caddy start_mtls_caddy "$@"
}

# mtls_begin NAME OUTER INNER CMD…: what they and the settings say, for the shell that
# does the work; ends it if they make no sense.
mtls_begin() {
    # No trace: the key would be in it. No export of what is set, no file names for *.
    { set +aeuvx; } 2>/dev/null
    set -f
    IFS=$' \t\n'
    umask 077
    mtls_arguments "$@" || exit
    outer=$2 inner=$3 outbound=${MTLS_OUTBOUND:-auto}
    timeout=${MTLS_READY_TIMEOUT:-300} grace=${MTLS_GRACE:-5}
    mtls_settings "$timeout" "$grace" || exit 2
}

# mtls_move_in FUNCTION: a directory for what this shell starts. However the shell ends,
# FUNCTION ends what it has started, and then the directory goes.
mtls_move_in() {
    ending=$1 dir='' watch=''
    trap mtls_move_out EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    trap 'exit 129' HUP
    # A pipe without a name, silent for ever.
    exec {never}<> <(:)
    dir=$(mtls_private_directory) || exit 1
    mtls_guard "$dir" "$grace"
}

mtls_move_out() {
    local code=$?
    trap '' TERM INT HUP
    trap - EXIT
    "$ending"
    [ -z "$dir" ] || rm -rf -- "$dir"
    [ -z "$watch" ] || { kill -KILL "$watch" && wait "$watch"; } 2>/dev/null
    exit "$code"
}

# mtls_serves PID: that this process is to go with the directory, whoever has started it.
mtls_serves() {
    printf '%s %s\n' "$1" "$(mtls_birth "$1")" >"$dir/server"
}

# mtls_until_ready FUNCTION PID…: until FUNCTION says that the app can be reached, which
# is passed on; fails when one of the processes has ended.
mtls_until_ready() {
    local ready=$1 process
    shift
    until "$ready"; do
        for process; do
            kill -0 "$process" 2>/dev/null || return 1
        done
        mtls_pause 0.02 "$never"
    done
    [ -z "${MTLS_READY_FD-}" ] || printf 'ready\n' >&"$MTLS_READY_FD"
}

# mtls_by_caddy NAME OUTER INNER CMD…: ends the shell that it is in.
mtls_by_caddy() {
    mtls_begin "$@"
    shift 3
    unset -v key MTLS_HEADER_COUNT
    caddy=${MTLS_CADDY:-caddy} ood_ca=${MTLS_OOD_CA:-ood-ca}
    mtls_requirements "$caddy" "$ood_ca" "$outbound" || exit 1
    taken="port $outer of this node is taken"
    mtls_check_free "$outer" || exit 1

    server='' space='' network='' init=''
    mtls_move_in mtls_end_caddy
    # Pipes without a name, by which the two sides wait for each other.
    exec {go}<> <(:) {status}<> <(:) {up}<> <(:)

    mtls_leaf "$ood_ca" "$dir" || exit 1
    key=$(<"$dir/server.key")
    rm -f -- "$dir/server.key"
    trusted=$(mtls_trusted "$dir/trust.crt") || exit 1
    exec {config}< <(mtls_outer_config "$dir" "$outer" "$(<"$dir/server.crt")" "$key" "$trusted")
    unset key
    (
        for i in "${!MTLS_HEADER_VALUES[@]}"; do
            export "MTLS_HEADER_$i=${MTLS_HEADER_VALUES[i]}"
        done
        mtls_run_caddy "$caddy" "$dir" setpriv --pdeathsig KILL --
    ) <&"$config" {config}<&- {never}>&- {go}>&- {status}>&- {up}>&- &
    server=$!
    exec {config}<&-
    mtls_serves "$server"

    [ "$outbound" = none ] || mtls_nameserver "$dir"
    setpriv --pdeathsig KILL -- \
        unshare --map-current-user --keep-caps --net --mount --pid --fork --kill-child -- \
        bash -c 'mtls_inside "$@"' mtls "$dir" "$inner" "$caddy" "$go" "$status" "$timeout" "$grace" "$@" \
        <&0 {never}>&- {up}>&- &
    space=$!

    if ! mtls_until_ready mtls_caddy_is_ready "$server" "$space" && ! kill -0 "$server" 2>/dev/null; then
        mtls_error "Caddy has ended, or $taken" "what it said is above; choose another port if that is the reason"
        exit 1
    fi
    while kill -0 "$space" 2>/dev/null; do
        if ! kill -0 "$server" 2>/dev/null; then
            mtls_error "Caddy has ended" "what it said is above"
            exit 1
        fi
        [ -z "$network" ] || mtls_slirp_runs "what it said is above" || exit 1
        # shellcheck disable=SC2086 # one word or none
        wait -n "$space" "$server" $network
    done
    wait "$space"
    code=$?
    if [ -z "$init" ]; then
        mtls_error "this node does not let users make namespaces" \
            "see user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns (sysctl)"
    fi
    exit "$code"
}

# What mtls_by_caddy does when something has been said from inside. Caddy listens long
# before most apps do.
mtls_caddy_is_ready() {
    local word value
    # `read` with a time limit would lose what it has read when the time is up.
    read -t 0 -u "$status" || return 1
    read -r -u "$status" word value
    case $word in
        pid)
            init=$value
            init_birth=$(mtls_birth "$init")
            [ "$outbound" = none ] || mtls_lead_out || exit 1
            printf 'go\n' >&"$go"
            return 1
            ;;
        ready)
            until mtls_connects "$outer"; do
                kill -0 "$server" 2>/dev/null || return 1
                mtls_pause 0.02 "$never"
            done
            if [ "$(mtls_listeners "$outer")" != 1 ]; then
                mtls_error "$taken: another program of yours has opened it at the same time" \
                    "choose another, with mtls_free_port for example"
                exit 1
            fi
            kill -0 "$server" 2>/dev/null || return 1
            printf 'mtls: ready at port %s\n' "$outer" >&2
            ;;
        *) return 1 ;;
    esac
}

# The way out of mtls_by_caddy's namespaces.
mtls_lead_out() {
    setpriv --pdeathsig KILL -- \
        slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd="$up" \
        "$init" tap0 </dev/null >"$dir/slirp4netns.log" 2>&1 {never}>&- {go}>&- {status}>&- &
    network=$!
    until read -t 0 -u "$up"; do
        mtls_slirp_runs "set MTLS_OUTBOUND=none for an app that connects to nothing" || return
        mtls_pause 0.02 "$never"
    done
}

# mtls_slirp_runs HINT
mtls_slirp_runs() {
    if ! kill -0 "$network" 2>/dev/null; then
        cat "$dir/slirp4netns.log" >&2
        mtls_error "slirp4netns has ended" "$1"
    fi
}

# Ends what mtls_by_caddy has started.
mtls_end_caddy() {
    local process
    if [ -n "$init" ] && kill -0 "$space" 2>/dev/null; then
        kill -TERM "$init" 2>/dev/null
        mtls_linger "$grace" "$never" kill -0 "$space"
    fi
    # The namespaces end with `unshare`.
    for process in $space $network $server; do
        kill -KILL "$process" 2>/dev/null
        wait "$process" 2>/dev/null
    done
    # … and a little later, if it had to be killed.
    [ -z "$init" ] || mtls_linger 5 "$never" mtls_alive "$init" "$init_birth"
}

# With ood-job where that is on this node, else with Caddy.
start_mtls() {
    mtls_can_assign || return
    if command -v "${MTLS_OOD_JOB:-ood-job}" >/dev/null; then
        mtls_apart mtls_by_job start_mtls "$@"
    else
        mtls_apart mtls_by_caddy start_mtls "$@"
    fi
}

# mtls_by_job NAME OUTER INNER CMD…: ends the shell that it is in.
mtls_by_job() {
    mtls_begin "$@"
    shift 3
    case $outbound in
        auto | pasta | slirp4netns | none) ;;
        *)
            mtls_error "MTLS_OUTBOUND is ${outbound@Q}" "auto, pasta, slirp4netns or none"
            exit 1
            ;;
    esac
    mtls_check_free "$outer" || exit 1
    app=(env -u MTLS_HEADER_COUNT)
    args=(run --listen "0.0.0.0:$outer" --to "127.0.0.1:$inner" --outbound "$outbound"
        --ready tcp --ready-timeout "${timeout}s")
    for host in ${MTLS_HOSTS-}; do
        args+=(--host "$host")
    done
    for i in "${!MTLS_HEADER_NAMES[@]}"; do
        export "MTLS_HEADER_$i=${MTLS_HEADER_VALUES[i]}"
        args+=(--header-env "${MTLS_HEADER_NAMES[i]}=MTLS_HEADER_$i")
        # It tells the TLS end, and nobody else.
        app+=(-u "MTLS_HEADER_$i")
    done

    job='' ready=no
    mtls_move_in mtls_end_job
    setpriv --pdeathsig TERM -- "${MTLS_OOD_JOB:-ood-job}" "${args[@]}" --publish "$dir/connection.json" -- \
        "${app[@]}" "$@" <&0 {never}>&- &
    job=$!
    # Its end is what it is told about, and it is waited for.
    trap 'mtls_tell "$job"' TERM INT HUP
    mtls_serves "$job"
    SECONDS=0
    if mtls_until_ready mtls_is_published "$job"; then
        ready=yes
    fi
    mtls_wait "$job"
    code=$?
    # It has said why, in words of its own options.
    if [ "$code" = 125 ] && [ "$ready" = no ]; then
        if [ "$SECONDS" -ge "$timeout" ]; then
            mtls_error "the app does not listen on 127.0.0.1:$inner after $timeout seconds" \
                "tell it the port, or give it more time with MTLS_READY_TIMEOUT"
        else
            mtls_check_free "$outer"
        fi
    fi
    exit "$code"
}

# What mtls_by_job's ood-job does when the app can be reached.
mtls_is_published() {
    [ -e "$dir/connection.json" ]
}

# Ends what mtls_by_job has started.
mtls_end_job() {
    while [ -n "$job" ] && kill -TERM "$job" 2>/dev/null; do
        wait "$job"
    done
}

# mtls_check_free PORT
mtls_check_free() {
    [ "$(mtls_listeners "$1")" = 0 ] ||
        mtls_error "port $1 of this node is taken" "choose another, with mtls_free_port for example"
}

# mtls_settings TIMEOUT GRACE
mtls_settings() {
    if ! [[ $1 =~ ^[0-9]{1,6}$ && $2 =~ ^[0-9]{1,6}$ ]]; then
        mtls_error "MTLS_READY_TIMEOUT or MTLS_GRACE is no number of seconds" \
            "write them as 300 and 5"
        return 1
    fi
    local host
    for host in ${MTLS_HOSTS-}; do
        if ! [[ $host =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]]; then
            mtls_error "MTLS_HOSTS has ${host@Q} in it, which is neither a name nor an IPv4 address" \
                "name this node as the portal does, with spaces between if by several names"
            return 1
        fi
    done
    if [ "${MTLS_HEADER_COUNT:-0}" != "${#MTLS_HEADER_NAMES[@]}" ]; then
        mtls_error "headers were added in another shell than this one" \
            "call add_caddy_header in the script that calls start_mtls"
        return 1
    fi
}

# For scripts that the job script starts.
mtls_functions=(
    add_caddy_header start_mtls start_mtls_caddy mtls_alive mtls_apart mtls_arguments mtls_begin
    mtls_birth mtls_by_caddy mtls_by_job mtls_caddy_config mtls_caddy_is_ready mtls_can_assign mtls_check_free
    mtls_connects mtls_end_caddy mtls_end_job mtls_error mtls_folded mtls_free_port mtls_guard
    mtls_inner_config mtls_inside mtls_is_port mtls_is_published mtls_json mtls_lead_out mtls_leaf
    mtls_linger mtls_listeners mtls_move_in mtls_move_out mtls_nameserver mtls_other_spellings
    mtls_outer_config mtls_pause mtls_private_directory mtls_requirements mtls_run_caddy mtls_serves
    mtls_settings mtls_slirp_runs mtls_tell mtls_trusted mtls_until_ready mtls_wait mtls_watch
)
export -f "${mtls_functions[@]}"

# The job script: when it is gone, so is what its scripts have started.
MTLS_TOP=${MTLS_TOP-}
if ! mtls_alive "${MTLS_TOP% *}" "${MTLS_TOP#* }"; then
    MTLS_TOP="$$ $(mtls_birth "$$")"
fi
export MTLS_TOP
