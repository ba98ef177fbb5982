#!/bin/bash
# A real systemd with journald in a throw-away container, for the tests; also
# where the host's own PID 1 is another one. Run as root:
#
#   lab.sh need              what is missing on this machine, one line each; fails if anything is
#   lab.sh build SUITE       the root file system, once (a minute, 150 MB); the others call it
#   lab.sh boot SUITE NAME [TIE]  start a container; it ends with the process TIE, if that is given
#   lab.sh run NAME -- CMD [ARG..]  run CMD in it; exits with the exit code of CMD
#   lab.sh copy NAME FILE.. DIRECTORY  copy files into it
#   lab.sh pid NAME          the host's pid of its PID 1: /proc/PID/root is its root
#   lab.sh stop NAME         power it off; no fault if it does not run
#
# SUITE is trixie (systemd 257) or bookworm (systemd 252). With -programs behind it
# the file system has some programs for inetd, too. Built file systems are
# kept in $PREFORKD_LAB, by default /var/tmp/preforkd-lab, and only read from
# then on: what a container writes is in memory and gone with it.
set -u -o pipefail

LAB=${PREFORKD_LAB:-/var/tmp/preforkd-lab}
STATE=/run/preforkd-lab             # of running containers
RECIPE=3                            # raise it when build() changes
PACKAGES=systemd,systemd-sysv,dbus,libnss-systemd,util-linux,procps,libgcc-s1,man-db,logrotate
PROGRAMS=openssh-server,rsync,vsftpd,popa3d,exim4-daemon-light,openbsd-inetd,inetutils-telnetd,login
# A pool is to run them.
SERVICES="ssh.service ssh.socket rsync.service vsftpd.service popa3d.service exim4.service
  exim4-base.timer inetd.service inetutils-syslogd.service"

say() { echo "lab.sh: $*" >&2; }
die() { say "$*"; exit 125; }
usage() { sed -n '2,19s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# One cgroup for each container; ending all that is in it ends the container.
cgroup_of() (
  # cgroup2 is one tree for the whole kernel, so any mount of it will do. Where there
  # is none, one makes it and the others wait.
  mkdir -p "$STATE" && exec 9>"$STATE/cgroup.lock" && flock 9 || die "could not lock $STATE"
  tree=$(findmnt -n -t cgroup2 -o TARGET | head -n1)
  if [ -z "$tree" ]; then
    tree=$STATE/cgroup; mkdir -p "$tree"
    mount -t cgroup2 none "$tree" || die "the kernel has no cgroup2"
  fi
  echo "$tree/preforkd-lab-$1"
)

# ---- the root file systems ------------------------------------------------------------

need() {
  local missing=0
  [ "$(id -u)" = 0 ] || { echo "root"; missing=1; }
  for tool in mmdebstrap systemd-nspawn flock nsenter unshare; do
    command -v $tool >/dev/null || { echo "$tool"; missing=1; }
  done
  return $missing
}

# Each recipe has its own: containers of another one may still run on theirs.
root_of() { echo "$LAB/$1-$RECIPE"; }

build() (
  suite=${1%-programs} root=$(root_of "$1") packages=$PACKAGES hook=:
  if [ "$suite" != "$1" ]; then
    packages+=,$PROGRAMS hook="chroot \"\$1\" systemctl mask -q $(echo $SERVICES)"
  fi
  stamp="$RECIPE $packages"
  missing=$(need) || die "not found: $(echo $missing)"
  mkdir -p "$LAB"
  exec 9>"$root.lock"; flock 9      # tests run at the same time; one builds, the others wait
  [ "$(cat "$root.stamp" 2>/dev/null)" != "$stamp" ] || exit 0
  # The mirror is the one of this machine: none is written down here.
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' | head -n1)
  [ -n "$mirror" ] || die "apt knows no mirror"
  rm -rf --one-file-system "$root" "$root.stamp" "$root.new"
  # The excludes hold while it is built; the package under test keeps its manual.
  mmdebstrap --quiet --variant=apt --mode=root --format=directory --include="$packages" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Retries "5"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -f "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname"' \
    --customize-hook='printf "127.0.0.1 localhost\n::1 localhost\n" >"$1/etc/hosts"' \
    --customize-hook='chroot "$1" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer' \
    --customize-hook="$hook" \
    --customize-hook='chroot "$1" journalctl --update-catalog; ldconfig -r "$1"; touch "$1/etc/.updated" "$1/var/.updated"' \
    "$suite" "$root.new" "$mirror" </dev/null 9>&- >&2 || die "could not build $suite"
  mv "$root.new" "$root" && echo "$stamp" >"$root.stamp"
)

# ---- the life of a container ----------------------------------------------------------

leader() {  # the host's pid of its PID 1
  local pid
  { read -r pid <"$CGROUP/payload/init.scope/cgroup.procs"; } 2>/dev/null && echo "$pid"
}

enter() { nsenter --target "$1" --mount --uts --ipc --net --pid --cgroup --root --wd "${@:2}"; }

# A mount and a pid namespace around it: systemd-nspawn looks for a pure cgroup2 at
# /sys/fs/cgroup, and the kernel ends all of it when the outer PID 1 ends.
spawn() {
  exec setpriv --pdeathsig clear bash -c '
    echo $$ >"$1/cgroup.procs" || exit 125
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc bash -c '\''
      set -e
      umount -l /sys/fs/cgroup 2>/dev/null || :
      mount -t cgroup2 none /sys/fs/cgroup
      mount -t tmpfs -o mode=755 none "$2"
      mkdir "$2/upper" "$2/work" "$2/root"
      mount -t overlay -o "lowerdir=$3,upperdir=$2/upper,workdir=$2/work" none "$2/root"
      mkdir -p /run/systemd/nspawn; mount -t tmpfs -o mode=755 none /run/systemd/nspawn
      # Its filter of system calls would take calls from the services that they may make.
      export SYSTEMD_SECCOMP=0
      # Not exec: as PID 1 of this namespace it would log to the kernel.
      systemd-nspawn --directory="$2/root" --machine="$4" --boot --quiet --register=no --keep-unit \
        --private-network --console=pipe --resolv-conf=off --timezone=off --link-journal=no
      exit 0
    '\'' - "$@"' - "$CGROUP" "$STATE/$NAME/fs" "$(root_of "$SUITE")" "$NAME" </dev/null >"$STATE/$NAME/console" 2>&1 9>&-
}

boot() {
  local pid state spawned end
  build "$SUITE" || exit      # it may take long, or wait for another
  end=$((SECONDS + 120))
  stop
  mkdir -p "$STATE/$NAME/fs" "$CGROUP" || die "could not make cgroup $CGROUP"
  ( trap '' HUP INT; spawn ) &
  spawned=$!
  until pid=$(leader) && [ -S "/proc/$pid/root/run/systemd/private" ]; do
    kill -0 $spawned 2>/dev/null && [ $SECONDS -lt $end ] || fail_to_boot "it did not come up"
    sleep 0.02
  done
  state=$(timeout 120 nsenter --target "$pid" --mount --pid --root --wd systemctl is-system-running --wait 2>/dev/null)
  [ "$state" = running ] || fail_to_boot "$state: $(enter "$pid" systemctl --failed --no-legend --plain)"
  if [ -n "${TIE-}" ]; then
    ( trap '' HUP INT
      while kill -0 "$TIE" 2>/dev/null && [ -d "$CGROUP" ]; do sleep 0.5; done
      stop ) </dev/null >/dev/null 2>&1 &
  fi
}

fail_to_boot() { cat "$STATE/$NAME/console" >&2; stop; die "could not boot container \"$NAME\": $1"; }

run() {
  local pid; pid=$(leader) || die "container \"$NAME\" does not run"
  echo "$BASHPID" >"$CGROUP/supervisor/cgroup.procs"
  exec nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root --wd \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    TERM=dumb SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive "$@"
}

copy() {
  local pid; pid=$(leader) || die "container \"$NAME\" does not run"
  local to=${*: -1}
  mkdir -p "/proc/$pid/root$to" && cp "${@:1:$#-1}" "/proc/$pid/root$to/"
}

wait_empty() {  # SECONDS
  local i; for ((i = 0; i < $1 * 50; i++)); do
    grep -qs '^populated 1' "$CGROUP/cgroup.events" || return 0
    sleep 0.02
  done
  return 1
}

stop() {
  local pid
  [ -d "$CGROUP" ] || return 0
  if pid=$(leader); then
    kill -s RTMIN+4 "$pid" 2>/dev/null && wait_empty 10   # systemd's poweroff.target
  fi
  echo 1 >"$CGROUP/cgroup.kill"
  wait_empty 20 || die "container \"$NAME\" does not end"
  find "$CGROUP" -depth -type d -exec rmdir {} \; 2>/dev/null
  rm -rf --one-file-system "${STATE:?}/$NAME"
}

VERB=${1-}; shift || usage
case $VERB in
  need) need; exit;;
  build) [ $# = 1 ] || usage; build "$1"; exit;;
  boot) [ $# -ge 2 ] || usage; SUITE=$1 NAME=$2 TIE=${3-};;
  run | copy | pid | stop) [ $# -ge 1 ] || usage; NAME=$1; shift;;
  *) usage;;
esac
[[ $NAME =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || die "\"$NAME\" is not a name for a container"
[ "$(id -u)" = 0 ] || die "it takes root"
CGROUP=$(cgroup_of "$NAME") || exit
case $VERB in
  boot) boot;;
  run) [ "${1-}" = -- ] && [ $# -gt 1 ] || usage; shift; run "$@";;
  copy) [ $# -ge 2 ] || usage; copy "$@";;
  pid) leader || die "container \"$NAME\" does not run";;
  stop) stop;;
esac
