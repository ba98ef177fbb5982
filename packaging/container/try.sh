#!/bin/bash
# Tries the recipe of Containerfile without a registry: a small Debian by mmdebstrap,
# the package in it, started in namespaces of its own.
#
#   try.sh PACKAGE.deb
#
# Needs root, mmdebstrap and util-linux. The small Debian is kept in
# $PREFORKD_LAB, by default /var/tmp/preforkd-lab.
set -eu -o pipefail

LAB=${PREFORKD_LAB:-/var/tmp/preforkd-lab}
RECIPE=1
ROOT=$LAB/container
PACKAGES=systemd-standalone-sysusers,libgcc-s1

fail() { echo "try.sh: $*" >&2; [ ! -f "$work/log" ] || cat "$work/log" >&2; exit 1; }
until_it() { local i; for ((i = 0; i < 2000; i++)); do ! "$@" || return 0; sleep 0.02; done; return 1; }

build() (
  mkdir -p "$LAB"
  exec 9>"$ROOT.lock"; flock 9
  [ "$(cat "$ROOT.stamp" 2>/dev/null)" != "$RECIPE $PACKAGES" ] || exit 0
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' | head -n1)
  rm -rf --one-file-system "$ROOT" "$ROOT.stamp" "$ROOT.new"
  mmdebstrap --quiet --variant=apt --mode=root --format=directory --include="$PACKAGES" \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "5"' \
    --dpkgopt='path-exclude=/usr/share/{doc,man,locale}/*' \
    trixie "$ROOT.new" "$mirror" </dev/null 9>&- >&2
  mv "$ROOT.new" "$ROOT" && echo "$RECIPE $PACKAGES" >"$ROOT.stamp"
)

package=$(readlink -f "$1")
work=$(mktemp -d)
pid=
cleanup() { [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || :; umount -l "$work/mount" 2>/dev/null || :; rm -rf "$work"; }
trap cleanup EXIT
build

# What RUN does, but for the download, on top of the small Debian.
mkdir "$work/mount"
mount -t tmpfs -o mode=755 none "$work/mount"
mkdir "$work/mount"/{upper,work,root}
root=$work/mount/root
mount -t overlay -o "lowerdir=$ROOT,upperdir=$work/mount/upper,workdir=$work/mount/work" none "$root"
cp "$package" "$root/tmp/preforkd.deb"
chroot "$root" sh -ec '
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends /tmp/preforkd.deb
  install -d -o preforkd -g preforkd /run/preforkd
  rm /tmp/preforkd.deb' >"$work/apt" 2>&1 || { cat "$work/apt" >&2; fail "the package cannot be installed"; }
[ ! -e "$root/usr/lib/systemd/systemd" ] || fail "the package pulls systemd in"

# What ENTRYPOINT, CMD and USER do. The network has its loopback device alone.
: >"$work/log"
unshare --mount --uts --ipc --net --pid --fork --kill-child sh -ec '
  mount -t sysfs none "$1/sys"; echo 0x9 >"$1/sys/class/net/lo/flags"; umount "$1/sys"
  mount -t proc proc "$1/proc"; mount --bind /dev/null "$1/dev/null"
  exec chroot "$1" setpriv --reuid preforkd --regid preforkd --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all /usr/sbin/preforkd run' - "$root" </dev/null >"$work/stdout" 2>"$work/log" &
outer=$!
until_it grep -q ready "$work/log" || fail "it does not get ready"
pid=$(cat "/proc/$outer/task/$outer/children"); pid=${pid%% *}
[ "$(awk '/^NSpid/ {print $NF}' "/proc/$pid/status")" = 1 ] || fail "it is not PID 1"
[ "$(readlink "/proc/$pid/exe")" = "$root/usr/sbin/preforkd" ] || [ "$(cat "/proc/$pid/comm")" = preforkd ] || fail "PID 1 is another program"
awk '/^Uid/ {exit $2 == 0}' "/proc/$pid/status" || fail "it runs as root"
grep -q '^CapEff:.*[1-9a-f]' "/proc/$pid/status" && fail "it has capabilities"
[ ! -s "$work/stdout" ] || fail "it writes to standard output"
echo "PID 1, not root, its log on standard error"

# A client that is in the middle of its connection while the container is stopped.
inside() { nsenter --target "$pid" --net "$@"; }
mkfifo "$work/said"
inside bash -ec '
  exec 3<>/dev/tcp/127.0.0.1/7007 4<"$1"
  for word in before after; do
    read -r _ <&4; echo "$word" >&3; read -r -t 40 answer <&3; [ "$answer" = "$word" ]; echo "$answer"
  done' - "$work/said" >"$work/heard" &
client=$!
exec 4>"$work/said"; echo go >&4
until_it grep -q before "$work/heard" || fail "it does not serve"
kill -TERM "$pid"
until_it grep -q stopping "$work/log" || fail "SIGTERM is not obeyed"
kill -0 "$pid" || fail "it did not wait for its client"
echo go >&4; exec 4>&-
wait $client || fail "the client was cut off"
grep -q after "$work/heard" || fail "the client was cut off"
code=0; wait $outer || code=$?
pid=
[ $code = 0 ] || fail "it ended with code $code"
grep -q stopped "$work/log" || fail "the log has no end"
echo "SIGTERM drains, and the exit code is 0"
