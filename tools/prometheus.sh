#!/bin/sh
# Puts Debian's Prometheus, with promtool, into .cache/prometheus of a tools
# directory (this one if none is named), without root and without installing anything. Where there is no apt,
# both are to be on PATH.
set -eu
dir="$(cd "${1:-$(dirname "$0")}" && pwd)/.cache"
test ! -x "$dir/prometheus/usr/bin/promtool" || exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
  echo 'Prometheus is missing: put prometheus and promtool on PATH.' >&2
  exit 1
fi
echo 'Fetching Prometheus (apt-get download)'
mkdir -p "$dir"
work=$(mktemp -d "$dir/prometheus.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
mkdir "$work/root" "$work/lists" "$work/archives"
cd "$work"
# The machine's own lists may be missing or old; then others are read.
if ! apt-get -qq download prometheus >/dev/null 2>&1; then
  set -- -qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/archives" -o APT::Sandbox::User=
  apt-get "$@" update
  apt-get "$@" download prometheus
fi
dpkg-deb -x prometheus_*.deb root
# Of two at once one is late, and finds what it wanted.
mv -T root "$dir/prometheus" 2>/dev/null || test -x "$dir/prometheus/usr/bin/promtool"
