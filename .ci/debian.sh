#!/usr/bin/env bash
# debian.sh make TREE: makes a Debian of the unstable suite, which has the newest Pythons, in the folder TREE.
# debian.sh run TREE FOLDER COMMAND...: runs a command as root of that Debian, where FOLDER is /mnt.
#
# The mounts of `run` belong to a namespace that ends with it, and its /dev is a file system of its own: deleting
# TREE or FOLDER, even meanwhile, deletes nothing of the machine.
set -eu
packages=python3.14,python3.14-venv,python3.15,python3.15-venv,ca-certificates,git,curl,procps
bundle=/etc/ssl/certs/ca-certificates.crt

make() {
  local tree=$1 new=$1.$$
  command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq debootstrap; }
  mkdir -p "$(dirname "$tree")"
  debootstrap --variant=minbase --include=$packages sid "$new"
  rm -f "$new"/var/cache/apt/archives/*.deb
  mv -T "$new" "$tree"
}

# What the Debian takes over of the machine: name servers, certificates, and pip's settings but for paths.
configure() {
  local tree=$1
  cp -L /etc/hosts /etc/resolv.conf "$tree/etc/"
  if [ -e $bundle ]; then cp -L $bundle "$tree$bundle"; fi
  {
    echo "[global]"
    env -u PIP_QUIET python3 -m pip config list |
      sed -nE "/file:/d; s/^(:env:|global|user|site)\.([a-z-]+)='([^/].*)'$/\2 = \3/p"
  } >"$tree/etc/pip.conf"
}

mount_and_run() {
  local tree=$1 folder=$2 device
  shift 2
  mount --make-rprivate /
  mount -t proc proc "$tree/proc"
  mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
  for device in null zero full random urandom tty; do
    touch "$tree/dev/$device"
    mount --bind "/dev/$device" "$tree/dev/$device"
  done
  mkdir "$tree/dev/pts" "$tree/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$tree/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$tree/dev/shm"
  ln -s pts/ptmx "$tree/dev/ptmx"
  ln -s /proc/self/fd "$tree/dev/fd"
  mount --bind "$folder" "$tree/mnt"
  mkdir -p -m 1777 "$folder/tmp"
  mount --bind "$folder/tmp" "$tree/tmp"
  # This shell stays, as process 1 of the namespace, which takes leave of processes that have lost their parent.
  env -i HOME=/root LANG=C.UTF-8 PATH=/mnt/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
    ${no_proxy:+no_proxy="$no_proxy"} \
    PIP_CERT=$bundle PIP_QUIET=2 SSL_CERT_FILE=$bundle REQUESTS_CA_BUNDLE=$bundle \
    chroot "$tree" "$@" && exit 0 || exit $?
}

case $1 in
  make) make "$2" ;;
  run)
    shift
    configure "$1"
    exec unshare --mount --pid --fork --kill-child "$0" mount_and_run "$@"
    ;;
  mount_and_run) shift && mount_and_run "$@" ;;
esac
