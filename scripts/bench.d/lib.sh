# shellcheck shell=bash
# What the benchmarks share. Source it after scripts/lib.sh.

# make_bench_dir: sets $dir, a new directory below target/bench that is removed at
# the end, and $target.
make_bench_dir() {
    target=$(target_dir)
    mkdir -p "$target/bench"
    # For 5 minutes ext4 is slow (1 ms each) to make files near those that were
    # removed. With +T it places the directories of different runs far apart.
    chattr +T "$target/bench" 2>/dev/null || true
    dir=$(mktemp -d "$target/bench/XXXXXX")
    trap 'rm -rf "$dir"' EXIT
    # The site's and the user's own settings must not matter.
    printf '{}\n' >"$dir/ood_ca.yml"
    # A job writes into a directory of its own, so each run finds none. What the run
    # before it wrote is moved away, not removed, for the reason above.
    cat >"$dir/aside" <<'ASIDE'
[ ! -e "$1" ] || mv "$1" "$1.$$"
ASIDE
}

# issue PKI: the command line that issues one server leaf
issue() {
    printf '%s' "$target/release/ood-ca issue --config $dir/ood_ca.yml --pki-dir $dir/$1 --out $dir/out --host n001.cluster.example"
}

# pipeline: the command line of what make_pipeline made
pipeline() {
    printf '%s' "sh $dir/pipeline $dir"
}

# What the reference proposal does for one server certificate: three processes
# of openssl, here with the same P-256 keys as ours. The shell that runs them
# costs 1 ms and is counted, as there.
make_pipeline() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$dir/ca.key"
    openssl req -x509 -new -key "$dir/ca.key" -days 3650 -subj /CN=ca -out "$dir/ca.crt"
    printf 'subjectAltName = DNS:n001.cluster.example\n' >"$dir/names.ext"
    cat >"$dir/pipeline" <<'PIPELINE'
set -e
cd "$1"
mkdir out
openssl ecparam -genkey -name prime256v1 -noout -out out/server.key
openssl req -new -key out/server.key -subj /CN=n001.cluster.example -out out/server.csr
openssl x509 -req -in out/server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
    -days 35 -extfile names.ext -out out/server.crt 2>out/log
PIPELINE
}

# compare FILE RUNS ROUNDS NAME COMMAND NAME COMMAND: both in turn, so that a
# machine that gets busier slows both; no shell around the commands.
compare() {
    local file=$1 runs=$2 rounds=$3 round pairs=()
    for round in $(seq "$rounds"); do
        pairs+=(--command-name="$4 $round" "$5" --command-name="$6 $round" "$7")
    done
    hyperfine --shell=none --style=basic --warmup=5 --runs="$runs" \
        --prepare="sh $dir/aside $dir/out" --export-json="$dir/$file.json" "${pairs[@]}" \
        >"$dir/$file.log" 2>&1 || { cat "$dir/$file.log"; return 1; }
}

# make_server_dir NAME: sets $dir, a new directory below /tmp, where any user can
# read. At the end it is removed and what $started lists is ended.
make_server_dir() {
    dir=$(mktemp -d "/tmp/$1.XXXXXX")
    started=()
    trap stop_servers EXIT
    # Root's programs are not found by everybody's PATH.
    PATH=$PATH:/usr/sbin:/sbin
}

stop_servers() {
    local pid
    for pid in "${started[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for COMMAND…: until it succeeds, 10 s at most.
wait_for() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        "$@" 2>/dev/null && return
        sleep 0.05
    done
    tail -n 5 "$dir"/*.log "$dir"/*/error.log >&2 || true
    die "not ready after 10 s: $*" "see the lines above"
}

# nginx_conf NAME USER: writes $dir/NAME/nginx.conf; standard input is its
# `server` blocks.
nginx_conf() {
    local name=$1 kind
    mkdir "$dir/$name"
    {
        [ "$(id -u)" -ne 0 ] || printf 'user %s %s;\n' "$2" "$(id -gn "$2")"
        printf 'worker_processes 1; daemon off; pid %s/pid; error_log %s/error.log;\n' "$dir/$name" "$dir/$name"
        printf 'events { worker_connections 4096; }\nhttp {\naccess_log off;\n'
        for kind in client_body proxy fastcgi uwsgi scgi; do
            printf '%s_temp_path %s/%s;\n' "$kind" "$dir/$name" "$kind"
        done
        cat
        printf '}\n'
    } >"$dir/$name/nginx.conf"
}

# make_files: what the app serves, a small and a large one.
make_files() {
    mkdir "$dir/www"
    head -c 67108864 /dev/urandom >"$dir/www/large"
    head -c 1024 /dev/urandom >"$dir/www/small"
}

# app NAME ADDRESS:PORT: the configuration of an app, an nginx, that serves them.
app() {
    # As root its worker, too, for it reads a directory of ours.
    nginx_conf "$1" root <<CONF
sendfile on; open_file_cache max=10; keepalive_requests 1000000000; keepalive_timeout 600;
server { listen $2; root $dir/www; }
CONF
}

# start_stunnel PORT APP: in front of the app at that port of loopback, with a leaf
# of $dir/pki; $pid_stunnel.
start_stunnel() {
    "$target/release/ood-ca" issue --pki-dir "$dir/pki" --ip 127.0.0.1 --out "$dir/stunnel" >/dev/null
    cat >"$dir/stunnel.conf" <<CONF
foreground = yes
pid =
debug = err
[app]
accept = 127.0.0.1:$1
connect = 127.0.0.1:$2
cert = $dir/stunnel/server.crt
key = $dir/stunnel/server.key
CAfile = $dir/stunnel/trust.crt
verifyChain = yes
sslVersionMin = TLSv1.3
CONF
    stunnel "$dir/stunnel.conf" >"$dir/stunnel.log" 2>&1 &
    pid_stunnel=$!
    started+=("$pid_stunnel")
}
