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
