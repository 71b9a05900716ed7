#!/usr/bin/env bash
# Stand-ins for the base images of docker-compose.yml, for machines that can pull none: from Debian's packages, the
# Rust toolchain and the Envoy of this machine. They carry the names of what they stand for only between `up` and
# `down`; an image that is there already, or that can be pulled, is taken as it is.
#
#   ENVOY=path/to/envoy tests/compose/stand-ins.sh up [rust|envoy|prometheus]...
#   tests/compose/stand-ins.sh down
#   tests/compose/stand-ins.sh make [debian|prometheus]...    # ahead of `up`, which takes a while
#
# Where TIDEGATE_PARTS names a folder with tidegate, tidegate-demo-backend and tidegate.wasm, the stand-in for Rust has
# these instead of a toolchain: the Dockerfile's build takes a moment then, and compiles nothing.
set -euo pipefail

label=tidegate.stand-in
declare -A name=(
  [debian]=debian:bookworm-slim
  [rust]=rust:1.95-bookworm
  [envoy]=envoyproxy/envoy:v1.40-latest
  [prometheus]=prom/prometheus:v3.5.0
)

is_there() { docker image inspect "$1" >/dev/null 2>&1; }
is_stand_in() { [ "$(docker image inspect --format "{{ index .Config.Labels \"$label\" }}" "$1")" = yes ]; }

# A container of an image, into whose root standard input is unpacked, committed as another.
unpack() {
  local container
  container=$(docker create "$1" true)
  docker cp --archive - "$container:/"
  docker commit --change "LABEL $label=yes" "${@:3}" "$container" "$2" >/dev/null
  docker rm "$container" >/dev/null
}

# The image of packages of Debian's over the stand-in for Debian.
packages() {
  docker build --quiet --tag "$1" - >/dev/null <<DOCKERFILE
FROM tidegate-stand-in/debian
RUN apt-get update && apt-get install --yes --no-install-recommends ${*:2} && rm -rf /var/lib/apt/lists/*
DOCKERFILE
}

make_debian() {
  if ! command -v mmdebstrap >/dev/null; then
    apt-get update --quiet=2
    apt-get install --yes --quiet=2 --no-install-recommends mmdebstrap >/dev/null
  fi
  mmdebstrap --quiet --variant=apt --dpkgopt=force-unsafe-io --include=ca-certificates \
    bookworm | docker import --change "LABEL $label=yes" - "$1" >/dev/null
}

# What the Dockerfile's build makes, made before.
make_built() {
  local root
  root=$(mktemp -d)
  install -D --target-directory "$root/parts" "$TIDEGATE_PARTS"/{tidegate,tidegate-demo-backend,tidegate.wasm}
  install -D /dev/stdin "$root/usr/local/bin/cargo" <<'CARGO'
#!/bin/sh
set -eu
[ "$*" = "build --release --locked --bins --package tidegate-admin --package tidegate-backend --package xtask" ]
[ -f Cargo.toml ] && [ -f Cargo.lock ] && [ -d src ] && [ -d crates ] && [ -d xtask ]
mkdir -p target/release
cp /parts/tidegate /parts/tidegate-demo-backend target/release/
printf '#!/bin/sh\n[ "$1" = filter ] && cp /parts/tidegate.wasm "$2"\n' >target/release/xtask
chmod +x target/release/xtask
CARGO
  tar --create --owner=0 --group=0 --directory "$root" . | unpack tidegate-stand-in/debian "$1"
  rm -r "$root"
}

# With what cargo has already fetched, so that it is not fetched again.
make_rust() {
  local toolchain cargo
  toolchain=$(rustc --print sysroot)
  cargo=${CARGO_HOME:-$HOME/.cargo}
  packages tidegate-stand-in/gcc gcc libc6-dev
  tar --create --owner=0 --group=0 --exclude=share --exclude=registry/src \
    --transform "s|^${toolchain#/}|usr/local/toolchain|" --transform "s|^${cargo#/}|usr/local/cargo|" \
    --directory / "${toolchain#/}" "${cargo#/}/registry" |
    unpack tidegate-stand-in/gcc "$1" --change "ENV CARGO_HOME=/usr/local/cargo" \
      --change "ENV PATH=/usr/local/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

make_envoy() {
  tar --create --owner=0 --group=0 --transform 's|.*|usr/local/bin/envoy|' --directory / "${ENVOY#/}" |
    unpack tidegate-stand-in/debian "$1"
}

# The program alone: the package depends on much that only its pages in a browser need.
make_prometheus() {
  local root
  root=$(mktemp -d)
  (cd "$root" && apt-get download prometheus >/dev/null 2>&1 && dpkg-deb --extract prometheus_*.deb .)
  install -d -o nobody -g nogroup "$root/prometheus"
  tar --create --directory "$root" usr prometheus |
    unpack tidegate-stand-in/debian "$1" --change 'ENTRYPOINT ["/bin/prometheus"]' --change 'USER nobody'
  rm -r "$root"
}

up() {
  for image in debian "$@"; do
    local official=${name[$image]} own=tidegate-stand-in/$image
    if is_there "$official" || docker pull --quiet "$official" 2>/dev/null; then continue; fi
    if [ "$image" = rust ] && [ -n "${TIDEGATE_PARTS:-}" ]; then
      make_built tidegate-stand-in/built
      docker tag tidegate-stand-in/built "$official"
      continue
    fi
    if ! is_there "$own"; then
      local begin=$SECONDS
      "make_$image" "$own"
      echo "made a stand-in for $official in $((SECONDS - begin)) s"
    fi
    docker tag "$own" "$official"
  done
}

down() {
  for official in "${name[@]}"; do
    if is_there "$official" && is_stand_in "$official"; then docker rmi "$official" >/dev/null; fi
  done
}

# Those that cannot be pulled.
make() {
  local image
  for image in "$@"; do
    if is_there "${name[$image]}" || docker pull --quiet "${name[$image]}" 2>/dev/null; then continue; fi
    is_there "tidegate-stand-in/$image" || "make_$image" "tidegate-stand-in/$image"
  done
}

command=$1
shift
case $command in
  up) up "$@" ;;
  down) down ;;
  make) make "$@" ;;
  *) echo "up, down or make" >&2; exit 2 ;;
esac
