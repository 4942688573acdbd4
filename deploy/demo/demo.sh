#!/bin/bash
# The demo: three stock registries that share one storage and protect themselves in three ways, Tidegate with TLS in front, and a
# user who pushes and pulls while one registry dies. Called by `make demo`.
#
# It runs until Ctrl-C; with DEMO_EXIT=1 it ends after the steps. It leaves no process and no file behind.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly LARGE_LAYER_MIB=72

# Times are printed with a point, whatever the user's language is.
export LC_ALL=C
# Debian keeps daemons in sbin, which a user's PATH may lack.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

dir=""
declare -A pids=()
pushed_images=()
clean_up() {
  local status=$? name
  trap - EXIT INT TERM HUP
  {
    for name in "${!pids[@]}"; do kill -KILL "${pids[$name]}" || true; done
    wait || true
  } 2>/dev/null
  if [ "${client:-}" = docker ]; then
    for name in "${pushed_images[@]}"; do docker image rm --force "$name" >/dev/null 2>&1 || true; done
  fi
  if [ "$status" -ne 0 ] && [ "$status" -lt 128 ] && [ -n "$dir" ]; then
    echo "The demo failed. The last lines of the logs:" >&2
    tail -n 15 "$dir"/*.log >&2 || true
  fi
  [ -z "$dir" ] || rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

title() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }

# Runs a command quietly and tells how long it took; on failure it ends the demo, and the end shows what the command said. Inside,
# `set -e` does not count, so the functions called by this chain their commands with `&&`.
step() {
  local text=$1 started=$EPOCHREALTIME
  shift
  if ! "$@" >"$dir/step.log" 2>&1; then
    printf '   FAILED  %s\n' "$text"
    exit 1
  fi
  awk -v text="$text" -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { printf "   ok  %6.2f s  %s\n", to - from, text }'
}

# Waits until a file has a line that matches, and prints the first such line.
wait_for_line() {
  local file=$1 pattern=$2 process=$3 deadline=$((SECONDS + 30))
  until grep -m 1 -e "$pattern" "$file" 2>/dev/null; do
    kill -0 "$process" 2>/dev/null || return 1
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

secret() { openssl rand -hex 16; }

# The child is killed by the kernel should this script be killed without a chance to clean up.
spawn() {
  local name=$1
  shift
  setpriv --pdeathsig KILL -- "$@" >"$dir/$name.out" 2>"$dir/$name.log" &
  pids[$name]=$!
}

start_registry() {
  local name=$1 auth=$2 line
  cat >"$dir/$name.yml" <<YAML
version: 0.1
log: { level: info }
storage:
  filesystem: { rootdirectory: $dir/storage }
  delete: { enabled: true }
  maintenance: { uploadpurging: { enabled: false } }
http: { addr: "127.0.0.1:0", secret: $(secret) }
$auth
YAML
  spawn "$name" docker-registry serve "$dir/$name.yml"
  line=$(wait_for_line "$dir/$name.log" 'listening on' "${pids[$name]}")
  port=${line##*listening on 127.0.0.1:}
  port=${port%%[!0-9]*}
}

start_registries() {
  local member_password realm=https://nobody.invalid/token
  start_registry open ""
  open_port=$port
  member_password=$(secret)
  htpasswd -Bbn member-account "$member_password" >"$dir/members.htpasswd"
  start_registry password "auth: { htpasswd: { realm: demo, path: $dir/members.htpasswd } }"
  password_port=$port
  "$tidegate" keys generate --dir "$dir/keys" >/dev/null
  "$tidegate" keys export-bundle --dir "$dir/keys" >"$dir/member-keys.pem"
  start_registry token "auth: { token: { realm: $realm, service: member, issuer: tidegate, rootcertbundle: $dir/member-keys.pem } }"
  token_port=$port
  member_credential="{ basic: { user: member-account, password: \"$member_password\" } }"
  say "open      http://127.0.0.1:$open_port   lets everybody in"
  say "password  http://127.0.0.1:$password_port   knows one account, in an htpasswd file"
  say "token     http://127.0.0.1:$token_port   trusts the key that \`tidegate keys export-bundle\` prints"
  say "Each has its own http.secret, so an upload begun at one cannot go on at another."
}

make_certificates() {
  mkdir -p "$dir/ca"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=Tidegate demo authority" \
    -keyout "$dir/ca.key" -out "$dir/ca/ca.crt" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=Tidegate demo" \
    -keyout "$dir/hub.key" -out "$dir/hub.csr" 2>/dev/null
  printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\n' >"$dir/hub.ext"
  openssl x509 -req -in "$dir/hub.csr" -CA "$dir/ca/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
    -extfile "$dir/hub.ext" -out "$dir/hub.crt" 2>/dev/null
}

start_tidegate() {
  local hash
  hash=$(printf '%s' "$password" | "$tidegate" hash-password --stdin)
  cat >"$dir/tidegate.yaml" <<YAML
external_url: https://127.0.0.1
listeners:
  - address: 127.0.0.1:0
    tls: { certificates: [{ cert: $dir/hub.crt, key: $dir/hub.key }] }
admin: { address: "127.0.0.1:0" }
tokens: { service: demo, issuer: tidegate, keys: $dir/keys }
uploads: { seal_keys: $dir/seal }
identity:
  - users: [{ name: demo, password_hash: "$hash" }]
policy:
  - { user: demo, repository: "**", allow: [pull, push, delete] }
pools:
  - name: main
    storage: shared
    members:
      - { name: open, url: "http://127.0.0.1:$open_port", credential: none }
      - { name: password, url: "http://127.0.0.1:$password_port", credential: $member_credential }
      - { name: token, url: "http://127.0.0.1:$token_port", credential: { token: { audience: member } } }
    health: { interval: 1s, timeout: 1s, rise: 2, fall: 2 }
routes:
  - { repository: "**", pool: main }
log: { format: json }
YAML
  spawn tidegate "$tidegate" serve --config "$dir/tidegate.yaml"
  wait_for_line "$dir/tidegate.log" '"message":"ready"' "${pids[tidegate]}" >/dev/null
  hub=$(listener tls)
  admin=$(listener admin)
}

# The address of the listener of this kind, from Tidegate's log.
listener() {
  grep -e '"message":"listening"' "$dir/tidegate.log" | grep -m 1 -e "\"kind\":\"$1\"" |
    sed -e 's/.*"address":"\([^"]*\)".*/\1/'
}

# An image of three layers of random bytes, the first one large, as `docker save` would write it.
make_image() {
  local name=$1 number size layers="" ids="" config
  mkdir "$dir/$name"
  for number in 1 2 3; do
    case $number in 1) size=$((LARGE_LAYER_MIB * 1024)) ;; 2) size=4096 ;; *) size=1 ;; esac
    mkdir "$dir/$name/$number"
    head -c "${size}K" /dev/urandom >"$dir/$name/random-$number"
    tar -C "$dir/$name" -cf "$dir/$name/$number/layer.tar" "random-$number"
    rm "$dir/$name/random-$number"
    ids+="${ids:+,}\"sha256:$(sha256sum "$dir/$name/$number/layer.tar" | cut -d ' ' -f 1)\""
    layers+="${layers:+,}\"$number/layer.tar\""
  done
  config='{"architecture":"amd64","os":"linux","config":{"Cmd":["/random-1"]},"rootfs":{"type":"layers","diff_ids":['$ids']}}'
  printf '%s' "$config" >"$dir/$name/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":[%s]}]' "$hub/demo/app:$name" "$layers" >"$dir/$name/manifest.json"
  tar -C "$dir/$name" -cf "$dir/$name.tar" .
  rm -rf "${dir:?}/$name"
}

login() {
  case $client in
    docker) docker login --username demo --password-stdin "$hub" <<<"$password" ;;
    skopeo) skopeo login --authfile "$dir/auth.json" --cert-dir "$dir/ca" --username demo --password-stdin "$hub" <<<"$password" ;;
  esac
}

push() {
  local name=$1
  case $client in
    docker)
      pushed_images+=("$hub/demo/app:$name")
      # At the end nothing may be left for the pull to find.
      docker load --quiet --input "$dir/$name.tar" && docker push "$hub/demo/app:$name" &&
        docker image rm --force "$hub/demo/app:$name"
      ;;
    skopeo)
      skopeo copy --authfile "$dir/auth.json" --dest-cert-dir "$dir/ca" \
        "docker-archive:$dir/$name.tar" "docker://$hub/demo/app:$name"
      ;;
  esac
}

pull() {
  local name=$1
  case $client in
    docker)
      docker pull "$hub/demo/app:$name" && docker image rm --force "$hub/demo/app:$name"
      ;;
    skopeo)
      rm -rf "$dir/pulled" &&
        skopeo copy --authfile "$dir/auth.json" --src-cert-dir "$dir/ca" "docker://$hub/demo/app:$name" "dir:$dir/pulled"
      ;;
  esac
}

kill_registry() {
  kill -KILL "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

# How many requests of clients each registry has answered.
show_shares() {
  local name
  for name in open password token; do
    say "$(printf '%-9s answered %4d requests' "$name" "$(grep -c -e ' /v2/[^ ]' "$dir/$name.out" || true)")"
  done
}

print_hints() {
  title "Try it by hand"
  cat <<TEXT
   docker login --username demo --password $password $hub
   docker tag IMAGE $hub/demo/IMAGE && docker push $hub/demo/IMAGE
   docker pull $hub/demo/app:one

   docker checks no certificate on 127.0.0.1. For a gateway elsewhere it wants the authority in a directory named for the host:
     sudo install -D -m 644 $dir/ca/ca.crt /etc/docker/certs.d/HOST:PORT/ca.crt
   The other clients are told where it is:
     skopeo login --cert-dir $dir/ca --username demo --password $password $hub
     curl --cacert $dir/ca/ca.crt --user demo:$password https://$hub/v2/

   Metrics: http://$admin/metrics
   Logs, configuration and keys: $dir (removed at the end)
TEXT
}

choose_client() {
  client=skopeo
  command -v docker >/dev/null && docker info >/dev/null 2>&1 || return 0
  client=docker
  # The demo's login is kept apart from the user's own; which daemon to talk to is part of the user's configuration.
  DOCKER_HOST=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}')}
  DOCKER_CONFIG="$dir/docker"
  export DOCKER_HOST DOCKER_CONFIG
}

main() {
  "$root/tests/scripts/install.sh" --demo
  title "Building Tidegate"
  (cd "$root" && cargo build --release --quiet)
  tidegate="${CARGO_TARGET_DIR:-$root/target}/release/tidegate"
  dir=$(mktemp -d "${TMPDIR:-/tmp}/tidegate-demo.XXXXXX")
  chmod 700 "$dir"
  choose_client

  title "Three stock registries on one storage"
  start_registries

  title "Tidegate in front"
  password=$(secret)
  make_certificates
  start_tidegate
  say "https://$hub answers; one user, \"demo\""

  title "What a user does, with $client"
  make_image one
  make_image two
  step "log in" login
  step "push an image of three layers, one of $LARGE_LAYER_MIB MiB" push one
  step "pull it" pull one
  show_shares
  kill_registry open
  say "registry \"open\" is dead now (kill -9)"
  step "pull again" pull one
  step "push another image, with a registry missing" push two
  step "pull that" pull two
  show_shares

  print_hints
  if [ "${DEMO_EXIT:-}" = 1 ]; then
    title "Done"
    return
  fi
  title "Running until Ctrl-C"
  trap 'exit 0' INT TERM HUP
  wait "${pids[tidegate]}"
}

main "$@"
